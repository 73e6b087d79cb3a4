//! VMRay as this process reaches it. What throttling has taught is kept for all calls and messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use runtime::http::{self, Deadline, Limits, RetryPolicy};
use runtime::secrets::{Keys, RotatingKey, Secrets};
use runtime::settings::HttpSettings;
use tokio::time::Instant;
use vmray::VmraySettings;
use vmray::client::{Throttle, VmrayClient, VmrayPolicy};

use crate::error::ServiceError;
use crate::quota::{KeyQuota, QuotaCache};
use crate::settings::SubmitSettings;

/// Tries of one GET: callers wait, and the worker comes again anyway.
const TRIES: usize = 3;

/// Servers and proxies close connections that are idle for longer than this.
const LONGEST_IDLE: Duration = Duration::from_secs(5);

/// Answers of VMRay are rows of at most 1,000 submissions.
const MOST_VMRAY_BYTES: usize = 16 * 1024 * 1024;

/// How long one call or message heeds the `Retry-After` that another one met: a message that meets one comes back when it is
/// over, by its own delay.
const LONGEST_CLOSURE: Duration = Duration::from_secs(10);

/// The longest that the quota is waited for.
const QUOTA_PATIENCE: Duration = Duration::from_secs(2);

/// Makes clients for VMRay.
pub struct VmrayAccess {
    secrets: Arc<Secrets>,
    server: VmraySettings,
    http: HttpSettings,
    concurrency: usize,
    throttle: Arc<Throttle>,
    connections: Mutex<Option<Connections>>,
    used_at: Mutex<Option<SystemTime>>,
    quota: QuotaCache,
    /// Reads for callers for which VMRay has refused the key, since they were last asked for.
    refusals: AtomicU64,
}

/// Connections that were made with one version of the keys.
#[derive(Clone)]
struct Connections {
    keys: Arc<Keys>,
    http: reqwest::Client,
}

impl std::fmt::Debug for VmrayAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmrayAccess").field("server", &self.server).finish_non_exhaustive()
    }
}

impl VmrayAccess {
    /// Access to the server of the settings. Nothing is called yet.
    #[must_use]
    pub fn new(settings: &SubmitSettings, secrets: Arc<Secrets>) -> Self {
        Self {
            secrets,
            server: settings.vmray.clone(),
            http: settings.http.clone(),
            concurrency: settings.concurrency,
            throttle: Arc::new(Throttle::new(settings.concurrency)),
            connections: Mutex::default(),
            used_at: Mutex::default(),
            quota: QuotaCache::default(),
            refusals: AtomicU64::new(0),
        }
    }

    /// Forgets connections that were idle for a while. Lambda freezes a process between two events, and a POST on a
    /// connection that was closed in the meantime may or may not have arrived. By the wall clock: other clocks stand still
    /// while the process is frozen.
    pub(crate) fn drop_stale_connections(&self) {
        let used_at = *self.used_at.lock().unwrap_or_else(PoisonError::into_inner);
        if used_at.is_some_and(|at| at.elapsed().is_ok_and(|idle| idle > LONGEST_IDLE)) {
            *self.lock() = None;
        }
    }

    /// Connections are in use now.
    pub(crate) fn connections_used(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
    }

    /// Builds what the keys ask for, so that the first event need not.
    pub(crate) async fn warm_up(&self) -> Result<(), ServiceError> {
        self.connections().await.map(|_| ())
    }

    /// Remembers how often VMRay has refused the key while this client was read with.
    pub(crate) fn note_refusals(&self, vmray: &VmrayClient) {
        self.refusals.fetch_add(vmray.refusals(), Ordering::Relaxed);
    }

    pub(crate) fn take_refusals(&self) -> u64 {
        self.refusals.swap(0, Ordering::Relaxed)
    }

    /// A client for VMRay until `deadline`, `timeout` for one request.
    pub(crate) async fn client(
        &self,
        timeout: Duration,
        deadline: Deadline,
    ) -> Result<VmrayClient, ServiceError> {
        let http = self.connections().await?.http;
        let key = RotatingKey::vmray(&self.secrets).await?;
        let policy = VmrayPolicy {
            limits: Limits { timeout, max_bytes: MOST_VMRAY_BYTES },
            retry: RetryPolicy { tries: TRIES, base: self.http.retry_base },
            concurrency: self.concurrency,
        };
        self.throttle.shorten(LONGEST_CLOSURE);
        Ok(VmrayClient::new(http, &self.server.server, key, policy, deadline).sharing(&self.throttle))
    }

    /// The quota, at most a minute old; `None`: VMRay does not say.
    pub(crate) async fn quota(&self, deadline: Deadline) -> Option<KeyQuota> {
        if let Some(asked) = self.quota.fresh() {
            return asked.quota;
        }
        let quota = self.ask_for_quota(deadline).await;
        self.quota.set(quota);
        quota
    }

    /// What is left of the quota, as far as it is known already.
    #[must_use]
    pub(crate) fn known_quota(&self) -> Option<u64> {
        self.quota.fresh()?.quota?.remaining
    }

    async fn ask_for_quota(&self, deadline: Deadline) -> Option<KeyQuota> {
        let deadline = Deadline::at(Instant::now() + QUOTA_PATIENCE.min(deadline.remaining()));
        let vmray = self.client(QUOTA_PATIENCE, deadline).await.ok()?;
        let quota = deadline.bound(vmray.quota()).await;
        self.note_refusals(&vmray);
        match quota? {
            Ok(quota) => Some(quota.into()),
            Err(error) => {
                tracing::debug!(%error, "VMRay does not say the quota");
                None
            }
        }
    }

    async fn connections(&self) -> Result<Connections, ServiceError> {
        let keys = self.secrets.keys().await?;
        if let Some(connections) = self.lock().as_ref()
            && Arc::ptr_eq(&connections.keys, &keys)
        {
            return Ok(connections.clone());
        }
        let http = http::client(&http::ClientSettings {
            ca_bundle: keys.ca_bundle.clone(),
            verify_tls: self.server.verify_tls,
            disable_proxy: self.http.disable_proxy,
            connect_timeout: self.http.connect_timeout,
        })?;
        let connections = Connections { keys, http };
        *self.lock() = Some(connections.clone());
        Ok(connections)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connections>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
