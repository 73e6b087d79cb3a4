//! What the platform stores: objects under their standard ids, merged whatever id they came with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};

use super::checks::{self, Refusal};
use super::ids;
use super::merge::{has_confidence, merge};
use super::version::Version;

/// The colour of a label that only its value was told of: one of the platform's own choice.
const OWN_COLOR: &str = "auto";

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

/// A reference that was dropped without a word, because what it names was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostReference {
    /// The id of the object that was stored without it.
    pub object: String,
    /// Where it stood, such as `object_refs`.
    pub member: String,
    /// The id that it named.
    pub reference: String,
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
    rights: Rights,
    entities: BTreeMap<String, Entity>,
    /// Any id of a stored object -> its standard id.
    index: HashMap<String, String>,
    pushed_ids: HashSet<String>,
    pushed: u64,
    mismatched: Vec<MismatchedId>,
    rejected: Vec<Rejected>,
    lost: Vec<LostReference>,
}

impl Knowledge {
    pub(super) fn new(version: Version, rights: Rights) -> Self {
        Self {
            version,
            rights,
            entities: BTreeMap::new(),
            index: HashMap::new(),
            pushed_ids: HashSet::new(),
            pushed: 0,
            mismatched: Vec::new(),
            rejected: Vec::new(),
            lost: Vec::new(),
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

    /// Objects that the workers took from the queue, repeats counted.
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

    /// The references that were dropped, repeats counted.
    #[must_use]
    pub fn lost_references(&self) -> &[LostReference] {
        &self.lost
    }

    /// The labels: value and colour, by lower-case value.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, (String, String)> {
        let text = |label: &Entity, name: &str| label.object[name].as_str().unwrap_or_default().to_owned();
        let labels = self.of_type("label").map(|label| (text(label, "value"), text(label, "color")));
        labels.map(|label| (label.0.to_lowercase(), label)).collect()
    }

    /// Imports an object as a worker does that has the queue for itself: what is not there yet will not come while it tries
    /// again.
    pub(super) fn import(&mut self, object: &Value) -> Result<(), Refusal> {
        self.pushed += 1;
        let imported = self.import_object(object);
        if let Err(refusal) = &imported {
            let (name, message) = (refusal.name.to_owned(), refusal.message.clone());
            self.rejected.push(Rejected { name, message, object: object.clone() });
        }
        imported
    }

    fn import_object(&mut self, object: &Value) -> Result<(), Refusal> {
        checks::check(object)?;
        if object["type"] == "relationship" {
            self.check_ends(object)?;
        }
        self.check_markings(object)?;
        let pushed = object["id"].as_str().unwrap_or_default();
        let standard_id = ids::standard_id(object, self.version, |id| self.index.get(id).cloned())
            .ok_or_else(|| Refusal::functional("Element cannot be identified"))?;
        if self.pushed_ids.insert(pushed.to_owned()) && pushed != standard_id {
            self.mismatched.push(MismatchedId {
                kind: object["type"].as_str().unwrap_or_default().to_owned(),
                pushed: pushed.to_owned(),
                standard_id: standard_id.clone(),
            });
        }
        let object = self.as_stored(object);
        self.store(standard_id, pushed, object);
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

    fn check_markings(&self, object: &Value) -> Result<(), Refusal> {
        let Rights { markings, allowed_markings, .. } = &self.rights;
        let forbidden = |id: &String| markings.contains(id) && !allowed_markings.contains(id);
        match strings(&object["object_marking_refs"]).find(forbidden) {
            Some(id) => Err(Refusal::missing_reference(format!("missing markings: {id}"))),
            None => Ok(()),
        }
    }

    /// The object with the labels as they stand there, a confidence that the account may have, and without references to what
    /// is not there.
    fn as_stored(&mut self, object: &Value) -> Value {
        let mut object = object.clone();
        self.drop_lost_references(&mut object);
        let labels: Vec<String> = strings(&object["labels"]).map(|name| self.label(&name, None).0).collect();
        if !labels.is_empty() {
            object["labels"] = json!(labels);
        }
        if has_confidence(&object) {
            let given = object["confidence"].as_i64().unwrap_or(100);
            object["confidence"] = json!(given.min(self.rights.max_confidence));
        }
        object
    }

    fn drop_lost_references(&mut self, object: &mut Value) {
        let (index, markings) = (&self.index, &self.rights.markings);
        let owner = object["id"].as_str().unwrap_or_default().to_owned();
        let mut missing = Vec::new();
        for (member, value) in object.as_object_mut().into_iter().flatten() {
            let mut is_there = |id: &Value| {
                let id = id.as_str().unwrap_or_default().to_owned();
                let is_there =
                    index.contains_key(&id) || (member == "object_marking_refs" && markings.contains(&id));
                if !is_there {
                    missing.push(LostReference {
                        object: owner.clone(),
                        member: member.clone(),
                        reference: id,
                    });
                }
                is_there
            };
            match value {
                Value::Array(list) if member.ends_with("_refs") => list.retain(is_there),
                Value::String(_) if member.ends_with("_ref") && !is_there(value) => *value = Value::Null,
                _ => {}
            }
        }
        self.lost.extend(missing);
    }

    /// Adds a label as the release does; gives value and colour that are stored then.
    pub(super) fn label(&mut self, value: &str, color: Option<&str>) -> (String, String) {
        let keeps = self.version >= Version::KEPT_LABELS;
        let value = if keeps { value.trim().to_owned() } else { value.trim().to_lowercase() };
        let mut label = json!({"type": "label", "value": value});
        let id = ids::standard_id(&label, self.version, |_| None).unwrap_or_default();
        let known = self.entities.contains_key(&id);
        if !known || (color.is_some() && !keeps) {
            label["id"] = json!(id);
            label["color"] = json!(color.unwrap_or(OWN_COLOR));
            self.store(id.clone(), &id, label);
        }
        let text = |name: &str| self.entities[&id].object[name].as_str().unwrap_or_default().to_owned();
        (text("value"), text("color"))
    }

    fn store(&mut self, standard_id: String, pushed: &str, mut object: Value) {
        let mut ids = vec![standard_id.clone(), pushed.to_owned()];
        ids.extend(strings(&object["x_opencti_stix_ids"]));
        match object["type"].as_str() {
            Some("file") => ids.extend(ids::file_ids(&object)),
            Some("malware") => ids.extend(strings(&object["aliases"]).filter_map(|name| {
                ids::standard_id(&json!({"type": "malware", "name": name}), self.version, |_| None)
            })),
            Some("label") if self.version < Version::KEPT_LABELS => {
                object["value"] = json!(object["value"].as_str().unwrap_or_default().trim().to_lowercase());
            }
            _ => {}
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
        } else if merge(&mut entity.object, &object, self.rights.max_confidence, self.version) {
            entity.changes += 1;
        }
    }

    /// Removes an object by any of its ids, with its relationships and all references to it.
    pub(super) fn delete(&mut self, id: &str) -> bool {
        let Some(removed) = self.index.get(id).and_then(|id| self.entities.remove(id)) else { return false };
        let ids: HashSet<String> = self
            .index
            .iter()
            .filter(|(_, of)| **of == removed.standard_id)
            .map(|(id, _)| id.clone())
            .collect();
        self.index.retain(|id, _| !ids.contains(id));
        let is_removed = |id: &Value| id.as_str().is_some_and(|id| ids.contains(id));
        let mut relationships = Vec::new();
        for entity in self.entities.values_mut() {
            let object = &mut entity.object;
            if object["type"] == "relationship"
                && (is_removed(&object["source_ref"]) || is_removed(&object["target_ref"]))
            {
                relationships.push(entity.standard_id.clone());
                continue;
            }
            for (member, value) in object.as_object_mut().into_iter().flatten() {
                match value {
                    Value::Array(list) if member.ends_with("_refs") => list.retain(|id| !is_removed(id)),
                    Value::Array(list) if member == "labels" && removed.object["type"] == "label" => {
                        list.retain(|name| *name != removed.object["value"]);
                    }
                    _ if member.ends_with("_ref") && is_removed(value) => *value = Value::Null,
                    _ => {}
                }
            }
        }
        for id in relationships {
            self.delete(&id);
        }
        true
    }

    pub(super) fn stats(&self) -> Value {
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for rejected in &self.rejected {
            *reasons.entry(format!("{}: {}", rejected.name, rejected.message)).or_default() += 1;
        }
        json!({"objects_pushed": self.pushed, "objects_distinct": self.pushed_ids.len(),
               "objects_stored": self.entities.len(), "changes": self.changes(), "labels": self.labels().len(),
               "mismatched_ids": self.mismatched.len(), "rejected": self.rejected.len(),
               "lost_references": self.lost.len(), "rejected_reasons": reasons, "types": self.counts()})
    }
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opencti::split::split_bundle;

    fn rights() -> Rights {
        let markings: Vec<String> = ids::MARKINGS.iter().map(|(_, id)| (*id).to_owned()).collect();
        Rights { max_confidence: 100, allowed_markings: markings.clone(), markings }
    }

    fn latest() -> Knowledge {
        with(rights())
    }

    fn with(rights: Rights) -> Knowledge {
        Knowledge::new(Version::parse("7.260817.0").unwrap(), rights)
    }

    /// Imports a bundle; gives the names of what was refused.
    fn import(knowledge: &mut Knowledge, objects: &[Value]) -> Vec<&'static str> {
        let objects = split_bundle(objects.to_vec());
        objects
            .iter()
            .filter_map(|object| knowledge.import(object).err())
            .map(|refusal| refusal.name)
            .collect()
    }

    fn kinds() -> Vec<Value> {
        let bundle: Value = serde_json::from_str(include_str!("../../fixtures/kinds-bundle.json")).unwrap();
        bundle["objects"].as_array().unwrap().clone()
    }

    #[test]
    fn a_bundle_that_the_platform_took_is_taken_and_its_repeat_changes_nothing() {
        let mut knowledge = latest();
        assert!(import(&mut knowledge, &kinds()).is_empty());
        assert_eq!(knowledge.mismatched_ids(), []);
        import(&mut knowledge, &kinds());
        assert_eq!((knowledge.changes(), knowledge.lost_references()), (0, [].as_slice()));
        assert_eq!((knowledge.pushed(), knowledge.distinct()), (2 * kinds().len() as u64, kinds().len()));
    }

    #[test]
    fn an_older_platform_has_its_own_ids_for_techniques_only() {
        let mut knowledge = Knowledge::new(Version::parse("6.9.0").unwrap(), rights());
        assert!(import(&mut knowledge, &kinds()).is_empty());
        let kinds: BTreeSet<&str> = knowledge.mismatched_ids().iter().map(|id| id.kind.as_str()).collect();
        assert_eq!(kinds, BTreeSet::from(["attack-pattern", "relationship"]));
    }

    #[test]
    fn an_unknown_marking_is_dropped_without_a_word_and_a_forbidden_one_refused() {
        let object = json!({"type": "url", "id": "url--1", "value": "http://a.test",
            "object_marking_refs": ["marking-definition--unknown"]});
        let mut knowledge = latest();
        assert!(import(&mut knowledge, &[object]).is_empty());
        assert_eq!(knowledge.get("url--1").unwrap().object["object_marking_refs"], json!([]));
        assert_eq!(knowledge.lost_references()[0].member, "object_marking_refs");
        let red = json!({"type": "url", "id": "url--2", "value": "http://b.test", "object_marking_refs": [ids::MARKINGS[4].1]});
        let green = Rights { allowed_markings: vec![ids::MARKINGS[1].1.to_owned()], ..rights() };
        assert_eq!(import(&mut with(green), &[red]), ["MISSING_REFERENCE_ERROR"]);
    }

    #[test]
    fn a_relationship_without_an_end_is_refused_and_the_rest_arrives() {
        let objects = [
            json!({"type": "url", "id": "url--1", "value": "http://a.test"}),
            json!({"type": "relationship", "id": "relationship--1", "relationship_type": "related-to",
                "source_ref": "url--1", "target_ref": "url--absent"}),
        ];
        let mut knowledge = latest();
        assert_eq!(import(&mut knowledge, &objects), ["MISSING_REFERENCE_ERROR"]);
        assert_eq!(knowledge.entities().len(), 1);
        assert_eq!(knowledge.mismatched_ids()[0].pushed, "url--1");
    }

    #[test]
    fn a_report_loses_references_to_what_is_absent_and_finds_what_is_stored() {
        let url =
            |n: u64| json!({"type": "url", "id": format!("url--{n}"), "value": format!("http://{n}.test")});
        let report = json!({"type": "report", "id": "report--1", "name": "r", "published": "2026-01-01T00:00:00Z",
            "object_refs": ["url--1", "url--2"], "created_by_ref": "identity--absent"});
        let mut knowledge = latest();
        import(&mut knowledge, &[url(1)]);
        assert!(import(&mut knowledge, std::slice::from_ref(&report)).is_empty());
        let stored = |knowledge: &Knowledge| knowledge.get("report--1").unwrap().object.clone();
        assert_eq!(stored(&knowledge)["object_refs"], json!(["url--1"]));
        let lost: Vec<&str> = knowledge.lost_references().iter().map(|lost| &*lost.reference).collect();
        assert_eq!(lost, ["identity--absent", "url--2"]);
        import(&mut knowledge, &[url(2), report]);
        assert_eq!(stored(&knowledge)["object_refs"], json!(["url--1", "url--2"]));
    }

    #[test]
    fn a_label_is_kept_as_it_is_and_overwritten_by_6_9_0() {
        let label = |value: &str, color: &str| json!({"type": "label", "id": "label--1", "value": value, "color": color});
        let url = json!({"type": "url", "id": "url--1", "value": "http://a.test", "labels": ["qakbot"]});
        let mut old = Knowledge::new(Version::parse("6.9.0").unwrap(), rights());
        for (mut knowledge, value, color) in
            [(latest(), "QakBot", "#111111"), (old.clone(), "qakbot", "#222222")]
        {
            import(&mut knowledge, &[label("QakBot", "#111111"), url.clone()]);
            import(&mut knowledge, &[label("qakbot", "#222222"), url.clone()]);
            assert_eq!(knowledge.labels()["qakbot"], (value.to_owned(), color.to_owned()));
            assert_eq!(knowledge.get("url--1").unwrap().object["labels"], json!([value]));
        }
        import(&mut old, &[url]);
        assert_eq!(old.labels()["qakbot"].1, OWN_COLOR, "made for an object that names it");
    }

    #[test]
    fn what_is_deleted_takes_its_relationships_and_references_along() {
        let mut knowledge = latest();
        import(&mut knowledge, &kinds());
        let malware = knowledge.of_type("malware").next().unwrap().standard_id.clone();
        let names = |knowledge: &Knowledge| {
            let named = |entity: &&Entity| entity.object.to_string().contains(&malware);
            knowledge.entities().values().filter(named).count()
        };
        assert!(names(&knowledge) > 2);
        assert!(knowledge.delete(&malware));
        assert_eq!(names(&knowledge), 0);
        assert!(!knowledge.delete(&malware));
        import(&mut knowledge, &kinds());
        assert!(names(&knowledge) > 2, "and comes back");
    }

    #[test]
    fn a_family_is_found_by_an_alias() {
        let objects = [
            json!({"type": "malware", "id": "malware--1", "name": "QakBot", "aliases": ["Qbot"]}),
            json!({"type": "malware", "id": "malware--2", "name": "qbot"}),
        ];
        let mut knowledge = latest();
        import(&mut knowledge, &objects);
        assert_eq!(knowledge.entities().len(), 1);
    }

    #[test]
    fn files_with_a_common_hash_are_one() {
        let hashes = crate::estate::Hashes::of("a");
        let objects = [
            json!({"type": "file", "id": "file--1", "hashes": {"MD5": hashes.md5, "SHA-256": hashes.sha256}}),
            json!({"type": "file", "id": "file--2", "hashes": {"SHA-256": hashes.sha256}, "name": "a.exe"}),
        ];
        let mut knowledge = latest();
        import(&mut knowledge, &objects);
        assert_eq!(knowledge.entities().len(), 1);
        assert_eq!(knowledge.get("file--1").unwrap().object["name"], "a.exe");
    }
}
