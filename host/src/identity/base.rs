//! The base: what the graph was as of the transaction up to which the history has been packed away.
//!
//! `identity/base/TID/` is an object table (see [`Table`]) as it was when that transaction was the last; nothing in it is ever
//! changed. The history's `meta` says which base is in force and names it by a digest of its rows, as does the transaction
//! `theseus.pack`, so that the history which is left still proves what it stands on. Any other folder beside it is what a pack left
//! that was not finished, or the base before.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use theseus_value::{
    DecodeError, Value,
    raw::{Reader, Writer},
};

use super::{
    BaseDigest, Head, RecordHash, StorageError, Tid,
    lmdb::{Db, OwnedEntry, sync_folder},
    record::expect_array,
    table::{Reached, Table, TableView},
};

/// Which base is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseMark {
    /// The last record that was packed away.
    pub head: Head,
    /// The digest of the base's rows.
    pub digest: BaseDigest,
}

/// Under which the transaction stands in the history that puts a base in force.
pub const PACK: &str = "theseus.pack";

impl BaseMark {
    /// What that transaction says about the base: `{before, head, base}` and what else is worth knowing.
    pub fn note(&self, transactions: u64, objects: u64) -> Vec<u8> {
        let int = |number: u64| Value::Int(number.into());
        let entries = [
            ("before", int(self.head.tid.0)),
            ("head", Value::Text(self.head.hash.to_string())),
            ("base", Value::Text(self.digest.to_string())),
            ("transactions", int(transactions)),
            ("objects", int(objects)),
        ];
        Value::Map(entries.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()).encode()
    }

    /// Whether such a note speaks of this base, or of another transaction's.
    pub(super) fn fits_note(&self, note: &[u8]) -> bool {
        let Ok(Value::Map(note)) = Value::decode(note) else { return false };
        let text = |name: &str| note.get(name).and_then(Value::as_text).unwrap_or_default();
        note.get("before") != Some(&Value::Int(self.head.tid.0.into()))
            || (text("head"), text("base")) == (&*self.head.hash.to_string(), &*self.digest.to_string())
    }

    /// Appends `[tid, hash of its record, digest of the base]`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(3);
        writer.uint(self.head.tid.0);
        writer.bytes(&self.head.hash.0);
        writer.bytes(&self.digest.0);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(super) fn decode(body: &[u8]) -> Result<BaseMark, DecodeError> {
        use serde::de::Error as _;

        let mut reader = Reader::new(body);
        expect_array(&mut reader, 3)?;
        let tid = Tid(reader.uint()?);
        let mut fixed = || {
            let bytes = reader.bytes()?;
            bytes.try_into().map_err(|_| DecodeError::custom(format!("{} bytes where 32 belong", bytes.len())))
        };
        let (hash, digest) = (RecordHash(fixed()?), BaseDigest(fixed()?));
        reader.finish()?;
        Ok(BaseMark { head: Head { tid, hash }, digest })
    }
}

/// A base that is open.
pub struct Base {
    table: Table,
    mark: BaseMark,
    objects: u64,
    next_object: u64,
}

impl Base {
    /// Opens the base that `mark` names.
    pub(super) fn open(bases: &Path, mark: BaseMark, map_bytes: usize) -> Result<Base, StorageError> {
        let table = Table::open(&folder(bases, mark.head.tid), map_bytes, false, true)?;
        let reached = table.read()?.reached()?;
        Ok(Base { table, mark, objects: reached.census.values().sum(), next_object: reached.next_object })
    }

    /// How many objects there were.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// What names it.
    pub fn mark(&self) -> BaseMark {
        self.mark
    }

    /// The id that the next new object got after it.
    pub(super) fn next_object(&self) -> u64 {
        self.next_object
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> Result<u64, StorageError> {
        Ok(self.table.usage()?.used_bytes)
    }

    /// Its rows: those that the object table had.
    pub(super) fn read(&self) -> Result<TableView, StorageError> {
        self.table.read()
    }
}

/// Where a base lies.
pub(super) fn folder(bases: &Path, tid: Tid) -> PathBuf {
    bases.join(tid.to_string())
}

/// Removes all folders of bases but that of `keep`.
pub(super) fn remove_others(bases: &Path, keep: Option<Tid>) -> Result<(), StorageError> {
    let io_error = |source| StorageError::Io { path: bases.to_owned(), source };
    let entries = match fs::read_dir(bases) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(error)),
    };
    let keep = keep.map(|tid| folder(bases, tid));
    for entry in entries {
        let path = entry.map_err(io_error)?.path();
        if Some(&path) != keep.as_ref() {
            fs::remove_dir_all(&path).map_err(|source| StorageError::Io { path, source })?;
        }
    }
    Ok(())
}

/// A base being made: rows are added in the order of their keys, one database after the other.
pub(super) struct BaseBuilder {
    bases: PathBuf,
    head: Head,
    /// Taken when the base is done; what is left of one that is not is removed.
    table: Option<Table>,
    hasher: blake3::Hasher,
}

impl BaseBuilder {
    pub(super) fn new(bases: &Path, head: Head, map_bytes: usize) -> Result<BaseBuilder, StorageError> {
        let folder = folder(bases, head.tid);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|source| StorageError::Io { path: folder.clone(), source })?;
        }
        let table = Table::open(&folder, map_bytes, true, false)?;
        if let Some(identity) = bases.parent() {
            sync_folder(identity)?;
        }
        Ok(BaseBuilder { bases: bases.to_owned(), head, table: Some(table), hasher: blake3::Hasher::new() })
    }

    /// Adds rows and makes them durable.
    pub(super) fn add(&mut self, db: Db, rows: &[OwnedEntry]) -> Result<(), StorageError> {
        for (key, value) in rows {
            hash_row(&mut self.hasher, key, value);
        }
        self.table.as_ref().expect("it is taken at the end only").append_rows(db, rows)
    }

    /// Adds the note of what the base is, and closes it.
    pub(super) fn finish(mut self, reached: &Reached) -> Result<Base, StorageError> {
        let (db, row) = Table::reached_row(reached);
        self.add(db, &[row])?;
        let digest = BaseDigest(*self.hasher.finalize().as_bytes());
        let table = self.table.take().expect("it is taken here only");
        let (objects, next_object) = (reached.census.values().sum(), reached.next_object);
        Ok(Base { table, mark: BaseMark { head: self.head, digest }, objects, next_object })
    }
}

impl Drop for BaseBuilder {
    fn drop(&mut self) {
        if self.table.take().is_some() {
            let folder = folder(&self.bases, self.head.tid);
            if let Err(error) = fs::remove_dir_all(&folder) {
                log::warn!("{} is of no use any more and cannot be removed: {error}", folder.display());
            }
        }
    }
}

/// Adds a row to the digest of a base: the lengths (32 bits, little-endian) of its key and its value, each before its bytes.
pub(super) fn hash_row(hasher: &mut blake3::Hasher, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        hasher.update(&u32::try_from(part.len()).expect("a row is far smaller than 4 GiB").to_le_bytes());
        hasher.update(part);
    }
}
