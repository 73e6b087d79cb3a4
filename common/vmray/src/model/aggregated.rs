//! Answers that VMRay puts together from the analyses of a sample.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::entries::Entries;
use super::findings::{MitreTechnique, ThreatIndicator};
use super::iocs::Iocs;
use super::lenient::Scalar;

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
