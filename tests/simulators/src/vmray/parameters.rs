//! What a submit request says: from its query, a form or a multipart body, all of them together; and what VMRay
//! refuses of it.

use std::collections::BTreeMap;

use axum::http::header;
use serde_json::{Map, Value, json};

use super::submit::MetadataEcho;
use super::{answers, query};
use crate::server::{Answer, Request};

/// What was sent, by name.
pub(super) type Parameters = BTreeMap<String, String>;

/// Days; 0 keeps for ever.
const RETENTION_PERIODS: [&str; 5] = ["0", "60", "120", "180", "360"];
const ANALYZER_MODES: [&str; 6] = [
    "reputation",
    "reputation_static",
    "reputation_static_dynamic",
    "static_dynamic",
    "static",
    "system_default",
];
const CACHING: [&str; 5] = ["disabled", "enabled", "smart", "legacy", "system_default"];
const SWITCHES: [&str; 7] = [
    "enable_reputation",
    "enable_whois",
    "enable_triage",
    "known_benign",
    "known_malicious",
    "reanalyze",
    "shareable",
];
const TAG_SIGNS: &str = "_.!?;:+-–=/$@%^&)(#\\'";
const LONGEST_TAG: usize = 255;

/// Reads all parameters; the body wins over the query.
pub(super) fn read(request: &Request) -> Parameters {
    let mut parameters: Parameters = query::pairs(&request.query).into_iter().collect();
    let kind = request.header(header::CONTENT_TYPE).unwrap_or_default();
    let body = String::from_utf8_lossy(&request.body);
    if kind.starts_with("application/x-www-form-urlencoded") {
        parameters.extend(query::pairs(&body));
    } else if let Some(boundary) = boundary(kind) {
        parameters.extend(body.split(&format!("--{boundary}")).filter_map(part));
    }
    parameters
}

fn boundary(kind: &str) -> Option<&str> {
    let rest = kind.strip_prefix("multipart/form-data")?;
    rest.split(';').find_map(|text| text.trim().strip_prefix("boundary=")).map(|text| text.trim_matches('"'))
}

/// Name and value of one part of a multipart body.
fn part(text: &str) -> Option<(String, String)> {
    let (head, value) = text.split_once("\r\n\r\n")?;
    let (_, name) = head.split_once("; name=\"")?;
    let (name, _) = name.split_once('"')?;
    Some((name.to_owned(), value.strip_suffix("\r\n").unwrap_or(value).to_owned()))
}

/// Refuses what VMRay refuses.
pub(super) fn check(parameters: &Parameters) -> Result<(), Answer> {
    let url = parameters.get("sample_url").map_or("", String::as_str);
    if url.is_empty() {
        return Err(answers::error(400, "Missing parameter"));
    }
    match parameters.iter().find(|(name, value)| !is_valid(name, value)) {
        Some((name, _)) => Err(query::invalid(name)),
        None => Ok(()),
    }
}

fn is_valid(name: &str, value: &str) -> bool {
    match name {
        "sample_url" => !value.starts_with(|first: char| first.is_control() || first.is_whitespace()),
        "tags" => value.split(',').all(is_tag),
        "retention_period" => RETENTION_PERIODS.contains(&value),
        "max_jobs" => value.parse::<u32>().is_ok(),
        "max_recursive_samples" => value == "system_default" || value.parse().is_ok_and(|n: u8| n <= 50),
        "max_dynamic_analyses_per_sample" => {
            ["default", "system_default"].contains(&value) || value.parse().is_ok_and(|n: u8| n <= 10)
        }
        "analyzer_mode" => ANALYZER_MODES.contains(&value),
        "analysis_caching" => CACHING.contains(&value),
        "submission_metadata" => serde_json::from_str::<Map<String, Value>>(value).is_ok(),
        _ if SWITCHES.contains(&name) => switch(value).is_some(),
        _ => true,
    }
}

fn is_tag(tag: &str) -> bool {
    let fits = |sign: char| sign.is_alphabetic() || sign.is_ascii_digit() || TAG_SIGNS.contains(sign);
    !tag.is_empty() && tag.chars().count() <= LONGEST_TAG && tag.chars().all(fits)
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "True" | "true" => Some(true),
        "False" | "false" => Some(false),
        _ => None,
    }
}

/// Whether a switch is on.
pub(super) fn is_on(parameters: &Parameters, name: &str) -> bool {
    parameters.get(name).and_then(|value| switch(value)) == Some(true)
}

/// The members of a submission that repeat what was asked for.
pub(super) fn echo(parameters: &Parameters, metadata: MetadataEcho) -> Value {
    let url = &parameters["sample_url"];
    let tags: Vec<&str> = parameters.get("tags").map(|tags| tags.split(',').collect()).unwrap_or_default();
    let mut echo = json!({
        "submission_filename": url,
        "submission_original_filename": url,
        "submission_original_url": url,
        "submission_tags": tags,
        "submission_comment": parameters.get("comment"),
        "submission_submission_metadata": echoed(parameters.get("submission_metadata"), metadata),
        "submission_shareable": is_on(parameters, "shareable"),
    });
    if let Some(days) = parameters.get("retention_period").and_then(|days| days.parse::<u64>().ok()) {
        echo["submission_retention_period"] = json!(days);
    }
    // Texts, also where they look like numbers.
    for name in
        ["analysis_caching", "analyzer_mode", "max_recursive_samples", "max_dynamic_analyses_per_sample"]
    {
        if let Some(value) = parameters.get(name) {
            echo[format!("submission_analyzer_mode_{name}")] = json!(value);
        }
    }
    for name in ["enable_reputation", "enable_whois", "known_benign", "known_malicious"] {
        if parameters.contains_key(name) {
            echo[format!("submission_analyzer_mode_{name}")] = json!(is_on(parameters, name));
        }
    }
    echo
}

fn echoed(metadata: Option<&String>, echo: MetadataEcho) -> String {
    match (metadata, echo) {
        (None, _) | (_, MetadataEcho::Dropped) => "{}".to_owned(),
        (Some(text), MetadataEcho::AsSent) => text.clone(),
        (Some(text), MetadataEcho::Respaced) => respaced(text),
    }
}

/// JSON with a space after each colon and comma, as Python writes it; the order of members stays.
fn respaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let (mut quoted, mut escaped) = (false, false);
    for sign in text.chars() {
        if !quoted && sign.is_whitespace() {
            continue;
        }
        out.push(sign);
        if !quoted && matches!(sign, ':' | ',') {
            out.push(' ');
        }
        quoted ^= sign == '"' && !escaped;
        escaped = sign == '\\' && !escaped;
    }
    out
}
