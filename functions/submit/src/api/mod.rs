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
//!
//! A request is looked at twice: its head alone ([`Submit::admit`]), so that no byte of a body is read for a stranger,
//! then the whole of it ([`Submit::answer_to`]).

use std::sync::Arc;
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

use body::BodyError;
use callers::shown_keys;
use http::{Request, Response};
use keyring::Keyed;
use problem::{Problem, ProblemKind};

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
enum Route {
    Health,
    Openapi,
    /// Needs a key.
    Call(CallRoute),
}

/// A route that only callers may take.
#[derive(Debug, PartialEq, Eq)]
enum CallRoute {
    Submissions,
    Batch(String),
    Retry(String),
    Check,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
        match path {
            "/health" => return Some(Self::Health),
            "/openapi.json" => return Some(Self::Openapi),
            "/v1/submissions" => return Some(Self::Call(CallRoute::Submissions)),
            "/v1/check" => return Some(Self::Call(CallRoute::Check)),
            _ => {}
        }
        let rest = path.strip_prefix("/v1/submissions/")?;
        match rest.split_once('/') {
            None => Some(Self::Call(CallRoute::Batch(rest.to_owned()))),
            Some((batch, "retry")) => Some(Self::Call(CallRoute::Retry(batch.to_owned()))),
            Some(_) => None,
        }
    }

    /// The route of a request whose path and method are known.
    fn asked_for(request: &Request) -> Result<Self, CallFailure> {
        let route = Self::of(&request.path)
            .ok_or_else(|| Problem::new(ProblemKind::NotFound, "see /openapi.json for what there is"))?;
        let methods = route.methods();
        if methods.contains(&request.method.as_str()) { Ok(route) } else { Err(CallFailure::Method(methods)) }
    }

    /// The methods that it knows.
    fn methods(&self) -> &'static [&'static str] {
        match self {
            // Monitors and load balancers ask with HEAD.
            Self::Health | Self::Openapi => &["GET", "HEAD"],
            Self::Call(CallRoute::Batch(_)) => &["GET"],
            Self::Call(CallRoute::Submissions) => &["GET", "POST"],
            Self::Call(CallRoute::Retry(_) | CallRoute::Check) => &["POST"],
        }
    }
}

/// A request whose path and method are known, and whose caller is, if it needs one.
pub struct Admitted(Admission);

enum Admission {
    /// The answer is the same for all callers, and needs no key.
    Open(Response),
    Call {
        route: CallRoute,
        keyed: Arc<Keyed>,
        caller: Caller,
    },
}

impl Admitted {
    /// The caller's name; `None`: the request needs no key.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        match &self.0 {
            Admission::Open(_) => None,
            Admission::Call { caller, .. } => Some(&caller.name),
        }
    }
}

/// Why a request has no answer of its own kind.
#[derive(Debug)]
enum CallFailure {
    /// The path knows only these methods.
    Method(&'static [&'static str]),
    /// The caller's fault, or a fault of this service that the caller is told.
    Problem(Box<Problem>),
    /// A fault of this service; the log says which.
    Service(ServiceError),
    /// The store, the queue or the secrets did not answer in time.
    OutOfTime,
}

impl CallFailure {
    fn response(self) -> Response {
        match self {
            Self::Method(methods) => {
                let methods = methods.join(", ");
                Problem::new(ProblemKind::MethodNotAllowed, format!("this path knows {methods}"))
                    .response()
                    .with("allow", methods)
            }
            Self::Problem(problem) => problem.response(),
            Self::Service(error) => {
                tracing::error!(kind = error.kind(), %error, "cannot answer");
                let misconfigured = matches!(error, ServiceError::Gate(_) | ServiceError::Http(_));
                if misconfigured { misconfigured_problem() } else { Problem::unavailable() }.response()
            }
            Self::OutOfTime => {
                tracing::error!("the store, the queue or the secrets did not answer in time");
                Problem::unavailable().response()
            }
        }
    }
}

impl From<Problem> for CallFailure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl<E: Into<ServiceError>> From<E> for CallFailure {
    fn from(error: E) -> Self {
        Self::Service(error.into())
    }
}

impl From<CallError> for CallFailure {
    fn from(error: CallError) -> Self {
        let detail = error.to_string();
        match error {
            CallError::OtherCall => Problem::new(ProblemKind::IdempotencyKeyReused, detail).into(),
            CallError::DayLimit { .. } => Problem {
                retry_after: Some(until_midnight()),
                ..Problem::new(ProblemKind::DailyLimit, detail)
            }
            .into(),
            CallError::Service(error) => Self::Service(error),
        }
    }
}

fn until_midnight() -> Duration {
    let seconds = chrono::Utc::now().timestamp().rem_euclid(86_400);
    Duration::from_secs(86_400_u64.saturating_sub(seconds.unsigned_abs()))
}

impl Submit {
    /// Answers a request that has arrived whole, before `deadline`. Never fails: a failure is an answer too.
    pub async fn handle(&self, request: &Request, deadline: Deadline) -> Response {
        match self.admit(request, deadline).await {
            Ok(admitted) => self.answer_to(admitted, request, deadline).await,
            Err(refusal) => refusal,
        }
    }

    /// [`handle`](Self::handle) without a key, for the operator of this machine.
    pub async fn handle_as(&self, caller: Caller, request: &Request, deadline: Deadline) -> Response {
        let admission = async {
            match Route::asked_for(request)? {
                Route::Call(route) => {
                    Ok(Admitted(Admission::Call { route, keyed: self.keyring.keyed().await?, caller }))
                }
                open => Ok(Admitted(Admission::Open(open_answer(&open)))),
            }
        };
        match in_time(deadline, admission).await {
            Ok(admitted) => self.answer_to(admitted, request, deadline).await,
            Err(failure) => failure.response(),
        }
    }

    /// Looks at the head of a request: what is asked for, by whom, and how long the body says that it is. `Err`: the
    /// answer, for which the body is of no interest.
    pub async fn admit(&self, head: &Request, deadline: Deadline) -> Result<Admitted, Response> {
        let started = Instant::now();
        let admission = async {
            let route = Route::asked_for(head)?;
            if head.announced_bytes().is_some_and(|bytes| bytes > MOST_BODY_BYTES as u64) {
                return Err(Problem::from(BodyError::TooLarge { limit: MOST_BODY_BYTES }).into());
            }
            let Route::Call(route) = route else {
                return Ok(Admitted(Admission::Open(open_answer(&route))));
            };
            let (keyed, caller) = self.caller(head).await?;
            Ok(Admitted(Admission::Call { route, keyed, caller }))
        };
        in_time(deadline, admission).await.map_err(|failure| {
            let refusal = failure.response();
            log(head, &refusal, started);
            refusal
        })
    }

    /// Answers an admitted request, before `deadline`.
    pub async fn answer_to(&self, admitted: Admitted, request: &Request, deadline: Deadline) -> Response {
        let started = Instant::now();
        let response = match admitted.0 {
            Admission::Open(response) => response,
            Admission::Call { route, keyed, caller } => {
                let until = Deadline::at(Instant::now() + deadline.remaining().saturating_sub(ANSWER_MARGIN));
                let span = tracing::info_span!("call", caller = caller.name);
                // On the heap: the routes' futures are large, and nested deeper than the compiler likes.
                let answer = Box::pin(self.call(route, request, &keyed, &caller, until));
                let answer = in_time(until, tracing::Instrument::instrument(answer, span));
                answer.await.unwrap_or_else(CallFailure::response)
            }
        };
        log(request, &response, started);
        response
    }

    async fn call(
        &self,
        route: CallRoute,
        request: &Request,
        keyed: &Keyed,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Response, CallFailure> {
        match route {
            CallRoute::Submissions if request.method == "POST" => {
                self.post_submissions(request, keyed, caller, deadline).await
            }
            CallRoute::Submissions => self.get_submissions(request, caller, deadline).await,
            CallRoute::Batch(batch) => self.get_submission(request, caller, &batch, deadline).await,
            CallRoute::Retry(batch) => self.retry(request, caller, &batch, deadline).await,
            CallRoute::Check => self.check(request, keyed, caller, deadline).await,
        }
    }

    /// Who calls. An unknown key may be new: the secret is read again, at most every 30 s.
    async fn caller(&self, request: &Request) -> Result<(Arc<Keyed>, Caller), CallFailure> {
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
            tracing::warn!("the secret names no caller with a key: every call is refused");
        }
        let detail =
            "send your key in x-api-key, as a bearer token, or as the password of basic authentication";
        Err(Problem::new(ProblemKind::Unauthorized, detail).into())
    }
}

/// What callers see when the settings are wrong; the log says which.
#[must_use]
pub fn misconfigured_problem() -> Problem {
    Problem::new(ProblemKind::Misconfigured, "the operator finds the reason in the function's log")
}

fn open_answer(route: &Route) -> Response {
    match route {
        Route::Openapi => Response::new(200, "application/json", OPENAPI.to_owned()),
        _ => Response::json(200, &json!({"status": "ok"})),
    }
}

async fn in_time<T>(
    deadline: Deadline,
    future: impl Future<Output = Result<T, CallFailure>>,
) -> Result<T, CallFailure> {
    deadline.bound(future).await.unwrap_or(Err(CallFailure::OutOfTime))
}

/// The path holds numbers of batches at most; queries and headers are left out.
fn log(request: &Request, response: &Response, started: Instant) {
    tracing::info!(
        method = request.method.chars().take(8).collect::<String>(),
        path = logged_path(&request.path),
        status = response.status,
        bytes_in = request.body.len(),
        bytes_out = response.body.len(),
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "request"
    );
}

/// The path if the API has it, so that strangers cannot write into the log what they like.
fn logged_path(path: &str) -> String {
    match Route::of(path) {
        Some(Route::Call(CallRoute::Batch(batch) | CallRoute::Retry(batch)))
            if !parameters::is_batch_id(&batch) =>
        {
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

    fn call(path: &str) -> Option<CallRoute> {
        match Route::of(path)? {
            Route::Call(route) => Some(route),
            open => panic!("{open:?}"),
        }
    }

    #[test]
    fn every_path_has_its_route() {
        assert_eq!(call("/v1/submissions/"), Some(CallRoute::Submissions));
        assert_eq!(call("/v1/submissions/x"), Some(CallRoute::Batch("x".to_owned())));
        assert_eq!(call("/v1/submissions/x/retry"), Some(CallRoute::Retry("x".to_owned())));
        for none in ["/", "", "/v1", "/v1/submissions/x/y", "/v1/submissions/x/retry/y", "/v2/check"] {
            assert_eq!(Route::of(none), None, "{none}");
        }
    }

    #[test]
    fn the_document_has_every_route_with_its_methods_and_no_other() {
        /// A new route must be named here, and below.
        fn template(route: &Route) -> &'static str {
            match route {
                Route::Health => "/health",
                Route::Openapi => "/openapi.json",
                Route::Call(CallRoute::Submissions) => "/v1/submissions",
                Route::Call(CallRoute::Batch(_)) => "/v1/submissions/{batch_id}",
                Route::Call(CallRoute::Retry(_)) => "/v1/submissions/{batch_id}/retry",
                Route::Call(CallRoute::Check) => "/v1/check",
            }
        }
        let batch = || "{batch_id}".to_owned();
        let routes = [
            Route::Health,
            Route::Openapi,
            Route::Call(CallRoute::Submissions),
            Route::Call(CallRoute::Batch(batch())),
            Route::Call(CallRoute::Retry(batch())),
            Route::Call(CallRoute::Check),
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
