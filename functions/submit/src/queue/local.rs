//! The queue of one machine: messages wait in the process, and stand in the store until they are done, so that a process
//! that is killed finds them again when it starts.
//!
//! Callers take turns, and each has a message in work as soon as it has one: a caller with one URL does not wait for
//! another's thousands.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use store::{Key, NewDocument, Store, StoreError, to_body};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Delayed, Message, Queue, QueueError};
use crate::turns::Turns;

/// The group of the messages' documents.
const GROUP: &str = "queue";

/// Messages of one caller that are worked on at the same time: one with a slow URL in it does not hold up the others. How
/// many URLs are sent at the same time is the worker's own limit.
const MOST_OF_A_CALLER: usize = 4;

/// Messages that are worked on at the same time, beyond the first of each caller.
const MOST_IN_WORK: usize = 16;

/// A queue in this process and its store.
pub struct LocalQueue {
    store: Arc<dyn Store>,
    shared: Arc<SharedMessages>,
}

#[derive(Default)]
struct SharedMessages {
    messages: Mutex<Messages>,
    /// Something is due, or something in work has ended.
    news: Notify,
}

#[derive(Default)]
struct Messages {
    delayed: BinaryHeap<Reverse<Due>>,
    due: Turns<Stored>,
    /// By caller.
    in_work: HashMap<String, usize>,
    count: u64,
}

/// Ordered by when it is due, then by arrival.
struct Due {
    at: Instant,
    number: u64,
    stored: Stored,
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

/// A message, and where its document is.
#[derive(Debug, Clone)]
struct Stored {
    place: String,
    document: StoredMessage,
}

/// The document of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredMessage {
    /// Messages of earlier versions name no caller.
    #[serde(default)]
    caller: String,
    #[serde(flatten)]
    message: Message,
}

/// A message in work. It comes again after the next start unless it is [done](LocalQueue::done).
pub struct Received {
    stored: Stored,
    shared: Arc<SharedMessages>,
}

impl Received {
    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.stored.document.message
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let mut messages = self.shared.messages();
        if let Some(in_work) = messages.in_work.get_mut(&self.stored.document.caller) {
            *in_work -= 1;
            if *in_work == 0 {
                messages.in_work.remove(&self.stored.document.caller);
            }
        }
        drop(messages);
        self.shared.news.notify_one();
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("message", self.message()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LocalQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalQueue").finish_non_exhaustive()
    }
}

/// What comes next.
enum NextMessage {
    Message(Stored),
    /// A message is due then.
    At(Instant),
    /// Nothing before there is news.
    Unknown,
}

impl Messages {
    fn next(&mut self, now: Instant) -> NextMessage {
        while self.delayed.peek().is_some_and(|Reverse(due)| due.at <= now) {
            if let Some(Reverse(Due { stored, .. })) = self.delayed.pop() {
                let caller = stored.document.caller.clone();
                self.due.push(&caller, stored);
            }
        }
        let (in_work, total) = (&self.in_work, self.in_work.values().sum::<usize>());
        let may_have_one = |caller: &str| match in_work.get(caller) {
            None => true,
            Some(own) => *own < MOST_OF_A_CALLER && total < MOST_IN_WORK,
        };
        if let Some(stored) = self.due.pop_of(may_have_one) {
            *self.in_work.entry(stored.document.caller.clone()).or_default() += 1;
            return NextMessage::Message(stored);
        }
        self.delayed.peek().map_or(NextMessage::Unknown, |Reverse(due)| NextMessage::At(due.at))
    }
}

impl SharedMessages {
    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, stored: Stored, delay: Duration) {
        let mut messages = self.messages();
        messages.count += 1;
        let number = messages.count;
        messages.delayed.push(Reverse(Due { at: Instant::now() + delay, number, stored }));
        drop(messages);
        self.news.notify_one();
    }
}

impl LocalQueue {
    /// A queue with the messages that an earlier process has left.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        const PAGE: usize = 1000;
        let queue = Self { store, shared: Arc::default() };
        let mut after = None;
        loop {
            let page = queue.store.query_prefix(GROUP, "", PAGE, after.as_deref()).await?;
            for document in page.documents {
                let stored = Stored { document: document.read()?, place: document.key.sk };
                queue.shared.hold(stored, Duration::ZERO);
            }
            after = page.next;
            if after.is_none() {
                return Ok(queue);
            }
        }
    }

    /// Waits for the next message that may be worked on. For one at a time; safe to be dropped.
    pub async fn receive(&self) -> Received {
        loop {
            // Made before looking, so that news in between are not missed.
            let news = self.shared.news.notified();
            let next = self.shared.messages().next(Instant::now());
            match next {
                NextMessage::Message(stored) => return Received { stored, shared: Arc::clone(&self.shared) },
                NextMessage::At(at) => {
                    tokio::select! {
                        () = news => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                NextMessage::Unknown => news.await,
            }
        }
    }

    /// The message could not be done now.
    pub fn again(&self, received: &Received, delay: Duration) {
        self.shared.hold(received.stored.clone(), delay);
    }

    /// The message has done what it was for.
    pub async fn done(&self, received: &Received) -> Result<(), StoreError> {
        self.store.delete(&Key::new(GROUP, &received.stored.place), 1).await
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
        let mut held = Vec::with_capacity(messages.len());
        let now = Utc::now().timestamp_millis();
        for Delayed { message, caller, delay } in &messages {
            let document = StoredMessage { caller: caller.clone(), message: message.clone() };
            let key = Key::new(GROUP, format!("{now:015}#{}", uuid::Uuid::new_v4()));
            let body = to_body(&key, &document).map_err(failed)?;
            held.push((Stored { place: key.sk.clone(), document }, *delay));
            documents.push(NewDocument { key, body, ttl: None });
        }
        self.store.put_new_many(documents).await.map_err(failed)?;
        for (stored, delay) in held {
            self.shared.hold(stored, delay);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use store::sqlite::SqliteStore;

    use super::*;

    fn chunk(batch: &str) -> Message {
        Message::Chunk { batch: batch.to_owned(), chunk: 0, attempt: 0 }
    }

    async fn queue_with(messages: &[(&str, &str)]) -> (Arc<dyn Store>, LocalQueue) {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().unwrap());
        let queue = LocalQueue::open(Arc::clone(&store)).await.unwrap();
        let messages = messages.iter().map(|(caller, batch)| Delayed::now(chunk(batch), caller));
        queue.send(messages.collect()).await.unwrap();
        (store, queue)
    }

    fn next(queue: &LocalQueue) -> Option<Received> {
        queue.receive().now_or_never()
    }

    #[tokio::test]
    async fn a_caller_with_one_message_does_not_wait_for_another_ones_backlog() {
        let mut messages = vec![("many", "m"); 100];
        messages.push(("one", "o"));
        let (_, queue) = queue_with(&messages).await;
        let in_work: Vec<_> = std::iter::from_fn(|| next(&queue)).collect();
        assert_eq!(in_work.len(), MOST_OF_A_CALLER + 1);
        assert_eq!(in_work[1].message(), &chunk("o"));
    }

    #[tokio::test]
    async fn each_caller_has_a_message_in_work_however_many_callers_there_are() {
        let callers: Vec<_> = (0..30).map(|number| format!("caller-{number}")).collect();
        let messages: Vec<_> = callers.iter().flat_map(|caller| vec![(caller.as_str(), "m"); 10]).collect();
        let (_, queue) = queue_with(&messages).await;
        let mut in_work: Vec<_> = std::iter::from_fn(|| next(&queue)).collect();
        let working = |in_work: &[Received]| {
            in_work
                .iter()
                .map(|it| it.stored.document.caller.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!((in_work.len(), working(&in_work).len()), (30, 30));
        // Whose message is done has the next one.
        let done = in_work.remove(7).stored.document.caller.clone();
        let following = next(&queue).unwrap();
        assert_eq!(following.stored.document.caller, done);
    }

    #[tokio::test]
    async fn messages_come_again_after_a_restart_unless_they_are_done() {
        let (store, queue) = queue_with(&[("a", "1"), ("b", "2")]).await;
        let done = next(&queue).unwrap();
        queue.done(&done).await.unwrap();
        drop(queue);
        let legacy = Key::new(GROUP, "000000000000000#x");
        let body = serde_json::json!({"kind": "chunk", "batch": "3", "chunk": 0, "attempt": 2});
        store.put_new_many(vec![NewDocument { key: legacy, body, ttl: None }]).await.unwrap();
        let queue = LocalQueue::open(store).await.unwrap();
        let messages: Vec<_> =
            std::iter::from_fn(|| next(&queue)).map(|received| received.message().clone()).collect();
        let old = Message::Chunk { batch: "3".to_owned(), chunk: 0, attempt: 2 };
        assert_eq!(messages, [old, chunk("2")]);
    }
}
