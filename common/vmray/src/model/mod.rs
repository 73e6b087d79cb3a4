//! What VMRay's REST API answers, reduced to the fields this product uses.
//!
//! These types are lenient on purpose: servers differ by years. Unknown fields are ignored, everything but
//! ids may be absent or null, numbers may come as strings. What they mean for OpenCTI is none of their business.
//! No e-mail address, IP address or password of a submitter is ever read.
//!
//! Lists of entries are read element by element through [`serde_json::value::RawValue`], so documents must be
//! parsed by `serde_json` directly, not through `#[serde(untagged)]` or `#[serde(flatten)]` around them.

mod iocs;
mod lenient;
mod sample;
mod submission;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};

pub use iocs::{
    DomainIoc, EmailAddressIoc, EmailIoc, FileHashes, FileIoc, FilenameIoc, IocCore, Iocs, IpIoc, MutexIoc,
    ProcessIoc, RegistryIoc, UrlIoc,
};
pub use sample::{Relation, Sample};
pub use submission::Submission;

use lenient::Scalar;

/// Reads a VMRay date: `2026-01-02T03:04:05`, UTC unless it says otherwise, fraction and zone optional.
#[must_use]
pub fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    lenient::parse_date(text)
}

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.trim().parse().map(Self)
            }
        }

        impl TryFrom<i128> for $name {
            type Error = std::num::TryFromIntError;

            fn try_from(number: i128) -> Result<Self, Self::Error> {
                u64::try_from(number).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = Scalar::deserialize(deserializer)?.as_int();
                number
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| de::Error::custom(concat!("not a ", stringify!($name))))
            }
        }
    };
}

numeric_id! {
    /// The number of a sample in VMRay.
    SampleId
}
numeric_id! {
    /// The number of a submission in VMRay.
    SubmissionId
}

/// VMRay's judgement of a sample, a submission or an IOC. Ordered by how bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
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
        match self {
            Verdict::NotAvailable => "not_available",
            Verdict::Clean => "clean",
            Verdict::Suspicious => "suspicious",
            Verdict::Malicious => "malicious",
        }
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
        match text.trim().to_ascii_lowercase().as_str() {
            "not_available" => Ok(Verdict::NotAvailable),
            "clean" => Ok(Verdict::Clean),
            "suspicious" => Ok(Verdict::Suspicious),
            "malicious" => Ok(Verdict::Malicious),
            _ => Err(UnknownVerdict(text.to_owned())),
        }
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
enum VerdictField {
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
    fn or_severity(self, severity: Option<&str>, score: Option<u8>) -> Option<Verdict> {
        match self {
            VerdictField::Present(verdict) => verdict,
            VerdictField::Absent => {
                severity.and_then(Verdict::from_severity).or(score.map(Verdict::from_score))
            }
        }
    }
}

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

/// What can be asked for only once VMRay has put the results of all analyses together.
pub trait AggregatedData: Default + de::DeserializeOwned {
    /// The member of the answer that holds it.
    const KEY: &'static str;
}

impl AggregatedData for Iocs {
    const KEY: &'static str = "iocs";
}
impl AggregatedData for Entries<ThreatIndicator> {
    const KEY: &'static str = "threat_indicators";
}
impl AggregatedData for Entries<MitreTechnique> {
    const KEY: &'static str = "mitre_attack_techniques";
}

/// An answer that VMRay may still be putting together. Complete only when [`Aggregated::is_finished`].
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregated<T> {
    /// `finished`, or whatever else the server calls the state before that.
    pub status: String,
    /// Empty as long as the status is another.
    pub data: T,
}

impl<T> Aggregated<T> {
    /// Whether the data is complete.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.status.eq_ignore_ascii_case("finished")
    }
}

impl<'de, T: AggregatedData> Deserialize<'de> for Aggregated<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AggregatedVisitor(std::marker::PhantomData))
    }
}

struct AggregatedVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: AggregatedData> Visitor<'de> for AggregatedVisitor<T> {
    type Value = Aggregated<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with `status` and `{}`", T::KEY)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut status = None;
        let mut data = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "status" {
                status = map.next_value::<Scalar>()?.into_text();
            } else if key == T::KEY {
                data = Some(map.next_value::<T>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        // Servers without aggregation send the data alone; an answer with neither is something else.
        let status = match (status, &data) {
            (Some(status), _) => status,
            (None, Some(_)) => "finished".to_owned(),
            (None, None) => return Err(de::Error::missing_field("status")),
        };
        let aggregated = Aggregated { data: T::default(), status };
        match data {
            Some(data) => Ok(Aggregated { data, ..aggregated }),
            None if aggregated.is_finished() => Err(de::Error::missing_field(T::KEY)),
            None => Ok(aggregated),
        }
    }
}

/// A VMRay threat indicator (VTI): something an analysis saw the sample do.
#[derive(Debug, Clone, Default, PartialEq, DeriveDeserialize)]
pub struct ThreatIndicator {
    /// The analyses that saw it.
    #[serde(default, deserialize_with = "lenient::numbers")]
    pub analysis_ids: Vec<u64>,
    /// Such as `Defense Evasion`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub category: Option<String>,
    /// Such as `Tries to detect debugger`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub operation: Option<String>,
    /// 1 (harmless) to 5.
    #[serde(default, deserialize_with = "lenient::number")]
    pub score: Option<u8>,
    /// Such as `Spyware`.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub classifications: Vec<String>,
}

/// A MITRE ATT&CK technique that an analysis saw.
#[derive(Debug, Clone, Default, PartialEq, DeriveDeserialize)]
pub struct MitreTechnique {
    /// The analyses that saw it.
    #[serde(default, deserialize_with = "lenient::numbers")]
    pub analysis_ids: Vec<u64>,
    /// Such as `T1055.012`.
    #[serde(default, deserialize_with = "lenient::text")]
    pub technique_id: Option<String>,
    /// Its name.
    #[serde(default, deserialize_with = "lenient::text")]
    pub technique: Option<String>,
    /// Its tactics, such as `Defense Evasion`.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub tactics: Vec<String>,
}
