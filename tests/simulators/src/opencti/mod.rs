//! OpenCTI, simulated: the GraphQL endpoint as a connector meets it, and a store that imports what is pushed.
//!
//! `graphql` parses and validates, `platform` is what the operations do. What is pushed is `split` into messages, which wait in
//! the `queue` until workers take them, at a `pace` of their own, and report to `works`. `knowledge` is the import; `ids`, `checks`
//! and `merge` are the platform's rules for it.

mod checks;
mod graphql;
mod ids;
mod knowledge;
mod merge;
mod options;
mod pace;
mod platform;
mod queue;
mod split;
mod version;
mod works;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Bytes;
use axum::http::header;
use serde_json::{Value, json};

pub use knowledge::{Entity, Knowledge, LostReference, MismatchedId, Rejected};
pub use options::{OpenctiOptions, Statistics, Workers};
pub use platform::{Connector, Platform, PushedBundle};
use version::Version;
pub use works::Work;

use crate::faults::Faults;
use crate::server::{self, Answer, Authorization, Request, RequestRecord, Server, Service, Settings, lock};

/// The server behind the socket.
pub(crate) struct Opencti {
    max_body_bytes: usize,
    proxy_limit_bytes: Option<usize>,
    schema: graphql::Schema,
    platform: Mutex<Platform>,
}

/// A running OpenCTI. Dropping it closes its port.
pub struct OpenctiSimulator {
    opencti: Arc<Opencti>,
    server: Server<Opencti>,
}

impl OpenctiSimulator {
    /// Starts on 127.0.0.1 and serves on the current tokio runtime.
    pub async fn start(options: OpenctiOptions) -> io::Result<Self> {
        let settings = Settings {
            port: options.port,
            latency: options.latency,
            gzip: options.gzip,
            record_bodies: options.record_bodies,
        };
        let version = Version::parse(&options.version)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "version"))?;
        let opencti = Arc::new(Opencti {
            max_body_bytes: options.max_body_bytes,
            proxy_limit_bytes: options.proxy_limit_bytes,
            schema: graphql::Schema::of(version),
            platform: Mutex::new(Platform::new(options, version)),
        });
        let server = Server::start(Arc::clone(&opencti), settings).await?;
        Ok(Self { opencti, server })
    }

    /// `http://127.0.0.1:port`
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The platform's connectors, works and knowledge, to be looked at or changed while it runs. Do not hold it over an
    /// `await`.
    pub fn platform(&self) -> MutexGuard<'_, Platform> {
        lock(&self.opencti.platform)
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.server.requests()
    }

    /// Calls by the name of the operation's root field.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u64> {
        self.server.calls()
    }

    /// Forgets counts and bodies; sequence numbers go on.
    pub fn clear_log(&self) {
        self.server.clear_log();
    }

    /// Its faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.server.faults()
    }

    /// The counters that `GET /_sim/stats` gives.
    #[must_use]
    pub fn stats(&self) -> Value {
        self.server.stats()
    }
}

/// A request as far as it could be read, or the answer to what could not.
pub(crate) struct Prepared(Result<Readable, Answer>);

struct Readable {
    body: Value,
    request: graphql::Request,
}

impl Opencti {
    fn read(&self, request: &Request) -> Result<Readable, Answer> {
        if request.path == "/health" {
            return Err(Answer::json(401, &json!({"status": "unauthorized"})));
        }
        match (request.path.ends_with("/graphql"), request.method.as_str()) {
            (true, "POST") => {}
            (false, "GET") => {
                return Err(Answer::html(200, "<!doctype html><html><title>OpenCTI</title></html>"));
            }
            _ => {
                let error = json!({"name": "MethodNotAllowedError", "message": "Method Not Allowed"});
                return Err(Answer::json(405, &error));
            }
        }
        let refuse = |error: &graphql::Error| Answer::json(error.status(), &error.answer());
        let is_json =
            request.header(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
        let sent = if is_json { self.inflate(request)? } else { Bytes::new() };
        let body: Value = match sent.as_ref() {
            [] => json!({}),
            sent => serde_json::from_slice(sent).map_err(|error| failure(&json_error(sent, &error)))?,
        };
        if body.as_object().is_none_or(serde_json::Map::is_empty) {
            let needed = "POST body missing, invalid Content-Type, or JSON object has no keys.";
            return Err(refuse(&graphql::Error::bad_request(needed)));
        }
        match graphql::Request::parse(&body, sent) {
            Ok(request) => Ok(Readable { body, request }),
            Err(error) => Err(refuse(&error)),
        }
    }

    fn inflate(&self, request: &Request) -> Result<Bytes, Answer> {
        if self.proxy_limit_bytes.is_some_and(|limit| request.body.len() > limit) {
            return Err(Answer::html(413, "<html><h1>413 Request Entity Too Large</h1></html>"));
        }
        let body = match request.header(header::CONTENT_ENCODING) {
            Some("gzip") => server::gunzip(&request.body, self.max_body_bytes)
                .map_err(|error| failure(&error.to_string()))?
                .into(),
            None | Some("identity") => request.body.clone(),
            Some(_) => return Err(failure("unsupported content encoding")),
        };
        if body.len() > self.max_body_bytes {
            return Err(failure("request entity too large"));
        }
        Ok(body)
    }
}

/// What Node.js says about a body that is not JSON, as far as it is known.
fn json_error(body: &[u8], error: &serde_json::Error) -> String {
    let text = String::from_utf8_lossy(body);
    let (line, column) = (error.line(), error.column());
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let position = (before + column).saturating_sub(1);
    match text.trim_start().chars().next() {
        Some('{' | '[') if error.is_eof() => "Unexpected end of JSON input".to_owned(),
        Some('{') if error.to_string().starts_with("key must be a string") => format!(
            "Expected property name or '}}' in JSON at position {position} (line {line} column {column})"
        ),
        Some('{' | '[') => {
            let token = text.get(position..).and_then(|rest| rest.chars().next()).unwrap_or_default();
            format!("Unexpected token '{token}', \"{text}\" is not valid JSON")
        }
        first => {
            let token = first.unwrap_or_default();
            format!("Unexpected token '{token}', \"{text}\" is not valid JSON")
        }
    }
}

/// How the platform fails outside of GraphQL.
fn failure(message: &str) -> Answer {
    Answer::json(500, &json!({"status": "error", "error": message}))
}

impl Service for Opencti {
    type Prepared = Prepared;

    fn prepare(&self, request: &Request) -> (String, Prepared) {
        let read = self.read(request);
        let label = match &read {
            Ok(readable) => readable.request.label(),
            Err(_) => format!("{} {}", request.method, request.path),
        };
        (label, Prepared(read))
    }

    fn endpoint(&self, label: &str) -> String {
        label.to_owned()
    }

    fn contains(&self, _: &Request, prepared: &Prepared, text: &str) -> bool {
        let Ok(readable) = &prepared.0 else { return false };
        let bundle = readable.body["variables"]["bundle"].as_str();
        bundle.is_some_and(|bundle| bundle.contains(text)) || readable.body.to_string().contains(text)
    }

    fn authorization(&self, request: &Request) -> Authorization {
        let token = request.header(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match token {
            None => Authorization::Missing,
            Some(token) if lock(&self.platform).knows_token(token) => Authorization::Valid,
            Some(_) => Authorization::Invalid,
        }
    }

    fn answer(&self, request: &Request, prepared: Prepared) -> Answer {
        let Readable { request: graphql_request, .. } = match prepared.0 {
            Ok(readable) => readable,
            Err(answer) => return answer,
        };
        let session = platform::Session {
            platform: &self.platform,
            authenticated: self.authorization(request) == Authorization::Valid,
        };
        // Every GraphQL answer is HTTP 200, errors as well.
        Answer::json(200, &graphql::run(&self.schema, &graphql_request, &session))
    }

    fn throttled(&self, _: u64) -> Value {
        json!({"message": "Too many requests, please try again later."})
    }

    fn control(&self, command: &str, body: &Value) -> Option<Value> {
        lock(&self.platform).control(command, body)
    }

    fn stats(&self) -> Value {
        lock(&self.platform).stats()
    }
}

#[cfg(test)]
mod tests;
