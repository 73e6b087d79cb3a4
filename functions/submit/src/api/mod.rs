//! The HTTP API: what callers send and what they get.
//!
//! | route | does |
//! |---|---|
//! | `POST /v1/submissions` | submits a collection of URLs |
//! | `GET /v1/submissions/{batch_id}` | its state, with fresh verdicts |
//! | `GET /v1/submissions?ids=a,b` | several batches |
//! | `POST /v1/submissions/{batch_id}/retry` | sends what has failed again |
//! | `POST /v1/check` | what a call would do; nothing is sent |
//! | `GET /openapi.json`, `GET /health` | the contract; alive |

use std::time::Duration;

use runtime::http::Deadline;
use serde_json::json;
use tokio::time::Instant;

pub mod answer;
pub mod body;
pub mod callers;
pub mod check;
mod fault;
pub mod http;
pub(crate) mod keyring;
pub mod options;
pub mod parameters;
pub mod problem;
mod submissions;
mod words;

use callers::shown_keys;
use http::{Request, Response};
use keyring::Keyed;
use problem::{Kind, Problem};

use crate::calls::{CallError, Caller};
use crate::error::ServiceError;
use crate::service::Submit;

pub use fault::Fault;

/// The contract, served as it is.
pub const OPENAPI: &str = include_str!("../../openapi.json");

/// The largest body.
pub const MOST_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Lists and objects inside each other in a body.
pub const MOST_BODY_DEPTH: usize = 32;

/// What is left of the time when an answer must be written.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// A route, by its path.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Health,
    Openapi,
    Submissions,
    Batch(&'a str),
    Retry(&'a str),
    Check,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        match path {
            "/health" => return Some(Self::Health),
            "/openapi.json" => return Some(Self::Openapi),
            "/v1/submissions" => return Some(Self::Submissions),
            "/v1/check" => return Some(Self::Check),
            _ => {}
        }
        let rest = path.strip_prefix("/v1/submissions/")?;
        match rest.split_once('/') {
            None => Some(Self::Batch(rest)),
            Some((batch, "retry")) => Some(Self::Retry(batch)),
            Some(_) => None,
        }
    }

    /// The methods that it knows.
    fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::Health | Self::Openapi | Self::Batch(_) => &["GET"],
            Self::Submissions => &["GET", "POST"],
            Self::Retry(_) | Self::Check => &["POST"],
        }
    }
}

/// Why a request has no answer of its own kind.
#[derive(Debug)]
enum Failure {
    /// The caller's fault, or ours told to the caller.
    Problem(Box<Problem>),
    /// Ours; the log says what.
    Service(ServiceError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl<E: Into<ServiceError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Service(error.into())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let detail = error.to_string();
        match error {
            CallError::OtherCall => Problem::new(Kind::IdempotencyKeyReused, detail).into(),
            CallError::DayLimit { .. } => {
                Problem { retry_after: Some(until_midnight()), ..Problem::new(Kind::DailyLimit, detail) }
                    .into()
            }
            CallError::Service(error) => Self::Service(error),
        }
    }
}

fn until_midnight() -> Duration {
    let seconds = chrono::Utc::now().timestamp().rem_euclid(86_400);
    Duration::from_secs(86_400_u64.saturating_sub(seconds.unsigned_abs()))
}

impl Submit {
    /// Answers a request, before `deadline`. Never fails: a failure is an answer too.
    pub async fn handle(&self, request: &Request, deadline: Deadline) -> Response {
        self.handle_for(request, None, deadline).await
    }

    /// [`handle`](Self::handle) for somebody who needs no key: the operator of this machine.
    pub async fn handle_as(&self, caller: Caller, request: &Request, deadline: Deadline) -> Response {
        self.handle_for(request, Some(caller), deadline).await
    }

    async fn handle_for(&self, request: &Request, caller: Option<Caller>, deadline: Deadline) -> Response {
        let started = Instant::now();
        let until = Deadline::at(Instant::now() + deadline.remaining().saturating_sub(ANSWER_MARGIN));
        // On the heap: the routes' futures are large, and nested deeper than the compiler likes.
        let outcome = until.bound(Box::pin(self.route(request, caller, until))).await;
        let response = match outcome {
            Some(Ok(response)) => response,
            Some(Err(Failure::Problem(problem))) => problem.response(),
            Some(Err(Failure::Service(error))) => {
                tracing::error!(kind = error.kind(), %error, "cannot answer");
                let misconfigured = matches!(error, ServiceError::Gate(_) | ServiceError::Http(_));
                if misconfigured { misconfigured_problem() } else { Problem::unavailable() }.response()
            }
            None => {
                tracing::error!("the store, the queue or the secrets did not answer in time");
                Problem::unavailable().response()
            }
        };
        // The path holds numbers of batches at most; queries and headers are left out.
        tracing::info!(
            method = request.method.chars().take(8).collect::<String>(),
            path = logged_path(&request.path),
            status = response.status,
            bytes_in = request.body.len(),
            bytes_out = response.body.len(),
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "request"
        );
        response
    }

    async fn route(
        &self,
        request: &Request,
        caller: Option<Caller>,
        deadline: Deadline,
    ) -> Result<Response, Failure> {
        let route = Route::of(&request.path)
            .ok_or_else(|| Problem::new(Kind::NotFound, "see /openapi.json for what there is"))?;
        if !route.methods().contains(&request.method.as_str()) {
            return Ok(method_not_allowed(&route));
        }
        match route {
            Route::Health => return Ok(Response::json(200, &json!({"status": "ok"}))),
            Route::Openapi => return Ok(Response::new(200, "application/json", OPENAPI.to_owned())),
            _ => {}
        }
        let (keyed, caller) = match caller {
            Some(caller) => (self.keyring.keyed().await?, caller),
            None => self.caller(request).await?,
        };
        let span = tracing::info_span!("call", caller = caller.name);
        let answer = async {
            match route {
                Route::Submissions if request.method == "POST" => {
                    self.post_submissions(request, &keyed, &caller, deadline).await
                }
                Route::Submissions => self.get_submissions(request, &caller, deadline).await,
                Route::Batch(batch) => self.get_submission(request, &caller, batch, deadline).await,
                Route::Retry(batch) => self.retry(request, &caller, batch, deadline).await,
                Route::Check => self.check(request, &keyed, &caller, deadline).await,
                Route::Health | Route::Openapi => Err(Problem::unavailable().into()),
            }
        };
        tracing::Instrument::instrument(answer, span).await
    }

    /// Who calls. An unknown key may be new: the secret is read again, at most every 30 s.
    async fn caller(&self, request: &Request) -> Result<(std::sync::Arc<Keyed>, Caller), Failure> {
        let shown = shown_keys(request);
        let keyed = self.keyring.keyed().await?;
        if let Some(caller) = keyed.callers.find(&shown) {
            let caller = caller.clone();
            return Ok((keyed, caller));
        }
        if !shown.is_empty() && self.keyring.reread(&keyed).await? {
            let keyed = self.keyring.keyed().await?;
            if let Some(caller) = keyed.callers.find(&shown) {
                let caller = caller.clone();
                return Ok((keyed, caller));
            }
        }
        if keyed.callers.is_empty() {
            tracing::warn!("the secret names no caller with a key: nobody may call");
        }
        let detail =
            "send your key in x-api-key, as a bearer token, or as the password of basic authentication";
        Err(Problem::new(Kind::Unauthorized, detail).into())
    }
}

/// What callers see when the settings are wrong; the log says which.
#[must_use]
pub fn misconfigured_problem() -> Problem {
    Problem::new(Kind::Misconfigured, "the operator finds the reason in the function's log")
}

fn method_not_allowed(route: &Route<'_>) -> Response {
    let methods = route.methods().join(", ");
    Problem::new(Kind::MethodNotAllowed, format!("this path knows {methods}"))
        .response()
        .with("allow", methods)
}

/// The path if it is one of ours, so that nobody writes into the log what they like.
fn logged_path(path: &str) -> String {
    match Route::of(path) {
        Some(Route::Batch(batch) | Route::Retry(batch)) if !parameters::is_batch_id(batch) => {
            "/v1/submissions/?".to_owned()
        }
        Some(_) => path.to_owned(),
        None => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_path_has_its_route() {
        assert_eq!(Route::of("/v1/submissions/"), Some(Route::Submissions));
        assert_eq!(Route::of("/v1/submissions/x"), Some(Route::Batch("x")));
        assert_eq!(Route::of("/v1/submissions/x/retry"), Some(Route::Retry("x")));
        for none in ["/", "", "/v1", "/v1/submissions/x/y", "/v1/submissions/x/retry/y", "/v2/check"] {
            assert_eq!(Route::of(none), None, "{none}");
        }
    }

    #[test]
    fn the_document_has_every_route_with_its_methods_and_no_other() {
        /// A new route must be named here, and below.
        fn template(route: &Route<'_>) -> &'static str {
            match route {
                Route::Health => "/health",
                Route::Openapi => "/openapi.json",
                Route::Submissions => "/v1/submissions",
                Route::Batch(_) => "/v1/submissions/{batch_id}",
                Route::Retry(_) => "/v1/submissions/{batch_id}/retry",
                Route::Check => "/v1/check",
            }
        }
        let routes = [
            Route::Health,
            Route::Openapi,
            Route::Submissions,
            Route::Batch("{batch_id}"),
            Route::Retry("{batch_id}"),
            Route::Check,
        ];
        let mut known = BTreeMap::new();
        for route in routes {
            let path = template(&route);
            assert_eq!(Route::of(path).as_ref(), Some(&route), "{path}");
            known.insert(
                path.to_owned(),
                route.methods().iter().map(|method| method.to_lowercase()).collect(),
            );
        }
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let documented: BTreeMap<String, BTreeSet<String>> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, item)| (path.clone(), item.as_object().unwrap().keys().cloned().collect()))
            .collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn a_log_holds_only_paths_of_ours() {
        assert_eq!(logged_path("/v1/submissions/<script>"), "/v1/submissions/?");
        assert_eq!(logged_path("/wp-admin"), "?");
        assert_eq!(logged_path("/v1/check"), "/v1/check");
    }
}
