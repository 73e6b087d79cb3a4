//! HTTP requests as API Gateway's HTTP API hands them to a function (payload format 2.0), and the answers that it reads.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use serde_json::{Value, json};

const DOMAIN: &str = "bridge.execute-api.us-east-1.amazonaws.com";

/// A request to the API.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Option<Vec<u8>>,
    base64: bool,
    source_ip: String,
}

impl HttpRequest {
    /// A request without a body. The path may have a query.
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = [("host", DOMAIN), ("user-agent", "playbook/1.0"), ("x-forwarded-proto", "https")];
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            body: None,
            base64: false,
            source_ip: "203.0.113.9".to_owned(),
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST of JSON.
    #[must_use]
    pub fn post(target: &str, body: &Value) -> Self {
        Self::new("POST", target).header("content-type", "application/json").body(body.to_string())
    }

    /// Adds a header; one that is there is joined by a comma, as API Gateway does.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let joined = self.headers.entry(name.to_ascii_lowercase()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Has the body come in base64, as API Gateway sends what it takes for binary. A body that is no text always does.
    #[must_use]
    pub fn base64(mut self) -> Self {
        self.base64 = true;
        self
    }

    /// Sets the caller's address.
    #[must_use]
    pub fn from_ip(mut self, address: &str) -> Self {
        address.clone_into(&mut self.source_ip);
        self
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> Value {
        let now = Utc::now();
        let mut event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": self.path,
            "rawQueryString": self.query,
            "headers": self.headers,
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "bridge",
                "domainName": DOMAIN,
                "domainPrefix": "bridge",
                "http": {
                    "method": self.method,
                    "path": self.path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": self.source_ip,
                    "userAgent": self.headers.get("user-agent"),
                },
                "requestId": uuid::Uuid::new_v4().to_string(),
                "routeKey": "$default",
                "stage": "$default",
                "time": now.format("%d/%b/%Y:%H:%M:%S %z").to_string(),
                "timeEpoch": now.timestamp_millis(),
            },
            "isBase64Encoded": false,
        });
        let parameters = self.parameters();
        if !parameters.is_empty() {
            event["queryStringParameters"] = json!(parameters);
        }
        if let Some(body) = &self.body {
            let text = std::str::from_utf8(body).ok().filter(|_| !self.base64);
            event["isBase64Encoded"] = text.is_none().into();
            event["body"] = text.map_or_else(|| STANDARD.encode(body), str::to_owned).into();
        }
        event
    }

    /// The query, decoded; several values of one name are joined by commas.
    fn parameters(&self) -> BTreeMap<String, String> {
        let mut parameters = BTreeMap::<String, String>::new();
        for (name, value) in url::form_urlencoded::parse(self.query.as_bytes()) {
            let joined = parameters.entry(name.into_owned());
            joined.and_modify(|all| *all = format!("{all},{value}")).or_insert_with(|| value.into_owned());
        }
        parameters
    }
}

/// An answer of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The HTTP status.
    pub status: u16,
    /// Headers, their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// Reads what a function has answered; what API Gateway would not take fails the test.
    #[must_use]
    pub fn read(answer: &Value) -> Self {
        let status = answer["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP answer: {answer}"));
        let mut headers = BTreeMap::new();
        for (name, value) in answer["headers"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_else(|| panic!("the header {name} is no text: {answer}"));
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let body = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true {
            STANDARD.decode(body).expect("a body in base64")
        } else {
            body.as_bytes().to_vec()
        };
        Self { status, headers, body }
    }

    /// The body, which must be JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_an_event_of_format_2() {
        let event = HttpRequest::post("/v1/submissions?wait=5&ids=a&ids=b%20c", &json!({"urls": []}))
            .header("X-Api-Key", "k")
            .event();
        assert_eq!(event["rawPath"], "/v1/submissions");
        assert_eq!(event["rawQueryString"], "wait=5&ids=a&ids=b%20c");
        assert_eq!(event["queryStringParameters"], json!({"wait": "5", "ids": "a,b c"}));
        assert_eq!((&event["headers"]["x-api-key"], &event["body"]), (&json!("k"), &json!("{\"urls\":[]}")));
        assert_eq!(event["requestContext"]["http"]["method"], "POST");
        assert!(HttpRequest::get("/health").event().get("body").is_none());
    }

    #[test]
    fn bodies_come_and_go_in_base64() {
        let event = HttpRequest::new("POST", "/").body("text").base64().event();
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("dGV4dA=="), &json!(true)));
        assert_eq!(HttpRequest::new("POST", "/").body([0xff]).event()["isBase64Encoded"], true);
        let answer = json!({"statusCode": 200, "headers": {"Content-Type": "text/plain"}, "body": "dGV4dA==",
                            "isBase64Encoded": true});
        let answer = HttpResponse::read(&answer);
        assert_eq!(
            (answer.body.as_slice(), answer.headers["content-type"].as_str()),
            (&b"text"[..], "text/plain")
        );
    }
}
