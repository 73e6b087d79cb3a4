//! The operator: resets, moving over from the Python connector, manual windows, dry runs, the cursor, the settings.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use end_to_end::local::{CONNECTOR, World, add, estate, minute, position, samples};
use serde_json::{Value, json};
use simulators::faults::Fault;

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_after_a_run_brings_everything_again() {
    let world = World::new(estate(5)).await;
    world.ingest_all().await;
    world.opencti.platform().operator_reset(CONNECTOR);
    let answer = world.ingest_all().await;
    assert_eq!([&answer["submissions"], &answer["samples"]], [5, 5]);
    assert_eq!(world.ingest_all().await["submissions"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_before_the_first_run_takes_the_python_connectors_place_away() {
    let world = World::new(estate(5)).await;
    let state = json!({"last_run": minute(4).and_utc().timestamp()}).to_string();
    world.opencti.platform().set_state(CONNECTOR, Some(&state));
    world.opencti.platform().operator_reset(CONNECTOR);
    assert_eq!(world.ingest_all().await["samples"], 5);
    assert_eq!(world.ingest_all().await["samples"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_any_moment_of_a_run_is_followed_by_the_next_run() {
    let moments = ["pingConnector", "markingDefinition", "connector", "stixBundlePush"];
    for moment in moments {
        let world = Arc::new(World::new(estate(4)).await);
        world.ingest_all().await;
        add(&mut world.vmray.estate(), 5);
        let of = Arc::downgrade(&world);
        let reset = move || assert!(of.upgrade().unwrap().opencti.platform().operator_reset(CONNECTOR));
        world.opencti.faults().add(Fault::on(moment).once().call(reset));
        world.ingest_all().await;
        assert_eq!(world.ingest_all().await["samples"], 5, "{moment}");
        assert_eq!(world.ingest_all().await["samples"], 0, "{moment}: once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_during_a_manual_run_is_followed_by_the_next_run() {
    let world = World::new(estate(4)).await;
    world.ingest_all().await;
    world.opencti.platform().operator_reset(CONNECTOR);
    world.ingest_with(&["--from", "2025-06-01T10:04:00Z"]).await;
    assert_eq!(world.ingest_all().await["samples"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_makes_all_quarantine_due_also_what_was_given_up() {
    let world = World::new(estate(3)).await.setting("QUARANTINE_MAX_ATTEMPTS", "1");
    world.vmray.estate().forbid_sample(2, true);
    world.ingest_all().await;
    assert_eq!(world.quarantine().await[0]["given_up"], true);
    world.vmray.estate().forbid_sample(2, false);
    world.opencti.platform().operator_reset(CONNECTOR);
    assert_eq!(world.ingest_all().await["quarantined"], 0);
    assert_eq!(world.arrived(), samples([1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_the_python_connector_stood() {
    let seconds = minute(3).and_utc().timestamp();
    for last_run in [json!(seconds), json!("2025-06-01T10:03:00"), json!("2025-06-01T12:03:00+02:00")] {
        let world = World::new(estate(6)).await.setting("FEED_OVERLAP", "PT0S");
        let state = json!({"last_run": last_run, "failed_sample_id": null}).to_string();
        world.opencti.platform().set_state(CONNECTOR, Some(&state));
        let answer = world.ingest_all().await;
        assert_eq!(world.arrived(), samples([3, 4, 5, 6]), "{last_run}");
        assert!(answer.stderr.contains("Python connector"), "it says so");
        add(&mut world.vmray.estate(), 7);
        assert_eq!(world.ingest_all().await["samples"], 1, "{last_run}: and then on its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_state_than_the_python_connectors_starts_at_the_initial_date() {
    for state in [r#"{"bridge": 1, "last_run": 1748772180}"#, "", "not json", r#"{"last_run": null}"#] {
        let world = World::new(estate(3)).await;
        world.opencti.platform().set_state(CONNECTOR, Some(state));
        assert_eq!(world.ingest_all().await["samples"], 3, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_file_brings_everything_again_and_changes_nothing() {
    let world = World::new(estate(4)).await;
    world.ingest_all().await;
    let knowledge = world.knowledge();
    world.forget_state();
    assert_eq!(world.ingest_all().await["samples"], 4);
    assert_eq!(world.knowledge(), knowledge);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_the_position_on_the_connectors_page() {
    let world = World::new(estate(3)).await;
    world.vmray.estate().forbid_sample(2, true);
    world.ingest_all().await;
    let platform = world.opencti.platform();
    let connector = platform.connector(CONNECTOR).unwrap();
    let state: Value = serde_json::from_str(connector.state.as_deref().unwrap()).unwrap();
    assert_eq!(
        state,
        json!({"bridge": 1, "position": position(3), "status": "done", "quarantined": 1, "waiting": 0, "last_error": null})
    );
    assert_eq!(connector.info["run_and_terminate"], true);
    assert!(connector.info["last_run_datetime"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_on_the_connectors_page_why_a_run_failed() {
    let world = World::new(estate(3)).await;
    world.vmray.faults().add(Fault::any().status(503));
    world.ingest().await;
    let platform = world.opencti.platform();
    let state = platform.connector(CONNECTOR).unwrap().state.clone().unwrap();
    assert!(state.contains("503") && state.contains(r#""status":"failed""#), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_window_moves_no_cursor() {
    let world = World::new(estate(6)).await;
    world.ingest_all().await;
    let before = world.ask(&["cursor", "show"]).await;
    let page = world.opencti.platform().connector(CONNECTOR).unwrap().state.clone();
    let window = ["--from", "2025-06-01T10:02:00Z", "--to", "2025-06-01T12:04:00+02:00"];
    let answer = world.ingest_with(&window).await;
    assert_eq!([&answer["status"], &answer["samples"]], [&json!("done"), &json!(3)]);
    assert_eq!(answer["window"], json!({"from": position(2), "to": position(4)}));
    assert_eq!(world.ask(&["cursor", "show"]).await, before);
    assert_eq!(world.opencti.platform().connector(CONNECTOR).unwrap().state, page);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_window_before_the_first_run_starts_nothing() {
    let world = World::new(estate(6)).await;
    world.ingest_with(&["--from", "2025-06-01T10:05:00Z"]).await;
    assert_eq!(world.arrived(), samples([5, 6]));
    assert_eq!(world.position().await, Value::Null);
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_has_no_effect_anywhere() {
    let world = World::new(estate(5)).await;
    world.vmray.estate().forbid_sample(4, true);
    let answer = world.ingest_with(&["--dry-run"]).await;
    assert_eq!(
        [&answer["status"], &answer["samples"], &answer["dry_run"]],
        [&json!("done"), &json!(4), &json!(true)]
    );
    assert!(answer.figure("objects") > 10);
    for mutation in ["registerConnector", "pingConnector", "stixBundlePush"] {
        assert_eq!(world.opencti_calls(mutation), 0, "{mutation}");
    }
    assert_eq!(world.position().await, Value::Null);
    assert_eq!(world.quarantine().await, Vec::<Value>::new());
    world.vmray.estate().forbid_sample(4, false);
    assert_eq!(world.ingest_all().await["samples"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_between_runs_changes_no_state() {
    let world = World::new(estate(3)).await;
    world.ingest_all().await;
    let before = world.ask(&["cursor", "show"]).await;
    add(&mut world.vmray.estate(), 4);
    assert_eq!(world.ingest_with(&["--dry-run"]).await["samples"], 1);
    assert_eq!(world.ask(&["cursor", "show"]).await, before);
    assert_eq!(world.ingest_all().await["samples"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cursor_is_shown_set_and_reset() {
    let world = World::new(estate(6)).await.setting("FEED_OVERLAP", "PT0S");
    assert_eq!(world.position().await, Value::Null);
    world.ingest_all().await;
    assert_eq!(world.position().await, position(6));
    let set = world.ask(&["cursor", "set", "2025-06-01T12:04:00+02:00"]).await;
    assert_eq!(set["position"], position(4));
    assert_eq!(world.ingest_all().await["samples"], 3, "from the fourth minute on");
    assert_eq!(world.ask(&["cursor", "reset"]).await["position"], "2025-06-01T00:00:00Z");
    assert_eq!(world.ingest_all().await["samples"], 6);
    let people = world.bridge(&["cursor", "show"]).run().await;
    assert!(people.stdout.starts_with("position:    2025-06-01T10:06:00"), "{people:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_before_the_first_run_is_where_it_starts() {
    let world = World::new(estate(6)).await.setting("FEED_OVERLAP", "PT0S");
    world.ask(&["cursor", "set", "2025-06-01T10:05:00Z"]).await;
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples([5, 6]));
    world.opencti.platform().operator_reset(CONNECTOR);
    world.ingest_all().await;
    assert_eq!(world.arrived(), samples(1..=6), "a reset is one all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_exit_code_2_and_call_nobody() {
    let world = World::new(estate(1)).await;
    for arguments in [
        &["ingest", "--to", "2025-06-01"][..],
        &["ingest", "--from", "yesterday"],
        &["ingest", "--from", "2025-06-02", "--to", "2025-06-01"],
        &["ingest", "--every", "30 minutes"],
        &["ingest", "--every", "PT30M", "--dry-run"],
        &["ingest", "--dryrun"],
        &["cursor", "set", "now"],
        &["quarantine", "retry"],
        &["quarantine", "drop", "all"],
        &["digest"],
    ] {
        let run = world.bridge(arguments).run().await;
        assert_eq!(run.code, 2, "{run:?}");
        assert_eq!(run.stdout, "");
        assert!(!run.stderr.is_empty());
    }
    assert_eq!(world.requests(), (0, 0));
}

const WRONG: [(&str, &str); 35] = [
    ("OPENCTI_URL", "ftp://opencti.test"),
    ("CONNECTOR_ID", " "),
    ("CONNECTOR_NAME", "x"),
    ("CONNECTOR_SCOPE", ","),
    ("CONNECTOR_LOG_LEVEL", "loud"),
    ("CONNECTOR_QUEUE_THRESHOLD", "-1"),
    ("VMRAY_SERVER", "ftp://vmray.test"),
    ("VMRAY_INITIAL_FETCH_DATE", "yesterday"),
    ("VMRAY_SAMPLE_VERDICT", "clean"),
    ("VMRAY_IOCS_VERDICT", "bad"),
    ("VMRAY_DEFAULT_TLP", "TLP:PINK"),
    ("VMRAY_THREAT_NAMES_COLOR", "red"),
    ("VMRAY_CLASSIFICATIONS_COLOR", "#12345"),
    ("VMRAY_VTI_COLOR", "12"),
    ("VMRAY_MITRE_COLOR", "#gggggg"),
    ("VMRAY_IOC_TYPES", "everything"),
    ("VMRAY_LABELS", "some"),
    ("VMRAY_CONFIDENCE", "101"),
    ("VMRAY_VERIFY_TLS", "maybe"),
    ("OPENCTI_VERIFY_TLS", "perhaps"),
    ("DISABLE_PROXY", "2"),
    ("INGEST_CONCURRENCY", "0"),
    ("BUNDLE_MAX_OBJECTS", "0"),
    ("BUNDLE_MAX_BYTES", "1"),
    ("OPENCTI_COMPRESSION", "zip"),
    ("FEED_OVERLAP", "P8D"),
    ("HISTORY", "newest"),
    ("HISTORY_QUEUE_MESSAGES", "0"),
    ("QUARANTINE_MAX_ATTEMPTS", "0"),
    ("HTTP_CONNECT_TIMEOUT_MS", "0"),
    ("VMRAY_TIMEOUT_MS", "soon"),
    ("OPENCTI_TIMEOUT_MS", "-5"),
    ("RETRY_BASE_MS", "1.5"),
    ("SAMPLE_TIMEOUT_MS", "x"),
    ("QUEUE_RECHECK_MS", "0"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_wrong_at_once_is_one_message_that_names_them_all() {
    let world = World::new(estate(1)).await;
    let command =
        WRONG.iter().fold(world.ingest_command(&[]), |command, (name, value)| command.set(name, value));
    let run = command.run().await;
    assert_eq!([run.code, run.stdout.len().try_into().unwrap()], [2, 0], "{run:?}");
    for (name, _) in WRONG {
        assert_eq!(run.stderr.matches(&format!(" {name}: ")).count(), 1, "{name} in {}", run.stderr);
    }
    assert!(run.stderr.contains(&format!("{} setting(s) are wrong", WRONG.len())), "{}", run.stderr);
    assert_eq!(world.requests(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_set_is_named_when_it_is_not() {
    let world = World::new(estate(1)).await;
    let required = ["OPENCTI_URL", "CONNECTOR_ID", "VMRAY_INITIAL_FETCH_DATE"];
    let run =
        required.iter().fold(world.ingest_command(&[]), |command, name| command.unset(name)).run().await;
    assert_eq!(run.code, 2);
    assert!(required.iter().all(|name| run.stderr.contains(name)), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_belongs_to_a_connector_and_is_reset_to_a_date() {
    let world = World::new(estate(1)).await;
    for (command, name) in [("show", "CONNECTOR_ID"), ("reset", "VMRAY_INITIAL_FETCH_DATE")] {
        let run = world.bridge(&["cursor", command]).unset(name).run().await;
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(name), "{run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_times_are_no_lag_and_failures_are() {
    let world = World::new(estate(1)).await;
    for _ in 0..2 {
        assert_eq!(world.ingest_all().await["lag_seconds"], 0, "the last row is long ago");
    }
    world.ask(&["cursor", "set", "2025-06-01"]).await;
    world.vmray.faults().add(Fault::any().close());
    let lag = world.ingest().await.figure("lag_seconds");
    assert!(lag < 60, "counted from the last check that succeeded: {lag}");
    world.forget_state();
    let lag = world.ingest().await.figure("lag_seconds");
    assert!(lag > 24 * 3600, "never checked: counted from the initial date: {lag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_are_named() {
    let world = World::new(estate(1)).await;
    for name in ["VMRAY_API_KEY", "OPENCTI_TOKEN"] {
        let run = world.ingest_command(&[]).unset(name).run().await;
        assert_eq!(run.code, 2, "{run:?}");
        assert!(run.stderr.contains(name), "{run:?}");
    }
    assert_eq!(world.requests(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_is_none_is_refused_and_left_alone() {
    let world = World::new(estate(1)).await;
    std::fs::write(world.state_file(), "somebody's letter").unwrap();
    let run = world.ingest_command(&[]).run().await;
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("state.sqlite"), "{run:?}");
    assert_eq!(std::fs::read(world.state_file()).unwrap(), b"somebody's letter");
    assert_eq!(world.requests(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_a_summary_and_programs_one_line() {
    let world = World::new(estate(3)).await;
    let run = world.bridge(&["ingest"]).run().await;
    assert_eq!(run.code, 0);
    assert!(run.stdout.starts_with("done: 3 new submissions, 3 samples delivered"), "{}", run.stdout);
    assert!(run.stderr.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", run.stderr);
}
