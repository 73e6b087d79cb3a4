//! What the mapping promises, one promise a test. Each thing that the Python connector gets wrong is here.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use std::collections::{BTreeSet, HashSet};

use mapping::{
    IocType, LabelKind, LeftOutReason, MappingSettings, RelationshipKind, SampleFacts, map_sample,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use stix::object::Body;
use stix::{Bundle, TlpMarking, everything};
use support::{bundle, facts, kinds, links, map, objects, of_type};
use vmray::model::Verdict;

/// A malicious sample with these IOCs and nothing else.
fn with_iocs(iocs: &Value) -> Value {
    json!({
        "sample": {"sample_id": 1, "sample_verdict": "malicious", "sample_type": "Unknown", "sample_filename": "a.bin",
            "sample_created": "2026-01-01T00:00:00", "sample_md5hash": "00000000000000000000000000000001"},
        "submissions": [{"submission_id": 1, "submission_sample_id": 1, "submission_verdict": "malicious",
            "submission_created": "2026-01-01T00:00:00", "submission_finish_time": "2026-01-01T01:00:00"}],
        "vtis": {"status": "finished", "threat_indicators": []},
        "mitre": {"status": "finished", "mitre_attack_techniques": []},
        "iocs": {"status": "finished", "iocs": iocs},
    })
}

fn ioc(more: &Value) -> Value {
    let mut entry = json!({"ioc": true, "verdict": "malicious", "analysis_ids": [1]});
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    entry
}

fn left_out(document: &Value) -> Vec<(LeftOutReason, u32)> {
    map(document).left_out.iter().collect()
}

fn member<'a>(objects: &[&'a Value], name: &str) -> Vec<&'a str> {
    objects.iter().filter_map(|object| object[name].as_str()).collect()
}

#[test]
fn the_sample_that_has_everything() {
    insta::assert_json_snapshot!("kinds", objects(&kinds()));
}

#[test]
fn the_small_sample() {
    insta::assert_json_snapshot!("example", objects(&support::example()));
}

/// Reverses every list at every depth, but for those that belong together by place.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().rev().map(reversed).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.clone(), reversed(value))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    for document in [kinds(), support::example()] {
        assert_eq!(bundle(&map(&reversed(&document))).json, bundle(&map(&document)).json);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_shuffle_changes_a_byte(
        files in Just(facts(&kinds()).iocs.files).prop_shuffle(),
        processes in Just(facts(&kinds()).iocs.processes).prop_shuffle(),
        domains in Just(facts(&kinds()).iocs.domains).prop_shuffle(),
        urls in Just(facts(&kinds()).iocs.urls).prop_shuffle(),
        ips in Just(facts(&kinds()).iocs.ips).prop_shuffle(),
        vtis in Just(facts(&kinds()).threat_indicators.items).prop_shuffle(),
    ) {
        let mut shuffled = facts(&kinds());
        shuffled.iocs.files = files;
        shuffled.iocs.processes = processes;
        shuffled.iocs.domains = domains;
        shuffled.iocs.urls = urls;
        shuffled.iocs.ips = ips;
        shuffled.threat_indicators.items = vtis;
        let mapped = map_sample(&shuffled, &MappingSettings::default()).unwrap();
        prop_assert_eq!(bundle(&mapped).json, bundle(&map(&kinds())).json);
    }

    #[test]
    fn hostile_texts_are_mapped_or_counted_but_never_lost(text in ".{0,40}") {
        let document = with_iocs(&json!({
            "mutexes": [ioc(&json!({"mutex_name": text}))], "domains": [ioc(&json!({"domain": text}))],
            "ips": [ioc(&json!({"ip_address": text}))], "emails": [ioc(&json!({"sender": text}))],
        }));
        let mapped = map(&document);
        let all: Value = serde_json::from_str(&bundle(&mapped).json).unwrap();
        // One indicator for each that is mapped, and the sample's own.
        let indicators = of_type(all["objects"].as_array().unwrap(), "indicator").len();
        prop_assert_eq!(indicators + mapped.left_out.total() as usize, 5);
    }
}

// --- Which IOCs

#[test]
fn only_iocs_with_a_wanted_verdict_count() {
    let document = with_iocs(&json!({"mutexes": [
        ioc(&json!({"mutex_name": "yes", "verdict": "MALICIOUS"})),
        ioc(&json!({"mutex_name": "artifact", "ioc": false})),
        ioc(&json!({"mutex_name": "unsaid", "ioc": null})),
        ioc(&json!({"mutex_name": "suspicious", "verdict": "suspicious"})),
        ioc(&json!({"mutex_name": "null", "verdict": null})),
        ioc(&json!({"mutex_name": "odd", "verdict": "terrible"})),
        ioc(&json!({"mutex_name": "dump", "categories": ["memory dump"]})),
    ]}));
    assert_eq!(member(&of_type(&objects(&document), "mutex"), "name"), ["yes"]);

    let mut settings = MappingSettings::default();
    settings.iocs_verdicts.insert(Verdict::Suspicious);
    let mapped = map_sample(&facts(&document), &settings).unwrap();
    let all: Value = serde_json::from_str(&bundle(&mapped).json).unwrap();
    let all = all["objects"].as_array().unwrap();
    let of = |name: &str| *of_type(all, "indicator").iter().find(|object| object["name"] == name).unwrap();
    assert_eq!(of("suspicious")["indicator_types"], json!(["anomalous-activity"]));
    assert_eq!(
        (&of("suspicious")["x_opencti_score"], &of("yes")["x_opencti_score"]),
        (&json!(50), &json!(80))
    );
}

#[test]
fn types_of_ioc_can_be_chosen() {
    let count = |kind: IocType| {
        let settings = MappingSettings { ioc_types: BTreeSet::from([kind]), ..MappingSettings::default() };
        let mut document = kinds();
        document["iocs"]["iocs"]["filenames"] = json!([ioc(&json!({"filename": "c:\\x.bat"}))]);
        let mapped = map_sample(&facts(&document), &settings).unwrap();
        let all: Value = serde_json::from_str(&bundle(&mapped).json).unwrap();
        of_type(all["objects"].as_array().unwrap(), "indicator").len() - 1
    };
    let counts: Vec<_> = IocType::ALL.iter().copied().map(count).collect();
    assert_eq!(counts, [2, 1, 2, 2, 2, 1, 1, 3, 1, 1]);
    let default = MappingSettings::default().ioc_types;
    assert!(!default.contains(&IocType::Filenames) && default.len() == 9);
}

#[test]
fn a_sample_without_iocs_has_observable_analysis_and_report() {
    let all = objects(&with_iocs(&json!({})));
    for kind in ["file", "indicator", "malware-analysis", "report", "identity"] {
        assert_eq!(of_type(&all, kind).len(), 1, "{kind}");
    }
    let mut suspicious = with_iocs(&json!({}));
    suspicious["sample"]["sample_verdict"] = json!("suspicious");
    assert_eq!(of_type(&objects(&suspicious), "indicator").len(), 0);
    assert_eq!(of_type(&objects(&suspicious), "file").len(), 1);
}

#[test]
fn a_sample_without_submission_is_an_error() {
    let none = SampleFacts { submissions: Vec::new(), ..facts(&kinds()) };
    assert!(map_sample(&none, &MappingSettings::default()).is_err());
}

// --- Stable

#[test]
fn the_report_and_everything_else_is_the_same_at_every_import() {
    assert_eq!(objects(&kinds()), objects(&kinds()));
    let report = objects(&kinds());
    let report = of_type(&report, "report")[0];
    assert_eq!(report["name"], "VMRay sample 99: Rechnung \"März\"\\2026.exe");
    assert_eq!(report["published"], "2026-11-20T03:04:05.000Z");
    assert_eq!(report["id"], "report--e245bddd-9827-5d39-9220-2a5454155e1c");
}

#[test]
fn a_report_without_a_date_still_has_a_stable_id() {
    let mut document = with_iocs(&json!({}));
    document["sample"]["sample_created"] = Value::Null;
    document["submissions"][0]["submission_created"] = Value::Null;
    let all = objects(&document);
    assert_eq!(of_type(&all, "report")[0]["published"], "2020-01-01T00:00:00.000Z");
    assert_eq!(of_type(&all, "malware-analysis")[0].get("submitted"), None);
}

#[test]
fn valid_from_is_the_newest_finish_time() {
    let mut document = with_iocs(&json!({}));
    document["submissions"] = json!([
        {"submission_id": 1, "submission_created": "2026-01-01T00:00:00", "submission_finish_time": "2026-01-03T00:00:00.123456"},
        {"submission_id": 2, "submission_created": "2026-01-02T00:00:00", "submission_finish_time": "2026-01-02T00:00:00"},
    ]);
    let all = objects(&document);
    let indicator = of_type(&all, "indicator")[0];
    assert_eq!(indicator["valid_from"], "2026-01-03T00:00:00.123Z");
    assert_eq!((indicator.get("revoked"), indicator.get("valid_until")), (None, None));
    assert_eq!(of_type(&all, "malware-analysis").len(), 2);
}

#[test]
fn a_process_has_the_platforms_id_and_keeps_its_last_space() {
    let document = with_iocs(&json!({"processes": [ioc(&json!({"cmd_line": "cmd.exe /c whoami "}))]}));
    let all = objects(&document);
    let process = of_type(&all, "process")[0];
    assert_eq!(process["command_line"], "cmd.exe /c whoami ");
    assert_eq!(process["id"], stix::standard_id::process("cmd.exe /c whoami ").to_string());
    let names = member(&of_type(&all, "indicator"), "name");
    assert!(names.contains(&"cmd.exe /c whoami"), "{names:?}");
}

#[test]
fn the_same_id_is_there_once() {
    let mutex = ioc(&json!({"mutex_name": "m"}));
    let document = with_iocs(
        &json!({"mutexes": [mutex, mutex, ioc(&json!({"mutex_name": "m", "threat_names": ["Emotet"]}))]}),
    );
    let all = objects(&document);
    let ids: HashSet<_> = all.iter().map(|object| object["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), all.len());
    assert_eq!(of_type(&all, "mutex")[0]["labels"], json!(["Emotet"]));
}

// --- Shared objects

#[test]
fn what_is_shared_carries_no_marking_no_author_no_labels_and_little_confidence() {
    for object in objects(&kinds()) {
        let kind = object["type"].as_str().unwrap();
        let shared = ["malware", "attack-pattern", "location"].contains(&kind);
        let neutral = shared || ["label", "identity"].contains(&kind);
        for member in ["created_by_ref", "object_marking_refs"] {
            assert_eq!(object.get(member).is_none(), neutral, "{member} of {kind}");
        }
        if shared {
            assert_eq!(object["confidence"], 30);
            assert!(object.get("labels").is_none() && object.get("description").is_none());
        } else {
            assert!(object.get("confidence").is_none(), "{kind}");
        }
    }
}

#[test]
fn marking_and_confidence_are_settings() {
    let settings =
        MappingSettings { marking: TlpMarking::Red, confidence: Some(70), ..MappingSettings::default() };
    let mapped = map_sample(&facts(&kinds()), &settings).unwrap();
    let all: Value = serde_json::from_str(&bundle(&mapped).json).unwrap();
    for object in all["objects"].as_array().unwrap() {
        if let Some(marking) = object.get("object_marking_refs") {
            assert_eq!(*marking, json!([TlpMarking::Red.id()]));
        }
        let kind = object["type"].as_str().unwrap();
        if ["indicator", "report", "malware-analysis", "relationship"].contains(&kind) {
            assert_eq!(object["confidence"], 70, "{kind}");
        }
    }
}

#[test]
fn countries_have_the_platforms_id_and_are_found_for_addresses_too() {
    let document = with_iocs(&json!({
        "ips": [ioc(&json!({"ip_address": "198.51.100.7", "country": "Germany", "country_code": "de"}))],
        "urls": [ioc(&json!({"url": "http://a.test", "countries": ["Germany", "", "France"], "country_codes": ["DE", "NL", null]}))],
    }));
    let all = objects(&document);
    let countries = of_type(&all, "location");
    assert_eq!(
        member(&countries, "id"),
        [
            "location--7215cb31-5700-55b2-81b3-633c09c0351d",
            &stix::standard_id::country("France").to_string(),
            &stix::standard_id::country("Netherlands").to_string(),
        ]
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    assert!(countries.iter().all(|country| country["x_opencti_location_type"] == "Country"));
    let links = links(&all);
    assert_eq!(links.iter().filter(|link| *link == "ipv4-addr located-at location").count(), 1);
    assert_eq!(links.iter().filter(|link| *link == "indicator related-to location").count(), 3);
    // No name was sent for the Netherlands, and no code for France: one table knows both.
    assert_eq!(left_out(&document), []);
    assert_eq!(
        member(&countries, "country").into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["DE", "FR", "NL"])
    );
}

#[test]
fn a_country_gets_no_other_countrys_code() {
    let document = with_iocs(&json!({
        "urls": [
            ioc(&json!({"url": "http://a.test", "countries": [null, "Germany"], "country_codes": ["US", "DE"]})),
            ioc(&json!({"url": "http://b.test", "countries": ["Unknown", "-"], "country_codes": [null, "FR"]})),
            ioc(&json!({"url": "http://c.test", "countries": ["Spain", "Italy"], "country_codes": ["IT"]})),
        ],
    }));
    let all = objects(&document);
    let codes = member(&of_type(&all, "location"), "country");
    assert_eq!(codes.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(["DE", "ES", "FR", "IT", "US"]));
}

#[test]
fn a_country_that_no_table_knows_is_counted() {
    let document = with_iocs(&json!({
        "urls": [
            ioc(&json!({"url": "http://a.test", "countries": ["Atlantis"], "country_codes": ["A1"]})),
            ioc(&json!({"url": "http://b.test", "countries": ["Unknown"], "country_codes": [""]})),
        ],
    }));
    assert!(of_type(&objects(&document), "location").is_empty());
    assert_eq!(left_out(&document), [(LeftOutReason::UnknownCountry, 1)]);
}

/// What the objects that all sources share say, by id, but for the kinds of a malware, which the platform unites.
fn shared(objects: &[Value]) -> Vec<(String, Value)> {
    let is_shared = |object: &&Value| {
        ["malware", "attack-pattern", "location", "identity"].contains(&object["type"].as_str().unwrap())
    };
    let said = |object: &Value| {
        let mut said = object.clone();
        said.as_object_mut().unwrap().remove("malware_types");
        (object["id"].as_str().unwrap().to_owned(), said)
    };
    objects.iter().filter(is_shared).map(said).collect()
}

#[test]
fn what_is_shared_is_the_same_whichever_sample_names_it() {
    let mut other = kinds();
    other["sample"]["sample_id"] = json!(4242);
    other["sample"]["sample_created"] = json!("2024-02-03T04:05:06");
    other["sample"]["sample_filename"] = json!("other.bin");
    for submission in other["submissions"].as_array_mut().unwrap() {
        submission["submission_finish_time"] = json!("2025-06-07T08:09:10");
    }
    for list in ["domains", "urls"] {
        for entry in other["iocs"]["iocs"][list].as_array_mut().unwrap() {
            // The other sample says the same country by its code alone.
            entry["countries"] = json!([]);
        }
    }
    let (first, second) = (shared(&objects(&kinds())), shared(&objects(&other)));
    assert_eq!(first.len(), 4, "the author, a family, a technique, a country");
    assert_eq!(first, second);
}

#[test]
fn only_the_chosen_relationships_are_made_and_nothing_refers_to_the_others() {
    let all = map(&kinds());
    let relationships = |chosen: &[RelationshipKind]| {
        let settings =
            MappingSettings { relationships: chosen.iter().copied().collect(), ..MappingSettings::default() };
        map_sample(&facts(&kinds()), &settings).unwrap()
    };
    for chosen in RelationshipKind::ALL {
        let sample = relationships(&[*chosen]);
        let bundle: Value = serde_json::from_str(&bundle(&sample).json).unwrap();
        let made = of_type(bundle["objects"].as_array().unwrap(), "relationship");
        let expected = all.objects.iter().filter(|object| {
            matches!(object.body(), Body::Relationship(relationship) if relationship.kind() == *chosen)
        });
        assert_eq!(made.len(), expected.count(), "{chosen}");
        assert!(made.iter().all(|object| object["relationship_type"] == chosen.as_str()), "{chosen}");
    }
    let without = relationships(&[]);
    let ids: HashSet<_> = without.objects.iter().map(stix::Object::id).collect();
    let dangling = without.objects.iter().flat_map(stix::Object::refs).filter(|id| !ids.contains(id)).count();
    assert_eq!(dangling, 0);
    // Nothing else is missing: the report still names what relationships would have connected.
    let others = all.objects.iter().filter(|object| !matches!(object.body(), Body::Relationship(_)));
    assert_eq!(without.objects.len(), others.count());
}

#[test]
fn techniques_are_objects_by_their_number() {
    let all = objects(&kinds());
    let technique = of_type(&all, "attack-pattern")[0];
    assert_eq!(technique["id"], "attack-pattern--237246d0-114a-50fb-85a9-2bac69ed0e45");
    assert_eq!(technique["external_references"][0]["url"], "https://attack.mitre.org/techniques/T1055/012");
    let links = links(&all);
    // From the sample's own indicator only.
    assert_eq!(links.iter().filter(|link| *link == "indicator indicates attack-pattern").count(), 1);
    assert_eq!(links.iter().filter(|link| *link == "malware uses attack-pattern").count(), 1);
    assert_eq!(links.iter().filter(|link| *link == "malware-analysis characterizes malware").count(), 1);
}

#[test]
fn a_technique_without_number_or_name_is_counted() {
    let mut document = with_iocs(&json!({}));
    document["mitre"]["mitre_attack_techniques"] = json!([{"technique_id": "T1055"}, {"technique": "x"}, {"technique_id": "evil/../x", "technique": "x"}]);
    assert_eq!(left_out(&document), [(LeftOutReason::InvalidTechnique, 3)]);
}

// --- Labels

#[test]
fn values_protocols_and_subjects_are_no_labels() {
    for object in objects(&kinds()) {
        for label in object["labels"].as_array().into_iter().flatten() {
            let known =
                ["QakBot", "Spyware", "defense_evasion:try_to_detect_forensic_tool_\"x\"", "mitre:T1055.012"];
            assert!(known.contains(&label.as_str().unwrap()), "{label}");
        }
    }
    let all = objects(&kinds());
    let domain = of_type(&all, "domain-name")
        .into_iter()
        .find(|domain| domain["value"] == "xn--mnchen-3ya.example")
        .unwrap();
    assert_eq!(domain["x_opencti_description"], "Protocols: HTTPS.");
    let address = of_type(&all, "email-addr")[0]["x_opencti_description"].as_str().unwrap();
    assert!(address.contains(r"Invoice \*\*now\*\* \<b\>"), "{address}");
}

#[test]
fn threat_names_with_any_character_are_labels_and_family_like_ones_are_malware() {
    let names = ["XWorm_v5", "Ursnif (Gozi)", "Gen:Variant.Ulise.1", "W32/Agent!x"];
    let document = with_iocs(&json!({"mutexes": [ioc(&json!({"mutex_name": "m", "threat_names": names}))]}));
    let all = objects(&document);
    assert_eq!(
        of_type(&all, "mutex")[0]["labels"],
        json!(["Gen:Variant.Ulise.1", "Ursnif (Gozi)", "W32/Agent!x", "XWorm_v5"])
    );
    let families: BTreeSet<_> = member(&of_type(&all, "malware"), "name").into_iter().collect();
    assert_eq!(families, BTreeSet::from(["XWorm_v5", "Ursnif (Gozi)"]));
}

#[test]
fn labels_come_first_once_each_in_one_spelling_with_the_colour_of_their_kind() {
    let document = with_iocs(&json!({"mutexes": [
        ioc(&json!({"mutex_name": "a", "threat_names": ["emotet"]})),
        ioc(&json!({"mutex_name": "b", "threat_names": [" Emotet "], "classifications": ["Trojan"]})),
    ]}));
    let all = objects(&document);
    let labels = of_type(&all, "label");
    assert!(all[..labels.len()].iter().all(|object| object["type"] == "label"));
    let mut shown: Vec<_> = labels
        .iter()
        .map(|label| (label["value"].as_str().unwrap(), label["color"].as_str().unwrap()))
        .collect();
    shown.sort_unstable();
    assert_eq!(shown, [("Emotet", "#d60904"), ("Trojan", "#fa560a")]);
    assert!(of_type(&all, "mutex").iter().all(|mutex| mutex["labels"][0] == "Emotet"));
}

#[test]
fn the_colour_of_classifications_has_an_effect_and_kinds_can_be_switched_off() {
    let mut settings = MappingSettings::default();
    settings.label_style.classifications = "#123456".parse().unwrap();
    settings.labels = BTreeSet::from([LabelKind::Classifications]);
    let mapped = map_sample(&facts(&kinds()), &settings).unwrap();
    let all: Value = serde_json::from_str(&bundle(&mapped).json).unwrap();
    let labels = of_type(all["objects"].as_array().unwrap(), "label");
    assert_eq!(labels.len(), 1);
    assert_eq!((&labels[0]["value"], &labels[0]["color"]), (&json!("Spyware"), &json!("#123456")));
}

#[test]
fn each_label_kind_has_its_text() {
    let mut document = with_iocs(&json!({}));
    document["sample"]["sample_threat_names"] = json!(["Emotet"]);
    document["sample"]["sample_classifications"] = json!(["Trojan"]);
    document["vtis"]["threat_indicators"] = json!([{"analysis_ids": [1], "category": "Defense Evasion", "operation": "Hides a window", "score": 3}]);
    document["mitre"]["mitre_attack_techniques"] = json!([{"analysis_ids": [1], "technique_id": "t1055", "technique": "Process Injection", "tactics": null}]);
    let all = objects(&document);
    assert_eq!(
        of_type(&all, "report")[0]["labels"],
        json!(["Defense_Evasion:Hides_a_window", "Emotet", "mitre:T1055", "Trojan"])
    );
}

// --- Scores

#[test]
fn scores_come_from_the_iocs_own_analyses() {
    let mut document = with_iocs(&json!({"mutexes": [
        ioc(&json!({"mutex_name": "five", "analysis_ids": [1, 5]})), ioc(&json!({"mutex_name": "floor", "analysis_ids": [1]})),
        ioc(&json!({"mutex_name": "none", "analysis_ids": null})),
    ]}));
    document["vtis"]["threat_indicators"] =
        json!([{"analysis_ids": [5], "score": 5}, {"analysis_ids": [1], "score": 2}]);
    let all = objects(&document);
    let score = |name: &str| {
        of_type(&all, "mutex").iter().find(|mutex| mutex["name"] == name).unwrap()["x_opencti_score"].clone()
    };
    assert_eq!([score("five"), score("floor"), score("none")], [json!(100), json!(80), json!(80)]);
}

// --- Files

fn md5(n: u8) -> String {
    format!("{n:032x}")
}

fn sha256(n: u8) -> String {
    format!("{n:064x}")
}

#[test]
fn every_hash_entry_is_a_file_named_by_its_sha256() {
    let document = with_iocs(&json!({"files": [ioc(&json!({"filename": "C:\\x\\a.exe", "file_size": 5,
        "hashes": [{"md5_hash": md5(2), "sha256_hash": sha256(2)}, {"md5_hash": md5(3)}]}))]}));
    let all = objects(&document);
    assert_eq!(of_type(&all, "file").len(), 3);
    let names: BTreeSet<_> =
        member(&of_type(&all, "indicator"), "name").into_iter().map(str::to_owned).collect();
    assert_eq!(names, BTreeSet::from([md5(1), sha256(2), md5(3)]));
    // Whose size it is, VMRay does not say.
    assert!(of_type(&all, "file").iter().all(|file| file.get("size").is_none()));
}

#[test]
fn a_file_without_hash_is_known_by_its_name() {
    let document = with_iocs(&json!({"files": [
        ioc(&json!({"filename": null, "filenames": ["C:\\x\\b.exe", "/y/a.exe"], "hashes": [{"md5_hash": null}]})),
        ioc(&json!({"filename": " ", "hashes": null})),
    ]}));
    let all = objects(&document);
    let file = of_type(&all, "file").into_iter().find(|file| file.get("hashes").is_none()).unwrap();
    assert_eq!(file["name"], "a.exe");
    assert_eq!(file["x_opencti_additional_names"], json!(["a.exe", "b.exe"]));
    assert!(member(&of_type(&all, "indicator"), "pattern").contains(&"[file:name = 'a.exe']"));
    assert_eq!(left_out(&document), [(LeftOutReason::FileWithoutIdentity, 1)]);
}

#[test]
fn files_that_share_a_hash_are_one_even_through_a_third() {
    let document = with_iocs(&json!({"files": [
        ioc(&json!({"filename": "a", "hashes": [{"md5_hash": md5(2)}]})),
        ioc(&json!({"filename": "b", "hashes": [{"sha256_hash": sha256(2)}]})),
        ioc(&json!({"filename": "c", "hashes": [{"sha256_hash": sha256(2), "md5_hash": md5(2)}]})),
        ioc(&json!({"filename": "d", "hashes": [{"md5_hash": md5(1), "sha256_hash": sha256(1)}]})),
    ]}));
    let all = objects(&document);
    let files = of_type(&all, "file");
    assert_eq!(files.len(), 2);
    let sample = files.iter().find(|file| file["name"] == "a.bin").unwrap();
    assert_eq!(sample["hashes"], json!({"MD5": md5(1), "SHA-256": sha256(1)}));
    assert_eq!(sample["x_opencti_additional_names"], json!(["a.bin", "d"]));
    let other = files.iter().find(|file| file["name"] == "a").unwrap();
    assert_eq!(other["x_opencti_additional_names"], json!(["a", "b", "c"]));
}

#[test]
fn ssdeep_and_imphash_are_text_and_no_hashes() {
    let hashes = json!([{"md5_hash": md5(2), "ssdeep_hash": "3:AB_C", "imp_hash": "f00"}]);
    let document = with_iocs(&json!({"files": [ioc(&json!({"filename": "a", "hashes": hashes}))]}));
    let all = objects(&document);
    let file = of_type(&all, "file").into_iter().find(|file| file["name"] == "a").unwrap();
    assert_eq!(file["hashes"], json!({"MD5": md5(2)}));
    assert_eq!(file["x_opencti_description"], r"SSDEEP: 3:AB\_C. Imphash: f00.");
}

#[test]
fn hashes_of_a_wrong_length_and_sizes_over_31_bits_are_left_out_and_counted() {
    let document = with_iocs(&json!({"files": [
        ioc(&json!({"filename": "a", "file_size": 2_147_483_648_u32, "hashes": [{"md5_hash": md5(2), "sha1_hash": "abc"}]})),
        ioc(&json!({"filename": "b", "file_size": "2147483647", "hashes": [{"md5_hash": md5(3)}]})),
    ]}));
    let all = objects(&document);
    let size = |name: &str| {
        of_type(&all, "file").into_iter().find(|file| file["name"] == name).unwrap().get("size").cloned()
    };
    assert_eq!((size("a"), size("b")), (None, Some(json!(2_147_483_647))));
    assert_eq!(left_out(&document), [(LeftOutReason::FileSizeTooLarge, 1), (LeftOutReason::InvalidHash, 1)]);
}

#[test]
fn a_file_with_md5_is_found_under_the_id_that_the_old_connector_gave() {
    let former = "[file:hashes.'MD5' = '00000000000000000000000000000001']";
    let all = objects(&with_iocs(&json!({})));
    let indicator = of_type(&all, "indicator")[0];
    assert_eq!(indicator["x_opencti_stix_ids"], json!([stix::standard_id::indicator(former)]));
}

// --- Network

#[test]
fn a_domain_resolves_to_addresses_and_is_related_to_its_other_originals() {
    let document = with_iocs(
        &json!({"domains": [ioc(&json!({"domain": "Evil.Test.", "original_domains": ["evil.test", "EVIL.test", "other.test", "localhost"],
        "ip_addresses": ["198.51.100.7", "198.51.100.7:80", "2001:db8::1", "nonsense"]}))]}),
    );
    let all = objects(&document);
    let links = links(&all);
    assert_eq!(
        links.iter().filter(|link| link.starts_with("domain-name")).collect::<Vec<_>>(),
        [
            "domain-name related-to domain-name",
            "domain-name resolves-to ipv4-addr",
            "domain-name resolves-to ipv6-addr",
        ]
    );
    // The indicator says what it is based on: the domain, not its addresses.
    assert_eq!(links.iter().filter(|link| link.starts_with("indicator based-on")).count(), 2);
    for address in of_type(&all, "ipv4-addr") {
        assert!(address.get("x_opencti_score").is_none() && address.get("labels").is_none());
    }
    assert_eq!(left_out(&document), [(LeftOutReason::InvalidDomain, 1), (LeftOutReason::InvalidIp, 1)]);
}

#[test]
fn a_url_is_untouched_and_related_to_originals_and_addresses() {
    let url = " HTTP://Evil.test/a'b\\c?q=ü ";
    let document = with_iocs(
        &json!({"urls": [ioc(&json!({"url": url, "original_urls": [url, "hxxp://evil.test"], "ip_addresses": ["198.51.100.7"]}))]}),
    );
    let all = objects(&document);
    assert!(member(&of_type(&all, "url"), "value").contains(&url));
    assert!(
        member(&of_type(&all, "indicator"), "pattern")
            .contains(&r"[url:value = ' HTTP://Evil.test/a\'b\\c?q=ü ']")
    );
    let links = links(&all);
    assert!(
        links.contains(&"url related-to url".to_owned())
            && links.contains(&"url related-to ipv4-addr".to_owned())
    );
}

#[test]
fn the_domain_of_an_e_mail_address_is_written_in_ascii() {
    let document = with_iocs(&json!({
        "emails": [ioc(&json!({"sender": "Chef <Boss@Bücher.Example>"}))],
        "email_addresses": [ioc(&json!({"email_address": "a@例え.テスト"})), ioc(&json!({"email_address": "ü@a.test"}))],
    }));
    let all = objects(&document);
    let addresses: BTreeSet<_> = member(&of_type(&all, "email-addr"), "value").into_iter().collect();
    assert_eq!(addresses, BTreeSet::from(["boss@xn--bcher-kva.example", "a@xn--r8jz45g.xn--zckzah"]));
    assert!(
        member(&of_type(&all, "indicator"), "pattern")
            .contains(&"[email-addr:value = 'boss@xn--bcher-kva.example']")
    );
    assert_eq!(left_out(&document), [(LeftOutReason::InvalidEmail, 1)]);
}

#[test]
fn domains_of_an_address_resolve_to_it() {
    let document =
        with_iocs(&json!({"ips": [ioc(&json!({"ip_address": "198.51.100.7", "domains": ["evil.test"]}))]}));
    assert!(links(&objects(&document)).contains(&"domain-name resolves-to ipv4-addr".to_owned()));
}

#[test]
fn what_the_platform_would_refuse_is_counted_by_reason() {
    let document = with_iocs(&json!({
        "domains": [ioc(&json!({"domain": "localhost"})), ioc(&json!({"domain": null}))],
        "ips": [ioc(&json!({"ip_address": "1.2.3"}))],
        "emails": [ioc(&json!({"sender": "ü@x.test"}))],
        "mutexes": [ioc(&json!({"mutex_name": " \t "})), 7, ioc(&json!({"mutex_name": "fine"}))],
    }));
    assert_eq!(
        left_out(&document),
        [
            (LeftOutReason::EmptyValue, 2),
            (LeftOutReason::InvalidDomain, 1),
            (LeftOutReason::InvalidEmail, 1),
            (LeftOutReason::InvalidIp, 1),
            (LeftOutReason::MalformedEntry, 1),
        ]
    );
    assert_eq!(of_type(&objects(&document), "mutex").len(), 1);
}

// --- Relatives

#[test]
fn parents_and_children_are_always_linked() {
    let file = |id: u8| json!({"sample_id": id, "sample_verdict": "malicious", "sample_md5hash": md5(id), "sample_filename": format!("f{id}")});
    let mut document = with_iocs(
        &json!({"files": [ioc(&json!({"filename": "dropped", "hashes": [{"md5_hash": md5(7)}]}))]}),
    );
    document["relatives"] = json!([
        {"role": "child", "relation_type": "Dropped File", "sample": file(7)},
        {"role": "parent", "sample": {"sample_id": 8, "sample_type": "URL", "sample_url": "http://evil.test/a"}},
        {"role": "parent", "sample": file(9)},
        {"role": "child", "sample": file(1)},
        {"role": "child", "sample": {"sample_id": 11}},
    ]);
    let all = objects(&document);
    let between: Vec<_> = links(&all).into_iter().filter(|link| !link.contains("indicator")).collect();
    assert_eq!(between, ["file drops file", "file drops file", "url related-to file"]);
    assert_eq!(left_out(&document), [(LeftOutReason::RelativeWithoutIdentity, 1)]);
    let child = of_type(&all, "file").into_iter().find(|file| file["hashes"]["MD5"] == md5(7)).unwrap();
    assert_eq!(
        (&child["x_opencti_score"], &child["x_opencti_additional_names"]),
        (&json!(80), &json!(["dropped", "f7"]))
    );
    let parent = of_type(&all, "file").into_iter().find(|file| file["hashes"]["MD5"] == md5(9)).unwrap();
    assert!(parent.get("x_opencti_score").is_none());
    // Parents were not found by analysing the child.
    let analysis = of_type(&all, "malware-analysis")[0];
    assert_eq!(analysis["analysis_sco_refs"], json!([child["id"]]));
}

#[test]
fn a_url_sample_is_a_url() {
    let mut document = with_iocs(&json!({}));
    document["sample"] = json!({"sample_id": 5, "sample_type": "URL", "sample_url": "http://evil.test/login", "sample_filename": "sample.url",
        "sample_verdict": "malicious", "sample_md5hash": md5(5)});
    let all = objects(&document);
    assert_eq!(of_type(&all, "file").len(), 0);
    assert_eq!(of_type(&all, "report")[0]["name"], "VMRay sample 5: http://evil.test/login");
    assert_eq!(of_type(&all, "malware-analysis")[0]["sample_ref"], of_type(&all, "url")[0]["id"]);
    assert_eq!(of_type(&all, "indicator")[0]["pattern"], "[url:value = 'http://evil.test/login']");
}

#[test]
fn a_url_sample_without_a_url_is_a_file_by_its_hash_or_its_name() {
    for (identity, pattern) in [
        (
            json!({"sample_url": null, "sample_md5hash": md5(5)}),
            "[file:hashes.MD5 = '00000000000000000000000000000005']",
        ),
        (json!({"sample_url": " \t", "sample_filename": "login.url"}), "[file:name = 'login.url']"),
    ] {
        let mut document = with_iocs(&json!({}));
        document["sample"] = json!({"sample_id": 5, "sample_type": "URL", "sample_verdict": "malicious",
            "sample_threat_names": ["Emotet"]});
        document["sample"].as_object_mut().unwrap().extend(identity.as_object().unwrap().clone());
        let all = objects(&document);
        let file = of_type(&all, "file")[0];
        assert_eq!((&file["labels"], of_type(&all, "url").len()), (&json!(["Emotet"]), 0));
        assert_eq!(of_type(&all, "indicator")[0]["pattern"], pattern);
        assert_eq!(of_type(&all, "malware-analysis")[0]["sample_ref"], file["id"]);
        assert_eq!(left_out(&document), []);
        let relative = json!([{"role": "parent", "sample": document["sample"]}]);
        let mut child = with_iocs(&json!({}));
        child["relatives"] = relative;
        assert!(links(&objects(&child)).contains(&"file drops file".to_owned()));
    }
}

#[test]
fn labels_and_findings_of_a_sample_without_an_observable_are_on_its_report_and_its_analysis() {
    for kind in ["URL", "Unknown"] {
        let mut document = with_iocs(&json!({"mutexes": [ioc(&json!({"mutex_name": "m"}))]}));
        document["sample"] = json!({"sample_id": 6, "sample_type": kind, "sample_verdict": "malicious",
            "sample_threat_names": ["Emotet"], "sample_classifications": ["Trojan"]});
        document["vtis"]["threat_indicators"] =
            json!([{"analysis_ids": [1], "category": "Persistence", "operation": "Autostart", "score": 4}]);
        document["mitre"]["mitre_attack_techniques"] =
            json!([{"technique_id": "T1055", "technique": "Process Injection"}]);
        let all = objects(&document);
        let (report, analysis) = (of_type(&all, "report")[0], of_type(&all, "malware-analysis")[0]);
        assert_eq!(report["name"], "VMRay sample 6");
        for object in [report, analysis] {
            assert_eq!(object["labels"], json!(["Emotet", "mitre:T1055", "Persistence:Autostart", "Trojan"]));
        }
        assert_eq!(analysis.get("sample_ref"), None);
        assert_eq!(analysis["analysis_sco_refs"], json!([of_type(&all, "mutex")[0]["id"]]));
        let links = links(&all);
        for link in ["malware uses attack-pattern", "malware-analysis characterizes malware"] {
            assert!(links.contains(&link.to_owned()), "{link} in {links:?}");
        }
        assert_eq!(left_out(&document), [(LeftOutReason::SampleWithoutIdentity, 1)]);
    }
}

// --- Families

/// A malicious sample with these threat names, an IOC of each network type, a mutex that has threat names of its own, and a
/// technique.
fn with_families(own: &[&str], of_the_mutex: &[&str]) -> Value {
    let mut document = with_iocs(&json!({
        "domains": [ioc(&json!({"domain": "evil.test"}))],
        "urls": [ioc(&json!({"url": "http://evil.test/a"}))],
        "ips": [ioc(&json!({"ip_address": "198.51.100.7"})), ioc(&json!({"ip_address": "2001:db8::1"}))],
        "mutexes": [ioc(&json!({"mutex_name": "m", "threat_names": of_the_mutex}))],
        "email_addresses": [ioc(&json!({"email_address": "a@evil.test"}))],
    }));
    document["sample"]["sample_threat_names"] = json!(own);
    document["mitre"]["mitre_attack_techniques"] =
        json!([{"technique_id": "T1055", "technique": "Process Injection"}]);
    document
}

/// The relationships to or from malware, as `source type target`.
fn about_malware(document: &Value) -> Vec<String> {
    let all = objects(document);
    let shown = |id: &Value| {
        let object = all.iter().find(|object| object["id"] == *id).unwrap();
        let name = ["name", "x_mitre_id", "result_name"].into_iter().find_map(|name| object[name].as_str());
        name.unwrap_or_default().to_owned()
    };
    let malware = |id: &Value| id.as_str().unwrap().starts_with("malware--");
    let mut links: Vec<_> = of_type(&all, "relationship")
        .into_iter()
        .filter(|link| malware(&link["source_ref"]) || malware(&link["target_ref"]))
        .map(|link| {
            let kind = link["relationship_type"].as_str().unwrap();
            format!("{} {kind} {}", shown(&link["source_ref"]), shown(&link["target_ref"]))
        })
        .collect();
    links.sort();
    links
}

#[test]
fn where_vmray_names_one_family_for_the_sample_its_technique_its_analysis_and_the_network_are_tied_to_it() {
    // Signatures and placeholders are not families, and a spelling is not another family.
    let document = with_families(&["Emotet", " emotet", "Gen:Variant.Ulise.1", "Unknown"], &["QakBot"]);
    assert_eq!(
        about_malware(&document),
        [
            "00000000000000000000000000000001 indicates Emotet",
            "198.51.100.7 indicates Emotet",
            "2001:db8::1 indicates Emotet",
            "Emotet uses Process Injection",
            "VMRay sample 1: a.bin characterizes Emotet",
            "evil.test indicates Emotet",
            "http://evil.test/a indicates Emotet",
            "m indicates QakBot",
        ]
    );
}

#[test]
fn of_several_families_or_of_none_nothing_is_claimed() {
    assert_eq!(
        about_malware(&with_families(&["Emotet", "QakBot"], &["QakBot"])),
        [
            "00000000000000000000000000000001 indicates Emotet",
            "00000000000000000000000000000001 indicates QakBot",
            "m indicates QakBot",
        ]
    );
    assert_eq!(about_malware(&with_families(&[], &["QakBot"])), ["m indicates QakBot"]);
    // What an IOC that is the same file is called is not the sample's own name either.
    let mut document = with_families(&[], &[]);
    document["iocs"]["iocs"]["files"] =
        json!([ioc(&json!({"filename": "x", "threat_names": ["QakBot"], "hashes": [{"md5_hash": md5(1)}]}))]);
    assert_eq!(about_malware(&document), ["00000000000000000000000000000001 indicates QakBot"]);
}

// --- Everything absent

#[test]
fn nulls_everywhere_are_harmless() {
    fn nulled(value: &Value, name: &str) -> Value {
        let keep = ["sample_id", "submission_id", "status", "ioc", "verdict", "role"];
        match value {
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), nulled(value, name))).collect()
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                list.iter().map(|item| nulled(item, name)).collect()
            }
            other if keep.contains(&name) => other.clone(),
            _ => Value::Null,
        }
    }
    let document = nulled(&kinds(), "");
    let mapped = map(&document);
    let all = objects(&document);
    assert_eq!(of_type(&all, "report").len(), 1);
    assert_eq!(of_type(&all, "indicator").len(), 0);
    assert!(mapped.left_out.total() > 10);
}

#[test]
fn the_report_names_everything_but_labels_and_the_author() {
    let all = objects(&kinds());
    let listed: Vec<_> = of_type(&all, "report")[0]["object_refs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let expected: BTreeSet<_> = all
        .iter()
        .filter(|object| !["label", "identity", "report"].contains(&object["type"].as_str().unwrap()))
        .map(|object| object["id"].as_str().unwrap())
        .collect();
    assert!(listed.is_sorted());
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn texts_are_escaped_for_markdown() {
    let all = objects(&kinds());
    let text = of_type(&all, "report")[0]["description"].as_str().unwrap();
    assert!(text.contains(r"Known \(\<b\>bad\</b\>\)"), "{text}");
}

#[test]
fn relationships_carry_no_times_and_no_links() {
    for relationship in of_type(&objects(&kinds()), "relationship") {
        for member in ["start_time", "stop_time", "external_references"] {
            assert!(relationship.get(member).is_none());
        }
        assert_eq!(relationship["created"], "2020-01-01T00:00:00.000Z");
    }
}

#[test]
fn an_ioc_takes_part_once_in_a_bundle_of_many_samples() {
    let one = map(&kinds());
    let mut other = kinds();
    other["sample"]["sample_id"] = json!(100);
    let both = Bundle::merge(&[one.clone(), map(&other)], everything);
    // A second report, analysis and "characterizes"; everything else is the same.
    assert_eq!(both.object_count, bundle(&one).object_count + 3);
}
