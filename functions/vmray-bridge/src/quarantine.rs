//! `vmray-bridge quarantine`: samples that could not be ingested.

use std::process::ExitCode;

use chrono::{SecondsFormat, Utc};
use clap::Subcommand;
use ingest::quarantine::{Quarantine, QuarantineState, QuarantinedSample};
use vmray::model::SampleId;

use crate::setup::{self, StateStore};
use crate::{CommandFailure, StateCommand};

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineAction {
    /// Print what is in it, and why
    List,
    /// Try again in the next run, also what was given up
    Retry(Which),
    /// Forget; a new submission of the sample brings it back
    Drop(Which),
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// Numbers of samples
    #[arg(value_name = "SAMPLE")]
    samples: Vec<SampleId>,
    /// Every sample
    #[arg(long)]
    all: bool,
}

pub(crate) async fn run(arguments: StateCommand<QuarantineAction>) -> Result<ExitCode, CommandFailure> {
    let connector_id = setup::connector_id()?;
    let state = StateStore::open(arguments.state.state).await?;
    let store = state.store();
    let mut quarantine =
        Quarantine::load(store.as_ref(), &connector_id).await.map_err(CommandFailure::failed)?;
    let json = arguments.state.json;
    match arguments.action {
        QuarantineAction::List => {
            list(&quarantine, json);
            Ok(ExitCode::SUCCESS)
        }
        QuarantineAction::Retry(which) => change(&mut quarantine, which, Change::Retry, json).await,
        QuarantineAction::Drop(which) => change(&mut quarantine, which, Change::Drop, json).await,
    }
}

#[derive(Clone, Copy)]
enum Change {
    Retry,
    Drop,
}

async fn change(
    quarantine: &mut Quarantine<'_>,
    which: Which,
    change: Change,
    json: bool,
) -> Result<ExitCode, CommandFailure> {
    let samples: Vec<SampleId> =
        if which.all { quarantine.entries().map(|entry| entry.sample_id).collect() } else { which.samples };
    let changed = match change {
        Change::Retry => quarantine.retry(&samples, Utc::now()).await,
        Change::Drop => quarantine.remove(&samples).await,
    };
    let changed = changed.map_err(CommandFailure::failed)?;
    let unknown: Vec<SampleId> = samples.into_iter().filter(|sample| !changed.contains(sample)).collect();
    let verb = match change {
        Change::Retry => "retried",
        Change::Drop => "dropped",
    };
    if json {
        println!("{}", serde_json::json!({ verb: changed, "unknown": unknown }));
    } else {
        println!("{} {verb}", changed.len());
    }
    if unknown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let unknown: Vec<_> = unknown.iter().map(ToString::to_string).collect();
    Err(CommandFailure::Failed(format!("not in quarantine: {}", unknown.join(", "))))
}

fn list(quarantine: &Quarantine<'_>, json: bool) {
    if json {
        let entries: Vec<&QuarantinedSample> = quarantine.entries().collect();
        println!("{}", serde_json::json!({ "samples": entries }));
        return;
    }
    let counts = quarantine.counts();
    println!("{} failed, {} waiting for VMRay", counts.failed, counts.waiting);
    for entry in quarantine.entries() {
        let state = match entry.state {
            QuarantineState::Waiting => "waiting",
            QuarantineState::Failed if entry.given_up => "given up",
            QuarantineState::Failed => "failed",
        };
        let next = if entry.given_up {
            "not by itself".to_owned()
        } else {
            entry.next_attempt.to_rfc3339_opts(SecondsFormat::Secs, true)
        };
        println!(
            "sample {:<10} {state:<8} {:<15} {} attempts, next {next}: {}",
            entry.sample_id.0,
            entry.reason.as_str(),
            entry.attempts,
            entry.detail
        );
    }
}
