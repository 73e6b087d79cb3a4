//! `vmray-bridge`: VMRay Bridge on one machine, and the operator's commands.
//!
//! Results go to standard output (`--json`: one document on one line), logs and progress to standard error. Exit codes:
//! 0 for done, partial, busy and buffering, 1 for failed, 2 for wrong settings or arguments.

mod cursor;
mod demo;
mod doctor;
mod ingest_command;
mod key;
mod quarantine;
mod serve;
mod setup;
mod submit_command;
mod submit_setup;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// VMRay sandbox results into OpenCTI as STIX 2.1, and URLs from playbooks into VMRay.
#[derive(Debug, Parser)]
#[command(name = "vmray-bridge", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move what is new in VMRay into OpenCTI
    Ingest(ingest_command::IngestArguments),
    /// Submit a collection of URLs to VMRay, each once, and show what became of them
    Submit(submit_command::SubmitArguments),
    /// Serve the API for SOAR playbooks on this machine
    Serve(serve::ServeArguments),
    /// Show the whole flow against built-in simulators of VMRay and OpenCTI
    Demo(demo::DemoArguments),
    /// Check settings, keys, both servers and the store; say what to do
    Doctor(StateArguments),
    /// Show or move the position up to which everything is ingested
    Cursor(StateCommand<cursor::CursorAction>),
    /// Show, retry or drop samples that could not be ingested
    Quarantine(StateCommand<quarantine::QuarantineAction>),
    /// Make a key for a caller of the API
    Key(key::KeyArguments),
}

#[derive(Debug, Clone, clap::Args)]
struct StateArguments {
    /// State file; without it `DynamoDB` if `TABLE_NAME` is set, else vmray-bridge.sqlite in this folder
    #[arg(long, value_name = "FILE", global = true)]
    state: Option<PathBuf>,
    /// One JSON document on one line
    #[arg(long, global = true)]
    json: bool,
}

/// What an operator does with the state.
#[derive(Debug, clap::Args)]
struct StateCommand<A: Subcommand> {
    #[command(flatten)]
    state: StateArguments,
    #[command(subcommand)]
    action: A,
}

/// Why a command failed, and by whose fault.
#[derive(Debug)]
enum CommandFailure {
    /// Settings or arguments: exit code 2.
    Usage(String),
    /// Everything else: exit code 1.
    Failed(String),
}

impl CommandFailure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The state file has one connection: more threads would only wait for it, each with memory of its own.
const BLOCKING_THREADS: usize = 4;

fn main() -> ExitCode {
    let command = CommandLine::parse().command;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    match runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).build() {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => {
            eprintln!("vmray-bridge: cannot start: {error}");
            ExitCode::from(1)
        }
    }
}

async fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Ingest(arguments) => ingest_command::run(arguments).await,
        Command::Submit(arguments) => submit_command::run(arguments).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Key(arguments) => key::run(arguments),
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Doctor(arguments) => doctor::run(arguments).await,
        Command::Cursor(arguments) => cursor::run(arguments).await,
        Command::Quarantine(arguments) => quarantine::run(arguments).await,
    };
    match result {
        Ok(code) => code,
        Err(CommandFailure::Failed(message)) => {
            eprintln!("vmray-bridge: {message}");
            ExitCode::from(1)
        }
        Err(CommandFailure::Usage(message)) => {
            eprintln!("vmray-bridge: {message}");
            ExitCode::from(2)
        }
    }
}
