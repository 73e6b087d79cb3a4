//! History: what comes first, how it goes on, and that nothing fresh waits behind it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeDelta, Utc};
use end_to_end::local::{CONNECTOR, World, add_at, file_name, samples, workers};
use serde_json::{Value, json};
use simulators::estate::Estate;
use simulators::faults::Fault;
use simulators::opencti::{OpenctiOptions, Statistics, Workers};
use simulators::vmray::VmrayOptions;

/// Samples of history, one a day: the sample's number says how many days ago.
const DAYS: u64 = 5;

/// The sample of the last hour.
const FRESH: u64 = 100;

fn ago(time: TimeDelta) -> NaiveDateTime {
    (Utc::now() - time).naive_utc()
}

fn text(time: NaiveDateTime) -> String {
    time.and_utc().to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn days_ago(days: u64) -> NaiveDateTime {
    ago(TimeDelta::days(days.cast_signed()) + TimeDelta::hours(2))
}

/// A sample of the last hour, and a history.
fn estate() -> Estate {
    let mut estate = Estate::new();
    for day in (1..=DAYS).rev() {
        add_at(&mut estate, day, days_ago(day));
    }
    add_at(&mut estate, FRESH, ago(TimeDelta::minutes(30)));
    estate
}

/// A bundle a sample (29 objects), and a look for fresh submissions after each.
async fn world_with(opencti: OpenctiOptions) -> World {
    world_of(estate(), opencti).await
}

async fn world_of(estate: Estate, opencti: OpenctiOptions) -> World {
    let vmray = VmrayOptions { estate, ..VmrayOptions::default() };
    World::with(vmray, opencti)
        .await
        .setting("HISTORY", "newest-first")
        .setting("VMRAY_INITIAL_FETCH_DATE", &text(ago(TimeDelta::days(10) - TimeDelta::hours(1))))
        .setting("BUNDLE_MAX_OBJECTS", "40")
        .setting("QUEUE_RECHECK_MS", "1")
}

async fn world() -> World {
    world_with(OpenctiOptions::default()).await
}

/// The samples of the bundles, in the order of arrival.
fn order(world: &World) -> Vec<u64> {
    let named = |text: &String| (1..=200).filter(|id| text.contains(&file_name(*id))).collect::<Vec<_>>();
    world.bundles().iter().flat_map(named).collect()
}

fn newest_first() -> Vec<u64> {
    [FRESH].into_iter().chain(1..=DAYS).collect()
}

async fn history(world: &World) -> Value {
    world.ask(&["cursor", "show"]).await["history"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deployment_brings_the_last_day_first_and_then_its_history_newest_day_first() {
    let world = world().await;
    let answer = world.ingest_command(&[]).unset("HISTORY").run().await.answer();
    assert_eq!(order(&world), newest_first());
    assert_eq!([&answer["status"], &answer["history"]], [&json!("done"), &Value::Null], "{answer:?}");
    assert_eq!([&answer["submissions"], &answer["samples"], &answer["lag_seconds"]], [6, 6, 0], "{answer:?}");
    assert_eq!(answer["bundles"], 6);
    let (vmray, opencti) = world.requests();
    assert_eq!(answer["calls"], json!({"vmray": vmray, "opencti": opencti}));
    let again = world.ingest_all().await;
    assert_eq!([&again["submissions"], &again["bundles"]], [0, 0], "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_holds_what_it_holds_when_the_oldest_comes_first() {
    let estate = estate();
    let one = world_of(estate.clone(), OpenctiOptions::default()).await;
    one.ingest_all().await;
    let other = world_of(estate, OpenctiOptions::default()).await;
    let other = other.setting("HISTORY", "oldest-first");
    let answer = other.ingest_all().await;
    assert_eq!(order(&other), [5, 4, 3, 2, 1, FRESH]);
    assert_eq!(answer["history"], Value::Null);
    one.assert_same_objects(&other);
    // Score and description of an observable are the last writer's on the platform.
    let (here, there) = (one.knowledge(), other.knowledge());
    for (id, observable) in there.iter().filter(|(_, object)| object["x_opencti_score"].is_number()) {
        for member in ["x_opencti_score", "x_opencti_description"] {
            assert_eq!(here[id][member], observable[member], "{id}: history has overwritten what is newer");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_history_only_the_last_day_arrives() {
    let world = world().await.setting("HISTORY", "none");
    let answer = world.ingest_all().await;
    assert_eq!((order(&world), &answer["history"]), (vec![FRESH], &Value::Null));
    assert_eq!(history(&world).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_stands_still_while_none_is_wanted_and_then_goes_on() {
    let world = world().await;
    let _ = world.ask(&["cursor", "reset"]).await;
    let answer = world.ingest_command(&[]).set("HISTORY", "none").run().await.answer();
    assert_eq!((order(&world), &answer["history"]), (vec![FRESH], &Value::Null));
    world.ingest_all().await;
    assert_eq!(order(&world), newest_first());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_many_submissions_goes_on_where_it_was_and_counts_each_once() {
    let world = world().await;
    for id in 20..60_u64 {
        let finished = days_ago(2) + TimeDelta::seconds(id.cast_signed() / 10);
        add_at(&mut world.vmray.estate(), id, finished);
    }
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"]], [46, 46], "{answer:?}");
    let order = order(&world);
    assert_eq!(order.len(), 46, "none came twice: {order:?}");
    let place = |id| order.iter().position(|sample| *sample == id).unwrap();
    assert!((20..60).all(|id| place(1) < place(id) && place(id) < place(3)), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_in_mid_history_is_gone_on_with() {
    for push in 2..=6 {
        let world = world().await;
        let (fault, pause) = Fault::on("stixBundlePush").from(push).once().pause_after_handling();
        world.opencti.faults().add(fault);
        let run = world.ingest_command(&[]).start();
        pause.reached().await;
        run.kill().await;
        pause.release();
        let left = history(&world).await["days_left"].as_u64().unwrap();
        assert!((6..=10).contains(&left), "{left}");
        world.ingest_all().await;
        let order = order(&world);
        assert_eq!(order.len(), 7, "one bundle twice: {order:?}");
        let mut distinct = order;
        distinct.dedup();
        assert_eq!(distinct, newest_first());
        assert_eq!(history(&world).await, Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_mid_history_is_followed_at_once() {
    let world = Arc::new(world().await);
    let of = Arc::downgrade(&world);
    let reset = move || assert!(of.upgrade().unwrap().opencti.platform().operator_reset(CONNECTOR));
    world.opencti.faults().add(Fault::on("stixBundlePush").from(4).once().call(reset));
    world.ingest_all().await;
    let order = order(&world);
    let again = order.iter().rposition(|sample| *sample == FRESH).unwrap();
    assert!(again >= 4, "{order:?}");
    assert_eq!(order[again..], newest_first());
    assert_eq!(world.ingest_all().await["submissions"], 0, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_history_that_fails_goes_to_quarantine_and_nothing_else_waits_for_it() {
    let world = world().await;
    world.vmray.estate().forbid_sample(3, true);
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [5, 1], "{answer:?}");
    assert_eq!(world.arrived(), samples([1, 2, 4, 5, FRESH]));
    add_at(&mut world.vmray.estate(), 101, ago(TimeDelta::minutes(1)));
    assert_eq!(world.ingest_all().await["samples"], 1);
    world.vmray.estate().forbid_sample(3, false);
    let _ = world.ask(&["quarantine", "retry", "--all"]).await;
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3, 4, 5, FRESH, 101]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_part_that_fails_stops_history_too() {
    let world = world().await;
    world.opencti.faults().add(Fault::on("stixBundlePush").status(503));
    let answer = world.ingest().await;
    assert_eq!((&answer["status"], order(&world)), (&json!("failed"), vec![]));
    assert_eq!(answer["history"]["days_left"], 9, "{answer:?}");
    assert_eq!(world.opencti_calls("registerConnector"), 1);
    world.heal();
    world.ingest_all().await;
    assert_eq!(order(&world), newest_first());
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_submissions_that_arrive_while_history_waits_for_the_queue_come_before_it() {
    let world = Arc::new(world_with(workers(Workers::Held)).await.setting("HISTORY_QUEUE_MESSAGES", "1"));
    let rounds = |n| Fault::on("registerConnector").from(n);
    let of = Arc::downgrade(&world);
    world.opencti.faults().add(rounds(3).once().call(move || {
        add_at(&mut of.upgrade().unwrap().vmray.estate(), 101, ago(TimeDelta::minutes(1)));
    }));
    let of = Arc::downgrade(&world);
    world.opencti.faults().add(rounds(6).call(move || of.upgrade().unwrap().opencti.platform().import_all()));
    let answer = world.ingest_all().await;
    assert_eq!(answer["samples"], 7, "{answer:?}");
    assert_eq!(order(&world), [FRESH, 101, 1, 2, 3, 4, 5]);
    let platform = world.opencti.platform();
    assert!(platform.bundles()[2..].iter().all(|bundle| bundle.waiting == 0), "room is respected");
    drop(platform);
    world.opencti.platform().import_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_figures_lag_is_never_flooded_with_history() {
    const ROOM: usize = 60;
    let paced = Workers::Paced { objects_per_second: 400 };
    let opencti =
        OpenctiOptions { workers: paced, statistics: Statistics::Collected, ..OpenctiOptions::default() };
    let world = world_with(opencti).await.setting("QUEUE_RECHECK_MS", "100");
    let world = Arc::new(world.setting("HISTORY_QUEUE_MESSAGES", &ROOM.to_string()));
    for id in 20..40_u64 {
        add_at(&mut world.vmray.estate(), id, days_ago(2) + TimeDelta::seconds(id.cast_signed()));
    }
    let of = Arc::downgrade(&world);
    let collect = move || of.upgrade().unwrap().opencti.platform().collect_statistics();
    world.opencti.faults().add(Fault::on("registerConnector").call(collect));
    let answer = world.ingest_all().await;
    assert_eq!(answer["samples"], 26, "{answer:?}");
    let mut platform = world.opencti.platform();
    let most = platform.bundles().iter().map(|bundle| bundle.waiting).max().unwrap();
    assert!(most < ROOM, "{most} waited when a bundle of history was pushed");
    assert!(most > 0, "it is pushed before the queue is empty");
    platform.import_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_needs_several_bundles_arrives_whole_although_there_is_room_for_one() {
    let world = Arc::new(world_with(workers(Workers::Held)).await);
    let of = Arc::downgrade(&world);
    let import = move || of.upgrade().unwrap().opencti.platform().import_all();
    world.opencti.faults().add(Fault::on("registerConnector").call(import));
    let run = world
        .ingest_command(&[])
        .set("HISTORY_QUEUE_MESSAGES", "1")
        .set("BUNDLE_MAX_OBJECTS", "20")
        .run()
        .await;
    assert_eq!(run.answer()["status"], "done");
    world.opencti.platform().import_all();
    assert_eq!(world.arrived(), samples(newest_first()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_left_goes_on_without_history() {
    let world = world().await;
    let _ = world.ask(&["cursor", "set", &text(days_ago(2))]).await;
    assert_eq!(history(&world).await, Value::Null);
    let answer = world.ingest_all().await;
    assert_eq!((order(&world), &answer["history"]), (vec![2, 1, FRESH], &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_connectors_last_run_is_where_the_fresh_part_starts_and_there_is_no_history() {
    let world = world().await;
    let last_run = days_ago(3) - TimeDelta::hours(1);
    let state = json!({"last_run": last_run.and_utc().timestamp()}).to_string();
    world.opencti.platform().set_state(CONNECTOR, Some(&state));
    let answer = world.ingest_all().await;
    assert_eq!((order(&world), &answer["history"]), (vec![3, 2, 1, FRESH], &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_commands_know_history() {
    let world = world().await;
    let reset = world.ask(&["cursor", "reset"]).await;
    let position: DateTime<Utc> = reset["position"].as_str().unwrap().parse().unwrap();
    assert!((Utc::now() - TimeDelta::days(1) - position).num_seconds().abs() < 60, "{reset}");
    assert_eq!([&reset["history"]["days_left"], &reset["history"]["done_at"]], [&json!(9), &Value::Null]);
    assert_eq!(reset["history"]["down_to"], reset["position"]);

    let place = days_ago(3);
    let set = world.ask(&["cursor", "set", &text(place)]).await;
    assert_eq!([&set["position"], &set["history"]["down_to"]], [&json!(text(place)); 2], "{set}");
    let show = world.bridge(&["cursor", "show"]).run().await.stdout;
    assert!(show.contains("history:     down to ") && show.contains(", 7 days left to "), "{show}");
    world.ingest_all().await;
    assert_eq!(order(&world), [3, 2, 1, FRESH, 4, 5], "what comes after the position is no history");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_and_a_dry_run_leave_history_alone() {
    let world = world_with(workers(Workers::Held)).await.setting("HISTORY_QUEUE_MESSAGES", "1");
    let before = world.ask(&["cursor", "reset"]).await["history"].clone();
    let answer = world.ingest_with(&["--from", &text(ago(TimeDelta::hours(1)))]).await;
    assert_eq!([&answer["samples"], &answer["history"]], [&json!(1), &before], "{answer:?}");
    let answer = world.ingest_with(&["--dry-run"]).await;
    assert_eq!([&answer["samples"], &answer["history"]], [&json!(1), &before], "{answer:?}");
    assert_eq!(history(&world).await, before);
    world.opencti.platform().import_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_come_again_and_again_stay_until_the_next_at_most() {
    let world = world_with(workers(Workers::Held))
        .await
        .setting("HISTORY_QUEUE_MESSAGES", "1")
        .setting("QUEUE_RECHECK_MS", "100");
    // More rounds than there is time for in one period.
    let (fault, pause) = Fault::on("registerConnector").from(15).once().pause();
    world.opencti.faults().add(fault);
    let run = world.ingest_command(&["--every", "PT1S"]).start();
    pause.reached().await;
    let signal = format!("kill -TERM {}", run.pid());
    let sent = tokio::process::Command::new("sh").args(["-c", &signal]).status().await;
    assert!(sent.unwrap().success());
    let run = run.end().await;
    pause.release();
    let answers: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!answers.is_empty(), "{run:?}");
    for answer in answers {
        assert_eq!([&answer["status"], &answer["history"]["days_left"]], [&json!("done"), &json!(9)]);
    }
    world.opencti.platform().import_all();
}
