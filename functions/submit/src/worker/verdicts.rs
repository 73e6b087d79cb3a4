//! Verdicts: VMRay is asked for them when a caller asks for the batch, with one list call for a chunk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use mapping::SubmissionFacts;
use runtime::http::Deadline;
use store::StoreError;
use vmray::client::{VmrayClient, VmrayError};
use vmray::model::{Submission, SubmissionId};

use super::decide::state_of;
use crate::access::VmrayAccess;
use crate::error::ServiceError;
use crate::ledger::entry::{Entry, FailureCode, Follower, State};
use crate::ledger::{Ledger, Versioned};
use crate::settings::SubmitSettings;

/// Numbers that one list call may span: no server cuts a list of so few rows.
const SPAN: u64 = 900;

/// Lists asked for at the same time.
const SPANS_AT_ONCE: usize = 8;

/// Entries written at the same time.
const WRITES_AT_ONCE: usize = 16;

/// Submissions that no list shows and that are asked for at the same time.
const ASKED_AT_ONCE: usize = 16;

/// The entries of a chunk, by key.
pub(crate) type ChunkEntries = HashMap<String, Versioned>;

/// Asks VMRay for verdicts.
pub(crate) struct Verdicts {
    ledger: Ledger,
    vmray: Arc<VmrayAccess>,
    /// Between two questions for a chunk.
    pause: Duration,
    /// One request.
    timeout: Duration,
}

impl Verdicts {
    pub(crate) fn new(settings: &SubmitSettings, ledger: Ledger, vmray: Arc<VmrayAccess>) -> Self {
        Self { ledger, vmray, pause: settings.times.refresh, timeout: settings.vmray.timeout }
    }

    /// Asks VMRay for the verdicts that are missing in `entries`, and writes what it says. Not more often than allowed,
    /// and never an error of VMRay's: then things stand as they stood. `true`: VMRay has answered.
    pub(crate) async fn refresh(
        &self,
        follower: Follower<'_>,
        chunk: usize,
        entries: &mut ChunkEntries,
        deadline: Deadline,
    ) -> Result<bool, ServiceError> {
        let batch = follower.batch;
        let waiting = unfinished(entries, follower);
        if waiting.is_empty() {
            return Ok(false);
        }
        if !self.ledger.begin_refresh(batch, chunk, self.pause, Utc::now()).await? {
            return Ok(false);
        }
        let vmray = self.vmray.client(self.timeout, deadline).await?;
        let (rows, complete) = rows(&vmray, waiting.keys().copied().collect()).await;
        self.vmray.note_refusals(&vmray);
        let mut records = Vec::new();
        for (id, row) in &rows {
            for key in waiting.get(id).into_iter().flatten() {
                if let Some(stored) = entries.get(key) {
                    records.push(self.record_news(key, *id, row.as_ref(), stored.clone()));
                }
            }
        }
        let recorded = stream::iter(records).buffer_unordered(WRITES_AT_ONCE).try_collect::<Vec<_>>().await?;
        entries.extend(recorded);
        if complete {
            self.ledger.end_refresh(batch, chunk, Utc::now()).await?;
        } else {
            tracing::warn!(batch, chunk, "VMRay did not answer for all submissions");
        }
        Ok(complete)
    }

    /// Writes what VMRay says of a submission; `None`: it does not have it any more. Gives the entry as it then is.
    async fn record_news(
        &self,
        key: &str,
        id: SubmissionId,
        row: Option<&Submission>,
        stored: Versioned,
    ) -> Result<(String, Versioned), StoreError> {
        let now = Utc::now();
        let news = |entry: &mut Entry| apply_news(entry, id, row, now);
        Ok((key.to_owned(), self.ledger.change_entry(key, stored, now, news).await?))
    }
}

/// Brings the runs of a submission to where VMRay says it is; `false`: nothing has changed.
fn apply_news(entry: &mut Entry, id: SubmissionId, row: Option<&Submission>, now: DateTime<Utc>) -> bool {
    let mut changed = false;
    for run in &mut entry.runs {
        let State::Submitted { facts, .. } = &run.state else { continue };
        if facts.submission_id != Some(id) {
            continue;
        }
        let news = match row {
            Some(row) => state_of(row, SubmissionFacts::from(row), now),
            None => State::Failed {
                facts: Some(facts.clone()),
                code: FailureCode::Deleted,
                detail: "VMRay does not have the submission any more".to_owned(),
                at: now,
            },
        };
        if !matches!(news, State::Submitted { .. }) {
            run.state = news;
            changed = true;
        }
    }
    changed
}

/// The submissions without a verdict that a batch follows, and the entries that wait for each.
fn unfinished(entries: &ChunkEntries, follower: Follower<'_>) -> HashMap<SubmissionId, Vec<String>> {
    let mut waiting: HashMap<SubmissionId, Vec<String>> = HashMap::new();
    for (key, entry) in entries {
        let run = entry.value.followed(follower).map(|place| &entry.value.runs[place].state);
        if let Some(State::Submitted { facts, .. }) = run
            && let Some(id) = facts.submission_id
        {
            waiting.entry(id).or_default().push(key.clone());
        }
    }
    waiting
}

/// What VMRay says of each submission (`None`: it is gone), and whether it has answered for all.
async fn rows(
    vmray: &VmrayClient,
    mut ids: Vec<SubmissionId>,
) -> (HashMap<SubmissionId, Option<Submission>>, bool) {
    ids.sort_unstable();
    let asked: Vec<_> = spans(&ids).into_iter().map(|span| rows_of_span(vmray, span)).collect();
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(SPANS_AT_ONCE).collect().await;
    let complete = answers.iter().all(|(_, complete)| *complete);
    (answers.into_iter().flat_map(|(rows, _)| rows).collect(), complete)
}

type Rows = Vec<(SubmissionId, Option<Submission>)>;

async fn rows_of_span(vmray: &VmrayClient, span: &[SubmissionId]) -> (Rows, bool) {
    let mut listed = HashMap::new();
    if let [first, .., last] = span {
        match vmray.submissions_between(*first, *last).await {
            Ok(listing) => listed.extend(listing.rows.into_iter().map(|row| (row.id, row))),
            Err(error) => {
                tracing::warn!(%error, "no news from VMRay");
                return (Vec::new(), false);
            }
        }
    }
    let (shown, missing): (Rows, Rows) =
        span.iter().map(|id| (*id, listed.remove(id))).partition(|(_, row)| row.is_some());
    let mut rows = shown;
    // Missing in a list is no proof: it may be cut.
    let asked = missing.into_iter().map(|(id, _)| async move { (id, vmray.submission(id).await) });
    let mut answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(row) => rows.push((id, Some(row))),
            Err(VmrayError::NotFound { .. }) => rows.push((id, None)),
            // That one is not shown to this key, or cannot be read: no reason to know nothing of the others.
            Err(
                error @ (VmrayError::Forbidden { .. }
                | VmrayError::Malformed { .. }
                | VmrayError::Rejected { .. }
                | VmrayError::TooLarge { .. }),
            ) => tracing::warn!(%error, "no news of one submission"),
            Err(error) => {
                tracing::warn!(%error, "no news from VMRay");
                return (rows, false);
            }
        }
    }
    (rows, true)
}

/// Cuts ascending numbers into stretches that one list call can answer.
fn spans(ids: &[SubmissionId]) -> Vec<&[SubmissionId]> {
    let mut spans = Vec::new();
    let mut rest = ids;
    while let Some(first) = rest.first() {
        let end = rest.partition_point(|id| id.0 - first.0 < SPAN);
        let (span, after) = rest.split_at(end);
        spans.push(span);
        rest = after;
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_near_each_other_are_one_question() {
        let ids: Vec<_> = [1, 2, 500, 900, 901, 5000].map(SubmissionId).to_vec();
        let spans: Vec<Vec<u64>> =
            spans(&ids).into_iter().map(|span| span.iter().map(|id| id.0).collect()).collect();
        assert_eq!(spans, [vec![1, 2, 500, 900], vec![901], vec![5000]]);
    }
}
