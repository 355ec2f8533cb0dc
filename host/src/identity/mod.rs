//! The identity: a transactional, prototype-based object graph and its whole history.
//!
//! A commit appends one record to the [history](History) and nothing else; the [object table](Table) follows behind, and
//! the [overlay](Overlay) stands between the two. This module owns the storage and gives three views of it:
//!
//! - [`Identity`]: what all threads share;
//! - [`Reader`]: one thread's way to read objects and names, now or as of a transaction;
//! - [`Writer`]: the executor's way to add transactions, of which there is one.
//!
//! It knows nothing of plugins: behaviours are names here, slots and arguments are encoded values.

pub mod backup;
mod base;
mod batch;
mod fault;
mod history;
mod ids;
mod index;
mod lease;
mod lmdb;
mod matching;
mod names;
mod order;
mod overlay;
mod pack;
mod patrol;
mod prefetch;
mod read;
mod rebuild;
mod record;
mod room;
mod secondary;
mod small;
mod table;
mod undo;
mod verify;
mod version;
mod walk;
mod write;

#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use theseus_value::ObjectId;
use twox_hash::XxHash3_64;

pub use self::{
    base::{Base, BaseMark, PACK},
    batch::{BatchHeader, BatchView, Draft, Naming, Outcome, RecordedFailure, Transaction, Write, sort_generations},
    history::Head,
    ids::{BaseDigest, HexError, IdentityId, Incarnation, RecordHash, Tid},
    lease::limit_views,
    lmdb::StorageError,
    matching::{Condition, Matching, Relation, Wanted},
    order::has_order,
    pack::{PackError, PackPlan, PackUntil},
    patrol::{PatrolAt, PatrolPart, PatrolStep},
    read::{NamesPage, Reader},
    rebuild::{RebuildError, Rebuilt, rebuild},
    record::{ObjectRecord, each_reference},
    room::Room,
    secondary::{INDEXES_SLOT, IndexDefinition, IndexNumber, IndexState},
    small::{Bytes, Small},
    table::Census,
    undo::{MIGRATE, UndoError, UndoPlan, UndoRefusal},
    verify::{
        Damage, Dangling, KeptHead, Options as VerifyOptions, Progress, Resumption, Verification, Verified, verify,
        verify_with,
    },
    version::{NameVersion, Pointers, Version},
    walk::ObjectWalk,
    write::{Amount, CheckpointPlan, ClosedBatch, Committer, Keep, RequestMemory, Writer},
};
use self::{
    history::History,
    names::Names,
    overlay::{Overlay, Weight},
    prefetch::prefetch,
    read::View,
    table::{Checkpoint, Reached, RequestRow, Table, TableView},
    version::Versioned,
};

/// Where an identity lies and how large it may become.
#[derive(Clone, Debug)]
pub struct Place {
    /// The history's folder.
    pub history: PathBuf,
    /// The object table's folder.
    pub objects: PathBuf,
    /// The folder of the history's bases.
    pub bases: PathBuf,
    /// Address space for the history, in bytes: the most it can ever hold.
    pub history_bytes_max: usize,
    /// Address space for the object table, in bytes; for a base as well.
    pub objects_bytes_max: usize,
    /// Which request ids an object table remembers that is made anew from the history.
    pub requests: RequestMemory,
}

/// The host's own object: what the host itself has to remember. It is stored, versioned and verified like any other, but not
/// counted among the objects. Ids are given from 1 on, so it is in nobody's way.
pub const HOST_OBJECT: ObjectId = ObjectId(0);

/// The behaviour of [`HOST_OBJECT`]. No plugin provides it.
pub const HOST_BEHAVIOR: &str = "theseus.Host";

/// The behaviour of messages that wait to be delivered. No plugin provides it.
pub const MESSAGE_BEHAVIOR: &str = "theseus.Message";

/// Whether objects of a behaviour are the host's own: closed to everybody else, and not counted among the objects.
pub fn is_hosts_own(behavior: &str) -> bool {
    behavior.starts_with("theseus.")
}

/// How many objects there are, without the host's own.
pub fn count_objects(census: &Census) -> u64 {
    census.iter().filter(|((behavior, _), _)| !is_hosts_own(behavior)).map(|(_, objects)| objects).sum()
}

/// A request id that was seen, and what became of the request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remembered {
    /// The transaction in which it was executed.
    pub tid: Tid,
    /// The object that received the message, if it was one.
    pub target: Option<ObjectId>,
    /// The [`fingerprint`] of what was asked, to tell a repetition from another request under the same id.
    pub fingerprint: u64,
    /// When it was executed, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// How it ended; none if that has to be looked up in the history.
    pub outcome: Option<Outcome>,
}

impl Weight for Version {
    fn weight(&self) -> usize {
        /// What an `Arc` keeps beside its value.
        const COUNTS: usize = 16;
        let record = self.record.as_ref().map_or(0, |record| {
            COUNTS + size_of::<ObjectRecord>() + record.slots.heap_bytes() + size_of_val(&*record.parents)
        });
        size_of::<Version>() + self.spine.heap_bytes() + record
    }
}

impl Weight for NameVersion {
    fn weight(&self) -> usize {
        size_of::<NameVersion>() + self.spine.heap_bytes()
    }
}

impl Weight for Remembered {
    fn weight(&self) -> usize {
        size_of::<Remembered>()
    }
}

/// How long a walk keeps one view of the history: pages that were replaced since cannot be used again meanwhile, and the file grows.
const VIEW_MAX: Duration = Duration::from_millis(20);

/// What all threads share of an open identity.
pub struct Identity {
    id: IdentityId,
    history: History,
    table: Table,
    objects: Overlay<ObjectId, Version>,
    names: Names,
    requests: Overlay<Arc<str>, Remembered>,
    /// The readers' views of the table. A lock because readers come and go on any thread; it is taken before a view's own.
    views: Mutex<Vec<Weak<View>>>,
    /// The last durable record. Written by the committer alone.
    head: ArcSwap<Head>,
    /// The transaction that the table has reached. Written by the checkpointer alone, after the table's commit and before
    /// anything leaves the overlay; a reader that misses in the overlay looks here whether its view of the table is too old.
    reached: AtomicU64,
    /// On how many pages of the table the objects are. Written by the checkpointer.
    object_pages: AtomicU64,
    /// Whether a checkpoint is under way. Set by the executor, cleared by the checkpointer.
    checkpointing: AtomicBool,
}

/// An identity that was opened, and where the executor has to go on.
pub struct Opened {
    /// The identity.
    pub identity: Arc<Identity>,
    /// What the next writer starts from.
    pub resume: Resume,
}

/// Where a writer goes on.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The next object id to give.
    pub(in crate::identity) next_object: u64,
    /// The objects, counted.
    pub(in crate::identity) census: Census,
    /// The incarnation of the last record.
    pub incarnation: Incarnation,
    /// The generations in force: plugin name and digest.
    pub generations: Arc<[(String, [u8; 32])]>,
    /// What was replayed because the object table had not seen it.
    pub replayed: Amount,
}

impl Resume {
    /// The objects, counted.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// The first object id that was never given.
    pub fn next_object(&self) -> u64 {
        self.next_object
    }

    /// How many objects there are.
    pub fn objects(&self) -> u64 {
        count_objects(&self.census)
    }
}

impl Identity {
    /// Makes an empty identity with a new random id.
    ///
    /// # Errors
    ///
    /// If the storage fails. That no identity is there already is for the caller to check.
    pub fn create(place: &Place) -> Result<IdentityId, StorageError> {
        let mut id = [0; 16];
        getrandom(&mut id);
        let id = IdentityId(id);
        // The history makes it an identity. It comes first, because it can do without a table, as nothing else can do without it.
        History::create(place, id)?;
        rebuild::rebuild_from(&History::open(place, true)?, place).map_err(StorageError::from)?;
        Ok(id)
    }

    /// Whether there is an identity.
    ///
    /// # Errors
    ///
    /// [`StorageError::Damaged`] if there is one that has lost its history; or if the files cannot be looked at.
    pub fn is_there(place: &Place) -> Result<bool, StorageError> {
        History::is_there(place)
    }

    /// The same for who needs it.
    ///
    /// # Errors
    ///
    /// As [`is_there`](Self::is_there), and [`StorageError::Missing`] if there is none.
    pub fn expect_there(place: &Place) -> Result<(), StorageError> {
        if Identity::is_there(place)? { Ok(()) } else { Err(StorageError::Missing { path: place.history.clone() }) }
    }

    /// Removes what the making of an identity that was cut off has left where another one is to come, and folders that are empty.
    ///
    /// # Errors
    ///
    /// If files cannot be removed, or if there is anything of an identity.
    pub fn remove_remains(place: &Place) -> Result<(), StorageError> {
        for folder in [&place.history, &place.objects, &place.bases] {
            match std::fs::remove_dir(folder) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StorageError::Io { path: folder.clone(), source });
                }
                _ => {}
            }
        }
        rebuild::remove(&History::partial(place))
    }

    /// Opens an identity: replays into the overlay what the object table has not seen.
    ///
    /// # Errors
    ///
    /// If there is none, if what is read is damaged, or if the storage fails.
    pub fn open(place: &Place, read_only: bool) -> Result<Opened, StorageError> {
        let history = History::open(place, read_only)?;
        if history.begin_taking_back()? {
            Identity::take_back(place, &history)?;
        }
        if !read_only {
            // What a pack left that was not finished, or the base before the one in force.
            base::remove_others(&place.bases, history.base().map(|base| base.mark().head.tid))?;
        }
        let table = Identity::open_table(place, &history, read_only)?;
        // The table first: the history is then at least as new, also beside a live host.
        let tabled = table.read()?;
        let (reached, object_pages) = (tabled.reached()?, tabled.object_pages()?);
        let view = history.read()?;
        let head = view.lasting_head()?;
        if reached.tid > head.tid {
            let problem = format!("it ends with transaction {}, but the objects are as of {}", head.tid, reached.tid);
            return Err(view.damaged(head.tid, problem));
        }
        let identity = Arc::new(Identity {
            id: view.identity()?,
            history,
            table,
            objects: Overlay::new(),
            names: Names::new(),
            views: Mutex::default(),
            requests: Overlay::new(),
            head: ArcSwap::from_pointee(head),
            reached: AtomicU64::new(reached.tid.0),
            object_pages: AtomicU64::new(object_pages),
            checkpointing: AtomicBool::new(false),
        });
        let resume = identity.replay(reached, tabled, head)?;
        Ok(Opened { identity, resume })
    }

    /// Ends an import that was interrupted, whose records are gone. What the table has of it cannot be taken out of that again.
    fn take_back(place: &Place, history: &History) -> Result<(), StorageError> {
        let table = match Table::open(&place.objects, place.objects_bytes_max, false, false) {
            Ok(table) => Some(table),
            Err(StorageError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        let reached = table.map(|table| table.read()?.reached()).transpose()?;
        let head = history.read()?.head()?;
        if reached.is_some_and(|reached| reached.tid > head.tid) {
            rebuild::rebuild_from(history, place).map_err(StorageError::from)?;
        }
        history.end_import()
    }

    /// The table can be made anew from the history; the history cannot. One that is missing is made at once, one that is damaged only if
    /// somebody asks for it.
    fn open_table(place: &Place, history: &History, read_only: bool) -> Result<Table, StorageError> {
        if !read_only {
            rebuild::clean(place)?;
            if !place.objects.join("data.mdb").is_file() {
                log::warn!("the object table is missing: it is made again from the history, which may take a while");
                rebuild::rebuild_from(history, place).map_err(StorageError::from)?;
            }
        }
        Table::open(&place.objects, place.objects_bytes_max, false, read_only).map_err(|error| match error {
            StorageError::Missing { path } => StorageError::TableMissing { path },
            error => error,
        })
    }

    /// The identity's own id.
    pub fn id(&self) -> IdentityId {
        self.id
    }

    /// The last durable record.
    pub fn head(&self) -> Head {
        **self.head.load()
    }

    /// The transaction up to which the object table has come.
    pub fn reached(&self) -> Tid {
        Tid(self.reached.load(Ordering::Acquire))
    }

    /// On how many pages of the object table the objects are, as of the last checkpoint.
    pub fn object_pages(&self) -> u64 {
        self.object_pages.load(Ordering::Relaxed)
    }

    /// Has the newest versions of objects that are about to be read, all at once, brought near the processor, as far as they are in
    /// memory. To find one takes several looks, each at another place; those for different objects do not wait for each other.
    pub(crate) fn foresee(&self, objects: impl Iterator<Item = ObjectId>) {
        for object in objects {
            self.objects.look_at(&object, |versions| {
                prefetch(versions);
                let recent = versions.iter().take(2);
                recent.filter_map(|(_, version)| version.record.as_deref()).for_each(prefetch);
            });
        }
    }

    /// How many objects the overlay holds.
    pub fn overlay_objects(&self) -> usize {
        self.objects.len()
    }

    /// Hands every batch from the one that holds `from` on to `visit`, in order, until it answers false. No view of the history is
    /// kept for longer than [`VIEW_MAX`] and what `visit` takes: what is newer by then is walked too.
    ///
    /// # Errors
    ///
    /// If the storage fails, if a record is damaged, or what `visit` answers.
    pub fn walk_history(
        &self,
        from: Tid,
        mut visit: impl FnMut(&BatchView<'_>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        let (mut next, mut goes_on) = (from, true);
        while goes_on {
            goes_on = false;
            let opened = Instant::now();
            self.history.read()?.walk(next, |batch| {
                if !visit(batch)? {
                    goes_on = false;
                    return Ok(false);
                }
                next = batch.header.last.next();
                goes_on = opened.elapsed() >= VIEW_MAX;
                Ok(!goes_on)
            })?;
        }
        Ok(())
    }

    /// The last transaction of the last batch that was handed over for commit at a time or before it; none is [`Tid::NONE`].
    ///
    /// # Errors
    ///
    /// If the storage fails or a record is damaged.
    pub fn tid_at(&self, time_us: u64) -> Result<Tid, StorageError> {
        // The head first: the view has it then, and may have more that nobody is to see yet.
        let head = self.head().tid;
        let view = self.history.read()?;
        let packed = view.packed().tid;
        // What ends with `before` or earlier is not too late, what begins after `last` is.
        let (mut before, mut last) = (packed.0, head.0);
        while before < last {
            let middle = Tid(before + (last - before).div_ceil(2));
            let header = view.with_batch(middle, |batch| Ok(batch.header.clone()))?;
            let header = header.ok_or_else(|| view.damaged(middle, "the history does not have it"))?;
            if header.time_us <= time_us {
                before = header.last.0;
            } else {
                last = header.first.0 - 1;
            }
        }
        match Tid(before) {
            // When that was is not known any more.
            Tid(at) if at == packed.0 && packed != Tid::NONE => Err(StorageError::Packed { before: packed }),
            at => Ok(at),
        }
    }

    /// Ends what readers no longer need but still keep from being written over: views of the table that it has left behind, and those of
    /// processes that are gone. Quick, and to be done again and again.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn let_go_of_readers(&self) -> Result<(), StorageError> {
        let reached = self.reached();
        self.views.lock().unwrap_or_else(PoisonError::into_inner).retain(|view| {
            let view = view.upgrade();
            view.inspect(|view| view.leave_behind(reached)).is_some()
        });
        self.history.clear_stale_readers()?;
        self.table.clear_stale_readers()
    }

    /// Hands the batch that holds transaction `tid` to `look`; none if there is no such transaction.
    ///
    /// # Errors
    ///
    /// If the storage fails, if the record is damaged, or what `look` answers.
    pub fn with_batch<R>(
        &self,
        tid: Tid,
        look: impl FnOnce(&BatchView<'_>) -> Result<R, StorageError>,
    ) -> Result<Option<R>, StorageError> {
        self.history.read()?.with_batch(tid, look)
    }

    /// Whether the history holds a record that ends with `head.tid` and has its hash: whether it continues that head.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn continues(&self, head: Head) -> Result<bool, StorageError> {
        Ok(head == Head::default() || self.history.read()?.hash_at(head.tid)? == Some(head.hash))
    }

    /// The last record that was packed away: the state as of it, and every transaction after it, is there. The start of all if
    /// nothing was packed.
    pub fn packed(&self) -> Head {
        self.history.base().map_or_else(Head::default, |base| base.mark().head)
    }

    /// Notes that what is added from now on is to be taken back, unless [`end_import`](Self::end_import) comes. For whoever owns
    /// the identity, and has no other thread that commits.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn begin_import(&self) -> Result<(), StorageError> {
        self.history.begin_import()
    }

    /// Keeps what was added since [`begin_import`](Self::begin_import).
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn end_import(&self) -> Result<(), StorageError> {
        self.history.end_import()
    }

    /// The hash of the record that ends with a transaction; none if no record does.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn hash_at(&self, tid: Tid) -> Result<Option<RecordHash>, StorageError> {
        self.history.read()?.hash_at(tid)
    }

    /// The id that the next new object got after the last transaction that was packed away; the first of all if none was.
    pub fn next_object_when_packed(&self) -> u64 {
        self.history.base().map_or(Reached::start().next_object, |base| base.next_object())
    }

    /// An error about the record that holds a transaction.
    pub fn damaged(&self, tid: Tid, problem: impl Into<String>) -> StorageError {
        match self.history.read() {
            Ok(view) => view.damaged(tid, problem),
            Err(error) => error,
        }
    }

    fn replay(self: &Arc<Self>, reached: Reached, tabled: TableView, head: Head) -> Result<Resume, StorageError> {
        let Reached { tid: from, mut next_object, mut census } = reached;
        // On the very view that was asked how far the table has come: a live host may bring it further meanwhile.
        let mut reader = Reader::on(self.clone(), from, tabled);
        let view = self.history.read()?;
        let mut replayed = Amount::default();
        view.walk(from.next(), |batch| {
            replayed.bytes += batch.length() as u64;
            for (tid, transaction) in batch.transactions().skip_while(|(tid, _)| *tid <= from) {
                let transaction = transaction.map_err(|error| view.damaged(tid, error.to_string()))?;
                replayed.transactions += 1;
                replayed.writes += transaction.writes.len() as u64;
                for write in &transaction.writes {
                    let before = reader.newest(write.object)?;
                    let version = Version::after(before.as_ref(), tid, write.record.clone());
                    follows(&write.object, write.pointers, &version).map_err(|problem| view.damaged(tid, problem))?;
                    write::count(&mut census, write.object, before.as_ref(), &version);
                    next_object = next_object.max(write.object.0 + 1);
                    self.objects.put(write.object, tid, version, tid, tid);
                }
                for naming in &transaction.names {
                    let before = reader.newest_name(naming.name)?;
                    let version = Version::after(before.as_ref(), tid, naming.object);
                    follows(naming.name, naming.pointers, &version).map_err(|problem| view.damaged(tid, problem))?;
                    self.names.put(Arc::from(naming.name), tid, version, tid, tid);
                }
                if let Some(id) = transaction.request_id {
                    let (target, fingerprint) =
                        (transaction.target, fingerprint(transaction.method, transaction.arguments));
                    let time_us = transaction.time_us;
                    let remembered = Remembered { tid, target, fingerprint, time_us, outcome: None };
                    self.requests.put(Arc::from(id), tid, remembered, tid, tid);
                }
            }
            // A live host goes on adding.
            Ok(batch.header.last < head.tid)
        })?;
        let last =
            view.with_batch(head.tid, |batch| Ok((batch.header.incarnation, batch.header.generations.clone())))?;
        let (incarnation, generations) = last.unwrap_or_else(|| (Incarnation(0), Arc::new([])));
        Ok(Resume { next_object, census, incarnation, generations, replayed })
    }

    /// Brings the object table to what the plan says and drops that from the overlay. For one thread, the checkpointer.
    ///
    /// # Errors
    ///
    /// If the storage fails; then nothing has changed and it can be tried again.
    pub fn checkpoint(&self, plan: CheckpointPlan) -> Result<(), StorageError> {
        let result = self.advance_table(plan);
        self.checkpointing.store(false, Ordering::Release);
        // Every record that was appended since was mapped too.
        self.history.let_go_of_pages();
        result
    }

    fn advance_table(&self, plan: CheckpointPlan) -> Result<(), StorageError> {
        let (since, until) = (self.reached(), plan.until);
        let requests = self.requests.changed(since, || until);
        let row =
            |Remembered { tid, target, fingerprint, time_us, .. }| RequestRow { tid, target, fingerprint, time_us };
        self.table.advance(Checkpoint {
            reached: Reached { tid: until, next_object: plan.next_object, census: plan.census },
            objects: self.objects.changed(since, || until),
            names: self.names.changed(since, || until),
            requests: requests.into_iter().map(|(id, remembered)| (id, row(remembered))).collect(),
            superseded: Vec::new(),
            memory: plan.memory,
        })?;
        self.object_pages.store(self.table.read()?.object_pages()?, Ordering::Relaxed);
        self.reached.store(until.0, Ordering::Release);
        self.objects.settle(until, plan.keep.objects, plan.keep.bytes);
        self.names.settle(until, plan.keep.objects, plan.keep.bytes / 8);
        self.requests.settle(until, 0, 0);
        self.let_go_of_readers()
    }
}

/// Whether a recorded version is the one that follows from those before it; in words if not.
fn follows<K: Versioned + ?Sized>(key: &K, recorded: Pointers, version: &Version<K::Content>) -> Result<(), String> {
    if recorded == version.pointers() {
        return Ok(());
    }
    Err(format!("its version of {} does not follow the version before", key.describe()))
}

/// A digest of what a request asks of its target, to recognise its repetition.
pub fn fingerprint(method: &str, arguments: &[u8]) -> u64 {
    // What has no arguments is recorded as having null for them.
    let arguments = if arguments.is_empty() { &[0xf6] } else { arguments };
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(method.as_bytes()), arguments)
}

/// Fills a buffer with random bytes from the system.
pub fn getrandom(buffer: &mut [u8]) {
    let filled = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(buffer.len()), "the system gives up to 256 random bytes at once");
}
