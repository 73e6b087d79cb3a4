//! What a caller is told of each input: from what was asked for and what the ledger knows. Pure: the time comes in.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mapping::SubmissionFacts;
use serde::Serialize;

use super::batch::{BatchState, Fate, Header, Item};
use super::entry::{Entry, FailureCode, Follower, Run, State, is_overdue};
use super::{Batch, Refresh};
use crate::settings::SubmitTimes;
use crate::url::Refusal;

/// Where an input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not sent yet.
    Pending,
    /// VMRay is analysing it.
    Submitted,
    /// Sent, and not known whether VMRay has it.
    Unconfirmed,
    /// Has a verdict.
    Finished,
    /// May not be sent.
    Refused,
    /// VMRay gives no verdict.
    Failed,
    /// VMRay takes no more in this period.
    QuotaExceeded,
    /// No verdict in time.
    TimedOut,
}

impl Status {
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Submitted,
        Self::Unconfirmed,
        Self::Finished,
        Self::Refused,
        Self::Failed,
        Self::QuotaExceeded,
        Self::TimedOut,
    ];

    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Submitted => "submitted",
            Self::Unconfirmed => "unconfirmed",
            Self::Finished => "finished",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::QuotaExceeded => "quota_exceeded",
            Self::TimedOut => "timed_out",
        }
    }

    /// Whether nothing more happens unless a caller retries it.
    #[must_use]
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Submitted | Self::Unconfirmed)
    }

    /// Whether something is left to send, or to be looked for before it is sent again.
    #[must_use]
    pub fn is_unsent(self) -> bool {
        matches!(self, Self::Pending | Self::Unconfirmed)
    }

    /// Whether it ended without a verdict.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.has_ended() && self != Self::Finished
    }

    /// Whether a retry sends it again.
    #[must_use]
    pub fn can_be_retried(self) -> bool {
        matches!(self, Self::Failed | Self::QuotaExceeded | Self::TimedOut)
    }
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// This batch has sent it, or will.
    New,
    /// The ledger or VMRay knew it.
    Reused,
    /// An earlier input of the batch is the same.
    Duplicate,
}

impl Source {
    pub const ALL: [Self; 3] = [Self::New, Self::Reused, Self::Duplicate];
}

/// The words for what went wrong that are neither a refusal of the gate nor a failure of VMRay's.
const QUOTA_EXCEEDED: &str = "quota_exceeded";
const TIMED_OUT: &str = "timed_out";
const UNCONFIRMED: &str = "unconfirmed";
const NOT_SENT: &str = "not_sent";

/// Every word that `error_code` may have.
pub fn error_codes() -> impl Iterator<Item = &'static str> {
    let refusals = Refusal::ALL.into_iter().map(Refusal::code);
    let failures = FailureCode::ALL.into_iter().map(FailureCode::as_str);
    refusals.chain(failures).chain([QUOTA_EXCEEDED, TIMED_OUT, UNCONFIRMED, NOT_SENT])
}

/// What is told of one input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome<'a> {
    /// Where it stands.
    pub status: Status,
    /// Where the answer comes from; `None` for what was refused.
    pub source: Option<Source>,
    /// What VMRay says of it.
    pub facts: Option<&'a SubmissionFacts>,
    /// A stable word for what went wrong.
    pub error_code: Option<&'a str>,
    /// A sentence about it.
    pub error_detail: Option<&'a str>,
}

impl Outcome<'_> {
    /// Whether it is still to be sent, and will cost quota.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.status == Status::Pending && self.source == Some(Source::New)
    }
}

/// How many inputs stand where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// All inputs.
    pub total: usize,
    /// Not sent yet.
    pub pending: usize,
    /// VMRay is analysing them.
    pub submitted: usize,
    /// Sent, and not known whether VMRay has them.
    pub unconfirmed: usize,
    /// Have a verdict.
    pub finished: usize,
    /// May not be sent.
    pub refused: usize,
    /// VMRay gives no verdict.
    pub failed: usize,
    /// VMRay takes no more in this period.
    pub quota_exceeded: usize,
    /// No verdict in time.
    pub timed_out: usize,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, status: Status) {
        self.total += 1;
        *match status {
            Status::Pending => &mut self.pending,
            Status::Submitted => &mut self.submitted,
            Status::Unconfirmed => &mut self.unconfirmed,
            Status::Finished => &mut self.finished,
            Status::Refused => &mut self.refused,
            Status::Failed => &mut self.failed,
            Status::QuotaExceeded => &mut self.quota_exceeded,
            Status::TimedOut => &mut self.timed_out,
        } += 1;
    }

    /// Counts those of another part, too.
    pub fn merge(&mut self, other: Self) {
        self.total += other.total;
        self.pending += other.pending;
        self.submitted += other.submitted;
        self.unconfirmed += other.unconfirmed;
        self.finished += other.finished;
        self.refused += other.refused;
        self.failed += other.failed;
        self.quota_exceeded += other.quota_exceeded;
        self.timed_out += other.timed_out;
    }

    /// Whether every input has ended.
    #[must_use]
    pub fn done(&self) -> bool {
        self.pending + self.submitted + self.unconfirmed == 0
    }

    /// Whether some input ended without a verdict.
    #[must_use]
    pub fn errors(&self) -> bool {
        self.refused + self.failed + self.quota_exceeded + self.timed_out > 0
    }
}

/// The batch, as far as it decides about its inputs.
#[derive(Debug, Clone, Copy)]
pub struct Perspective<'a> {
    /// Which runs it follows.
    pub follower: Follower<'a>,
    /// What has happened to it.
    pub state: &'a BatchState,
    /// The time.
    pub now: DateTime<Utc>,
}

/// The times that decide, from the settings.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How old a run may be that a new batch is content with.
    pub reuse_window: Duration,
    /// How long a verdict may take.
    pub verdict_timeout: Duration,
}

impl Rules {
    /// The rules of the settings.
    #[must_use]
    pub fn of(times: &SubmitTimes) -> Self {
        Self { reuse_window: times.reuse_window, verdict_timeout: times.verdict_timeout }
    }
}

impl<'a> Perspective<'a> {
    /// Of a batch that is given in parts.
    #[must_use]
    pub fn new(
        id: &'a str,
        header: &Header,
        state: &'a BatchState,
        rules: Rules,
        now: DateTime<Utc>,
    ) -> Self {
        let follower = Follower {
            batch: id,
            created_at: header.created_at,
            force: header.options.force,
            reuse_window: rules.reuse_window,
            verdict_timeout: rules.verdict_timeout,
        };
        Self { follower, state, now }
    }

    /// Of a whole batch.
    #[must_use]
    pub fn of(batch: &'a Batch, rules: Rules, now: DateTime<Utc>) -> Self {
        Self::new(&batch.id, &batch.header, &batch.state, rules, now)
    }

    /// From when on an input that is not sent yet is waited for.
    fn waiting_since(&self) -> DateTime<Utc> {
        self.state.retried_at.unwrap_or(self.follower.created_at)
    }

    /// What is told of an input.
    ///
    /// `refresh` is the chunk's: a verdict is late only when VMRay has been asked after the time was over.
    #[must_use]
    pub fn outcome<'e>(
        &self,
        item: &'e Item,
        entry: Option<&'e Entry>,
        refresh: Option<&Refresh>,
    ) -> Outcome<'e>
    where
        'a: 'e,
    {
        let duplicate = match &item.fate {
            Fate::Refuse { code } => return refused(code),
            Fate::Send { duplicate, .. } => *duplicate,
        };
        let run = entry.and_then(|entry| Some(&entry.runs[entry.followed(self.follower)?]));
        let mut outcome = match run {
            Some(run) => self.outcome_of_run(run, refresh),
            None => self.outcome_of_no_run(),
        };
        if duplicate {
            outcome.source = Some(Source::Duplicate);
        }
        outcome
    }

    /// Where a run stands, as far as can be told without asking VMRay.
    #[must_use]
    pub fn status_of_run(&self, run: &Run) -> Status {
        self.outcome_of_run(run, None).status
    }

    /// Where an input stands for which no run was begun.
    #[must_use]
    pub fn status_of_unsent(&self) -> Status {
        self.outcome_of_no_run().status
    }

    fn outcome_of_run<'e>(&self, run: &'e Run, refresh: Option<&Refresh>) -> Outcome<'e>
    where
        'a: 'e,
    {
        let own = run.batch == self.follower.batch && !run.known;
        let told = Outcome {
            status: Status::Pending,
            source: Some(if own { Source::New } else { Source::Reused }),
            facts: run.facts(),
            error_code: None,
            error_detail: None,
        };
        match &run.state {
            State::Queued { reason } => {
                // A retry changes the entries before it changes the batch.
                let is_retried = run.batch == self.follower.batch && run.round > self.state.retries;
                let stopped = self.state.stopped.as_deref().filter(|_| !is_retried);
                let unsent = self.outcome_of_unsent(run.since, reason.as_deref(), stopped);
                Outcome { source: told.source, ..unsent }
            }
            State::Claimed { until } if *until > self.now => told,
            State::Claimed { .. } | State::Unconfirmed { .. }
                if self.is_overdue(run.since.max(self.waiting_since()), self.now) =>
            {
                timed_out(told)
            }
            State::Claimed { .. } => Outcome { status: Status::Unconfirmed, ..told },
            State::Unconfirmed { reason, .. } => Outcome {
                status: Status::Unconfirmed,
                error_code: Some(UNCONFIRMED),
                error_detail: Some(reason),
                ..told
            },
            State::Submitted { .. } if self.is_late(run, refresh) => timed_out(told),
            State::Submitted { .. } => Outcome { status: Status::Submitted, ..told },
            State::Finished { .. } => Outcome { status: Status::Finished, ..told },
            State::Failed { code, detail, .. } => Outcome {
                status: Status::Failed,
                error_code: Some(code.as_str()),
                error_detail: Some(detail),
                ..told
            },
            State::QuotaExceeded { detail, .. } => Outcome {
                status: Status::QuotaExceeded,
                error_code: Some(QUOTA_EXCEEDED),
                error_detail: Some(detail),
                ..told
            },
        }
    }

    fn outcome_of_no_run(&self) -> Outcome<'a> {
        self.outcome_of_unsent(self.waiting_since(), None, self.state.stopped.as_deref())
    }

    /// Of what VMRay does not have: waiting, stopped by the quota, or given up.
    fn outcome_of_unsent<'e>(
        &self,
        since: DateTime<Utc>,
        reason: Option<&'e str>,
        stopped: Option<&'e str>,
    ) -> Outcome<'e> {
        let told = Outcome {
            status: Status::Pending,
            source: Some(Source::New),
            facts: None,
            error_code: reason.map(|_| NOT_SENT),
            error_detail: reason,
        };
        if let Some(stopped) = stopped {
            return Outcome {
                status: Status::QuotaExceeded,
                error_code: Some(QUOTA_EXCEEDED),
                error_detail: Some(stopped),
                ..told
            };
        }
        if self.is_overdue(since, self.now) { timed_out(told) } else { told }
    }

    fn is_late(&self, run: &Run, refresh: Option<&Refresh>) -> bool {
        let asked = refresh.and_then(|refresh| refresh.answered_at);
        asked.is_some_and(|asked| self.is_overdue(run.since, asked))
    }

    /// Whether what has been waited for since `since` is late: this batch has not waited before it was there.
    fn is_overdue(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        is_overdue(since.max(self.follower.created_at), self.follower.verdict_timeout, now)
    }
}

fn timed_out(told: Outcome<'_>) -> Outcome<'_> {
    Outcome {
        status: Status::TimedOut,
        error_code: Some(TIMED_OUT),
        error_detail: told.error_detail.or(Some("there was no verdict within VERDICT_TIMEOUT")),
        ..told
    }
}

fn refused(code: &str) -> Outcome<'_> {
    let refusal = Refusal::ALL.into_iter().find(|refusal| refusal.code() == code);
    Outcome {
        status: Status::Refused,
        source: None,
        facts: None,
        error_code: Some(code),
        error_detail: refusal.map(Refusal::detail),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use vmray::model::Submission;

    use super::*;
    use crate::options::Options;

    const RULES: Rules =
        Rules { reuse_window: Duration::from_hours(168), verdict_timeout: Duration::from_hours(24) };

    fn at(minute: i64) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute)
    }

    fn header() -> Header {
        Header {
            caller: "soar".to_owned(),
            created_at: at(0),
            options: Options::default(),
            chunk_sizes: vec![1],
        }
    }

    fn item(duplicate: bool) -> Item {
        let fate = Fate::Send { url: "http://a.example/".to_owned(), key: "k".to_owned(), duplicate };
        Item { id: None, input: None, unstored_input: None, unwrapped_from: None, fate }
    }

    fn entry(batch: &str, state: State) -> Entry {
        let mut entry = Entry::new("http://a.example/".to_owned());
        let run = entry.begin(batch, 0, "t".to_owned(), at(0));
        entry.runs[run].state = state;
        entry
    }

    fn facts() -> SubmissionFacts {
        let submission: Submission =
            serde_json::from_str(r#"{"submission_id": 9, "submission_sample_id": 7}"#).unwrap();
        SubmissionFacts::from(&submission)
    }

    fn status(state: State, minute: i64, refresh: Option<Refresh>) -> Status {
        let (header, batch_state) = (header(), BatchState::default());
        let perspective = Perspective::new("b", &header, &batch_state, RULES, at(minute));
        perspective.outcome(&item(false), Some(&entry("b", state)), refresh.as_ref()).status
    }

    #[test]
    fn a_claim_that_ran_out_is_unconfirmed() {
        assert_eq!(status(State::Claimed { until: at(1) }, 0, None), Status::Pending);
        assert_eq!(status(State::Claimed { until: at(1) }, 1, None), Status::Unconfirmed);
    }

    #[test]
    fn a_verdict_is_late_only_when_vmray_was_asked_after_its_time() {
        let submitted = || State::Submitted { facts: facts(), at: at(0) };
        let asked = |minute| Some(Refresh { asked_at: at(minute), answered_at: Some(at(minute)) });
        let days = 3 * 24 * 60;
        assert_eq!(status(submitted(), days, None), Status::Submitted);
        assert_eq!(status(submitted(), days, asked(60)), Status::Submitted);
        assert_eq!(status(submitted(), days, asked(days)), Status::TimedOut);
    }

    #[test]
    fn what_could_not_be_sent_within_the_time_is_given_up() {
        let day = 24 * 60;
        let queued = || State::Queued { reason: Some("down".to_owned()) };
        assert_eq!(status(queued(), day, None), Status::Pending);
        assert_eq!(status(queued(), day + 1, None), Status::TimedOut);
        let header = header();
        let unsent = |state: &BatchState, minute| {
            Perspective::new("b", &header, state, RULES, at(minute)).outcome(&item(false), None, None).status
        };
        assert_eq!(unsent(&BatchState::default(), day + 1), Status::TimedOut);
        let retried = BatchState { retried_at: Some(at(day)), ..BatchState::default() };
        assert_eq!(unsent(&retried, day + 1), Status::Pending);
    }

    #[test]
    fn a_stopped_batch_has_no_pending_inputs() {
        let header = header();
        let stopped = BatchState { stopped: Some("no more".to_owned()), ..BatchState::default() };
        let perspective = Perspective::new("b", &header, &stopped, RULES, at(1));
        let (item, queued) = (item(false), entry("b", State::Queued { reason: None }));
        for entry in [None, Some(&queued)] {
            let outcome = perspective.outcome(&item, entry, None);
            assert_eq!((outcome.status, outcome.error_detail), (Status::QuotaExceeded, Some("no more")));
        }
    }

    #[test]
    fn the_source_says_who_knew_it() {
        let (header, state) = (header(), BatchState::default());
        let perspective = Perspective::new("b", &header, &state, RULES, at(1));
        let finished = || State::Finished { facts: facts(), at: at(0) };
        let source =
            |entry: &Entry, duplicate| perspective.outcome(&item(duplicate), Some(entry), None).source;
        assert_eq!(source(&entry("b", finished()), false), Some(Source::New));
        assert_eq!(source(&entry("b", finished()), true), Some(Source::Duplicate));
        assert_eq!(source(&entry("other", finished()), false), Some(Source::Reused));
        let mut known = entry("b", finished());
        known.runs[0].known = true;
        assert_eq!(source(&known, false), Some(Source::Reused));
    }

    #[test]
    fn every_status_is_counted_and_only_open_ones_keep_a_batch_open() {
        for status in Status::ALL {
            let mut counts = Counts::default();
            counts.add(status);
            assert_eq!((counts.total, counts.done()), (1, status.has_ended()));
            assert_eq!(counts.errors(), status.is_error());
            let word = serde_json::to_value(status).unwrap();
            assert_eq!(word, status.as_str());
            assert_eq!(serde_json::to_value(counts).unwrap()[status.as_str()], 1);
        }
        for code in FailureCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
