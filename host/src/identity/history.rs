//! The history: batch records in the order of their transactions, each chained to the one before by its hash.
//!
//! LMDB environment `identity/history/`. Database `batches`: key = last tid of the batch (64 bits, big-endian), value =
//! blake3 of the record (32 bytes) followed by the record and its index. Database `meta`: key `identity` -> the identity's id (16 bytes)
//! followed by the first 8 bytes of its blake3; key `base` -> which [`Base`] is in force, sealed as the rows of the object table are; key
//! `wal` -> the length of the [write-ahead log](wal), where the last records are until there are enough of them, sealed likewise.
//!
//! What was packed away is not there any more, or is about to be removed: for every reader the history begins behind the base.

mod importing;
mod stored;
mod wal;

use std::{
    cell::{Cell, OnceCell},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use theseus_value::raw::{Reader, Writer};

pub(super) use self::stored::StoredRecord;
use self::wal::{Tail, Wal};
use super::{
    Base, BaseMark, BatchHeader, IdentityId, Place, RecordHash, StorageError, Tid,
    batch::{BatchBuilder, BatchView, RawTransaction, Transaction},
    fingerprint,
    index::Index,
    lmdb::{Db, Env, EnvOptions, ReadTxn, Usage, WriteTxn},
    rebuild,
    table::{RequestRow, TableView, seal, unseal},
    version::{Pointers, RawVersion, Row, Versioned},
};

const BATCHES: Db = Db(0);
const META: Db = Db(1);
const IDENTITY: &[u8] = b"identity";
const BASE: &[u8] = b"base";
const WAL: &[u8] = b"wal";
const DATABASES: &[&str] = &["batches", "meta"];
const HASH_BYTES: usize = 32;
const SEAL_BYTES: usize = 8;
/// What a record takes in the database beside its value, at most: the rest of a page.
const RECORD_COST_BYTES: u64 = 4096;

/// A point of the history: its last transaction and the hash of its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The last transaction.
    pub tid: Tid,
    /// The hash of the record that holds it.
    pub hash: RecordHash,
}

/// The history's environment, with its base.
#[derive(Clone)]
pub(super) struct History {
    env: Env,
    wal: Arc<Wal>,
    /// The base in force. Written by the committer alone, after the commit that puts it in force and before it removes anything.
    base: Arc<ArcSwapOption<Base>>,
    bases: PathBuf,
    base_map_bytes: usize,
}

impl History {
    /// Whether there is a history, and so an identity.
    ///
    /// It comes first when an identity is made: who finds anything else of one has found one that has lost its history.
    pub(super) fn is_there(place: &Place) -> Result<bool, StorageError> {
        let data = place.history.join("data.mdb");
        if data.exists() {
            return Ok(true);
        }
        for folder in [&place.history, &place.objects, &place.bases] {
            if let Some(left) = something_in(folder)? {
                let problem = format!(
                    "the history is missing, although there is {}: bring it back, or restore a backup into an empty home",
                    left.display()
                );
                return Err(StorageError::Damaged { path: data, place: "its place".to_owned(), problem });
            }
        }
        Ok(false)
    }

    pub(super) fn open(place: &Place, read_only: bool) -> Result<History, StorageError> {
        if !History::is_there(place)? {
            return Err(StorageError::Missing { path: place.history.clone() });
        }
        let env = Env::open(&History::options(place, false, read_only))?;
        let mut wal = History::open_wal(&env, read_only)?;
        if !read_only {
            // The base is not known yet, and needed only if there is nothing behind it.
            let base = mark(&env)?.map_or_else(Head::default, |mark| mark.head);
            wal.begin_writing(stored_head(&env.read()?, &env)?.unwrap_or(base))?;
        }
        let history = History::with_env(place, env, wal);
        if read_only {
            history.read()?.lasting_head()?;
        }
        // A pack in another process removes a base when the next is in force.
        let mut tries = 0..5;
        let base = loop {
            let Some(mark) = history.mark()? else { break None };
            match Base::open(&place.bases, mark, place.objects_bytes_max) {
                Err(StorageError::Missing { .. }) if tries.next().is_some() => {}
                Err(StorageError::Missing { path }) => {
                    let problem = "the base of the history is missing: restore it from a backup".to_owned();
                    return Err(StorageError::Damaged { path, place: "the base".to_owned(), problem });
                }
                base => break Some(Arc::new(base?)),
            }
        };
        history.base.store(base);
        Ok(history)
    }

    /// Makes an empty history: beside its place first, because one that was half made when the power failed looks like a damaged one.
    pub(super) fn create(place: &Place, id: IdentityId) -> Result<(), StorageError> {
        let (path, partial) = (&place.history, History::partial(place));
        let io_error = |source| StorageError::Io { path: partial.clone(), source };
        rebuild::remove(&partial)?;
        let env = Env::open(&EnvOptions { path: &partial, ..History::options(place, true, false) })?;
        let mut txn = env.write()?;
        let seal = blake3::hash(&id.0);
        txn.put(META, IDENTITY, &[&id.0[..], &seal.as_bytes()[..SEAL_BYTES]].concat())?;
        txn.commit()?;
        History::create_wal(&env)?;
        drop(env);
        fs::rename(&partial, path).map_err(io_error)?;
        // The folder that it is in may be new, too.
        for folder in path.ancestors().skip(1).take(2) {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)?;
        }
        Ok(())
    }

    /// Where a history is made before it is put in its place.
    pub(super) fn partial(place: &Place) -> PathBuf {
        place.history.with_extension("partial")
    }

    fn options(place: &Place, create: bool, read_only: bool) -> EnvOptions<'_> {
        let (path, map_bytes) = (&place.history, place.history_bytes_max);
        EnvOptions { path, map_bytes, databases: DATABASES, create, read_only, random_reads: false }
    }

    fn with_env(place: &Place, env: Env, wal: Wal) -> History {
        let (bases, base_map_bytes) = (place.bases.clone(), place.objects_bytes_max);
        History { env, wal: Arc::new(wal), base: Arc::default(), bases, base_map_bytes }
    }

    /// Makes a write-ahead log, and only then the note that says that there has to be one.
    fn create_wal(env: &Env) -> Result<(), StorageError> {
        Wal::create(env.path())?;
        let mut value = Vec::new();
        seal(&mut value, META, WAL, |out| Writer::new(out).uint(wal::FILE_BYTES));
        let mut txn = env.write()?;
        txn.put(META, WAL, &value)?;
        txn.commit()
    }

    fn open_wal(env: &Env, read_only: bool) -> Result<Wal, StorageError> {
        let bytes = match wal_bytes(env)? {
            Some(bytes) => bytes,
            None if read_only => {
                return Err(
                    env.damaged("the write-ahead log", "there is none yet: start the host once, which makes one")
                );
            }
            None => {
                History::create_wal(env)?;
                wal::FILE_BYTES
            }
        };
        Wal::open(env.path(), bytes, read_only)
    }

    /// Moves everything from the write-ahead log into the database. Only the committer may call it.
    pub(super) fn settle(&self) -> Result<(), StorageError> {
        if self.wal.tail()?.is_empty() {
            return Ok(());
        }
        let mut txn = self.env.write()?;
        self.move_tail(&mut txn)?;
        txn.commit()?;
        self.wal.clear();
        Ok(())
    }

    /// Adds to the database what the write-ahead log alone has. That is to be cleared once this is committed.
    fn move_tail(&self, txn: &mut WriteTxn<'_>) -> Result<(), StorageError> {
        self.wal.tail()?.iter().try_for_each(|record| txn.append(BATCHES, record.key(), record.value()))
    }

    /// Which base is in force, as it is stored.
    pub(super) fn mark(&self) -> Result<Option<BaseMark>, StorageError> {
        mark(&self.env)
    }

    /// The base in force.
    pub(super) fn base(&self) -> Option<Arc<Base>> {
        self.base.load_full()
    }

    /// Whether another process has put another base in force since this one opened the history, and up to which transaction it packed.
    pub(super) fn packed_elsewhere(&self) -> Result<Option<Tid>, StorageError> {
        let mark = self.mark()?;
        let known = self.base().map(|base| base.mark());
        Ok(mark.filter(|mark| Some(*mark) != known).map(|mark| mark.head.tid))
    }

    /// The folder of all bases, and how large one may become.
    pub(super) fn bases(&self) -> (&Path, usize) {
        (&self.bases, self.base_map_bytes)
    }

    /// Appends a record and makes it durable, and with it, if there is one, puts another base in force. Only the committer may call
    /// it.
    pub(super) fn append(
        &self,
        header: &BatchHeader,
        batch: &BatchBuilder,
        base: Option<&Arc<Base>>,
    ) -> Result<Head, StorageError> {
        let record = Arc::new(StoredRecord::new(header, batch));
        let head = record.head();
        if base.is_none() && self.wal.append(&record)? {
            return Ok(head);
        }
        let mut txn = self.env.write()?;
        self.move_tail(&mut txn)?;
        txn.append(BATCHES, record.key(), record.value())?;
        if let Some(base) = base {
            let mut value = Vec::new();
            seal(&mut value, META, BASE, |out| base.mark().encode(out));
            txn.put(META, BASE, &value)?;
        }
        txn.commit()?;
        self.wal.clear();
        if let Some(base) = base {
            self.base.store(Some(base.clone()));
        }
        Ok(head)
    }

    /// How much of its room it takes, the write-ahead log included.
    pub(super) fn usage(&self) -> Result<Usage, StorageError> {
        let Usage { used_bytes, map_bytes } = self.env.usage()?;
        Ok(Usage { used_bytes: used_bytes + self.wal.bytes(), map_bytes })
    }

    /// How many bytes the records of the write-ahead log will take in the database.
    pub(super) fn logged_bytes(&self) -> Result<u64, StorageError> {
        Ok(self.wal.tail()?.iter().map(|record| record.value().len() as u64 + RECORD_COST_BYTES).sum())
    }

    /// How many bytes are free on its file system, and how many there are.
    pub(super) fn disk(&self) -> Result<(u64, u64), StorageError> {
        self.env.disk()
    }

    /// Removes records that were packed away, at most `batches_max` of them or as many as have `bytes_max`. Answers whether there are
    /// more. Only the committer may call it.
    pub(super) fn trim(&self, batches_max: usize, bytes_max: usize) -> Result<bool, StorageError> {
        let Some(base) = self.base() else { return Ok(false) };
        let until = base.mark().head.tid;
        let (mut batches, mut bytes, mut more) = (0, 0, false);
        let mut txn = self.env.write()?;
        txn.remove_first(BATCHES, |key, length| {
            // A key that is none stops it: what is damaged stays for `verify` to find.
            let packed = <[u8; 8]>::try_from(key).is_ok_and(|last| u64::from_be_bytes(last) <= until.0);
            more = packed && (batches == batches_max || bytes >= bytes_max);
            let remove = packed && !more;
            batches += usize::from(remove);
            bytes += length;
            remove
        })?;
        if batches > 0 {
            txn.commit()?;
        }
        Ok(more)
    }

    /// Forgets what was mapped to read it.
    pub(super) fn let_go_of_pages(&self) {
        self.env.let_go_of_pages();
    }

    /// See [`Env::clear_stale_readers`].
    pub(super) fn clear_stale_readers(&self) -> Result<(), StorageError> {
        self.env.clear_stale_readers()
    }

    pub(super) fn read(&self) -> Result<HistoryView, StorageError> {
        // In this order: what leaves the write-ahead log is then in the database, and what the base does not have yet is still there
        // in a view that was opened before.
        let tail = self.wal.tail()?;
        let txn = self.env.read()?;
        let (env, base) = (self.env.clone(), self.base());
        let mut view = HistoryView { txn, tail, env, base, rows: OnceCell::new(), items: Cell::new(0) };
        if !self.wal.is_writing() {
            let head = stored_head(&view.txn, &view.env)?.unwrap_or_else(|| view.packed());
            view.tail = Arc::new(self.wal.following(Tail::clone(&view.tail), head)?);
        }
        Ok(view)
    }
}

/// The history as it stood at one moment.
pub(super) struct HistoryView {
    txn: ReadTxn,
    /// Records that follow those of the database, and perhaps some that are in both.
    tail: Arc<Tail>,
    env: Env,
    base: Option<Arc<Base>>,
    /// The rows of the base, once they were asked for.
    rows: OnceCell<TableView>,
    /// How many single transactions were read.
    pub items: Cell<u64>,
}

impl HistoryView {
    pub(super) fn identity(&self) -> Result<IdentityId, StorageError> {
        let damaged = |problem: &str| self.env.damaged("the identity's id", problem);
        let id = self.txn.get(META, IDENTITY)?.ok_or_else(|| damaged("it is missing"))?;
        let (id, seal) = id.split_first_chunk::<16>().ok_or_else(|| damaged("it is shorter than 16 bytes"))?;
        if blake3::hash(id).as_bytes()[..SEAL_BYTES] != *seal {
            return Err(damaged("it does not have the checksum that was stored with it"));
        }
        Ok(IdentityId(*id))
    }

    /// The last record that was packed away; the start of all if none was.
    pub(super) fn packed(&self) -> Head {
        self.base.as_ref().map_or_else(Head::default, |base| base.mark().head)
    }

    /// What names the base, and its rows; none if there is none.
    pub(super) fn base_rows(&self) -> Result<Option<(BaseMark, &TableView)>, StorageError> {
        let Some(base) = &self.base else { return Ok(None) };
        if self.rows.get().is_none() {
            // Nobody else sets it meanwhile, because a view is used by one thread.
            _ = self.rows.set(base.read()?);
        }
        Ok(self.rows.get().map(|rows| (base.mark(), rows)))
    }

    /// The version of an object or a name that is the last of those that were packed away; none if there was none.
    pub(super) fn base_row<K: Versioned + ?Sized>(&self, key: &K) -> Result<Option<Row<'_>>, StorageError> {
        match self.base_rows()? {
            Some((_, rows)) => rows.row(key),
            None => Ok(None),
        }
    }

    fn is_there(&self, tid: Tid) -> Result<(), StorageError> {
        let before = self.packed().tid;
        if tid > before { Ok(()) } else { Err(StorageError::Packed { before }) }
    }

    /// The last transaction and its record's hash as stored; the start of all if there is none.
    pub(super) fn head(&self) -> Result<Head, StorageError> {
        let stored = stored_head(&self.txn, &self.env)?.unwrap_or_else(|| self.packed());
        let last = self.tail.last().map(|record| record.head());
        Ok(last.filter(|last| last.tid > stored.tid).unwrap_or(stored))
    }

    /// The first record that ends with a transaction or behind it, as it is stored.
    fn seek(&self, tid: Tid) -> Result<Option<StoredBatch<'_>>, StorageError> {
        let stored = match self.txn.seek(BATCHES, &tid.0.to_be_bytes())? {
            Some((key, value)) => StoredBatch::split(key, value),
            None => match self.tail.get(self.tail.partition_point(|record| record.last() < tid)) {
                Some(record) => record.stored(),
                None => return Ok(None),
            },
        };
        stored.map(Some).map_err(|problem| self.damaged(tid, problem))
    }

    /// The hash stored with the record that ends with transaction `tid`; none if no record ends there.
    pub(super) fn hash_at(&self, tid: Tid) -> Result<Option<RecordHash>, StorageError> {
        if tid == self.packed().tid {
            return Ok(Some(self.packed().hash));
        }
        self.is_there(tid)?;
        Ok(self.seek(tid)?.filter(|stored| stored.last == tid).map(|stored| stored.hash))
    }

    /// Hands the batch that holds transaction `tid` to `look`, its hash checked; none if there is no such transaction.
    pub(super) fn with_batch<R>(
        &self,
        tid: Tid,
        look: impl FnOnce(&BatchView<'_>) -> Result<R, StorageError>,
    ) -> Result<Option<R>, StorageError> {
        if tid <= self.packed().tid {
            return Ok(None);
        }
        let Some(stored) = self.seek(tid)? else { return Ok(None) };
        let view = self.check(&stored)?;
        if tid < view.header.first {
            return Err(self.damaged(tid, "it is missing"));
        }
        look(&view).map(Some)
    }

    /// One transaction, checked by its own checksum; none if it is not in the history.
    pub(super) fn transaction(&self, tid: Tid) -> Result<Option<Transaction<'_>>, StorageError> {
        let Some(item) = self.item(tid)? else { return Ok(None) };
        Transaction::decode_item(item).map(Some).map_err(|error| self.damaged(tid, error.to_string()))
    }

    /// The version of an object or a name that a transaction made; none if it made none.
    pub(super) fn version<K: Versioned + ?Sized>(
        &self,
        key: &K,
        tid: Tid,
    ) -> Result<Option<RawVersion<'_>>, StorageError> {
        if self.is_there(tid).is_err()
            && let Some(Row { number, previous, spine, content, .. }) = self.base_row(key)?.filter(|row| row.tid == tid)
        {
            let jump = spine.first().copied().unwrap_or_default();
            return Ok(Some(RawVersion { pointers: Pointers { number, previous, jump }, content }));
        }
        let Some(item) = self.item(tid)? else { return Ok(None) };
        let mut found = None;
        let read = RawTransaction::read_item(item, |change| {
            found = found.or(key.version(change));
            Ok(())
        });
        read.map(|_| found).map_err(|error| self.damaged(tid, error.to_string()))
    }

    /// What is to be remembered of a transaction that was a request of this id; none if it was not.
    pub(super) fn request(&self, tid: Tid, id: &str) -> Result<Option<RequestRow>, StorageError> {
        let Some(item) = self.item(tid)? else { return Ok(None) };
        let read = RawTransaction::read_item(item, |_| Ok(()));
        let transaction = read.map_err(|error| self.damaged(tid, error.to_string()))?;
        let RawTransaction { request_id, target, method, arguments, time_us, .. } = transaction;
        let row = || RequestRow { tid, target, fingerprint: fingerprint(method, arguments), time_us };
        Ok((request_id == Some(id)).then(row))
    }

    /// One transaction as it is encoded in its record, checked by its own checksum.
    fn item(&self, tid: Tid) -> Result<Option<&[u8]>, StorageError> {
        self.items.update(|items| items + 1);
        self.is_there(tid)?;
        let Some(stored) = self.seek(tid)? else { return Ok(None) };
        // Where it stands follows from the record's last transaction and from how many it has.
        let behind = stored.last.0 - tid.0;
        let Some(place) = (stored.index.len() as u64).checked_sub(behind + 1) else { return Ok(None) };
        let item = stored.index.transaction(stored.record, place as usize, tid);
        item.ok_or_else(|| self.damaged(tid, "it does not have the checksum that was stored with it")).map(Some)
    }

    /// Hands every batch from the one that holds `from` on to `visit`, in order, hashes and chain checked, until it answers false.
    pub(super) fn walk(
        &self,
        from: Tid,
        mut visit: impl FnMut(&BatchView<'_>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.walk_records(from, |_, view| visit(view))
    }

    /// Does what [`walk`](Self::walk) does, and tells the hash of each record too.
    pub(super) fn walk_records(
        &self,
        from: Tid,
        mut visit: impl FnMut(RecordHash, &BatchView<'_>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        let from = from.max(self.packed().tid.next());
        // A damaged page of LMDB may hide records, or show old ones.
        let mut before: Option<Head> = None;
        let mut look = |key: &[u8], value: &[u8]| {
            let stored =
                StoredBatch::split(key, value).map_err(|problem| self.env.damaged("a history key", problem))?;
            let (view, hash) = (self.check(&stored)?, stored.hash);
            let BatchHeader { first, last, previous, .. } = view.header;
            match before {
                None if first > from => return Err(self.damaged(from, "it is missing")),
                Some(before) if first != before.tid.next() || previous != before.hash => {
                    let problem = format!("it does not follow the record of transaction {}", before.tid);
                    return Err(self.damaged(first, problem));
                }
                _ => before = Some(Head { tid: last, hash }),
            }
            visit(hash, &view)
        };
        self.each_stored(from, &mut look, |from, visit| self.txn.walk(BATCHES, from, visit))
    }

    /// Calls `visit` with the stored records from the one that holds `from` on: those of the database, which `walk` walks, then the others.
    fn each_stored<'a, E>(
        &'a self,
        from: Tid,
        visit: &mut dyn FnMut(&'a [u8], &'a [u8]) -> Result<bool, E>,
        walk: impl FnOnce(&[u8], &mut dyn FnMut(&'a [u8], &'a [u8]) -> Result<bool, E>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut walked, mut goes_on) = (None, true);
        walk(&from.0.to_be_bytes(), &mut |key, value| {
            walked = Some(key);
            goes_on = visit(key, value)?;
            Ok(goes_on)
        })?;
        let follows =
            |record: &Arc<StoredRecord>| record.last() >= from && walked.is_none_or(|last| record.key() > last);
        for record in self.tail.iter().filter(|record| goes_on && follows(record)) {
            if !visit(record.key(), record.value())? {
                break;
            }
        }
        Ok(())
    }

    /// Hands the stored batches from the one that holds `from` on to `visit` as they are, unchecked: for those who look for damage.
    pub(super) fn walk_stored<'a, E: From<StorageError>>(
        &'a self,
        from: Tid,
        mut visit: impl FnMut(&'a [u8], &'a [u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let from = from.max(self.packed().tid.next());
        self.each_stored(from, &mut visit, |from, visit| self.txn.walk_proven(BATCHES, from, visit))
    }

    /// An error about the record that holds a transaction.
    pub(super) fn damaged(&self, tid: Tid, problem: impl Into<String>) -> StorageError {
        self.env.damaged(format!("the record that holds transaction {tid}"), problem)
    }

    fn check<'a>(&self, stored: &StoredBatch<'a>) -> Result<BatchView<'a>, StorageError> {
        stored.check().map_err(|problem| self.damaged(stored.last, problem))
    }
}

/// The first thing that lies in a folder, or what stands in the place of one; none if there is nothing.
fn something_in(folder: &Path) -> Result<Option<PathBuf>, StorageError> {
    let found = match fs::symlink_metadata(folder) {
        Ok(about) if about.is_dir() => {
            fs::read_dir(folder).and_then(|mut entries| entries.next().map(|it| it.map(|it| it.path())).transpose())
        }
        Ok(_) => Ok(Some(folder.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    found.map_err(|source| StorageError::Io { path: folder.to_owned(), source })
}

/// Which base is in force, as it is stored.
fn mark(env: &Env) -> Result<Option<BaseMark>, StorageError> {
    let txn = env.read()?;
    let Some(value) = txn.get(META, BASE)? else { return Ok(None) };
    let mark = unseal(META, BASE, value)
        .and_then(|body| BaseMark::decode(body).map_err(|error| error.to_string()))
        .map_err(|problem| env.damaged("the note of its base", problem))?;
    Ok(Some(mark))
}

/// The last record of the database; none if it has none.
fn stored_head(txn: &ReadTxn, env: &Env) -> Result<Option<Head>, StorageError> {
    let Some((key, value)) = txn.last(BATCHES)? else { return Ok(None) };
    let stored = StoredBatch::split(key, value).map_err(|problem| env.damaged("the head", problem))?;
    Ok(Some(Head { tid: stored.last, hash: stored.hash }))
}

/// How long the write-ahead log is; none if the identity is of a time when there was none.
fn wal_bytes(env: &Env) -> Result<Option<u64>, StorageError> {
    let txn = env.read()?;
    let Some(value) = txn.get(META, WAL)? else { return Ok(None) };
    let bytes = unseal(META, WAL, value)
        .and_then(|body| Reader::new(body).uint().map_err(|error| error.to_string()))
        .map_err(|problem| env.damaged("the note of its write-ahead log", problem))?;
    Ok(Some(bytes))
}

/// A batch as it lies in the database.
pub(super) struct StoredBatch<'a> {
    pub last: Tid,
    pub hash: RecordHash,
    pub record: &'a [u8],
    index: Index<'a>,
}

impl<'a> StoredBatch<'a> {
    /// Takes an entry of the database apart; in words if it is malformed.
    pub(super) fn split(key: &[u8], value: &'a [u8]) -> Result<StoredBatch<'a>, String> {
        let key = key.try_into().map_err(|_| format!("a key of {} bytes, not 8", key.len()))?;
        let split = value.split_first_chunk::<HASH_BYTES>().and_then(|(hash, rest)| Some((hash, Index::split(rest)?)));
        let (hash, (record, index)) = split.ok_or_else(|| format!("its {} bytes do not hold it", value.len()))?;
        Ok(StoredBatch { last: Tid(u64::from_be_bytes(key)), hash: RecordHash(*hash), record, index })
    }

    /// Reads the record if it has the stored hash and ends where its key says; else says in words what is wrong.
    pub(super) fn check(&self) -> Result<BatchView<'a>, String> {
        let hash = RecordHash(*blake3::hash(self.record).as_bytes());
        if hash != self.hash {
            return Err(format!("its content has the hash {hash}, but {} was stored with it", self.hash));
        }
        let view = BatchView::decode(self.record).map_err(|error| error.to_string())?;
        if view.header.last != self.last {
            return Err(format!("it says that it ends with transaction {}, its key {}", view.header.last, self.last));
        }
        if !view.fits(&self.index) {
            return Err("its index does not say where its transactions are".to_owned());
        }
        Ok(view)
    }
}
