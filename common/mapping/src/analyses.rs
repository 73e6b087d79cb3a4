//! What each analysis of a sample saw: threat indicators (VTIs) and techniques. IOCs name the analyses that found
//! them, and so get score, labels and kill chain phases.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::labels::LabelBook;
use crate::settings::LabelKind;
use crate::text::{markdown, one_line};
use crate::values;
use stix::LabelSet;
use stix::object::KillChainPhase;
use vmray::model::{MitreTechnique, ThreatIndicator};

/// MITRE ATT&CK's tactics in their order, which the platform takes from whoever names a phase first.
const TACTICS: [&str; 14] = [
    "reconnaissance",
    "resource-development",
    "initial-access",
    "execution",
    "persistence",
    "privilege-escalation",
    "defense-evasion",
    "credential-access",
    "discovery",
    "lateral-movement",
    "collection",
    "command-and-control",
    "exfiltration",
    "impact",
];

/// How many threat indicators a description lists.
const LISTED: usize = 10;

/// The kill chain phase of a tactic, such as `Defense Evasion`.
pub(super) fn phase(tactic: &str) -> Option<KillChainPhase> {
    let name = one_line(tactic).to_lowercase().replace([' ', '_'], "-");
    if name.is_empty() {
        return None;
    }
    let known = (1..).zip(TACTICS).find(|(_, known)| *known == name);
    Some(match known {
        Some((order, name)) => KillChainPhase { name: Cow::Borrowed(name), order: Some(order) },
        None => KillChainPhase { name: Cow::Owned(name), order: None },
    })
}

/// Phases of tactics, sorted, each once.
pub(super) fn phases<'a>(tactics: impl Iterator<Item = &'a str>) -> Vec<KillChainPhase> {
    tactics.filter_map(phase).collect::<BTreeSet<_>>().into_iter().collect()
}

/// `category:operation` with underscores, as the Python connector labels them.
pub(super) fn vti_label(vti: &ThreatIndicator) -> Option<String> {
    let (category, operation) = (vti.category.as_deref()?.trim(), vti.operation.as_deref()?.trim());
    (!category.is_empty() && !operation.is_empty())
        .then(|| format!("{category}:{operation}").replace(' ', "_"))
}

/// `mitre:T1055`.
pub(super) fn mitre_label(technique: &MitreTechnique) -> Option<String> {
    values::technique_id(technique.technique_id.as_deref()).ok().map(|id| format!("mitre:{id}"))
}

/// What some analyses saw together.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The highest VTI score, 0 to 5.
    pub(super) score: u8,
    pub(super) labels: LabelSet,
    pub(super) phases: Vec<KillChainPhase>,
    /// The worst threat indicators as a Markdown list; empty without any.
    pub(super) list: String,
}

/// Looks up what analyses saw. Most IOCs of a sample come from the same few analyses, so answers are kept.
pub(super) struct Analyses<'a> {
    vtis: &'a [ThreatIndicator],
    techniques: &'a [MitreTechnique],
    known: HashMap<Vec<u64>, Rc<Seen>>,
}

impl<'a> Analyses<'a> {
    pub(super) fn new(vtis: &'a [ThreatIndicator], techniques: &'a [MitreTechnique]) -> Self {
        Self { vtis, techniques, known: HashMap::new() }
    }

    /// What all analyses of the sample saw.
    pub(super) fn all(&self, labels: &LabelBook<'_>) -> Seen {
        look(self.vtis.iter(), self.techniques.iter(), labels)
    }

    /// What these analyses saw.
    pub(super) fn of(&mut self, ids: &[u64], labels: &LabelBook<'_>) -> Rc<Seen> {
        let ids: Vec<u64> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if let Some(seen) = self.known.get(&ids) {
            return Rc::clone(seen);
        }
        let among = |theirs: &[u64]| theirs.iter().any(|id| ids.binary_search(id).is_ok());
        let vtis = self.vtis.iter().filter(|vti| among(&vti.analysis_ids));
        let techniques = self.techniques.iter().filter(|technique| among(&technique.analysis_ids));
        let seen = Rc::new(look(vtis, techniques, labels));
        self.known.insert(ids, Rc::clone(&seen));
        seen
    }
}

fn look<'a>(
    vtis: impl Iterator<Item = &'a ThreatIndicator> + Clone,
    techniques: impl Iterator<Item = &'a MitreTechnique> + Clone,
    labels: &LabelBook<'_>,
) -> Seen {
    let vti_labels = vtis.clone().filter_map(|vti| labels.get(LabelKind::Vti, &vti_label(vti)?));
    let mitre_labels =
        techniques.clone().filter_map(|technique| labels.get(LabelKind::Mitre, &mitre_label(technique)?));
    Seen {
        score: vtis.clone().filter_map(|vti| vti.score).max().unwrap_or(0).min(5),
        labels: vti_labels.chain(mitre_labels).collect(),
        phases: phases(techniques.flat_map(|technique| technique.tactics.iter().map(String::as_str))),
        list: list(vtis),
    }
}

/// The worst threat indicators, worst first.
pub(super) fn list<'a>(vtis: impl Iterator<Item = &'a ThreatIndicator>) -> String {
    // Several analyses may see the same with different scores: the worst counts.
    let mut worst: BTreeMap<String, u8> = BTreeMap::new();
    for vti in vtis {
        if let (Some(category), Some(operation)) = (vti.category.as_deref(), vti.operation.as_deref()) {
            let score = worst.entry(format!("{}: {}", markdown(category), markdown(operation))).or_default();
            *score = vti.score.unwrap_or(0).min(5).max(*score);
        }
    }
    let mut lines: Vec<_> = worst.into_iter().collect();
    // Stable: those of one score stay in the order of their texts.
    lines.sort_by_key(|(_, score)| Reverse(*score));
    let lines = lines.into_iter().take(LISTED);
    lines.map(|(line, score)| format!("- {line} ({score}/5)")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tactics_become_phases_with_their_place_in_the_chain() {
        let known =
            phases(["Defense Evasion", "Impact", "Defense Evasion", "Something New", " "].into_iter());
        let known: Vec<_> = known.iter().map(|phase| (&*phase.name, phase.order)).collect();
        assert_eq!(known, [("defense-evasion", Some(7)), ("impact", Some(14)), ("something-new", None)]);
        assert_eq!(phase("Reconnaissance").and_then(|phase| phase.order), Some(1));
    }
}
