//! The objects of one sample: what bundles are made of.

use crate::left_out::LeftOut;
use crate::object::Object;
use crate::timestamp::Timestamp;

/// The objects of one sample, or of a part of one.
#[derive(Debug, Clone, PartialEq)]
pub struct MappedSample {
    /// VMRay's number of the sample.
    pub sample_id: u64,
    /// When its newest analysis was done.
    pub analysed: Timestamp,
    /// Its objects, each id once, in the order of a bundle.
    pub objects: Vec<Object>,
    /// What was left out of them.
    pub left_out: LeftOut,
}
