//! `vmray-bridge cursor`: how far ingest has come.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use ingest::cursor::{Cursor, StoredCursor};
use ingest::event::parse_time;
use ingest::history::{Beginning, HistoryOrder};
use ingest::settings::history_order;

use crate::ingest_command::history_left;
use crate::setup::{self, Access, StateStore, environment};
use crate::{CommandFailure, StateCommand};

#[derive(Debug, Subcommand)]
pub(crate) enum CursorAction {
    /// Print it
    Show,
    /// Go on from this finish time; history before it stays as it is
    Set {
        /// YYYY-MM-DD or RFC 3339
        #[arg(value_parser = setup::time)]
        position: DateTime<Utc>,
    },
    /// Begin anew, as `VMRAY_INITIAL_FETCH_DATE` and `HISTORY` say; deletes nothing
    Reset,
}

/// What becomes of the cursor.
enum CursorChange {
    GoOnAt(DateTime<Utc>),
    Begin(Beginning),
}

pub(crate) async fn run(arguments: StateCommand<CursorAction>) -> Result<ExitCode, CommandFailure> {
    let change = match arguments.action {
        CursorAction::Show => None,
        CursorAction::Set { position } => Some(CursorChange::GoOnAt(position)),
        CursorAction::Reset => Some(CursorChange::Begin(beginning()?)),
    };
    let connector_id = setup::connector_id()?;
    let state = StateStore::open(arguments.state.state).await?;
    let store = state.store();
    let mut stored =
        StoredCursor::load(store.as_ref(), &connector_id).await.map_err(CommandFailure::failed)?;
    if let Some(change) = change {
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
        match change {
            CursorChange::GoOnAt(position) => stored.cursor.go_on_at(position),
            CursorChange::Begin(beginning) => stored.cursor.begin(beginning),
        }
        stored.save().await.map_err(CommandFailure::failed)?;
    }
    print(&stored.cursor, arguments.state.json);
    Ok(ExitCode::SUCCESS)
}

fn beginning() -> Result<Beginning, CommandFailure> {
    let name = "HISTORY";
    let order = environment(name).map_or(Ok(HistoryOrder::NewestFirst), |text| history_order(text.trim()));
    let order = order.map_err(|problem| CommandFailure::Usage(format!("{name}: {problem}")))?;
    Ok(Beginning::new(order, initial_date()?, Utc::now()))
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
            "history": cursor.history.map(|history| history.left(Utc::now())),
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
    if let Some(history) = &cursor.history {
        println!("history:     {}", history_left(&history.left(Utc::now())));
    }
    println!("remembered:  {} submissions near or beyond it", cursor.handled.len());
    println!("checked:     {}", time(cursor.checked_at));
    println!("last reset:  {}", cursor.state_timestamp.as_deref().unwrap_or("unknown"));
    if let Some(lease) = &cursor.lease {
        println!("lease:       run {} until {}", lease.owner, lease.until.to_rfc3339());
    }
}
