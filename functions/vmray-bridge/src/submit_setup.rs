//! Puts `submit` together for one machine: settings and keys from the environment, the queue in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use runtime::aws;
use runtime::http::Deadline;
use runtime::secrets::{Keys, Secrets};
use runtime::settings::Host;
use runtime::telemetry::{self, Output};
use submit::Submit;
use submit::queue::local::{LocalQueue, Received};
use submit::settings::{SubmitDeployment, SubmitSettings};
use tokio::time::Instant;

use crate::CommandFailure;
use crate::setup::{StateStore, explain};

/// As long as Lambda's worker has for a message.
const TIME_FOR_A_MESSAGE: Duration = Duration::from_mins(1);

/// Before a message that failed for a reason of this machine is taken again.
const PAUSE: Duration = Duration::from_secs(5);

/// `submit` on this machine, and its queue.
pub(crate) struct LocalSubmit {
    pub(crate) submit: Arc<Submit>,
    queue: Arc<LocalQueue>,
}

/// Reads settings and keys through `lookup`, starts logging, opens the state.
pub(crate) async fn local_submit(
    lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    file: Option<PathBuf>,
) -> Result<LocalSubmit, CommandFailure> {
    let read = SubmitSettings::read(&lookup, Host::Local);
    let (settings, warnings) = read.map_err(|error| CommandFailure::Usage(explain(&error)))?;
    telemetry::init(settings.log_level, Output::Stderr);
    for warning in warnings {
        tracing::warn!(setting = warning.name, "{}", warning.message);
    }
    let secrets = match &settings.deployment {
        SubmitDeployment::Lambda { secret_arn, .. }
        | SubmitDeployment::Local { secret_arn: Some(secret_arn) } => {
            Secrets::from_secrets_manager(&aws::sdk_config().await, secret_arn.clone())
                .keeping(Keys::suffice_for_submit)
        }
        SubmitDeployment::Local { secret_arn: None } => Secrets::from_environment(lookup),
    };
    let store = StateStore::open(file).await?.store();
    let queue = Arc::new(LocalQueue::open(Arc::clone(&store)).await.map_err(CommandFailure::failed)?);
    let submit = Arc::new(Submit::new(settings, store, Arc::clone(&queue) as Arc<_>, Arc::new(secrets)));
    // Wrong keys and lists are reported now, not at the first call.
    submit.warm_up().await.map_err(|error| CommandFailure::Usage(error.to_string()))?;
    Ok(LocalSubmit { submit, queue })
}

impl LocalSubmit {
    /// Works on messages until it is dropped, which is safe at any moment. The queue limits how many are worked on at the
    /// same time.
    pub(crate) async fn work(&self) {
        let mut in_work = FuturesUnordered::new();
        loop {
            tokio::select! {
                received = self.queue.receive() => in_work.push(self.work_on(received)),
                Some(()) = in_work.next() => {}
            }
        }
    }

    async fn work_on(&self, received: Received) {
        let deadline = Deadline::at(Instant::now() + TIME_FOR_A_MESSAGE);
        let done = match self.submit.work(received.message(), deadline).await {
            Ok(_) => self.queue.done(&received).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = done {
            tracing::error!(error, "message not done; it is taken again");
            self.queue.again(&received, PAUSE);
        }
    }
}
