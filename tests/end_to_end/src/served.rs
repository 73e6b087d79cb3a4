//! `vmray-bridge serve` as a child process, with a client that has a key.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::local::{World, no_secret_in};

/// Only so that a test that hangs ends.
const SAFETY_NET: Duration = Duration::from_mins(1);

/// Between two looks at a file or at a batch.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server; killed when it is dropped.
pub struct Served {
    /// Host and port.
    pub address: String,
    /// The key that it made; empty when its callers have theirs.
    pub key: String,
    child: Child,
    http: reqwest::Client,
    output: [PathBuf; 2],
}

impl World {
    /// Starts `vmray-bridge serve` on a free port, with this world's variables and state file.
    pub async fn serve(&self) -> Served {
        let number = uuid::Uuid::new_v4();
        // Beside the state file, whose folder is searched for secrets at the end.
        let output =
            ["out", "err"].map(|kind| self.state_file().with_file_name(format!("serve-{number}.{kind}")));
        let mut command: Command = self.bridge(&["serve", "--listen", "127.0.0.1:0"]).into();
        let [stdout, stderr] = output.each_ref().map(|path| Stdio::from(File::create(path).unwrap()));
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut served = Served { address: String::new(), key: String::new(), child, http, output };
        let announced = timeout(SAFETY_NET, served.announced()).await;
        (served.address, served.key) = announced.expect("it does not say where it listens");
        served
    }
}

impl Served {
    async fn announced(&mut self) -> (String, String) {
        loop {
            let said = std::fs::read_to_string(&self.output[0]).unwrap();
            let after = |text: &str| said.lines().find_map(|line| Some(line.split_once(text)?.1.to_owned()));
            // The last line.
            if let Some(address) = after("http://") {
                return (address, after("x-api-key: ").unwrap_or_default());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Everything logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.output[1]).unwrap()
    }

    /// A request without a key.
    pub fn request(&self, method: reqwest::Method, target: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{target}", self.address))
    }

    /// Submits a body, and gives status and answer.
    pub async fn submit(&self, target: &str, body: &Value) -> (u16, Value) {
        let request = self.request(reqwest::Method::POST, target).header("x-api-key", &self.key);
        read(request.body(body.to_string()).send().await.unwrap()).await
    }

    /// Asks for something.
    pub async fn get(&self, target: &str) -> (u16, Value) {
        let request = self.request(reqwest::Method::GET, target).header("x-api-key", &self.key);
        read(request.send().await.unwrap()).await
    }

    /// Asks for a batch until its answer is as wanted.
    pub async fn until(&self, batch: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let (_, answer) = self.get(&format!("/v1/submissions/{batch}")).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        timeout(SAFETY_NET, asking).await.unwrap_or_else(|_| panic!("it never came: {}", self.log()))
    }

    /// A connection of one's own.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// The process's number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it has not ended")
    }

    /// Waits for its end, and gives its exit code.
    pub async fn end(mut self) -> Option<i32> {
        let status = timeout(SAFETY_NET, self.child.wait()).await;
        status.expect("the process does not end").unwrap().code()
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            no_secret_in("the log", self.log().as_bytes());
            assert!(self.key.is_empty() || !self.log().contains(&self.key), "the caller's key is in the log");
        }
    }
}

/// Status and body of an answer, which is always JSON.
pub async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    (status, answer)
}
