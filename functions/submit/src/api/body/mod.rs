//! What a request body may look like, and what it asks for.
//!
//! Every caller's way to say "these URLs" ends as the same [`RequestBody`]. Whether a text is a URL that may leave is not
//! decided here, nor whether the options are right: a body is wrong only when it cannot be understood.
//!
//! A body is never built as a tree: a few megabytes of JSON can be half a gigabyte of nodes.

use serde_json::Map;

use super::fault::Fault;
use crate::calls::{Input, Value};
use crate::ledger::batch::InputId as Id;

mod entry;
mod form;
mod intake;
mod json;
mod stix;
mod text;

/// What a call asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestBody {
    /// What was sent, in its order.
    pub inputs: Vec<Input>,
    /// The options as given, unchecked.
    pub options: Map<String, serde_json::Value>,
}

/// How much one call may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Inputs of one call, also those that are no URLs.
    pub max_urls: usize,
    /// Bytes of the body.
    pub max_bytes: usize,
    /// Lists and objects inside each other.
    pub max_depth: usize,
}

/// Why a body is refused as a whole. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Nothing but blanks.
    #[error("the body is empty; expected JSON such as {{\"urls\": [\"https://..\"]}}, or one URL a line")]
    Empty,
    /// More bytes than allowed.
    #[error("the body has more than {limit} bytes; send the URLs in several calls")]
    TooLarge {
        /// Bytes that are allowed.
        limit: usize,
    },
    /// Not the only encoding there is here.
    #[error("the body is not UTF-8 at byte {at}")]
    InvalidUtf8 {
        /// The first wrong byte, from 0.
        at: usize,
    },
    /// Meant to be JSON, or nothing known.
    #[error(
        "the body is not JSON at line {line}, column {column} (single quotes, True, False and None are Python's), and no list of URLs"
    )]
    NotJson {
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 for the line's beginning.
        column: usize,
    },
    /// JSON nested deeper than anything that is read here.
    #[error("the body's JSON is nested deeper than {limit} levels")]
    TooDeep {
        /// Levels that are allowed.
        limit: usize,
    },
    /// More inputs than one call may bring.
    #[error("the body has more than {limit} URLs; send them in several calls")]
    TooManyUrls {
        /// Inputs that are allowed.
        limit: usize,
    },
    /// JSON, but not what is expected: everything that is wrong, the first faults told one by one.
    #[error("the body cannot be understood: {}", first(.0))]
    Wrong(Vec<Fault>),
    /// A content type that is not read here.
    #[error("the content type `{0}` is not read; expected application/json, text/plain or text/csv")]
    UnsupportedMediaType(String),
}

fn first(faults: &[Fault]) -> String {
    faults
        .first()
        .map_or_else(String::new, |fault| format!("{} {}", fault.pointer, fault.detail).trim().to_owned())
}

/// How a body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    /// One URL a line, or joined with commas.
    List,
    /// Nothing was said.
    Unsaid,
    /// What curl says unless it is told otherwise.
    Form,
}

/// Reads a body in any of the shapes that callers have for a collection of URLs.
///
/// JSON is known by its beginning, whatever the content type says: half of the callers cannot set one, or set a
/// wrong one.
pub fn parse(content_type: Option<&str>, bytes: &[u8], limits: BodyLimits) -> Result<RequestBody, BodyError> {
    let format = Format::of(content_type)?;
    if bytes.len() > limits.max_bytes {
        return Err(BodyError::TooLarge { limit: limits.max_bytes });
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| BodyError::InvalidUtf8 { at: error.valid_up_to() })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(BodyError::Empty);
    }
    match format {
        Format::Json => json::read(text, limits),
        _ if json::is_meant(text) => json::read(text, limits),
        Format::List => text::read(text, limits),
        Format::Form => form::read(text, limits),
        Format::Unsaid if text::looks_like_urls(text) => text::read(text, limits),
        // For the place where it stops to be JSON.
        Format::Unsaid => json::read(text, limits),
    }
}

impl Format {
    fn of(content_type: Option<&str>) -> Result<Self, BodyError> {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "" | "*/*" | "application/octet-stream" => Ok(Self::Unsaid),
            "application/json" | "text/json" | "application/x-json" => Ok(Self::Json),
            suffixed if suffixed.starts_with("application/") && suffixed.ends_with("+json") => Ok(Self::Json),
            "text/plain" | "text/csv" | "application/csv" => Ok(Self::List),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            _ => Err(BodyError::UnsupportedMediaType(super::fault::shown(&essence).to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
