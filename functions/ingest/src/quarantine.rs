//! Samples that could not be ingested: why, how often, when again. Nothing waits for them, and nothing is forgotten.
//!
//! One document a sample. `waiting`: VMRay has not put its results together yet. `failed`: anything else. After
//! `QUARANTINE_MAX_ATTEMPTS` a sample is given up loudly and kept until an operator retries or drops it. One that VMRay
//! has deleted is forgotten `GONE_FOR` after that.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, Store, StoreError, to_body};
use strum::{Display, IntoStaticStr, VariantArray};
use vmray::model::{SampleId, Submission};

use crate::analysis::SubmittedSample;
use crate::cursor::partition;

/// Most due samples that one run tries again, so that old trouble never eats a whole invocation.
pub const MOST_DUE_PER_RUN: usize = 50;

/// How long a deleted sample that was given up is kept.
const GONE_FOR: TimeDelta = TimeDelta::days(35);

/// Most of them that one run forgets.
const MOST_FORGOTTEN_PER_RUN: usize = 500;

/// Documents that are written or deleted at the same time.
const WRITES_AT_ONCE: usize = 16;

/// Pause after the third attempt; doubles with each further one.
const FIRST_PAUSE: TimeDelta = TimeDelta::minutes(30);
const LONGEST_PAUSE: TimeDelta = TimeDelta::hours(24);

/// Submissions kept per sample: the newest; a document has to stay small.
const MOST_SUBMISSIONS: usize = 200;

const PREFIX: &str = "quarantine#";

/// Why a sample is not in `OpenCTI`.
#[derive(
    Clone,
    Copy,
    Debug,
    Display,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum QuarantineReason {
    /// IOCs, VTIs or techniques are not put together yet.
    NotAggregated,
    /// 404: deleted, or past its retention.
    NotFound,
    /// 403: not shared with the key's user.
    Forbidden,
    /// VMRay's answer cannot be read, or is an error that is no other reason.
    Malformed,
    /// It cannot be mapped.
    MappingError,
    /// An answer over the size limit, or a bundle that `OpenCTI` calls too large and that cannot be split.
    TooLarge,
    /// It took longer than one sample may.
    TooSlow,
    /// VMRay failed for it, while it answers for others.
    ServerError,
    /// `OpenCTI` does not take its bundle.
    PushRefused,
    /// `OpenCTI` misses an object that was left out of its bundle.
    ReferenceMissing,
}

impl QuarantineReason {
    /// The word for answers, metrics and documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether it says nothing about the server: the sample was deleted, or is not ready.
    #[must_use]
    pub fn is_the_samples_own(self) -> bool {
        matches!(self, Self::NotFound | Self::NotAggregated)
    }
}

/// Whether an operator has to look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineState {
    /// VMRay is still at it, or it only comes again.
    Waiting,
    /// Something is wrong.
    Failed,
}

/// One sample in quarantine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantinedSample {
    pub sample_id: SampleId,
    /// Its submissions that are to be ingested with it.
    pub submissions: Vec<Submission>,
    /// Whether an operator has to look at it.
    pub state: QuarantineState,
    pub reason: QuarantineReason,
    /// In words.
    pub detail: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was first put here.
    pub since: DateTime<Utc>,
    /// Not before this time.
    pub next_attempt: DateTime<Utc>,
    /// Not tried again by itself.
    pub given_up: bool,
}

/// A sample that could not be ingested.
#[derive(Debug)]
pub struct FailedSample {
    pub sample: SubmittedSample,
    pub reason: QuarantineReason,
    /// In words.
    pub detail: String,
}

impl FailedSample {
    /// It was delivered, and comes again.
    pub(crate) fn reference_missing(sample: SubmittedSample) -> Self {
        let detail =
            "OpenCTI misses an object that was left out of its bundle: it is pushed whole".to_owned();
        Self { sample, reason: QuarantineReason::ReferenceMissing, detail }
    }
}

impl QuarantinedSample {
    fn after(failure: FailedSample, before: Option<&Self>, most_attempts: u32, now: DateTime<Utc>) -> Self {
        let mut submissions = failure.sample.submissions;
        submissions.extend(before.iter().flat_map(|entry| entry.submissions.iter().cloned()));
        submissions.sort_by_key(|row| (std::cmp::Reverse(row.finish_time), row.id));
        submissions.dedup_by_key(|row| row.id);
        submissions.truncate(MOST_SUBMISSIONS);
        let attempts = before.map_or(0, |entry| entry.attempts) + 1;
        Self {
            sample_id: failure.sample.id,
            submissions,
            state: match failure.reason {
                QuarantineReason::NotAggregated | QuarantineReason::ReferenceMissing => {
                    QuarantineState::Waiting
                }
                _ => QuarantineState::Failed,
            },
            reason: failure.reason,
            detail: failure.detail,
            attempts,
            since: before.map_or(now, |entry| entry.since),
            next_attempt: now + pause(attempts),
            given_up: attempts >= most_attempts,
        }
    }

    /// Whether a run at `now` tries it.
    #[must_use]
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        !self.given_up && self.next_attempt <= now
    }

    /// Whether VMRay has deleted it so long ago that it need not be kept at `now`.
    fn is_long_gone(&self, now: DateTime<Utc>) -> bool {
        self.given_up && self.reason == QuarantineReason::NotFound && self.next_attempt + GONE_FOR <= now
    }
}

/// Two attempts are made in the first run and one in the next; later ones after 30 min, 1 h, 2 h ... 24 h.
fn pause(attempts: u32) -> TimeDelta {
    let Some(doublings) = attempts.checked_sub(3) else { return TimeDelta::zero() };
    (FIRST_PAUSE * (1 << doublings.min(10))).min(LONGEST_PAUSE)
}

/// All samples in quarantine, as last read or written.
pub struct Quarantine<'a> {
    store: &'a dyn Store,
    partition: String,
    entries: BTreeMap<SampleId, (u64, QuarantinedSample)>,
}

/// How many samples are in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuarantineCounts {
    /// State `waiting`.
    pub waiting: usize,
    /// State `failed`, given up or not.
    pub failed: usize,
}

impl<'a> Quarantine<'a> {
    /// Reads all of it.
    pub async fn load(store: &'a dyn Store, connector_id: &str) -> Result<Self, StoreError> {
        let partition = partition(connector_id);
        let mut entries = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = store.query_prefix(&partition, PREFIX, 500, after.as_deref()).await?;
            for document in &page.documents {
                let entry: QuarantinedSample = document.read()?;
                entries.insert(entry.sample_id, (document.version, entry));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(Self { store, partition, entries }),
            }
        }
    }

    /// The entry of a sample.
    #[must_use]
    pub fn get(&self, sample: SampleId) -> Option<&QuarantinedSample> {
        self.entries.get(&sample).map(|(_, entry)| entry)
    }

    /// All entries by sample.
    pub fn entries(&self) -> impl Iterator<Item = &QuarantinedSample> {
        self.entries.values().map(|(_, entry)| entry)
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> QuarantineCounts {
        let waiting = self.entries().filter(|entry| entry.state == QuarantineState::Waiting).count();
        QuarantineCounts { waiting, failed: self.entries.len() - waiting }
    }

    /// What a run at `now` tries again, longest due first.
    #[must_use]
    pub fn due(&self, now: DateTime<Utc>) -> Vec<QuarantinedSample> {
        let mut due: Vec<QuarantinedSample> =
            self.entries().filter(|entry| entry.is_due(now)).cloned().collect();
        due.sort_by_key(|entry| (entry.next_attempt, entry.sample_id));
        due.truncate(MOST_DUE_PER_RUN);
        due
    }

    /// Records failed samples, several at a time, and says what is now known of them.
    pub async fn record(
        &mut self,
        failures: Vec<FailedSample>,
        most_attempts: u32,
        now: DateTime<Utc>,
    ) -> Result<Vec<&QuarantinedSample>, StoreError> {
        let samples: Vec<SampleId> = failures.iter().map(|failure| failure.sample.id).collect();
        let entries = failures.into_iter().map(|failure| {
            let before = self.get(failure.sample.id);
            QuarantinedSample::after(failure, before, most_attempts, now)
        });
        self.write(entries.collect()).await?;
        Ok(samples.into_iter().filter_map(|sample| self.get(sample)).collect())
    }

    /// Makes samples due at once, attempts forgotten. Says which of them are here.
    pub async fn retry(
        &mut self,
        samples: &[SampleId],
        now: DateTime<Utc>,
    ) -> Result<Vec<SampleId>, StoreError> {
        let found = self.present(samples);
        let entries = found.iter().filter_map(|sample| self.get(*sample)).cloned();
        let entries = entries.map(|entry| QuarantinedSample {
            attempts: 0,
            next_attempt: now,
            given_up: false,
            ..entry
        });
        self.write(entries.collect()).await?;
        Ok(found)
    }

    /// Makes every sample due at once: an operator has reset the connector.
    pub async fn retry_all(&mut self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let samples: Vec<SampleId> = self.entries.keys().copied().collect();
        self.retry(&samples, now).await?;
        Ok(())
    }

    /// Forgets samples: they have arrived, or an operator does not want them. Says which of them were here.
    pub async fn remove(&mut self, samples: &[SampleId]) -> Result<Vec<SampleId>, StoreError> {
        let found = self.present(samples);
        let this = &*self;
        let mut deletions = stream::iter(&found)
            .map(|sample| async move { this.delete(*sample).await.map(|()| *sample) })
            .buffer_unordered(WRITES_AT_ONCE);
        while deletions.try_next().await?.is_some() {}
        drop(deletions);
        for sample in &found {
            self.entries.remove(sample);
        }
        Ok(found)
    }

    /// Forgets samples that VMRay has deleted and that were given up long before `now`. They must not pile up.
    pub async fn forget_long_gone(&mut self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let gone = self.entries().filter(|entry| entry.is_long_gone(now)).map(|entry| entry.sample_id);
        let gone: Vec<SampleId> = gone.take(MOST_FORGOTTEN_PER_RUN).collect();
        self.remove(&gone).await?;
        Ok(())
    }

    fn present(&self, samples: &[SampleId]) -> Vec<SampleId> {
        let mut present: Vec<SampleId> =
            samples.iter().copied().filter(|sample| self.entries.contains_key(sample)).collect();
        present.sort_unstable();
        present.dedup();
        present
    }

    async fn delete(&self, sample: SampleId) -> Result<(), StoreError> {
        let Some((version, _)) = self.entries.get(&sample) else { return Ok(()) };
        let key = self.key(sample);
        match self.store.delete(&key, *version).await {
            // An operator's command was here: what this run knows is newer.
            Err(StoreError::Conflict { current: Some(current), .. }) => {
                self.store.delete(&key, current.version).await
            }
            Err(StoreError::Conflict { current: None, .. }) => Ok(()),
            deleted => deleted,
        }
    }

    async fn write(&mut self, entries: Vec<QuarantinedSample>) -> Result<(), StoreError> {
        let this = &*self;
        let writes = stream::iter(entries).map(|entry| async move {
            let version = this.put(&entry).await?;
            Ok((entry.sample_id, (version, entry)))
        });
        let written: Vec<_> = writes.buffer_unordered(WRITES_AT_ONCE).try_collect().await?;
        self.entries.extend(written);
        Ok(())
    }

    async fn put(&self, entry: &QuarantinedSample) -> Result<u64, StoreError> {
        let key = self.key(entry.sample_id);
        let expected = self
            .entries
            .get(&entry.sample_id)
            .map_or(Expected::New, |(version, _)| Expected::Version(*version));
        let body = to_body(&key, entry)?;
        match self.store.put(&key, body.clone(), None, expected).await {
            // An operator's command or a manual run was here: what this run knows is newer.
            Err(StoreError::Conflict { current, .. }) => {
                let expected = current
                    .map_or(Expected::New, |current: Box<Document>| Expected::Version(current.version));
                self.store.put(&key, body, None, expected).await
            }
            written => written,
        }
    }

    fn key(&self, sample: SampleId) -> Key {
        // Padded, so that the table sorts them by number.
        Key::new(self.partition.clone(), format!("{PREFIX}{:012}", sample.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: QuarantineReason) -> FailedSample {
        let sample = SubmittedSample { id: SampleId(7), submissions: Vec::new() };
        FailedSample { sample, reason, detail: "x".to_owned() }
    }

    #[test]
    fn an_entry_is_due_twice_at_once_and_then_exponentially_later() {
        let mut now = DateTime::UNIX_EPOCH;
        let mut entry = QuarantinedSample::after(failure(QuarantineReason::Forbidden), None, 10, now);
        let mut pauses = Vec::new();
        while !entry.given_up {
            pauses.push((entry.next_attempt - now).num_minutes());
            now = entry.next_attempt;
            assert!(entry.is_due(now));
            entry = QuarantinedSample::after(failure(QuarantineReason::Forbidden), Some(&entry), 10, now);
        }
        assert_eq!(pauses, [0, 0, 30, 60, 120, 240, 480, 960, 1440]);
        assert_eq!(entry.attempts, 10);
        assert!(!entry.is_due(now + TimeDelta::days(365)), "given up until an operator says otherwise");
    }

    #[test]
    fn only_a_deleted_sample_that_was_given_up_is_forgotten_after_35_days() {
        let now = DateTime::UNIX_EPOCH;
        let entry =
            |reason, most_attempts| QuarantinedSample::after(failure(reason), None, most_attempts, now);
        let after = |days| now + TimeDelta::days(days);
        assert!(entry(QuarantineReason::NotFound, 1).is_long_gone(after(35)));
        assert!(!entry(QuarantineReason::NotFound, 1).is_long_gone(after(34)));
        assert!(!entry(QuarantineReason::NotFound, 2).is_long_gone(after(1000)), "it is tried again");
        assert!(!entry(QuarantineReason::Forbidden, 1).is_long_gone(after(1000)), "an operator decides");
    }

    #[test]
    fn waiting_is_no_failure() {
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(
            QuarantinedSample::after(failure(QuarantineReason::NotAggregated), None, 10, now).state,
            QuarantineState::Waiting
        );
        assert_eq!(
            QuarantinedSample::after(failure(QuarantineReason::TooLarge), None, 10, now).state,
            QuarantineState::Failed
        );
    }
}
