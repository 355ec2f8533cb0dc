//! One owner of an identity at a time: an exclusive lock on a file, which the system frees when its process ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::home::Home;

/// The lock, held until it is dropped.
pub(super) struct OwnerLock {
    _file: File,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Another process has it.
    #[error("{} is held by another host: stop that one first, or choose another home", path.display())]
    Owned {
        /// The lock file.
        path: PathBuf,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl OwnerLock {
    /// Takes the lock, or says at once who has it.
    pub(super) fn take(home: &Home) -> Result<OwnerLock, OwnerError> {
        let path = home.owner_lock();
        let io = |source| OwnerError::Io { path: path.clone(), source };
        fs::create_dir_all(home.identity()).map_err(io)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(OwnerLock { _file: file }),
            Err(Errno::WOULDBLOCK) => Err(OwnerError::Owned { path }),
            Err(errno) => Err(io(errno.into())),
        }
    }
}
