//! How many requests VMRay gets at once. The limit halves when VMRay refuses requests as too many and grows back slowly, and
//! all requests wait as long as its `Retry-After` says: without that, sixteen requests would be refused together, wait
//! together and be refused together again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Answers without a refusal after which one more request may run.
const GROW_AFTER: usize = 20;

/// Lets a bounded number of requests through. Clients of one process share one, so that what throttling has taught is kept.
#[derive(Debug)]
pub struct Throttle {
    permits: Semaphore,
    most: usize,
    pace: Mutex<Pace>,
}

#[derive(Debug)]
struct Pace {
    limit: usize,
    /// Permits that are out and will not come back.
    owed: usize,
    successes: usize,
    closed_until: Option<Instant>,
}

impl Throttle {
    /// At most `most` requests at the same time, at least one.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let pace = Pace { limit: most, owed: 0, successes: 0, closed_until: None };
        Self { permits: Semaphore::new(most), most, pace: Mutex::new(pace) }
    }

    /// Heeds a `Retry-After` that was met before for no longer than this from now on.
    pub fn shorten(&self, longest: Duration) {
        let mut pace = self.pace();
        let latest = Instant::now() + longest;
        pace.closed_until = pace.closed_until.map(|until| until.min(latest));
    }

    /// Waits for a slot. Hold it through all tries of a request: a refused request then goes before those that still wait.
    pub(super) async fn enter(&self) -> Slot<'_> {
        Slot { throttle: self, permit: Mutex::new(self.permit().await) }
    }

    /// The semaphore is never closed; without a permit the request would merely not be counted.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shrink(&self, pause: Duration) {
        let mut pace = self.pace();
        let until = Instant::now() + pause;
        let first_of_its_wave = pace.closed_until.is_none_or(|closed| closed <= Instant::now());
        pace.closed_until = Some(pace.closed_until.map_or(until, |closed| closed.max(until)));
        pace.successes = 0;
        if first_of_its_wave {
            let halved = (pace.limit / 2).max(1);
            pace.owed += pace.limit - halved;
            pace.limit = halved;
        }
    }

    fn grow(&self) {
        let mut pace = self.pace();
        pace.successes += 1;
        if pace.successes >= GROW_AFTER && pace.limit < self.most {
            pace.successes = 0;
            pace.limit += 1;
            if pace.owed > 0 {
                pace.owed -= 1;
            } else {
                self.permits.add_permits(1);
            }
        }
    }
}

/// The right to have one request under way.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    throttle: &'a Throttle,
    /// Absent while the limit is too small for all requests that wait to try again.
    permit: Mutex<Option<SemaphorePermit<'a>>>,
}

impl<'a> Slot<'a> {
    /// Waits until VMRay's last `Retry-After` has passed, and for a new permit if the last refusal cost it.
    pub(super) async fn opened(&self) {
        if self.held().is_none() {
            let permit = self.throttle.permit().await;
            *self.held() = permit;
        }
        loop {
            let until = self.throttle.pace().closed_until.filter(|until| *until > Instant::now());
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// VMRay refused a request because there were too many.
    pub(super) fn throttled(&self, pause: Duration) {
        self.throttle.shrink(pause);
        self.pay();
    }

    /// VMRay answered one.
    pub(super) fn answered(&self) {
        self.throttle.grow();
    }

    fn held(&self) -> MutexGuard<'_, Option<SemaphorePermit<'a>>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the permit up if there are more out than the limit allows.
    fn pay(&self) {
        let mut pace = self.throttle.pace();
        if pace.owed > 0
            && let Some(permit) = self.held().take()
        {
            pace.owed -= 1;
            permit.forget();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pay();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wave_of_refusals_halves_the_limit_once_and_pauses_all() {
        let throttle = Throttle::new(8);
        let slots = futures::future::join_all((0..8).map(|_| throttle.enter())).await;
        for slot in &slots {
            slot.throttled(Duration::from_secs(2));
        }
        drop(slots);
        assert_eq!(throttle.permits.available_permits(), 4);

        let started = Instant::now();
        throttle.enter().await.opened().await;
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_refused_wave_only_as_many_try_again_as_the_limit_allows() {
        let throttle = Throttle::new(8);
        let slots = futures::future::join_all((0..8).map(|_| throttle.enter())).await;
        for slot in &slots {
            slot.throttled(Duration::from_secs(2));
        }
        let at_once = async {
            let mut open: futures::stream::FuturesUnordered<_> = slots.iter().map(Slot::opened).collect();
            let mut count = 0;
            while let Ok(Some(())) =
                tokio::time::timeout(Duration::from_mins(1), futures::StreamExt::next(&mut open)).await
            {
                count += 1;
            }
            count
        };
        assert_eq!(at_once.await, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn it_never_closes_for_good_and_grows_back() {
        let throttle = Throttle::new(4);
        for _ in 0..10 {
            let slot = throttle.enter().await;
            slot.throttled(Duration::from_millis(1));
            slot.opened().await;
        }
        assert_eq!(throttle.permits.available_permits(), 1);
        for _ in 0..4 * GROW_AFTER {
            throttle.enter().await.answered();
        }
        assert_eq!(throttle.permits.available_permits(), 4);
    }
}
