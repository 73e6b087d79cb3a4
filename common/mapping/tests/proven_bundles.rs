//! Two bundles that OpenCTI imported without an error, each object under the id that we give it, against what is mapped
//! from VMRay's answers. Every difference is named here, with its reason.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

type Objects = BTreeMap<String, Map<String, Value>>;

fn by_id(objects: &[Value]) -> Objects {
    let entry =
        |object: &Value| (object["id"].as_str().unwrap().to_owned(), object.as_object().unwrap().clone());
    objects.iter().map(entry).collect()
}

fn proven(json: &str) -> Objects {
    let bundle: Value = serde_json::from_str(json).unwrap();
    by_id(bundle["objects"].as_array().unwrap())
}

/// What identifies an object for people.
fn shown(id: &str, objects: &Objects) -> String {
    let object = &objects[id];
    let end = |name: &str| shown(object[name].as_str().unwrap(), objects);
    if object["type"] == "relationship" {
        return format!(
            "{} {} {}",
            end("source_ref"),
            object["relationship_type"].as_str().unwrap(),
            end("target_ref")
        );
    }
    let name =
        ["name", "value", "key", "command_line", "result_name"].iter().find_map(|name| object.get(*name));
    let name: String = name.and_then(Value::as_str).unwrap_or("?").chars().take(24).collect();
    format!("{}:{name}", object["type"].as_str().unwrap())
}

fn missing_in(these: &Objects, others: &Objects) -> Vec<String> {
    let mut missing: Vec<_> =
        these.keys().filter(|id| !others.contains_key(*id)).map(|id| shown(id, these)).collect();
    missing.sort();
    missing
}

/// Lists in no particular order are compared as sets; references that only one side has are named elsewhere.
fn comparable(name: &str, value: &Value, common: &BTreeSet<&String>) -> Value {
    let Some(list) = value.as_array() else { return value.clone() };
    let refs = matches!(name, "object_refs" | "analysis_sco_refs");
    let mut list: Vec<String> = list
        .iter()
        .filter(|item| !refs || common.iter().any(|id| item.as_str() == Some(id)))
        .map(Value::to_string)
        .collect();
    list.sort();
    Value::from(list)
}

/// Differences as `type.member`, each once.
fn differences(ours: &Objects, theirs: &Objects) -> BTreeSet<String> {
    let common: BTreeSet<&String> = ours.keys().filter(|id| theirs.contains_key(*id)).collect();
    let mut differences = BTreeSet::new();
    for id in &common {
        let (mine, other) = (&ours[*id], &theirs[*id]);
        for member in mine.keys().chain(other.keys()) {
            let of = |object: &Map<String, Value>| {
                object.get(member).map(|value| comparable(member, value, &common))
            };
            if of(mine) != of(other) {
                differences.insert(format!("{}.{member}", mine["type"].as_str().unwrap()));
            }
        }
    }
    differences
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// The text before the bar of each line; what follows is the reason.
fn members(with_reasons: &[&str]) -> BTreeSet<String> {
    with_reasons.iter().map(|line| line.split('|').next().unwrap().trim().to_owned()).collect()
}

#[test]
fn the_sample_that_has_everything_becomes_the_proven_bundle() {
    let theirs = proven(include_str!("fixtures/kinds-bundle.json"));
    let ours = by_id(&support::objects(&support::kinds()));
    // The original of a URL is a URL; a bare domain among them is not VMRay's.
    let url_to_domain = "url:http://EVIL.example.com: related-to domain-name:orig_under.example.org";
    assert_eq!(missing_in(&theirs, &ours), texts(&[url_to_domain]));
    // The sample's own indicator points to its family, as all others do.
    let own_family = "indicator:ca978112ca1bbdcafac231b3 indicates malware:QakBot";
    assert_eq!(missing_in(&ours, &theirs), texts(&[own_family]));
    let intended = members(&[
        "attack-pattern.kill_chain_phases | the true order of the tactics",
        "domain-name.x_opencti_description | texts",
        "email-addr.x_opencti_description | texts",
        "file.name | the base name of what is a path",
        "file.x_opencti_additional_names | base names",
        "file.x_opencti_description | texts",
        "indicator.description | texts",
        "indicator.kill_chain_phases | all phases of its analyses, with their order",
        "indicator.name | a tab becomes a space too",
        "ipv4-addr.x_opencti_description | texts",
        "ipv6-addr.x_opencti_description | texts",
        "label.color | a setting",
        "malware-analysis.analysis_sco_refs | all observables, not a choice",
        "malware-analysis.analysis_started | VMRay says when it was submitted, not when it was started",
        "malware-analysis.created | when it was submitted",
        "mutex.x_opencti_description | texts",
        "process.x_opencti_description | texts",
        "report.created | when it was published",
        "report.description | texts",
        "url.x_opencti_description | texts",
        "windows-registry-key.x_opencti_description | texts",
    ]);
    assert_eq!(differences(&ours, &theirs), intended);
}

#[test]
fn the_small_sample_becomes_the_proven_bundle() {
    let theirs = proven(include_str!("fixtures/example-bundle.json"));
    let ours = by_id(&support::objects(&support::example()));
    // The address is no IOC of its own here, so nothing says which of the domain's countries is its own.
    let located = ["ipv4-addr:203.0.113.7 located-at location:Germany", "location:Germany"];
    assert_eq!(missing_in(&theirs, &ours), texts(&located));
    // The one family of the sample is what its network indicators point at; a family's type comes from a classification, which
    // is a label too.
    let own_family = "indicator:evil.example.com indicates malware:Emotet";
    assert_eq!(missing_in(&ours, &theirs), texts(&[own_family, "label:Trojan"]));
    let intended = members(&[
        "domain-name.labels | VMRay names no threats of domains",
        "file.labels | the classification",
        "file.x_opencti_description | texts",
        "indicator.description | texts",
        "indicator.kill_chain_phases | the domain's too",
        "indicator.labels | the classification; no threat names of domains",
        "label.color | a setting",
        "malware-analysis.labels | the classification",
        "malware-analysis.modified | when it was done",
        "report.description | texts",
        "report.labels | the classification",
        "report.modified | when the newest analysis was done",
    ]);
    assert_eq!(differences(&ours, &theirs), intended);
}
