//! Samples that could not be ingested: tried again, given up, and what the operator does with them.

#![allow(clippy::unwrap_used)]

use end_to_end::local::{World, add, estate, minute, position, samples};
use serde_json::{Value, json};
use simulators::estate::SubmissionSpec;
use simulators::faults::Fault;

/// Three samples, the second of which VMRay does not show.
async fn forbidden() -> World {
    let world = World::new(estate(3)).await;
    world.vmray.estate().forbid_sample(2, true);
    world
}

fn allow(world: &World) {
    world.vmray.estate().forbid_sample(2, false);
}

fn reads_of_2(world: &World) -> usize {
    world.vmray.requests().iter().filter(|request| request.path == "/rest/sample/2").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sample_is_tried_twice_in_its_run_once_in_the_next_and_then_later() {
    let world = forbidden().await;
    let mut reads = Vec::new();
    for _ in 0..3 {
        world.ingest_all().await;
        reads.push(reads_of_2(&world));
    }
    assert_eq!(reads, [2, 3, 3], "the third try waits for half an hour");
    assert_eq!(world.quarantine().await[0]["attempts"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_last_attempt_a_sample_is_given_up_loudly_and_kept() {
    let world = forbidden().await.setting("QUARANTINE_MAX_ATTEMPTS", "3");
    world.ingest_all().await;
    assert_eq!(world.quarantine().await[0]["given_up"], false);
    let last = world.ingest_all().await;
    assert!(
        last.stderr.contains("given up") && last.stderr.contains(r#""level":"ERROR""#),
        "{}",
        last.stderr
    );
    allow(&world);
    let next = world.ingest_all().await;
    assert_eq!([&next["samples"], &next["quarantined"]], [0, 1], "nobody tries it by itself");
    let people = world.bridge(&["quarantine", "list"]).run().await;
    assert!(people.stdout.contains("given up"), "{people:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_lets_a_given_up_sample_be_tried_again() {
    let world = forbidden().await.setting("QUARANTINE_MAX_ATTEMPTS", "1");
    world.ingest_all().await;
    allow(&world);
    assert_eq!(world.ask(&["quarantine", "retry", "2"]).await, json!({"retried": [2], "unknown": []}));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [1, 0]);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_sample_is_forgotten_until_it_is_submitted_again() {
    let world = forbidden().await;
    world.ingest_all().await;
    assert_eq!(world.ask(&["quarantine", "drop", "--all"]).await, json!({"dropped": [2], "unknown": []}));
    assert_eq!(world.quarantine().await, Vec::<Value>::new());
    allow(&world);
    assert_eq!(world.ingest_all().await["samples"], 0);
    world.vmray.estate().add_submission(SubmissionSpec::finished(2002, 2, minute(9)));
    assert_eq!(world.ingest_all().await["samples"], 1);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_is_not_in_quarantine_is_named_and_the_others_are_changed() {
    let world = forbidden().await;
    world.ingest_all().await;
    let run = world.bridge(&["quarantine", "retry", "2", "77", "--json"]).run().await;
    assert_eq!(run.code, 1);
    assert_eq!(run.json(), json!({"retried": [2], "unknown": [77]}));
    assert!(run.stderr.contains("77"), "{run:?}");
    assert_eq!(world.quarantine().await[0]["attempts"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_submission_of_a_quarantined_sample_brings_the_old_one_with_it() {
    let world = forbidden().await;
    world.ingest_all().await;
    world.ingest_all().await; // not due for half an hour now
    allow(&world);
    world.vmray.estate().add_submission(SubmissionSpec::finished(2002, 2, minute(9)));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [1, 0]);
    let analyses = world.opencti.platform().knowledge().of_type("malware-analysis").count();
    assert_eq!(analyses, 4, "two of the second sample, one of each other");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quarantine_says_what_an_operator_needs_to_know() {
    let world = forbidden().await;
    world.ingest_all().await;
    let entry = world.quarantine().await.remove(0);
    assert_eq!([&entry["reason"], &entry["state"]], ["forbidden", "failed"]);
    assert_eq!([&entry["sample_id"], &entry["attempts"]], [2, 2]);
    assert!(entry["detail"].as_str().unwrap().contains("403"), "{entry}");
    let people = world.bridge(&["quarantine", "list"]).run().await;
    assert!(people.stdout.starts_with("1 failed, 0 waiting for VMRay\nsample 2 "), "{people:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_is_gone_is_not_tried_twice_in_a_run() {
    let world = World::new(estate(3)).await;
    world.vmray.estate().delete_sample(2);
    world.ingest_all().await;
    assert_eq!(reads_of_2(&world), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_deleted_samples_stops_nobody() {
    let world = World::new(estate(20)).await;
    (1..=19).for_each(|id| world.vmray.estate().delete_sample(id));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [1, 19]);
    assert_eq!(answer["position"], position(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_samples_among_good_ones_are_quarantined_however_many_wait_in_one_bundle() {
    let world = World::new(estate(40)).await.setting("INGEST_CONCURRENCY", "1");
    let bad = [3, 9, 10, 17, 25, 26, 31, 38];
    for id in bad {
        world.vmray.estate().forbid_sample(id, true);
    }
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [32, 8]);
    assert_eq!(world.arrived(), (1..=40).filter(|id| !bad.contains(id)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_leaves_the_quarantine_as_it_was() {
    let world = forbidden().await;
    world.ingest_all().await;
    let before = world.quarantine().await;
    (4..=9).for_each(|id| add(&mut world.vmray.estate(), id));
    world.vmray.faults().add(Fault::on("GET /rest/sample/*").status(403));
    assert_eq!(world.ingest().await["status"], "failed");
    assert_eq!(world.quarantine().await, before);
}
