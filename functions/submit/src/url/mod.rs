//! Which texts are URLs that may leave for VMRay's cloud. Pure: no network, clock or environment.
//!
//! A text is refanged ([`refang`]), parsed by the WHATWG rules, and held against the rules of the deployment
//! ([`Gate`]). What passes is a [`GatedUrl`], and only that can be sent; everything else is a [`Refusal`] with a stable
//! code. No name is resolved: the question alone would tell somebody what is being looked at, and the answer could be
//! another one a moment later.

mod gate;
mod host;
mod lists;
mod refang;
mod sensitive;

pub use gate::{Gate, GatedUrl, Refusal, holds_secret};
pub use refang::refang;

#[cfg(test)]
mod tests;
