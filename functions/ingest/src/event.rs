//! What an invocation is asked to do.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::Value;

/// One invocation's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestEvent {
    /// Everything new, the cursor moves.
    Scheduled,
    /// A window, or everything new without any effect; the cursor stays.
    Manual(Manual),
    /// Show the connector alive, nothing else.
    Heartbeat,
}

/// A manual order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Manual {
    /// Finish times from here; without it from the cursor.
    pub from: Option<DateTime<Utc>>,
    /// Finish times up to here; without it to the newest.
    pub to: Option<DateTime<Utc>>,
    /// Map and validate, push and store nothing.
    pub dry_run: bool,
}

/// The event is none that ingest knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read the event: {0}; expected an EventBridge schedule, {{}}, {{\"heartbeat\": true}}, or {{\"from\": \"2026-01-31T00:00:00Z\", \"to\": .., \"dry_run\": true}}"
)]
pub struct InvalidEvent(String);

impl IngestEvent {
    /// Reads an event. A member that is not known is refused: a misspelt `dry_run` must not become a real run.
    pub fn parse(event: &Value) -> Result<Self, InvalidEvent> {
        let members = match event {
            Value::Null => return Ok(Self::Scheduled),
            Value::Object(members) => members,
            other => return Err(InvalidEvent(format!("it is {other}"))),
        };
        // What EventBridge sends when the schedule has no input of its own.
        if members.contains_key("detail-type") || members.contains_key("source") || members.is_empty() {
            return Ok(Self::Scheduled);
        }
        let mut manual = Manual::default();
        let mut heartbeat = false;
        for (name, value) in members {
            match name.as_str() {
                "heartbeat" => heartbeat = boolean(name, value)?,
                "dry_run" => manual.dry_run = boolean(name, value)?,
                "from" => manual.from = time(name, value)?,
                "to" => manual.to = time(name, value)?,
                _ => return Err(InvalidEvent(format!("it has an unknown member `{name}`"))),
            }
        }
        if heartbeat {
            return Ok(Self::Heartbeat);
        }
        manual.check()?;
        Ok(if manual == Manual::default() { Self::Scheduled } else { Self::Manual(manual) })
    }
}

impl Manual {
    /// Refuses a window that ends before it starts.
    pub fn check(&self) -> Result<(), InvalidEvent> {
        match (self.from, self.to) {
            (Some(from), Some(to)) if from > to => {
                Err(InvalidEvent(format!("`from` ({from}) is after `to` ({to})")))
            }
            (None, Some(_)) => Err(InvalidEvent("`to` needs a `from`".to_owned())),
            _ => Ok(()),
        }
    }
}

fn boolean(name: &str, value: &Value) -> Result<bool, InvalidEvent> {
    value.as_bool().ok_or_else(|| InvalidEvent(format!("`{name}` must be true or false, not {value}")))
}

fn time(name: &str, value: &Value) -> Result<Option<DateTime<Utc>>, InvalidEvent> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => parse_time(text)
            .map(Some)
            .ok_or_else(|| InvalidEvent(format!("`{name}` must be a date or an RFC 3339 time, not {value}"))),
        _ => Err(InvalidEvent(format!("`{name}` must be a text, not {value}"))),
    }
}

/// `YYYY-MM-DD`, `YYYY-MM-DDTHH:MM:SS` (UTC) or RFC 3339.
#[must_use]
pub fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    if let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S") {
        return Some(time.and_utc());
    }
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0).map(|time| time.and_utc())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_apart() {
        for scheduled in [
            json!({}),
            json!(null),
            json!({"source": "aws.scheduler", "detail": "{}"}),
            json!({"dry_run": false}),
        ] {
            assert_eq!(IngestEvent::parse(&scheduled), Ok(IngestEvent::Scheduled), "{scheduled}");
        }
        assert_eq!(IngestEvent::parse(&json!({"heartbeat": true})), Ok(IngestEvent::Heartbeat));
        let manual = IngestEvent::parse(
            &json!({"from": "2026-01-31", "to": "2026-02-01T00:00:00+02:00", "dry_run": true}),
        );
        let expected = Manual {
            from: parse_time("2026-01-31T00:00:00Z"),
            to: parse_time("2026-01-31T22:00:00"),
            dry_run: true,
        };
        assert_eq!(manual, Ok(IngestEvent::Manual(expected)));
    }

    #[test]
    fn a_misspelt_or_senseless_order_is_refused() {
        for wrong in [
            json!({"dryrun": true}),
            json!({"from": 5}),
            json!({"from": "yesterday"}),
            json!({"dry_run": "yes"}),
            json!({"from": "2026-02-01", "to": "2026-01-01"}),
            json!({"to": "2026-01-01"}),
            json!([1]),
            json!("run"),
        ] {
            assert!(IngestEvent::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
