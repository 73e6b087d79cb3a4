//! `submit` put together.

use std::sync::Arc;

use runtime::http::Deadline;
use runtime::secrets::Secrets;
use store::Store;

use crate::access::VmrayAccess;
use crate::api::keyring::Keyring;
use crate::calls::Calls;
use crate::error::ServiceError;
use crate::ledger::Ledger;
use crate::queue::{Message, Queue};
use crate::settings::SubmitSettings;
use crate::worker::verdicts::Verdicts;
use crate::worker::{Work, Worker};

/// The function `submit`: its API and its worker.
pub struct Submit {
    pub(crate) settings: SubmitSettings,
    pub(crate) keyring: Keyring,
    pub(crate) vmray: Arc<VmrayAccess>,
    pub(crate) calls: Calls,
    worker: Worker,
}

impl std::fmt::Debug for Submit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Submit").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Submit {
    /// A `submit` with these settings, store, queue and keys. Nothing is called yet.
    #[must_use]
    pub fn new(
        settings: SubmitSettings,
        store: Arc<dyn Store>,
        queue: Arc<dyn Queue>,
        secrets: Arc<Secrets>,
    ) -> Self {
        let ledger = Ledger::new(store, settings.times.retention, settings.times.reuse_window);
        let vmray = Arc::new(VmrayAccess::new(&settings, Arc::clone(&secrets)));
        let verdicts = Verdicts::new(&settings, ledger.clone(), Arc::clone(&vmray));
        Self {
            keyring: Keyring::new(settings.gate.clone(), secrets),
            worker: Worker::new(&settings, ledger.clone(), Arc::clone(&queue), Arc::clone(&vmray)),
            calls: Calls::new(&settings, ledger, queue, verdicts),
            vmray,
            settings,
        }
    }

    #[must_use]
    pub fn settings(&self) -> &SubmitSettings {
        &self.settings
    }

    /// Reads the keys, so that the first event need not. A failure here is the first event's to report.
    pub async fn warm_up(&self) -> Result<(), ServiceError> {
        self.keyring.keyed().await?;
        self.vmray.warm_up().await
    }

    /// Does what a message asks for. After an error it may simply be done again.
    pub async fn work(&self, message: &Message, deadline: Deadline) -> Result<Work, ServiceError> {
        self.worker.work(message, deadline).await
    }

    /// How often VMRay has refused the key while callers were answered, since this was last asked.
    pub fn take_refusals(&self) -> u64 {
        self.vmray.take_refusals()
    }

    /// What is left of the quota, as far as it is known already.
    #[must_use]
    pub fn known_quota(&self) -> Option<u64> {
        self.vmray.known_quota()
    }
}
