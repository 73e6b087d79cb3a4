//! The one place where an HTTP client is built and a request is sent: TLS, private CAs, proxy, time-outs, size limit,
//! retry. What an answer *means* is decided by the clients above it; a status is never an error here.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode};
use tokio::time::Instant;

/// How the process talks to the outside world; one for all peers of a deployment.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Extra trusted roots (PEM, one or several), added to the system's own.
    pub ca_bundle: Option<String>,
    /// Off only for on-prem servers with certificates nobody can check.
    pub verify_tls: bool,
    /// Ignore `HTTPS_PROXY` and `NO_PROXY`.
    pub disable_proxy: bool,
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            verify_tls: true,
            disable_proxy: false,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// The CA bundle holds no certificate that can be read.
    #[error("the CA bundle is not a PEM file with certificates: {0}")]
    CaBundle(String),
    /// The TLS library refused its settings.
    #[error("the HTTP client could not be built: {0}")]
    Client(String),
}

/// The product's name towards the servers; part of `OpenCTI`'s rate-limit key, so it never changes between calls.
pub const USER_AGENT: &str = concat!("VMRayBridge/", env!("CARGO_PKG_VERSION"));

/// Builds the client for one peer.
pub fn client(settings: &ClientSettings) -> Result<Client, HttpSetupError> {
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        // A redirect would carry the key to another host; both peers answer their API directly.
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(!settings.verify_tls);
    if settings.disable_proxy {
        builder = builder.no_proxy();
    }
    if let Some(pem) = &settings.ca_bundle {
        let certificates =
            Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| HttpSetupError::CaBundle(chain(&e)))?;
        if certificates.is_empty() {
            return Err(HttpSetupError::CaBundle("it holds no certificate".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|e| HttpSetupError::Client(chain(&e)))
}

/// The moment after which no request may run: the Lambda deadline less a margin, or far away on one machine.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// Ends at `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// Time left; zero when it is over.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether a failed request can still be repeated after `pause`, or after the policy's own longest one.
    #[must_use]
    pub fn has_room_for(self, pause: Option<Duration>, policy: RetryPolicy) -> bool {
        self.remaining() > pause.unwrap_or_default().max(policy.base * 8)
    }

    /// Waits for `future` until the deadline; `None`: it was not ready.
    pub async fn bound<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::time::timeout(self.remaining(), future).await.ok()
    }
}

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From sending to the last byte of the answer.
    pub timeout: Duration,
    /// Size of the answer after decompression.
    pub max_bytes: usize,
}

/// What a server answered, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `Retry-After`, in seconds or as a date.
    pub retry_after: Option<Duration>,
    /// Decompressed body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The start of the body on one line: for messages about answers that are not what they should be.
    #[must_use]
    pub fn excerpt(&self) -> String {
        clean(&String::from_utf8_lossy(&self.body[..self.body.len().min(120)]))
    }
}

/// Longest text of a server that is repeated: some quote the whole request.
const MOST_QUOTED: usize = 300;

/// What stands for what is not repeated.
const MASK: &str = "[...]";

/// What a server says, fit to be repeated in logs, answers and documents: one line, not long, without e-mail addresses,
/// without what follows the word for a key, and with no more of a URL than its host.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut words: Vec<Cow<'_, str>> = Vec::new();
    let mut follows_key_word = false;
    for word in text.split_whitespace() {
        let is_secret = follows_key_word || word.contains('@') || holds_key(word);
        follows_key_word = is_key_word(word.trim_matches(|char: char| !char.is_alphanumeric()));
        words.push(if is_secret { MASK.into() } else { without_path(word) });
    }
    let line = words.join(" ");
    match line.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A word without what follows the host of a URL in it. A URL may lack its scheme, stand in JSON (`http:\/\/`) or in
/// another URL (`http%3A%2F%2F`).
fn without_path(word: &str) -> Cow<'_, str> {
    if word.to_ascii_lowercase().contains("%2f") {
        return MASK.into();
    }
    let scheme = ["://", ":\\/\\/"].into_iter().find_map(|mark| Some(word.find(mark)? + mark.len()));
    let host = scheme.unwrap_or_default();
    let Some(path) = word[host..].find(['/', '\\', '?', '#']).map(|end| host + end) else {
        return word.into();
    };
    let is_url = scheme.is_some() || word[..path].contains('.');
    // The quotation marks and brackets around a URL are no part of it.
    let is_bare = word[path..].trim_matches(|char: char| !char.is_alphanumeric()).is_empty();
    if is_url && !is_bare { format!("{}/{MASK}", &word[..path]).into() } else { word.into() }
}

fn is_key_word(word: &str) -> bool {
    ["api_key", "apikey", "bearer", "token", "password", "secret"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(word))
}

/// `api_key=abc`, `"token":"abc"`.
fn holds_key(word: &str) -> bool {
    let mut parts = word.split(['=', ':']);
    let named = parts.next().unwrap_or_default().trim_matches(|char: char| !char.is_alphanumeric());
    is_key_word(named) && parts.any(|value| value.contains(char::is_alphanumeric))
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HttpError {
    /// Nothing was sent: name, connection, TLS or proxy.
    #[error("could not connect: {0}")]
    Connect(String),
    /// No complete answer in time.
    #[error("no complete answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection broke after the request had gone out.
    #[error("the connection broke: {0}")]
    Interrupted(String),
    /// The answer is larger than the limit; reading stopped there.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The invocation has no time left for it.
    #[error("no time left before this invocation's deadline")]
    OutOfTime,
}

/// Sends one request, once.
pub async fn send(request: RequestBuilder, limits: Limits, deadline: Deadline) -> Result<Answer, HttpError> {
    let remaining = deadline.remaining();
    if remaining.is_zero() {
        return Err(HttpError::OutOfTime);
    }
    let timeout = limits.timeout.min(remaining);
    match tokio::time::timeout(timeout, receive(request, limits.max_bytes)).await {
        Ok(answer) => answer,
        Err(_) if timeout < limits.timeout => Err(HttpError::OutOfTime),
        Err(_) => Err(HttpError::Timeout(timeout)),
    }
}

async fn receive(request: RequestBuilder, max_bytes: usize) -> Result<Answer, HttpError> {
    let mut response = request.send().await.map_err(classify)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(classify)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(HttpError::TooLarge(max_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    let headers = response.headers();
    Ok(Answer { status: response.status(), retry_after: retry_after(headers), body })
}

fn classify(error: reqwest::Error) -> HttpError {
    let error = error.without_url(); // the message names what was asked in the product's own words
    let reason = chain(&error);
    if error.is_connect() { HttpError::Connect(reason) } else { HttpError::Interrupted(reason) }
}

/// The causes of an error from the outside in; its own text only when it has none.
fn chain(error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    let mut reasons = Vec::new();
    while let Some(inner) = cause {
        reasons.push(inner.to_string());
        cause = inner.source();
    }
    if reasons.is_empty() { error.to_string() } else { reasons.join(": ") }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => seconds,
        // A proxy may say it as a date.
        Err(_) => {
            (chrono::DateTime::parse_from_rfc2822(text).ok()?.to_utc() - chrono::Utc::now()).as_seconds_f64()
        }
    };
    seconds.is_finite().then(|| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0)))
}

/// How often and how patiently a request that may be repeated is repeated.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// All tries, the first one included.
    pub tries: usize,
    /// Pause before the second try; doubles after each, plus jitter of up to itself.
    pub base: Duration,
}

/// What an error says about trying again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It will not get better.
    No,
    /// After the policy's own pause.
    Soon,
    /// Not before this much time has passed: the server said so.
    After(Duration),
}

/// Runs `attempt` until it succeeds, its error says no, the tries are spent, or the deadline would be passed.
pub async fn retry<T, E, F>(
    policy: RetryPolicy,
    deadline: Deadline,
    attempt: impl FnMut() -> F,
    again: impl Fn(&E) -> Again,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(policy.base)
        .with_factor(2.0)
        .with_max_times(policy.tries.saturating_sub(1))
        .with_jitter();
    attempt
        .retry(pauses)
        .when(|error| again(error) != Again::No)
        .adjust(|error, pause| {
            let pause = match (again(error), pause?) {
                (Again::After(least), own) => least.max(own.min(least + policy.base)),
                (_, own) => own,
            };
            (pause < deadline.remaining()).then_some(pause)
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy { tries: 4, base: Duration::from_millis(500) };

    async fn tries_until_given_up(again: Again, deadline: Duration) -> (u32, Duration) {
        let started = Instant::now();
        let tries = Cell::new(0);
        let result: Result<(), ()> = retry(
            POLICY,
            Deadline::at(Instant::now() + deadline),
            || async {
                tries.set(tries.get() + 1);
                Err(())
            },
            |()| again,
        )
        .await;
        assert!(result.is_err());
        (tries.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_tried_four_times_with_growing_pauses() {
        let (tries, took) = tries_until_given_up(Again::Soon, Duration::from_mins(10)).await;
        assert_eq!(tries, 4);
        assert!(took >= Duration::from_millis(3500), "0.5 + 1 + 2 s at least, took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured() {
        let (tries, took) =
            tries_until_given_up(Again::After(Duration::from_secs(7)), Duration::from_mins(10)).await;
        assert_eq!(tries, 4);
        assert!(took >= Duration::from_secs(21), "three pauses of 7 s, took {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_failure_is_not_repeated() {
        assert_eq!(tries_until_given_up(Again::No, Duration::from_mins(10)).await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_outlives_the_deadline() {
        let (tries, took) =
            tries_until_given_up(Again::After(Duration::from_mins(1)), Duration::from_secs(5)).await;
        assert_eq!(tries, 1);
        assert!(took < Duration::from_secs(5));
    }

    #[test]
    fn what_a_server_says_is_repeated_without_secrets_and_not_at_length() {
        assert_eq!(clean("No such\n element"), "No such element");
        assert_eq!(
            clean("user alice@corp.test with api_key K3Y may not"),
            "user [...] with api_key [...] may not"
        );
        assert_eq!(clean(r#"{"token":"abc", "x":1} Bearer abc"#), r#"[...] "x":1} Bearer [...]"#);
        assert_eq!(clean(&"x".repeat(1000)).len(), MOST_QUOTED + 3);
    }

    #[test]
    fn of_a_url_only_the_host_is_repeated() {
        for (said, repeated) in [
            ("Cannot open 'https://a.example/reset?t=5'.", "Cannot open 'https://a.example/[...]"),
            ("HTTP://A.example?t=5 is refused", "HTTP://A.example/[...] is refused"),
            ("hxxp://a[.]example/x", "hxxp://a[.]example/[...]"),
            ("a.example/reset/5: no jobs", "a.example/[...] no jobs"),
            (r#"{"url":"http:\/\/a.example\/x"}"#, r#"{"url":"http:\/\/a.example/[...]"#),
            ("url=http%3A%2F%2Fa.example%2Fx", "[...]"),
            ("https://a.example/ and https://a.example", "https://a.example/ and https://a.example"),
            ("400 Bad Request: and/or 5.2 application/json", "400 Bad Request: and/or 5.2 application/json"),
        ] {
            assert_eq!(clean(said), repeated);
        }
    }

    #[test]
    fn a_bundle_without_certificates_is_refused() {
        let settings =
            ClientSettings { ca_bundle: Some("no certificate".to_owned()), ..ClientSettings::default() };
        assert!(matches!(client(&settings), Err(HttpSetupError::CaBundle(_))));
    }
}
