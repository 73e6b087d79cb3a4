//! What each kind of event brings about, and what the function answers and prints.

use end_to_end::aws::dynamodb_local_endpoint;
use end_to_end::ingest::{CONNECTOR, MINUTES, World, estate, event, minute, position, schedule};
use serde_json::{Value, json};
use simulators::vmray::VmrayOptions;

/// A schedule event brings everything, and the next one finds nothing new.
async fn a_full_cycle(world: &World) {
    let lambda = world.lambda().await;
    let first = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(first["status"], "done", "{first}");
    assert_eq!((&first["submissions"], &first["samples"]), (&json!(5), &json!(5)));
    assert_eq!(first["position"], position(5));
    assert_eq!(world.arrived(1..=5), [1, 2, 3, 4, 5]);
    let works = world.opencti.platform().works().len();

    let second = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(second["status"], "done", "{second}");
    assert_eq!((&second["submissions"], &second["objects"]), (&json!(0), &json!(0)));
    assert_eq!(second["position"], position(5));
    let calls = second["calls"]["vmray"].as_u64().unwrap() + second["calls"]["opencti"].as_u64().unwrap();
    assert!(calls <= 8, "nothing new costs {calls} calls");
    assert_eq!(world.opencti.platform().works().len(), works, "no work was opened for nothing");
}

#[tokio::test]
async fn a_schedule_event_brings_everything_and_the_next_one_finds_nothing_new() {
    a_full_cycle(&World::new(estate(5)).await).await;
}

#[tokio::test]
async fn a_full_cycle_on_awss_own_dynamodb_engine() {
    let Some(endpoint) = dynamodb_local_endpoint() else { return };
    let world =
        World::on(Some(endpoint), VmrayOptions { estate: estate(5), ..VmrayOptions::default() }).await;
    a_full_cycle(&world).await;
}

#[tokio::test]
async fn a_manual_window_brings_what_finished_in_it_and_moves_no_cursor() {
    let world = World::new(estate(5)).await;
    let answer = world.run(event("ingest-window.json")).await;
    assert_eq!((&answer["status"], &answer["samples"]), (&json!("done"), &json!(2)), "{answer}");
    assert_eq!(world.arrived(1..=5), [2, 3]);
    let cursor = world.aws.cursor().await.unwrap();
    assert_eq!((&cursor["position"], &cursor["checked_at"]), (&Value::Null, &Value::Null), "{cursor}");
    assert!(
        answer["lag_seconds"].as_i64().unwrap() > 3600,
        "two minutes are not all there is to handle: {answer}"
    );

    let scheduled = world.run(schedule()).await;
    assert_eq!(scheduled["samples"], 5, "the schedule does not rely on a window: {scheduled}");
}

#[tokio::test]
async fn a_dry_run_reads_everything_and_leaves_no_trace() {
    let world = World::new(estate(5)).await;
    let answer = world.run(event("ingest-dry-run.json")).await;
    assert_eq!((&answer["status"], &answer["dry_run"]), (&json!("done"), &json!(true)), "{answer}");
    assert_eq!(answer["samples"], 5);
    assert!(answer["objects"].as_u64().unwrap() > 20, "{answer}");
    assert!(world.aws.items().await.is_empty(), "nothing is stored");
    let calls = world.opencti.calls();
    assert_eq!(calls.into_keys().collect::<Vec<_>>(), ["markingDefinition"], "nothing is changed in OpenCTI");
    assert!(answer["lag_seconds"].as_i64().unwrap() > 3600, "nothing was handled: {answer}");
}

#[tokio::test]
async fn a_heartbeat_touches_only_opencti_and_keeps_the_state() {
    let world = World::new(estate(3)).await;
    let lambda = world.lambda().await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let before = world.opencti.platform().connector(CONNECTOR).unwrap().clone();
    let (vmray, items) = (world.vmray_calls(), world.aws.items().await);
    let writes = world.aws.dynamodb_calls("PutItem");
    world.opencti.clear_log();

    let answer = lambda.invoke(event("ingest-heartbeat.json"), MINUTES).await.answer();
    assert_eq!(
        (&answer["status"], &answer["calls"]["opencti"]),
        (&json!("heartbeat"), &json!(2)),
        "{answer}"
    );
    let after = world.opencti.platform().connector(CONNECTOR).unwrap().clone();
    assert_eq!((&after.state, &after.state_timestamp), (&before.state, &before.state_timestamp));
    assert!(after.updated_at > before.updated_at, "the page shows it alive");
    assert_eq!(world.opencti.calls().into_keys().collect::<Vec<_>>(), ["pingConnector", "registerConnector"]);
    assert_eq!(world.vmray_calls(), vmray);
    assert_eq!(world.aws.items().await, items);
    assert_eq!(world.aws.dynamodb_calls("PutItem"), writes, "no lease was taken");
}

#[tokio::test]
async fn a_heartbeat_leaves_a_reset_to_the_next_run_for_which_everything_comes_again() {
    let world = World::new(estate(3)).await;
    let lambda = world.lambda().await;
    let _ = lambda.invoke(schedule(), MINUTES).await.answer();
    let first = world.pushed_objects();
    assert!(world.opencti.platform().operator_reset(CONNECTOR));

    for _ in 0..2 {
        let _ = lambda.invoke(event("ingest-heartbeat.json"), MINUTES).await.answer();
    }
    let answer = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(answer["samples"], 3, "{answer}");
    for (id, contents) in world.pushed_objects() {
        assert_eq!(contents.len(), 2 * first[&id].len(), "{id} came again");
        assert!(contents.iter().all(|content| *content == contents[0]), "{id} changed: {contents:?}");
    }
    let again = lambda.invoke(schedule(), MINUTES).await.answer();
    assert_eq!(again["samples"], 0, "a reset counts once: {again}");
}

#[tokio::test]
async fn a_heartbeat_before_the_first_run_keeps_the_python_connectors_place() {
    let world = World::new(estate(60)).await;
    let last_run = minute(58).format("%Y-%m-%dT%H:%M:%S").to_string();
    world.opencti.platform().set_state(CONNECTOR, Some(&json!({"last_run": last_run}).to_string()));
    let _ = world.run(event("ingest-heartbeat.json")).await;
    let answer = world.run(schedule()).await;
    assert_eq!(answer["status"], "done", "{answer}");
    assert_eq!(answer["samples"], 18, "from 15 minutes before its last run: {answer}");
}

#[tokio::test]
async fn an_event_that_is_none_is_refused_and_nothing_is_called() {
    let world = World::new(estate(1)).await;
    let lambda = world.lambda().await;
    for (wrong, named) in [
        (json!({"dryrun": true}), "dryrun"),
        (json!({"dry_run": "yes"}), "dry_run"),
        (json!({"from": "yesterday"}), "from"),
        (json!({"to": "2026-01-31"}), "to"),
        (json!({"from": "2026-02-01", "to": "2026-01-31"}), "from"),
        (json!({"heartbeat": true, "heart_beat": true}), "heart_beat"),
        (json!("run"), "run"),
        (json!([{}]), "[{}]"),
    ] {
        let (kind, message) = lambda.invoke(wrong.clone(), MINUTES).await.error();
        assert_eq!(kind, "InvalidEvent", "{wrong}");
        assert!(message.contains(named), "{wrong}: {message}");
    }
    assert_eq!((world.vmray_calls(), world.opencti_calls()), (0, 0));
    assert!(world.aws.items().await.is_empty());
    assert_eq!(lambda.invoke(schedule(), MINUTES).await.answer()["samples"], 1, "and the process goes on");
}

/// Every setting of the function, each with a text that it does not take.
const WRONG: [(&str, &str); 37] = [
    ("OPENCTI_URL", "ftp://opencti.test"),
    ("CONNECTOR_ID", " "),
    ("CONNECTOR_NAME", "x"),
    ("CONNECTOR_SCOPE", ","),
    ("CONNECTOR_LOG_LEVEL", "loud"),
    ("CONNECTOR_QUEUE_THRESHOLD", "-1"),
    ("VMRAY_SERVER", "ftp://vmray.test"),
    ("VMRAY_INITIAL_FETCH_DATE", "soon"),
    ("VMRAY_SAMPLE_VERDICT", "evil"),
    ("VMRAY_IOCS_VERDICT", "evil"),
    ("VMRAY_DEFAULT_TLP", "TLP:PURPLE"),
    ("VMRAY_THREAT_NAMES_COLOR", "red"),
    ("VMRAY_CLASSIFICATIONS_COLOR", "red"),
    ("VMRAY_VTI_COLOR", "red"),
    ("VMRAY_MITRE_COLOR", "red"),
    ("VMRAY_IOC_TYPES", "smells"),
    ("VMRAY_LABELS", "smells"),
    ("VMRAY_CONFIDENCE", "101"),
    ("VMRAY_VERIFY_TLS", "perhaps"),
    ("OPENCTI_VERIFY_TLS", "perhaps"),
    ("DISABLE_PROXY", "perhaps"),
    ("TABLE_NAME", ""),
    ("SECRET_ARN", ""),
    ("INGEST_CONCURRENCY", "0"),
    ("BUNDLE_MAX_OBJECTS", "0"),
    ("BUNDLE_MAX_BYTES", "4 sheets"),
    ("OPENCTI_COMPRESSION", "zip"),
    ("FEED_OVERLAP", "P8D"),
    ("HISTORY", "newest"),
    ("HISTORY_QUEUE_MESSAGES", "0"),
    ("QUARANTINE_MAX_ATTEMPTS", "0"),
    ("HTTP_CONNECT_TIMEOUT_MS", "fast"),
    ("VMRAY_TIMEOUT_MS", "fast"),
    ("OPENCTI_TIMEOUT_MS", "fast"),
    ("RETRY_BASE_MS", "fast"),
    ("SAMPLE_TIMEOUT_MS", "fast"),
    ("QUEUE_RECHECK_MS", "fast"),
];

#[tokio::test]
async fn every_wrong_setting_is_named_at_once_and_nothing_is_called() {
    let mut world = World::new(estate(1)).await;
    for (name, wrong) in WRONG {
        world.set(name, wrong);
    }
    let lambda = world.lambda().await;
    for _ in 0..2 {
        let (kind, message) = lambda.invoke(schedule(), MINUTES).await.error();
        assert_eq!(kind, "SettingsError");
        for (name, _) in WRONG {
            assert!(message.contains(&format!("{name}: ")), "{name} is not named: {message}");
        }
        let count = format!("{} wrong setting(s)", WRONG.len());
        assert!(message.starts_with(&count), "{message}");
    }
    assert_eq!((world.vmray_calls(), world.opencti_calls(), world.aws.secret_readings()), (0, 0, 0));
    assert!(lambda.lines().iter().all(|line| line["level"] == "ERROR"), "{}", lambda.stdout());
}
