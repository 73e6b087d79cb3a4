//! How many requests VMRay gets at once. The limit halves when it throttles and grows back slowly, and everybody
//! waits as long as its `Retry-After` says: without that, sixteen requests would be refused together, wait together
//! and be refused together again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Answers without a refusal after which one more request may run.
const GROW_AFTER: usize = 20;

/// Lets a bounded number of requests through.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Semaphore,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    /// Permits that are out and will not come back.
    owed: usize,
    successes: usize,
    closed_until: Option<Instant>,
}

impl Gate {
    /// Opens after `longest` at the latest.
    pub(super) fn shorten(&self, longest: Duration) {
        let mut state = self.state();
        let latest = Instant::now() + longest;
        state.closed_until = state.closed_until.map(|until| until.min(latest));
    }

    pub(super) fn new(most: usize) -> Self {
        let state = State { limit: most, owed: 0, successes: 0, closed_until: None };
        Self { permits: Semaphore::new(most), most, state: Mutex::new(state) }
    }

    /// Waits for a place. Hold it through all tries of a request: while the limit allows, who was refused is the next
    /// to go.
    pub(super) async fn enter(&self) -> Place<'_> {
        Place { gate: self, permit: Mutex::new(self.permit().await) }
    }

    /// The semaphore is never closed; without a permit the request would merely not be counted.
    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire().await.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shrink(&self, pause: Duration) {
        let mut state = self.state();
        let until = Instant::now() + pause;
        let first_of_its_wave = state.closed_until.is_none_or(|closed| closed <= Instant::now());
        state.closed_until = Some(state.closed_until.map_or(until, |closed| closed.max(until)));
        state.successes = 0;
        if first_of_its_wave {
            let halved = (state.limit / 2).max(1);
            state.owed += state.limit - halved;
            state.limit = halved;
        }
    }

    fn grow(&self) {
        let mut state = self.state();
        state.successes += 1;
        if state.successes >= GROW_AFTER && state.limit < self.most {
            state.successes = 0;
            state.limit += 1;
            if state.owed > 0 {
                state.owed -= 1;
            } else {
                self.permits.add_permits(1);
            }
        }
    }
}

/// The right to have one request under way.
#[derive(Debug)]
pub(super) struct Place<'a> {
    gate: &'a Gate,
    /// None while the limit is too small for all who wait to try again.
    permit: Mutex<Option<SemaphorePermit<'a>>>,
}

impl<'a> Place<'a> {
    /// Waits until VMRay's last `Retry-After` has passed, and for a new permit if the last refusal cost it.
    pub(super) async fn opened(&self) {
        if self.held().is_none() {
            let permit = self.gate.permit().await;
            *self.held() = permit;
        }
        loop {
            let until = self.gate.state().closed_until.filter(|until| *until > Instant::now());
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// VMRay refused a request because there were too many.
    pub(super) fn throttled(&self, pause: Duration) {
        self.gate.shrink(pause);
        self.pay();
    }

    /// VMRay answered one.
    pub(super) fn answered(&self) {
        self.gate.grow();
    }

    fn held(&self) -> MutexGuard<'_, Option<SemaphorePermit<'a>>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the permit up if there are more out than the limit allows.
    fn pay(&self) {
        let mut state = self.gate.state();
        if state.owed > 0
            && let Some(permit) = self.held().take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pay();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wave_of_refusals_halves_the_limit_once_and_closes_the_gate() {
        let gate = Gate::new(8);
        let places = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        for place in &places {
            place.throttled(Duration::from_secs(2));
        }
        drop(places);
        assert_eq!(gate.permits.available_permits(), 4);

        let started = Instant::now();
        gate.enter().await.opened().await;
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_refused_wave_only_as_many_try_again_as_the_limit_allows() {
        let gate = Gate::new(8);
        let places = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        for place in &places {
            place.throttled(Duration::from_secs(2));
        }
        let at_once = async {
            let mut open: futures::stream::FuturesUnordered<_> = places.iter().map(Place::opened).collect();
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
        let gate = Gate::new(4);
        for _ in 0..10 {
            let place = gate.enter().await;
            place.throttled(Duration::from_millis(1));
            place.opened().await;
        }
        assert_eq!(gate.permits.available_permits(), 1);
        for _ in 0..4 * GROW_AFTER {
            gate.enter().await.answered();
        }
        assert_eq!(gate.permits.available_permits(), 4);
    }
}
