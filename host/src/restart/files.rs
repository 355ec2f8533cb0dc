//! How files are published and read back.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// The longest file of the restart cycle that is read, in bytes.
const LENGTH_MAX: u64 = 1024 * 1024;

/// Why a file of the restart cycle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be made durable. What was there before is still there.
    #[error("cannot publish {}: {source}; check the permissions and the free space of its folder", path.display())]
    Publish {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there, but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is longer than any such file may be.
    #[error("{} is longer than {LENGTH_MAX} bytes: it is not a file of the restart cycle", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is not what its place says it is.
    #[error("{} is malformed: {source}; docs/restart.md describes it", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it departs from the format.
        source: serde_json::Error,
    },
    /// It is of a later format than this program knows.
    #[error("{} has schema {found}, and this program reads schema {known}", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The schema that is understood.
        known: u32,
    },
}

/// Puts a file in place so that a reader, also one after a power cut, sees all of it or nothing.
///
/// Writes a temporary beside it, syncs it, renames it over `path`, and syncs the folder, which is made if it is
/// missing.
pub(super) fn publish(path: &Path, content: &[u8]) -> Result<(), FileError> {
    publish_io(path, content).map_err(|source| FileError::Publish { path: path.into(), source })
}

fn publish_io(path: &Path, content: &[u8]) -> io::Result<()> {
    let (folder, name) = match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(folder), Some(name)) => (folder, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    make_folder(folder)?;
    // The leading dot tells a scan to leave it alone; the process id keeps two writers apart.
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Best effort: what counts is the error that stopped us.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// Makes a folder and those above it; each new one is made durable in its parent.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_folder(parent)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Reads a file whole; none if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    read_up_to(path, LENGTH_MAX)
}

fn read_up_to(path: &Path, length_max: u64) -> Result<Option<Vec<u8>>, FileError> {
    let failed = |source| FileError::Read { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(length_max + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > length_max { Err(FileError::TooLong { path: path.into() }) } else { Ok(Some(content)) }
}

/// Reads a JSON file of a known schema; none if it does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, FileError> {
    #[derive(serde::Deserialize)]
    struct Schema {
        schema: u32,
    }
    let Some(content) = read(path)? else { return Ok(None) };
    let malformed = |source| FileError::Malformed { path: path.into(), source };
    // The schema comes first: a later one may have other fields, and should be called later, not malformed.
    let Schema { schema: found } = serde_json::from_slice(&content).map_err(malformed)?;
    if found != known {
        return Err(FileError::Schema { path: path.into(), found, known });
    }
    serde_json::from_slice(&content).map(Some).map_err(malformed)
}

/// The JSON of a value, with a closing newline.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("structs of strings and numbers always have a JSON form");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_replaces_whole_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        publish(&path, b"one").unwrap();
        publish(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn publish_into_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "a file").unwrap();
        let error = publish(&folder.path().join("a/b"), b"one").unwrap_err();
        assert!(matches!(error, FileError::Publish { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        fs::write(&path, vec![b' '; LENGTH_MAX as usize + 1]).unwrap();
        assert!(matches!(read(&path), Err(FileError::TooLong { .. })));
    }
}
