//! Samples of one pass between mapping and delivery, and those that failed on the way.

use std::collections::HashMap;

use mapping::MappedSample;
use stix::{BundleLimits, LeftOut, Packer};
use vmray::model::SampleId;

use crate::pipeline::Work;
use crate::proof::Unproven;
use crate::quarantine::Reason;

/// Samples of a pass that are read again when others fail: enough to find a good one behind a block of bad ones.
const MOST_AHEAD: usize = 8;

/// A sample that could not be ingested.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) work: Work,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

/// Samples between mapping and delivery.
pub(super) struct Arrivals {
    packer: Packer,
    packed: HashMap<SampleId, Packed>,
    /// All samples of the pass, in their order.
    samples: Vec<SampleId>,
    /// How many of them have arrived.
    pub(super) finished: usize,
    /// Those that VMRay did not give, and it has not been seen to work since.
    pub(super) unproven: Unproven<Failed>,
    /// Those that go to quarantine.
    pub(super) failures: Vec<Failed>,
    /// Those that are in quarantine now and worth another try in this run.
    pub(super) again: Vec<Work>,
}

/// A sample of which some parts are not delivered yet.
struct Packed {
    work: Work,
    left_out: LeftOut,
    parts: usize,
}

impl Arrivals {
    pub(super) fn new(limits: BundleLimits, works: &[Work]) -> Self {
        Self {
            packer: Packer::new(limits),
            packed: HashMap::new(),
            samples: works.iter().map(|work| work.sample_id).collect(),
            finished: 0,
            unproven: Unproven::default(),
            failures: Vec::new(),
            again: Vec::new(),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.finished == self.samples.len()
    }

    /// Samples of the pass that are still to come, the newest first and then evenly spread.
    pub(super) fn ahead(&self) -> Vec<SampleId> {
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
    pub(super) fn pack(
        &mut self,
        work: Work,
        mut mapped: MappedSample,
        limits: BundleLimits,
    ) -> Vec<Vec<MappedSample>> {
        let left_out = std::mem::take(&mut mapped.left_out);
        let parts = mapped.split(&limits);
        self.packed.insert(work.sample_id, Packed { work, left_out, parts: parts.len() });
        parts.into_iter().filter_map(|part| self.packer.add(part)).collect()
    }

    /// What waits for a bundle to fill up.
    pub(super) fn rest(&mut self) -> Option<Vec<MappedSample>> {
        self.packer.finish()
    }

    /// A part of a sample was accepted. The sample itself, when it was the last part.
    pub(super) fn accepted(&mut self, sample: SampleId) -> Option<(Work, LeftOut)> {
        let packed = self.packed.get_mut(&sample)?;
        packed.parts -= 1;
        if packed.parts > 0 {
            return None;
        }
        self.packed.remove(&sample).map(|packed| (packed.work, packed.left_out))
    }

    /// A part of a sample was refused, which decides for all of it.
    pub(super) fn refused(&mut self, sample: SampleId) -> Option<Work> {
        self.packed.remove(&sample).map(|packed| packed.work)
    }
}
