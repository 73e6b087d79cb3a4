//! Labels: coloured words on objects. OpenCTI takes two spellings for one label.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// The text of a label. Shared, because the same few labels stand on every object of a sample.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelName {
    key: Arc<str>,
    text: Arc<str>,
}

impl LabelName {
    /// Trims the text; none if nothing is left. Control characters become spaces.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.replace(char::is_control, " ");
        let text: Arc<str> = text.trim().into();
        if text.is_empty() {
            return None;
        }
        let lower = text.to_lowercase();
        let key = if *lower == *text { Arc::clone(&text) } else { lower.into() };
        Some(Self { key, text })
    }

    /// As people see it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What makes it the same label as another.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl PartialOrd for LabelName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LabelName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key).then_with(|| self.text.cmp(&other.text))
    }
}

impl Serialize for LabelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// A set of labels in order, each once whatever its spelling. Shared, because most objects of a sample have the same;
/// written once, because labels are most of a bundle's text.
#[derive(Debug, Clone, Default)]
pub struct LabelSet(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    names: Vec<LabelName>,
    json: OnceLock<Option<Box<RawValue>>>,
}

impl PartialEq for LabelSet {
    fn eq(&self, other: &Self) -> bool {
        self.is_shared_with(other) || self.0.names == other.0.names
    }
}

impl LabelSet {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.names.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &LabelName> {
        self.0.names.iter()
    }

    /// Whether it is the very same set, which is quicker to say than whether it is equal.
    #[must_use]
    pub fn is_shared_with(&self, other: &LabelSet) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds all of another set.
    pub fn merge(&mut self, other: &LabelSet) {
        if self != other && !other.is_empty() {
            *self = self.iter().chain(other.iter()).cloned().collect();
        }
    }
}

impl FromIterator<LabelName> for LabelSet {
    fn from_iter<I: IntoIterator<Item = LabelName>>(names: I) -> Self {
        let mut names: Vec<_> = names.into_iter().collect();
        // Of several spellings the smallest stays, so that the order of merging does not matter.
        names.sort_unstable();
        names.dedup_by(|later, earlier| later.key == earlier.key);
        Self(Arc::new(Shared { names, json: OnceLock::new() }))
    }
}

impl Serialize for LabelSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.json.get_or_init(|| to_raw_value(&self.0.names).ok()) {
            Some(json) => json.serialize(serializer),
            // Texts can always be written, so this is never needed.
            None => serializer.collect_seq(self.iter()),
        }
    }
}

/// A colour as `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Color([u8; 3]);

/// The text is no colour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a colour of the form #rrggbb: {0:?}")]
pub struct InvalidColor(pub String);

impl Color {
    #[must_use]
    pub const fn rgb(red: u8, green: u8, blue: u8) -> Self {
        Self([red, green, blue])
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl FromStr for Color {
    type Err = InvalidColor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidColor(text.to_owned());
        let digits = text.trim().strip_prefix('#').ok_or_else(invalid)?;
        if digits.len() != 6 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        let number = u32::from_str_radix(digits, 16).map_err(|_| invalid())?;
        let [_, red, green, blue] = number.to_be_bytes();
        Ok(Self([red, green, blue]))
    }
}

impl Serialize for Color {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_label_are_one() {
        let set: LabelSet =
            ["emotet", " Emotet ", "EMOTET", "other"].into_iter().filter_map(LabelName::new).collect();
        assert_eq!(set.iter().map(LabelName::as_str).collect::<Vec<_>>(), ["EMOTET", "other"]);
        assert_eq!(LabelName::new(" \u{0} \t"), None);
    }

    #[test]
    fn colours_are_read_and_written() {
        assert_eq!("#D60904".parse::<Color>().map(|color| color.to_string()), Ok("#d60904".to_owned()));
        for wrong in ["d60904", "#d6090", "#d60904f", "#+60904", "red", ""] {
            assert!(wrong.parse::<Color>().is_err(), "{wrong}");
        }
    }
}
