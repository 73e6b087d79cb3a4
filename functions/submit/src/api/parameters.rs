//! What stands in a query or a header: read strictly, since a misspelt parameter is a misunderstanding.

use std::collections::HashSet;
use std::time::Duration;

use super::answer::{DEFAULT_LIMIT, ResultPage};
use super::fault::shown;
use super::http::Request;
use super::problem::{Problem, ProblemKind};

/// Seconds that an answer may be waited for: an HTTP API of AWS ends requests after 30 s.
pub const LONGEST_WAIT: u64 = 25;

/// Seconds unless the call says how many: products give up after 10 s or more.
pub const DEFAULT_WAIT: u64 = 8;

/// The most results in one answer.
pub const MOST_RESULTS: usize = 10_000;

/// Batches in one call.
pub const MOST_BATCHES: usize = 50;

/// The longest idempotency key.
pub const LONGEST_KEY: usize = 255;

fn wrong(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidParameter, detail)
}

fn unknown(name: &str, known: &str) -> Problem {
    wrong(format!("the query parameter `{}` is not known here; expected {known}", shown(name)))
}

/// The pairs of the query. A name given twice is a misunderstanding, whichever value was meant.
fn pairs(request: &Request) -> Result<Vec<(String, String)>, Problem> {
    let pairs: Vec<_> = request.query_pairs().collect();
    let mut names = HashSet::new();
    match pairs.iter().find(|(name, _)| !names.insert(name)) {
        Some((name, _)) => Err(wrong(format!("the query parameter `{}` is given twice", shown(name)))),
        None => Ok(pairs),
    }
}

/// Whether this can be the number of a batch.
pub(super) fn is_batch_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// `?wait=seconds`, else `Prefer: wait=seconds` or `respond-async`, else 8 s.
pub(super) fn wait(request: &Request) -> Result<Duration, Problem> {
    let mut seconds = None;
    for (name, value) in pairs(request)? {
        if name != "wait" {
            return Err(unknown(&name, "wait"));
        }
        let given: Option<u64> = value.trim().parse().ok().filter(|seconds| *seconds <= LONGEST_WAIT);
        seconds = Some(
            given.ok_or_else(|| wrong(format!("`wait` is a number of seconds from 0 to {LONGEST_WAIT}")))?,
        );
    }
    let seconds = seconds.or_else(|| preferred_wait(request.header("prefer")?)).unwrap_or(DEFAULT_WAIT);
    Ok(Duration::from_secs(seconds))
}

/// A preference (RFC 7240) is not an order: one that cannot be met is met as far as possible, and one that is not
/// understood is passed over.
fn preferred_wait(header: &str) -> Option<u64> {
    let mut wait = None;
    for preference in header.split([',', ';']).map(str::trim) {
        if preference.eq_ignore_ascii_case("respond-async") {
            wait = wait.or(Some(0));
        } else if let Some((name, value)) = preference.split_once('=')
            && name.trim().eq_ignore_ascii_case("wait")
            && let Ok(seconds) = value.trim().trim_matches('"').parse::<u64>()
        {
            wait = Some(seconds.min(LONGEST_WAIT));
        }
    }
    wait
}

/// `Idempotency-Key`, if there is one.
pub(super) fn idempotency_key(request: &Request) -> Result<Option<String>, Problem> {
    let mut keys = request.headers_named("idempotency-key").map(str::trim);
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.any(|other| other != key) {
        return Err(wrong("`Idempotency-Key` is given twice"));
    }
    if key.is_empty()
        || key.len() > LONGEST_KEY
        || !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    {
        return Err(wrong(format!("`Idempotency-Key` is 1 to {LONGEST_KEY} printable ASCII characters")));
    }
    Ok(Some(key.to_owned()))
}

/// Which part of a batch is asked for, and of which batches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) page: ResultPage,
    pub(super) ids: Option<Vec<String>>,
}

/// `limit`, `cursor`, `fields`, and `ids` where several batches may be asked for.
pub(super) fn selection(request: &Request, several: bool) -> Result<Selection, Problem> {
    let known = if several { "ids, limit and fields" } else { "limit, cursor and fields" };
    let (mut start, mut limit, mut summary, mut ids) = (0, DEFAULT_LIMIT, false, None);
    for (name, value) in pairs(request)? {
        let value = value.trim();
        match name.as_str() {
            "limit" => {
                let given = value.parse().ok().filter(|limit| (1..=MOST_RESULTS).contains(limit));
                limit =
                    given.ok_or_else(|| wrong(format!("`limit` is a number from 1 to {MOST_RESULTS}")))?;
            }
            "cursor" if !several => {
                start = value.parse().map_err(|_| wrong("`cursor` is the `next_cursor` of an answer"))?;
            }
            "fields" => {
                summary = match value {
                    "summary" => true,
                    "all" => false,
                    _ => return Err(wrong("`fields` is `summary` or `all`")),
                };
            }
            "ids" if several => ids = Some(batch_ids(value)?),
            _ => return Err(unknown(&name, known)),
        }
    }
    let page = ResultPage { start, limit: (!summary).then_some(limit), ..ResultPage::FIRST };
    Ok(Selection { page, ids })
}

fn batch_ids(list: &str) -> Result<Vec<String>, Problem> {
    let mut ids: Vec<String> = Vec::new();
    for id in list.split(',').map(str::trim).filter(|id| !id.is_empty()) {
        if !ids.iter().any(|known| known == id) {
            ids.push(id.to_owned());
        }
    }
    if ids.is_empty() || ids.len() > MOST_BATCHES {
        return Err(wrong(format!("`ids` is a list of 1 to {MOST_BATCHES} batches with commas")));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(query: &str) -> Request {
        Request { query: query.to_owned(), ..Request::default() }
    }

    fn prefer(value: &str) -> Request {
        Request { headers: vec![("prefer".to_owned(), value.to_owned())], ..Request::default() }
    }

    #[test]
    fn a_wait_is_0_to_25_seconds_and_8_unless_the_call_says_so() {
        let seconds = |request: &Request| wait(request).map(|wait| wait.as_secs());
        assert_eq!(seconds(&query("")), Ok(8));
        assert_eq!(seconds(&query("wait=25")), Ok(25));
        for wrong in ["wait=26", "wait=-1", "wait=x", "wait=", "wiat=3", "wait=3&wait=3"] {
            assert!(wait(&query(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(seconds(&prefer("respond-async, wait=10")), Ok(10));
        assert_eq!(seconds(&prefer("respond-async")), Ok(0));
        assert_eq!(seconds(&prefer("wait=100")), Ok(25));
        assert_eq!(seconds(&prefer("return=minimal; wait=x")), Ok(8));
    }

    #[test]
    fn a_page_is_asked_for_in_numbers() {
        let one = |text: &str| selection(&query(text), false).map(|selection| selection.page);
        assert_eq!(one(""), Ok(ResultPage::FIRST));
        assert_eq!(
            one("limit=5&cursor=10"),
            Ok(ResultPage { start: 10, limit: Some(5), ..ResultPage::FIRST })
        );
        assert_eq!(one("fields=summary"), Ok(ResultPage { limit: None, ..ResultPage::FIRST }));
        for wrong in
            ["limit=0", "limit=10001", "cursor=x", "cursor=-1", "fields=x", "fields=", "ids=a", "page=2"]
        {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        for twice in ["limit=5&limit=5", "fields=summary&limit=5&fields=all", "%6cimit=5&limit=6"] {
            assert!(one(twice).unwrap_err().detail.contains("twice"), "{twice}");
        }
        let ids = |text: &str| selection(&query(text), true).map(|selection| selection.ids);
        assert_eq!(ids("ids=a,%20b,,a"), Ok(Some(vec!["a".to_owned(), "b".to_owned()])));
        assert!(ids("ids=").is_err() && ids("cursor=1").is_err());
    }

    #[test]
    fn an_idempotency_key_is_short_and_printable() {
        let keys = |values: &[&str]| {
            let headers = values.iter().map(|value| ("idempotency-key".to_owned(), (*value).to_owned()));
            idempotency_key(&Request { headers: headers.collect(), ..Request::default() })
        };
        assert_eq!(keys(&["run 7"]).unwrap().as_deref(), Some("run 7"));
        assert_eq!(keys(&["run 7", "run 7"]).unwrap().as_deref(), Some("run 7"), "a proxy's repeat");
        assert_eq!(keys(&[]), Ok(None));
        for wrong in ["", " ", "a\u{7}", "l\u{e4}uft", "\u{fffd}", &"x".repeat(256)] {
            assert!(keys(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(keys(&["run 7", "run 8"]).is_err());
    }
}
