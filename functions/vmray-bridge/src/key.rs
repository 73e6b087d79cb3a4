//! `vmray-bridge key new`: a key for a caller, and what the secret must hold of it.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;
use submit::api::callers::Callers;
use submit::hash::sha256;

use crate::CommandFailure;

/// What every key begins with, so that a scanner for leaked secrets knows one when it sees one.
const PREFIX: &str = "vmb_";

#[derive(Debug, clap::Args)]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key for a caller, and show what belongs into the secret
    New {
        /// The caller's name: letters, digits, `-`, `_` and `.`
        name: String,
        /// One JSON document on one line
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(arguments: KeyArguments) -> Result<ExitCode, CommandFailure> {
    let KeyCommand::New { name, json } = arguments.command;
    let key = new_key();
    let hash = sha256(&key);
    let callers = json!({ name.clone(): {"keys": [hash]} });
    // The same check that will read it.
    Callers::read(Some(&callers)).map_err(CommandFailure::Usage)?;
    if json {
        println!("{}", json!({"name": name, "key": key, "sha256": hash}));
        return Ok(ExitCode::SUCCESS);
    }
    println!("key for {name}, shown only now:\n  {key}");
    println!(
        "its SHA-256, for `callers` of the secret (a caller may have two, the old one and the new one):\n  {hash}"
    );
    println!("for CALLERS on one machine:\n  CALLERS='{callers}'");
    Ok(ExitCode::SUCCESS)
}

/// A new key of 244 random bits.
pub(crate) fn new_key() -> String {
    let random = || uuid::Uuid::new_v4().simple().to_string();
    format!("{PREFIX}{}{}", random(), random())
}
