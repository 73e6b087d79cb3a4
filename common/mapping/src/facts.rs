//! What the mapping is given: everything that VMRay says of one sample.

use vmray::model::{Entries, Iocs, MitreTechnique, Sample, Submission, ThreatIndicator};

/// All that is known of one sample.
#[derive(Debug, Clone)]
pub struct SampleFacts {
    pub sample: Sample,
    /// Its submissions in this run, at least one.
    pub submissions: Vec<Submission>,
    pub iocs: Iocs,
    /// What analyses saw it do.
    pub threat_indicators: Entries<ThreatIndicator>,
    /// The techniques that analyses recognised.
    pub techniques: Entries<MitreTechnique>,
    /// Its parents and children that are not clean.
    pub relatives: Vec<Relative>,
}

/// A sample that contains this one, or that this one contains.
#[derive(Debug, Clone)]
pub struct Relative {
    pub role: RelativeRole,
    /// VMRay's word for the relation, such as `Dropped File`.
    pub relation_type: Option<String>,
    pub sample: Sample,
}

/// What a relative is to the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelativeRole {
    /// It contains the sample.
    Parent,
    /// The sample contains it.
    Child,
}
