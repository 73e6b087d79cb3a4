//! What an object says, in numbers: enough to tell whether a platform that has imported it would learn anything new.
//!
//! Facts it stands on, seen in OpenCTI: an import unites lists and never takes anything out of them; an observable's score
//! and description and an indicator's score are the last writer's, and empty members change nothing; an indicator with a
//! `valid_from` that is not newer changes nothing; `created` and `modified` are never updated.

use std::fmt::Write as _;

use serde_json::Value;

use crate::id::{ObjectKind, StixId};
use crate::object::{Body, Object};
use crate::standard_id::uuid_of;

/// Lists whose items the platform unites one by one. Others count as a whole.
const UNITED: [&str; 6] = [
    "labels",
    "malware_types",
    "indicator_types",
    "kill_chain_phases",
    "x_opencti_additional_names",
    "x_opencti_stix_ids",
];

/// What an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which object.
    pub id: u64,
    /// What the last import of it decides: a score, an observable's description. `None`: it says nothing of that kind.
    pub rating: Option<u64>,
    /// What it adds to what is there: its other members together, and each item of its lists. Sorted.
    pub parts: Vec<u64>,
}

impl StixId {
    /// The id in 64 bits.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.with_str(digest)
    }
}

impl Object {
    /// What it says.
    #[must_use]
    pub fn content(&self) -> Content {
        let kind = self.id().kind();
        let (mut rating, mut rest, mut parts) = (String::new(), String::new(), Vec::new());
        // Writing to a String cannot fail, and neither can turning texts and numbers into a Value.
        let Value::Object(members) = serde_json::to_value(self).unwrap_or_default() else {
            return Content { id: self.id().digest(), rating: None, parts };
        };
        for (name, value) in &members {
            match (name.as_str(), value) {
                ("id" | "type" | "spec_version" | "created" | "modified", _) => {}
                // Follows from the analysis, and is news only when that is newer.
                ("valid_from" | "description", _) if kind == ObjectKind::Indicator => {}
                ("x_opencti_score" | "x_opencti_description", _) => {
                    let _ = write!(rating, "{name}={value} ");
                }
                (name, Value::Array(items)) if UNITED.contains(&name) => {
                    parts.extend(items.iter().map(|item| digest(&format!("{name}={item}"))));
                }
                _ => {
                    let _ = write!(rest, "{name}={value} ");
                }
            }
        }
        parts.push(digest(&rest));
        parts.sort_unstable();
        let rating = (!rating.is_empty()).then(|| digest(&rating));
        Content { id: self.id().digest(), rating, parts }
    }

    /// An observable without what the last import decides; any other object as it is.
    #[must_use]
    pub fn without_rating(&self) -> Object {
        match &self.body {
            Body::Observable(observable) => {
                let mut observable = observable.clone();
                (observable.score, observable.description) = (None, None);
                Object::from(Body::Observable(observable))
            }
            _ => self.clone(),
        }
    }
}

fn digest(text: &str) -> u64 {
    // Some bits of either half are constants of UUIDs.
    let (high, low) = uuid_of(text).as_u64_pair();
    high ^ low.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Dated, Malware, Observable, ObservableValue, Stamp};
    use crate::{LabelSet, Timestamp, TlpMarking};

    fn malware(types: &[&'static str]) -> Content {
        let name = Dated::new(Stamp(Timestamp::CONSTANT, 1), "Emotet".to_owned());
        let malware_types = types.iter().map(|kind| (*kind).into()).collect();
        Object::from(Body::Malware(Malware { name, malware_types })).content()
    }

    fn url(score: Option<u8>, text: Option<&str>) -> Object {
        let description = text.map(|text| Dated::new(Stamp(Timestamp::CONSTANT, 1), text.to_owned()));
        let (labels, marking) = (LabelSet::default(), TlpMarking::Amber);
        let value = ObservableValue::Url("https://evil.example/".to_owned());
        Object::from(Body::Observable(Observable { value, score, description, labels, marking }))
    }

    #[test]
    fn a_part_of_a_list_says_a_part_of_the_whole() {
        let (both, one) = (malware(&["backdoor", "dropper"]), malware(&["dropper"]));
        assert_eq!(both.id, one.id);
        assert!(one.parts.iter().all(|part| both.parts.contains(part)));
        assert!(!both.parts.iter().all(|part| one.parts.contains(part)));
    }

    #[test]
    fn another_score_or_text_of_an_observable_is_another_rating_and_the_same_parts() {
        let content = |score, text| url(score, text).content();
        let one = content(Some(80), Some("Seen."));
        for other in [content(Some(90), Some("Seen.")), content(Some(80), Some("Seen again."))] {
            assert_ne!(other.rating, one.rating);
            assert_eq!(other.parts, one.parts);
        }
        assert_eq!(url(Some(80), Some("Seen.")).without_rating().content(), content(None, None));
        assert_eq!(content(None, None).rating, None);
    }
}
