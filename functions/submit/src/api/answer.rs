//! What a batch looks like to its caller.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use mapping::{Attribute, submission_attributes};
use runtime::http::Deadline;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use vmray::model::{SampleId, SubmissionId, Verdict};

use super::http::Response;
use crate::calls::Ask;
use crate::error::ServiceError;
use crate::ledger::Batch;
use crate::ledger::batch::{Fate, InputId, Item};
use crate::ledger::outcome::{Counts, Outcome, Source, Status};
use crate::quota::KeyQuota;
use crate::service::Submit;
use crate::url::Wrapper;

/// Chunks looked at at the same time: a big batch takes no longer than its slowest parts, and little memory.
const CHUNKS_AT_ONCE: usize = 4;

/// The most bytes of results in one answer. Lambda answers at most 6 MB, and escapes each quotation mark with one more.
const MOST_RESULT_BYTES: usize = 3_500_000;

/// How long one request asks VMRay for verdicts; what is not asked for by then is next time.
const REFRESH_PATIENCE: Duration = Duration::from_secs(6);

/// What is kept of a request for what has to be written after VMRay was asked.
const TIME_TO_WRITE: Duration = Duration::from_secs(2);

/// When a caller should look again: soon while something is still to be sent, later while VMRay works.
const LOOK_AGAIN_SOON: u64 = 5;
const LOOK_AGAIN_LATER: u64 = 15;

/// Which part of the results is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResultPage {
    /// The first input.
    pub(crate) start: usize,
    /// The most results; `None`: no results at all.
    pub(crate) limit: Option<usize>,
    /// The most bytes of results; one result is given nevertheless.
    pub(crate) max_bytes: usize,
}

/// Results in one answer unless the call says how many.
pub const DEFAULT_LIMIT: usize = 1000;

impl ResultPage {
    pub(crate) const FIRST: Self =
        Self { start: 0, limit: Some(DEFAULT_LIMIT), max_bytes: MOST_RESULT_BYTES };

    /// What is left of a page after an answer that was a part of it.
    pub(crate) fn after(self, answer: &BatchAnswer<'_>) -> Self {
        let bytes = answer.results.as_ref().map_or(0, |results| results.get().len());
        let max_bytes = self.max_bytes.saturating_sub(bytes);
        let limit = self
            .limit
            .map(|limit| if max_bytes == 0 { 0 } else { limit.saturating_sub(answer.counts.total) });
        Self { limit, max_bytes, ..self }
    }
}

/// A batch as its caller sees it.
#[derive(Debug, Serialize)]
pub(crate) struct BatchAnswer<'a> {
    pub(crate) batch_id: &'a str,
    pub(crate) done: bool,
    pub(crate) errors: bool,
    pub(crate) counts: Counts,
    pub(crate) pending_ids: Vec<&'a str>,
    pub(crate) quota: Option<KeyQuota>,
    pub(crate) next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) results: Option<Box<RawValue>>,
}

/// One input as its caller sees it: all scalars but the attributes.
#[derive(Debug, Serialize)]
pub(crate) struct ResultRow<'a> {
    index: usize,
    id: Option<&'a InputId>,
    input: Option<&'a str>,
    url: Option<&'a str>,
    unwrapped_from: Option<Wrapper>,
    status: Status,
    source: Option<Source>,
    verdict: Option<Verdict>,
    severity: Option<&'a str>,
    score: Option<u8>,
    submission_id: Option<SubmissionId>,
    sample_id: Option<SampleId>,
    report_url: Option<&'a str>,
    error_code: Option<&'a str>,
    error_detail: Option<&'a str>,
    attributes: Vec<Attribute>,
}

impl<'a> ResultRow<'a> {
    pub(crate) fn new(index: usize, item: &'a Item, outcome: &Outcome<'a>) -> Self {
        let url = match &item.fate {
            Fate::Send { url, .. } => Some(url.as_str()),
            Fate::Refuse { .. } => None,
        };
        let facts = outcome.facts;
        // What VMRay says before it is done is no verdict.
        let ended = facts.filter(|_| outcome.status == Status::Finished);
        Self {
            index,
            id: item.id.as_ref(),
            input: item.input.as_deref().or(item.unstored_input.as_deref()).or(url),
            url,
            unwrapped_from: item.unwrapped_from,
            status: outcome.status,
            source: outcome.source,
            verdict: ended.and_then(|facts| facts.verdict),
            severity: ended.and_then(|facts| facts.severity.as_deref()),
            score: ended.and_then(|facts| facts.score),
            submission_id: facts.and_then(|facts| facts.submission_id),
            sample_id: facts.and_then(|facts| facts.sample_id),
            report_url: facts.and_then(|facts| facts.report_url.as_deref()),
            error_code: outcome.error_code,
            error_detail: outcome.error_detail,
            attributes: facts.map(submission_attributes).unwrap_or_default(),
        }
    }
}

/// What one chunk adds to an answer.
struct ChunkAnswer {
    counts: Counts,
    /// JSON texts of the results inside the page, by index.
    rows: Vec<(usize, String)>,
}

impl Submit {
    /// The batch as it stands, with what VMRay says now.
    pub(crate) async fn answer<'a>(
        &self,
        batch: &'a Batch,
        page: ResultPage,
        patience: Deadline,
        ask: Ask,
    ) -> Result<BatchAnswer<'a>, ServiceError> {
        let parts: Vec<_> = (0..batch.chunks.len()).map(|chunk| self.part(batch, chunk, page, ask)).collect();
        let parts = async { stream::iter(parts).buffered(CHUNKS_AT_ONCE).try_collect::<Vec<_>>().await };
        let (parts, quota) = tokio::join!(parts, self.vmray.quota(patience));
        let mut counts = Counts::default();
        let mut rows = Vec::new();
        for part in parts? {
            counts.merge(part.counts);
            rows.extend(part.rows);
        }
        let (results, next) = page.limit.map_or((None, None), |_| joined(rows, page, counts.total));
        Ok(BatchAnswer {
            batch_id: &batch.id,
            done: counts.done(),
            errors: counts.errors(),
            counts,
            pending_ids: if counts.done() { Vec::new() } else { vec![&batch.id] },
            quota,
            next_cursor: next.map(|next| next.to_string()),
            results,
        })
    }

    async fn part(
        &self,
        batch: &Batch,
        number: usize,
        page: ResultPage,
        ask: Ask,
    ) -> Result<ChunkAnswer, ServiceError> {
        let judged = self.calls.chunk(batch, number, ask).await?;
        let mut part = ChunkAnswer { counts: Counts::default(), rows: Vec::new() };
        for (index, (item, outcome)) in batch.header.places(number).zip(judged.outcomes()) {
            part.counts.add(outcome.status);
            let wanted = page
                .limit
                .is_some_and(|limit| (page.start..page.start.saturating_add(limit)).contains(&index));
            if wanted {
                let row = ResultRow::new(index, item, &outcome);
                part.rows.push((index, serde_json::to_string(&row).unwrap_or_default()));
            }
        }
        Ok(part)
    }
}

/// How long VMRay is asked for one request: its outage is no reason not to answer.
pub(crate) fn patience(deadline: Deadline) -> Deadline {
    let remaining = deadline.remaining().saturating_sub(TIME_TO_WRITE);
    Deadline::at(Instant::now() + remaining.min(REFRESH_PATIENCE))
}

/// The results as one JSON list, as many as fit, and where the next page begins.
pub(crate) fn joined(
    rows: Vec<(usize, String)>,
    page: ResultPage,
    total: usize,
) -> (Option<Box<RawValue>>, Option<usize>) {
    let mut list = String::from("[");
    let mut next = page.start;
    for (index, row) in rows {
        if list.len() > 1 {
            if list.len() + row.len() > page.max_bytes {
                break;
            }
            list.push(',');
        }
        list.push_str(&row);
        next = index + 1;
    }
    list.push(']');
    (RawValue::from_string(list).ok(), Some(next).filter(|next| *next < total))
}

impl BatchAnswer<'_> {
    /// 200 when all is done; else 202, and where and when to look again.
    pub(crate) fn response(&self) -> Response {
        if self.done {
            return Response::json(200, self);
        }
        Response::json(202, self)
            .with("location", format!("/v1/submissions/{}", self.batch_id))
            .with("retry-after", look_again(&self.counts).to_string())
    }
}

/// Seconds after which a caller should look again.
pub(crate) fn look_again(counts: &Counts) -> u64 {
    if counts.pending + counts.unconfirmed > 0 { LOOK_AGAIN_SOON } else { LOOK_AGAIN_LATER }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_answer_would_be_too_large() {
        let row = |index| (index, format!("\"{}\"", "x".repeat(1_000_000)));
        let (results, next) = joined((0..5).map(row).collect(), ResultPage::FIRST, 5);
        assert_eq!(next, Some(3));
        assert!(results.unwrap().get().len() <= MOST_RESULT_BYTES);
        let (results, next) =
            joined(vec![(4, "1".to_owned())], ResultPage { start: 4, ..ResultPage::FIRST }, 5);
        assert_eq!((results.unwrap().get(), next), ("[1]", None));
    }
}
