//! Lambda's time limit. That every invocation answers before it is checked for each one by the harness.

use std::time::Duration;

use end_to_end::ingest::{MINUTES, World, add, estate, minute, position, schedule};
use serde_json::{Value, json};
use simulators::estate::{Estate, SampleSpec, SubmissionSpec, Verdict};
use simulators::faults::Fault;
use simulators::vmray::VmrayOptions;

/// The shortest limit that is of any use.
const SHORT: Duration = Duration::from_secs(3);

/// Clean submissions, one a minute.
fn add_clean(estate: &mut Estate, count: u64) {
    const CLEAN: u64 = 900_000;
    estate.add_sample(SampleSpec { verdict: Some(Verdict::Clean), ..SampleSpec::file(CLEAN, "clean.exe") });
    for n in 1..=count {
        let submission = SubmissionSpec::finished(100_000 + n, CLEAN, minute(n));
        estate.add_submission(submission.verdict(Verdict::Clean));
    }
}

/// Reports in the order in which they were pushed.
fn reports(world: &World) -> Vec<Value> {
    let platform = world.opencti.platform();
    let objects = platform.bundles().iter().flat_map(simulators::opencti::PushedBundle::objects);
    objects.filter(|object| object["type"] == "report").collect()
}

#[tokio::test]
async fn a_history_too_long_for_one_invocation_is_drained_by_several_three_second_ones() {
    let vmray =
        VmrayOptions { estate: estate(24), latency: Duration::from_millis(50), ..VmrayOptions::default() };
    let mut world = World::on(None, vmray).await;
    world.one_sample_per_bundle();
    world.set("INGEST_CONCURRENCY", "1");
    // What the platform has would not be pushed again.
    world.set("PLATFORM_MEMORY", "PT0S");
    let lambda = world.lambda().await;
    let (mut samples, mut calls, mut positions) = (0, 0, Vec::new());
    for invocation in 1.. {
        let answer = lambda.invoke(schedule(), SHORT).await.answer();
        calls += answer["calls"]["vmray"].as_u64().unwrap();
        assert_eq!(calls, world.vmray_calls(), "no request that the answer does not know of");
        samples += answer["samples"].as_u64().unwrap();
        assert_eq!(world.aws.cursor().await.unwrap()["position"], answer["position"]);
        positions.push(answer["position"].as_str().unwrap().to_owned());
        if answer["status"] == "done" {
            assert!(invocation > 1, "this test needs a longer history");
            break;
        }
        assert_eq!(answer["status"], "partial", "{answer}");
        assert!(answer["samples"].as_u64().unwrap() > 0, "every invocation makes progress: {answer}");
        assert!(answer["lag_seconds"].as_i64().unwrap() > 3600, "{answer}");
    }
    assert_eq!((samples, positions.last().unwrap()), (24, &position(24)));
    assert!(positions.is_sorted(), "{positions:?}");
    let reports = reports(&world);
    assert_eq!(reports.len(), 24, "nothing twice");
    let mut undisturbed = World::new(estate(24)).await;
    undisturbed.one_sample_per_bundle();
    undisturbed.set("PLATFORM_MEMORY", "PT0S");
    let _ = undisturbed.run(schedule()).await;
    assert_eq!(world.contents(), undisturbed.contents(), "the same objects to the byte");
}

#[tokio::test]
async fn a_vmray_that_hangs_costs_a_partial_run_and_no_sample() {
    let mut world = World::new(estate(4)).await;
    world.one_sample_per_bundle();
    world.vmray.faults().add(Fault::on("GET /rest/sample/3/iocs").hang());
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), SHORT).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("partial"), &json!(3)), "{answer}");
    assert_eq!(answer["position"], position(2), "not past the one that hangs");
    assert!(world.aws.quarantine().await.is_empty(), "the deadline is not the sample's fault");
    world.vmray.faults().clear();
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(1)), "{answer}");
    assert_eq!(reports(&world).len(), 4, "nothing twice");
    world.assert_holds_what_a_clean_run_gives().await;
}

/// Positions and sizes of the quarantine after invocations with a short limit, until one handles everything.
async fn invocations_until_done(world: &World, limit: Duration) -> Vec<(String, usize)> {
    let lambda = world.lambda().await;
    let mut progress = Vec::new();
    loop {
        let answer = lambda.invoke(schedule(), limit).await.answer();
        progress.push((answer["position"].as_str().unwrap().to_owned(), world.aws.quarantine().await.len()));
        if answer["status"] == "done" {
            return progress;
        }
        assert_eq!(answer["status"], "partial", "{answer}");
    }
}

#[tokio::test]
async fn more_missing_samples_than_one_invocation_can_write_down_are_passed_by_several() {
    let mut estate = estate(400);
    (1..=400).for_each(|id| estate.delete_sample(id));
    let world = World::new(estate).await;
    // One after the other they would take minutes.
    world.aws.dynamodb_faults().add(Fault::on("PutItem").delay(Duration::from_millis(400)));
    let progress = invocations_until_done(&world, Duration::from_secs(12)).await;
    assert!(progress.len() > 1, "this test needs more missing samples");
    assert!(progress.is_sorted(), "{progress:?}");
    // The last may find that all is done already.
    let before_the_last = &progress[..progress.len() - 1];
    let mut distinct = before_the_last.to_vec();
    distinct.dedup();
    assert_eq!(distinct, before_the_last, "each invocation keeps what it has written");
    assert_eq!(progress.last(), Some(&(position(400), 400)));
}

#[tokio::test]
async fn a_look_back_that_is_too_long_for_one_invocation_holds_up_no_new_sample_and_loses_no_late_one() {
    let mut estate = estate(1);
    add_clean(&mut estate, 1_000);
    let vmray = VmrayOptions {
        estate,
        max_api_items: 100,
        latency: Duration::from_millis(400),
        ..VmrayOptions::default()
    };
    let mut world = World::on(None, vmray).await;
    world.set("FEED_OVERLAP", "P7D");
    let _ = world.run(schedule()).await;
    add(&mut world.vmray.estate(), 1_500);
    let lambda = world.lambda().await;
    let limit = Duration::from_secs(10);
    let answer = lambda.invoke(schedule(), limit).await.answer();
    assert_eq!(
        (&answer["status"], &answer["samples"], &answer["position"]),
        (&json!("partial"), &json!(1), &json!(position(1_500))),
        "{answer}"
    );
    add(&mut world.vmray.estate(), 500);
    // Each looks at some of it: one of them comes by.
    for _ in 0..20 {
        if world.arrived(500..=500) == [500] {
            break;
        }
        let _ = lambda.invoke(schedule(), limit).await.answer();
    }
    assert_eq!(world.arrived(2..=1_500), [500, 1_500]);
    assert_eq!(reports(&world).len(), 3, "nothing twice");
}

#[tokio::test]
async fn a_list_that_hangs_costs_a_partial_run_and_moves_nothing() {
    let world = World::new(estate(2)).await;
    world.vmray.faults().add(Fault::on("GET /rest/submission").hang());
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), SHORT).await.answer();
    assert_eq!(
        (&answer["status"], &answer["position"]),
        (&json!("partial"), &json!(position(0))),
        "{answer}"
    );
    assert_eq!(world.aws.cursor().await.unwrap()["lease"], Value::Null, "the lease is given back in time");
    world.vmray.faults().clear();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 2);
}

#[tokio::test]
async fn an_opencti_that_hangs_on_a_push_costs_a_partial_run_and_the_bundle_comes_again() {
    let mut world = World::new(estate(3)).await;
    world.one_sample_per_bundle();
    world.opencti.faults().add(Fault::on("stixBundlePush").from(2).hang());
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), SHORT).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("partial"), &json!(1)), "{answer}");
    assert_eq!(answer["position"], position(1));
    world.opencti.faults().clear();
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(2)), "{answer}");
    assert_eq!(reports(&world).len(), 3);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test]
async fn an_opencti_that_hangs_on_the_last_ping_costs_nothing() {
    let world = World::new(estate(2)).await;
    world.opencti.faults().add(Fault::on("pingConnector").from(2).hang());
    let answer = world.lambda().await.invoke(schedule(), SHORT).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(2)), "{answer}");
    let cursor = world.aws.cursor().await.unwrap();
    assert_eq!((&cursor["position"], &cursor["lease"]), (&json!(position(2)), &Value::Null), "{cursor}");
}

#[tokio::test]
async fn an_opencti_that_hangs_from_the_start_fails_the_run_before_its_deadline() {
    let world = World::new(estate(1)).await;
    world.opencti.faults().add(Fault::any().hang());
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), SHORT).await.error();
    assert_eq!(kind, "OpenctiError", "{message}");
    assert_eq!(world.vmray_calls(), 0);
    world.opencti.faults().clear();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1, "the lease was given back");
}

#[tokio::test]
async fn a_table_that_hangs_does_not_cost_the_answer() {
    let world = World::new(estate(2)).await;
    world.aws.dynamodb_faults().add(Fault::on("PutItem").from(3).hang());
    let (kind, message) = world.lambda().await.invoke(schedule(), SHORT).await.error();
    assert_eq!(kind, "OutOfTime", "{message}");
    let answer: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(answer["status"], "failed");
    assert_eq!(world.aws.cursor().await.unwrap()["position"], position(0));
}

#[tokio::test]
async fn a_deadline_that_is_no_time_but_a_length_is_understood() {
    let world = World::new(estate(1)).await;
    let answer = world.lambda().await.invoke_in_the_emulator(schedule()).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(1)), "{answer}");
}
