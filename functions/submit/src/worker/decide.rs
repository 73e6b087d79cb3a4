//! What comes next for a URL, and what an answer makes of its run. Pure: the time comes in.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mapping::SubmissionFacts;
use vmray::client::{Accepted, SubmitError};
use vmray::model::{Submission, Verdict};

use crate::ledger::entry::{Entry, FailureCode, Run, State};
use crate::ledger::outcome::{Perspective, Status};

/// The longest that a message is held back.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(15);

/// A throttled URL waits in its pass for no longer than this; with a longer `Retry-After` the message comes back.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What can be done for a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, or not now.
    Leave(Left),
    /// Send it, in this run or in a new one.
    Send(Option<usize>),
    /// Look in VMRay whether it has it.
    Find(usize),
    /// Write down that it is not sent, in this run or in a new one: the quota is used up.
    GiveUp(Option<usize>),
}

/// What is left of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that a worker could do.
    Nothing,
    /// Something, after this pause.
    After(Duration),
    /// Something, when VMRay can be used again.
    WhenVmrayIsBack,
}

/// When what is not found counts as not sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Between two look-ups.
    pub(super) pause: Duration,
    /// From the POST to the last look-up.
    pub(super) settle: Duration,
}

impl Patience {
    /// When a submission that was missing once is looked for again. Later each time that its URL had to be sent again: a
    /// server that stores and neither answers nor shows it must not be paid over and over.
    fn next_look(self, sent_at: DateTime<Utc>, missing_at: DateTime<Utc>, lost: u32) -> DateTime<Utc> {
        let settle = self.settle.saturating_mul(2_u32.saturating_pow(lost));
        let settle = settle.min(LONGEST_PAUSE.max(self.settle));
        (missing_at + delta(self.pause)).max(sent_at + delta(settle))
    }
}

/// The next step for a URL, as a batch sees it.
pub(super) fn decide(entry: &Entry, perspective: &Perspective<'_>, patience: Patience) -> Step {
    let now = perspective.now;
    let Some(place) = entry.followed(perspective.follower) else {
        return match perspective.status_of_unsent() {
            Status::QuotaExceeded => Step::GiveUp(None),
            status if status.has_ended() => Step::Leave(Left::Nothing),
            _ => Step::Send(None),
        };
    };
    let run = &entry.runs[place];
    let status = perspective.status_of_run(run);
    let is_queued = matches!(run.state, State::Queued { .. });
    if status == Status::QuotaExceeded && is_queued && run.batch == perspective.follower.batch {
        return Step::GiveUp(Some(place));
    }
    if status.has_ended() || status == Status::Submitted {
        return Step::Leave(Left::Nothing);
    }
    match &run.state {
        State::Queued { .. } => Step::Send(Some(place)),
        State::Claimed { until } if *until > now => Step::Leave(Left::After(until_then(*until, now))),
        State::Claimed { .. } => Step::Find(place),
        State::Unconfirmed { sent_at, missing_at, .. } => {
            match missing_at.map(|missing_at| patience.next_look(*sent_at, missing_at, run.lost)) {
                Some(due) if due > now => Step::Leave(Left::After(until_then(due, now))),
                _ => Step::Find(place),
            }
        }
        _ => Step::Leave(Left::Nothing),
    }
}

/// What an answer says about the server, for the other URLs of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers.
    Works,
    /// It does not; several in a row are an outage.
    Fails,
    /// Nothing can be sent for now.
    Refuses,
    /// Nothing.
    Unknown,
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// See what comes next.
    Decide,
    /// No more in this pass.
    Leave(Left),
    /// See whether VMRay shows the sample of the URL.
    KnownSample,
}

/// What the answer to a POST makes of a run.
pub(super) fn answered(
    run: &mut Run,
    answer: &Result<Accepted, SubmitError>,
    at: DateTime<Utc>,
) -> (Next, Sign) {
    match answer {
        Ok(accepted) => {
            let submission = &accepted.submission;
            run.known = submission.finished || submission.used_cache == Some(true);
            run.state = state_of(submission, SubmissionFacts::from(submission), at);
            (Next::Leave(Left::Nothing), Sign::Works)
        }
        Err(SubmitError::NoJobs { .. }) => (Next::KnownSample, Sign::Works),
        Err(SubmitError::Refused { message }) => {
            let (code, detail) = (FailureCode::Rejected, message.clone());
            run.state = State::Failed { facts: None, code, detail, at };
            (Next::Leave(Left::Nothing), Sign::Works)
        }
        Err(SubmitError::QuotaExceeded { message }) => {
            run.state = State::QuotaExceeded { detail: message.clone(), at };
            (Next::Leave(Left::Nothing), Sign::Unknown)
        }
        Err(SubmitError::Unauthorized { .. } | SubmitError::Keys(_)) => {
            // The log names the secret; callers need not know it.
            let reason =
                "the deployment's API key for VMRay is refused or missing; its operator has to replace it";
            run.state = State::Queued { reason: Some(reason.to_owned()) };
            (Next::Leave(Left::WhenVmrayIsBack), Sign::Refuses)
        }
        Err(SubmitError::NotSent { reason, retry_after }) => {
            run.state = State::Queued { reason: Some(reason.clone()) };
            match retry_after {
                Some(pause) if *pause <= LONGEST_WAIT => (Next::Decide, Sign::Unknown),
                Some(pause) => (Next::Leave(Left::After(*pause)), Sign::Refuses),
                None => (Next::Leave(Left::WhenVmrayIsBack), Sign::Fails),
            }
        }
        // Looked for at once: a 502 often comes from a gateway whose server has stored it.
        Err(SubmitError::Ambiguous { reason }) => {
            run.state = State::Unconfirmed { sent_at: at, missing_at: None, reason: reason.clone() };
            (Next::Decide, Sign::Fails)
        }
    }
}

/// What a look-up has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LookedUp {
    /// VMRay has it.
    Found,
    /// VMRay does not have it: it is sent again.
    Lost,
    /// It is looked for once more.
    Missing,
}

/// What a look-up makes of a run of which it is not known whether VMRay has it.
pub(super) fn looked_up(
    run: &mut Run,
    found: Option<&Submission>,
    patience: Patience,
    now: DateTime<Utc>,
) -> LookedUp {
    if let Some(submission) = found {
        run.state = state_of(submission, SubmissionFacts::from(submission), now);
        return LookedUp::Found;
    }
    let (sent_at, missing_at, reason) = match &run.state {
        State::Unconfirmed { sent_at, missing_at, reason } => (*sent_at, *missing_at, reason.clone()),
        _ => (sent_at(run, now), None, "its worker ended before it could record the answer".to_owned()),
    };
    if missing_at.is_some_and(|first| patience.next_look(sent_at, first, run.lost) <= now) {
        run.lost += 1;
        run.state = State::Queued { reason: Some(reason) };
        return LookedUp::Lost;
    }
    run.state = State::Unconfirmed { sent_at, missing_at: Some(missing_at.unwrap_or(now)), reason };
    LookedUp::Missing
}

/// When a run was sent whose answer is not known.
pub(super) fn sent_at(run: &Run, now: DateTime<Utc>) -> DateTime<Utc> {
    match &run.state {
        State::Unconfirmed { sent_at, .. } => *sent_at,
        // Its POST may have lasted as long as the claim.
        State::Claimed { until } => *until,
        _ => now,
    }
}

/// Writes what became of a run that was read as `before`; `false`: there is nothing to write. What another worker has found
/// out meanwhile is only written over by what VMRay has said.
pub(super) fn record(entry: &mut Entry, before: &Run, run: &Run) -> bool {
    let Some(stored) = entry.runs.iter_mut().find(|stored| stored.token == run.token) else { return false };
    if stored != before && !(run.was_answered() && stored.facts().is_none()) {
        return false;
    }
    *stored = run.clone();
    true
}

/// Where a run stands whose submission VMRay has.
#[must_use]
pub(super) fn state_of(submission: &Submission, facts: SubmissionFacts, at: DateTime<Utc>) -> State {
    if !submission.finished {
        return State::Submitted { facts, at };
    }
    let failed = submission.status.as_deref().is_some_and(|status| status.eq_ignore_ascii_case("error"));
    match facts.verdict {
        None if failed => State::Failed {
            facts: Some(facts),
            code: FailureCode::AnalysisFailed,
            detail: "VMRay's analyses of it failed".to_owned(),
            at,
        },
        // VMRay is done and says nothing: that is what its word `not_available` means.
        None => {
            let facts = SubmissionFacts { verdict: Some(Verdict::NotAvailable), ..facts };
            State::Finished { facts, at }
        }
        Some(_) => State::Finished { facts, at },
    }
}

pub(super) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn until_then(then: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (then - now).to_std().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::batch::{BatchState, Header};
    use crate::ledger::outcome::Rules;
    use crate::options::Options;

    const RULES: Rules =
        Rules { reuse_window: Duration::from_hours(168), verdict_timeout: Duration::from_hours(24) };
    const PATIENCE: Patience = Patience { pause: Duration::from_secs(10), settle: Duration::from_secs(20) };

    fn at(second: i64) -> DateTime<Utc> {
        "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(second)
    }

    /// The step of the batch `b`, which began at 0, at a second.
    fn step(entry: &Entry, state: &BatchState, second: i64) -> Step {
        let header = Header {
            caller: "soar".to_owned(),
            created_at: at(0),
            options: Options::default(),
            chunk_sizes: vec![1],
        };
        decide(entry, &Perspective::new("b", &header, state, RULES, at(second)), PATIENCE)
    }

    fn entry(batch: &str, state: State) -> Entry {
        let mut entry = Entry::new("http://a.example/".to_owned());
        let run = entry.begin(batch, 0, "token".to_owned(), at(0));
        entry.runs[run].state = state;
        entry
    }

    fn going_on() -> BatchState {
        BatchState::default()
    }

    fn stopped() -> BatchState {
        BatchState { stopped: Some("no more".to_owned()), ..BatchState::default() }
    }

    fn unconfirmed(missing_at: Option<i64>) -> State {
        State::Unconfirmed { sent_at: at(0), missing_at: missing_at.map(at), reason: "502".to_owned() }
    }

    fn submission(finished: bool) -> Submission {
        serde_json::from_value(serde_json::json!({"submission_id": 7, "submission_finished": finished}))
            .unwrap()
    }

    #[test]
    fn what_is_not_there_is_sent_and_what_is_queued_is_sent_in_its_run() {
        let new = Entry::new("http://a.example/".to_owned());
        assert_eq!(step(&new, &going_on(), 0), Step::Send(None));
        let queued = || State::Queued { reason: None };
        assert_eq!(step(&entry("b", queued()), &going_on(), 0), Step::Send(Some(0)));
        assert_eq!(step(&entry("other", queued()), &going_on(), 0), Step::Send(Some(0)));
        let day = 24 * 3600;
        assert_eq!(step(&new, &going_on(), day + 1), Step::Leave(Left::Nothing), "too late");
    }

    #[test]
    fn a_batch_that_is_stopped_gives_up_what_is_its_own_and_not_sent() {
        let new = Entry::new("http://a.example/".to_owned());
        assert_eq!(step(&new, &stopped(), 0), Step::GiveUp(None));
        let mut queued = entry("b", State::Queued { reason: None });
        assert_eq!(step(&queued, &stopped(), 0), Step::GiveUp(Some(0)));
        queued.runs[0].round = 1;
        assert_eq!(step(&queued, &stopped(), 0), Step::Send(Some(0)), "a retry is booked before it begins");
        let others = entry("other", State::Queued { reason: None });
        assert_eq!(step(&others, &stopped(), 0), Step::Leave(Left::Nothing));
        assert_eq!(step(&entry("b", unconfirmed(None)), &stopped(), 0), Step::Find(0));
    }

    #[test]
    fn a_claim_is_waited_for_and_looked_for_when_it_is_over() {
        let claimed = entry("other", State::Claimed { until: at(35) });
        assert_eq!(step(&claimed, &going_on(), 5), Step::Leave(Left::After(Duration::from_secs(30))));
        assert_eq!(step(&claimed, &going_on(), 35), Step::Find(0));
    }

    #[test]
    fn what_is_missing_is_looked_for_twice_and_later_each_time_that_it_was_lost() {
        assert_eq!(step(&entry("b", unconfirmed(None)), &going_on(), 1), Step::Find(0));
        let missing = entry("b", unconfirmed(Some(1)));
        assert_eq!(step(&missing, &going_on(), 1), Step::Leave(Left::After(Duration::from_secs(19))));
        assert_eq!(step(&missing, &going_on(), 20), Step::Find(0));
        let mut lost = missing;
        lost.runs[0].lost = 2;
        assert_eq!(step(&lost, &going_on(), 20), Step::Leave(Left::After(Duration::from_mins(1))));

        let mut run = entry("b", State::Claimed { until: at(0) }).runs.remove(0);
        assert_eq!(looked_up(&mut run, None, PATIENCE, at(1)), LookedUp::Missing);
        assert_eq!(looked_up(&mut run, None, PATIENCE, at(19)), LookedUp::Missing);
        assert_eq!(looked_up(&mut run, None, PATIENCE, at(20)), LookedUp::Lost);
        assert!(matches!(run.state, State::Queued { reason: Some(_) }) && run.lost == 1);
        assert_eq!(looked_up(&mut run, Some(&submission(false)), PATIENCE, at(21)), LookedUp::Found);
        assert!(matches!(run.state, State::Submitted { .. }));
    }

    #[test]
    fn only_a_certain_refusal_is_sent_again_without_a_look() {
        let not_sent = |retry_after: Option<u64>| SubmitError::NotSent {
            reason: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        };
        let later = Next::Leave(Left::After(Duration::from_mins(5)));
        let back = Next::Leave(Left::WhenVmrayIsBack);
        for (error, next, sign) in [
            (not_sent(Some(2)), Next::Decide, Sign::Unknown),
            (not_sent(Some(300)), later, Sign::Refuses),
            (not_sent(None), back, Sign::Fails),
            (SubmitError::Unauthorized { origin: String::new() }, back, Sign::Refuses),
        ] {
            let mut run = entry("b", State::Claimed { until: at(9) }).runs.remove(0);
            assert_eq!(answered(&mut run, &Err(error), at(1)), (next, sign));
            assert!(matches!(run.state, State::Queued { .. }));
        }
        let mut run = entry("b", State::Claimed { until: at(9) }).runs.remove(0);
        let ambiguous = SubmitError::Ambiguous { reason: "502".to_owned() };
        assert_eq!(answered(&mut run, &Err(ambiguous), at(1)), (Next::Decide, Sign::Fails));
        assert!(matches!(run.state, State::Unconfirmed { .. }));
    }

    #[test]
    fn a_late_record_writes_over_a_claim_only_what_vmray_has_said() {
        let mut stored = entry("b", State::Claimed { until: at(9) });
        let before = stored.runs[0].clone();
        let mut missing = before.clone();
        missing.state = unconfirmed(Some(1));
        let mut submitted = before.clone();
        submitted.state = state_of(&submission(false), SubmissionFacts::from(&submission(false)), at(5));
        // Another worker has claimed it anew.
        stored.runs[0].state = State::Claimed { until: at(50) };
        assert!(!record(&mut stored, &before, &missing));
        assert!(record(&mut stored, &before, &submitted));
        assert_eq!(stored.runs[0], submitted);
        assert!(!record(&mut stored, &before, &missing), "what is known stays known");
        stored.runs.clear();
        assert!(!record(&mut stored, &before, &submitted), "so many have begun since that it is forgotten");
    }

    #[test]
    fn what_vmray_ends_without_a_verdict_has_failed_or_has_none() {
        let state = |status: &str| {
            let mut submission = submission(true);
            submission.status = Some(status.into());
            state_of(&submission, SubmissionFacts::from(&submission), DateTime::UNIX_EPOCH)
        };
        assert!(matches!(state("error"), State::Failed { .. }));
        match state("success") {
            State::Finished { facts, .. } => assert_eq!(facts.verdict, Some(Verdict::NotAvailable)),
            other => panic!("{other:?}"),
        }
        let facts = SubmissionFacts::from(&submission(false));
        assert!(matches!(state_of(&submission(false), facts, at(0)), State::Submitted { .. }));
    }
}
