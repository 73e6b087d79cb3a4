//! What the platform has imported of what this connector pushed: it need not be pushed again.
//!
//! Each object costs the platform's workers 40 to 120 ms, whether or not it changes anything. But a report that refers to
//! something that is not stored loses that reference without a word, and a relationship to it is refused. So pushed is
//! not imported: [`imports`] says when the platform's works prove it, and [`known`] what may then be left out.
//!
//! Each push is one or more small documents beside the cursor. They are not trusted before the proof, end after
//! `PLATFORM_MEMORY`, and belong to a platform, the mapping's settings and an epoch of the cursor: a change of any of
//! these sends everything again. Losing them costs the platform's time and nothing else.

pub(crate) mod imports;
pub(crate) mod known;
mod record;

use std::collections::HashSet;
use std::fmt::Debug;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use store::{Document, Expected, Key, Store, StoreError, to_body};
use tracing::warn;

use self::imports::{Imports, PushedBundle, Settled};
use self::known::Known;
use self::record::ObjectList;
pub(crate) use self::record::PushedObject;
use crate::analysis::SubmittedSample;
use crate::cursor::partition;
use crate::opencti::connector::ConnectorWork;

const PREFIX: &str = "platform#";

/// Objects of one document: some 60 KB, well below the store's limit.
const MOST_OBJECTS_A_DOCUMENT: usize = 1_000;

/// Samples of one document.
const MOST_SAMPLES_A_DOCUMENT: usize = 200;

/// Objects that are remembered; of more, those that were pushed first are forgotten.
const MOST_OBJECTS: usize = 100_000;

/// Documents that are read in one page.
const PAGE: usize = 100;

/// Documents that are deleted at the same time.
const DELETES_AT_ONCE: usize = 8;

/// A push, or a part of a large one.
#[derive(Serialize, Deserialize)]
struct StoredPush {
    /// Under which settings.
    scope: String,
    /// The cursor's epoch.
    epoch: u64,
    /// Whether the platform has imported it.
    imported: bool,
    objects: ObjectList,
    /// What was pushed, to be pushed again if a reference turns out to be lost.
    samples: Vec<SubmittedSample>,
}

pub(crate) struct PlatformMemory<'a> {
    store: &'a dyn Store,
    partition: String,
    scope: String,
    lifetime: TimeDelta,
}

impl<'a> PlatformMemory<'a> {
    /// The memory of a connector, unless it is to last for no time. What was pushed under another `scope` is not in it.
    pub(crate) fn new(
        store: &'a dyn Store,
        connector_id: &str,
        lifetime: TimeDelta,
        scope: &impl Debug,
    ) -> Option<Self> {
        let scope = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{scope:?}").as_bytes());
        let (partition, scope) = (partition(connector_id), scope.to_string());
        (lifetime > TimeDelta::zero()).then_some(Self { store, partition, scope, lifetime })
    }

    /// Everything that is known at `now`. Deletes what is of no use any more.
    pub(crate) async fn load(&self, epoch: u64, now: DateTime<Utc>) -> Result<Known, StoreError> {
        let (mut pushes, mut useless) = (Vec::new(), Vec::new());
        let mut after: Option<String> = None;
        loop {
            let page = self.store.query_prefix(&self.partition, PREFIX, PAGE, after.as_deref()).await?;
            for document in page.documents {
                match self.read(&document, now).filter(|push| push.scope == self.scope && push.epoch == epoch)
                {
                    Some(push) => pushes.push((document.key, document.version, push)),
                    None => useless.push((document.key, document.version)),
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut objects: usize = pushes.iter().map(|(_, _, push)| push.objects.0.len()).sum();
        let mut known = Known::empty();
        for (key, version, push) in pushes {
            if objects > MOST_OBJECTS {
                objects -= push.objects.0.len();
                useless.push((key, version));
                continue;
            }
            for object in push.objects.0 {
                known.add(object, push.imported);
            }
        }
        self.delete(useless).await?;
        Ok(known)
    }

    /// A document that can be read and has not ended.
    fn read(&self, document: &Document, now: DateTime<Utc>) -> Option<StoredPush> {
        // Its end may lie further ahead than the setting allows by now.
        let ends = document.ttl?.min(pushed_at(&document.key)? + self.lifetime.num_seconds());
        let push = document.read();
        if let Err(error) = &push {
            warn!(%error, "what the platform has is not known: it is pushed again");
        }
        push.ok().filter(|_| ends > now.timestamp())
    }

    async fn delete(&self, useless: Vec<(Key, u64)>) -> Result<(), StoreError> {
        stream::iter(useless)
            .map(|(key, version)| async move {
                match self.store.delete(&key, version).await {
                    Err(StoreError::Conflict { .. }) => Ok(()), // another run is at it
                    deleted => deleted,
                }
            })
            .buffer_unordered(DELETES_AT_ONCE)
            .try_collect()
            .await
    }

    /// Writes down a bundle that the platform took, with the samples that it delivered. Says under which names.
    pub(crate) async fn record(
        &self,
        epoch: u64,
        objects: &[PushedObject],
        samples: &[SubmittedSample],
        now: DateTime<Utc>,
    ) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        let mut objects = objects.chunks(MOST_OBJECTS_A_DOCUMENT);
        let mut samples = samples.chunks(MOST_SAMPLES_A_DOCUMENT);
        for part in 0.. {
            let (objects, samples) = (objects.next(), samples.next());
            if objects.is_none() && samples.is_none() {
                break;
            }
            let key = self.key(format!(
                "{PREFIX}{:013}-{part:03}-{}",
                now.timestamp_millis(),
                uuid::Uuid::new_v4().simple()
            ));
            let push = StoredPush {
                scope: self.scope.clone(),
                epoch,
                imported: false,
                objects: ObjectList(objects.unwrap_or_default().to_vec()),
                samples: samples.unwrap_or_default().to_vec(),
            };
            let ttl = (now + self.lifetime).timestamp();
            self.store.put(&key, to_body(&key, &push)?, Some(ttl), Expected::New).await?;
            names.push(key.sk);
        }
        Ok(names)
    }

    /// Learns from the connector's works what became of pushes. When the platform misses an object that was left out on
    /// the strength of this memory, everything is forgotten, and the samples of that push are handed out.
    pub(crate) async fn settle(
        &self,
        imports: &mut Imports,
        works: &[ConnectorWork],
    ) -> Result<Vec<SubmittedSample>, StoreError> {
        let mut again = Vec::new();
        for Settled { bundles, refused, missing } in imports.settle(works) {
            let documents = self.documents(&bundles).await?;
            let pushed: HashSet<u64> = documents
                .iter()
                .flat_map(|(_, push)| push.objects.0.iter().map(|object| object.id))
                .collect();
            let is_lost = missing.iter().any(|id| !pushed.contains(id));
            for (document, mut push) in documents {
                if is_lost {
                    again.append(&mut push.samples);
                    continue;
                }
                push.imported = true;
                push.samples.clear();
                push.objects.0.retain(|object| !refused.contains(&object.id));
                let body = to_body(&document.key, &push)?;
                match self
                    .store
                    .put(&document.key, body, document.ttl, Expected::Version(document.version))
                    .await
                {
                    Ok(_) | Err(StoreError::Conflict { .. }) => {} // it has ended meanwhile
                    Err(error) => return Err(error),
                }
            }
        }
        if !again.is_empty() {
            warn!(
                samples = again.len(),
                "the platform misses what it was believed to have: it is sent everything again"
            );
            imports.forget();
        }
        Ok(again)
    }

    async fn documents(&self, bundles: &[PushedBundle]) -> Result<Vec<(Document, StoredPush)>, StoreError> {
        let names = bundles.iter().flat_map(|bundle| &bundle.documents);
        let keys: Vec<Key> = names.map(|name| self.key(name.clone())).collect();
        let documents = self.store.get_many(&keys).await?;
        Ok(documents
            .into_iter()
            .filter_map(|document| document.read().ok().map(|push| (document, push)))
            .collect())
    }

    fn key(&self, name: String) -> Key {
        Key::new(self.partition.clone(), name)
    }
}

/// When a document's push was, in epoch seconds.
fn pushed_at(key: &Key) -> Option<i64> {
    let (millis, _) = key.sk.strip_prefix(PREFIX)?.split_once('-')?;
    millis.parse::<i64>().ok().map(|millis| millis / 1_000)
}

#[cfg(test)]
mod tests;
