//! One submission: a sample sent to VMRay at one time.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::lenient;
use super::number::{SampleId, SubmissionId};
use super::verdict::{Verdict, VerdictField};

/// A row of the submission list. Small: many thousands are held at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "WireSubmission")]
pub struct Submission {
    pub id: SubmissionId,
    /// The sample it is of.
    pub sample_id: Option<SampleId>,
    /// Whether VMRay is done with it.
    pub finished: bool,
    /// `queued`, `in_progress`, `warning`, `error` or `success`.
    pub status: Option<Box<str>>,
    /// From the severity or the score where the server knows no verdicts.
    pub verdict: Option<Verdict>,
    /// The word of older servers for the verdict, as sent.
    pub severity: Option<Box<str>>,
    /// 0 to 100.
    pub score: Option<u8>,
    /// When it was submitted.
    pub created: Option<DateTime<Utc>>,
    /// When VMRay was done with it.
    pub finish_time: Option<DateTime<Utc>>,
    /// Whether it was answered from earlier analyses.
    pub used_cache: Option<bool>,
    /// Whether some of its analyses failed.
    pub has_errors: Option<bool>,
    /// Its page in VMRay's web interface.
    pub webif_url: Option<Box<str>>,
}

#[derive(Deserialize)]
#[expect(
    clippy::struct_field_names,
    reason = "the names on the wire; the aliases are the names of `Submission`"
)]
struct WireSubmission {
    #[serde(alias = "id")]
    submission_id: SubmissionId,
    #[serde(default, alias = "sample_id", deserialize_with = "lenient::number")]
    submission_sample_id: Option<SampleId>,
    #[serde(default, alias = "finished", deserialize_with = "lenient::boolean")]
    submission_finished: Option<bool>,
    #[serde(default, alias = "status", deserialize_with = "lenient::boxed_text")]
    submission_status: Option<Box<str>>,
    #[serde(default, alias = "verdict")]
    submission_verdict: VerdictField,
    #[serde(default, alias = "severity", deserialize_with = "lenient::boxed_text")]
    submission_severity: Option<Box<str>>,
    #[serde(default, alias = "score", deserialize_with = "lenient::number")]
    submission_score: Option<u8>,
    #[serde(default, alias = "created", deserialize_with = "lenient::date")]
    submission_created: Option<DateTime<Utc>>,
    #[serde(default, alias = "finish_time", deserialize_with = "lenient::date")]
    submission_finish_time: Option<DateTime<Utc>>,
    #[serde(default, alias = "used_cache", deserialize_with = "lenient::boolean")]
    submission_used_cache: Option<bool>,
    #[serde(default, alias = "has_errors", deserialize_with = "lenient::boolean")]
    submission_has_errors: Option<bool>,
    #[serde(default, alias = "webif_url", deserialize_with = "lenient::boxed_text")]
    submission_webif_url: Option<Box<str>>,
}

impl From<WireSubmission> for Submission {
    fn from(wire: WireSubmission) -> Self {
        let severity = wire.submission_severity;
        Self {
            id: wire.submission_id,
            sample_id: wire.submission_sample_id,
            finished: wire.submission_finished.unwrap_or(wire.submission_finish_time.is_some()),
            status: wire.submission_status,
            verdict: wire.submission_verdict.or_severity(severity.as_deref(), wire.submission_score),
            severity,
            score: wire.submission_score,
            created: wire.submission_created,
            finish_time: wire.submission_finish_time,
            used_cache: wire.submission_used_cache,
            has_errors: wire.submission_has_errors,
            webif_url: wire.submission_webif_url,
        }
    }
}
