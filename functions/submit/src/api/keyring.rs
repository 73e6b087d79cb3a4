//! Who may call, and what may be sent: both depend on the keys.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::secrets::{Keys, Secrets, SecretsError};

use super::callers::Callers;
use crate::error::ServiceError;
use crate::settings::GateSettings;
use crate::url::Gate;

/// What was made from the latest version of the keys.
pub(crate) struct Keyring {
    secrets: Arc<Secrets>,
    gate: GateSettings,
    latest: Mutex<Option<Arc<Keyed>>>,
}

/// What was made from one version of the keys.
pub(crate) struct Keyed {
    pub(crate) keys: Arc<Keys>,
    pub(crate) gate: Gate,
    pub(crate) callers: Callers,
}

impl Keyring {
    pub(crate) fn new(gate: GateSettings, secrets: Arc<Secrets>) -> Self {
        Self { secrets, gate, latest: Mutex::default() }
    }

    /// What belongs to the keys as they are now.
    pub(crate) async fn keyed(&self) -> Result<Arc<Keyed>, ServiceError> {
        let keys = self.secrets.keys().await?;
        if let Some(keyed) = self.lock().as_ref()
            && Arc::ptr_eq(&keyed.keys, &keys)
        {
            return Ok(Arc::clone(keyed));
        }
        let keyed = Arc::new(self.make(keys)?);
        *self.lock() = Some(Arc::clone(&keyed));
        Ok(keyed)
    }

    /// Reads the keys again, at most every 30 s; `false`: they are the same.
    pub(crate) async fn reread(&self, keyed: &Keyed) -> Result<bool, SecretsError> {
        self.secrets.reread(&keyed.keys).await
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Keyed>>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, keys: Arc<Keys>) -> Result<Keyed, ServiceError> {
        let mut gate = self.gate.clone();
        gate.own_domains.extend_from_slice(&keys.own_domains);
        gate.deny.extend_from_slice(&keys.deny);
        let gate = Gate::new(&gate).map_err(ServiceError::Gate)?;
        let callers = Callers::read(keys.callers.as_ref())
            .map_err(|problem| SecretsError::Malformed { origin: keys.origin().to_owned(), problem })?;
        Ok(Keyed { keys, gate, callers })
    }
}
