//! `submit` put together: settings, ledger, queue, and what depends on the keys.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::settings::{SubmitSettings, SubmitTimes};
use runtime::http::{self, Deadline, HttpSetupError, Limits, RetryPolicy};
use runtime::secrets::{Keys, RotatingKey, Secrets, SecretsError};
use store::{Store, StoreError};
use vmray::client::{VmrayClient, VmrayPolicy};

use crate::api::callers::Callers;
use crate::api::options::Options;
use crate::ledger::Ledger;
use crate::queue::{Queue, QueueError};
use crate::quota::QuotaCache;
use crate::turns::Places;
use crate::url::Gate;
use crate::view::Rules;

/// Tries of one GET: callers wait, and the worker comes again anyway.
const TRIES: usize = 3;

/// Servers and proxies close connections that nobody uses for longer than this.
const LONGEST_IDLE: Duration = Duration::from_secs(5);

/// Answers of VMRay are rows of at most 1,000 submissions.
const MOST_VMRAY_BYTES: usize = 16 * 1024 * 1024;

/// The function `submit`: its API and its worker.
pub struct Submit {
    pub(crate) settings: SubmitSettings,
    pub(crate) defaults: Options,
    pub(crate) ledger: Ledger,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) quota: QuotaCache,
    /// Reads for callers for which VMRay has refused the key, since they were last asked for.
    refusals: AtomicU64,
    /// URLs that are being sent, of all messages that are worked on.
    pub(crate) sending: Arc<Places>,
    keyed: Mutex<Option<Arc<Keyed>>>,
    used_at: Mutex<Option<SystemTime>>,
}

/// What was made from one version of the keys.
pub(crate) struct Keyed {
    pub(crate) keys: Arc<Keys>,
    pub(crate) gate: Gate,
    pub(crate) callers: Callers,
    http: reqwest::Client,
}

/// What is wrong with `submit` as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The keys could not be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The HTTP client could not be built.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// The lists of hosts that are never sent are wrong; without them nothing may be sent.
    #[error("OWN_DOMAINS, DENY, or `own_domains` and `deny` of the secret: {}", .0.join("; "))]
    Gate(Vec<String>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl ServiceError {
    /// The stable name of this kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Secrets(_) => "SecretsError",
            Self::Http(_) => "HttpSetupError",
            Self::Gate(_) => "SettingsError",
            Self::Store(_) => "StoreError",
            Self::Queue(_) => "QueueError",
        }
    }
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
        Self {
            defaults: Options::from_defaults(&settings.defaults),
            ledger: Ledger::new(store, settings.times.retention, settings.times.reuse_window),
            sending: Places::new(settings.concurrency),
            settings,
            queue,
            secrets,
            quota: QuotaCache::default(),
            refusals: AtomicU64::new(0),
            keyed: Mutex::default(),
            used_at: Mutex::default(),
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &SubmitSettings {
        &self.settings
    }

    pub(crate) fn times(&self) -> &SubmitTimes {
        &self.settings.times
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            reuse_window: self.settings.times.reuse_window,
            verdict_timeout: self.settings.times.verdict_timeout,
        }
    }

    /// Forgets connections that nobody has used for a while. Lambda freezes a process between two events, and a POST on a
    /// connection that was closed in the meantime may or may not have arrived. By the wall clock: no other runs meanwhile.
    pub(crate) fn drop_stale_connections(&self) {
        let used_at = *self.used_at.lock().unwrap_or_else(PoisonError::into_inner);
        if used_at.is_some_and(|at| at.elapsed().is_ok_and(|idle| idle > LONGEST_IDLE)) {
            *self.lock_keyed() = None;
        }
    }

    /// Connections are in use now.
    pub(crate) fn connections_used(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
    }

    /// Reads the keys, so that the first event need not. A failure here is the first event's to report.
    pub async fn warm_up(&self) -> Result<(), ServiceError> {
        self.keyed().await.map(|_| ())
    }

    /// Remembers how often VMRay has refused the key while this client was read with.
    pub(crate) fn note_refusals(&self, vmray: &VmrayClient) {
        self.refusals.fetch_add(vmray.refusals(), Ordering::Relaxed);
    }

    /// How often VMRay has refused the key while callers were answered, since this was last asked.
    pub fn take_refusals(&self) -> u64 {
        self.refusals.swap(0, Ordering::Relaxed)
    }

    /// What belongs to the keys as they are now.
    pub(crate) async fn keyed(&self) -> Result<Arc<Keyed>, ServiceError> {
        let keys = self.secrets.keys().await?;
        if let Some(keyed) = self.lock_keyed().as_ref()
            && Arc::ptr_eq(&keyed.keys, &keys)
        {
            return Ok(Arc::clone(keyed));
        }
        let keyed = Arc::new(self.make_keyed(keys)?);
        *self.lock_keyed() = Some(Arc::clone(&keyed));
        Ok(keyed)
    }

    fn lock_keyed(&self) -> std::sync::MutexGuard<'_, Option<Arc<Keyed>>> {
        self.keyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_keyed(&self, keys: Arc<Keys>) -> Result<Keyed, ServiceError> {
        let mut gate = self.settings.gate.clone();
        gate.own_domains.extend_from_slice(&keys.own_domains);
        gate.deny.extend_from_slice(&keys.deny);
        let gate = Gate::new(&gate).map_err(ServiceError::Gate)?;
        let callers = Callers::read(keys.callers.as_ref())
            .map_err(|problem| SecretsError::Malformed { origin: keys.origin().to_owned(), problem })?;
        let http = http::client(&http::HttpSettings {
            ca_bundle: keys.ca_bundle.clone(),
            verify_tls: self.settings.vmray.verify_tls,
            disable_proxy: self.settings.http.disable_proxy,
            connect_timeout: self.settings.http.connect_timeout,
        })?;
        Ok(Keyed { keys, gate, callers, http })
    }

    /// A client for VMRay until `deadline`, `timeout` for one request.
    pub(crate) async fn vmray(
        &self,
        timeout: Duration,
        deadline: Deadline,
    ) -> Result<VmrayClient, ServiceError> {
        let keyed = self.keyed().await?;
        let key = RotatingKey::vmray(&self.secrets).await?;
        let policy = VmrayPolicy {
            limits: Limits { timeout, max_bytes: MOST_VMRAY_BYTES },
            retry: RetryPolicy { tries: TRIES, base: self.settings.http.retry_base },
            concurrency: self.settings.concurrency,
        };
        let base = self.settings.vmray.server.as_str().trim_end_matches('/').to_owned();
        Ok(VmrayClient::new(keyed.http.clone(), base, key, policy, deadline))
    }
}
