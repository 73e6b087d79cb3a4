//! Errors in the platform's form.

use graphql_parser::Pos;
use serde_json::{Value, json};

/// An error in the platform's form.
#[derive(Clone, Debug)]
pub(in super::super) struct Error {
    message: String,
    pub(super) code: &'static str,
    /// More members of `extensions` than the code.
    extensions: Value,
    position: Option<Pos>,
}

impl Error {
    /// An error of the platform; those of the GraphQL engine carry no data.
    pub(in super::super) fn new(message: impl Into<String>, code: &'static str, http_status: u16) -> Self {
        let mut data = json!({"http_status": http_status});
        if let Some(genre) = genre(code) {
            data["genre"] = json!(genre);
        }
        Self { extensions: json!({"data": data}), ..Self::engine(message, code) }
    }

    pub(super) fn engine(message: impl Into<String>, code: &'static str) -> Self {
        Self { message: message.into(), code, extensions: json!({}), position: None }
    }

    pub(in super::super) fn bad_request(message: &str) -> Self {
        Self::engine(message, "BAD_REQUEST")
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::engine(message, "GRAPHQL_VALIDATION_FAILED")
    }

    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::engine(message, "BAD_USER_INPUT")
    }

    /// With one more member of `extensions.data`.
    pub(in super::super) fn with(mut self, name: &str, value: Value) -> Self {
        self.extensions["data"][name] = value;
        self
    }

    pub(super) fn with_extensions(self, extensions: Value) -> Self {
        Self { extensions, ..self }
    }

    pub(super) fn at(self, position: Pos) -> Self {
        Self { position: Some(position), ..self }
    }

    /// HTTP 400 for what is not a GraphQL request; everything else is a 200.
    pub(in super::super) fn status(&self) -> u16 {
        if self.code == "BAD_REQUEST" { 400 } else { 200 }
    }

    fn extensions(&self) -> Value {
        let mut extensions = self.extensions.clone();
        extensions["code"] = json!(self.code);
        extensions
    }

    /// This error as the cause that another one carries.
    pub(in super::super) fn as_cause(&self) -> Value {
        json!({"message": self.message, "extensions": self.extensions()})
    }

    pub(super) fn json(&self, path: Option<&str>) -> Value {
        let mut error = json!({"message": self.message, "name": self.code, "extensions": self.extensions()});
        if let Some(position) = self.position {
            error["locations"] = json!([{"line": position.line, "column": position.column}]);
        }
        if let Some(path) = path {
            error["path"] = json!([path]);
        }
        error
    }

    /// The answer when nothing was carried out.
    pub(in super::super) fn answer(&self) -> Value {
        json!({"errors": [self.json(None)]})
    }
}

/// Whose fault an error is in the platform's eyes.
fn genre(code: &str) -> Option<&'static str> {
    match code {
        "RESOURCE_NOT_FOUND" => None,
        "AUTH_REQUIRED" | "AUTH_FAILURE" | "FORBIDDEN_ACCESS" | "DATABASE_ERROR" => Some("TECHNICAL"),
        _ => Some("BUSINESS"),
    }
}
