//! The cost of submitting collections of URLs, against a simulated VMRay, beside one POST after the other.
//!
//! `cargo bench -p vmray-bridge --bench submit` prints the tables. The simulator runs in this process; `vmray-bridge serve` is a
//! child process, so that its memory is its own. Ends with an error when a URL is lost or sent twice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that cannot be made ends the program"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulators::vmray::submit::{SubmitAction, SubmitOptions, SubmitRule, Visible};
use simulators::vmray::{VmrayOptions, VmraySimulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Connections of the load.
const CONNECTIONS: usize = 16;

/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        hundred().await;
        ten_thousand().await;
        load().await;
    });
}

async fn vmray(latency: Duration) -> VmraySimulator {
    let submit = SubmitOptions { latency, ..SubmitOptions::default() };
    let options = VmrayOptions { submit, record_bodies: false, ..VmrayOptions::default() };
    VmraySimulator::start(options).await.unwrap()
}

/// A running `vmray-bridge serve`; dropping it ends it.
struct Served {
    child: Child,
    address: String,
    key: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    fn start(vmray: &VmraySimulator, state: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vmray-bridge"))
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .env("VMRAY_SERVER", vmray.url())
            .env("VMRAY_API_KEY", VmrayOptions::default().api_keys.concat())
            .env("MAX_URLS_PER_REQUEST", "10000")
            .env("CONNECTOR_LOG_LEVEL", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut after = |text: &str| {
            let line = lines.find(|line| line.contains(text)).unwrap();
            line.split_once(text).unwrap().1.to_owned()
        };
        let key = after("x-api-key: ");
        let address = after("http://");
        Self { child, address, key }
    }

    async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: Vec::new() }
    }

    fn request(&self, method: &str, target: &str, body: &str) -> Vec<u8> {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {}\r\nx-api-key: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.address,
            self.key,
            body.len()
        );
        [head.as_bytes(), body.as_bytes()].concat()
    }

    async fn ask(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.connect().await.exchange(&self.request(method, target, body)).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Waits until nothing of a batch is left to send.
    async fn until_sent(&self, batch: &str) {
        loop {
            let (_, state) = self.ask("GET", &format!("/v1/submissions/{batch}?fields=summary"), "").await;
            if state["counts"]["pending"] == 0 {
                return;
            }
            // Each look at 10,000 URLs is work for the server, too.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn peak_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
    }
}

/// A connection that is kept.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Sends a request and reads its answer whole.
    async fn exchange(&mut self, request: &[u8]) -> (u16, Vec<u8>) {
        self.stream.write_all(request).await.unwrap();
        self.buffer.clear();
        let head_end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "the connection was closed");
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        while self.buffer.len() < head_end + length {
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "the connection was closed");
        }
        (status, self.buffer[head_end..head_end + length].to_vec())
    }
}

fn urls(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("http://host-{}.example/path/{number}", number % 97)).collect()
}

fn body(urls: &[String]) -> String {
    json!({ "urls": urls }).to_string()
}

fn heading(title: &str) {
    println!("\n{title}\n");
    row("", "baseline", "limit", "VMRay Bridge");
    println!("|{}|{}|{}|{}|", "-".repeat(52), "-".repeat(18), "-".repeat(18), "-".repeat(20));
}

fn row(what: &str, baseline: &str, limit: &str, measured: &str) {
    println!("| {what:<50} | {baseline:>16} | {limit:>16} | {measured:>18} |");
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Every URL has reached VMRay exactly once.
fn each_once(vmray: &VmraySimulator, count: usize) {
    let posts = vmray.posts();
    assert_eq!(posts.len(), count, "URLs are lost");
    assert!(posts.values().all(|posts| *posts == 1), "URLs are sent twice");
}

/// One POST after the other, as playbooks do that call VMRay themselves.
async fn one_after_the_other(urls: &[String]) -> Duration {
    let vmray = vmray(Duration::from_millis(600)).await;
    let host = vmray.url().trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(&host).await.unwrap();
    let mut connection = Connection { stream, buffer: Vec::new() };
    let started = Instant::now();
    for url in urls {
        let request = format!(
            "POST /rest/sample/submit?sample_url={url} HTTP/1.1\r\nhost: {host}\r\nauthorization: api_key {}\r\ncontent-length: 0\r\n\r\n",
            VmrayOptions::default().api_keys.concat()
        );
        assert_eq!(connection.exchange(request.as_bytes()).await.0, 200);
    }
    started.elapsed()
}

async fn hundred() {
    let urls = urls(100);
    let baseline = one_after_the_other(&urls).await;
    heading("100 URLs in one call, 600 ms a submission, default wait");
    for lists_show_them in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let vmray = vmray(Duration::from_millis(600)).await;
        if !lists_show_them {
            vmray.on_submit(SubmitRule::all(SubmitAction::Fresh).visible(Visible::WhenTold));
        }
        let served = Served::start(&vmray, &folder.path().join("state.sqlite"));
        let started = Instant::now();
        let (_, answer) = served.ask("POST", "/v1/submissions", &body(&urls)).await;
        let took = started.elapsed();
        let results = answer["results"].as_array().unwrap();
        let with_ids = results.iter().filter(|row| row["submission_id"].is_u64()).count();
        each_once(&vmray, 100);
        let what =
            if lists_show_them { "answered after" } else { "the same when no list of VMRay shows them" };
        row(what, &seconds(baseline), "4.6 s", &seconds(took));
        row("submissions in the answer", "100", "100", &with_ids.to_string());
        let (_, repeated) = served.ask("POST", "/v1/submissions", &body(&urls)).await;
        assert_eq!(repeated["counts"]["total"], 100);
        row("POSTs of a repeat", "100", "0", &(vmray.submits().len() - 100).to_string());
    }
    println!("\nBaseline: one POST after the other.");
}

async fn ten_thousand() {
    let urls = urls(10_000);
    let folder = tempfile::tempdir().unwrap();
    let vmray = vmray(Duration::from_millis(20)).await;
    let served = Served::start(&vmray, &folder.path().join("state.sqlite"));
    let body = body(&urls);
    let started = Instant::now();
    let (status, answer) = served.ask("POST", "/v1/submissions?wait=0", &body).await;
    let accepted = started.elapsed();
    assert_eq!(status, 202);
    served.until_sent(answer["batch_id"].as_str().unwrap()).await;
    let sent = started.elapsed();
    each_once(&vmray, 10_000);
    served.ask("POST", "/v1/submissions?wait=0", &body).await;
    heading("10,000 URLs in one call, 20 ms a submission, 16 at a time");
    row("accepted (202) after", "", "2 s", &seconds(accepted));
    row("all submitted, each once, after (16 at 20 ms: 12.5)", "", "", &seconds(sent));
    row("POSTs of a repeat", "10000", "0", &(vmray.submits().len() - 10_000).to_string());
    row("peak memory", "", "64 MiB", &format!("{:.1} MiB", served.peak_mib()));
}

/// Asking for a batch of 10 that is done.
async fn load() {
    let folder = tempfile::tempdir().unwrap();
    let vmray = vmray(Duration::ZERO).await;
    let served = Served::start(&vmray, &folder.path().join("state.sqlite"));
    let body = body(&urls(10));
    let (_, answer) = served.ask("POST", "/v1/submissions", &body).await;
    let batch = answer["batch_id"].as_str().unwrap().to_owned();
    vmray.finish_all();
    // The verdicts come with the first question after the refresh's pause.
    loop {
        if served.ask("GET", &format!("/v1/submissions/{batch}"), "").await.1["done"] == true {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    heading("Requests a second for a known batch of 10, 16 connections, client on the same 2 cores");
    let get = served.request("GET", &format!("/v1/submissions/{batch}"), "");
    row("GET of the batch", "", "at least 3000", &format!("{:.0}", rate(&served, &get).await));
    let post = served.request("POST", "/v1/submissions", &body);
    row("POST of the same 10 URLs", "", "", &format!("{:.0}", rate(&served, &post).await));
    row("POSTs to VMRay by all that", "", "0", &(vmray.submits().len() - 10).to_string());
}

/// Answers a second.
async fn rate(served: &Served, request: &[u8]) -> f64 {
    let started = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut connection, request) = (served.connect().await, request.to_vec());
        clients.push(tokio::spawn(async move {
            let mut answers = 0_u32;
            while started.elapsed() < LOAD {
                assert_eq!(connection.exchange(&request).await.0, 200);
                answers += 1;
            }
            answers
        }));
    }
    let mut answers = 0.0;
    for client in clients {
        answers += f64::from(client.await.unwrap());
    }
    answers / started.elapsed().as_secs_f64()
}
