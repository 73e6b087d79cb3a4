//! The queue of one machine: messages wait in the process, and stand in the store until they are done, so that a process
//! that is killed finds them again when it starts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use store::{Key, NewDocument, Store, StoreError, to_body};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Delayed, Message, Queue, QueueError};

/// The group of the messages' documents.
const GROUP: &str = "queue";

/// A queue in this process and its store.
pub struct LocalQueue {
    store: Arc<dyn Store>,
    waiting: Mutex<Waiting>,
    arrival: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: BinaryHeap<Reverse<Due>>,
    count: u64,
}

/// Ordered by when it is due, then by arrival.
struct Due {
    at: Instant,
    number: u64,
    received: Received,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A message that is due. It comes again after the next start unless it is [done](LocalQueue::done).
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    place: String,
}

impl std::fmt::Debug for LocalQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalQueue").finish_non_exhaustive()
    }
}

impl LocalQueue {
    /// A queue with the messages that an earlier process has left.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        const PAGE: usize = 1000;
        let queue = Self { store, waiting: Mutex::default(), arrival: Notify::new() };
        let mut after = None;
        loop {
            let page = queue.store.query_prefix(GROUP, "", PAGE, after.as_deref()).await?;
            for document in page.documents {
                queue.hold(document.read()?, document.key.sk, Duration::ZERO);
            }
            after = page.next;
            if after.is_none() {
                return Ok(queue);
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, message: Message, place: String, delay: Duration) {
        let mut waiting = self.waiting();
        waiting.count += 1;
        let number = waiting.count;
        let received = Received { message, place };
        waiting.messages.push(Reverse(Due { at: Instant::now() + delay, number, received }));
        drop(waiting);
        self.arrival.notify_one();
    }

    /// Waits for the next message that is due.
    pub async fn receive(&self) -> Received {
        loop {
            // Made before looking, so that a message that comes in between is not missed.
            let arrival = self.arrival.notified();
            let next = {
                let mut waiting = self.waiting();
                match waiting.messages.peek().map(|Reverse(due)| due.at) {
                    Some(at) if at <= Instant::now() => {
                        if let Some(Reverse(due)) = waiting.messages.pop() {
                            return due.received;
                        }
                        None
                    }
                    next => next,
                }
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = arrival => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => arrival.await,
            }
        }
    }

    /// The message could not be done now.
    pub fn again(&self, received: Received, delay: Duration) {
        self.hold(received.message, received.place, delay);
    }

    /// The message has done what it was for.
    pub async fn done(&self, received: &Received) -> Result<(), StoreError> {
        self.store.delete(&Key::new(GROUP, &received.place), 1).await
    }
}

#[async_trait]
impl Queue for LocalQueue {
    async fn send(&self, messages: Vec<Delayed>) -> Result<(), QueueError> {
        let failed = |error: StoreError| QueueError {
            messages: messages.len(),
            place: "the queue in the state file".to_owned(),
            reason: error.to_string(),
        };
        let mut documents = Vec::with_capacity(messages.len());
        let now = Utc::now().timestamp_millis();
        for message in &messages {
            let place = Key::new(GROUP, format!("{now:015}#{}", uuid::Uuid::new_v4()));
            let body = to_body(&place, &message.message).map_err(failed)?;
            documents.push(NewDocument { key: place, body, ttl: None });
        }
        let places: Vec<_> = documents.iter().map(|document| document.key.sk.clone()).collect();
        self.store.put_new_many(documents).await.map_err(failed)?;
        for (message, place) in messages.into_iter().zip(places) {
            self.hold(message.message, place, message.delay);
        }
        Ok(())
    }
}
