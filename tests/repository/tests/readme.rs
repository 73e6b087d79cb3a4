//! What the README and the documents beside it say, held against the code.
//!
//! `UPDATE_DOCS=1 cargo test -p repository --test readme` writes the settings table anew.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::fmt::Write as _;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use runtime::settings::{Setting, Unset};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn between<'a>(text: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    inside.unwrap_or_else(|| panic!("no {begin} .. {end}")).0
}

/// The section under a heading, up to the next heading of the same depth.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let depth = heading.split(' ').next().unwrap();
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    let body = &text[start + heading.len() + 2..];
    body.split(&format!("\n{depth} ")).next().unwrap()
}

/// The names in backquotes in the first column of the tables in `text`.
fn first_column(text: &str) -> BTreeSet<String> {
    let cells = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`').to_owned()).collect()
}

/// The texts between `open` and `close` in `source`.
fn all_between(source: &str, open: &str, close: char) -> BTreeSet<String> {
    source.split(open).skip(1).map(|rest| rest.split(close).next().unwrap().to_owned()).collect()
}

/// The body of the item that starts with `head`, up to a line that is only a brace.
fn item<'a>(source: &'a str, head: &str) -> &'a str {
    let start = source.find(head).unwrap_or_else(|| panic!("no {head}"));
    let body = &source[start..];
    let indent = source[..start].rsplit('\n').next().unwrap();
    body.split(&format!("\n{indent}}}\n")).next().unwrap()
}

/// Every setting as a Markdown table, one line a setting.
fn markdown_table() -> String {
    let mut table =
        String::from("| variable | value | when unset | meaning | read by |\n|---|---|---|---|---|\n");
    let readers: [(&str, &[Setting]); 5] = [
        ("ingest", ingest::settings::SETTINGS),
        ("submit", submit::settings::SETTINGS),
        ("ingest, submit", vmray::SETTINGS),
        ("ingest, submit", runtime::settings::PROCESS),
        ("local binary", runtime::settings::LOCAL),
    ];
    for (reader, settings) in readers {
        for Setting { name, kind, unset, meaning } in settings {
            let unset = match unset {
                Unset::Refused => "must be set".to_owned(),
                Unset::RefusedOnLambda => "must be set on Lambda".to_owned(),
                Unset::Nothing => String::new(),
                Unset::Means(default) => format!("`{default}`"),
            };
            writeln!(table, "| `{name}` | {kind} | {unset} | {meaning} | {reader} |").unwrap();
        }
    }
    table
}

#[test]
fn the_settings_table_has_each_name_once() {
    let table = markdown_table();
    let names: BTreeSet<_> = table.lines().skip(2).filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(table.lines().count(), names.len() + 2);
    assert!(table.lines().all(|line| line.matches('|').count() == 6), "{table}");
}

#[test]
fn the_settings_table_is_the_codes() {
    let table = markdown_table();
    let document = read("docs/settings.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let old = format!("<!-- settings -->\n{}<!-- /settings -->", between(&document, "settings"));
        let new = format!("<!-- settings -->\n{table}<!-- /settings -->");
        fs::write(root().join("docs/settings.md"), document.replace(&old, &new)).unwrap();
        return;
    }
    assert_eq!(between(&document, "settings"), table, "UPDATE_DOCS=1 cargo test -p repository --test readme");
}

#[test]
fn every_kind_of_failure_is_explained() {
    let source = read("functions/ingest/src/error.rs");
    let kinds = all_between(item(&source, "pub fn kind("), "=> \"", '"');
    assert_eq!(first_column(section(&read("docs/troubleshooting.md"), "## Kinds of failure")), kinds);
}

#[test]
fn every_member_of_the_answer_is_explained() {
    let source = read("functions/ingest/src/answer.rs");
    let members =
        item(&source, "pub struct Answer {").lines().filter_map(|line| line.trim().strip_prefix("pub "));
    let members: BTreeSet<_> =
        members.filter_map(|member| member.split_once(": ")).map(|(name, _)| name.to_owned()).collect();
    assert_eq!(first_column(section(&read("docs/events.md"), "## What a run answers")), members);
}

#[test]
fn every_metric_is_explained() {
    let source = read("functions/ingest/src/answer.rs");
    let body = item(&source, "pub fn metrics(");
    let mut metrics = all_between(body, "count(\"", '"');
    metrics.extend(all_between(body, "            (\"", '"'));
    assert_eq!(first_column(section(&read("docs/operations.md"), "## Metrics")), metrics);
}

#[test]
fn every_reason_for_quarantine_is_explained() {
    let source = read("functions/ingest/src/quarantine.rs");
    let reasons = all_between(item(&source, "pub fn as_str("), "=> \"", '"');
    assert_eq!(first_column(section(&read("docs/operations.md"), "## Quarantine")), reasons);
}

#[test]
fn every_reason_for_leaving_out_is_explained() {
    let mut reasons =
        all_between(item(&read("common/mapping/src/values.rs"), "pub mod reason {"), "&str = \"", '"');
    for source in ["functions/ingest/src/analysis.rs", "functions/ingest/src/run/intake.rs"] {
        let source = read(source);
        reasons.extend(all_between(&source, "left_out.add(\"", '"'));
        reasons.extend(all_between(&source, "left_out.add_many(\"", '"'));
    }
    assert_eq!(first_column(section(&read("docs/operations.md"), "## Left out")), reasons);
}

#[test]
fn every_command_is_explained() {
    let source = read("functions/local/src/main.rs");
    let commands =
        item(&source, "enum Command {").lines().skip(1).filter(|line| !line.trim().starts_with("//"));
    let commands = commands.filter_map(|line| line.trim().split(['(', ',']).next());
    let commands: BTreeSet<_> = commands.filter(|name| !name.is_empty()).map(str::to_lowercase).collect();
    assert_eq!(first_column(section(&read("docs/one-machine.md"), "## Commands")), commands);
}

#[test]
fn every_link_leads_somewhere() {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let docs = docs.map(|name| (format!("docs/{}", name.to_str().unwrap()), "docs"));
    // `docs/recipes` is a folder of files to import.
    let docs = docs.filter(|(document, _)| Path::new(document).extension().is_some_and(|kind| kind == "md"));
    let above =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| (name.to_owned(), ""));
    for (document, folder) in docs.chain(above) {
        let text = read(&document);
        for link in all_between(&text, "](", ')').iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { root().join(&document) } else { root().join(folder).join(file) };
            assert!(target.exists(), "{document}: {link}");
            if !anchor.is_empty() {
                let headings = fs::read_to_string(&target).unwrap();
                let known: BTreeSet<_> =
                    headings.lines().filter(|line| line.starts_with('#')).map(slug).collect();
                assert!(known.contains(anchor), "{document}: {link}; there are {known:?}");
            }
        }
    }
}

/// A heading's anchor: lower case, hyphens for spaces, nothing else but letters, digits and underscores.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// What a reader takes in at once; everything else has a document of its own.
const MOST_README_LINES: usize = 200;

#[test]
fn the_readme_stays_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MOST_README_LINES, "{lines} lines");
}

#[test]
fn the_changelog_knows_this_version() {
    assert!(read("CHANGELOG.md").contains(concat!("\n## ", env!("CARGO_PKG_VERSION"), "\n")));
}
