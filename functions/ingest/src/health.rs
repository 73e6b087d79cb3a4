//! Whether failures are the samples' fault. Pure.
//!
//! A key that lost its rights, a proxy in the way, a platform that takes nothing: these fail sample after sample, and
//! quarantining them all would hide the trouble. Then the run stops, and the position stays where it is. But five
//! neighbours may also be bad by themselves, such as those that are not shared with the key's user, and must not stop
//! every run at the same place. So before five in a row that VMRay does not give stop a run, it asks again for a sample
//! that VMRay did give: if that still comes, the five are to blame.

use std::collections::{BTreeMap, HashMap};

use common::vmray::model::SampleId;

use crate::quarantine::Reason;

/// So many different samples failing in a row are no coincidence; also the least for "over half of them".
const TOO_MANY: usize = 5;

/// Too many samples fail for it to be the samples' fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{what}; the last: {detail}. This is not the samples' fault: check the VMRay key's rights, both servers and what is between; nothing is lost, the next run tries them again"
)]
pub struct Systemic {
    what: String,
    detail: String,
    /// A sample that VMRay gave before can show that VMRay is well.
    pub can_be_refuted: bool,
}

/// The samples of one run.
#[derive(Debug, Default)]
pub struct Health {
    tried: usize,
    failing: HashMap<SampleId, (Reason, String)>,
    /// VMRay's side and the mapping.
    unreadable_in_a_row: usize,
    /// `OpenCTI`'s side. Counted apart: samples are read long before their bundle goes out.
    refused_in_a_row: usize,
}

/// Deleted samples and such that are not ready say nothing about anybody's health.
fn counts(reason: Reason) -> bool {
    !matches!(reason, Reason::NotFound | Reason::NotAggregated)
}

fn too_many(in_a_row: usize, detail: &str, can_be_refuted: bool) -> Result<(), Systemic> {
    if in_a_row < TOO_MANY {
        return Ok(());
    }
    let what = format!("{TOO_MANY} different samples in a row failed");
    Err(Systemic { what, detail: detail.to_owned(), can_be_refuted })
}

impl Health {
    /// A sample was read for the first time in this run.
    pub fn read(&mut self) {
        self.tried += 1;
        self.unreadable_in_a_row = 0;
    }

    /// A sample was tried for the first time in this run and could not be read or mapped.
    pub fn unreadable(&mut self, sample: SampleId, reason: Reason, detail: &str) -> Result<(), Systemic> {
        self.tried += 1;
        if !counts(reason) {
            return Ok(());
        }
        self.failing.insert(sample, (reason, detail.to_owned()));
        self.unreadable_in_a_row += 1;
        too_many(self.unreadable_in_a_row, detail, true)
    }

    /// VMRay has just given a sample that it gave before.
    pub fn vmray_is_well(&mut self) {
        self.unreadable_in_a_row = 0;
    }

    /// The platform took a sample.
    pub fn accepted(&mut self) {
        self.refused_in_a_row = 0;
    }

    /// The platform did not take a sample that had been read.
    pub fn refused(&mut self, sample: SampleId, reason: Reason, detail: &str) -> Result<(), Systemic> {
        self.failing.insert(sample, (reason, detail.to_owned()));
        self.refused_in_a_row += 1;
        too_many(self.refused_in_a_row, detail, false)
    }

    /// A sample that had failed is fine after all.
    pub fn recovered(&mut self, sample: SampleId) {
        self.failing.remove(&sample);
    }

    /// Before samples are quarantined: whether over half of all failed for one reason.
    pub fn judge(&self) -> Result<(), Systemic> {
        let mut by_reason: BTreeMap<Reason, (usize, &str)> = BTreeMap::new();
        for (reason, detail) in self.failing.values() {
            let entry = by_reason.entry(*reason).or_insert((0, detail));
            entry.0 += 1;
        }
        for (reason, (count, detail)) in by_reason {
            if count >= TOO_MANY && count * 2 > self.tried {
                return Err(Systemic {
                    what: format!("{count} of {} samples failed for one reason ({reason})", self.tried),
                    detail: detail.to_owned(),
                    can_be_refuted: false,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_in_a_row_are_systemic_and_a_success_between_them_is_not() {
        let mut health = Health::default();
        for n in 0..4 {
            health.unreadable(SampleId(n), Reason::Forbidden, "403").unwrap();
        }
        health.read();
        for n in 4..8 {
            health.unreadable(SampleId(n), Reason::ServerError, "500").unwrap();
        }
        assert!(health.unreadable(SampleId(8), Reason::Forbidden, "403").is_err());
    }

    #[test]
    fn samples_that_are_read_do_not_hide_a_platform_that_takes_nothing() {
        let mut health = Health::default();
        for n in 0..4 {
            health.read();
            health.refused(SampleId(n), Reason::PushRefused, "no").unwrap();
        }
        health.read();
        assert!(health.refused(SampleId(4), Reason::PushRefused, "no").is_err());
    }

    #[test]
    fn over_half_for_one_reason_is_systemic() {
        let mut health = Health::default();
        for n in 0..5 {
            health.unreadable(SampleId(n), Reason::Forbidden, "403").unwrap_or_default();
            if n > 0 {
                health.read();
            }
        }
        assert!(health.judge().is_err(), "5 of 9");
        health.recovered(SampleId(0));
        assert!(health.judge().is_ok(), "4 of 9");
    }

    #[test]
    fn deleted_samples_never_stop_a_run() {
        let mut health = Health::default();
        for n in 0..50 {
            health.unreadable(SampleId(n), Reason::NotFound, "404").unwrap();
        }
        assert!(health.judge().is_ok());
    }
}
