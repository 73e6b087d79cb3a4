//! `vmray-bridge submit`: a collection of URLs from a file or standard input, submitted from this machine.

mod table;

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use runtime::http::Deadline;
use serde_json::{Map, Value, json};
use submit::Submit;
use submit::api::http::{Request, Response};
use submit::calls::Caller;
use tokio::time::{Instant, sleep};

use crate::CommandFailure;
use crate::setup::{environment, interrupted};
use crate::submit_setup::local_submit;

/// The caller under whose name this machine's operator submits.
const CALLER: &str = "operator";

/// More than any answer in this process takes.
const TIME_FOR_AN_ANSWER: Duration = Duration::from_mins(1);

/// Between two looks at what has become of the batch.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What to submit and how.
#[derive(Debug, clap::Args)]
pub(crate) struct SubmitArguments {
    /// File with URLs: one a line, CSV, or JSON of any shape that the API takes; `-` for standard input
    file: PathBuf,
    /// Wait so many seconds for verdicts, after everything is sent
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// An option of the call, such as `tags=phishing` or `retention_days=60`; may be repeated
    #[arg(short, long = "option", value_name = "NAME=VALUE", value_parser = option)]
    options: Vec<(String, String)>,
    /// Only say what would be sent
    #[arg(long)]
    check: bool,
    /// State file; without it `DynamoDB` if `TABLE_NAME` is set, else vmray-bridge.sqlite in this folder
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// One JSON document on one line
    #[arg(long)]
    json: bool,
}

fn option(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn run(arguments: SubmitArguments) -> Result<ExitCode, CommandFailure> {
    let body = read(&arguments.file)?;
    let local = local_submit(environment, arguments.state.clone()).await?;
    let session = Session { submit: &local.submit, show_progress: std::io::stderr().is_terminal() };
    let answer = async {
        if arguments.check {
            return session.check(body, &arguments.options).await;
        }
        session.submit_and_wait(body, &arguments.options, Duration::from_secs(arguments.wait)).await
    };
    let answer = tokio::select! {
        answer = answer => answer?,
        () = local.work() => return Ok(ExitCode::SUCCESS),
        () = interrupted() => {
            return Err(CommandFailure::Failed(
                "interrupted; what was accepted is in the state, and the next `submit` or `serve` goes on with it".to_owned(),
            ));
        }
    };
    let text = if arguments.json { answer.to_string() } else { table::of(&answer) };
    // Standard output may be closed by now.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Vec<u8>, CommandFailure> {
    let mut body = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut body).map(|_| body)
    } else {
        std::fs::read(file)
    };
    read.map_err(|error| CommandFailure::Usage(format!("cannot read {}: {error}", file.display())))
}

/// One use of the function, as its API's only caller.
struct Session<'a> {
    submit: &'a Submit,
    show_progress: bool,
}

impl Session<'_> {
    async fn check(&self, body: Vec<u8>, options: &[(String, String)]) -> Result<Value, CommandFailure> {
        self.call("POST", "/v1/check", "", with_options(body, options)?).await
    }

    async fn submit_and_wait(
        &self,
        body: Vec<u8>,
        options: &[(String, String)],
        wait: Duration,
    ) -> Result<Value, CommandFailure> {
        let accepted = self.call("POST", "/v1/submissions", "wait=0", with_options(body, options)?).await?;
        let batch = accepted["batch_id"].as_str().unwrap_or_default().to_owned();
        let path = format!("/v1/submissions/{batch}");
        let mut verdicts_until = None;
        loop {
            let looked_at = Instant::now();
            let state = self.call("GET", &path, "fields=summary", Vec::new()).await?;
            self.show(&state["counts"]);
            if state["done"] == true {
                break;
            }
            let counts = &state["counts"];
            let unsent = number(counts, "pending") + number(counts, "unconfirmed") > 0;
            if !unsent && Instant::now() >= *verdicts_until.get_or_insert(Instant::now() + wait) {
                break;
            }
            // A look at many thousands of URLs takes its time: sending them must not wait for it.
            sleep(LOOK_EVERY.max(looked_at.elapsed() * 5)).await;
        }
        self.end_progress();
        self.all_pages(&path).await
    }

    /// The batch with all of its results.
    async fn all_pages(&self, path: &str) -> Result<Value, CommandFailure> {
        let mut whole = self.call("GET", path, "limit=10000", Vec::new()).await?;
        while let Some(cursor) = whole["next_cursor"].as_str() {
            let query = format!("limit=10000&cursor={cursor}");
            let mut page = self.call("GET", path, &query, Vec::new()).await?;
            if let (Some(results), Some(more)) =
                (whole["results"].as_array_mut(), page["results"].as_array_mut())
            {
                results.append(more);
            }
            whole["next_cursor"] = page["next_cursor"].take();
        }
        Ok(whole)
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Value, CommandFailure> {
        let request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            body,
            ..Request::default()
        };
        let deadline = Deadline::at(Instant::now() + TIME_FOR_AN_ANSWER);
        let response = self.submit.handle_as(Caller::new(CALLER), &request, deadline).await;
        read_answer(&response)
    }

    /// One line, written over the line before.
    fn show(&self, counts: &Value) {
        if self.show_progress {
            let mut stderr = std::io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K{}\r", table::progress(counts));
            let _ = stderr.flush();
        }
    }

    fn end_progress(&self) {
        if self.show_progress {
            let _ = write!(std::io::stderr(), "\x1b[K");
        }
    }
}

fn number(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or_default()
}

/// The answer, or what is wrong with the file or with this machine.
fn read_answer(response: &Response) -> Result<Value, CommandFailure> {
    let answer: Value = serde_json::from_str(&response.body).unwrap_or_default();
    if response.status < 400 {
        return Ok(answer);
    }
    let mut message = answer["detail"].as_str().unwrap_or("no reason given").to_owned();
    // The problem's sentence already holds the first fault.
    for fault in answer["errors"].as_array().into_iter().flatten().skip(1) {
        let text = |name: &str| fault[name].as_str().unwrap_or_default().to_owned();
        // Writing to a String cannot fail.
        let _ = write!(message, "\n  {} {}", text("pointer"), text("detail"));
    }
    Err(if response.status < 500 { CommandFailure::Usage(message) } else { CommandFailure::Failed(message) })
}

/// Options on the command line go into the body; a list of URLs becomes JSON for it.
fn with_options(body: Vec<u8>, options: &[(String, String)]) -> Result<Vec<u8>, CommandFailure> {
    if options.is_empty() {
        return Ok(body);
    }
    let mut once = Map::new();
    for (name, value) in options {
        if once.insert(name.clone(), value.as_str().into()).is_some() {
            return Err(CommandFailure::Usage(format!("the option `{name}` is given twice")));
        }
    }
    let Ok(text) = String::from_utf8(body) else {
        return Err(CommandFailure::Usage("the file is not UTF-8".to_owned()));
    };
    let value = match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(mut object)) => {
            if object.contains_key("options") {
                return Err(CommandFailure::Usage(
                    "options stand in the file and on the command line; use one of both".to_owned(),
                ));
            }
            object.insert("options".to_owned(), once.into());
            Value::Object(object)
        }
        Ok(list @ Value::Array(_)) => json!({"urls": list, "options": once}),
        _ => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            json!({"urls": lines.collect::<Vec<_>>(), "options": once})
        }
    };
    Ok(value.to_string().into_bytes())
}
