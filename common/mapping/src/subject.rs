//! The sample itself: its observable, its indicator, its malware, its techniques.

use std::rc::Rc;

use crate::analyses;
use crate::mapper::{Context, Found, Mapper};
use crate::values;
use stix::object::{AttackPattern, Body, ObservableValue, RelationshipKind};
use stix::{LabelSet, LeftOutReason, StixId, pattern};
use vmray::model::IocCore;

/// What the description of the sample's observable begins with.
pub(super) const SAMPLE_DETAILS: &str = "Sample analysed by VMRay.";

/// What the sample became.
pub(super) struct Subject {
    /// If it can be identified.
    pub(super) observable: Option<StixId>,
    /// If the sample's verdict, or that of an IOC that is the same file, makes it an indicator.
    pub(super) indicator: Option<StixId>,
    pub(super) labels: LabelSet,
}

impl Mapper<'_> {
    /// Maps the sample, about which an IOC may say more.
    pub(super) fn subject(&mut self, found: Found, core: &IocCore, is_ioc: bool) -> (StixId, Subject) {
        let verdict = self.facts.sample.verdict;
        let context = self.sample_context(core);
        let wanted = verdict.is_some_and(|verdict| self.settings.iocs_verdicts.contains(&verdict));
        let (observable, indicator) = if wanted || is_ioc {
            let pair = self.found(found, &context);
            (pair.observable, Some(pair.indicator))
        } else {
            (self.observable(found.value, &context, &found.details), None)
        };
        (observable, Subject { observable: Some(observable), indicator, labels: context.labels })
    }

    /// Maps a sample that is a URL, or that nothing identifies: its labels and findings are worth a report all the same.
    pub(super) fn sample_that_is_no_file(&mut self) -> Subject {
        let sample = &self.facts.sample;
        let Some(url) = sample.url.as_deref().filter(|_| sample.is_url()) else {
            let context = self.sample_context(&IocCore::default());
            return Subject { observable: None, indicator: None, labels: context.labels };
        };
        let found = Found {
            pattern: pattern::equals("url:value", url),
            former_id: None,
            name: url.to_owned(),
            details: SAMPLE_DETAILS.to_owned(),
            value: ObservableValue::Url(url.to_owned()),
        };
        self.subject(found, &IocCore::default(), false).1
    }

    /// What is said of the sample, with its malware among the objects.
    fn sample_context(&mut self, core: &IocCore) -> Context {
        let sample = &self.facts.sample;
        let threat_names = [&core.threat_names[..], &sample.threat_names].concat();
        let classifications = [&core.classifications[..], &sample.classifications].concat();
        let seen = Rc::new(self.analyses.all(&self.labels));
        let verdict = core.verdict.max(sample.verdict);
        let context = self.context_of(verdict, &threat_names, &classifications, seen);
        self.malware(&context);
        context
    }

    /// Maps the techniques.
    pub(super) fn techniques(&mut self) -> Vec<StixId> {
        let mut ids = Vec::new();
        for technique in self.facts.techniques.iter() {
            let name =
                technique.technique.as_deref().map(super::text::one_line).filter(|name| !name.is_empty());
            let id = values::technique_id(technique.technique_id.as_deref());
            let both = id.and_then(|id| name.map(|name| (id, name)).ok_or(LeftOutReason::InvalidTechnique));
            if let Some((mitre_id, name)) = self.valid(both) {
                let phases = analyses::phases(technique.tactics.iter().map(String::as_str));
                let name = self.dated(name.into_owned());
                ids.push(self.add(Body::AttackPattern(AttackPattern { mitre_id, name, phases })));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Links indicator, malware and techniques of the sample. Not those of each IOC: they would be many, each costs the
    /// platform work, and they say nothing more.
    pub(super) fn link_threats(&mut self, subject: &Subject, techniques: &[StixId]) {
        for technique in techniques {
            if let Some(indicator) = subject.indicator {
                self.relate(RelationshipKind::Indicates, indicator, *technique);
            }
            if let Some(family) = self.family {
                self.relate(RelationshipKind::Uses, family, *technique);
            }
        }
    }
}
