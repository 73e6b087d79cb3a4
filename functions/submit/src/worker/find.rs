//! Finding in VMRay what was, or may have been, submitted.

use chrono::{DateTime, TimeDelta, Utc};
use mapping::SubmissionFacts;
use runtime::telemetry::url_for_log;
use serde_json::{Value, json};
use store::StoreError;
use vmray::client::{FoundSubmission, VmrayClient, VmrayError};
use vmray::model::{Sample, Submission};

use super::decide::{Left, LookedUp, Sign, looked_up, sent_at, state_of};
use super::{Job, Pass, Stepped};
use crate::hash::sha256;
use crate::ledger::Versioned;
use crate::ledger::entry::State;

/// The name under which a run's token stands in a submission's metadata.
const TOKEN: &str = "vmray_bridge";

/// A longer URL is looked for as it was sent only.
const LONGEST_SPELLED: usize = 1000;

/// The clocks of on-prem servers differ from this machine's.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(1);

/// What a submission is marked with: VMRay echoes it.
pub(super) fn metadata(token: &str) -> String {
    json!({ TOKEN: token }).to_string()
}

impl Pass<'_> {
    /// Looks in VMRay for a submission of which it is not known whether it was stored.
    pub(super) async fn find(
        &self,
        job: &Job<'_>,
        stored: Versioned,
        place: usize,
    ) -> Result<Stepped, StoreError> {
        let now = Utc::now();
        let before = stored.value.runs[place].clone();
        let url = url_for_log(job.url);
        let found = match submission_of(&self.vmray, &before.token, job.url, sent_at(&before, now)).await {
            Ok(found) => found,
            Err(error) => {
                if matches!(error, VmrayError::Unauthorized { .. } | VmrayError::Keys(_)) {
                    self.count(|work| work.unauthorized = true);
                    self.note(Sign::Refuses);
                } else {
                    tracing::warn!(batch = self.batch, url, %error, "could not be looked up");
                    self.note(Sign::Fails);
                }
                return Ok((stored, Some(Left::WhenVmrayIsBack)));
            }
        };
        let mut run = before.clone();
        match looked_up(&mut run, found.as_ref(), self.patience(), now) {
            LookedUp::Found => {
                self.note(Sign::Works);
                self.count(|work| work.submitted += 1);
            }
            LookedUp::Lost => tracing::info!(batch = self.batch, url, "VMRay does not have it: sent again"),
            LookedUp::Missing => {}
        }
        self.record(job, stored, &before, &run, None).await
    }
}

/// The submission that was made with `token`, of `url` at `sent_at`; `None`: VMRay does not show it (yet).
///
/// By the token in the metadata; else by the URL, since not every server can filter by metadata.
async fn submission_of(
    vmray: &VmrayClient,
    token: &str,
    url: &str,
    sent_at: DateTime<Utc>,
) -> Result<Option<Submission>, VmrayError> {
    let by_metadata = vmray.submissions_with_metadata(&metadata(token)).await?;
    let was_answered = by_metadata.is_some();
    // A server that does not know the filter may have answered with everything.
    if let Some(found) = by_metadata.into_iter().flatten().find(|row| has_token(row, token)) {
        return Ok(Some(found.submission));
    }
    let spellings = spellings(url);
    let spellings: Vec<_> = spellings.iter().map(String::as_str).collect();
    let Some(by_url) = vmray.submissions_of_urls(&spellings).await? else {
        if was_answered {
            return Ok(None);
        }
        // The server understood neither question. That does not mean that it has no such submission.
        return Err(VmrayError::Unavailable {
            what: "a submission whose outcome is not known".to_owned(),
            reason: "the server takes neither of both ways to look for it".to_owned(),
            retry_after: None,
        });
    };
    let found = by_url.into_iter().find(|row| has_token(row, token) || may_be_ours(row, sent_at));
    Ok(found.map(|found| found.submission))
}

/// Whether the metadata holds the token, however the server spells JSON.
fn has_token(row: &FoundSubmission, token: &str) -> bool {
    row.metadata.as_deref().is_some_and(|metadata| metadata.contains(token))
}

/// Whether a row of a server that echoes no metadata can be the submission: made when the URL was sent.
fn may_be_ours(row: &FoundSubmission, sent_at: DateTime<Utc>) -> bool {
    let says_nothing = row.metadata.as_deref().is_none_or(|metadata| {
        serde_json::from_str::<Value>(metadata)
            .is_ok_and(|value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty))
    });
    let at_that_time =
        row.submission.created.is_some_and(|created| (created - sent_at).abs() <= CLOCKS_DIFFER);
    says_nothing && at_that_time
}

/// How VMRay may spell a URL that we send: with and without the slash of an empty path, with and without the scheme.
fn spellings(url: &str) -> Vec<String> {
    let mut spellings = vec![url.to_owned()];
    // The query that asks for all of them would be longer than servers take.
    if url.len() > LONGEST_SPELLED {
        return spellings;
    }
    spellings.extend(without_slash(url));
    if let Some((_, rest)) = url.split_once("://") {
        spellings.push(rest.to_owned());
        spellings.extend(without_slash(rest));
    }
    spellings
}

/// `http://a.example` from `http://a.example/`.
fn without_slash(url: &str) -> Option<String> {
    let host = url.strip_suffix('/')?;
    let host_only = host.split_once("://").map_or(host, |(_, rest)| rest);
    (!host_only.contains(['/', '?', '#'])).then(|| host.to_owned())
}

/// What VMRay knows of a URL that it did not take because it knows it: the newest submission of its sample.
///
/// A URL's sample has the hash of the URL as VMRay spells it. `None`: there is no such sample.
pub(super) async fn known_sample(
    vmray: &VmrayClient,
    url: &str,
    at: DateTime<Utc>,
) -> Result<Option<State>, VmrayError> {
    for spelling in [Some(url.to_owned()), without_slash(url)].into_iter().flatten() {
        let samples = vmray.samples_with_sha256(&sha256(&spelling)).await?;
        let newest = samples.into_iter().max_by_key(|sample| sample.id);
        if let Some(sample) = newest {
            return state_of_sample(vmray, &sample, at).await;
        }
    }
    Ok(None)
}

async fn state_of_sample(
    vmray: &VmrayClient,
    sample: &Sample,
    at: DateTime<Utc>,
) -> Result<Option<State>, VmrayError> {
    let rows = vmray.submissions_of_sample(sample.id).await?;
    let submissions =
        || rows.iter().map(|row| &row.submission).filter(|row| row.sample_id == Some(sample.id));
    let finished = submissions().filter(|row| row.finished).max_by_key(|row| row.id);
    if let Some(submission) = finished.or_else(|| submissions().max_by_key(|row| row.id)) {
        let facts = SubmissionFacts::from(submission);
        let facts = SubmissionFacts { verdict: facts.verdict.or(sample.verdict), ..facts };
        return Ok(Some(state_of(submission, facts, at)));
    }
    // Its submissions belong to another account; the sample itself has a verdict.
    let facts = SubmissionFacts {
        submission_id: None,
        sample_id: Some(sample.id),
        verdict: sample.verdict,
        severity: None,
        score: None,
        report_url: sample.webif_url.clone().map(Into::into),
    };
    Ok(sample.verdict.map(|_| State::Finished { facts, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(metadata: &Value, created: &str) -> FoundSubmission {
        serde_json::from_str(
            &json!({"submission_id": 1, "submission_submission_metadata": metadata, "submission_created": created})
                .to_string(),
        )
        .unwrap()
    }

    #[test]
    fn a_submission_is_ours_by_its_token_however_json_is_spelled() {
        let token = "0123456789abcdef";
        for spelled in ["{\"vmray_bridge\": \"0123456789abcdef\"}", &metadata(token)] {
            assert!(has_token(&found(&spelled.into(), "2026-01-01T00:00:00"), token));
        }
        assert!(has_token(&found(&json!({TOKEN: token}), "2026-01-01T00:00:00"), token));
        assert!(!has_token(&found(&metadata("other").into(), "2026-01-01T00:00:00"), token));
    }

    #[test]
    fn without_metadata_only_the_time_can_tell() {
        let sent_at = "2026-01-01T12:00:00Z".parse().unwrap();
        for nothing in [json!("{}"), Value::Null] {
            assert!(may_be_ours(&found(&nothing, "2026-01-01T12:00:03"), sent_at));
            assert!(!may_be_ours(&found(&nothing, "2025-12-24T12:00:00"), sent_at));
        }
        assert!(!may_be_ours(&found(&metadata("other").into(), "2026-01-01T12:00:03"), sent_at));
    }

    #[test]
    fn a_url_is_looked_for_in_all_spellings() {
        assert_eq!(
            spellings("http://a.example/"),
            ["http://a.example/", "http://a.example", "a.example/", "a.example"]
        );
        assert_eq!(spellings("http://a.example/b/"), ["http://a.example/b/", "a.example/b/"]);
    }

    #[test]
    fn a_urls_sample_has_the_hash_of_its_text() {
        let recorded = "aa2239c17609b21eba034c564af878f3eec8ce83ed0f2768597d2bc2fd4e4da5";
        assert_eq!(sha256(&without_slash("http://google.com/").unwrap()), recorded);
    }
}
