//! The cursor document: position, lease, checkpoint, operator reset; and beside it what is handled.
//!
//! One document per connector is the truth about how far ingest has come. Every write is compare-and-set on the version
//! that this run wrote last; when another writer has come in between, the lease is lost and the run stops at once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, Store, StoreError, to_body};
use vmray::model::SampleId;

use crate::handled::{Handled, RowList, StoredSegment};
use crate::history::{Beginning, History};
use crate::memory::imports::Imports;

/// Samples that were read whole, to be read again when others fail.
const MOST_WITNESSES: usize = 5;

/// Segments of what is handled that are written at the same time.
const WRITES_AT_ONCE: usize = 8;

/// Two runs that start at the same time, and an operator's command: none of them comes three times.
const TRIES_FOR_THE_LEASE: usize = 3;

/// How far ingest has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cursor {
    /// Finish time of the last submission handled, in VMRay's clock. `None` until the first run has asked `OpenCTI`
    /// where to start.
    #[serde(default)]
    pub position: Option<DateTime<Utc>>,
    /// The oldest finish time that a run which was cut off has not listed or not settled: the next one goes on there.
    #[serde(default)]
    pub go_on_from: Option<DateTime<Utc>>,
    /// No later run lists what finished before this.
    #[serde(default)]
    pub forget_before: Option<DateTime<Utc>>,
    /// Nothing that finished before this is ingested: where the first run, a reset or an operator began.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    /// What is older than the start and still to come. Version 0.1.0 knew no history and began at the initial date.
    #[serde(default)]
    pub history: Option<History>,
    /// Submissions near or beyond the position that are handled.
    #[serde(default)]
    pub handled: Handled,
    /// What version 0.1.0 remembered of them.
    #[serde(default, rename = "done", skip_serializing)]
    handled_before: RowList,
    /// `OpenCTI`'s `connector_state_timestamp` as last seen: another one means that an operator pressed *reset*.
    #[serde(default)]
    pub state_timestamp: Option<String>,
    /// When a run last found everything handled, by our clock.
    #[serde(default)]
    pub checked_at: Option<DateTime<Utc>>,
    /// The samples that were last read whole, newest first. Read again, one of them shows that VMRay works.
    #[serde(default)]
    pub witnesses: Vec<SampleId>,
    /// The only one that version 0.1.0 remembered.
    #[serde(default, rename = "last_good", skip_serializing)]
    witness_before: Option<SampleId>,
    /// Pushes of which it is not known yet whether the platform has imported them.
    #[serde(default)]
    pub imports: Imports,
    /// Errors already reported, by `OpenCTI` work.
    #[serde(default)]
    pub reported_errors: BTreeMap<String, u64>,
    /// Who is running.
    #[serde(default)]
    pub lease: Option<Lease>,
}

impl Cursor {
    /// A cursor that has handled nothing yet.
    #[must_use]
    pub fn beginning_at(start: DateTime<Utc>) -> Self {
        let mut cursor = Self::default();
        cursor.start_at(start);
        cursor
    }

    /// Begins anew, with what is fresh; its history comes later.
    pub fn begin(&mut self, beginning: Beginning) {
        self.start_at(beginning.start);
        self.history = beginning.history;
    }

    /// Goes on from `position`. What is left of history before it is still to come.
    pub fn go_on_at(&mut self, position: DateTime<Utc>) {
        let history = self.history.and_then(|history| history.before(position));
        self.start_at(position);
        self.history = history;
    }

    /// Begins anew without history: everything from `start` on is to come, again where it had come before.
    pub fn start_at(&mut self, start: DateTime<Utc>) {
        self.position = Some(start);
        self.start = Some(start);
        self.go_on_from = None;
        self.forget_before = None;
        self.history = None;
        self.handled.clear();
        self.imports.forget();
    }

    /// A sample was read whole.
    pub fn remember_witness(&mut self, sample: SampleId) {
        if !self.witnesses.contains(&sample) {
            self.witnesses.insert(0, sample);
            self.witnesses.truncate(MOST_WITNESSES);
        }
    }

    fn read(document: &Document) -> Result<Self, StoreError> {
        let mut cursor: Self = document.read()?;
        if cursor.handled.is_empty() {
            cursor.handled = Handled::from(std::mem::take(&mut cursor.handled_before));
        }
        if let Some(sample) = cursor.witness_before.take() {
            cursor.remember_witness(sample);
        }
        Ok(cursor)
    }
}

/// The right to run, until a time after which its owner is certainly dead.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Lease {
    /// The run's id.
    pub owner: String,
    /// This invocation's deadline and 30 s.
    pub until: DateTime<Utc>,
}

/// Whether a run may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It holds the lease.
    Granted,
    /// Another run does.
    HeldBy(Lease),
}

/// Why the cursor could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// Another run has written the document: it goes on, this one stops.
    #[error("another run or an operator has changed the cursor in the meantime; this run stops")]
    Lost,
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for CursorError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Conflict { .. }) { Self::Lost } else { Self::Store(error) }
    }
}

/// The partition that holds everything of one connector.
#[must_use]
pub fn partition(connector_id: &str) -> String {
    format!("ingest#{connector_id}")
}

/// A segment of what is handled, as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredRows {
    rows: RowList,
}

/// The cursor document as this run read or wrote it last.
pub struct StoredCursor<'a> {
    store: &'a dyn Store,
    key: Key,
    version: Option<u64>,
    saved: Checkpoint,
    /// Its content, with changes that are not saved yet.
    pub cursor: Cursor,
}

/// What is known to be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Checkpoint {
    position: Option<DateTime<Utc>>,
    go_on_from: Option<DateTime<Utc>>,
    forget_before: Option<DateTime<Utc>>,
    unsettled: usize,
    history: Option<History>,
}

impl Checkpoint {
    fn of(cursor: &Cursor) -> Self {
        let Cursor { position, go_on_from, forget_before, history, .. } = *cursor;
        Self { position, go_on_from, forget_before, history, unsettled: cursor.imports.unsettled() }
    }
}

impl<'a> StoredCursor<'a> {
    /// Reads the document; an absent one is a fresh cursor.
    pub async fn load(store: &'a dyn Store, connector_id: &str) -> Result<Self, CursorError> {
        let key = Key::new(partition(connector_id), "cursor");
        let document = store.get(&key).await?;
        let cursor = document.as_ref().map(Cursor::read).transpose()?.unwrap_or_default();
        let version = document.map(|found| found.version);
        Ok(Self { store, key, version, saved: Checkpoint::of(&cursor), cursor })
    }

    /// The position that is known to be stored.
    #[must_use]
    pub fn saved_position(&self) -> Option<DateTime<Utc>> {
        self.saved.position
    }

    /// Whether how far the run has come is stored.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.saved == Checkpoint::of(&self.cursor) && !self.cursor.handled.has_unsaved()
    }

    /// Writes what has changed, if no other writer has come in between.
    pub async fn save(&mut self) -> Result<(), CursorError> {
        Ok(self.write().await?)
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if let Some(oldest) = self.saved.forget_before {
            // As it is stored: a run that begins from there may still need what lies behind.
            self.cursor.handled.forget_before(oldest);
        }
        // First the segments: what the list names must be there.
        self.write_segments().await?;
        let expected = self.version.map_or(Expected::New, Expected::Version);
        let body = to_body(&self.key, &self.cursor)?;
        self.version = Some(self.store.put(&self.key, body, None, expected).await?);
        self.cursor.handled.list_saved();
        self.saved = Checkpoint::of(&self.cursor);
        Ok(())
    }

    async fn write_segments(&mut self) -> Result<(), StoreError> {
        let unsaved = self.cursor.handled.unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        self.check_ownership().await?;
        let this = &*self;
        let written: Vec<(u32, u64)> = stream::iter(unsaved)
            .map(|segment| async move { Ok((segment.number, this.write_segment(segment).await?)) })
            .buffer_unordered(WRITES_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        for (number, version) in written {
            self.cursor.handled.saved(number, version);
        }
        Ok(())
    }

    async fn write_segment(&self, segment: StoredSegment) -> Result<u64, StoreError> {
        let key = self.segment_key(segment.number);
        let body = to_body(&key, &StoredRows { rows: segment.rows })?;
        let expected = segment.version.map_or(Expected::New, Expected::Version);
        match self.store.put(&key, body.clone(), None, expected).await {
            // A forgotten segment has left it.
            Err(StoreError::Conflict { current: Some(current), .. }) if segment.version.is_none() => {
                self.store.put(&key, body, None, Expected::Version(current.version)).await
            }
            written => written,
        }
    }

    /// Fails when another writer has replaced the cursor document.
    pub(crate) async fn check_ownership(&self) -> Result<(), StoreError> {
        let current = self.store.get(&self.key).await?.map(Box::new);
        if current.as_ref().map(|document| document.version) == self.version {
            return Ok(());
        }
        Err(StoreError::Conflict { key: self.key.clone(), current })
    }

    /// Reads segments of what is handled.
    pub async fn read_segments(&self, numbers: &[u32]) -> Result<Vec<StoredSegment>, StoreError> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<Key> = numbers.iter().map(|number| self.segment_key(*number)).collect();
        let documents = self.store.get_many(&keys).await?;
        let mut documents = documents.iter().peekable();
        let segments = numbers.iter().zip(keys).map(|(number, key)| {
            let Some(document) = documents.next_if(|document| document.key == key) else {
                tracing::warn!(%key, "a list of handled submissions is gone: they come again, with the same ids");
                return Ok(StoredSegment { number: *number, version: None, rows: RowList::default() });
            };
            let StoredRows { rows } = document.read()?;
            Ok(StoredSegment { number: *number, version: Some(document.version), rows })
        });
        segments.collect()
    }

    fn segment_key(&self, number: u32) -> Key {
        Key::new(self.key.pk.clone(), format!("handled#{number:03}"))
    }

    /// Takes the lease, or says who has it.
    pub async fn acquire(&mut self, lease: Lease, now: DateTime<Utc>) -> Result<Acquired, CursorError> {
        for _ in 0..TRIES_FOR_THE_LEASE {
            if let Some(held) = self.cursor.lease.as_ref().filter(|held| held.until > now) {
                return Ok(Acquired::HeldBy(held.clone()));
            }
            self.cursor.lease = Some(lease.clone());
            match self.write().await {
                Ok(()) => return Ok(Acquired::Granted),
                // Another writer came first: a run, which then holds the lease, or an operator's command.
                Err(StoreError::Conflict { key, current: Some(current) }) if key == self.key => {
                    self.cursor = Cursor::read(&current)?;
                    self.version = Some(current.version);
                    self.saved = Checkpoint::of(&self.cursor);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(CursorError::Lost)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::sqlite::SqliteStore;
    use vmray::model::SubmissionId;

    use super::*;
    use crate::handled::Row;

    const SEVEN_DAYS: i64 = 7 * 24 * 3600;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + second, 0).unwrap()
    }

    fn row(second: i64, id: u64) -> Row {
        Row::new(at(second), SubmissionId(id))
    }

    /// Which of these rows a run that starts now takes for new, and how many segments it reads for that.
    async fn new_rows(stored: &mut StoredCursor<'_>, listed: &[Row]) -> (Vec<Row>, usize) {
        let unknown = stored.cursor.handled.unknown(listed);
        for segment in stored.read_segments(&unknown).await.unwrap() {
            stored.cursor.handled.learn(segment);
        }
        let new = listed.iter().copied().filter(|row| !stored.cursor.handled.contains(*row));
        (new.collect(), unknown.len())
    }

    /// 100,000 rows of seven days, with numbers of 16 digits.
    fn a_hundred_thousand() -> Vec<Row> {
        let id = |n: i64| 9_100_000_000_000_000 + n.cast_unsigned() * 7;
        (0..100_000).map(|n| row(n * SEVEN_DAYS / 100_000, id(n))).collect()
    }

    #[tokio::test]
    async fn a_hundred_thousand_rows_are_remembered_and_only_what_changes_is_read_and_written() {
        let store = SqliteStore::in_memory().unwrap();
        let mut rows = a_hundred_thousand();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        stored.cursor.start_at(at(0));
        stored.cursor.forget_before = Some(at(0));
        for bundle in rows.chunks(5_000) {
            for row in bundle {
                stored.cursor.handled.insert(*row);
            }
            stored.save().await.unwrap();
        }
        let group = store.query_prefix("ingest#c", "", 1_000, None).await.unwrap().documents;
        let size = |document: &Document| document.body.to_string().len();
        let largest = group.iter().map(size).max().unwrap();
        assert!(largest < 20_000, "{largest} bytes in one document");

        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!(stored.cursor.handled.len(), 100_000);
        assert_eq!(new_rows(&mut stored, &rows).await, (vec![], 0), "nothing new: no segment is read");
        assert!(stored.is_saved(), "and none is written");

        let late = row(SEVEN_DAYS / 2, 9_100_000_000_000_001);
        rows.insert(rows.partition_point(|known| *known < late), late);
        assert_eq!(new_rows(&mut stored, &rows).await, (vec![late], 1), "one late row: one segment is read");
        stored.cursor.handled.insert(late);
        assert!(stored.cursor.handled.unsaved().len() <= 2, "and it or its two halves are written");
        stored.save().await.unwrap();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!(new_rows(&mut stored, &rows).await.0, []);
    }

    #[tokio::test]
    async fn what_lies_behind_the_saved_beginning_is_forgotten_and_its_documents_are_used_again() {
        let store = SqliteStore::in_memory().unwrap();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        for day in 0..60 {
            for n in 0..4_000 {
                stored.cursor.handled.insert(row(day * 86_400 + n * 20, n.cast_unsigned()));
            }
            stored.cursor.forget_before = Some(at((day - 1) * 86_400));
            stored.save().await.unwrap();
        }
        assert!(stored.cursor.handled.len() < 20_000, "{}", stored.cursor.handled.len());
        let documents = store.query_prefix("ingest#c", "handled#", 1_000, None).await.unwrap().documents;
        assert!(documents.len() < 30, "{} documents", documents.len());
        let mut next = StoredCursor::load(&store, "c").await.unwrap();
        let kept: Vec<Row> = (0..4_000).map(|n| row(59 * 86_400 + n * 20, n.cast_unsigned())).collect();
        assert_eq!(new_rows(&mut next, &kept).await.0, []);
    }

    #[tokio::test]
    async fn a_run_that_dies_between_its_segments_and_the_cursor_loses_none_of_what_was_saved() {
        let store = SqliteStore::in_memory().unwrap();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        let saved: Vec<Row> = (0..3_500).map(|n| row(n * 2, n.cast_unsigned())).collect();
        for row in &saved {
            stored.cursor.handled.insert(*row);
        }
        stored.cursor.forget_before = Some(at(0));
        stored.save().await.unwrap();

        let mut dying = StoredCursor::load(&store, "c").await.unwrap();
        let more: Vec<Row> = (0..4_000).map(|n| row(n * 2 + 1, n.cast_unsigned())).collect();
        let mut listed = [saved.clone(), more.clone()].concat();
        listed.sort_unstable();
        assert_eq!(new_rows(&mut dying, &listed).await.0.len(), more.len());
        for row in &more {
            dying.cursor.handled.insert(*row);
        }
        dying.write_segments().await.unwrap();

        let mut next = StoredCursor::load(&store, "c").await.unwrap();
        let (new, _) = new_rows(&mut next, &listed).await;
        assert!(new.iter().all(|row| more.contains(row)), "what was saved is still handled");
        for row in &new {
            next.cursor.handled.insert(*row);
        }
        next.save().await.unwrap();
        let mut last = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!(new_rows(&mut last, &listed).await.0, []);
    }

    #[tokio::test]
    async fn the_state_of_version_0_1_0_goes_on() {
        let store = SqliteStore::in_memory().unwrap();
        let rows: Vec<Row> = (0..20_000).map(|n| row(n / 20, 91_000_000 + n.cast_unsigned() * 7)).collect();
        let done = String::from(RowList::from(rows.clone()));
        let old = json!({"position": at(1000), "start": at(-5000), "done": done, "last_good": 7, "suspects": [1, 2]});
        store.put(&Key::new("ingest#c", "cursor"), old, None, Expected::New).await.unwrap();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!((stored.cursor.position, stored.cursor.handled.len()), (Some(at(1000)), 20_000));
        assert_eq!(stored.cursor.history, None);
        assert_eq!(stored.cursor.witnesses, [SampleId(7)]);
        stored.save().await.unwrap();
        let mut stored = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!(new_rows(&mut stored, &rows).await, (vec![], 0));
    }

    #[tokio::test]
    async fn a_lost_race_for_the_lease_names_the_run_that_won_it() {
        let store = SqliteStore::in_memory().unwrap();
        let now = Utc::now();
        let lease =
            |owner: &str| Lease { owner: owner.to_owned(), until: now + chrono::TimeDelta::minutes(1) };
        let mut one = StoredCursor::load(&store, "c").await.unwrap();
        let mut other = StoredCursor::load(&store, "c").await.unwrap();
        assert_eq!(one.acquire(lease("one"), now).await.unwrap(), Acquired::Granted);
        assert_eq!(other.acquire(lease("other"), now).await.unwrap(), Acquired::HeldBy(lease("one")));
    }

    #[tokio::test]
    async fn an_operators_command_at_the_start_of_a_run_is_followed_by_it() {
        let store = SqliteStore::in_memory().unwrap();
        let now = Utc::now();
        let mut run = StoredCursor::load(&store, "c").await.unwrap();
        let mut operator = StoredCursor::load(&store, "c").await.unwrap();
        operator.cursor.start_at(at(5));
        operator.save().await.unwrap();
        let lease = Lease { owner: "run".to_owned(), until: now + chrono::TimeDelta::minutes(1) };
        assert_eq!(run.acquire(lease, now).await.unwrap(), Acquired::Granted);
        assert_eq!(run.cursor.position, Some(at(5)));
    }
}
