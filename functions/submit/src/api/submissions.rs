//! Submitting a collection, asking for it, retrying it.

use std::collections::HashSet;
use std::time::Duration;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use runtime::http::Deadline;
use serde::Serialize;
use store::Expected;
use tokio::time::{Instant, sleep};

use super::answer::{BatchAnswer, Page, look_again, patience};
use super::body::{self, Body, Limits};
use super::callers::Caller;
use super::http::{Request, Response};
use super::options::Options;
use super::problem::{Kind, Problem};
use super::{Failure, MOST_BODY_BYTES, MOST_BODY_DEPTH, parameters};
use crate::accept::Call;
use crate::ledger::Batch;
use crate::ledger::batch::{BatchState, Chunk};
use crate::ledger::entry::{Entry, State};
use crate::ledger::{Put, Versioned};
use crate::queue::{Delayed, Message};
use crate::service::{Keyed, ServiceError, Submit};
use crate::view::{Counts, Perspective, Status};
use crate::worker::distinct_keys;

/// Between two looks at the ledger while an answer waits: short at first, since a few URLs are sent in no time.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(250);

/// What is kept of a request for its answer.
const TIME_TO_ANSWER: Duration = Duration::from_secs(3);

/// Entries changed at the same time by a retry.
const WRITES_AT_ONCE: usize = 8;

/// Times that a lost race for an entry is run again.
const RACES: u32 = 10;

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
        batch.state = self.wait_until_sent(&batch, until).await?;
        Ok(self.answer(&batch, Page::FIRST, patience(deadline)).await?.response())
    }

    /// Waits until nothing of a batch is left to send, or until `until`. Gives the batch's state as it is then.
    async fn wait_until_sent(&self, batch: &Batch, until: Instant) -> Result<BatchState, ServiceError> {
        let mut state = batch.state.clone();
        let mut pause = FIRST_LOOK;
        for chunk in &batch.chunks {
            while self.has_unsent(batch, &state, chunk).await? {
                if Instant::now() + pause > until {
                    return Ok(self.ledger.state(&batch.id, Utc::now()).await?);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_LOOK);
                state = self.ledger.state(&batch.id, Utc::now()).await?;
            }
        }
        Ok(state)
    }

    async fn has_unsent(
        &self,
        batch: &Batch,
        state: &BatchState,
        chunk: &Chunk,
    ) -> Result<bool, ServiceError> {
        let now = Utc::now();
        let entries = self.ledger.entries(distinct_keys(chunk), now).await?;
        let perspective = Perspective::new(&batch.id, &batch.header, state, self.rules(), now);
        Ok(chunk.items.iter().any(|item| {
            let entry = item.key().and_then(|key| entries.get(key)).map(|entry| &entry.value);
            let status = perspective.outcome(item, entry, None).status;
            matches!(status, Status::Pending | Status::Unconfirmed)
        }))
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
        Ok(self.answer(&batch, selection.page, patience(deadline)).await?.response())
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
            let answer = self.answer(batch, page, patience).await?;
            page = page.after(&answer);
            answers.push(answer);
        }
        Ok(several(answers, unknown_ids))
    }

    /// Queues what ended without a verdict again.
    pub(super) async fn retry(
        &self,
        request: &Request,
        caller: &Caller,
        id: &str,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let until = Instant::now() + parameters::wait(request)?;
        let mut batch = self.known_batch(caller, id).await?;
        let chunks = self.retriable(&batch).await?;
        let urls = chunks.iter().map(|(_, urls)| *urls as u64).sum();
        if urls > 0 {
            self.count_retried(caller, urls).await?;
            // Somebody looks after it if this ends before the messages are sent.
            self.send_guard(&batch.id).await?;
            for (number, _) in &chunks {
                self.reopen_chunk(&batch, *number).await?;
            }
            batch.state = self.ledger.go_on(&batch.id, Utc::now()).await?;
            tracing::info!(batch = batch.id, urls, "retried");
            let message =
                |(chunk, _)| Delayed::now(Message::Chunk { batch: batch.id.clone(), chunk, attempt: 0 });
            self.queue.send(chunks.into_iter().map(message).collect()).await?;
            let until = until.min(Instant::now() + deadline.remaining().saturating_sub(TIME_TO_ANSWER));
            batch.state = self.wait_until_sent(&batch, until).await?;
        }
        Ok(self.answer(&batch, Page::FIRST, patience(deadline)).await?.response())
    }

    /// The chunks with inputs that can be retried, and how many.
    async fn retriable(&self, batch: &Batch) -> Result<Vec<(usize, usize)>, ServiceError> {
        let mut chunks = Vec::new();
        for number in 0..batch.chunks.len() {
            let (urls, _) = self.retriable_in(batch, number).await?;
            if urls > 0 {
                chunks.push((number, urls));
            }
        }
        Ok(chunks)
    }

    /// How many inputs of a chunk can be retried, and those of their entries that there are.
    async fn retriable_in(
        &self,
        batch: &Batch,
        number: usize,
    ) -> Result<(usize, Vec<(String, Versioned)>), ServiceError> {
        let chunk = &batch.chunks[number];
        let mut entries = self.ledger.entries(distinct_keys(chunk), Utc::now()).await?;
        let perspective = Perspective::of(batch, self.rules(), Utc::now());
        let refresh = batch.refreshes.get(&number);
        let mut keys = HashSet::new();
        for item in &chunk.items {
            let Some(key) = item.key() else { continue };
            let entry = entries.get(key).map(|entry| &entry.value);
            if perspective.outcome(item, entry, refresh).status.can_be_retried() {
                keys.insert(key);
            }
        }
        let stored = keys.iter().filter_map(|key| entries.remove_entry(*key)).collect();
        Ok((keys.len(), stored))
    }

    /// Opens the runs of a chunk again that can be retried.
    async fn reopen_chunk(&self, batch: &Batch, number: usize) -> Result<(), ServiceError> {
        let (_, entries) = self.retriable_in(batch, number).await?;
        let reopened: Vec<_> =
            entries.iter().map(|(key, stored)| self.reopen(batch, key, stored.clone())).collect();
        stream::iter(reopened).buffer_unordered(WRITES_AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Makes the run that a batch follows one that is to be sent.
    async fn reopen(&self, batch: &Batch, key: &str, mut stored: Versioned) -> Result<(), ServiceError> {
        for _ in 0..RACES {
            let now = Utc::now();
            if !reopen(&mut stored.value, &Perspective::of(batch, self.rules(), now)) {
                return Ok(());
            }
            let expected: Expected = stored.expected;
            match self.ledger.put_entry(key, &stored.value, expected, now).await? {
                // Another retry was faster, and its URL may be in VMRay by now.
                Put::Taken(Some(current)) if !was_submitted_since(&stored.value, &current.value) => {
                    stored = current;
                }
                Put::Written(_) | Put::Taken(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Whether somebody has submitted the URL between two looks.
fn was_submitted_since(before: &Entry, now: &Entry) -> bool {
    let submitted = |entry: &Entry| {
        entry
            .runs
            .iter()
            .filter(|run| matches!(run.state, State::Submitted { .. } | State::Claimed { .. }))
            .count()
    };
    // `before` holds our own change already: the run that was to be opened again counts there as queued.
    submitted(now) > submitted(before)
}

/// Opens the run that a batch follows again; `false`: somebody has, or it has ended well.
fn reopen(entry: &mut Entry, perspective: &Perspective<'_>) -> bool {
    let Some(place) = entry.followed(perspective.follower) else { return false };
    let newest = entry.runs.len() - 1;
    let run = &mut entry.runs[place];
    let now = perspective.now;
    match &run.state {
        State::Claimed { until } if *until > now => return false,
        State::Finished { .. } => return false,
        // What may be in VMRay is looked for as before, and has its time again.
        State::Unconfirmed { .. } | State::Claimed { .. } => run.since = now,
        // Another batch has begun a later run: this one follows it, and no URL is sent twice.
        _ if place < newest => {
            entry.runs.remove(place);
        }
        State::Queued { .. }
        | State::QuotaExceeded { .. }
        | State::Failed { .. }
        | State::Submitted { .. } => {
            run.since = now;
            run.known = false;
            // The earlier submission must not be taken for the next one.
            run.token = uuid::Uuid::new_v4().simple().to_string();
            run.state = State::Queued { reason: None };
        }
    }
    true
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
