//! Points in time as STIX and OpenCTI write them.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

/// A time that always prints as `YYYY-MM-DDTHH:MM:SS.mmmZ`: dates take part in ids, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// When everything was made that has no time of its own. An object whose date does not move is the same at
    /// every import.
    pub const CONSTANT: Timestamp = Timestamp(1_577_836_800_000); // 2020-01-01T00:00:00.000Z

    /// Since the epoch.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(date: DateTime<Utc>) -> Self {
        Self(date.timestamp_millis())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most dates of a bundle are this one.
        if *self == Self::CONSTANT {
            return f.write_str("2020-01-01T00:00:00.000Z");
        }
        // Every Timestamp comes from a DateTime, so the fallback is never taken.
        let date = DateTime::from_timestamp_millis(self.0).unwrap_or_default();
        f.write_str(&date.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
