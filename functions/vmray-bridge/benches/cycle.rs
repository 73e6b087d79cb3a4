//! The cost of ingest cycles, against simulators at a given latency, beside OpenCTI's Python connector.
//!
//! `cargo bench -p vmray-bridge --bench cycle` prints the table. The simulators run in this process; each ingest is a child
//! process of a small process of its own, so that time, CPU and memory are the product's alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be made ends the program"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};
use simulators::estate::{Estate, EstateSpec};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::{VmrayOptions, VmraySimulator};

/// The argument that makes this program measure one child and print its cost.
const MEASURE: &str = "--measure-child";

const VMRAY_LATENCY: Duration = Duration::from_millis(40);
const OPENCTI_LATENCY: Duration = Duration::from_millis(15);

/// What one ingest cost, and what it answered.
struct Cost {
    wall: Duration,
    cpu: Duration,
    peak_mib: f64,
    answer: Value,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == MEASURE) {
        return measure_child(&arguments[place + 1..]);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        cycle().await;
        history().await;
    });
}

/// Runs the command given, and prints what it cost as JSON.
fn measure_child(command: &[String]) {
    let started = Instant::now();
    let output = Command::new(&command[0]).args(&command[1..]).stderr(Stdio::null()).output().unwrap();
    let wall = started.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let cpu = usage.user_time().tv_sec() * 1_000_000
        + usage.user_time().tv_usec()
        + usage.system_time().tv_sec() * 1_000_000
        + usage.system_time().tv_usec();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    println!(
        "{}",
        json!({ "wall_us": wall.as_micros(), "cpu_us": cpu, "peak_kib": usage.max_rss(), "answer": answer })
    );
}

struct Servers {
    vmray: VmraySimulator,
    opencti: OpenctiSimulator,
}

impl Servers {
    async fn start(estate: Estate, latencies: (Duration, Duration)) -> Self {
        let vmray =
            VmrayOptions { estate, latency: latencies.0, record_bodies: false, ..VmrayOptions::default() };
        let opencti = OpenctiOptions {
            latency: latencies.1,
            record_bodies: false,
            keep_bundles: false,
            ..OpenctiOptions::default()
        };
        Self {
            vmray: VmraySimulator::start(vmray).await.unwrap(),
            opencti: OpenctiSimulator::start(opencti).await.unwrap(),
        }
    }

    /// One `vmray-bridge ingest` with default settings.
    async fn ingest(&self, state: &Path) -> Cost {
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        command
            .arg(MEASURE)
            .args([env!("CARGO_BIN_EXE_vmray-bridge"), "ingest", "--json", "--state"])
            .arg(state)
            .env("VMRAY_SERVER", self.vmray.url())
            .env("VMRAY_API_KEY", VmrayOptions::default().api_keys.concat())
            .env("VMRAY_INITIAL_FETCH_DATE", "2025-01-01")
            .env("HISTORY", "oldest-first")
            .env("OPENCTI_URL", self.opencti.url())
            .env("OPENCTI_TOKEN", OpenctiOptions::default().tokens.concat())
            .env("CONNECTOR_ID", "0d9a7c52-6a0e-4c0e-9e55-7f2f0f6f1c11");
        let output = command.output().await.unwrap();
        let cost: Value = serde_json::from_slice(&output.stdout).expect("the measuring process prints JSON");
        let micros = |name: &str| Duration::from_micros(cost[name].as_u64().unwrap());
        Cost {
            wall: micros("wall_us"),
            cpu: micros("cpu_us"),
            peak_mib: cost["peak_kib"].as_f64().unwrap() / 1024.0,
            answer: cost["answer"].clone(),
        }
    }
}

fn row(what: &str, baseline: &str, limit: &str, measured: &str) {
    println!("| {what:<44} | {baseline:>16} | {limit:>12} | {measured:>20} |");
}

fn heading(title: &str) {
    println!("\n{title}\n");
    row("", "Python connector", "at most", "VMRay Bridge");
    println!("|{}|{}|{}|{}|", "-".repeat(46), "-".repeat(18), "-".repeat(14), "-".repeat(22));
}

/// 200 samples of which 120 are malicious, then a run with nothing new.
async fn cycle() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state.sqlite");
    let estate = Estate::generate(EstateSpec::default());
    let servers = Servers::start(estate, (VMRAY_LATENCY, OPENCTI_LATENCY)).await;
    let first = servers.ingest(&state).await;
    let (pushed, distinct) = {
        let platform = servers.opencti.platform();
        (platform.knowledge().pushed(), platform.knowledge().distinct())
    };
    let second = servers.ingest(&state).await;
    let calls = |cost: &Cost, server: &str| cost.answer["calls"][server].as_u64().unwrap_or(0);
    heading(
        "One cycle: 200 submissions, 120 malicious with some 30 IOCs each; 40 ms a VMRay call, 15 ms an OpenCTI call",
    );
    row("wall time", "769 s", "2.5 s", &format!("{:.2} s", first.wall.as_secs_f64()));
    row("CPU", "57 s", "1 s", &format!("{:.2} s", first.cpu.as_secs_f64()));
    row("peak memory", "91 MiB", "48 MiB", &format!("{:.1} MiB", first.peak_mib));
    row("VMRay calls", "514", "", &calls(&first, "vmray").to_string());
    let bundles = first.answer["bundles"].as_u64().unwrap_or(0);
    row("OpenCTI calls", "37,250", &format!("{}", 10 + bundles), &calls(&first, "opencti").to_string());
    row("objects pushed", "17,267", "", &pushed.to_string());
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let ratio = pushed as f64 / distinct as f64;
    row("objects pushed / distinct", "1.50", "1.15", &format!("{ratio:.3}"));
    let idle = calls(&second, "vmray") + calls(&second, "opencti");
    row("calls of a run with nothing new", "", "8", &idle.to_string());
    row("status", "", "", &format!("{} / {}", first.answer["status"], second.answer["status"]));
}

/// A long history, without latency: memory must not grow with it.
async fn history() {
    let folder = tempfile::tempdir().unwrap();
    let submissions = 20_000;
    let spec = EstateSpec { submissions, malicious: 1_000, suspicious: 1_000, ..EstateSpec::default() };
    let servers = Servers::start(Estate::generate(spec), (Duration::ZERO, Duration::ZERO)).await;
    let cost = servers.ingest(&folder.path().join("state.sqlite")).await;
    heading("A history of 20,000 submissions, 1,000 malicious; no latency");
    row("wall time", "", "", &format!("{:.1} s", cost.wall.as_secs_f64()));
    row("CPU", "", "", &format!("{:.1} s", cost.cpu.as_secs_f64()));
    row("peak memory", "", "64 MiB", &format!("{:.1} MiB", cost.peak_mib));
    row("samples delivered", "", "", &cost.answer["samples"].to_string());
    row("status", "", "", &cost.answer["status"].to_string());
    println!(
        "\nPython connector: OpenCTI's `vmray-platform`, pycti 7.260817.0, unpatched, same latencies, 2 cores."
    );
}
