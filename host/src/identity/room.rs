//! How much room an identity takes, and how much is left.

use super::{Identity, StorageError};

/// What an identity takes up and what it may still take, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// The history: pages in use, and the write-ahead log. Pages that were freed and can be used again do not count, here and below.
    pub history_bytes: u64,
    /// Records in the write-ahead log: they will take as much once more, because it stays as long as it is.
    pub logged_bytes: u64,
    /// The most that the history can take.
    pub history_bytes_max: u64,
    /// The object table: pages in use.
    pub objects_bytes: u64,
    /// The most that the object table can take.
    pub objects_bytes_max: u64,
    /// The base of a history that was packed.
    pub base_bytes: u64,
    /// Free on the file system, for a user like the host's.
    pub disk_free_bytes: u64,
    /// The size of the file system.
    pub disk_bytes: u64,
}

impl Identity {
    /// Measures.
    ///
    /// # Errors
    ///
    /// If the storage or the system does not say.
    pub fn room(&self) -> Result<Room, StorageError> {
        let (history, objects) = (self.history.usage()?, self.table.usage()?);
        let base_bytes = self.history.base().map_or(Ok(0), |base| base.bytes())?;
        let (disk_free_bytes, disk_bytes) = self.history.disk()?;
        Ok(Room {
            history_bytes: history.used_bytes,
            logged_bytes: self.history.logged_bytes()?,
            history_bytes_max: history.map_bytes,
            objects_bytes: objects.used_bytes,
            objects_bytes_max: objects.map_bytes,
            base_bytes,
            disk_free_bytes,
            disk_bytes,
        })
    }
}
