//! What calls mean: which URLs are sent, what a batch is, when it is waited for and tried again. Knows nothing of HTTP.

pub(crate) mod accept;
mod caller;
mod retry;
mod status;

use std::sync::Arc;

use store::StoreError;

use crate::error::ServiceError;
use crate::ledger::Ledger;
use crate::ledger::batch::InputId;
use crate::ledger::outcome::Rules;
use crate::queue::{Queue, QueueError};
use crate::settings::{LedgerScope, SubmitLimits, SubmitSettings};
use crate::worker::verdicts::Verdicts;

pub use caller::Caller;
pub(crate) use status::Ask;

/// Carries out calls.
pub(crate) struct Calls {
    pub(crate) ledger: Ledger,
    queue: Arc<dyn Queue>,
    verdicts: Verdicts,
    limits: SubmitLimits,
    scope: LedgerScope,
    pub(crate) rules: Rules,
}

impl Calls {
    pub(crate) fn new(
        settings: &SubmitSettings,
        ledger: Ledger,
        queue: Arc<dyn Queue>,
        verdicts: Verdicts,
    ) -> Self {
        let rules = Rules::of(&settings.times);
        Self { ledger, queue, verdicts, limits: settings.limits, scope: settings.scope, rules }
    }
}

/// One thing that a caller sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What the caller calls it; echoed as it came.
    pub id: Option<InputId>,
    /// What it is.
    pub value: Value,
}

/// What a caller sent as one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text to be taken for a URL, as it came.
    Url(String),
    /// Something else, such as an indicator of another type: what it is, for the caller to read.
    NotAUrl(String),
}

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The same idempotency key was used for another call.
    #[error("the idempotency key was used with another body")]
    OtherCall,
    /// The caller has sent as many URLs today as it may.
    #[error("of {limit} URLs a day {used} are used, and this call would send {wanted} more")]
    DayLimit { limit: u64, used: u64, wanted: u64 },
    /// Nothing works.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Service(error.into())
    }
}

impl From<QueueError> for CallError {
    fn from(error: QueueError) -> Self {
        Self::Service(error.into())
    }
}
