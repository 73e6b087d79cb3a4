//! One GraphQL call: send it, try again where that can help, and say what its failure means.
//!
//! Facts it stands on: GraphQL errors come as HTTP 200 with `errors`, so these are read before `data`; a bad token is the
//! error `AUTH_REQUIRED`; a body over the platform's limit is HTTP 500 with the text `request entity too large`, and a
//! proxy's is 413; gzip request bodies are accepted; the same mutation may stand once in a document.

use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use runtime::http::{self, Again, Answer, Deadline, HttpError, Limits, RetryPolicy};
use runtime::secrets::{Keys, RotatingKey, SecretsError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

/// A static document; the platform counts and logs by operation name.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name, for messages.
    pub name: &'static str,
    /// The GraphQL text.
    pub document: &'static str,
}

/// How requests to `OpenCTI` behave.
#[derive(Clone, Copy, Debug)]
pub struct OpenctiPolicy {
    /// Time and size of one call.
    pub limits: Limits,
    /// Tries of one call; every operation used here may be repeated.
    pub retry: RetryPolicy,
    /// Send bodies compressed.
    pub gzip: bool,
}

/// Why `OpenCTI` did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenctiError {
    /// The token is wrong, revoked or expired.
    #[error(
        "OpenCTI refuses the token from {origin} ({operation}: {message}): put the token of the connector's service account there"
    )]
    Unauthorized {
        /// What was tried.
        operation: &'static str,
        /// The secret's name.
        origin: String,
        /// The platform's words.
        message: String,
    },
    /// The token could not be had.
    #[error("no token for OpenCTI: {0}")]
    Keys(Arc<SecretsError>),
    /// The token's user lacks a capability.
    #[error(
        "OpenCTI does not allow {operation} to this token's user ({message}): put the user into the group Connectors"
    )]
    Forbidden {
        /// What was tried.
        operation: &'static str,
        /// The platform's words.
        message: String,
    },
    /// The body is larger than the platform or a proxy takes.
    #[error("OpenCTI or a proxy before it calls the body of {operation} too large ({status})")]
    TooLarge {
        /// What was tried.
        operation: &'static str,
        /// The HTTP status that said so.
        status: u16,
    },
    /// The platform understood and said no.
    #[error("OpenCTI refused {operation}: {code}: {message}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The platform's error code.
        code: String,
        /// The platform's words.
        message: String,
    },
    /// After all tries somebody still answers with an error that may pass.
    #[error("OpenCTI failed on {operation}: {reason}")]
    Failing {
        /// What was tried.
        operation: &'static str,
        /// The last failure.
        reason: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// After all tries there is no answer at all.
    #[error("OpenCTI does not answer ({operation}): {reason}")]
    Unreachable {
        /// What was tried.
        operation: &'static str,
        /// The last failure.
        reason: String,
    },
    /// The invocation ends before this can be done.
    #[error("no time left for {operation}")]
    OutOfTime {
        /// What was tried.
        operation: &'static str,
    },
}

impl OpenctiError {
    /// Whether a smaller body may pass.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. })
    }

    /// Whether it may be due to what was sent, since somebody did answer.
    #[must_use]
    pub fn is_about_the_bundle(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { .. } | Self::Failing { .. })
    }

    fn again(&self) -> Again {
        match self {
            Self::Failing { retry_after: Some(pause), .. } => Again::After(*pause),
            Self::Failing { retry_after: None, .. } | Self::Unreachable { .. } => Again::Soon,
            _ => Again::No,
        }
    }
}

#[derive(Serialize)]
struct GraphqlRequest<'a, V> {
    query: &'a str,
    variables: V,
}

#[derive(Deserialize)]
struct GraphqlResponse<T> {
    data: Option<T>,
    #[serde(default)]
    errors: Option<Vec<GraphqlError>>,
}

#[derive(Deserialize)]
struct GraphqlError {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    extensions: Option<Extensions>,
}

#[derive(Deserialize)]
struct Extensions {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

impl GraphqlError {
    fn code(&self) -> &str {
        let code = self.extensions.as_ref().and_then(|extensions| extensions.code.as_deref());
        code.or(self.name.as_deref()).unwrap_or("UNKNOWN_ERROR")
    }

    fn http_status(&self) -> Option<u64> {
        self.extensions.as_ref()?.data.as_ref()?.get("http_status")?.as_u64()
    }

    /// The message, and the cause that some errors carry beside it.
    fn message(&self) -> String {
        let message = self.message.clone().unwrap_or_default();
        let data = self.extensions.as_ref().and_then(|extensions| extensions.data.as_ref());
        let cause = data.and_then(|data| data.pointer("/cause/message").or_else(|| data.get("reason")));
        http::clean(&match cause.and_then(Value::as_str) {
            Some(cause) => format!("{message} ({cause})"),
            None => message,
        })
    }
}

/// A client for one run.
#[derive(Debug)]
pub struct OpenctiClient {
    http: reqwest::Client,
    endpoint: String,
    key: RotatingKey,
    policy: OpenctiPolicy,
    deadline: Deadline,
    calls: AtomicU64,
}

impl OpenctiClient {
    /// A client for the platform at `base` (no trailing slash) until `deadline`.
    #[must_use]
    pub fn new(
        http: reqwest::Client,
        server: &Url,
        key: RotatingKey,
        policy: OpenctiPolicy,
        deadline: Deadline,
    ) -> Self {
        let endpoint = format!("{}/graphql", server.as_str().trim_end_matches('/'));
        Self { http, endpoint, key, policy, deadline, calls: AtomicU64::new(0) }
    }

    /// Requests sent so far, repeats included.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Runs one operation and reads its `data`.
    pub async fn call<T: DeserializeOwned>(
        &self,
        operation: Operation,
        variables: impl Serialize,
    ) -> Result<T, OpenctiError> {
        self.call_until(self.deadline, operation, variables).await
    }

    /// [`call`](Self::call) with an earlier deadline than the client's own.
    pub async fn call_until<T: DeserializeOwned>(
        &self,
        deadline: Deadline,
        operation: Operation,
        variables: impl Serialize,
    ) -> Result<T, OpenctiError> {
        let body = encode(operation, variables, self.policy.gzip).map_err(|error| OpenctiError::Refused {
            operation: operation.name,
            code: "NOT_SENT".to_owned(),
            message: error.to_string(),
        })?;
        let body = bytes::Bytes::from(body);
        http::retry(
            self.policy.retry,
            deadline,
            || self.attempt(deadline, operation.name, body.clone()),
            OpenctiError::again,
        )
        .await
        .map_err(|error| match error {
            // A failure that was not repeated for lack of time is nobody's fault.
            OpenctiError::Failing { operation, retry_after, .. }
                if !deadline.has_room_for(retry_after, self.policy.retry) =>
            {
                OpenctiError::OutOfTime { operation }
            }
            error => error,
        })
    }

    /// One try; a refused token is read again once.
    async fn attempt<T: DeserializeOwned>(
        &self,
        deadline: Deadline,
        operation: &'static str,
        body: bytes::Bytes,
    ) -> Result<T, OpenctiError> {
        let keys = self.key.keys();
        let again = body.clone();
        match self.send(deadline, &keys, operation, body).await {
            Err(OpenctiError::Unauthorized { .. })
                if self.key.replaced(&keys).await.map_err(|e| OpenctiError::Keys(Arc::new(e)))? =>
            {
                self.send(deadline, &self.key.keys(), operation, again).await
            }
            other => other,
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        deadline: Deadline,
        keys: &Keys,
        operation: &'static str,
        body: bytes::Bytes,
    ) -> Result<T, OpenctiError> {
        let authorization = self.key.header(keys, "Bearer ").map_err(|e| OpenctiError::Keys(Arc::new(e)))?;
        let mut request = self
            .http
            .post(&self.endpoint)
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            // A draft that the token's user has open in the web interface must not swallow the import.
            .header("opencti-draft-id", "");
        if self.policy.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let sent = http::send(request.body(body), self.policy.limits, deadline).await;
        let mut answer = sent.map_err(|error| match error {
            HttpError::OutOfTime => OpenctiError::OutOfTime { operation },
            other => OpenctiError::Unreachable { operation, reason: other.to_string() },
        })?;
        self.key.mask(keys, &mut answer);
        read(&answer, operation, keys.origin())
    }
}

fn encode(operation: Operation, variables: impl Serialize, gzip: bool) -> std::io::Result<Vec<u8>> {
    let request = GraphqlRequest { query: operation.document, variables };
    if !gzip {
        return Ok(serde_json::to_vec(&request)?);
    }
    let mut writer = BufWriter::with_capacity(64 * 1024, GzEncoder::new(Vec::new(), Compression::fast()));
    serde_json::to_writer(&mut writer, &request)?;
    writer.flush()?;
    writer.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()
}

fn read<T: DeserializeOwned>(
    answer: &Answer,
    operation: &'static str,
    origin: &str,
) -> Result<T, OpenctiError> {
    let status = answer.status;
    let failing =
        |reason: String| OpenctiError::Failing { operation, reason, retry_after: answer.retry_after };
    if status == StatusCode::PAYLOAD_TOO_LARGE || says_too_large(answer) {
        return Err(OpenctiError::TooLarge { operation, status: status.as_u16() });
    }
    // Errors of the platform come with many statuses; the body says more than the status.
    let Ok(response) = serde_json::from_slice::<GraphqlResponse<Value>>(&answer.body) else {
        return Err(not_graphql(answer, operation, origin));
    };
    if let Some(error) = response.errors.as_deref().and_then(<[_]>::first) {
        return Err(graphql_error(error, answer, operation, origin));
    }
    match response.data {
        Some(data) if status.is_success() => {
            serde_json::from_value(data).map_err(|error| OpenctiError::Refused {
                operation,
                code: "UNEXPECTED_ANSWER".to_owned(),
                message: http::clean(&format!("the answer has another shape: {error}")),
            })
        }
        _ => Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => not_graphql(answer, operation, origin),
            _ => failing(format!("{status}: {}", answer.excerpt())),
        }),
    }
}

/// How the platform's own limit speaks; a proxy says 413.
fn says_too_large(answer: &Answer) -> bool {
    answer.status.is_server_error() && answer.excerpt().contains("request entity too large")
}

/// The answer of something that is not the platform's GraphQL endpoint.
fn not_graphql(answer: &Answer, operation: &'static str, origin: &str) -> OpenctiError {
    let status = answer.status;
    let message = format!("{status}: {}", answer.excerpt());
    match status {
        StatusCode::UNAUTHORIZED => {
            OpenctiError::Unauthorized { operation, origin: origin.to_owned(), message }
        }
        StatusCode::FORBIDDEN => OpenctiError::Forbidden { operation, message },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            OpenctiError::Failing { operation, reason: message, retry_after: answer.retry_after }
        }
        _ if status.is_server_error() => {
            OpenctiError::Failing { operation, reason: message, retry_after: answer.retry_after }
        }
        _ if status.is_success() => OpenctiError::Failing {
            operation,
            reason:
                "the answer is no JSON; is OPENCTI_URL the platform's address, and is there a proxy or a \
                     login page in between?"
                    .to_owned(),
            retry_after: None,
        },
        _ => OpenctiError::Refused { operation, code: status.as_u16().to_string(), message },
    }
}

fn graphql_error(
    error: &GraphqlError,
    answer: &Answer,
    operation: &'static str,
    origin: &str,
) -> OpenctiError {
    let message = error.message();
    let code = error.code();
    match code {
        _ if code.starts_with("AUTH_") || code.starts_with("OTP_") || code.starts_with("LTS_") => {
            OpenctiError::Unauthorized { operation, origin: origin.to_owned(), message }
        }
        "FORBIDDEN_ACCESS" | "PASSWORD_CHANGE_REQUIRED" => OpenctiError::Forbidden { operation, message },
        _ if code.starts_with("GRAPHQL_") || code == "BAD_USER_INPUT" => {
            OpenctiError::Refused { operation, code: code.to_owned(), message }
        }
        // Those without a status are the server's own (INTERNAL_SERVER_ERROR and the like).
        _ if error.http_status().is_some_and(|status| status < 500 && status != 429) => {
            OpenctiError::Refused { operation, code: code.to_owned(), message }
        }
        _ => OpenctiError::Failing {
            operation,
            reason: format!("{code}: {message}"),
            retry_after: answer.retry_after,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.as_bytes().to_vec(),
        }
    }

    fn error(status: u16, body: &str) -> OpenctiError {
        read::<Value>(&answer(status, body), "test", "the vault").unwrap_err()
    }

    fn graphql(code: &str, http_status: u16) -> OpenctiError {
        error(
            200,
            &format!(
                r#"{{"errors":[{{"message":"m","name":"{code}","extensions":{{"code":"{code}","data":{{"http_status":{http_status}}}}}}}],"data":{{"x":null}}}}"#
            ),
        )
    }

    #[test]
    fn errors_are_read_before_data() {
        assert!(matches!(graphql("AUTH_REQUIRED", 401), OpenctiError::Unauthorized { .. }));
        assert!(matches!(graphql("FORBIDDEN_ACCESS", 403), OpenctiError::Forbidden { .. }));
        assert!(matches!(graphql("FUNCTIONAL_ERROR", 400), OpenctiError::Refused { .. }));
        assert!(matches!(graphql("UNSUPPORTED_ERROR", 500), OpenctiError::Failing { .. }));
        assert!(matches!(graphql("LOCK_ERROR", 500), OpenctiError::Failing { .. }));
        assert!(matches!(
            error(200, r#"{"errors":[{"message":"m","extensions":{"code":"GRAPHQL_VALIDATION_FAILED"}}]}"#),
            OpenctiError::Refused { .. }
        ));
    }

    #[test]
    fn too_large_is_known_in_both_ways_and_never_repeated() {
        for error in [
            error(500, r#"{"status":"error","error":"request entity too large"}"#),
            error(413, "<html>413 Request Entity Too Large</html>"),
        ] {
            assert!(matches!(error, OpenctiError::TooLarge { .. }));
            assert_eq!(error.again(), Again::No);
        }
    }

    #[test]
    fn a_web_page_is_no_answer() {
        assert!(error(200, "<html></html>").to_string().contains("OPENCTI_URL"));
        assert!(matches!(error(502, "<html>Bad Gateway</html>"), OpenctiError::Failing { .. }));
        assert!(matches!(error(401, "no"), OpenctiError::Unauthorized { .. }));
    }

    #[test]
    fn a_compressed_body_is_the_same_document() {
        let operation = Operation { name: "x", document: "query { about { version } }" };
        let plain = encode(operation, serde_json::json!({"a": "ü\""}), false).unwrap();
        let packed = encode(operation, serde_json::json!({"a": "ü\""}), true).unwrap();
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut unpacked)
            .unwrap();
        assert_eq!(unpacked, plain);
    }
}
