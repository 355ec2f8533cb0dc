//! Holding restart cycles back: `update/held`.
//!
//! While the file is there, the watchdog takes no instruction up; a watchdog that has given up on its host does not start it.

use std::{fs, io, path::Path};

use super::{
    files::{self, FileError},
    paths::RestartPaths,
};

/// Holds restart cycles back from now on.
///
/// # Errors
///
/// If the file cannot be made durable.
pub fn hold(home: &Path, reason: &str) -> Result<(), FileError> {
    files::publish(&RestartPaths::new(home).held(), format!("{reason}\n").as_bytes())
}

/// Lets restart cycles go on; answers why they were held, or none if they were not.
///
/// # Errors
///
/// If the file can be neither read nor removed.
pub fn resume(home: &Path) -> Result<Option<String>, FileError> {
    let path = RestartPaths::new(home).held();
    let reason = match fs::read_to_string(&path) {
        Ok(reason) => reason,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path, source }),
    };
    fs::remove_file(&path).map_err(|source| FileError::Publish { path, source })?;
    Ok(Some(reason.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_resumed_once() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(resume(home.path()).unwrap(), None);
        hold(home.path(), "the disk is being changed").unwrap();
        assert!(RestartPaths::new(home.path()).held().exists());
        assert_eq!(resume(home.path()).unwrap().as_deref(), Some("the disk is being changed"));
        assert_eq!(resume(home.path()).unwrap(), None);
    }
}
