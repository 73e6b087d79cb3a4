//! JSON bodies: which of the known shapes one has, and where its URLs and options are.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::{
    BodyError, BodyLimits, RequestBody, entry,
    intake::{Full, Intake},
    text,
};
use crate::api::{
    fault::{below, shown, without_place},
    options, words,
};

/// More members at the top than any known shape has, whatever its caller adds.
const MAX_MEMBERS: usize = 256;

/// Far more than all options at their longest.
const MAX_OPTIONS_BYTES: usize = 128 * 1024;

/// Members by which one entry, and no list, stands at the top.
const ENTRY: [&str; 4] = ["type", "entity_type", "pattern", "instance"];

/// Whether a body begins as JSON does: with `{`, or with a list of something other than a defanged URL.
pub(super) fn is_meant(body: &str) -> bool {
    let mut chars = body.chars().filter(|char| !char.is_ascii_whitespace());
    match chars.next() {
        Some('{') => true,
        Some('[') => {
            matches!(chars.next(), Some('"' | '{' | '[' | ']'))
                || serde_json::from_str::<&RawValue>(body).is_ok()
        }
        _ => false,
    }
}

/// Reads a JSON body.
pub(super) fn read(body: &str, limits: BodyLimits) -> Result<RequestBody, BodyError> {
    if depth(body) > limits.max_depth {
        return Err(BodyError::TooDeep { limit: limits.max_depth });
    }
    let body: &RawValue = serde_json::from_str(body)
        .map_err(|error| BodyError::NotJson { line: error.line(), column: error.column() })?;
    let mut intake = Intake::new(limits.max_urls);
    let read = match body.get().as_bytes().first() {
        Some(b'[') => list(body, "", &mut intake).map(|()| (String::new(), Map::new())),
        Some(b'{') => object(body, &mut intake),
        _ => {
            intake.faults.push("", "expected an object with `urls`, or a list of URLs");
            Ok((String::new(), Map::new()))
        }
    };
    let (place, options) = read.map_err(|Full| BodyError::TooManyUrls { limit: limits.max_urls })?;
    intake.finish(&place, options)
}

/// How deep lists and objects are nested, before any parser follows them down.
fn depth(body: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut inside_text, mut escaped) = (false, false);
    for byte in body.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside_text => escaped = true,
            b'"' => inside_text = !inside_text,
            _ if inside_text => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads an object; says where its URLs should be, and its options.
fn object(body: &RawValue, intake: &mut Intake) -> Result<(String, Map<String, Value>), Full> {
    let top: Top<'_> = match serde_json::from_str(body.get()) {
        Ok(top) => top,
        Err(error) => {
            intake.faults.push("", without_place(&error));
            return Ok((String::new(), Map::new()));
        }
    };
    let options = top.options(intake);
    let place = match top.shape() {
        Shape::Urls => {
            top.refuse_others(&["urls", "options"], intake);
            top.read_urls(intake)?;
            "/urls"
        }
        Shape::One(name) => {
            top.refuse_others(&[name, "id", "options"], intake);
            entry::read(body, "", intake)?;
            ""
        }
        Shape::List(name) => {
            top.refuse_nearly_options(intake);
            top.read_list(name, intake)?;
            return Ok((below("", name), options));
        }
        Shape::Entry => {
            top.refuse_nearly_options(intake);
            entry::read(body, "", intake)?;
            ""
        }
        Shape::Unknown => {
            top.refuse_others(&["urls", "url", "options"], intake);
            intake.faults.push("", "has no `urls`; expected {\"urls\": [..], \"options\": {..}}");
            ""
        }
    };
    Ok((place.to_owned(), options))
}

/// What an object is.
enum Shape {
    /// This API's own, with a list.
    Urls,
    /// This API's own, with one URL as this member.
    One(&'static str),
    /// Another product's, with a list as this member.
    List(&'static str),
    /// Another product's: one indicator, observable or notification.
    Entry,
    Unknown,
}

/// The members of a body that is an object, none of them read yet.
struct Top<'a>(BTreeMap<String, &'a RawValue>);

impl Top<'_> {
    fn shape(&self) -> Shape {
        let has = |name: &str| self.0.contains_key(name);
        if has("urls") {
            Shape::Urls
        } else if self.is_bundle() || has("objects") {
            Shape::List("objects")
        } else if has("data") {
            // OpenCTI notifiers.
            Shape::List("data")
        } else if has("indicators") {
            Shape::List("indicators")
        } else if ENTRY.into_iter().any(has) {
            Shape::Entry
        } else if has("url") {
            Shape::One("url")
        } else if has("value") {
            Shape::One("value")
        } else {
            Shape::Unknown
        }
    }

    fn is_bundle(&self) -> bool {
        self.0.get("type").and_then(|kind| entry::text(kind)).is_some_and(|kind| kind == "bundle")
    }

    fn options(&self, intake: &mut Intake) -> Map<String, Value> {
        let Some(raw) = self.0.get("options").filter(|raw| raw.get() != "null") else {
            return Map::new();
        };
        if raw.get().len() > MAX_OPTIONS_BYTES {
            intake.faults.push("/options", format!("has more than {MAX_OPTIONS_BYTES} bytes"));
            return Map::new();
        }
        if !raw.get().starts_with('{') {
            intake.faults.push("/options", "expected an object");
            return Map::new();
        }
        // Of two values neither is more likely the one that was meant.
        let read = serde_json::from_str::<Top<'_>>(raw.get()).and_then(|options| {
            options
                .0
                .into_iter()
                .map(|(name, value)| Ok((name, serde_json::from_str(value.get())?)))
                .collect()
        });
        read.unwrap_or_else(|error| {
            intake.faults.push("/options", without_place(&error));
            Map::new()
        })
    }

    fn read_urls(&self, intake: &mut Intake) -> Result<(), Full> {
        let Some(raw) = self.0.get("urls") else { return Ok(()) };
        if raw.get().starts_with('[') {
            return list(raw, "/urls", intake);
        }
        if let Some(joined) = entry::text(raw) {
            return text::items(&joined).try_for_each(|url| intake.url(None, url.into_owned()));
        }
        intake.faults.push("/urls", "expected a list, or a text with commas");
        Ok(())
    }

    fn read_list(&self, name: &str, intake: &mut Intake) -> Result<(), Full> {
        let pointer = below("", name);
        match self.0.get(name) {
            Some(raw) if raw.get().starts_with('[') => list(raw, &pointer, intake),
            Some(raw) if raw.get().starts_with('{') => entry::read(raw, &pointer, intake),
            _ => {
                intake.faults.push(pointer, "expected a list");
                Ok(())
            }
        }
    }

    /// A misspelt member of this API's own shape would be an option or a URL lost in silence.
    fn refuse_others(&self, expected: &[&'static str], intake: &mut Intake) {
        for name in self.0.keys().filter(|name| !expected.contains(&name.as_str())) {
            let unknown = format!("unknown member `{}`", shown(name));
            let detail = if options::NAMES.contains(&name.as_str()) {
                format!("{unknown}; it belongs under `options`")
            } else if let Some(near) = words::nearest(name, expected) {
                format!("{unknown}; did you mean `{near}`?")
            } else {
                format!("{unknown}; expected only {}", expected.join(", "))
            };
            intake.faults.push(below("", name), detail);
        }
    }

    /// Other products put into their objects what they like, but a name near to `options` was meant for this API.
    fn refuse_nearly_options(&self, intake: &mut Intake) {
        for name in self.0.keys().filter(|name| *name != "options") {
            if words::nearest(name, &["options"]).is_some() {
                let detail = format!("unknown member `{}`; did you mean `options`?", shown(name));
                intake.faults.push(below("", name), detail);
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueMembers;

        impl<'de> Visitor<'de> for UniqueMembers {
            type Value = Top<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(de::Error::custom(format!("has more than {MAX_MEMBERS} members")));
                    }
                    let again = format!("has `{}` twice", shown(&name));
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom(again));
                    }
                }
                Ok(Top(members))
            }
        }

        deserializer.deserialize_map(UniqueMembers)
    }
}

/// Reads a list, one entry at a time, and stops when the intake is full.
fn list(raw: &RawValue, pointer: &str, intake: &mut Intake) -> Result<(), Full> {
    let mut full = false;
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let read = EntryList { pointer, intake: &mut *intake, full: &mut full }.deserialize(&mut deserializer);
    if full {
        return Err(Full);
    }
    if let Err(error) = read {
        intake.faults.push(pointer, without_place(&error));
    }
    Ok(())
}

struct EntryList<'i> {
    pointer: &'i str,
    intake: &'i mut Intake,
    full: &'i mut bool,
}

impl<'de> DeserializeSeed<'de> for EntryList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EntryList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while let Some(entry) = entries.next_element::<&'de RawValue>()? {
            let pointer = format!("{}/{index}", self.pointer);
            if let Err(Full) = entry::read(entry, &pointer, self.intake) {
                *self.full = true;
                return Err(de::Error::custom("full"));
            }
            index += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_texts() {
        for (body, expected) in [
            ("1", 0),
            ("[]", 1),
            (r#"{"a":[{}]}"#, 3),
            (r#"["[[\"[["]"#, 1),
            ("]]][", 1),
            (r#"["\\",[]]"#, 2),
        ] {
            assert_eq!(depth(body), expected, "{body}");
        }
    }
}
