//! Backups of a home: the history with the plugin files that it names, taken from the files beside a running host, and restored
//! into a home without an identity.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    offline,
    owner::{OwnerError, OwnerLock},
};
pub use crate::identity::backup::{BackupError, Checked, Restored, Taken, check};
use crate::{
    config::{Config, ConfigError},
    home::Home,
    identity::{
        Identity, Place, RecordHash, Tid,
        backup::{self, TakeOptions},
    },
    plugin::{Digest, Staged, Store},
};

/// Why a home was not backed up or restored.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// See there.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The home's lock cannot be had.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConfigError),
}

/// Adds to the backup in `folder` what it lacks, or begins one. `progress` is told the transactions that are done and the last.
///
/// # Errors
///
/// See [`BackupError`]; the backup is then what it was.
pub fn take(home: &Home, folder: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Taken, Failure> {
    let config = Config::load(home)?;
    let settings = match fs::read_to_string(home.config_file()) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ConfigError::Unreadable { file: home.config_file(), source }.into()),
    };
    let options = TakeOptions { segment_bytes_max: config.identity.backup_segment_bytes_max, settings };
    let mut keep = |digest: RecordHash, in_force: bool| keep_plugin(home, folder, digest, in_force);
    Ok(backup::take(&super::host::place(home, &config), folder, &options, &mut keep, progress)?)
}

/// Copies a plugin file into a backup; answers its length. A file that is not in force may be missing, since nothing needs it.
fn keep_plugin(home: &Home, folder: &Path, digest: RecordHash, in_force: bool) -> Result<Option<u64>, BackupError> {
    let name = format!("{digest}.so");
    let path = home.plugin_store().join(&name);
    let content = fs::read(&path).map_err(|error| error.to_string()).and_then(|content| {
        let found = blake3::hash(&content);
        if *found.as_bytes() == digest.0 { Ok(content) } else { Err(format!("its content has the digest {found}")) }
    });
    let content = match content {
        Ok(content) => content,
        Err(problem) if in_force => return Err(BackupError::Plugin { path, problem }),
        Err(problem) => {
            log::warn!(
                "{} is left out of the backup, an earlier part of the history names it: {problem}",
                path.display()
            );
            return Ok(None);
        }
    };
    let plugins = folder.join("plugins");
    fs::create_dir_all(&plugins).map_err(|source| BackupError::Io { path: plugins.clone(), source })?;
    backup::publish(&plugins.join(name), &content)?;
    Ok(Some(content.len() as u64))
}

/// Makes the identity of a backup in a home that has none, as of transaction `to` if one is given. `progress` is told the bytes
/// that are done and all.
///
/// # Errors
///
/// See [`BackupError`]; no identity is left behind then.
pub fn restore(
    home: &Home,
    folder: &Path,
    to: Option<u64>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Restored, Failure> {
    let settings = backup::settings(folder)?.filter(|_| !home.config_file().exists());
    let config = match &settings {
        Some(settings) => Config::parse(settings, home.config_file())?,
        None => Config::load(home)?,
    };
    let place = super::host::place(home, &config);
    let is_free = || match Identity::is_there(&place)? {
        true => Err(BackupError::Occupied { place: home.identity() }),
        false => Ok(()),
    };
    is_free()?;
    fs::create_dir_all(home.path()).map_err(failed(home.path()))?;
    let _owner = OwnerLock::take(home)?;
    is_free()?;
    let building = Building::begin(home)?;
    let restored = {
        let store = home.plugin_store();
        let mut put = |digest, content| put_plugin(&store, digest, content);
        backup::restore(folder, &building.place(&config), to.map(Tid), &mut put, progress)?
    };
    offline::make_folders(home).map_err(BackupError::from)?;
    if let Some(settings) = settings {
        backup::publish(&home.config_file(), settings.as_bytes())?;
    }
    building.move_in(home, &place)?;
    Ok(restored)
}

fn put_plugin(store: &Path, digest: RecordHash, content: Vec<u8>) -> Result<(), BackupError> {
    let path = store.join(format!("{digest}.so"));
    let refused = |problem: String| BackupError::Plugin { path: path.clone(), problem };
    let staged = Staged::seal(&content[..], &path).map_err(|error| refused(error.to_string()))?;
    debug_assert_eq!(staged.digest(), Digest::from_bytes(digest.0), "it was read with this digest");
    let store = Store::open(store).map_err(|error| refused(error.to_string()))?;
    store.keep(&staged).map(|_| ()).map_err(|error| refused(error.to_string()))
}

/// An identity that is being built beside its place. Removed with this value, unless it was moved in.
struct Building {
    folder: PathBuf,
}

impl Building {
    fn begin(home: &Home) -> Result<Building, BackupError> {
        let folder = home.restoring();
        // What an interrupted restore left.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&folder)(error)),
            _ => {}
        }
        fs::create_dir(&folder).map_err(failed(&folder))?;
        Ok(Building { folder })
    }

    fn place(&self, config: &Config) -> Place {
        let place = super::host::place(&Home::new(&self.folder), config);
        let inside = |name: &str| self.folder.join(name);
        Place { history: inside("history"), objects: inside("objects"), bases: inside("base"), ..place }
    }

    /// Gives the identity its place, in one step: a folder may be renamed over an empty one.
    fn move_in(self, home: &Home, place: &Place) -> Result<(), BackupError> {
        // An identity whose making was cut off is in the way, and is none.
        Identity::remove_remains(place)?;
        let sync = |folder: &Path| fs::File::open(folder).and_then(|it| it.sync_all()).map_err(failed(folder));
        sync(&self.folder)?;
        // A host that is started meanwhile finds no history as yet; whoever makes another identity meanwhile makes the renaming fail.
        fs::remove_file(home.owner_lock()).map_err(failed(&home.owner_lock()))?;
        fs::rename(&self.folder, home.identity()).map_err(failed(&home.identity()))?;
        sync(home.path())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After a success it is not there any more; after a failure, that failure is what counts.
        _ = fs::remove_dir_all(&self.folder);
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    |source| BackupError::Io { path, source }
}
