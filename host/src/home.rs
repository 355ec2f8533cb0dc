//! Where everything of one identity lies: the folder that `--home` names, and every path below it.
//!
//! No other module spells out a file name of the home, so the layout can be read here, whole.

use std::path::{Path, PathBuf};

/// The folder that holds an identity with its plugins, settings and update state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Home(PathBuf);

impl Home {
    /// The home in this folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Home {
        Home(folder.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All settings: `theseus.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.0.join("theseus.toml")
    }

    /// What must never be touched by anything but the host: the two databases and the lock.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Where an identity is built that is being restored, until it is whole.
    pub fn restoring(&self) -> PathBuf {
        self.0.join("identity.restoring")
    }

    /// The history, an LMDB environment.
    pub fn history(&self) -> PathBuf {
        self.identity().join("history")
    }

    /// The object table, an LMDB environment.
    pub fn objects(&self) -> PathBuf {
        self.identity().join("objects")
    }

    /// The folder of the history's bases, each an LMDB environment in a folder of its own.
    pub fn bases(&self) -> PathBuf {
        self.identity().join("base")
    }

    /// The file whose lock says which process owns the identity.
    pub fn owner_lock(&self) -> PathBuf {
        self.identity().join("owner.lock")
    }

    /// The content-addressed store of plugin files, `DIGEST.so` each.
    pub fn plugin_store(&self) -> PathBuf {
        self.0.join("plugins")
    }

    /// What exists only while a host runs.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The socket for control, for the same user or root only.
    pub fn admin_socket(&self) -> PathBuf {
        self.run().join("admin.sock")
    }

    /// How far a verification has come that was interrupted.
    pub fn verify_state(&self) -> PathBuf {
        self.run().join("verify.state")
    }

    /// How far the verification in the background has come.
    pub fn patrol_note(&self) -> PathBuf {
        self.run().join("patrol.json")
    }

    /// Everything about restart cycles. The files in it are the business of `restart::RestartPaths`.
    pub fn update(&self) -> PathBuf {
        self.0.join("update")
    }

    /// Unpacked releases, `DIGEST/` each, with the links `current` and `good`.
    pub fn releases(&self) -> PathBuf {
        self.0.join("releases")
    }

    /// The minisign keys whose releases are accepted.
    pub fn trust(&self) -> PathBuf {
        self.0.join("trust")
    }
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}
