//! Trying again what has ended without a verdict.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use store::StoreError;

use super::{CallError, Caller, Calls};
use crate::ledger::batch::Fate;
use crate::ledger::day::{Booked, ByChunk};
use crate::ledger::entry::{Entry, Retried};
use crate::ledger::outcome::Perspective;
use crate::ledger::{Batch, Versioned};
use crate::queue::{Delayed, Message};

/// Entries changed at the same time.
const WRITES_AT_ONCE: usize = 8;

/// A URL that can be retried.
struct Retriable {
    key: String,
    stored: Versioned,
    /// Whether the retry will send it, as far as is known.
    is_sent_again: bool,
}

impl Calls {
    /// Queues what ended without a verdict again; `false`: there is nothing. It is booked before anything changes, and the
    /// batch's state, which says that the retry has begun, comes last: one that dies in between is simply made again.
    pub(crate) async fn retry(&self, caller: &Caller, batch: &mut Batch) -> Result<bool, CallError> {
        let now = Utc::now();
        let round = batch.state.retries + 1;
        let retriable = self.retriable(batch, round, now).await?;
        if retriable.is_empty() {
            return Ok(false);
        }
        let sent_again = |urls: &[Retriable]| urls.iter().filter(|url| url.is_sent_again).count() as u64;
        let urls: ByChunk = retriable.iter().map(|(chunk, urls)| (*chunk, sent_again(urls))).collect();
        if self.book(caller, (&batch.id, round), &urls, now).await? == Booked::Now {
            // The worker looks after it if this ends before the messages are sent.
            self.send_guard(&batch.id, &caller.name).await?;
            for urls in retriable.values() {
                self.retry_chunk(batch, urls, round, now).await?;
            }
            self.ledger.begin_retry(&batch.id, round, now).await?;
            tracing::info!(batch = batch.id, urls = urls.values().sum::<u64>(), "retried");
            let message = |chunk: &usize| {
                let message = Message::Chunk { batch: batch.id.clone(), chunk: *chunk, attempt: 0 };
                Delayed::now(message, &caller.name)
            };
            self.queue.send(retriable.keys().map(message).collect()).await?;
        }
        batch.state = self.ledger.state(&batch.id, now).await?;
        Ok(true)
    }

    /// The URLs that can be retried, by chunk.
    async fn retriable(
        &self,
        batch: &Batch,
        round: u32,
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<usize, Vec<Retriable>>, StoreError> {
        let mut retriable = BTreeMap::new();
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let perspective = Perspective::of(batch, self.rules, now);
            let refresh = batch.refreshes.get(&number).copied();
            let judged = self.ledger.judged(&chunk.items, perspective, refresh).await?;
            let mut seen = HashSet::new();
            let mut urls = Vec::new();
            for (item, outcome) in judged.outcomes() {
                let Fate::Send { url, key, .. } = &item.fate else { continue };
                if !outcome.status.can_be_retried() || !seen.insert(key) {
                    continue;
                }
                let stored = judged.entries.get(key).cloned().unwrap_or_else(|| Versioned::absent(url));
                let retried = stored.value.clone().retry(perspective.follower, round, String::new(), now);
                let is_sent_again = retried == Retried::Again;
                urls.push(Retriable { key: key.clone(), stored, is_sent_again });
            }
            if !urls.is_empty() {
                retriable.insert(number, urls);
            }
        }
        Ok(retriable)
    }

    async fn retry_chunk(
        &self,
        batch: &Batch,
        urls: &[Retriable],
        round: u32,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let follower = Perspective::of(batch, self.rules, now).follower;
        let retried: Vec<_> = urls
            .iter()
            .map(|url| {
                // The earlier submission must not be taken for the next one.
                let token = uuid::Uuid::new_v4().simple().to_string();
                let retry =
                    move |entry: &mut Entry| entry.retry(follower, round, token.clone(), now) != Retried::No;
                self.ledger.change_entry(&url.key, url.stored.clone(), now, retry)
            })
            .collect();
        stream::iter(retried).buffer_unordered(WRITES_AT_ONCE).try_collect::<Vec<_>>().await?;
        Ok(())
    }
}
