//! Verdicts: what has been submitted is asked for when somebody asks for its batch, one list call for a chunk.

use std::collections::HashMap;

use chrono::Utc;
use common::http::Deadline;
use common::mapping::SubmissionFacts;
use common::store::StoreError;
use common::vmray::client::{VmrayClient, VmrayError};
use common::vmray::model::{Submission, SubmissionId};

use crate::ledger::entry::{FailureCode, Follower, State};
use crate::ledger::{Put, Versioned};
use crate::lookup::state_of;
use crate::service::{ServiceError, Submit};

/// Numbers that one list call may span: no server cuts a list of so few rows.
const SPAN: u64 = 900;

/// Times that a lost race for an entry is run again.
const RACES: u32 = 5;

/// The entries of a chunk, by key.
pub(crate) type Entries = HashMap<String, Versioned>;

impl Submit {
    /// Asks VMRay for the verdicts that are missing in `entries`, and writes what it says. Not more often than allowed,
    /// and never an error of VMRay's: then things stand as they stood. `true`: VMRay has answered.
    pub(crate) async fn refresh(
        &self,
        follower: Follower<'_>,
        chunk: usize,
        entries: &mut Entries,
        deadline: Deadline,
    ) -> Result<bool, ServiceError> {
        let batch = follower.batch;
        let waiting = unfinished(entries, follower);
        if waiting.is_empty() {
            return Ok(false);
        }
        let pause = self.times().refresh;
        if !self.ledger.begin_refresh(batch, chunk, pause, Utc::now()).await? {
            return Ok(false);
        }
        let vmray = self.vmray(self.settings.vmray.timeout, deadline).await?;
        let rows = match rows(&vmray, waiting.keys().copied().collect()).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(batch, chunk, %error, "no news from VMRay");
                return Ok(false);
            }
        };
        for (id, row) in rows {
            for key in waiting.get(&id).into_iter().flatten() {
                self.record_news(key, id, row.as_ref(), entries).await?;
            }
        }
        self.ledger.end_refresh(batch, chunk, Utc::now()).await?;
        Ok(true)
    }

    /// Writes what VMRay says of a submission; `None`: it does not have it any more.
    async fn record_news(
        &self,
        key: &str,
        id: SubmissionId,
        row: Option<&Submission>,
        entries: &mut Entries,
    ) -> Result<(), StoreError> {
        let now = Utc::now();
        let state = |known: &SubmissionFacts| match row {
            Some(row) => state_of(row, SubmissionFacts::from(row), now),
            None => State::Failed {
                facts: Some(known.clone()),
                code: FailureCode::Deleted,
                detail: "VMRay does not have the submission any more".to_owned(),
                at: now,
            },
        };
        for _ in 0..RACES {
            let Some(stored) = entries.get_mut(key) else { return Ok(()) };
            let mut changed = false;
            for run in &mut stored.value.runs {
                if let State::Submitted { facts, .. } = &run.state
                    && facts.submission_id == Some(id)
                {
                    let news = state(facts);
                    if !matches!(news, State::Submitted { .. }) {
                        run.state = news;
                        changed = true;
                    }
                }
            }
            if !changed {
                return Ok(());
            }
            match self.ledger.put_entry(key, &stored.value, stored.expected, now).await? {
                Put::Written(expected) => {
                    stored.expected = expected;
                    return Ok(());
                }
                Put::Taken(Some(current)) => *stored = current,
                Put::Taken(None) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The submissions without a verdict that a batch follows, and the entries that wait for each.
fn unfinished(entries: &Entries, follower: Follower<'_>) -> HashMap<SubmissionId, Vec<String>> {
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

/// What VMRay says of each submission; `None`: it is gone.
async fn rows(
    vmray: &VmrayClient,
    mut ids: Vec<SubmissionId>,
) -> Result<HashMap<SubmissionId, Option<Submission>>, VmrayError> {
    ids.sort_unstable();
    let mut rows = HashMap::with_capacity(ids.len());
    for span in spans(&ids) {
        if let [id] = span {
            rows.insert(*id, one(vmray, *id).await?);
            continue;
        }
        let (first, last) = (span[0], span[span.len() - 1]);
        let listed = vmray.submissions_between(first, last).await?;
        let mut listed: HashMap<_, _> = listed.rows.into_iter().map(|row| (row.id, row)).collect();
        for id in span {
            let row = match listed.remove(id) {
                Some(row) => Some(row),
                // Missing in a list is no proof: it may be cut.
                None => one(vmray, *id).await?,
            };
            rows.insert(*id, row);
        }
    }
    Ok(rows)
}

async fn one(vmray: &VmrayClient, id: SubmissionId) -> Result<Option<Submission>, VmrayError> {
    match vmray.submission(id).await {
        Ok(row) => Ok(Some(row)),
        Err(VmrayError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
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
