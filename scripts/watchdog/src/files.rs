//! Where the files lie, and how they are put there so that a crash at any moment leaves the old or the new, whole.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// The longest small file that is read, in bytes.
const LENGTH_MAX: u64 = 1024 * 1024;

/// The places under a home folder.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The home folder, absolute.
    pub home: PathBuf,
}

impl Layout {
    /// The folders that the watchdog makes.
    pub fn folders(&self) -> [PathBuf; 8] {
        [
            self.home.join("run"),
            self.releases(),
            self.update(),
            self.spool(),
            self.handoffs(),
            self.confirmations(),
            self.refused(),
            self.quarantine(),
        ]
    }

    /// What must not be touched while a host owns it.
    pub fn identity(&self) -> PathBuf {
        self.home.join("identity")
    }

    /// Whoever has its lock owns the identity.
    pub fn owner_lock(&self) -> PathBuf {
        self.identity().join("owner.lock")
    }

    /// Unpacked releases, and links to two of them.
    pub fn releases(&self) -> PathBuf {
        self.home.join("releases")
    }

    /// All about updates.
    pub fn update(&self) -> PathBuf {
        self.home.join("update")
    }

    /// Instructions that wait.
    pub fn spool(&self) -> PathBuf {
        self.update().join("spool")
    }

    /// What stopping hosts left.
    pub fn handoffs(&self) -> PathBuf {
        self.update().join("handoff")
    }

    /// What new hosts confirmed.
    pub fn confirmations(&self) -> PathBuf {
        self.update().join("confirm")
    }

    /// Instructions that were refused, and why.
    pub fn refused(&self) -> PathBuf {
        self.update().join("refused")
    }

    /// Digests of releases that did not work, and why.
    pub fn quarantine(&self) -> PathBuf {
        self.update().join("quarantine")
    }

    /// The lock that keeps a second watchdog away.
    pub fn watchdog_lock(&self) -> PathBuf {
        self.update().join("watchdog.lock")
    }

    /// The lock that an upgrade script and all its children hold.
    pub fn script_lock(&self) -> PathBuf {
        self.update().join("apply.lock")
    }

    /// The watchdog's state.
    pub fn journal(&self) -> PathBuf {
        self.update().join("journal.json")
    }

    /// What happened.
    pub fn history(&self) -> PathBuf {
        self.update().join("history.jsonl")
    }

    /// The highest release epoch so far.
    pub fn floor(&self) -> PathBuf {
        self.update().join("floor")
    }

    /// Why nothing is done any more.
    pub fn held(&self) -> PathBuf {
        self.update().join("held")
    }
}

/// Makes what was done in a folder durable.
///
/// # Errors
///
/// What the system said.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Puts a file in place: a temporary beside it, synced, renamed, and the folder synced.
///
/// # Errors
///
/// What the system said; the old file is still there then.
pub fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename_durably(&temporary, path)
}

/// Makes a symbolic link to `target`, in place of the one that may be there: there is no moment without one.
///
/// # Errors
///
/// What the system said; the old link is still there then.
pub fn publish_link(path: &Path, target: &str) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    remove(&temporary)?;
    symlink(target, &temporary)?;
    rename_durably(&temporary, path)
}

/// Renames within one folder, and makes it durable.
///
/// # Errors
///
/// What the system said.
pub fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to.parent().ok_or(io::ErrorKind::InvalidInput)?)
}

/// Removes a file durably; it is no error if it is not there.
///
/// # Errors
///
/// What the system said.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path.parent().ok_or(io::ErrorKind::InvalidInput)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads a small file whole; none if it is not there.
///
/// # Errors
///
/// What the system said, or `FileTooLarge`.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    // Whatever lies there must not make the watchdog wait: a pipe without a writer reads as empty.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut content = Vec::new();
    file.take(LENGTH_MAX + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LENGTH_MAX { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(Some(content)) }
}

/// A `flock(2)` on a file, for as long as this lives. A process that is killed loses it.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock if nobody has it. The file is made if it is missing; its folder is not.
    ///
    /// # Errors
    ///
    /// What the system said, other than that somebody has it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = File::options().read(true).append(true).create(true).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The file that is locked.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
    // The leading dot keeps it out of every scan. One watchdog, one thread: the name need not be unique.
    Ok(path.with_file_name(format!(".{name}.tmp")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_or_link_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        for content in ["one", "two"] {
            publish(&file, content.as_bytes()).unwrap();
            publish_link(&link, content).unwrap();
            assert_eq!(read(&file).unwrap().unwrap(), content.as_bytes());
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(content));
        }
        // What a crash between making and renaming leaves behind is in nobody's way.
        symlink("left", folder.path().join(".link.tmp")).unwrap();
        publish_link(&link, "three").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(read(&file).unwrap(), None);
    }

    #[test]
    fn a_lock_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(lock);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }
}
