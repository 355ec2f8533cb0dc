//! Reading objects and names, now or as of a transaction.
//!
//! A view of an LMDB file that is kept makes the file grow, so none outlives its purpose. What is read as of a transaction does not change:
//! a long walk reads as of one, and takes a new view whenever it likes.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, PoisonError, TryLockError},
};

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::{
    Identity, NameVersion, ObjectRecord, Outcome, Pointers, Remembered, RequestRow, StorageError, Tid, Version,
    history::HistoryView,
    table::TableView,
    version::{Versioned, jump_number},
};

/// One thread's way to read an identity.
///
/// It keeps a view of the object table open between reads, because opening one costs more than a read. The checkpointer takes it
/// away when the table has moved on, whatever the thread is busy with then.
pub struct Reader {
    identity: Arc<Identity>,
    table: Arc<View>,
    /// What [`last_in_schema`](Self::last_in_schema) found, and as of which version: objects derived from one prototype all
    /// ask for the same.
    former: FxHashMap<(ObjectId, u32), Former>,
    records_read: Cell<u64>,
}

/// A reader's view of the object table, with the transaction that the table had reached.
#[derive(Default)]
pub(super) struct View {
    // A lock because the checkpointer ends views that are too old; the reader holds it for one read.
    open: Mutex<Option<(Tid, TableView)>>,
}

impl View {
    /// Ends it if the table has gone beyond it, unless it is being read at this moment.
    pub(super) fn leave_behind(&self, reached: Tid) {
        let mut open = match self.open.try_lock() {
            Ok(open) => open,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        open.take_if(|(opened_at, _)| *opened_at != reached);
    }
}

/// A part of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamesPage {
    /// Names and the objects that they stand for, in the order of the names.
    pub names: Vec<(String, ObjectId)>,
    /// The last name that was looked at, if there are more after it.
    pub next: Option<String>,
}

/// As of which version, and what was found.
type Former = (Tid, Option<Arc<ObjectRecord>>);

/// How many answers of [`Reader::last_in_schema`] are kept.
const FORMER_MAX: usize = 256;

impl Reader {
    /// A reader without a view as yet.
    pub fn new(identity: Arc<Identity>) -> Reader {
        let table = Arc::new(View::default());
        identity.views.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&table));
        Reader { identity, table, former: FxHashMap::default(), records_read: Cell::new(0) }
    }

    /// A reader with a view of the table that has reached `reached`.
    pub(super) fn on(identity: Arc<Identity>, reached: Tid, table: TableView) -> Reader {
        let reader = Reader::new(identity);
        *reader.table.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((reached, table));
        reader
    }

    /// The identity behind it.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// How many transactions of the history were looked at, one by one, to find versions.
    pub fn records_read(&self) -> u64 {
        self.records_read.get()
    }

    /// Lets go of the view of the object table. The next read opens a new one.
    pub fn release(&mut self) {
        *self.table.open.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The newest version of an object, durable or not: what the executor sees.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub fn newest(&mut self, object: ObjectId) -> Result<Option<Version>, StorageError> {
        match self.identity.objects.newest(&object) {
            Some((_, version)) => Ok(Some(version)),
            None => Ok(self.table(|table| table.object(object))?),
        }
    }

    /// What `look` makes of its [`newest`](Self::newest) version.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub(super) fn look_at_newest<R>(
        &mut self,
        object: ObjectId,
        look: impl FnOnce(Option<&Version>) -> R,
    ) -> Result<R, StorageError> {
        let mut look = Some(look);
        let mut look = |version: Option<&Version>| look.take().map(|look| look(version));
        match self.identity.objects.look_at_newest(&object, |version| look(Some(version))) {
            Some(looked) => Ok(looked.expect("it is looked at once")),
            None => Ok(look(self.table(|table| table.object(object))?.as_ref()).expect("it is looked at once")),
        }
    }

    /// The object of its [`newest`](Self::newest) version; none if there is none any more.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub fn newest_record(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        match self.identity.objects.look_at_newest(&object, |version| version.record.clone()) {
            Some(record) => Ok(record),
            None => Ok(self.table(|table| table.object(object))?.and_then(|version| version.record)),
        }
    }

    /// An object's version in a snapshot: as of `snapshot`, which was the head when the snapshot was taken.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn snapshot(&mut self, object: ObjectId, snapshot: Tid) -> Result<Option<Version>, StorageError> {
        // What is left of a batch in the overlay is the last version of each object, which is the one to see because a head
        // is the end of a batch.
        match self.identity.objects.newest_at(&object, snapshot) {
            Some((_, version)) => Ok(Some(version)),
            None => self.as_of(object, snapshot),
        }
    }

    /// An object's version as of any durable transaction.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn as_of(&mut self, object: ObjectId, at: Tid) -> Result<Option<Version>, StorageError> {
        match self.durable(object)? {
            Some(version) if version.tid > at => self.past(&object, &version, at),
            durable => Ok(durable),
        }
    }

    /// What an object last was in a schema version, durable or not; none if it never was, or was deleted since.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        let fits = |record: &ObjectRecord| record.schema == schema;
        // Of what is durable, the overlay keeps only the last version of a batch; the history has all. A deletion ends the search.
        let head = self.identity.head().tid;
        let ends = |version: &Version| version.tid > head && version.record.as_deref().is_none_or(fits);
        if let Some(version) = self.identity.objects.newest_where(&object, ends) {
            return Ok(version.record.clone());
        }
        match self.durable(object)? {
            Some(durable) => self.back_to_schema(object, &durable, schema),
            None => Ok(None),
        }
    }

    /// What an object last was in a schema version as of any durable transaction; none if it never was, or was deleted since.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn last_in_schema_as_of(
        &mut self,
        object: ObjectId,
        schema: u32,
        at: Tid,
    ) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        match self.as_of(object, at)? {
            Some(version) => self.back_to_schema(object, &version, schema),
            None => Ok(None),
        }
    }

    fn back_to_schema(
        &mut self,
        object: ObjectId,
        newest: &Version,
        schema: u32,
    ) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        let known = self.former.get(&(object, schema)).cloned();
        let known_at = |at: Tid| known.as_ref().filter(|(as_of, _)| *as_of == at).map(|(_, found)| found.clone());
        if let Some(found) = known_at(newest.tid) {
            return Ok(found);
        }
        let view = self.identity.history.read()?;
        let (mut record, mut previous) = (newest.record.clone(), newest.previous);
        while record.as_deref().is_some_and(|record| record.schema != schema) {
            let Some(tid) = previous.exists() else {
                record = None;
                break;
            };
            if let Some(found) = known_at(tid) {
                record = found;
                break;
            }
            let write = match written(&view, &object, tid) {
                // What it was before then is not known any more.
                Err(StorageError::Packed { .. }) => {
                    record = None;
                    break;
                }
                write => write?,
            };
            (record, previous) = (write.record, write.pointers.previous);
        }
        if self.former.len() >= FORMER_MAX {
            self.former.clear();
        }
        self.former.insert((object, schema), (newest.tid, record.clone()));
        Ok(record)
    }

    /// The newest durable version: the only one from which the history can be followed back.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub fn durable(&mut self, object: ObjectId) -> Result<Option<Version>, StorageError> {
        let identity = &self.identity;
        match identity.objects.newest_durable(&object, || identity.head().tid) {
            Some(version) => Ok(Some(version)),
            None => Ok(self.table(|table| table.object(object))?),
        }
    }

    /// The newest version of a name, durable or not: what the executor sees.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub fn newest_name(&mut self, name: &str) -> Result<Option<NameVersion>, StorageError> {
        match self.identity.names.newest(name) {
            Some((_, version)) => Ok(Some(version)),
            None => Ok(self.table(|table| table.name(name))?),
        }
    }

    /// The object that a name stands for, durably or not.
    ///
    /// # Errors
    ///
    /// If the storage fails or the row is damaged.
    pub fn name(&mut self, name: &str) -> Result<Option<ObjectId>, StorageError> {
        Ok(self.newest_name(name)?.and_then(|version| version.record))
    }

    /// The object that a name stands for in a snapshot: as of `snapshot`, which was the head when the snapshot was taken.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn snapshot_name(&mut self, name: &str, snapshot: Tid) -> Result<Option<ObjectId>, StorageError> {
        match self.identity.names.newest_at(name, snapshot) {
            Some((_, version)) => Ok(version.record),
            None => self.name_as_of(name, snapshot),
        }
    }

    /// The object that a name stood for as of any durable transaction. That object may have been deleted by then.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn name_as_of(&mut self, name: &str, at: Tid) -> Result<Option<ObjectId>, StorageError> {
        let version = match self.durable_name(name)? {
            Some(version) if version.tid > at => self.past(name, &version, at)?,
            durable => durable,
        };
        Ok(version.and_then(|version| version.record))
    }

    /// The newest durable version of a name.
    pub(super) fn durable_name(&mut self, name: &str) -> Result<Option<NameVersion>, StorageError> {
        let identity = &self.identity;
        match identity.names.newest_durable(name, || identity.head().tid) {
            Some(version) => Ok(Some(version)),
            None => Ok(self.table(|table| table.name(name))?),
        }
    }

    /// The names that begin with `prefix` and come after `after`, in order, that stood for an object as of a durable transaction: of the
    /// next `examine` names that were ever given. Whether the objects were still there is not asked.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn names(
        &mut self,
        prefix: &str,
        after: Option<&str>,
        at: Tid,
        examine: usize,
    ) -> Result<NamesPage, StorageError> {
        // The overlay first: what leaves it meanwhile is in the table.
        let overlaid = self.identity.names.following(prefix, after, examine + 1);
        let mut given: Vec<String> = overlaid.iter().map(|name| (**name).to_owned()).collect();
        let from = after.filter(|after| *after > prefix).unwrap_or(prefix);
        let mut tabled = 0;
        self.table(|table| {
            table.names(from, |name| {
                let begins = name.starts_with(prefix);
                if begins && after.is_none_or(|after| name > after) {
                    given.push(name.to_owned());
                    tabled += 1;
                }
                begins && tabled <= examine
            })
        })?;
        given.sort_unstable();
        given.dedup();
        let more = given.len() > examine;
        given.truncate(examine);
        let next = given.last().filter(|_| more).cloned();
        let mut names = Vec::with_capacity(given.len());
        for name in given {
            if let Some(object) = self.name_as_of(&name, at)? {
                names.push((name, object));
            }
        }
        Ok(NamesPage { names, next })
    }

    /// What became of a request id, if it is remembered. The outcome is filled in.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn request(&mut self, id: &str) -> Result<Option<(Remembered, Outcome)>, StorageError> {
        let remembered = match self.identity.requests.newest(id) {
            Some((_, remembered)) => remembered,
            None => match self.table(|table| table.request(id))? {
                Some(row) => {
                    let RequestRow { tid, target, fingerprint, time_us } = row;
                    Remembered { tid, target, fingerprint, time_us, outcome: None }
                }
                None => return Ok(None),
            },
        };
        let outcome = match &remembered.outcome {
            Some(outcome) => outcome.clone(),
            None => self.outcome(remembered.tid)?,
        };
        Ok(Some((remembered, outcome)))
    }

    fn outcome(&self, tid: Tid) -> Result<Outcome, StorageError> {
        let view = self.identity.history.read()?;
        let missing = || view.damaged(tid, "the history does not have it, but a request id points to it");
        Ok(view.transaction(tid)?.ok_or_else(missing)?.outcome)
    }

    /// Follows the versions of an object or a name back from a newer one to the newest that transaction `at` could see.
    fn past<K: Versioned + ?Sized>(
        &self,
        key: &K,
        newer: &Version<K::Content>,
        at: Tid,
    ) -> Result<Option<Version<K::Content>>, StorageError> {
        let view = self.identity.history.read()?;
        let found = back(&view, key, newer.pointers(), |tid, _| tid > at)?;
        self.records_read.update(|records| records + view.items.get());
        Ok(found.map(|Written { tid, pointers, record }| {
            let Pointers { number, previous, .. } = pointers;
            Version { tid, number, previous, spine: Default::default(), record }
        }))
    }

    /// The transactions from `from` on that wrote an object, oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the storage fails, or a row or record is damaged.
    pub fn versions(&mut self, object: ObjectId, from: Tid, limit: usize) -> Result<Vec<Tid>, StorageError> {
        let Some(newest) = self.durable(object)? else { return Ok(Vec::new()) };
        if newest.tid < from {
            return Ok(Vec::new());
        }
        let view = self.identity.history.read()?;
        let before = back(&view, &object, newest.pointers(), |tid, _| tid >= from)?;
        let before = before.map_or(0, |write| write.pointers.number);
        let last = newest.number.min(before + limit as u64);
        let mut tids = Vec::new();
        let (mut tid, mut previous) = match last == newest.number {
            true => (newest.tid, newest.previous),
            false => match back(&view, &object, newest.pointers(), |_, number| number > last)? {
                Some(write) => (write.tid, write.pointers.previous),
                None => return Ok(Vec::new()),
            },
        };
        while tid >= from && tid != Tid::NONE {
            tids.push(tid);
            tid = previous;
            previous = match tid.exists() {
                Some(tid) if tid >= from => written(&view, &object, tid)?.pointers.previous,
                _ => Tid::NONE,
            };
        }
        self.records_read.update(|records| records + view.items.get());
        tids.reverse();
        Ok(tids)
    }

    /// Lets go of the view of the object table if the table has moved on, so that it does not keep old pages in use.
    pub fn refresh(&mut self) {
        self.table.leave_behind(self.identity.reached());
    }

    /// Reads the table, on a view that is opened anew if the table has moved on: what has left the overlay since would be missed.
    pub(super) fn table<R>(&self, read: impl FnOnce(&TableView) -> Result<R, StorageError>) -> Result<R, StorageError> {
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        let reached = self.identity.reached();
        if open.as_ref().is_none_or(|(opened_at, _)| *opened_at != reached) {
            *open = None;
            *open = Some((reached, self.identity.table.read()?));
        }
        read(&open.as_ref().expect("it was opened above").1)
    }
}

/// A version as the history has it.
pub(super) struct Written<T> {
    pub tid: Tid,
    pub pointers: Pointers,
    pub record: Option<T>,
}

/// Follows the versions of an object or a name back to the newest, before the one with `pointers`, that is not too new.
/// `too_new` gets a version's transaction and number; whatever is older than a version that is not too new must not be either.
fn back<K: Versioned + ?Sized>(
    view: &HistoryView,
    key: &K,
    mut pointers: Pointers,
    too_new: impl Fn(Tid, u64) -> bool,
) -> Result<Option<Written<K::Content>>, StorageError> {
    loop {
        // A jump to a version that is still too new saves steps; one that overshoots does not.
        let jump = pointers.jump.exists().filter(|jump| too_new(*jump, jump_number(pointers.number)));
        let Some(tid) = jump.or(pointers.previous.exists()) else { return Ok(None) };
        let write = written(view, key, tid)?;
        if !too_new(tid, write.pointers.number) {
            return Ok(Some(write));
        }
        pointers = write.pointers;
    }
}

/// The version of an object or a name as of a transaction, with its spine; `newer` is one after it.
pub(super) fn version_at<K: Versioned + ?Sized>(
    view: &HistoryView,
    key: &K,
    newer: &Version<K::Content>,
    at: Tid,
) -> Result<Option<Version<K::Content>>, StorageError> {
    let found = back(view, key, newer.pointers(), |tid, _| tid > at)?;
    let Some(Written { tid, pointers, record }) = found else { return Ok(None) };
    let (mut spine, mut jump) = (Vec::new(), pointers.jump);
    while let Some(tid) = jump.exists() {
        spine.push(tid);
        if tid <= view.packed().tid {
            // All further jumps are those of the base's version, or of one that it jumps over.
            let row = view.base_row(key)?.ok_or_else(|| view.damaged(tid, "the base does not have its version"))?;
            let chain = [row.tid].into_iter().chain(row.spine);
            spine.extend(chain.skip_while(|it| *it > tid).skip(1));
            break;
        }
        jump = written(view, key, tid)?.pointers.jump;
    }
    let Pointers { number, previous, .. } = pointers;
    Ok(Some(Version { tid, number, previous, spine: spine.into(), record }))
}

/// The version of an object or a name that transaction `tid` made.
pub(super) fn written<K: Versioned + ?Sized>(
    view: &HistoryView,
    key: &K,
    tid: Tid,
) -> Result<Written<K::Content>, StorageError> {
    let version = view.version(key, tid)?;
    let missing = || view.damaged(tid, format!("it should have written {}, and did not", key.describe()));
    let version = version.ok_or_else(missing)?;
    let record = version.decode().map_err(|error| view.damaged(tid, error.to_string()))?;
    Ok(Written { tid, pointers: version.pointers, record })
}
