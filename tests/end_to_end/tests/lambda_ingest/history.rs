//! History on Lambda: a run stays until its deadline, and the next invocation goes on.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use end_to_end::ingest::{MINUTES, World, file_name, schedule};
use end_to_end::local::sample;
use serde_json::{Value, json};
use simulators::estate::{Estate, SubmissionSpec};
use simulators::vmray::VmrayOptions;

const SHORT: Duration = Duration::from_secs(4);

/// One sample a day, the first of the last hour; the others are a day older each.
fn days(count: u64) -> Estate {
    let mut estate = Estate::new();
    let now = Utc::now().naive_utc();
    for id in 1..=count {
        estate.add_sample(sample(id));
        let finished = now - TimeDelta::minutes(30) - TimeDelta::days(id.cast_signed() - 1);
        estate.add_submission(SubmissionSpec::finished(1000 + id, id, finished));
    }
    estate
}

async fn world(count: u64, latency: Duration) -> World {
    let vmray = VmrayOptions { estate: days(count), latency, ..VmrayOptions::default() };
    let mut world = World::on(None, vmray).await;
    world.set("HISTORY", "newest-first");
    world.set("QUEUE_RECHECK_MS", "200");
    // Less than whole days before any run's fresh part.
    let initial = Utc::now() - TimeDelta::days(count.cast_signed()) + TimeDelta::minutes(10);
    world.set("VMRAY_INITIAL_FETCH_DATE", &initial.format("%Y-%m-%dT%H:%M:%SZ").to_string());
    world.one_sample_per_bundle();
    world
}

/// The samples of the bundles, in the order of arrival.
fn order(world: &World) -> Vec<u64> {
    let platform = world.opencti.platform();
    let named = |text: &str| (1..=200).filter(|id| text.contains(&file_name(*id))).collect::<Vec<_>>();
    platform.bundles().iter().flat_map(|bundle| named(&bundle.text)).collect()
}

fn days_left(lines: &[Value]) -> Vec<i64> {
    lines.iter().filter_map(|line| line["HistoryDaysLeft"].as_i64()).collect()
}

#[tokio::test]
async fn a_run_waits_for_the_queue_until_its_deadline_and_the_next_goes_on() {
    let world = world(4, Duration::ZERO).await;
    world.opencti.platform().set_queue(Some((2_000, 1_000)));
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), SHORT).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(1)), "{answer}");
    assert_eq!((&answer["history"]["days_left"], &answer["lag_seconds"]), (&json!(3), &json!(0)), "{answer}");
    assert!(answer["duration_ms"].as_u64().unwrap() > 2_000, "it stays: {answer}");
    assert_eq!(order(&world), [1]);
    let cursor = world.aws.cursor().await.unwrap();
    assert_eq!(cursor["lease"], Value::Null, "the lease is given back in time");

    world.opencti.platform().set_queue(Some((1_999, 1_000)));
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["history"]), (&json!("done"), &Value::Null), "{answer}");
    assert_eq!(order(&world), [1, 2, 3, 4]);
    assert_eq!(days_left(&lambda.lines()), [3, 0]);
}

#[tokio::test]
async fn a_history_that_is_too_long_for_one_invocation_is_gone_on_with_and_nothing_comes_twice() {
    let world = world(40, Duration::from_millis(40)).await;
    let lambda = world.lambda().await;
    let mut left = vec![];
    for _ in 0..40 {
        let answer = lambda.invoke(schedule(), SHORT).await.answer();
        // The time may be over while it looks for fresh submissions once more.
        assert!(answer["status"] == "done" || answer["status"] == "partial", "{answer}");
        if answer["history"].is_null() {
            break;
        }
        left.push(answer["history"]["days_left"].as_u64().unwrap());
    }
    assert!(!left.is_empty() && left.is_sorted_by(|one, next| one > next), "{left:?}");
    assert_eq!(order(&world), (1..=40).collect::<Vec<_>>());
}
