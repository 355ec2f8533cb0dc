//! Where the files of the restart cycle lie.

use std::path::{Path, PathBuf};

/// The places under a home folder that the host and the watchdog share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestartPaths {
    home: PathBuf,
}

impl RestartPaths {
    /// The places under `home`. Nothing is created.
    pub fn new(home: impl Into<PathBuf>) -> Self {
        RestartPaths { home: home.into() }
    }

    /// The home folder itself.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Instructions that wait for the watchdog.
    pub fn spool(&self) -> PathBuf {
        self.home.join("update/spool")
    }

    /// One instruction.
    pub fn instruction(&self, id: &str) -> PathBuf {
        self.spool().join(format!("{id}.json"))
    }

    /// What the host that stopped left for the next one.
    pub fn handoff(&self, id: &str) -> PathBuf {
        self.home.join("update/handoff").join(id)
    }

    /// What a new host says once it is sure of itself.
    pub fn confirm(&self, id: &str) -> PathBuf {
        self.home.join("update/confirm").join(id)
    }

    /// What became of every instruction: JSON Lines, written by the watchdog.
    pub fn history(&self) -> PathBuf {
        self.home.join("update/history.jsonl")
    }

    /// The watchdog's own state. For display only: it is the watchdog's business.
    pub fn journal(&self) -> PathBuf {
        self.home.join("update/journal.json")
    }

    /// Exists while no instruction may be carried out; holds the reason as text.
    pub fn held(&self) -> PathBuf {
        self.home.join("update/held")
    }

    /// The highest release epoch accepted so far, in decimal; absent means 0.
    pub fn floor(&self) -> PathBuf {
        self.home.join("update/floor")
    }

    /// The release that is started: a link to a folder beside it.
    pub fn current(&self) -> PathBuf {
        self.home.join("releases/current")
    }

    /// The release that was confirmed last: a link to a folder beside it.
    pub fn good(&self) -> PathBuf {
        self.home.join("releases/good")
    }
}
