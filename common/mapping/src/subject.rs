//! The sample itself: its observable, its indicator, its malware, its techniques.

use std::rc::Rc;

use crate::analyses;
use crate::mapper::{Found, Mapper};
use crate::values;
use stix::object::{AttackPattern, Body, ObservableValue, RelationshipKind};
use stix::{LabelSet, LeftOutReason, StixId, pattern};
use vmray::model::IocCore;

/// What the description of the sample's observable begins with.
pub(super) const SAMPLE_DETAILS: &str = "Sample analysed by VMRay.";

/// What the sample became.
pub(super) struct Subject {
    pub(super) observable: StixId,
    /// If the sample's verdict, or that of an IOC that is the same file, makes it an indicator.
    pub(super) indicator: Option<StixId>,
    /// The malware that it is.
    pub(super) families: Vec<StixId>,
    pub(super) labels: LabelSet,
}

impl Mapper<'_> {
    /// Maps the sample, about which an IOC may say more.
    pub(super) fn subject(&mut self, found: Found, core: &IocCore, is_ioc: bool) -> Subject {
        let sample = &self.facts.sample;
        let threat_names = [&core.threat_names[..], &sample.threat_names].concat();
        let classifications = [&core.classifications[..], &sample.classifications].concat();
        let seen = Rc::new(self.analyses.all(&self.labels));
        let verdict = core.verdict.max(sample.verdict);
        let context = self.context_of(verdict, &threat_names, &classifications, seen);
        let families = self.malware(&context);
        let wanted = sample.verdict.is_some_and(|verdict| self.settings.iocs_verdicts.contains(&verdict));
        let (observable, indicator) = if wanted || is_ioc {
            let pair = self.found(found, &context);
            (pair.observable, Some(pair.indicator))
        } else {
            (self.observable(found.value, &context, &found.details), None)
        };
        Subject { observable, indicator, families, labels: context.labels }
    }

    /// Maps a sample that is a URL.
    pub(super) fn sample_url(&mut self) -> Option<Subject> {
        let sample = &self.facts.sample;
        if !sample.is_url() {
            return None;
        }
        let url = self.valid(
            values::non_empty(sample.url.as_deref()).map_err(|_| LeftOutReason::SampleWithoutIdentity),
        )?;
        let found = Found {
            pattern: pattern::equals("url:value", url),
            former_id: None,
            name: url.to_owned(),
            details: SAMPLE_DETAILS.to_owned(),
            value: ObservableValue::Url(url.to_owned()),
        };
        Some(self.subject(found, &IocCore::default(), false))
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
    pub(super) fn link_threats(&mut self, subject: Option<&Subject>, techniques: &[StixId]) -> Vec<StixId> {
        let families = self.sample_families(subject);
        for technique in techniques {
            if let Some(indicator) = subject.and_then(|subject| subject.indicator) {
                self.relate(RelationshipKind::Indicates, indicator, *technique);
            }
            for family in &families {
                self.relate(RelationshipKind::Uses, *family, *technique);
            }
        }
        families
    }

    /// The families of the sample; where VMRay names none for the sample itself, those of its IOCs.
    fn sample_families(&mut self, subject: Option<&Subject>) -> Vec<StixId> {
        match subject {
            Some(subject) if !subject.families.is_empty() => subject.families.clone(),
            _ => self.ids().into_iter().filter(|id| id.kind() == stix::ObjectKind::Malware).collect(),
        }
    }
}
