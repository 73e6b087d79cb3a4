//! What surrounds a URL in prose: blanks, quotes, brackets, and the punctuation of the sentence.

use super::{
    brackets::{BRACKETS, closer_of},
    characters::{is_direction_mark, is_invisible},
};
use crate::url::markup::Markup;

/// How many layers of quotes and brackets are taken off. More is no text that a person wrote.
const WRAPPINGS: usize = 8;

/// What ends a sentence or an item of a list, and is no part of the URL before it.
const SENTENCE: [char; 7] = ['.', ',', ';', ':', '!', '?', '…'];

/// Straight, typographic and code quotes. No URL begins with one.
const QUOTES: [char; 11] = ['"', '\'', '`', '“', '”', '„', '‘', '’', '‚', '«', '»'];

/// The text without blanks, invisible characters, quotes and brackets around it. Of a link with a text, the link.
pub(in crate::url) fn unwrapped(text: &str) -> &str {
    let mut text = trimmed(text);
    for _ in 0..WRAPPINGS {
        match unwrapped_once(text) {
            Some(inner) => text = inner,
            None => break,
        }
    }
    text
}

fn unwrapped_once(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    if let Some(markup) =
        Markup::read(text).filter(|markup| text[markup.len..].trim_end_matches(SENTENCE).is_empty())
    {
        return Some(trimmed(markup.link));
    }
    let inner = &text[first.len_utf8()..];
    let sentence = inner.trim_end_matches(SENTENCE);
    if QUOTES.contains(&first) {
        return Some(trimmed(sentence.strip_suffix(QUOTES).unwrap_or(inner)));
    }
    if first == '<' {
        return Some(trimmed(sentence.strip_suffix('>').unwrap_or(inner)));
    }
    let inner = sentence.strip_suffix(closer_of(first)?)?;
    encloses(inner, first).then(|| trimmed(inner))
}

/// Whether brackets around this text belong together: `(a)(b)` is not one pair around all.
fn encloses(inner: &str, opener: char) -> bool {
    let closer = closer_of(opener);
    let mut depth = 0_usize;
    for char in inner.chars() {
        if char == opener {
            depth += 1;
        } else if Some(char) == closer {
            let Some(outer) = depth.checked_sub(1) else { return false };
            depth = outer;
        }
    }
    depth == 0
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || is_invisible(char) || is_direction_mark(char))
}

/// Where the URL ends and the punctuation of the prose around it begins. A closing bracket belongs to the URL if it
/// was opened there.
pub(super) fn prose_end(text: &str) -> usize {
    let mut open = [0_isize; BRACKETS.len()];
    for char in text.chars() {
        for (depth, (opener, closer)) in open.iter_mut().zip(BRACKETS) {
            *depth += isize::from(char == opener) - isize::from(char == closer);
        }
    }
    let mut end = text.len();
    for char in text.chars().rev() {
        let unopened = BRACKETS.iter().position(|(_, closer)| *closer == char).filter(|kind| open[*kind] < 0);
        if let Some(kind) = unopened {
            open[kind] += 1;
        } else if !(SENTENCE.contains(&char) || QUOTES.contains(&char)) {
            break;
        }
        end -= char.len_utf8();
    }
    end
}
