//! The local binary's lease: a lock on a file beside the state file. The system takes it back when the process dies,
//! however it dies.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::RunError;

/// Held as long as it lives.
#[derive(Debug)]
pub struct FileLease {
    _file: File,
}

impl FileLease {
    /// Takes the lock of a state file, or says that somebody else has it.
    pub fn acquire(state_file: &Path) -> Result<Option<Self>, RunError> {
        let path = lock_path(state_file);
        let failed = |error: std::io::Error| RunError::Lock {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

fn lock_path(state_file: &Path) -> PathBuf {
    let mut path = state_file.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_free_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.sqlite");
        let first = FileLease::acquire(&state).unwrap();
        assert!(first.is_some());
        assert!(FileLease::acquire(&state).unwrap().is_none());
        drop(first);
        assert!(FileLease::acquire(&state).unwrap().is_some());
    }
}
