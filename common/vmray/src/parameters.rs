//! VMRay's rules for what a submission may be sent with. Texts come trimmed and not blank; errors say what is expected.

use std::fmt;

use runtime::settings::parse::{Parsed, items, whole};
use serde::{Deserialize, Serialize};

/// VMRay names no limit; a text beyond this is a file in the wrong place.
const COMMENT_CHARS: usize = 4096;

/// VMRay's limit for one tag.
const TAG_CHARS: usize = 255;

/// VMRay names no limit; each tag is a label on every submission of the call.
const TAGS: usize = 100;

/// What VMRay takes in a tag besides letters and digits.
const TAG_SIGNS: &str = "_.!?;:+-–=/$@%^&)(#\\'";

/// The only retention periods that VMRay has, in days.
const RETENTION: [u16; 5] = [0, 60, 120, 180, 360];

/// Whether VMRay may answer from earlier analyses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnalysisCaching {
    /// Everything is analysed again.
    Disabled,
    /// Earlier analyses are used.
    Enabled,
    /// Earlier analyses are used where VMRay thinks them good enough.
    Smart,
    /// A known sample is refused with "no jobs were created".
    Legacy,
}

impl AnalysisCaching {
    pub const ALL: [Self; 4] = [Self::Disabled, Self::Enabled, Self::Smart, Self::Legacy];

    /// VMRay's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Smart => "smart",
            Self::Legacy => "legacy",
        }
    }
}

impl fmt::Display for AnalysisCaching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A comment, its line ends made the same.
pub fn comment(text: &str) -> Parsed<String> {
    let text = text.replace("\r\n", "\n");
    let chars = text.chars().count();
    if chars > COMMENT_CHARS {
        return Err(format!("{chars} characters; expected at most {COMMENT_CHARS}"));
    }
    if text.chars().any(|char| char.is_control() && !matches!(char, '\n' | '\t')) {
        return Err("has a control character; only line ends and tabs may stand in a comment".to_owned());
    }
    Ok(text)
}

pub fn tag(text: &str) -> Parsed<String> {
    let chars = text.chars().count();
    if chars > TAG_CHARS {
        return Err(format!("`{}…` has {chars} characters; expected at most {TAG_CHARS}", shown(text)));
    }
    if text.is_empty() {
        return Err("a tag is empty".to_owned());
    }
    match text.chars().find(|char| !char.is_alphanumeric() && !TAG_SIGNS.contains(*char)) {
        None => Ok(text.to_owned()),
        Some(char) => Err(format!(
            "`{}` has {}; VMRay takes letters, digits and {TAG_SIGNS} in a tag, no spaces",
            shown(text).escape_debug(),
            sign(char)
        )),
    }
}

fn sign(char: char) -> String {
    if char.is_whitespace() { "a space".to_owned() } else { format!("`{}`", char.escape_debug()) }
}

/// Tags joined with commas.
pub fn tags(text: &str) -> Parsed<Vec<String>> {
    unique(items(text).map(tag).collect::<Result<_, _>>()?)
}

/// Tags without repeats, in their order, not too many.
pub fn unique(tags: Vec<String>) -> Parsed<Vec<String>> {
    let mut kept: Vec<String> = Vec::new();
    for tag in tags {
        if kept.contains(&tag) {
            continue;
        }
        if kept.len() == TAGS {
            return Err(format!("too many tags; expected at most {TAGS}"));
        }
        kept.push(tag);
    }
    Ok(kept)
}

/// A retention period in days.
pub fn retention(text: &str) -> Parsed<u16> {
    text.parse()
        .ok()
        .filter(|days| RETENTION.contains(days))
        .ok_or_else(|| "expected 0 (never deleted), 60, 120, 180 or 360 days".to_owned())
}

/// How many recursive samples.
pub fn recursive_samples(text: &str) -> Parsed<u8> {
    whole(text, 0..=50)
}

/// How many dynamic analyses for each sample.
pub fn dynamic_analyses(text: &str) -> Parsed<u8> {
    whole(text, 0..=10)
}

/// How VMRay may use earlier analyses.
pub fn caching(text: &str) -> Parsed<AnalysisCaching> {
    AnalysisCaching::ALL
        .into_iter()
        .find(|caching| caching.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| "expected disabled, enabled, smart or legacy".to_owned())
}

/// The beginning of a wrong tag.
fn shown(text: &str) -> &str {
    text.char_indices().nth(64).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_letters_of_any_script_digits_and_vmrays_marks() {
        assert_eq!(tags("phish, soar-1,фишинг,phish").unwrap(), ["phish", "soar-1", "фишинг"]);
        for wrong in ["two words", "a\"b", "tag<", "a\u{0}", "\u{200b}"] {
            assert!(tag(wrong).is_err(), "{wrong:?}");
        }
        assert!(tag(&"x".repeat(255)).is_ok() && tag(&"x".repeat(256)).is_err());
    }

    #[test]
    fn retention_and_caching_are_vmrays_own_values() {
        assert_eq!(retention("180"), Ok(180));
        assert!(retention("61").is_err());
        assert_eq!(caching("Smart"), Ok(AnalysisCaching::Smart));
        assert!(caching("always").is_err());
    }
}
