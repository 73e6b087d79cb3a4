//! Undoes defanging: the spellings that keep a dangerous URL from being clicked in a report or a mail.
//!
//! One rule is above all others: undoing never changes where a URL leads. What a browser already takes as a web
//! address keeps its path, query and fragment byte for byte; only what no browser could follow is rewritten. The head
//! (scheme and authority) is read with care for every spelling in use, what stands behind it only after the head
//! proved to be defanged, and then only in the same brackets.

mod authority;
mod brackets;
pub(super) mod characters;
pub(super) mod prose;
pub(super) mod scheme;

use std::borrow::Cow;

use self::{authority::Authority, prose::unwrapped, scheme::Scheme};

/// A text as a URL parser takes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refanged<'a> {
    pub(super) text: Cow<'a, str>,
    /// The text names its protocol. Where it does not, `http` was written before it.
    pub(super) has_scheme: bool,
}

/// Undoes defanging, takes off what surrounds a URL in prose, and writes a missing scheme as `http`.
///
/// The result need not be a URL: that is for the parser to say. A text that already is one comes back as it is, but for
/// blanks and invisible characters around it.
pub(super) fn refang(text: &str) -> Refanged<'_> {
    let text = unwrapped(text);
    let as_it_is = |has_scheme| Refanged { text: Cow::Borrowed(text), has_scheme };
    // `\\server\share` is a folder of a network.
    if text.starts_with("\\\\") {
        return as_it_is(false);
    }
    let (scheme, after) = Scheme::read(text);
    let (word, live) = match scheme {
        Scheme::Web { https: true, live } => ("https", live),
        Scheme::Web { https: false, live } => ("http", live),
        Scheme::Missing => ("http", false),
        Scheme::Other { word, live } => (word, live),
        Scheme::Opaque => return as_it_is(true),
    };
    let has_scheme = scheme != Scheme::Missing;
    let authority = Authority::read(after, live);
    if !has_scheme && authority.is_mailbox() {
        return as_it_is(false);
    }
    if live && authority.is_as_written(after) {
        return as_it_is(true);
    }
    let mut url = String::with_capacity(text.len() + 8);
    url.push_str(word);
    url.push_str("://");
    url.push_str(&authority.text);
    authority.push_rest(&mut url, !live);
    Refanged { text: Cow::Owned(url), has_scheme }
}

#[cfg(test)]
mod tests;
