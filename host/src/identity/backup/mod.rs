//! Backups: a folder that holds a history as a chain of segment files, taken beside a running host or without one.
//!
//! A first backup is full; each later one into the same folder adds segments with what is new. `backup.json` names them, and is
//! replaced when a segment is whole, so that an interrupted backup goes as far as the last one that is. `docs/formats.md` describes
//! the files.
//!
//! - [`take`] copies what is new, each record checked;
//! - [`check`] walks a backup alone;
//! - [`restore`] makes an identity out of one.

mod base;
mod manifest;
mod read;
mod restore;
mod segment;
mod take;

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

pub use self::{
    manifest::{BaseEntry, Manifest, PluginEntry, SegmentEntry},
    read::{Checked, check},
    restore::{PutPlugin, Restored, restore, settings},
    take::{KeepPlugin, TakeOptions, Taken, take},
};
use super::{Head, IdentityId, StorageError, Tid};

/// Why a backup could not be taken, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder holds no backup.
    #[error("{} holds no backup: name the folder that `theseus backup --to` was given", folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds what a first backup has left that did not come to the end of its first part.
    #[error(
        "{} holds no backup yet: the first one did not come far enough; take it with `theseus backup --to` again",
        folder.display()
    )]
    Unfinished {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds something, but no backup.
    #[error("{} is not empty and holds no backup: choose an empty folder", folder.display())]
    NotEmpty {
        /// The folder.
        folder: PathBuf,
    },
    /// Somebody takes a backup into the folder at this moment.
    #[error("{} is being written by another backup: wait for it to end", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder holds the backup of another identity.
    #[error("{} holds a backup of identity {found}, but this is {identity}: choose another folder", folder.display())]
    OtherIdentity {
        /// The folder.
        folder: PathBuf,
        /// Whose backup it is.
        found: IdentityId,
        /// The identity that was to be backed up.
        identity: IdentityId,
    },
    /// The backup ends with a record that the history does not have.
    #[error(
        "{} ends with transaction {} ({}), which is not part of this history: it was taken from another course of the same \
         identity; keep it, and choose an empty folder", folder.display(), head.tid, head.hash
    )]
    NotContinued {
        /// The folder.
        folder: PathBuf,
        /// Where the backup ends.
        head: Head,
    },
    /// What the backup lacks is not in the history any more.
    #[error(
        "{} ends with transaction {last}, but the history was packed and begins after {base}: keep it, and take a new full \
         backup into an empty folder", folder.display()
    )]
    Packed {
        /// The folder.
        folder: PathBuf,
        /// Where the backup ends.
        last: Tid,
        /// The transaction before which the history was packed.
        base: Tid,
    },
    /// A file of the backup is not what was written.
    #[error("{} is damaged at {place}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong there.
        problem: String,
    },
    /// The backup does not go as far as it is asked for.
    #[error("there is no transaction {to} in the backup: it has {first} to {last}")]
    NoSuchTransaction {
        /// What was asked for.
        to: Tid,
        /// The first that it can be restored to.
        first: Tid,
        /// The last one.
        last: Tid,
    },
    /// There is an identity already.
    #[error("{} holds an identity: restore into an empty home", place.display())]
    Occupied {
        /// Where the identity is.
        place: PathBuf,
    },
    /// A plugin in force is not in the store, so a restored home could not start.
    #[error("the plugin file {} cannot be backed up: {problem}", path.display())]
    Plugin {
        /// The file of the store.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was operated on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The identity's own storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl BackupError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
        let path = path.to_owned();
        |source| BackupError::Io { path, source }
    }

    fn damaged(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> BackupError {
        BackupError::Damaged { path: path.to_owned(), place: place.into(), problem: problem.into() }
    }
}

/// Puts a file in place so that it is there whole or not at all, also after a power cut.
///
/// # Errors
///
/// If the file system fails.
pub fn publish(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    let temporary = temporary_of(path);
    let mut file = File::create(&temporary).map_err(BackupError::io(&temporary))?;
    file.write_all(content).map_err(BackupError::io(&temporary))?;
    settle(file, &temporary, path)
}

/// Makes a file that was written under a temporary name durable, and gives it its own.
fn settle(file: File, temporary: &Path, path: &Path) -> Result<(), BackupError> {
    file.sync_all().map_err(BackupError::io(temporary))?;
    drop(file);
    fs::rename(temporary, path).map_err(BackupError::io(path))?;
    sync_folder(path.parent().expect("a file lies in a folder"))
}

fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(BackupError::io(folder))
}

/// One temporary for each place, so that what a crash left is written over by the next try.
fn temporary_of(path: &Path) -> PathBuf {
    let name = path.file_name().expect("a file has a name").to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}
