//! One VMRay sample becomes STIX objects: the heart of the product.
//!
//! Pure: the same facts and settings give the same objects, byte for byte, on any day and in any order of the input
//! lists. What the platform would refuse is left out and counted by reason, never in silence.

mod analyses;
mod attributes;
mod countries;
mod facts;
mod files;
mod iocs;
mod labels;
mod malware;
mod mapper;
mod relatives;
mod report;
mod settings;
mod subject;
mod text;
mod values;
mod wanted;

use vmray::model::SampleId;

pub use attributes::{Attribute, SubmissionFacts, submission_attributes};
pub use facts::{Relative, RelativeRole, SampleFacts};
pub use settings::{IocType, LabelKind, LabelStyle, MappingSettings, VerdictSet};
pub use stix::object::RelationshipKind;
pub use stix::{LeftOut, LeftOutReason, MappedSample};

use mapper::Mapper;

/// A sample that cannot be mapped at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// There is nothing to say when it was analysed.
    #[error("sample {0} without any submission")]
    NoSubmission(SampleId),
}

pub fn map_sample(facts: &SampleFacts, settings: &MappingSettings) -> Result<MappedSample, MappingError> {
    if facts.submissions.is_empty() {
        return Err(MappingError::NoSubmission(facts.sample.id));
    }
    let mut mapper = Mapper::new(facts, settings);
    mapper.left_out.add_many(LeftOutReason::MalformedEntry, malformed(facts));
    let files = mapper.files();
    mapper.other_iocs();
    let subject = files.sample.unwrap_or_else(|| mapper.sample_that_is_no_file());
    let techniques = mapper.techniques();
    mapper.link_threats(&subject, &techniques);
    let parents = mapper.relatives(&subject, &files.relatives);
    mapper.report(&subject, &parents);
    Ok(mapper.finish())
}

fn malformed(facts: &SampleFacts) -> u32 {
    facts.iocs.malformed + facts.threat_indicators.malformed + facts.techniques.malformed
}
