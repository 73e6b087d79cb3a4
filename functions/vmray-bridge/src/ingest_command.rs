//! `vmray-bridge ingest`: one run, or one after the other.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use ingest::history::HistoryLeft;
use ingest::{IngestEvent, Manual, RunAnswer, RunStatus, TimeLimit};
use runtime::settings::parse_duration;
use tokio::time::{Instant, sleep_until};

use crate::setup::{self, Access, Local};
use crate::{CommandFailure, StateArguments};

/// `OpenCTI` calls a connector inactive five minutes after its last ping.
const HEARTBEAT: Duration = Duration::from_mins(4);

/// How often `--every` runs when neither it nor `CONNECTOR_DURATION_PERIOD` says.
const DEFAULT_PERIOD: &str = "PT30M";

#[derive(Debug, clap::Args)]
pub(crate) struct IngestArguments {
    #[command(flatten)]
    state: StateArguments,
    /// Run again and again, this often; without a value as `CONNECTOR_DURATION_PERIOD` says
    #[arg(long, value_name = "PT30M", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["from", "to", "dry_run"])]
    every: Option<String>,
    /// Only what finished from here on; the cursor stays
    #[arg(long, value_name = "TIME", value_parser = setup::time)]
    from: Option<DateTime<Utc>>,
    /// Only what finished up to here
    #[arg(long, value_name = "TIME", value_parser = setup::time, requires = "from")]
    to: Option<DateTime<Utc>>,
    /// Read, map and validate; push and store nothing
    #[arg(long)]
    dry_run: bool,
}

impl IngestArguments {
    fn event(&self) -> Result<IngestEvent, CommandFailure> {
        let manual = Manual { from: self.from, to: self.to, dry_run: self.dry_run };
        if manual == Manual::default() {
            return Ok(IngestEvent::Scheduled);
        }
        manual.check().map_err(|error| CommandFailure::Usage(error.to_string()))?;
        Ok(IngestEvent::Manual(manual))
    }

    fn period(&self) -> Result<Option<Duration>, CommandFailure> {
        let Some(given) = &self.every else { return Ok(None) };
        let text = match given.as_str() {
            "" => {
                setup::environment("CONNECTOR_DURATION_PERIOD").unwrap_or_else(|| DEFAULT_PERIOD.to_owned())
            }
            text => text.to_owned(),
        };
        match parse_duration(&text) {
            Ok(period) if period >= Duration::from_secs(1) => Ok(Some(period)),
            _ => Err(CommandFailure::Usage(format!(
                "--every: {text:?} is no ISO 8601 duration of a second or more, such as PT30M"
            ))),
        }
    }
}

pub(crate) async fn run(arguments: IngestArguments) -> Result<ExitCode, CommandFailure> {
    let event = arguments.event()?;
    let period = arguments.period()?;
    let mut local = setup::local(setup::environment, arguments.state.state.clone()).await?;
    if std::io::stderr().is_terminal() {
        local.ingest = local.ingest.with_progress(Box::new(show_progress));
    }
    match period {
        None => {
            let answer = once(&local, event).await?;
            print(&answer, arguments.state.json);
            Ok(exit_code(answer.status))
        }
        Some(period) => {
            local.ingest = local.ingest.staying(period);
            forever(&local, period, arguments.state.json).await
        }
    }
}

async fn once(local: &Local, event: IngestEvent) -> Result<RunAnswer, CommandFailure> {
    match local.state.lock()? {
        Access::Granted(_lock) => Ok(local.ingest.handle(event, local.state.time_limit()).await),
        Access::Busy => Ok(setup::busy()),
    }
}

/// Runs until the process is ended, which is safe at any moment.
async fn forever(local: &Local, period: Duration, json: bool) -> Result<ExitCode, CommandFailure> {
    let mut next = Instant::now();
    let running = async {
        loop {
            match once(local, IngestEvent::Scheduled).await {
                Ok(answer) => print(&answer, json),
                Err(CommandFailure::Failed(message) | CommandFailure::Usage(message)) => {
                    tracing::error!(message, "run failed");
                }
            }
            next = (next + period).max(Instant::now());
            while Instant::now() + HEARTBEAT < next {
                sleep_until(Instant::now() + HEARTBEAT).await;
                local.ingest.handle(IngestEvent::Heartbeat, TimeLimit::NONE).await;
            }
            sleep_until(next).await;
        }
    };
    tokio::select! {
        () = running => Ok(ExitCode::SUCCESS),
        () = setup::interrupted() => Ok(ExitCode::SUCCESS),
    }
}

fn exit_code(status: RunStatus) -> ExitCode {
    if status == RunStatus::Failed { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

/// One line, written over the line before.
fn show_progress(answer: &RunAnswer) {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(
        stderr,
        "\r\x1b[K{} submissions, {} samples, {} objects in {} bundles\r",
        answer.submissions, answer.samples, answer.objects, answer.bundles
    );
    let _ = stderr.flush();
}

fn print(answer: &RunAnswer, json: bool) {
    let text = if json { serde_json::to_string(answer).unwrap_or_default() } else { summary(answer) };
    // Standard output may be closed by now; the runs go on.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// What a person wants to know of a run.
pub(crate) fn summary(answer: &RunAnswer) -> String {
    let delivered = if answer.dry_run { "would be delivered" } else { "delivered" };
    let mut lines = vec![format!(
        "{}: {} new submissions, {} samples {delivered} as {} objects in {} bundles, {} skipped ({:.1} s, {} VMRay and {} OpenCTI calls)",
        answer.status.as_str(),
        answer.submissions,
        answer.samples,
        answer.objects,
        answer.bundles,
        answer.skipped,
        Duration::from_millis(answer.duration_ms).as_secs_f64(),
        answer.calls.vmray,
        answer.calls.opencti,
    )];
    if answer.quarantined + answer.waiting > 0 {
        lines.push(format!(
            "in quarantine: {} failed, {} waiting for VMRay",
            answer.quarantined, answer.waiting
        ));
    }
    if !answer.left_out.is_empty() {
        let reasons: Vec<_> =
            answer.left_out.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        lines.push(format!("left out: {}", reasons.join(", ")));
    }
    for (reason, count) in &answer.rejected {
        lines.push(format!("refused by OpenCTI's workers: {count} x {reason}"));
    }
    if let Some(position) = answer.position {
        lines.push(format!("position: {}", position.to_rfc3339_opts(SecondsFormat::Secs, true)));
    }
    if let Some(history) = &answer.history {
        lines.push(format!("history: {}", history_left(history)));
    }
    if let Some(error) = &answer.error {
        lines.push(format!("error: {error}"));
    }
    lines.join("\n")
}

/// How far history is, for a person.
pub(crate) fn history_left(history: &HistoryLeft) -> String {
    let short = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let done = history.done_at.map_or(String::new(), |time| format!(", done about {}", short(time)));
    let days =
        if history.days_left == 1 { "1 day".to_owned() } else { format!("{} days", history.days_left) };
    format!("down to {}, {days} left to {}{done}", short(history.down_to), short(history.from))
}
