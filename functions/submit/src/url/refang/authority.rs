//! What stands behind the scheme: the authority, and behind it the path, query and fragment.

use url::{Host, Url};

use super::{
    brackets::{blanks, bracketed, half_bracketed, is_opener, starts_with_word},
    characters::{is_invisible, is_joiner},
    prose::prose_end,
    scheme::Separator,
};
use crate::url::host::is_plausible;

/// Host, port and what else stands before the path.
pub(super) struct Authority<'a> {
    pub(super) text: String,
    rest: &'a str,
    /// The path's first slash was in brackets.
    slash: bool,
    /// The brackets and the backslash that defanged something, each by its opening character.
    used: String,
}

impl<'a> Authority<'a> {
    pub(super) fn read(text: &'a str, live: bool) -> Self {
        let mut this =
            Self { text: String::with_capacity(text.len()), rest: text, slash: false, used: String::new() };
        while !this.slash && this.step(live) {}
        this.trim_end(live);
        this
    }

    /// Takes one character or mark; false at the end.
    fn step(&mut self, live: bool) -> bool {
        let Some(char) = self.rest.chars().next() else { return false };
        if matches!(char, '/' | '?' | '#') {
            return false;
        }
        if char == '\\' {
            return self.step_backslash(live);
        }
        if self.step_mark() {
            return true;
        }
        self.rest = &self.rest[char.len_utf8()..];
        if !(is_invisible(char) && self.may_drop(char)) {
            self.text.push(char);
        }
        true
    }

    /// `\.` is a defanged dot, unless a browser would see a host before it and a path behind: then it is that.
    fn step_backslash(&mut self, live: bool) -> bool {
        match self.rest.strip_prefix("\\.") {
            Some(rest) if !(live && self.used.is_empty() && self.is_public()) => {
                self.rest = rest;
                self.text.push('.');
                self.note('\\');
                true
            }
            _ => false,
        }
    }

    /// Whether what was read is a host of the internet: a name with a dot, or an address, in whatever notation. The
    /// first number of a defanged address is not an address: alone, it would lie in a network that does not exist.
    fn is_public(&self) -> bool {
        match Host::parse(&self.text) {
            Ok(Host::Domain(name)) => name.contains('.'),
            Ok(Host::Ipv4(address)) => address.octets()[0] > 0,
            Ok(Host::Ipv6(_)) => true,
            Err(_) => self.text.contains('.'),
        }
    }

    fn is_plausible(&self) -> bool {
        let url = Url::parse(&format!("http://{}", self.text));
        url.is_ok_and(|url| url.host().as_ref().is_some_and(is_plausible))
    }

    fn step_mark(&mut self) -> bool {
        let before = blanks(self.rest);
        let rest = &self.rest[before..];
        let mark = bracketed(rest).filter(|(mark, _)| *mark != "://").or_else(|| half_bracketed(rest));
        let (mark, len) = match mark {
            Some(found) => found,
            None if before > 0 && starts_with_word(rest, "dot") && blanks(&rest[3..]) > 0 => (".", 3),
            None => return false,
        };
        self.note(rest[..len].chars().find(|char| is_opener(*char)).unwrap_or('['));
        self.rest = &rest[len..];
        if mark.starts_with('/') {
            self.slash = true;
        } else {
            self.rest = &self.rest[blanks(self.rest)..];
            self.text.push_str(mark);
        }
        true
    }

    fn note(&mut self, opener: char) {
        if !self.used.contains(opener) {
            self.used.push(opener);
        }
    }

    /// Joiners have a meaning between letters of some scripts, but none beside an ASCII character.
    fn may_drop(&self, char: char) -> bool {
        let ascii = |beside: Option<char>| beside.is_none_or(|char| char.is_ascii());
        !is_joiner(char) || ascii(self.text.chars().next_back()) || ascii(self.rest.chars().next())
    }

    /// Without a path, the punctuation of the prose behind the URL stands at the authority's end.
    fn trim_end(&mut self, live: bool) {
        if !self.rest.is_empty() || self.slash {
            return;
        }
        // A host with a last dot, an empty port and a quote within an international name are live.
        if !(live && self.is_plausible()) {
            self.text.truncate(prose_end(&self.text));
        }
    }

    /// `someone@evil.example` without a scheme is a mailbox and no URL.
    pub(super) fn is_mailbox(&self) -> bool {
        self.text.split_once('@').is_some_and(|(user, _)| !user.is_empty() && !user.contains(':'))
    }

    pub(super) fn is_as_written(&self, text: &str) -> bool {
        self.used.is_empty() && self.text.len() + self.rest.len() == text.len()
    }

    pub(super) fn push_rest(&self, url: &mut String, defanged: bool) {
        if self.slash {
            url.push('/');
        }
        if !defanged && self.used.is_empty() {
            url.push_str(self.rest);
            return;
        }
        let start = url.len();
        push_refanged(url, self.rest, &self.used);
        let end = start + prose_end(&url[start..]);
        url.truncate(end);
    }
}

/// A path, query and fragment behind a head that was defanged, or had no scheme.
fn push_refanged(url: &mut String, text: &str, used: &str) {
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let found = match char {
            'h' | 'H' => nested_scheme(rest),
            '\\' if rest.starts_with("\\/") => Some(("/", 2)),
            '\\' if rest.starts_with("\\.") && used.contains('\\') => Some((".", 2)),
            // A scheme that was defanged says nothing of brackets; square ones are the common kind.
            '[' => bracketed(rest),
            opener if used.contains(opener) => bracketed(rest),
            _ => None,
        };
        if let Some((mark, len)) = found {
            url.push_str(mark);
            rest = &rest[len..];
        } else {
            rest = &rest[char.len_utf8()..];
            if !is_invisible(char) {
                url.push(char);
            }
        }
    }
}

/// `hxxp` inside a URL, where an address follows it.
fn nested_scheme(text: &str) -> Option<(&'static str, usize)> {
    let (scheme, len) = if starts_with_word(text, "hxxps") {
        ("https", 5)
    } else if starts_with_word(text, "hxxp") {
        ("http", 4)
    } else {
        return None;
    };
    let rest = &text[len..];
    let address = starts_with_word(rest, "%3a")
        || Separator::read(rest).is_some_and(|separator| separator.colon && separator.slashes);
    address.then_some((scheme, len))
}
