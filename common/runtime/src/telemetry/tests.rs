use std::sync::{Arc, Mutex};

use super::*;

/// Runs `work` under a subscriber of its own and returns its lines.
fn lines(level: Level, work: impl FnOnce()) -> Vec<Value> {
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&written);
    let layer = JsonLines { write: move |line: String| sink.lock().unwrap().push(line) };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(level)));
    tracing::subscriber::with_default(subscriber, work);
    written.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_line_is_flat_and_carries_the_fields_of_its_spans() {
    let lines = lines(Level::INFO, || {
        let run = tracing::info_span!("run", run_id = "r1", samples = tracing::field::Empty);
        let _run = run.enter();
        run.record("samples", 7_u64);
        let _sample = tracing::info_span!("sample", sample_id = 42_u64).entered();
        tracing::info!(objects = 3, ratio = 0.5, done = true, "pushed");
    });
    assert_eq!(lines.len(), 1);
    let mut line = lines[0].clone();
    let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(timestamp.as_str().unwrap()).is_ok());
    assert_eq!(
        line,
        json!({
            "level": "INFO", "target": "runtime::telemetry::tests", "message": "pushed",
            "objects": 3, "ratio": 0.5, "done": true, "sample_id": 42, "run_id": "r1", "samples": 7,
        })
    );
}

#[test]
fn the_nearest_field_wins_and_none_replaces_the_line_s_own() {
    let lines = lines(Level::INFO, || {
        let _outer = tracing::info_span!("outer", id = 1, level = "forged").entered();
        let _inner = tracing::info_span!("inner", id = 2).entered();
        tracing::info!("first");
        tracing::info!(id = 3, "second");
    });
    assert_eq!((&lines[0]["id"], &lines[0]["level"]), (&json!(2), &json!("INFO")));
    assert_eq!(lines[1]["id"], 3);
}

#[test]
fn a_message_with_a_line_break_stays_one_line() {
    let lines = lines(Level::INFO, || tracing::warn!(text = "a\nb", "c\nd \"e\""));
    assert_eq!((&lines[0]["text"], &lines[0]["message"]), (&json!("a\nb"), &json!("c\nd \"e\"")));
}

#[test]
fn dependencies_speak_only_when_they_warn() {
    let lines = lines(Level::DEBUG, || {
        tracing::debug!("ours");
        tracing::info!(target: "hyper_util::client", "theirs");
        tracing::warn!(target: "aws_smithy_runtime", "their warning");
    });
    let messages: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["ours", "their warning"]);
}

#[test]
fn at_level_error_not_even_dependencies_warn() {
    let lines = lines(Level::ERROR, || {
        tracing::warn!("ours");
        tracing::warn!(target: "hyper", "theirs");
        tracing::error!(error = &std::io::Error::other("why") as &dyn std::error::Error, "broken");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["error"], "why");
}

#[test]
fn an_emf_line_is_what_cloudwatch_reads() {
    let line = emf(
        "VMRayBridge",
        &[("Function", "ingest"), ("Stage", "prod")],
        &[("Samples", 12.0, Unit::Count), ("Lag", 1.5, Unit::Seconds), ("Broken", f64::NAN, Unit::None)],
        1_700_000_000_123,
        &[("run_id", json!("r1"))],
    );
    assert!(!line.contains('\n'));
    assert_eq!(
        serde_json::from_str::<Value>(&line).unwrap(),
        json!({
            "_aws": {
                "Timestamp": 1_700_000_000_123_i64,
                "CloudWatchMetrics": [{
                    "Namespace": "VMRayBridge",
                    "Dimensions": [["Function", "Stage"]],
                    "Metrics": [{"Name": "Samples", "Unit": "Count"}, {"Name": "Lag", "Unit": "Seconds"}],
                }],
            },
            "Function": "ingest", "Stage": "prod", "Samples": 12, "Lag": 1.5, "run_id": "r1",
        })
    );
}

#[test]
fn a_url_in_a_log_is_a_host_and_a_hash() {
    let shown = url_for_log("https://user:pw@Evil.example:8443/reset?token=secret#frag");
    assert!(shown.starts_with("https://evil.example#"), "{shown}");
    assert_eq!(shown.len(), "https://evil.example#".len() + 12);
    assert_eq!(url_for_log("abc"), "not-a-url#ba7816bf8f01");
    assert_eq!(
        url_for_log("mailto:a@b.example"),
        format!("not-a-url#{}", &url_for_log("mailto:a@b.example")[10..])
    );
    assert_ne!(url_for_log("https://a.example/1"), url_for_log("https://a.example/2"));
}
