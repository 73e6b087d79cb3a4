//! Whether what the function answers, logs and measures is true.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use end_to_end::ingest::{CONNECTOR, MINUTES, World, add, estate, minute, position, schedule};
use serde_json::{Value, json};
use simulators::estate::{Estate, Part, SampleSpec, SubmissionSpec, Verdict};
use simulators::faults::Fault;

/// Two samples arrive; one submission is clean, one sample merely suspicious, one is deleted, one is not put together.
fn mixed() -> Estate {
    let mut estate = estate(2);
    estate.add_sample(SampleSpec { verdict: Some(Verdict::Clean), ..SampleSpec::file(3, "clean.exe") });
    estate.add_submission(SubmissionSpec::finished(1003, 3, minute(3)).verdict(Verdict::Clean));
    estate.add_sample(SampleSpec { verdict: Some(Verdict::Suspicious), ..SampleSpec::file(4, "odd.exe") });
    estate.add_submission(SubmissionSpec::finished(1004, 4, minute(4)).verdict(Verdict::Suspicious));
    (5..=6).for_each(|id| add(&mut estate, id));
    estate.delete_sample(5);
    estate.wait(6, Part::Iocs, 1000);
    estate
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_answer_has_all_its_members_and_they_are_true() {
    let world = World::new(mixed()).await;
    let answer = world.run(schedule()).await;
    let members: BTreeSet<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "status",
        "run_id",
        "window",
        "submissions",
        "samples",
        "skipped",
        "left_out",
        "quarantined",
        "waiting",
        "objects",
        "known",
        "bundles",
        "rejected",
        "position",
        "lag_seconds",
        "calls",
        "duration_ms",
    ];
    assert_eq!(members, BTreeSet::from(expected));

    let counts = ["submissions", "samples", "skipped", "quarantined", "waiting", "lag_seconds"];
    assert_eq!(counts.map(|name| answer[name].as_i64().unwrap()), [6, 2, 2, 1, 1, 0], "{answer}");
    assert_eq!((&answer["status"], &answer["position"]), (&json!("done"), &json!(position(6))));
    assert_eq!(answer["calls"], json!({"vmray": world.vmray_calls(), "opencti": world.opencti_calls()}));
    assert_eq!(answer["rejected"], json!({}));
    assert!(answer["left_out"].is_object());
    assert!(answer["duration_ms"].as_u64().unwrap() > 0);
    assert!(uuid::Uuid::parse_str(answer["run_id"].as_str().unwrap()).is_ok());
    assert_eq!(answer["window"]["from"], position(0), "nothing before the initial date");
    assert!(time(&answer["window"]["to"]) > Utc::now(), "servers' clocks differ");

    let platform = world.opencti.platform();
    let objects: usize = platform.bundles().iter().map(|bundle| bundle.objects().len()).sum();
    assert_eq!(answer["objects"], objects);
    assert_eq!(answer["bundles"], platform.bundles().len());
}

/// Every figure that alarms and dashboards may rely on.
const METRICS: [&str; 19] = [
    "Bundles",
    "Duration",
    "HistoryDaysLeft",
    "LagSeconds",
    "LeftOut",
    "Objects",
    "OpenctiCalls",
    "OpenctiUnauthorized",
    "Quarantined",
    "Rejected",
    "RunsBuffering",
    "RunsFailed",
    "RunsSucceeded",
    "Samples",
    "Skipped",
    "Submissions",
    "VmrayCalls",
    "VmrayUnauthorized",
    "Waiting",
];

/// The lines in CloudWatch's format, each valid by its rules.
fn metrics(lines: &[Value]) -> Vec<&Value> {
    let metrics: Vec<&Value> = lines.iter().filter(|line| line.get("_aws").is_some()).collect();
    for line in &metrics {
        let timestamp = line["_aws"]["Timestamp"].as_i64().unwrap();
        assert!((Utc::now().timestamp_millis() - timestamp).abs() < 60_000, "{line}");
        let [directive] = line["_aws"]["CloudWatchMetrics"].as_array().unwrap().as_slice() else {
            panic!("one directive: {line}");
        };
        assert_eq!(directive["Namespace"], "VMRayBridge");
        assert_eq!(directive["Dimensions"], json!([["Function"]]));
        assert_eq!(line["Function"], "ingest");
        for definition in directive["Metrics"].as_array().unwrap() {
            let unit = definition["Unit"].as_str().unwrap();
            assert!(["Count", "Seconds", "Milliseconds"].contains(&unit), "{definition}");
            assert!(
                line[definition["Name"].as_str().unwrap()].is_number(),
                "{definition} has no value: {line}"
            );
        }
    }
    metrics
}

fn names(line: &Value) -> BTreeSet<&str> {
    let definitions = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    definitions.iter().map(|definition| definition["Name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_run_prints_its_figures_as_one_line_of_embedded_metrics() {
    let world = World::new(mixed()).await;
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    let lines = lambda.lines();
    let [line] = metrics(&lines)[..] else { panic!("one line a run: {}", lambda.stdout()) };
    assert_eq!(names(line), BTreeSet::from(METRICS));
    for (metric, member) in [
        ("Submissions", &answer["submissions"]),
        ("Samples", &answer["samples"]),
        ("Skipped", &answer["skipped"]),
        ("Quarantined", &answer["quarantined"]),
        ("Waiting", &answer["waiting"]),
        ("Objects", &answer["objects"]),
        ("Bundles", &answer["bundles"]),
        ("VmrayCalls", &answer["calls"]["vmray"]),
        ("OpenctiCalls", &answer["calls"]["opencti"]),
        ("LagSeconds", &answer["lag_seconds"]),
        ("Duration", &answer["duration_ms"]),
        ("run_id", &answer["run_id"]),
        ("RunsSucceeded", &json!(1)),
        ("RunsFailed", &json!(0)),
    ] {
        assert_eq!(line[metric], *member, "{metric}");
    }
    let _ = lambda.invoke(json!({"heartbeat": true}), MINUTES).await.answer();
    assert_eq!(metrics(&lambda.lines()).len(), 1, "a heartbeat is no run");
}

#[tokio::test]
async fn a_failed_run_is_a_failed_invocation_with_figures() {
    let world = World::new(estate(1)).await;
    world.vmray.set_api_keys(&["another"]);
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "VmrayUnauthorized");
    let answer: Value = serde_json::from_str(&message).unwrap();
    assert_eq!((&answer["status"], &answer["error_kind"]), (&json!("failed"), &json!("VmrayUnauthorized")));
    let lines = lambda.lines();
    let [line] = metrics(&lines)[..] else { panic!("one line a run: {}", lambda.stdout()) };
    let expected =
        [("RunsFailed", 1), ("RunsSucceeded", 0), ("VmrayUnauthorized", 1), ("OpenctiUnauthorized", 0)];
    for (metric, value) in expected {
        assert_eq!(line[metric], value, "{metric}");
    }
    assert!(line["LagSeconds"].as_i64().unwrap() > 3600, "a failing run is behind: {line}");
    let state = world.opencti.platform().connector(CONNECTOR).unwrap().state.clone().unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!((&state["bridge"], &state["status"]), (&json!(1), &json!("failed")));
    assert!(state["last_error"].as_str().unwrap().contains("refuses the API key"), "{state}");
}

#[tokio::test]
async fn a_full_queue_is_answered_as_buffering_and_nothing_is_fetched() {
    let world = World::new(estate(1)).await;
    world.opencti.platform().set_queue(Some((10_000, 500_000_000)));
    let lambda = world.lambda().await;
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!((&answer["status"], &answer["calls"]["vmray"]), (&json!("buffering"), &json!(0)), "{answer}");
    let lines = lambda.lines();
    let [line] = metrics(&lines)[..] else { panic!("one line a run: {}", lambda.stdout()) };
    assert_eq!(
        (&line["RunsBuffering"], &line["RunsSucceeded"], &line["RunsFailed"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(world.opencti.platform().connector(CONNECTOR).unwrap().info["buffering"], true);
    world.opencti.platform().set_queue(None);
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1);
}

#[tokio::test]
async fn a_run_that_cannot_tell_its_lag_does_not_claim_to_have_none() {
    let world = World::new(estate(1)).await;
    world.aws.dynamodb_faults().add(Fault::on("GetItem").status(400));
    let lambda = world.lambda().await;
    let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
    assert_eq!(kind, "StoreError", "{message}");
    let lines = lambda.lines();
    let [line] = metrics(&lines)[..] else { panic!("one line a run: {}", lambda.stdout()) };
    assert!(!names(line).contains("LagSeconds"), "{line}");
    assert_eq!(line["RunsFailed"], 1);
}

#[tokio::test]
async fn logs_are_json_lines_that_belong_to_their_run() {
    let mut world = World::new(mixed()).await;
    world.set("CONNECTOR_LOG_LEVEL", "debug");
    let lambda = world.lambda().await;
    for _ in 0..2 {
        let before = lambda.lines().len();
        let answer = lambda.invoke(schedule(), MINUTES).await.answer();
        let lines = lambda.lines().split_off(before);
        let logs: Vec<&Value> = lines.iter().filter(|line| line.get("_aws").is_none()).collect();
        assert!(!logs.is_empty());
        for line in &logs {
            assert!(
                ["timestamp", "level", "target", "message"].iter().all(|name| line[name].is_string()),
                "{line}"
            );
            assert_eq!(line["run_id"], answer["run_id"], "{line}");
        }
        let last = logs.last().unwrap();
        assert_eq!((&last["message"], &last["samples"]), (&json!("run ended"), &answer["samples"]));
    }
}
