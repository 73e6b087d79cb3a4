//! Why a run failed. Every kind has a stable name, for alarms and for those who read them.

use runtime::http::HttpSetupError;
use runtime::secrets::SecretsError;
use runtime::settings::SettingsError;
use serde::Serialize;
use store::StoreError;
use strum::{IntoStaticStr, VariantArray};
use vmray::client::VmrayError;

use crate::cursor::CursorError;
use crate::delivery::DeliveryError;
use crate::event::InvalidEvent;
use crate::opencti::client::OpenctiError;
use crate::proof::Systemic;

/// What stops a run, and is not one sample's fault.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The event is none that ingest knows.
    #[error(transparent)]
    Event(#[from] InvalidEvent),
    /// Settings are wrong; all of them are named.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The keys could not be read.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The HTTP client could not be built.
    #[error(transparent)]
    Http(#[from] HttpSetupError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another run holds the cursor, or the store failed.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// DynamoDB or Secrets Manager had not answered when the invocation had to end.
    #[error(
        "the time was over before DynamoDB or Secrets Manager answered; what is delivered and not saved comes again, with the same ids"
    )]
    OutOfTime,
    /// VMRay as a whole failed.
    #[error(transparent)]
    Vmray(#[from] VmrayError),
    /// `OpenCTI` as a whole failed.
    #[error(transparent)]
    Opencti(#[from] OpenctiError),
    /// Without it the platform would store everything unmarked.
    #[error(
        "OpenCTI has no marking {0}, or the token's user may not use it: create it, allow it, or set VMRAY_DEFAULT_TLP to another; nothing was sent"
    )]
    MarkingMissing(String),
    /// Too many samples failed for it to be their fault.
    #[error(transparent)]
    Systemic(#[from] Systemic),
}

impl From<DeliveryError> for RunError {
    fn from(error: DeliveryError) -> Self {
        match error {
            DeliveryError::Opencti(error) => Self::Opencti(error),
            DeliveryError::Systemic(error) => Self::Systemic(error),
        }
    }
}

/// The stable name of a failure, for alarms and for those who read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr, VariantArray)]
pub enum FailureKind {
    InvalidEvent,
    LeaseLost,
    MarkingMissing,
    HttpSetupError,
    OpenctiError,
    OpenctiUnauthorized,
    OutOfTime,
    SecretsError,
    SettingsError,
    StoreError,
    SystemicFailure,
    VmrayError,
    VmrayUnauthorized,
}

impl FailureKind {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl RunError {
    /// The stable name of this kind.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Event(_) => FailureKind::InvalidEvent,
            Self::Settings(_) => FailureKind::SettingsError,
            Self::Secrets(_) => FailureKind::SecretsError,
            Self::Http(_) => FailureKind::HttpSetupError,
            Self::Store(_) | Self::Cursor(CursorError::Store(_)) => FailureKind::StoreError,
            Self::Cursor(CursorError::Lost) => FailureKind::LeaseLost,
            Self::OutOfTime => FailureKind::OutOfTime,
            Self::Vmray(VmrayError::Unauthorized { .. } | VmrayError::Keys(_)) => {
                FailureKind::VmrayUnauthorized
            }
            Self::Vmray(_) => FailureKind::VmrayError,
            Self::Opencti(OpenctiError::Unauthorized { .. } | OpenctiError::Keys(_)) => {
                FailureKind::OpenctiUnauthorized
            }
            Self::Opencti(_) => FailureKind::OpenctiError,
            Self::MarkingMissing(_) => FailureKind::MarkingMissing,
            Self::Systemic(_) => FailureKind::SystemicFailure,
        }
    }
}
