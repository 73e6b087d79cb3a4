//! What could not be mapped, by reason.

use std::collections::BTreeMap;

use serde::Serialize;

/// How many values were left out, by reason. Nothing is left out in silence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LeftOut(BTreeMap<&'static str, u32>);

impl LeftOut {
    /// Counts one more value.
    pub fn add(&mut self, reason: &'static str) {
        self.add_many(reason, 1);
    }

    /// Counts several values; none leaves no trace.
    pub fn add_many(&mut self, reason: &'static str, count: u32) {
        if count > 0 {
            let total = self.0.entry(reason).or_default();
            *total = total.saturating_add(count);
        }
    }

    /// Adds all of another count.
    pub fn merge(&mut self, other: &LeftOut) {
        for (reason, count) in &other.0 {
            self.add_many(reason, *count);
        }
    }

    /// How many for one reason.
    #[must_use]
    pub fn get(&self, reason: &str) -> u32 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reasons and counts, in the order of the reasons.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}
