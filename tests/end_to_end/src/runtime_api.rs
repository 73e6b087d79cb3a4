//! Lambda's Runtime API, as far as a function can notice: the process asks for its next event, and answers it.
//!
//! It knows nothing of the function. An invocation's deadline begins when its event is handed over, as on Lambda.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The function's answer.
    Answer(Value),
    /// The function's error, with the names that Lambda gives on.
    Error {
        /// `errorType`
        kind: String,
        /// `errorMessage`
        message: String,
    },
}

/// An event on its way to the process.
struct Order {
    id: String,
    event: Value,
    limit: Duration,
    /// What the process is told instead of the time at which the invocation ends.
    told: Option<u64>,
}

/// An event that the process has taken and not answered.
struct Taken {
    deadline: Instant,
}

/// An outcome, and how long after the deadline it came.
type Ended = (Outcome, Duration);

#[derive(Default)]
struct Book {
    waiting: HashMap<String, oneshot::Sender<Ended>>,
    taken: HashMap<String, Taken>,
    last: u64,
}

struct Shared {
    queue: mpsc::UnboundedSender<Order>,
    orders: AsyncMutex<mpsc::UnboundedReceiver<Order>>,
    function: String,
    book: Mutex<Book>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, id: &str, outcome: Outcome) -> StatusCode {
        let mut book = self.book();
        let late =
            book.taken.remove(id).map(|taken| Instant::now().saturating_duration_since(taken.deadline));
        match (late, book.waiting.remove(id)) {
            (Some(late), Some(waiting)) => {
                // A test that has dropped the invocation does not want to know.
                let _ = waiting.send((outcome, late));
                StatusCode::ACCEPTED
            }
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A running Runtime API for one process. Dropping it closes its port.
pub struct RuntimeApi {
    address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RuntimeApi {
    /// Listens on the loopback interface, for a process of this function.
    pub async fn start(function: &str) -> Self {
        let (queue, orders) = mpsc::unbounded_channel();
        let function = format!("arn:aws:lambda:us-east-1:123456789012:function:{function}");
        let shared =
            Arc::new(Shared { queue, orders: AsyncMutex::new(orders), function, book: Mutex::default() });
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/init/error", post(init_error))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(response))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(error))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on the loopback interface");
        let address = listener.local_addr().expect("a bound port has an address").to_string();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Self { address, shared, task }
    }

    /// What the process finds in `AWS_LAMBDA_RUNTIME_API`: host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts an event into the queue. Its outcome comes with the time by which it missed its deadline.
    #[must_use]
    pub fn send(&self, event: Value, limit: Duration) -> oneshot::Receiver<Ended> {
        self.send_telling(event, limit, None)
    }

    /// [`send`](Self::send) with another deadline in the header than the true one.
    #[must_use]
    pub fn send_telling(&self, event: Value, limit: Duration, told: Option<u64>) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut book = self.shared.book();
        book.last += 1;
        let id = format!("request-{}", book.last);
        book.waiting.insert(id.clone(), sender);
        drop(book);
        self.shared
            .queue
            .send(Order { id, event, limit, told })
            .expect("the receiver lives as long as the server");
        receiver
    }
}

/// Waits for an event, for as long as it takes: an idle process is frozen here.
async fn next(State(shared): State<Arc<Shared>>) -> (HeaderMap, String) {
    let order = shared.orders.lock().await.recv().await.expect("the sender lives as long as the server");
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + order.limit;
    let mut headers = HeaderMap::new();
    let mut set = |name, value: &str| {
        headers.insert(name, HeaderValue::from_str(value).expect("a plain text"));
    };
    set("content-type", "application/json");
    set("lambda-runtime-aws-request-id", &order.id);
    set(
        "lambda-runtime-deadline-ms",
        &order.told.map_or_else(|| deadline.as_millis().to_string(), |told| told.to_string()),
    );
    set("lambda-runtime-invoked-function-arn", &shared.function);
    set("lambda-runtime-trace-id", "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0");
    shared.book().taken.insert(order.id, Taken { deadline: Instant::now() + order.limit });
    (headers, order.event.to_string())
}

async fn response(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    let answer = serde_json::from_slice(&body).expect("a function's answer is JSON");
    shared.end(&id, Outcome::Answer(answer))
}

async fn error(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> StatusCode {
    shared.end(&id, failure(&body))
}

/// The process could not start: every event that waits for it fails.
async fn init_error(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    for (_, waiting) in std::mem::take(&mut shared.book().waiting) {
        let _ = waiting.send((failure(&body), Duration::ZERO));
    }
    StatusCode::ACCEPTED
}

fn failure(body: &[u8]) -> Outcome {
    let error: Value = serde_json::from_slice(body).expect("a function's error is JSON");
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
    Outcome::Error { kind: text("errorType"), message: text("errorMessage") }
}
