//! The objects of one sample: what bundles are made of.

use super::left_out::LeftOut;
use super::object::Object;
use crate::vmray::model::SampleId;

/// The objects of one sample, or of a part of one.
#[derive(Debug, Clone, PartialEq)]
pub struct MappedSample {
    /// The sample.
    pub sample_id: SampleId,
    /// Its objects, each id once, in the order of a bundle.
    pub objects: Vec<Object>,
    /// What was left out of them.
    pub left_out: LeftOut,
}
