//! The ids against vectors that were computed by OpenCTI's own library, the STIX library and the platform's algorithm.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

use serde_json::Value;
use stix::ids::{self, Json};
use stix::{StixId, Timestamp, TlpMarking};
use vmray::model::parse_date;

const VECTORS: &str = include_str!("fixtures/stix_id_vectors.json");

fn vectors() -> Vec<Value> {
    let document: Value = serde_json::from_str(VECTORS).unwrap();
    document["vectors"].as_array().unwrap().clone()
}

fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
    vector["input"][member].as_str().unwrap_or_else(|| panic!("{member} in {vector}"))
}

/// Rewrites JSON through the product's own canonical writer.
fn canonical(value: &Value) -> String {
    fn json<'a>(value: &'a Value, members: &'a [(&'a str, Json<'a>)]) -> Json<'a> {
        match value {
            Value::String(text) => Json::Text(text),
            Value::Number(number) => Json::Number(number.as_u64().unwrap()),
            _ => Json::Object(members),
        }
    }
    let mut sorted: Vec<_> = value.as_object().unwrap().iter().collect();
    sorted.sort_by_key(|(name, _)| name.as_str());
    let nested: Vec<Vec<(&str, Json<'_>)>> = sorted
        .iter()
        .map(|(_, value)| match value {
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.as_str(), json(value, &[]))).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    let members: Vec<_> = sorted
        .iter()
        .zip(&nested)
        .map(|((name, value), nested)| (name.as_str(), json(value, nested)))
        .collect();
    ids::canonical_json(&members)
}

#[test]
fn there_are_74_vectors() {
    assert_eq!(vectors().len(), 74);
}

#[test]
fn canonical_json_and_its_uuid_agree_with_every_vector_that_shows_its_json() {
    let mut checked = 0;
    for vector in vectors() {
        let (Some(json), Some(id)) = (vector["canonical_json"].as_str(), vector["id"].as_str()) else {
            continue;
        };
        assert_eq!(canonical(&serde_json::from_str(json).unwrap()), json);
        assert!(id.ends_with(&ids::uuid_of(json).to_string()), "{vector}");
        checked += 1;
    }
    assert!(checked >= 64, "{checked}");
}

/// Vectors of ids that the platform does not use, each with the reason.
fn is_not_the_platforms(vector: &Value) -> bool {
    let source = vector["source"].as_str().unwrap();
    let note = vector["note"].as_str().unwrap_or_default();
    let input = &vector["input"];
    match vector["type"].as_str().unwrap() {
        // Not sent as objects, or in a form this product never sends.
        "external-reference" | "kill-chain-phase" | "attack-pattern/legacy" => true,
        "marking-definition" => input["definition_type"] == "PAP",
        "location" => input["x_opencti_location_type"] == "country",
        "attack-pattern" => input["x_mitre_id"].is_null(),
        "relationship" => !input["start_time"].is_null(),
        "report" => !input["published"].as_str().unwrap().contains(".000Z"),
        // The library does not normalise; the platform does.
        "label" => {
            note.contains("NOT normalise")
                && input["value"].as_str().unwrap() != input["value"].as_str().unwrap().to_lowercase()
        }
        "domain-name" | "email-addr" => {
            source == "stix2" && input["value"].as_str().unwrap().contains(char::is_uppercase)
        }
        // The library hashes the name too, or under another property, or draws a random number.
        "file" => source == "stix2" && !input["name"].is_null() && !input["hashes"].is_null(),
        "windows-registry-key" => source == "stix2",
        "process" => source == "stix2" || !input["pid"].is_null(),
        _ => false,
    }
}

fn computed(vector: &Value) -> StixId {
    let value = |member| text(vector, member);
    match vector["type"].as_str().unwrap() {
        "identity" => ids::identity(value("name"), value("identity_class")),
        "marking-definition" => value("definition").parse::<TlpMarking>().unwrap().id(),
        "indicator" => ids::indicator(value("pattern")),
        "malware" => ids::malware(value("name")),
        "location" => ids::country(value("name")),
        "attack-pattern" => ids::attack_pattern(value("x_mitre_id")),
        "report" => ids::report(value("name"), Timestamp::from(parse_date(value("published")).unwrap())),
        "relationship" => ids::relationship(
            value("relationship_type"),
            value("source_ref").parse().unwrap(),
            value("target_ref").parse().unwrap(),
        ),
        "label" => ids::label(value("value")),
        "domain-name" => ids::domain_name(value("value")),
        "email-addr" => ids::email_addr(value("value")),
        "url" => ids::url(value("value")),
        "ipv4-addr" => ids::ipv4_addr(value("value")),
        "ipv6-addr" => ids::ipv6_addr(value("value")),
        "mutex" => ids::mutex(value("name")),
        "process" => ids::process(value("command_line")),
        "windows-registry-key" => ids::windows_registry_key(value("key")),
        "file" => {
            let hash =
                |name: &str| Some((name.to_owned(), vector["input"]["hashes"][name].as_str()?.to_owned()));
            match ["MD5", "SHA-1", "SHA-256"].into_iter().find_map(hash) {
                Some((algorithm, hash)) => ids::file_by_hash(&algorithm, &hash),
                None => ids::file_by_name(value("name")),
            }
        }
        other => panic!("no function for {other}"),
    }
}

#[test]
fn every_id_of_the_platform_is_computed_by_a_function_of_its_own() {
    let mut checked = 0;
    for vector in vectors().iter().filter(|vector| !is_not_the_platforms(vector)) {
        assert_eq!(computed(vector).to_string(), vector["id"].as_str().unwrap(), "{vector}");
        checked += 1;
    }
    assert!(checked >= 45, "only {checked} vectors are the platform's");
}

#[test]
fn spellings_that_the_platform_unites_have_one_id() {
    assert_eq!(ids::domain_name("EVIL.Example.COM"), ids::domain_name("evil.example.com"));
    assert_eq!(ids::label(" Emotet "), ids::label("emotet"));
    assert_eq!(ids::attack_pattern("t1059"), ids::attack_pattern("T1059"));
    assert_ne!(ids::url("HTTP://A.test"), ids::url("http://a.test"));
}

#[test]
fn the_author_is_the_platforms_vmray() {
    assert_eq!(stix::VMRAY, ids::identity("VMRay", "organization"));
}
