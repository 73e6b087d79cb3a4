//! What a run answers, and the same figures as metrics.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use runtime::telemetry::{self, Unit};
use serde::Serialize;
use stix::LeftOut;

use crate::error::FailureKind;
use crate::history::HistoryLeft;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Everything fresh is handled; history may be left.
    Done,
    /// The time was over; the next run goes on.
    Partial,
    /// Another run holds the lease.
    Busy,
    /// `OpenCTI`'s queue is full; nothing was fetched, or no more.
    Buffering,
    /// Something that is not a sample's fault stopped it.
    Failed,
    /// Only shown alive.
    Heartbeat,
}

impl RunStatus {
    /// The word in the answer.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Partial => "partial",
            Self::Busy => "busy",
            Self::Buffering => "buffering",
            Self::Failed => "failed",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// The span of finish times that a run looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AskedWindow {
    /// Oldest.
    pub from: DateTime<Utc>,
    /// Newest.
    pub to: DateTime<Utc>,
}

/// Requests sent, repeats included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCounts {
    /// To VMRay.
    pub vmray: u64,
    /// To `OpenCTI`.
    pub opencti: u64,
}

/// What a run did.
#[derive(Clone, Debug, Serialize)]
pub struct RunAnswer {
    /// How it ended.
    pub status: RunStatus,
    /// In every log line of the run.
    pub run_id: String,
    /// What was asked of VMRay.
    pub window: Option<AskedWindow>,
    /// New submissions seen.
    pub submissions: u64,
    /// Samples delivered.
    pub samples: u64,
    /// Submissions deliberately not delivered: clean, or of a verdict that is not asked for.
    pub skipped: u64,
    /// Values that the platform would have refused, by reason.
    pub left_out: LeftOut,
    /// Samples in quarantine that need somebody's attention, after this run.
    pub quarantined: usize,
    /// Samples in quarantine that VMRay is not ready with, after this run.
    pub waiting: usize,
    /// Objects pushed.
    pub objects: u64,
    /// Objects that were not pushed because the platform has them.
    pub known: u64,
    /// Bundles accepted.
    pub bundles: u64,
    /// Objects that the platform's workers refused since the last run, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Where the cursor stands.
    pub position: Option<DateTime<Utc>>,
    /// Seconds since everything in VMRay was last known to be handled; `None` when the cursor could not be read.
    pub lag_seconds: Option<i64>,
    /// How far history is; absent when none is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryLeft>,
    /// Requests.
    pub calls: CallCounts,
    /// Milliseconds from start to answer.
    pub duration_ms: u64,
    /// Whether nothing was pushed or stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable name of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<FailureKind>,
}

/// The metrics' namespace in CloudWatch.
pub const NAMESPACE: &str = "VMRayBridge";

impl RunAnswer {
    /// An answer of a run that has done nothing yet.
    #[must_use]
    pub fn new(run_id: String) -> Self {
        Self {
            status: RunStatus::Done,
            run_id,
            window: None,
            submissions: 0,
            samples: 0,
            skipped: 0,
            left_out: LeftOut::default(),
            quarantined: 0,
            waiting: 0,
            objects: 0,
            known: 0,
            bundles: 0,
            rejected: BTreeMap::new(),
            position: None,
            lag_seconds: None,
            history: None,
            calls: CallCounts::default(),
            duration_ms: 0,
            dry_run: false,
            error: None,
            error_kind: None,
        }
    }

    /// The figures as one line in CloudWatch's Embedded Metric Format.
    #[must_use]
    pub fn metrics(&self, now: DateTime<Utc>) -> String {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = |name, value: u64| (name, value as f64, Unit::Count);
        let succeeded = matches!(self.status, RunStatus::Done | RunStatus::Partial);
        let is = |kind| u64::from(self.error_kind == Some(kind));
        #[expect(clippy::cast_precision_loss, reason = "seconds and milliseconds far below 2^52")]
        let metrics = [
            count("RunsSucceeded", u64::from(succeeded)),
            count("RunsFailed", u64::from(self.status == RunStatus::Failed)),
            count("RunsBuffering", u64::from(self.status == RunStatus::Buffering)),
            count("Submissions", self.submissions),
            count("Samples", self.samples),
            count("Skipped", self.skipped),
            count("LeftOut", u64::from(self.left_out.total())),
            count("Quarantined", self.quarantined as u64),
            count("Waiting", self.waiting as u64),
            count("Objects", self.objects),
            count("Bundles", self.bundles),
            count("Rejected", self.rejected.values().sum()),
            count("HistoryDaysLeft", self.history.map_or(0, |history| history.days_left)),
            count("VmrayCalls", self.calls.vmray),
            count("OpenctiCalls", self.calls.opencti),
            count("VmrayUnauthorized", is(FailureKind::VmrayUnauthorized)),
            count("OpenctiUnauthorized", is(FailureKind::OpenctiUnauthorized)),
            // What is not known is not told: a number that is none is left out.
            ("LagSeconds", self.lag_seconds.map_or(f64::NAN, |seconds| seconds as f64), Unit::Seconds),
            ("Duration", self.duration_ms as f64, Unit::Milliseconds),
        ];
        let properties = [("run_id", self.run_id.clone().into()), ("status", self.status.as_str().into())];
        telemetry::emf(NAMESPACE, &[("Function", "ingest")], &metrics, now.timestamp_millis(), &properties)
    }
}
