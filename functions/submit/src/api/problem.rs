//! What is wrong with a whole call, as a problem document (RFC 9457). The types are stable: callers' playbooks branch on
//! them. What callers see is kept apart from what is logged: a failing store is the operator's concern.

use std::time::Duration;

use serde::Serialize;

use super::body::BodyError;
use super::fault::Fault;
use super::http::Response;

/// What every `type` begins with.
pub const TYPE_PREFIX: &str = "urn:vmray-bridge:problem:";

/// The content type of problem documents.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// No key, or none that is known.
    Unauthorized,
    /// No such path.
    NotFound,
    /// No such batch of this caller, or not any more.
    NoSuchBatch,
    /// Another method is meant.
    MethodNotAllowed,
    /// A parameter of the query or a header is wrong.
    InvalidParameter,
    /// Nothing in the body.
    EmptyBody,
    /// The body is no JSON and no list.
    NotJson,
    /// The body cannot be understood.
    InvalidBody,
    /// An option is unknown or wrong.
    InvalidOptions,
    /// Too many bytes.
    BodyTooLarge,
    /// Too many URLs.
    TooManyUrls,
    /// A content type or an encoding that is not read.
    UnsupportedMediaType,
    /// The idempotency key belongs to another call.
    IdempotencyKeyReused,
    /// The caller has sent enough for today.
    DailyLimit,
    /// The body did not arrive in time.
    RequestTimeout,
    /// Store, queue or secrets do not work.
    Unavailable,
    /// The deployment's settings are wrong.
    Misconfigured,
}

impl ProblemKind {
    pub const ALL: [Self; 17] = [
        Self::Unauthorized,
        Self::NotFound,
        Self::NoSuchBatch,
        Self::MethodNotAllowed,
        Self::InvalidParameter,
        Self::EmptyBody,
        Self::NotJson,
        Self::InvalidBody,
        Self::InvalidOptions,
        Self::BodyTooLarge,
        Self::TooManyUrls,
        Self::UnsupportedMediaType,
        Self::IdempotencyKeyReused,
        Self::DailyLimit,
        Self::RequestTimeout,
        Self::Unavailable,
        Self::Misconfigured,
    ];

    /// The end of its `type`, its status, and its title.
    #[must_use]
    pub const fn parts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::Unauthorized => ("unauthorized", 401, "No valid key"),
            Self::NotFound => ("not-found", 404, "No such path"),
            Self::NoSuchBatch => ("no-such-batch", 404, "No such batch"),
            Self::MethodNotAllowed => ("method-not-allowed", 405, "Another method is needed"),
            Self::InvalidParameter => ("invalid-parameter", 400, "A parameter or header is wrong"),
            Self::EmptyBody => ("empty-body", 400, "The body is empty"),
            Self::NotJson => ("not-json", 400, "The body cannot be read"),
            Self::InvalidBody => ("invalid-body", 400, "The body cannot be understood"),
            Self::InvalidOptions => ("invalid-options", 400, "An option is unknown or wrong"),
            Self::BodyTooLarge => ("body-too-large", 413, "The body is too large"),
            Self::TooManyUrls => ("too-many-urls", 413, "Too many URLs in one call"),
            Self::UnsupportedMediaType => ("unsupported-media-type", 415, "The body's type is not read"),
            Self::IdempotencyKeyReused => ("idempotency-key-reused", 422, "The idempotency key is taken"),
            Self::DailyLimit => ("daily-limit", 429, "No more URLs today"),
            Self::RequestTimeout => ("request-timeout", 408, "The request did not arrive in time"),
            Self::Unavailable => ("unavailable", 503, "Not available at the moment"),
            Self::Misconfigured => ("misconfigured", 500, "The deployment is not set up"),
        }
    }
}

/// A problem document.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// A sentence for people.
    pub detail: String,
    /// What is wrong where in the body.
    pub errors: Vec<Fault>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct ProblemDocument<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    errors: &'a [Fault],
}

impl Problem {
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// Store, queue or secrets do not work; the log says which.
    #[must_use]
    pub fn unavailable() -> Self {
        let detail = "send the same call again, with the same Idempotency-Key if it has one: nothing is submitted twice";
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(ProblemKind::Unavailable, detail) }
    }

    /// Faults in the options.
    #[must_use]
    pub fn invalid_options(errors: Vec<Fault>) -> Self {
        let detail = first(&errors);
        Self { errors, ..Self::new(ProblemKind::InvalidOptions, detail) }
    }

    #[must_use]
    pub fn response(&self) -> Response {
        let (name, status, title) = self.kind.parts();
        let document = ProblemDocument {
            r#type: format!("{TYPE_PREFIX}{name}"),
            title,
            status,
            detail: &self.detail,
            errors: &self.errors,
        };
        let mut response =
            Response::new(status, CONTENT_TYPE, serde_json::to_string(&document).unwrap_or_default());
        if let Some(pause) = self.retry_after {
            response = response.with("retry-after", pause.as_secs().max(1).to_string());
        }
        if self.kind == ProblemKind::Unauthorized {
            response = response.with("www-authenticate", "Bearer realm=\"vmray-bridge\"");
        }
        response
    }
}

fn first(errors: &[Fault]) -> String {
    errors.first().map_or_else(String::new, |fault| format!("{}: {}", fault.pointer, fault.detail))
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let kind = match &error {
            BodyError::Empty => ProblemKind::EmptyBody,
            BodyError::TooLarge { .. } => ProblemKind::BodyTooLarge,
            BodyError::InvalidUtf8 { .. } | BodyError::NotJson { .. } => ProblemKind::NotJson,
            BodyError::TooDeep { .. } | BodyError::Wrong(_) => ProblemKind::InvalidBody,
            BodyError::TooManyUrls { .. } => ProblemKind::TooManyUrls,
            BodyError::UnsupportedMediaType(_) => ProblemKind::UnsupportedMediaType,
        };
        let detail = error.to_string();
        let errors = if let BodyError::Wrong(faults) = error { faults } else { Vec::new() };
        Self { errors, ..Self::new(kind, detail) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_a_type_of_its_own_and_an_error_status() {
        let names: BTreeSet<_> = ProblemKind::ALL.into_iter().map(|kind| kind.parts().0).collect();
        assert_eq!(names.len(), ProblemKind::ALL.len());
        assert!(ProblemKind::ALL.into_iter().all(|kind| (400..600).contains(&kind.parts().1)));
    }

    #[test]
    fn a_problem_says_what_is_wrong_where() {
        let faults = vec![Fault::new("/options/tags", "no spaces")];
        let response = Problem::invalid_options(faults).response();
        assert_eq!(response.status, 400);
        assert!(response.headers.contains(&("content-type", CONTENT_TYPE.to_owned())));
        let document: serde_json::Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(document["type"], "urn:vmray-bridge:problem:invalid-options");
        assert_eq!(document["errors"][0]["pointer"], "/options/tags");
    }

    #[test]
    fn trouble_of_ours_says_when_to_come_again() {
        let response = Problem::unavailable().response();
        assert!(response.headers.contains(&("retry-after", "5".to_owned())));
    }
}
