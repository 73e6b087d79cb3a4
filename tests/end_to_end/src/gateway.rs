//! Stands before an AWS emulator: counts what the process asks for, and makes trouble when a test wants some.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use simulators::faults::{Action, FaultAnswer, Faults};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::template::allowed_actions;

/// The signature that the emulators want to see and do not check; it names the service.
fn authorization(target: &str) -> String {
    let service = match target.split('.').next() {
        Some("AmazonSQS") => "sqs",
        Some("secretsmanager") => "secretsmanager",
        _ => "dynamodb",
    };
    format!(
        "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}

/// What IAM calls an operation: `AmazonSQS.SendMessageBatch` is `sqs:SendMessage`.
pub(crate) fn action(target: &str) -> String {
    let (service, operation) = target.split_once('.').unwrap_or((target, ""));
    let service = match service {
        "AmazonSQS" => "sqs",
        "secretsmanager" => "secretsmanager",
        _ => "dynamodb",
    };
    let operation = match operation {
        // Batches of SQS are the single right.
        "SendMessageBatch" | "DeleteMessageBatch" | "ChangeMessageVisibilityBatch" => {
            operation.trim_end_matches("Batch")
        }
        other => other,
    };
    format!("{service}:{operation}")
}

/// Whether some role of the template allows it. What none allows would be refused in a deployment, in whichever test it
/// was asked for.
fn is_allowed(action: &str) -> bool {
    static ALLOWED: OnceLock<BTreeSet<String>> = OnceLock::new();
    ALLOWED.get_or_init(allowed_actions).contains(action)
}

/// What a test makes of a request before it is passed on: operation and body in, body out.
pub(crate) type Edit = Arc<dyn Fn(&str, Value) -> Value + Send + Sync>;

/// A gateway to one emulator. Dropping it closes its port.
pub(crate) struct Gateway {
    pub(crate) address: String,
    upstream: String,
    http: reqwest::Client,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    faults: Faults,
    edit: Option<Edit>,
    seen: Mutex<Vec<String>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateway {
    pub(crate) async fn start(upstream: String) -> Self {
        Self::editing(upstream, None).await
    }

    pub(crate) async fn editing(upstream: String, edit: Option<Edit>) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without settings");
        let shared = Arc::new(Shared {
            upstream: upstream.clone(),
            http: http.clone(),
            faults: Faults::default(),
            edit,
            seen: Mutex::default(),
        });
        let routes = Router::new().fallback(pass_on).with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on the loopback interface");
        let address = format!("http://{}", listener.local_addr().expect("a bound port has an address"));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Self { address, upstream, http, shared, task }
    }

    /// Trouble; labels are the operations' names, such as `PutItem`.
    pub(crate) fn faults(&self) -> Faults {
        self.shared.faults.clone()
    }

    /// How often the process has asked for this.
    pub(crate) fn calls(&self, operation: &str) -> u64 {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|label| *label == operation).count() as u64
    }

    /// Asks the emulator itself, unseen by counts and faults. What is refused fails the test.
    pub(crate) async fn ask(&self, target: &str, request: &Value) -> Value {
        self.try_ask(target, request)
            .await
            .unwrap_or_else(|refusal| panic!("{target} was refused: {refusal}"))
    }

    /// The same for what may be refused; then what the emulator said.
    pub(crate) async fn try_ask(&self, target: &str, request: &Value) -> Result<Value, String> {
        let version = if target.starts_with("secretsmanager") { "1.1" } else { "1.0" };
        let answer = self
            .http
            .post(&self.upstream)
            .header("x-amz-target", target)
            .header("content-type", format!("application/x-amz-json-{version}"))
            .header("authorization", authorization(target))
            .body(request.to_string())
            .send()
            .await
            .unwrap_or_else(|error| panic!("{} does not answer: {error}", self.upstream));
        let status = answer.status();
        let text = answer.text().await.expect("an answer's body");
        if !status.is_success() {
            return Err(format!("{status}: {text}"));
        }
        // An operation without a result answers nothing at all.
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("AWS answers JSON") })
    }
}

/// One request of the process.
async fn pass_on(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let sequence = {
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(operation.clone());
        seen.len() as u64
    };
    let action = action(target);
    if !is_allowed(&action) {
        let message = format!("no role in infra/template.yaml allows {action}");
        eprintln!("{message}");
        let refusal = serde_json::json!({"__type": "AccessDeniedException", "message": message});
        return (StatusCode::BAD_REQUEST, refusal.to_string()).into_response();
    }
    let text = String::from_utf8_lossy(&body);
    for action in shared.faults.actions(&operation, sequence, |part| text.contains(part)) {
        match action {
            Action::Delay(time) => tokio::time::sleep(time).await,
            Action::Pause(pause) => pause.hold().await,
            Action::Call(callback) => callback(),
            Action::Hang => std::future::pending().await,
            Action::Answer(answer) => return refusal(answer),
            Action::AnswerAfterHandling(answer) => {
                forward(&shared, &operation, headers, body).await;
                return refusal(answer);
            }
            Action::HangAfterHandling => {
                forward(&shared, &operation, headers, body).await;
                return std::future::pending().await;
            }
            Action::PauseAfterHandling(pause) => {
                let answer = forward(&shared, &operation, headers, body).await;
                pause.hold().await;
                return answer;
            }
            other => panic!("trouble that the gateway cannot make: {other:?}"),
        }
    }
    forward(&shared, &operation, headers, body).await
}

fn refusal(answer: FaultAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("a status");
    (status, [("content-type", "application/x-amz-json-1.0")], answer.body).into_response()
}

async fn forward(shared: &Shared, operation: &str, mut headers: HeaderMap, mut body: Bytes) -> Response {
    headers.remove("host");
    headers.remove("content-length");
    if let Some(edit) = &shared.edit {
        let request = serde_json::from_slice(&body).expect("a process asks AWS in JSON");
        body = edit(operation, request).to_string().into();
    }
    let request = shared.http.post(&shared.upstream).headers(headers).body(body);
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let status = answer.status();
    let mut headers = answer.headers().clone();
    for hop in ["connection", "transfer-encoding", "content-length"] {
        headers.remove(hop);
    }
    (status, headers, answer.bytes().await.unwrap_or_default()).into_response()
}
