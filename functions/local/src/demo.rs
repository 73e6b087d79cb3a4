//! `vmray-bridge demo`: the whole flow on one machine, against simulators.
use std::process::ExitCode;
use crate::Failure;
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}
pub(crate) async fn run(_: Arguments) -> Result<ExitCode, Failure> { Ok(ExitCode::SUCCESS) }
