//! How a text begins: `http://` and other schemes in every spelling.

use super::{
    brackets::{blanks, closer_of, is_blank, is_closer, is_opener},
    characters::is_invisible,
};

/// How many characters a spelled-out scheme may take: `[ h t t p s ]` and some more.
const SCHEME_CHARS: usize = 24;

/// How a text begins, in place of a scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme<'a> {
    /// http or https in any spelling; `live`: as a browser takes it.
    Web {
        https: bool,
        live: bool,
    },
    /// Another protocol with a host: `ftp://`.
    Other {
        word: &'a str,
        live: bool,
    },
    /// Another protocol without one: `mailto:`.
    Opaque,
    Missing,
}

impl<'a> Scheme<'a> {
    /// The scheme and the text behind it and its slashes.
    pub(super) fn read(text: &'a str) -> (Self, &'a str) {
        for (at, _) in text.char_indices().take(SCHEME_CHARS) {
            if let Some(separator) = Separator::read(&text[at..]) {
                return Self::of(text, at, separator);
            }
        }
        (Self::Missing, text)
    }

    fn of(text: &'a str, at: usize, separator: Separator) -> (Self, &'a str) {
        let (word, after) = (&text[..at], &text[at + separator.len..]);
        if let Some(https) = web_scheme(word) {
            let live = separator.plain && separator.colon && is_literal(word);
            return (Self::Web { https, live }, close_of_scheme(word, after));
        }
        if word.is_empty() && separator.slashes {
            return (Self::Missing, after);
        }
        // `evil.example:8080` and `localhost:80` are a host and a port, `mailto:someone` is not.
        if separator.colon && is_scheme(word) {
            if separator.slashes {
                return (Self::Other { word, live: separator.plain }, after);
            }
            if !(word.contains('.') || begins_with_port(after)) {
                return (Self::Opaque, after);
            }
        }
        (Self::Missing, text)
    }
}

fn is_literal(word: &str) -> bool {
    word.eq_ignore_ascii_case("http") || word.eq_ignore_ascii_case("https")
}

fn is_scheme(word: &str) -> bool {
    word.starts_with(|char: char| char.is_ascii_alphabetic())
        && word.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.'))
}

fn begins_with_port(text: &str) -> bool {
    let after = text.trim_start_matches(|char: char| char.is_ascii_digit());
    after.len() < text.len() && (after.is_empty() || after.starts_with(['/', '?', '#']))
}

/// `[http://]evil.example`: the bracket that was opened before the scheme is closed behind its slashes.
fn close_of_scheme<'a>(word: &str, after: &'a str) -> &'a str {
    let open = word.chars().filter(|char| is_opener(*char)).count();
    let closed = word.chars().filter(|char| is_closer(*char)).count();
    if open > closed { after.strip_prefix(is_closer).unwrap_or(after) } else { after }
}

/// Whether a word stands for https (true) or http (false): `hxxp`, `h**ps`, `htt p`, `http[s]`, `meow`, `xxxx`.
pub(in crate::url) fn web_scheme(word: &str) -> Option<bool> {
    let word: String = word
        .chars()
        .filter(|char| !(is_opener(*char) || is_closer(*char) || is_blank(*char) || is_invisible(*char)))
        .map(|char| char.to_ascii_lowercase())
        .collect();
    match word.as_str() {
        "meow" | "xxxx" => return Some(false),
        "meows" | "xxxxs" | "xxxxx" => return Some(true),
        _ => {}
    }
    let (word, https) = word.strip_suffix('s').map_or((word.as_str(), false), |word| (word, true));
    let middle = word.strip_prefix('h')?.strip_suffix('p')?;
    let masked = middle.chars().all(|char| "tx×*_#$+?.-".contains(char));
    (masked && (2..=3).contains(&middle.chars().count())).then_some(https)
}

/// What stands between scheme and host: `://` in any spelling, a colon alone, or slashes alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Separator {
    len: usize,
    pub(super) colon: bool,
    pub(super) slashes: bool,
    /// Nothing but the colon and slashes themselves.
    plain: bool,
}

impl Separator {
    pub(super) fn read(text: &str) -> Option<Self> {
        let (mut read, mut plain, mut len) = (String::new(), true, 0);
        while read != "://" && read != "//" {
            let blanks = blanks(&text[len..]);
            let rest = &text[len + blanks..];
            let Some((part, part_len)) = separator_part(rest, &read) else { break };
            plain &= blanks == 0 && !rest.starts_with(is_opener);
            read.push_str(part);
            len += blanks + part_len;
        }
        if !(read.starts_with(':') || read == "//") {
            return None;
        }
        let colon = read.starts_with(':');
        let slashes = read.ends_with("//");
        if slashes {
            // A browser takes any number of slashes, and both kinds.
            let rest = &text[len..];
            len += rest.len() - rest.trim_start_matches(['/', '\\']).len();
            let blanks = blanks(&text[len..]);
            plain &= blanks == 0;
            len += blanks;
        }
        Some(Self { len, colon, slashes, plain })
    }
}

/// The next piece of a separator of which some was read, with its length in the text.
fn separator_part(text: &str, read: &str) -> Option<(&'static str, usize)> {
    let fits = |part: &str| {
        ["://", "//"].iter().any(|whole| whole.strip_prefix(read).is_some_and(|rest| rest.starts_with(part)))
    };
    match text.chars().next()? {
        ':' => Some((":", 1)),
        '/' | '\\' => Some(("/", 1)),
        opener => {
            closer_of(opener)?;
            let inner = text[1..].trim_start_matches(is_blank);
            let end = inner.find(|char| !matches!(char, ':' | '/'))?;
            let part = [":", "/", "//", ":/", "://"].into_iter().find(|part| **part == inner[..end])?;
            let behind = inner[end..].trim_start_matches(is_blank).strip_prefix(is_closer)?;
            Some((part, text.len() - behind.len()))
        }
    }
    .filter(|(part, _)| fits(part))
}
