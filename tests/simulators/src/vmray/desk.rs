//! The desk where URLs are handed in: what arrived, what is being analysed, what is not visible yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use chrono::{NaiveDateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::submit::{Ending, Submit, SubmitRule, Visible, host, normalised, whole_second};
use crate::estate::{Estate, Ioc, SampleSpec, Subject, Verdict, Vti, written};

/// Below these there are no numbers of the desk's: they look like those of the estates.
const FIRST_SUBMISSION: u64 = 9_100_000;
const FIRST_SAMPLE: u64 = 7_000_000;
const FIRST_JOB: u64 = 5_500;
/// What the account says when no limit is set.
const UNLIMITED_SAYS: (u64, u64) = (1000, 12);

/// A submission that is being analysed.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) sample_id: u64,
    /// Whether the sample is the desk's, so that its result may be written.
    pub(super) own_sample: bool,
    pub(super) sample_url: String,
    pub(super) job_id: u64,
    /// When it ends by itself.
    pub(super) due: Option<NaiveDateTime>,
    pub(super) ending: Ending,
}

/// What is known of submits.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) submits: Vec<Submit>,
    pub(super) quota_limit: Option<u64>,
    rules: Vec<SubmitRule>,
    running: BTreeMap<u64, Running>,
    hidden: BTreeMap<u64, Option<Instant>>,
    /// The numbers stored for each URL.
    stored: HashMap<String, Vec<u64>>,
    samples: HashMap<String, u64>,
    own_samples: BTreeSet<u64>,
    /// Samples of the estate when `samples` was made.
    indexed: usize,
    used_quota: u64,
    last_submission: u64,
    last_sample: u64,
    jobs: u64,
}

impl Desk {
    pub(super) fn new(quota_limit: Option<u64>) -> Self {
        Self { quota_limit, ..Self::default() }
    }

    pub(super) fn add_rule(&mut self, rule: SubmitRule) {
        self.rules.push(rule);
    }

    /// The rule for a URL, one use of it taken.
    pub(super) fn rule_for(&mut self, url: &str) -> Option<SubmitRule> {
        let rule = self.rules.iter_mut().rev().find(|rule| rule.fits(url))?;
        rule.left -= 1;
        Some(rule.clone())
    }

    pub(super) fn is_quota_spent(&self) -> bool {
        self.quota_limit.is_some_and(|limit| self.used_quota >= limit)
    }

    /// Limit and use, as the account says them.
    pub(super) fn quota(&self) -> (u64, u64) {
        match self.quota_limit {
            Some(limit) => (limit, self.used_quota),
            None => (UNLIMITED_SAYS.0, UNLIMITED_SAYS.1 + self.used_quota),
        }
    }

    /// The number of a URL's sample, made if there is none, and whether it is the desk's.
    pub(super) fn sample(&mut self, estate: &mut Estate, url: &str, created: NaiveDateTime) -> (u64, bool) {
        if let Some(id) = self.known_sample(estate, url) {
            return (id, self.own_samples.contains(&id));
        }
        let id = estate.last_sample_id().unwrap_or(0).max(self.last_sample).max(FIRST_SAMPLE) + 1;
        self.last_sample = id;
        let created = whole_second(created);
        estate.add_sample(SampleSpec { verdict: None, created, ..SampleSpec::url(id, url) });
        self.samples.insert(url.to_owned(), id);
        self.own_samples.insert(id);
        self.indexed += 1;
        (id, true)
    }

    fn known_sample(&mut self, estate: &Estate, url: &str) -> Option<u64> {
        if estate.sample_count() != self.indexed {
            self.indexed = estate.sample_count();
            let urls = estate.sample_ids().into_iter().filter_map(|id| Some((url_of(estate, id)?, id)));
            self.samples = urls.collect();
        }
        self.samples.get(url).copied()
    }

    /// Whether there is a result of this URL.
    pub(super) fn is_analysed(&mut self, estate: &Estate, url: &str) -> bool {
        let Some(id) = self.known_sample(estate, url) else { return false };
        estate.is_finished(id)
    }

    /// Writes what an analysis found.
    pub(super) fn set_result(&self, estate: &mut Estate, sample_id: u64, url: &str, ending: Ending) {
        let created = estate.outline(sample_id).map(|sample| sample.created);
        let mut sample = SampleSpec { verdict: ending.verdict(), ..SampleSpec::url(sample_id, url) };
        sample.created = created.unwrap_or(sample.created);
        if let Some(verdict @ (Verdict::Malicious | Verdict::Suspicious)) = ending.verdict() {
            let host = host(url);
            let server = match host.parse::<IpAddr>() {
                Ok(_) => Ioc::ip(&host, &[]),
                Err(_) => Ioc::domain(&host, &["198.51.100.7"]),
            };
            sample.iocs = vec![Ioc::url(url, &["198.51.100.7"]).verdict(verdict), server.verdict(verdict)];
            sample.vtis = vec![Vti::new("Reputation", "Contacts known malicious URL", 4)];
            sample.classifications = vec!["Phishing".to_owned()];
        }
        debug_assert!(
            self.own_samples.contains(&sample_id),
            "the estate's samples are not the desk's to change"
        );
        estate.add_sample(sample);
    }

    pub(super) fn next_submission(&mut self, estate: &Estate) -> u64 {
        let last = estate.last_submission_id().unwrap_or(0);
        self.last_submission = last.max(self.last_submission).max(FIRST_SUBMISSION) + 1;
        self.last_submission
    }

    /// Two numbers are taken: the static job's, and this one.
    pub(super) fn next_job(&mut self) -> u64 {
        self.jobs += 2;
        FIRST_JOB + self.jobs
    }

    /// Begins an analysis, which is paid for.
    pub(super) fn run(&mut self, submission_id: u64, running: Running) {
        self.used_quota += 1;
        self.running.insert(submission_id, running);
    }

    pub(super) fn remember(&mut self, submission_id: u64, url: &str, visible: Visible) {
        self.stored.entry(url.to_owned()).or_default().push(submission_id);
        match visible {
            Visible::AtOnce => {}
            Visible::After(time) => _ = self.hidden.insert(submission_id, Some(Instant::now() + time)),
            Visible::WhenTold => _ = self.hidden.insert(submission_id, None),
        }
    }

    /// The numbers stored for a URL.
    pub(super) fn stored(&self, url: &str) -> Vec<u64> {
        self.stored.get(&normalised(url)).cloned().unwrap_or_default()
    }

    /// How many submissions were stored.
    pub(super) fn stored_count(&self) -> usize {
        self.stored.values().map(Vec::len).sum()
    }

    /// What is not in lists yet.
    pub(super) fn hidden(&self) -> BTreeSet<u64> {
        self.hidden.keys().copied().collect()
    }

    /// Shows what is hidden of a URL, or of all.
    pub(super) fn reveal(&mut self, url: Option<&str>) -> usize {
        let wanted = url.map(|url| self.stored(url));
        let before = self.hidden.len();
        self.hidden.retain(|id, _| wanted.as_ref().is_some_and(|ids| !ids.contains(id)));
        before - self.hidden.len()
    }

    /// The jobs of the submissions that are being analysed and fit, with times of a clock that is off by this.
    pub(super) fn jobs(
        &self,
        estate: &Estate,
        offset: TimeDelta,
        fits: impl Fn(u64, &Running) -> bool,
    ) -> Vec<Value> {
        let running = self.running.iter().filter(|&(&id, running)| fits(id, running));
        running.map(|(&id, running)| job(estate, offset, id, running)).collect()
    }

    /// Ends what is being analysed of a URL, or all of it, as planned or with another ending.
    pub(super) fn finish(&mut self, estate: &mut Estate, url: Option<&str>, ending: Option<Ending>) -> usize {
        let url = url.map(normalised);
        let ids: Vec<u64> = self
            .running
            .iter()
            .filter(|(_, running)| url.as_ref().is_none_or(|url| *url == running.sample_url))
            .map(|(&id, _)| id)
            .collect();
        let now = Utc::now().naive_utc();
        for &id in &ids {
            self.end(estate, id, now, ending);
        }
        ids.len()
    }

    /// Does what is due by now.
    pub(super) fn settle(&mut self, estate: &mut Estate) {
        let now = Utc::now().naive_utc();
        let due = |running: &Running| running.due.filter(|due| *due <= now);
        let ended: Vec<_> =
            self.running.iter().filter_map(|(&id, running)| Some((id, due(running)?))).collect();
        for (id, at) in ended {
            self.end(estate, id, at, None);
        }
        self.hidden.retain(|_, until| until.is_none_or(|until| until > Instant::now()));
    }

    fn end(&mut self, estate: &mut Estate, id: u64, at: NaiveDateTime, ending: Option<Ending>) {
        let Some(running) = self.running.remove(&id) else { return };
        let ending = ending.unwrap_or(running.ending);
        if running.own_sample {
            self.set_result(estate, running.sample_id, &running.sample_url, ending);
        }
        let mut members = json!({"submission_consumed_quota": 1});
        crate::estate::merge(&mut members, ending.members());
        estate.finish_submission(id, whole_second(at), ending.verdict(), members);
    }
}

fn url_of(estate: &Estate, sample_id: u64) -> Option<String> {
    match &estate.outline(sample_id)?.subject {
        Subject::Url(url) => Some(url.clone()),
        Subject::File { .. } => None,
    }
}

fn job(estate: &Estate, offset: TimeDelta, submission_id: u64, running: &Running) -> Value {
    let submission = estate.submission_spec(submission_id);
    let created = submission.map(|submission| written(submission.created + offset));
    let hashes = crate::estate::Hashes::of(&running.sample_url);
    json!({
        "job_id": running.job_id,
        "job_analyzer_id": 2,
        "job_analyzer_name": "vmray_web",
        "job_created": created,
        "job_statuschanged": created,
        "job_priority": 5,
        "job_quota_type": "report",
        "job_sample_id": running.sample_id,
        "job_sample_md5": hashes.md5,
        "job_sample_sha1": hashes.sha1,
        "job_sample_sha256": hashes.sha256,
        "job_status": "queued",
        "job_tracking_state": "//waiting",
        "job_type": "full_analysis",
        "job_submission_id": submission_id,
        "job_vm_id": 20,
        "job_vm_name": "win10_64",
        "job_jobrule_sampletype": "URL",
    })
}
