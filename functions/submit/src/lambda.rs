//! Lambda's events and answers: a request of an HTTP API (payload version 2), or messages of SQS. Nothing in here decides
//! anything.

use aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use aws_lambda_events::sqs::SqsEvent;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::api::http::{Request, Response, text_of_header};
use crate::queue::Message;

#[derive(Debug)]
pub enum Event {
    /// For the API.
    Request(Request),
    /// For the worker.
    Messages(Vec<Record>),
}

/// A message of the queue with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Names the message to SQS when it could not be worked on.
    pub id: String,
    /// What it says; `Err`: it cannot be read.
    pub message: Result<Message, String>,
}

/// The event is for neither.
#[derive(Debug, thiserror::Error)]
#[error("the event is no request of an HTTP API (payload version 2) and no messages of SQS: {0}")]
pub struct UnknownEvent(String);

/// Which of both it is.
#[derive(Deserialize)]
struct Outline {
    #[serde(rename = "Records")]
    records: Option<IgnoredAny>,
    #[serde(rename = "requestContext")]
    request_context: Option<IgnoredAny>,
}

impl Event {
    pub fn parse(event: &RawValue) -> Result<Self, UnknownEvent> {
        let unknown = |error: serde_json::Error| {
            // serde's text may quote the body.
            UnknownEvent(format!(
                "{:?} error at line {}, column {}",
                error.classify(),
                error.line(),
                error.column()
            ))
        };
        let outline: Outline = serde_json::from_str(event.get()).map_err(unknown)?;
        if outline.records.is_some() {
            let event: SqsEvent = serde_json::from_str(event.get()).map_err(unknown)?;
            return Ok(Self::Messages(event.records.into_iter().map(record).collect()));
        }
        if outline.request_context.is_some() {
            let event: ApiGatewayV2httpRequest = serde_json::from_str(event.get()).map_err(unknown)?;
            return Ok(Self::Request(request(event)));
        }
        Err(UnknownEvent("it has neither `requestContext` nor `Records`".to_owned()))
    }
}

fn record(record: aws_lambda_events::sqs::SqsMessage) -> Record {
    let body = record.body.unwrap_or_default();
    let message = serde_json::from_str(&body).map_err(|error| error.to_string());
    Record { id: record.message_id.unwrap_or_default(), message }
}

fn request(event: ApiGatewayV2httpRequest) -> Request {
    let body = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded {
        // What is not Base64 is not a body that can be read either: parsing refuses it.
        BASE64_STANDARD.decode(&body).unwrap_or_else(|_| body.into_bytes())
    } else {
        body.into_bytes()
    };
    let stage = event.request_context.stage.unwrap_or_default();
    let path = event.raw_path.unwrap_or_default();
    Request {
        method: event.request_context.http.method.as_str().to_ascii_uppercase(),
        path: without_stage(&path, &stage).to_owned(),
        query: event.raw_query_string.unwrap_or_default(),
        headers: event
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), text_of_header(value.as_bytes())))
            .collect(),
        body,
    }
}

/// A stage with a name stands before the path.
fn without_stage<'a>(path: &'a str, stage: &str) -> &'a str {
    if stage.is_empty() || stage == "$default" {
        return path;
    }
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(stage));
    rest.filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

/// The answer that an HTTP API expects.
#[must_use]
pub fn response(response: Response) -> Value {
    let headers: serde_json::Map<_, _> =
        response.headers.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    json!({"statusCode": response.status, "headers": headers, "body": response.body, "isBase64Encoded": false})
}

/// The answer that SQS expects: which messages have to come again.
#[must_use]
pub fn failures(ids: &[String]) -> Value {
    let failures: Vec<_> = ids.iter().map(|id| json!({"itemIdentifier": id})).collect();
    json!({"batchItemFailures": failures})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(event: &Value) -> Result<Event, UnknownEvent> {
        Event::parse(&serde_json::value::to_raw_value(event).unwrap())
    }

    fn gateway(path: &str, stage: &str) -> Value {
        json!({
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "wait=0",
            "headers": {"Content-Type": "application/json", "x-api-key": "k"},
            "requestContext": {"stage": stage, "http": {"method": "post", "path": path, "sourceIp": "203.0.113.1"}},
            "body": "eyJ1cmwiOiJhIn0=", "isBase64Encoded": true
        })
    }

    #[test]
    fn a_request_is_read_with_its_body_decoded_and_without_the_stage() {
        for (path, stage) in [("/v1/check", "$default"), ("/prod/v1/check", "prod")] {
            let Ok(Event::Request(request)) = parse(&gateway(path, stage)) else { panic!("{path}") };
            assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/check"));
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!(request.body, br#"{"url":"a"}"#);
            assert_eq!(request.query, "wait=0");
        }
    }

    #[test]
    fn a_header_outside_ascii_is_not_missed() {
        let mut event = gateway("/v1/submissions", "$default");
        event["headers"]["Idempotency-Key"] = json!("l\u{e4}uft");
        let Ok(Event::Request(request)) = parse(&event) else { panic!() };
        assert_eq!(request.header("idempotency-key"), Some("l\u{e4}uft"));
    }

    #[test]
    fn messages_are_read_one_by_one_and_a_strange_one_does_not_hide_the_others() {
        let event = json!({"Records": [
            {"messageId": "1", "eventSource": "aws:sqs", "body": "{\"kind\":\"guard\",\"batch\":\"b\"}"},
            {"messageId": "2", "eventSource": "aws:sqs", "body": "hello"},
        ]});
        let Ok(Event::Messages(records)) = parse(&event) else { panic!() };
        assert_eq!(
            records[0],
            Record { id: "1".to_owned(), message: Ok(Message::Guard { batch: "b".to_owned() }) }
        );
        assert!(records[1].id == "2" && records[1].message.is_err());
    }

    #[test]
    fn anything_else_is_refused_without_being_quoted() {
        for event in [json!({"hello": "s3cret"}), json!([]), json!({"Records": "s3cret"})] {
            let error = parse(&event).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
