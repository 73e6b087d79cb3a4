//! `POST /rest/sample/submit`: what is decided about a URL, and how it is answered.

use chrono::{NaiveDateTime, Utc};
use serde_json::{Value, json};

use super::answers;
use super::desk::{Desk, Running};
use super::parameters::{self, Parameters};
use super::platform::Vmray;
use super::submit::{
    Caching, Ending, Finish, SubmitAction, SubmitOutcome, SubmitRule, normalised, whole_second,
};
use crate::estate::{Estate, Found, Part, SubmissionSpec, merge, time};
use crate::server::{Answer, lock};

const NO_JOBS: &str = "Submission not stored because no jobs were created";
const QUOTA: &str = "The submission would exceed the Prepaid Report Quota of your account";

/// One submit on its way through the server.
struct Case<'a> {
    parameters: &'a Parameters,
    url: &'a str,
    sample_url: String,
    rule: SubmitRule,
    now: NaiveDateTime,
}

impl Vmray {
    /// Handles the n-th submit request.
    pub(super) fn submit(&self, number: usize) -> Result<Answer, Answer> {
        let mut desk = lock(&self.desk);
        let parameters = desk.submits[number].parameters.clone();
        parameters::check(&parameters)?;
        let mut estate = lock(&self.estate);
        let url = &parameters["sample_url"];
        let sample_url = normalised(url);
        let rule = match desk.rule_for(url) {
            _ if desk.is_quota_spent() => SubmitRule::all(SubmitAction::Quota),
            Some(rule) => rule,
            None => SubmitRule::all(self.usual(&mut desk, &estate, &parameters, &sample_url)),
        };
        let case = Case { parameters: &parameters, url, sample_url, rule, now: Utc::now().naive_utc() };
        let (answer, outcome) = self.decided(&mut desk, &mut estate, &case);
        desk.submits[number].outcome = outcome;
        Ok(answer)
    }

    /// What happens without a rule.
    fn usual(&self, desk: &mut Desk, estate: &Estate, parameters: &Parameters, url: &str) -> SubmitAction {
        let caching = match parameters.get("analysis_caching").map(String::as_str) {
            Some("disabled") => Caching::Disabled,
            Some("enabled" | "smart") => Caching::Smart,
            Some("legacy") => Caching::Legacy,
            _ if parameters::is_on(parameters, "reanalyze") => Caching::Disabled,
            _ => self.options.submit.caching,
        };
        match caching {
            _ if !desk.is_analysed(estate, url) => SubmitAction::Fresh,
            Caching::Disabled => SubmitAction::Fresh,
            Caching::Smart => SubmitAction::Cached,
            Caching::Legacy => SubmitAction::NoJobs,
        }
    }

    fn decided(&self, desk: &mut Desk, estate: &mut Estate, case: &Case<'_>) -> (Answer, SubmitOutcome) {
        let refused = |answer: Answer| {
            let outcome = SubmitOutcome::NotStored(answer.status);
            (answer, outcome)
        };
        match &case.rule.action {
            SubmitAction::Fresh => self.stored(desk, estate, case, None),
            SubmitAction::FreshWithError(message) => self.stored(desk, estate, case, Some(message)),
            SubmitAction::Cached => self.cached(desk, estate, case),
            SubmitAction::NoJobs => refused(case.error(NO_JOBS)),
            SubmitAction::NoJobsBare => refused(answers::ok(&json!({"errors": [case.one_error(NO_JOBS)]}))),
            SubmitAction::Error(message) => refused(case.error(message)),
            SubmitAction::Quota => refused(case.error(QUOTA)),
            SubmitAction::QuotaAtTop(status) => refused(answers::error(*status, QUOTA)),
            SubmitAction::Refused(status, message) => refused(answers::error(*status, message)),
            SubmitAction::Nothing => refused(answers::ok(&empty_lists())),
        }
    }

    fn ending_of(&self, case: &Case<'_>) -> Ending {
        case.rule.ending.unwrap_or_else(|| (self.options.submit.ending)(&case.sample_url))
    }

    /// A submission that is analysed from now on.
    fn stored(
        &self,
        desk: &mut Desk,
        estate: &mut Estate,
        case: &Case<'_>,
        error: Option<&String>,
    ) -> (Answer, SubmitOutcome) {
        let (sample_id, own) = desk.sample(estate, &case.sample_url, case.now);
        let submission_id = desk.next_submission(estate);
        let finish = case.rule.finish.unwrap_or(self.options.submit.finish);
        let job_id = desk.next_job();
        let running = Running {
            sample_id,
            own_sample: own,
            sample_url: case.sample_url.clone(),
            job_id,
            due: match finish {
                Finish::After(time) => Some(case.now + time),
                Finish::WhenTold => None,
            },
            ending: self.ending_of(case),
        };
        let mut echo = parameters::echo(case.parameters, self.options.submit.metadata);
        merge(&mut echo, json!({"submission_consumed_quota": 0}));
        let spec = SubmissionSpec {
            id: submission_id,
            sample_id,
            verdict: None,
            created: whole_second(case.now),
            finished: None,
            parent: None,
        };
        estate.add_submission_with(spec, echo);
        desk.run(submission_id, running);
        desk.remember(submission_id, &case.sample_url, case.rule.visible);
        let mut data = self.answer_data(estate, case, submission_id, sample_id);
        // Old servers have no such member.
        if let Some(status) = data["submissions"][0].get_mut("submission_status") {
            *status = json!("queued");
        }
        data["errors"] = error.iter().map(|message| case.one_error(message)).collect();
        data["jobs"] = desk.jobs(estate, self.options.clock_offset, |id, _| id == submission_id).into();
        data["static_jobs"] = json!([{"job_id": job_id - 1, "job_type": "only_static_analysis",
            "job_status": "queued", "job_sample_id": sample_id, "job_submission_id": submission_id}]);
        data["reputation_jobs"] = json!([{"reputation_job_id": job_id, "reputation_job_status": "queued"}]);
        (answers::ok(&data), SubmitOutcome::Stored { submission_id, cached: false })
    }

    /// A submission that is finished as it comes.
    fn cached(&self, desk: &mut Desk, estate: &mut Estate, case: &Case<'_>) -> (Answer, SubmitOutcome) {
        // The analysis behind it is years old.
        let (sample_id, own) = desk.sample(estate, &case.sample_url, time("2016-05-04T11:22:33"));
        let known = estate.outline(sample_id).and_then(|sample| sample.verdict).map(Ending::Verdict);
        let ending = case.rule.ending.or(known).unwrap_or_else(|| self.ending_of(case));
        if own {
            desk.set_result(estate, sample_id, &case.sample_url, ending);
        }
        let submission_id = desk.next_submission(estate);
        let mut echo = parameters::echo(case.parameters, self.options.submit.metadata);
        let cached = json!({"submission_consumed_quota": 0, "submission_used_cache": true,
            "submission_number_cached_analyses": 1, "submission_number_created_jobs": 0,
            "submission_analysis_cache_ids": [sample_id * 10 + 1]});
        merge(&mut echo, cached);
        merge(&mut echo, ending.members());
        let now = whole_second(case.now);
        let spec = SubmissionSpec {
            id: submission_id,
            sample_id,
            verdict: ending.verdict(),
            created: now,
            finished: Some(now),
            parent: None,
        };
        estate.add_submission_with(spec, echo);
        desk.remember(submission_id, &case.sample_url, case.rule.visible);
        let data = self.answer_data(estate, case, submission_id, sample_id);
        (answers::ok(&data), SubmitOutcome::Stored { submission_id, cached: true })
    }

    /// The lists of an answer, with the submission and its sample.
    fn answer_data(&self, estate: &mut Estate, case: &Case<'_>, submission_id: u64, sample_id: u64) -> Value {
        let mut data = empty_lists();
        let mut submission = estate.submission(submission_id).unwrap_or_default();
        answers::shift_times(&mut submission, self.options.clock_offset);
        data["submissions"] = json!([self.of_profile(submission)]);
        if let Found::Answer(mut sample) = estate.answer(sample_id, Part::Sample) {
            answers::shift_times(&mut sample, self.options.clock_offset);
            sample["submission_filename"] = json!(case.url);
            data["samples"] = json!([self.of_profile(sample)]);
        }
        data
    }
}

impl Case<'_> {
    fn one_error(&self, message: &str) -> Value {
        json!({"error_msg": message, "submission_filename": self.url})
    }

    fn error(&self, message: &str) -> Answer {
        let mut data = empty_lists();
        data["errors"] = json!([self.one_error(message)]);
        answers::ok(&data)
    }
}

fn empty_lists() -> Value {
    json!({"errors": [], "jobs": [], "static_jobs": [], "reputation_jobs": [], "vt_jobs": [], "md_jobs": [],
           "whois_jobs": [], "samples": [], "submissions": []})
}
