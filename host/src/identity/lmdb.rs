//! The one module that calls LMDB.
//!
//! It keeps the rules that lmdb-rkv 0.14 and LMDB 0.9 need and do not enforce, so that nobody else has to know them:
//!
//! - an environment is opened once per process (a second one on the same path breaks its locks): a registry refuses it;
//! - thread-local reader slots are off, so that a transaction may live on any thread and several on one;
//! - all databases are opened at start, and one thread at a time writes (a second write transaction would wait forever);
//! - no iterators (they outlive their cursor), no nested transactions, no reset and renew, no change of the map size;
//! - no `WRITEMAP`: a full disk is an error and not a signal, and a stray write from a plugin faults instead of corrupting;
//! - the directory is synced after the files are made.

#![allow(
    unsafe_code,
    reason = "a read transaction and the environment it borrows are kept together in one value, and the pages of LMDB's mapping can \
              be let go of by their address only"
)]

mod length;
mod proven;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use lmdb::{
    Cursor, DatabaseFlags, Environment, EnvironmentFlags, RoTransaction, RwTransaction, Transaction, WriteFlags,
};
use lmdb_sys::{MDB_FIRST, MDB_LAST, MDB_NEXT, MDB_PREV, MDB_SET_RANGE};

use super::{
    fault::{Inside, Watch},
    lease::{self, Lease},
};

use super::Tid;

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no room. Nothing was changed.
    #[error("{} has no room left: free some disk space, writing resumes by itself", path.display())]
    Full {
        /// The environment's folder.
        path: PathBuf,
    },
    /// The files are not there.
    #[error("{} does not hold an identity: make one with `theseus init`", path.display())]
    Missing {
        /// The environment's folder.
        path: PathBuf,
    },
    /// The history is there, but not the objects that are made of it.
    #[error("{} is missing: make it again from the history with `theseus repair`, or start the host, which does it too", path.display())]
    TableMissing {
        /// The environment's folder.
        path: PathBuf,
    },
    /// This process has the environment open already.
    #[error("{} is open in this process already", path.display())]
    AlreadyOpen {
        /// The environment's folder.
        path: PathBuf,
    },
    /// What was read is not what was written.
    #[error("{} is damaged at {place}: {problem}", path.display())]
    Damaged {
        /// The environment's folder.
        path: PathBuf,
        /// Which record.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It was there, and has been packed away.
    #[error(
        "what was before transaction {before} has been packed away: the state as of it, and what came after it, is there"
    )]
    Packed {
        /// The transaction as of which everything was kept.
        before: Tid,
    },
    /// An import is under way, or was interrupted.
    #[error(
        "an import into {} is under way or was interrupted: if it was interrupted, start the host or import again, which takes \
         back what it had done", path.display()
    )]
    Unfinished {
        /// The environment's folder.
        path: PathBuf,
    },
    /// LMDB or the system failed.
    #[error("{} failed: {source}", path.display())]
    Failed {
        /// The environment's folder.
        path: PathBuf,
        /// What LMDB said.
        source: lmdb::Error,
    },
    /// A file operation beside LMDB failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was operated on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StorageError {
    /// Whether it is a lack of room, which passes by itself, and not a fault.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Full { .. })
    }
}

/// How to open an environment.
pub(super) struct EnvOptions<'a> {
    /// Its folder.
    pub path: &'a Path,
    /// The largest size it can ever reach, in bytes of address space.
    pub map_bytes: usize,
    /// The names of its databases; a [`Db`] is a place in this list.
    pub databases: &'a [&'a str],
    /// Whether to make what is not there.
    pub create: bool,
    /// Whether to leave the files as they are.
    pub read_only: bool,
    /// Whether reads are scattered, so that reading ahead is wasted.
    pub random_reads: bool,
}

/// A database of an environment: its place in [`EnvOptions::databases`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Db(pub usize);

/// An open environment.
#[derive(Clone)]
pub(super) struct Env(Arc<EnvInner>);

struct EnvInner {
    environment: Environment,
    databases: Vec<lmdb::Database>,
    path: PathBuf,
    read_only: bool,
    /// Where the data file is mapped: the address and the length; none if the system does not tell.
    mapping: Option<(usize, usize)>,
    /// After `environment`: until that is closed, its pages may be read.
    watch: Watch,
}

/// The environments that this process has open. A lock because environments are opened and closed on any thread.
static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Drop for EnvInner {
    fn drop(&mut self) {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

impl EnvInner {
    /// Begins to read what is committed now, and answers the number of the commit, too.
    fn view(&self) -> Result<(RoTransaction<'_>, u64), StorageError> {
        let txn = self.environment.begin_ro_txn().map_err(|error| failed(&self.path, error))?;
        // SAFETY: the transaction lives.
        let commit = unsafe { lmdb_sys::mdb_txn_id(txn.txn()) };
        Ok((txn, commit as u64))
    }

    /// Frees the reader slots of processes that were killed: what they read would never be written over.
    fn clear_stale_readers(&self) -> Result<(), StorageError> {
        let mut cleared = 0;
        // SAFETY: the environment is open, and `cleared` outlives the call.
        let code = unsafe { lmdb_sys::mdb_reader_check(self.environment.env(), &mut cleared) };
        if code == 0 { Ok(()) } else { Err(failed(&self.path, lmdb::Error::from_err_code(code))) }
    }
}

/// Refuses what LMDB would take for a new environment, or not survive.
fn check_start(folder: &Path) -> Result<(), StorageError> {
    /// Two meta pages of the smallest size that LMDB uses.
    const LENGTH_MIN: u64 = 2 * 4096;

    let data = folder.join("data.mdb");
    match fs::metadata(&data) {
        Ok(data) if data.is_file() && data.len() >= LENGTH_MIN => Ok(()),
        Ok(data) => Err(StorageError::Damaged {
            path: folder.to_owned(),
            place: "the start of data.mdb".to_owned(),
            problem: format!("it has {} bytes, which is not even its head: restore it from a backup", data.len()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StorageError::Missing { path: folder.to_owned() }),
        Err(source) => Err(StorageError::Io { path: data, source }),
    }
}

impl Env {
    pub(super) fn open(options: &EnvOptions<'_>) -> Result<Env, StorageError> {
        let given = options.path;
        let io_error = |source| StorageError::Io { path: given.to_owned(), source };
        if options.create {
            fs::create_dir_all(given).map_err(io_error)?;
        } else {
            check_start(given)?;
        }
        let path = given.canonicalize().map_err(io_error)?;
        if !OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone()) {
            return Err(StorageError::AlreadyOpen { path });
        }
        let unregister = |error| {
            OPEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&path);
            failed(&path, error)
        };
        let mut flags = EnvironmentFlags::NO_TLS;
        flags.set(EnvironmentFlags::READ_ONLY, options.read_only);
        flags.set(EnvironmentFlags::NO_READAHEAD, options.random_reads);
        let watch = Watch::begin(&path);
        let inside = watch.enter();
        let environment = Environment::new()
            .set_flags(flags)
            .set_max_dbs(options.databases.len() as u32)
            .set_map_size(options.map_bytes)
            .open(&path)
            .map_err(unregister)?;
        drop(inside);
        let mapping = mapping(&path);
        watch.mapped_at(mapping);
        let read_only = options.read_only;
        let mut inner = EnvInner { environment, databases: Vec::new(), path, read_only, mapping, watch };
        inner.clear_stale_readers()?;
        inner.make_whole_pages(options.read_only)?;
        for name in options.databases {
            let inside = inner.watch.enter();
            let opened = if options.create {
                inner.environment.create_db(Some(name), DatabaseFlags::empty())
            } else {
                inner.environment.open_db(Some(name))
            };
            drop(inside);
            let database = opened.map_err(|error| match error {
                lmdb::Error::NotFound => StorageError::Damaged {
                    path: inner.path.clone(),
                    place: format!("the table `{name}`"),
                    problem: "it is missing".to_owned(),
                },
                error => failed(&inner.path, error),
            })?;
            inner.databases.push(database);
        }
        if options.create {
            for folder in [Some(inner.path.as_path()), inner.path.parent()].into_iter().flatten() {
                sync_folder(folder)?;
            }
        }
        Ok(Env(Arc::new(inner)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// How much of its map it takes.
    pub(super) fn usage(&self) -> Result<Usage, StorageError> {
        let fail = |error| failed(&self.0.path, error);
        let txn = self.0.environment.begin_ro_txn().map_err(fail)?;
        let pages = self.0.environment.info().map_err(fail)?.last_pgno() as u64 + 1 - free_pages(&txn).map_err(fail)?;
        let page_bytes = u64::from(self.0.environment.stat().map_err(fail)?.page_size());
        let map_bytes = self.0.environment.info().map_err(fail)?.map_size() as u64;
        Ok(Usage { used_bytes: pages * page_bytes, map_bytes })
    }

    /// How many bytes are free on its file system, and how many there are.
    pub(super) fn disk(&self) -> Result<(u64, u64), StorageError> {
        let system = rustix::fs::statvfs(&self.0.path)
            .map_err(|error| StorageError::Io { path: self.0.path.clone(), source: error.into() })?;
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        Ok((bytes(system.f_bavail), bytes(system.f_blocks)))
    }

    /// Frees the reader slots of processes that are gone.
    pub(super) fn clear_stale_readers(&self) -> Result<(), StorageError> {
        self.0.clear_stale_readers()
    }

    /// Begins to read what is committed now. A transaction that is kept makes the file grow: end it soon.
    pub(super) fn read(&self) -> Result<ReadTxn, StorageError> {
        // A host ends its own views in time; whoever only reads may be stopped at any moment.
        let lease = self.0.read_only.then(Lease::begin);
        let _inside = self.enter();
        let txn = self.0.environment.begin_ro_txn().map_err(|error| failed(&self.0.path, error))?;
        // SAFETY: the transaction borrows the environment, which lives on the heap behind the `Arc` that goes into the same
        // value; fields drop in order, so the transaction ends before the environment can close.
        let txn = unsafe { std::mem::transmute::<RoTransaction<'_>, RoTransaction<'static>>(txn) };
        Ok(ReadTxn { txn, env: self.clone(), _lease: lease })
    }

    /// Begins to write. Only the thread that owns writing to this environment may call it.
    pub(super) fn write(&self) -> Result<WriteTxn<'_>, StorageError> {
        let _inside = self.enter();
        let txn = self.0.environment.begin_rw_txn().map_err(|error| failed(&self.0.path, error))?;
        Ok(WriteTxn { txn, env: self })
    }

    /// Takes the pages of the file that were read so far out of this process's memory; they stay in the system's cache, and whoever
    /// reads one again gets it from there. Otherwise a process that appends for long would seem to have grown by all that it ever
    /// looked at. Where that cannot be done, nothing happens.
    pub(super) fn let_go_of_pages(&self) {
        #[cfg(target_os = "linux")]
        if let Some((start, length)) = self.0.mapping {
            let start = std::ptr::without_provenance_mut(start);
            // SAFETY: this is LMDB's own mapping of its data file: it lasts as long as the environment, which `self` keeps open, and
            // never moves, since nobody changes the map's size. It is a shared, read-only mapping, so nothing is lost with its
            // pages: the next access, on whatever thread, maps the same page of the same file again.
            _ = unsafe { rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed) };
        }
    }

    /// Whether LMDB has given the environment up.
    fn is_poisoned(&self) -> bool {
        matches!(self.0.environment.begin_ro_txn(), Err(lmdb::Error::Panic))
    }

    /// To be held while LMDB is called.
    fn enter(&self) -> Inside {
        if self.0.read_only {
            lease::touch();
        }
        self.0.watch.enter()
    }

    pub(super) fn damaged(&self, place: impl Into<String>, problem: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: self.0.path.clone(), place: place.into(), problem: problem.into() }
    }
}

/// Where the data file of an environment is mapped into this process.
#[cfg(target_os = "linux")]
fn mapping(folder: &Path) -> Option<(usize, usize)> {
    use std::os::unix::fs::MetadataExt;

    let path = folder.join("data.mdb");
    let inode = fs::metadata(&path).ok()?.ino().to_string();
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    // proc_pid_maps(5): start-end permissions offset device inode path
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (permissions, offset, _, found) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_ours = permissions == "r--s" && found == inode && line.ends_with(path.to_str()?);
        if !is_ours || offset.bytes().any(|digit| digit != b'0') {
            return None;
        }
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((start, end - start))
    })
}

/// Elsewhere the system does not tell; then only faults inside of LMDB are known to be the file's.
#[cfg(not(target_os = "linux"))]
fn mapping(_: &Path) -> Option<(usize, usize)> {
    None
}

fn failed(path: &Path, error: lmdb::Error) -> StorageError {
    let path = path.to_owned();
    match error {
        lmdb::Error::MapFull => StorageError::Full { path },
        lmdb::Error::Other(libc::ENOSPC | libc::EDQUOT) => StorageError::Full { path },
        // What LMDB makes of a write that was cut short, which is what a disk does that becomes full half-way.
        lmdb::Error::Other(libc::EIO) if has_no_room(&path) => StorageError::Full { path },
        // Files of another version are not read by any release, so that, too, can only be damage.
        lmdb::Error::Corrupted | lmdb::Error::PageNotFound | lmdb::Error::Invalid | lmdb::Error::VersionMismatch => {
            StorageError::Damaged { path, place: "an LMDB page".to_owned(), problem: error.to_string() }
        }
        source => StorageError::Failed { path, source },
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), StorageError> {
    let synced = fs::File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|source| StorageError::Io { path: path.to_owned(), source })
}

/// Whether the file system has less room than a large commit needs.
fn has_no_room(path: &Path) -> bool {
    const COMMIT_BYTES: u64 = 16 << 20;

    rustix::fs::statvfs(path).is_ok_and(|system| system.f_bavail.saturating_mul(system.f_frsize) < COMMIT_BYTES)
}

/// A consistent view of an environment.
pub(super) struct ReadTxn {
    // Before `env`: it has to end before the environment may close.
    txn: RoTransaction<'static>,
    env: Env,
    /// Last: the view is over when the transaction is.
    _lease: Option<Lease>,
}

// SAFETY: with thread-local reader slots off (`NO_TLS`), LMDB lets a read transaction be used by any one thread at a time.
// `ReadTxn` is not `Sync`, so it is never used by two at once, and its cursors do not leave its methods.
unsafe impl Send for ReadTxn {}

/// How much an environment takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Pages in use.
    pub used_bytes: u64,
    /// The most that it can take.
    pub map_bytes: u64,
}

/// How many pages a view knows as free: what the list of free pages, LMDB's database 0, counts. Each of its values is an array of
/// words, the first of which says how many page numbers follow.
fn free_pages(txn: &RoTransaction<'_>) -> lmdb::Result<u64> {
    const FREE_PAGES: lmdb_sys::MDB_dbi = 0;
    const WORD_BYTES: usize = size_of::<usize>();

    let mut cursor = std::ptr::null_mut();
    // SAFETY: the transaction lives throughout, every environment has database 0, and `cursor` outlives the call.
    let opened = unsafe { lmdb_sys::mdb_cursor_open(txn.txn(), FREE_PAGES, &mut cursor) };
    lmdb_result(opened)?;
    let nothing = || lmdb_sys::MDB_val { mv_size: 0, mv_data: std::ptr::null_mut() };
    let (mut key, mut value, mut pages) = (nothing(), nothing(), 0);
    let code = loop {
        // SAFETY: the cursor was opened above and is not closed yet; `key` and `value` outlive the call.
        let code = unsafe { lmdb_sys::mdb_cursor_get(cursor, &mut key, &mut value, MDB_NEXT) };
        if code != 0 {
            break code;
        }
        if value.mv_size >= WORD_BYTES {
            // SAFETY: LMDB lends so many bytes until the transaction ends, at least a word, and aligns words to two bytes at least.
            pages += unsafe { value.mv_data.cast::<usize>().read_unaligned() } as u64;
        }
    };
    // SAFETY: it was opened above, and its transaction still lives.
    unsafe { lmdb_sys::mdb_cursor_close(cursor) };
    if code == lmdb_sys::MDB_NOTFOUND { Ok(pages) } else { lmdb_result(code).map(|()| pages) }
}

fn lmdb_result(code: libc::c_int) -> lmdb::Result<()> {
    if code == 0 { Ok(()) } else { Err(lmdb::Error::from_err_code(code)) }
}

/// A key and its value, copied.
pub(super) type OwnedEntry = (Vec<u8>, Vec<u8>);

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

impl ReadTxn {
    pub(super) fn get(&self, db: Db, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        get(&self.txn, &self.env, db, key)
    }

    /// The last entry.
    pub(super) fn last(&self, db: Db) -> Result<Option<Entry<'_>>, StorageError> {
        self.step(db, None, MDB_LAST)
    }

    /// The first entry whose key is `key` or comes after it.
    pub(super) fn seek(&self, db: Db, key: &[u8]) -> Result<Option<Entry<'_>>, StorageError> {
        self.step(db, Some(key), MDB_SET_RANGE)
    }

    /// Calls `visit` with each entry from `from` on, in key order, until it answers false or fails.
    pub(super) fn walk<'a, E: From<StorageError>>(
        &'a self,
        db: Db,
        from: &[u8],
        mut visit: impl FnMut(&'a [u8], &'a [u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let fail = |error| failed(self.env.path(), error);
        let inside = self.env.enter();
        let cursor = self.txn.open_ro_cursor(self.env.0.databases[db.0]).map_err(fail)?;
        // LMDB does not take an empty key to seek; an empty one means "from the start".
        let mut found = if from.is_empty() {
            cursor.get(None, None, MDB_FIRST)
        } else {
            cursor.get(Some(from), None, MDB_SET_RANGE)
        };
        drop(inside);
        while let Some((key, value)) = self.entry(found)? {
            if !visit(key, value)? {
                return Ok(());
            }
            let _inside = self.env.enter();
            found = cursor.get(None, None, MDB_NEXT);
        }
        Ok(())
    }

    /// On how many pages a database has its entries.
    pub(super) fn leaf_pages(&self, db: Db) -> Result<u64, StorageError> {
        Ok(statistics(&self.txn, &self.env, db)?.ms_leaf_pages as u64)
    }

    /// How many entries a database has.
    pub(super) fn count(&self, db: Db) -> Result<u64, StorageError> {
        count(&self.txn, &self.env, db)
    }

    fn step(&self, db: Db, key: Option<&[u8]>, operation: u32) -> Result<Option<Entry<'_>>, StorageError> {
        let _inside = self.env.enter();
        let cursor = self.txn.open_ro_cursor(self.env.0.databases[db.0]).map_err(|e| failed(self.env.path(), e))?;
        let found = cursor.get(key, None, operation);
        self.entry(found)
    }

    /// The entries before and after a key that is not there.
    ///
    /// # Errors
    ///
    /// If they are not in order: then nobody knows whether the key is there.
    pub(super) fn around(&self, db: Db, key: &[u8]) -> Result<[Option<Entry<'_>>; 2], StorageError> {
        let _inside = self.env.enter();
        let cursor = self.txn.open_ro_cursor(self.env.0.databases[db.0]).map_err(|e| failed(self.env.path(), e))?;
        let after = self.entry(cursor.get(Some(key), None, MDB_SET_RANGE))?;
        let before = self.entry(cursor.get(None, None, if after.is_some() { MDB_PREV } else { MDB_LAST }))?;
        if before.is_some_and(|(before, _)| before >= key) || after.is_some_and(|(after, _)| after <= key) {
            return Err(self.env.damaged("an LMDB page", "its keys are not in order"));
        }
        Ok([before, after])
    }

    fn entry<'a>(&self, found: lmdb::Result<(Option<&'a [u8]>, &'a [u8])>) -> Result<Option<Entry<'a>>, StorageError> {
        match found {
            Ok((key, value)) => Ok(Some((key.expect("these cursor operations set the key"), value))),
            Err(lmdb::Error::NotFound) => Ok(None),
            Err(error) => Err(failed(self.env.path(), error)),
        }
    }
}

/// A transaction that changes an environment. Dropped without [`commit`](Self::commit), it changes nothing.
pub(super) struct WriteTxn<'env> {
    txn: RwTransaction<'env>,
    env: &'env Env,
}

impl WriteTxn<'_> {
    /// A value. It has to be used before the next write, which moves what a slice shows.
    pub(super) fn get(&self, db: Db, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        get(&self.txn, self.env, db, key)
    }

    pub(super) fn put(&mut self, db: Db, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let _inside = self.env.enter();
        let database = self.env.0.databases[db.0];
        self.txn.put(database, &key, &value, WriteFlags::empty()).map_err(|error| failed(self.env.path(), error))
    }

    /// Adds an entry whose key is greater than every other.
    pub(super) fn append(&mut self, db: Db, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let _inside = self.env.enter();
        let database = self.env.0.databases[db.0];
        self.txn.put(database, &key, &value, WriteFlags::APPEND).map_err(|error| failed(self.env.path(), error))
    }

    /// Removes an entry, if it is there.
    pub(super) fn delete(&mut self, db: Db, key: &[u8]) -> Result<(), StorageError> {
        let _inside = self.env.enter();
        match self.txn.del(self.env.0.databases[db.0], &key, None) {
            Ok(()) | Err(lmdb::Error::NotFound) => Ok(()),
            Err(error) => Err(failed(self.env.path(), error)),
        }
    }

    /// Up to `limit` entries from the start of a database, copied, because a later write moves what a slice shows.
    pub(super) fn first(&self, db: Db, limit: usize) -> Result<Vec<OwnedEntry>, StorageError> {
        let _inside = self.env.enter();
        let fail = |error| failed(self.env.path(), error);
        let cursor = self.txn.open_ro_cursor(self.env.0.databases[db.0]).map_err(fail)?;
        let mut entries = Vec::new();
        let mut found = cursor.get(None, None, MDB_FIRST);
        while entries.len() < limit {
            match found {
                Ok((key, value)) => entries.push((key.unwrap_or_default().to_vec(), value.to_vec())),
                Err(lmdb::Error::NotFound) => break,
                Err(error) => return Err(fail(error)),
            }
            found = cursor.get(None, None, MDB_NEXT);
        }
        Ok(entries)
    }

    /// Removes entries from the start of a database for as long as `remove` says so of a key and the length of its value.
    /// Answers whether it ended at an entry that stays for now.
    pub(super) fn remove_first(
        &mut self,
        db: Db,
        mut remove: impl FnMut(&[u8], usize) -> bool,
    ) -> Result<bool, StorageError> {
        let fail = |error| failed(self.env.path(), error);
        let mut cursor = self.txn.open_rw_cursor(self.env.0.databases[db.0]).map_err(fail)?;
        loop {
            match cursor.get(None, None, MDB_FIRST) {
                Ok((key, value)) if !remove(key.unwrap_or_default(), value.len()) => return Ok(true),
                Ok(_) => {}
                Err(lmdb::Error::NotFound) => return Ok(false),
                Err(error) => return Err(fail(error)),
            }
            cursor.del(WriteFlags::empty()).map_err(fail)?;
        }
    }

    /// How many entries a database has.
    pub(super) fn count(&self, db: Db) -> Result<u64, StorageError> {
        count(&self.txn, self.env, db)
    }

    /// Makes the changes durable, all of them or none.
    pub(super) fn commit(self) -> Result<(), StorageError> {
        let env = self.env;
        let _inside = env.enter();
        self.txn.commit().map_err(|error| match failed(env.path(), error) {
            // LMDB refuses everything once it could not write the page that makes a transaction the newest: the file may
            // have it or not. That is no mere lack of room, after which all is as it was.
            StorageError::Full { path } if env.is_poisoned() => StorageError::Failed { path, source: error },
            error => error,
        })
    }
}

fn get<'txn>(txn: &'txn impl Transaction, env: &Env, db: Db, key: &[u8]) -> Result<Option<&'txn [u8]>, StorageError> {
    let _inside = env.enter();
    match txn.get(env.0.databases[db.0], &key) {
        Ok(value) => Ok(Some(value)),
        Err(lmdb::Error::NotFound) => Ok(None),
        Err(error) => Err(failed(env.path(), error)),
    }
}

fn count(txn: &impl Transaction, env: &Env, db: Db) -> Result<u64, StorageError> {
    Ok(statistics(txn, env, db)?.ms_entries as u64)
}

fn statistics(txn: &impl Transaction, env: &Env, db: Db) -> Result<lmdb_sys::MDB_stat, StorageError> {
    let mut stat = lmdb_sys::MDB_stat {
        ms_psize: 0,
        ms_depth: 0,
        ms_branch_pages: 0,
        ms_leaf_pages: 0,
        ms_overflow_pages: 0,
        ms_entries: 0,
    };
    let _inside = env.enter();
    // SAFETY: the transaction and the database handle belong to the same open environment, and `stat` outlives the call.
    let code = unsafe { lmdb_sys::mdb_stat(txn.txn(), env.0.databases[db.0].dbi(), &mut stat) };
    match code {
        0 => Ok(stat),
        code => Err(failed(env.path(), lmdb::Error::from_err_code(code))),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
