//! Submitting a collection, asking for it, retrying it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use runtime::http::Deadline;
use serde::Serialize;
use store::Expected;
use tokio::time::{Instant, sleep};

use super::answer::{Ask, BatchAnswer, Page, look_again, patience};
use super::body::{self, Body, Limits};
use super::callers::Caller;
use super::http::{Request, Response};
use super::options::Options;
use super::problem::{Kind, Problem};
use super::{Failure, MOST_BODY_BYTES, MOST_BODY_DEPTH, parameters};
use crate::accept::Call;
use crate::ledger::batch::{BatchState, Fate, Item};
use crate::ledger::day::{Booked, ByChunk};
use crate::ledger::entry::{Entry, Retried};
use crate::ledger::{Batch, Versioned};
use crate::queue::{Delayed, Message};
use crate::service::{Keyed, ServiceError, Submit};
use crate::view::{Counts, Perspective, Status};
use crate::worker::{distinct_items, distinct_keys};

/// Between two looks at the ledger while an answer waits: short at first, since a few URLs are sent in no time.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(120);

/// What is kept of a request for its answer.
const TIME_TO_ANSWER: Duration = Duration::from_secs(3);

/// Entries changed at the same time by a retry.
const WRITES_AT_ONCE: usize = 8;

/// What a wait has come to.
struct Waited {
    /// The batch's state as it is then.
    state: BatchState,
    something_was_unsent: bool,
}

/// Several batches, for pollers.
#[derive(Serialize)]
struct BatchesAnswer<'a> {
    done: bool,
    errors: bool,
    pending_ids: Vec<&'a str>,
    unknown_ids: Vec<&'a str>,
    batches: Vec<BatchAnswer<'a>>,
}

impl Submit {
    /// Reads the body of a call, and checks its options.
    pub(super) fn read_call(&self, request: &Request, caller: &Caller) -> Result<(Body, Options), Problem> {
        if let Some(encoding) = request.header("content-encoding")
            && !encoding.trim().is_empty()
            && !encoding.trim().eq_ignore_ascii_case("identity")
        {
            let detail =
                "compressed bodies are not read; send it as it is, in several calls if it is too large";
            return Err(Problem::new(Kind::UnsupportedMediaType, detail));
        }
        let limits = Limits {
            max_urls: caller.urls_per_request(&self.settings.limits),
            max_bytes: MOST_BODY_BYTES,
            max_depth: MOST_BODY_DEPTH,
        };
        let body = body::parse(request.header("content-type"), &request.body, limits)?;
        let allow_shareable = self.settings.defaults.allow_shareable;
        let options = Options::read(&body.options, &self.defaults, allow_shareable)
            .map_err(Problem::invalid_options)?;
        Ok((body, options))
    }

    pub(super) async fn post_submissions(
        &self,
        request: &Request,
        keyed: &Keyed,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let wait = parameters::wait(request)?;
        let idempotency_key = parameters::idempotency_key(request)?;
        let until = Instant::now() + wait;
        let (body, options) = self.read_call(request, caller)?;
        let Body { inputs, options: given_options } = body;
        let call = Call { inputs, options, given_options, idempotency_key };
        let mut batch = self.accept(&keyed.gate, caller, call).await?;
        let until = until.min(Instant::now() + deadline.remaining().saturating_sub(TIME_TO_ANSWER));
        let (waited, _) = tokio::join!(self.wait_until_sent(&batch, until), self.quota(patience(deadline)));
        let waited = waited?;
        batch.state = waited.state;
        // What was only just sent has no verdict: it is not worth the wait for VMRay's list.
        let ask = if waited.something_was_unsent { Ask::Nobody } else { Ask::Vmray };
        Ok(self.answer(&batch, Page::FIRST, patience(deadline), ask).await?.response())
    }

    /// Waits until nothing of a batch is left to send, or until `until`.
    async fn wait_until_sent(&self, batch: &Batch, until: Instant) -> Result<Waited, ServiceError> {
        let mut waited = Waited { state: batch.state.clone(), something_was_unsent: false };
        let mut pause = FIRST_LOOK;
        for chunk in &batch.chunks {
            let mut unsent = distinct_items(chunk);
            loop {
                self.keep_unsent(batch, &waited.state, &mut unsent).await?;
                if unsent.is_empty() {
                    break;
                }
                waited.something_was_unsent = true;
                if Instant::now() + pause > until {
                    waited.state = self.ledger.state(&batch.id, Utc::now()).await?;
                    return Ok(waited);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_LOOK);
                waited.state = self.ledger.state(&batch.id, Utc::now()).await?;
            }
        }
        Ok(waited)
    }

    /// Leaves those of the items that are still to be sent.
    async fn keep_unsent(
        &self,
        batch: &Batch,
        state: &BatchState,
        items: &mut Vec<&Item>,
    ) -> Result<(), ServiceError> {
        let now = Utc::now();
        let entries = self.ledger.entries(items.iter().filter_map(|item| item.key()), now).await?;
        let perspective = Perspective::new(&batch.id, &batch.header, state, self.rules(), now);
        items.retain(|item| {
            let entry = item.key().and_then(|key| entries.get(key)).map(|entry| &entry.value);
            let status = perspective.outcome(item, entry, None).status;
            matches!(status, Status::Pending | Status::Unconfirmed)
        });
        Ok(())
    }

    /// The batch, if it is this caller's.
    async fn batch_of(&self, caller: &Caller, id: &str) -> Result<Option<Batch>, Failure> {
        if !parameters::is_batch_id(id) {
            return Ok(None);
        }
        let batch = self.ledger.batch(id, Utc::now()).await?;
        Ok(batch.filter(|batch| batch.header.caller == caller.name))
    }

    async fn known_batch(&self, caller: &Caller, id: &str) -> Result<Batch, Failure> {
        let no_such =
            || Problem::new(Kind::NoSuchBatch, "it never was, is over its retention, or is not yours");
        self.batch_of(caller, id).await?.ok_or_else(|| no_such().into())
    }

    pub(super) async fn get_submission(
        &self,
        request: &Request,
        caller: &Caller,
        id: &str,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let selection = parameters::selection(request, false)?;
        let batch = self.known_batch(caller, id).await?;
        Ok(self.answer(&batch, selection.page, patience(deadline), Ask::Vmray).await?.response())
    }

    pub(super) async fn get_submissions(
        &self,
        request: &Request,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let selection = parameters::selection(request, true)?;
        let ids = selection.ids.ok_or_else(|| {
            Problem::new(Kind::InvalidParameter, "`ids` is missing: a list of batches with commas")
        })?;
        let mut batches = Vec::new();
        let mut unknown_ids = Vec::new();
        for id in &ids {
            match self.batch_of(caller, id).await? {
                Some(batch) => batches.push(batch),
                None => unknown_ids.push(id.as_str()),
            }
        }
        // Together they fit into one answer as one batch does: the later ones get what the first leave.
        let mut page = selection.page;
        let patience = patience(deadline);
        let mut answers = Vec::with_capacity(batches.len());
        for batch in &batches {
            let answer = self.answer(batch, page, patience, Ask::Vmray).await?;
            page = page.after(&answer);
            answers.push(answer);
        }
        Ok(several(answers, unknown_ids))
    }

    /// Queues what ended without a verdict again. It is booked before anything changes, and the batch's state, which says
    /// that the retry has begun, comes last: one that dies in between is simply made again.
    pub(super) async fn retry(
        &self,
        request: &Request,
        caller: &Caller,
        id: &str,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let until = Instant::now() + parameters::wait(request)?;
        let mut batch = self.known_batch(caller, id).await?;
        let now = Utc::now();
        let round = batch.state.retries + 1;
        let retriable = self.retriable(&batch, round, now).await?;
        if retriable.is_empty() {
            return Ok(self.answer(&batch, Page::FIRST, patience(deadline), Ask::Vmray).await?.response());
        }
        let sent_again = |urls: &[Retriable]| urls.iter().filter(|url| url.is_sent_again).count() as u64;
        let urls: ByChunk = retriable.iter().map(|(chunk, urls)| (*chunk, sent_again(urls))).collect();
        if self.book(caller, (&batch.id, round), &urls, now).await? == Booked::Now {
            // The worker looks after it if this ends before the messages are sent.
            self.send_guard(&batch.id, &caller.name).await?;
            for urls in retriable.values() {
                self.retry_chunk(&batch, urls, round, now).await?;
            }
            self.ledger.begin_retry(&batch.id, round, now).await?;
            tracing::info!(batch = batch.id, urls = urls.values().sum::<u64>(), "retried");
            let message = |chunk: &usize| {
                let message = Message::Chunk { batch: batch.id.clone(), chunk: *chunk, attempt: 0 };
                Delayed::now(message, &caller.name)
            };
            self.queue.send(retriable.keys().map(message).collect()).await?;
        }
        batch.state = self.ledger.state(&batch.id, now).await?;
        let until = until.min(Instant::now() + deadline.remaining().saturating_sub(TIME_TO_ANSWER));
        let (waited, _) = tokio::join!(self.wait_until_sent(&batch, until), self.quota(patience(deadline)));
        batch.state = waited?.state;
        Ok(self.answer(&batch, Page::FIRST, patience(deadline), Ask::Nobody).await?.response())
    }

    /// The URLs that can be retried, by chunk.
    async fn retriable(
        &self,
        batch: &Batch,
        round: u32,
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<usize, Vec<Retriable>>, ServiceError> {
        let mut retriable = BTreeMap::new();
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let mut entries = self.ledger.entries(distinct_keys(chunk), now).await?;
            let perspective = Perspective::of(batch, self.rules(), now);
            let refresh = batch.refreshes.get(&number);
            let mut urls = Vec::new();
            let mut seen = HashSet::new();
            for item in &chunk.items {
                let Fate::Send { url, key, .. } = &item.fate else { continue };
                let entry = entries.get(key).map(|entry| &entry.value);
                if !perspective.outcome(item, entry, refresh).status.can_be_retried() || !seen.insert(key) {
                    continue;
                }
                let mut entry = entry.cloned().unwrap_or_else(|| Entry::new(url.clone()));
                let retried = entry.retry(perspective.follower, round, String::new(), now);
                let is_sent_again = retried == Retried::Again;
                let stored = entries
                    .remove(key)
                    .unwrap_or_else(|| Versioned { value: Entry::new(url.clone()), expected: Expected::New });
                urls.push(Retriable { key: key.clone(), stored, is_sent_again });
            }
            if !urls.is_empty() {
                retriable.insert(number, urls);
            }
        }
        Ok(retriable)
    }

    async fn retry_chunk(
        &self,
        batch: &Batch,
        urls: &[Retriable],
        round: u32,
        now: DateTime<Utc>,
    ) -> Result<(), ServiceError> {
        let follower = Perspective::of(batch, self.rules(), now).follower;
        let retried: Vec<_> = urls
            .iter()
            .map(|url| {
                // The earlier submission must not be taken for the next one.
                let token = uuid::Uuid::new_v4().simple().to_string();
                let retry =
                    move |entry: &mut Entry| entry.retry(follower, round, token.clone(), now) != Retried::No;
                self.ledger.change_entry(&url.key, url.stored.clone(), now, retry)
            })
            .collect();
        stream::iter(retried).buffer_unordered(WRITES_AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(())
    }
}

/// A URL that can be retried.
struct Retriable {
    key: String,
    stored: Versioned,
    /// Whether the retry will send it, as far as is known.
    is_sent_again: bool,
}

/// The answer about several batches.
fn several(answers: Vec<BatchAnswer<'_>>, unknown_ids: Vec<&str>) -> Response {
    let done = answers.iter().all(|answer| answer.done);
    let mut counts = Counts::default();
    for answer in &answers {
        counts.merge(answer.counts);
    }
    let body = BatchesAnswer {
        done,
        errors: counts.errors() || !unknown_ids.is_empty(),
        pending_ids: answers.iter().flat_map(|answer| answer.pending_ids.clone()).collect(),
        unknown_ids,
        batches: answers,
    };
    if done {
        Response::json(200, &body)
    } else {
        Response::json(202, &body).with("retry-after", look_again(&counts).to_string())
    }
}
