//! What can go wrong with a request that reads.

use std::sync::Arc;
use std::time::Duration;

use runtime::http::Again;
use runtime::secrets::SecretsError;

/// Why VMRay did not give what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VmrayError {
    /// The key is wrong, revoked, or not allowed from this address.
    #[error(
        "VMRay refuses the API key from {origin} (401 on {what}): put a valid key there, and check the key's list of allowed IP addresses"
    )]
    Unauthorized {
        what: String,
        /// The secret's name.
        origin: String,
    },
    /// The key could not be had.
    #[error("no API key for VMRay: {0}")]
    Keys(Arc<SecretsError>),
    /// The key's role or user may not see this.
    #[error("VMRay does not let this key see {what} (403: {message})")]
    Forbidden {
        what: String,
        /// VMRay's words.
        message: String,
    },
    /// Deleted, or past its retention.
    #[error("VMRay has no {what} any more (404)")]
    NotFound { what: String },
    /// VMRay says no for another reason.
    #[error("VMRay rejected the request for {what} ({status}: {message})")]
    Rejected {
        what: String,
        status: u16,
        /// VMRay's words.
        message: String,
    },
    /// The answer is not what the API promises.
    #[error("VMRay's answer for {what} cannot be read: {problem}")]
    Malformed {
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The answer is longer than the product will hold in memory.
    #[error("VMRay's answer for {what} is larger than {limit} bytes")]
    TooLarge {
        what: String,
        /// Bytes after decompression.
        limit: usize,
    },
    /// No useful answer after all tries.
    #[error("VMRay does not answer for {what}: {reason}")]
    Unavailable {
        what: String,
        /// The last failure.
        reason: String,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The invocation ends before this can be done.
    #[error("no time left to ask VMRay for {what}")]
    OutOfTime { what: String },
}

impl VmrayError {
    pub(super) fn again(&self) -> Again {
        match self {
            Self::Unavailable { retry_after: Some(pause), .. } => Again::After(*pause),
            Self::Unavailable { retry_after: None, .. } => Again::Soon,
            _ => Again::No,
        }
    }
}
