//! Reads one option at a time and remembers everything that is wrong.

use serde_json::{Map, Value};
use vmray::parameters;

use crate::api::{
    fault::{Fault, Faults, below, shown},
    words,
};

/// Every option by its name.
pub const NAMES: [&str; 10] = [
    "comment",
    "tags",
    "retention_days",
    "max_recursive_samples",
    "max_dynamic_analyses_per_sample",
    "reputation_lookups",
    "whois_lookups",
    "analysis_caching",
    "shareable",
    "force",
];

/// Where options stand in a body.
const POINTER: &str = "/options";

/// What other products call these options, their words in lower case with `_`.
const KNOWN_ELSEWHERE: [(&[&str], &str); 8] = [
    (&["data_retention", "retention", "retention_period"], "this is `retention_days` here"),
    (&["submission_comment", "comments"], "this is `comment` here"),
    (&["submission_tags", "labels"], "this is `tags` here"),
    (
        &["reputation_lookups_&_whois_lookups", "reputation_lookups_and_whois_lookups"],
        "these are `reputation_lookups` and `whois_lookups` here",
    ),
    (&["enable_reputation", "reputation", "reputation_mode"], "this is `reputation_lookups` here"),
    (&["enable_whois", "whois", "whois_mode"], "this is `whois_lookups` here"),
    (
        &["reanalyze", "reanalyse", "caching"],
        "expected `force` to send a known URL again, or `analysis_caching`",
    ),
    (
        &[
            "hostname",
            "vmray_api_key",
            "api_key",
            "objects_per_run",
            "enable_ssl_certificate_verification",
            "verify_ssl",
            "disable_proxies",
        ],
        "this is a setting of the deployment, not of a call",
    ),
];

/// Collects faults while options are read.
pub(super) struct OptionsReader<'a> {
    given: &'a Map<String, Value>,
    faults: Faults,
}

impl<'a> OptionsReader<'a> {
    pub(super) fn new(given: &'a Map<String, Value>) -> Self {
        let mut faults = Faults::default();
        for name in given.keys().filter(|name| !NAMES.contains(&name.as_str())) {
            faults.push(below(POINTER, name), unknown(name));
        }
        Self { given, faults }
    }

    /// An option that is a text, or that any scalar's text says. `None`: not given, or a fault was noted.
    pub(super) fn text<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = match self.given.get(name)? {
            Value::Null => return None,
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(boolean) => boolean.to_string(),
            Value::Array(_) | Value::Object(_) => {
                return self.fault(below(POINTER, name), "expected one value, not a list or an object");
            }
        };
        if text.is_empty() {
            return None;
        }
        parse(&text).map_or_else(|detail| self.fault(below(POINTER, name), detail), Some)
    }

    /// Tags as a list or joined with commas. An empty list takes the deployment's tags away.
    pub(super) fn tags(&mut self, name: &str) -> Option<Vec<String>> {
        let Some(Value::Array(items)) = self.given.get(name) else {
            return self.text(name, parameters::tags);
        };
        let pointer = below(POINTER, name);
        let mut tags = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match item
                .as_str()
                .map(str::trim)
                .map_or_else(|| Err("expected a text".to_owned()), parameters::tag)
            {
                Ok(tag) => tags.push(tag),
                Err(detail) => self.faults.push(format!("{pointer}/{index}"), detail),
            }
        }
        parameters::unique(tags).map_or_else(|detail| self.fault(pointer, detail), Some)
    }

    pub(super) fn finish(self) -> Result<(), Vec<Fault>> {
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.into_vec()) }
    }

    fn fault<T>(&mut self, pointer: String, detail: impl Into<String>) -> Option<T> {
        self.faults.push(pointer, detail);
        None
    }
}

/// A misspelt option must not become an analysis that the caller did not ask for.
fn unknown(name: &str) -> String {
    let plain = name.trim().to_lowercase().replace([' ', '-'], "_");
    let elsewhere = KNOWN_ELSEWHERE.iter().find(|(names, _)| names.contains(&plain.as_str()));
    if let Some((_, hint)) = elsewhere {
        return format!("unknown option `{}`; {hint}", shown(name));
    }
    match words::nearest(&plain, &NAMES) {
        Some(near) => format!("unknown option `{}`; did you mean `{near}`?", shown(name)),
        None => format!("unknown option `{}`; expected one of {}", shown(name), NAMES.join(", ")),
    }
}
