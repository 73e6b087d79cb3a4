//! Reading: lists with their continuations, samples and what analyses found, the key's quota.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::StatusCode;
use reqwest::header::AUTHORIZATION;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use url::Url;

use super::error::VmrayError;
use crate::model::{
    Aggregated, Entries, Iocs, MitreTechnique, Sample, SampleId, Submission, SubmissionId, ThreatIndicator,
};
use crate::throttle::{Slot, Throttle};
use runtime::http::{self, Answer, Deadline, HttpError, Limits, RetryPolicy};
use runtime::secrets::RotatingKey;

/// Rows after which a server of any configuration seen so far cuts a list. An answer of exactly a multiple of it is
/// not trusted to be whole, even if the server does not say `truncated`.
const COMMON_MAXIMUM: usize = 1000;

/// Pause after a 429 that does not say how long.
pub(super) const DEFAULT_PAUSE: Duration = Duration::from_secs(2);

/// How requests to VMRay behave.
#[derive(Clone, Copy, Debug)]
pub struct VmrayPolicy {
    /// Time and size of one GET.
    pub limits: Limits,
    /// Tries of one GET.
    pub retry: RetryPolicy,
    /// Requests under way at once.
    pub concurrency: usize,
}

/// A span of VMRay finish times, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Oldest finish time.
    pub from: DateTime<Utc>,
    /// Newest finish time.
    pub to: DateTime<Utc>,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}", naive(self.from), naive(self.to))
    }
}

/// The form in which VMRay takes dates: UTC without a zone, whole seconds.
fn naive(time: DateTime<Utc>) -> String {
    let mut text = time.to_rfc3339_opts(SecondsFormat::Secs, true);
    text.pop(); // `Z`
    text
}

/// What a list answered.
#[derive(Debug)]
pub struct Listing<T = Submission> {
    /// The rows that could be read.
    pub rows: Vec<T>,
    /// Rows that are no submissions: without a number nothing can be done for them.
    pub malformed: u32,
    /// There are more than the server gives at once: `rows` is no reliable part of them.
    pub truncated: bool,
}

/// Server facts for `doctor`.
#[derive(Debug, Clone, Deserialize)]
pub struct SystemInfo {
    /// Such as `2026.2.1`.
    #[serde(default)]
    pub version: Option<String>,
    /// Rows per answer.
    #[serde(default)]
    pub api_items_per_request: Option<u64>,
    /// Rows per list.
    #[serde(default)]
    pub max_api_items: Option<u64>,
}

/// What the API key may still submit.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Quota {
    /// 0 means unlimited.
    #[serde(default)]
    pub quota_limit: u64,
    /// Spent in this period.
    #[serde(default)]
    pub used_quota: u64,
}

#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    #[serde(default)]
    pub(super) result: Option<String>,
    #[serde(default)]
    pub(super) error_msg: Option<serde_json::Value>,
    pub(super) data: Option<T>,
    #[serde(default)]
    pub(super) continuation_id: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) truncated: Option<serde_json::Value>,
}

/// A client for one run.
#[derive(Debug)]
pub struct VmrayClient {
    pub(super) http: reqwest::Client,
    base: String,
    pub(super) key: RotatingKey,
    pub(super) policy: VmrayPolicy,
    pub(super) deadline: Deadline,
    pub(super) throttle: Arc<Throttle>,
    pub(super) calls: AtomicU64,
    refusals: AtomicU64,
}

impl VmrayClient {
    /// A client for the server at `base` (scheme and host, no `/rest`, no trailing slash) until `deadline`.
    #[must_use]
    pub fn new(
        http: reqwest::Client,
        server: &Url,
        key: RotatingKey,
        policy: VmrayPolicy,
        deadline: Deadline,
    ) -> Self {
        let base = server.as_str().trim_end_matches('/').to_owned();
        let throttle = Arc::new(Throttle::new(policy.concurrency));
        let (calls, refusals) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { http, base, key, policy, deadline, throttle, calls, refusals }
    }

    /// Counts its requests together with those of other clients, and shares what they have learned from throttling.
    #[must_use]
    pub fn sharing(self, throttle: &Arc<Throttle>) -> Self {
        Self { throttle: Arc::clone(throttle), ..self }
    }

    /// Requests sent so far, repeats included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Reads so far for which VMRay has refused the key (401).
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// The finished submissions of a window; with `min_id` those from that number on, lowest number first.
    pub async fn submissions(
        &self,
        window: Window,
        min_id: Option<SubmissionId>,
    ) -> Result<Listing, VmrayError> {
        let slot = self.enter("submissions").await?;
        let paging = min_id.map(|id| format!("&_order=asc&_min_id={id}")).unwrap_or_default();
        let path = format!("submission?submission_finish_time={window}{paging}");
        let what = format!("the submissions finished in {window}");
        self.whole_list(&slot, &path, &what).await
    }

    /// A list with its continuations. One of them works once, so a failure in the middle starts the list again.
    pub(super) async fn whole_list<T: DeserializeOwned>(
        &self,
        slot: &Slot<'_>,
        path: &str,
        what: &str,
    ) -> Result<Listing<T>, VmrayError> {
        http::retry(self.policy.retry, self.deadline, || self.list(slot, path, what), VmrayError::again)
            .await
            .map_err(|error| self.or_out_of_time(error))
    }

    async fn list<T: DeserializeOwned>(
        &self,
        slot: &Slot<'_>,
        path: &str,
        what: &str,
    ) -> Result<Listing<T>, VmrayError> {
        let mut listing = Listing { rows: Vec::new(), malformed: 0, truncated: false };
        let mut path = path.to_owned();
        loop {
            let page: Envelope<Entries<T>> = match self.try_get(slot, &path, what).await {
                Err(VmrayError::NotFound { .. }) if path.starts_with("continuation/") => {
                    return Err(VmrayError::Unavailable {
                        what: what.to_owned(),
                        reason: "the continuation of the list was gone (404)".to_owned(),
                        retry_after: None,
                    });
                }
                page => page?,
            };
            let data = page.data.ok_or_else(|| without_data(what))?;
            listing.malformed += data.malformed;
            listing.rows.extend(data.items);
            listing.truncated |= page.truncated.as_ref().is_some_and(is_true);
            match page.continuation_id.as_ref().and_then(continuation) {
                // A window that is to be halved anyway is not read to its end.
                Some(_) if listing.truncated && !path.contains("_min_id") => return Ok(listing),
                Some(id) => path = format!("continuation/{id}"),
                None => break,
            }
        }
        listing.truncated |= !listing.rows.is_empty() && listing.rows.len().is_multiple_of(COMMON_MAXIMUM);
        Ok(listing)
    }

    pub async fn sample(&self, id: SampleId) -> Result<Sample, VmrayError> {
        let what = format!("sample {id}");
        let sample: Sample = self.get(&format!("sample/{id}"), &what).await?;
        // The types are so lenient that a list of numbers passes for a sample, one without a verdict at that.
        if sample.id != id {
            return Err(VmrayError::Malformed { what, problem: format!("it is about sample {}", sample.id) });
        }
        Ok(sample)
    }

    /// A sample's indicators of compromise.
    pub async fn iocs(&self, id: SampleId) -> Result<Aggregated<Iocs>, VmrayError> {
        self.get(&format!("sample/{id}/iocs"), &format!("IOCs of sample {id}")).await
    }

    /// A sample's threat indicators (VTIs).
    pub async fn threat_indicators(
        &self,
        id: SampleId,
    ) -> Result<Aggregated<Entries<ThreatIndicator>>, VmrayError> {
        self.get(&format!("sample/{id}/vtis"), &format!("threat indicators of sample {id}")).await
    }

    /// A sample's MITRE ATT&CK techniques.
    pub async fn techniques(&self, id: SampleId) -> Result<Aggregated<Entries<MitreTechnique>>, VmrayError> {
        self.get(&format!("sample/{id}/mitre_attack"), &format!("ATT&CK techniques of sample {id}")).await
    }

    /// Version and limits. Servers before 4.x answer 403 to keys that are not an administrator's.
    pub async fn system_info(&self) -> Result<SystemInfo, VmrayError> {
        self.get("system_info", "system information").await
    }

    /// What the key may still submit.
    pub async fn quota(&self) -> Result<Quota, VmrayError> {
        self.get("api_key/quota", "the key's quota").await
    }

    /// One cheap read that every valid key may do.
    pub async fn probe(&self) -> Result<(), VmrayError> {
        let _: Vec<Box<RawValue>> = self.get("analysis?_limit=1", "one analysis").await?;
        Ok(())
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, what: &str) -> Result<T, VmrayError> {
        let slot = self.enter(what).await?;
        let envelope: Envelope<T> = http::retry(
            self.policy.retry,
            self.deadline,
            || self.try_get(&slot, path, what),
            VmrayError::again,
        )
        .await
        .map_err(|error| self.or_out_of_time(error))?;
        envelope.data.ok_or_else(|| without_data(what))
    }

    pub(super) async fn enter(&self, what: &str) -> Result<Slot<'_>, VmrayError> {
        let out_of_time = || VmrayError::OutOfTime { what: what.to_owned() };
        self.deadline.bound(self.throttle.enter()).await.ok_or_else(out_of_time)
    }

    /// A failure that was not repeated for lack of time is nobody's fault.
    fn or_out_of_time(&self, error: VmrayError) -> VmrayError {
        match error {
            VmrayError::Unavailable { what, retry_after, .. }
                if !self.deadline.has_room_for(retry_after, self.policy.retry) =>
            {
                VmrayError::OutOfTime { what }
            }
            error => error,
        }
    }

    async fn try_get<T: DeserializeOwned>(
        &self,
        slot: &Slot<'_>,
        path: &str,
        what: &str,
    ) -> Result<Envelope<T>, VmrayError> {
        let out_of_time = || VmrayError::OutOfTime { what: what.to_owned() };
        self.deadline.bound(slot.opened()).await.ok_or_else(out_of_time)?;
        let answer = self.send(path, what).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            slot.throttled(answer.retry_after.unwrap_or(DEFAULT_PAUSE));
        } else {
            slot.answered();
        }
        read(&answer, what)
    }

    /// One GET; a refused key is read again once.
    async fn send(&self, path: &str, what: &str) -> Result<Answer, VmrayError> {
        let keys = self.key.keys();
        let answer = self.send_with(&keys, path, what).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        if self.key.replaced(&keys).await.map_err(|e| VmrayError::Keys(Arc::new(e)))? {
            let answer = self.send_with(&self.key.keys(), path, what).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
        }
        self.refusals.fetch_add(1, Ordering::Relaxed);
        Err(VmrayError::Unauthorized { what: what.to_owned(), origin: keys.origin().to_owned() })
    }

    async fn send_with(
        &self,
        keys: &runtime::secrets::Keys,
        path: &str,
        what: &str,
    ) -> Result<Answer, VmrayError> {
        let authorization = self.key.header(keys, "api_key ").map_err(|e| VmrayError::Keys(Arc::new(e)))?;
        let request = self.http.get(self.address(path)).header(AUTHORIZATION, authorization);
        self.calls.fetch_add(1, Ordering::Relaxed);
        let sent = http::send(request, self.policy.limits, self.deadline).await;
        let mut answer = sent.map_err(|error| match error {
            HttpError::TooLarge(limit) => VmrayError::TooLarge { what: what.to_owned(), limit },
            HttpError::OutOfTime => VmrayError::OutOfTime { what: what.to_owned() },
            other => VmrayError::Unavailable {
                what: what.to_owned(),
                reason: other.to_string(),
                retry_after: None,
            },
        })?;
        self.key.mask(keys, &mut answer);
        Ok(answer)
    }

    pub(super) fn address(&self, path: &str) -> String {
        format!("{}/rest/{path}", self.base)
    }
}

/// The next page's id: a number on all servers seen so far, so any text is taken. Null and nothing end the list.
fn continuation(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    }
}

fn is_true(value: &serde_json::Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true")))
}

fn without_data(what: &str) -> VmrayError {
    VmrayError::Malformed { what: what.to_owned(), problem: "it has no `data`".to_owned() }
}

fn read<T: DeserializeOwned>(answer: &Answer, what: &str) -> Result<Envelope<T>, VmrayError> {
    let what = what.to_owned();
    let status = answer.status;
    if status.is_success() {
        let envelope: Envelope<T> =
            serde_json::from_slice(&answer.body).map_err(|error| malformed(answer, what.clone(), &error))?;
        return match envelope.result.as_deref() {
            None | Some("ok") => Ok(envelope),
            Some(_) => Err(VmrayError::Rejected {
                what,
                status: status.as_u16(),
                message: envelope.error_msg.as_ref().map_or("no reason given".to_owned(), message),
            }),
        };
    }
    let message = error_message(answer);
    Err(match status {
        StatusCode::FORBIDDEN => VmrayError::Forbidden { what, message },
        StatusCode::NOT_FOUND => VmrayError::NotFound { what },
        StatusCode::TOO_MANY_REQUESTS => VmrayError::Unavailable {
            what,
            reason: format!("throttled (429: {message})"),
            retry_after: Some(answer.retry_after.unwrap_or(DEFAULT_PAUSE)),
        },
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::LOCKED => VmrayError::Unavailable {
            what,
            reason: format!("{status}: {message}"),
            retry_after: answer.retry_after,
        },
        _ if status.is_server_error() => VmrayError::Unavailable {
            what,
            reason: format!("{status}: {message}"),
            retry_after: answer.retry_after,
        },
        _ => VmrayError::Rejected { what, status: status.as_u16(), message },
    })
}

/// VMRay's own words, or the start of whatever a proxy put in their slot.
pub(super) fn error_message(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct ErrorBody {
        error_msg: serde_json::Value,
    }
    let read = serde_json::from_slice::<ErrorBody>(&answer.body);
    read.map_or_else(|_| answer.excerpt(), |read| message(&read.error_msg))
}

/// A text as it is, anything else as JSON; fit to be repeated.
pub(super) fn message(value: &serde_json::Value) -> String {
    http::clean(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn malformed(answer: &Answer, what: String, error: &serde_json::Error) -> VmrayError {
    let problem = if answer.body.first() == Some(&b'<') {
        "it is a web page instead of JSON; is VMRAY_SERVER the API's address, and is there a proxy in between?"
            .to_owned()
    } else {
        // serde's text may quote a value; place and kind are enough.
        format!("{:?} error at line {}, column {}", error.classify(), error.line(), error.column())
    };
    VmrayError::Malformed { what, problem }
}
