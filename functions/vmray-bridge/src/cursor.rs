//! `vmray-bridge cursor`: how far ingest has come.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ingest::cursor::{Cursor, StoredCursor};
use ingest::event::parse_time;

use crate::setup::{self, Access, StateStore, environment};
use crate::{CommandFailure, StateCommand};

#[derive(Debug, Subcommand)]
pub(crate) enum CursorAction {
    /// Print it
    Show,
    /// Go on from this finish time
    Set {
        /// YYYY-MM-DD or RFC 3339
        #[arg(value_parser = setup::time)]
        position: DateTime<Utc>,
    },
    /// Go on from the initial date (`VMRAY_INITIAL_FETCH_DATE`); deletes nothing
    Reset,
}

pub(crate) async fn run(arguments: StateCommand<CursorAction>) -> Result<ExitCode, CommandFailure> {
    let position = match arguments.action {
        CursorAction::Show => None,
        CursorAction::Set { position } => Some(position),
        CursorAction::Reset => Some(initial_date()?),
    };
    let connector_id = setup::connector_id()?;
    let state = StateStore::open(arguments.state.state).await?;
    let store = state.store();
    let mut stored =
        StoredCursor::load(store.as_ref(), &connector_id).await.map_err(CommandFailure::failed)?;
    if let Some(position) = position {
        let Access::Granted(_lock) = state.lock()? else {
            return Err(CommandFailure::Failed("a run is going on; try again when it has ended".to_owned()));
        };
        if let Some(lease) = stored.cursor.lease.as_ref().filter(|lease| lease.until > Utc::now()) {
            let message = format!(
                "run {} is going on until {} at the latest; try again then",
                lease.owner, lease.until
            );
            return Err(CommandFailure::Failed(message));
        }
        stored.cursor.start_at(position);
        stored.save().await.map_err(CommandFailure::failed)?;
    }
    print(&stored.cursor, arguments.state.json);
    Ok(ExitCode::SUCCESS)
}

fn initial_date() -> Result<DateTime<Utc>, CommandFailure> {
    let name = "VMRAY_INITIAL_FETCH_DATE";
    let text = environment(name)
        .ok_or_else(|| CommandFailure::Usage(format!("{name}: must be set to reset to it")))?;
    parse_time(&text)
        .ok_or_else(|| CommandFailure::Usage(format!("{name}: {text:?} is neither YYYY-MM-DD nor RFC 3339")))
}

fn print(cursor: &Cursor, json: bool) {
    if json {
        let document = serde_json::json!({
            "position": cursor.position,
            "remembered": cursor.handled.len(),
            "checked_at": cursor.checked_at,
            "state_timestamp": cursor.state_timestamp,
            "lease": cursor.lease,
        });
        println!("{document}");
        return;
    }
    let time = |time: Option<DateTime<Utc>>| time.map_or("never".to_owned(), |time| time.to_rfc3339());
    println!("position:    {}", cursor.position.map_or("not started".to_owned(), |time| time.to_rfc3339()));
    println!("remembered:  {} submissions near or beyond it", cursor.handled.len());
    println!("checked:     {}", time(cursor.checked_at));
    println!("last reset:  {}", cursor.state_timestamp.as_deref().unwrap_or("unknown"));
    if let Some(lease) = &cursor.lease {
        println!("lease:       run {} until {}", lease.owner, lease.until.to_rfc3339());
    }
}
