//! Making an identity out of a backup: built beside its place, and moved there when it is whole.

use std::path::Path;

use super::{
    BackupError, Manifest, base,
    read::{self, read_plugin},
    segment::Record,
};
use crate::identity::{
    BatchHeader, Head, IdentityId, Place, RecordHash, StorageError, Tid,
    batch::BatchBuilder,
    history::{History, StoredRecord},
    rebuild::rebuild_from,
};

/// How much of the history is written in one transaction, in bytes; a record that is longer is written alone.
const STEP_BYTES: usize = 16 << 20;

/// What was made of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// Whose identity it is.
    pub identity: IdentityId,
    /// Where its history ends.
    pub head: Head,
    /// Whether the last record had to be cut, because the transaction asked for lies within it: its hash is then new.
    pub cut: bool,
    /// How many records it has.
    pub records: u64,
    /// How many objects there are.
    pub objects: u64,
    /// The plugin files that the records name, as far as the backup has them.
    pub plugins: u64,
}

/// Keeps a plugin file under its digest.
pub type PutPlugin<'a> = &'a mut dyn FnMut(RecordHash, Vec<u8>) -> Result<(), BackupError>;

/// The settings that a backup holds.
///
/// # Errors
///
/// If there is no backup, or its list of files is damaged.
pub fn settings(folder: &Path) -> Result<Option<String>, BackupError> {
    Ok(read::open(folder)?.settings)
}

/// Makes the identity that a backup holds in the folders of `place`, which must not be there, up to transaction `to` if one
/// is given. Whoever calls it builds beside the home and moves it there. `progress` is told the bytes that are done and all.
///
/// # Errors
///
/// [`BackupError::Damaged`] with the first place that is not what was written, or what the storage says. What was made by then
/// has to be removed.
pub fn restore(
    folder: &Path,
    place: &Place,
    to: Option<Tid>,
    put_plugin: PutPlugin<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Restored, BackupError> {
    let manifest = read::open(folder)?;
    let last = manifest.head().tid;
    if let Some(to) = to
        && (to > last || to <= manifest.start().tid)
    {
        return Err(BackupError::NoSuchTransaction { to, first: manifest.start().tid.next(), last });
    }
    let end = to.unwrap_or(last);
    let base = manifest.base.as_ref().map(|base| base::put(folder, base, manifest.identity, place)).transpose()?;
    History::create_on(place, manifest.identity, base)?;
    let mut copy = Copy::begin(folder, History::open(place, false)?, manifest.start(), end);
    read::walk(folder, &manifest, progress, |record| copy.record(record))?;
    let (head, cut, records) = copy.finish()?;
    put_plugins(folder, &manifest, put_plugin)?;
    let objects = rebuild_from(&History::open(place, true)?, place).map_err(StorageError::from)?.objects;
    Ok(Restored { identity: manifest.identity, head, cut, records, objects, plugins: manifest.plugins.len() as u64 })
}

/// The history being made.
struct Copy<'a> {
    folder: &'a Path,
    history: History,
    end: Tid,
    pending: Vec<StoredRecord>,
    pending_bytes: usize,
    head: Head,
    cut: bool,
    records: u64,
}

impl<'a> Copy<'a> {
    fn begin(folder: &'a Path, history: History, head: Head, end: Tid) -> Copy<'a> {
        Copy { folder, history, end, pending: Vec::new(), pending_bytes: 0, head, cut: false, records: 0 }
    }

    /// Takes a record; answers whether more are wanted.
    fn record(&mut self, record: &Record<'_>) -> Result<bool, BackupError> {
        let header = &record.batch.header;
        self.cut = self.end < header.last;
        let mut transactions = BatchBuilder::default();
        for (_, transaction) in record.batch.encoded().take_while(|(tid, _)| *tid <= self.end) {
            transactions.push_encoded(transaction);
        }
        let header = BatchHeader { last: header.last.min(self.end), ..header.clone() };
        let stored = StoredRecord::new(&header, &transactions);
        if !self.cut && stored.hash() != record.hash {
            // The encoding is deterministic, so what was read well is written as it was.
            let place = format!("the record of transactions {} to {}", header.first, header.last);
            return Err(BackupError::damaged(self.folder, place, "it does not encode as it was"));
        }
        self.head = Head { tid: header.last, hash: stored.hash() };
        self.records += 1;
        self.pending_bytes += stored.bytes();
        self.pending.push(stored);
        if self.pending_bytes >= STEP_BYTES {
            self.flush()?;
        }
        Ok(self.head.tid < self.end)
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        self.history.append_stored(&self.pending)?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<(Head, bool, u64), BackupError> {
        self.flush()?;
        Ok((self.head, self.cut, self.records))
    }
}

fn put_plugins(folder: &Path, manifest: &Manifest, put_plugin: PutPlugin<'_>) -> Result<(), BackupError> {
    for plugin in &manifest.plugins {
        put_plugin(plugin.digest, read_plugin(folder, plugin)?)?;
    }
    Ok(())
}
