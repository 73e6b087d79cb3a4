//! The sample events, which people send to the function by hand.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use ingest::{IngestEvent, Manual};

fn sample(name: &str) -> IngestEvent {
    let path = format!("{}/../../events/ingest-{name}.json", env!("CARGO_MANIFEST_DIR"));
    IngestEvent::parse(&serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).unwrap()
}

#[test]
fn every_sample_event_is_one_that_its_name_says() {
    assert!(matches!(sample("schedule"), IngestEvent::Scheduled));
    assert!(matches!(sample("heartbeat"), IngestEvent::Heartbeat));
    assert_eq!(sample("dry-run"), IngestEvent::Manual(Manual { dry_run: true, ..Manual::default() }));
    let IngestEvent::Manual(window) = sample("window") else { panic!("no window") };
    assert!(window.from < window.to && window.from.is_some());
}
