//! Whether failures are the samples' fault. Pure.
//!
//! A key that lost its rights, a proxy in the way, a platform that takes nothing: these fail sample after sample, and
//! quarantining them all would hide the trouble. Then the run stops, and the position stays where it is.

use std::collections::{BTreeMap, HashMap};

use common::vmray::model::SampleId;

use crate::quarantine::Reason;

/// So many different samples failing in a row are no coincidence; also the least for "over half of them".
const TOO_MANY: usize = 5;

/// Too many samples fail for it to be the samples' fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; the last: {detail}. This is not the samples' fault: check the VMRay key's rights, both servers and what is between; nothing is lost, the next run tries them again")]
pub struct Systemic {
    what: String,
    detail: String,
}

/// The samples of one run.
#[derive(Debug, Default)]
pub struct Health {
    tried: usize,
    failing: HashMap<SampleId, (Reason, String)>,
    /// Each server has its own row: what was read well may wait long until it is delivered.
    in_a_row: HashMap<Stage, usize>,
}

/// What is done with a sample, and by which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// VMRay is asked for it.
    Reading,
    /// OpenCTI is given it.
    Delivery,
}

/// Deleted samples and such that are not ready say nothing about anybody's health.
fn counts(reason: Reason) -> bool {
    !matches!(reason, Reason::NotFound | Reason::NotAggregated)
}

impl Health {
    /// A sample was tried for the first time in this run and is fine.
    pub fn good(&mut self) {
        self.tried += 1;
        self.in_a_row.remove(&Stage::Delivery);
    }

    /// A sample was read without trouble, whatever becomes of it.
    pub fn read(&mut self) {
        self.in_a_row.remove(&Stage::Reading);
    }

    /// A sample was tried for the first time in this run and failed.
    pub fn bad(&mut self, stage: Stage, sample: SampleId, reason: Reason, detail: &str) -> Result<(), Systemic> {
        self.tried += 1;
        if !counts(reason) {
            return Ok(());
        }
        self.failing.insert(sample, (reason, detail.to_owned()));
        let in_a_row = self.in_a_row.entry(stage).or_default();
        *in_a_row += 1;
        if *in_a_row < TOO_MANY {
            return Ok(());
        }
        Err(Systemic { what: format!("{TOO_MANY} different samples in a row failed"), detail: detail.to_owned() })
    }

    /// A sample that had failed is fine after all.
    pub fn recovered(&mut self, sample: SampleId) {
        self.failing.remove(&sample);
        self.in_a_row.clear();
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
            health.bad(Stage::Reading, SampleId(n), Reason::Forbidden, "403").unwrap();
        }
        health.read();
        for n in 4..8 {
            health.bad(Stage::Reading, SampleId(n), Reason::ServerError, "500").unwrap();
        }
        assert!(health.bad(Stage::Reading, SampleId(8), Reason::Forbidden, "403").is_err());
    }

    #[test]
    fn samples_that_are_read_well_do_not_hide_a_platform_that_takes_none() {
        let mut health = Health::default();
        for n in 0..4 {
            health.read();
            health.bad(Stage::Delivery, SampleId(n), Reason::PushRefused, "no").unwrap();
        }
        health.read();
        assert!(health.bad(Stage::Delivery, SampleId(4), Reason::PushRefused, "no").is_err());
    }

    #[test]
    fn over_half_for_one_reason_is_systemic() {
        let mut health = Health::default();
        for n in 0..5 {
            health.bad(Stage::Reading, SampleId(n), Reason::Forbidden, "403").unwrap();
            health.read();
            if n > 0 {
                health.good();
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
            health.bad(Stage::Reading, SampleId(n), Reason::NotFound, "404").unwrap();
        }
        assert!(health.judge().is_ok());
    }
}
