//! A Lambda function as a child process, as Lambda runs it: one process is one execution environment.
//!
//! It knows the functions only by the names of their binaries. What every process prints and answers is searched for
//! what it must keep to itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use crate::binary::built;
use crate::runtime_api::{Outcome, RuntimeApi};

/// A time limit that no test reaches.
pub const MINUTES: Duration = Duration::from_mins(5);

/// Only so that a test that hangs ends: a process may start, and answers within its limit or far earlier.
pub(crate) const SAFETY_NET: Duration = Duration::from_mins(1);

/// The memory of a function of which nothing else is said, in MiB.
const MEMORY: u64 = 256;

/// A sample event of the folder `events/`.
#[must_use]
pub fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../events").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A binary with a Lambda function in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The package `ingest`.
    Ingest,
    /// The package `submit`.
    Submit,
    /// A binary that is built already.
    At(&'static Path),
}

impl Program {
    /// The binary, as cargo has built it.
    #[must_use]
    pub fn binary(self) -> PathBuf {
        match self {
            Self::Ingest => built("ingest"),
            Self::Submit => built("submit"),
            Self::At(path) => path.to_owned(),
        }
    }
}

/// A function as it is deployed: a binary, its settings, and what no process of it may print or answer.
#[derive(Clone)]
pub struct Function {
    program: Program,
    name: String,
    settings: BTreeMap<String, String>,
    memory: u64,
    secrets: Arc<[String]>,
    unprinted: Arc<[String]>,
}

impl Function {
    /// A function of this name.
    #[must_use]
    pub fn new(program: Program, name: &str, settings: &BTreeMap<String, String>, secrets: &[&str]) -> Self {
        let secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        let unprinted = Arc::new([]);
        Self {
            program,
            name: name.to_owned(),
            settings: settings.clone(),
            memory: MEMORY,
            secrets,
            unprinted,
        }
    }

    /// The same with so much memory, in MiB. Nothing enforces it; see [`Lambda::peak_memory`].
    #[must_use]
    pub fn with_memory(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// What its processes may answer but not print.
    #[must_use]
    pub fn not_printing(mut self, texts: &[&str]) -> Self {
        self.unprinted = texts.iter().map(|&text| text.to_owned()).collect();
        self
    }

    /// A new process of it: a cold start.
    pub async fn start(&self) -> Lambda {
        let api = RuntimeApi::start(&self.name).await;
        let output = TempDir::new().expect("a folder for the output");
        let file = |name: &str| File::create(output.path().join(name)).expect("a file for the output");
        let child = Command::new(self.program.binary())
            .env_clear()
            .envs(&self.settings)
            .envs(environment(&self.name, self.memory, api.address()))
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .kill_on_drop(true)
            .spawn()
            .expect("the function can be started");
        Lambda {
            api,
            process: Process::watch(child),
            output,
            secrets: Arc::clone(&self.secrets),
            unprinted: Arc::clone(&self.unprinted),
        }
    }
}

/// A child process that is waited for.
struct Process {
    id: u32,
    kill: Arc<Notify>,
    ended: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Process {
    fn watch(mut child: Child) -> Self {
        let id = child.id().expect("a process that was not waited for has a number");
        let kill = Arc::new(Notify::new());
        let (sender, ended) = watch::channel(false);
        let killed = Arc::clone(&kill);
        let task = tokio::spawn(async move {
            tokio::select! {
                _ = child.wait() => {}
                () = killed.notified() => {
                    // An error is a process that has just ended by itself.
                    let _ = child.kill().await;
                }
            }
            sender.send_replace(true);
        });
        Self { id, kill, ended, task }
    }

    /// Comes back when the process is gone.
    async fn end(&self) {
        // An error is a watcher that is gone, and the process with it.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The child is killed where the task drops it.
        self.task.abort();
    }
}

/// A process of the function, with what Lambda puts around it. Dropping it kills the process.
pub struct Lambda {
    api: RuntimeApi,
    process: Process,
    output: TempDir,
    secrets: Arc<[String]>,
    unprinted: Arc<[String]>,
}

impl Lambda {
    /// Sends an event. The process handles one after the other.
    #[must_use]
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
        self.process.kill.notify_one();
        self.process.end().await;
    }

    /// Kills the process when it is notified, for those who do not hold the process itself.
    #[must_use]
    pub fn killer(&self) -> Arc<Notify> {
        Arc::clone(&self.process.kill)
    }

    /// Freezes the process, as Lambda does once it has answered: work that it left undone stays undone. Thaw it before
    /// the next event.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        assert!(self.is_running(), "the process has ended");
        let command = format!("kill -{name} {}", self.process.id);
        let sent =
            std::process::Command::new("sh").args(["-c", &command]).status().expect("there is a shell");
        assert!(sent.success(), "{command}: {sent}");
    }

    /// The most memory that the process has held so far, in MiB.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id)).expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.expect("a peak in kB").div_ceil(1024)
    }

    /// Whether the process is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !*self.process.ended.borrow()
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

    /// What Lambda says of a process that ended without an answer.
    fn exit(&self) -> Outcome {
        let message = format!("the process ended; it printed: {}{}", self.stdout(), self.stderr());
        let outcome = Outcome::Error { kind: "Runtime.ExitError".to_owned(), message };
        self.keeps_its_secrets(&outcome);
        outcome
    }

    fn keeps_its_secrets(&self, outcome: &Outcome) {
        let said = format!("{outcome:?}\n{}\n{}", self.stdout(), self.stderr());
        for secret in &*self.secrets {
            assert!(!said.contains(secret.as_str()), "{secret} was printed or answered: {said}");
        }
        let printed = format!("{}\n{}", self.stdout(), self.stderr());
        for text in &*self.unprinted {
            assert!(!printed.contains(text.as_str()), "{text} was printed: {printed}");
        }
    }
}

/// What Lambda sets, and nothing of the person who runs the tests.
fn environment(name: &str, memory: u64, runtime_api: &str) -> [(&'static str, String); 14] {
    let log_group = format!("/aws/lambda/{name}");
    let memory = memory.to_string();
    [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", name),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
        ("AWS_LAMBDA_LOG_GROUP_NAME", &log_group),
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
    .map(|(variable, value)| (variable, value.to_owned()))
}

/// An event on its way.
pub struct Invocation<'a> {
    ended: oneshot::Receiver<(Outcome, Duration)>,
    lambda: &'a Lambda,
}

impl Invocation<'_> {
    /// What came of it. One that misses its deadline fails the test: Lambda would have killed it. A process that ends
    /// without an answer is an error, as on Lambda.
    pub async fn outcome(self) -> Outcome {
        let lambda = self.lambda;
        let ended = async {
            tokio::select! {
                biased;
                ended = self.ended => ended.ok(),
                () = lambda.process.end() => None,
            }
        };
        let Ok(ended) = tokio::time::timeout(SAFETY_NET, ended).await else {
            panic!("no answer; it printed: {}{}", lambda.stdout(), lambda.stderr());
        };
        let Some((outcome, late)) = ended else { return lambda.exit() };
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
