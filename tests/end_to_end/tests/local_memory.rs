//! What OpenCTI has imported is not pushed again, and nothing is left out on hope.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use chrono::TimeDelta;
use end_to_end::local::{Answer, CONNECTOR, World, add, add_at, estate, minute, sample, samples, workers};
use serde_json::Value;
use simulators::estate::{SampleSpec, SubmissionSpec, Verdict};
use simulators::opencti::Workers;

/// The objects of the last push, by type.
fn last_push(world: &World, kind: &str) -> usize {
    let platform = world.opencti.platform();
    let objects = platform.bundles().last().unwrap().objects();
    objects.iter().filter(|object| object["type"] == kind).count()
}

fn figures(answer: &Answer) -> [u64; 2] {
    [answer.figure("objects"), answer.figure("known")]
}

/// What a world without a memory pushes for the second of two samples.
async fn whole() -> u64 {
    let world = World::new(estate(1)).await.setting("PLATFORM_MEMORY", "PT0S");
    world.ingest_all().await;
    add(&mut world.vmray.estate(), 2);
    let answer = world.ingest_all().await;
    assert_eq!(answer.figure("known"), 0);
    answer.figure("objects")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recurring_ioc_costs_nothing_the_same_day_and_its_indicator_a_day_later() {
    let world = World::new(estate(1)).await;
    world.ingest_all().await;
    add(&mut world.vmray.estate(), 2);
    let [pushed, known] = figures(&world.ingest_all().await);
    assert_eq!(pushed + known, whole().await);
    // The technique, the labels, the author, the shared address and domain with their indicators and relationships.
    assert!(known > 10, "{known}");
    assert_eq!(last_push(&world, "label"), 0);
    assert_eq!(last_push(&world, "identity"), 0);
    assert_eq!(last_push(&world, "indicator"), 3, "the sample, its file, its domain");

    add_at(&mut world.vmray.estate(), 3, minute(0) + TimeDelta::days(2));
    world.ingest_all().await;
    assert_eq!(last_push(&world, "indicator"), 4, "the shared domain is seen two days later");
    assert_eq!(world.arrived(), samples(1..=3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_and_not_imported_is_pushed_again() {
    let whole = whole().await;
    let world = World::with(vmray(estate(1)), workers(Workers::Held)).await;
    world.ingest_all().await;
    for id in 2..=4 {
        if id == 4 {
            let waiting = world.opencti.platform().waiting();
            world.opencti.platform().import(waiting - 1);
        }
        add(&mut world.vmray.estate(), id);
        let [pushed, known] = figures(&world.ingest_all().await);
        if id < 4 {
            assert_eq!([pushed, known], [whole, 0]);
        } else {
            assert_eq!(pushed + known, whole);
            assert!(known > 10, "what is proved is left out, though one object waits: {known}");
        }
    }
    world.opencti.platform().import_all();
    add(&mut world.vmray.estate(), 5);
    assert!(world.ingest_all().await.figure("known") > 10);
    world.opencti.platform().import_all();
    assert_eq!(world.arrived(), samples(1..=5));
}

fn vmray(estate: simulators::estate::Estate) -> simulators::vmray::VmrayOptions {
    simulators::vmray::VmrayOptions { estate, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reset_cuts_off_comes_again_whole() {
    let world = World::with(vmray(estate(2)), workers(Workers::Held)).await;
    world.ingest_all().await;
    world.opencti.platform().import(20);
    assert!(world.opencti.platform().operator_reset(CONNECTOR));
    let answer = world.ingest_all().await;
    assert_eq!([answer.figure("samples"), answer.figure("known")], [2, 0], "{answer:?}");
    world.opencti.platform().import_all();
    assert_eq!(world.arrived(), samples(1..=2));
    let undisturbed = World::new(estate(2)).await;
    undisturbed.ingest_all().await;
    world.assert_same_knowledge(&undisturbed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_delete_in_opencti_comes_back_when_something_needs_it() {
    // A relationship to what was deleted is refused.
    let world = World::new(estate(1)).await.may_refuse_objects();
    world.ingest_all().await;
    let malware =
        world.opencti.platform().knowledge().of_type("malware").next().unwrap().object["id"].clone();
    assert!(world.opencti.platform().delete(malware.as_str().unwrap()));
    add(&mut world.vmray.estate(), 2);
    let hurt = world.ingest_all().await;
    assert!(!hurt["rejected"].as_object().unwrap().is_empty(), "{hurt:?}");
    let waiting = world.quarantine().await;
    assert_eq!(
        [&waiting[0]["reason"], &waiting[0]["state"]],
        ["reference_missing", "waiting"],
        "{waiting:?}"
    );
    let healed = world.ingest_all().await;
    assert_eq!([healed.figure("samples"), healed.figure("known")], [1, 0], "{healed:?}");
    assert!(world.quarantine().await.is_empty());
    assert!(world.opencti.platform().knowledge().get(malware.as_str().unwrap()).is_some());
    let calm = world.ingest_all().await;
    assert_eq!([calm.figure("samples"), calm.figure("bundles")], [0, 0]);
    let undisturbed = World::new(estate(2)).await;
    undisturbed.ingest_all().await;
    let references = |world: &World| {
        let platform = world.opencti.platform();
        let mut reports = platform.knowledge().of_type("report");
        let second = reports.find(|report| report.object["name"].as_str().unwrap().contains("sample-2.exe"));
        let references = second.unwrap().object["object_refs"].as_array().unwrap().clone();
        references.into_iter().map(|id| id.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(references(&world), references(&undisturbed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_older_analysis_adds_and_does_not_overwrite() {
    let scored = |id, verdict| SampleSpec {
        iocs: sample(id).iocs.into_iter().map(|ioc| ioc.verdict(verdict)).collect(),
        ..sample(id)
    };
    let world = World::new(estate(0)).await.setting("VMRAY_IOCS_VERDICT", "malicious,suspicious");
    let world = world.setting("FEED_OVERLAP", "P2D");
    let add = |id, verdict, minutes| {
        let mut estate = world.vmray.estate();
        estate.add_sample(scored(id, verdict));
        estate.add_submission(SubmissionSpec::finished(1000 + id, id, minute(minutes)));
    };
    add(1, Verdict::Malicious, 600);
    world.ingest_all().await;
    let shared = || {
        let platform = world.opencti.platform();
        let domains: Vec<Value> =
            platform.knowledge().of_type("domain-name").map(|entity| entity.object.clone()).collect();
        domains.into_iter().find(|domain| domain["value"] == "shared.evil.test").unwrap()
    };
    let newer = shared();
    add(2, Verdict::Suspicious, 5);
    assert_eq!(world.ingest_all().await.figure("samples"), 1);
    assert_eq!(shared()["x_opencti_score"], newer["x_opencti_score"]);
    assert_eq!(shared()["x_opencti_description"], newer["x_opencti_description"]);
    assert_eq!(world.arrived(), samples(1..=2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_window_and_changed_settings_push_everything() {
    let mut world = World::new(estate(1)).await;
    let [first, _] = figures(&world.ingest_all().await);
    let window = ["--from", "2025-06-01", "--to", "2025-06-02"];
    assert_eq!(figures(&world.ingest_with(&window).await), [first, 0]);
    world.set("VMRAY_DEFAULT_TLP", "TLP:RED");
    add(&mut world.vmray.estate(), 2);
    assert_eq!(world.ingest_all().await.figure("known"), 0);
    assert!(world.ask(&["cursor", "reset"]).await["position"].is_string());
    let again = world.ingest_all().await;
    assert_eq!([again.figure("samples"), again.figure("known")], [2, 0], "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_more_bundles_than_the_platform_shows_works_learns_on_the_way() {
    // One sample a bundle.
    let world = World::new(estate(25)).await.setting("BUNDLE_MAX_OBJECTS", "40");
    let answer = world.ingest_all().await;
    assert_eq!(answer.figure("bundles"), 25, "{answer:?}");
    assert_eq!(
        world.opencti_calls("connector"),
        4,
        "the queue, and the works after 10, after 20 and at the end"
    );
    assert!(answer.figure("known") > 100, "{answer:?}");
    assert_eq!(world.arrived(), samples(1..=25));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_nothing_new_learns_what_was_imported_without_a_call_more() {
    let world = World::with(vmray(estate(1)), workers(Workers::Held)).await;
    world.ingest_all().await;
    let calls = |answer: &Answer| answer["calls"]["opencti"].as_u64().unwrap();
    let before = calls(&world.ingest_all().await);
    world.opencti.platform().import_all();
    assert_eq!(calls(&world.ingest_all().await), before);
    add(&mut world.vmray.estate(), 2);
    let answer = world.ingest_all().await;
    assert!(answer.figure("known") > 10);
    assert_eq!(calls(&answer), before + 1, "the push");
    world.opencti.platform().import_all();
}
