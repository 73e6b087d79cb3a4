//! The binary `vmray-bridge` as a child process, between a simulated VMRay and a simulated OpenCTI.
//!
//! A [`World`] is both servers, a folder with the state file, and the variables that every run gets. When a test
//! ends, its world is looked over: nothing under a foreign id, nothing refused, no work of ours, no secret and no
//! submitter's address in the state file or in a bundle. Each process's output is looked over when it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::Value;
use simulators::estate::{Estate, Ioc, SampleSpec, SubmissionSpec, Technique, Vti, time};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator, Platform, Workers};
use simulators::vmray::{VmrayOptions, VmraySimulator};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::binary::built;
use crate::knowledge::{assert_nothing_refused, assert_same, held};

/// The connector's id.
pub const CONNECTOR: &str = "9f3c1f0e-5a0b-4a57-8d35-0d6c1f2a7b11";

/// VMRay's key: a text that nothing else contains.
pub const VMRAY_KEY: &str = "k3y-of-vmray-5d41402a";

/// OpenCTI's token: a text that nothing else contains.
pub const OPENCTI_TOKEN: &str = "t0k3n-of-opencti-7d793037";

/// Who has submitted everything in the simulated VMRay.
pub const SUBMITTER: &str = "analyst@customer.test";

/// Only so that a test that hangs ends: every test is far faster.
const SAFETY_NET: Duration = Duration::from_mins(1);

/// The first minute of the estates.
const START: &str = "2025-06-01T10:00:00";

/// The end of the n-th minute of the estates.
#[must_use]
pub fn minute(n: u64) -> NaiveDateTime {
    time(START) + TimeDelta::minutes(n.cast_signed())
}

/// The same time as the product writes it.
#[must_use]
pub fn position(n: u64) -> String {
    minute(n).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A malicious file with something of its own and something that it shares with the others.
#[must_use]
pub fn sample(id: u64) -> SampleSpec {
    SampleSpec {
        iocs: vec![
            Ioc::file(&format!("C:\\Temp\\drop-{id}.exe"), &format!("dropped by {id}"))
                .threat_names(&["QakBot"]),
            Ioc::domain(&format!("c2-{id}.evil.test"), &["198.51.100.7"]),
            Ioc::domain("shared.evil.test", &[]),
        ],
        vtis: vec![Vti::new("Persistence", "Installs system startup script or application", 4)],
        techniques: vec![Technique::new("T1055", "Process Injection", &["Defense Evasion"])],
        threat_names: vec!["QakBot".to_owned()],
        ..SampleSpec::file(id, &file_name(id))
    }
}

/// The name under which a sample was submitted; nothing else contains it.
#[must_use]
pub fn file_name(id: u64) -> String {
    format!("sample-{id}.exe")
}

/// The number of a sample's submission in [`estate`].
#[must_use]
pub fn submission_id(sample: u64) -> u64 {
    1000 + sample
}

/// Adds a sample and its submission, finished in the sample's own minute.
pub fn add(estate: &mut Estate, id: u64) {
    add_at(estate, id, minute(id));
}

/// Adds a sample and its submission, finished then.
pub fn add_at(estate: &mut Estate, id: u64, finished: NaiveDateTime) {
    estate.add_sample(sample(id));
    estate.add_submission(SubmissionSpec::finished(submission_id(id), id, finished));
}

/// The samples 1 to `count`, one a minute.
#[must_use]
pub fn estate(count: u64) -> Estate {
    let mut estate = Estate::new();
    (1..=count).for_each(|id| add(&mut estate, id));
    estate
}

/// The samples with these numbers.
#[must_use]
pub fn samples(ids: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    ids.into_iter().collect()
}

/// Both servers, and one installation of the product between them.
pub struct World {
    /// The simulated VMRay.
    pub vmray: VmraySimulator,
    /// The simulated OpenCTI.
    pub opencti: OpenctiSimulator,
    folder: TempDir,
    settings: BTreeMap<String, String>,
    may_refuse_objects: bool,
    may_mismatch_ids: bool,
}

impl World {
    /// A world with these samples.
    pub async fn new(estate: Estate) -> Self {
        Self::with(VmrayOptions { estate, ..VmrayOptions::default() }, OpenctiOptions::default()).await
    }

    /// A world with servers set up in another way. Keys are the harness's.
    pub async fn with(vmray: VmrayOptions, opencti: OpenctiOptions) -> Self {
        let vmray = VmrayOptions { api_keys: vec![VMRAY_KEY.to_owned()], ..vmray };
        let opencti = OpenctiOptions { tokens: vec![OPENCTI_TOKEN.to_owned()], ..opencti };
        let mut world = Self {
            vmray: VmraySimulator::start(vmray).await.unwrap(),
            opencti: OpenctiSimulator::start(opencti).await.unwrap(),
            folder: TempDir::new().unwrap(),
            settings: BTreeMap::new(),
            may_refuse_objects: false,
            may_mismatch_ids: false,
        };
        let (vmray_url, opencti_url) = (world.vmray.url(), world.opencti.url());
        for (name, value) in [
            ("VMRAY_SERVER", vmray_url.as_str()),
            ("OPENCTI_URL", opencti_url.as_str()),
            ("VMRAY_API_KEY", VMRAY_KEY),
            ("OPENCTI_TOKEN", OPENCTI_TOKEN),
            ("CONNECTOR_ID", CONNECTOR),
            ("VMRAY_INITIAL_FETCH_DATE", "2025-06-01"),
            // The estates are old: with the default all of them would be history, which has tests of its own.
            ("HISTORY", "oldest-first"),
            ("CONNECTOR_LOG_LEVEL", "debug"),
            ("RETRY_BASE_MS", "2"),
        ] {
            world.set(name, value);
        }
        world
    }

    /// Sets a variable for all later processes.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// [`set`](Self::set), while building a world.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The test means the platform's workers to refuse objects.
    #[must_use]
    pub fn may_refuse_objects(mut self) -> Self {
        self.may_refuse_objects = true;
        self
    }

    /// The test means an old platform, whose ids of techniques differ.
    #[must_use]
    pub fn may_mismatch_ids(mut self) -> Self {
        self.may_mismatch_ids = true;
        self
    }

    /// Takes all faults of both servers away.
    pub fn heal(&self) {
        self.vmray.faults().clear();
        self.opencti.faults().clear();
    }

    /// The state file.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.folder.path().join("state.sqlite")
    }

    /// Throws the installation's state away, as if it were installed anew.
    pub fn forget_state(&self) {
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    }

    /// A command of the binary with this world's variables and state file.
    #[must_use]
    pub fn bridge(&self, arguments: &[&str]) -> Bridge {
        let mut command = Command::new(built("vmray-bridge"));
        command
            .args(arguments)
            .arg("--state")
            .arg(self.state_file())
            .current_dir(self.folder.path())
            .env_clear()
            .envs(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Bridge(command)
    }

    /// `ingest --json` with more arguments, not yet started.
    #[must_use]
    pub fn ingest_command(&self, more: &[&str]) -> Bridge {
        self.bridge(&[&["ingest", "--json"], more].concat())
    }

    /// One run.
    pub async fn ingest(&self) -> Answer {
        self.ingest_with(&[]).await
    }

    /// One run with more arguments.
    pub async fn ingest_with(&self, more: &[&str]) -> Answer {
        self.ingest_command(more).run().await.answer()
    }

    /// One run that handles everything.
    pub async fn ingest_all(&self) -> Answer {
        let answer = self.ingest().await;
        assert_eq!(answer["status"], "done", "{answer:?}");
        answer
    }

    /// A command whose JSON answer is wanted and that succeeds.
    pub async fn ask(&self, arguments: &[&str]) -> Value {
        let run = self.bridge(&[arguments, &["--json"]].concat()).run().await;
        assert_eq!(run.code, 0, "{run:?}");
        run.json()
    }

    /// Where the cursor stands.
    pub async fn position(&self) -> Value {
        self.ask(&["cursor", "show"]).await["position"].clone()
    }

    /// The samples in quarantine.
    pub async fn quarantine(&self) -> Vec<Value> {
        self.ask(&["quarantine", "list"]).await["samples"].as_array().unwrap().clone()
    }

    /// The samples that have a report in OpenCTI.
    #[must_use]
    pub fn arrived(&self) -> BTreeSet<u64> {
        let platform = self.opencti.platform();
        let reports = platform.knowledge().of_type("report");
        reports.map(|report| number_of(report.object["name"].as_str().unwrap())).collect()
    }

    /// Everything that OpenCTI holds, by id.
    #[must_use]
    pub fn knowledge(&self) -> BTreeMap<String, Value> {
        let platform = self.opencti.platform();
        let entities = platform.knowledge().entities().iter();
        entities.map(|(id, entity)| (id.clone(), entity.object.clone())).collect()
    }

    /// Fails unless OpenCTI holds exactly what it holds in another world. An indicator that is seen again within a day may
    /// be of either analysis: it is not pushed twice.
    pub fn assert_same_knowledge(&self, other: &Self) {
        let (here, there) = (self.knowledge(), other.knowledge());
        let ids: BTreeSet<_> = here.keys().chain(there.keys()).collect();
        for id in ids {
            assert_eq!(here.get(id).map(undated), there.get(id).map(undated), "{id}");
        }
    }

    /// Fails unless OpenCTI holds the same objects with the same references as in another world. Texts of what samples
    /// share come from the sample that was delivered last.
    pub fn assert_same_objects(&self, other: &Self) {
        assert_eq!(references(&self.knowledge()), references(&other.knowledge()));
    }

    /// Fails unless OpenCTI holds what one undisturbed run over VMRay's samples as they are now gives.
    pub async fn assert_holds_what_a_clean_run_gives(&self) {
        let estate = self.vmray.estate().clone();
        let mut clean = Self::new(estate).await;
        for (name, value) in &self.settings {
            clean.settings.entry(name.clone()).or_insert_with(|| value.clone());
        }
        clean.ingest_all().await;
        assert_same(&held(&self.opencti.platform()), &held(&clean.opencti.platform()));
    }

    /// The bundles that were pushed, as text.
    #[must_use]
    pub fn bundles(&self) -> Vec<String> {
        self.opencti.platform().bundles().iter().map(|bundle| bundle.text.clone()).collect()
    }

    /// Requests so far: to VMRay, to OpenCTI.
    #[must_use]
    pub fn requests(&self) -> (u64, u64) {
        (self.vmray.requests().len() as u64, self.opencti.requests().len() as u64)
    }

    /// How often an endpoint of VMRay was asked, such as `GET /rest/sample/{}`.
    #[must_use]
    pub fn vmray_calls(&self, endpoint: &str) -> u64 {
        self.vmray.calls().get(endpoint).copied().unwrap_or(0)
    }

    /// How often an operation of OpenCTI was called, such as `stixBundlePush`.
    #[must_use]
    pub fn opencti_calls(&self, operation: &str) -> u64 {
        self.opencti.calls().get(operation).copied().unwrap_or(0)
    }

    fn look_over(&self) {
        let platform = self.opencti.platform();
        let knowledge = platform.knowledge();
        if !self.may_mismatch_ids {
            assert_eq!(knowledge.mismatched_ids(), [], "objects under other ids than the platform's");
        }
        if !self.may_refuse_objects {
            assert_nothing_refused(&platform);
        }
        for operation in ["workAdd", "workEdit", "labelAdd"] {
            assert_eq!(self.opencti_calls(operation), 0, "{operation} was called");
        }
        look_over_bundles(&platform);
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = file.unwrap().path();
            no_secret_in(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.look_over();
        }
    }
}

fn look_over_bundles(platform: &Platform) {
    for bundle in platform.bundles() {
        no_secret_in("a bundle", bundle.text.as_bytes());
    }
}

/// An indicator without what follows from the analysis that it was last seen in; any other object as it is.
fn undated(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(members) = object.as_object_mut().filter(|members| members["type"] == "indicator") {
        members.retain(|name, _| {
            !["created", "modified", "valid_from", "valid_until", "description"].contains(&name.as_str())
        });
    }
    object
}

/// Each object's references.
fn references(knowledge: &BTreeMap<String, Value>) -> BTreeMap<&str, BTreeSet<&str>> {
    fn of(object: &Value) -> BTreeSet<&str> {
        object["object_refs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
    knowledge.iter().map(|(id, object)| (id.as_str(), of(object))).collect()
}

/// The platform's workers import as soon as a bundle is pushed, or when the test lets them.
#[must_use]
pub fn workers(workers: Workers) -> OpenctiOptions {
    OpenctiOptions { workers, ..OpenctiOptions::default() }
}

/// `VMRay sample 7: sample-7.exe`
fn number_of(report: &str) -> u64 {
    let number: String =
        report.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    number.parse().unwrap()
}

pub(crate) fn no_secret_in(place: &str, bytes: &[u8]) {
    for secret in [VMRAY_KEY, OPENCTI_TOKEN, SUBMITTER] {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} is in {place}");
    }
}

/// A command that is not started yet.
pub struct Bridge(Command);

impl From<Bridge> for Command {
    fn from(bridge: Bridge) -> Self {
        bridge.0
    }
}

impl Bridge {
    /// Reads this file as its standard input.
    #[must_use]
    pub fn stdin(mut self, file: std::fs::File) -> Self {
        self.0.stdin(file);
        self
    }

    /// Sets a variable of this process only.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Takes a variable of this process away.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.0.env_remove(name);
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(mut self) -> Running {
        Running(self.0.spawn().unwrap())
    }

    /// Runs it to its end.
    pub async fn run(self) -> Run {
        self.start().end().await
    }
}

/// A process under way; killed when it is dropped.
pub struct Running(Child);

impl Running {
    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id().expect("it has not ended")
    }

    /// Waits for its end.
    pub async fn end(self) -> Run {
        let output = tokio::time::timeout(SAFETY_NET, self.0.wait_with_output()).await;
        Run::new(output.expect("the process does not end").unwrap())
    }

    /// Waits for its end by a signal, and says by which.
    pub async fn end_by_signal(mut self) -> Option<i32> {
        let status = tokio::time::timeout(SAFETY_NET, self.0.wait()).await;
        status.expect("the process does not end").unwrap().signal()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }
}

/// What a process left behind.
#[derive(Debug)]
pub struct Run {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    fn new(output: Output) -> Self {
        no_secret_in("standard output", &output.stdout);
        no_secret_in("standard error", &output.stderr);
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Its JSON answer, which is exactly one line.
    #[must_use]
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        assert!(self.stdout.ends_with('\n'), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The answer of a run; its exit code says the same.
    #[must_use]
    pub fn answer(self) -> Answer {
        let json = self.json();
        assert_eq!(self.code, i32::from(json["status"] == "failed"), "{self:?}");
        Answer { json, stderr: self.stderr }
    }
}

/// The answer of a run of ingest.
#[derive(Debug)]
pub struct Answer {
    json: Value,
    /// What it logged.
    pub stderr: String,
}

impl Deref for Answer {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl Answer {
    /// One of the figures.
    #[must_use]
    pub fn figure(&self, name: &str) -> u64 {
        self[name].as_u64().unwrap_or_else(|| panic!("{name} is no figure: {self:?}"))
    }

    /// Why it failed, in words; a test of a failure looks for what helps the operator.
    #[must_use]
    pub fn error(&self) -> &str {
        self["error"].as_str().unwrap_or_else(|| panic!("it did not fail: {self:?}"))
    }
}
