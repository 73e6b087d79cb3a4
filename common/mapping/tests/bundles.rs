//! Bundles: merging, packing and cutting, whatever the samples.
#![allow(clippy::unwrap_used, reason = "a test may stop")]

mod support;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use mapping::{MappedSample, MappingSettings, map_sample};
use proptest::prelude::*;
use serde_json::{Value, json};
use stix::{Bundle, BundleLimits, Object, ObjectKind, Packer, StixId, everything, halve};

/// A sample whose parts overlap with other samples' at random.
fn sample(id: u64, choices: &[u8], minute: u8) -> MappedSample {
    let pick = |index: usize, from: u8| choices.get(index).copied().unwrap_or(0) % from;
    let mut files = Vec::new();
    let mut domains = Vec::new();
    let mut processes = Vec::new();
    for (index, choice) in choices.iter().enumerate() {
        let name = ["Emotet", "emotet", "QakBot", "Gen:Variant.1"][usize::from(pick(index + 1, 4))];
        let common = json!({"ioc": true, "verdict": "malicious", "analysis_ids": [choice % 3], "threat_names": [name],
            "classifications": [if choice % 2 == 0 { "Trojan" } else { "Spyware" }]});
        let with = |list: &mut Vec<Value>, more: Value| {
            let mut entry = common.clone();
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            list.push(entry);
        };
        match choice % 3 {
            0 => with(
                &mut files,
                json!({"filename": format!("C:\\f{}", choice / 16), "file_size": choice,
                "hashes": [{"md5_hash": format!("{:032x}", choice / 8), "ssdeep_hash": format!("3:{choice}")}]}),
            ),
            1 => with(
                &mut domains,
                json!({"domain": format!("d{}.test", choice / 8), "protocols": [format!("P{choice}")],
                "ip_addresses": [format!("10.0.0.{}", choice / 32)], "countries": ["Germany"], "country_codes": ["DE"]}),
            ),
            _ => with(&mut processes, json!({"cmd_line": format!("run {}", choice / 4)})),
        }
    }
    let vtis: Vec<_> = (0..3)
        .map(|n| json!({"analysis_ids": [n], "category": "C", "operation": format!("op {}", pick(n, 5)), "score": n}))
        .collect();
    let document = json!({
        "sample": {"sample_id": id, "sample_filename": format!("s{id}"), "sample_verdict": "malicious",
            "sample_sha256hash": format!("{:064x}", id % 3), "sample_created": "2026-01-01T00:00:00",
            "sample_threat_names": ["Emotet"]},
        "submissions": [{"submission_id": id, "submission_created": "2026-01-01T00:00:00",
            "submission_finish_time": format!("2026-01-01T00:{:02}:00", minute % 60)}],
        "vtis": {"status": "finished", "threat_indicators": vtis},
        "mitre": {"status": "finished", "mitre_attack_techniques": [{"analysis_ids": [1], "technique_id": "T1055",
            "technique": if pick(0, 2) == 0 { "Process Injection" } else { "Process injection" }, "tactics": ["Impact"]}]},
        "iocs": {"status": "finished", "iocs": {"files": files, "domains": domains, "processes": processes}},
    });
    map_sample(&support::facts(&document), &MappingSettings::default()).unwrap()
}

fn any_sample() -> impl Strategy<Value = MappedSample> {
    (0..4u64, prop::collection::vec(any::<u8>(), 0..12), any::<u8>())
        .prop_map(|(id, choices, minute)| sample(id, &choices, minute))
}

fn json_of(samples: &[MappedSample]) -> String {
    Bundle::merge(samples, everything).json
}

/// A bundle as a sample again, to merge it further.
fn merged(samples: &[&MappedSample]) -> MappedSample {
    let mut objects: BTreeMap<StixId, Object> = BTreeMap::new();
    for object in samples.iter().flat_map(|sample| &sample.objects) {
        match objects.get_mut(&object.id()) {
            Some(known) => known.merge(object.clone()),
            None => {
                objects.insert(object.id(), object.clone());
            }
        }
    }
    MappedSample { objects: objects.into_values().collect(), ..samples[0].clone() }
}

fn ids(sample: &MappedSample) -> BTreeSet<StixId> {
    sample.objects.iter().map(Object::id).collect()
}

/// Every reference in the JSON is to an object of the bundle, or to a TLP marking.
fn assert_self_contained(bundle: &Bundle) {
    let document: Value = serde_json::from_str(&bundle.json).unwrap();
    let objects = document["objects"].as_array().unwrap();
    let ids: HashSet<&str> = objects.iter().map(|object| object["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), objects.len(), "an id twice");
    assert_eq!(bundle.object_count, objects.len());
    for object in objects {
        for (name, value) in object.as_object().unwrap() {
            let refs: Vec<&Value> = match value {
                Value::Array(list) if name.ends_with("_refs") => list.iter().collect(),
                Value::String(_) if name.ends_with("_ref") => vec![value],
                _ => continue,
            };
            for id in refs.into_iter().map(|id| id.as_str().unwrap()) {
                assert!(
                    ids.contains(id) || id.starts_with("marking-definition--"),
                    "{name} {id} in {object}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn merging_does_not_depend_on_order_or_grouping_or_repetition(
        a in any_sample(), b in any_sample(), c in any_sample()
    ) {
        let all = json_of(&[a.clone(), b.clone(), c.clone()]);
        prop_assert_eq!(&json_of(&[c.clone(), a.clone(), b.clone()]), &all);
        prop_assert_eq!(&json_of(&[b.clone(), c.clone(), a.clone(), a.clone(), c.clone()]), &all);
        prop_assert_eq!(&json_of(&[merged(&[&a, &b]), c.clone()]), &all);
        prop_assert_eq!(&json_of(&[a.clone(), merged(&[&c, &b])]), &all);
        assert_self_contained(&Bundle::merge(&[a, b, c], everything));
    }

    #[test]
    fn the_packer_loses_nothing_and_keeps_the_limits(
        samples in prop::collection::vec(any_sample(), 0..8),
        max_objects in 20..200usize,
        max_bytes in 10_000..100_000usize,
    ) {
        let limits = BundleLimits { max_objects, max_bytes };
        let mut packer = Packer::new(limits);
        let mut groups: Vec<_> = samples.iter().cloned().filter_map(|sample| packer.add(sample)).collect();
        groups.extend(packer.finish());
        prop_assert!(packer.finish().is_none());
        prop_assert_eq!(groups.iter().flatten().cloned().collect::<Vec<_>>(), samples);
        for group in groups {
            let bundle = Bundle::merge(&group, everything);
            let within = bundle.object_count <= max_objects && bundle.json.len() <= max_bytes;
            prop_assert!(within || group.len() == 1, "{} objects, {} bytes", bundle.object_count, bundle.json.len());
        }
    }

    #[test]
    fn parts_of_a_sample_are_within_the_limits_complete_in_themselves_and_together_the_sample(
        sample in any_sample(), max_objects in 30..60usize, max_bytes in 16_000..40_000usize
    ) {
        let limits = BundleLimits { max_objects, max_bytes };
        let parts = sample.clone().split(&limits);
        for part in &parts {
            let bundle = Bundle::merge(std::slice::from_ref(part), everything);
            assert_self_contained(&bundle);
            prop_assert!(bundle.object_count <= max_objects, "{} objects", bundle.object_count);
            prop_assert!(bundle.json.len() <= max_bytes, "{} bytes", bundle.json.len());
            prop_assert!(part.objects.iter().any(|object| object.id().kind() == ObjectKind::Report));
        }
        prop_assert_eq!(json_of(&parts), json_of(std::slice::from_ref(&sample)));
        let left_out = parts.iter().map(|part| part.left_out.total()).sum::<u32>();
        prop_assert_eq!(left_out, sample.left_out.total());
    }

    #[test]
    fn even_absurd_limits_lose_nothing(sample in any_sample()) {
        let parts = sample.clone().split(&BundleLimits { max_objects: 1, max_bytes: 1 });
        for part in &parts {
            assert_self_contained(&Bundle::merge(std::slice::from_ref(part), everything));
        }
        prop_assert_eq!(json_of(&parts), json_of(&[sample]));
    }

    #[test]
    fn halves_are_smaller_and_together_the_sample(sample in any_sample()) {
        if let Ok((first, second)) = halve(sample.clone()) {
            for half in [&first, &second] {
                prop_assert!(half.objects.len() < sample.objects.len());
                assert_self_contained(&Bundle::merge(std::slice::from_ref(half), everything));
            }
            prop_assert_eq!(&ids(&first) | &ids(&second), ids(&sample));
            prop_assert_eq!(json_of(&[second, first]), json_of(&[sample]));
        }
    }
}

#[test]
fn a_sample_with_enough_iocs_can_be_halved_again_and_again_down_to_one_object() {
    let mut samples = vec![sample(1, &(0..60).collect::<Vec<_>>(), 0)];
    let mut atoms = 0;
    while let Some(sample) = samples.pop() {
        match halve(sample) {
            Ok((first, second)) => samples.extend([first, second]),
            Err(_) => atoms += 1,
        }
        assert!(samples.len() < 1000);
    }
    assert!(atoms > 50, "{atoms}");
}

#[test]
fn a_bundle_has_what_is_selected_as_the_selection_leaves_it_with_the_time_of_its_newest_analysis() {
    let (older, newer) = (sample(1, &[3, 4, 5], 0), sample(2, &[3], 7));
    let all = Bundle::merge(&[older.clone(), newer.clone()], everything);
    let labels: HashSet<_> = all.label_ids().collect();
    assert!(!labels.is_empty());
    let mut times = BTreeMap::new();
    let selected = Bundle::merge(&[older.clone(), newer.clone()], |object, analysed| {
        times.insert(object.id(), analysed);
        *object = Cow::Owned(object.without_rating());
        !labels.contains(&object.id())
    });
    assert_eq!(selected.object_count, all.object_count - labels.len());
    assert_eq!(selected.label_ids().count(), 0);
    assert!(!selected.json.contains("x_opencti_description"), "it was all.json that had them");
    assert!(all.json.contains("x_opencti_description"));
    for object in &newer.objects {
        assert_eq!(times[&object.id()], newer.analysed);
    }
    assert!(times.values().any(|time| *time == older.analysed));
}

#[test]
fn a_bundle_is_in_the_order_in_which_things_are_named() {
    let bundle = Bundle::merge(&[sample(1, &[3, 4, 5], 0), sample(2, &[6, 7, 8], 0)], everything);
    let rank = |id: &StixId| match id.kind() {
        ObjectKind::Label => 0,
        ObjectKind::Identity => 1,
        ObjectKind::Malware | ObjectKind::AttackPattern | ObjectKind::Location => 2,
        ObjectKind::Indicator => 4,
        ObjectKind::MalwareAnalysis => 5,
        ObjectKind::Relationship => 6,
        ObjectKind::Report => 7,
        _ => 3,
    };
    assert!(bundle.ids.is_sorted_by_key(|id| (rank(id), *id)));
}

#[test]
fn of_an_ioc_in_two_samples_the_newest_text_and_the_highest_score_stay() {
    let entry = |score: u8, subject: &str, minute: u8| {
        let document = json!({
            "sample": {"sample_id": 1, "sample_filename": "a", "sample_verdict": "suspicious"},
            "submissions": [{"submission_id": 1, "submission_finish_time": format!("2026-01-01T00:{minute:02}:00")}],
            "vtis": {"status": "finished", "threat_indicators": [{"analysis_ids": [1], "score": score}]},
            "mitre": {"status": "finished", "mitre_attack_techniques": []},
            "iocs": {"status": "finished", "iocs": {"emails": [{"ioc": true, "verdict": "malicious", "analysis_ids": [1],
                "sender": "a@b.test", "subject": subject}]}},
        });
        map_sample(&support::facts(&document), &MappingSettings::default()).unwrap()
    };
    let bundle: Value = serde_json::from_str(&json_of(&[entry(5, "old", 1), entry(1, "new", 2)])).unwrap();
    let objects = bundle["objects"].as_array().unwrap();
    let indicator = objects.iter().find(|object| object["type"] == "indicator").unwrap();
    assert_eq!(indicator["x_opencti_score"], 100);
    assert_eq!(indicator["valid_from"], "2026-01-01T00:02:00.000Z");
    let address = objects.iter().find(|object| object["type"] == "email-addr").unwrap();
    assert_eq!(address["x_opencti_description"], "Sender of an e-mail with subject: new.");
}
