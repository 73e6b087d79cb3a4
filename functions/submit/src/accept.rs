//! Accepting a call: which URLs may be sent, which are known, and the batch that stands for the call.
//!
//! The order makes it safe to die anywhere: a message that looks after the batch in a minute, then the chunks, then the
//! header, then a message for each chunk. Without the header nothing was accepted, and the caller has no answer.

use std::collections::HashSet;
use std::time::Duration;

use crate::settings::LedgerScope;
use chrono::{DateTime, Utc};
use runtime::telemetry::url_for_log;
use serde_json::{Map, Value};
use store::StoreError;

use crate::api::body::{Input, Value as InputValue};
use crate::api::callers::Caller;
use crate::api::options::Options;
use crate::hash::of_parts;
use crate::ledger::batch::{BatchState, Chunk, Fate, Header, Item, into_chunks};
use crate::ledger::{Batch, CallRecord, entry_key};
use crate::queue::{Delayed, Message, QueueError};
use crate::service::{ServiceError, Submit};
use crate::url::{Gate, Refusal, holds_secret};
use crate::view::{Counts, Perspective, Status};
use crate::worker::distinct_keys;

/// When somebody looks whether a call got to its end.
const GUARD_DELAY: Duration = Duration::from_mins(1);

/// How much of a refused text is shown to its caller again.
const ECHO_CHARS: usize = 256;

/// Times that a lost race for a call is run again.
const RACES: u32 = 10;

/// What a call asks for, read and checked.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) inputs: Vec<Input>,
    pub(crate) options: Options,
    /// As given: what makes two calls the same.
    pub(crate) given_options: Map<String, Value>,
    pub(crate) idempotency_key: Option<String>,
}

/// Why a call was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The same idempotency key was used for another call.
    #[error("the idempotency key was used with another body")]
    OtherCall,
    /// The caller has sent as many URLs today as it may.
    #[error("of {limit} URLs a day {used} are used, and this call would send {wanted} more")]
    DayLimit { limit: u64, used: u64, wanted: u64 },
    /// Nothing works.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for AcceptError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl From<QueueError> for AcceptError {
    fn from(error: QueueError) -> Self {
        Self::Service(error.into())
    }
}

/// What is to be done for a batch.
#[derive(Debug)]
struct Plan {
    chunks: Vec<Chunk>,
    /// By chunk: whether some of its URLs are not known to be in VMRay.
    unsent: Vec<bool>,
    /// URLs that nobody has begun to send: what the caller's limit counts.
    new_urls: u64,
}

/// Whether a call's URLs are counted for the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// By whoever records the call.
    First,
    /// They were, by somebody who died after it or is at it now.
    Again,
}

impl Submit {
    /// Makes the batch of a call, or finds the one that the call has made before.
    pub(crate) async fn accept(
        &self,
        gate: &Gate,
        caller: &Caller,
        call: Call,
    ) -> Result<Batch, AcceptError> {
        let now = Utc::now();
        let request_hash = request_hash(&call);
        let place = match &call.idempotency_key {
            Some(key) => of_parts(&["key", key]),
            None => of_parts(&["call", &request_hash]),
        };
        let items = self.items(gate, caller, call.inputs, &call.options);
        let header = Header {
            caller: caller.name.clone(),
            created_at: now,
            chunk_sizes: Vec::new(),
            options: call.options,
        };
        let mut lost_a_race = false;
        for _ in 0..RACES {
            let (record, expected) = self.ledger.call(&caller.name, &place, now).await?;
            let id = match record {
                Some(record) if record.request_hash != request_hash => return Err(AcceptError::OtherCall),
                Some(record) => match self.ledger.batch(&record.batch, now).await? {
                    // Under an idempotency key for good, else as long as it runs, or when it was made just now by
                    // a call that came at the same time.
                    Some(batch)
                        if call.idempotency_key.is_some() || lost_a_race || !self.is_done(&batch).await? =>
                    {
                        return Ok(batch);
                    }
                    Some(_) => None,
                    // Its call has died, or is at it now: the same batch can be made twice.
                    None => Some(record.batch),
                },
                None => None,
            };
            if let Some(id) = id {
                return self.create(caller, id, header, items, Count::Again, now).await;
            }
            let id = uuid::Uuid::new_v4().to_string();
            let record = CallRecord { batch: id.clone(), request_hash: request_hash.clone() };
            let recorded = self.ledger.put_call(&caller.name, &place, &record, expected, now).await?;
            let Some(recorded) = recorded else {
                lost_a_race = true;
                continue;
            };
            let created = self.create(caller, id, header, items, Count::First, now).await;
            if let Err(AcceptError::DayLimit { .. }) = &created {
                // A smaller call may come under the same key.
                self.ledger.forget_call(&caller.name, &place, &record, recorded, now).await?;
            }
            return created;
        }
        Err(AcceptError::Service(ServiceError::Store(StoreError::Unavailable {
            doing: "record a call",
            place: "the ledger".to_owned(),
            reason: "too many calls of the same kind at the same time; send it again".to_owned(),
        })))
    }

    async fn create(
        &self,
        caller: &Caller,
        id: String,
        mut header: Header,
        items: Vec<Item>,
        count: Count,
        now: DateTime<Utc>,
    ) -> Result<Batch, AcceptError> {
        let chunks = into_chunks(items);
        header.chunk_sizes =
            chunks.iter().map(|chunk| u32::try_from(chunk.items.len()).unwrap_or(u32::MAX)).collect();
        let plan = self.plan(&id, &header, chunks, now).await?;
        self.count(caller, plan.new_urls, count, now).await?;
        if plan.unsent.iter().any(|unsent| *unsent) {
            self.send_guard(&id).await?;
        }
        self.ledger.create_batch(&id, &header, &plan.chunks, now).await?;
        let unsent = plan.unsent.iter().enumerate().filter(|(_, unsent)| **unsent);
        let messages =
            unsent.map(|(chunk, _)| Delayed::now(Message::Chunk { batch: id.clone(), chunk, attempt: 0 }));
        self.queue.send(messages.collect()).await?;
        tracing::info!(
            batch = id,
            caller = caller.name,
            inputs = header.total(),
            to_send = plan.new_urls,
            "batch accepted"
        );
        let state = BatchState::default();
        Ok(Batch { id, header, chunks: plan.chunks, state, refreshes: std::collections::HashMap::default() })
    }

    /// In a minute somebody looks whether everything of the batch was queued.
    pub(crate) async fn send_guard(&self, batch: &str) -> Result<(), QueueError> {
        let message = Message::Guard { batch: batch.to_owned() };
        self.queue.send(vec![Delayed { message, delay: GUARD_DELAY }]).await
    }

    /// Counts URLs for the caller's day, or only sees whether they would fit.
    async fn count(
        &self,
        caller: &Caller,
        urls: u64,
        count: Count,
        now: DateTime<Utc>,
    ) -> Result<(), AcceptError> {
        let limit = caller.urls_per_day(&self.settings.limits);
        if count == Count::Again || urls == 0 {
            return Ok(());
        }
        let counted = self.ledger.count_urls(&caller.name, urls, limit, now).await?;
        counted.map_err(|used| AcceptError::DayLimit { limit, used, wanted: urls })
    }

    /// Counts URLs that a caller wants to have sent again.
    pub(crate) async fn count_retried(&self, caller: &Caller, urls: u64) -> Result<(), AcceptError> {
        self.count(caller, urls, Count::First, Utc::now()).await
    }

    async fn plan(
        &self,
        id: &str,
        header: &Header,
        chunks: Vec<Chunk>,
        now: DateTime<Utc>,
    ) -> Result<Plan, ServiceError> {
        let state = BatchState::default();
        let perspective = Perspective::new(id, header, &state, self.rules(), now);
        let mut unsent = Vec::with_capacity(chunks.len());
        let mut new_urls = 0;
        for chunk in &chunks {
            let entries = self.ledger.entries(distinct_keys(chunk), now).await?;
            let mut any = false;
            for item in &chunk.items {
                let entry = item.key().and_then(|key| entries.get(key)).map(|entry| &entry.value);
                let outcome = perspective.outcome(item, entry, None);
                any |= matches!(outcome.status, Status::Pending | Status::Unconfirmed);
                new_urls += u64::from(outcome.is_new());
            }
            unsent.push(any);
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
        let scope = match self.settings.scope {
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

    /// Whether every input of a batch has ended.
    pub(crate) async fn is_done(&self, batch: &Batch) -> Result<bool, ServiceError> {
        let now = Utc::now();
        let mut counts = Counts::default();
        let perspective = Perspective::of(batch, self.rules(), now);
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let entries = self.ledger.entries(distinct_keys(chunk), now).await?;
            for item in &chunk.items {
                let entry = item.key().and_then(|key| entries.get(key)).map(|entry| &entry.value);
                counts.add(perspective.outcome(item, entry, batch.refreshes.get(&number)).status);
            }
            if !counts.done() {
                return Ok(false);
            }
        }
        Ok(true)
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
            let url = url.as_str().to_owned();
            let input_text = (text != url).then_some(text);
            let fate = Fate::Send { url, key: String::new(), duplicate: false };
            Item { id: input.id, input: input_text, unstored_input: None, fate }
        }
        Err(refusal) => {
            tracing::info!(url = url_for_log(&text), code = refusal.code(), "refused");
            let shown = Some(text.chars().take(ECHO_CHARS).collect());
            let fate = Fate::Refuse { code: refusal.code().to_owned() };
            // Whoever reads the store later must not be able to use the token.
            let is_secret = refusal == Refusal::SensitiveToken || holds_secret(&text);
            let (input_text, unstored_input) = if is_secret { (None, shown) } else { (shown, None) };
            Item { id: input.id, input: input_text, unstored_input, fate }
        }
    }
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
