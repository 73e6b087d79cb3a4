//! What the documents say, held against the code.
//!
//! `UPDATE_DOCS=1 cargo test -p repository --test documents` writes the settings table anew.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use chrono::{DateTime, Utc};
use ingest::history::History;
use ingest::{FailureKind, RunAnswer, quarantine};
use repository::{all_between, documents, first_column, metrics_of, read, root, section};
use runtime::settings::{Setting, Unset};
use stix::LeftOutReason;
use strum::VariantArray;
use submit::api::{options, problem};
use submit::ledger::outcome::Status;
use submit::url::Refusal;

/// What stands between `<!-- name -->` and `<!-- /name -->`.
fn between<'a>(text: &'a str, name: &str) -> &'a str {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    inside.unwrap_or_else(|| panic!("no {begin} .. {end}")).0
}

/// The words of an enum.
fn words<T: VariantArray>(word: impl Fn(&T) -> String) -> BTreeSet<String> {
    T::VARIANTS.iter().map(word).collect()
}

/// An answer that has every member.
fn full_answer() -> RunAnswer {
    RunAnswer {
        lag_seconds: Some(0),
        history: History::between(DateTime::UNIX_EPOCH, Utc::now(), Utc::now())
            .map(|history| history.left(Utc::now())),
        dry_run: true,
        error: Some(String::new()),
        error_kind: Some(FailureKind::StoreError),
        ..RunAnswer::new(String::new())
    }
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
    assert_eq!(
        between(&document, "settings"),
        table,
        "UPDATE_DOCS=1 cargo test -p repository --test documents"
    );
}

#[test]
fn every_kind_of_failure_is_explained() {
    let explained = first_column(section(&read("docs/troubleshooting.md"), "## Kinds of failure"));
    assert_eq!(explained, words(|kind: &FailureKind| kind.as_str().to_owned()));
}

#[test]
fn every_member_of_the_answer_is_explained() {
    let answer = serde_json::to_value(full_answer()).unwrap();
    let members: BTreeSet<_> = answer.as_object().unwrap().keys().cloned().collect();
    assert_eq!(first_column(section(&read("docs/events.md"), "## What a run answers")), members);
}

#[test]
fn every_metric_is_explained() {
    let (.., metrics) = metrics_of(&full_answer().metrics(Utc::now()));
    assert_eq!(first_column(section(&read("docs/operations.md"), "## Metrics")), metrics);
}

#[test]
fn every_reason_for_quarantine_is_explained() {
    let explained = first_column(section(&read("docs/operations.md"), "## Quarantine"));
    assert_eq!(explained, words(quarantine::QuarantineReason::to_string));
}

#[test]
fn every_reason_for_leaving_out_is_explained() {
    let explained = first_column(section(&read("docs/operations.md"), "## Left out"));
    assert_eq!(explained, words(LeftOutReason::to_string));
}

#[test]
fn every_word_of_the_api_is_explained() {
    let document = read("docs/submit.md");
    let explained = |heading| first_column(section(&document, heading));
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(explained("### Options"), owned(&options::NAMES));
    assert_eq!(explained("### What is answered"), owned(&Status::ALL.map(Status::as_str)));
    assert_eq!(explained("### Which URLs are refused"), owned(&Refusal::ALL.map(Refusal::code)));
    let problems = problem::ProblemKind::ALL.map(|kind| kind.parts().0);
    assert_eq!(explained("### When the whole call is wrong"), owned(&problems));
}

#[test]
fn every_link_leads_somewhere() {
    for document in documents() {
        // Without inline code, which may show how a link is written.
        let text: String = read(&document).split('`').step_by(2).collect();
        let folder = root().join(&document).parent().unwrap().to_owned();
        for link in all_between(&text, "](", ')').into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(&document) } else { folder.join(file) };
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

#[test]
fn every_file_that_a_document_names_is_there() {
    const FOLDERS: [&str; 8] =
        [".ci/", ".github/", "common/", "docs/", "events/", "functions/", "infra/", "tests/"];
    let mut named = 0;
    for document in documents() {
        let text = read(&document);
        let inline = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        for path in inline.filter_map(|code| code.split_whitespace().next()) {
            if FOLDERS.iter().any(|folder| path.starts_with(folder)) {
                assert!(root().join(path).exists(), "{document}: {path}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "only {named} files were found");
}

#[test]
fn every_package_that_a_command_names_is_there() {
    let lock = read("Cargo.lock");
    for document in documents() {
        let text = read(&document);
        let commands = text.lines().filter(|line| line.contains("cargo ") || line.contains("tests/run"));
        for package in commands.flat_map(|line| line.split(" -p ").skip(1)) {
            let package = package.split(|c: char| !c.is_alphanumeric() && !"_-".contains(c)).next().unwrap();
            assert!(lock.contains(&format!("\nname = \"{package}\"\n")), "{document}: -p {package}");
        }
    }
}

#[test]
fn every_crate_of_common_has_its_sentence() {
    let folders = fs::read_dir(root().join("common")).unwrap().map(|entry| entry.unwrap().path());
    let folders = folders.filter(|path| path.is_dir());
    let crates: BTreeSet<_> =
        folders.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let overview = read("common/README.md");
    let headings = overview.lines().filter_map(|line| line.strip_prefix("## ["));
    let headings: BTreeSet<_> =
        headings.map(|heading| heading.split(']').next().unwrap().to_owned()).collect();
    assert_eq!(headings, crates);
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

/// A tag can be moved to other code; a commit cannot.
#[test]
fn every_action_of_a_workflow_is_pinned_by_commit() {
    let workflows = fs::read_dir(root().join(".github/workflows")).unwrap();
    let texts: BTreeMap<_, _> = workflows
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    let uses =
        texts.iter().flat_map(|(path, text)| text.split("uses: ").skip(1).map(move |rest| (path, rest)));
    let mut seen = 0;
    for (path, action) in uses {
        let action = action.lines().next().unwrap();
        let commit = action.split('@').nth(1).and_then(|commit| commit.split(' ').next());
        let is_pinned =
            |commit: &str| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(commit.is_some_and(is_pinned), "{path}: {action}");
        seen += 1;
    }
    assert!(seen > 3);
    assert!(texts.values().any(|text| text.contains("pull_request:") && text.contains("run: .ci/run")));
}
