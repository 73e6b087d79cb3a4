//! Accepting a call: which URLs may be sent, which are known, and the batch that stands for the call.
//!
//! The order makes it safe to die anywhere: the record of the call, the booking of its URLs for the daily limit (the
//! protocol is that of [`day`](crate::ledger::day)), a message that looks after the batch in a minute, then the chunks,
//! the header, and a message for each chunk. Without the header nothing was accepted, and the caller has no answer.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::telemetry::url_for_log;
use serde_json::{Map, Value};
use store::{Expected, StoreError};

use super::{CallError, Caller, Calls, Input, Value as InputValue};
use crate::error::ServiceError;
use crate::hash::of_parts;
use crate::ledger::batch::{BatchState, Chunk, Fate, Header, InputId, Item, into_chunks};
use crate::ledger::day::{Booked, ByChunk};
use crate::ledger::outcome::Perspective;
use crate::ledger::{Batch, CallRecord, entry_key, until_written};
use crate::options::Options;
use crate::queue::{Delayed, Message, QueueError};
use crate::settings::LedgerScope;
use crate::url::{Gate, Refusal, redacted};

/// When the worker looks whether a call got to its end.
const GUARD_DELAY: Duration = Duration::from_mins(1);

/// How much of a refused text is shown to its caller again.
const ECHO_CHARS: usize = 256;

/// How long the time of a record is the time of its batch. A call has ended by then: a repeat after that waits for
/// verdicts from its own time on, and its URLs count on its own day.
const CALL_LASTS: TimeDelta = TimeDelta::minutes(10);

/// What a call asks for, read and checked.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) inputs: Vec<Input>,
    pub(crate) options: Options,
    /// As given: what makes two calls the same.
    pub(crate) given_options: Map<String, Value>,
    pub(crate) idempotency_key: Option<String>,
}

/// What is to be done for a batch.
#[derive(Debug)]
struct Plan {
    chunks: Vec<Chunk>,
    /// By chunk: whether some of its URLs are not known to be in VMRay.
    unsent: Vec<bool>,
    /// URLs that are not being sent yet, by chunk: what the caller's limit counts.
    new_urls: ByChunk,
}

/// What the record of a call says.
enum Recorded {
    /// The call has been answered with this batch.
    Answered(Box<Batch>),
    /// This batch is to be carried out. Another call may be doing so, or has died: doing it again is safe.
    ToDo { record: CallRecord, batch_made_at: DateTime<Utc>, expected: Expected },
}

impl Calls {
    /// Makes the batch of a call, or finds the one that the call has made before.
    pub(crate) async fn accept(&self, gate: &Gate, caller: &Caller, call: Call) -> Result<Batch, CallError> {
        let request_hash = request_hash(&call);
        let place = match &call.idempotency_key {
            Some(key) => of_parts(&["key", key]),
            None => of_parts(&["call", &request_hash]),
        };
        let lasts = call.idempotency_key.is_some();
        let (record, created_at, expected) =
            match self.recorded(&caller.name, &place, request_hash, lasts).await? {
                Recorded::Answered(batch) => return Ok(*batch),
                Recorded::ToDo { record, batch_made_at, expected } => (record, batch_made_at, expected),
            };
        let items = self.items(gate, caller, call.inputs, &call.options);
        let header = Header {
            caller: caller.name.clone(),
            created_at,
            chunk_sizes: Vec::new(),
            options: call.options,
        };
        let created = self.create(caller, record.batch.clone(), header, items).await;
        if let Err(CallError::DayLimit { .. }) = &created {
            // A smaller call may come under the same key.
            let refused = CallRecord { refused: true, ..record };
            match self.ledger.put_call(&caller.name, &place, &refused, expected, Utc::now()).await {
                // Conflict: a repeat of the call has changed the record.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        created
    }

    /// Reads or writes the record of a call. `lasts`: its batch answers repeats for good, and not only as long as it runs.
    async fn recorded(
        &self,
        caller: &str,
        place: &str,
        request_hash: String,
        lasts: bool,
    ) -> Result<Recorded, CallError> {
        let lost_a_race = AtomicBool::new(false);
        let attempt = || async {
            let now = Utc::now();
            let (record, expected) = self.ledger.call(caller, place, now).await?;
            let mut id = None;
            if let Some(record) = record {
                let is_same = record.request_hash == request_hash;
                let batch = self.ledger.batch(&record.batch, now).await?;
                // A call that comes at the same time as another one is answered with its batch, done or not.
                let lasts = lasts || lost_a_race.load(Ordering::Relaxed);
                match batch {
                    Some(_) if !is_same => return Err(CallError::OtherCall),
                    Some(batch) if lasts || !self.is_done(&batch).await? => {
                        return Ok(Recorded::Answered(Box::new(batch)));
                    }
                    Some(_) => {}
                    None if is_same => {
                        if let Some(batch_made_at) = made_lately(&record, now) {
                            return Ok(Recorded::ToDo { record, batch_made_at, expected });
                        }
                        // Under the number that may have been booked already.
                        id = Some(record.batch);
                    }
                    None if record.refused => {}
                    None => return Err(CallError::OtherCall),
                }
            }
            let record = CallRecord {
                batch: id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
                request_hash: request_hash.clone(),
                created_at: Some(now),
                refused: false,
            };
            let written = self.ledger.put_call(caller, place, &record, expected, now).await;
            let expected = written
                .inspect_err(|_| lost_a_race.store(true, Ordering::Relaxed))
                .map_err(CallError::from)?;
            Ok(Recorded::ToDo { record, batch_made_at: now, expected })
        };
        let again = |error: &CallError| {
            matches!(error, CallError::Service(ServiceError::Store(StoreError::Conflict { .. })))
        };
        until_written(attempt, again).await
    }

    async fn create(
        &self,
        caller: &Caller,
        id: String,
        mut header: Header,
        items: Vec<Item>,
    ) -> Result<Batch, CallError> {
        let created_at = header.created_at;
        let chunks = into_chunks(items);
        header.chunk_sizes =
            chunks.iter().map(|chunk| u32::try_from(chunk.items.len()).unwrap_or(u32::MAX)).collect();
        let plan = self.plan(&id, &header, chunks, created_at).await?;
        if self.book(caller, (&id, 0), &plan.new_urls, created_at).await? == Booked::Before
            && let Some(batch) = self.ledger.batch(&id, Utc::now()).await?
        {
            return Ok(batch);
        }
        if plan.unsent.iter().any(|unsent| *unsent) {
            self.send_guard(&id, &caller.name).await?;
        }
        self.ledger.create_batch(&id, &header, &plan.chunks, created_at).await?;
        let unsent = plan.unsent.iter().enumerate().filter(|(_, unsent)| **unsent);
        let messages = unsent.map(|(chunk, _)| {
            Delayed::now(Message::Chunk { batch: id.clone(), chunk, attempt: 0 }, &caller.name)
        });
        self.queue.send(messages.collect()).await?;
        tracing::info!(
            batch = id,
            caller = caller.name,
            inputs = header.total(),
            to_send = plan.new_urls.values().sum::<u64>(),
            "batch accepted"
        );
        let state = BatchState::default();
        Ok(Batch { id, header, chunks: plan.chunks, state, refreshes: std::collections::HashMap::default() })
    }

    /// In a minute the worker looks whether everything of the batch was queued.
    pub(super) async fn send_guard(&self, batch: &str, caller: &str) -> Result<(), QueueError> {
        let message = Message::Guard { batch: batch.to_owned() };
        self.queue.send(vec![Delayed { message, caller: caller.to_owned(), delay: GUARD_DELAY }]).await
    }

    /// Books URLs that a round of a batch is going to send.
    pub(super) async fn book(
        &self,
        caller: &Caller,
        round: (&str, u32),
        urls: &ByChunk,
        on: DateTime<Utc>,
    ) -> Result<Booked, CallError> {
        let wanted = urls.values().sum();
        if wanted == 0 {
            return Ok(Booked::Now);
        }
        let limit = self.daily_limit(caller);
        match self.ledger.book(&caller.name, round, urls, limit, on).await? {
            Booked::OverLimit { used } => Err(CallError::DayLimit { limit, used, wanted }),
            booked => Ok(booked),
        }
    }

    async fn plan(
        &self,
        id: &str,
        header: &Header,
        chunks: Vec<Chunk>,
        now: DateTime<Utc>,
    ) -> Result<Plan, ServiceError> {
        let state = BatchState::default();
        let perspective = Perspective::new(id, header, &state, self.rules, now);
        let mut unsent = Vec::with_capacity(chunks.len());
        let mut new_urls = ByChunk::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let judged = self.ledger.judged(&chunk.items, perspective, None).await?;
            unsent.push(judged.has_unsent());
            let new = judged.outcomes().filter(|(_, outcome)| outcome.is_new()).count() as u64;
            new_urls.insert(number, new);
        }
        Ok(Plan { chunks, unsent, new_urls })
    }

    /// What is to become of each input, by the gate alone.
    pub(crate) fn items(
        &self,
        gate: &Gate,
        caller: &Caller,
        inputs: Vec<Input>,
        options: &Options,
    ) -> Vec<Item> {
        let scope = match self.scope {
            LedgerScope::Caller => format!("caller {}", caller.name),
            LedgerScope::Deployment => "deployment".to_owned(),
        };
        let analysis = options.analysis_key();
        let mut seen = HashSet::new();
        inputs
            .into_iter()
            .map(|input| {
                let mut item = gated(gate, input);
                if let Fate::Send { url, key, duplicate } = &mut item.fate {
                    *key = entry_key(&scope, url, &analysis);
                    *duplicate = !seen.insert(key.clone());
                }
                item
            })
            .collect()
    }
}

/// What the gate says of an input; the ledger key is not known yet.
fn gated(gate: &Gate, input: Input) -> Item {
    let (text, checked) = match input.value {
        InputValue::Url(text) => {
            let checked = gate.check(&text);
            (text, checked)
        }
        InputValue::NotAUrl(text) => (text, Err(Refusal::NotAUrl)),
    };
    match checked {
        Ok(url) => {
            let unwrapped_from = url.unwrapped_from();
            let url = url.as_str().to_owned();
            let input_text = (text != url).then_some(text);
            let fate = Fate::Send { url, key: String::new(), duplicate: false };
            Item { id: input.id, input: input_text, unstored_input: None, unwrapped_from, fate }
        }
        Err(refusal) => {
            tracing::info!(url = url_for_log(&text), code = refusal.code(), "refused");
            let fate = Fate::Refuse { code: refusal.code().to_owned() };
            let id = input.id.map(|id| without_url(id, &text));
            let (input, unstored_input) = match refusal {
                // Its sender may see what was refused, and no reader of the store.
                Refusal::SensitiveToken => (None, Some(text.chars().take(ECHO_CHARS).collect())),
                _ => (Some(redacted(&text, ECHO_CHARS)), None),
            };
            Item { id, input, unstored_input, unwrapped_from: None, fate }
        }
    }
}

/// The id of a refused text. Some callers use the URL as its id, and its secrets are left out there, too.
fn without_url(id: InputId, text: &str) -> InputId {
    match id {
        InputId::Text(id) if id.contains("://") || text.starts_with(&id) => {
            InputId::Text(redacted(&id, ECHO_CHARS))
        }
        id => id,
    }
}

/// When the batch of a record was made, if that call can still be under way.
fn made_lately(record: &CallRecord, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    record.created_at.filter(|at| !record.refused && now - *at < CALL_LASTS)
}

/// What makes two calls the same: inputs with their ids in their order, and the options as given.
fn request_hash(call: &Call) -> String {
    let mut parts = Vec::with_capacity(call.inputs.len() * 2 + 1);
    for input in &call.inputs {
        parts.push(
            input.id.as_ref().map_or_else(String::new, |id| serde_json::to_string(id).unwrap_or_default()),
        );
        let (InputValue::Url(text) | InputValue::NotAUrl(text)) = &input.value;
        parts.push(text.clone());
    }
    parts.push(Value::Object(call.given_options.clone()).to_string());
    of_parts(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}
