//! The daily limit holds whatever comes first, and wherever it dies: VMRay never gets more, and no URL counts twice.
//!
//! Each request to the store can be held up before it is handled and before its answer comes. So a call, a retry or a
//! worker is held up, or killed, at each place of its way, while others come from their beginning to their end. A random
//! play mixes all of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use futures::FutureExt as _;
use proptest::prelude::*;
use runtime::http::Deadline;
use serde_json::{Value, json};
use simulators::vmray::submit::SubmitOptions;
use simulators::vmray::{VmrayOptions, VmraySimulator};
use store::sqlite::SqliteStore;
use store::{Document, Expected, Key, NewDocument, Page, Span, Store, StoreError};
use submit::queue::Message;
use support::{Answer, Bridge, KEY, request};
use tokio::sync::Notify;
use tokio::time::Instant;

const CALLER: &str = "soar";

tokio::task_local! {
    static ACTOR: Arc<Actor>;
}

/// Who makes requests to the store.
struct Actor {
    requests: AtomicUsize,
    /// Where it stops, and what tells that it has.
    stops_at: usize,
    stopped: Notify,
    goes_on: Notify,
    /// Random pauses, for plays without an order.
    dice: Option<Dice>,
}

/// Random numbers that are the same for a seed.
struct Dice(AtomicU64);

impl Dice {
    fn below(&self, most: u64) -> u64 {
        let next =
            |seed: u64| seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seed =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seed| Some(next(seed))).unwrap();
        (next(seed) >> 33) % most
    }
}

impl Actor {
    fn stopping_at(stops_at: usize) -> Arc<Self> {
        Self::of(stops_at, None)
    }

    fn of(stops_at: usize, dice: Option<Dice>) -> Arc<Self> {
        Arc::new(Self {
            requests: AtomicUsize::new(0),
            stops_at,
            stopped: Notify::new(),
            goes_on: Notify::new(),
            dice,
        })
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

/// Lets an actor go to its end or to the place where it stops, and gives what is left of it there.
async fn until_it_stops<T>(
    actor: &Arc<Actor>,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, std::pin::Pin<Box<dyn Future<Output = T> + Send>>> {
    let mut work: std::pin::Pin<Box<dyn Future<Output = T> + Send>> =
        Box::pin(ACTOR.scope(Arc::clone(actor), work));
    tokio::select! {
        biased;
        () = actor.stopped.notified() => Err(work),
        done = &mut work => Ok(done),
    }
}

/// A store in which actors can be stopped.
struct Stage {
    store: SqliteStore,
    /// The batches that it has ever held.
    batches: Mutex<BTreeSet<String>>,
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
        passed(self.store.put(key, body, ttl, expected)).await
    }

    async fn put_new_many(&self, documents: Vec<NewDocument>) -> Result<Vec<bool>, StoreError> {
        let batches = documents.iter().filter_map(|document| document.key.pk.strip_prefix("batch#"));
        self.batches.lock().unwrap().extend(batches.map(str::to_owned));
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

/// One deployment with a daily limit, and the VMRay behind it.
#[derive(Clone)]
struct Scene {
    vmray: Arc<VmraySimulator>,
    bridge: Arc<Bridge>,
    stage: Arc<Stage>,
    limit: usize,
}

impl Scene {
    async fn new(limit: usize, quota: Option<u64>) -> Self {
        let submit = SubmitOptions { quota_limit: quota, ..SubmitOptions::default() };
        let vmray = VmrayOptions { submit, ..VmrayOptions::default() };
        let key = vmray.api_keys[0].clone();
        let vmray = VmraySimulator::start(vmray).await.unwrap();
        let stage = Stage { store: SqliteStore::in_memory().unwrap(), batches: Mutex::default() };
        let stage = Arc::new(stage);
        let most = limit.to_string();
        let settings =
            [("VMRAY_SERVER", vmray.url()), ("VMRAY_API_KEY", key), ("MAX_URLS_PER_CALLER_DAY", most)];
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let bridge = Bridge::on(Arc::clone(&stage) as Arc<_>, &settings).await;
        Self { vmray: Arc::new(vmray), bridge: Arc::new(bridge), stage, limit }
    }

    fn post(&self, target: &str, body: &Value) -> impl Future<Output = Answer> + Send + use<> {
        let bridge = Arc::clone(&self.bridge);
        let request = request("POST", target, &[("x-api-key", KEY)], body.to_string());
        async move { bridge.send(request).await }
    }

    /// Submits the URLs of these hosts.
    fn call(&self, hosts: &[&str]) -> impl Future<Output = Answer> + Send + use<> {
        let urls: Vec<_> = hosts.iter().map(|host| format!("http://{host}.example/")).collect();
        self.post("/v1/submissions?wait=0", &json!({ "urls": urls }))
    }

    fn retry(&self, batch: &str) -> impl Future<Output = Answer> + Send + use<> {
        self.post(&format!("/v1/submissions/{batch}/retry?wait=0"), &Value::Null)
    }

    /// Works on all messages that are due.
    fn work(&self) -> impl Future<Output = ()> + Send + use<> {
        let bridge = Arc::clone(&self.bridge);
        async move {
            while let Some(received) = bridge.queue.receive().now_or_never() {
                bridge.submit.work(received.message(), soon()).await.unwrap();
                bridge.queue.done(&received).await.unwrap();
            }
        }
    }

    /// What comes later: the guards of all batches, and the messages that follow.
    async fn work_later(&self) {
        let batches = self.stage.batches.lock().unwrap().clone();
        for batch in batches {
            self.bridge.submit.work(&Message::Guard { batch }, soon()).await.unwrap();
            self.work().await;
        }
    }

    async fn used(&self) -> usize {
        let used = self.bridge.ledger.used_today(CALLER, Utc::now()).await.unwrap();
        usize::try_from(used).unwrap()
    }

    /// URLs that VMRay has, each once.
    fn stored(&self) -> usize {
        let posts = self.vmray.posts();
        for url in posts.keys() {
            assert!(self.vmray.stored_of(url).len() <= 1, "{url} is there twice");
        }
        posts.keys().filter(|url| !self.vmray.stored_of(url).is_empty()).count()
    }

    async fn nothing_counts_but_what_vmray_has(&self, context: &str) {
        assert!(self.stored() <= self.limit, "{context}: {} of {}", self.stored(), self.limit);
        assert_eq!(self.used().await, self.stored(), "{context}");
    }
}

fn soon() -> Deadline {
    Deadline::at(Instant::now() + Duration::from_secs(20))
}

const HOSTS: [&str; 3] = ["a", "b", "c"];

/// What becomes of an actor at the place where it stops.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    HeldUp,
    Killed,
}

/// Plays two identical calls. The first one stops at each of its requests while the second one, and a worker, come to
/// their ends.
async fn two_identical_calls(limit: usize, quota: Option<u64>, fate: Fate, status: u16) {
    for stops_at in 0.. {
        let scene = Scene::new(limit, quota).await;
        let context = format!("limit {limit}, {fate:?} at {stops_at}");
        let actor = Actor::stopping_at(stops_at);
        let Err(first) = until_it_stops(&actor, scene.call(&HOSTS)).await else {
            assert!(stops_at > 8, "only {stops_at} places");
            return;
        };
        let second = scene.call(&HOSTS).await;
        assert_eq!(second.status, status, "{context}: {}", second.text);
        scene.work().await;
        if fate == Fate::HeldUp {
            actor.goes_on.notify_one();
            let first = first.await;
            assert_eq!(first.status, status, "{context}: {}", first.text);
            assert_eq!(first.json["batch_id"], second.json["batch_id"], "{context}");
        }
        scene.work().await;
        scene.work_later().await;
        scene.nothing_counts_but_what_vmray_has(&context).await;
        let fits = usize::from(status == 202)
            * HOSTS.len().min(quota.map_or(usize::MAX, |it| usize::try_from(it).unwrap()));
        assert_eq!(scene.stored(), fits, "{context}");
    }
}

#[tokio::test]
async fn of_two_identical_calls_both_count_once_wherever_one_is_held_up() {
    two_identical_calls(3, None, Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn two_identical_calls_that_are_too_large_send_nothing_wherever_one_is_held_up() {
    two_identical_calls(2, None, Fate::HeldUp, 429).await;
}

#[tokio::test]
async fn a_repeat_counts_once_wherever_the_call_before_it_died() {
    two_identical_calls(3, None, Fate::Killed, 202).await;
}

#[tokio::test]
async fn a_repeat_that_is_too_large_sends_nothing_wherever_the_call_before_it_died() {
    two_identical_calls(2, None, Fate::Killed, 429).await;
}

#[tokio::test]
async fn what_the_quota_refused_is_given_back_once_wherever_a_call_is_held_up() {
    two_identical_calls(3, Some(1), Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn what_the_quota_refused_is_given_back_once_wherever_a_worker_dies() {
    for stops_at in 0.. {
        let scene = Scene::new(3, Some(1)).await;
        let batch = scene.call(&HOSTS).await.batch().to_owned();
        let actor = Actor::stopping_at(stops_at);
        if until_it_stops(&actor, scene.work()).await.is_ok() {
            assert!(stops_at > 8, "only {stops_at} places");
            return;
        }
        scene.work_later().await;
        let answer = scene.bridge.get(&format!("/v1/submissions/{batch}")).await;
        let open = answer.json["counts"]["pending"].as_u64().unwrap()
            + answer.json["counts"]["unconfirmed"].as_u64().unwrap();
        if open == 0 {
            scene.nothing_counts_but_what_vmray_has(&format!("killed at {stops_at}")).await;
        } else {
            // A claim that nobody has looked after yet: it counts until it is known what became of it.
            assert!(scene.used().await >= scene.stored() && scene.used().await <= scene.limit);
        }
    }
}

#[tokio::test]
async fn urls_that_another_batch_has_sent_are_given_back() {
    let scene = Scene::new(5, None).await;
    scene.call(&["a", "b"]).await;
    scene.call(&["b", "c"]).await;
    assert_eq!(scene.used().await, 4, "nothing is sent yet");
    scene.work().await;
    scene.nothing_counts_but_what_vmray_has("a, b and c").await;
    assert_eq!(scene.stored(), 3);
}

#[tokio::test]
async fn a_smaller_call_fits_after_one_that_was_too_large() {
    let scene = Scene::new(2, None).await;
    assert_eq!(scene.call(&HOSTS).await.problem(), "daily-limit");
    assert_eq!(scene.call(&HOSTS[..2]).await.status, 202);
    let again = scene.call(&HOSTS).await;
    assert_eq!(again.problem(), "daily-limit", "{}", again.text);
    scene.work().await;
    scene.nothing_counts_but_what_vmray_has("two of three").await;
}

/// Plays two retries of one batch, as [`two_identical_calls`] does with calls.
async fn two_retries(limit: usize, fate: Fate, status: u16) {
    for stops_at in 0.. {
        let scene = Scene::new(limit, Some(0)).await;
        let context = format!("limit {limit}, {fate:?} at {stops_at}");
        let batch = scene.call(&HOSTS).await.batch().to_owned();
        scene.work().await;
        assert_eq!((scene.used().await, scene.stored()), (0, 0), "all is given back");
        // Something else has used a part of the day.
        scene.vmray.set_quota_limit(None);
        scene.call(&["x"]).await;
        scene.work().await;
        let actor = Actor::stopping_at(stops_at);
        let Err(first) = until_it_stops(&actor, scene.retry(&batch)).await else {
            assert!(stops_at > 4, "only {stops_at} places");
            return;
        };
        let second = scene.retry(&batch).await;
        assert_eq!(second.status, status, "{context}: {}", second.text);
        scene.work().await;
        if fate == Fate::HeldUp {
            actor.goes_on.notify_one();
            let first = first.await;
            assert_eq!(first.status, status, "{context}: {}", first.text);
        }
        scene.work().await;
        scene.work_later().await;
        scene.nothing_counts_but_what_vmray_has(&context).await;
        let retried = if status == 202 { HOSTS.len() } else { 0 };
        assert_eq!(scene.stored(), retried + 1, "{context}");
    }
}

#[tokio::test]
async fn of_two_retries_both_count_once_wherever_one_is_held_up() {
    two_retries(4, Fate::HeldUp, 202).await;
}

#[tokio::test]
async fn a_retry_counts_once_wherever_the_one_before_it_died() {
    two_retries(4, Fate::Killed, 202).await;
}

#[tokio::test]
async fn a_retry_that_does_not_fit_sends_nothing() {
    two_retries(3, Fate::HeldUp, 429).await;
}

/// Calls, workers and deaths in a random order.
async fn random_play(seed: u64) {
    let dice = Dice(AtomicU64::new(seed));
    let limit = 1 + usize::try_from(dice.below(5)).unwrap();
    let quota = Some(dice.below(6)).filter(|quota| *quota < 4);
    let scene = Scene::new(limit, quota).await;
    let bodies: [&[&str]; 3] = [&["a", "b"], &["b", "c", "d"], &["e"]];
    let actors = (0..6).map(|number| {
        let own = Dice(AtomicU64::new(seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        // Two of three calls die somewhere; the workers live.
        let stops_at = if number < 4 { usize::try_from(own.below(36)).unwrap() } else { usize::MAX };
        let body = bodies[usize::try_from(own.below(3)).unwrap()];
        let (scene, actor) = (scene.clone(), Actor::of(stops_at, Some(own)));
        async move {
            if number >= 4 {
                for _ in 0..20 {
                    ACTOR.scope(Arc::clone(&actor), scene.work()).await;
                    tokio::task::yield_now().await;
                }
                return;
            }
            let answer = match until_it_stops(&actor, scene.call(body)).await {
                Ok(answer) => answer,
                // The caller repeats what was not answered.
                Err(killed) => {
                    drop(killed);
                    scene.call(body).await
                }
            };
            assert!([200, 202, 429].contains(&answer.status), "{}", answer.text);
        }
    });
    futures::future::join_all(actors).await;
    scene.work().await;
    scene.work_later().await;
    scene.work_later().await;
    scene.nothing_counts_but_what_vmray_has(&format!("seed {seed}")).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_limit_holds_in_any_order(seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(random_play(seed));
    }
}
