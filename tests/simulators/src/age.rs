//! Time that passes for stored documents, without a clock: their times move into the past.

use chrono::{DateTime, SecondsFormat, TimeDelta};
use serde_json::Value;

/// Moves every text that is a time, at any depth.
pub fn make_older(value: &mut Value, time: TimeDelta) {
    match value {
        Value::String(text) => {
            if let Ok(at) = DateTime::parse_from_rfc3339(text) {
                *text = (at.to_utc() - time).to_rfc3339_opts(SecondsFormat::AutoSi, true);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| make_older(value, time)),
        Value::Object(members) => members.values_mut().for_each(|value| make_older(value, time)),
        _ => {}
    }
}
