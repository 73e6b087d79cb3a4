//! The worker: takes a message, and sends what it is about to VMRay.
//!
//! For each URL: claim its ledger entry, POST, record. A claim is a conditional write, so that of many workers one sends;
//! it is longer than a POST can take, so that nobody takes over while one is under way. Whatever ends without a recorded
//! answer is looked for in VMRay before it is sent again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use mapping::SubmissionFacts;
use runtime::http::Deadline;
use runtime::telemetry::url_for_log;
use store::{Expected, StoreError};
use tokio::time::Instant;
use vmray::client::{Accepted, SubmitError, SubmitParameters, VmrayClient, VmrayError};

use crate::ledger::batch::{BatchState, Chunk, Fate, Header, Item};
use crate::ledger::entry::{Entry, FailureCode, State};
use crate::ledger::{Put, Versioned};
use crate::lookup::{self, known_sample, submission_of};
use crate::queue::{Delayed, Message};
use crate::service::{ServiceError, Submit};
use crate::view::{Perspective, Status};

/// What a claim lasts beyond the longest POST: the time in which the POST must begin.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);

/// What is kept of an invocation for the ledger and the queue.
const TIME_TO_RECORD: Duration = Duration::from_secs(4);

/// Failures in a row after which VMRay counts as down.
const DOWN_AFTER: u32 = 3;

/// The longest that a message is held back.
const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// A throttled URL waits here for no longer than this; with a longer `Retry-After` the message comes back.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Times that a lost race for an entry is run again.
const RACES: u32 = 10;

/// What a message led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// URLs that VMRay took.
    pub submitted: u64,
    /// URLs that VMRay answered from what it knew.
    pub known: u64,
    /// URLs that VMRay refused.
    pub failed: u64,
    /// URLs of which nobody knows whether VMRay has them.
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

/// What is left of a URL.
enum Left {
    /// Nothing that a worker could do.
    Nothing,
    /// Something, after this pause.
    After(Duration),
    /// Something, when VMRay can be used again.
    WhenVmrayIsBack,
}

/// One message about a chunk.
struct Pass<'a> {
    submit: &'a Submit,
    vmray: VmrayClient,
    batch: &'a str,
    header: &'a Header,
    /// When no POST may begin any more.
    last_start: Instant,
    shared: Mutex<Shared>,
}

/// What the URLs of a chunk have in common while they are worked on.
struct Shared {
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

impl Submit {
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
        let mut messages = Vec::new();
        for (number, chunk) in batch.chunks.iter().enumerate() {
            let entries = self.ledger.entries(distinct_keys(chunk), now).await?;
            let perspective = Perspective::of(&batch, self.rules(), now);
            let unsent = chunk.items.iter().any(|item| {
                let entry = item.key().and_then(|key| entries.get(key)).map(|entry| &entry.value);
                matches!(perspective.outcome(item, entry, None).status, Status::Pending | Status::Unconfirmed)
            });
            // A booking is left open where other batches have sent all URLs.
            if unsent || open.contains(&number) {
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
        self.drop_stale_connections();
        let timeout = self.times().submit_timeout;
        // What VMRay said must be written down, and the rest queued, whatever it takes until the end.
        let remaining = deadline.remaining();
        let budget = remaining.saturating_sub(TIME_TO_RECORD.min(remaining / 4));
        let deadline = Deadline::at(Instant::now() + budget);
        // A POST that has begun must be able to end. A shorter invocation than that can still try.
        let pass = Pass {
            submit: self,
            vmray: self.vmray(timeout, deadline).await?,
            batch,
            header: &header,
            last_start: Instant::now() + budget.saturating_sub(timeout.min(budget / 2)),
            shared: Mutex::new(Shared {
                state,
                failures: 0,
                retry_after: Duration::ZERO,
                work: Work::default(),
            }),
        };
        let left = pass.run(&chunk).await?;
        self.connections_used();
        let work = pass.end();
        if let Some(again) = follow_up(self.times().retry, left, attempt, work) {
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

/// The items of a chunk that have a ledger entry, each entry once.
pub(crate) fn distinct_items(chunk: &Chunk) -> Vec<&Item> {
    let mut seen = HashSet::new();
    chunk.items.iter().filter(|item| item.key().is_some_and(|key| seen.insert(key))).collect()
}

/// The ledger keys of a chunk, each once.
pub(crate) fn distinct_keys(chunk: &Chunk) -> Vec<&str> {
    let mut seen = HashSet::new();
    chunk.items.iter().filter_map(|item| item.key()).filter(|key| seen.insert(*key)).collect()
}

fn jobs(chunk: &Chunk) -> Vec<Job<'_>> {
    let mut seen = HashSet::new();
    let jobs = chunk.items.iter().filter_map(|item| match &item.fate {
        Fate::Send { url, key, .. } => Some(Job { key, url }),
        Fate::Refuse { .. } => None,
    });
    jobs.filter(|job| seen.insert(job.key)).collect()
}

impl Pass<'_> {
    async fn run(&self, chunk: &Chunk) -> Result<Vec<Left>, StoreError> {
        let jobs = jobs(chunk);
        let mut entries = self.submit.ledger.entries(jobs.iter().map(|job| job.key), Utc::now()).await?;
        let work: Vec<_> = jobs
            .iter()
            .map(|job| {
                let entry = entries.remove(job.key);
                self.drive(job, entry)
            })
            .collect();
        // Twice as many as are sent: some are being written down meanwhile.
        let ended: Vec<_> =
            stream::iter(work).buffer_unordered(self.submit.settings.concurrency * 2).collect().await;
        // A failure of one is told when the others have written down what VMRay said.
        ended.into_iter().collect()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
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

    /// Whether an entry that was to be sent still is: the quota may have ended meanwhile.
    fn is_to_be_sent(&self, entry: &Entry) -> bool {
        matches!(self.next_step(entry, Utc::now()), Step::Send(_))
    }

    fn failed(&self) {
        self.shared().failures += 1;
    }

    fn answers(&self) {
        self.shared().failures = 0;
    }

    fn stop_using_vmray(&self) {
        self.shared().failures = DOWN_AFTER;
    }

    /// Brings one URL as far as it can be brought now.
    async fn drive(&self, job: &Job<'_>, mut stored: Option<Versioned>) -> Result<Left, StoreError> {
        for _ in 0..RACES {
            let now = Utc::now();
            let entry =
                stored.as_ref().map_or_else(|| Entry::new(job.url.to_owned()), |stored| stored.value.clone());
            let expected = stored.as_ref().map_or(Expected::New, |stored| stored.expected);
            let step = self.next_step(&entry, now);
            if let Step::Leave(left) = step {
                return Ok(left);
            }
            if self.is_down() && !matches!(step, Step::GiveUp(_)) {
                return Ok(Left::WhenVmrayIsBack);
            }
            let taken = match step {
                Step::Send(run) => self.send(job, entry, run, expected).await?,
                Step::LookUp(run) => self.look_up(job, entry, run, expected).await?,
                Step::GiveUp(run) => self.give_up(job, entry, run, expected).await?,
                Step::Leave(left) => return Ok(left),
            };
            stored = match taken {
                Next::Look(stored) => stored,
                Next::Leave(left) => return Ok(left),
            };
        }
        // Somebody changes it all the time: they are at work on it.
        Ok(Left::After(CLAIM_MARGIN))
    }

    fn next_step(&self, entry: &Entry, now: DateTime<Utc>) -> Step {
        let shared = self.shared();
        let perspective = Perspective::new(self.batch, self.header, &shared.state, self.submit.rules(), now);
        let Some(place) = entry.followed(perspective.follower) else {
            return match perspective.status_of_unsent() {
                Status::QuotaExceeded => Step::GiveUp(None),
                status if status.has_ended() => Step::Leave(Left::Nothing),
                _ => Step::Send(None),
            };
        };
        let run = &entry.runs[place];
        let status = perspective.status_of_run(run);
        if status == Status::QuotaExceeded
            && matches!(run.state, State::Queued { .. })
            && run.batch == self.batch
        {
            return Step::GiveUp(Some(place));
        }
        if status.has_ended() || status == Status::Submitted {
            return Step::Leave(Left::Nothing);
        }
        match &run.state {
            State::Queued { .. } => Step::Send(Some(place)),
            State::Claimed { until } if *until > now => Step::Leave(Left::After(until_then(*until, now))),
            State::Claimed { .. } => Step::LookUp(place),
            State::Unconfirmed { sent_at, missing_at, .. } => {
                match missing_at.map(|missing_at| self.next_look(*sent_at, missing_at, run.lost)) {
                    Some(due) if due > now => Step::Leave(Left::After(until_then(due, now))),
                    _ => Step::LookUp(place),
                }
            }
            _ => Step::Leave(Left::Nothing),
        }
    }

    /// When a submission that was missing once is looked for again. Later each time that its URL had to be sent again:
    /// a server that stores and neither answers nor shows it must not be paid over and over.
    fn next_look(&self, sent_at: DateTime<Utc>, missing_at: DateTime<Utc>, lost: u32) -> DateTime<Utc> {
        let times = self.submit.times();
        let settle = times.lookup_settle;
        let settle = settle.saturating_mul(2_u32.saturating_pow(lost)).min(LONGEST_PAUSE.max(settle));
        (missing_at + delta(times.lookup_pause)).max(sent_at + delta(settle))
    }

    /// Ends what would only meet the same answer.
    fn warn_others(&self, result: &Result<Accepted, SubmitError>) {
        match result {
            Err(SubmitError::QuotaExceeded { message }) => {
                self.shared().state.stopped.get_or_insert_with(|| message.clone());
            }
            Err(SubmitError::Unauthorized { .. } | SubmitError::Keys(_)) => self.stop_using_vmray(),
            Err(SubmitError::NotSent { retry_after: Some(pause), .. }) if *pause > LONGEST_WAIT => {
                self.stop_using_vmray();
            }
            _ => {}
        }
    }

    /// Why nothing may be sent now.
    fn must_leave(&self) -> Option<Left> {
        if self.is_down() {
            Some(Left::WhenVmrayIsBack)
        } else if Instant::now() >= self.last_start {
            Some(Left::After(Duration::ZERO))
        } else {
            None
        }
    }

    /// Claims a URL, sends it, records what became of it.
    async fn send(
        &self,
        job: &Job<'_>,
        mut entry: Entry,
        run: Option<usize>,
        expected: Expected,
    ) -> Result<Next, StoreError> {
        // Both waited for before the claim, since a claim runs out.
        let sending = self.submit.sending.take(&self.header.caller).await;
        // The others may have met the end of VMRay or of the quota while this one waited, before and behind the gate.
        if let Some(left) = self.must_leave() {
            return Ok(Next::Leave(left));
        }
        if !self.is_to_be_sent(&entry) {
            return Ok(Next::Look(read(entry, expected)));
        }
        let Some(turn) = self.vmray.submit_turn().await else {
            return Ok(Next::Leave(Left::After(Duration::ZERO)));
        };
        if let Some(left) = self.must_leave() {
            return Ok(Next::Leave(left));
        }
        if !self.is_to_be_sent(&entry) {
            return Ok(Next::Look(read(entry, expected)));
        }
        let now = Utc::now();
        let begin_before = Instant::now() + CLAIM_MARGIN;
        let place = match run {
            Some(place) => place,
            None => self.begin(&mut entry, now),
        };
        entry.runs[place].state =
            State::Claimed { until: now + delta(self.submit.times().submit_timeout + CLAIM_MARGIN) };
        entry.runs[place].attempts += 1;
        let expected = match self.submit.ledger.put_entry(job.key, &entry, expected, now).await? {
            Put::Written(expected) => expected,
            Put::Taken(stored) => return Ok(Next::Look(stored)),
        };
        let metadata = lookup::metadata(&entry.runs[place].token);
        let options = self.header.options.form();
        let parameters = SubmitParameters { url: job.url, metadata: &metadata, options: &options };
        let result = turn.submit(parameters, begin_before).await;
        // The others must know what VMRay said, but need not wait until it is understood and written down; and a look at
        // what VMRay knows needs a place of its own.
        self.warn_others(&result);
        drop((turn, sending));
        let left = self.answered(job, &mut entry, place, result).await?;
        self.record(job, entry, place, expected, left).await
    }

    fn begin(&self, entry: &mut Entry, now: DateTime<Utc>) -> usize {
        let round = self.shared().state.retries;
        entry.begin(self.batch, round, uuid::Uuid::new_v4().simple().to_string(), now)
    }

    /// Writes down that a URL is not sent, so that no other worker sends it either and it does not count for the caller.
    async fn give_up(
        &self,
        job: &Job<'_>,
        mut entry: Entry,
        run: Option<usize>,
        expected: Expected,
    ) -> Result<Next, StoreError> {
        let at = Utc::now();
        let Some(detail) = self.shared().state.stopped.clone() else {
            return Ok(Next::Look(read(entry, expected)));
        };
        let place = run.unwrap_or_else(|| self.begin(&mut entry, at));
        entry.runs[place].state = State::QuotaExceeded { detail, at };
        Ok(match self.submit.ledger.put_entry(job.key, &entry, expected, at).await? {
            Put::Written(_) => Next::Leave(Left::Nothing),
            Put::Taken(stored) => Next::Look(stored),
        })
    }

    /// Gives back what this chunk has booked and not sent. Nothing of it is left to send.
    async fn settle(&self, chunk: &Chunk, number: usize) -> Result<(), StoreError> {
        let now = Utc::now();
        let ledger = &self.submit.ledger;
        let keys = distinct_keys(chunk);
        let entries = ledger.entries(keys.iter().copied(), now).await?;
        let state = self.shared().state.clone();
        let follower = Perspective::new(self.batch, self.header, &state, self.submit.rules(), now).follower;
        let used = |round| {
            let is_used =
                |key: &&&str| entries.get(**key).is_none_or(|entry| entry.value.is_used_by(follower, round));
            (round <= state.retries).then(|| keys.iter().filter(is_used).count() as u64)
        };
        let days = days(self.header, &state);
        ledger.settle(&self.header.caller, (self.batch, number), used, days, now).await
    }

    /// What the answer to a POST makes of a run.
    async fn answered(
        &self,
        job: &Job<'_>,
        entry: &mut Entry,
        place: usize,
        result: Result<Accepted, SubmitError>,
    ) -> Result<Option<Left>, StoreError> {
        let url = url_for_log(job.url);
        let run = &mut entry.runs[place];
        let at = Utc::now();
        if let Err(error) = &result {
            tracing::warn!(batch = self.batch, url, %error, "not submitted");
        }
        match result {
            Ok(accepted) => {
                self.answers();
                let facts = SubmissionFacts::from(&accepted.submission);
                run.known = accepted.submission.finished || accepted.submission.used_cache == Some(true);
                run.state = lookup::state_of(&accepted.submission, facts, at);
                self.count(|work| if run.known { work.known += 1 } else { work.submitted += 1 });
                tracing::debug!(batch = self.batch, url, submission = %accepted.submission.id, "submitted");
                Ok(Some(Left::Nothing))
            }
            Err(SubmitError::NoJobs { message }) => {
                self.answers();
                run.state = self.state_without_jobs(job.url, message, at).await;
                run.known = true;
                self.count(|work| work.known += 1);
                Ok(None)
            }
            Err(SubmitError::Refused { message }) => {
                self.answers();
                let code = FailureCode::Rejected;
                run.state = State::Failed { facts: None, code, detail: message, at };
                self.count(|work| work.failed += 1);
                Ok(Some(Left::Nothing))
            }
            Err(SubmitError::QuotaExceeded { message }) => {
                run.state = State::QuotaExceeded { detail: message.clone(), at };
                self.count(|work| work.quota_exceeded += 1);
                self.stop(&message).await?;
                Ok(Some(Left::Nothing))
            }
            Err(SubmitError::Unauthorized { .. } | SubmitError::Keys(_)) => {
                // The log names the secret; callers need not know it.
                let reason = "the deployment's API key for VMRay is refused or missing; its operator has to replace it";
                run.state = State::Queued { reason: Some(reason.to_owned()) };
                self.count(|work| work.unauthorized = true);
                self.stop_using_vmray();
                Ok(Some(Left::WhenVmrayIsBack))
            }
            Err(SubmitError::NotSent { reason, retry_after }) => {
                run.state = State::Queued { reason: Some(reason) };
                Ok(self.not_sent(retry_after))
            }
            Err(SubmitError::Ambiguous { reason }) => {
                self.failed();
                run.state = State::Unconfirmed { sent_at: at, missing_at: None, reason };
                self.count(|work| work.unconfirmed += 1);
                // Looked for at once: a 502 often comes from a gateway whose server has stored it.
                Ok(None)
            }
        }
    }

    /// `None`: try again here, in turn.
    fn not_sent(&self, retry_after: Option<Duration>) -> Option<Left> {
        match retry_after {
            Some(pause) if pause <= LONGEST_WAIT => None,
            Some(pause) => {
                self.stop_using_vmray();
                let mut shared = self.shared();
                shared.retry_after = shared.retry_after.max(pause);
                Some(Left::After(pause))
            }
            None => {
                self.failed();
                Some(Left::WhenVmrayIsBack)
            }
        }
    }

    /// VMRay knows the URL and made no jobs: its sample answers, if it can be found.
    async fn state_without_jobs(&self, url: &str, message: String, at: DateTime<Utc>) -> State {
        match known_sample(&self.vmray, url, at).await {
            Ok(Some(state)) => state,
            Ok(None) => State::Failed { facts: None, code: FailureCode::NoJobs, detail: message, at },
            // Not stored, so nothing is lost by asking again.
            Err(error) => {
                self.failed();
                State::Unconfirmed { sent_at: at, missing_at: None, reason: format!("{message}; {error}") }
            }
        }
    }

    /// The quota is used up: nothing more of this batch is sent.
    async fn stop(&self, message: &str) -> Result<(), StoreError> {
        let state = self.submit.ledger.stop(self.batch, message, Utc::now()).await?;
        self.shared().state = state;
        Ok(())
    }

    /// Writes what became of a run. `left`: what then remains to be done, `None`: see what comes next.
    async fn record(
        &self,
        job: &Job<'_>,
        entry: Entry,
        place: usize,
        expected: Expected,
        left: Option<Left>,
    ) -> Result<Next, StoreError> {
        let run = &entry.runs[place];
        let mut expected = expected;
        let mut entry = entry.clone();
        for _ in 0..RACES {
            match self.submit.ledger.put_entry(job.key, &entry, expected, Utc::now()).await? {
                Put::Written(expected) => {
                    return Ok(match left {
                        Some(left) => Next::Leave(left),
                        None => Next::Look(Some(Versioned { value: entry, expected })),
                    });
                }
                // Our claim ran out and somebody looked after the run, or began another one beside it.
                Put::Taken(Some(stored)) => {
                    let theirs = stored.value.runs.iter().position(|theirs| theirs.token == run.token);
                    // So many runs have begun since that this one is forgotten.
                    let Some(theirs) = theirs else { return Ok(Next::Leave(Left::Nothing)) };
                    // Only what VMRay has said counts for more than what they have found out or begun since: a claim of
                    // theirs is not to be written over.
                    if !run.was_answered() || stored.value.runs[theirs].facts().is_some() {
                        return Ok(Next::Look(Some(stored)));
                    }
                    (entry, expected) = (stored.value, stored.expected);
                    entry.runs[theirs] = run.clone();
                }
                Put::Taken(None) => return Ok(Next::Look(None)),
            }
        }
        Ok(Next::Leave(Left::After(CLAIM_MARGIN)))
    }

    /// Looks in VMRay for a submission of which nobody knows whether it was stored.
    async fn look_up(
        &self,
        job: &Job<'_>,
        mut entry: Entry,
        place: usize,
        expected: Expected,
    ) -> Result<Next, StoreError> {
        let now = Utc::now();
        let run = &mut entry.runs[place];
        let (sent_at, missing_at, reason) = match &run.state {
            State::Unconfirmed { sent_at, missing_at, reason } => (*sent_at, *missing_at, reason.clone()),
            State::Claimed { until } => {
                // Its POST may have lasted as long as the claim.
                (*until, None, "its worker ended before it could record the answer".to_owned())
            }
            _ => return Ok(Next::Leave(Left::Nothing)),
        };
        let found = match submission_of(&self.vmray, &run.token, job.url, sent_at).await {
            Ok(found) => found,
            Err(VmrayError::Unauthorized { .. } | VmrayError::Keys(_)) => {
                self.count(|work| work.unauthorized = true);
                self.stop_using_vmray();
                return Ok(Next::Leave(Left::WhenVmrayIsBack));
            }
            Err(error) => {
                tracing::warn!(batch = self.batch, url = url_for_log(job.url), %error, "could not be looked up");
                self.failed();
                return Ok(Next::Leave(Left::WhenVmrayIsBack));
            }
        };
        match found {
            Some(submission) => {
                let facts = SubmissionFacts::from(&submission);
                run.state = lookup::state_of(&submission, facts, Utc::now());
                self.answers();
                self.count(|work| work.submitted += 1);
            }
            None if missing_at.is_some_and(|first| self.next_look(sent_at, first, run.lost) <= now) => {
                tracing::info!(
                    batch = self.batch,
                    url = url_for_log(job.url),
                    "VMRay does not have it: sent again"
                );
                run.lost += 1;
                run.state = State::Queued { reason: Some(reason) };
            }
            None => {
                let missing_at = Some(missing_at.unwrap_or(now));
                run.state = State::Unconfirmed { sent_at, missing_at, reason };
            }
        }
        self.record(job, entry, place, expected, None).await
    }
}

/// What can be done for a URL.
enum Step {
    /// Write down that it is not sent: the quota is used up. In this run or in a new one.
    GiveUp(Option<usize>),
    /// Nothing, or not now.
    Leave(Left),
    /// Send it, in this run or in a new one.
    Send(Option<usize>),
    /// Look for it.
    LookUp(usize),
}

/// After a step.
enum Next {
    /// See what comes next, from this.
    Look(Option<Versioned>),
    /// Nothing comes next.
    Leave(Left),
}

/// When URLs of a batch were booked.
fn days(header: &Header, state: &BatchState) -> impl Iterator<Item = DateTime<Utc>> {
    [Some(header.created_at), state.retried_at].into_iter().flatten()
}

/// An entry as it was read.
fn read(value: Entry, expected: Expected) -> Option<Versioned> {
    Some(Versioned { value, expected })
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn until_then(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (then - now).to_std().unwrap_or_default()
}
