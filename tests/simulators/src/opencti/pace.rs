//! How fast the workers are.

use std::time::{Duration, Instant};

/// Workers that take the same time for each object.
#[derive(Debug)]
pub(super) struct Pace {
    per_object: Duration,
    since: Instant,
    /// Time that was worked on an object which is not done yet.
    begun: Duration,
    busy: Duration,
}

impl Pace {
    pub(super) fn new(objects_per_second: u32, now: Instant) -> Self {
        let per_object = Duration::from_secs(1) / objects_per_second.max(1);
        Self { per_object, since: now, begun: Duration::ZERO, busy: Duration::ZERO }
    }

    /// How many of the objects that wait are imported until now. To be asked before every change of the queue.
    pub(super) fn imported(&mut self, waiting: usize, now: Instant) -> usize {
        let worked = now.saturating_duration_since(std::mem::replace(&mut self.since, now)) + self.begun;
        let done = usize::try_from(worked.as_nanos() / self.per_object.as_nanos()).unwrap_or(usize::MAX);
        let count = done.min(waiting);
        let spent = self.per_object * u32::try_from(count).unwrap_or(u32::MAX);
        self.begun = if done >= waiting { Duration::ZERO } else { worked.saturating_sub(spent) };
        self.busy += spent;
        count
    }

    /// For how long there was something to import.
    pub(super) fn busy(&self) -> Duration {
        self.busy + self.begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_worked_counts_once_and_idle_time_never() {
        let start = Instant::now();
        let after = |millis: u64| start + Duration::from_millis(millis);
        let mut pace = Pace::new(10, start);
        assert_eq!(pace.imported(0, after(1000)), 0, "nothing waits");
        assert_eq!(pace.imported(5, after(1150)), 1);
        assert_eq!(pace.imported(4, after(1250)), 1, "the half that was begun goes on");
        assert_eq!(pace.busy(), Duration::from_millis(250));
        assert_eq!(pace.imported(3, after(9000)), 3);
        assert_eq!(pace.busy(), Duration::from_millis(500));
    }
}
