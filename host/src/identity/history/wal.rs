//! The write-ahead log: where small records become durable, with one write and one sync.
//!
//! To commit, LMDB syncs twice: its pages, then the page that makes them the newest. A record that is not large is therefore
//! written here first, into a file whose length never changes, and answered. When the file is full, or a record is large, all of them go into
//! LMDB in one transaction, and the file is written again from its start. Those that are not in LMDB yet are the *tail*.
//!
//! A record is cut into sectors, each with a seal of its own. A disk writes a sector wholly or not at all. So after a crash a
//! record of which some sectors were not written yet was never answered, while a sector that does not fit its seal is damaged. A record begins
//! on a page of its own: no page that holds an answered record is written again before LMDB has it.
//!
//! ```text
//! sector = [u64 seal, u64 last tid, 8 bytes of the record's hash, u32 length of the value, u32 place of the sector in its record,
//!           480 bytes of the value]
//! ```
//!
//! Numbers are little-endian; the seal is `XXH3(the rest of the sector, seed = number of the sector in the file)`. The value is that of the database
//! `batches`, filled up with zeros. A sector of zeros alone was never written.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use twox_hash::XxHash3_64;

use super::{
    super::{StorageError, Tid, lmdb::sync_folder},
    Head, StoredRecord,
};

/// The file's name in the history's folder.
const FILE: &str = "wal";
/// The length that the file is given, in bytes: whole pages.
pub(super) const FILE_BYTES: u64 = 1 << 20;
/// The longest value that is written here, in bytes. One that is longer costs more to be written twice than a second sync.
const VALUE_BYTES_MAX: usize = 256 << 10;
/// What a disk writes wholly or not at all, in bytes.
const SECTOR: usize = 512;
/// Where records begin, in bytes.
const PAGE: u64 = 4096;
const SEAL: usize = 8;
/// What stands in a sector before its piece of the value, in bytes.
const HEAD: usize = SEAL + 24;
const PIECE: usize = SECTOR - HEAD;

/// Records that are durable here and not in LMDB, in order.
pub(super) type Tail = Vec<Arc<StoredRecord>>;

/// The file of an identity.
pub(super) struct Wal {
    path: PathBuf,
    file: File,
    /// Its length.
    bytes: u64,
    /// What its only writer knows; none for those who only read.
    writer: Option<Writer>,
    /// What was read last: what is still there need not be read again. A lock because readers come on any thread.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    tail: Tail,
    /// Where it ends.
    offset: u64,
    /// How much of it was made durable.
    durable: u64,
}

struct Writer {
    /// Written by the committer, read by whoever reads the history.
    tail: ArcSwap<Tail>,
    /// Whether everything goes into LMDB at once.
    bypassed: AtomicBool,
    /// A lock because the history is shared between threads; only the committer takes it.
    place: Mutex<Place>,
}

struct Place {
    /// Where the next record goes.
    offset: u64,
    /// The sectors of a record. Kept for its memory.
    sectors: Vec<u8>,
}

impl Wal {
    /// Makes the file in a folder. A loss of power leaves none or a whole one.
    pub(super) fn create(folder: &Path) -> Result<(), StorageError> {
        let path = folder.join(FILE);
        let unfinished = path.with_extension("new");
        // Written, not only made as long: what has its blocks needs no room later, and its syncs no change of the file's metadata.
        let written = File::create(&unfinished).and_then(|file| {
            file.write_all_at(&vec![0; FILE_BYTES as usize], 0)?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&unfinished, &path)).map_err(|source| failed(folder, &path, source))?;
        sync_folder(folder)
    }

    /// Opens the file of a folder, which has to have so many bytes.
    pub(super) fn open(folder: &Path, bytes: u64, read_only: bool) -> Result<Wal, StorageError> {
        let path = folder.join(FILE);
        let opened = File::options().read(true).write(!read_only).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let problem = "it is missing, and with it perhaps the last transactions: restore a backup";
                return Err(damaged(folder, "the write-ahead log", problem));
            }
            Err(source) => return Err(StorageError::Io { path, source }),
        };
        let length = file.metadata().map_err(|source| StorageError::Io { path: path.clone(), source })?.len();
        if length != bytes {
            let problem = format!("it has {length} bytes, {bytes} belong there");
            return Err(damaged(folder, "the write-ahead log", problem));
        }
        Ok(Wal { path, file, bytes, writer: None, seen: Mutex::default() })
    }

    /// Goes on writing behind the records that follow LMDB's head. They are made durable once more: what can be read need not be on the
    /// disk, if a sync has failed.
    pub(super) fn begin_writing(&mut self, head: Head) -> Result<(), StorageError> {
        let tail = self.following(self.read()?, head)?;
        let (mut sectors, mut offset) = (Vec::new(), 0);
        for record in &tail {
            cut(record, offset, &mut sectors);
            self.write(&sectors, offset)?;
            offset += pages(sectors.len());
        }
        if !tail.is_empty() {
            log::info!("{} records are in the write-ahead log alone", tail.len());
            self.sync()?;
        }
        // What follows is known without reading.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        self.writer = Some(Writer {
            tail: ArcSwap::from_pointee(tail),
            bypassed: AtomicBool::new(false),
            place: Mutex::new(Place { offset, sectors }),
        });
        Ok(())
    }

    /// The records that LMDB does not have, and perhaps some that it has meanwhile: to be asked for before LMDB is looked at. Who only
    /// reads has to have them [checked](Self::following).
    pub(super) fn tail(&self) -> Result<Arc<Tail>, StorageError> {
        match &self.writer {
            Some(writer) => Ok(writer.tail.load_full()),
            None => self.read().map(Arc::new),
        }
    }

    /// Of these records those that follow LMDB's head.
    pub(super) fn following(&self, mut tail: Tail, head: Head) -> Result<Tail, StorageError> {
        tail.retain(|record| record.last() > head.tid);
        let Some(first) = tail.first() else { return Ok(tail) };
        if first.follows() == head {
            return Ok(tail);
        }
        let problem = format!(
            "the database ends with transaction {}, the write-ahead log goes on with {}: one of them is not what it was",
            head.tid,
            first.follows().tid.next()
        );
        Err(damaged(self.folder(), "the end of the history", problem))
    }

    /// How long the file is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is the host that writes it, and not one who only reads.
    pub(super) fn is_writing(&self) -> bool {
        self.writer.is_some()
    }

    /// Makes a record durable, unless it is too long, or there is no room left: then everything has to go into LMDB. Answers whether it
    /// was done. Only the committer may call it.
    pub(super) fn append(&self, record: &Arc<StoredRecord>) -> Result<bool, StorageError> {
        let writer = self.writer();
        let mut place = writer.place.lock().unwrap_or_else(PoisonError::into_inner);
        let Place { offset, sectors } = &mut *place;
        let room = sectors_of(record.value().len()) as u64 * SECTOR as u64;
        if writer.bypassed.load(Ordering::Relaxed)
            || record.value().len() > VALUE_BYTES_MAX
            || *offset + room > self.bytes
        {
            return Ok(false);
        }
        cut(record, *offset, sectors);
        self.write(sectors, *offset)?;
        self.sync()?;
        *offset += pages(sectors.len());
        let mut tail = Tail::clone(&writer.tail.load());
        tail.push(record.clone());
        writer.tail.store(Arc::new(tail));
        Ok(true)
    }

    /// Begins again: LMDB has everything. Only the committer may call it.
    pub(super) fn clear(&self) {
        let writer = self.writer();
        writer.place.lock().unwrap_or_else(PoisonError::into_inner).offset = 0;
        writer.tail.store(Arc::default());
    }

    /// Whether nothing is to be written here, but all into LMDB at once.
    pub(super) fn bypass(&self, bypass: bool) {
        self.writer().bypassed.store(bypass, Ordering::Relaxed);
    }

    fn writer(&self) -> &Writer {
        self.writer.as_ref().expect("only who opened the history to write appends to it")
    }

    fn write(&self, sectors: &[u8], offset: u64) -> Result<(), StorageError> {
        self.file.write_all_at(sectors, offset).map_err(|source| failed(self.folder(), &self.path, source))
    }

    /// A sync that fails is never a mere lack of room: nobody knows what of the record is on the disk.
    fn sync(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(|source| StorageError::Io { path: self.path.clone(), source })
    }

    fn folder(&self) -> &Path {
        self.path.parent().expect("the file was opened in a folder")
    }

    // --- Reading ------------------------------------------------------------------------------------------------------------------

    /// The records from the start of the file that follow each other. Those of a host that has begun again are older than LMDB's head.
    /// They are made durable: whoever has seen one has to be sure that it stays, and a host that writes meanwhile may not have synced
    /// the last yet.
    ///
    /// A host that writes meanwhile may show half a sector, but not for long.
    fn read(&self) -> Result<Tail, StorageError> {
        const PATIENCE: Duration = Duration::from_millis(2);

        let mut tries = 0..5;
        loop {
            match self.read_once() {
                Err(StorageError::Damaged { .. }) if tries.next().is_some() => thread::sleep(PATIENCE),
                read => return read,
            }
        }
    }

    fn read_once(&self) -> Result<Tail, StorageError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Seen { tail, offset, durable } = &mut *seen;
        // Who begins again begins with the first sector.
        let first = self.sector_at(0, 0, &mut [0; SECTOR])?;
        if tail.first().map(|record| SectorHead::of(record)) != first {
            (*tail, *offset, *durable) = (Tail::new(), 0, 0);
        }
        while *offset < self.bytes {
            let Some(record) = self.record_at(*offset)? else { break };
            // What LMDB has had for long is left of another time.
            if tail.last().is_some_and(|last| record.follows() != last.head()) {
                break;
            }
            *offset += pages(sectors_of(record.value().len()) * SECTOR);
            tail.push(Arc::new(record));
        }
        if *durable < *offset {
            self.sync()?;
            *durable = *offset;
        }
        Ok(tail.clone())
    }

    /// The record that begins at an offset; none if none was ever written wholly there.
    fn record_at(&self, offset: u64) -> Result<Option<StoredRecord>, StorageError> {
        let mut sector = [0; SECTOR];
        let Some(head @ SectorHead { last, length, .. }) = self.sector_at(offset, 0, &mut sector)? else {
            return Ok(None);
        };
        if length > VALUE_BYTES_MAX || offset + (sectors_of(length) * SECTOR) as u64 > self.bytes {
            return Ok(None);
        }
        let mut value = Vec::with_capacity(sectors_of(length) * PIECE);
        for place in 0..sectors_of(length) {
            if self.sector_at(offset, place, &mut sector)? != Some(head) {
                return Ok(None);
            }
            value.extend_from_slice(&sector[HEAD..]);
        }
        value.truncate(length);
        let record = StoredRecord::read(last, value).map_err(|problem| {
            damaged(self.folder(), format!("the record of transaction {last} in the write-ahead log"), problem)
        })?;
        Ok(Some(record))
    }

    /// Reads the sector at a place of the record at an offset: what it says of its record. None if it has another place in its record.
    fn sector_at(
        &self,
        offset: u64,
        place: usize,
        sector: &mut [u8; SECTOR],
    ) -> Result<Option<SectorHead>, StorageError> {
        let number = offset / SECTOR as u64 + place as u64;
        let read = self.file.read_exact_at(sector, number * SECTOR as u64);
        read.map_err(|source| StorageError::Io { path: self.path.clone(), source })?;
        let (seal, rest) = sector.split_first_chunk::<SEAL>().expect("a sector is longer than its seal");
        if *rest == [0; SECTOR - SEAL] && *seal == [0; SEAL] {
            return Ok(None);
        }
        if u64::from_le_bytes(*seal) != XxHash3_64::oneshot_with_seed(number, rest) {
            let problem = "it does not have the checksum that was stored with it";
            return Err(damaged(self.folder(), format!("sector {number} of the write-ahead log"), problem));
        }
        let (head, stored) = SectorHead::decode(rest);
        Ok((stored == place).then_some(head))
    }
}

/// What each sector of a record says of it. Two attempts to write a record may end with the same transaction and differ in the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SectorHead {
    last: Tid,
    /// The first bytes of the record's hash.
    hash: [u8; 8],
    /// The length of the value.
    length: usize,
}

impl SectorHead {
    fn of(record: &StoredRecord) -> SectorHead {
        let hash = *record.hash().0.first_chunk().expect("a hash is longer");
        SectorHead { last: record.last(), hash, length: record.value().len() }
    }

    fn encode(&self, place: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.last.0.to_le_bytes());
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&(self.length as u32).to_le_bytes());
        out.extend_from_slice(&(place as u32).to_le_bytes());
    }

    /// Reads what [`encode`](Self::encode) wrote: the head and the place.
    fn decode(bytes: &[u8]) -> (SectorHead, usize) {
        let word = |start: usize| -> [u8; 8] { bytes[start..start + 8].try_into().expect("it is as long") };
        let number = |start: usize| -> usize {
            u32::from_le_bytes(bytes[start..start + 4].try_into().expect("it is as long")) as usize
        };
        (SectorHead { last: Tid(u64::from_le_bytes(word(0))), hash: word(8), length: number(16) }, number(20))
    }
}

/// Writes the sectors of a record that begins at an offset.
fn cut(record: &StoredRecord, offset: u64, sectors: &mut Vec<u8>) {
    sectors.clear();
    let value = record.value();
    let head = SectorHead::of(record);
    for (place, piece) in value.chunks(PIECE).enumerate() {
        let start = sectors.len();
        sectors.extend_from_slice(&[0; SEAL]);
        head.encode(place, sectors);
        sectors.extend_from_slice(piece);
        sectors.resize(start + SECTOR, 0);
        let number = (offset + start as u64) / SECTOR as u64;
        let seal = XxHash3_64::oneshot_with_seed(number, &sectors[start + SEAL..]);
        sectors[start..start + SEAL].copy_from_slice(&seal.to_le_bytes());
    }
}

fn sectors_of(value_bytes: usize) -> usize {
    value_bytes.div_ceil(PIECE)
}

/// So many bytes, and what is left of the last page.
fn pages(bytes: usize) -> u64 {
    (bytes as u64).next_multiple_of(PAGE)
}

fn damaged(folder: &Path, place: impl Into<String>, problem: impl Into<String>) -> StorageError {
    StorageError::Damaged { path: folder.to_owned(), place: place.into(), problem: problem.into() }
}

fn failed(folder: &Path, path: &Path, source: io::Error) -> StorageError {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => StorageError::Full { path: folder.to_owned() },
        _ => StorageError::Io { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests;
