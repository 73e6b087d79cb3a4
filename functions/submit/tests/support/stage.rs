//! A store in which those who ask it can be stopped, and whose documents can be made older.
//!
//! Each request can be held up before it is handled and before its answer comes.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::TimeDelta;
use serde_json::Value;
use simulators::age::make_older;
use store::sqlite::SqliteStore;
use store::{Document, Expected, Key, NewDocument, Page, Span, Store, StoreError};
use tokio::sync::Notify;

tokio::task_local! {
    static ACTOR: Arc<Actor>;
}

/// Who makes requests to the store.
pub(crate) struct Actor {
    requests: AtomicUsize,
    /// Where it stops, and what tells that it has.
    stops_at: usize,
    stopped: Notify,
    goes_on: Notify,
    /// Random pauses, for plays without an order.
    dice: Option<Dice>,
}

/// Random numbers that are the same for a seed.
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(crate) fn below(&self, most: u64) -> u64 {
        let next =
            |seed: u64| seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seed =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seed| Some(next(seed))).unwrap();
        (next(seed) >> 33) % most
    }
}

impl Actor {
    pub(crate) fn stopping_at(stops_at: usize) -> Arc<Self> {
        Self::of(stops_at, None)
    }

    pub(crate) fn of(stops_at: usize, dice: Option<Dice>) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicUsize::new(0),
            stops_at,
            stopped: Notify::new(),
            goes_on: Notify::new(),
            dice,
        })
    }

    /// Lets it go on from where it was stopped.
    pub(crate) fn goes_on(&self) {
        self.goes_on.notify_one();
    }

    /// Before a request, and before its answer.
    async fn pass(&self) {
        if let Some(dice) = &self.dice {
            for _ in 0..dice.below(12) {
                tokio::task::yield_now().await;
            }
        }
        if self.requests.fetch_add(1, Ordering::Relaxed) == self.stops_at {
            self.stopped.notify_one();
            self.goes_on.notified().await;
        }
    }
}

/// What is left of an actor's work.
pub(crate) type Playing<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Does something as this actor.
pub(crate) async fn played_by<T>(actor: &Arc<Actor>, work: impl Future<Output = T>) -> T {
    ACTOR.scope(Arc::clone(actor), work).await
}

/// How many requests to the store something makes.
pub(crate) async fn requests_of(work: impl Future) -> usize {
    let actor = Actor::stopping_at(usize::MAX);
    played_by(&actor, work).await;
    actor.requests.load(Ordering::Relaxed) / 2
}

/// Lets an actor go to its end or to the place where it stops, and gives what is left of it there.
pub(crate) async fn until_it_stops<T>(
    actor: &Arc<Actor>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Playing<T>> {
    let mut work: Playing<T> = Box::pin(ACTOR.scope(Arc::clone(actor), work));
    tokio::select! {
        biased;
        () = actor.stopped.notified() => Err(work),
        done = &mut work => Ok(done),
    }
}

/// A store in which actors can be stopped.
pub(crate) struct Stage {
    store: SqliteStore,
    /// Where it has ever held a document.
    keys: Mutex<BTreeSet<(String, String)>>,
}

impl Default for Stage {
    fn default() -> Self {
        Self { store: SqliteStore::in_memory().unwrap(), keys: Mutex::default() }
    }
}

impl Stage {
    /// The batches that it has ever held.
    pub(crate) fn batches(&self) -> BTreeSet<String> {
        let keys = self.keys.lock().unwrap();
        keys.iter().filter_map(|(pk, _)| pk.strip_prefix("batch#")).map(str::to_owned).collect()
    }

    /// Makes every time in every document earlier.
    pub(crate) async fn time_passes(&self, time: TimeDelta) {
        let keys = self.keys.lock().unwrap().clone();
        for (pk, sk) in keys {
            let Some(document) = self.store.get(&Key::new(pk, sk)).await.unwrap() else { continue };
            let mut older = document.body.clone();
            make_older(&mut older, time);
            if older != document.body {
                let expected = Expected::Version(document.version);
                self.store.put(&document.key, older, document.ttl, expected).await.unwrap();
            }
        }
    }

    fn remember(&self, key: &Key) {
        self.keys.lock().unwrap().insert((key.pk.clone(), key.sk.clone()));
    }
}

async fn passed<T>(handled: impl Future<Output = T>) -> T {
    let actor = ACTOR.try_with(Arc::clone).ok();
    if let Some(actor) = &actor {
        actor.pass().await;
    }
    let answer = handled.await;
    if let Some(actor) = &actor {
        actor.pass().await;
    }
    answer
}

#[async_trait]
impl Store for Stage {
    async fn get(&self, key: &Key) -> Result<Option<Document>, StoreError> {
        passed(self.store.get(key)).await
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Document>, StoreError> {
        passed(self.store.get_many(keys)).await
    }

    async fn put(
        &self,
        key: &Key,
        body: Value,
        ttl: Option<i64>,
        expected: Expected,
    ) -> Result<u64, StoreError> {
        self.remember(key);
        passed(self.store.put(key, body, ttl, expected)).await
    }

    async fn put_new_many(&self, documents: Vec<NewDocument>) -> Result<Vec<bool>, StoreError> {
        for document in &documents {
            self.remember(&document.key);
        }
        passed(self.store.put_new_many(documents)).await
    }

    async fn delete(&self, key: &Key, expected: u64) -> Result<(), StoreError> {
        passed(self.store.delete(key, expected)).await
    }

    async fn query(
        &self,
        pk: &str,
        span: Span<'_>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<Page, StoreError> {
        passed(self.store.query(pk, span, limit, after)).await
    }
}
