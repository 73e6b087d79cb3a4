//! Claims a URL, sends it, and records what became of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::telemetry::url_for_log;
use store::StoreError;
use tokio::time::Instant;
use vmray::client::{Accepted, SubmitError, SubmitParameters};

use super::decide::{LONGEST_WAIT, Left, Next, Sign, Step, answered, delta, record};
use super::find::{known_sample, metadata};
use super::{CLAIM_MARGIN, Job, Pass, Stepped};
use crate::ledger::entry::{Entry, FailureCode, Run, State};
use crate::ledger::{Put, Versioned};

impl Pass<'_> {
    pub(super) async fn send(
        &self,
        job: &Job<'_>,
        mut stored: Versioned,
        run: Option<usize>,
    ) -> Result<Stepped, StoreError> {
        // Both waited for before the claim, since a claim runs out.
        let place = self.worker.places.take(&self.header.caller).await;
        if self.is_to_be_left(&stored) {
            return Ok((stored, self.left()));
        }
        let Some(turn) = self.vmray.submit_turn().await else {
            return Ok((stored, Some(Left::After(Duration::ZERO))));
        };
        if self.is_to_be_left(&stored) {
            return Ok((stored, self.left()));
        }
        let now = Utc::now();
        let begin_before = Instant::now() + CLAIM_MARGIN;
        let run = self.claim(&mut stored.value, run, now);
        let stored = match self.worker.ledger.put_entry(job.key, stored, now).await? {
            Put::Written(stored) => stored,
            Put::Taken(stored) => return Ok((stored, None)),
        };
        let claimed = &stored.value.runs[run];
        let (metadata, options) = (metadata(&claimed.token), self.header.options.form());
        let parameters = SubmitParameters { url: job.url, metadata: &metadata, options: &options };
        let answer = turn.submit(parameters, begin_before).await;
        // The others must know what VMRay said, but need not wait until it is understood and written down; and a look at
        // what VMRay knows needs a place of its own.
        self.warn_others(&answer);
        drop((turn, place));
        self.answered(job, stored, run, answer).await
    }

    /// Whether VMRay, the quota or the time has ended while a URL waited.
    fn is_to_be_left(&self, stored: &Versioned) -> bool {
        self.left().is_some() || !matches!(self.decide(&stored.value), Step::Send(_))
    }

    /// What is left of a URL that may not be sent in this pass any more; `None`: see what comes next.
    fn left(&self) -> Option<Left> {
        if self.is_down() {
            Some(Left::WhenVmrayIsBack)
        } else {
            (Instant::now() >= self.last_start).then_some(Left::After(Duration::ZERO))
        }
    }

    fn claim(&self, entry: &mut Entry, run: Option<usize>, now: DateTime<Utc>) -> usize {
        let place = run.unwrap_or_else(|| self.begin(entry, now));
        let run = &mut entry.runs[place];
        let until = now + delta(self.worker.times.submit_timeout + CLAIM_MARGIN);
        run.state = State::Claimed { until };
        run.attempts += 1;
        place
    }

    fn begin(&self, entry: &mut Entry, now: DateTime<Utc>) -> usize {
        let round = self.shared().state.retries;
        entry.begin(self.batch, round, uuid::Uuid::new_v4().simple().to_string(), now)
    }

    /// Ends what would only meet the same answer.
    fn warn_others(&self, answer: &Result<Accepted, SubmitError>) {
        match answer {
            Err(SubmitError::QuotaExceeded { message }) => {
                self.shared().state.stopped.get_or_insert_with(|| message.clone());
            }
            Err(SubmitError::Unauthorized { .. } | SubmitError::Keys(_)) => self.note(Sign::Refuses),
            Err(SubmitError::NotSent { retry_after: Some(pause), .. }) if *pause > LONGEST_WAIT => {
                self.note(Sign::Refuses);
            }
            _ => {}
        }
    }

    /// Writes down what VMRay has answered.
    async fn answered(
        &self,
        job: &Job<'_>,
        stored: Versioned,
        place: usize,
        answer: Result<Accepted, SubmitError>,
    ) -> Result<Stepped, StoreError> {
        let url = url_for_log(job.url);
        let at = Utc::now();
        let before = stored.value.runs[place].clone();
        let mut run = before.clone();
        let (mut next, sign) = answered(&mut run, &answer, at);
        self.note(sign);
        match &answer {
            Ok(accepted) => {
                self.count(|work| if run.known { work.known += 1 } else { work.submitted += 1 });
                tracing::debug!(batch = self.batch, url, submission = %accepted.submission.id, "submitted");
            }
            Err(error) => {
                tracing::warn!(batch = self.batch, url, %error, "not submitted");
                self.count(|work| match error {
                    SubmitError::NoJobs { .. } => work.known += 1,
                    SubmitError::Refused { .. } => work.failed += 1,
                    SubmitError::QuotaExceeded { .. } => work.quota_exceeded += 1,
                    SubmitError::Unauthorized { .. } | SubmitError::Keys(_) => work.unauthorized = true,
                    SubmitError::Ambiguous { .. } => work.unconfirmed += 1,
                    SubmitError::NotSent { .. } => {}
                });
            }
        }
        match answer {
            Err(SubmitError::QuotaExceeded { message }) => self.stop(&message).await?,
            Err(SubmitError::NoJobs { message }) => {
                run.state = self.state_without_jobs(job.url, message, at).await;
                run.known = true;
                next = Next::Decide;
            }
            Err(SubmitError::NotSent { retry_after: Some(pause), .. }) if pause > LONGEST_WAIT => {
                let mut shared = self.shared();
                shared.retry_after = shared.retry_after.max(pause);
            }
            _ => {}
        }
        let left = match next {
            Next::Leave(left) => Some(left),
            Next::Decide | Next::KnownSample => None,
        };
        self.record(job, stored, &before, &run, left).await
    }

    /// VMRay knows the URL and made no jobs: its sample answers, if it can be found.
    async fn state_without_jobs(&self, url: &str, message: String, at: DateTime<Utc>) -> State {
        match known_sample(&self.vmray, url, at).await {
            Ok(Some(state)) => state,
            Ok(None) => State::Failed { facts: None, code: FailureCode::NoJobs, detail: message, at },
            // Not stored, so nothing is lost by asking again.
            Err(error) => {
                self.note(Sign::Fails);
                State::Unconfirmed { sent_at: at, missing_at: None, reason: format!("{message}; {error}") }
            }
        }
    }

    /// The quota is used up: nothing more of this batch is sent.
    async fn stop(&self, message: &str) -> Result<(), StoreError> {
        let state = self.worker.ledger.stop(self.batch, message, Utc::now()).await?;
        self.shared().state = state;
        Ok(())
    }

    /// Writes what became of a run. `left` is what then remains to be done, unless another worker was faster.
    pub(super) async fn record(
        &self,
        job: &Job<'_>,
        stored: Versioned,
        before: &Run,
        run: &Run,
        left: Option<Left>,
    ) -> Result<Stepped, StoreError> {
        let write = |entry: &mut Entry| record(entry, before, run);
        let now = self.worker.ledger.change_entry(job.key, stored, Utc::now(), write).await?;
        let left = match now.value.runs.iter().find(|stored| stored.token == run.token) {
            Some(stored) if stored == run => left,
            Some(_) => None,
            // So many runs have begun since that this one is forgotten.
            None => Some(Left::Nothing),
        };
        Ok((now, left))
    }

    /// Writes down that a URL is not sent, so that no other worker sends it either and it does not count for the caller.
    pub(super) async fn give_up(
        &self,
        job: &Job<'_>,
        mut stored: Versioned,
        run: Option<usize>,
    ) -> Result<Stepped, StoreError> {
        let at = Utc::now();
        let Some(detail) = self.shared().state.stopped.clone() else { return Ok((stored, None)) };
        let place = run.unwrap_or_else(|| self.begin(&mut stored.value, at));
        stored.value.runs[place].state = State::QuotaExceeded { detail, at };
        Ok(match self.worker.ledger.put_entry(job.key, stored, at).await? {
            Put::Written(stored) => (stored, Some(Left::Nothing)),
            Put::Taken(stored) => (stored, None),
        })
    }
}
