//! The cursor document: position, lease, checkpoint, operator reset.
//!
//! One document per connector is the truth about how far ingest has come. Every write is compare-and-set on the version
//! that this run wrote last; when somebody else has written in between, the lease is lost and the run stops at once.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, Store, StoreError, to_body};
use vmray::model::SampleId;

use crate::progress::Done;

/// How far ingest has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cursor {
    /// Finish time of the last submission handled, in VMRay's clock. `None` until the first run has asked `OpenCTI`
    /// where to start.
    #[serde(default)]
    pub position: Option<DateTime<Utc>>,
    /// Nothing that finished before this is ingested: where the first run, a reset or an operator began.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    /// Submissions near or beyond the position that are handled.
    #[serde(default)]
    pub done: Done,
    /// `OpenCTI`'s `connector_state_timestamp` as last seen: another one means that an operator pressed *reset*.
    #[serde(default)]
    pub state_timestamp: Option<String>,
    /// When a run last found everything handled, by our clock.
    #[serde(default)]
    pub checked_at: Option<DateTime<Utc>>,
    /// A sample that was read whole: asked again, it tells whether VMRay or other samples are to blame for failures.
    #[serde(default)]
    pub last_good: Option<SampleId>,
    /// Samples that failed in runs that stopped because too many did.
    #[serde(default)]
    pub suspects: BTreeSet<SampleId>,
    /// Errors already reported, by `OpenCTI` work.
    #[serde(default)]
    pub reported_errors: BTreeMap<String, u64>,
    /// Who is running.
    #[serde(default)]
    pub lease: Option<Lease>,
}

impl Cursor {
    /// Begins anew: everything from `start` on is to come, again where it had come before.
    pub fn start_at(&mut self, start: DateTime<Utc>) {
        self.position = Some(start);
        self.start = Some(start);
        self.done = Done::default();
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

/// The cursor document as this run read or wrote it last.
pub struct StoredCursor<'a> {
    store: &'a dyn Store,
    key: Key,
    version: Option<u64>,
    saved_position: Option<DateTime<Utc>>,
    /// Its content, with changes that are not saved yet.
    pub cursor: Cursor,
}

impl<'a> StoredCursor<'a> {
    /// Reads the document; an absent one is a fresh cursor.
    pub async fn load(store: &'a dyn Store, connector_id: &str) -> Result<Self, CursorError> {
        let key = Key::new(partition(connector_id), "cursor");
        let document = store.get(&key).await?;
        let cursor: Cursor = document.as_ref().map(Document::read).transpose()?.unwrap_or_default();
        let version = document.map(|found| found.version);
        Ok(Self { store, key, version, saved_position: cursor.position, cursor })
    }

    /// The position that is known to be stored.
    #[must_use]
    pub fn saved_position(&self) -> Option<DateTime<Utc>> {
        self.saved_position
    }

    /// Writes the document if nobody else has.
    pub async fn save(&mut self) -> Result<(), CursorError> {
        let expected = self.version.map_or(Expected::New, Expected::Version);
        let body = to_body(&self.key, &self.cursor)?;
        self.version = Some(self.store.put(&self.key, body, None, expected).await?);
        self.saved_position = self.cursor.position;
        Ok(())
    }

    /// Takes the lease, or says who has it.
    pub async fn acquire(
        &mut self,
        lease: Lease,
        now: DateTime<Utc>,
    ) -> Result<Result<(), Lease>, CursorError> {
        if let Some(held) = self.cursor.lease.as_ref().filter(|held| held.until > now) {
            return Ok(Err(held.clone()));
        }
        self.cursor.lease = Some(lease.clone());
        match self.save().await {
            // Two asked at the same time and the other was faster.
            Err(CursorError::Lost) => Ok(Err(lease)),
            saved => saved.map(Ok),
        }
    }
}
