//! How objects are written: the members of each type in a fixed order, what is empty left out.
//!
//! By hand and not by serde's derive: what is written differs from what an object holds in every type. Constants stand between its
//! members, one time goes under three names, a dated value goes without its date. Derive would need a second struct for each type.

use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::author::{VMRAY, VMRAY_NAME};
use crate::label::LabelSet;
use crate::marking::TlpMarking;
use crate::object::{
    AttackPattern, Body, Country, Dated, File, Indicator, KillChainPhase, Label, Malware, MalwareAnalysis,
    Object, Observable, ObservableValue, PRODUCT, Relationship, Report,
};
use crate::timestamp::Timestamp;

impl Object {
    /// How many bytes it takes as JSON.
    pub(super) fn size(&self) -> usize {
        *self.size.get_or_init(|| {
            let mut counter = Counter(0);
            // Counting cannot fail.
            let _ = serde_json::to_writer(&mut counter, self);
            counter.0
        })
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
        members.put_dates(Timestamp::CONSTANT, Timestamp::CONSTANT)?;
        members.put("name", self.name)?;
        members.put("country", self.code)?;
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
        members.put("relationship_type", self.kind().as_str())?;
        members.put("source_ref", &self.source())?;
        members.put("target_ref", &self.target())?;
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
