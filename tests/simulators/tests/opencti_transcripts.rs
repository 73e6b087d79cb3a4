//! The simulated OpenCTI answers as two real releases did: `fixtures/opencti` holds what these were asked and what they said.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use chrono::DateTime;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator, Statistics, Workers};

const TOKEN: &str = "the-token";

#[derive(Deserialize)]
struct Transcript {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(rename = "step")]
    name: String,
    request: Request,
    response: Response,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    token: String,
    query: Option<String>,
    /// As text: the platform's messages quote the members in the order in which they were sent.
    variables: Option<Box<RawValue>>,
    body: Option<String>,
    body_bytes: Option<usize>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Response {
    status: u16,
    content_type: String,
    body: Value,
}

impl Request {
    fn body(&self) -> String {
        match (&self.query, &self.body) {
            (Some(query), _) => {
                let variables = self.variables.as_ref().map_or("{}", |variables| variables.get());
                format!(r#"{{"query": {}, "variables": {variables}}}"#, json!(query))
            }
            (None, Some(body)) => self.body_bytes.map_or_else(|| body.clone(), |bytes| "x".repeat(bytes)),
            (None, None) => String::new(),
        }
    }

    async fn send(&self, opencti: &OpenctiSimulator, work: &Renamed) -> Response {
        let mut request = reqwest::Client::new()
            .request(self.method.parse().unwrap(), format!("{}{}", opencti.url(), self.path));
        match self.token.as_str() {
            "valid" => request = request.bearer_auth(TOKEN),
            "wrong" => request = request.bearer_auth("another"),
            _ => {}
        }
        let header = |name: &str| self.headers.get(name).map(String::as_str);
        let mut body = work.in_place(&self.body()).into_bytes();
        if let Some(encoding) = header("Content-Encoding") {
            request = request.header("content-encoding", encoding);
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body).unwrap();
            body = encoder.finish().unwrap();
        }
        request = request.header("content-type", header("Content-Type").unwrap_or("application/json"));
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status().as_u16();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        Response { status, content_type, body: serde_json::from_str(&text).unwrap_or_else(|_| json!(text)) }
    }
}

/// The work that was made under another id than on the recorded platform.
#[derive(Default)]
struct Renamed(Option<(String, String)>);

impl Renamed {
    fn learn(&mut self, recorded: &Value, ours: &Value) {
        let id = |body: &Value| body["data"]["workAdd"]["id"].as_str().map(str::to_owned);
        self.0 = id(recorded).zip(id(ours)).or_else(|| self.0.take());
    }

    fn in_place(&self, body: &str) -> String {
        match &self.0 {
            Some((recorded, ours)) => body.replace(recorded, ours),
            None => body.to_owned(),
        }
    }
}

/// A response without what an installation makes up.
fn comparable(response: Response) -> Response {
    let is_page = response.content_type.starts_with("text/html");
    let body = if is_page { json!("a page") } else { plain(response.body) };
    Response { body, ..response }
}

fn plain(value: Value) -> Value {
    match value {
        Value::String(text) => match serde_json::from_str::<Value>(&text) {
            // The source of an error: a worker prints it in Python's way.
            Ok(object @ Value::Object(_)) => object,
            _ => json!(without_times(&text)),
        },
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(members) => {
            let is_marking = members.contains_key("standard_id");
            let member = |(name, value): (String, Value)| {
                let value = match name.as_str() {
                    "id" if is_marking => json!("an id"),
                    "capabilities" | "allowed_marking" => sorted(&plain(value)),
                    _ => plain(value),
                };
                (name, value)
            };
            members.into_iter().map(member).collect()
        }
        other => other,
    }
}

fn sorted(list: &Value) -> Value {
    let mut items = list.as_array().unwrap().clone();
    items.sort_by_key(Value::to_string);
    Value::Array(items)
}

/// Times stand alone, at the end of a work's name and at the end of its id.
fn without_times(text: &str) -> String {
    let start = text.rfind([' ', '_']).map_or(0, |at| at + 1);
    match DateTime::parse_from_rfc3339(&text[start..]) {
        Ok(_) => format!("{}a time", &text[..start]),
        Err(_) => text.to_owned(),
    }
}

async fn replay(transcript: &str, version: &str) {
    let transcript: Transcript = serde_json::from_str(transcript).unwrap();
    assert_eq!(transcript.steps.len(), 55);
    let options = OpenctiOptions {
        tokens: vec![TOKEN.to_owned()],
        version: version.to_owned(),
        workers: Workers::Held,
        statistics: Statistics::Collected,
        record_bodies: false,
        ..OpenctiOptions::default()
    };
    let opencti = OpenctiSimulator::start(options).await.unwrap();
    let mut work = Renamed::default();
    for step in transcript.steps {
        if step.name.contains("imported") || step.name.contains("with errors") {
            opencti.platform().import_all();
        }
        let answer = step.request.send(&opencti, &work).await;
        work.learn(&step.response.body, &answer.body);
        if step.response.body["error"].as_str().is_some_and(|error| error.contains("page was not built")) {
            assert_eq!(answer.content_type, "text/html; charset=utf-8", "a whole installation has a page");
            continue;
        }
        assert_eq!(comparable(answer), comparable(step.response), "{version}: {}", step.name);
    }
}

#[tokio::test]
async fn it_answers_as_6_9_0_did() {
    replay(include_str!("../fixtures/opencti/6.9.0.json"), "6.9.0").await;
}

#[tokio::test]
async fn it_answers_as_the_later_release_did() {
    replay(include_str!("../fixtures/opencti/7.260817.0.json"), "7.260817.0").await;
}
