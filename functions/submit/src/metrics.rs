//! The figures of `submit` as CloudWatch metrics, one line for each thing done.

use chrono::{DateTime, Utc};
use runtime::telemetry::{self, Unit};

use crate::api::http::Response;
use crate::worker::Work;

/// The metrics' namespace in CloudWatch, the same as that of `ingest`.
pub const NAMESPACE: &str = "VMRayBridge";

/// What the worker did for one message.
#[must_use]
pub fn of_work(work: &Work, now: DateTime<Utc>) -> String {
    let metrics = [
        count("UrlsSubmitted", work.submitted),
        count("UrlsKnown", work.known),
        count("UrlsFailed", work.failed),
        count("UrlsUnconfirmed", work.unconfirmed),
        count("UrlsOverQuota", work.quota_exceeded),
        count("VmrayUnauthorized", u64::from(work.unauthorized)),
        count("VmrayUnavailable", u64::from(work.vmray_down)),
        count("VmrayCalls", work.vmray_calls),
    ];
    line("submit-worker", &metrics, now)
}

/// How the API answered one request, what is left of the quota if it is known, and how often VMRay refused the key
/// meanwhile.
#[must_use]
pub fn of_response(
    response: &Response,
    quota_remaining: Option<u64>,
    refusals: u64,
    now: DateTime<Utc>,
) -> String {
    let status = response.status;
    let metrics = [
        count("Requests", 1),
        count("RequestsRefused", u64::from((400..500).contains(&status))),
        count("RequestsFailed", u64::from(status >= 500)),
        count("VmrayUnauthorized", refusals),
        // NaN, when the quota is not known, is left out of the line.
        ("QuotaRemaining", quota_remaining.map_or(f64::NAN, as_number), Unit::Count),
    ];
    line("submit-api", &metrics, now)
}

fn line(function: &str, metrics: &[(&str, f64, Unit)], now: DateTime<Utc>) -> String {
    telemetry::emf(NAMESPACE, &[("Function", function)], metrics, now.timestamp_millis(), &[])
}

fn count(name: &'static str, value: u64) -> (&'static str, f64, Unit) {
    (name, as_number(value), Unit::Count)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_is_not_known_is_not_told() {
        let response = Response::json(200, &());
        let now = DateTime::UNIX_EPOCH;
        assert!(!of_response(&response, None, 0, now).contains("QuotaRemaining"));
        assert!(of_response(&response, Some(5), 0, now).contains("\"QuotaRemaining\":5"));
    }
}
