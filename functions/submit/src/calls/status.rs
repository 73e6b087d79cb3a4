//! A batch as it stands, and the wait until nothing of it is left to send.

use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::http::Deadline;
use store::StoreError;
use tokio::time::{Instant, sleep};

use super::{Caller, Calls};
use crate::error::ServiceError;
use crate::ledger::batch::{BatchState, Chunk, Header};
use crate::ledger::judged::Judged;
use crate::ledger::outcome::Perspective;
use crate::ledger::{Batch, Refresh};

/// Between two looks at the ledger while an answer waits: short at first, since a few URLs are sent in no time.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(120);

/// Who is asked for verdicts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// VMRay, until then.
    VmrayUntil(Deadline),
    NoOne,
}

/// What a wait has come to.
pub(crate) struct Waited {
    /// The batch's state as it is then.
    pub(crate) state: BatchState,
    pub(crate) something_was_unsent: bool,
}

impl Calls {
    /// The batch, if it is this caller's.
    pub(crate) async fn batch_of(&self, caller: &Caller, id: &str) -> Result<Option<Batch>, StoreError> {
        let batch = self.ledger.batch(id, Utc::now()).await?;
        Ok(batch.filter(|batch| batch.header.caller == caller.name))
    }

    /// What a caller may send on a day, and has sent today.
    pub(crate) async fn today(&self, caller: &Caller, now: DateTime<Utc>) -> Result<(u64, u64), StoreError> {
        Ok((self.daily_limit(caller), self.ledger.used_today(&caller.name, now).await?))
    }

    pub(super) fn daily_limit(&self, caller: &Caller) -> u64 {
        caller.urls_per_day(&self.limits)
    }

    /// Whether every input of a batch has ended.
    pub(super) async fn is_done(&self, batch: &Batch) -> Result<bool, StoreError> {
        let perspective = Perspective::of(batch, self.rules, Utc::now());
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let refresh = batch.refreshes.get(&number).copied();
            if !self.ledger.judged(&chunk.items, perspective, refresh).await?.counts().done() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Inputs of a call that is not made.
    pub(crate) async fn foresee<'a>(
        &self,
        header: &Header,
        state: &'a BatchState,
        chunk: &'a Chunk,
    ) -> Result<Judged<'a, 'a>, StoreError> {
        let perspective = Perspective::new("", header, state, self.rules, header.created_at);
        self.ledger.judged(&chunk.items, perspective, None).await
    }

    /// A chunk of a batch as it stands.
    pub(crate) async fn chunk<'a>(
        &self,
        batch: &'a Batch,
        number: usize,
        ask: Ask,
    ) -> Result<Judged<'a, 'a>, ServiceError> {
        let perspective = Perspective::of(batch, self.rules, Utc::now());
        let refresh = batch.refreshes.get(&number).copied();
        let mut judged = self.ledger.judged(&batch.chunks[number].items, perspective, refresh).await?;
        if let Ask::VmrayUntil(deadline) = ask
            && !deadline.remaining().is_zero()
        {
            let follower = perspective.follower;
            let was_answered = self.verdicts.refresh(follower, number, &mut judged.entries, deadline).await?;
            judged.perspective.now = Utc::now();
            if was_answered {
                let now = judged.perspective.now;
                judged.refresh = Some(Refresh { asked_at: now, answered_at: Some(now) });
            }
        }
        Ok(judged)
    }

    /// Waits until nothing of a batch is left to send, or until `until`.
    pub(crate) async fn wait_until_sent(&self, batch: &Batch, until: Instant) -> Result<Waited, StoreError> {
        let mut waited = Waited { state: batch.state.clone(), something_was_unsent: false };
        let mut pause = FIRST_LOOK;
        for chunk in &batch.chunks {
            let mut unsent: Vec<_> = chunk.items.iter().collect();
            loop {
                let started = Instant::now();
                // What is sent need not be looked at again.
                unsent = {
                    let now = Utc::now();
                    let (id, header) = (&batch.id, &batch.header);
                    let perspective = Perspective::new(id, header, &waited.state, self.rules, now);
                    self.ledger.judged(unsent, perspective, None).await?.unsent()
                };
                if unsent.is_empty() {
                    break;
                }
                waited.something_was_unsent = true;
                if Instant::now() + pause > until {
                    waited.state = self.ledger.state(&batch.id, Utc::now()).await?;
                    return Ok(waited);
                }
                // A slow store is not to be asked all the time.
                sleep(pause.max(started.elapsed())).await;
                pause = (pause * 2).min(LONGEST_LOOK);
                waited.state = self.ledger.state(&batch.id, Utc::now()).await?;
            }
        }
        Ok(waited)
    }
}
