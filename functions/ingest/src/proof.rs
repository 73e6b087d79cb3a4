//! Whether failures are the samples' fault. Pure.
//!
//! A key that lost its rights, a proxy in the way, a platform that takes nothing: these fail sample after sample, and
//! quarantining them all would hide the trouble. But samples may also be bad by themselves, such as those that are not
//! shared with the key's user, and must not hold up the others, however many stand in a row. One rule tells them apart:
//! **a failure is the sample's own fault once the server is seen to work for another sample afterwards.** Until then it
//! is unproven. VMRay proves it by a sample that was read whole before and is read whole again, `OpenCTI` by a bundle
//! that it takes. Without proof the run stops, the position stays where it is, and an alarm rings.

/// So many failures wait for a proof at first, and fewer need none where there is no sample to prove it by.
const FEW: usize = 5;

/// So many wait for one in the end: a proof costs some calls.
const MANY: usize = 100;

/// Too many samples fail for it to be their fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "{count} samples failed and {proof}; the last: {detail}. This is not the samples' fault: check the VMRay key's rights, both servers and what is between; nothing is lost, the next run tries them again"
)]
pub struct Systemic {
    /// How many failures are unproven.
    pub count: usize,
    /// What came of the attempt to prove them.
    pub proof: String,
    /// The last failure in words.
    pub detail: String,
}

/// Failures that may still be the server's fault.
#[derive(Debug)]
pub(crate) struct Unproven<T> {
    failures: Vec<T>,
    enough: usize,
}

impl<T> Default for Unproven<T> {
    fn default() -> Self {
        Self { failures: Vec::new(), enough: FEW }
    }
}

impl<T> Unproven<T> {
    /// Adds one.
    pub(crate) fn add(&mut self, failure: T) {
        self.failures.push(failure);
    }

    /// The last one added since the last proof.
    #[must_use]
    pub(crate) fn last(&self) -> Option<&T> {
        self.failures.last()
    }

    /// How many there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.failures.len()
    }

    /// Whether there are so many that the server is to be looked at before more are added.
    #[must_use]
    pub(crate) fn is_enough(&self) -> bool {
        self.failures.len() >= self.enough
    }

    /// Whether they are so few that they are believed without proof, where nothing can prove them.
    #[must_use]
    pub(crate) fn is_few(&self) -> bool {
        self.failures.len() < FEW
    }

    /// The server was seen to work: they are the samples' own fault. More are collected before the next proof.
    pub(crate) fn prove(&mut self) -> Vec<T> {
        if self.is_enough() {
            self.enough = (self.enough * 2).min(MANY);
        }
        std::mem::take(&mut self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_become_rare_and_the_failures_between_them_stay_bounded() {
        let mut unproven = Unproven::default();
        let (mut proofs, mut proven, mut most) = (0, 0, 0);
        for failure in 0..1_100 {
            unproven.add(failure);
            if unproven.is_enough() {
                most = most.max(unproven.len());
                proofs += 1;
                proven += unproven.prove().len();
            }
        }
        assert_eq!((proofs, proven + unproven.len(), most), (14, 1_100, MANY));
    }

    #[test]
    fn a_few_failures_are_no_reason_to_look_more_seldom() {
        let mut unproven = Unproven::default();
        for failure in 0..10 {
            unproven.add(failure);
            assert_eq!(unproven.prove(), [failure]);
        }
        (0..4).for_each(|failure| unproven.add(failure));
        assert!(unproven.is_few() && !unproven.is_enough());
        unproven.add(4);
        assert!(unproven.is_enough());
    }
}
