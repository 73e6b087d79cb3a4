//! What could not be mapped, by reason.

use std::collections::BTreeMap;

use serde::Serialize;
use strum::{Display, VariantArray};

/// Why a value was left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Display, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum LeftOutReason {
    /// Nothing, or only spaces, where a value belongs.
    EmptyValue,
    /// A file size over 31 bits: the file goes without it.
    FileSizeTooLarge,
    /// A file with neither hash nor name.
    FileWithoutIdentity,
    /// No domain name, a single label (`localhost`), or an address.
    InvalidDomain,
    /// An e-mail address that the platform does not parse: before the `@` it takes ASCII only.
    InvalidEmail,
    /// A hash of the wrong length, or with other characters than hexadecimal digits.
    InvalidHash,
    /// Neither an IP address nor a network.
    InvalidIp,
    /// A MITRE ATT&CK technique without number or name, or with something else for a number.
    InvalidTechnique,
    /// An entry of a list that could not be read at all.
    MalformedEntry,
    /// An entry of the list of submissions that is no submission.
    MalformedRow,
    /// A parent or child that VMRay does not give out.
    RelativeUnreadable,
    /// A parent or child with neither hash, name nor URL.
    RelativeWithoutIdentity,
    /// Parents and children beyond those that are linked.
    RelativesOverLimit,
    /// Parents or children that VMRay knows and does not list.
    RelativesTruncated,
    /// A sample with neither hash, name nor URL, so without an observable.
    SampleWithoutIdentity,
    /// A submission that names no sample.
    SubmissionWithoutSample,
    /// A country by a name and a code that are not known.
    UnknownCountry,
}

/// How many values were left out, by reason. Nothing is left out in silence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LeftOut(BTreeMap<LeftOutReason, u32>);

impl LeftOut {
    /// Counts one more value.
    pub fn add(&mut self, reason: LeftOutReason) {
        self.add_many(reason, 1);
    }

    /// Counts several values; none leaves no trace.
    pub fn add_many(&mut self, reason: LeftOutReason, count: u32) {
        if count > 0 {
            let total = self.0.entry(reason).or_default();
            *total = total.saturating_add(count);
        }
    }

    /// Adds all of another count.
    pub fn merge(&mut self, other: &LeftOut) {
        for (reason, count) in &other.0 {
            self.add_many(*reason, *count);
        }
    }

    /// How many for one reason.
    #[must_use]
    pub fn get(&self, reason: LeftOutReason) -> u32 {
        self.0.get(&reason).copied().unwrap_or(0)
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
    pub fn iter(&self) -> impl Iterator<Item = (LeftOutReason, u32)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}
