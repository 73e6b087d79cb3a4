//! Submitting a URL, and finding a submission again.
//!
//! A submission costs quota and VMRay knows no idempotency, so the POST is sent once and never repeated here. Its error
//! says the one thing that decides what may happen next: whether VMRay can have stored it.
//!
//! Facts: refusals come as HTTP 200 with `data.errors`; a known URL may be answered from earlier analyses, finished at
//! once; with legacy caching it is refused with "no jobs were created" instead; an exhausted quota is a text that
//! speaks of exceeding it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::error::VmrayError;
use super::read::{DEFAULT_PAUSE, Envelope, Listing, VmrayClient, error_message, message};
use crate::model::{Entries, Sample, SampleId, Submission, SubmissionId};
use crate::throttle::Slot;
use runtime::http::{self, Answer, Deadline, HttpError};
use runtime::secrets::{Keys, SecretsError};

/// What a submission is sent with: VMRay's own parameters besides the URL.
#[derive(Debug, Clone, Copy)]
pub struct SubmitParameters<'a> {
    /// What shall be analysed.
    pub url: &'a str,
    /// Echoed by VMRay, so that the submission can be found again: a JSON object as text.
    pub metadata: &'a str,
    /// The others, such as `tags` or `retention_period`.
    pub options: &'a [(&'static str, String)],
}

/// What VMRay made of an accepted URL.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Finished already when VMRay answered from earlier analyses.
    pub submission: Submission,
}

/// Why a URL was not submitted, by what may be done next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// VMRay cannot have stored it; it may be sent again, after `retry_after` if given.
    #[error("not sent to VMRay: {reason}")]
    NotSent {
        reason: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The key is refused: nothing can be sent until somebody puts another one there.
    #[error(
        "VMRay refuses the API key from {origin} (401): put a valid key there, and check the key's list of allowed IP addresses"
    )]
    Unauthorized {
        /// The secret's name.
        origin: String,
    },
    /// There is no key that could be sent.
    #[error("no API key for VMRay: {0}")]
    Keys(Arc<SecretsError>),
    /// The key may submit no more in this period.
    #[error("VMRay's quota is used up: {message}")]
    QuotaExceeded {
        /// VMRay's words.
        message: String,
    },
    /// VMRay knows the URL and sees nothing to do.
    #[error("VMRay created no jobs: {message}")]
    NoJobs {
        /// VMRay's words.
        message: String,
    },
    /// VMRay has read it and said no; it would say so again.
    #[error("VMRay refused the submission: {message}")]
    Refused {
        /// VMRay's words.
        message: String,
    },
    /// Nobody knows whether VMRay has stored it: look for it before it is sent again.
    #[error("it is not known whether VMRay has the submission: {reason}")]
    Ambiguous { reason: String },
}

/// A row of a look-up, with what identifies it.
#[derive(Debug, Clone)]
pub struct FoundSubmission {
    pub submission: Submission,
    /// What it was submitted with, as VMRay spells it; `None`: the server does not say.
    pub metadata: Option<String>,
}

impl<'de> Deserialize<'de> for FoundSubmission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Extra {
            #[serde(default)]
            submission_submission_metadata: Option<serde_json::Value>,
        }
        let row = Box::<RawValue>::deserialize(deserializer)?;
        let submission = serde_json::from_str(row.get()).map_err(D::Error::custom)?;
        let extra: Extra = serde_json::from_str(row.get()).map_err(D::Error::custom)?;
        let metadata = extra.submission_submission_metadata.filter(|value| !value.is_null());
        let metadata = metadata.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        Ok(Self { submission, metadata })
    }
}

/// `data` of the answer to a submission. Lists that are not there are empty; the others are not needed.
#[derive(Deserialize)]
struct SubmitData {
    #[serde(default)]
    errors: Entries<SubmitDataError>,
    #[serde(default)]
    submissions: Entries<Submission>,
}

#[derive(Deserialize)]
struct SubmitDataError {
    #[serde(default)]
    error_msg: Option<serde_json::Value>,
}

/// The right to submit one URL now: VMRay is not asking to be left alone. Holds one of the slots of the client.
#[derive(Debug)]
pub struct SubmitTurn<'a> {
    client: &'a VmrayClient,
    slot: Slot<'a>,
}

impl SubmitTurn<'_> {
    /// Submits a URL, once, and not after `begin_before`: whoever holds a claim on it may lose it then. What VMRay says in
    /// `data.errors` of a 200 is an error here too.
    pub async fn submit(
        &self,
        parameters: SubmitParameters<'_>,
        begin_before: Instant,
    ) -> Result<Accepted, SubmitError> {
        // Somebody else may have been throttled since the turn began.
        let opened = Deadline::at(begin_before).bound(self.slot.opened()).await;
        if opened.is_none() || Instant::now() >= begin_before {
            return Err(not_sent("VMRay asked to be left alone for longer than the claim lasts"));
        }
        let answer = self.client.post(parameters, begin_before).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            let pause = answer.retry_after.unwrap_or(DEFAULT_PAUSE);
            self.slot.throttled(pause);
            let reason = format!("throttled (429: {})", error_message(&answer));
            return Err(SubmitError::NotSent { reason, retry_after: Some(pause) });
        }
        self.slot.answered();
        outcome(&answer)
    }
}

fn not_sent(reason: &str) -> SubmitError {
    SubmitError::NotSent { reason: reason.to_owned(), retry_after: None }
}

impl VmrayClient {
    /// Waits until a URL may be submitted; `None`: not before the client's deadline.
    pub async fn submit_turn(&self) -> Option<SubmitTurn<'_>> {
        let slot = self.deadline.bound(self.throttle.enter()).await?;
        self.deadline.bound(slot.opened()).await?;
        Some(SubmitTurn { client: self, slot })
    }

    /// One POST. A refused key was refused before anything was stored, so one that has been exchanged since is tried.
    async fn post(
        &self,
        parameters: SubmitParameters<'_>,
        begin_before: Instant,
    ) -> Result<Answer, SubmitError> {
        let keys = self.key.keys();
        let answer = self.post_with(&keys, parameters).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        if self.key.replaced(&keys).await.map_err(keys_missing)? {
            if Instant::now() >= begin_before {
                return Err(not_sent("the key was exchanged; the claim does not last for another try"));
            }
            let answer = self.post_with(&self.key.keys(), parameters).await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
        }
        Err(SubmitError::Unauthorized { origin: keys.origin().to_owned() })
    }

    async fn post_with(
        &self,
        keys: &Arc<Keys>,
        parameters: SubmitParameters<'_>,
    ) -> Result<Answer, SubmitError> {
        if self.deadline.remaining().is_zero() {
            return Err(not_sent("no time left in this invocation"));
        }
        let authorization = self.key.header(keys, "api_key ").map_err(keys_missing)?;
        let request = self
            .http
            .post(self.address("sample/submit"))
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(parameters));
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut answer = match http::send(request, self.policy.limits, self.deadline).await {
            Ok(answer) => answer,
            Err(error @ HttpError::Connect(_)) => {
                return Err(SubmitError::NotSent { reason: error.to_string(), retry_after: None });
            }
            Err(error) => return Err(SubmitError::Ambiguous { reason: error.to_string() }),
        };
        self.key.mask(keys, &mut answer);
        Ok(answer)
    }

    /// The submissions with exactly this metadata; `None`: the server does not know the question.
    pub async fn submissions_with_metadata(
        &self,
        metadata: &str,
    ) -> Result<Option<Vec<FoundSubmission>>, VmrayError> {
        let path = format!("submission?submission_submission_metadata={}", encoded(metadata));
        self.found(&path, "the submissions of one metadata").await
    }

    /// The submissions of any of these URLs, at most 10; `None`: the server knows no search.
    pub async fn submissions_of_urls(
        &self,
        urls: &[&str],
    ) -> Result<Option<Vec<FoundSubmission>>, VmrayError> {
        let terms: Vec<_> =
            urls.iter().map(|url| format!("url == \"{}\"", url.replace('"', "%22"))).collect();
        let path = format!("submission/search?query={}", encoded(&terms.join(" or ")));
        self.found(&path, "the submissions of one URL").await
    }

    pub async fn submissions_of_sample(&self, id: SampleId) -> Result<Vec<FoundSubmission>, VmrayError> {
        let what = format!("the submissions of sample {id}");
        Ok(self.found(&format!("submission?submission_sample_id={id}"), &what).await?.unwrap_or_default())
    }

    /// A look-up. 400 and 404 say that the server does not know the question, which is not that there is nothing.
    async fn found(&self, path: &str, what: &str) -> Result<Option<Vec<FoundSubmission>>, VmrayError> {
        let slot = self.enter(what).await?;
        match self.whole_list(&slot, path, what).await {
            Ok(listing) => Ok(Some(listing.rows)),
            Err(VmrayError::NotFound { .. } | VmrayError::Rejected { status: 400, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The submissions with numbers from `first` to `last`, others of the same account among them.
    pub async fn submissions_between(
        &self,
        first: SubmissionId,
        last: SubmissionId,
    ) -> Result<Listing, VmrayError> {
        let what = format!("the submissions {first} to {last}");
        let slot = self.enter(&what).await?;
        self.whole_list(&slot, &format!("submission?_order=asc&_min_id={first}&_max_id={last}"), &what).await
    }

    pub async fn submission(&self, id: SubmissionId) -> Result<Submission, VmrayError> {
        let what = format!("submission {id}");
        let submission: Submission = self.get(&format!("submission/{id}"), &what).await?;
        if submission.id != id {
            return Err(VmrayError::Malformed { what, problem: format!("it is about {}", submission.id) });
        }
        Ok(submission)
    }

    /// The samples with this hash: several may share one, and none is no error.
    pub async fn samples_with_sha256(&self, sha256: &str) -> Result<Vec<Sample>, VmrayError> {
        let what = "the samples of one hash";
        let slot = self.enter(what).await?;
        match self.whole_list(&slot, &format!("sample/sha256/{sha256}"), what).await {
            Ok(listing) => Ok(listing.rows),
            Err(VmrayError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn keys_missing(error: SecretsError) -> SubmitError {
    SubmitError::Keys(Arc::new(error))
}

/// The body: urlencoded, which servers of all ages read.
fn form(parameters: SubmitParameters<'_>) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("sample_url", parameters.url)
        .append_pair("submission_metadata", parameters.metadata)
        .extend_pairs(parameters.options)
        .finish()
}

/// One value of a query.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What an answer to a submission means.
fn outcome(answer: &Answer) -> Result<Accepted, SubmitError> {
    if answer.status.is_success() {
        return accepted(answer);
    }
    let message = error_message(answer);
    let said = format!("{}: {message}", answer.status.as_u16());
    if answer.status.is_client_error() && is_quota(&message) {
        return Err(SubmitError::QuotaExceeded { message: said });
    }
    // A proxy may answer 4xx too; only VMRay's own words say that it has read the request and not stored it.
    let is_vmray = serde_json::from_slice::<Envelope<serde::de::IgnoredAny>>(&answer.body)
        .is_ok_and(|envelope| envelope.error_msg.is_some());
    match answer.status {
        StatusCode::BAD_REQUEST => Err(SubmitError::Refused { message: said }),
        StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::LOCKED => {
            Err(SubmitError::Ambiguous { reason: said })
        }
        status if status.is_client_error() && is_vmray => Err(SubmitError::Refused { message: said }),
        _ => Err(SubmitError::Ambiguous { reason: said }),
    }
}

fn accepted(answer: &Answer) -> Result<Accepted, SubmitError> {
    let envelope: Envelope<SubmitData> = serde_json::from_slice(&answer.body)
        .map_err(|error| SubmitError::Ambiguous { reason: format!("the answer cannot be read ({error})") })?;
    let said = envelope.error_msg.as_ref().map(message);
    let is_ok = envelope.result.as_deref().is_none_or(|result| result == "ok");
    let outcome = match envelope.data {
        Some(data) if is_ok => data,
        _ => return Err(refusal(&said.unwrap_or_else(|| "no reason given".to_owned()))),
    };
    if let Some(submission) = outcome.submissions.items.into_iter().next() {
        return Ok(Accepted { submission });
    }
    if outcome.submissions.malformed > 0 {
        return Err(SubmitError::Ambiguous {
            reason: "the submission in the answer has no number".to_owned(),
        });
    }
    let errors: Vec<_> =
        outcome.errors.iter().filter_map(|error| error.error_msg.as_ref().map(message)).collect();
    Err(refusal(&if errors.is_empty() {
        "it stored nothing and gave no reason".to_owned()
    } else {
        errors.join("; ")
    }))
}

/// VMRay's words for why it did not store a submission.
fn refusal(said: &str) -> SubmitError {
    let message = said.to_owned();
    if is_quota(said) {
        SubmitError::QuotaExceeded { message }
    } else if said.to_ascii_lowercase().contains("no jobs were created") {
        SubmitError::NoJobs { message }
    } else {
        SubmitError::Refused { message }
    }
}

/// The recorded text is "... exceed the Prepaid Report Quota"; other licences have other names for the quota.
fn is_quota(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("quota") && said.contains("exceed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status: StatusCode::from_u16(status).unwrap(), retry_after: None, body: body.into() }
    }

    #[test]
    fn an_accepted_url_gives_its_submission_even_beside_errors() {
        let body = r#"{"result":"ok","data":{"errors":[{"error_msg":"x"}],"submissions":[{"submission_id":9,"submission_sample_id":7,"submission_finished":false}]}}"#;
        let submission = outcome(&answer(200, body)).unwrap().submission;
        assert_eq!((submission.id.0, submission.finished), (9, false));
    }

    #[test]
    fn what_vmray_says_in_a_200_is_read() {
        let with_error = |text: &str| {
            outcome(&answer(
                200,
                &format!(r#"{{"result":"ok","data":{{"errors":[{{"error_msg":"{text}"}}]}}}}"#),
            ))
        };
        assert!(matches!(
            with_error("Submission not stored because no jobs were created"),
            Err(SubmitError::NoJobs { .. })
        ));
        assert!(matches!(
            with_error("You would exceed the Prepaid Report Quota"),
            Err(SubmitError::QuotaExceeded { .. })
        ));
        assert!(matches!(with_error("Unsupported"), Err(SubmitError::Refused { .. })));
        for body in [
            r#"{"result":"ok","data":{"errors":[],"submissions":[]}}"#,
            r#"{"result":"error","error_msg":"x"}"#,
        ] {
            assert!(matches!(outcome(&answer(200, body)), Err(SubmitError::Refused { .. })), "{body}");
        }
    }

    #[test]
    fn only_vmrays_own_no_is_a_no() {
        let error = r#"{"result":"error","error_msg":"Missing parameter"}"#;
        for (status, body) in [(400, error), (403, error), (422, error), (400, "<html>")] {
            assert!(
                matches!(outcome(&answer(status, body)), Err(SubmitError::Refused { .. })),
                "{status} {body}"
            );
        }
        for (status, body) in
            [(403, "<html>"), (408, error), (502, error), (500, "{}"), (302, ""), (200, "<html>"), (200, "")]
        {
            assert!(
                matches!(outcome(&answer(status, body)), Err(SubmitError::Ambiguous { .. })),
                "{status} {body}"
            );
        }
        let quota = r#"{"result":"error","error_msg":"exceed the Prepaid Report Quota"}"#;
        assert!(matches!(outcome(&answer(402, quota)), Err(SubmitError::QuotaExceeded { .. })));
    }
}
