//! A `submit` in this process: a store in memory, a queue that nobody works on, and a VMRay that does not answer.
#![allow(dead_code, reason = "each test binary needs its own part of it")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

pub(crate) mod scene;
pub(crate) mod stage;

use std::sync::Arc;
use std::time::Duration;

use runtime::http::Deadline;
use runtime::secrets::Secrets;
use runtime::settings::Host;
use serde_json::{Value, json};
use store::Store;
use store::sqlite::SqliteStore;
use submit::Submit;
use submit::api::http::{Request, Response};
use submit::hash::sha256;
use submit::ledger::Ledger;
use submit::queue::local::LocalQueue;
use submit::settings::SubmitSettings;
use tokio::net::TcpSocket;
use tokio::time::Instant;

/// The keys of the callers `soar`, `other` and `small`.
pub(crate) const KEY: &str = "key-of-soar-5f1d";
pub(crate) const OTHER_KEY: &str = "key-of-other-77a0";
pub(crate) const SMALL_KEY: &str = "key-of-small-c3b9";

/// What `small` may send in one call and on one day.
pub(crate) const SMALL_CALL: usize = 4;
pub(crate) const SMALL_DAY: usize = 5;

/// A number that no batch has.
pub(crate) const NO_BATCH: &str = "00000000-0000-4000-8000-000000000000";

/// `submit` and what stands behind it.
pub(crate) struct Bridge {
    pub(crate) submit: Submit,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Arc<LocalQueue>,
}

impl Bridge {
    /// With these settings besides those that every test needs.
    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Self {
        Self::on(Arc::new(SqliteStore::in_memory().unwrap()), settings).await
    }

    /// The same, with its documents in this store.
    pub(crate) async fn on(store: Arc<dyn Store>, settings: &[(&'static str, &str)]) -> Self {
        let mut set = vec![
            ("VMRAY_SERVER", nobody_listens()),
            ("VMRAY_API_KEY", "vmray-key".to_owned()),
            ("CALLERS", callers().to_string()),
            ("DISABLE_PROXY", "true".to_owned()),
            ("RETRY_BASE_MS", "1".to_owned()),
        ];
        set.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup = move |name: &str| {
            set.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        };
        let (settings, _warnings) = SubmitSettings::read(&lookup, Host::Local).unwrap();
        let queue = Arc::new(LocalQueue::open(Arc::clone(&store)).await.unwrap());
        let ledger = Ledger::new(Arc::clone(&store), settings.times.retention, settings.times.reuse_window);
        let secrets = Arc::new(Secrets::from_environment(lookup));
        let submit = Submit::new(settings, store, Arc::clone(&queue) as Arc<_>, secrets);
        Self { submit, ledger, queue }
    }

    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        let deadline = Deadline::at(Instant::now() + Duration::from_secs(29));
        Answer::from(self.submit.handle(&request, deadline).await)
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send(request("GET", target, &[("x-api-key", KEY)], "")).await
    }

    /// Posts what is JSON or not, without saying what it is.
    pub(crate) async fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(request("POST", target, &[("x-api-key", KEY)], body)).await
    }
}

/// A request; `target` is a path, perhaps with a query.
pub(crate) fn request(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        body: body.into(),
    }
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        let json = serde_json::from_str(&response.body).unwrap();
        Self { status: response.status, headers: response.headers, text: response.body, json }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The end of the problem's `type`; empty for what is no problem.
    pub(crate) fn problem(&self) -> &str {
        let kind = self.json["type"].as_str().unwrap_or_default();
        kind.strip_prefix(submit::api::problem::TYPE_PREFIX).unwrap_or_default()
    }

    pub(crate) fn batch(&self) -> &str {
        self.json["batch_id"].as_str().unwrap_or_else(|| panic!("no batch: {}", self.text))
    }

    /// The `error_code` or else the `status` of each result.
    pub(crate) fn codes(&self) -> Vec<&str> {
        let results = self.json["results"].as_array().unwrap_or_else(|| panic!("no results: {}", self.text));
        results.iter().map(|row| row["error_code"].as_str().or(row["status"].as_str()).unwrap()).collect()
    }
}

/// An address of this machine where no server is: its port is taken for as long as the test runs, and refuses.
fn nobody_listens() -> String {
    let taken = Box::leak(Box::new(TcpSocket::new_v4().unwrap()));
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    format!("http://{}", taken.local_addr().unwrap())
}

fn callers() -> Value {
    json!({
        "soar": {"keys": [sha256(KEY)]},
        "other": {"keys": [sha256(OTHER_KEY)]},
        "small": {"keys": [sha256(SMALL_KEY)], "max_urls_per_request": SMALL_CALL, "max_urls_per_day": SMALL_DAY},
    })
}
