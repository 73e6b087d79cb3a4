//! Text for people: names on one line, Markdown that shows what was meant and nothing else.

use std::borrow::Cow;

/// The longest name: longer ones only hide what stands beside them on the screen.
const MAX_NAME: usize = 256;

/// Most items of a list that people read; a mail can have thousands of recipients.
const MAX_LISTED: usize = 20;

/// Characters that show nothing and change how others are shown: controls, and marks that turn the reading direction
/// (`inv\u{202e}gpj.exe` looks like `invexe.jpg`).
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// One line without invisible characters, trimmed.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains(is_invisible) {
        Cow::Owned(text.replace(is_invisible, " ").trim().to_owned())
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
    let line = defang(&name_of(text));
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
    escaped
}

/// Foreign text as analysts pass addresses on: renderers make links of bare URLs and e-mail addresses, and a backslash
/// does not keep them from it.
fn defang(line: &str) -> String {
    line.replace("://", "[:]//").replace("www.", "www[.]").replace("WWW.", "WWW[.]").replace('@', "[@]")
}

/// Several foreign texts, sorted, each once, with commas.
pub(super) fn markdown_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut escaped: Vec<_> = texts.map(markdown).filter(|text| !text.is_empty()).collect();
    escaped.sort_unstable();
    escaped.dedup();
    let more = escaped.len().saturating_sub(MAX_LISTED);
    escaped.truncate(MAX_LISTED);
    let list = escaped.join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
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
        assert_eq!(markdown("[x](http://evil.test) ![i](j)"), r"\[x\]\(http\[:\]//evil.test\) \!\[i\]\(j\)");
        assert_eq!(markdown("www.evil.test a@b"), r"www\[.\]evil.test a\[\@\]b");
        assert_eq!(markdown("a\n# b"), r"a \# b");
    }

    #[test]
    fn lists_are_sorted_without_doubles() {
        assert_eq!(markdown_list(["b", "a", "b", " "].into_iter()), "a, b");
        let many: Vec<String> = (0..5000).map(|n| format!("{n:04}")).collect();
        let list = markdown_list(many.iter().map(String::as_str));
        assert!(list.ends_with("0019 and 4980 more"), "{list}");
    }

    #[test]
    fn names_do_not_turn_the_reading_direction() {
        assert_eq!(name_of("inv\u{202e}gpj.exe"), "inv gpj.exe");
    }
}
