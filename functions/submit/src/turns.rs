//! Turns: what waits is taken from one caller after the other, so that a caller with little to do never waits for all
//! that another one has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Things that wait: the oldest of each caller in turn.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: HashMap<String, VecDeque<T>>,
    /// Callers with something that waits; the first one is next.
    order: VecDeque<String>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    pub(crate) fn push(&mut self, caller: &str, thing: T) {
        if let Some(queue) = self.waiting.get_mut(caller) {
            queue.push_back(thing);
        } else {
            self.waiting.insert(caller.to_owned(), VecDeque::from([thing]));
            self.order.push_back(caller.to_owned());
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true)
    }

    /// The next one of a caller who may have it.
    pub(crate) fn pop_of(&mut self, may_have_it: impl Fn(&str) -> bool) -> Option<T> {
        let place = self.order.iter().position(|caller| may_have_it(caller))?;
        let caller = self.order.remove(place)?;
        let queue = self.waiting.get_mut(&caller)?;
        let thing = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&caller);
        } else {
            self.order.push_back(caller);
        }
        thing
    }
}

/// A number of places that are taken in turns.
#[derive(Debug)]
pub(crate) struct Places(Mutex<PlacesState>);

#[derive(Debug)]
struct PlacesState {
    free: usize,
    waiting: Turns<oneshot::Sender<Place>>,
}

/// One of the places, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Places>>);

impl Places {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(PlacesState { free: places, waiting: Turns::default() })))
    }

    fn state(&self) -> MutexGuard<'_, PlacesState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(crate) async fn take(self: &Arc<Self>, caller: &str) -> Place {
        loop {
            let given = {
                let mut state = self.state();
                if state.free > 0 {
                    state.free -= 1;
                    return Place(Some(Arc::clone(self)));
                }
                let (sender, given) = oneshot::channel();
                state.waiting.push(caller, sender);
                given
            };
            // A sender is only dropped after it has given a place.
            if let Ok(place) = given.await {
                return place;
            }
        }
    }

    fn pass_on(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state();
                let next = state.waiting.pop();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Place(Some(Arc::clone(&self)))) {
                Ok(()) => return,
                // That caller has stopped waiting.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn callers_take_turns_and_each_ones_things_stay_in_order() {
        let mut turns = Turns::default();
        for number in 0..3 {
            turns.push("many", number);
        }
        turns.push("one", 10);
        assert_eq!(std::iter::from_fn(|| turns.pop()).collect::<Vec<_>>(), [0, 10, 1, 2]);
        turns.push("many", 3);
        turns.push("one", 11);
        assert_eq!(turns.pop_of(|caller| caller == "one"), Some(11));
        assert_eq!(turns.pop_of(|caller| caller == "one"), None);
        assert_eq!(turns.pop(), Some(3));
    }

    #[tokio::test]
    async fn a_place_goes_to_the_next_caller_and_past_those_who_have_left() {
        let places = Places::new(1);
        let held = places.take("many").await;
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(places.take("many"))).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(places.take("one"));
        assert!((&mut single).now_or_never().is_none());
        // One that has left has used up its caller's turn.
        drop(waiting.remove(0));
        drop(held);
        let single = (&mut single).now_or_never().expect("before the others of the same caller");
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        drop(single);
        assert!((&mut waiting[0]).now_or_never().is_some());
        drop(waiting);
        assert!(places.take("many").now_or_never().is_some());
    }
}
