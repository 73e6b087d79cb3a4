//! One entry of a list: a text, or an object as this API, `ThreatQ`, STIX or OpenCTI has it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Number, value::RawValue};

use super::{
    Id,
    intake::{Full, Intake, text_id},
    stix::{self, TypeMeaning},
};
use crate::api::fault::{shown, without_place};

/// What is read of an object, in all of these formats. Null is the same as absent.
#[derive(Deserialize)]
struct EntryMembers<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    /// OpenCTI's name of an observable's value in its own API.
    #[serde(borrow, default)]
    observable_value: Option<&'a RawValue>,
    /// STIX's and `ThreatQ`'s; in a notification what happened.
    #[serde(borrow, default, rename = "type")]
    kind: Option<&'a RawValue>,
    /// OpenCTI's.
    #[serde(borrow, default)]
    entity_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pattern: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pattern_type: Option<&'a RawValue>,
    /// What an OpenCTI notification is about.
    #[serde(borrow, default)]
    instance: Option<&'a RawValue>,
}

/// A type that is an object, as `ThreatQ`'s API has it.
#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

/// Reads one entry into as many inputs as it holds.
pub(super) fn read(raw: &RawValue, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
    match raw.get().as_bytes().first() {
        Some(b'"') => match serde_json::from_str(raw.get()) {
            Ok(url) => intake.url(None, url),
            Err(error) => fault(intake, pointer, without_place(&error)),
        },
        Some(b'{') => match serde_json::from_str::<EntryMembers<'_>>(raw.get()) {
            Ok(members) => members.read(pointer, intake),
            Err(error) => fault(intake, pointer, without_place(&error)),
        },
        _ => fault(intake, pointer, "expected a URL as text, or an object with `value`"),
    }
}

impl EntryMembers<'_> {
    fn read(&self, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
        if let Some(instance) = self.instance {
            return self.notification(instance, pointer, intake);
        }
        match self.kind().as_deref().map(stix::kind) {
            Some(TypeMeaning::Indicator) => self.indicator(pointer, intake),
            None if self.value().is_none() && self.pattern.is_some() => self.indicator(pointer, intake),
            Some(TypeMeaning::Url) | None => self.url(pointer, intake),
            Some(TypeMeaning::Structure) => Ok(()),
            Some(TypeMeaning::Other(name)) => {
                let id = self.id(pointer, intake);
                intake.not_a_url(id, format!("an object of type `{}`", shown(&name)))
            }
        }
    }

    fn notification(&self, instance: &RawValue, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
        // What OpenCTI has just deleted needs no verdict.
        if self.kind().is_some_and(|operation| operation == "delete") {
            return Ok(());
        }
        let pointer = format!("{pointer}/instance");
        match serde_json::from_str::<EntryMembers<'_>>(instance.get()) {
            // An instance has no instance: a body cannot lead deeper than this.
            Ok(members) if instance.get().starts_with('{') && members.instance.is_none() => {
                members.read(&pointer, intake)
            }
            _ => fault(intake, pointer, "expected an object"),
        }
    }

    fn url(&self, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
        let id = self.id(pointer, intake);
        let Some((name, raw)) = self.value() else {
            return fault(intake, pointer, "has no `value`");
        };
        match serde_json::from_str(raw.get()) {
            Ok(url) => intake.url(id, url),
            Err(_) => fault(intake, format!("{pointer}/{name}"), "expected a text"),
        }
    }

    /// An indicator is as many inputs as its pattern compares URLs, all with its id.
    fn indicator(&self, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
        let Some(raw) = self.pattern else {
            return self.url(pointer, intake);
        };
        let Some(pattern) = text(raw) else {
            return fault(intake, format!("{pointer}/pattern"), "expected a text");
        };
        let id = self.id(pointer, intake);
        let language = self.pattern_type.and_then(text).unwrap_or_else(|| "stix".to_owned());
        if !language.eq_ignore_ascii_case("stix") {
            return intake.not_a_url(id, format!("an indicator with a pattern in `{}`", shown(&language)));
        }
        let mut urls = stix::urls(&pattern).peekable();
        if urls.peek().is_none() {
            return intake.not_a_url(id, "an indicator without a URL in its pattern".to_owned());
        }
        urls.try_for_each(|url| intake.url(id.clone(), url))
    }

    fn value(&self) -> Option<(&'static str, &RawValue)> {
        let named = [("value", self.value), ("url", self.url), ("observable_value", self.observable_value)];
        named.into_iter().find_map(|(name, raw)| raw.map(|raw| (name, raw)))
    }

    /// The type's name; a type that is only a number says nothing outside its own installation.
    fn kind(&self) -> Option<Cow<'_, str>> {
        let named = |raw: &RawValue| {
            text(raw).or_else(|| serde_json::from_str::<Named>(raw.get()).ok().and_then(|named| named.name))
        };
        self.kind.and_then(named).or_else(|| self.entity_type.and_then(text)).map(Cow::Owned)
    }

    fn id(&self, pointer: &str, intake: &mut Intake) -> Option<Id> {
        let raw = self.id?;
        id(raw).map_err(|detail| intake.faults.push(format!("{pointer}/id"), detail)).ok()
    }
}

/// An id that can be echoed exactly as it came.
fn id(raw: &RawValue) -> Result<Id, &'static str> {
    if let Some(text) = text(raw) {
        return text_id(text);
    }
    match serde_json::from_str::<Number>(raw.get()) {
        Ok(number) if !number.is_f64() => Ok(Id::Number(number)),
        _ => Err("expected a text or a whole number"),
    }
}

/// The text, if it is one.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    raw.get().starts_with('"').then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

#[expect(clippy::unnecessary_wraps, reason = "ends a reading as every other way does")]
fn fault(intake: &mut Intake, pointer: impl Into<String>, detail: impl Into<String>) -> Result<(), Full> {
    intake.faults.push(pointer, detail);
    Ok(())
}
