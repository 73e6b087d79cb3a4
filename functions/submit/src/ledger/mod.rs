//! What is known of URLs and batches, in the store.
//!
//! | `pk` | `sk` | holds |
//! |---|---|---|
//! | `url#<key>` | `entry` | an [`Entry`]: the only thing that changes while URLs are analysed |
//! | `batch#<id>` | `header`, `chunk#<n>` | a [`Header`] and its [`Chunk`]s, never changed |
//! | `batch#<id>` | `state`, `refresh#<n>` | a [`BatchState`]; when VMRay was last asked for a chunk's verdicts |
//! | `caller#<name>` | `call#<hash>`, `day#<date>` | which batch a call has made; what a [`Day`] has used of the daily limit |
//!
//! All of them expire. Reading checks that, since stores remove them late.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use chrono::{DateTime, Utc};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, NewDocument, Store, StoreError, to_body};

pub mod batch;
pub mod day;
pub mod entry;
pub mod judged;
pub mod outcome;

use crate::hash::of_parts;
use batch::{BatchState, Chunk, Header};
use day::{Booked, ByChunk, Day, batch_and_round, booking};
use entry::Entry;

/// An entry with its version, for compare-and-set.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// What is stored.
    pub value: Entry,
    /// What the next write expects.
    pub expected: Expected,
}

impl Versioned {
    /// Nothing is known of a URL.
    #[must_use]
    pub fn absent(url: &str) -> Self {
        Self { value: Entry::new(url.to_owned()), expected: Expected::New }
    }
}

/// Which batch a call has made: a repeat of the call finds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The batch.
    pub batch: String,
    /// What was asked for; another call under the same idempotency key differs.
    pub request_hash: String,
    /// When the batch was made, if it was; the same for every repeat of the call.
    #[serde(default)]
    pub created_at: Option<DateTime<Utc>>,
    /// The daily limit stood against it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

/// Tries of a write. They are counted and not timed: each one that fails shows that another writer got through, and where
/// the store takes seconds, a single conflict must not be the end. Calls and messages have deadlines of their own.
const TRIES: usize = 40;

/// Between the first two tries; each further pause doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(4);

/// No pause is longer: a writer that has lost often must not fall behind those that have just come.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

/// Runs `attempt` again while its error says that another writer came first.
pub(crate) async fn until_written<T, E, F>(
    attempt: impl FnMut() -> F,
    was_late: impl Fn(&E) -> bool,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_factor(2.0)
        .with_max_times(TRIES - 1)
        .with_jitter();
    attempt.retry(pauses).when(was_late).await
}

fn is_conflict(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict { .. })
}

/// When VMRay was last asked for the verdicts of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refresh {
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

    /// What is there, and what a write must expect. Expired documents read as absent; a new one replaces them.
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

    /// Changes what is there, again when another writer was faster. `change` gives what shall be there, or why it is left
    /// alone.
    async fn update<T: Serialize + DeserializeOwned, E>(
        &self,
        place: &Key,
        now: DateTime<Utc>,
        change: impl Fn(Option<T>) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        until_written(
            || async {
                let (value, expected) = self.slot(place, now).await?;
                match change(value) {
                    Ok(changed) => {
                        self.write(place, &changed, expected, now).await?;
                        Ok(Ok(changed))
                    }
                    Err(left_alone) => Ok(Err(left_alone)),
                }
            },
            is_conflict,
        )
        .await
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
        let keys: HashSet<_> = keys.into_iter().collect();
        let places: Vec<_> = keys.into_iter().map(entry_place).collect();
        let documents = self.store.get_many(&places).await?;
        let read = |document: Document| {
            let key = document.key.pk.trim_start_matches("url#").to_owned();
            Ok((key, versioned(&document, now)?))
        };
        documents.into_iter().map(read).collect()
    }

    /// Writes an entry unless another writer has since it was read: then it says what is there now.
    pub async fn put_entry(
        &self,
        key: &str,
        entry: Versioned,
        now: DateTime<Utc>,
    ) -> Result<Put, StoreError> {
        match self.write(&entry_place(key), &entry.value, entry.expected, now).await {
            Ok(expected) => Ok(Put::Written(Versioned { expected, ..entry })),
            Err(StoreError::Conflict { current, .. }) => {
                Ok(Put::Taken(now_there(current.as_deref(), entry.value.url, now)?))
            }
            Err(error) => Err(error),
        }
    }

    /// Changes an entry that was read as `stored`, again from what is there then when another writer was faster. `change` says
    /// whether there is anything to write. Gives the entry as it then is.
    pub async fn change_entry(
        &self,
        key: &str,
        stored: Versioned,
        now: DateTime<Utc>,
        change: impl Fn(&mut Entry) -> bool,
    ) -> Result<Versioned, StoreError> {
        let latest = Mutex::new(stored);
        let current = || latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        until_written(
            || async {
                let mut stored = current();
                if change(&mut stored.value) {
                    match self.write(&entry_place(key), &stored.value, stored.expected, now).await {
                        Ok(expected) => stored.expected = expected,
                        Err(error) => {
                            if let StoreError::Conflict { current, .. } = &error {
                                let there = now_there(current.as_deref(), stored.value.url, now)?;
                                *latest.lock().unwrap_or_else(PoisonError::into_inner) = there;
                            }
                            return Err(error);
                        }
                    }
                }
                Ok(stored)
            },
            is_conflict,
        )
        .await
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

    /// Begins a retry of a batch: it goes on if it was stopped or has waited for too long.
    pub async fn begin_retry(
        &self,
        batch: &str,
        round: u32,
        now: DateTime<Utc>,
    ) -> Result<BatchState, StoreError> {
        let place = batch_place(batch, "state");
        let begun = self.update(&place, now, |state: Option<BatchState>| match state {
            Some(state) if state.retries >= round => Err(state),
            _ => Ok(BatchState { stopped: None, retried_at: Some(now), retries: round }),
        });
        Ok(begun.await?.unwrap_or_else(|state| state))
    }

    /// Takes the turn of asking VMRay for the verdicts of a chunk; `false`: it was asked less than `pause` ago.
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

    /// Notes that VMRay has answered for a chunk: from now on a verdict is missing because VMRay has none.
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

    /// Records which batch a call makes.
    pub async fn put_call(
        &self,
        caller: &str,
        call: &str,
        record: &CallRecord,
        expected: Expected,
        now: DateTime<Utc>,
    ) -> Result<Expected, StoreError> {
        self.write(&call_place(caller, call), record, expected, now).await
    }

    /// What a caller has used of its daily limit.
    pub async fn used_today(&self, caller: &str, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let day = self.read::<Day>(&day_place(caller, now), now).await?;
        Ok(day.map_or(0, |day| day.urls))
    }

    /// Books the URLs of a batch's round on a day of its caller, of which at most `most` may count. The protocol is
    /// [`day`]'s.
    pub async fn book(
        &self,
        caller: &str,
        (batch, round): (&str, u32),
        urls: &ByChunk,
        most: u64,
        on: DateTime<Utc>,
    ) -> Result<Booked, StoreError> {
        let (place, booking) = (day_place(caller, on), booking(batch, round));
        until_written(
            || async {
                let (day, expected) = self.slot::<Day>(&place, on).await?;
                let mut day = day.unwrap_or_default();
                if !day.holds(&booking) {
                    // After the day was read: see the protocol.
                    if self.has_begun(batch, round, on).await? {
                        return Ok(Booked::Before);
                    }
                    self.make_room(&mut day, urls, on).await?;
                }
                match day.book(&booking, urls, most) {
                    Ok(true) => {
                        self.write(&place, &day, expected, on).await?;
                        Ok(Booked::Now)
                    }
                    Ok(false) => Ok(Booked::Now),
                    Err(used) => Ok(Booked::OverLimit { used }),
                }
            },
            is_conflict,
        )
        .await
    }

    /// Whether a batch, or the retry of that number, has begun: nothing more is booked for it.
    async fn has_begun(&self, batch: &str, round: u32, now: DateTime<Utc>) -> Result<bool, StoreError> {
        if round == 0 {
            return Ok(self.read::<IgnoredAny>(&batch_place(batch, "header"), now).await?.is_some());
        }
        Ok(self.state(batch, now).await?.retries >= round)
    }

    /// Closes bookings of batches that have begun when too many are open.
    async fn make_room(&self, day: &mut Day, urls: &ByChunk, now: DateTime<Utc>) -> Result<(), StoreError> {
        if day.has_room_for(urls) {
            return Ok(());
        }
        let bookings: Vec<_> = day.bookings().map(str::to_owned).collect();
        for booking in bookings {
            let (batch, round) = batch_and_round(&booking);
            if self.has_begun(batch, round, now).await? {
                day.close(&booking);
            }
        }
        if day.has_room_for(urls) {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            doing: "book URLs for the daily limit",
            place: "the ledger".to_owned(),
            reason: "too many calls of this caller were begun today and not finished".to_owned(),
        })
    }

    /// The chunks of a batch for which a booking is open on one of these days.
    pub async fn open_bookings(
        &self,
        caller: &str,
        batch: &str,
        days: impl IntoIterator<Item = DateTime<Utc>>,
    ) -> Result<BTreeSet<usize>, StoreError> {
        let mut open = BTreeSet::new();
        for on in days {
            let day = self.read::<Day>(&day_place(caller, on), on).await?;
            open.extend(day.iter().flat_map(|day| day.open_chunks(batch)));
        }
        Ok(open)
    }

    /// Ends what a batch has booked for a chunk, on each of these days: `used` URLs of a round count if it has begun, the
    /// others are given back.
    pub async fn settle(
        &self,
        caller: &str,
        (batch, chunk): (&str, usize),
        used: impl Fn(u32) -> Option<u64>,
        days: impl IntoIterator<Item = DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut places: Vec<_> = days.into_iter().map(|day| day_place(caller, day)).collect();
        places.dedup();
        for place in places {
            let settled = self.update(&place, now, |day: Option<Day>| {
                let mut day = day.ok_or(())?;
                day.settle(batch, chunk, &used).then_some(day).ok_or(())
            });
            // Nothing was open there.
            let _: Result<Day, ()> = settled.await?;
        }
        Ok(())
    }
}

/// What became of a write of an entry, and what is there now.
#[derive(Debug, Clone)]
pub enum Put {
    /// It took place.
    Written(Versioned),
    /// Another writer was faster.
    Taken(Versioned),
}

/// What a write has met.
fn now_there(document: Option<&Document>, url: String, now: DateTime<Utc>) -> Result<Versioned, StoreError> {
    let absent = Versioned { value: Entry::new(url), expected: Expected::New };
    document.map_or(Ok(absent), |document| versioned(document, now))
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::future::join_all;
    use store::sqlite::SqliteStore;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_conflict_is_not_the_end_however_slow_the_store_is() {
        let tries = Cell::new(0);
        let attempt = async || {
            tries.set(tries.get() + 1);
            sleep(Duration::from_secs(8)).await;
            if tries.get() < 3 { Err(()) } else { Ok(()) }
        };
        assert_eq!(until_written(attempt, |()| true).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_always_comes_late_gives_up_after_some_seconds() {
        let tries = Cell::new(0);
        let started = Instant::now();
        let attempt = async || {
            tries.set(tries.get() + 1);
            Err::<(), _>(())
        };
        assert_eq!(until_written(attempt, |()| true).await, Err(()));
        assert_eq!(tries.get(), TRIES);
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn of_many_calls_of_one_caller_at_the_same_time_each_is_booked() {
        const CALLS: u64 = 64;
        const DAY: Duration = Duration::from_hours(24);
        let ledger = Ledger::new(Arc::new(SqliteStore::in_memory().unwrap()), DAY, DAY);
        let (now, urls) = (Utc::now(), ByChunk::from([(0, 1)]));
        let book = async |call: u64| {
            ledger.book("soar", (&format!("batch-{call}"), 0), &urls, CALLS, now).await.unwrap()
        };
        let booked = join_all((0..CALLS).map(book)).await;
        assert!(booked.iter().all(|booked| matches!(booked, Booked::Now)), "{booked:?}");
        assert_eq!(ledger.used_today("soar", now).await.unwrap(), CALLS);
    }
}
