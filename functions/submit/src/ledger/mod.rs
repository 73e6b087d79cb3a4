//! What is known of URLs and batches, in the store.
//!
//! | `pk` | `sk` | holds |
//! |---|---|---|
//! | `url#<key>` | `entry` | an [`Entry`]: the only thing that changes while URLs are analysed |
//! | `batch#<id>` | `header`, `chunk#<n>` | a [`Header`] and its [`Chunk`]s, never changed |
//! | `batch#<id>` | `state`, `refresh#<n>` | a [`BatchState`]; when VMRay was last asked for a chunk's verdicts |
//! | `caller#<name>` | `call#<hash>`, `day#<date>` | which batch a call has made; how many URLs were sent on a day |
//!
//! All of them expire. Whoever reads checks that itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, NewDocument, Store, StoreError, to_body};

pub mod batch;
pub mod entry;

use crate::hash::of_parts;
use batch::{BatchState, Chunk, Header};
use entry::Entry;

/// An entry with its version, for compare-and-set.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// What is stored.
    pub value: Entry,
    /// What the next write expects.
    pub expected: Expected,
}

/// Which batch a call has made: a repeat of the call finds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The batch.
    pub batch: String,
    /// What was asked for; another call under the same idempotency key differs.
    pub request_hash: String,
}

/// How many URLs of a caller were sent on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DayCount {
    /// Accepted for sending.
    pub urls: u64,
}

/// When VMRay was last asked for the verdicts of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
    /// When somebody set out to ask.
    pub asked_at: DateTime<Utc>,
    /// When VMRay has last answered.
    pub answered_at: Option<DateTime<Utc>>,
}

/// A batch with everything but the entries that it follows.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Its number.
    pub id: String,
    /// What was asked for.
    pub header: Header,
    /// Its inputs.
    pub chunks: Vec<Chunk>,
    /// What has happened since.
    pub state: BatchState,
    /// By chunk.
    pub refreshes: HashMap<usize, Refresh>,
}

/// The documents of `submit`.
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn Store>,
    retention: Duration,
    reuse_window: Duration,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("retention", &self.retention).finish_non_exhaustive()
    }
}

/// The ledger key of a URL: the same for callers who share a ledger and want the same analysis.
#[must_use]
pub fn entry_key(scope: &str, url: &str, analysis: &str) -> String {
    of_parts(&[scope, url, analysis])
}

/// The place of an entry in its group.
const ENTRY: &str = "entry";

fn entry_place(key: &str) -> Key {
    Key::new(format!("url#{key}"), ENTRY)
}

fn batch_place(batch: &str, part: &str) -> Key {
    Key::new(format!("batch#{batch}"), part)
}

fn chunk_part(chunk: usize) -> String {
    // At most 10,000 inputs of which each could be a chunk.
    format!("chunk#{chunk:05}")
}

fn refresh_part(chunk: usize) -> String {
    format!("refresh#{chunk:05}")
}

/// A batch's documents read or written at once: as JSON trees they take many times their size.
const DOCUMENTS_AT_ONCE: usize = 20;

impl Ledger {
    /// The documents in `store`, each kept for `retention` after its last change.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, retention: Duration, reuse_window: Duration) -> Self {
        Self { store, retention, reuse_window }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// For entries: what a batch follows may be as old as the reuse window when the batch is made.
    fn entry_ttl(&self, now: DateTime<Utc>) -> i64 {
        now.timestamp().saturating_add_unsigned((self.retention + self.reuse_window).as_secs())
    }

    /// For batches and calls.
    fn batch_ttl(&self, now: DateTime<Utc>) -> i64 {
        now.timestamp().saturating_add_unsigned(self.retention.as_secs())
    }

    async fn read<T: DeserializeOwned>(
        &self,
        place: &Key,
        now: DateTime<Utc>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.slot(place, now).await?.0)
    }

    /// What is there, and what a write over it must expect: an expired document is none, but is written over.
    async fn slot<T: DeserializeOwned>(
        &self,
        place: &Key,
        now: DateTime<Utc>,
    ) -> Result<(Option<T>, Expected), StoreError> {
        let Some(document) = self.store.get(place).await? else { return Ok((None, Expected::New)) };
        let expected = Expected::Version(document.version);
        let value = if document.has_expired(now.timestamp()) { None } else { Some(document.read()?) };
        Ok((value, expected))
    }

    /// Changes what is there, again when somebody was faster. `change` gives what shall be there, or why it is left
    /// alone.
    async fn update<T: Serialize + DeserializeOwned, E>(
        &self,
        place: &Key,
        now: DateTime<Utc>,
        change: impl Fn(Option<T>) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        loop {
            let (value, expected) = self.slot(place, now).await?;
            let changed = match change(value) {
                Ok(changed) => changed,
                Err(left_alone) => return Ok(Err(left_alone)),
            };
            match self.write(place, &changed, expected, now).await {
                Ok(_) => return Ok(Ok(changed)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn write<T: Serialize>(
        &self,
        place: &Key,
        value: &T,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Expected, StoreError> {
        let body = to_body(place, value)?;
        let ttl = if place.sk == ENTRY { self.entry_ttl(now) } else { self.batch_ttl(now) };
        self.store.put(place, body, Some(ttl), expected).await.map(Expected::Version)
    }

    /// The entries under `keys`, those of which nothing is known left out.
    pub async fn entries<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        now: DateTime<Utc>,
    ) -> Result<HashMap<String, Versioned>, StoreError> {
        let places: Vec<_> = keys.into_iter().map(entry_place).collect();
        let documents = self.store.get_many(&places).await?;
        let read = |document: Document| {
            let key = document.key.pk.trim_start_matches("url#").to_owned();
            Ok((key, versioned(&document, now)?))
        };
        documents.into_iter().map(read).collect()
    }

    /// Writes an entry, if nobody has since it was read; else what is there now.
    pub async fn put_entry(
        &self,
        key: &str,
        entry: &Entry,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Put, StoreError> {
        match self.write(&entry_place(key), entry, expected, now).await {
            Ok(expected) => Ok(Put::Written(expected)),
            Err(StoreError::Conflict { current, .. }) => {
                Ok(Put::Taken(current.map(|document| versioned(&document, now)).transpose()?))
            }
            Err(error) => Err(error),
        }
    }

    /// A batch's header, one of its chunks, and its state: what a worker needs.
    pub async fn header_and_chunk(
        &self,
        batch: &str,
        chunk: usize,
        now: DateTime<Utc>,
    ) -> Result<Option<(Header, Chunk, BatchState)>, StoreError> {
        let places = [
            batch_place(batch, "header"),
            batch_place(batch, &chunk_part(chunk)),
            batch_place(batch, "state"),
        ];
        let mut documents = self.store.get_many(&places).await?;
        documents.retain(|document| !document.has_expired(now.timestamp()));
        let mut take = |place: &Key| {
            let at = documents.iter().position(|document| document.key == *place)?;
            Some(documents.swap_remove(at))
        };
        let [header, chunk, state] = places.each_ref().map(&mut take);
        match (header, chunk) {
            (Some(header), Some(chunk)) => {
                let state = state.map(|state| state.read()).transpose()?.unwrap_or_default();
                Ok(Some((header.read()?, chunk.read()?, state)))
            }
            _ => Ok(None),
        }
    }

    /// A whole batch but for the entries it follows; `None`: no such batch, or not any more.
    pub async fn batch(&self, batch: &str, now: DateTime<Utc>) -> Result<Option<Batch>, StoreError> {
        let group = format!("batch#{batch}");
        let mut parts = Parts::default();
        let mut after = None;
        loop {
            let page = self.store.query_prefix(&group, "", DOCUMENTS_AT_ONCE, after.as_deref()).await?;
            for document in page.documents {
                if !document.has_expired(now.timestamp()) {
                    parts.add(&document)?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(parts.assembled(batch));
            }
        }
    }

    /// Stores the chunks of a batch, then its header. Repeats change nothing, so that a call that died in the middle is
    /// simply made again.
    pub async fn create_batch(
        &self,
        batch: &str,
        header: &Header,
        chunks: &[Chunk],
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let new = |key: Key, body| NewDocument { key, body, ttl: Some(self.batch_ttl(now)) };
        for (group, some) in chunks.chunks(DOCUMENTS_AT_ONCE).enumerate() {
            let mut documents = Vec::with_capacity(some.len());
            for (place, chunk) in some.iter().enumerate() {
                let place = batch_place(batch, &chunk_part(group * DOCUMENTS_AT_ONCE + place));
                let body = to_body(&place, chunk)?;
                documents.push(new(place, body));
            }
            self.store.put_new_many(documents).await?;
        }
        let place = batch_place(batch, "header");
        let body = to_body(&place, header)?;
        self.store.put_new_many(vec![new(place, body)]).await?;
        Ok(())
    }

    /// What has happened to a batch since it was accepted.
    pub async fn state(&self, batch: &str, now: DateTime<Utc>) -> Result<BatchState, StoreError> {
        Ok(self.read(&batch_place(batch, "state"), now).await?.unwrap_or_default())
    }

    /// Stops a batch; the first reason stays.
    pub async fn stop(
        &self,
        batch: &str,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<BatchState, StoreError> {
        let place = batch_place(batch, "state");
        let stopped = self.update(&place, now, |state: Option<BatchState>| {
            let mut state = state.unwrap_or_default();
            if state.stopped.is_some() {
                return Err(state);
            }
            state.stopped = Some(reason.to_owned());
            Ok(state)
        });
        Ok(stopped.await?.unwrap_or_else(|state| state))
    }

    /// Lets a batch go on that was stopped, or has waited for too long.
    pub async fn go_on(&self, batch: &str, now: DateTime<Utc>) -> Result<BatchState, StoreError> {
        let state = BatchState { stopped: None, retried_at: Some(now) };
        let go_on = |_: Option<BatchState>| Ok::<_, std::convert::Infallible>(state.clone());
        let Ok(state) = self.update(&batch_place(batch, "state"), now, go_on).await?;
        Ok(state)
    }

    /// Takes the turn of asking VMRay for the verdicts of a chunk; `false`: somebody asked less than `pause` ago.
    pub async fn begin_refresh(
        &self,
        batch: &str,
        chunk: usize,
        pause: Duration,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let place = batch_place(batch, &refresh_part(chunk));
        let turn = self.update(&place, now, |last: Option<Refresh>| match last {
            Some(last) if !entry::is_overdue(last.asked_at, pause, now) => Err(()),
            last => Ok(Refresh { asked_at: now, answered_at: last.and_then(|last| last.answered_at) }),
        });
        Ok(turn.await?.is_ok())
    }

    /// Notes that VMRay has answered for a chunk: from now on a missing verdict is VMRay's, not ours.
    pub async fn end_refresh(&self, batch: &str, chunk: usize, now: DateTime<Utc>) -> Result<(), StoreError> {
        let answered =
            |turn: Option<Refresh>| turn.map(|turn| Refresh { answered_at: Some(now), ..turn }).ok_or(());
        // Without a turn the batch has expired meanwhile.
        self.update(&batch_place(batch, &refresh_part(chunk)), now, answered).await.map(|_| ())
    }

    /// Which batch a call has made, and what a write over it must expect.
    pub async fn call(
        &self,
        caller: &str,
        call: &str,
        now: DateTime<Utc>,
    ) -> Result<(Option<CallRecord>, Expected), StoreError> {
        self.slot(&call_place(caller, call), now).await
    }

    /// Records which batch a call makes; `None`: somebody has since.
    pub async fn put_call(
        &self,
        caller: &str,
        call: &str,
        record: &CallRecord,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Option<Expected>, StoreError> {
        match self.write(&call_place(caller, call), record, expected, now).await {
            Ok(expected) => Ok(Some(expected)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forgets a call that was not accepted after all, unless somebody has changed the record since. It is made expired: an
    /// API that cannot delete is an API that nobody can make delete.
    pub async fn forget_call(
        &self,
        caller: &str,
        call: &str,
        record: &CallRecord,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let place = call_place(caller, call);
        let body = to_body(&place, record)?;
        match self.store.put(&place, body, Some(now.timestamp() - 1), expected).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many URLs of a caller were sent today.
    pub async fn day_count(&self, caller: &str, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = self.read::<DayCount>(&day_place(caller, now), now).await?;
        Ok(count.map_or(0, |count| count.urls))
    }

    /// Counts `urls` more for today; `Err(used)`: that would be more than `most`.
    pub async fn count_urls(
        &self,
        caller: &str,
        urls: u64,
        most: u64,
        now: DateTime<Utc>,
    ) -> Result<Result<(), u64>, StoreError> {
        let place = day_place(caller, now);
        let counted = self.update(&place, now, |count: Option<DayCount>| {
            let used = count.map_or(0, |count| count.urls);
            let urls = used.saturating_add(urls);
            if urls > most { Err(used) } else { Ok(DayCount { urls }) }
        });
        Ok(counted.await?.map(|_| ()))
    }
}

/// What became of a write of an entry.
#[derive(Debug, Clone)]
pub enum Put {
    /// It took place; the next one expects this.
    Written(Expected),
    /// Somebody was faster; this is there now.
    Taken(Option<Versioned>),
}

fn call_place(caller: &str, call: &str) -> Key {
    Key::new(format!("caller#{caller}"), format!("call#{call}"))
}

fn day_place(caller: &str, now: DateTime<Utc>) -> Key {
    Key::new(format!("caller#{caller}"), format!("day#{}", now.format("%Y-%m-%d")))
}

/// An expired entry is empty, and is written over.
fn versioned(document: &Document, now: DateTime<Utc>) -> Result<Versioned, StoreError> {
    let mut value: Entry = document.read()?;
    if document.has_expired(now.timestamp()) {
        value.runs.clear();
    }
    Ok(Versioned { value, expected: Expected::Version(document.version) })
}

/// A batch as far as its documents have been read.
#[derive(Default)]
struct Parts {
    header: Option<Header>,
    chunks: Vec<Chunk>,
    state: BatchState,
    refreshes: HashMap<usize, Refresh>,
}

impl Parts {
    /// Documents come in the order of their numbers.
    fn add(&mut self, document: &Document) -> Result<(), StoreError> {
        match document.key.sk.split_once('#') {
            Some(("chunk", _)) => self.chunks.push(document.read()?),
            Some(("refresh", number)) => {
                self.refreshes.insert(number.parse().unwrap_or(usize::MAX), document.read()?);
            }
            None if document.key.sk == "header" => self.header = Some(document.read()?),
            None if document.key.sk == "state" => self.state = document.read()?,
            _ => {}
        }
        Ok(())
    }

    /// Without a header, or with a chunk missing, nothing was accepted.
    fn assembled(self, id: &str) -> Option<Batch> {
        let header = self.header.filter(|header| header.chunk_sizes.len() == self.chunks.len())?;
        Some(Batch {
            id: id.to_owned(),
            header,
            chunks: self.chunks,
            state: self.state,
            refreshes: self.refreshes,
        })
    }
}
