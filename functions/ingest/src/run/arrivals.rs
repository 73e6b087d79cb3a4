//! Samples of one pass between mapping and delivery, and those that failed on the way.

use std::collections::HashMap;

use mapping::MappedSample;
use stix::{BundleLimits, LeftOut, Packer};
use tracing::info;
use vmray::model::SampleId;

use crate::pipeline::Work;
use crate::quarantine::Reason;

/// A sample that failed and is not yet quarantined.
#[derive(Clone)]
pub(super) struct Failed {
    pub(super) work: Work,
    pub(super) reason: Reason,
    pub(super) detail: String,
    /// Tries in this run.
    pub(super) attempts: u32,
}

/// Whether a pass counts for the health of the servers: only first tries do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    First,
    Again,
}

/// Samples between mapping and delivery.
pub(super) struct Arrivals {
    packer: Packer,
    packed: HashMap<SampleId, Packed>,
    pub(super) pass: Pass,
    pub(super) failures: Vec<Failed>,
    /// Samples of which the outcome is known.
    pub(super) finished: usize,
}

/// A sample of which some parts are not delivered yet.
struct Packed {
    work: Work,
    left_out: LeftOut,
    parts: usize,
}

impl Arrivals {
    pub(super) fn new(limits: BundleLimits, pass: Pass) -> Self {
        Self { packer: Packer::new(limits), packed: HashMap::new(), pass, failures: Vec::new(), finished: 0 }
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

    /// A sample cannot be ingested now.
    pub(super) fn fail(&mut self, work: Work, reason: Reason, detail: String) {
        info!(sample_id = work.sample_id.0, %reason, detail, "a sample could not be ingested");
        self.failures.push(Failed { work, reason, detail, attempts: 1 });
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
