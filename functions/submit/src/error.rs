//! What is wrong with `submit` as a whole.

use runtime::http::HttpSetupError;
use runtime::secrets::SecretsError;
use store::StoreError;

use crate::queue::QueueError;

/// Why a call or a message could not be handled.
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
