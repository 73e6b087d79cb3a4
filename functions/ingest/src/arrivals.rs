//! Samples of one pass between mapping and delivery, and those that failed on the way.

use std::collections::HashMap;

use mapping::MappedSample;
use stix::{BundleLimits, LeftOut, Packer};
use vmray::model::SampleId;

use crate::analysis::SubmittedSample;
use crate::proof::Unproven;
use crate::quarantine::FailedSample;

/// Samples of a pass that are read again when others fail: enough to find a good one behind a block of bad ones.
const MOST_AHEAD: usize = 8;

/// Samples between mapping and delivery.
pub(crate) struct Arrivals {
    packer: Packer,
    packed: HashMap<SampleId, Packed>,
    /// All samples of the pass, in their order.
    samples: Vec<SampleId>,
    /// How many of them have arrived.
    pub finished: usize,
    /// Those that VMRay did not give, and it has not been seen to work since.
    pub unproven: Unproven<FailedSample>,
    /// Those that go to quarantine.
    pub failures: Vec<FailedSample>,
    /// Those that are in quarantine now and worth another try in this run.
    pub again: Vec<SubmittedSample>,
}

/// A sample of which some parts are not delivered yet.
struct Packed {
    sample: SubmittedSample,
    left_out: LeftOut,
    parts: usize,
    /// A part of it is delivered.
    is_begun: bool,
}

impl Arrivals {
    pub(crate) fn new(limits: BundleLimits, samples: &[SubmittedSample]) -> Self {
        Self {
            packer: Packer::new(limits),
            packed: HashMap::new(),
            samples: samples.iter().map(|sample| sample.id).collect(),
            finished: 0,
            unproven: Unproven::default(),
            failures: Vec::new(),
            again: Vec::new(),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.finished == self.samples.len()
    }

    /// Samples of the pass that are still to come, the newest first and then evenly spread.
    pub(crate) fn ahead(&self) -> Vec<SampleId> {
        let rest = self.samples.get(self.finished..).unwrap_or_default();
        let mut ahead: Vec<SampleId> = (1..=MOST_AHEAD)
            .rev()
            .filter_map(|part| rest.get((rest.len() * part / MOST_AHEAD).checked_sub(1)?))
            .copied()
            .collect();
        ahead.dedup();
        ahead
    }

    /// Adds a sample, in parts if it is larger than a bundle; hands out the bundles that are full.
    pub(crate) fn pack(
        &mut self,
        sample: SubmittedSample,
        mut mapped: MappedSample,
        limits: BundleLimits,
    ) -> Vec<Vec<MappedSample>> {
        let left_out = std::mem::take(&mut mapped.left_out);
        let parts = mapped.split(&limits);
        self.packed.insert(sample.id, Packed { sample, left_out, parts: parts.len(), is_begun: false });
        parts.into_iter().filter_map(|part| self.packer.add(part)).collect()
    }

    /// What waits for a bundle to fill up.
    pub(crate) fn rest(&mut self) -> Option<Vec<MappedSample>> {
        self.packer.finish()
    }

    /// A part of a sample was accepted. The sample itself, when it was the last part.
    pub(crate) fn accepted(&mut self, id: SampleId) -> Option<(SubmittedSample, LeftOut)> {
        let packed = self.packed.get_mut(&id)?;
        packed.parts -= 1;
        packed.is_begun = true;
        if packed.parts > 0 {
            return None;
        }
        self.packed.remove(&id).map(|packed| (packed.sample, packed.left_out))
    }

    /// Whether a part of a sample was accepted and others are still to come.
    pub(crate) fn is_begun(&self, id: SampleId) -> bool {
        self.packed.get(&id).is_some_and(|packed| packed.is_begun)
    }

    /// A part of a sample was refused, which decides for all of it.
    pub(crate) fn refused(&mut self, id: SampleId) -> Option<SubmittedSample> {
        self.packed.remove(&id).map(|packed| packed.sample)
    }
}
