//! What VMRay's REST API answers, reduced to the fields this product uses.
//!
//! These types are lenient on purpose: servers differ by years. Unknown fields are ignored, everything but
//! ids may be absent or null, numbers may come as strings. What they mean for OpenCTI is none of their business.
//! No e-mail address, IP address or password of a submitter is ever read.
//!
//! Lists of entries are read element by element through [`serde_json::value::RawValue`], so documents must be
//! parsed by `serde_json` directly, not through `#[serde(untagged)]` or `#[serde(flatten)]` around them.

mod aggregated;
mod entries;
mod findings;
mod iocs;
mod lenient;
mod number;
mod sample;
mod submission;
#[cfg(test)]
mod tests;
mod verdict;

pub use aggregated::{Aggregated, AggregatedData};
pub use entries::Entries;
pub use findings::{MitreTechnique, ThreatIndicator};
pub use iocs::{
    DomainIoc, EmailAddressIoc, EmailIoc, FileHashes, FileIoc, FilenameIoc, IocCore, Iocs, IpIoc, MutexIoc,
    ProcessIoc, RegistryIoc, UrlIoc,
};
pub use lenient::parse_date;
pub use number::{SampleId, SubmissionId};
pub use sample::{Relation, Sample};
pub use submission::Submission;
pub use verdict::{UnknownVerdict, Verdict};
