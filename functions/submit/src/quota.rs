//! What the API key may still submit, asked for at most once a minute: callers like to see it, but do not wait for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;
use vmray::client;

/// How long an answer is good, and a failure believed.
const KEEP: Duration = Duration::from_mins(1);
const KEEP_FAILURE: Duration = Duration::from_secs(30);

/// The quota of VMRay's API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct KeyQuota {
    /// Submissions in a period; `None`: unlimited.
    pub limit: Option<u64>,
    /// Used in this period.
    pub used: u64,
    /// Left in this period; `None`: unlimited.
    pub remaining: Option<u64>,
}

impl From<client::Quota> for KeyQuota {
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
pub(crate) struct Asked {
    at: Instant,
    /// `None`: VMRay did not say.
    pub(crate) quota: Option<KeyQuota>,
}

impl QuotaCache {
    /// The last answer, unless it is too old.
    pub(crate) fn fresh(&self) -> Option<Asked> {
        let asked = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.filter(|asked| asked.at.elapsed() < if asked.quota.is_some() { KEEP } else { KEEP_FAILURE })
    }

    pub(crate) fn set(&self, quota: Option<KeyQuota>) {
        let asked = Asked { at: Instant::now(), quota };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
    }
}
