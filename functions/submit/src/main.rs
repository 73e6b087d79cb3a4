//! Lambda's entry into `submit`, and nothing else. One binary is the API and the worker: the event tells which.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::Utc;
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use runtime::aws;
use runtime::http::Deadline;
use runtime::secrets::{Keys, Secrets};
use runtime::settings::Host;
use runtime::telemetry::{self, Output};
use serde_json::Value;
use serde_json::value::RawValue;
use store::dynamodb::DynamoStore;
use submit::lambda::{self, Event, Record};
use submit::queue::sqs::SqsQueue;
use submit::settings::{SubmitDeployment, SubmitSettings};
use submit::{Submit, api, metrics};
use tokio::time::Instant;

/// Warming up ends in time, so that an outage of AWS does not become a crash loop.
const WARM_UP: Duration = Duration::from_secs(2);

/// What is left of an invocation when everything must have been written.
const MARGIN: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    // Wrong settings do not end the process either: every event is answered.
    let submit = Arc::new(set_up().await);
    lambda_runtime::run(service_fn(move |event| {
        let submit = Arc::clone(&submit);
        async move { handle(submit.as_ref().as_ref(), event).await }
    }))
    .await
}

/// `None`: the settings are wrong, and the log says which.
async fn set_up() -> Option<Submit> {
    let lookup = |name: &str| std::env::var(name).ok();
    let (settings, warnings) = SubmitSettings::read(&lookup, Host::Lambda)
        .inspect_err(|error| {
            telemetry::init(tracing::Level::INFO, Output::Stdout);
            tracing::error!(kind = "SettingsError", %error, "cannot start");
        })
        .ok()?;
    telemetry::init(settings.log_level, Output::Stdout);
    for warning in warnings {
        tracing::warn!(setting = warning.name, "{}", warning.message);
    }
    let SubmitDeployment::Lambda { table_name, secret_arn, queue_url } = settings.deployment.clone() else {
        unreachable!("settings were read for Lambda")
    };
    let aws = aws::sdk_config().await;
    let store = Arc::new(DynamoStore::new(&aws, table_name));
    let queue = Arc::new(SqsQueue::new(&aws, queue_url));
    let secrets = Arc::new(Secrets::from_secrets_manager(&aws, secret_arn).keeping(Keys::suffice_for_submit));
    let submit = Submit::new(settings, store, queue, secrets);
    if let Ok(Err(error)) = tokio::time::timeout(WARM_UP, submit.warm_up()).await {
        tracing::warn!(%error, "the keys could not be read yet; the first event tries again");
    }
    Some(submit)
}

async fn handle(submit: Option<&Submit>, event: LambdaEvent<Box<RawValue>>) -> Result<Value, Diagnostic> {
    let deadline = deadline(event.context.deadline);
    let event = Event::parse(&event.payload).map_err(|error| {
        tracing::error!(kind = "InvalidEvent", %error, "cannot handle");
        Diagnostic { error_type: "InvalidEvent".to_owned(), error_message: error.to_string() }
    })?;
    match (event, submit) {
        (Event::Request(request), Some(submit)) => {
            let response = submit.handle(&request, deadline).await;
            let (quota, refusals) = (submit.known_quota(), submit.take_refusals());
            println!("{}", metrics::of_response(&response, quota, refusals, Utc::now()));
            Ok(lambda::response(response))
        }
        (Event::Request(_), None) => Ok(lambda::response(api::misconfigured_problem().response())),
        (Event::Messages(records), Some(submit)) => Ok(work(submit, records, deadline).await),
        (Event::Messages(_), None) => Err(Diagnostic {
            error_type: "SettingsError".to_owned(),
            error_message: "settings are wrong; the log says which".to_owned(),
        }),
    }
}

/// Works on messages one after the other. Those that could not be done come again, and end in the dead-letter queue.
async fn work(submit: &Submit, records: Vec<Record>, deadline: Deadline) -> Value {
    let mut failed = Vec::new();
    for record in records {
        let done = match &record.message {
            Ok(message) => match deadline.bound(submit.work(message, deadline)).await {
                Some(Ok(work)) => {
                    println!("{}", metrics::of_work(&work, Utc::now()));
                    true
                }
                Some(Err(error)) => {
                    tracing::error!(kind = error.kind(), %error, message_id = record.id, "message not done");
                    false
                }
                None => {
                    tracing::error!(message_id = record.id, "no time left for this message");
                    false
                }
            },
            Err(error) => {
                tracing::error!(error, message_id = record.id, "the message cannot be read");
                false
            }
        };
        if !done {
            failed.push(record.id);
        }
    }
    lambda::failures(&failed)
}

/// Lambda gives the end of the invocation in epoch milliseconds. `cargo lambda watch` gives a length of time instead.
fn deadline(deadline_ms: u64) -> Deadline {
    const A_DAY: u64 = 24 * 3600 * 1000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = Duration::from_millis(deadline_ms);
    let left = if deadline_ms < A_DAY { end } else { end.saturating_sub(now) };
    Deadline::at(Instant::now() + left.saturating_sub(MARGIN.min(left / 4)))
}
