//! What the API key may still submit, asked for at most once a minute: callers like to see it, and it is no reason to let
//! anybody wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use runtime::http::Deadline;
use serde::Serialize;
use tokio::time::Instant;
use vmray::client;

use crate::access::VmrayAccess;

/// How long an answer is good, and a failure believed.
const KEEP: Duration = Duration::from_mins(1);
const KEEP_FAILURE: Duration = Duration::from_secs(30);

/// The longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The quota of VMRay's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Quota {
    /// Submissions in a period; `None`: unlimited.
    pub limit: Option<u64>,
    /// Used in this period.
    pub used: u64,
    /// Left in this period; `None`: unlimited.
    pub remaining: Option<u64>,
}

impl From<client::Quota> for Quota {
    fn from(quota: client::Quota) -> Self {
        let limit = Some(quota.quota_limit).filter(|limit| *limit > 0);
        let remaining = limit.map(|limit| limit.saturating_sub(quota.used_quota));
        Self { limit, used: quota.used_quota, remaining }
    }
}

/// The last answer.
#[derive(Debug, Default)]
pub(crate) struct QuotaCache(Mutex<Option<Asked>>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    /// `None`: VMRay did not say.
    quota: Option<Quota>,
}

impl QuotaCache {
    fn fresh(&self) -> Option<Asked> {
        let asked = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.filter(|asked| asked.at.elapsed() < if asked.quota.is_some() { KEEP } else { KEEP_FAILURE })
    }

    fn set(&self, quota: Option<Quota>) {
        let asked = Asked { at: Instant::now(), quota };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }
}

impl VmrayAccess {
    /// The quota, at most a minute old; `None`: VMRay does not say.
    pub(crate) async fn quota(&self, deadline: Deadline) -> Option<Quota> {
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

    async fn ask_for_quota(&self, deadline: Deadline) -> Option<Quota> {
        let deadline = Deadline::at(Instant::now() + PATIENCE.min(deadline.remaining()));
        let vmray = self.client(PATIENCE, deadline).await.ok()?;
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
}
