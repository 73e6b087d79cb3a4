//! What the bundles of a whole estate say together.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use end_to_end::local::{World, estate};
use serde_json::Value;
use simulators::estate::{Estate, EstateSpec};
use simulators::opencti::PushedBundle;

const MALICIOUS: usize = 120;

/// The estate of the demo.
async fn demo_world() -> World {
    let estate = Estate::generate(EstateSpec {
        submissions: 200,
        malicious: MALICIOUS,
        suspicious: 32,
        ..EstateSpec::default()
    });
    World::new(estate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn families_techniques_and_countries_are_the_same_in_every_bundle() {
    let world = demo_world().await.setting("BUNDLE_MAX_OBJECTS", "300");
    world.ingest_all().await;
    let mut said: BTreeMap<String, (Value, u32)> = BTreeMap::new();
    for mut object in world.opencti.platform().bundles().iter().flat_map(PushedBundle::objects) {
        if !["malware", "attack-pattern", "location", "identity"].contains(&object["type"].as_str().unwrap())
        {
            continue;
        }
        // The platform unites lists: what kinds of malware a family is, each sample may add to.
        object.as_object_mut().unwrap().remove("malware_types");
        let (known, times) =
            said.entry(object["id"].as_str().unwrap().to_owned()).or_insert_with(|| (object.clone(), 0));
        assert_eq!(*known, object);
        *times += 1;
    }
    for kind in ["malware", "attack-pattern", "location"] {
        let repeated = said.values().filter(|(object, times)| object["type"] == kind && *times > 1).count();
        assert!(repeated > 5, "{kind}: only {repeated} are in more than one bundle");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_each_kind_of_relationship_costs_and_what_is_left_out() {
    let world = demo_world().await;
    world.ingest_all().await;
    // Objects a malicious sample, rounded to one decimal.
    let costs: Vec<_> =
        relationship_kinds(&world).iter().map(|(kind, count)| format!("{kind} {}", tenths(*count))).collect();
    let said = relationships(&world).await;
    assert_eq!(said, format!("all are made; objects a malicious sample in the demo: {}", costs.join(", ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_wants_fewer_relationships_gets_only_those() {
    let world = World::new(estate(3)).await.setting("VMRAY_RELATIONSHIPS", "based-on,indicates");
    world.ingest_all().await;
    let kinds = relationship_kinds(&world);
    assert_eq!(kinds.keys().collect::<Vec<_>>(), ["based-on", "indicates"]);
    let said = relationships(&world).await;
    let start = "based-on, indicates are made; left out, with the objects a malicious sample in the demo that this saves: \
                 characterizes 1.0, drops";
    assert!(said.starts_with(start), "{said}");

    let world = World::new(estate(3)).await.setting("VMRAY_RELATIONSHIPS", "none");
    world.ingest_all().await;
    assert_eq!(relationship_kinds(&world), BTreeMap::new());
    assert!(relationships(&world).await.starts_with("none are made"));
}

/// How many relationships of each kind the platform holds.
fn relationship_kinds(world: &World) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for object in world.knowledge().values() {
        if let Some(kind) = object["relationship_type"].as_str() {
            *counts.entry(kind.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// A count as so many a malicious sample, to one decimal.
fn tenths(count: usize) -> String {
    let tenths = (count * 10 + MALICIOUS / 2) / MALICIOUS;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// What `doctor` says about relationships.
async fn relationships(world: &World) -> String {
    let findings = world.ask(&["doctor"]).await["findings"].clone();
    let findings = findings.as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "relationships").unwrap();
    finding["message"].as_str().unwrap().to_owned()
}
