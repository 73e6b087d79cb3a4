//! VMRay, simulated: the REST API over an [`Estate`].
//!
//! `platform` is the server's state. `routes` finds what a path means, `list` filters and pages, `answers` has the
//! server's words. `submit` says what may become of URLs, `intake` takes them in, `desk` keeps them until they are
//! analysed. An endpoint that is not here yet is one more arm in `routes` and a file of its own.

mod answers;
mod desk;
mod intake;
mod list;
mod options;
mod parameters;
mod platform;
mod query;
mod routes;
mod search;
pub mod submit;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use axum::http::header;
use serde_json::{Value, json};

pub use self::options::{RangeBounds, ServerProfile, VmrayOptions};
use self::platform::Vmray;
use self::submit::{Ending, RuleRequest, Submit, SubmitOutcome, SubmitRule};
use crate::estate::Estate;
use crate::faults::Faults;
use crate::server::{Answer, Authorization, Request, RequestRecord, Server, Service, Settings, lock};

/// A running VMRay. Dropping it closes its port.
pub struct VmraySimulator {
    vmray: Arc<Vmray>,
    server: Server<Vmray>,
}

impl VmraySimulator {
    /// Starts on 127.0.0.1 and serves on the current tokio runtime.
    pub async fn start(options: VmrayOptions) -> io::Result<Self> {
        let settings = Settings {
            port: options.port,
            latency: options.latency,
            gzip: options.gzip,
            record_bodies: options.record_bodies,
        };
        let vmray = Arc::new(Vmray::new(options));
        let server = Server::start(Arc::clone(&vmray), settings).await?;
        Ok(Self { vmray, server })
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The estate, to be looked at or changed while the server runs. Do not hold it over an `await`.
    pub fn estate(&self) -> MutexGuard<'_, Estate> {
        self.vmray.settle();
        lock(&self.vmray.estate)
    }

    /// Replaces the keys in force: rotation, revocation.
    pub fn set_api_keys(&self, keys: &[&str]) {
        *lock(&self.vmray.keys) = keys.iter().map(|&key| key.to_owned()).collect();
    }

    /// Makes something else than usual of certain URLs.
    pub fn on_submit(&self, rule: SubmitRule) {
        lock(&self.vmray.desk).add_rule(rule);
    }

    /// Every submit request so far, in the order of their coming.
    #[must_use]
    pub fn submits(&self) -> Vec<Submit> {
        lock(&self.vmray.desk).submits.clone()
    }

    /// How often this URL was sent, with or without `http://`, whatever became of it.
    #[must_use]
    pub fn posts_of(&self, url: &str) -> usize {
        let url = submit::normalised(url);
        let desk = lock(&self.vmray.desk);
        desk.submits.iter().filter(|submit| submit::normalised(&submit.url) == url).count()
    }

    /// How often each URL was sent, whatever became of it; by the URL as VMRay keeps it.
    #[must_use]
    pub fn posts(&self) -> BTreeMap<String, usize> {
        let mut posts = BTreeMap::new();
        for submit in &lock(&self.vmray.desk).submits {
            *posts.entry(submit::normalised(&submit.url)).or_default() += 1;
        }
        posts
    }

    /// The numbers of the submissions that were stored of this URL.
    #[must_use]
    pub fn stored_of(&self, url: &str) -> Vec<u64> {
        lock(&self.vmray.desk).stored(url)
    }

    /// Submissions until all further ones are refused, those so far counted; `None` refuses none.
    pub fn set_quota_limit(&self, limit: Option<u64>) {
        lock(&self.vmray.desk).quota_limit = limit;
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.server.requests()
    }

    /// Calls by endpoint, such as `GET /rest/sample/{}/iocs`.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.server.calls()
    }

    /// Forgets counts and bodies; sequence numbers go on.
    pub fn clear_log(&self) {
        self.server.clear_log();
    }

    /// Its faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.server.faults()
    }

    /// The counters that `GET /_sim/stats` gives.
    #[must_use]
    pub fn stats(&self) -> Value {
        self.server.stats()
    }
}

#[expect(
    clippy::must_use_candidate,
    reason = "called for what they do; the counts are for tests that doubt it"
)]
impl VmraySimulator {
    /// Ends the analyses of a URL, as its rule or the options say; how many there were.
    pub fn finish(&self, url: &str) -> usize {
        self.vmray.finish(Some(url), None)
    }

    /// Ends the analyses of a URL in this way; how many there were.
    pub fn finish_with(&self, url: &str, ending: Ending) -> usize {
        self.vmray.finish(Some(url), Some(ending))
    }

    /// Ends all analyses, as their rules or the options say; how many there were.
    pub fn finish_all(&self) -> usize {
        self.vmray.finish(None, None)
    }

    /// Ends all analyses in this way; how many there were.
    pub fn finish_all_with(&self, ending: Ending) -> usize {
        self.vmray.finish(None, Some(ending))
    }

    /// Puts the hidden submissions of a URL into the lists; how many there were.
    pub fn reveal(&self, url: &str) -> usize {
        lock(&self.vmray.desk).reveal(Some(url))
    }

    /// Puts all hidden submissions into the lists; how many there were.
    pub fn reveal_all(&self) -> usize {
        lock(&self.vmray.desk).reveal(None)
    }
}

fn is_submit(request: &Request) -> bool {
    request.method == "POST" && request.path.trim_end_matches('/') == "/rest/sample/submit"
}

impl Vmray {
    fn authorized_answer(&self, request: &Request, submit: Option<usize>) -> Answer {
        if !request.path.starts_with("/rest/") {
            return Answer::html(200, "<!doctype html><html><title>VMRay Platform</title></html>");
        }
        if self.authorization(request) != Authorization::Valid {
            return answers::error(401, "Invalid authentication");
        }
        self.route(request, submit).unwrap_or_else(|answer| answer)
    }

    /// Notes what came of a submit request that got no further than to an error.
    fn note_refusal(&self, number: usize, status: u16) {
        let outcome = &mut lock(&self.desk).submits[number].outcome;
        if *outcome == SubmitOutcome::NotHandled {
            *outcome = SubmitOutcome::NotStored(status);
        }
    }
}

impl Service for Vmray {
    /// The number under which a submit request is noted.
    type Prepared = Option<usize>;

    fn latency(&self, request: &Request) -> Duration {
        if is_submit(request) { self.options.submit.latency } else { Duration::ZERO }
    }

    fn prepare(&self, request: &Request) -> (String, Option<usize>) {
        let mut label = format!("{} {}", request.method, request.path);
        if !request.query.is_empty() {
            label.push('?');
            label.push_str(&query::decoded(&request.query));
        }
        let number = is_submit(request).then(|| {
            let mut desk = lock(&self.desk);
            desk.submits.push(Submit::arrived(parameters::read(request)));
            desk.submits.len() - 1
        });
        (label, number)
    }

    /// Numbers, hashes and dates in paths are left out.
    fn endpoint(&self, label: &str) -> String {
        let path = label.split('?').next().unwrap_or(label);
        let segment = |text: &str| {
            let value = text.bytes().all(|byte| byte.is_ascii_digit())
                || (text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
                || text.contains('~');
            if value && !text.is_empty() { "{}".to_owned() } else { text.to_owned() }
        };
        path.split('/').map(segment).collect::<Vec<_>>().join("/")
    }

    /// Of a submit request, its parameters as they are meant, not as they are encoded.
    fn contains(&self, request: &Request, submit: &Option<usize>, text: &str) -> bool {
        let meant = |number: usize| {
            let desk = lock(&self.desk);
            desk.submits
                .get(number)
                .is_some_and(|it| it.parameters.values().any(|value| value.contains(text)))
        };
        submit.is_some_and(meant) || String::from_utf8_lossy(&request.body).contains(text)
    }

    fn authorization(&self, request: &Request) -> Authorization {
        let key = request.header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("api_key "));
        match key {
            None => Authorization::Missing,
            Some(key) if lock(&self.keys).iter().any(|known| known == key) => Authorization::Valid,
            Some(_) => Authorization::Invalid,
        }
    }

    fn answer(&self, request: &Request, submit: Option<usize>) -> Answer {
        self.settle();
        let answer = self.authorized_answer(request, submit);
        if let Some(number) = submit {
            self.note_refusal(number, answer.status);
        }
        answer
    }

    fn throttled(&self, seconds: u64) -> Value {
        json!({"error_msg": format!("Request was throttled. Expected available in {seconds} seconds."),
               "result": "error"})
    }

    fn control(&self, command: &str, body: &Value) -> Option<Value> {
        let strings = |value: &Value| serde_json::from_value::<Vec<String>>(value.clone()).ok();
        match command {
            "keys" => *lock(&self.keys) = strings(&body["keys"])?,
            "delete-sample" => lock(&self.estate).delete_sample(body["id"].as_u64()?),
            "forbid-sample" => lock(&self.estate).forbid_sample(body["id"].as_u64()?, true),
            "submits" => {
                let desk = lock(&self.desk);
                return Some(desk.submits.iter().map(Submit::to_json).collect());
            }
            "finish" => {
                let ending = match body["verdict"].as_str() {
                    Some(name) => Some(Ending::named(name)?),
                    None => None,
                };
                let finished = self.finish(body["url"].as_str(), ending);
                return Some(json!({"ok": true, "finished": finished}));
            }
            "reveal" => {
                let revealed = lock(&self.desk).reveal(body["url"].as_str());
                return Some(json!({"ok": true, "revealed": revealed}));
            }
            "submit-rule" => {
                let rule = serde_json::from_value::<RuleRequest>(body.clone()).ok()?;
                lock(&self.desk).add_rule(rule.into_rule()?);
            }
            "quota" => lock(&self.desk).quota_limit = body["limit"].as_u64(),
            _ => return None,
        }
        Some(json!({"ok": true}))
    }

    fn stats(&self) -> Value {
        let desk = lock(&self.desk);
        let estate = lock(&self.estate);
        json!({"submissions": estate.submission_ids().len(), "samples": estate.sample_count(),
               "submits": desk.submits.len(), "stored": desk.stored_count()})
    }
}

#[cfg(test)]
mod submit_tests;
#[cfg(test)]
mod tests;
