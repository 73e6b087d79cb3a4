//! Lambda's entry into `ingest`, and nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::Utc;
use ingest::settings::{Deployment, IngestSettings};
use ingest::{FailureKind, Ingest, IngestEvent, LeaseKind, RunAnswer, RunError, RunStatus, TimeLimit};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use runtime::aws;
use runtime::secrets::{Keys, Secrets};
use runtime::settings::Host;
use runtime::telemetry::{self, Output};
use serde_json::Value;
use store::dynamodb::DynamoStore;

/// Warming up may not make an outage of AWS a crash loop of ours.
const WARM_UP: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    // Wrong settings do not end the process either: every event is answered with all of them.
    let ingest = Arc::new(set_up().await);
    lambda_runtime::run(service_fn(move |event| {
        let ingest = Arc::clone(&ingest);
        async move { handle(&ingest, event).await }
    }))
    .await
}

async fn set_up() -> Result<Ingest, RunError> {
    let lookup = |name: &str| std::env::var(name).ok();
    let (settings, warnings) = IngestSettings::read(&lookup, Host::Lambda, Utc::now())
        .inspect_err(|_| telemetry::init(tracing::Level::INFO, Output::Stdout))?;
    telemetry::init(settings.log_level, Output::Stdout);
    for warning in warnings {
        tracing::warn!(setting = warning.name, "{}", warning.message);
    }
    let (table, secret) = match &settings.deployment {
        Deployment::Lambda { table_name, secret_arn } => (table_name.clone(), secret_arn.clone()),
        Deployment::Local { .. } => unreachable!("settings were read for Lambda"),
    };
    let aws = aws::sdk_config().await;
    let secrets = Arc::new(Secrets::from_secrets_manager(&aws, secret).keeping(Keys::suffice_for_ingest));
    if let Ok(Err(error)) = tokio::time::timeout(WARM_UP, secrets.keys()).await {
        tracing::warn!(%error, "the keys could not be read yet; the first event tries again");
    }
    Ok(Ingest::new(settings, Arc::new(DynamoStore::new(&aws, table)), secrets, LeaseKind::Document))
}

async fn handle(
    ingest: &Result<Ingest, RunError>,
    event: LambdaEvent<Value>,
) -> Result<RunAnswer, Diagnostic> {
    let ingest = ingest.as_ref().map_err(diagnostic)?;
    let order = IngestEvent::parse(&event.payload).map_err(|error| diagnostic(&error.into()))?;
    let answer = ingest.handle(order, time_left(event.context.deadline)).await;
    // Figures of what was only tried would look like deliveries on a dashboard.
    if answer.status != RunStatus::Heartbeat && !answer.dry_run {
        println!("{}", answer.metrics(Utc::now()));
    }
    // A failed run is a failed invocation: Lambda's error metric and the on-failure destination see it.
    match (&answer.status, answer.error_kind) {
        (RunStatus::Failed, kind) => Err(Diagnostic {
            error_type: kind.map_or("RunFailed", FailureKind::as_str).to_owned(),
            error_message: serde_json::to_string(&answer).unwrap_or_default(),
        }),
        _ => Ok(answer),
    }
}

fn diagnostic(error: &RunError) -> Diagnostic {
    tracing::error!(kind = error.kind().as_str(), %error, "cannot run");
    Diagnostic { error_type: error.kind().as_str().to_owned(), error_message: error.to_string() }
}

/// Lambda says when the invocation ends in epoch milliseconds. Its emulation by `cargo lambda watch` says a constant that
/// is no time at all but a length.
fn time_left(deadline_ms: u64) -> TimeLimit {
    const A_DAY: u64 = 24 * 3600 * 1000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let deadline = Duration::from_millis(deadline_ms);
    TimeLimit(if deadline_ms < A_DAY { deadline } else { deadline.saturating_sub(now) })
}
