//! VMRay's rules for what a submission may be sent with. Pure; texts come as people wrote them, errors say what would
//! be right.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Days after which VMRay can be told to delete a submission; 0 means never.
pub const RETENTION_DAYS: [u16; 5] = [0, 60, 120, 180, 360];

/// The most samples inside a sample that VMRay can be told to analyse.
pub const MOST_RECURSIVE_SAMPLES: u8 = 50;

/// The most dynamic analyses of one sample that VMRay can be told to make.
pub const MOST_DYNAMIC_ANALYSES: u8 = 10;

/// The longest tag that VMRay takes, in characters.
const LONGEST_TAG: usize = 255;

/// VMRay names no limit; nobody reads more than this.
const MOST_TAGS: usize = 100;

/// VMRay names no limit; this is a comment, not a file.
const LONGEST_COMMENT: usize = 4096;

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
    /// Every value.
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

impl FromStr for AnalysisCaching {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = text.trim();
        let known = Self::ALL.into_iter().find(|value| value.as_str().eq_ignore_ascii_case(wanted));
        known.ok_or_else(|| "expected disabled, enabled, smart or legacy".to_owned())
    }
}

/// One of the retentions that VMRay knows.
pub fn retention_days(days: u16) -> Result<u16, String> {
    if RETENTION_DAYS.contains(&days) {
        Ok(days)
    } else {
        Err("expected 0 (never deleted), 60, 120, 180 or 360 days".to_owned())
    }
}

/// A tag of characters that VMRay takes; it refuses the whole submission for another.
pub fn tag(text: &str) -> Result<String, String> {
    const MARKS: &str = "_.!?;:+-–=/$@%^&)(#\\'";
    let tag = text.trim();
    if tag.is_empty() {
        return Err("a tag is empty".to_owned());
    }
    if tag.chars().count() > LONGEST_TAG {
        return Err(format!("a tag is longer than {LONGEST_TAG} characters"));
    }
    match tag.chars().find(|char| !char.is_alphabetic() && !char.is_ascii_digit() && !MARKS.contains(*char)) {
        Some(wrong) => Err(format!(
            "a tag has the character {wrong:?}; VMRay takes letters, digits and {MARKS}, and no spaces"
        )),
        None => Ok(tag.to_owned()),
    }
}

/// Tags with commas between them, each once, in the order given.
pub fn tags(text: &str) -> Result<Vec<String>, String> {
    tag_list(text.split(',').filter(|tag| !tag.trim().is_empty()))
}

/// Tags, each once, in the order given.
pub fn tag_list<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
    let mut tags: Vec<String> = Vec::new();
    for text in texts {
        let tag = tag(text)?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        if tags.len() > MOST_TAGS {
            return Err(format!("there are more than {MOST_TAGS} tags"));
        }
    }
    Ok(tags)
}

/// A comment of printable text.
pub fn comment(text: &str) -> Result<String, String> {
    if text.chars().count() > LONGEST_COMMENT {
        return Err(format!("the comment is longer than {LONGEST_COMMENT} characters"));
    }
    if text.chars().any(|char| char.is_control() && char != '\n' && char != '\t') {
        return Err("the comment has a control character".to_owned());
    }
    Ok(text.to_owned())
}

/// A count inside VMRay's range.
pub fn count(number: u64, range: RangeInclusive<u8>) -> Result<u8, String> {
    let wrong = || format!("expected a whole number from {} to {}", range.start(), range.end());
    u8::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(wrong)
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
        assert!(RETENTION_DAYS.into_iter().all(|days| retention_days(days) == Ok(days)));
        assert!(retention_days(61).is_err());
        assert_eq!("Smart".parse(), Ok(AnalysisCaching::Smart));
        assert!("always".parse::<AnalysisCaching>().is_err());
    }
}
