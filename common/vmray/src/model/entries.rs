//! Lists whose bad entries do not cost the others.

use std::ops::Deref;

use serde::de::{self, Deserialize, Deserializer};

use super::lenient;

/// A list that was read element by element. Behaves like a slice.
#[derive(Debug, Clone, PartialEq)]
pub struct Entries<T> {
    /// What could be read.
    pub items: Vec<T>,
    /// How many elements could not.
    pub malformed: u32,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { items: Vec::new(), malformed: 0 }
    }
}

impl<T> From<Vec<T>> for Entries<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, malformed: 0 }
    }
}

impl<T> Deref for Entries<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient::entries(deserializer).map(|(items, malformed)| Self { items, malformed })
    }
}
