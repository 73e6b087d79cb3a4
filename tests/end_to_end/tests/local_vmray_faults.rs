//! VMRay as it should not be: down, slow, throttling, forbidding, too long, not JSON, not ready.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use end_to_end::local::{VMRAY_KEY, World, add, estate, file_name, position, samples};
use serde_json::{Value, json};
use simulators::estate::{Estate, Part};
use simulators::faults::{Fault, FaultMatcher};

const MIB: usize = 1 << 20;

/// The reason for which a sample is in quarantine; it is the only one there.
async fn only_reason(world: &World, sample: u64) -> String {
    let quarantine = world.quarantine().await;
    let [entry] = quarantine.as_slice() else { panic!("{quarantine:?}") };
    assert_eq!(entry["sample_id"], sample);
    entry["reason"].as_str().unwrap().to_owned()
}

/// All samples of an estate of seven but the fourth have arrived, and that one is in quarantine for this reason.
async fn assert_poison(fault: Fault, reason: &str) -> World {
    let what = format!("{fault:?}");
    let world = World::new(estate(7)).await;
    world.vmray.faults().add(fault);
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3, 5, 6, 7]), "{what}");
    assert_eq!([&answer["samples"], &answer["quarantined"]], [6, 1], "{what}");
    assert_eq!(answer["position"], position(7), "{what}");
    assert_eq!(only_reason(&world, 4).await, reason, "{what}");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_sample_is_quarantined_and_the_rest_arrives() {
    let iocs = || Fault::on("GET /rest/sample/4/iocs");
    for (fault, reason) in [
        (iocs().status(403), "forbidden"),
        (iocs().status(404), "not_found"),
        (iocs().status(400), "malformed"),
        (iocs().status(500), "server_error"),
        (iocs().close(), "server_error"),
        (iocs().truncate(100), "server_error"),
        (iocs().html(), "malformed"),
        (iocs().body(200, "application/json", r#"{"result":"ok","data":[1]}"#), "malformed"),
        (iocs().body(200, "application/json", r#"{"result":"error","error_msg":"no"}"#), "malformed"),
        (iocs().body(200, "application/json", ""), "malformed"),
    ] {
        assert_poison(fault, reason).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_sample_that_is_cured_arrives_in_the_next_run_and_leaves_the_quarantine() {
    let world = assert_poison(Fault::on("GET /rest/sample/4*").html(), "malformed").await;
    world.heal();
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"], &answer["quarantined"]], [0, 1, 0]);
    assert_eq!(world.arrived(), samples(1..=7));
    assert_eq!(world.quarantine().await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_40_mb_is_not_read_to_its_end() {
    assert_poison(Fault::on("GET /rest/sample/4/iocs").huge(40 * MIB), "too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_bomb_is_not_inflated() {
    assert_poison(Fault::on("GET /rest/sample/4/iocs").bomb(40 * MIB), "too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_large_or_no_json_fails_the_run_and_loses_nothing() {
    let list = || Fault::on("GET /rest/submission");
    for (fault, hint) in [(list().huge(40 * MIB), "larger than"), (list().html(), "VMRAY_SERVER")] {
        let world = World::new(estate(3)).await;
        world.vmray.faults().add(fault);
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "VmrayError"]);
        assert!(answer.error().contains(hint), "{}", answer.error());
        world.heal();
        world.ingest_all().await;
        assert_eq!(world.arrived(), samples([1, 2, 3]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_that_hangs_is_given_up_and_the_rest_arrives() {
    let world = World::new(estate(5)).await.setting("SAMPLE_TIMEOUT_MS", "300");
    world.vmray.faults().add(Fault::on("GET /rest/sample/3/iocs").hang());
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 4, 5]));
    assert_eq!(answer["quarantined"], 1);
    assert_eq!(only_reason(&world, 3).await, "too_slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_once_is_repeated() {
    let world = World::new(estate(3)).await.setting("VMRAY_TIMEOUT_MS", "300");
    world.vmray.faults().add(Fault::on("GET /rest/sample/2/vtis").once().hang());
    world.vmray.faults().add(Fault::on("GET /rest/submission").once().hang());
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [3, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_loses_its_rights_in_mid_run_stops_the_run_and_quarantines_nothing() {
    let world = World::new(estate(30)).await.setting("BUNDLE_MAX_OBJECTS", "60");
    world.vmray.faults().add(Fault::on("GET /rest/sample/*").from(40).status(403));
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"]);
    assert!(answer.error().contains("rights"), "{}", answer.error());
    assert_eq!(world.quarantine().await, Vec::<Value>::new());
    world.heal();
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_in_mid_run_fails_the_run_and_says_where_the_key_comes_from() {
    let world = Arc::new(World::new(estate(20)).await.setting("BUNDLE_MAX_OBJECTS", "40"));
    let of = Arc::downgrade(&world);
    let revoke = move || of.upgrade().unwrap().vmray.set_api_keys(&["another"]);
    world.vmray.faults().add(Fault::on("GET /rest/sample/9/iocs").once().call(revoke));
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "VmrayUnauthorized"]);
    assert!(answer.error().contains("the API key from the environment"), "{}", answer.error());
    assert_eq!(answer["quarantined"], 0);
    world.vmray.set_api_keys(&[VMRAY_KEY]);
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=20));
}

/// Runs three times while VMRay is as the faults make it, then once when it is well again.
async fn assert_outlasts(fault: impl Fn(FaultMatcher) -> Fault, settings: &[(&str, &str)]) {
    let mut world = World::new(estate(3)).await;
    for (name, value) in settings {
        world.set(name, value);
    }
    world.ingest_all().await;
    (4..=9).for_each(|id| add(&mut world.vmray.estate(), id));
    world.vmray.faults().add(fault(Fault::any()));
    for _ in 0..3 {
        let answer = world.ingest().await;
        assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "VmrayError"], "{answer:?}");
        assert_eq!(answer["position"], position(3));
        assert_eq!([&answer["quarantined"], &answer["bundles"]], [0, 0]);
    }
    world.heal();
    let answer = world.ingest_all().await;
    assert_eq!(answer["samples"], 6);
    assert_eq!(world.arrived(), samples(1..=9));
}

#[tokio::test(flavor = "multi_thread")]
async fn vmray_down_for_many_runs_loses_nothing() {
    assert_outlasts(FaultMatcher::close, &[]).await;
    assert_outlasts(|any| any.status(503), &[]).await;
    assert_outlasts(|any| any.body(502, "text/html", "<html>Bad Gateway</html>"), &[]).await;
    assert_outlasts(FaultMatcher::hang, &[("VMRAY_TIMEOUT_MS", "30")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vmray_going_down_in_mid_run_keeps_what_was_delivered() {
    let world = World::new(estate(30)).await.setting("BUNDLE_MAX_OBJECTS", "60");
    world.vmray.faults().add(Fault::any().from(60).close());
    let answer = world.ingest().await;
    assert_eq!([&answer["status"], &answer["error_kind"]], ["failed", "SystemicFailure"]);
    assert_eq!(world.quarantine().await, Vec::<Value>::new());
    let delivered = world.arrived();
    assert!(!delivered.is_empty(), "what was read before is not thrown away");
    world.heal();
    let rest = world.ingest_all().await;
    assert_eq!(rest.figure("samples"), 30 - delivered.len() as u64);
    assert_eq!(world.arrived(), samples(1..=30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_delays_and_loses_nothing_and_wastes_few_calls() {
    let world = World::new(estate(12)).await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/*").rate_limit(12));
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["quarantined"]], [12, 0]);
    let refused = world.vmray.requests().iter().filter(|request| request.status == Some(429)).count();
    assert!((1..=40).contains(&refused), "a wave of those in flight, then half of it and so on: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vmray_has_not_put_together_waits_without_alarm_and_arrives_in_a_later_run() {
    for part in [Part::Iocs, Part::Vtis, Part::Mitre] {
        let world = World::new(estate(3)).await;
        world.vmray.estate().wait(2, part, 3); // two tries in the first run, one in the second
        let first = world.ingest_all().await;
        assert_eq!([&first["waiting"], &first["quarantined"], &first["samples"]], [1, 0, 2], "{part:?}");
        assert_eq!(first["position"], position(3), "{part:?}: nobody is held up");
        let second = world.ingest_all().await;
        assert_eq!([&second["waiting"], &second["samples"]], [1, 0], "{part:?}");
        world.ask(&["quarantine", "retry", "2"]).await; // instead of half an hour
        let third = world.ingest_all().await;
        assert_eq!([&third["waiting"], &third["samples"]], [0, 1], "{part:?}");
        assert_eq!(world.arrived(), samples([1, 2, 3]), "{part:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_together_a_moment_later_arrives_in_the_same_run() {
    let world = World::new(estate(3)).await;
    world.vmray.estate().wait(2, Part::Iocs, 1);
    let answer = world.ingest_all().await;
    assert_eq!([&answer["samples"], &answer["waiting"]], [3, 0]);
}

fn family() -> Estate {
    let mut estate = estate(3);
    let parent = simulators::estate::SampleSpec { children: vec![2, 3, 50], ..end_to_end::local::sample(1) };
    estate.add_sample(parent);
    estate
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_that_cannot_be_read_is_left_out_and_its_sample_arrives() {
    let world = World::new(family()).await;
    let answer = world.ingest_all().await;
    assert_eq!(world.arrived(), samples([1, 2, 3]));
    assert_eq!(answer["left_out"], json!({"relative_unreadable": 1}));
    assert_eq!(world.vmray_calls("GET /rest/sample/{}"), 4, "each is read once, as itself and as a relative");
    assert!(world.bundles().concat().contains(&file_name(1)));
}
