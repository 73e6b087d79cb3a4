//! The worker: takes a message, and sends what it is about to VMRay.
//!
//! For each URL of a chunk: see what comes next (`decide`), do it, write down what came of it. A claim is a conditional write, so
//! that of many workers one sends; it is longer than a POST can take, so that no other worker takes over while one is under
//! way. Whatever ends without a recorded answer is looked for in VMRay before it is sent again.

mod decide;
mod find;
mod send;
pub(crate) mod verdicts;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};
use runtime::http::Deadline;
use store::StoreError;
use tokio::time::Instant;
use vmray::client::VmrayClient;

use crate::access::VmrayAccess;
use crate::error::ServiceError;
use crate::ledger::batch::{BatchState, Chunk, Header};
use crate::ledger::entry::Entry;
use crate::ledger::outcome::{Perspective, Rules};
use crate::ledger::{Ledger, Versioned};
use crate::queue::{Delayed, Message, Queue};
use crate::settings::{SubmitSettings, SubmitTimes};
use crate::turns::Places;
use decide::{LONGEST_PAUSE, Left, Patience, Sign, Step, decide};

/// What a claim lasts beyond the longest POST: the time in which the POST must begin.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

/// What is kept of an invocation for the ledger and the queue.
const TIME_TO_RECORD: Duration = Duration::from_secs(4);

/// Failures in a row after which VMRay counts as down.
const DOWN_AFTER: u32 = 3;

/// Steps of one URL in one pass. More are only needed in a race with other workers, which are then sending it.
const MOST_STEPS: u32 = 10;

/// What a message led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// URLs that VMRay took.
    pub submitted: u64,
    /// URLs that VMRay answered from what it knew.
    pub known: u64,
    /// URLs that VMRay refused.
    pub failed: u64,
    /// URLs of which it is not known whether VMRay has them.
    pub unconfirmed: u64,
    /// URLs that would exceed the quota.
    pub quota_exceeded: u64,
    /// Whether VMRay refused the key.
    pub unauthorized: bool,
    /// Whether VMRay could not be used.
    pub vmray_down: bool,
    /// Requests to VMRay.
    pub vmray_calls: u64,
}

pub struct Worker {
    ledger: Ledger,
    queue: Arc<dyn Queue>,
    vmray: Arc<VmrayAccess>,
    /// URLs that are being sent, of all messages that are worked on.
    places: Arc<Places>,
    times: SubmitTimes,
    concurrency: usize,
}

/// One message about a chunk.
struct Pass<'a> {
    worker: &'a Worker,
    vmray: VmrayClient,
    batch: &'a str,
    header: &'a Header,
    /// When no POST may begin any more.
    last_start: Instant,
    shared: Mutex<PassState>,
}

/// What the URLs of a chunk have in common while they are worked on.
struct PassState {
    state: BatchState,
    /// Failures of VMRay in a row.
    failures: u32,
    /// How long VMRay wants to be left alone.
    retry_after: Duration,
    work: Work,
}

/// A URL of a chunk.
struct Job<'a> {
    key: &'a str,
    url: &'a str,
}

/// What a step has come to: the entry as it then is, and what is left if the pass ends for this URL.
type Stepped = (Versioned, Option<Left>);

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Worker {
    #[must_use]
    pub fn new(
        settings: &SubmitSettings,
        ledger: Ledger,
        queue: Arc<dyn Queue>,
        vmray: Arc<VmrayAccess>,
    ) -> Self {
        Self {
            ledger,
            queue,
            vmray,
            places: Places::new(settings.concurrency),
            times: settings.times,
            concurrency: settings.concurrency,
        }
    }

    fn rules(&self) -> Rules {
        Rules::of(&self.times)
    }

    /// Does what a message asks for. After an error it may simply be done again.
    pub async fn work(&self, message: &Message, deadline: Deadline) -> Result<Work, ServiceError> {
        match message {
            Message::Chunk { batch, chunk, attempt } => {
                // On the heap: large, and nested deeper than the compiler likes.
                Box::pin(self.work_on_chunk(batch, *chunk, *attempt, deadline)).await
            }
            Message::Guard { batch } => self.guard(batch).await.map(|()| Work::default()),
        }
    }

    /// Sends the messages of a call that died before it could. Without a header nothing was accepted.
    async fn guard(&self, batch: &str) -> Result<(), ServiceError> {
        let now = Utc::now();
        let Some(batch) = self.ledger.batch(batch, now).await? else { return Ok(()) };
        let days = days(&batch.header, &batch.state);
        let open = self.ledger.open_bookings(&batch.header.caller, &batch.id, days).await?;
        let perspective = Perspective::of(&batch, self.rules(), now);
        let mut messages = Vec::new();
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let judged = self.ledger.judged(&chunk.items, perspective, None).await?;
            // A booking is left open where other batches have sent all URLs.
            if judged.has_unsent() || open.contains(&number) {
                let message = Message::Chunk { batch: batch.id.clone(), chunk: number, attempt: 0 };
                messages.push(Delayed::now(message, &batch.header.caller));
            }
        }
        if !messages.is_empty() {
            tracing::info!(batch = batch.id, messages = messages.len(), "chunks are not sent yet");
            self.queue.send(messages).await?;
        }
        Ok(())
    }

    async fn work_on_chunk(
        &self,
        batch: &str,
        chunk_number: usize,
        attempt: u32,
        deadline: Deadline,
    ) -> Result<Work, ServiceError> {
        let found = self.ledger.header_and_chunk(batch, chunk_number, Utc::now()).await?;
        let Some((header, chunk, state)) = found else {
            tracing::warn!(batch, chunk = chunk_number, "no such batch, or not any more: nothing is sent");
            return Ok(Work::default());
        };
        self.vmray.drop_stale_connections();
        let timeout = self.times.submit_timeout;
        // What VMRay said must be written down, and the rest queued, whatever it takes until the end.
        let remaining = deadline.remaining();
        let budget = remaining.saturating_sub(TIME_TO_RECORD.min(remaining / 4));
        let deadline = Deadline::at(Instant::now() + budget);
        // A POST that has begun must be able to end. A shorter invocation than that can still try.
        let pass = Pass {
            worker: self,
            vmray: self.vmray.client(timeout, deadline).await?,
            batch,
            header: &header,
            last_start: Instant::now() + budget.saturating_sub(timeout.min(budget / 2)),
            shared: Mutex::new(PassState {
                state,
                failures: 0,
                retry_after: Duration::ZERO,
                work: Work::default(),
            }),
        };
        let left = pass.run(&chunk).await?;
        self.vmray.connections_used();
        let work = pass.end();
        if let Some(again) = follow_up(self.times.retry, left, attempt, work) {
            let message = Message::Chunk { batch: batch.to_owned(), chunk: chunk_number, attempt: again.0 };
            let delay = again.1.max(pass.shared().retry_after).min(LONGEST_PAUSE);
            self.queue.send(vec![Delayed { message, caller: header.caller.clone(), delay }]).await?;
        } else {
            pass.settle(&chunk, chunk_number).await?;
        }
        tracing::info!(
            batch,
            chunk = chunk_number,
            caller = header.caller,
            submitted = work.submitted,
            known = work.known,
            failed = work.failed,
            unconfirmed = work.unconfirmed,
            quota_exceeded = work.quota_exceeded,
            vmray_calls = work.vmray_calls,
            "chunk worked on"
        );
        Ok(work)
    }
}

/// Whether and when the chunk has to come again: the attempt's number and the pause.
fn follow_up(base: Duration, left: Vec<Left>, attempt: u32, work: Work) -> Option<(u32, Duration)> {
    let mut soonest: Option<Duration> = None;
    let mut waits_for_vmray = false;
    for left in left {
        match left {
            Left::Nothing => {}
            Left::After(pause) => soonest = Some(soonest.map_or(pause, |soonest| soonest.min(pause))),
            Left::WhenVmrayIsBack => waits_for_vmray = true,
        }
    }
    if waits_for_vmray {
        // What was taken shows that it was a short failure.
        let attempt = if work.submitted > 0 { 0 } else { attempt };
        let pause = base.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST_PAUSE);
        return Some((attempt.saturating_add(1), pause));
    }
    soonest.map(|pause| (attempt, pause.min(LONGEST_PAUSE)))
}

impl Pass<'_> {
    async fn run(&self, chunk: &Chunk) -> Result<Vec<Left>, StoreError> {
        let jobs: Vec<_> = chunk.urls().map(|(key, url)| Job { key, url }).collect();
        let mut entries = self.worker.ledger.entries(jobs.iter().map(|job| job.key), Utc::now()).await?;
        let work: Vec<_> = jobs
            .iter()
            .map(|job| {
                let stored = entries.remove(job.key).unwrap_or_else(|| Versioned::absent(job.url));
                self.drive(job, stored)
            })
            .collect();
        // Twice as many as are sent: some are being written down meanwhile.
        let ended: Vec<_> = stream::iter(work).buffer_unordered(self.worker.concurrency * 2).collect().await;
        // A failure of one is told when the others have written down what VMRay said.
        ended.into_iter().collect()
    }

    /// Brings one URL as far as it can be brought now.
    async fn drive(&self, job: &Job<'_>, mut stored: Versioned) -> Result<Left, StoreError> {
        for _ in 0..MOST_STEPS {
            let (now, left) = match self.decide(&stored.value) {
                Step::Leave(left) => return Ok(left),
                Step::GiveUp(run) => self.give_up(job, stored, run).await?,
                _ if self.is_down() => return Ok(Left::WhenVmrayIsBack),
                Step::Send(run) => self.send(job, stored, run).await?,
                Step::Find(run) => self.find(job, stored, run).await?,
            };
            if let Some(left) = left {
                return Ok(left);
            }
            stored = now;
        }
        Ok(Left::After(CLAIM_MARGIN))
    }

    fn decide(&self, entry: &Entry) -> Step {
        let shared = self.shared();
        let rules = self.worker.rules();
        let perspective = Perspective::new(self.batch, self.header, &shared.state, rules, Utc::now());
        decide(entry, &perspective, self.patience())
    }

    fn patience(&self) -> Patience {
        Patience { pause: self.worker.times.lookup_pause, settle: self.worker.times.lookup_settle }
    }

    fn shared(&self) -> MutexGuard<'_, PassState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> Work {
        let work = self.shared().work;
        Work { vmray_calls: self.vmray.calls(), vmray_down: self.is_down() && !work.unauthorized, ..work }
    }

    fn count(&self, change: impl FnOnce(&mut Work)) {
        change(&mut self.shared().work);
    }

    fn is_down(&self) -> bool {
        self.shared().failures >= DOWN_AFTER
    }

    /// What an answer says to all URLs of the chunk.
    fn note(&self, sign: Sign) {
        let mut shared = self.shared();
        match sign {
            Sign::Works => shared.failures = 0,
            Sign::Fails => shared.failures += 1,
            Sign::Refuses => shared.failures = DOWN_AFTER,
            Sign::Unknown => {}
        }
    }

    /// Gives back what this chunk has booked and not sent. Nothing of it is left to send.
    async fn settle(&self, chunk: &Chunk, number: usize) -> Result<(), StoreError> {
        let now = Utc::now();
        let ledger = &self.worker.ledger;
        let state = self.shared().state.clone();
        let follower = Perspective::new(self.batch, self.header, &state, self.worker.rules(), now).follower;
        let entries = ledger.entries(chunk.urls().map(|(key, _)| key), now).await?;
        let used = |round| {
            let is_used = |(key, _): &(&str, &str)| {
                entries.get(*key).is_none_or(|entry| entry.value.is_used_by(follower, round))
            };
            (round <= state.retries).then(|| chunk.urls().filter(is_used).count() as u64)
        };
        let days = days(self.header, &state);
        ledger.settle(&self.header.caller, (self.batch, number), used, days, now).await
    }
}

/// When URLs of a batch were booked.
fn days(header: &Header, state: &BatchState) -> impl Iterator<Item = DateTime<Utc>> {
    [Some(header.created_at), state.retried_at].into_iter().flatten()
}
