//! Objects as text that any program can read and write: JSON Lines, one object a line. `docs/formats.md` describes them.
//!
//! - [`export`] writes the objects and names as of a transaction, beside a running host or without one;
//! - [`import`] adds the content of such a file to an identity whose host does not run, all of it or nothing.

mod export;
mod import;
mod lines;
mod survey;

use std::{
    io,
    path::{Path, PathBuf},
};

pub(super) use self::import::IMPORT;
pub use self::{
    export::{Exported, export},
    import::{ImportOptions, Imported, import},
};
use super::owner::OwnerError;
use crate::{config::ConfigError, exec::Shortage, identity::StorageError};

/// Which format the header of a file names.
const FORMAT: &str = "theseus.export";

/// Its version, the only one that is written and read.
const VERSION: u64 = 1;

/// Why objects were not exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such transaction.
    #[error("there is no transaction {at}: the history has 1 to {last}")]
    NoSuchTransaction {
        /// What was asked for.
        at: u64,
        /// The last one.
        last: u64,
    },
    /// It was before the first transaction.
    #[error("nothing had been committed at that time")]
    NothingThen,
    /// A line of the file is not what it should be.
    #[error("{}, line {line}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong there.
        problem: String,
    },
    /// Names of the file stand for objects already.
    #[error("{count} names of the file are taken, such as {}: free them, or change the file", shown.join(", "))]
    NamesTaken {
        /// How many.
        count: usize,
        /// The first of them.
        shown: Vec<String>,
    },
    /// Objects of the file have ids that are not free, and were to keep them.
    #[error(
        "{count} objects of the file have ids below {next}, which are taken, or above {greatest}: leave out --keep-ids, or import into \
         an empty identity"
    )]
    IdsTaken {
        /// How many.
        count: usize,
        /// The first id that is free.
        next: u64,
        /// The greatest that an object keeps.
        greatest: u64,
    },
    /// There is too little room.
    #[error("{0}; nothing was imported")]
    NoRoom(Shortage),
    /// The file was changed between being looked through and being imported.
    #[error("{} was changed while it was imported; nothing was imported", file.display())]
    Changed {
        /// The file.
        file: PathBuf,
    },
    /// A value in the identity does not decode.
    #[error("object {object} has slots that cannot be read: {problem}")]
    Slots {
        /// Whose.
        object: u64,
        /// What is wrong with them.
        problem: String,
    },
    /// The output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(io::Error),
    /// The file cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A host, or another import, has the identity.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    |source| Failure::Io { path, source }
}
