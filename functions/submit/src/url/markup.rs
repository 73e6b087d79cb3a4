//! Links with a text, as chats and Markdown write them.

use super::begins::begins_url;

/// The longest link with its text that is read.
const MARKUP: usize = 32 * 1024;

/// A link as chats and Markdown write it, at the beginning of a text: `[text](link)`, `![text](link)`, `<link|text>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Markup<'a> {
    pub(crate) link: &'a str,
    /// The bytes of it all.
    pub(crate) len: usize,
}

impl<'a> Markup<'a> {
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let text = &text[..text.floor_char_boundary(MARKUP)];
        match text.chars().next()? {
            '<' => Self::angle(text),
            '[' => Self::square(text),
            '!' if text[1..].starts_with('[') => {
                Self::square(&text[1..]).map(|found| Self { len: found.len + 1, ..found })
            }
            _ => None,
        }
    }

    fn angle(text: &'a str) -> Option<Self> {
        let end = text.find('>')?;
        let (link, _) = text[1..end].split_once('|')?;
        Some(Self { link, len: end + 1 })
    }

    fn square(text: &'a str) -> Option<Self> {
        let start = text.find("](")? + 2;
        let mut depth = 1_usize;
        let end = text[start..].find(|char| {
            match char {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        let inner = text[start..start + end].trim();
        // `(https://a.test "a title")`
        let link = inner
            .find([' ', '\t'])
            .filter(|at| inner[*at..].trim_start().starts_with(['"', '\'']))
            .map_or(inner, |at| &inner[..at]);
        begins_url(link).then_some(Self { link, len: start + end + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_chats_and_markdown_are_read() {
        for (text, link, rest) in [
            ("[text](http://a.com/x)", "http://a.com/x", ""),
            ("[http://a.com](http://b.com), then", "http://b.com", ", then"),
            ("![alt](https://a.com/i.png \"title\")", "https://a.com/i.png", ""),
            ("[a](hxxp://a[.]com/x_(1)) b", "hxxp://a[.]com/x_(1)", " b"),
            ("<http://a.com|http://b.com>.", "http://a.com", "."),
            ("[text](a.com)", "a.com", ""),
        ] {
            let found = Markup::read(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.link, &text[found.len..]), (link, rest), "{text}");
        }
        for text in
            ["<http://a.com>", "[http://]a[.]com/(x)", "[hxxp](://)a.com", "[a](b)", "[a](", "text", ""]
        {
            assert_eq!(Markup::read(text), None, "{text}");
        }
    }
}
