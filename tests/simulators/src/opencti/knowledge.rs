//! What the platform stores: objects under their standard ids, merged whatever id they came with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::checks::{self, Refusal};
use super::ids;
use super::version::Version;

/// A stored object.
#[derive(Clone, Debug)]
pub struct Entity {
    /// The platform's id.
    pub standard_id: String,
    /// The object as it stands after all merging; `id` is as it was first pushed.
    pub object: Value,
    /// Other ids that it came under.
    pub other_ids: BTreeSet<String>,
    /// How often it was imported.
    pub imports: u64,
    /// How often an import changed it, the first not counted.
    pub changes: u64,
}

/// An object that was pushed under another id than the platform computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MismatchedId {
    /// The object's type.
    pub kind: String,
    /// The id that was pushed.
    pub pushed: String,
    /// The platform's.
    pub standard_id: String,
}

/// An object that was refused.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// The error's name, such as `FUNCTIONAL_ERROR`.
    pub name: String,
    /// The error's message.
    pub message: String,
    /// The object.
    pub object: Value,
}

/// How an account may import.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub(super) max_confidence: i64,
    /// Ids of the markings that exist.
    pub(super) markings: Vec<String>,
    /// Ids of those that the account may use.
    pub(super) allowed_markings: Vec<String>,
}

/// The platform's store.
#[derive(Clone, Debug)]
pub struct Knowledge {
    version: Version,
    entities: BTreeMap<String, Entity>,
    /// Any id of a stored object -> its standard id.
    index: HashMap<String, String>,
    /// Labels by lower-case value: value and colour.
    labels: BTreeMap<String, (String, String)>,
    pushed_ids: HashSet<String>,
    pushed: u64,
    mismatched: Vec<MismatchedId>,
    rejected: Vec<Rejected>,
}

impl Knowledge {
    pub(super) fn new(version: Version) -> Self {
        Self {
            version,
            entities: BTreeMap::new(),
            index: HashMap::new(),
            labels: BTreeMap::new(),
            pushed_ids: HashSet::new(),
            pushed: 0,
            mismatched: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// All stored objects, by standard id.
    #[must_use]
    pub fn entities(&self) -> &BTreeMap<String, Entity> {
        &self.entities
    }

    /// A stored object by any of its ids.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Entity> {
        self.entities.get(self.index.get(id)?)
    }

    /// The stored objects of a type.
    pub fn of_type<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Entity> {
        self.entities.values().filter(move |entity| entity.object["type"] == kind)
    }

    /// How many objects of each type are stored.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for entity in self.entities.values() {
            *counts.entry(entity.object["type"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Objects pushed, repeats counted.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Different ids among them.
    #[must_use]
    pub fn distinct(&self) -> usize {
        self.pushed_ids.len()
    }

    /// How many imports changed something that was stored before.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.entities.values().map(|entity| entity.changes).sum()
    }

    /// The objects pushed under an id that is not the platform's, once per id.
    #[must_use]
    pub fn mismatched_ids(&self) -> &[MismatchedId] {
        &self.mismatched
    }

    /// The objects that were refused, repeats counted.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// The labels: value and colour, by lower-case value.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, (String, String)> {
        &self.labels
    }

    /// Imports a bundle as the workers do: the last of equal ids, what others depend on first. Returns how many objects that
    /// were, and what was refused.
    pub(super) fn import(&mut self, objects: &[Value], rights: &Rights) -> (usize, Vec<(Refusal, Value)>) {
        self.pushed += objects.len() as u64;
        let objects = split(objects);
        let mut refused = Vec::new();
        let mut open = objects.clone();
        // A relationship may end at another relationship or a report: what misses an end is tried again while others arrive.
        loop {
            let before = open.len();
            let mut missing = Vec::new();
            for object in open {
                match self.import_object(object, rights) {
                    Ok(()) => {}
                    Err(refusal) if refusal.name == "MISSING_REFERENCE_ERROR" => {
                        missing.push((refusal, object));
                    }
                    Err(refusal) => refused.push((refusal, object.clone())),
                }
            }
            if missing.is_empty() || missing.len() == before {
                refused.extend(missing.into_iter().map(|(refusal, object)| (refusal, object.clone())));
                break;
            }
            open = missing.into_iter().map(|(_, object)| object).collect();
        }
        for (refusal, object) in &refused {
            let (name, message) = (refusal.name.to_owned(), refusal.message.clone());
            self.rejected.push(Rejected { name, message, object: object.clone() });
        }
        (objects.len(), refused)
    }

    fn import_object(&mut self, object: &Value, rights: &Rights) -> Result<(), Refusal> {
        checks::check(object)?;
        if object["type"] == "relationship" {
            self.check_ends(object)?;
        }
        let pushed = object["id"].as_str().unwrap_or_default();
        let standard_id = ids::standard_id(object, self.version, |id| self.index.get(id).cloned())
            .ok_or_else(|| Refusal::functional("Element cannot be identified"))?;
        let object = self.as_stored(object, rights)?;
        if self.pushed_ids.insert(pushed.to_owned()) && pushed != standard_id {
            self.mismatched.push(MismatchedId {
                kind: object["type"].as_str().unwrap_or_default().to_owned(),
                pushed: pushed.to_owned(),
                standard_id: standard_id.clone(),
            });
        }
        self.label_object(&object);
        self.store(standard_id, pushed, object, rights);
        Ok(())
    }

    fn check_ends(&self, relationship: &Value) -> Result<(), Refusal> {
        let end = |name: &str| {
            let id = relationship[name].as_str().unwrap_or_default();
            self.get(id).ok_or_else(|| Refusal::missing_reference("Element(s) not found"))
        };
        let (source, target) = (end("source_ref")?, end("target_ref")?);
        let relation = relationship["relationship_type"].as_str().unwrap_or_default();
        let (from, to) = (&source.object["type"], &target.object["type"]);
        let (from, to) = (from.as_str().unwrap_or_default(), to.as_str().unwrap_or_default());
        if checks::is_allowed(relation, from, to) {
            return Ok(());
        }
        Err(Refusal::functional(format!(
            "The relationship type {relation} is not allowed between {from} and {to}"
        )))
    }

    /// The object without references to what is not there: those are dropped without a word.
    fn as_stored(&self, object: &Value, rights: &Rights) -> Result<Value, Refusal> {
        let mut object = object.clone();
        if let Some(list) = object.get_mut("object_marking_refs").and_then(Value::as_array_mut) {
            let id = |marking: &Value| marking.as_str().unwrap_or_default().to_owned();
            let known =
                |marking: &Value| rights.markings.contains(&id(marking)) || self.get(&id(marking)).is_some();
            list.retain(known);
            let forbidden = |marking: &&Value| {
                rights.markings.contains(&id(marking)) && !rights.allowed_markings.contains(&id(marking))
            };
            if let Some(marking) = list.iter().find(forbidden) {
                return Err(Refusal::missing_reference(format!("missing markings: {marking}")));
            }
        }
        if let Some(list) = object.get_mut("object_refs").and_then(Value::as_array_mut) {
            list.retain(|id| id.as_str().is_some_and(|id| self.index.contains_key(id)));
        }
        if object["created_by_ref"].as_str().is_some_and(|id| !self.index.contains_key(id)) {
            object["created_by_ref"] = Value::Null;
        }
        if has_confidence(&object) {
            let given = object["confidence"].as_i64().unwrap_or(100);
            object["confidence"] = json!(given.min(rights.max_confidence));
        }
        Ok(object)
    }

    /// Keeps the label, or creates those that an object names.
    fn label_object(&mut self, object: &Value) {
        if object["type"] == "label" {
            let value = object["value"].as_str().unwrap_or_default();
            self.add_label(value, object["color"].as_str().unwrap_or("#000000"));
        }
        for name in object["labels"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // A colour of the platform's own choice.
            self.add_label(name, "auto");
        }
    }

    /// Adds a label as the release does; gives what is stored then.
    pub(super) fn add_label(&mut self, value: &str, color: &str) -> (String, String) {
        let key = value.trim().to_lowercase();
        let keeps = self.version >= Version::KEPT_LABELS;
        let shown = if keeps { value.trim().to_owned() } else { key.clone() };
        let label = self.labels.entry(key).or_insert_with(|| (shown, color.to_owned()));
        if !keeps && color != "auto" {
            color.clone_into(&mut label.1);
        }
        label.clone()
    }

    fn store(&mut self, standard_id: String, pushed: &str, object: Value, rights: &Rights) {
        let mut ids = vec![standard_id.clone(), pushed.to_owned()];
        ids.extend(strings(&object["x_opencti_stix_ids"]));
        if object["type"] == "file" {
            ids.extend(ids::file_ids(&object));
        }
        // Any id finds it: a file under another hash, an indicator under an older id.
        let found = ids.iter().find_map(|id| self.index.get(id)).cloned().unwrap_or(standard_id);
        for id in &ids {
            self.index.insert(id.clone(), found.clone());
        }
        let entity = self.entities.entry(found.clone()).or_insert_with(|| Entity {
            standard_id: found.clone(),
            object: Value::Null,
            other_ids: BTreeSet::new(),
            imports: 0,
            changes: 0,
        });
        entity.imports += 1;
        entity.other_ids.extend(ids.into_iter().filter(|id| *id != found));
        if entity.object.is_null() {
            entity.object = object;
        } else if merge(&mut entity.object, &object, rights) {
            entity.changes += 1;
        }
    }

    pub(super) fn stats(&self) -> Value {
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for rejected in &self.rejected {
            *reasons.entry(format!("{}: {}", rejected.name, rejected.message)).or_default() += 1;
        }
        json!({"objects_pushed": self.pushed, "objects_distinct": self.pushed_ids.len(),
               "objects_stored": self.entities.len(), "changes": self.changes(), "labels": self.labels.len(),
               "mismatched_ids": self.mismatched.len(), "rejected": self.rejected.len(),
               "rejected_reasons": reasons, "types": self.counts()})
    }
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned))
}

/// Observables, labels and markings have none.
fn has_confidence(object: &Value) -> bool {
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

/// How many objects a bundle is split into.
pub(super) fn distinct(objects: &[Value]) -> usize {
    objects.iter().map(|object| &object["id"]).collect::<HashSet<_>>().len()
}

/// The splitter: of equal ids the last, in an order in which references are there before they are needed.
fn split(objects: &[Value]) -> Vec<&Value> {
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (at, object) in objects.iter().enumerate() {
        last.insert(object["id"].as_str().unwrap_or_default(), at);
    }
    let rank = |object: &Value| match object["type"].as_str().unwrap_or_default() {
        "label" | "marking-definition" => 0,
        "identity" => 1,
        "relationship" => 4,
        "report" => 5,
        _ if has_confidence(object) => 3,
        _ => 2,
    };
    let kept = objects
        .iter()
        .enumerate()
        .filter(|(at, object)| last[object["id"].as_str().unwrap_or_default()] == *at);
    let mut kept: Vec<&Value> = kept.map(|(_, object)| object).collect();
    kept.sort_by_key(|object| rank(object));
    kept
}

const UNITED: [&str; 6] = [
    "labels",
    "object_refs",
    "object_marking_refs",
    "external_references",
    "kill_chain_phases",
    "x_opencti_additional_names",
];
/// Never changed by a later import.
const FIXED: [&str; 5] = ["id", "type", "created", "modified", "spec_version"];

/// Puts a later import into what is stored; tells whether that changed anything.
fn merge(stored: &mut Value, new: &Value, rights: &Rights) -> bool {
    let before = stored.clone();
    let sure = confidence(new, rights) >= confidence(stored, rights);
    let surer = confidence(new, rights) > confidence(stored, rights);
    let rated = has_confidence(new);
    let (Some(into), Some(from)) = (stored.as_object_mut(), new.as_object()) else { return false };
    for (name, value) in from {
        let name = name.as_str();
        if FIXED.contains(&name) || is_empty(value) {
            continue;
        }
        let empty = into.get(name).is_none_or(is_empty);
        if UNITED.contains(&name) {
            unite(into, name, value);
        } else if name == "created_by_ref" {
            if empty || !rated || surer {
                into.insert(name.to_owned(), value.clone());
            }
        } else if empty || sure {
            into.insert(name.to_owned(), value.clone());
        }
    }
    *stored != before
}

fn confidence(object: &Value, rights: &Rights) -> i64 {
    object["confidence"].as_i64().unwrap_or(rights.max_confidence)
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

/// Lists of references only grow.
fn unite(into: &mut Map<String, Value>, name: &str, new: &Value) {
    let list = into.entry(name).or_insert_with(|| json!([]));
    if let (Some(list), Some(new)) = (list.as_array_mut(), new.as_array()) {
        for item in new {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        let markings: Vec<String> = ids::MARKINGS.iter().map(|(_, id)| (*id).to_owned()).collect();
        Rights { max_confidence: 100, allowed_markings: markings.clone(), markings }
    }

    fn latest() -> Knowledge {
        Knowledge::new(Version::parse("7.260817.0").unwrap())
    }

    fn kinds() -> Vec<Value> {
        let bundle: Value = serde_json::from_str(include_str!("../../fixtures/kinds-bundle.json")).unwrap();
        bundle["objects"].as_array().unwrap().clone()
    }

    #[test]
    fn a_bundle_that_the_platform_took_is_taken_and_its_repeat_changes_nothing() {
        let mut knowledge = latest();
        let (count, refused) = knowledge.import(&kinds(), &rights());
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(count, kinds().len());
        assert_eq!(knowledge.mismatched_ids(), []);
        knowledge.import(&kinds(), &rights());
        assert_eq!(knowledge.changes(), 0);
        assert_eq!((knowledge.pushed(), knowledge.distinct()), (2 * count as u64, count));
    }

    #[test]
    fn an_older_platform_has_its_own_ids_for_techniques_only() {
        let mut knowledge = Knowledge::new(Version::parse("6.9.0").unwrap());
        assert!(knowledge.import(&kinds(), &rights()).1.is_empty());
        let kinds: BTreeSet<&str> = knowledge.mismatched_ids().iter().map(|id| id.kind.as_str()).collect();
        assert_eq!(kinds, BTreeSet::from(["attack-pattern", "relationship"]));
    }

    #[test]
    fn an_unknown_marking_is_dropped_without_a_word_and_a_forbidden_one_refused() {
        let object = json!({"type": "url", "id": "url--1", "value": "http://a.test",
            "object_marking_refs": ["marking-definition--unknown"]});
        let mut knowledge = latest();
        assert!(knowledge.import(&[object], &rights()).1.is_empty());
        assert_eq!(knowledge.get("url--1").unwrap().object["object_marking_refs"], json!([]));
        let red = json!({"type": "url", "id": "url--2", "value": "http://b.test", "object_marking_refs": [ids::MARKINGS[4].1]});
        let green = Rights { allowed_markings: vec![ids::MARKINGS[1].1.to_owned()], ..rights() };
        assert_eq!(knowledge.import(&[red], &green).1.len(), 1);
    }

    #[test]
    fn a_relationship_without_an_end_is_refused_and_the_rest_arrives() {
        let objects = [
            json!({"type": "url", "id": "url--1", "value": "http://a.test"}),
            json!({"type": "relationship", "id": "relationship--1", "relationship_type": "related-to",
                "source_ref": "url--1", "target_ref": "url--absent"}),
        ];
        let mut knowledge = latest();
        let refused = knowledge.import(&objects, &rights()).1;
        assert_eq!(refused[0].0.name, "MISSING_REFERENCE_ERROR");
        assert_eq!(knowledge.entities().len(), 1);
        assert_eq!(knowledge.mismatched_ids()[0].pushed, "url--1");
    }

    #[test]
    fn files_with_a_common_hash_are_one() {
        let hashes = crate::estate::Hashes::of("a");
        let objects = [
            json!({"type": "file", "id": "file--1", "hashes": {"MD5": hashes.md5, "SHA-256": hashes.sha256}}),
            json!({"type": "file", "id": "file--2", "hashes": {"SHA-256": hashes.sha256}, "name": "a.exe"}),
        ];
        let mut knowledge = latest();
        knowledge.import(&objects, &rights());
        assert_eq!(knowledge.entities().len(), 1);
        assert_eq!(knowledge.get("file--1").unwrap().object["name"], "a.exe");
    }
}
