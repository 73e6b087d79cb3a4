//! The Lambda function `ingest` as a child process, between a simulated VMRay, a simulated `OpenCTI` and emulated AWS.
//!
//! A [`World`] is everything around one installation; [`World::lambda`] starts a process, as Lambda starts an
//! execution environment. What every process prints and answers is searched for keys and people's addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use serde_json::{Value, json};
use simulators::estate::{Estate, Ioc, SampleSpec, SubmissionSpec, Technique, Vti, time};
use simulators::opencti::{OpenctiOptions, OpenctiSimulator};
use simulators::vmray::{VmrayOptions, VmraySimulator};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::aws::Aws;
use crate::runtime_api::{Outcome, RuntimeApi};

/// The connector's id.
pub const CONNECTOR: &str = "9f3c1f0e-5a0b-4a57-8d35-0d6c1f2a7b11";

/// VMRay's key: a text that nothing else contains.
pub const VMRAY_KEY: &str = "k3y-of-vmray-5d41402a";

/// `OpenCTI`'s token: a text that nothing else contains.
pub const OPENCTI_TOKEN: &str = "t0k3n-of-opencti-7d793037";

/// The keys that take their place in tests of rotation.
pub const NEXT_VMRAY_KEY: &str = "n3xt-k3y-of-vmray-9d5ed678";

/// The token of tests of rotation.
pub const NEXT_OPENCTI_TOKEN: &str = "n3xt-t0k3n-of-opencti-fe57bcca";

/// Who has submitted everything in the simulated VMRay.
pub const SUBMITTER: &str = "analyst@customer.test";

/// A time limit that no test reaches.
pub const MINUTES: Duration = Duration::from_mins(5);

/// Only so that a test that hangs ends: a process may start, and answers within its limit or far earlier.
const SAFETY_NET: Duration = Duration::from_mins(1);

/// The first minute of the estates.
const START: &str = "2025-06-01T10:00:00";

/// A sample event of the folder `events/`.
#[must_use]
pub fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the schedule sends.
#[must_use]
pub fn schedule() -> Value {
    event("ingest-schedule.json")
}

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

/// Adds a malicious file with something of its own and something that it shares with the others, and its submission,
/// finished in the sample's own minute.
pub fn add(estate: &mut Estate, id: u64) {
    estate.add_sample(SampleSpec {
        iocs: vec![
            Ioc::file(&format!("C:\\Temp\\drop-{id}.exe"), &format!("dropped by {id}")),
            Ioc::domain(&format!("c2-{id}.evil.test"), &["198.51.100.7"]),
            Ioc::domain("shared.evil.test", &[]),
        ],
        vtis: vec![Vti::new("Persistence", "Installs system startup script or application", 4)],
        techniques: vec![Technique::new("T1055", "Process Injection", &["Defense Evasion"])],
        threat_names: vec!["QakBot".to_owned()],
        ..SampleSpec::file(id, &file_name(id))
    });
    estate.add_submission(SubmissionSpec::finished(1000 + id, id, minute(id)));
}

/// The name under which a sample was submitted; no other sample's contains it.
#[must_use]
pub fn file_name(id: u64) -> String {
    format!("sample-{id}.exe")
}

/// The samples 1 to `count`, one a minute.
#[must_use]
pub fn estate(count: u64) -> Estate {
    let mut estate = Estate::new();
    (1..=count).for_each(|id| add(&mut estate, id));
    estate
}

/// The members of the secret.
#[must_use]
pub fn secret(vmray_api_key: &str, opencti_token: &str) -> Value {
    json!({"vmray_api_key": vmray_api_key, "opencti_token": opencti_token})
}

/// The binary, built from the sources as they are now, with nothing in it that only tests need. Built once, also when
/// that fails.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(build).as_deref().expect("ingest does not build; cargo has said why")
}

fn build() -> Option<PathBuf> {
    let mut cargo = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--package",
        "ingest",
        "--bin",
        "ingest",
        "--message-format",
        "json-render-diagnostics",
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit()).output().ok()?;
    let messages = String::from_utf8(built.stdout).ok()?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    executables.next_back().filter(|_| built.status.success())
}

/// Both servers, AWS, and one installation of the function between them.
pub struct World {
    /// The simulated VMRay.
    pub vmray: VmraySimulator,
    /// The simulated `OpenCTI`.
    pub opencti: OpenctiSimulator,
    /// The table and the secret.
    pub aws: Aws,
    settings: BTreeMap<String, String>,
}

impl World {
    /// A world with these samples, on moto.
    pub async fn new(estate: Estate) -> Self {
        Self::on(None, VmrayOptions { estate, ..VmrayOptions::default() }).await
    }

    /// A world with its table at `dynamodb`, or on moto, and with VMRay set up like this; the keys are the harness's.
    pub async fn on(dynamodb: Option<String>, vmray: VmrayOptions) -> Self {
        let aws = Aws::start(dynamodb, &secret(VMRAY_KEY, OPENCTI_TOKEN)).await;
        let vmray = VmrayOptions { api_keys: vec![VMRAY_KEY.to_owned()], ..vmray };
        let opencti = OpenctiOptions { tokens: vec![OPENCTI_TOKEN.to_owned()], ..OpenctiOptions::default() };
        let vmray = VmraySimulator::start(vmray).await.expect("a port on the loopback interface");
        let opencti = OpenctiSimulator::start(opencti).await.expect("a port on the loopback interface");
        let mut world = Self { vmray, opencti, aws, settings: BTreeMap::new() };
        world.set("OPENCTI_URL", &world.opencti.url());
        world.set("VMRAY_SERVER", &world.vmray.url());
        world.set("CONNECTOR_ID", CONNECTOR);
        world.set("VMRAY_INITIAL_FETCH_DATE", START);
        world.set("DISABLE_PROXY", "true");
        // Repeats need not be waited for.
        world.set("RETRY_BASE_MS", "1");
        for (name, value) in world.aws.variables() {
            world.set(name, &value);
        }
        world
    }

    /// Sets a variable of the function, for processes that start from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Makes the product write a bundle per sample of [`add`]: one has 29 objects, two have 45.
    pub fn one_sample_per_bundle(&mut self) {
        self.set("BUNDLE_MAX_OBJECTS", "30");
    }

    /// A new process of the function: a cold start.
    pub async fn lambda(&self) -> Lambda {
        Lambda::start(&self.settings).await
    }

    /// One invocation in a process of its own, which must succeed.
    pub async fn run(&self, event: Value) -> Value {
        self.lambda().await.invoke(event, MINUTES).await.answer()
    }

    /// Requests to VMRay so far.
    #[must_use]
    pub fn vmray_calls(&self) -> u64 {
        self.vmray.requests().len() as u64
    }

    /// Requests to `OpenCTI` so far.
    #[must_use]
    pub fn opencti_calls(&self) -> u64 {
        self.opencti.requests().len() as u64
    }

    /// The samples that have arrived, by the names of the reports about them.
    #[must_use]
    pub fn arrived(&self, candidates: std::ops::RangeInclusive<u64>) -> Vec<u64> {
        let platform = self.opencti.platform();
        let bundles = platform.bundles();
        let named = |id: &u64| bundles.iter().any(|bundle| bundle.text.contains(&file_name(*id)));
        candidates.filter(named).collect()
    }

    /// The different contents under which each object was pushed: two that share an object differ in its date.
    #[must_use]
    pub fn contents(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.pushed_objects().into_iter().map(|(id, contents)| (id, contents.into_iter().collect())).collect()
    }

    /// Every content of each object, in the order of the pushes.
    #[must_use]
    pub fn pushed_objects(&self) -> BTreeMap<String, Vec<String>> {
        let platform = self.opencti.platform();
        let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for object in platform.bundles().iter().flat_map(simulators::opencti::PushedBundle::objects) {
            let id = object["id"].as_str().unwrap_or_default().to_owned();
            objects.entry(id).or_default().push(object.to_string());
        }
        objects
    }
}

/// A process of the function, with what Lambda puts around it. Dropping it kills the process.
pub struct Lambda {
    api: RuntimeApi,
    child: Child,
    output: TempDir,
}

impl Lambda {
    async fn start(settings: &BTreeMap<String, String>) -> Self {
        let api = RuntimeApi::start().await;
        let output = TempDir::new().expect("a folder for the output");
        let file = |name: &str| File::create(output.path().join(name)).expect("a file for the output");
        let child = Command::new(binary())
            .env_clear()
            .envs(settings)
            .envs(environment(api.address()))
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .kill_on_drop(true)
            .spawn()
            .expect("the function can be started");
        Self { api, child, output }
    }

    /// Sends an event. The process handles one after the other.
    pub fn send(&self, event: Value, limit: Duration) -> Invocation<'_> {
        Invocation { ended: self.api.send(event, limit), lambda: self }
    }

    /// Sends an event and waits for what comes of it.
    pub async fn invoke(&self, event: Value, limit: Duration) -> Outcome {
        self.send(event, limit).outcome().await
    }

    /// Sends an event as `cargo lambda watch` does, whose deadline is the constant 600000.
    pub async fn invoke_in_the_emulator(&self, event: Value) -> Outcome {
        Invocation { ended: self.api.send_telling(event, MINUTES, Some(600_000)), lambda: self }
            .outcome()
            .await
    }

    /// Ends the process as Lambda does at the deadline: without a word. Comes back when it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a process of ours can be killed");
    }

    /// Everything printed so far: logs and metrics.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Everything printed so far where nothing should be.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// The lines of standard output, each of which must be JSON.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        self.stdout().lines().map(parse).collect()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.output.path().join(name)).expect("the output is text")
    }

    fn keeps_its_secrets(&self, outcome: &Outcome) {
        let said = format!("{outcome:?}\n{}\n{}", self.stdout(), self.stderr());
        for secret in [VMRAY_KEY, OPENCTI_TOKEN, NEXT_VMRAY_KEY, NEXT_OPENCTI_TOKEN, SUBMITTER] {
            assert!(!said.contains(secret), "{secret} was printed or answered: {said}");
        }
    }
}

/// What Lambda sets, and nothing of the person who runs the tests.
fn environment(runtime_api: &str) -> [(&'static str, &str); 14] {
    [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", "ingest"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/ingest"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/31/[$LATEST]0"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
        ("NO_PROXY", "127.0.0.1"),
        ("PATH", "/usr/bin:/bin"),
    ]
}

/// An event on its way.
pub struct Invocation<'a> {
    ended: oneshot::Receiver<(Outcome, Duration)>,
    lambda: &'a Lambda,
}

impl Invocation<'_> {
    /// What came of it. One that misses its deadline fails the test: Lambda would have killed it.
    pub async fn outcome(self) -> Outcome {
        let lambda = self.lambda;
        let Ok(Ok((outcome, late))) = tokio::time::timeout(SAFETY_NET, self.ended).await else {
            panic!("no answer; it printed: {}{}", lambda.stdout(), lambda.stderr());
        };
        assert!(late.is_zero(), "answered {late:?} after its deadline: {outcome:?}\n{}", lambda.stdout());
        lambda.keeps_its_secrets(&outcome);
        assert_eq!(lambda.stderr(), "", "everything is a line of JSON on standard output");
        outcome
    }
}

impl Outcome {
    /// The answer; an error fails the test.
    #[must_use]
    pub fn answer(self) -> Value {
        match self {
            Self::Answer(answer) => answer,
            Self::Error { kind, message } => panic!("it failed with {kind}: {message}"),
        }
    }

    /// The error's type and message; an answer fails the test.
    #[must_use]
    pub fn error(self) -> (String, String) {
        match self {
            Self::Error { kind, message } => (kind, message),
            Self::Answer(answer) => panic!("it did not fail: {answer}"),
        }
    }
}
