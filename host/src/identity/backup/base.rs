//! The base of a packed history in one file: its rows, as the object table has them.
//!
//! ```text
//! base = "theseus the base", identity (16), tid up to which was packed (8), hash of the record with that tid (32), row..., foot
//! row  = number of the database (1), length of the key (4), length of the value (4), key, value
//! foot = ff, number of rows (8), blake3 of all before this (32)
//! ```
//!
//! Numbers are big-endian.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    mem,
    path::{Path, PathBuf},
};

use super::{BackupError, BaseEntry, settle};
use crate::identity::{
    BaseDigest, BaseMark, Head, IdentityId, Place, RecordHash, StorageError, Tid,
    base::{folder, hash_row},
    history::HistoryView,
    lmdb::{Db, OwnedEntry},
    table::Table,
};

const MAGIC: &[u8; 16] = b"theseus the base";
/// As the number of a database: the foot begins.
const END: u8 = u8::MAX;
const FOOT_BYTES: u64 = 1 + 8 + 32;
const ROW_BYTES: u64 = 1 + 4 + 4;
const BUFFER_BYTES: usize = 1 << 20;

/// How many rows, and how many bytes of them, are put back in one transaction.
const STEP_ROWS: usize = 10_000;
const STEP_BYTES: usize = 16 << 20;

pub(super) fn file_name(tid: Tid) -> String {
    format!("{:020}.base", tid.0)
}

/// A file being written, and hashed on the way.
struct Out {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Out {
    fn write(&mut self, parts: &[&[u8]]) -> Result<(), BackupError> {
        for part in parts {
            self.hasher.update(part);
            self.file.write_all(part).map_err(BackupError::io(&self.path))?;
            self.bytes += part.len() as u64;
        }
        Ok(())
    }
}

/// Copies the base on which a history stands, if it stands on one.
pub(super) fn take(target: &Path, identity: IdentityId, view: &HistoryView) -> Result<Option<BaseEntry>, BackupError> {
    let Some((mark, rows)) = view.base_rows()? else { return Ok(None) };
    let path = target.join(".base.tmp");
    let file = File::create(&path).map_err(BackupError::io(&path))?;
    let mut out =
        Out { file: BufWriter::with_capacity(BUFFER_BYTES, file), hasher: blake3::Hasher::new(), bytes: 0, path };
    out.write(&[MAGIC, &identity.0, &mark.head.tid.0.to_be_bytes(), &mark.head.hash.0])?;
    let (mut count, mut digest, mut failed) = (0_u64, blake3::Hasher::new(), None);
    rows.every_entry(|db, key, value| {
        hash_row(&mut digest, key, value);
        count += 1;
        let lengths = [key, value].map(|part| (part.len() as u32).to_be_bytes());
        let written = out.write(&[&[db.0 as u8], &lengths[0], &lengths[1], key, value]);
        failed = written.err();
        Ok(failed.is_none())
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if *digest.finalize().as_bytes() != mark.digest.0 {
        return Err(view.damaged(mark.head.tid, "the base does not have the rows that the history names").into());
    }
    out.write(&[&[END], &count.to_be_bytes()])?;
    let sum = out.hasher.finalize();
    out.write(&[sum.as_bytes()])?;
    let entry = BaseEntry {
        file: file_name(mark.head.tid),
        tid: mark.head.tid,
        head: mark.head.hash,
        digest: RecordHash(mark.digest.0),
        rows: count,
        bytes: out.bytes,
        blake3: RecordHash(*out.hasher.finalize().as_bytes()),
    };
    let file = out.file.into_inner().map_err(|error| BackupError::io(&out.path)(error.into_error()))?;
    settle(file, &out.path, &target.join(&entry.file))?;
    Ok(Some(entry))
}

impl BaseEntry {
    /// The record after which the history of the backup begins.
    pub(super) fn head(&self) -> Head {
        Head { tid: self.tid, hash: self.head }
    }
}

/// Reads a base, and hands its rows to `visit`.
pub(super) fn read(
    source: &Path,
    entry: &BaseEntry,
    identity: IdentityId,
    visit: impl FnMut(Db, &[u8], &[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let path = source.join(&entry.file);
    let missing =
        |error: std::io::Error| BackupError::damaged(&path, "its place", format!("it cannot be opened: {error}"));
    let file = File::open(&path).map_err(missing)?;
    let length = file.metadata().map_err(BackupError::io(&path))?.len();
    if length != entry.bytes {
        let problem = format!("it has {length} bytes, {} were written", entry.bytes);
        return Err(BackupError::damaged(&path, format!("byte {}", length.min(entry.bytes)), problem));
    }
    let file = BufReader::with_capacity(BUFFER_BYTES, file);
    Reading { path, file, hasher: blake3::Hasher::new(), position: 0, entry }.rows(identity, visit)
}

/// A base being read.
struct Reading<'a> {
    path: PathBuf,
    file: BufReader<File>,
    hasher: blake3::Hasher,
    position: u64,
    entry: &'a BaseEntry,
}

impl Reading<'_> {
    fn rows(
        mut self,
        identity: IdentityId,
        mut visit: impl FnMut(Db, &[u8], &[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let head = [&MAGIC[..], &identity.0, &self.entry.tid.0.to_be_bytes(), &self.entry.head.0].concat();
        let mut found = vec![0; head.len()];
        self.fill(&mut found)?;
        if found != head {
            return Err(self.damaged(0, "it does not begin as the base of this identity and transaction does"));
        }
        let (mut rows, mut digest) = (0, blake3::Hasher::new());
        let (mut key, mut value) = (Vec::new(), Vec::new());
        loop {
            let start = self.position;
            let [db] = self.array()?;
            if db == END {
                return self.foot(start, rows, *digest.finalize().as_bytes());
            }
            let lengths = [u32::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?)].map(u64::from);
            let left = self.entry.bytes - self.position;
            if lengths[0] + lengths[1] > left {
                return Err(self.damaged(start, "a row is longer than the rest of the file"));
            }
            for (part, length) in [&mut key, &mut value].into_iter().zip(lengths) {
                part.resize(length as usize, 0);
                self.fill(part)?;
            }
            hash_row(&mut digest, &key, &value);
            rows += 1;
            visit(Db(usize::from(db)), &key, &value)?;
        }
    }

    fn foot(mut self, start: u64, rows: u64, digest: [u8; 32]) -> Result<(), BackupError> {
        let count = u64::from_be_bytes(self.array()?);
        let found = *self.hasher.finalize().as_bytes();
        let sum: [u8; 32] = self.array()?;
        let whole = *self.hasher.finalize().as_bytes();
        let entry = self.entry;
        let problem = if count != rows || entry.rows != rows {
            format!("{rows} rows stand before it, {count} were written, backup.json says {}", entry.rows)
        } else if sum != found || whole != entry.blake3.0 {
            "its checksum is not that of the file".to_owned()
        } else if digest != entry.digest.0 {
            "the rows before it are not those that the history names".to_owned()
        } else if self.position != entry.bytes {
            format!("{} bytes follow it", entry.bytes - self.position)
        } else {
            return Ok(());
        };
        Err(BackupError::damaged(&self.path, format!("its foot (byte {start})"), problem))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        if self.entry.bytes - self.position < bytes.len() as u64 {
            return Err(self.damaged(self.position, "it ends before its foot"));
        }
        self.file.read_exact(bytes).map_err(BackupError::io(&self.path))?;
        self.hasher.update(bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn damaged(&self, at: u64, problem: &str) -> BackupError {
        BackupError::damaged(&self.path, format!("byte {at}"), problem)
    }
}

/// Whether the base of a backup is there with its length.
pub(super) fn glance(source: &Path, entry: &BaseEntry) -> Result<(), BackupError> {
    let path = source.join(&entry.file);
    let length = std::fs::metadata(&path)
        .map_err(|error| BackupError::damaged(&path, "its place", format!("it cannot be looked at: {error}")))?
        .len();
    if length == entry.bytes && length >= FOOT_BYTES + ROW_BYTES {
        return Ok(());
    }
    Err(BackupError::damaged(&path, "its end", format!("it has {length} bytes, {} were written", entry.bytes)))
}

/// Puts the base of a backup into its place; answers what names it. It is read twice: what is wrong with it is known before any of it is
/// given to the storage.
pub(super) fn put(
    source: &Path,
    entry: &BaseEntry,
    identity: IdentityId,
    place: &Place,
) -> Result<BaseMark, BackupError> {
    read(source, entry, identity, |_, _, _| Ok(()))?;
    let table = Table::open(&folder(&place.bases, entry.tid), place.objects_bytes_max, true, false)?;
    let (mut rows, mut bytes, mut of) = (Vec::<OwnedEntry>::new(), 0, Db(0));
    let add = |of: Db, rows: Vec<OwnedEntry>| -> Result<(), StorageError> {
        if rows.is_empty() { Ok(()) } else { table.append_rows(of, &rows) }
    };
    read(source, entry, identity, |db, key, value| {
        if db.0 >= Table::DATABASES {
            let problem = format!("a row of database {}, which no table has", db.0);
            return Err(BackupError::damaged(&source.join(&entry.file), "a row", problem));
        }
        if db != of || rows.len() >= STEP_ROWS || bytes >= STEP_BYTES {
            add(of, mem::take(&mut rows))?;
            (bytes, of) = (0, db);
        }
        bytes += key.len() + value.len();
        rows.push((key.to_vec(), value.to_vec()));
        Ok(())
    })?;
    add(of, rows)?;
    Ok(BaseMark { head: entry.head(), digest: BaseDigest(entry.digest.0) })
}
