//! A plugin file where an operator offers it: opened once, with all that says how far it can be trusted.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::trust::Ownership;

/// The longest signature, in bytes.
const SIGNATURE_BYTES_MAX: u64 = 8 * 1024;

/// How a folder is opened that is only to be looked at.
#[cfg(target_os = "linux")]
const FOLDER: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const FOLDER: OFlags = OFlags::RDONLY;

/// What is known of a file besides its content, as of when it was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Where it really lies, symbolic links followed.
    pub path: PathBuf,
    /// To whom it belongs.
    pub file: Ownership,
    /// To whom its folder belongs.
    pub folder: Ownership,
    /// What is in the file beside it that has its name and `.minisig`.
    pub signature: Option<Vec<u8>>,
}

/// Opens a file, through descriptors from its folder on, so that all that is told is told of one and the same file. Never waits
/// for a pipe or a device.
pub(super) fn open(path: &Path) -> io::Result<(File, Source)> {
    let path = path.canonicalize()?;
    let (folder, name) = match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => (folder, name),
        // The root folder, which the caller finds not to be a file.
        _ => (path.as_path(), ".".as_ref()),
    };
    let folder = File::from(rustix::fs::open(folder, FOLDER | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?);
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = |name: &std::ffi::OsStr| rustix::fs::openat(&folder, name, flags, Mode::empty()).map(File::from);
    let file = open(name)?;
    let mut signed = name.to_owned();
    signed.push(".minisig");
    let signature = match open(&signed) {
        Ok(signature) => {
            let mut text = Vec::new();
            signature.take(SIGNATURE_BYTES_MAX).read_to_end(&mut text)?;
            Some(text)
        }
        Err(error) if error == rustix::io::Errno::NOENT => None,
        Err(error) => return Err(error.into()),
    };
    let source = Source { file: Ownership::of(&file)?, folder: Ownership::of(&folder)?, signature, path };
    Ok((file, source))
}
