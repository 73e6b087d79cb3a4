//! Which texts are URLs that may leave for VMRay's cloud. Pure: no network, clock or environment.
//!
//! A text is refanged (`refang`), parsed by the WHATWG rules, and held against the rules of the deployment
//! ([`Gate`]). What passes is a [`GatedUrl`], and only that can be sent; everything else is a [`Refusal`] with a stable
//! code. No name is resolved: the question alone would tell the name server what is being looked at, and the answer could
//! be another one a moment later.

mod begins;
mod gate;
mod host;
mod lists;
mod markup;
mod redact;
mod refang;
mod sensitive;
mod unwrap;

pub(crate) use begins::{BEGINNING, begins_host, begins_scheme, begins_url, is_between_urls, opened};
pub use gate::{Gate, GatedUrl, Refusal};
pub(crate) use markup::Markup;
pub use redact::redacted;
pub use unwrap::Wrapper;

#[cfg(test)]
mod tests;
