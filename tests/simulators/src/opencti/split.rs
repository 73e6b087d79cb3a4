//! How a bundle becomes messages of one object each: the rules of the splitter that platform and workers share.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// Kinds of ids that the splitter follows; references to others are dropped.
const KINDS: [&str; 36] = [
    "artifact",
    "attack-pattern",
    "autonomous-system",
    "campaign",
    "course-of-action",
    "directory",
    "domain-name",
    "email-addr",
    "email-message",
    "file",
    "grouping",
    "identity",
    "incident",
    "indicator",
    "infrastructure",
    "intrusion-set",
    "ipv4-addr",
    "ipv6-addr",
    "label",
    "location",
    "malware",
    "malware-analysis",
    "marking-definition",
    "mutex",
    "network-traffic",
    "note",
    "observed-data",
    "opinion",
    "process",
    "relationship",
    "report",
    "sighting",
    "threat-actor",
    "tool",
    "url",
    "windows-registry-key",
];

/// The objects of a bundle in the order in which workers get them: what others depend on first. Of equal ids the last stands;
/// relationships that lose an end to a circle are left out.
pub(super) fn split_bundle(objects: Vec<Value>) -> Vec<Value> {
    let mut splitter = Splitter::new(objects);
    for at in 0..splitter.objects.len() {
        splitter.enlist(at, &mut Vec::new());
    }
    splitter.in_order()
}

struct Splitter {
    objects: Vec<Value>,
    by_id: HashMap<String, usize>,
    /// How many objects each one needs, itself included; known once it was looked at.
    weights: Vec<Option<usize>>,
    followed: Vec<HashSet<String>>,
    order: Vec<usize>,
}

impl Splitter {
    fn new(given: Vec<Value>) -> Self {
        let (mut objects, mut by_id) = (Vec::new(), HashMap::new());
        for object in given {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            let at = *by_id.entry(id).or_insert(objects.len());
            if at == objects.len() {
                objects.push(object);
            } else {
                objects[at] = object;
            }
        }
        let (weights, followed) = (vec![None; objects.len()], vec![HashSet::new(); objects.len()]);
        Self { objects, by_id, weights, followed, order: Vec::new() }
    }

    fn enlist(&mut self, at: usize, parents: &mut Vec<String>) -> usize {
        if let Some(weight) = self.weights[at] {
            return weight;
        }
        let names = self.objects[at].as_object().into_iter().flat_map(|members| members.keys().cloned());
        let mut weight = 1;
        for name in names.collect::<Vec<_>>() {
            match self.objects[at][&name].clone() {
                Value::Array(list) if name.ends_with("_refs") => {
                    let (kept, more) = self.follow_all(at, list, parents);
                    weight += more;
                    self.objects[at][&name] = Value::Array(kept);
                }
                reference if name.ends_with("_ref") => match self.follow(at, &reference, parents) {
                    Some(more) => weight += more,
                    None => self.objects[at][&name] = Value::Null,
                },
                Value::Array(mut list) if name == "external_references" => {
                    list.retain(is_identified);
                    self.objects[at][&name] = Value::Array(list);
                }
                _ => {}
            }
        }
        if self.weights[at].replace(weight).is_none() && is_compatible(&self.objects[at]) {
            self.order.push(at);
        }
        weight
    }

    /// The references that are kept, each once, and how much all of them weigh.
    fn follow_all(
        &mut self,
        at: usize,
        references: Vec<Value>,
        parents: &mut Vec<String>,
    ) -> (Vec<Value>, usize) {
        let (mut kept, mut seen, mut weight) = (Vec::new(), HashSet::new(), 0);
        for reference in references {
            let Some(more) = self.follow(at, &reference, parents) else { continue };
            weight += more;
            if seen.insert(reference.clone()) {
                kept.push(reference);
            }
        }
        (kept, weight)
    }

    /// How much a reference weighs; `None` when it is dropped: to itself, back to what refers here, or of an unknown kind.
    fn follow(&mut self, at: usize, reference: &Value, parents: &mut Vec<String>) -> Option<usize> {
        let id = reference.as_str()?;
        let known = id.split_once("--").is_none_or(|(kind, _)| KINDS.contains(&kind));
        let own = self.objects[at]["id"].as_str().unwrap_or_default();
        let target = self.by_id.get(id).copied();
        let refers_back = target.is_some_and(|target| self.followed[target].contains(own));
        if !known || own == id || refers_back || parents.iter().any(|parent| parent == id) {
            return None;
        }
        self.followed[at].insert(id.to_owned());
        let Some(target) = target else { return Some(0) };
        parents.push(id.to_owned());
        let weight = self.enlist(target, parents);
        parents.pop();
        Some(weight)
    }

    fn in_order(mut self) -> Vec<Value> {
        self.order.sort_by_key(|at| self.weights[*at]);
        self.order.iter().map(|at| self.objects[*at].take()).collect()
    }
}

fn is_compatible(object: &Value) -> bool {
    object["type"] != "relationship" || !(object["source_ref"].is_null() || object["target_ref"].is_null())
}

fn is_identified(reference: &Value) -> bool {
    let has = |name: &str| reference[name].as_str().is_some_and(|text| !text.is_empty());
    has("url") || (has("source_name") && has("external_id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order(objects: &[Value]) -> Vec<String> {
        split_bundle(objects.to_vec())
            .iter()
            .map(|object| object["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn link(id: &str, source: &str, target: &str) -> Value {
        json!({"type": "relationship", "id": id, "source_ref": source, "target_ref": target})
    }

    #[test]
    fn what_others_depend_on_comes_first() {
        let objects = [
            json!({"type": "report", "id": "report--1", "object_refs": ["url--1", "relationship--1"]}),
            link("relationship--1", "indicator--1", "url--1"),
            json!({"type": "indicator", "id": "indicator--1", "created_by_ref": "identity--1"}),
            json!({"type": "url", "id": "url--1"}),
            json!({"type": "identity", "id": "identity--1"}),
        ];
        assert_eq!(
            order(&objects),
            ["url--1", "identity--1", "indicator--1", "relationship--1", "report--1"]
        );
    }

    #[test]
    fn of_equal_ids_the_last_stands() {
        let url = |value: &str| json!({"type": "url", "id": "url--1", "value": value});
        assert_eq!(split_bundle(vec![url("a"), url("b")]), [url("b")]);
    }

    #[test]
    fn a_relationship_in_a_circle_with_its_report_is_left_out() {
        let report = json!({"type": "report", "id": "report--1", "object_refs": ["relationship--1"]});
        let objects = [report, link("relationship--1", "report--1", "url--1")];
        assert_eq!(order(&objects), ["report--1"]);
    }

    #[test]
    fn references_to_what_the_platform_does_not_know_are_dropped() {
        let references = json!([{"source_name": "x"}, {"url": "https://a.test"}]);
        let report = json!({"type": "report", "id": "report--1", "object_refs": ["x-own--1", "url--9"],
            "external_references": references});
        let split = split_bundle(vec![report]);
        assert_eq!(split[0]["object_refs"], json!(["url--9"]));
        assert_eq!(split[0]["external_references"], json!([{"url": "https://a.test"}]));
    }
}
