//! A segment: a run of batch records in one file, as they stand in the history.
//!
//! ```text
//! segment = "theseus segment\n", identity (16), tid before the first (8), hash of the record with that tid (32), entry...,
//!           foot
//! entry   = last tid (8), length of the record (8), blake3 of the record (32), record
//! foot    = ff ff ff ff ff ff ff ff, number of entries (8), blake3 of all before this (32)
//! ```
//!
//! Numbers are big-endian.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use super::{BackupError, SegmentEntry, settle};
use crate::identity::{Head, IdentityId, RecordHash, Tid, batch::BatchView};

const MAGIC: &[u8; 16] = b"theseus segment\n";
const HEAD_BYTES: usize = 16 + 16 + 8 + 32;
const ENTRY_BYTES: usize = 8 + 8 + 32;
/// As an entry's tid: the foot begins.
const END: u64 = u64::MAX;
const BUFFER_BYTES: usize = 1 << 20;

/// The name of the segment with these transactions.
pub(super) fn file_name(first: Tid, last: Tid) -> String {
    format!("{:020}-{:020}.segment", first.0, last.0)
}

/// A segment being written, under a temporary name.
pub(super) struct SegmentWriter {
    folder: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    first: Tid,
    head: Head,
    records: u64,
    bytes: u64,
}

impl SegmentWriter {
    /// Begins a segment that continues `head`.
    pub(super) fn create(folder: &Path, identity: IdentityId, head: Head) -> Result<SegmentWriter, BackupError> {
        let temporary = folder.join(".segment.tmp");
        let file = File::create(&temporary).map_err(BackupError::io(&temporary))?;
        let mut writer = SegmentWriter {
            folder: folder.to_owned(),
            temporary,
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            hasher: blake3::Hasher::new(),
            first: head.tid.next(),
            head,
            records: 0,
            bytes: 0,
        };
        writer.write(&[MAGIC, &identity.0, &head.tid.0.to_be_bytes(), &head.hash.0])?;
        Ok(writer)
    }

    /// Adds a record.
    pub(super) fn push(&mut self, head: Head, record: &[u8]) -> Result<(), BackupError> {
        self.write(&[&head.tid.0.to_be_bytes(), &(record.len() as u64).to_be_bytes(), &head.hash.0, record])?;
        self.head = head;
        self.records += 1;
        Ok(())
    }

    /// How long it is so far, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it ends so far.
    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Ends the segment and gives it its name.
    pub(super) fn finish(mut self) -> Result<SegmentEntry, BackupError> {
        let records = self.records.to_be_bytes();
        self.write(&[&END.to_be_bytes(), &records])?;
        let sum = self.hasher.finalize();
        self.write(&[sum.as_bytes()])?;
        let entry = SegmentEntry {
            file: file_name(self.first, self.head.tid),
            first: self.first,
            last: self.head.tid,
            head: self.head.hash,
            records: self.records,
            bytes: self.bytes,
            blake3: RecordHash(*self.hasher.finalize().as_bytes()),
        };
        let file = self.file.into_inner().map_err(|error| BackupError::io(&self.temporary)(error.into_error()))?;
        settle(file, &self.temporary, &self.folder.join(&entry.file))?;
        Ok(entry)
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), BackupError> {
        for part in parts {
            self.hasher.update(part);
            self.file.write_all(part).map_err(BackupError::io(&self.temporary))?;
            self.bytes += part.len() as u64;
        }
        Ok(())
    }
}

/// A segment being read.
pub(super) struct SegmentReader<'a> {
    path: PathBuf,
    entry: &'a SegmentEntry,
    file: BufReader<File>,
    hasher: blake3::Hasher,
    position: u64,
    head: Head,
    records: u64,
    record: Vec<u8>,
}

/// A record of a segment, whole and in its place.
pub(super) struct Record<'a> {
    pub hash: RecordHash,
    pub batch: BatchView<'a>,
}

impl<'a> SegmentReader<'a> {
    /// Opens a segment, which has to be of this identity and continue `head`.
    pub(super) fn open(
        folder: &Path,
        entry: &'a SegmentEntry,
        identity: IdentityId,
        head: Head,
    ) -> Result<SegmentReader<'a>, BackupError> {
        let path = folder.join(&entry.file);
        let missing =
            |error: std::io::Error| BackupError::damaged(&path, "its place", format!("it cannot be opened: {error}"));
        let file = File::open(&path).map_err(missing)?;
        let length = file.metadata().map_err(BackupError::io(&path))?.len();
        let mut reader = SegmentReader {
            path,
            entry,
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            hasher: blake3::Hasher::new(),
            position: 0,
            head,
            records: 0,
            record: Vec::new(),
        };
        if length != entry.bytes {
            let problem = format!("it has {length} bytes, {} were written", entry.bytes);
            return Err(reader.damaged(length.min(entry.bytes), problem));
        }
        let [magic, own, tid, hash] = reader.head()?;
        if magic != MAGIC {
            return Err(reader.damaged(0, "it does not begin as a segment does"));
        }
        if own != identity.0 {
            return Err(reader.damaged(16, format!("it belongs to another identity than {identity}")));
        }
        if (&tid[..], &hash[..]) != (&head.tid.0.to_be_bytes(), &head.hash.0) {
            let problem =
                format!("it does not continue transaction {} ({}), which comes before it", head.tid, head.hash);
            return Err(reader.damaged(32, problem));
        }
        Ok(reader)
    }

    fn head(&mut self) -> Result<[Vec<u8>; 4], BackupError> {
        let bytes: [u8; HEAD_BYTES] = self.read()?;
        let part = |from: usize, to: usize| bytes[from..to].to_vec();
        Ok([part(0, 16), part(16, 32), part(32, 40), part(40, 72)])
    }

    /// The next record; none after the last, whose foot is then found right.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>, BackupError> {
        let start = self.position;
        let last = u64::from_be_bytes(self.read()?);
        if last == END {
            return self.foot(start).map(|()| None);
        }
        let length = u64::from_be_bytes(self.read()?);
        let hash = RecordHash(self.read()?);
        if length > self.entry.bytes - self.position {
            return Err(
                self.damaged(start + 8, format!("a record of {length} bytes is longer than the rest of the file"))
            );
        }
        self.record.resize(length as usize, 0);
        self.file.read_exact(&mut self.record).map_err(BackupError::io(&self.path))?;
        self.hasher.update(&self.record);
        self.position += length;
        if let Err(problem) = self.check(Tid(last), hash) {
            let place = format!("the record of transactions {} to {last} (byte {start})", self.head.tid.next());
            return Err(BackupError::damaged(&self.path, place, problem));
        }
        self.records += 1;
        self.head = Head { tid: Tid(last), hash };
        // Was decoded a moment ago; the borrow of it could not outlive the messages above.
        let batch = BatchView::decode(&self.record).expect("the record was decoded before");
        Ok(Some(Record { hash, batch }))
    }

    /// Whether the record is what its hash says, and continues the one before; in words if not.
    fn check(&self, last: Tid, hash: RecordHash) -> Result<(), String> {
        let found = RecordHash(*blake3::hash(&self.record).as_bytes());
        if found != hash {
            return Err(format!("its content has the hash {found}, but {hash} was stored with it"));
        }
        let header = BatchView::decode(&self.record).map_err(|error| error.to_string())?.header;
        if (header.first, header.last) != (self.head.tid.next(), last) {
            return Err(format!("it holds transactions {} to {}", header.first, header.last));
        }
        if header.previous != self.head.hash {
            return Err(format!("it continues {}, but the record before it is {}", header.previous, self.head.hash));
        }
        Ok(())
    }

    fn foot(&mut self, start: u64) -> Result<(), BackupError> {
        let records = u64::from_be_bytes(self.read()?);
        let found = *self.hasher.finalize().as_bytes();
        let sum: [u8; 32] = self.read()?;
        let whole = RecordHash(*self.hasher.finalize().as_bytes());
        let (entry, end) = (self.entry, Head { tid: self.entry.last, hash: self.entry.head });
        let problem = if records != self.records || records != entry.records {
            format!(
                "{} records stand before it, {records} were written, backup.json says {}",
                self.records, entry.records
            )
        } else if self.head != end {
            format!(
                "it ends with transaction {} ({}), backup.json says {} ({})",
                self.head.tid, self.head.hash, end.tid, end.hash
            )
        } else if sum != found || whole != entry.blake3 {
            "its checksum is not that of the file".to_owned()
        } else if self.position != entry.bytes {
            format!("{} bytes follow it", entry.bytes - self.position)
        } else {
            return Ok(());
        };
        Err(BackupError::damaged(&self.path, format!("its foot (byte {start})"), problem))
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        if self.entry.bytes - self.position < N as u64 {
            return Err(self.damaged(self.position, "it ends before its foot"));
        }
        self.file.read_exact(&mut bytes).map_err(BackupError::io(&self.path))?;
        self.hasher.update(&bytes);
        self.position += N as u64;
        Ok(bytes)
    }

    fn damaged(&self, at: u64, problem: impl Into<String>) -> BackupError {
        BackupError::damaged(&self.path, format!("byte {at}"), problem)
    }
}

/// Whether a segment of a backup is there with its length and the foot that it was given: what can be seen without reading it.
pub(super) fn glance(folder: &Path, entry: &SegmentEntry) -> Result<(), BackupError> {
    use std::os::unix::fs::FileExt;

    let path = folder.join(&entry.file);
    let damaged = |problem: String| BackupError::damaged(&path, "its end", problem);
    let file = File::open(&path).map_err(|error| damaged(format!("it cannot be opened: {error}")))?;
    let length = file.metadata().map_err(BackupError::io(&path))?.len();
    if length != entry.bytes || length < (HEAD_BYTES + ENTRY_BYTES) as u64 {
        return Err(damaged(format!("it has {length} bytes, {} were written", entry.bytes)));
    }
    let mut foot = [0; 16];
    file.read_exact_at(&mut foot, length - ENTRY_BYTES as u64).map_err(BackupError::io(&path))?;
    if foot[..8] != END.to_be_bytes() || foot[8..] != entry.records.to_be_bytes() {
        return Err(damaged("its foot is not that of this segment".to_owned()));
    }
    Ok(())
}
