//! One sample: a file or URL that VMRay analysed, over all its submissions.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::entries::Entries;
use super::lenient;
use super::number::SampleId;
use super::verdict::{Verdict, VerdictField};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "WireSample")]
pub struct Sample {
    pub id: SampleId,
    /// When VMRay first saw it.
    pub created: Option<DateTime<Utc>>,
    /// Its type, such as `URL` or `Windows Exe (x86-64)`.
    pub kind: Option<String>,
    /// Its file name; `sample.url` for URLs.
    pub filename: Option<String>,
    pub filesize: Option<u64>,
    /// The URL, if it is one; never blank.
    pub url: Option<String>,
    pub md5: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub ssdeep: Option<String>,
    pub imphash: Option<String>,
    /// From the severity or the score where the server knows no verdicts.
    pub verdict: Option<Verdict>,
    /// Why the verdict is what it is, in VMRay's words.
    pub verdict_reason: Option<String>,
    /// 0 to 100.
    pub vti_score: Option<u8>,
    /// Names of threats, free text.
    pub threat_names: Vec<String>,
    pub classifications: Vec<String>,
    /// Samples found in this one.
    pub child_ids: Vec<SampleId>,
    /// Samples this one was found in.
    pub parent_ids: Vec<SampleId>,
    /// How the children relate to it.
    pub child_relations: Vec<Relation>,
    /// How it relates to its parents.
    pub parent_relations: Vec<Relation>,
    /// VMRay knows more children than it says.
    pub child_relations_truncated: bool,
    /// VMRay knows more parents than it says.
    pub parent_relations_truncated: bool,
    /// Its page in VMRay's web interface.
    pub webif_url: Option<String>,
}

impl Sample {
    /// Whether it is a URL rather than a file. A sample of VMRay's type URL may come without its URL, and is then known by
    /// hash or name as files are.
    #[must_use]
    pub fn is_url(&self) -> bool {
        self.url.is_some() && self.kind.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("url"))
    }

    /// All its children's ids, from the list and from the relations, each once, in order.
    #[must_use]
    pub fn all_child_ids(&self) -> Vec<SampleId> {
        let related = self.child_relations.iter().filter_map(|relation| relation.child_id);
        sorted_ids(self.child_ids.iter().copied().chain(related), self.id)
    }

    /// All its parents' ids, from the list and from the relations, each once, in order.
    #[must_use]
    pub fn all_parent_ids(&self) -> Vec<SampleId> {
        let related = self.parent_relations.iter().filter_map(|relation| relation.parent_id);
        sorted_ids(self.parent_ids.iter().copied().chain(related), self.id)
    }
}

/// Whether a text has a character that can be seen.
fn shows(text: &str) -> bool {
    text.contains(|char: char| !char.is_whitespace() && !char.is_control() && char != '\u{feff}')
}

fn sorted_ids(ids: impl Iterator<Item = SampleId>, except: SampleId) -> Vec<SampleId> {
    let mut ids: Vec<_> = ids.filter(|id| *id != except).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// How a parent and a child sample belong together.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "WireRelation")]
pub struct Relation {
    /// The outer sample.
    pub parent_id: Option<SampleId>,
    /// The inner sample.
    pub child_id: Option<SampleId>,
    /// The verdict of the other sample, where the server says it: the parent's in a parent relation.
    pub parent_verdict: Option<Verdict>,
    /// As `parent_verdict`, for the child.
    pub child_verdict: Option<Verdict>,
    /// Such as `Dropped File`.
    pub kind: Option<String>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
struct WireRelation {
    #[serde(default, deserialize_with = "lenient::number")]
    relation_parent_sample_id: Option<SampleId>,
    #[serde(default, deserialize_with = "lenient::number")]
    relation_child_sample_id: Option<SampleId>,
    #[serde(default)]
    relation_parent_sample_verdict: VerdictField,
    #[serde(default)]
    relation_child_sample_verdict: VerdictField,
    #[serde(default, deserialize_with = "lenient::text")]
    relation_parent_sample_severity: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    relation_child_sample_severity: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    relation_type: Option<String>,
}

impl From<WireRelation> for Relation {
    fn from(wire: WireRelation) -> Self {
        let parent_severity = wire.relation_parent_sample_severity.as_deref();
        let child_severity = wire.relation_child_sample_severity.as_deref();
        Self {
            parent_id: wire.relation_parent_sample_id,
            child_id: wire.relation_child_sample_id,
            parent_verdict: wire.relation_parent_sample_verdict.or_severity(parent_severity, None),
            child_verdict: wire.relation_child_sample_verdict.or_severity(child_severity, None),
            kind: wire.relation_type,
        }
    }
}

#[derive(Deserialize)]
struct WireSample {
    sample_id: SampleId,
    #[serde(default, deserialize_with = "lenient::date")]
    sample_created: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_filename: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    submission_filename: Option<String>,
    #[serde(default, deserialize_with = "lenient::number")]
    sample_filesize: Option<u64>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_url: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_md5hash: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_sha1hash: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_sha256hash: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_ssdeephash: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_imphash: Option<String>,
    #[serde(default)]
    sample_verdict: VerdictField,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_severity: Option<String>,
    #[serde(default, deserialize_with = "lenient::number")]
    sample_score: Option<u8>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_verdict_reason_description: Option<String>,
    #[serde(default, deserialize_with = "lenient::number")]
    sample_vti_score: Option<u8>,
    #[serde(default, deserialize_with = "lenient::number")]
    sample_highest_vti_score: Option<u8>,
    #[serde(default, deserialize_with = "lenient::texts")]
    sample_threat_names: Vec<String>,
    #[serde(default, deserialize_with = "lenient::texts")]
    sample_classifications: Vec<String>,
    #[serde(default, deserialize_with = "lenient::numbers")]
    sample_child_sample_ids: Vec<SampleId>,
    #[serde(default, deserialize_with = "lenient::numbers")]
    sample_parent_sample_ids: Vec<SampleId>,
    #[serde(default)]
    sample_child_relations: Entries<Relation>,
    #[serde(default)]
    sample_parent_relations: Entries<Relation>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    sample_child_relations_truncated: Option<bool>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    sample_parent_relations_truncated: Option<bool>,
    #[serde(default, deserialize_with = "lenient::text")]
    sample_webif_url: Option<String>,
}

impl From<WireSample> for Sample {
    fn from(wire: WireSample) -> Self {
        let severity = wire.sample_severity.as_deref();
        Self {
            id: wire.sample_id,
            created: wire.sample_created,
            kind: wire.sample_type,
            filename: wire.sample_filename.or(wire.submission_filename),
            filesize: wire.sample_filesize,
            url: wire.sample_url.filter(|url| shows(url)),
            md5: wire.sample_md5hash,
            sha1: wire.sample_sha1hash,
            sha256: wire.sample_sha256hash,
            ssdeep: wire.sample_ssdeephash,
            imphash: wire.sample_imphash,
            verdict: wire.sample_verdict.or_severity(severity, wire.sample_score),
            verdict_reason: wire.sample_verdict_reason_description,
            vti_score: wire.sample_vti_score.or(wire.sample_highest_vti_score),
            threat_names: wire.sample_threat_names,
            classifications: wire.sample_classifications,
            child_ids: wire.sample_child_sample_ids,
            parent_ids: wire.sample_parent_sample_ids,
            child_relations: wire.sample_child_relations.items,
            parent_relations: wire.sample_parent_relations.items,
            child_relations_truncated: wire.sample_child_relations_truncated.unwrap_or(false),
            parent_relations_truncated: wire.sample_parent_relations_truncated.unwrap_or(false),
            webif_url: wire.sample_webif_url,
        }
    }
}
