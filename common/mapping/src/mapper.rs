//! Collects the objects of one sample and knows what they have in common: author's marking, dates, labels.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::analyses::{self, Analyses, Seen};
use crate::countries;
use crate::facts::SampleFacts;
use crate::labels::LabelBook;
use crate::malware::{self, Family};
use crate::settings::{LabelKind, MappingSettings};
use crate::text::{markdown_list, name_of, one_line};
use crate::wanted::wanted_cores;
use stix::object::{
    Body, Dated, Indicator, Observable, ObservableValue, Relationship, RelationshipKind, Stamp,
};
use stix::{LabelSet, LeftOut, LeftOutReason, MappedSample, Object, StixId, Timestamp, standard_id};
use vmray::model::{IocCore, Verdict};

pub(super) struct Mapper<'a> {
    pub(super) facts: &'a SampleFacts,
    pub(super) settings: &'a MappingSettings,
    /// Of which moment the texts are.
    pub(super) stamp: Stamp,
    /// The newest analysis.
    pub(super) newest: Timestamp,
    pub(super) labels: LabelBook<'a>,
    pub(super) analyses: Analyses<'a>,
    pub(super) left_out: LeftOut,
    /// The malware that the sample is, where VMRay names exactly one family for the sample itself. Claims between objects that
    /// all sources share stay for ever, so none is made on a guess.
    pub(super) family: Option<StixId>,
    /// How many IOCs of each type were mapped, for the report.
    pub(super) counts: BTreeMap<&'static str, u32>,
    objects: HashMap<StixId, Object>,
    /// Most IOCs of a sample say the same besides their values.
    contexts: HashMap<ContextKey<'a>, Rc<Context>>,
}

/// Verdict, analyses, threat names, classifications.
type ContextKey<'a> = (Option<Verdict>, &'a [u64], &'a [String], &'a [String]);

/// What an IOC says besides its value.
pub(super) struct Context {
    pub(super) verdict: Option<Verdict>,
    pub(super) score: u8,
    pub(super) labels: LabelSet,
    pub(super) families: Vec<Family>,
    pub(super) classifications: Vec<String>,
    pub(super) seen: Rc<Seen>,
    /// The families' objects, once an IOC with a valid value has needed them.
    malware: OnceCell<Vec<StixId>>,
}

/// An IOC with a valid value.
pub(super) struct Found {
    pub(super) value: ObservableValue,
    pub(super) pattern: String,
    pub(super) former_id: Option<StixId>,
    /// What the indicator is called; cut if it is long.
    pub(super) name: String,
    /// Markdown, a sentence or nothing.
    pub(super) details: String,
}

/// The two objects of an IOC.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub(super) observable: StixId,
    pub(super) indicator: StixId,
}

impl<'a> Mapper<'a> {
    pub(super) fn new(facts: &'a SampleFacts, settings: &'a MappingSettings) -> Self {
        let newest = newest_analysis(facts);
        Self {
            facts,
            settings,
            stamp: Stamp(newest, facts.sample.id.0),
            newest,
            labels: note_labels(facts, settings),
            analyses: Analyses::new(&facts.threat_indicators, &facts.techniques),
            left_out: LeftOut::default(),
            family: malware::only_family(&facts.sample.threat_names),
            counts: BTreeMap::new(),
            objects: HashMap::new(),
            contexts: HashMap::new(),
        }
    }

    /// Adds an object, or what it says to the same object if that is there.
    pub(super) fn add(&mut self, body: Body) -> StixId {
        let object = Object::from(body);
        let id = object.id();
        match self.objects.get_mut(&id) {
            Some(known) => known.merge(object),
            None => {
                self.objects.insert(id, object);
            }
        }
        id
    }

    pub(super) fn relate(&mut self, kind: RelationshipKind, source: StixId, target: StixId) {
        // An object has no relationship to itself: a sample dropped by itself, a domain that is its own original.
        if source != target && self.settings.relationships.contains(&kind) {
            let (confidence, marking) = (self.settings.confidence, self.settings.marking);
            self.add(Body::Relationship(Relationship::new(kind, source, target, confidence, marking)));
        }
    }

    pub(super) fn dated<T>(&self, value: T) -> Dated<T> {
        Dated::new(self.stamp, value)
    }

    fn text(&self, markdown: &str) -> Option<Dated<String>> {
        (!markdown.is_empty()).then(|| self.dated(markdown.to_owned()))
    }

    /// Takes a value, or counts why not.
    pub(super) fn valid<T>(&mut self, value: Result<T, LeftOutReason>) -> Option<T> {
        value.map_err(|reason| self.left_out.add(reason)).ok()
    }

    /// An observable that only explains another one: no score, no text, no labels, for the last writer wins.
    pub(super) fn auxiliary(&mut self, value: ObservableValue) -> StixId {
        let marking = self.settings.marking;
        let labels = LabelSet::default();
        self.add(Body::Observable(Observable { value, score: None, description: None, labels, marking }))
    }

    /// An observable that counts as found.
    pub(super) fn observable(&mut self, value: ObservableValue, context: &Context, details: &str) -> StixId {
        let observable = Observable {
            value,
            score: Some(context.score),
            description: self.text(details),
            labels: context.labels.clone(),
            marking: self.settings.marking,
        };
        self.add(Body::Observable(observable))
    }

    /// An IOC: its observable, its indicator, and the malware that it indicates.
    pub(super) fn found(&mut self, found: Found, context: &Context) -> Pair {
        let description = self.indicator_description(&found.details, context);
        let main_observable_type = main_type(&found.value);
        let observable = self.observable(found.value, context, &found.details);
        let indicator = Indicator {
            name: name_of(&found.name),
            pattern: found.pattern,
            former_id: found.former_id,
            main_observable_type,
            indicator_types: indicator_type(context.verdict).into_iter().collect(),
            valid_from: self.newest,
            score: context.score,
            description: self.text(&description),
            phases: context.seen.phases.clone(),
            labels: context.labels.clone(),
            confidence: self.settings.confidence,
            marking: self.settings.marking,
        };
        let indicator = self.add(Body::Indicator(Box::new(indicator)));
        self.relate(RelationshipKind::BasedOn, indicator, observable);
        for malware in self.malware(context) {
            self.relate(RelationshipKind::Indicates, indicator, malware);
        }
        Pair { observable, indicator }
    }

    fn indicator_description(&self, details: &str, context: &Context) -> String {
        let verdict = context.verdict.map_or("unknown", Verdict::as_str).replace('_', " ");
        let mut text = format!("VMRay verdict: {verdict}. Seen in sample {}.", self.facts.sample.id);
        let classes = markdown_list(context.classifications.iter().map(String::as_str));
        if !classes.is_empty() {
            text = format!("{text} Classified as {classes}.");
        }
        if !details.is_empty() {
            text = format!("{text} {details}");
        }
        if !context.seen.list.is_empty() {
            text = format!("{text}\n\n{}", context.seen.list);
        }
        text
    }

    /// The malware families of a context.
    pub(super) fn malware(&mut self, context: &Context) -> Vec<StixId> {
        let add = || {
            let stamp = self.stamp;
            context.families.iter().map(|family| self.add(malware::object(family, stamp))).collect()
        };
        context.malware.get_or_init(add).clone()
    }

    /// Everything that an IOC says besides its value.
    pub(super) fn shared_context(&mut self, core: &'a IocCore) -> Rc<Context> {
        let key = (core.verdict, &core.analysis_ids[..], &core.threat_names[..], &core.classifications[..]);
        if let Some(context) = self.contexts.get(&key) {
            return Rc::clone(context);
        }
        let context = Rc::new(self.context(core));
        self.contexts.insert(key, Rc::clone(&context));
        context
    }

    /// The same for what is put together from several IOCs.
    pub(super) fn context(&mut self, core: &IocCore) -> Context {
        let seen = self.analyses.of(&core.analysis_ids, &self.labels);
        self.context_of(core.verdict, &core.threat_names, &core.classifications, seen)
    }

    pub(super) fn context_of(
        &self,
        verdict: Option<Verdict>,
        threat_names: &[String],
        classifications: &[String],
        seen: Rc<Seen>,
    ) -> Context {
        let names = threat_names.iter().filter_map(|name| self.labels.get(LabelKind::ThreatNames, name));
        let classes =
            classifications.iter().filter_map(|name| self.labels.get(LabelKind::Classifications, name));
        let mut labels: LabelSet = names.chain(classes).collect();
        labels.merge(&seen.labels);
        Context {
            verdict,
            score: score(verdict, seen.score),
            labels,
            families: malware::families(threat_names, classifications),
            classifications: classifications.to_vec(),
            seen,
            malware: OnceCell::new(),
        }
    }

    /// The countries that two lists name together.
    pub(super) fn countries(&mut self, names: &[String], codes: &[String]) -> Vec<StixId> {
        let mut countries = Vec::new();
        // Lists of other lengths do not belong together.
        let codes = if codes.len() == names.len() || names.is_empty() { codes } else { &[] };
        for index in 0..names.len().max(codes.len()) {
            let name = names.get(index).map(|name| one_line(name)).filter(|name| is_country_name(name));
            let code = codes.get(index).map(|code| code.trim()).filter(|code| !code.is_empty());
            match countries::find(name.as_deref(), code) {
                Some(country) => countries.push(self.add(Body::Country(country))),
                None if name.is_some() || code.is_some() => self.left_out.add(LeftOutReason::UnknownCountry),
                None => {}
            }
        }
        countries
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// The ids of everything so far that a report is about, sorted.
    pub(super) fn ids(&self) -> Vec<StixId> {
        let mut ids: Vec<_> = self.objects.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Adds what all bundles need, and puts everything in order.
    pub(super) fn finish(mut self) -> MappedSample {
        let mut sets: Vec<&LabelSet> = Vec::new();
        for set in self.objects.values().filter_map(Object::labels) {
            if !sets.iter().any(|known| known.is_shared_with(set)) {
                sets.push(set);
            }
        }
        let used: BTreeSet<_> = sets.into_iter().flat_map(LabelSet::iter).collect();
        let labels: Vec<Body> = used.into_iter().filter_map(|name| self.labels.object(name)).collect();
        for label in labels {
            self.add(label);
        }
        self.add(Body::Identity);
        let mut objects: Vec<_> = self.objects.into_values().collect();
        objects.sort_unstable_by_key(Object::order);
        MappedSample {
            sample_id: self.facts.sample.id.0,
            analysed: self.newest,
            objects,
            left_out: self.left_out,
        }
    }
}

/// Whether a text is a country's name, and not what stands where none is known.
fn is_country_name(name: &str) -> bool {
    name.contains(char::is_alphabetic) && !name.eq_ignore_ascii_case("unknown")
}

/// When the sample was last analysed, as well as can be said.
fn newest_analysis(facts: &SampleFacts) -> Timestamp {
    let finished = facts.submissions.iter().filter_map(|submission| submission.finish_time).max();
    let created = facts.submissions.iter().filter_map(|submission| submission.created).max();
    finished.or(created).or(facts.sample.created).map_or(Timestamp::CONSTANT, Timestamp::from)
}

fn note_labels<'a>(facts: &'a SampleFacts, settings: &'a MappingSettings) -> LabelBook<'a> {
    let mut book = LabelBook::new(settings);
    let sample = (&facts.sample.threat_names, &facts.sample.classifications);
    let iocs = wanted_cores(&facts.iocs, settings).map(|core| (&core.threat_names, &core.classifications));
    for (threat_names, classifications) in std::iter::once(sample).chain(iocs) {
        for name in threat_names {
            book.note(LabelKind::ThreatNames, name);
        }
        for name in classifications {
            book.note(LabelKind::Classifications, name);
        }
    }
    for label in facts.threat_indicators.iter().filter_map(analyses::vti_label) {
        book.note(LabelKind::Vti, &label);
    }
    for label in facts.techniques.iter().filter_map(analyses::mitre_label) {
        book.note(LabelKind::Mitre, &label);
    }
    book
}

/// 0 to 100: VMRay's worst threat indicator, but at least what the verdict stands for.
fn score(verdict: Option<Verdict>, vti: u8) -> u8 {
    let floor = match verdict {
        Some(Verdict::Malicious) => 80,
        Some(Verdict::Suspicious) => 50,
        _ => 0,
    };
    (vti.min(5) * 20).max(floor)
}

fn indicator_type(verdict: Option<Verdict>) -> Option<&'static str> {
    match verdict? {
        Verdict::Malicious => Some("malicious-activity"),
        Verdict::Suspicious => Some("anomalous-activity"),
        Verdict::Clean => Some("benign"),
        Verdict::NotAvailable => Some("unknown"),
    }
}

/// OpenCTI's name of the type of an observable.
fn main_type(value: &ObservableValue) -> &'static str {
    match value {
        ObservableValue::File(_) => "StixFile",
        ObservableValue::DomainName(_) => "Domain-Name",
        ObservableValue::Url(_) => "Url",
        ObservableValue::Ipv4(_) => "IPv4-Addr",
        ObservableValue::Ipv6(_) => "IPv6-Addr",
        ObservableValue::Email { .. } => "Email-Addr",
        ObservableValue::Mutex(_) => "Mutex",
        ObservableValue::Process { .. } => "Process",
        ObservableValue::RegistryKey(_) => "Windows-Registry-Key",
    }
}

/// The former id of an indicator whose pattern is now written otherwise.
pub(super) fn former_id(former_pattern: Option<&str>, pattern: &str) -> Option<StixId> {
    former_pattern.filter(|former| *former != pattern).map(standard_id::indicator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_have_a_floor_by_verdict() {
        assert_eq!(score(Some(Verdict::Malicious), 0), 80);
        assert_eq!(score(Some(Verdict::Malicious), 3), 80);
        assert_eq!(score(Some(Verdict::Malicious), 5), 100);
        assert_eq!(score(Some(Verdict::Malicious), 200), 100);
        assert_eq!(score(Some(Verdict::Suspicious), 1), 50);
        assert_eq!(score(Some(Verdict::Suspicious), 4), 80);
        assert_eq!(score(None, 0), 0);
    }
}
