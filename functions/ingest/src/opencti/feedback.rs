//! What the platform's workers refused: a push that was accepted is not yet imported. Pure.

use std::collections::BTreeMap;

use super::connector::{ConnectorWork, WorkError};

/// Different reasons that are told apart in one answer.
const MOST_REASONS: usize = 20;

/// Works whose errors are remembered: the document that holds them must stay small.
const MOST_WORKS: usize = 500;

/// Longest reason.
const MOST_CHARACTERS: usize = 120;

/// The errors that are new since `reported` (errors already told, by work), by reason. Brings `reported` up to date and
/// forgets works that the platform has deleted.
pub fn new_errors(works: &[ConnectorWork], reported: &mut BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let mut new = BTreeMap::new();
    let mut seen = BTreeMap::new();
    for work in works {
        let errors = work.errors.as_deref().unwrap_or_default();
        let known = reported.get(&work.id).copied().unwrap_or(0);
        for error in errors.iter().skip(usize::try_from(known).unwrap_or(usize::MAX)) {
            tracing::warn!(
                work = work.id,
                reason = reason(error),
                object = object_id(error),
                "the platform refused an object"
            );
            let mut reason = reason(error);
            if new.len() >= MOST_REASONS && !new.contains_key(&reason) {
                "other".clone_into(&mut reason);
            }
            *new.entry(reason).or_insert(0) += 1;
        }
        if !errors.is_empty() {
            seen.insert(work.id.clone(), errors.len() as u64);
        }
    }
    // Works are named by their time, so the oldest go first.
    while seen.len() > MOST_WORKS {
        seen.pop_first();
    }
    *reported = seen;
    new
}

/// The platform prints a Python dict: `{'name': 'FUNCTIONAL_ERROR', 'error_message': 'Observable is not ..'}`.
fn reason(error: &WorkError) -> String {
    let message = error.message.as_deref().unwrap_or("no reason given");
    let text = ["'error_message': ", "\"error_message\": ", "'message': ", "'name': "]
        .iter()
        .find_map(|key| quoted(message.split_once(key)?.1))
        .unwrap_or(message);
    text.chars().take(MOST_CHARACTERS).collect()
}

/// The text between the quote that `rest` starts with and the next one.
fn quoted(rest: &str) -> Option<&str> {
    let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    rest[1..].split_once(quote).map(|(text, _)| text)
}

/// The refused object's STIX id, which says more than its content and reveals less.
fn object_id(error: &WorkError) -> Option<String> {
    let object: serde_json::Value = serde_json::from_str(error.source.as_deref()?).ok()?;
    object.get("id")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(id: &str, messages: &[&str]) -> ConnectorWork {
        let errors = messages
            .iter()
            .map(|message| WorkError { message: Some((*message).to_owned()), source: None })
            .collect();
        ConnectorWork { id: id.to_owned(), ..ConnectorWork::for_tests("", None, None, errors) }
    }

    #[test]
    fn errors_are_told_once_and_by_reason() {
        let dict = "{'name': 'FUNCTIONAL_ERROR', 'error_message': 'Observable is not correctly formatted'}";
        let quoted = r#"{'name': 'X', 'error_message': "it's wrong"}"#;
        let mut reported = BTreeMap::new();
        let first = new_errors(&[work("w1", &[dict, dict]), work("w2", &[quoted])], &mut reported);
        assert_eq!(
            first,
            BTreeMap::from([
                ("Observable is not correctly formatted".to_owned(), 2),
                ("it's wrong".to_owned(), 1)
            ])
        );
        let second = new_errors(&[work("w1", &[dict, dict, "plain"]), work("w2", &[quoted])], &mut reported);
        assert_eq!(second, BTreeMap::from([("plain".to_owned(), 1)]));
        assert!(new_errors(&[], &mut reported).is_empty());
        assert!(reported.is_empty(), "deleted works are forgotten");
    }
}
