//! An estate: the submissions and samples of one VMRay account, generated from a seed or written by hand.
//!
//! Generated samples are made again from the seed whenever they are asked for, so that an estate of 20,000 submissions
//! takes little memory. Any answer can be replaced by any JSON.

mod generate;
mod kinds;
mod random;
pub(crate) mod render;
mod spec;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::NaiveDateTime;
use serde_json::{Value, json};

pub use generate::EstateSpec;
use generate::Generator;
pub use spec::{Hashes, Ioc, SampleSpec, Subject, SubmissionSpec, Technique, Verdict, Vti, time};
pub(crate) use spec::{merge, written};

/// An answer about a sample that can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// `/rest/sample/{id}`
    Sample,
    /// `/rest/sample/{id}/iocs`
    Iocs,
    /// `/rest/sample/{id}/vtis`
    Vtis,
    /// `/rest/sample/{id}/mitre_attack`
    Mitre,
    /// `/rest/sample/{id}/threat_names`
    ThreatNames,
    /// `/rest/sample/{id}/classifications`
    Classifications,
}

impl Part {
    fn render(self, spec: &SampleSpec, estate: &Estate) -> Value {
        match self {
            Self::Sample => render::sample(spec, |id| estate.verdict_of(id)),
            Self::Iocs => render::iocs(spec),
            Self::Vtis => render::vtis(spec),
            Self::Mitre => render::techniques(spec),
            Self::ThreatNames => render::threat_names(spec),
            Self::Classifications => render::classifications(spec),
        }
    }

    /// The answer while VMRay still aggregates.
    fn waiting(self) -> Value {
        match self {
            Self::Iocs => json!({"status": "waiting", "iocs": {}}),
            Self::Vtis => json!({"status": "waiting", "threat_indicators": []}),
            _ => json!({"status": "waiting", "mitre_attack_techniques": []}),
        }
    }
}

#[derive(Clone, Debug)]
enum Blueprint {
    Written(Arc<SampleSpec>),
    /// The generator's n-th sample.
    Generated(usize),
}

#[derive(Clone, Debug)]
struct Sample {
    blueprint: Blueprint,
    forbidden: bool,
    waiting: HashMap<Part, u64>,
    replaced: HashMap<Part, Value>,
}

#[derive(Clone, Debug)]
struct Submission {
    spec: SubmissionSpec,
    /// Members that stand over those made from the facts.
    members: Option<Box<Value>>,
    replaced: Option<Box<Value>>,
}

/// The submissions and samples of one VMRay account.
#[derive(Clone, Debug, Default)]
pub struct Estate {
    submissions: BTreeMap<u64, Submission>,
    samples: BTreeMap<u64, Sample>,
    generator: Option<Arc<Generator>>,
}

/// What became of the wish for a sample.
pub(crate) enum Found {
    Answer(Value),
    Forbidden,
    Missing,
}

impl Estate {
    /// An estate with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A deterministic estate: the same specification gives the same answers, byte for byte.
    #[must_use]
    pub fn generate(spec: EstateSpec) -> Self {
        let generator = Arc::new(Generator::new(spec));
        let mut estate = Self::new();
        for index in 0..generator.samples() {
            let sample = Sample::new(Blueprint::Generated(index));
            estate.samples.insert(Generator::sample_id(index), sample);
        }
        for submission in generator.submissions() {
            estate.add_submission(submission);
        }
        estate.generator = Some(generator);
        estate
    }

    /// One malicious sample (99) with every type of IOC and awkward values, and its clean child (100).
    #[must_use]
    pub fn kinds() -> Self {
        kinds::estate()
    }

    /// Adds a sample, or replaces the one with its number.
    pub fn add_sample(&mut self, spec: SampleSpec) {
        self.samples.insert(spec.id, Sample::new(Blueprint::Written(Arc::new(spec))));
    }

    /// Adds a submission, or replaces the one with its number.
    pub fn add_submission(&mut self, spec: SubmissionSpec) {
        self.submissions.insert(spec.id, Submission { spec, members: None, replaced: None });
    }

    /// Adds a submission with members that stand over those made from the facts.
    pub(crate) fn add_submission_with(&mut self, spec: SubmissionSpec, members: Value) {
        let members = Some(Box::new(members));
        self.submissions.insert(spec.id, Submission { spec, members, replaced: None });
    }

    /// Ends a submission that is in progress; its JSON keeps what a test has changed.
    pub(crate) fn finish_submission(
        &mut self,
        id: u64,
        at: NaiveDateTime,
        verdict: Option<Verdict>,
        members: Value,
    ) {
        let Some(submission) = self.submissions.get_mut(&id) else { return };
        submission.spec.finished = Some(at);
        submission.spec.verdict = verdict;
        merge(submission.members.get_or_insert_with(|| Box::new(json!({}))), members.clone());
        if let Some(replaced) = &mut submission.replaced {
            merge(replaced, render::result(&submission.spec));
            merge(replaced, members);
        }
    }

    /// The submission's JSON, to be changed at will.
    ///
    /// # Panics
    ///
    /// When there is no such submission.
    #[expect(clippy::expect_used, reason = "a wrong number in a test should say so at once")]
    pub fn submission_mut(&mut self, id: u64) -> &mut Value {
        let rendered = self.submission(id).expect("a submission with this number");
        let submission = self.submissions.get_mut(&id).expect("a submission with this number");
        submission.replaced.get_or_insert_with(|| Box::new(rendered))
    }

    /// The JSON of any answer about a sample, to be changed at will.
    ///
    /// # Panics
    ///
    /// When there is no such sample.
    #[expect(clippy::expect_used, reason = "a wrong number in a test should say so at once")]
    pub fn answer_mut(&mut self, sample_id: u64, part: Part) -> &mut Value {
        let rendered = self.render(sample_id, part).expect("a sample with this number");
        let sample = self.samples.get_mut(&sample_id).expect("a sample with this number");
        sample.replaced.entry(part).or_insert(rendered)
    }

    /// The sample's own JSON, to be changed at will. Panics as [`Estate::answer_mut`] does.
    pub fn sample_mut(&mut self, id: u64) -> &mut Value {
        self.answer_mut(id, Part::Sample)
    }

    /// Deletes a sample, as after its retention: its submissions stay, it answers 404.
    pub fn delete_sample(&mut self, id: u64) {
        self.samples.remove(&id);
    }

    /// Deletes a submission.
    pub fn delete_submission(&mut self, id: u64) {
        self.submissions.remove(&id);
    }

    /// Makes everything about a sample answer 403, or no longer.
    pub fn forbid_sample(&mut self, id: u64, forbidden: bool) {
        if let Some(sample) = self.samples.get_mut(&id) {
            sample.forbidden = forbidden;
        }
    }

    /// Makes IOCs, VTIs or techniques of a sample not yet aggregated for the next polls.
    pub fn wait(&mut self, sample_id: u64, part: Part, polls: u64) {
        if let Some(sample) = self.samples.get_mut(&sample_id) {
            sample.waiting.insert(part, polls);
        }
    }

    /// The numbers of all submissions, ascending.
    #[must_use]
    pub fn submission_ids(&self) -> Vec<u64> {
        self.submissions.keys().copied().collect()
    }

    /// The numbers of all samples, ascending.
    #[must_use]
    pub fn sample_ids(&self) -> Vec<u64> {
        self.samples.keys().copied().collect()
    }

    /// The facts of a sample.
    #[must_use]
    pub fn sample_spec(&self, id: u64) -> Option<Arc<SampleSpec>> {
        match (&self.samples.get(&id)?.blueprint, &self.generator) {
            (Blueprint::Written(spec), _) => Some(Arc::clone(spec)),
            (Blueprint::Generated(index), Some(generator)) => Some(Arc::new(generator.sample(*index))),
            (Blueprint::Generated(_), None) => None,
        }
    }

    /// A sample's facts without IOCs and the like, where they would have to be generated.
    pub(crate) fn outline(&self, id: u64) -> Option<Arc<SampleSpec>> {
        match (&self.samples.get(&id)?.blueprint, &self.generator) {
            (Blueprint::Generated(index), Some(generator)) => Some(Arc::new(generator.outline(*index))),
            _ => self.sample_spec(id),
        }
    }

    /// The facts of a submission, as they were before any JSON of it was changed.
    #[must_use]
    pub fn submission_spec(&self, id: u64) -> Option<&SubmissionSpec> {
        self.submissions.get(&id).map(|submission| &submission.spec)
    }

    /// The JSON of a submission.
    #[must_use]
    pub fn submission(&self, id: u64) -> Option<Value> {
        let submission = self.submissions.get(&id)?;
        if let Some(replaced) = &submission.replaced {
            return Some(Value::clone(replaced));
        }
        // A submission outlives its sample: what is left of the sample is its number.
        let sample_id = submission.spec.sample_id;
        let sample =
            self.outline(sample_id).unwrap_or_else(|| Arc::new(SampleSpec::file(sample_id, "deleted.exe")));
        let mut rendered = render::submission(&submission.spec, &sample);
        if let Some(members) = &submission.members {
            merge(&mut rendered, Value::clone(members));
        }
        Some(rendered)
    }

    /// The metadata of a submission, without making the rest of its JSON.
    pub(crate) fn metadata_of(&self, id: u64) -> Option<&str> {
        let submission = self.submissions.get(&id)?;
        let written = submission.replaced.as_ref().or(submission.members.as_ref());
        Some(written.and_then(|value| value["submission_submission_metadata"].as_str()).unwrap_or("{}"))
    }

    /// The highest number of a submission.
    pub(crate) fn last_submission_id(&self) -> Option<u64> {
        self.submissions.last_key_value().map(|(&id, _)| id)
    }

    /// The highest number of a sample.
    pub(crate) fn last_sample_id(&self) -> Option<u64> {
        self.samples.last_key_value().map(|(&id, _)| id)
    }

    pub(crate) fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// Whether a sample is there by these submissions alone.
    pub(crate) fn is_of_only(&self, sample_id: u64, submissions: &BTreeSet<u64>) -> bool {
        let of_sample = self.submissions.values().filter(|submission| submission.spec.sample_id == sample_id);
        let mut ids = of_sample.map(|submission| submission.spec.id).peekable();
        ids.peek().is_some() && ids.all(|id| submissions.contains(&id))
    }

    /// Whether any submission of this sample has ended.
    pub(crate) fn is_finished(&self, sample_id: u64) -> bool {
        let mut specs = self.submissions.values().map(|submission| &submission.spec);
        specs.any(|spec| spec.sample_id == sample_id && spec.finished.is_some())
    }

    /// Cheap facts of all submissions: number and finish time, as the JSON has it.
    pub(crate) fn finish_times(&self) -> impl Iterator<Item = (u64, Option<NaiveDateTime>)> {
        self.submissions.iter().map(|(&id, submission)| match &submission.replaced {
            None => (id, submission.spec.finished),
            Some(value) => (id, value["submission_finish_time"].as_str().and_then(|text| text.parse().ok())),
        })
    }

    /// The answer about a sample, counting a poll of what is not aggregated yet.
    pub(crate) fn answer(&mut self, sample_id: u64, part: Part) -> Found {
        let Some(sample) = self.samples.get_mut(&sample_id) else { return Found::Missing };
        if sample.forbidden {
            return Found::Forbidden;
        }
        if let Some(polls) = sample.waiting.get_mut(&part).filter(|polls| **polls > 0) {
            *polls -= 1;
            return Found::Answer(part.waiting());
        }
        self.render(sample_id, part).map_or(Found::Missing, Found::Answer)
    }

    fn render(&self, sample_id: u64, part: Part) -> Option<Value> {
        if let Some(replaced) = self.samples.get(&sample_id)?.replaced.get(&part) {
            return Some(replaced.clone());
        }
        Some(part.render(&*self.sample_spec(sample_id)?, self))
    }

    fn verdict_of(&self, sample_id: u64) -> Option<Verdict> {
        match (&self.samples.get(&sample_id)?.blueprint, &self.generator) {
            (Blueprint::Generated(index), Some(generator)) => Some(generator.verdict(*index)),
            _ => self.sample_spec(sample_id)?.verdict,
        }
    }

    /// The first submission of a sample.
    pub(crate) fn submission_of(&self, sample_id: u64) -> Option<&SubmissionSpec> {
        self.submissions.values().map(|submission| &submission.spec).find(|spec| spec.sample_id == sample_id)
    }
}

impl Sample {
    fn new(blueprint: Blueprint) -> Self {
        Self { blueprint, forbidden: false, waiting: HashMap::new(), replaced: HashMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estate() -> Estate {
        Estate::generate(EstateSpec {
            submissions: 50,
            malicious: 30,
            suspicious: 8,
            ..EstateSpec::default()
        })
    }

    #[test]
    fn the_same_seed_gives_the_same_answers() {
        let (one, two) = (estate(), estate());
        for id in one.sample_ids() {
            assert_eq!(one.render(id, Part::Iocs), two.render(id, Part::Iocs));
        }
        assert_eq!(one.submission(9_100_000), two.submission(9_100_000));
    }

    #[test]
    fn an_estate_has_the_verdicts_that_were_asked_for() {
        let estate = estate();
        let count = |verdict| {
            estate
                .submission_ids()
                .iter()
                .filter(|&&id| estate.submission(id).unwrap()["submission_verdict"] == verdict)
                .count()
        };
        assert_eq!([count("malicious"), count("suspicious"), count("clean")], [30, 8, 12]);
    }

    #[test]
    fn all_ten_lists_and_what_must_be_filtered_are_there() {
        let estate = estate();
        let found =
            estate.sample_ids().into_iter().filter(|&id| estate.verdict_of(id) != Some(Verdict::Clean));
        let answers: Vec<Value> = found.map(|id| estate.render(id, Part::Iocs).unwrap()).collect();
        for list in render::IOC_LISTS {
            assert!(!answers[0]["iocs"][list].as_array().unwrap().is_empty(), "{list}");
        }
        let text = json!(answers).to_string();
        for filtered in ["Memory Dump", r#""verdict":null"#, r#""verdict":"clean""#, r#""ioc":false"#] {
            assert!(text.contains(filtered), "{filtered}");
        }
    }

    #[test]
    fn an_url_sample_has_the_hashes_of_its_url() {
        let hashes = SampleSpec::url(1, "http://google.com").hashes();
        assert_eq!(hashes.md5, "c7b920f57e553df2bb68272f61570210");
    }

    #[test]
    fn any_field_can_be_overridden() {
        let mut estate = estate();
        estate.submission_mut(9_100_003)["submission_verdict"] = Value::Null;
        estate.answer_mut(7_000_003, Part::Vtis)["threat_indicators"] = Value::Null;
        assert_eq!(estate.submission(9_100_003).unwrap()["submission_verdict"], Value::Null);
        assert_eq!(estate.render(7_000_003, Part::Vtis).unwrap()["threat_indicators"], Value::Null);
    }
}
