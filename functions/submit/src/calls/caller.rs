//! Who calls, and how much it may send.

use crate::settings::SubmitLimits;

/// A caller of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name, as the secret has it.
    pub name: String,
    pub(crate) max_urls_per_request: Option<usize>,
    pub(crate) max_urls_per_day: Option<u64>,
}

impl Caller {
    /// A caller with the deployment's limits.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), max_urls_per_request: None, max_urls_per_day: None }
    }

    /// URLs in one call: its own limit, never above the deployment's.
    #[must_use]
    pub fn urls_per_request(&self, limits: &SubmitLimits) -> usize {
        self.max_urls_per_request.map_or(limits.urls_per_request, |own| own.min(limits.urls_per_request))
    }

    /// URLs sent on one day: its own limit, else the deployment's.
    #[must_use]
    pub fn urls_per_day(&self, limits: &SubmitLimits) -> u64 {
        self.max_urls_per_day.unwrap_or(limits.urls_per_caller_day)
    }
}
