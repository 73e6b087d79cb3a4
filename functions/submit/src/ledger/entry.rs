//! What is known of one URL: the runs of its analysis, and which of them a batch follows. Pure: the time comes in.
//!
//! Most URLs have one run. A second one begins when the first is older than the reuse window or has failed, when a caller
//! forces it, and when a caller retries what has ended without a verdict. Batches that follow an earlier run keep its
//! result.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mapping::SubmissionFacts;
use serde::{Deserialize, Serialize};

use super::batch::is_zero;

/// The runs that are kept of one URL: half of what a document holds. A batch whose run is forgotten follows the next one.
const MOST_RUNS: usize = 256;

/// Batches that follow a run by a retry of theirs.
const MOST_FOLLOWERS: usize = 256;

/// A URL under one set of analysis options; the only thing in the ledger that changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The URL as it is sent.
    pub url: String,
    /// Oldest first.
    pub runs: Vec<Run>,
}

/// One submission of a URL, from the intention to the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The batch that began it.
    pub batch: String,
    /// Which of the batch's retries began it; 0: the batch itself.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub round: u32,
    /// Batches that follow it since a retry of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub followers: Vec<String>,
    /// Found again in VMRay by this, the same on every attempt.
    pub token: String,
    /// When it was begun.
    pub begun_at: DateTime<Utc>,
    /// From when on a missing verdict is waited for; a retry moves it.
    pub since: DateTime<Utc>,
    /// POSTs so far.
    pub attempts: u32,
    /// Of these, POSTs without an answer that VMRay turned out not to have.
    #[serde(default)]
    pub lost: u32,
    /// Whether VMRay answered from what it knew already.
    #[serde(default)]
    pub known: bool,
    /// Where it stands.
    pub state: State,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum State {
    /// VMRay certainly does not have it; to be sent.
    Queued {
        /// Why the last attempt failed.
        reason: Option<String>,
    },
    /// A worker is sending it, and no other worker may.
    Claimed {
        /// The end of the claim; after it, it is not known what became of the POST.
        until: DateTime<Utc>,
    },
    /// It is not known whether VMRay has it.
    Unconfirmed {
        /// When it was sent.
        sent_at: DateTime<Utc>,
        /// When it was first looked for in vain.
        missing_at: Option<DateTime<Utc>>,
        /// What happened.
        reason: String,
    },
    /// VMRay has it.
    Submitted {
        /// What VMRay says of it.
        facts: SubmissionFacts,
        /// When that was recorded.
        at: DateTime<Utc>,
    },
    /// VMRay is done with it.
    Finished {
        /// What VMRay says of it.
        facts: SubmissionFacts,
        /// When that was recorded.
        at: DateTime<Utc>,
    },
    /// VMRay does not take it.
    Failed {
        /// What is known of it nevertheless.
        facts: Option<SubmissionFacts>,
        /// A stable word for the reason.
        code: FailureCode,
        /// VMRay's words.
        detail: String,
        /// When that was recorded.
        at: DateTime<Utc>,
    },
    /// The key may submit no more in this period.
    QuotaExceeded {
        /// VMRay's words.
        detail: String,
        /// When that was recorded.
        at: DateTime<Utc>,
    },
}

/// Why VMRay gives no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// VMRay refused the submission.
    Rejected,
    /// VMRay knows the URL, does not analyse it again, and its analysis cannot be found.
    NoJobs,
    /// VMRay's analyses of it failed.
    AnalysisFailed,
    /// VMRay does not have the submission any more.
    Deleted,
}

impl FailureCode {
    pub const ALL: [Self; 4] = [Self::Rejected, Self::NoJobs, Self::AnalysisFailed, Self::Deleted];

    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::NoJobs => "no_jobs",
            Self::AnalysisFailed => "analysis_failed",
            Self::Deleted => "deleted",
        }
    }
}

/// What decides which run a batch follows.
#[derive(Debug, Clone, Copy)]
pub struct Follower<'a> {
    /// The batch.
    pub batch: &'a str,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Whether it wants runs of its own.
    pub force: bool,
    /// How old a run may be to answer it.
    pub reuse_window: Duration,
    /// How long a verdict may take.
    pub verdict_timeout: Duration,
}

impl Entry {
    /// A URL of which nothing is known.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self { url, runs: Vec::new() }
    }

    /// The place of the run that a batch follows; `None`: one has to be begun.
    ///
    /// Its own run; else the newest that was good enough when the batch was accepted; else the first that another batch
    /// has begun since.
    #[must_use]
    pub fn followed(&self, follower: Follower<'_>) -> Option<usize> {
        let is_own = |run: &Run| {
            run.batch == follower.batch || run.followers.iter().any(|batch| batch == follower.batch)
        };
        if let Some(own) = self.runs.iter().rposition(is_own) {
            return Some(own);
        }
        if follower.force {
            return None;
        }
        let begun_before = |run: &Run| run.begun_at <= follower.created_at && !run.was_never_sent();
        let begun_after = |run: &Run| run.begun_at > follower.created_at && !run.was_never_sent();
        let earlier = self.runs.iter().rposition(begun_before);
        earlier
            .filter(|&place| self.runs[place].satisfies(follower))
            .or_else(|| self.runs.iter().position(begun_after))
    }

    /// Begins a run. The caller has seen that none is followed.
    pub fn begin(&mut self, batch: &str, round: u32, token: String, now: DateTime<Utc>) -> usize {
        if self.runs.len() >= MOST_RUNS {
            // One that a worker is sending, only if there is no other.
            let ended = self.runs.iter().position(Run::has_ended);
            self.runs.remove(ended.unwrap_or(0));
        }
        self.runs.push(Run {
            batch: batch.to_owned(),
            round,
            followers: Vec::new(),
            token,
            begun_at: now,
            since: now,
            attempts: 0,
            lost: 0,
            known: false,
            state: State::Queued { reason: None },
        });
        self.runs.len() - 1
    }
}

/// What a retry makes of a URL that ended without a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retried {
    /// It is sent, in a run of the batch's own.
    Again,
    /// The batch follows a later run of another batch.
    Elsewhere,
    /// Nothing is to be changed: it has ended well, is waited for, or this retry has come to it before.
    No,
}

impl Entry {
    /// Lets a batch try again what it follows. No other batch's run is opened again for that.
    pub fn retry(
        &mut self,
        follower: Follower<'_>,
        round: u32,
        token: String,
        now: DateTime<Utc>,
    ) -> Retried {
        let Some(place) = self.followed(follower) else {
            self.begin(follower.batch, round, token, now);
            return Retried::Again;
        };
        let newest = self.runs.len() - 1;
        let run = &self.runs[place];
        let is_own = run.batch == follower.batch;
        let left_alone = match &run.state {
            _ if is_own && run.round >= round => true,
            // What may be in VMRay is looked for as before.
            State::Claimed { .. } | State::Unconfirmed { .. } | State::Finished { .. } => true,
            State::Queued { .. } => !is_own && !is_overdue(run.since, follower.verdict_timeout, now),
            State::Submitted { .. } | State::Failed { .. } | State::QuotaExceeded { .. } => false,
        };
        if left_alone {
            return Retried::No;
        }
        let later = &mut self.runs[newest];
        let newcomer = Follower { created_at: now, ..follower };
        if place < newest
            && !follower.force
            && later.satisfies(newcomer)
            && later.followers.len() < MOST_FOLLOWERS
        {
            later.followers.push(follower.batch.to_owned());
            return Retried::Elsewhere;
        }
        if let Run { state: State::Queued { .. }, .. } = self.runs[place]
            && is_own
        {
            // VMRay never had it.
            let run = &mut self.runs[place];
            (run.round, run.since) = (round, now);
        } else {
            self.begin(follower.batch, round, token, now);
        }
        Retried::Again
    }

    /// Whether a round of a batch has sent this URL, or still can.
    #[must_use]
    pub fn is_used_by(&self, follower: Follower<'_>, round: u32) -> bool {
        let used = |run: &Run| {
            run.batch == follower.batch
                && run.round == round
                && !matches!(run.state, State::QuotaExceeded { .. })
        };
        self.followed(follower).is_none() || self.runs.iter().any(used)
    }
}

impl Run {
    /// Whether it was given up before VMRay was asked at all.
    fn was_never_sent(&self) -> bool {
        self.attempts == 0 && matches!(self.state, State::QuotaExceeded { .. })
    }

    /// Whether it answers a later batch.
    fn satisfies(&self, follower: Follower<'_>) -> bool {
        let window = chrono::TimeDelta::from_std(follower.reuse_window).unwrap_or(chrono::TimeDelta::MAX);
        let fresh = self
            .begun_at
            .checked_add_signed(window)
            .is_none_or(|oldest_use| oldest_use > follower.created_at);
        // What had ended without a verdict by then is worth another attempt.
        let ended_badly = match &self.state {
            State::Failed { at, .. } | State::QuotaExceeded { at, .. } => *at <= follower.created_at,
            State::Queued { .. } => is_overdue(self.since, follower.verdict_timeout, follower.created_at),
            _ => false,
        };
        fresh && !ended_badly
    }

    /// Whether VMRay has said what becomes of it.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.has_ended() || matches!(self.state, State::Submitted { .. })
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, State::Finished { .. } | State::Failed { .. } | State::QuotaExceeded { .. })
    }

    /// What is known of its submission.
    #[must_use]
    pub fn facts(&self) -> Option<&SubmissionFacts> {
        match &self.state {
            State::Submitted { facts, .. } | State::Finished { facts, .. } => Some(facts),
            State::Failed { facts, .. } => facts.as_ref(),
            _ => None,
        }
    }
}

/// Whether more than `timeout` has passed since `since`.
#[must_use]
pub fn is_overdue(since: DateTime<Utc>, timeout: Duration, now: DateTime<Utc>) -> bool {
    (now - since).to_std().is_ok_and(|waited| waited > timeout)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use vmray::model::{SampleId, SubmissionId, Verdict};

    use super::*;

    const WEEK: Duration = Duration::from_hours(7 * 24);
    const DAY: Duration = Duration::from_hours(24);

    fn at(minute: i64) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minute)
    }

    fn follower(batch: &str, minute: i64) -> Follower<'_> {
        Follower { batch, created_at: at(minute), force: false, reuse_window: WEEK, verdict_timeout: DAY }
    }

    fn entry(runs: &[(&str, i64)]) -> Entry {
        let mut entry = Entry::new("http://a.example/".to_owned());
        for (batch, minute) in runs {
            entry.begin(batch, 0, format!("token-{batch}"), at(*minute));
        }
        entry
    }

    #[test]
    fn a_later_batch_follows_the_run_that_is_there() {
        assert_eq!(entry(&[("a", 0)]).followed(follower("b", 5)), Some(0));
        assert_eq!(entry(&[]).followed(follower("b", 5)), None);
    }

    #[test]
    fn a_batch_follows_a_run_that_another_began_after_it_was_accepted() {
        assert_eq!(entry(&[("b", 5)]).followed(follower("a", 0)), Some(0));
    }

    #[test]
    fn a_run_outside_the_window_is_followed_by_old_batches_and_not_by_new_ones() {
        let minutes = 8 * 24 * 60;
        let mut entry = entry(&[("a", 0)]);
        assert_eq!(entry.followed(follower("new", minutes)), None);
        entry.begin("new", 0, "t".to_owned(), at(minutes));
        assert_eq!(entry.followed(follower("new", minutes)), Some(1));
        assert_eq!(entry.followed(follower("a", 0)), Some(0));
        assert_eq!(entry.followed(follower("b", 3)), Some(0));
    }

    #[test]
    fn a_forced_batch_follows_only_its_own_run() {
        let mut entry = entry(&[("a", 0)]);
        let forced = Follower { force: true, ..follower("f", 5) };
        assert_eq!(entry.followed(forced), None);
        entry.begin("f", 0, "t".to_owned(), at(6));
        assert_eq!(entry.followed(forced), Some(1));
        assert_eq!(entry.followed(follower("later", 7)), Some(1));
    }

    #[test]
    fn a_failed_run_satisfies_those_who_waited_for_it_and_no_later_batch() {
        let mut entry = entry(&[("a", 0)]);
        (entry.runs[0].attempts, entry.runs[0].state) = (1, ended(10));
        assert_eq!(entry.followed(follower("b", 5)), Some(0));
        assert_eq!(entry.followed(follower("c", 10)), None);
    }

    #[test]
    fn no_more_runs_are_kept_than_a_document_can_hold_and_those_that_have_ended_go_first() {
        let mut entry = entry(&[("open", 0)]);
        for minute in 0..300 {
            let run = entry.begin("x", 0, "t".to_owned(), at(minute));
            entry.runs[run].state = ended(minute);
        }
        assert_eq!((entry.runs.len(), entry.runs[0].batch.as_str()), (MOST_RUNS, "open"));
        let full = Entry { url: entry.url, runs: vec![submitted_run(); MOST_RUNS] };
        let bytes = serde_json::to_string(&full).unwrap().len();
        assert!(bytes < store::MAX_BODY_BYTES * 3 / 4, "{bytes} bytes");
    }

    #[test]
    fn the_oldest_of_many_forced_batches_keeps_its_result() {
        let batches: Vec<_> = (0..100).map(|number| format!("forced-{number}")).collect();
        let mut entry = entry(&[]);
        for (batch, minute) in batches.iter().zip(0..) {
            let run = entry.begin(batch, 0, format!("token-{batch}"), at(minute));
            entry.runs[run].state = ended(minute);
        }
        for (batch, minute) in batches.iter().zip(0..) {
            let forced = Follower { force: true, ..follower(batch, minute) };
            assert_eq!(entry.followed(forced).map(|place| &entry.runs[place].batch), Some(batch));
        }
    }

    fn ended(minute: i64) -> State {
        State::QuotaExceeded { detail: String::new(), at: at(minute) }
    }

    fn submitted_run() -> Run {
        let mut run = entry(&[("0d9a7c52-6a0e-4c0e-9e55-7f2f0f6f1c11", 0)]).runs.remove(0);
        run.token = "0".repeat(32);
        let facts = SubmissionFacts {
            submission_id: Some(SubmissionId(91_000_000)),
            sample_id: Some(SampleId(71_000_000)),
            verdict: Some(Verdict::Suspicious),
            severity: Some("not_suspicious".into()),
            score: Some(100),
            report_url: Some(format!("https://eu.cloud.vmray.com/samples/{}", "x".repeat(40)).into()),
        };
        run.state = State::Finished { facts, at: at(0) };
        run
    }

    /// Tries `batch` again, and says what came of it and which run it follows then.
    fn retried(entry: &mut Entry, batch: &str, minute: i64) -> (Retried, Option<usize>) {
        let done = entry.retry(follower(batch, 0), 1, "again".to_owned(), at(minute));
        (done, entry.followed(follower(batch, 0)))
    }

    #[test]
    fn a_retry_begins_a_run_and_leaves_the_one_that_another_batch_follows() {
        let mut entry = entry(&[("a", -5)]);
        (entry.runs[0].attempts, entry.runs[0].state) = (1, ended(1));
        assert_eq!(retried(&mut entry, "b", 10), (Retried::Again, Some(1)));
        assert_eq!((&entry.runs[0].state, entry.followed(follower("a", -5))), (&ended(1), Some(0)));
        assert_eq!((entry.runs[1].batch.as_str(), entry.runs[1].round), ("b", 1));
        assert_eq!(retried(&mut entry, "b", 11), (Retried::No, Some(1)), "the same retry");
    }

    #[test]
    fn a_retry_follows_a_later_run_of_another_batch_that_is_good_enough() {
        let mut entry = entry(&[("b", 0), ("c", 5)]);
        entry.runs[0].state = ended(1);
        assert_eq!(retried(&mut entry, "b", 10), (Retried::Elsewhere, Some(1)));
        assert_eq!(retried(&mut entry, "b", 11), (Retried::No, Some(1)));
        let mut forced = entry.clone();
        let follower = Follower { force: true, ..follower("f", 0) };
        assert_eq!(forced.retry(follower, 1, "t".to_owned(), at(12)), Retried::Again);
    }

    #[test]
    fn a_retry_leaves_what_has_ended_well_and_what_may_be_in_vmray() {
        let facts = || submitted_run().facts().cloned().unwrap();
        let unconfirmed = State::Unconfirmed { sent_at: at(1), missing_at: None, reason: String::new() };
        for state in
            [unconfirmed, State::Claimed { until: at(1) }, State::Finished { facts: facts(), at: at(1) }]
        {
            let mut entry = entry(&[("b", 0)]);
            entry.runs[0].state = state;
            assert_eq!(retried(&mut entry, "b", 10), (Retried::No, Some(0)));
        }
        let mut entry = entry(&[("b", 0)]);
        entry.runs[0].state = State::Submitted { facts: facts(), at: at(1) };
        assert_eq!(retried(&mut entry, "b", 10), (Retried::Again, Some(1)), "too late");
    }

    #[test]
    fn only_what_can_still_be_sent_or_was_is_used() {
        let mut entry = entry(&[("a", 0)]);
        assert!(entry.is_used_by(follower("a", 0), 0));
        assert!(!entry.is_used_by(follower("a", 0), 1), "another round");
        assert!(!entry.is_used_by(follower("b", 5), 0), "another batch sends it");
        entry.runs[0].state = ended(1);
        assert!(!entry.is_used_by(follower("a", 0), 0));
        assert!(entry.is_used_by(follower("c", 5), 0), "it will be sent");
    }

    #[test]
    fn a_batch_does_not_follow_what_another_one_gave_up_unsent() {
        let mut entry = entry(&[("stopped", 5)]);
        entry.runs[0].state = ended(5);
        assert_eq!(entry.followed(follower("earlier", 0)), None);
        entry.runs[0].attempts = 1;
        assert_eq!(entry.followed(follower("earlier", 0)), Some(0));
    }

    #[test]
    fn what_could_not_be_sent_in_its_time_satisfies_no_later_batch() {
        let entry = entry(&[("a", 0)]);
        assert_eq!(entry.followed(follower("b", 24 * 60)), Some(0));
        assert_eq!(entry.followed(follower("c", 24 * 60 + 1)), None);
    }
}
