//! What a later import changes of what is stored, by the platform's rules for upserts.

use serde_json::{Map, Value, json};

use super::ids::MARKINGS;
use super::version::Version;

/// Never changed by a later import.
const FIXED: [&str; 5] = ["id", "type", "created", "modified", "spec_version"];
/// What says how long an indicator counts.
const LIFE: [&str; 4] = ["valid_from", "valid_until", "x_opencti_score", "revoked"];
/// The score of an indicator that comes without one.
const USUAL_SCORE: i64 = 50;

/// Observables, labels and markings have none.
pub(super) fn has_confidence(object: &Value) -> bool {
    let kinds = [
        "identity",
        "malware",
        "attack-pattern",
        "location",
        "indicator",
        "report",
        "malware-analysis",
        "relationship",
    ];
    object["type"].as_str().is_some_and(|kind| kinds.contains(&kind))
}

/// Puts a later import into what is stored; tells whether that changed anything. What is without a confidence has `highest`.
pub(super) fn merge(stored: &mut Value, new: &Value, highest: i64, version: Version) -> bool {
    let before = stored.clone();
    let confidence = |object: &Value| object["confidence"].as_i64().unwrap_or(highest);
    let sure = confidence(new) >= confidence(&before);
    let surer = confidence(new) > confidence(&before);
    let adds = sure || version >= Version::ADDS_WHATEVER_THE_CONFIDENCE;
    let rated = has_confidence(new);
    // An existing label is left as it is.
    if new["type"] == "label" && version >= Version::KEPT_LABELS {
        return false;
    }
    let revives = new["type"] != "indicator" || is_newer_and_not_lower(new, &before);
    let (Some(into), Some(from)) = (stored.as_object_mut(), new.as_object()) else { return false };
    for (name, value) in from {
        let name = name.as_str();
        if FIXED.contains(&name) || is_empty(value) {
            continue;
        }
        let empty = into.get(name).is_none_or(is_empty);
        match (name, value) {
            ("object_marking_refs", Value::Array(new)) => mark(into, new),
            ("labels" | "external_references", Value::Array(new)) if adds => unite(into, name, new),
            ("created_by_ref", _) if empty || !rated || surer => {
                into.insert(name.to_owned(), value.clone());
            }
            ("labels" | "external_references" | "created_by_ref", _) => {}
            (_, Value::Array(new)) if sure || name.ends_with("_refs") => unite(into, name, new),
            _ if empty || (sure && (revives || !LIFE.contains(&name))) => {
                into.insert(name.to_owned(), value.clone());
            }
            _ => {}
        }
    }
    *stored != before
}

/// Only such an indicator counts longer, or comes back to life.
fn is_newer_and_not_lower(new: &Value, stored: &Value) -> bool {
    let from = |object: &Value| chrono::DateTime::parse_from_rfc3339(object["valid_from"].as_str()?).ok();
    let score = |object: &Value| object["x_opencti_score"].as_i64().unwrap_or(USUAL_SCORE);
    from(new) > from(stored) && score(new) >= score(stored)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn list<'a>(into: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    into.entry(name).or_insert_with(|| json!([])).as_array_mut()
}

/// Lists only grow.
fn unite(into: &mut Map<String, Value>, name: &str, new: &[Value]) {
    let Some(list) = list(into, name) else { return };
    let known: std::collections::HashSet<Value> = list.iter().cloned().collect();
    list.extend(new.iter().filter(|item| !known.contains(item)).cloned());
}

/// Of one kind of marking, the higher stands.
fn mark(into: &mut Map<String, Value>, new: &[Value]) {
    let Some(list) = list(into, "object_marking_refs") else { return };
    for marking in new {
        match list.iter().position(|stored| kind(stored).is_some() && kind(stored) == kind(marking)) {
            Some(at) if level(marking) > level(&list[at]) => list[at].clone_from(marking),
            Some(_) => {}
            None if list.contains(marking) => {}
            None => list.push(marking.clone()),
        }
    }
}

/// The markings stand from the lowest to the highest.
fn level(marking: &Value) -> Option<usize> {
    MARKINGS.iter().position(|(_, id)| marking == id)
}

/// `TLP` or `PAP`.
fn kind(marking: &Value) -> Option<&'static str> {
    MARKINGS[level(marking)?].0.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(stored: &Value, new: &Value, version: &str) -> Value {
        let mut merged = stored.clone();
        merge(&mut merged, new, 100, Version::parse(version).unwrap());
        merged
    }

    fn latest(stored: &Value, new: &Value) -> Value {
        merged(stored, new, "7.260817.0")
    }

    #[test]
    fn lists_unite_and_a_later_part_of_them_changes_nothing() {
        let malware = |kinds: &[&str]| json!({"type": "malware", "malware_types": kinds});
        let both = malware(&["dropper", "backdoor"]);
        assert_eq!(latest(&malware(&["dropper"]), &malware(&["backdoor"])), both);
        assert!(!merge(&mut both.clone(), &malware(&["backdoor"]), 100, Version::SPLIT_AT_PUSH));
    }

    #[test]
    fn an_observable_says_what_was_written_last() {
        let url = |score: u64, text: &str| json!({"type": "url", "x_opencti_score": score, "x_opencti_description": text});
        assert_eq!(latest(&url(90, "new"), &url(10, "old")), url(10, "old"));
    }

    #[test]
    fn an_indicator_counts_longer_only_by_a_newer_date_and_no_lower_score() {
        let indicator = |day: &str, score: u64| json!({"type": "indicator", "valid_from": format!("2026-01-{day}T00:00:00Z"), "x_opencti_score": score});
        let stored = indicator("10", 80);
        for (day, score) in [("10", 90), ("09", 90), ("11", 70)] {
            assert_eq!(latest(&stored, &indicator(day, score)), stored, "{day} {score}");
        }
        assert_eq!(latest(&stored, &indicator("11", 80)), indicator("11", 80));
    }

    #[test]
    fn what_is_less_sure_fills_in_and_overwrites_nothing() {
        let stored = json!({"type": "malware", "name": "a", "confidence": 80, "labels": ["x"]});
        let new =
            json!({"type": "malware", "name": "b", "description": "c", "confidence": 20, "labels": ["y"]});
        let filled = |labels: &[&str]| json!({"type": "malware", "name": "a", "description": "c", "confidence": 80, "labels": labels});
        assert_eq!(latest(&stored, &new), filled(&["x", "y"]));
        assert_eq!(merged(&stored, &new, "6.9.0"), filled(&["x"]));
    }

    #[test]
    fn an_author_is_replaced_by_a_surer_one_and_always_on_an_observable() {
        let by = |kind: &str, author: &str, confidence: u64| json!({"type": kind, "created_by_ref": author, "confidence": confidence});
        assert_eq!(latest(&by("report", "a", 50), &by("report", "b", 50))["created_by_ref"], "a");
        assert_eq!(latest(&by("report", "a", 50), &by("report", "b", 51))["created_by_ref"], "b");
        assert_eq!(
            latest(
                &json!({"type": "url", "created_by_ref": "a"}),
                &json!({"type": "url", "created_by_ref": "b"})
            ),
            json!({"type": "url", "created_by_ref": "b"})
        );
    }

    #[test]
    fn a_higher_tlp_replaces_a_lower_one_whatever_the_confidence() {
        let marked = |markings: &[&str], confidence: u64| json!({"type": "report", "object_marking_refs": markings, "confidence": confidence});
        let (green, amber, pap) = (MARKINGS[1].1, MARKINGS[2].1, MARKINGS[6].1);
        assert_eq!(latest(&marked(&[green], 90), &marked(&[amber], 10)), marked(&[amber], 90));
        assert_eq!(latest(&marked(&[amber], 90), &marked(&[green], 90)), marked(&[amber], 90));
        assert_eq!(latest(&marked(&[amber], 90), &marked(&[pap], 90)), marked(&[amber, pap], 90));
    }
}
