//! Reads the repository's own files: what its tests hold against the code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper that fails fails its test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of the whole repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The text of a file.
#[must_use]
pub fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of JSON.
#[must_use]
pub fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The section under a heading, up to the next heading that is not deeper.
#[must_use]
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let body = &text[start + heading.len() + 2..];
    let depth = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let is_inside = |line: &&str| depth(line) == 0 || depth(line) > depth(heading);
    let length: usize = body.split_inclusive('\n').take_while(is_inside).map(str::len).sum();
    &body[..length]
}

/// The names in backquotes in the first column of the tables in `text`, without the tables' heads.
#[must_use]
pub fn first_column(text: &str) -> BTreeSet<String> {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |place: usize| lines.get(place + 1).is_some_and(|next| next.starts_with("|---"));
    let rows = lines.iter().enumerate().filter(|(place, _)| !is_head(*place));
    let cells = rows.filter_map(|(_, line)| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

/// The texts between `open` and `close`.
#[must_use]
pub fn all_between<'a>(text: &'a str, open: &str, close: char) -> BTreeSet<&'a str> {
    text.split(open).skip(1).filter_map(|rest| Some(rest.split_once(close)?.0)).collect()
}

/// The metrics in a line of CloudWatch's embedded format: namespace, function and names.
#[must_use]
pub fn metrics_of(line: &str) -> (String, String, BTreeSet<String>) {
    let line: Value = serde_json::from_str(line).unwrap();
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Dimensions"], serde_json::json!([["Function"]]));
    let names = directive["Metrics"].as_array().unwrap().iter().map(|metric| &metric["Name"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&directive["Namespace"]), text(&line["Function"]), names.map(text).collect())
}

/// Every Markdown document of the repository, by its path in it.
#[must_use]
pub fn documents() -> BTreeSet<String> {
    let mut documents = BTreeSet::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            let is_foreign =
                ["target", "node_modules", ".git", ".venv", ".tools"].iter().any(|other| name == *other);
            if path.is_dir() && !is_foreign {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "md") {
                documents.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    documents
}
