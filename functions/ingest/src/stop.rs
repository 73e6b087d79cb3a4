//! The end of a run before its time.

use vmray::client::VmrayError;

use crate::error::RunError;
use crate::opencti::client::OpenctiError;

/// Why a run ends before everything is handled.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The next invocation goes on.
    OutOfTime,
    /// The platform's queue is full.
    Buffering,
    Failed(RunError),
}

impl Stop {
    /// Whether nothing more can be written down.
    #[must_use]
    pub(crate) fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Failed(RunError::Cursor(_) | RunError::Store(_)))
    }
}

impl<E: Into<RunError>> From<E> for Stop {
    fn from(error: E) -> Self {
        match error.into() {
            RunError::Vmray(VmrayError::OutOfTime { .. })
            | RunError::Opencti(OpenctiError::OutOfTime { .. }) => Self::OutOfTime,
            error => Self::Failed(error),
        }
    }
}
