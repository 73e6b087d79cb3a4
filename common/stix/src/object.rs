//! The objects of a bundle. How two versions of one are merged is in `merge`, how they are written in `write`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::author::VMRAY;
use crate::id::StixId;
use crate::label::{Color, LabelName, LabelSet};
use crate::marking::TlpMarking;
use crate::standard_id;
use crate::timestamp::Timestamp;

/// The value of a malware analysis's `product`.
pub(super) const PRODUCT: &str = "vmray";

/// When a text was true. The number only separates texts of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub Timestamp, pub u64);

/// A value of which the newest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dated<T> {
    pub at: Stamp,
    pub value: T,
}

impl<T> Dated<T> {
    /// A value as of a moment.
    pub fn new(at: Stamp, value: T) -> Self {
        Self { at, value }
    }
}

/// An object of a bundle, with its id: computing that once is a good part of what a bundle costs.
#[derive(Debug, Clone)]
pub struct Object {
    pub(super) id: StixId,
    pub(super) body: Body,
    /// How many bytes it takes as JSON, once that has been asked.
    pub(super) size: OnceLock<usize>,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.body == other.body
    }
}

/// What an object is. What belongs to VMRay carries its author and the marking; what is shared with other
/// sources (malware, attack patterns, countries) carries neither.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Label(Label),
    Identity,
    Malware(Malware),
    AttackPattern(AttackPattern),
    Country(Country),
    Observable(Observable),
    Indicator(Box<Indicator>),
    MalwareAnalysis(Box<MalwareAnalysis>),
    Relationship(Relationship),
    Report(Box<Report>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    pub name: LabelName,
    pub color: Color,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Malware {
    pub name: Dated<String>,
    /// What kinds of malware it is, sorted.
    pub malware_types: Vec<Cow<'static, str>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AttackPattern {
    /// Its number, upper case.
    pub mitre_id: String,
    pub name: Dated<String>,
    /// Its tactics, sorted.
    pub phases: Vec<KillChainPhase>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KillChainPhase {
    /// Such as `defense-evasion`.
    pub name: Cow<'static, str>,
    /// Its place in the chain, where known.
    pub order: Option<u8>,
}

/// A country, from a table: it says the same whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country {
    pub name: &'static str,
    /// Its ISO 3166-1 code of two letters.
    pub code: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Observable {
    pub value: ObservableValue,
    /// 0 to 100. Auxiliary observables have none.
    pub score: Option<u8>,
    /// Markdown for people.
    pub description: Option<Dated<String>>,
    pub labels: LabelSet,
    /// Who may see it.
    pub marking: TlpMarking,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ObservableValue {
    File(Box<File>),
    DomainName(String),
    Url(String),
    Ipv4(String),
    Ipv6(String),
    Email { address: String, display_name: Option<Dated<String>> },
    Mutex(String),
    Process { command_line: String },
    RegistryKey(String),
}

/// A file. It has a hash or a name, else it could not be identified.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// MD5, lower case.
    pub md5: Option<String>,
    /// SHA-1, lower case.
    pub sha1: Option<String>,
    /// SHA-256, lower case.
    pub sha256: Option<String>,
    /// Its base name.
    pub name: Option<Dated<String>>,
    /// All its base names, that one included: the platform adds it, which would be a change at the second import.
    pub names: BTreeSet<String>,
    /// In bytes.
    pub size: Option<Dated<u32>>,
    pub mime_type: Option<Dated<String>>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Indicator {
    /// For people.
    pub name: String,
    /// STIX pattern, which makes the id.
    pub pattern: String,
    /// An id under which older platforms may know it.
    pub former_id: Option<StixId>,
    /// OpenCTI's name of the type of observable it is about.
    pub main_observable_type: &'static str,
    /// STIX vocabulary, sorted.
    pub indicator_types: Vec<&'static str>,
    /// The newest analysis.
    pub valid_from: Timestamp,
    /// 0 to 100.
    pub score: u8,
    /// Markdown for people.
    pub description: Option<Dated<String>>,
    /// Tactics, sorted.
    pub phases: Vec<KillChainPhase>,
    pub labels: LabelSet,
    /// 0 to 100; the platform's own choice when absent.
    pub confidence: Option<u8>,
    /// Who may see it.
    pub marking: TlpMarking,
}

/// The analysis of a sample in one submission.
#[derive(Debug, Clone, PartialEq)]
pub struct MalwareAnalysis {
    /// For people; the same as the report's.
    pub result_name: String,
    /// STIX vocabulary.
    pub result: Dated<&'static str>,
    /// When it was submitted.
    pub submitted: Option<Timestamp>,
    /// When it was done.
    pub ended: Option<Timestamp>,
    /// What was analysed.
    pub sample: Option<StixId>,
    /// What was found, sorted.
    pub observables: Vec<StixId>,
    pub labels: LabelSet,
    /// Links to VMRay, sorted.
    pub links: Vec<String>,
    /// 0 to 100; the platform's own choice when absent.
    pub confidence: Option<u8>,
    /// Who may see it.
    pub marking: TlpMarking,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// For people; makes the id.
    pub name: String,
    /// When VMRay first saw the sample; makes the id.
    pub published: Timestamp,
    /// The newest analysis.
    pub modified: Timestamp,
    /// Markdown for people.
    pub description: Option<Dated<String>>,
    /// Everything about the sample, sorted.
    pub objects: Vec<StixId>,
    pub labels: LabelSet,
    /// Links to VMRay, sorted.
    pub links: Vec<String>,
    /// 0 to 100; the platform's own choice when absent.
    pub confidence: Option<u8>,
    /// Who may see it.
    pub marking: TlpMarking,
}

/// A relationship between two objects. Without times: those would take part in its id.
#[derive(Debug, Clone, PartialEq)]
pub struct Relationship {
    id: StixId,
    kind: RelationshipKind,
    source: StixId,
    target: StixId,
    pub(super) confidence: Option<u8>,
    pub(super) marking: TlpMarking,
}

/// How two objects belong together.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "kebab-case", ascii_case_insensitive)]
pub enum RelationshipKind {
    BasedOn,
    Characterizes,
    Drops,
    Indicates,
    LocatedAt,
    RelatedTo,
    ResolvesTo,
    Uses,
}

impl RelationshipKind {
    pub const ALL: &[Self] = Self::VARIANTS;

    /// The value of `relationship_type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Relationship {
    #[must_use]
    pub fn new(
        kind: RelationshipKind,
        source: StixId,
        target: StixId,
        confidence: Option<u8>,
        marking: TlpMarking,
    ) -> Self {
        let id = standard_id::relationship(kind.as_str(), source, target);
        Self { id, kind, source, target, confidence, marking }
    }

    #[must_use]
    pub fn kind(&self) -> RelationshipKind {
        self.kind
    }

    #[must_use]
    pub fn source(&self) -> StixId {
        self.source
    }

    #[must_use]
    pub fn target(&self) -> StixId {
        self.target
    }
}

impl ObservableValue {
    #[must_use]
    pub fn id(&self) -> StixId {
        match self {
            ObservableValue::File(file) => file.id(),
            ObservableValue::DomainName(value) => standard_id::domain_name(value),
            ObservableValue::Url(value) => standard_id::url(value),
            ObservableValue::Ipv4(value) => standard_id::ipv4_addr(value),
            ObservableValue::Ipv6(value) => standard_id::ipv6_addr(value),
            ObservableValue::Email { address, .. } => standard_id::email_addr(address),
            ObservableValue::Mutex(name) => standard_id::mutex(name),
            ObservableValue::Process { command_line } => standard_id::process(command_line),
            ObservableValue::RegistryKey(key) => standard_id::windows_registry_key(key),
        }
    }
}

impl File {
    #[must_use]
    pub fn id(&self) -> StixId {
        let hashes = [("MD5", &self.md5), ("SHA-1", &self.sha1), ("SHA-256", &self.sha256)];
        match hashes.into_iter().find_map(|(algorithm, hash)| Some((algorithm, hash.as_deref()?))) {
            Some((algorithm, hash)) => standard_id::file_by_hash(algorithm, hash),
            None => standard_id::file_by_name(self.name.as_ref().map_or("", |name| &name.value)),
        }
    }

    #[must_use]
    pub fn has_hash(&self) -> bool {
        self.md5.is_some() || self.sha1.is_some() || self.sha256.is_some()
    }
}

impl Body {
    fn id(&self) -> StixId {
        match self {
            Body::Label(label) => standard_id::label(label.name.as_str()),
            Body::Identity => VMRAY,
            Body::Malware(malware) => standard_id::malware(&malware.name.value),
            Body::AttackPattern(pattern) => standard_id::attack_pattern(&pattern.mitre_id),
            Body::Country(country) => standard_id::country(country.name),
            Body::Observable(observable) => observable.value.id(),
            Body::Indicator(indicator) => standard_id::indicator(&indicator.pattern),
            Body::MalwareAnalysis(analysis) => {
                standard_id::malware_analysis(PRODUCT, &analysis.result_name, analysis.submitted)
            }
            Body::Relationship(relationship) => relationship.id,
            Body::Report(report) => standard_id::report(&report.name, report.published),
        }
    }
}

impl From<Body> for Object {
    fn from(body: Body) -> Self {
        Self { id: body.id(), body, size: OnceLock::new() }
    }
}

impl Object {
    #[must_use]
    pub fn id(&self) -> StixId {
        self.id
    }

    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// A smaller version of itself that refers only to what `keep` holds; of reports and analyses.
    pub(super) fn with_refs(&self, keep: impl Fn(&StixId) -> bool) -> Object {
        let mut smaller = self.clone();
        match &mut smaller.body {
            Body::MalwareAnalysis(analysis) => analysis.observables.retain(keep),
            Body::Report(report) => report.objects.retain(keep),
            _ => return smaller,
        }
        smaller.size.take();
        smaller
    }

    /// Where it stands in a bundle: what others name comes first.
    #[must_use]
    pub fn order(&self) -> (u8, StixId) {
        (self.rank(), self.id)
    }

    fn rank(&self) -> u8 {
        match &self.body {
            Body::Label(_) => 0,
            Body::Identity => 1,
            Body::Malware(_) | Body::AttackPattern(_) | Body::Country(_) => 2,
            Body::Observable(_) => 3,
            Body::Indicator(_) => 4,
            Body::MalwareAnalysis(_) => 5,
            Body::Relationship(_) => 6,
            Body::Report(_) => 7,
        }
    }

    /// Everything it refers to in the bundle. The marking is not in the bundle.
    #[must_use]
    pub fn refs(&self) -> Vec<StixId> {
        match &self.body {
            Body::Label(_)
            | Body::Identity
            | Body::Malware(_)
            | Body::AttackPattern(_)
            | Body::Country(_) => Vec::new(),
            Body::Observable(_) | Body::Indicator(_) => vec![VMRAY],
            Body::Relationship(relationship) => vec![VMRAY, relationship.source, relationship.target],
            Body::MalwareAnalysis(analysis) => {
                let found = analysis.observables.iter().copied();
                std::iter::once(VMRAY).chain(analysis.sample).chain(found).collect()
            }
            Body::Report(report) => std::iter::once(VMRAY).chain(report.objects.iter().copied()).collect(),
        }
    }

    #[must_use]
    pub fn labels(&self) -> Option<&LabelSet> {
        match &self.body {
            Body::Observable(observable) => Some(&observable.labels),
            Body::Indicator(indicator) => Some(&indicator.labels),
            Body::MalwareAnalysis(analysis) => Some(&analysis.labels),
            Body::Report(report) => Some(&report.labels),
            _ => None,
        }
    }
}
