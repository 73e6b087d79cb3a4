//! `vmray-bridge serve`: the API of `submit` on one machine.

mod exchange;
mod places;
mod server;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use submit::hash::sha256;
use tokio::net::TcpListener;

use crate::CommandFailure;
use crate::key::new_key;
use crate::setup::{environment, interrupted};
use crate::submit_setup::local_submit;

/// The caller for whom a key is made when no callers are set.
const DEFAULT_CALLER: &str = "local";

/// Where and with which state.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// State file; without it `DynamoDB` if `TABLE_NAME` is set, else vmray-bridge.sqlite in this folder
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

pub(crate) async fn run(arguments: ServeArguments) -> Result<ExitCode, CommandFailure> {
    // Without a caller the API would be of no use.
    let made = (environment("CALLERS").is_none() && environment("SECRET_ARN").is_none()).then(new_key);
    let callers = made.as_ref().map(|key| json!({ DEFAULT_CALLER: {"keys": [sha256(key)]} }).to_string());
    let lookup = move |name: &str| match (name, &callers) {
        ("CALLERS", Some(callers)) => Some(callers.clone()),
        _ => environment(name),
    };
    let local = local_submit(lookup, arguments.state).await?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| CommandFailure::Failed(format!("cannot listen on {}: {error}", arguments.listen)))?;
    let address = listener.local_addr().map_err(CommandFailure::failed)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "keys and URLs cross the network unencrypted; put a TLS proxy in front, or listen on 127.0.0.1");
    }
    announce(address, made.as_deref());
    tokio::select! {
        () = local.work() => {}
        () = server::serve(listener, std::sync::Arc::clone(&local.submit), interrupted()) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The only place where a key is shown. The address comes last: a script that has read it can call.
fn announce(address: SocketAddr, key: Option<&str>) {
    let mut stdout = std::io::stdout().lock();
    if let Some(key) = key {
        // Standard output may be closed; the API serves all the same.
        let _ = writeln!(
            stdout,
            "CALLERS is not set: the caller `{DEFAULT_CALLER}` may use this key until the process ends\nx-api-key: {key}"
        );
    }
    let _ = writeln!(stdout, "listening on http://{address}");
    let _ = stdout.flush();
}
