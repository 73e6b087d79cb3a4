//! Where a URL begins in a text, and where the next one does: what cuts a text into URLs needs no more.

use super::{host::is_known_name, refang::scheme::web_scheme};

/// How many bytes of a beginning are looked at: a host name has 253, and defanging adds some.
pub(crate) const BEGINNING: usize = 512;

/// Whether a text begins with a URL, with or without a scheme.
pub(crate) fn begins_url(text: &str) -> bool {
    let text = opened(text);
    begins_scheme(text) || begins_host(text)
}

/// Without the quotes and brackets that people put around URLs.
pub(crate) fn opened(text: &str) -> &str {
    let text = beginning(text);
    text.trim_start_matches(['"', '\'', '`', '<', '(', '[', '{', '“', '‘', '«', '\u{feff}', '\u{200b}'])
}

/// The beginning of a text, up to the next comma or blank: what follows is no part of it.
fn beginning(text: &str) -> &str {
    let text = &text[..text.floor_char_boundary(BEGINNING)];
    text.find(|char: char| char == ',' || char.is_whitespace()).map_or(text, |end| &text[..end])
}

/// `http://`, `hxxps[:]//`, `h**p://`, `ftp[://]`, ...
pub(crate) fn begins_scheme(text: &str) -> bool {
    scheme(text).is_some()
}

fn scheme(text: &str) -> Option<&str> {
    let end = text.find(|char: char| !char.is_ascii_alphanumeric() && !matches!(char, '*' | '+' | '-'))?;
    let (name, rest) = text.split_at(end);
    if name.len() > 16 || !name.starts_with(|char: char| char.is_ascii_alphabetic()) {
        return None;
    }
    let rest = rest.trim_start_matches(['[', '(', '{', '_', '\\']).strip_prefix(':')?;
    let slashes = rest.trim_start_matches([']', ')', '}', '[', '(', '{']);
    slashes.starts_with(['/', '\\']).then_some(name)
}

/// `a.test`, `a[.]test:8080`, `192.0.2[.]1`, ...
pub(crate) fn begins_host(text: &str) -> bool {
    let host = host(text);
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty() && label.chars().all(|char| char.is_alphanumeric() || matches!(char, '-' | '_'))
    };
    let Some(last) = labels.last().filter(|_| labels.len() > 1 && labels.iter().all(is_label)) else {
        return false;
    };
    let is_v4 = labels.len() == 4 && labels.iter().all(|label| label.parse::<u8>().is_ok());
    is_v4 || last.starts_with("xn--") || (last.chars().count() > 1 && last.chars().all(char::is_alphabetic))
}

/// What would be the host of a text without a scheme, in lower case and refanged.
fn host(text: &str) -> String {
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let mut host = text[..end].to_lowercase();
    for dot in ["[.]", "(.)", "{.}", "[dot]", "(dot)", "{dot}", "\\."] {
        host = host.replace(dot, ".");
    }
    let host = host.split(':').next().unwrap_or_default();
    host.trim_end_matches(['"', '\'', '>', ')', ']', '}', '.']).to_owned()
}

/// The blank between two URLs, if there is one.
pub(crate) fn blank_between_urls(text: &str) -> Option<usize> {
    text.match_indices(char::is_whitespace).map(|(at, _)| at).find(|at| is_between_urls(text, *at))
}

/// Whether the blank at a place of a text ends a URL because another follows. `http://a.test/a b` is one URL with a
/// blank in its path, and `http://a.test/my file.zip` too: a host counts as the next URL only where the one before it has
/// no path.
pub(crate) fn is_between_urls(text: &str, blank: usize) -> bool {
    let (before, after) = text.split_at(blank);
    if before.is_empty() || before.ends_with(char::is_whitespace) {
        return false;
    }
    let next = opened(after.trim_start());
    begins_web_scheme(next) || (has_no_path(before) && begins_host(next) && is_known_name(&host(next)))
}

fn begins_web_scheme(text: &str) -> bool {
    scheme(text).is_some_and(|name| name.eq_ignore_ascii_case("ftp") || web_scheme(name).is_some())
}

/// Whether a URL ends with its host, or with the slash behind it.
fn has_no_path(text: &str) -> bool {
    if text.len() > BEGINNING {
        return false;
    }
    let host = text.split_once("//").map_or(text, |(_, host)| host);
    begins_host(opened(host)) && host.find(['/', '?', '#']).is_none_or(|end| end + 1 == host.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_is_between_two_urls_only_where_the_second_begins() {
        for (text, at) in [
            ("http://a.com http://b.com", Some(12)),
            ("http://a.com/x?y=1 hxxps[:]//b[.]com", Some(18)),
            ("http://a.com\t<http://b.com>", Some(12)),
            ("a.com b.com", Some(5)),
            ("http://a.com/ b.com/x", Some(13)),
            ("a[.]com b[.]com", Some(7)),
            ("http://a.com/a b", None),
            ("http://a.com/my file.zip", None),
            ("h t t p://a.com", None),
            ("hxxp :// a [.] com", None),
            ("a dot com", None),
            ("http://a.com ", None),
            ("hello world", None),
        ] {
            assert_eq!(blank_between_urls(text), at, "{text}");
        }
    }
}
