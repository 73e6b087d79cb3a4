//! The objects of a bundle, how two versions of one are merged, and how they are written.
//!
//! Merging is commutative, associative and idempotent, so it does not matter in which order samples arrive: lists are
//! united and sorted, scores and dates grow, and of texts the newest sample's stays ([`Dated`]).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::sync::OnceLock;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::id::StixId;
use super::label::{Color, LabelName, LabelSet};
use super::marking::TlpMarking;
use super::timestamp::Timestamp;
use super::{VMRAY, VMRAY_NAME, ids};

/// When a text was true. The number only separates texts of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub Timestamp, pub u64);

/// A value of which the newest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dated<T> {
    /// Since when.
    pub at: Stamp,
    /// The value.
    pub value: T,
}

impl<T> Dated<T> {
    /// A value as of a moment.
    pub fn new(at: Stamp, value: T) -> Self {
        Self { at, value }
    }
}

/// Keeps the greater; of dated values that is the newer.
fn keep_max<T: Ord>(mine: &mut T, other: T) {
    if other > *mine {
        *mine = other;
    }
}

fn unite<T: Ord>(mine: &mut Vec<T>, other: Vec<T>) {
    if *mine != other && !other.is_empty() {
        mine.extend(other);
        mine.sort_unstable();
        mine.dedup();
    }
}

/// An object of a bundle, with its id: computing that once is a good part of what a bundle costs.
#[derive(Debug, Clone)]
pub struct Object {
    id: StixId,
    body: Body,
    /// How many bytes it takes as JSON, once somebody has asked.
    size: OnceLock<usize>,
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
    /// A label with its colour.
    Label(Label),
    /// The author, VMRay.
    Identity,
    /// A malware family.
    Malware(Malware),
    /// A MITRE ATT&CK technique.
    AttackPattern(AttackPattern),
    /// A country.
    Country(Country),
    /// An observable.
    Observable(Observable),
    /// An indicator.
    Indicator(Box<Indicator>),
    /// The analysis of a sample.
    MalwareAnalysis(Box<MalwareAnalysis>),
    /// A relationship.
    Relationship(Relationship),
    /// The report on a sample.
    Report(Box<Report>),
}

/// A label.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// Its text.
    pub name: LabelName,
    /// Its colour.
    pub color: Color,
}

/// A malware family.
#[derive(Debug, Clone, PartialEq)]
pub struct Malware {
    /// Its name.
    pub name: Dated<String>,
    /// What kinds of malware it is, sorted.
    pub malware_types: Vec<Cow<'static, str>>,
}

/// A MITRE ATT&CK technique.
#[derive(Debug, Clone, PartialEq)]
pub struct AttackPattern {
    /// Its number, upper case.
    pub mitre_id: String,
    /// Its name.
    pub name: Dated<String>,
    /// Its tactics, sorted.
    pub phases: Vec<KillChainPhase>,
}

/// A tactic of MITRE ATT&CK.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KillChainPhase {
    /// Such as `defense-evasion`.
    pub name: Cow<'static, str>,
    /// Its place in the chain, where known.
    pub order: Option<u8>,
}

/// A country.
#[derive(Debug, Clone, PartialEq)]
pub struct Country {
    /// Its name.
    pub name: Dated<String>,
    /// Its ISO code, where known.
    pub code: Option<Dated<String>>,
}

/// An observable.
#[derive(Debug, Clone, PartialEq)]
pub struct Observable {
    /// What was observed.
    pub value: ObservableValue,
    /// 0 to 100. Auxiliary observables have none.
    pub score: Option<u8>,
    /// Markdown for people.
    pub description: Option<Dated<String>>,
    /// Labels.
    pub labels: LabelSet,
    /// Who may see it.
    pub marking: TlpMarking,
}

/// What was observed.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of STIX")]
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
    /// MIME type.
    pub mime_type: Option<Dated<String>>,
}

/// An indicator.
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
    /// Labels.
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
    /// Labels.
    pub labels: LabelSet,
    /// Links to VMRay, sorted.
    pub links: Vec<String>,
    /// 0 to 100; the platform's own choice when absent.
    pub confidence: Option<u8>,
    /// Who may see it.
    pub marking: TlpMarking,
}

/// The report on a sample.
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
    /// Labels.
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
    confidence: Option<u8>,
    marking: TlpMarking,
}

/// How two objects belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of STIX")]
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
    /// The value of `relationship_type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RelationshipKind::BasedOn => "based-on",
            RelationshipKind::Characterizes => "characterizes",
            RelationshipKind::Drops => "drops",
            RelationshipKind::Indicates => "indicates",
            RelationshipKind::LocatedAt => "located-at",
            RelationshipKind::RelatedTo => "related-to",
            RelationshipKind::ResolvesTo => "resolves-to",
            RelationshipKind::Uses => "uses",
        }
    }
}

impl Relationship {
    /// Links two objects.
    #[must_use]
    pub fn new(
        kind: RelationshipKind,
        source: StixId,
        target: StixId,
        confidence: Option<u8>,
        marking: TlpMarking,
    ) -> Self {
        let id = ids::relationship(kind.as_str(), source, target);
        Self { id, kind, source, target, confidence, marking }
    }

    /// How they belong together.
    #[must_use]
    pub fn kind(&self) -> RelationshipKind {
        self.kind
    }

    /// From where.
    #[must_use]
    pub fn source(&self) -> StixId {
        self.source
    }

    /// To where.
    #[must_use]
    pub fn target(&self) -> StixId {
        self.target
    }
}

impl ObservableValue {
    /// The id of the observable.
    #[must_use]
    pub fn id(&self) -> StixId {
        match self {
            ObservableValue::File(file) => file.id(),
            ObservableValue::DomainName(value) => ids::domain_name(value),
            ObservableValue::Url(value) => ids::url(value),
            ObservableValue::Ipv4(value) => ids::ipv4_addr(value),
            ObservableValue::Ipv6(value) => ids::ipv6_addr(value),
            ObservableValue::Email { address, .. } => ids::email_addr(address),
            ObservableValue::Mutex(name) => ids::mutex(name),
            ObservableValue::Process { command_line } => ids::process(command_line),
            ObservableValue::RegistryKey(key) => ids::windows_registry_key(key),
        }
    }

    fn merge(&mut self, other: ObservableValue) {
        match (self, other) {
            (ObservableValue::File(mine), ObservableValue::File(other)) => mine.merge(*other),
            (
                ObservableValue::Email { display_name: mine, .. },
                ObservableValue::Email { display_name: other, .. },
            ) => keep_max(mine, other),
            // All others are their id and nothing else.
            _ => {}
        }
    }
}

impl File {
    /// The id of the file.
    #[must_use]
    pub fn id(&self) -> StixId {
        let hashes = [("MD5", &self.md5), ("SHA-1", &self.sha1), ("SHA-256", &self.sha256)];
        match hashes.into_iter().find_map(|(algorithm, hash)| Some((algorithm, hash.as_deref()?))) {
            Some((algorithm, hash)) => ids::file_by_hash(algorithm, hash),
            None => ids::file_by_name(self.name.as_ref().map_or("", |name| &name.value)),
        }
    }

    /// Whether any hash is known.
    #[must_use]
    pub fn has_hash(&self) -> bool {
        self.md5.is_some() || self.sha1.is_some() || self.sha256.is_some()
    }

    /// Takes over what another version of the same file knows.
    pub fn merge(&mut self, other: File) {
        keep_max(&mut self.md5, other.md5);
        keep_max(&mut self.sha1, other.sha1);
        keep_max(&mut self.sha256, other.sha256);
        keep_max(&mut self.name, other.name);
        keep_max(&mut self.size, other.size);
        keep_max(&mut self.mime_type, other.mime_type);
        self.names.extend(other.names);
    }
}

impl Body {
    fn id(&self) -> StixId {
        match self {
            Body::Label(label) => ids::label(label.name.as_str()),
            Body::Identity => VMRAY,
            Body::Malware(malware) => ids::malware(&malware.name.value),
            Body::AttackPattern(pattern) => ids::attack_pattern(&pattern.mitre_id),
            Body::Country(country) => ids::country(&country.name.value),
            Body::Observable(observable) => observable.value.id(),
            Body::Indicator(indicator) => ids::indicator(&indicator.pattern),
            Body::MalwareAnalysis(analysis) => {
                ids::malware_analysis(PRODUCT, &analysis.result_name, analysis.submitted)
            }
            Body::Relationship(relationship) => relationship.id,
            Body::Report(report) => ids::report(&report.name, report.published),
        }
    }
}

impl From<Body> for Object {
    fn from(body: Body) -> Self {
        Self { id: body.id(), body, size: OnceLock::new() }
    }
}

impl Object {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StixId {
        self.id
    }

    /// What it is.
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

    /// How many bytes it takes as JSON.
    pub(super) fn size(&self) -> usize {
        *self.size.get_or_init(|| {
            let mut counter = Counter(0);
            // Counting cannot fail.
            let _ = serde_json::to_writer(&mut counter, self);
            counter.0
        })
    }

    /// Where it stands in a bundle: what others name comes first.
    pub(crate) fn order(&self) -> (u8, StixId) {
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

    /// The labels it names.
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

    /// Takes over what another version of the same object knows. Objects with different ids are left alone.
    pub fn merge(&mut self, other: Object) {
        if self.id != other.id {
            return;
        }
        self.size.take();
        match (&mut self.body, other.body) {
            (Body::Label(mine), Body::Label(other)) => {
                // Of spellings and colours the smallest, as in a set of labels.
                mine.name = mine.name.clone().min(other.name);
                mine.color = mine.color.min(other.color);
            }
            (Body::Malware(mine), Body::Malware(other)) => {
                keep_max(&mut mine.name, other.name);
                unite(&mut mine.malware_types, other.malware_types);
            }
            (Body::AttackPattern(mine), Body::AttackPattern(other)) => {
                keep_max(&mut mine.name, other.name);
                unite(&mut mine.phases, other.phases);
            }
            (Body::Country(mine), Body::Country(other)) => {
                keep_max(&mut mine.name, other.name);
                keep_max(&mut mine.code, other.code);
            }
            (Body::Observable(mine), Body::Observable(other)) => {
                mine.value.merge(other.value);
                keep_max(&mut mine.score, other.score);
                keep_max(&mut mine.description, other.description);
                mine.labels.merge(&other.labels);
            }
            (Body::Indicator(mine), Body::Indicator(other)) => mine.merge(*other),
            (Body::MalwareAnalysis(mine), Body::MalwareAnalysis(other)) => mine.merge(*other),
            (Body::Report(mine), Body::Report(other)) => mine.merge(*other),
            // The identity is a constant, and a relationship is its id and nothing else.
            _ => {}
        }
    }
}

impl Indicator {
    fn merge(&mut self, other: Indicator) {
        keep_max(&mut self.former_id, other.former_id);
        keep_max(&mut self.valid_from, other.valid_from);
        keep_max(&mut self.score, other.score);
        keep_max(&mut self.description, other.description);
        unite(&mut self.indicator_types, other.indicator_types);
        unite(&mut self.phases, other.phases);
        self.labels.merge(&other.labels);
    }
}

impl MalwareAnalysis {
    fn merge(&mut self, other: MalwareAnalysis) {
        keep_max(&mut self.result, other.result);
        keep_max(&mut self.ended, other.ended);
        keep_max(&mut self.sample, other.sample);
        unite(&mut self.observables, other.observables);
        unite(&mut self.links, other.links);
        self.labels.merge(&other.labels);
    }
}

impl Report {
    fn merge(&mut self, other: Report) {
        keep_max(&mut self.modified, other.modified);
        keep_max(&mut self.description, other.description);
        unite(&mut self.objects, other.objects);
        unite(&mut self.links, other.links);
        self.labels.merge(&other.labels);
    }
}

/// Counts what would be written.
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The value of a malware analysis's `product`.
const PRODUCT: &str = "vmray";
const RELIABILITY: &str = "A - Completely reliable";
const MITRE: &str = "mitre-attack";
/// The confidence of what is shared with other sources: theirs should win.
const SHARED_CONFIDENCE: u8 = 30;

/// Writes the members of one object, leaving out what is empty.
struct Members<M>(M);

impl<M: SerializeMap> Members<M> {
    fn put(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), M::Error> {
        self.0.serialize_entry(name, value)
    }
    fn put_some<T: Serialize>(&mut self, name: &'static str, value: Option<&T>) -> Result<(), M::Error> {
        value.map_or(Ok(()), |value| self.put(name, value))
    }
    fn put_dated<T: Serialize>(
        &mut self,
        name: &'static str,
        value: Option<&Dated<T>>,
    ) -> Result<(), M::Error> {
        value.map_or(Ok(()), |dated| self.put(name, &dated.value))
    }
    fn put_list<T: Serialize>(&mut self, name: &'static str, list: &[T]) -> Result<(), M::Error> {
        if list.is_empty() { Ok(()) } else { self.put(name, list) }
    }
    fn put_labels(&mut self, labels: &LabelSet) -> Result<(), M::Error> {
        if labels.is_empty() { Ok(()) } else { self.put("labels", labels) }
    }
    fn put_dates(&mut self, created: Timestamp, modified: Timestamp) -> Result<(), M::Error> {
        self.put("created", &created)?;
        self.put("modified", &modified)
    }
    /// What marks an object as VMRay's.
    fn put_ours(&mut self, marking: TlpMarking) -> Result<(), M::Error> {
        self.put("created_by_ref", &VMRAY)?;
        self.put("object_marking_refs", &[marking.id()])
    }
    fn put_links(&mut self, links: &[String]) -> Result<(), M::Error> {
        if links.is_empty() {
            return Ok(());
        }
        let references: Vec<_> =
            links.iter().map(|url| Reference { external_id: None, source: VMRAY_NAME, url }).collect();
        self.put("external_references", &references)
    }
}

struct Reference<'a> {
    source: &'a str,
    external_id: Option<&'a str>,
    url: &'a str,
}

impl Serialize for Reference<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = Members(serializer.serialize_map(None)?);
        members.put("source_name", self.source)?;
        members.put_some("external_id", self.external_id.as_ref())?;
        members.put("url", self.url)?;
        members.0.end()
    }
}

impl Serialize for KillChainPhase {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = Members(serializer.serialize_map(None)?);
        members.put("kill_chain_name", MITRE)?;
        members.put("phase_name", &self.name)?;
        members.put_some("x_opencti_order", self.order.as_ref())?;
        members.0.end()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = self.id;
        let mut members = Members(serializer.serialize_map(None)?);
        members.put("type", id.kind().as_str())?;
        members.put("spec_version", "2.1")?;
        members.put("id", &id)?;
        match &self.body {
            Body::Label(label) => label.write(&mut members)?,
            Body::Identity => write_identity(&mut members)?,
            Body::Malware(malware) => malware.write(&mut members)?,
            Body::AttackPattern(pattern) => pattern.write(&mut members)?,
            Body::Country(country) => country.write(&mut members)?,
            Body::Observable(observable) => observable.write(&mut members)?,
            Body::Indicator(indicator) => indicator.write(&mut members)?,
            Body::MalwareAnalysis(analysis) => analysis.write(&mut members)?,
            Body::Relationship(relationship) => relationship.write(&mut members)?,
            Body::Report(report) => report.write(&mut members)?,
        }
        members.0.end()
    }
}

impl Label {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        members.put("value", &self.name)?;
        members.put("color", &self.color)
    }
}

fn write_identity<M: SerializeMap>(members: &mut Members<M>) -> Result<(), M::Error> {
    members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
    members.put("name", VMRAY_NAME)?;
    members.put("identity_class", "organization")?;
    members.put("x_opencti_reliability", RELIABILITY)
}

impl Malware {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
        members.put("name", &self.name.value)?;
        members.put("is_family", &true)?;
        members.put_list("malware_types", &self.malware_types)?;
        members.put("confidence", &SHARED_CONFIDENCE)
    }
}

impl AttackPattern {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        // A sub-technique's page lies under its technique's.
        let url = format!("https://attack.mitre.org/techniques/{}", self.mitre_id.replace('.', "/"));
        members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
        members.put("name", &self.name.value)?;
        members.put("x_mitre_id", &self.mitre_id)?;
        members.put_list("kill_chain_phases", &self.phases)?;
        members.put("confidence", &SHARED_CONFIDENCE)?;
        let reference = Reference { source: MITRE, external_id: Some(&self.mitre_id), url: &url };
        members.put("external_references", &[reference])
    }
}

impl Country {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        let code = self.code.as_ref().unwrap_or(&self.name);
        members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
        members.put("name", &self.name.value)?;
        members.put("country", &code.value)?;
        members.put("x_opencti_location_type", "Country")?;
        members.put("confidence", &SHARED_CONFIDENCE)
    }
}

impl Observable {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        self.value.write(members)?;
        members.put_some("x_opencti_score", self.score.as_ref())?;
        members.put_dated("x_opencti_description", self.description.as_ref())?;
        members.put_labels(&self.labels)?;
        members.put_ours(self.marking)
    }
}

impl ObservableValue {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        match self {
            ObservableValue::File(file) => file.write(members),
            ObservableValue::Email { address, display_name } => {
                members.put("value", address)?;
                members.put_dated("display_name", display_name.as_ref())
            }
            ObservableValue::DomainName(value)
            | ObservableValue::Url(value)
            | ObservableValue::Ipv4(value)
            | ObservableValue::Ipv6(value) => members.put("value", value),
            ObservableValue::Mutex(name) => members.put("name", name),
            ObservableValue::Process { command_line } => members.put("command_line", command_line),
            ObservableValue::RegistryKey(key) => members.put("key", key),
        }
    }
}

impl File {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        if self.has_hash() {
            members.put("hashes", &WrittenHashes(self))?;
        }
        members.put_dated("name", self.name.as_ref())?;
        members.put_dated("size", self.size.as_ref())?;
        members.put_dated("mime_type", self.mime_type.as_ref())?;
        if self.names.is_empty() {
            return Ok(());
        }
        members.put("x_opencti_additional_names", &self.names)
    }
}

struct WrittenHashes<'a>(&'a File);

impl Serialize for WrittenHashes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = Members(serializer.serialize_map(None)?);
        members.put_some("MD5", self.0.md5.as_ref())?;
        members.put_some("SHA-1", self.0.sha1.as_ref())?;
        members.put_some("SHA-256", self.0.sha256.as_ref())?;
        members.0.end()
    }
}

impl Indicator {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        members.put_dates(self.valid_from, self.valid_from)?;
        members.put("name", &self.name)?;
        members.put_dated("description", self.description.as_ref())?;
        members.put("pattern", &self.pattern)?;
        members.put("pattern_type", "stix")?;
        members.put("valid_from", &self.valid_from)?;
        members.put_list("indicator_types", &self.indicator_types)?;
        members.put("x_opencti_score", &self.score)?;
        members.put("x_opencti_main_observable_type", self.main_observable_type)?;
        members.put_list("kill_chain_phases", &self.phases)?;
        members.put_labels(&self.labels)?;
        members.put_some("confidence", self.confidence.as_ref())?;
        if let Some(former) = &self.former_id {
            members.put("x_opencti_stix_ids", &[former])?;
        }
        members.put_ours(self.marking)
    }
}

impl MalwareAnalysis {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        let modified = self.ended.or(self.submitted).unwrap_or(Timestamp::CONSTANT);
        members.put_dates(self.submitted.unwrap_or(modified), modified)?;
        members.put("product", PRODUCT)?;
        members.put("result_name", &self.result_name)?;
        members.put("result", &self.result.value)?;
        members.put_some("submitted", self.submitted.as_ref())?;
        members.put_some("analysis_started", self.submitted.as_ref())?;
        members.put_some("analysis_ended", self.ended.as_ref())?;
        members.put_some("sample_ref", self.sample.as_ref())?;
        members.put_list("analysis_sco_refs", &self.observables)?;
        members.put_labels(&self.labels)?;
        members.put_some("confidence", self.confidence.as_ref())?;
        members.put_ours(self.marking)?;
        members.put_links(&self.links)
    }
}

impl Relationship {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
        members.put("relationship_type", self.kind.as_str())?;
        members.put("source_ref", &self.source)?;
        members.put("target_ref", &self.target)?;
        members.put_some("confidence", self.confidence.as_ref())?;
        members.put_ours(self.marking)
    }
}

impl Report {
    fn write<M: SerializeMap>(&self, members: &mut Members<M>) -> Result<(), M::Error> {
        members.put_dates(self.published, self.modified)?;
        members.put("name", &self.name)?;
        members.put("published", &self.published)?;
        members.put("report_types", &["threat-report"])?;
        members.put("x_opencti_reliability", RELIABILITY)?;
        members.put_dated("description", self.description.as_ref())?;
        members.put_labels(&self.labels)?;
        members.put_some("confidence", self.confidence.as_ref())?;
        members.put_ours(self.marking)?;
        members.put_list("object_refs", &self.objects)?;
        members.put_links(&self.links)
    }
}
