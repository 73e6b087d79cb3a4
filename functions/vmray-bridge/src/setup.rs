//! Puts the functions together for one machine: settings and keys from the environment, state in a file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use ingest::event::parse_time;
use ingest::settings::{Deployment, IngestSettings};
use ingest::{Ingest, LeaseKind, RunAnswer, RunStatus, TimeLimit};
use runtime::aws;
use runtime::secrets::{Keys, Secrets};
use runtime::settings::{Host, Lookup, SettingsError};
use runtime::telemetry::{self, Output};
use store::Store;
use store::dynamodb::DynamoStore;
use store::sqlite::{RunLock, SqliteStore};

use crate::CommandFailure;

/// The state file when nothing else is said.
const STATE_FILE: &str = "vmray-bridge.sqlite";

/// The process's environment, blank variables left out.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// A point in time on the command line.
pub(crate) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    parse_time(text).ok_or_else(|| "expected YYYY-MM-DD or an RFC 3339 time".to_owned())
}

/// The connector whose state is meant.
pub(crate) fn connector_id() -> Result<String, CommandFailure> {
    environment("CONNECTOR_ID")
        .map(|id| id.trim().to_owned())
        .ok_or_else(|| CommandFailure::Usage("CONNECTOR_ID: must be set; the state belongs to it".to_owned()))
}

/// Where the state is.
pub(crate) enum StateStore {
    /// A file on this machine.
    File(SqliteStore),
    /// A deployment's table.
    Table(Arc<DynamoStore>),
}

impl StateStore {
    /// `--state`, else `TABLE_NAME`, else the file in this folder.
    pub(crate) async fn open(file: Option<PathBuf>) -> Result<Self, CommandFailure> {
        if file.is_none()
            && let Some(table) = environment("TABLE_NAME")
        {
            return Ok(Self::Table(Arc::new(DynamoStore::new(&aws::sdk_config().await, table))));
        }
        let path = file.unwrap_or_else(|| PathBuf::from(STATE_FILE));
        SqliteStore::open(path).map(Self::File).map_err(CommandFailure::failed)
    }

    /// As a store of documents.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::File(file) => Arc::new(file.clone()),
            Self::Table(table) => Arc::clone(table) as Arc<dyn Store>,
        }
    }

    /// Asks for the right to change the state.
    pub(crate) fn lock(&self) -> Result<Access, CommandFailure> {
        match self {
            Self::File(file) => {
                let lock = file.try_lock().map_err(CommandFailure::failed)?;
                Ok(lock.map_or(Access::Busy, |lock| Access::Granted(Some(lock))))
            }
            Self::Table(_) => Ok(Access::Granted(None)),
        }
    }

    /// How long one run may take. In a table the lease outlives a process that is killed, so it must not be long.
    pub(crate) fn time_limit(&self) -> TimeLimit {
        match self {
            Self::File(_) => TimeLimit::NONE,
            Self::Table(_) => TimeLimit(Duration::from_mins(15)),
        }
    }

    fn lease(&self) -> LeaseKind {
        match self {
            Self::File(_) => LeaseKind::HeldByCaller,
            Self::Table(_) => LeaseKind::Document,
        }
    }
}

/// Whether the state may be changed now.
pub(crate) enum Access {
    /// As long as this lives; a table's lease is in the table itself.
    Granted(Option<RunLock>),
    /// Another process is changing it.
    Busy,
}

/// `ingest` for this machine, and its state.
pub(crate) struct Local {
    pub(crate) ingest: Ingest,
    pub(crate) state: StateStore,
}

/// Reads settings and keys through `lookup`, starts logging, opens the state.
pub(crate) async fn local(
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    file: Option<PathBuf>,
) -> Result<Local, CommandFailure> {
    let settings = settings(&lookup)?;
    let state = StateStore::open(file).await?;
    let secrets = match &settings.deployment {
        Deployment::Lambda { secret_arn, .. } | Deployment::Local { secret_arn: Some(secret_arn), .. } => {
            Secrets::from_secrets_manager(&aws::sdk_config().await, secret_arn.clone())
                .keeping(Keys::suffice_for_ingest)
        }
        Deployment::Local { secret_arn: None, .. } => Secrets::from_environment(lookup),
    };
    let ingest = Ingest::new(settings, state.store(), Arc::new(secrets), state.lease());
    Ok(Local { ingest, state })
}

/// All settings, or every wrong one at once.
pub(crate) fn settings(lookup: Lookup<'_>) -> Result<IngestSettings, CommandFailure> {
    let read = IngestSettings::read(lookup, Host::Local, Utc::now());
    let (settings, warnings) = read.map_err(|error| CommandFailure::Usage(explain(&error)))?;
    telemetry::init(settings.log_level, Output::Stderr);
    for warning in warnings {
        tracing::warn!(setting = warning.name, "{}", warning.message);
    }
    Ok(settings)
}

pub(crate) fn explain(error: &SettingsError) -> String {
    let problems = error.problems.iter().map(|problem| format!("  {}: {}", problem.name, problem.message));
    let problems: Vec<_> = problems.collect();
    format!("{} setting(s) are wrong:\n{}", problems.len(), problems.join("\n"))
}

/// The answer of a run that another process prevents.
pub(crate) fn busy() -> RunAnswer {
    let mut answer = RunAnswer::new(uuid::Uuid::new_v4().to_string());
    answer.status = RunStatus::Busy;
    answer
}

/// Ctrl-C, or SIGTERM from a service manager.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
