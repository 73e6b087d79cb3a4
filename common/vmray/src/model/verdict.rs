//! VMRay's judgement, in the words of all its releases.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer};
use strum::{IntoStaticStr, VariantArray};

use super::lenient::Scalar;

/// VMRay's judgement of a sample, a submission or an IOC. Ordered by how bad it is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Verdict {
    /// VMRay looked and could not say.
    NotAvailable,
    /// Harmless.
    Clean,
    /// Probably bad.
    Suspicious,
    /// Bad.
    Malicious,
}

/// The text is none of VMRay's verdicts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a VMRay verdict (malicious, suspicious, clean, not_available): {0:?}")]
pub struct UnknownVerdict(pub String);

impl Verdict {
    /// VMRay's own word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The verdict that servers before 4.0 expressed as a severity.
    fn from_severity(severity: &str) -> Option<Self> {
        match severity.trim().to_ascii_lowercase().as_str() {
            "malicious" | "blacklisted" => Some(Verdict::Malicious),
            "suspicious" => Some(Verdict::Suspicious),
            "not_suspicious" | "whitelisted" => Some(Verdict::Clean),
            "unknown" => Some(Verdict::NotAvailable),
            _ => None,
        }
    }

    /// The verdict that a score of 0 to 100 stands for, where neither verdict nor severity is given.
    fn from_score(score: u8) -> Self {
        match score {
            0..=24 => Verdict::Clean,
            25..=74 => Verdict::Suspicious,
            _ => Verdict::Malicious,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verdict {
    type Err = UnknownVerdict;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::VARIANTS.iter().find(|verdict| verdict.as_str().eq_ignore_ascii_case(text.trim()));
        known.copied().ok_or_else(|| UnknownVerdict(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Verdict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A verdict field, which old servers do not send at all and new ones send as null when there is none.
/// Only a server that does not know the field is asked for its severity.
#[derive(Debug, Default)]
pub(super) enum VerdictField {
    #[default]
    Absent,
    Present(Option<Verdict>),
}

impl<'de> Deserialize<'de> for VerdictField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Scalar::deserialize(deserializer)?.into_text();
        Ok(VerdictField::Present(text.and_then(|text| text.parse().ok())))
    }
}

impl VerdictField {
    pub(super) fn or_severity(self, severity: Option<&str>, score: Option<u8>) -> Option<Verdict> {
        match self {
            VerdictField::Present(verdict) => verdict,
            VerdictField::Absent => {
                severity.and_then(Verdict::from_severity).or(score.map(Verdict::from_score))
            }
        }
    }
}
