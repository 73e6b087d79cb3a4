//! Brackets in which one character stands, so that a URL is not one: `[.]`, `( dot )`, `{:}`.

/// How many blanks may stand beside or inside a pair of brackets: `evil [ . ] example`.
const BLANKS: usize = 3;

/// What stands in brackets in place of a character, in the order in which it is tried.
const MARKS: [(&str, &str); 14] = [
    (".", "."),
    ("。", "."),
    ("．", "."),
    ("｡", "."),
    ("dot", "."),
    ("punkt", "."),
    ("punto", "."),
    ("://", "://"),
    (":", ":"),
    ("//", "//"),
    ("/", "/"),
    ("@", "@"),
    ("at", "@"),
    ("-", "-"),
];

pub(super) const BRACKETS: [(char, char); 4] = [('[', ']'), ('(', ')'), ('{', '}'), ('<', '>')];

/// The character that stands in brackets here, and the length of it all: `[.]`, `( dot )`, `{:}`, `[://]`.
pub(super) fn bracketed(text: &str) -> Option<(&'static str, usize)> {
    let inner = text.strip_prefix(is_opener)?;
    let inner = &inner[blanks(inner)..];
    MARKS.into_iter().find_map(|(written, mark)| {
        if !starts_with_word(inner, written) {
            return None;
        }
        let behind = &inner[written.len()..];
        let behind = behind[blanks(behind)..].strip_prefix(is_closer)?;
        Some((mark, text.len() - behind.len()))
    })
}

/// Half a pair of brackets at a dot: `evil[.example`, `evil.]example`.
pub(super) fn half_bracketed(text: &str) -> Option<(&'static str, usize)> {
    let mut chars = text.chars();
    let pair = (chars.next()?, chars.next()?);
    let half = matches!(pair, ('[' | '(' | '{', '.') | ('.', ']' | ')' | '}'));
    half.then_some((".", 2))
}

pub(super) fn closer_of(opener: char) -> Option<char> {
    BRACKETS.into_iter().find_map(|(open, close)| (open == opener).then_some(close))
}

pub(super) fn is_opener(char: char) -> bool {
    matches!(char, '[' | '(' | '{' | '<')
}

pub(super) fn is_closer(char: char) -> bool {
    matches!(char, ']' | ')' | '}' | '>')
}

pub(super) fn is_blank(char: char) -> bool {
    matches!(char, ' ' | '\u{a0}')
}

/// The length of the blanks at the start, if they are few enough to belong to a mark.
pub(super) fn blanks(text: &str) -> usize {
    text.chars().take_while(|char| is_blank(*char)).take(BLANKS).map(char::len_utf8).sum()
}

pub(super) fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}
