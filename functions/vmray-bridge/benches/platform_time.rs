//! How much the platform has to import, which is what an analyst waits for: objects pushed, beside OpenCTI's Python connector.
//!
//! `cargo bench -p vmray-bridge --bench platform_time` prints the table. Everything is measured twice: with the memory of what the
//! platform has imported as it is set by default, and with `PLATFORM_MEMORY=PT0S`, which switches it off. These take the oldest
//! first. Then a year of history is brought to a platform that takes its time, a hundred times as fast as in life.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made ends the program; counts are far below 2^52"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use chrono::{TimeDelta, Utc};
use serde_json::Value;
use simulators::estate::{Estate, EstateSpec, SampleSpec, Subject, SubmissionSpec, time};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator, Workers};
use simulators::vmray::{VmrayOptions, VmraySimulator};

const SUBMISSIONS: usize = 200;
const MALICIOUS: usize = 120;
/// New submissions in each run: what half an hour brings.
const A_RUN: usize = 10;
/// What the platform's worker needs for an object, changed or not: 40 to 120 ms were seen.
const SECONDS_AN_OBJECT: f64 = 0.060;
/// How much faster than in life history is played.
const FASTER: u32 = 100;
/// Objects that the platform of the history imports in a second, in life.
const PACE: u32 = 10;
/// What may wait in its queue when history is pushed: the default.
const ROOM: usize = 2_000;
/// What numbers of the second estate begin with: far above those of the first.
const SECOND: u64 = 500_000;
/// The Python connector pushes so many objects a malicious sample, ten submissions a run: docs/measurements.md.
const PYTHON_A_SAMPLE: f64 = 151.0;
/// What the Python connector pushes for the whole estate in one run, and how much of it is distinct: docs/measurements.md.
const PYTHON_PUSHED: f64 = 17_267.0;
const PYTHON_DISTINCT: f64 = 11_533.0;

/// What was measured with one setting.
struct Figures {
    /// Objects pushed for the first estate, and then for the second, with few submissions a run.
    first: u64,
    second: u64,
    /// Objects pushed and distinct, everything in one run.
    at_once: (u64, usize),
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (with, without) = runtime.block_on(async { (figures(None).await, figures(Some("PT0S")).await) });
    print(&with, &without);
    let Paced { busy, most_waiting, largest_bundle } = runtime.block_on(history_at_a_pace());
    println!("\nA year of history, {PACE} objects imported a second, a look at the queue a minute\n");
    println!("share of the run in which the platform has work: {:.0} % (at least 90 %)", busy * 100.0);
    println!(
        "most messages that a fresh sample could meet: {most_waiting} (at most {ROOM} and one bundle; the largest had {largest_bundle})"
    );
}

fn print(with: &Figures, without: &Figures) {
    println!(
        "\n{SUBMISSIONS} submissions, {MALICIOUS} malicious with some 30 IOCs each; {A_RUN} submissions a run\n"
    );
    row("", "Python connector", "no memory", "at most", "VMRay Bridge");
    println!(
        "|{}|{}|{}|{}|{}|",
        "-".repeat(51),
        "-".repeat(18),
        "-".repeat(14),
        "-".repeat(9),
        "-".repeat(14)
    );
    let a_sample = |figures: &Figures| figures.first as f64 / MALICIOUS as f64;
    let objects = |objects: f64| format!("{objects:.0}");
    row(
        "objects pushed a malicious sample",
        &objects(PYTHON_A_SAMPLE),
        &objects(a_sample(without)),
        "122",
        &objects(a_sample(with)),
    );
    let import = |objects: f64| format!("{:.1} s", objects * SECONDS_AN_OBJECT);
    row(
        "import time of it, at 60 ms an object",
        &import(PYTHON_A_SAMPLE),
        &import(a_sample(without)),
        "",
        &import(a_sample(with)),
    );
    let share = |figures: &Figures| format!("{:.0} %", 100.0 * figures.second as f64 / figures.first as f64);
    row("a second estate, 80 % of IOCs known: of the first", "", &share(without), "45 %", &share(with));
    let ratio = |figures: &Figures| format!("{:.2}", figures.at_once.0 as f64 / figures.at_once.1 as f64);
    row(
        "everything in one run: pushed / distinct",
        &format!("{:.2}", PYTHON_PUSHED / PYTHON_DISTINCT),
        &ratio(without),
        "1.15",
        &ratio(with),
    );
    let minutes = |objects: f64| format!("{:.0} min", objects * SECONDS_AN_OBJECT / 60.0);
    row(
        "import time of that, at 60 ms an object",
        &minutes(PYTHON_PUSHED),
        &minutes(without.at_once.0 as f64),
        "",
        &minutes(with.at_once.0 as f64),
    );
}

fn row(what: &str, python: &str, without: &str, limit: &str, with: &str) {
    println!("| {what:<49} | {python:>16} | {without:>12} | {limit:>7} | {with:>12} |");
}

async fn figures(memory: Option<&str>) -> Figures {
    let first = first_estate();
    let second = second_estate(&first);
    let few = Installation::start(memory).await;
    few.run_bit_by_bit(&first).await;
    let pushed_for_first = few.pushed();
    few.run_bit_by_bit(&second).await;
    let at_once = Installation::start(memory).await;
    *at_once.vmray.estate() = first;
    at_once.run().await;
    let distinct = at_once.opencti.platform().knowledge().distinct();
    Figures {
        first: pushed_for_first,
        second: few.pushed() - pushed_for_first,
        at_once: (at_once.pushed(), distinct),
    }
}

/// What a platform with a pace saw of one run.
struct Paced {
    /// Of the run's time.
    busy: f64,
    most_waiting: usize,
    largest_bundle: usize,
}

async fn history_at_a_pace() -> Paced {
    let workers = Workers::Paced { objects_per_second: PACE * FASTER };
    let mut installation = Installation::with(None, workers).await;
    let now = Utc::now().naive_utc();
    installation.settings = vec![
        ("HISTORY", "newest-first".to_owned()),
        ("QUEUE_RECHECK_MS", (60_000 / FASTER).to_string()),
        ("HISTORY_QUEUE_MESSAGES", ROOM.to_string()),
        ("VMRAY_INITIAL_FETCH_DATE", (now - TimeDelta::days(365)).and_utc().to_rfc3339()),
    ];
    *installation.vmray.estate() = Estate::generate(EstateSpec {
        submissions: SUBMISSIONS,
        malicious: MALICIOUS,
        first_finish: now - TimeDelta::days(364),
        last_finish: now - TimeDelta::minutes(30),
        ..EstateSpec::default()
    });
    let start = Instant::now();
    installation.run().await;
    let took = start.elapsed();
    let mut platform = installation.opencti.platform();
    let busy = platform.busy().as_secs_f64() / took.as_secs_f64();
    let sizes = platform.bundles().iter().map(|bundle| (bundle.waiting, bundle.objects().len()));
    let sizes: Vec<(usize, usize)> = sizes.collect();
    Paced {
        busy,
        most_waiting: sizes.iter().map(|(waiting, size)| waiting + size).max().unwrap_or(0),
        largest_bundle: sizes.iter().map(|(_, size)| *size).max().unwrap_or(0),
    }
}

/// A month of submissions.
fn first_estate() -> Estate {
    Estate::generate(EstateSpec {
        submissions: SUBMISSIONS,
        malicious: MALICIOUS,
        first_finish: time("2026-09-01T08:00:00"),
        last_finish: time("2026-10-02T08:00:00"),
        ..EstateSpec::default()
    })
}

/// Other samples of the same campaigns, from a week after the first estate on: of five IOCs four are known.
fn second_estate(first: &Estate) -> Estate {
    let fresh = Estate::generate(EstateSpec {
        seed: 2,
        submissions: SUBMISSIONS,
        malicious: MALICIOUS,
        first_finish: time("2026-10-09T08:00:00"),
        last_finish: time("2026-11-09T08:00:00"),
        ..EstateSpec::default()
    });
    let later = time("2026-10-09T08:00:00") - time("2026-09-01T08:00:00");
    let mut second = Estate::new();
    for id in first.sample_ids() {
        let (known, fresh) = (first.sample_spec(id).unwrap(), fresh.sample_spec(id).unwrap());
        second.add_sample(recurring(&known, &fresh, later));
    }
    for id in first.submission_ids() {
        let submission = first.submission_spec(id).unwrap();
        second.add_submission(SubmissionSpec {
            id: id + SECOND,
            sample_id: submission.sample_id + SECOND,
            created: submission.created + later,
            finished: submission.finished.map(|at| at + later),
            parent: None,
            ..submission.clone()
        });
    }
    second
}

fn recurring(known: &SampleSpec, fresh: &SampleSpec, later: TimeDelta) -> SampleSpec {
    let is_fresh = |n: usize| n % 5 == 4;
    let known_iocs = known.iocs.iter().enumerate().filter(|(n, _)| !is_fresh(*n));
    let fresh_iocs = fresh.iocs.iter().enumerate().filter(|(n, _)| is_fresh(*n));
    let subject = match fresh.subject.clone() {
        Subject::Url(url) => Subject::Url(format!("{url}&again")),
        file @ Subject::File { .. } => file,
    };
    SampleSpec {
        id: known.id + SECOND,
        subject,
        created: known.created + later,
        iocs: known_iocs.chain(fresh_iocs).map(|(_, ioc)| ioc.clone()).collect(),
        children: Vec::new(),
        parents: Vec::new(),
        ..known.clone()
    }
}

/// Both servers, without latency, and the state of one installation.
struct Installation {
    vmray: VmraySimulator,
    opencti: OpenctiSimulator,
    folder: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Installation {
    async fn start(memory: Option<&str>) -> Self {
        Self::with(memory, Workers::Immediate).await
    }

    async fn with(memory: Option<&str>, workers: Workers) -> Self {
        let vmray = VmrayOptions { record_bodies: false, estate: Estate::new(), ..VmrayOptions::default() };
        let opencti = OpenctiOptions { record_bodies: false, workers, ..OpenctiOptions::default() };
        Self {
            vmray: VmraySimulator::start(vmray).await.unwrap(),
            opencti: OpenctiSimulator::start(opencti).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
            settings: [
                ("HISTORY", "oldest-first".to_owned()),
                ("VMRAY_INITIAL_FETCH_DATE", "2026-01-01".to_owned()),
            ]
            .into_iter()
            .chain(memory.map(|memory| ("PLATFORM_MEMORY", memory.to_owned())))
            .collect(),
        }
    }

    /// One run after every few submissions of the estate.
    async fn run_bit_by_bit(&self, estate: &Estate) {
        let ids = estate.submission_ids();
        for end in (A_RUN..=ids.len()).step_by(A_RUN) {
            let mut so_far = estate.clone();
            ids[end..].iter().for_each(|id| so_far.delete_submission(*id));
            *self.vmray.estate() = so_far;
            self.run().await;
        }
    }

    /// One `vmray-bridge ingest`.
    async fn run(&self) {
        let state = self.folder.path().join("state.sqlite");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_vmray-bridge"));
        self.set(&mut command, &state);
        let output = command.stderr(Stdio::inherit()).output().await.unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).expect("ingest answers in JSON");
        assert_eq!(answer["status"], "done", "{answer}");
    }

    fn set(&self, command: &mut tokio::process::Command, state: &Path) {
        command
            .args(["ingest", "--json", "--state"])
            .arg(state)
            .env("VMRAY_SERVER", self.vmray.url())
            .env("VMRAY_API_KEY", VmrayOptions::default().api_keys.concat())
            .env("OPENCTI_URL", self.opencti.url())
            .env("OPENCTI_TOKEN", OpenctiOptions::default().tokens.concat())
            .env("CONNECTOR_ID", "0d9a7c52-6a0e-4c0e-9e55-7f2f0f6f1c11")
            .env("CONNECTOR_LOG_LEVEL", "error")
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
    }

    fn pushed(&self) -> u64 {
        self.opencti.platform().knowledge().pushed()
    }
}
