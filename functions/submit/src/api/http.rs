//! A request and its answer, independent of what carries them: an HTTP API of AWS or a socket.

use serde::Serialize;

#[derive(Clone, Default)]
pub struct Request {
    /// In capitals.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// As it came, without `?`.
    pub query: String,
    /// Names in small letters; a name may occur more than once.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Request {
    /// Headers hold keys, query and body hold URLs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Request {
    /// The first header of this name, given in small letters.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// All headers of this name, given in small letters.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How many bytes the body has by the request's own word; `None`: it does not say.
    #[must_use]
    pub fn announced_bytes(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The decoded pairs of the query.
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        ::url::form_urlencoded::parse(self.query.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
    }
}

/// A header's value. One that is no text must be refused by what reads it: left out, it would be missed.
#[must_use]
pub fn text_of_header(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(&'static str, String)>,
    /// Text: everything this API says is JSON.
    pub body: String,
}

/// What is JSON and no problem document.
const JSON: &str = "application/json";

impl Response {
    /// An answer of this content type, not to be cached on the way.
    #[must_use]
    pub fn new(status: u16, content_type: &str, body: String) -> Self {
        let headers = vec![
            ("content-type", content_type.to_owned()),
            ("cache-control", "no-store".to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
        ];
        Self { status, headers, body }
    }

    /// A JSON answer. What cannot be written as JSON does not exist here.
    #[must_use]
    pub fn json(status: u16, body: &impl Serialize) -> Self {
        Self::new(status, JSON, serde_json::to_string(body).unwrap_or_default())
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
