//! Reading JSON that is nearly what was promised.
//!
//! The rule: a scalar of an odd kind is never an error. Numbers come as strings, strings as numbers,
//! nulls anywhere; what cannot be read is treated as absent. A list that is no list *is* an error,
//! because a whole list lost in silence is data lost.

use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Any JSON value, reduced to what a scalar field may hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    /// A list or an object where a scalar belongs.
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }
    fn visit_none<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        Scalar::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Int(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Int(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

impl Scalar {
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Scalar::Text(text) => Some(text),
            Scalar::Int(number) => Some(number.to_string()),
            Scalar::Float(number) => Some(number.to_string()),
            Scalar::Null | Scalar::Bool(_) | Scalar::Other => None,
        }
    }

    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Scalar::Int(number) => Some(*number),
            Scalar::Text(text) => text.trim().parse().ok(),
            // Whole floats only: `20.0` is a number of bytes, `20.5` is not.
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
            Scalar::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i128),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Scalar::Bool(value) => Some(*value),
            Scalar::Int(number) => Some(*number != 0),
            Scalar::Text(text) if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
            Scalar::Text(text) if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
            _ => None,
        }
    }
}

pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.into_text())
}

pub(super) fn boxed_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    Ok(text(deserializer)?.map(String::into_boxed_str))
}

/// A number that fits, else absent.
pub(super) fn number<'de, D: Deserializer<'de>, N: TryFrom<i128>>(
    deserializer: D,
) -> Result<Option<N>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.as_int().and_then(|number| N::try_from(number).ok()))
}

pub(super) fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.as_bool())
}

pub(super) fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    Ok(Scalar::deserialize(deserializer)?.into_text().as_deref().and_then(parse_date))
}

/// Reads `2026-01-02T03:04:05`, with or without a fraction, a zone, or a space for the `T`; also a plain
/// date. Without a zone the time is UTC.
#[must_use]
pub fn parse_date(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(date) = DateTime::parse_from_rfc3339(text) {
        return Some(date.with_timezone(&Utc));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(date) = NaiveDateTime::parse_from_str(text, format) {
            return Some(date.and_utc());
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f%z"] {
        if let Ok(date) = DateTime::parse_from_str(text, format) {
            return Some(date.with_timezone(&Utc));
        }
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|day| day.and_time(NaiveTime::MIN).and_utc())
}

/// A list of texts: `null` is the empty list, elements that are no text are left out.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    scalars(deserializer, Scalar::into_text)
}

/// A list of texts of which the places count: elements that are no text are empty.
pub(super) fn texts_in_place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    scalars(deserializer, |scalar| Some(scalar.into_text().unwrap_or_default()))
}

/// A list of numbers, read as [`texts`] are.
pub(super) fn numbers<'de, D: Deserializer<'de>, N: TryFrom<i128>>(
    deserializer: D,
) -> Result<Vec<N>, D::Error> {
    scalars(deserializer, |scalar| scalar.as_int().and_then(|number| N::try_from(number).ok()))
}

fn scalars<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    keep: impl Fn(Scalar) -> Option<T>,
) -> Result<Vec<T>, D::Error> {
    let all: Option<Vec<Scalar>> = Option::deserialize(deserializer)?;
    Ok(all.unwrap_or_default().into_iter().filter_map(keep).collect())
}

/// A list whose elements are read one by one: the malformed ones are counted instead of failing the rest.
pub(super) fn entries<'de, D: Deserializer<'de>, T: de::DeserializeOwned>(
    deserializer: D,
) -> Result<(Vec<T>, u32), D::Error> {
    deserializer.deserialize_option(EntriesVisitor(PhantomData))
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: de::DeserializeOwned> Visitor<'de> for EntriesVisitor<T> {
    type Value = (Vec<T>, u32);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok((Vec::new(), 0))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok((Vec::new(), 0))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut good = Vec::new();
        let mut malformed = 0;
        // Raw first: a type error in the middle of an element would otherwise end the whole document.
        while let Some(raw) = seq.next_element::<Box<RawValue>>()? {
            // Derived readers take a list for an object, member by member; no server means that.
            match serde_json::from_str(raw.get()) {
                Ok(entry) if raw.get().starts_with('{') => good.push(entry),
                Ok(_) | Err(_) => malformed += 1,
            }
        }
        Ok((good, malformed))
    }
}

/// An object, and nothing that a derived reader would also take for one.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map))
    }
}
