//! Plugin files: taken in once, named by their digest, kept in `HOME/plugins/DIGEST.so`.
//!
//! A file that an operator offers is [staged](stage): read once into a sealed copy and hashed there, so that nothing that is
//! decided about it later can be undone by a change of the file. The store learns of it only when it is to be
//! [kept](Store::keep), and gives back [checked](Store::fetch) copies.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{
    digest::Digest,
    sealed::SealedFile,
    source::{self, Source},
};

/// The largest plugin file that is ever taken in or read back, in bytes, whatever the configuration allows.
pub const FILE_BYTES_LIMIT: u64 = 1 << 30;

/// How many files of the store are known to be whole at once.
const STAMPS_MAX: usize = 1024;

/// A plugin file that was read once and cannot change any more. Nothing of it was believed or run yet.
#[derive(Debug)]
pub struct Staged {
    digest: Digest,
    origin: PathBuf,
    file: SealedFile,
    bytes: Vec<u8>,
}

impl Staged {
    /// Seals what is read; `origin` says where it comes from.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or there is no memory for a copy.
    pub fn seal(original: impl Read, origin: &Path) -> io::Result<Staged> {
        let file = SealedFile::copy_of(original, origin)?;
        // Hashed is what the copy holds, not what went into it: the digest speaks of the bytes that can be loaded.
        let bytes = file.read()?;
        Ok(Staged { digest: Digest::of(&bytes), origin: origin.to_path_buf(), file, bytes })
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where it was read from; only for messages, the file there may be another by now.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.file.length()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The copy itself, for the dynamic linker.
    pub(super) fn into_file(self) -> SealedFile {
        self.file
    }
}

/// Why a file could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It is not there, or may not be read.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a directory, a pipe, a device ...
    #[error("{} is a {kind}: give the path of a plugin's .so file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// It is larger than a plugin may be.
    #[error("{} has more than {bytes_max} bytes: strip it, or raise the limit on plugin files in theseus.toml", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        bytes_max: u64,
    },
    /// Reading it failed half-way.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The sealed copy could not be made.
    #[error("cannot make a sealed copy of {}: {source}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads the file at `path`, which may have up to `bytes_max` bytes, once into a sealed copy and hashes it. Nothing is written.
///
/// # Errors
///
/// See [`StageError`]. Never waits for a pipe or a device.
pub fn stage(path: &Path, bytes_max: u64) -> Result<Staged, StageError> {
    stage_from_source(path, bytes_max).map(|(staged, _)| staged)
}

/// Does what [`stage`] does, and tells what is known of where the file comes from.
///
/// # Errors
///
/// See [`StageError`].
pub fn stage_from_source(path: &Path, bytes_max: u64) -> Result<(Staged, Source), StageError> {
    let bytes_max = bytes_max.min(FILE_BYTES_LIMIT);
    let owned = || path.to_path_buf();
    let (file, provenance) = source::open(path).map_err(|source| StageError::Open { path: owned(), source })?;
    let metadata = file.metadata().map_err(|source| StageError::Read { path: owned(), source })?;
    if !metadata.is_file() {
        return Err(StageError::NotAFile { path: owned(), kind: kind_of(metadata.file_type()) });
    }
    // One byte more than allowed tells a file of exactly the limit from a larger one, even if it grows meanwhile.
    let staged = Staged::seal(file.take(bytes_max + 1), path);
    let staged = staged.map_err(|source| StageError::Seal { path: owned(), source })?;
    if staged.length() > bytes_max {
        return Err(StageError::TooLarge { path: owned(), bytes_max });
    }
    Ok((staged, provenance))
}

fn kind_of(file_type: fs::FileType) -> &'static str {
    if file_type.is_dir() {
        "directory"
    } else if file_type.is_fifo() {
        "pipe"
    } else if file_type.is_socket() {
        "socket"
    } else {
        "device"
    }
}

/// The plugin files that the identity's history speaks of, each under its digest.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// The files that were found whole, as they were then. Held while a file is published, so that two threads do not write one
    /// temporary file.
    whole: Mutex<BTreeMap<Digest, Stamp>>,
}

/// What changes with a file's content: its inode, its length, and when it was changed last, in nanoseconds.
type Stamp = (u64, u64, i128);

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Ok((metadata.ino(), metadata.len(), changed_ns))
}

/// Why the store could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct KeepError {
    /// What was being done.
    pub action: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// Why the store could not give a plugin back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No file is there.
    #[error("the plugin file {} is missing: copy the plugin file with this digest there, or swap it in again where a host runs", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// What is there is something else.
    #[error(
        "the plugin file {} is damaged (its content has the digest {found}): \
         copy the original file there, or swap it in again where a host runs",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
    },
    /// It could not be read or copied.
    #[error("the plugin file cannot be fetched from the store: {0}")]
    Unreadable(#[from] StageError),
}

impl Store {
    /// Opens the store in `directory`, making the directory if it is not there.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub fn open(directory: &Path) -> Result<Store, KeepError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(directory);
        made.map_err(|source| KeepError { action: "make the plugin store", path: directory.to_path_buf(), source })?;
        Ok(Store { directory: directory.to_path_buf(), whole: Mutex::default() })
    }

    /// Where the file with this digest is, or would be.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.so"))
    }

    /// Publishes a staged file in the store. It is durable when this returns. A file that is there already is left alone if it
    /// is whole, and replaced if it is damaged.
    ///
    /// # Errors
    ///
    /// If the disk is full or fails; the store is then as it was.
    pub fn keep(&self, staged: &Staged) -> Result<(), KeepError> {
        // A thread that panicked here left at most a temporary file, which the next one overwrites.
        let mut whole = self.whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let path = self.path(staged.digest);
        let found = stamp(&path).ok().filter(|(_, length, _)| *length == staged.length());
        if found.is_some() && found == whole.get(&staged.digest).copied() {
            return Ok(());
        }
        let Some(stamp) = found.filter(|_| fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == staged.digest))
        else {
            return self.publish(staged, &path);
        };
        if whole.len() >= STAMPS_MAX {
            whole.clear();
        }
        whole.insert(staged.digest, stamp);
        Ok(())
    }

    fn publish(&self, staged: &Staged, path: &Path) -> Result<(), KeepError> {
        let temporary = path.with_extension("so.tmp");
        remove_if_there(&temporary).map_err(failed("clear away", &temporary))?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all(&staged.bytes).and_then(|()| file.sync_all()).map_err(failed("write", &temporary))?;
        fs::rename(&temporary, path).map_err(failed("publish", path))?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", &self.directory))
    }

    /// Reads a file back into a sealed copy and checks that it is still the one that was kept.
    ///
    /// # Errors
    ///
    /// See [`FetchError`]; the message names the file and how to repair it.
    pub fn fetch(&self, digest: Digest) -> Result<Staged, FetchError> {
        let path = self.path(digest);
        let staged = stage(&path, FILE_BYTES_LIMIT).map_err(|error| match error {
            StageError::Open { path, source } if source.kind() == io::ErrorKind::NotFound => {
                FetchError::Missing { path }
            }
            other => FetchError::Unreadable(other),
        })?;
        if staged.digest != digest {
            return Err(FetchError::Damaged { path, found: staged.digest });
        }
        Ok(staged)
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> KeepError + 'a {
    move |source| KeepError { action, path: path.to_path_buf(), source }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(directory: &Path, bytes: &[u8]) -> Staged {
        let path = directory.join("offered.so");
        fs::write(&path, bytes).unwrap();
        stage(&path, 1 << 20).unwrap()
    }

    #[test]
    fn what_was_staged_does_not_follow_the_file() {
        let home = tempfile::tempdir().unwrap();
        let staged = staged(home.path(), b"first");
        fs::write(home.path().join("offered.so"), b"other").unwrap();
        assert_eq!(staged.bytes(), b"first");
        assert_eq!(staged.digest(), Digest::of(b"first"));
        assert_eq!(staged.length(), 5);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_copy_is_sealed() {
        let home = tempfile::tempdir().unwrap();
        let path = staged(home.path(), b"first").into_file();
        let mut again = File::options().read(true).write(true).open(path.path()).unwrap();
        assert_eq!(again.write(b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(again.set_len(1).is_err());
        assert!(again.set_len(100).is_err());
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_at_once() {
        let home = tempfile::tempdir().unwrap();
        let kind = |path: &Path| match stage(path, 1000) {
            Err(StageError::NotAFile { kind, .. }) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(home.path()), "directory");
        assert_eq!(kind("/dev/zero".as_ref()), "device");
        let pipe = home.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(kind(&pipe), "pipe");
        assert!(matches!(stage(&home.path().join("none.so"), 1000), Err(StageError::Open { .. })));
        let socket = home.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(stage(&socket, 1000), Err(StageError::Open { .. })));
    }

    #[test]
    fn the_size_limit_is_exact() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(stage(&path, 100).unwrap().length(), 100);
        assert!(matches!(stage(&path, 99), Err(StageError::TooLarge { bytes_max: 99, .. })));
        fs::write(&path, []).unwrap();
        assert_eq!(stage(&path, 0).unwrap().length(), 0);
    }

    #[test]
    fn the_store_gives_back_what_it_keeps() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("deep/plugins")).unwrap();
        let staged = staged(home.path(), b"a plugin");
        let path = store.path(staged.digest());
        assert!(!path.exists(), "staging writes nothing");
        assert!(matches!(store.fetch(staged.digest()), Err(FetchError::Missing { .. })));
        // What a crash before the rename left behind is no obstacle.
        fs::write(path.with_extension("so.tmp"), b"hal").unwrap();
        store.keep(&staged).unwrap();
        assert_eq!(store.fetch(staged.digest()).unwrap().bytes(), b"a plugin");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = inode(&path);
        store.keep(&staged).unwrap();
        assert_eq!(inode(&path), before, "a whole file is left alone");
        assert_eq!(fs::read_dir(home.path().join("deep/plugins")).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_found_named_and_repaired_by_keeping_again() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let staged = staged(home.path(), b"a plugin");
        store.keep(&staged).unwrap();
        let path = store.path(staged.digest());
        for damage in [&b"b plugin"[..], b"a plug", b"a plugin and more", b""] {
            fs::remove_file(&path).unwrap();
            fs::write(&path, damage).unwrap();
            let error = store.fetch(staged.digest()).unwrap_err();
            assert!(matches!(error, FetchError::Damaged { found, .. } if found == Digest::of(damage)));
            assert!(error.to_string().contains(path.to_str().unwrap()) && error.to_string().contains("swap"));
            store.keep(&staged).unwrap();
            assert_eq!(store.fetch(staged.digest()).unwrap().digest(), staged.digest());
        }
    }
}
