//! Who may hold a connection. Each client is let in, and is a stranger until it has shown a key. When there are too many
//! strangers, the oldest is put out: no number of them keeps a caller away.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

/// Connections that have not shown a key.
const MOST_STRANGERS: usize = 512;

/// Connections that have shown one.
const MOST_CALLERS: usize = 512;

pub(super) struct ConnectionPlaces {
    /// Oldest first; some have ended.
    strangers: Mutex<VecDeque<AbortHandle>>,
    callers: Arc<Semaphore>,
}

/// What a connection holds once it has shown a key.
#[derive(Default)]
pub(super) struct CallerPlace(OnceLock<OwnedSemaphorePermit>);

impl CallerPlace {
    /// Whether the connection has shown a key.
    pub(super) fn is_callers(&self) -> bool {
        self.0.get().is_some()
    }
}

impl Default for ConnectionPlaces {
    fn default() -> Self {
        Self { strangers: Mutex::default(), callers: Arc::new(Semaphore::new(MOST_CALLERS)) }
    }
}

impl ConnectionPlaces {
    /// Takes in a connection, whose task `spawn` starts.
    pub(super) fn admit(&self, spawn: impl FnOnce() -> AbortHandle) {
        // Held while the task starts: it may show its key at once.
        let mut strangers = self.strangers();
        strangers.push_back(spawn());
        if strangers.len() > MOST_STRANGERS {
            strangers.retain(|stranger| !stranger.is_finished());
        }
        if strangers.len() > MOST_STRANGERS {
            put_out_oldest(&mut strangers);
        }
    }

    /// Puts the oldest stranger out.
    pub(super) fn evict(&self) {
        let mut strangers = self.strangers();
        strangers.retain(|stranger| !stranger.is_finished());
        put_out_oldest(&mut strangers);
    }

    /// Notes that the connection of the current task has shown a key; `false`: all places for callers are taken.
    pub(super) fn has_shown_key(&self, place: &CallerPlace) -> bool {
        if place.is_callers() {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.callers).try_acquire_owned() else { return false };
        if let Some(id) = tokio::task::try_id() {
            self.strangers().retain(|stranger| stranger.id() != id);
        }
        place.0.set(permit).is_ok()
    }

    fn strangers(&self) -> MutexGuard<'_, VecDeque<AbortHandle>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put_out_oldest(strangers: &mut VecDeque<AbortHandle>) {
    if let Some(oldest) = strangers.pop_front() {
        oldest.abort();
    }
}
