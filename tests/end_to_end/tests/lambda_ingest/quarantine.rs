//! Samples that fail, and operators who reset: what is in the table afterwards.

use chrono::{DateTime, TimeDelta, Utc};
use end_to_end::ingest::{CONNECTOR, MINUTES, World, estate, position, schedule};
use serde_json::{Value, json};
use simulators::estate::Part;
use simulators::faults::Fault;

/// Fourteen samples: 2 deleted, 4 not shared, 6 garbled, 8 failing in VMRay, 10 not put together, 12 refused by OpenCTI.
async fn six_of_fourteen_fail() -> World {
    let mut estate = estate(14);
    estate.delete_sample(2);
    estate.forbid_sample(4, true);
    estate.wait(10, Part::Iocs, 1000);
    let world = World::new(estate).await;
    let garbled =
        Fault::on("GET /rest/sample/6").body(200, "application/json", r#"{"result":"ok","data":[1]}"#);
    world.vmray.faults().add(garbled);
    world.vmray.faults().add(Fault::on("GET /rest/sample/8/vtis").status(503));
    let refused = Fault::on("stixBundlePush").containing("sample-12.exe");
    world.opencti.faults().add(refused.graphql_error("Bundle is not valid", "FUNCTIONAL_ERROR", 400));
    world
}

/// Everything that was wrong is put right.
fn heal(world: &World) {
    world.vmray.faults().clear();
    world.opencti.faults().clear();
    let mut estate = world.vmray.estate();
    estate.forbid_sample(4, false);
    estate.wait(10, Part::Iocs, 0);
}

#[tokio::test]
async fn what_fails_is_kept_with_its_reason_while_the_rest_arrives() {
    let world = six_of_fourteen_fail().await;
    let answer = world.run(schedule()).await;
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(8)), "{answer}");
    assert_eq!((&answer["quarantined"], &answer["waiting"]), (&json!(5), &json!(1)), "{answer}");
    assert_eq!(answer["position"], position(14), "nothing waits for them");
    let quarantine = world.aws.quarantine().await;
    let reasons: Vec<(u64, &str)> =
        quarantine.iter().map(|(sample, entry)| (*sample, entry["reason"].as_str().unwrap())).collect();
    let expected = [
        (2, "not_found"),
        (4, "forbidden"),
        (6, "malformed"),
        (8, "server_error"),
        (10, "not_aggregated"),
        (12, "push_refused"),
    ];
    assert_eq!(reasons, expected);
    for (sample, entry) in quarantine {
        assert_eq!(entry["sk"], format!("quarantine#{sample:012}"));
        assert_eq!(entry["state"], if sample == 10 { "waiting" } else { "failed" }, "{entry}");
        assert_eq!(entry["attempts"], if sample == 2 { 1 } else { 2 }, "{entry}");
        assert_eq!(entry["submissions"][0]["id"], 1000 + sample, "{entry}");
        assert!(!entry["detail"].as_str().unwrap().is_empty() && entry["given_up"] == false, "{entry}");
        assert!(entry.get("ttl").is_none(), "it is kept until somebody decides: {entry}");
        assert!(!entry.to_string().contains('@'), "nobody's address is stored: {entry}");
    }
}

#[tokio::test]
async fn what_was_quarantined_arrives_in_the_next_invocation_when_it_can() {
    let world = six_of_fourteen_fail().await;
    let lambda = world.lambda().await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    heal(&world);
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["submissions"], &answer["samples"]), (&json!(0), &json!(5)), "{answer}");
    assert_eq!(world.arrived(4..=14), (4..=14).collect::<Vec<_>>());
    let left = world.aws.quarantine().await;
    assert_eq!(left.keys().collect::<Vec<_>>(), [&2], "only what is gone for good");
    assert_eq!((&answer["quarantined"], &answer["waiting"]), (&json!(1), &json!(0)), "{answer}");
    world.assert_holds_what_a_clean_run_gives().await;
}

#[tokio::test]
async fn what_fails_again_is_tried_later_and_given_up_in_the_end() {
    let mut estate = estate(2);
    estate.forbid_sample(1, true);
    let mut world = World::new(estate).await;
    world.set("QUARANTINE_MAX_ATTEMPTS", "4");
    let lambda = world.lambda().await;
    let asked = || world.vmray.requests().iter().filter(|request| request.path == "/rest/sample/1").count();
    let mut next_attempts = Vec::new();
    for _ in 0..2 {
        let _ = lambda.invoke(schedule(), MINUTES).await.answer();
        let entry = world.aws.quarantine().await.remove(&1).unwrap();
        next_attempts.push(entry["next_attempt"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap());
    }
    assert!(next_attempts[0] <= Utc::now(), "due at once in the next run");
    let pause = next_attempts[1] - Utc::now();
    assert!((29..=30).contains(&pause.num_minutes()), "then in half an hour, not in {pause}");

    let before = asked();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["quarantined"], 1);
    assert_eq!(asked(), before, "not due, not asked for");

    let mut entry = world.aws.quarantine().await.remove(&1).unwrap();
    entry["next_attempt"] = (Utc::now() - TimeDelta::seconds(1)).to_rfc3339().into();
    world.aws.put_item(&entry).await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let entry = world.aws.quarantine().await.remove(&1).unwrap();
    assert_eq!((&entry["given_up"], &entry["attempts"]), (&json!(true), &json!(4)), "{entry}");
    let given_up = |line: &Value| line["level"] == "ERROR" && line["sample_id"] == 1;
    assert_eq!(lambda.lines().iter().filter(|line| given_up(line)).count(), 1, "loudly, once");
}

#[tokio::test]
async fn a_key_that_has_lost_its_rights_fails_the_run_and_quarantines_nothing() {
    let world = World::new(estate(8)).await;
    world.vmray.faults().add(Fault::on("GET /rest/sample/*").status(403));
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "SystemicFailure", "{message}");
    let items = world.aws.items().await;
    assert_eq!(items.keys().collect::<Vec<_>>(), ["cursor"]);
    assert_eq!(items["cursor"]["position"], position(0), "{items:?}");
    world.vmray.faults().clear();
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 8);
}

#[tokio::test]
async fn an_opencti_that_is_down_fails_the_run_with_a_stable_name_and_moves_nothing() {
    let world = World::new(estate(3)).await;
    let lambda = world.lambda().await;
    for fault in [Fault::on("registerConnector").close(), Fault::on("stixBundlePush").close()] {
        world.opencti.faults().add(fault);
        let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "OpenctiError", "{message}");
        let cursor = world.aws.cursor().await.unwrap();
        assert!([json!(position(0)), Value::Null].contains(&cursor["position"]), "{cursor}");
        assert!(world.aws.quarantine().await.is_empty());
        world.opencti.faults().clear();
    }
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 3);
}

#[tokio::test]
async fn a_reset_in_mid_run_is_followed_by_the_next_run() {
    let mut world = World::new(estate(5)).await;
    world.one_sample_per_bundle();
    world.opencti.platform().reset_at_push(3);
    let lambda = world.lambda().await;
    let first = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&first["status"], &first["samples"]), (&json!("done"), &json!(5)), "{first}");
    let timestamp = world.opencti.platform().connector(CONNECTOR).unwrap().state_timestamp.clone();
    assert_ne!(world.aws.cursor().await.unwrap()["state_timestamp"], timestamp, "not seen yet");

    let before = world.contents();
    let second = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(
        (&second["status"], &second["samples"]),
        (&json!("done"), &json!(5)),
        "everything again: {second}"
    );
    assert_eq!(world.aws.cursor().await.unwrap()["state_timestamp"], timestamp);
    assert_eq!(world.contents(), before, "nothing is new about it");
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 0, "once");
}

#[tokio::test]
async fn a_reset_makes_all_of_the_quarantine_due() {
    let mut estate = estate(3);
    estate.forbid_sample(2, true);
    let world = World::new(estate).await;
    let lambda = world.lambda().await;
    for _ in 0..2 {
        let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    }
    world.vmray.estate().forbid_sample(2, false);
    assert_eq!(
        lambda.invoke(schedule(), MINUTES).await.answer()["quarantined"],
        1,
        "not due for half an hour"
    );
    assert!(world.opencti.platform().operator_reset(CONNECTOR));
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["samples"], &answer["quarantined"]), (&json!(3), &json!(0)), "{answer}");
    assert!(world.aws.quarantine().await.is_empty());
}

#[tokio::test]
async fn a_deleted_sample_that_was_given_up_long_ago_is_forgotten_and_what_an_operator_decides_is_kept() {
    let world = World::new(estate(2)).await;
    let entry = |sample: u64, reason: &str, days: i64| {
        let then = (Utc::now() - TimeDelta::days(days)).to_rfc3339();
        json!({
            "pk": format!("ingest#{CONNECTOR}"), "sk": format!("quarantine#{sample:012}"), "version": 1,
            "sample_id": sample, "submissions": [], "state": "failed", "reason": reason, "detail": "it failed",
            "attempts": 10, "since": then, "next_attempt": then, "given_up": true,
        })
    };
    for (sample, reason, days) in [(7, "not_found", 36), (8, "not_found", 34), (9, "forbidden", 400)] {
        world.aws.put_item(&entry(sample, reason, days)).await;
    }
    let answer = world.run(schedule()).await;
    assert_eq!(world.aws.quarantine().await.keys().collect::<Vec<_>>(), [&8, &9]);
    assert_eq!(answer["quarantined"], 2);
}
