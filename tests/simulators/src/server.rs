//! The plumbing under both simulators: sockets, request log, latency, faults, gzip.
//!
//! It knows nothing of VMRay or OpenCTI: those are a [`Service`], a plain function from request to answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, header};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::faults::{Action, FaultAnswer, FaultRequest, Faults};

/// More than any body that a client of ours sends; the platform's own limit is enforced by its simulator.
const READ_LIMIT: usize = 512 << 20;
/// Below this, gzip costs more than it saves; servers leave such bodies alone.
const GZIP_FROM: usize = 256;
const CHUNK: usize = 64 << 10;

/// Whether a request carried a key, and a right one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// No `Authorization` header, or one of another scheme.
    Missing,
    /// A key that the server does not know.
    Invalid,
    /// A key in force.
    Valid,
}

/// One request as the simulator saw it.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    /// Its number since the simulator's start, from 1.
    pub sequence: u64,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query as it was sent.
    pub query: String,
    /// What faults match: `METHOD /path?query`, or the GraphQL root field.
    pub label: String,
    /// Whether it carried a valid key.
    pub authorization: Authorization,
    /// The `User-Agent`.
    pub user_agent: Option<String>,
    /// The `Content-Encoding` of the request.
    pub content_encoding: Option<String>,
    /// The body as it was sent (compressed, if it was); empty when bodies are not recorded.
    pub body: Bytes,
    /// The status answered; `None` while under way, and for ever when no answer was sent.
    pub status: Option<u16>,
}

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn accepts_gzip(&self) -> bool {
        self.header(header::ACCEPT_ENCODING).is_some_and(|value| value.contains("gzip"))
    }
}

/// An answer before it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            content_type: "application/json; charset=utf-8".to_owned(),
            retry_after: None,
            body: body.to_string().into_bytes(),
        }
    }

    pub(crate) fn html(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: "text/html; charset=utf-8".to_owned(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        }
    }
}

impl From<FaultAnswer> for Answer {
    fn from(fault: FaultAnswer) -> Self {
        let FaultAnswer { status, content_type, retry_after, body } = fault;
        Self { status, content_type, retry_after, body: body.into_bytes() }
    }
}

/// What a simulated server is, apart from the plumbing.
pub(crate) trait Service: Send + Sync + 'static {
    /// What is known of a request before it is handled.
    type Prepared: Send;
    /// Waited before this request, on top of what is waited before every one.
    fn latency(&self, _: &Request) -> Duration {
        Duration::ZERO
    }
    /// Decodes a request and names it for faults.
    fn prepare(&self, request: &Request) -> (String, Self::Prepared);
    /// The endpoint that a labelled request is counted under.
    fn endpoint(&self, label: &str) -> String;
    /// Whether the request's text contains something a fault looks for.
    fn contains(&self, request: &Request, prepared: &Self::Prepared, text: &str) -> bool;
    /// Whether the request carries a valid key.
    fn authorization(&self, request: &Request) -> Authorization;
    /// Handles a request.
    fn answer(&self, request: &Request, prepared: Self::Prepared) -> Answer;
    /// The words for HTTP 429.
    fn throttled(&self, seconds: u64) -> Value;
    /// Handles a request to the control endpoint beyond those that both simulators know.
    fn control(&self, command: &str, body: &Value) -> Option<Value>;
    /// Counters of its own for the control endpoint.
    fn stats(&self) -> Value;
}

/// How the plumbing behaves.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) latency: Duration,
    pub(crate) gzip: bool,
    pub(crate) record_bodies: bool,
}

#[derive(Default)]
struct Log {
    records: Vec<RequestRecord>,
    calls: BTreeMap<String, u64>,
    bytes_received: u64,
    bytes_sent: u64,
    connections: u64,
}

struct Shared<S> {
    service: Arc<S>,
    settings: Settings,
    faults: Faults,
    log: Mutex<Log>,
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
}

/// A running server. Dropping it closes its port and all connections.
pub(crate) struct Server<S> {
    shared: Arc<Shared<S>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl<S> Drop for Server<S> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<S: Service> Server<S> {
    /// Listens on the loopback interface and serves on the current runtime.
    pub(crate) async fn start(service: Arc<S>, settings: Settings) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", settings.port)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            service,
            settings,
            faults: Faults::default(),
            log: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            peak_in_flight: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(Arc::clone(&shared), listener));
        Ok(Self { shared, address, task })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn faults(&self) -> Faults {
        self.shared.faults.clone()
    }

    pub(crate) fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shared.log).records.clone()
    }

    pub(crate) fn calls(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.log).calls.clone()
    }

    pub(crate) fn clear_log(&self) {
        let mut log = lock(&self.shared.log);
        // Sequence numbers go on: faults refer to them.
        log.calls.clear();
        for record in &mut log.records {
            record.body = Bytes::new();
        }
    }

    pub(crate) fn stats(&self) -> Value {
        self.shared.stats()
    }
}

/// Locks, also after a panic in another test thread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept<S: Service>(shared: Arc<Shared<S>>, listener: TcpListener) {
    // The set lives in this task: when the server is dropped, its connections end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                lock(&shared.log).connections += 1;
                connections.spawn(serve_connection(Arc::clone(&shared), stream));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection<S: Service>(shared: Arc<Shared<S>>, stream: TcpStream) {
    // Answers are written in one go; waiting for more only adds latency.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| serve(Arc::clone(&shared), request));
    // An error here is a client that went away, or a fault that closed the connection.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by a fault")
    }
}

impl std::error::Error for Closed {}

async fn serve<S: Service>(
    shared: Arc<Shared<S>>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Closed> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), READ_LIMIT).await.map_err(|_| Closed)?;
    let request = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    if let Some(command) = request.path.strip_prefix("/_sim/") {
        return Ok(whole(shared.control(&request, command)));
    }
    let _guard = InFlight::enter(&shared.in_flight, &shared.peak_in_flight);
    let latency = shared.settings.latency + shared.service.latency(&request);
    if !latency.is_zero() {
        // Even a sleep of nothing waits for the timer's next tick.
        tokio::time::sleep(latency).await;
    }
    let (label, prepared) = shared.service.prepare(&request);
    let sequence = shared.arrived(&request, &label);
    let actions =
        shared.faults.actions(&label, sequence, |text| shared.service.contains(&request, &prepared, text));
    let outcome = shared.outcome(&request, prepared, actions).await;
    shared.finish(&request, sequence, outcome)
}

/// Counts requests under way, also when the client gives up.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(now: &'a AtomicUsize, peak: &AtomicUsize) -> Self {
        let count = now.fetch_add(1, Ordering::SeqCst) + 1;
        peak.fetch_max(count, Ordering::SeqCst);
        Self(now)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a request ends.
enum Outcome {
    Answer(Answer),
    Truncated(Answer, usize),
    Huge(usize),
    Bomb(usize),
    Closed,
}

impl<S: Service> Shared<S> {
    fn arrived(&self, request: &Request, label: &str) -> u64 {
        let mut log = lock(&self.log);
        let sequence = log.records.len() as u64 + 1;
        *log.calls.entry(self.service.endpoint(label)).or_default() += 1;
        log.bytes_received += request.body.len() as u64;
        let text = |name| request.header(name).map(str::to_owned);
        log.records.push(RequestRecord {
            sequence,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            label: label.to_owned(),
            authorization: self.service.authorization(request),
            user_agent: text(header::USER_AGENT),
            content_encoding: text(header::CONTENT_ENCODING),
            body: if self.settings.record_bodies { request.body.clone() } else { Bytes::new() },
            status: None,
        });
        sequence
    }

    async fn outcome(&self, request: &Request, prepared: S::Prepared, actions: Vec<Action>) -> Outcome {
        for action in actions {
            match action {
                Action::Delay(time) => tokio::time::sleep(time).await,
                Action::Pause(pause) => pause.hold().await,
                Action::Call(callback) => callback(),
                Action::Hang => futures::future::pending().await,
                Action::Answer(answer) => return Outcome::Answer(answer.into()),
                Action::Throttle(seconds) => return Outcome::Answer(self.throttled(seconds)),
                Action::RateLimit(limit) if limit.is_over() => return Outcome::Answer(self.throttled(1)),
                Action::RateLimit(_) => {}
                Action::GraphqlError(message, code, status) => {
                    return Outcome::Answer(graphql_error(&message, &code, status));
                }
                Action::Close => return Outcome::Closed,
                Action::Huge(bytes) => return Outcome::Huge(bytes),
                Action::Bomb(bytes) => return Outcome::Bomb(bytes),
                Action::AnswerAfterHandling(answer) => {
                    self.service.answer(request, prepared);
                    return Outcome::Answer(answer.into());
                }
                Action::CloseAfterHandling => {
                    self.service.answer(request, prepared);
                    return Outcome::Closed;
                }
                Action::HangAfterHandling => {
                    self.service.answer(request, prepared);
                    return futures::future::pending().await;
                }
                Action::PauseAfterHandling(pause) => {
                    let answer = self.service.answer(request, prepared);
                    pause.hold().await;
                    return Outcome::Answer(answer);
                }
                Action::Truncate(bytes) => {
                    return Outcome::Truncated(self.service.answer(request, prepared), bytes);
                }
            }
        }
        Outcome::Answer(self.service.answer(request, prepared))
    }

    fn throttled(&self, seconds: u64) -> Answer {
        let mut answer = Answer::json(429, &self.service.throttled(seconds));
        answer.retry_after = Some(seconds);
        answer
    }

    fn finish(&self, request: &Request, sequence: u64, outcome: Outcome) -> Result<Response<Body>, Closed> {
        let (status, response) = match outcome {
            Outcome::Closed => return Err(Closed),
            Outcome::Answer(answer) => {
                let zip = self.settings.gzip && request.accepts_gzip();
                (answer.status, if zip { zipped(answer) } else { whole(answer) })
            }
            Outcome::Truncated(answer, bytes) => (answer.status, truncated(&answer, bytes)),
            Outcome::Huge(bytes) => (200, huge(bytes)),
            Outcome::Bomb(bytes) => (200, bomb(bytes)),
        };
        let mut log = lock(&self.log);
        log.bytes_sent += axum::body::HttpBody::size_hint(response.body()).exact().unwrap_or(0);
        if let Some(record) = usize::try_from(sequence - 1).ok().and_then(|at| log.records.get_mut(at)) {
            record.status = Some(status);
        }
        Ok(response)
    }

    fn stats(&self) -> Value {
        let own = self.service.stats();
        let log = lock(&self.log);
        json!({
            "requests": log.records.len(),
            "calls": log.calls,
            "connections": log.connections,
            "bytes_received": log.bytes_received,
            "bytes_sent": log.bytes_sent,
            "peak_in_flight": self.peak_in_flight.load(Ordering::SeqCst),
            "faults_hit": self.faults.hits(),
            "server": own,
        })
    }

    fn control(&self, request: &Request, command: &str) -> Answer {
        let body = serde_json::from_slice::<Value>(&request.body).unwrap_or(Value::Null);
        match (request.method.as_str(), command) {
            ("GET", "stats") => Answer::json(200, &self.stats()),
            ("GET", "requests") => Answer::json(200, &self.request_list()),
            ("DELETE", "faults") => {
                self.faults.clear();
                Answer::json(200, &json!({"ok": true}))
            }
            ("POST", "faults") => self.add_fault(body),
            _ => match self.service.control(command, &body) {
                Some(answer) => Answer::json(200, &answer),
                None => Answer::json(404, &json!({"ok": false, "error": "no such command"})),
            },
        }
    }

    fn add_fault(&self, body: Value) -> Answer {
        let fault = serde_json::from_value::<FaultRequest>(body)
            .map_err(|error| error.to_string())
            .and_then(FaultRequest::into_fault);
        match fault {
            Ok(fault) => {
                self.faults.add(fault);
                Answer::json(200, &json!({"ok": true}))
            }
            Err(error) => Answer::json(400, &json!({"ok": false, "error": error})),
        }
    }

    fn request_list(&self) -> Value {
        let log = lock(&self.log);
        let list = log.records.iter().map(|record| {
            json!({"sequence": record.sequence, "label": record.label, "status": record.status,
                   "user_agent": record.user_agent})
        });
        Value::Array(list.collect())
    }
}

/// A GraphQL error in the platform's form, the status inside and HTTP 200 outside.
pub(crate) fn graphql_error(message: &str, code: &str, status: u16) -> Answer {
    let body = json!({"errors": [{"message": message, "name": code,
        "extensions": {"code": code, "data": {"http_status": status, "genre": "TECHNICAL"}}}], "data": null});
    Answer::json(200, &body)
}

fn response(status: u16, content_type: &str, retry_after: Option<u64>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(value) = content_type.try_into() {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Some(seconds) = retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn whole(answer: Answer) -> Response<Body> {
    response(answer.status, &answer.content_type, answer.retry_after, Body::from(answer.body))
}

fn zipped(mut answer: Answer) -> Response<Body> {
    if answer.body.len() < GZIP_FROM {
        return whole(answer);
    }
    answer.body = gzip(&answer.body);
    with_gzip_header(whole(answer))
}

fn with_gzip_header(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
    response
}

/// Compresses, quickly rather than well.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a Vec does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Inflates at most so many bytes and one more, by which the caller sees that there were more.
pub(crate) fn gunzip(bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut inflated = Vec::new();
    GzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut inflated)?;
    Ok(inflated)
}

/// Announces the whole length and sends less of it.
fn truncated(answer: &Answer, bytes: usize) -> Response<Body> {
    let length = answer.body.len();
    let part = Bytes::copy_from_slice(&answer.body[..bytes.min(length)]);
    let end = futures::stream::once(async {
        // What there is must be on its way first: hyper sends nothing more of a connection that failed.
        tokio::task::yield_now().await;
        Err(io::Error::other("cut off by a fault"))
    });
    let body = Body::from_stream(futures::stream::iter([Ok(part)]).chain(end));
    let mut response = response(answer.status, &answer.content_type, answer.retry_after, body);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

fn huge(bytes: usize) -> Response<Body> {
    let head = Bytes::from_static(br#"{"result":"ok","data":{"filler":""#);
    let tail = Bytes::from_static(br#""}}"#);
    let filler = Bytes::from(vec![b'x'; CHUNK]);
    let chunks = std::iter::once(head)
        .chain(std::iter::repeat_n(filler, bytes.div_ceil(CHUNK)))
        .chain(std::iter::once(tail))
        .map(Ok::<_, Infallible>);
    response(200, "application/json", None, Body::from_stream(futures::stream::iter(chunks)))
}

fn bomb(bytes: usize) -> Response<Body> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let filler = vec![b'x'; CHUNK];
    let _ = encoder.write_all(br#"{"result":"ok","data":{"filler":""#);
    for _ in 0..bytes.div_ceil(CHUNK) {
        let _ = encoder.write_all(&filler);
    }
    let _ = encoder.write_all(br#""}}"#);
    let body = Body::from(encoder.finish().unwrap_or_default());
    with_gzip_header(response(200, "application/json", None, body))
}
