//! Query strings, and the filters, ranges and limits of a list in them.

use chrono::NaiveDateTime;
use serde_json::Value;

use super::answers;
use super::search::Search;
use crate::estate::Estate;
use crate::server::Answer;

/// The query of a list, parsed.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) limit: Option<usize>,
    pub(super) descending: bool,
    pub(super) min_id: Option<u64>,
    pub(super) max_id: Option<u64>,
    pub(super) last_id: Option<u64>,
    pub(super) count: bool,
    pub(super) search: Option<Search>,
    pub(super) metadata: Option<String>,
    pub(super) filters: Vec<(String, Filter)>,
}

#[derive(Debug)]
pub(super) enum Filter {
    Equal(String),
    Range(NaiveDateTime, NaiveDateTime),
}

pub(super) const METADATA: &str = "submission_submission_metadata";
/// Fields in which a tilde is only a tilde.
const FREE_TEXTS: [&str; 5] =
    [METADATA, "submission_comment", "submission_filename", "submission_original_url", "submission_tags"];

/// The pairs of a query string.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

/// Percent-decoding, `+` as a space.
pub(super) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    pub(super) fn parse(query: &str) -> Result<Self, Answer> {
        let mut parsed = Self::default();
        for (name, value) in pairs(query) {
            match name.as_str() {
                "_limit" => parsed.limit = Some(number(&name, &value)?),
                "_min_id" => parsed.min_id = Some(number(&name, &value)?),
                "_max_id" => parsed.max_id = Some(number(&name, &value)?),
                "_last_id" => parsed.last_id = Some(number(&name, &value)?),
                "_order" => parsed.descending = value == "desc",
                "_count" => parsed.count = value.eq_ignore_ascii_case("true"),
                _ => parsed.filter(name, &value)?,
            }
        }
        Ok(parsed)
    }

    /// The query of a search: `query` beside what every list knows.
    pub(super) fn parse_search(query: &str) -> Result<Self, Answer> {
        let is_search = |pair: &&str| pair.split('=').next() == Some("query");
        let rest: Vec<&str> = query.split('&').filter(|pair| !is_search(pair)).collect();
        let mut parsed = Self::parse(&rest.join("&"))?;
        let (_, text) =
            pairs(query).into_iter().find(|(name, _)| name == "query").ok_or_else(|| invalid("query"))?;
        parsed.search = Some(Search::parse(&text)?);
        Ok(parsed)
    }

    /// Whether the search, if there is one, finds a row.
    pub(super) fn finds(&self, estate: &Estate, row: &Value) -> bool {
        self.search.as_ref().is_none_or(|search| {
            let sample = row["submission_sample_id"].as_u64().and_then(|id| estate.sample_spec(id));
            search.fits(row, sample.as_ref().map_or(&[], |sample| sample.threat_names.as_slice()))
        })
    }

    /// Adds a filter by field: equality, or a range `a~b` of times.
    pub(super) fn filter(&mut self, field: String, value: &str) -> Result<(), Answer> {
        let filter = match value.split_once('~').filter(|_| !FREE_TEXTS.contains(&field.as_str())) {
            None => Filter::Equal(value.to_owned()),
            Some((from, to)) => match (from.parse(), to.parse()) {
                (Ok(from), Ok(to)) => Filter::Range(from, to),
                _ => return Err(invalid(&field)),
            },
        };
        self.filters.push((field, filter));
        Ok(())
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Answer> {
    value.parse().map_err(|_| invalid(name))
}

pub(super) fn invalid(name: &str) -> Answer {
    answers::error(400, &format!("Invalid value for parameter {name}"))
}
