//! Making the object table anew from the history: after the table was lost or damaged, and after a backup was restored.
//!
//! The table is made beside the old one, in steps of bounded size, and takes its place when it is whole and durable; a crash before
//! that leaves everything as it was. Nothing is guessed: a history that is not whole up to the last record is refused.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::{
    BaseDigest, Head, NameVersion, Place, RequestMemory, StorageError, Tid, Transaction, Version,
    base::hash_row,
    fingerprint, follows,
    history::{History, HistoryView, StoredBatch},
    table::{Checkpoint, NAMES, OBJECTS, REQUESTS, Reached, RequestRow, Table, TableView},
    write::count,
};

/// How many changed rows, and how many bytes of objects, go into the table in one step. Each row may cost LMDB a page of its own,
/// and more than 131,071 pages in one transaction it does not take well.
const STEP_ROWS: usize = 40_000;
const STEP_BYTES: usize = 64 << 20;

/// What a new table was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The last record.
    pub head: Head,
    /// Transactions read.
    pub transactions: u64,
    /// Objects that exist.
    pub objects: u64,
}

/// Why the table was not made. The one that was there, if any, is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The history cannot be believed, so neither could what is made of it.
    #[error(
        "the history is whole up to transaction {last_good} and damaged behind it, so nothing was changed: {source}. Restore a \
         backup with `theseus restore`; one that reaches beyond transaction {last_good} loses nothing that this history still has"
    )]
    History {
        /// The last transaction before the damage.
        last_good: Tid,
        /// Where and what.
        source: StorageError,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Makes the object table of an identity anew from its history. Nobody else may have the identity open for writing.
///
/// `progress` is told how many transactions are done, and how many there are, and answers whether to go on. None if it said no: then
/// everything is as it was.
///
/// # Errors
///
/// If there is no history, if it is damaged, or if the storage fails.
pub fn rebuild(place: &Place, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<Rebuilt>, RebuildError> {
    make(&History::open(place, true)?, place, progress)
}

/// The same with a history that is open, to the end.
pub(super) fn rebuild_from(history: &History, place: &Place) -> Result<Rebuilt, RebuildError> {
    make(history, place, &mut |_, _| true).map(|made| made.expect("nobody told it to stop"))
}

fn make(
    history: &History,
    place: &Place,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Rebuilt>, RebuildError> {
    let made = beside(&place.objects, ".new");
    remove(&made)?;
    let table = Table::open(&made, place.objects_bytes_max, true, false)?;
    let view = history.read()?;
    let head = view.head().map_err(|source| RebuildError::History { last_good: Tid::NONE, source })?;
    let mut building = Building {
        view: &view,
        old: None,
        table: &table,
        memory: place.requests,
        reached: Reached::start(),
        head: Head::default(),
        bytes: 0,
        objects: FxHashMap::default(),
        names: FxHashMap::default(),
        requests: FxHashMap::default(),
    };
    let mut goes_on = true;
    let mut go_on = |done: Tid| {
        goes_on = goes_on && progress(done.0, head.tid.0);
        goes_on
    };
    let based = building.take_base(&mut || go_on(Tid::NONE));
    let walked = based.and_then(|whole| match whole {
        true => view.walk_stored(Tid(1), |key, value| {
            building.batch(key, value)?;
            Ok(go_on(building.head.tid))
        }),
        false => Ok(()),
    });
    let last_good = building.head.tid;
    walked.map_err(|source| match source {
        // Of the two environments only the history is read whose content can be damaged: the other one was just made.
        source @ StorageError::Damaged { .. } => RebuildError::History { last_good, source },
        source => RebuildError::Storage(source),
    })?;
    // An identity without a history has a table without rows.
    if head.tid != Tid::NONE && go_on(last_good) {
        building.step()?;
    }
    while go_on(last_good) && table.index_step(STEP_ROWS)? {}
    let objects = building.reached.census.values().sum();
    drop(building);
    drop(table);
    if !goes_on {
        remove(&made)?;
        return Ok(None);
    }
    take_the_place(&made, &place.objects)?;
    Ok(Some(Rebuilt { head, transactions: head.tid.0, objects }))
}

impl From<RebuildError> for StorageError {
    fn from(error: RebuildError) -> StorageError {
        match error {
            RebuildError::History { source, .. } | RebuildError::Storage(source) => source,
        }
    }
}

/// A table that is being made.
struct Building<'a> {
    view: &'a HistoryView,
    table: &'a Table,
    /// The table as of the last step, if that was looked at since.
    old: Option<TableView>,
    memory: RequestMemory,
    /// The transaction up to which everything is in the table or below, and the counts as of it.
    reached: Reached,
    /// The last record read.
    head: Head,
    /// What the table does not have yet.
    objects: FxHashMap<ObjectId, Version>,
    names: FxHashMap<Arc<str>, NameVersion>,
    requests: FxHashMap<Arc<str>, RequestRow>,
    bytes: usize,
}

impl Building<'_> {
    /// Takes what the base has, if there is one, as long as `go_on` says so; answers whether it has all of it.
    fn take_base(&mut self, go_on: &mut dyn FnMut() -> bool) -> Result<bool, StorageError> {
        let view = self.view;
        let Some((mark, base)) = view.base_rows()? else { return Ok(true) };
        let mut whole = true;
        let mut hasher = blake3::Hasher::new();
        let (mut objects, mut names, mut bytes) = (Vec::new(), Vec::new(), 0);
        self.reached = base.reached()?;
        base.every_entry(|db, key, value| {
            hash_row(&mut hasher, key, value);
            if db == OBJECTS {
                let object = base.object_id(key)?;
                objects.push((object, base.object_row(object, key, value)?, value.to_vec()));
                bytes += value.len();
                if objects.len() >= STEP_ROWS || bytes >= STEP_BYTES {
                    self.table.append_objects(&objects)?;
                    objects.clear();
                    bytes = 0;
                }
            } else if db == NAMES {
                names.push((key.to_vec(), value.to_vec()));
                if names.len() >= STEP_ROWS {
                    self.table.append_rows(NAMES, &names)?;
                    names.clear();
                }
            } else if db == REQUESTS {
                let (id, row) = base.request_row(key, value)?;
                self.requests.insert(id.into(), row);
                if self.rows() >= STEP_ROWS {
                    self.step()?;
                }
            }
            whole = go_on();
            Ok(whole)
        })?;
        if !whole {
            return Ok(false);
        }
        self.table.append_objects(&objects)?;
        self.table.append_rows(NAMES, &names)?;
        let digest = BaseDigest(*hasher.finalize().as_bytes());
        if digest != mark.digest {
            let problem = format!("its rows have the digest {digest}, but it was put in force as {}", mark.digest);
            return Err(base.damaged("the base", problem));
        }
        self.head = mark.head;
        Ok(true)
    }

    fn batch(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let next = self.head.tid.next();
        let stored = StoredBatch::split(key, value).map_err(|problem| self.view.damaged(next, problem))?;
        let batch = stored.check().map_err(|problem| self.view.damaged(next, problem))?;
        let header = &batch.header;
        if (header.first, header.previous) != (self.head.tid.next(), self.head.hash) {
            let problem = format!("it does not continue the record before, {}:{}", self.head.tid, self.head.hash);
            return Err(self.view.damaged(header.first, problem));
        }
        for (tid, transaction) in batch.transactions() {
            let transaction = transaction.map_err(|error| self.view.damaged(tid, error.to_string()))?;
            self.transaction(tid, &transaction)?;
            if self.rows() >= STEP_ROWS || self.bytes >= STEP_BYTES {
                self.step()?;
            }
        }
        self.head = Head { tid: header.last, hash: stored.hash };
        Ok(())
    }

    fn transaction(&mut self, tid: Tid, transaction: &Transaction<'_>) -> Result<(), StorageError> {
        for write in &transaction.writes {
            let before = match self.objects.get(&write.object) {
                Some(version) => Some(version.clone()),
                None => self.old()?.object(write.object)?,
            };
            let version = Version::after(before.as_ref(), tid, write.record.clone());
            follows(&write.object, write.pointers, &version).map_err(|problem| self.view.damaged(tid, problem))?;
            count(&mut self.reached.census, write.object, before.as_ref(), &version);
            self.reached.next_object = self.reached.next_object.max(write.object.0 + 1);
            self.bytes += version.record.as_ref().map_or(0, |record| record.slots.len());
            self.objects.insert(write.object, version);
        }
        for naming in &transaction.names {
            let before = match self.names.get(naming.name) {
                Some(version) => Some(version.clone()),
                None => self.old()?.name(naming.name)?,
            };
            let version = Version::after(before.as_ref(), tid, naming.object);
            follows(naming.name, naming.pointers, &version).map_err(|problem| self.view.damaged(tid, problem))?;
            self.names.insert(Arc::from(naming.name), version);
        }
        if let Some(id) = transaction.request_id {
            let fingerprint = fingerprint(transaction.method, transaction.arguments);
            let (target, time_us) = (transaction.target, transaction.time_us);
            self.requests.insert(Arc::from(id), RequestRow { tid, target, fingerprint, time_us });
        }
        self.reached.tid = tid;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.objects.len() + self.names.len() + self.requests.len()
    }

    /// Moves what was gathered into the table.
    fn step(&mut self) -> Result<(), StorageError> {
        let requests: Vec<_> = self.requests.drain().collect();
        let mut superseded = Vec::new();
        for (id, _) in &requests {
            superseded.extend(self.old()?.request(id)?.map(|row| row.tid));
        }
        // A view that is kept while the table is written makes its file grow.
        self.old = None;
        self.table.advance(Checkpoint {
            reached: self.reached.clone(),
            objects: self.objects.drain().collect(),
            names: self.names.drain().collect(),
            requests,
            superseded,
            memory: self.memory,
        })?;
        self.bytes = 0;
        Ok(())
    }

    fn old(&mut self) -> Result<&TableView, StorageError> {
        match &mut self.old {
            Some(view) => Ok(view),
            none => Ok(none.insert(self.table.read()?)),
        }
    }
}

/// Puts a table that is whole where the old one was, which may be missing.
fn take_the_place(made: &Path, objects: &Path) -> Result<(), StorageError> {
    let old = beside(objects, ".old");
    remove(&old)?;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| StorageError::Io { path, source }
    };
    // A crash between the two renames leaves no table, and then it is made again.
    if objects.exists() {
        fs::rename(objects, &old).map_err(io(objects))?;
    }
    fs::rename(made, objects).map_err(io(made))?;
    if let Some(parent) = objects.parent() {
        fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io(parent))?;
    }
    remove(&old)
}

/// Removes what a rebuilding that did not come to its end left behind.
pub(super) fn clean(place: &Place) -> Result<(), StorageError> {
    remove(&beside(&place.objects, ".new"))?;
    remove(&beside(&place.objects, ".old"))
}

fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::Io { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}
