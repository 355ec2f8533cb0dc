//! One owner of an identity at a time: an exclusive lock on a file, which the system frees when its process ends. Commands that
//! read an identity without a host share the lock, and a host that starts meanwhile waits for them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use crate::home::Home;

/// How long a start waits for commands that read.
const READERS: Duration = Duration::from_secs(10);

/// How long it waits for whoever has the lock for himself. A host that was killed while it started another process leaves that with its
/// lock, until it has begun.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The lock, held until it is dropped.
pub(super) struct OwnerLock {
    file: File,
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
    /// Takes the lock for oneself, or says that a host has it. Waits a while for commands that read, and for what a host that was killed left behind.
    pub(super) fn take(home: &Home) -> Result<OwnerLock, OwnerError> {
        let lock = OwnerLock::open(home)?;
        let since = Instant::now();
        while !lock.get(home, FlockOperation::NonBlockingLockExclusive)? {
            // It can be shared if nobody has it for himself.
            let is_shared = lock.get(home, FlockOperation::NonBlockingLockShared)?;
            if since.elapsed() >= if is_shared { READERS } else { LEFT_BEHIND } {
                return Err(OwnerError::Owned { path: home.owner_lock() });
            }
            lock.get(home, FlockOperation::NonBlockingUnlock)?;
            thread::sleep(LOOK_AGAIN);
        }
        Ok(lock)
    }

    /// Shares the lock with others who read, or says at once that a host has it. Nothing is written, so that whoever may only read the
    /// home can do this.
    pub(super) fn share(home: &Home) -> Result<OwnerLock, OwnerError> {
        let lock = match File::open(home.owner_lock()) {
            Ok(file) => OwnerLock { file },
            // Somebody has removed the file, or it was not copied with the rest.
            Err(error) if error.kind() == io::ErrorKind::NotFound => OwnerLock::open(home)?,
            Err(source) => return Err(OwnerError::Io { path: home.owner_lock(), source }),
        };
        if lock.get(home, FlockOperation::NonBlockingLockShared)? {
            Ok(lock)
        } else {
            Err(OwnerError::Owned { path: home.owner_lock() })
        }
    }

    fn open(home: &Home) -> Result<OwnerLock, OwnerError> {
        let path = home.owner_lock();
        let open = || {
            fs::create_dir_all(home.identity())?;
            OpenOptions::new().create(true).truncate(false).write(true).open(&path)
        };
        let file = open().map_err(|source| OwnerError::Io { path: path.clone(), source })?;
        Ok(OwnerLock { file })
    }

    /// False if somebody else's lock is in the way.
    fn get(&self, home: &Home, operation: FlockOperation) -> Result<bool, OwnerError> {
        match flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(OwnerError::Io { path: home.owner_lock(), source: errno.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_alone_and_waits_for_readers_only() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let readers = [OwnerLock::share(&home).unwrap(), OwnerLock::share(&home).unwrap()];
        let waiting = thread::spawn({
            let home = home.clone();
            move || OwnerLock::take(&home).map(|lock| (lock, Instant::now()))
        });
        thread::sleep(Duration::from_millis(50));
        let done = Instant::now();
        drop(readers);
        let (host, since) = waiting.join().unwrap().unwrap();
        assert!(since >= done, "not before the last reader has gone");
        let asked = Instant::now();
        assert!(matches!(OwnerLock::take(&home), Err(OwnerError::Owned { .. })));
        assert!(matches!(OwnerLock::share(&home), Err(OwnerError::Owned { .. })));
        assert!(asked.elapsed() < READERS / 2, "a host is not waited for");
        drop(host);
        OwnerLock::take(&home).unwrap();
    }
}
