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
use common::store::{Document, Expected, Key, NewDocument, Store, StoreError, to_body};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub mod batch;
pub mod entry;

use crate::hash::of_parts;
use batch::{BatchState, Chunk, Header};
use entry::Entry;

/// Documents with their version, for compare-and-set.
#[derive(Debug, Clone)]
pub struct Versioned<T> {
    /// What is stored.
    pub value: T,
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

fn entry_place(key: &str) -> Key {
    Key::new(format!("url#{key}"), "entry")
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

impl Ledger {
    /// The documents in `store`, each kept for `retention` after its last change.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, retention: Duration) -> Self {
        Self { store, retention }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn ttl(&self, now: DateTime<Utc>) -> i64 {
        now.timestamp().saturating_add_unsigned(self.retention.as_secs())
    }

    async fn read<T: DeserializeOwned>(
        &self,
        place: &Key,
        now: DateTime<Utc>,
    ) -> Result<Option<Versioned<T>>, StoreError> {
        let document = self.store.get(place).await?;
        document.filter(|document| !document.has_expired(now.timestamp())).as_ref().map(versioned).transpose()
    }

    async fn write<T: Serialize>(
        &self,
        place: &Key,
        value: &T,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Expected, StoreError> {
        let body = to_body(place, value)?;
        self.store.put(place, body, Some(self.ttl(now)), expected).await.map(Expected::Version)
    }

    /// The entries under `keys`, those of which nothing is known left out.
    pub async fn entries<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a str>,
        now: DateTime<Utc>,
    ) -> Result<HashMap<String, Versioned<Entry>>, StoreError> {
        let places: Vec<_> = keys.into_iter().map(entry_place).collect();
        let documents = self.store.get_many(&places).await?;
        let read = |document: Document| {
            let key = document.key.pk.trim_start_matches("url#").to_owned();
            let mut entry: Versioned<Entry> = versioned(&document)?;
            // An expired entry is none, but for whoever writes over it.
            if document.has_expired(now.timestamp()) {
                entry.value.runs.clear();
            }
            Ok((key, entry))
        };
        documents.into_iter().map(read).collect()
    }

    /// One entry.
    pub async fn entry(&self, key: &str, now: DateTime<Utc>) -> Result<Option<Versioned<Entry>>, StoreError> {
        Ok(self.entries([key], now).await?.remove(key))
    }

    /// Writes an entry, if nobody has since it was read; else what is there now.
    pub async fn put_entry(
        &self,
        key: &str,
        entry: &Entry,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Put<Entry>, StoreError> {
        self.put(&entry_place(key), entry, expected, now).await
    }

    async fn put<T: Serialize + DeserializeOwned>(
        &self,
        place: &Key,
        value: &T,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Put<T>, StoreError> {
        match self.write(place, value, expected, now).await {
            Ok(expected) => Ok(Put::Written(expected)),
            Err(StoreError::Conflict { current, .. }) => {
                let current = current.map(|document| versioned(&document)).transpose()?;
                Ok(Put::Taken(current))
            }
            Err(error) => Err(error),
        }
    }

    /// A batch's header; `None`: no such batch, or not any more.
    pub async fn header(&self, batch: &str, now: DateTime<Utc>) -> Result<Option<Header>, StoreError> {
        Ok(self.read(&batch_place(batch, "header"), now).await?.map(|header| header.value))
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
        /// Documents asked for at once.
        const PAGE: usize = 1000;
        let group = format!("batch#{batch}");
        let mut documents = Vec::new();
        let mut after = None;
        loop {
            let page = self.store.query_prefix(&group, "", PAGE, after.as_deref()).await?;
            documents.extend(page.documents);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        documents.retain(|document| !document.has_expired(now.timestamp()));
        assemble(batch, &documents)
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
        let new = |key: Key, body| NewDocument { key, body, ttl: Some(self.ttl(now)) };
        let mut documents = Vec::with_capacity(chunks.len());
        for (number, chunk) in chunks.iter().enumerate() {
            let place = batch_place(batch, &chunk_part(number));
            let body = to_body(&place, chunk)?;
            documents.push(new(place, body));
        }
        self.store.put_new_many(documents).await?;
        let place = batch_place(batch, "header");
        let body = to_body(&place, header)?;
        self.store.put_new_many(vec![new(place, body)]).await?;
        Ok(())
    }

    /// What has happened to a batch since it was accepted.
    pub async fn state(&self, batch: &str, now: DateTime<Utc>) -> Result<BatchState, StoreError> {
        let state = self.read::<BatchState>(&batch_place(batch, "state"), now).await?;
        Ok(state.map(|state| state.value).unwrap_or_default())
    }

    /// Changes a batch's state; `change` says `false` when there is nothing to change.
    pub async fn change_state(
        &self,
        batch: &str,
        now: DateTime<Utc>,
        change: impl Fn(&mut BatchState) -> bool,
    ) -> Result<BatchState, StoreError> {
        let place = batch_place(batch, "state");
        let mut current = self.read::<BatchState>(&place, now).await?;
        loop {
            let mut state = current.as_ref().map(|current| current.value.clone()).unwrap_or_default();
            if !change(&mut state) {
                return Ok(state);
            }
            let expected = current.as_ref().map_or(Expected::New, |current| current.expected);
            match self.put(&place, &state, expected, now).await? {
                Put::Written(_) => return Ok(state),
                Put::Taken(now_there) => current = now_there,
            }
        }
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
        let last = self.read::<Refresh>(&place, now).await?;
        if last.as_ref().is_some_and(|last| !entry::is_overdue(last.value.asked_at, pause, now)) {
            return Ok(false);
        }
        let answered_at = last.as_ref().and_then(|last| last.value.answered_at);
        let expected = last.map_or(Expected::New, |last| last.expected);
        let turn = Refresh { asked_at: now, answered_at };
        Ok(matches!(self.put(&place, &turn, expected, now).await?, Put::Written(_)))
    }

    /// Notes that VMRay has answered for a chunk: from now on a missing verdict is VMRay's, not ours.
    pub async fn end_refresh(&self, batch: &str, chunk: usize, now: DateTime<Utc>) -> Result<(), StoreError> {
        let place = batch_place(batch, &refresh_part(chunk));
        let Some(turn) = self.read::<Refresh>(&place, now).await? else { return Ok(()) };
        let answered = Refresh { answered_at: Some(now), ..turn.value };
        // Somebody else's turn has begun: they will say it.
        self.put(&place, &answered, turn.expected, now).await.map(|_| ())
    }

    /// Which batch a call has made, and what a write over it must expect.
    pub async fn call(
        &self,
        caller: &str,
        call: &str,
        now: DateTime<Utc>,
    ) -> Result<(Option<CallRecord>, Expected), StoreError> {
        // One look for both: what comes after it is a conflict, and never written over.
        let Some(document) = self.store.get(&call_place(caller, call)).await? else {
            return Ok((None, Expected::New));
        };
        let record: Versioned<CallRecord> = versioned(&document)?;
        // An expired record is none, but for whoever writes over it.
        let valid = !document.has_expired(now.timestamp());
        Ok((valid.then_some(record.value), record.expected))
    }

    /// Records which batch a call makes, if nobody has since.
    pub async fn put_call(
        &self,
        caller: &str,
        call: &str,
        record: &CallRecord,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Put<CallRecord>, StoreError> {
        self.put(&call_place(caller, call), record, expected, now).await
    }

    /// How many URLs of a caller were sent today.
    pub async fn day_count(&self, caller: &str, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let count = self.read::<DayCount>(&day_place(caller, now), now).await?;
        Ok(count.map_or(0, |count| count.value.urls))
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
        let mut current = self.read::<DayCount>(&place, now).await?;
        loop {
            let used = current.as_ref().map_or(0, |current| current.value.urls);
            if used.saturating_add(urls) > most {
                return Ok(Err(used));
            }
            let expected = current.as_ref().map_or(Expected::New, |current| current.expected);
            match self.put(&place, &DayCount { urls: used + urls }, expected, now).await? {
                Put::Written(_) => return Ok(Ok(())),
                Put::Taken(now_there) => current = now_there,
            }
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone)]
pub enum Put<T> {
    /// It took place; the next one expects this.
    Written(Expected),
    /// Somebody was faster; this is there now.
    Taken(Option<Versioned<T>>),
}

fn call_place(caller: &str, call: &str) -> Key {
    Key::new(format!("caller#{caller}"), format!("call#{call}"))
}

fn day_place(caller: &str, now: DateTime<Utc>) -> Key {
    Key::new(format!("caller#{caller}"), format!("day#{}", now.format("%Y-%m-%d")))
}

fn versioned<T: DeserializeOwned>(document: &Document) -> Result<Versioned<T>, StoreError> {
    Ok(Versioned { value: document.read()?, expected: Expected::Version(document.version) })
}

/// Puts a batch's documents together. Without a header, or with a chunk missing, nothing was accepted.
fn assemble(batch: &str, documents: &[Document]) -> Result<Option<Batch>, StoreError> {
    let find = |part: &str| documents.iter().find(|document| document.key.sk == part);
    let Some(header) = find("header") else { return Ok(None) };
    let header: Header = header.read()?;
    let mut chunks = Vec::with_capacity(header.chunk_sizes.len());
    let mut refreshes = HashMap::new();
    for document in documents {
        if document.key.sk.starts_with("chunk#") {
            chunks.push(document.read()?);
        } else if let Some(number) = document.key.sk.strip_prefix("refresh#") {
            refreshes.insert(number.parse().unwrap_or(usize::MAX), document.read()?);
        }
    }
    if chunks.len() != header.chunk_sizes.len() {
        return Ok(None);
    }
    let state = find("state").map(Document::read).transpose()?.unwrap_or_default();
    Ok(Some(Batch { id: batch.to_owned(), header, chunks, state, refreshes }))
}
