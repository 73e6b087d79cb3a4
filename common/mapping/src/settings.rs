//! What an operator may choose about the mapping.

use std::collections::BTreeSet;

use stix::object::RelationshipKind;
use stix::{Color, TlpMarking};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};
use vmray::model::Verdict;

/// Verdicts that pass. Unknown verdicts never do.
pub type VerdictSet = BTreeSet<Verdict>;

/// The choices. The default is the product's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingSettings {
    /// Which samples are taken; asked by the caller, before it fetches the rest.
    pub sample_verdicts: VerdictSet,
    /// Which IOCs are taken, and whether the sample gets an indicator of its own.
    pub iocs_verdicts: VerdictSet,
    /// Which types of IOC are taken.
    pub ioc_types: BTreeSet<IocType>,
    /// Which labels are made.
    pub labels: BTreeSet<LabelKind>,
    /// Which relationships are made. What they would have connected is there all the same, and in the report.
    pub relationships: BTreeSet<RelationshipKind>,
    /// How the labels look.
    pub label_style: LabelStyle,
    /// Who may see VMRay's objects.
    pub marking: TlpMarking,
    /// 0 to 100; none leaves it to the platform.
    pub confidence: Option<u8>,
}

impl Default for MappingSettings {
    fn default() -> Self {
        Self {
            sample_verdicts: VerdictSet::from([Verdict::Malicious]),
            iocs_verdicts: VerdictSet::from([Verdict::Malicious]),
            // File names alone match too much that is harmless.
            ioc_types: IocType::ALL.iter().copied().filter(|kind| *kind != IocType::Filenames).collect(),
            labels: LabelKind::ALL.iter().copied().collect(),
            relationships: RelationshipKind::ALL.iter().copied().collect(),
            label_style: LabelStyle::default(),
            marking: TlpMarking::default(),
            confidence: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelStyle {
    pub threat_names: Color,
    pub classifications: Color,
    pub vti: Color,
    pub mitre: Color,
}

impl Default for LabelStyle {
    fn default() -> Self {
        Self {
            threat_names: Color::rgb(0xd6, 0x09, 0x04),
            classifications: Color::rgb(0xfa, 0x56, 0x0a),
            vti: Color::rgb(0x40, 0xf5, 0xef),
            mitre: Color::rgb(0xa9, 0xf7, 0x23),
        }
    }
}

impl LabelStyle {
    /// The colour of one kind.
    #[must_use]
    pub fn of(&self, kind: LabelKind) -> Color {
        match kind {
            LabelKind::ThreatNames => self.threat_names,
            LabelKind::Classifications => self.classifications,
            LabelKind::Vti => self.vti,
            LabelKind::Mitre => self.mitre,
        }
    }
}

/// The types of IOC, by VMRay's names of their lists.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "snake_case", ascii_case_insensitive)]
pub enum IocType {
    Files,
    /// File names without a file.
    Filenames,
    Processes,
    Domains,
    Urls,
    Mutexes,
    /// Registry keys.
    Registry,
    Ips,
    /// E-mails, by their senders.
    Emails,
    EmailAddresses,
}

impl IocType {
    pub const ALL: &[Self] = Self::VARIANTS;

    /// Its name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, VariantArray)]
#[strum(serialize_all = "snake_case", ascii_case_insensitive)]
pub enum LabelKind {
    ThreatNames,
    Classifications,
    /// VMRay's threat indicators.
    Vti,
    Mitre,
}

impl LabelKind {
    pub const ALL: &[Self] = Self::VARIANTS;
}
