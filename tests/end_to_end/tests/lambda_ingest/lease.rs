//! Two runs at once, and runs that die.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use end_to_end::aws::dynamodb_local_endpoint;
use end_to_end::ingest::{MINUTES, World, estate, event, minute, position, schedule};
use end_to_end::runtime_api::Outcome;
use serde_json::{Value, json};
use simulators::faults::Fault;
use simulators::vmray::VmrayOptions;

/// Ends the lease that a dead run has left, as time does.
async fn the_lease_ends(world: &World) {
    let past = (Utc::now() - TimeDelta::seconds(1)).to_rfc3339();
    world.aws.edit_cursor(|cursor| cursor["lease"]["until"] = past.clone().into()).await;
}

#[tokio::test]
async fn while_one_runs_another_is_busy_and_calls_nobody() {
    let world = World::new(estate(3)).await;
    let (fault, pause) = Fault::on("GET /rest/submission").once().pause();
    world.vmray.faults().add(fault);
    let (one, other) = (world.lambda().await, world.lambda().await);
    let running = one.send(schedule(), MINUTES);
    pause.reached().await;
    let calls = (world.vmray_calls(), world.opencti_calls());

    for order in [schedule(), event("ingest-window.json")] {
        let busy = other.invoke(order, MINUTES).await.answer();
        assert_eq!(
            (&busy["status"], &busy["calls"]),
            (&json!("busy"), &json!({"vmray": 0, "opencti": 0})),
            "{busy}"
        );
        assert!(busy["lag_seconds"].as_i64().unwrap() > 3600, "busy is not up to date: {busy}");
    }
    assert_eq!((world.vmray_calls(), world.opencti_calls()), calls);
    let alive = other.invoke(event("ingest-heartbeat.json"), MINUTES).await.answer();
    assert_eq!(alive["status"], "heartbeat", "a heartbeat needs no lease");

    pause.release();
    assert_eq!(running.outcome().await.answer()["samples"], 3);
    assert_eq!(
        other.invoke(schedule(), MINUTES).await.answer()["status"],
        "done",
        "the lease was given back"
    );
    assert_eq!(world.aws.cursor().await.unwrap()["lease"], Value::Null);
}

/// Both ask for the lease at the same moment. Whoever has it is held until the other has answered.
async fn a_race(world: &World) {
    let (fault, pause) = Fault::on("GET /rest/submission").once().pause();
    world.vmray.faults().add(fault);
    let (one, other) = (world.lambda().await, world.lambda().await);
    let first = one.send(schedule(), MINUTES).outcome();
    let second = other.send(schedule(), MINUTES).outcome();
    tokio::pin!(first, second);
    let (loser, winner) = tokio::select! {
        outcome = &mut first => (outcome, second),
        outcome = &mut second => (outcome, first),
    };
    assert_eq!(loser.answer()["status"], "busy");
    pause.release();
    assert_eq!(winner.await.answer()["samples"], 3);
    assert_eq!(world.opencti.calls()["registerConnector"], 1);
}

#[tokio::test]
async fn of_two_that_start_at_once_one_runs_on_awss_own_dynamodb_engine() {
    let Some(endpoint) = dynamodb_local_endpoint() else { return };
    a_race(&World::on(Some(endpoint), VmrayOptions { estate: estate(3), ..VmrayOptions::default() }).await)
        .await;
}

/// Kills a run at its third bundle, and lets another take over when the lease has ended.
async fn a_run_is_killed(world: &mut World) {
    world.one_sample_per_bundle();
    let (fault, pause) = Fault::on("stixBundlePush").from(3).once().pause();
    world.opencti.faults().add(fault);
    let mut dead = world.lambda().await;
    let limit = Duration::from_mins(2);
    let started = Utc::now();
    let running = dead.send(schedule(), limit);
    pause.reached().await;
    drop(running);
    let left = world.aws.cursor().await.unwrap();
    assert_eq!(left["position"], position(2), "two bundles are delivered and saved: {left}");
    let until: DateTime<Utc> = left["lease"]["until"].as_str().unwrap().parse().unwrap();
    let length = until - started - TimeDelta::from_std(limit).unwrap();
    assert!((28..60).contains(&length.num_seconds()), "30 s after the deadline, not {length}");
    dead.kill().await;
    pause.release();

    let next = world.lambda().await;
    assert_eq!(next.invoke(schedule(), MINUTES).await.answer()["status"], "busy", "it might be alive");
    the_lease_ends(world).await;
    let answer = next.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(3)), "{answer}");
    assert_eq!(world.arrived(1..=5), [1, 2, 3, 4, 5]);
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test]
async fn a_killed_runs_lease_ends_and_the_next_one_goes_on_without_loss_or_new_ids() {
    let mut world = World::new(estate(5)).await;
    // What the platform has would not be pushed again.
    world.set("PLATFORM_MEMORY", "PT0S");
    a_run_is_killed(&mut world).await;
    let mut undisturbed = World::new(estate(5)).await;
    undisturbed.one_sample_per_bundle();
    undisturbed.set("PLATFORM_MEMORY", "PT0S");
    let _ = undisturbed.run(schedule()).await;
    assert_eq!(world.contents(), undisturbed.contents());
}

#[tokio::test]
async fn a_killed_run_is_gone_on_from_on_awss_own_dynamodb_engine() {
    let Some(endpoint) = dynamodb_local_endpoint() else { return };
    let vmray = VmrayOptions { estate: estate(5), ..VmrayOptions::default() };
    a_run_is_killed(&mut World::on(Some(endpoint), vmray).await).await;
}

#[tokio::test]
async fn a_run_that_has_lost_its_lease_stops_at_once_and_overwrites_nothing() {
    let mut world = World::new(estate(5)).await;
    world.one_sample_per_bundle();
    let (fault, pause) = Fault::on("stixBundlePush").from(2).once().pause();
    world.opencti.faults().add(fault);
    let lambda = world.lambda().await;
    let running = lambda.send(schedule(), MINUTES);
    pause.reached().await;
    // Another run has taken over, and is further.
    let lease = json!({"owner": "another", "until": (Utc::now() + TimeDelta::minutes(5)).to_rfc3339()});
    world
        .aws
        .edit_cursor(|cursor| {
            cursor["version"] = (cursor["version"].as_u64().unwrap() + 1).into();
            cursor["write_id"] = "another".into();
            cursor["position"] = position(4).into();
            cursor["lease"] = lease;
        })
        .await;
    let theirs = world.aws.items().await;
    let pings = world.opencti.calls()["pingConnector"];
    pause.release();

    let (kind, message) = running.outcome().await.error();
    assert_eq!(kind, "LeaseLost", "{message}");
    assert_eq!(world.aws.items().await, theirs);
    assert_eq!(world.opencti.platform().pushes(), 2, "nothing is pushed after the bundle under way");
    assert_eq!(world.opencti.calls()["pingConnector"], pings, "the mirror is the other's");
}

#[tokio::test]
async fn the_position_never_passes_a_row_that_is_not_settled() {
    let mut world = World::new(estate(12)).await;
    world.one_sample_per_bundle();
    world.set("INGEST_CONCURRENCY", "2");
    let (straggler, held) = Fault::on("GET /rest/sample/2/iocs").once().pause();
    world.vmray.faults().add(straggler);
    // Sample 1, then those that pass the straggler: when the third is pushed, the second is saved.
    let (fault, third_push) = Fault::on("stixBundlePush").from(3).once().pause();
    world.opencti.faults().add(fault);
    let lambda = world.lambda().await;
    let running = lambda.send(schedule(), MINUTES);
    held.reached().await;
    third_push.reached().await;

    let cursor = world.aws.cursor().await.unwrap();
    assert_eq!(world.arrived(1..=12), [1, 3], "a later sample is delivered");
    assert_eq!(cursor["position"], position(1), "{cursor}");
    let done: Vec<&str> = cursor["handled"]["newest"].as_str().unwrap().split(' ').collect();
    assert_eq!(
        done,
        [format!("{}:1001", minute(1).and_utc().timestamp()).as_str(), "120:2"],
        "and remembered"
    );
    held.release();
    third_push.release();
    let answer = running.outcome().await.answer();
    assert_eq!((&answer["samples"], &answer["position"]), (&json!(12), &json!(position(12))), "{answer}");
}

#[tokio::test]
async fn a_process_answers_for_each_of_many_events_in_a_row() {
    let world = World::new(estate(1)).await;
    let lambda = world.lambda().await;
    let events =
        [schedule(), json!({"nonsense": 1}), event("ingest-heartbeat.json"), schedule(), Value::Null];
    let sent: Vec<_> = events.map(|event| lambda.send(event, MINUTES)).into_iter().collect();
    let mut outcomes = Vec::new();
    for invocation in sent {
        outcomes.push(match invocation.outcome().await {
            Outcome::Answer(answer) => answer["status"].as_str().unwrap().to_owned(),
            Outcome::Error { kind, .. } => kind,
        });
    }
    assert_eq!(outcomes, ["done", "InvalidEvent", "heartbeat", "done", "done"]);
}
