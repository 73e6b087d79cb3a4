//! Whether failures are the samples' fault. Pure.
//!
//! A key that lost its rights, a proxy in the way, a platform that takes nothing: these fail sample after sample, and
//! quarantining them all would hide the trouble. Then the run stops and an alarm rings, and the position stays where it
//! is. But samples may also be bad by themselves, such as those that are not shared with the key's user, and must not
//! stop every run at the same place. So a run that stops leaves the samples that failed as *suspects*. In the next run a
//! suspect that fails again says nothing about the servers, and when the servers are seen to work for another sample,
//! it goes to quarantine.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use vmray::model::SampleId;

use crate::quarantine::Reason;

/// So many different samples failing in a row are no coincidence; also the least for "over half of them".
pub const TOO_MANY: usize = 5;

/// Most suspects that are remembered.
const MOST_SUSPECTS: usize = 1000;

/// Too many samples fail for it to be the samples' fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{what}; the last: {detail}. This is not the samples' fault: check the VMRay key's rights, both servers and what is between; nothing is lost, the next run tries them again"
)]
pub struct Systemic {
    what: String,
    detail: String,
    /// Every sample that failed for this reason failed in an earlier run too: a server that works for others clears
    /// itself.
    pub only_suspects: Option<Reason>,
}

/// The samples of one run.
#[derive(Debug, Default)]
pub struct Health {
    suspects: BTreeSet<SampleId>,
    tried: usize,
    failing: HashMap<SampleId, (Reason, String)>,
    /// VMRay's side and the mapping.
    unreadable_in_a_row: usize,
    /// `OpenCTI`'s side. Counted apart: samples are read long before their bundle goes out.
    refused_in_a_row: usize,
    read_any: bool,
    accepted_any: bool,
}

/// Deleted samples and such that are not ready say nothing about anybody's health.
fn counts(reason: Reason) -> bool {
    !matches!(reason, Reason::NotFound | Reason::NotAggregated)
}

fn too_many(in_a_row: usize, detail: &str) -> Result<(), Systemic> {
    if in_a_row < TOO_MANY {
        return Ok(());
    }
    let what = format!("{TOO_MANY} different samples in a row failed");
    Err(Systemic { what, detail: detail.to_owned(), only_suspects: None })
}

impl Health {
    /// A run after one that may have left suspects.
    #[must_use]
    pub fn new(suspects: BTreeSet<SampleId>) -> Self {
        Self { suspects, ..Self::default() }
    }

    /// Those of earlier runs and of this one, for the next; the newest when they are too many.
    #[must_use]
    pub fn suspects(&self) -> BTreeSet<SampleId> {
        let mut suspects: BTreeSet<_> = self.suspects.iter().chain(self.failing.keys()).copied().collect();
        while suspects.len() > MOST_SUSPECTS {
            suspects.pop_first();
        }
        suspects
    }

    /// A sample was read for the first time in this run.
    pub fn read(&mut self) {
        self.tried += 1;
        self.read_any = true;
        self.unreadable_in_a_row = 0;
    }

    /// A sample was tried for the first time in this run and could not be read or mapped.
    pub fn unreadable(&mut self, sample: SampleId, reason: Reason, detail: &str) -> Result<(), Systemic> {
        self.tried += 1;
        if !counts(reason) {
            return Ok(());
        }
        self.failing.insert(sample, (reason, detail.to_owned()));
        if self.suspects.contains(&sample) {
            return Ok(());
        }
        self.unreadable_in_a_row += 1;
        too_many(self.unreadable_in_a_row, detail)
    }

    /// The platform took a sample.
    pub fn accepted(&mut self) {
        self.accepted_any = true;
        self.refused_in_a_row = 0;
    }

    /// The platform did not take a sample that had been read.
    pub fn refused(&mut self, sample: SampleId, reason: Reason, detail: &str) -> Result<(), Systemic> {
        self.failing.insert(sample, (reason, detail.to_owned()));
        if self.suspects.contains(&sample) {
            return Ok(());
        }
        self.refused_in_a_row += 1;
        too_many(self.refused_in_a_row, detail)
    }

    /// A sample that had failed is fine after all.
    pub fn recovered(&mut self, sample: SampleId) {
        self.failing.remove(&sample);
    }

    /// Whether the server that a reason speaks of was seen to work in this run.
    #[must_use]
    pub fn works_for_others(&self, reason: Reason) -> bool {
        if reason == Reason::PushRefused { self.accepted_any } else { self.read_any }
    }

    /// Before samples are quarantined: whether over half of all failed for one reason.
    pub fn judge(&self) -> Result<(), Systemic> {
        let mut by_reason: BTreeMap<Reason, Vec<(&SampleId, &str)>> = BTreeMap::new();
        for (sample, (reason, detail)) in &self.failing {
            by_reason.entry(*reason).or_default().push((sample, detail));
        }
        for (reason, failing) in by_reason {
            if failing.len() < TOO_MANY || failing.len() * 2 <= self.tried {
                continue;
            }
            let only_suspects = failing.iter().all(|(sample, _)| self.suspects.contains(sample));
            return Err(Systemic {
                what: format!("{} of {} samples failed for one reason ({reason})", failing.len(), self.tried),
                detail: failing[0].1.to_owned(),
                only_suspects: only_suspects.then_some(reason),
            });
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

    #[test]
    fn suspects_do_not_stop_the_next_run_and_are_told_apart_when_it_is_judged() {
        let failing: Vec<SampleId> = (0..5).map(SampleId).collect();
        let mut first = Health::default();
        let stopped = failing.iter().map(|sample| first.unreadable(*sample, Reason::Forbidden, "403")).last();
        assert!(stopped.unwrap().is_err());

        let mut second = Health::new(first.suspects());
        for sample in &failing {
            second.unreadable(*sample, Reason::Forbidden, "403").unwrap();
        }
        assert_eq!(second.judge().unwrap_err().only_suspects, Some(Reason::Forbidden));
        assert!(!second.works_for_others(Reason::Forbidden));
        second.unreadable(SampleId(9), Reason::Forbidden, "403").unwrap();
        assert_eq!(second.judge().unwrap_err().only_suspects, None, "a new one fails too");
    }
}
