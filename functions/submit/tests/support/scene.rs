//! A deployment with a VMRay behind it, whose calls and workers can be held up or killed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt as _;
use runtime::http::Deadline;
use serde_json::{Value, json};
use simulators::vmray::submit::SubmitOptions;
use simulators::vmray::{VmrayOptions, VmraySimulator};
use submit::queue::Message;
use tokio::time::Instant;

use super::stage::Stage;
use super::{Answer, Bridge, KEY, request};

const CALLER: &str = "soar";

/// One deployment with a daily limit, and the VMRay behind it.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) vmray: Arc<VmraySimulator>,
    pub(crate) bridge: Arc<Bridge>,
    pub(crate) stage: Arc<Stage>,
    pub(crate) limit: usize,
}

impl Scene {
    pub(crate) async fn new(limit: usize, quota: Option<u64>) -> Self {
        let submit = SubmitOptions { quota_limit: quota, ..SubmitOptions::default() };
        let vmray = VmrayOptions { submit, ..VmrayOptions::default() };
        let vmray = VmraySimulator::start(vmray).await.unwrap();
        let stage = Arc::new(Stage::default());
        let bridge = start(&vmray, &stage, limit).await;
        Self { vmray: Arc::new(vmray), bridge: Arc::new(bridge), stage, limit }
    }

    /// A new process on the same state: messages of the queue are due at once.
    pub(crate) async fn restart(&mut self) {
        self.bridge = Arc::new(start(&self.vmray, &self.stage, self.limit).await);
    }

    fn post(&self, target: &str, body: &Value) -> impl Future<Output = Answer> + Send + use<> {
        let bridge = Arc::clone(&self.bridge);
        let request = request("POST", target, &[("x-api-key", KEY)], body.to_string());
        async move { bridge.send(request).await }
    }

    /// Submits the URLs of these hosts.
    pub(crate) fn call(&self, hosts: &[&str]) -> impl Future<Output = Answer> + Send + use<> {
        let urls: Vec<_> = hosts.iter().map(|host| format!("http://{host}.example/")).collect();
        self.post("/v1/submissions?wait=0", &json!({ "urls": urls }))
    }

    pub(crate) fn retry(&self, batch: &str) -> impl Future<Output = Answer> + Send + use<> {
        self.post(&format!("/v1/submissions/{batch}/retry?wait=0"), &Value::Null)
    }

    /// Works on all messages that are due; how many there were.
    pub(crate) fn work(&self) -> impl Future<Output = usize> + Send + use<> {
        let bridge = Arc::clone(&self.bridge);
        async move {
            let mut messages = 0;
            while let Some(received) = bridge.queue.receive().now_or_never() {
                bridge.submit.work(received.message(), soon()).await.unwrap();
                bridge.queue.done(&received).await.unwrap();
                messages += 1;
            }
            messages
        }
    }

    /// What comes later: the guards of all batches, and the messages that follow.
    pub(crate) async fn work_later(&self) {
        let batches = self.stage.batches();
        for batch in batches {
            self.bridge.submit.work(&Message::Guard { batch }, soon()).await.unwrap();
            self.work().await;
        }
    }

    pub(crate) async fn used(&self) -> usize {
        let used = self.bridge.ledger.used_today(CALLER, Utc::now()).await.unwrap();
        usize::try_from(used).unwrap()
    }

    /// URLs that VMRay has, each once.
    pub(crate) fn stored(&self) -> usize {
        let posts = self.vmray.posts();
        for url in posts.keys() {
            assert!(self.vmray.stored_of(url).len() <= 1, "{url} is there twice");
        }
        posts.keys().filter(|url| !self.vmray.stored_of(url).is_empty()).count()
    }

    pub(crate) async fn nothing_counts_but_what_vmray_has(&self, context: &str) {
        assert!(self.stored() <= self.limit, "{context}: {} of {}", self.stored(), self.limit);
        assert_eq!(self.used().await, self.stored(), "{context}");
    }
}

fn soon() -> Deadline {
    Deadline::at(Instant::now() + Duration::from_secs(20))
}

async fn start(vmray: &VmraySimulator, stage: &Arc<Stage>, limit: usize) -> Bridge {
    let settings = [("VMRAY_SERVER", vmray.url()), ("MAX_URLS_PER_CALLER_DAY", limit.to_string())];
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Bridge::on(Arc::clone(stage) as Arc<_>, &settings).await
}
