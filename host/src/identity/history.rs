//! The history: batch records in the order of their transactions, each chained to the one before by its hash.
//!
//! LMDB environment `identity/history/`. Database `batches`: key = last tid of the batch (64 bits, big-endian), value =
//! blake3 of the record (32 bytes) followed by the record and its index. Database `meta`: key `identity` -> the identity's id (16 bytes)
//! followed by the first 8 bytes of its blake3.

use std::{fs, io, path::Path};

use super::{
    BatchHeader, IdentityId, RecordHash, StorageError, Tid,
    batch::{BatchBuilder, BatchView, RawTransaction, Transaction},
    index::Index,
    lmdb::{Db, Env, EnvOptions, ReadTxn, Usage},
    version::{RawVersion, Versioned},
};

const BATCHES: Db = Db(0);
const META: Db = Db(1);
const IDENTITY: &[u8] = b"identity";
const HASH_BYTES: usize = 32;
const ID_SEAL_BYTES: usize = 8;

/// A point of the history: its last transaction and the hash of its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The last transaction.
    pub tid: Tid,
    /// The hash of the record that holds it.
    pub hash: RecordHash,
}

/// The history's environment.
#[derive(Clone)]
pub(super) struct History {
    env: Env,
}

impl History {
    pub(super) fn open(path: &Path, map_bytes: usize, read_only: bool) -> Result<History, StorageError> {
        let databases = &["batches", "meta"];
        let options = EnvOptions { path, map_bytes, databases, create: false, read_only, random_reads: false };
        Ok(History { env: Env::open(&options)? })
    }

    /// Makes an empty history: beside its place first, because one that was half made when the power failed looks like a damaged one.
    pub(super) fn create(path: &Path, map_bytes: usize, id: IdentityId) -> Result<History, StorageError> {
        let databases = &["batches", "meta"];
        let partial = path.with_extension("partial");
        let io_error = |source| StorageError::Io { path: partial.clone(), source };
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
            _ => {}
        }
        let options =
            EnvOptions { path: &partial, map_bytes, databases, create: true, read_only: false, random_reads: false };
        let history = History { env: Env::open(&options)? };
        let mut txn = history.env.write()?;
        let seal = blake3::hash(&id.0);
        txn.put(META, IDENTITY, &[&id.0[..], &seal.as_bytes()[..ID_SEAL_BYTES]].concat())?;
        txn.commit()?;
        drop(history);
        fs::rename(&partial, path).map_err(io_error)?;
        // The folder that it is in may be new, too.
        for folder in path.ancestors().skip(1).take(2) {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)?;
        }
        History::open(path, map_bytes, false)
    }

    /// Appends a record and makes it durable. Only the committer may call it.
    pub(super) fn append(&self, header: &BatchHeader, batch: &BatchBuilder) -> Result<Head, StorageError> {
        let mut start = Vec::with_capacity(256);
        header.encode(&mut start);
        let (transactions, index) = (batch.transactions(), batch.index(header, start.len()));
        let hash = blake3::Hasher::new().update(&start).update(transactions).finalize();
        let mut txn = self.env.write()?;
        txn.append(BATCHES, &header.last.0.to_be_bytes(), &[hash.as_bytes(), &start, transactions, &index])?;
        txn.commit()?;
        Ok(Head { tid: header.last, hash: RecordHash(*hash.as_bytes()) })
    }

    /// How much of its room it takes.
    pub(super) fn usage(&self) -> Result<Usage, StorageError> {
        self.env.usage()
    }

    /// How many bytes are free on its file system, and how many there are.
    pub(super) fn disk(&self) -> Result<(u64, u64), StorageError> {
        self.env.disk()
    }

    /// Forgets what was mapped to read it.
    pub(super) fn let_go_of_pages(&self) {
        self.env.let_go_of_pages();
    }

    pub(super) fn read(&self) -> Result<HistoryView, StorageError> {
        Ok(HistoryView { txn: self.env.read()?, env: self.env.clone() })
    }
}

/// The history as it stood at one moment.
pub(super) struct HistoryView {
    txn: ReadTxn,
    env: Env,
}

impl HistoryView {
    pub(super) fn identity(&self) -> Result<IdentityId, StorageError> {
        let damaged = |problem: &str| self.env.damaged("the identity's id", problem);
        let id = self.txn.get(META, IDENTITY)?.ok_or_else(|| damaged("it is missing"))?;
        let (id, seal) = id.split_first_chunk::<16>().ok_or_else(|| damaged("it is shorter than 16 bytes"))?;
        if blake3::hash(id).as_bytes()[..ID_SEAL_BYTES] != *seal {
            return Err(damaged("it does not have the checksum that was stored with it"));
        }
        Ok(IdentityId(*id))
    }

    /// The last transaction and its record's hash as stored; the start of all if there is none.
    pub(super) fn head(&self) -> Result<Head, StorageError> {
        match self.txn.last(BATCHES)? {
            None => Ok(Head::default()),
            Some((key, value)) => {
                let stored = StoredBatch::split(key, value).map_err(|problem| self.env.damaged("the head", problem))?;
                Ok(Head { tid: stored.last, hash: stored.hash })
            }
        }
    }

    /// The hash stored with the record that ends with transaction `tid`; none if no record ends there.
    pub(super) fn hash_at(&self, tid: Tid) -> Result<Option<RecordHash>, StorageError> {
        let Some(value) = self.txn.get(BATCHES, &tid.0.to_be_bytes())? else { return Ok(None) };
        let stored = StoredBatch::split(&tid.0.to_be_bytes(), value);
        Ok(Some(stored.map_err(|problem| self.env.damaged(format!("transaction {tid}"), problem))?.hash))
    }

    /// Hands the batch that holds transaction `tid` to `look`, its hash checked; none if there is no such transaction.
    pub(super) fn with_batch<R>(
        &self,
        tid: Tid,
        look: impl FnOnce(&BatchView<'_>) -> Result<R, StorageError>,
    ) -> Result<Option<R>, StorageError> {
        let Some((key, value)) = self.txn.seek(BATCHES, &tid.0.to_be_bytes())? else { return Ok(None) };
        let view = self.open(key, value)?;
        if tid < view.header.first {
            return Ok(None);
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
        let Some(item) = self.item(tid)? else { return Ok(None) };
        let mut found = None;
        let read = RawTransaction::read_item(item, |change| {
            found = found.or(key.version(change));
            Ok(())
        });
        read.map(|_| found).map_err(|error| self.damaged(tid, error.to_string()))
    }

    /// One transaction as it is encoded in its record, checked by its own checksum.
    fn item(&self, tid: Tid) -> Result<Option<&[u8]>, StorageError> {
        let Some((key, value)) = self.txn.seek(BATCHES, &tid.0.to_be_bytes())? else { return Ok(None) };
        let stored = StoredBatch::split(key, value).map_err(|problem| self.damaged(tid, problem))?;
        // Where it stands follows from the record's last transaction and from how many it has.
        let behind = stored.last.0 - tid.0;
        let Some(place) = (stored.index.len() as u64).checked_sub(behind + 1) else { return Ok(None) };
        let item = stored.index.transaction(stored.record, place as usize, tid);
        item.ok_or_else(|| self.damaged(tid, "it does not have the checksum that was stored with it")).map(Some)
    }

    /// Hands every batch from the one that holds `from` on to `visit`, in order, hashes checked, until it answers false.
    pub(super) fn walk(
        &self,
        from: Tid,
        mut visit: impl FnMut(&BatchView<'_>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk(BATCHES, &from.0.to_be_bytes(), |key, value| visit(&self.open(key, value)?))
    }

    /// Hands every stored batch to `visit` as it is, unchecked: for those who look for damage.
    pub(super) fn walk_stored<E: From<StorageError>>(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.txn.walk(BATCHES, &[], &mut visit)
    }

    /// An error about the record that holds a transaction.
    pub(super) fn damaged(&self, tid: Tid, problem: impl Into<String>) -> StorageError {
        self.env.damaged(format!("the record that holds transaction {tid}"), problem)
    }

    fn open<'a>(&self, key: &[u8], value: &'a [u8]) -> Result<BatchView<'a>, StorageError> {
        let stored = StoredBatch::split(key, value).map_err(|problem| self.env.damaged("a history key", problem))?;
        stored.check().map_err(|problem| self.damaged(stored.last, problem))
    }
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
