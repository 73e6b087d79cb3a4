//! The report on a sample and its analyses.

use crate::analyses;
use crate::mapper::Mapper;
use crate::subject::Subject;
use crate::text::{markdown, markdown_list, name_of};
use crate::values;
use stix::object::{Body, Dated, MalwareAnalysis, RelationshipKind, Report, Stamp};
use stix::{LabelSet, StixId, Timestamp};
use vmray::model::{Submission, Verdict};

impl Mapper<'_> {
    /// Adds the analyses and the report, which come last because they refer to everything else.
    pub(super) fn report(&mut self, subject: &Subject, parents: &[StixId]) {
        let labels = &subject.labels;
        let sample = subject.observable;
        let found = self
            .ids()
            .into_iter()
            .filter(|id| id.kind().is_observable() && Some(*id) != sample && !parents.contains(id));
        let found: Vec<_> = found.collect();
        for submission in &self.facts.submissions {
            let analysis = self.analysis(submission, sample, &found, labels);
            if let Some(family) = self.family {
                self.relate(RelationshipKind::Characterizes, analysis, family);
            }
        }
        let report = self.report_body(labels.clone());
        self.add(report);
    }

    fn analysis(
        &mut self,
        submission: &Submission,
        sample: Option<StixId>,
        found: &[StixId],
        labels: &LabelSet,
    ) -> StixId {
        let verdict = submission.verdict.or(self.facts.sample.verdict);
        let link = values::link(submission.webif_url.as_deref()).or_else(|| self.sample_link());
        let analysis = MalwareAnalysis {
            result_name: self.name(),
            result: result(verdict),
            submitted: submission.created.map(Timestamp::from),
            ended: submission.finish_time.map(Timestamp::from),
            sample,
            observables: found.to_vec(),
            labels: labels.clone(),
            links: link.into_iter().collect(),
            confidence: self.settings.confidence,
            marking: self.settings.marking,
        };
        self.add(Body::MalwareAnalysis(Box::new(analysis)))
    }

    fn report_body(&self, labels: LabelSet) -> Body {
        let submissions = self.facts.submissions.iter();
        let mut links: Vec<_> =
            submissions.filter_map(|one| values::link(one.webif_url.as_deref())).collect();
        links.extend(self.sample_link());
        links.sort_unstable();
        links.dedup();
        let published = self.facts.sample.created.map_or(Timestamp::CONSTANT, Timestamp::from);
        Body::Report(Box::new(Report {
            name: self.name(),
            published,
            modified: self.newest.max(published),
            description: Some(self.dated(self.description())),
            objects: self.ids(),
            labels,
            links,
            confidence: self.settings.confidence,
            marking: self.settings.marking,
        }))
    }

    fn sample_link(&self) -> Option<String> {
        values::link(self.facts.sample.webif_url.as_deref())
    }

    /// The name of report and analyses: from the sample alone, because it makes their ids.
    fn name(&self) -> String {
        let sample = &self.facts.sample;
        let what = if sample.is_url() { sample.url.as_deref() } else { sample.filename.as_deref() };
        match what.map(super::text::one_line).filter(|what| !what.is_empty()) {
            Some(what) => name_of(&format!("VMRay sample {}: {what}", sample.id)),
            None => format!("VMRay sample {}", sample.id),
        }
    }

    /// Markdown: verdict and reason, families, worst threat indicators, counts.
    fn description(&self) -> String {
        let sample = &self.facts.sample;
        let verdict = sample.verdict.map_or("unknown", Verdict::as_str).replace('_', " ");
        let mut text = format!("**Verdict:** {verdict}");
        if let Some(reason) =
            sample.verdict_reason.as_deref().map(markdown).filter(|reason| !reason.is_empty())
        {
            text = format!("{text} ({reason})");
        }
        let lines = [
            ("Threat names", markdown_list(sample.threat_names.iter().map(String::as_str))),
            ("Classifications", markdown_list(sample.classifications.iter().map(String::as_str))),
            ("VTI score", sample.vti_score.map(|score| format!("{score}/100")).unwrap_or_default()),
            ("IOCs", self.counted()),
        ];
        for (what, list) in lines.iter().filter(|(_, list)| !list.is_empty()) {
            text = format!("{text}\n\n**{what}:** {list}");
        }
        let vtis = analyses::list(self.facts.threat_indicators.iter());
        if vtis.is_empty() { text } else { format!("{text}\n\n**Threat indicators:**\n\n{vtis}") }
    }

    fn counted(&self) -> String {
        let counts = self.counts.iter().map(|(what, count)| format!("{count} {}", what.replace('_', " ")));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// STIX's word for a verdict. Of two submissions that make one analysis the worse counts.
fn result(verdict: Option<Verdict>) -> Dated<&'static str> {
    let (rank, word) = match verdict {
        Some(Verdict::Malicious) => (3, "malicious"),
        Some(Verdict::Suspicious) => (2, "suspicious"),
        Some(Verdict::Clean) => (1, "benign"),
        Some(Verdict::NotAvailable) | None => (0, "unknown"),
    };
    Dated::new(Stamp(Timestamp::CONSTANT, rank), word)
}
