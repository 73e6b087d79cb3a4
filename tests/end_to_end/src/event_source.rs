//! Lambda's event source mapping for SQS: receives a message, invokes the worker with it, deletes it when that went
//! well. What went wrong stays in the queue and comes again after its visibility timeout.
//!
//! [`EventSource`] does so by itself with several processes. [`hand_over`] and [`deliver`] are its two halves for tests
//! that want to say which message comes when, to whom, and how often.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::lambda::{Function, Lambda, SAFETY_NET};
use crate::queue::{Counts, Message, Queue};
use crate::runtime_api::Outcome;

/// How long an empty queue is asked at a time. SQS counts in whole seconds.
const POLL: Duration = Duration::from_secs(1);
/// How often the queue is counted while a test waits for it to be empty.
const RECOUNT: Duration = Duration::from_millis(100);

/// What became of one message of one invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub message_id: String,
    /// Its text.
    pub body: String,
    /// How often it had been received.
    pub receive_count: u32,
    /// Why it was left in the queue; `None` when it was deleted.
    pub failure: Option<String>,
}

/// Invokes the worker with these messages, and deletes none. What is answered is the worker's word for each.
pub async fn hand_over(
    queue: &Queue,
    worker: &Lambda,
    messages: &[&Message],
    limit: Duration,
) -> Vec<Delivery> {
    let outcome = worker.invoke(queue.event(messages), limit).await;
    let failures = failures(&outcome, messages);
    messages
        .iter()
        .map(|message| Delivery {
            message_id: message.id.clone(),
            body: message.body.clone(),
            receive_count: message.receive_count(),
            failure: failures(&message.id),
        })
        .collect()
}

/// Invokes the worker with these messages, and deletes those that went well.
pub async fn deliver(
    queue: &Queue,
    worker: &Lambda,
    messages: &[&Message],
    limit: Duration,
) -> Vec<Delivery> {
    let deliveries = hand_over(queue, worker, messages, limit).await;
    for (message, delivery) in messages.iter().zip(&deliveries) {
        if delivery.failure.is_none() {
            queue.delete(message).await;
        }
    }
    deliveries
}

/// Why a message has failed, by its id. A partial answer that Lambda cannot read fails the whole batch.
fn failures(outcome: &Outcome, messages: &[&Message]) -> impl Fn(&str) -> Option<String> {
    let (all, some) = match outcome {
        Outcome::Error { kind, message } => (Some(format!("{kind}: {message}")), BTreeSet::new()),
        Outcome::Answer(answer) => match failed_ids(answer, messages) {
            Some(ids) => (None, ids),
            None => (Some(format!("a partial answer that Lambda cannot read: {answer}")), BTreeSet::new()),
        },
    };
    move |id| all.clone().or_else(|| some.contains(id).then(|| "named in batchItemFailures".to_owned()))
}

fn failed_ids(answer: &Value, messages: &[&Message]) -> Option<BTreeSet<String>> {
    let Some(failures) = answer.get("batchItemFailures").filter(|failures| !failures.is_null()) else {
        return Some(BTreeSet::new());
    };
    let known = |id: &str| messages.iter().any(|message| message.id == id);
    let id = |failure: &Value| failure["itemIdentifier"].as_str().filter(|id| known(id)).map(str::to_owned);
    failures.as_array()?.iter().map(id).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Held,
    Stopped,
}

#[derive(Default)]
struct Log {
    deliveries: Vec<Delivery>,
    /// A worker's task has panicked.
    died: bool,
}

struct Shared {
    queue: Arc<Queue>,
    function: Function,
    limit: Duration,
    state: watch::Sender<State>,
    log: watch::Sender<Log>,
    /// What kills each process that is at work.
    at_work: Mutex<Vec<Option<Arc<Notify>>>>,
}

/// A running event source: batches of one message, as many at once as there are workers. Dropping it stops it at once.
pub struct EventSource {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Drop for EventSource {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

impl EventSource {
    /// Starts so many processes of the function and feeds them from the queue; `limit` is the function's timeout.
    #[must_use]
    pub fn start(queue: &Arc<Queue>, function: &Function, workers: usize, limit: Duration) -> Self {
        let shared = Arc::new(Shared {
            queue: Arc::clone(queue),
            function: function.clone(),
            limit,
            state: watch::Sender::new(State::Running),
            log: watch::Sender::new(Log::default()),
            at_work: Mutex::new(vec![None; workers]),
        });
        let workers = (0..workers).map(|number| tokio::spawn(work(Arc::clone(&shared), number))).collect();
        Self { shared, workers }
    }

    /// Hands over no further message until [`resume`](Self::resume).
    pub fn hold(&self) {
        self.shared.state.send_replace(State::Held);
    }

    /// Goes on after [`hold`](Self::hold).
    pub fn resume(&self) {
        self.shared.state.send_replace(State::Running);
    }

    /// Lets what is under way end and hands over nothing more.
    pub async fn stop(mut self) {
        self.shared.state.send_replace(State::Stopped);
        for worker in std::mem::take(&mut self.workers) {
            worker.await.expect("a worker's task has said why it ended");
        }
    }

    /// Kills the processes that are at work; how many there were. Their messages come again after their visibility
    /// timeout, to new processes.
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn kill_busy(&self) -> usize {
        let at_work = self.shared.at_work();
        at_work.iter().flatten().map(|killer| killer.notify_one()).count()
    }

    /// What has been delivered so far, in the order of ending.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.log.borrow().deliveries.clone()
    }

    /// Waits until so many deliveries have ended since the start.
    pub async fn delivered(&self, count: usize) -> Vec<Delivery> {
        let mut log = self.shared.log.subscribe();
        let enough = log.wait_for(|log| log.died || log.deliveries.len() >= count);
        match tokio::time::timeout(SAFETY_NET, enough).await {
            Ok(Ok(log)) => assert!(!log.died, "a worker's task has said why it ended"),
            _ => panic!("{count} deliveries did not come: {:?}", self.deliveries()),
        }
        self.deliveries()
    }

    /// Waits until the queue holds nothing: nothing to be received, under way, or delayed.
    pub async fn idle(&self) -> Vec<Delivery> {
        let mut log = self.shared.log.subscribe();
        let patience = tokio::time::Instant::now() + SAFETY_NET;
        loop {
            let counts = self.shared.queue.counts().await;
            if counts == Counts::default() {
                break;
            }
            assert!(!log.borrow_and_update().died, "a worker's task has said why it ended");
            let waited = tokio::time::Instant::now();
            assert!(waited < patience, "{counts:?} are left: {:?}", self.deliveries());
            // Messages also leave the queue without a delivery: for the dead letters.
            let _ = tokio::time::timeout(RECOUNT, log.changed()).await;
        }
        self.deliveries()
    }
}

impl Shared {
    fn at_work(&self) -> std::sync::MutexGuard<'_, Vec<Option<Arc<Notify>>>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn deliver(&self, number: usize, worker: &Lambda, message: &Message) {
        self.at_work()[number] = Some(worker.killer());
        let deliveries = deliver(&self.queue, worker, &[message], self.limit).await;
        self.at_work()[number] = None;
        self.log.send_modify(|log| log.deliveries.extend(deliveries));
    }
}

/// Says that a worker's task has panicked, which tokio would keep to itself.
struct Alarm(Arc<Shared>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.log.send_modify(|log| log.died = true);
        }
    }
}

/// One process after the other, one message after the other.
async fn work(shared: Arc<Shared>, number: usize) {
    let _alarm = Alarm(Arc::clone(&shared));
    let mut state = shared.state.subscribe();
    let mut worker = shared.function.start().await;
    loop {
        let now = state.wait_for(|state| *state != State::Held).await.map(|state| *state);
        if !matches!(now, Ok(State::Running)) {
            return;
        }
        let messages = shared.queue.receive(1, POLL).await;
        let Some(message) = messages.first() else { continue };
        if *state.borrow() != State::Running {
            // Held while the queue was asked: back it goes.
            shared.queue.set_visibility(message, Duration::ZERO).await;
            continue;
        }
        if !worker.is_running() {
            worker = shared.function.start().await;
        }
        shared.deliver(number, &worker, message).await;
    }
}
