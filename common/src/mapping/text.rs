//! Text for people: names on one line, Markdown that shows what was meant and nothing else.

use std::borrow::Cow;

/// The longest name: longer ones only hide what stands beside them on the screen.
const MAX_NAME: usize = 256;

/// One line without control characters, trimmed.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) {
        Cow::Owned(text.replace(char::is_control, " ").trim().to_owned())
    } else {
        Cow::Borrowed(text.trim())
    }
}

/// A value as a name: one line, cut to [`MAX_NAME`] characters with an ellipsis as the last of them.
pub(super) fn name_of(value: &str) -> String {
    let line = one_line(value);
    match line.char_indices().nth(MAX_NAME) {
        None => line.into_owned(),
        Some(_) => line.chars().take(MAX_NAME - 1).chain(['…']).collect(),
    }
}

/// Escapes foreign text for Markdown: no formatting, no HTML, no images, no links. Malware authors choose these
/// texts, and analysts click. Long texts are cut.
pub(super) fn markdown(text: &str) -> String {
    let line = name_of(text);
    let mut escaped = String::with_capacity(line.len() + 8);
    for char in line.chars() {
        if matches!(
            char,
            '\\' | '`'
                | '*'
                | '_'
                | '{'
                | '}'
                | '['
                | ']'
                | '('
                | ')'
                | '<'
                | '>'
                | '#'
                | '|'
                | '~'
                | '!'
                | '&'
                | '@'
                | '$'
        ) {
            escaped.push('\\');
        }
        escaped.push(char);
    }
    // What renderers make links of by themselves.
    escaped.replace("://", ":\\//").replace("www.", "www\\.")
}

/// Several foreign texts, sorted, each once, with commas.
pub(super) fn markdown_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut escaped: Vec<_> = texts.map(markdown).filter(|text| !text.is_empty()).collect();
    escaped.sort_unstable();
    escaped.dedup();
    escaped.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_line_of_at_most_256_characters() {
        assert_eq!(name_of(" a\r\nb\tc "), "a  b c");
        assert_eq!(name_of(&"ü".repeat(256)), "ü".repeat(256));
        let long = name_of(&"ü".repeat(257));
        assert_eq!(long.chars().count(), 256);
        assert!(long.ends_with("ü…"));
    }

    #[test]
    fn markdown_shows_foreign_text_as_it_is() {
        assert_eq!(markdown("Mutex_Nö_0 (<b>Test</b>)"), r"Mutex\_Nö\_0 \(\<b\>Test\</b\>\)");
        assert_eq!(markdown("[x](http://evil.test) ![i](j)"), r"\[x\]\(http:\//evil.test\) \!\[i\]\(j\)");
        assert_eq!(markdown("www.evil.test a@b"), r"www\.evil.test a\@b");
        assert_eq!(markdown("a\n# b"), r"a \# b");
    }

    #[test]
    fn lists_are_sorted_without_doubles() {
        assert_eq!(markdown_list(["b", "a", "b", " "].into_iter()), "a, b");
    }
}
