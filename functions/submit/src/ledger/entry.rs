//! What is known of one URL: the runs of its analysis, and which of them a batch follows. Pure: the time comes in.
//!
//! Most URLs have one run. A second one begins when the first is older than the reuse window or has failed, and when a
//! caller forces it. Batches that follow an earlier run keep its result.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mapping::SubmissionFacts;
use serde::{Deserialize, Serialize};

/// The runs that are kept of one URL. A batch whose run is forgotten follows the next one.
const MOST_RUNS: usize = 8;

/// The runs that are kept although none of them has ended.
const MOST_OPEN_RUNS: usize = 64;

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
    /// Somebody is sending it. Until when nobody else may.
    Claimed {
        /// The end of the claim; past it nobody knows what became of it.
        until: DateTime<Utc>,
    },
    /// Nobody knows whether VMRay has it.
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
    /// Every code.
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
    /// How old a run may be that it is content with.
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
        if let Some(own) = self.runs.iter().rposition(|run| run.batch == follower.batch) {
            return Some(own);
        }
        if follower.force {
            return None;
        }
        let earlier = self.runs.iter().rposition(|run| run.begun_at <= follower.created_at);
        earlier
            .filter(|&place| self.runs[place].satisfies(follower))
            .or_else(|| self.runs.iter().position(|run| run.begun_at > follower.created_at))
    }

    /// Begins a run. The caller has seen that none is followed.
    pub fn begin(&mut self, batch: &str, token: String, now: DateTime<Utc>) -> usize {
        if self.runs.len() >= MOST_RUNS {
            // Never one that somebody is at, unless there are absurdly many.
            let ended = self.runs.iter().position(Run::has_ended);
            if let Some(forgotten) = ended.or((self.runs.len() >= MOST_OPEN_RUNS).then_some(0)) {
                self.runs.remove(forgotten);
            }
        }
        self.runs.push(Run {
            batch: batch.to_owned(),
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

impl Run {
    /// Whether a later batch is content with it.
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
            entry.begin(batch, format!("token-{batch}"), at(*minute));
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
        entry.begin("new", "t".to_owned(), at(minutes));
        assert_eq!(entry.followed(follower("new", minutes)), Some(1));
        assert_eq!(entry.followed(follower("a", 0)), Some(0));
        assert_eq!(entry.followed(follower("b", 3)), Some(0));
    }

    #[test]
    fn a_forced_batch_follows_only_its_own_run() {
        let mut entry = entry(&[("a", 0)]);
        let forced = Follower { force: true, ..follower("f", 5) };
        assert_eq!(entry.followed(forced), None);
        entry.begin("f", "t".to_owned(), at(6));
        assert_eq!(entry.followed(forced), Some(1));
        assert_eq!(entry.followed(follower("later", 7)), Some(1));
    }

    #[test]
    fn a_failed_run_satisfies_those_who_waited_for_it_and_nobody_later() {
        let mut entry = entry(&[("a", 0)]);
        entry.runs[0].state = State::QuotaExceeded { detail: String::new(), at: at(10) };
        assert_eq!(entry.followed(follower("b", 5)), Some(0));
        assert_eq!(entry.followed(follower("c", 10)), None);
    }

    #[test]
    fn no_more_runs_are_kept_than_a_document_can_hold() {
        let mut entry = entry(&[]);
        for minute in 0..20 {
            let run = entry.begin("x", "t".to_owned(), at(minute));
            entry.runs[run].state = State::QuotaExceeded { detail: String::new(), at: at(minute) };
        }
        assert_eq!(entry.runs.len(), MOST_RUNS);
    }

    #[test]
    fn a_run_that_somebody_is_at_is_not_forgotten() {
        let runs: Vec<_> = (0..20).map(|n| ("x", n)).collect();
        assert_eq!(entry(&runs).runs.len(), 20);
    }

    #[test]
    fn what_could_not_be_sent_in_its_time_satisfies_no_later_batch() {
        let entry = entry(&[("a", 0)]);
        assert_eq!(entry.followed(follower("b", 24 * 60)), Some(0));
        assert_eq!(entry.followed(follower("c", 24 * 60 + 1)), None);
    }
}
