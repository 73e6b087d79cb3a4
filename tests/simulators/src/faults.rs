//! Faults: what goes wrong, at which request, how often.
//!
//! A [`Fault`] is a matcher and an action. The matcher is a pattern with `*` over the request's label, which is
//! `METHOD /path?query` at VMRay and the name of the operation's root field (`stixBundlePush`) at OpenCTI.
//! Several faults may match one request: delays, pauses and callbacks all happen, in order of their adding; the first
//! action that decides the answer wins.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::Semaphore;

/// What a fault does to a request.
#[derive(Clone)]
pub enum Action {
    /// Answers so instead of handling the request.
    Answer(FaultAnswer),
    /// Handles the request, then answers so: the caller cannot know that it was handled.
    AnswerAfterHandling(FaultAnswer),
    /// HTTP 429 with `Retry-After`, in the simulated server's own words.
    Throttle(u64),
    /// HTTP 429 with `Retry-After: 1` beyond so many requests in one second, as a real limit works.
    RateLimit(RateLimit),
    /// A GraphQL error in an HTTP 200: message, code, `http_status`.
    GraphqlError(String, String, u16),
    /// Waits, then goes on.
    Delay(Duration),
    /// Closes the connection without an answer, the request not handled.
    Close,
    /// Handles the request, then closes the connection without an answer.
    CloseAfterHandling,
    /// The right head, but only so many bytes of the body; then the connection is closed.
    Truncate(usize),
    /// A JSON answer with so many bytes in one string, streamed.
    Huge(usize),
    /// A gzip answer that inflates to about so many bytes.
    Bomb(usize),
    /// Never answers; ends when the client gives up.
    Hang,
    /// Handles the request, then never answers.
    HangAfterHandling,
    /// Tells the test and holds the request until the test releases it.
    Pause(Pause),
    /// Handles the request, then tells the test and holds the answer until the test releases it.
    PauseAfterHandling(Pause),
    /// Calls the test, then goes on.
    Call(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => f.debug_tuple("Answer").field(&answer.status).finish(),
            Self::AnswerAfterHandling(answer) => {
                f.debug_tuple("AnswerAfterHandling").field(&answer.status).finish()
            }
            Self::Throttle(seconds) => f.debug_tuple("Throttle").field(seconds).finish(),
            Self::RateLimit(limit) => f.debug_tuple("RateLimit").field(&limit.per_second).finish(),
            Self::GraphqlError(_, code, _) => f.debug_tuple("GraphqlError").field(code).finish(),
            Self::Delay(time) => f.debug_tuple("Delay").field(time).finish(),
            Self::Close => f.write_str("Close"),
            Self::CloseAfterHandling => f.write_str("CloseAfterHandling"),
            Self::Truncate(bytes) => f.debug_tuple("Truncate").field(bytes).finish(),
            Self::Huge(bytes) => f.debug_tuple("Huge").field(bytes).finish(),
            Self::Bomb(bytes) => f.debug_tuple("Bomb").field(bytes).finish(),
            Self::Hang => f.write_str("Hang"),
            Self::HangAfterHandling => f.write_str("HangAfterHandling"),
            Self::Pause(_) => f.write_str("Pause"),
            Self::PauseAfterHandling(_) => f.write_str("PauseAfterHandling"),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

/// An answer that a fault gives.
#[derive(Clone, Debug)]
pub struct FaultAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The `Content-Type`.
    pub content_type: String,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: String,
}

/// Counts the requests of each second.
#[derive(Clone)]
pub struct RateLimit {
    per_second: u64,
    second: Arc<Mutex<(Instant, u64)>>,
}

impl RateLimit {
    fn new(per_second: u64) -> Self {
        Self { per_second, second: Arc::new(Mutex::new((Instant::now(), 0))) }
    }

    /// Whether one more request is too much for this second.
    pub(crate) fn is_over(&self) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.0.elapsed() >= Duration::from_secs(1) {
            *second = (Instant::now(), 0);
        }
        second.1 += 1;
        second.1 > self.per_second
    }
}

/// The test's end of a paused request.
#[derive(Clone)]
pub struct Pause {
    reached: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl Pause {
    fn new() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), released: Arc::new(Semaphore::new(0)) }
    }

    /// Waits until a request is held. Each held request is told once.
    pub async fn reached(&self) {
        // The semaphore is never closed, so an error cannot come.
        if let Ok(permit) = self.reached.acquire().await {
            permit.forget();
        }
    }

    /// Lets one held request (or the next one) go on.
    pub fn release(&self) {
        self.released.add_permits(1);
    }

    /// Tells the test and waits for its release: what a server does with a paused request.
    pub async fn hold(&self) {
        self.reached.add_permits(1);
        if let Ok(permit) = self.released.acquire().await {
            permit.forget();
        }
    }
}

/// A rule: which requests, how many of them, and what happens to them.
#[derive(Clone, Debug)]
pub struct Fault {
    pattern: String,
    containing: Option<String>,
    sequence: Option<u64>,
    from: u64,
    times: u64,
    action: Action,
    seen: u64,
    hits: u64,
}

/// A matcher that still needs its action.
#[derive(Clone, Debug)]
pub struct FaultMatcher {
    pattern: String,
    containing: Option<String>,
    sequence: Option<u64>,
    from: u64,
    times: u64,
}

impl Fault {
    /// Matches requests by label; `*` stands for any text: `GET /rest/sample/*/iocs*`, `stixBundlePush`.
    /// A pattern without a query matches a request with any query.
    #[must_use]
    pub fn on(pattern: &str) -> FaultMatcher {
        FaultMatcher {
            pattern: pattern.to_owned(),
            containing: None,
            sequence: None,
            from: 1,
            times: u64::MAX,
        }
    }

    /// Matches every request.
    #[must_use]
    pub fn any() -> FaultMatcher {
        Self::on("*")
    }

    /// Matches exactly the n-th request (from 1) that the simulator has seen since its start.
    #[must_use]
    pub fn at_request(n: u64) -> FaultMatcher {
        FaultMatcher { sequence: Some(n), ..Self::any() }
    }
}

impl FaultMatcher {
    /// Only requests whose body (or pushed bundle) contains this text.
    #[must_use]
    pub fn containing(mut self, text: &str) -> Self {
        self.containing = Some(text.to_owned());
        self
    }

    /// Begins with the n-th matching request (from 1) after the fault was added.
    #[must_use]
    pub fn from(mut self, n: u64) -> Self {
        self.from = n;
        self
    }

    /// Ends after so many requests.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Once only.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Completes the fault with any action.
    #[must_use]
    pub fn action(self, action: Action) -> Fault {
        let Self { pattern, containing, sequence, from, times } = self;
        Fault { pattern, containing, sequence, from, times, action, seen: 0, hits: 0 }
    }

    /// Answers with a status and an error body in VMRay's form.
    #[must_use]
    pub fn status(self, status: u16) -> Fault {
        let body = format!(r#"{{"error_msg":"Simulated status {status}","result":"error"}}"#);
        self.body(status, "application/json", &body)
    }

    /// Answers with a status and a body.
    #[must_use]
    pub fn body(self, status: u16, content_type: &str, body: &str) -> Fault {
        self.action(Action::Answer(FaultAnswer {
            status,
            content_type: content_type.to_owned(),
            retry_after: None,
            body: body.to_owned(),
        }))
    }

    /// Handles the request, then answers with an error status.
    #[must_use]
    pub fn status_after_handling(self, status: u16) -> Fault {
        self.action(Action::AnswerAfterHandling(FaultAnswer {
            status,
            content_type: "text/html".to_owned(),
            retry_after: None,
            body: format!("<html><h1>{status}</h1></html>"),
        }))
    }

    /// Answers with the HTML page of a proxy or of the web interface, HTTP 200.
    #[must_use]
    pub fn html(self) -> Fault {
        self.body(200, "text/html", "<!doctype html><html><body>Welcome</body></html>")
    }

    /// HTTP 429 with `Retry-After`.
    #[must_use]
    pub fn throttle(self, retry_after_seconds: u64) -> Fault {
        self.action(Action::Throttle(retry_after_seconds))
    }

    /// HTTP 429 with `Retry-After: 1` for what is beyond so many requests in one second.
    #[must_use]
    pub fn rate_limit(self, per_second: u64) -> Fault {
        self.action(Action::RateLimit(RateLimit::new(per_second)))
    }

    /// A GraphQL error: code and `http_status` of its extensions.
    #[must_use]
    pub fn graphql_error(self, message: &str, code: &str, http_status: u16) -> Fault {
        self.action(Action::GraphqlError(message.to_owned(), code.to_owned(), http_status))
    }

    /// Waits, then handles the request.
    #[must_use]
    pub fn delay(self, time: Duration) -> Fault {
        self.action(Action::Delay(time))
    }

    /// Closes the connection, the request not handled.
    #[must_use]
    pub fn close(self) -> Fault {
        self.action(Action::Close)
    }

    /// Handles the request, then closes the connection without an answer.
    #[must_use]
    pub fn close_after_handling(self) -> Fault {
        self.action(Action::CloseAfterHandling)
    }

    /// Sends only the first bytes of the body, then closes the connection.
    #[must_use]
    pub fn truncate(self, bytes: usize) -> Fault {
        self.action(Action::Truncate(bytes))
    }

    /// Streams a JSON body of about so many bytes.
    #[must_use]
    pub fn huge(self, bytes: usize) -> Fault {
        self.action(Action::Huge(bytes))
    }

    /// Sends a small gzip body that inflates to about so many bytes.
    #[must_use]
    pub fn bomb(self, bytes: usize) -> Fault {
        self.action(Action::Bomb(bytes))
    }

    /// Never answers.
    #[must_use]
    pub fn hang(self) -> Fault {
        self.action(Action::Hang)
    }

    /// Handles the request, then never answers.
    #[must_use]
    pub fn hang_after_handling(self) -> Fault {
        self.action(Action::HangAfterHandling)
    }

    /// Handles the request, then holds the answer until the test releases it.
    #[must_use]
    pub fn pause_after_handling(self) -> (Fault, Pause) {
        let pause = Pause::new();
        (self.action(Action::PauseAfterHandling(pause.clone())), pause)
    }

    /// Holds the request until the test releases it.
    #[must_use]
    pub fn pause(self) -> (Fault, Pause) {
        let pause = Pause::new();
        (self.action(Action::Pause(pause.clone())), pause)
    }

    /// Calls the test before the request is handled.
    #[must_use]
    pub fn call(self, callback: impl Fn() + Send + Sync + 'static) -> Fault {
        self.action(Action::Call(Arc::new(callback)))
    }
}

/// The faults of one simulator.
#[derive(Clone, Default, Debug)]
pub struct Faults(Arc<Mutex<Vec<Fault>>>);

impl Faults {
    /// Adds a fault.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How many requests the faults have hit, in order of their adding.
    #[must_use]
    pub fn hits(&self) -> Vec<u64> {
        self.lock().iter().map(|fault| fault.hits).collect()
    }

    /// The actions for a request, each fault's count moved on.
    pub fn actions(&self, label: &str, sequence: u64, contains: impl Fn(&str) -> bool) -> Vec<Action> {
        self.lock().iter_mut().filter_map(|fault| fault.act(label, sequence, &contains)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    fn act(&mut self, label: &str, sequence: u64, contains: &impl Fn(&str) -> bool) -> Option<Action> {
        let matches = self.sequence.is_none_or(|n| n == sequence)
            && matches_label(&self.pattern, label)
            && self.containing.as_deref().is_none_or(contains);
        if !matches {
            return None;
        }
        self.seen += 1;
        if self.seen < self.from || self.hits >= self.times {
            return None;
        }
        self.hits += 1;
        Some(self.action.clone())
    }
}

fn matches_label(pattern: &str, label: &str) -> bool {
    let path = label.split('?').next().unwrap_or(label);
    glob(pattern, label) || (!pattern.contains('?') && glob(pattern, path))
}

fn glob(pattern: &str, text: &str) -> bool {
    glob_with('*', pattern, text)
}

/// Whether the text fits the pattern, in which the wildcard stands for any text and nothing else is special.
pub(crate) fn glob_with(wildcard: char, pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once(wildcard) else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split(wildcard).collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.len() >= tail.len() && left.ends_with(tail)
}

/// A fault as the control endpoint takes it:
/// `{"on": "GET /rest/*", "from": 1, "times": 2, "kind": "status", "status": 503}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRequest {
    /// The pattern; every request when left out.
    on: Option<String>,
    containing: Option<String>,
    at_request: Option<u64>,
    from: Option<u64>,
    times: Option<u64>,
    /// `status`, `status_after_handling`, `throttle`, `graphql_error`, `delay`, `close`, `close_after_handling`, `truncate`,
    /// `huge`, `bomb`, `html`, `hang`, `hang_after_handling`.
    kind: String,
    status: Option<u16>,
    body: Option<String>,
    seconds: Option<u64>,
    milliseconds: Option<u64>,
    bytes: Option<usize>,
    message: Option<String>,
    code: Option<String>,
}

impl FaultRequest {
    /// The fault that is asked for, or what is wrong with the request.
    pub fn into_fault(self) -> Result<Fault, String> {
        let mut matcher = Fault::on(self.on.as_deref().unwrap_or("*"));
        matcher.containing = self.containing;
        matcher.sequence = self.at_request;
        let matcher = matcher.from(self.from.unwrap_or(1)).times(self.times.unwrap_or(u64::MAX));
        let status = self.status.unwrap_or(503);
        let bytes = self.bytes.unwrap_or(0);
        Ok(match self.kind.as_str() {
            "status" => match &self.body {
                Some(body) => matcher.body(status, "application/json", body),
                None => matcher.status(status),
            },
            "status_after_handling" => matcher.status_after_handling(status),
            "throttle" => matcher.throttle(self.seconds.unwrap_or(2)),
            "graphql_error" => matcher.graphql_error(
                self.message.as_deref().unwrap_or("Simulated"),
                self.code.as_deref().unwrap_or("DATABASE_ERROR"),
                self.status.unwrap_or(500),
            ),
            "delay" => matcher.delay(Duration::from_millis(self.milliseconds.unwrap_or(0))),
            "close" => matcher.close(),
            "close_after_handling" => matcher.close_after_handling(),
            "truncate" => matcher.truncate(bytes),
            "huge" => matcher.huge(bytes),
            "bomb" => matcher.bomb(bytes),
            "html" => matcher.html(),
            "hang" => matcher.hang(),
            "hang_after_handling" => matcher.hang_after_handling(),
            other => return Err(format!("unknown kind {other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_paths_with_any_query() {
        assert!(matches_label("GET /rest/sample/*/iocs", "GET /rest/sample/7/iocs?ioc_verdict=malicious"));
        assert!(matches_label("stixBundlePush", "stixBundlePush"));
        assert!(matches_label("*7*", "GET /rest/sample/7/iocs"));
        assert!(!matches_label("GET /rest/sample/*/iocs", "GET /rest/sample/7/vtis"));
        assert!(!matches_label("GET /rest/sample/7", "GET /rest/sample/77"));
    }

    #[test]
    fn a_fault_counts_only_what_it_matches() {
        let faults = Faults::default();
        faults.add(Fault::on("a").from(2).times(1).close());
        let hit = |label| !faults.actions(label, 1, |_| false).is_empty();
        assert_eq!([hit("a"), hit("b"), hit("a"), hit("a")], [false, false, true, false]);
        assert_eq!(faults.hits(), [1]);
    }
}
