//! Undo: what transactions wrote becomes again what it was before them.
//!
//! A plan is made on what is durable, away from the executor. It says of each object and name which version it was made on, and as of
//! which transaction it was made, so that the executor only has to see whether that is still the newest, and what came to refer to
//! what since.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};
use theseus_value::ObjectId;

use super::{
    HOST_OBJECT, Identity, ObjectRecord, Reader, StorageError, Tid, Version,
    batch::{Change, RawTransaction},
    read::written,
    version::Versioned,
};

/// How many transactions may be undone together.
const TRANSACTIONS_MAX: usize = 1000;

/// How many transactions are looked at for references to what an undo removes.
const LOOKED_AT_MAX: u64 = 1_000_000;

/// Steps of the background migration: they say nothing that was not there before, so they are undone with what was before them.
pub const MIGRATE: &str = "theseus.migrate";

/// What the host itself does on behalf of clients; the rest of what it does cannot be undone.
const UNDOABLE: &[&str] = &[
    "theseus.create",
    "theseus.clone",
    "theseus.derive",
    "theseus.delete",
    "theseus.name",
    "theseus.parents",
    "theseus.post",
    "theseus.cancel",
    "theseus.retry",
    "theseus.delivery_failed",
    "theseus.collect",
    "theseus.import",
    "theseus.undo",
];

/// Why transactions cannot be undone. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UndoRefusal {
    /// There is no such transaction.
    #[error("there is no transaction {tid}: the history has 1 to {last}")]
    NoSuchTransaction {
        /// What was asked for.
        tid: Tid,
        /// The last there is.
        last: Tid,
    },
    /// It was packed away, and with it what was there before.
    #[error("what was done up to transaction {before} was packed away, so it cannot be undone any more")]
    Packed {
        /// The last transaction that was.
        before: Tid,
    },
    /// The host itself did it, not a client.
    #[error("transaction {tid} is {method}, which only the host itself can take back")]
    NotUndoable {
        /// Which.
        tid: Tid,
        /// What it did.
        method: String,
    },
    /// A later transaction wrote the same.
    #[error("transaction {by} wrote {what} after transaction {tid}: undo both, or neither")]
    WrittenSince {
        /// The transaction to undo.
        tid: Tid,
        /// The object or name.
        what: String,
        /// The later transaction.
        by: Tid,
    },
    /// A later transaction made something refer to what the undo would remove.
    #[error(
        "object {object} would be gone, but {what} refers to it since transaction {by}: undo that too, or change it first"
    )]
    NeededSince {
        /// What would be removed.
        object: ObjectId,
        /// The object or name that refers to it.
        what: String,
        /// The later transaction.
        by: Tid,
    },
    /// A later transaction deleted what would be referred to again.
    #[error("{what} would refer to object {object} again, which transaction {by} deleted: undo that too")]
    DeletedSince {
        /// What would be restored.
        what: String,
        /// What it refers to.
        object: ObjectId,
        /// The later transaction.
        by: Tid,
    },
    /// No plugin in force reads the version that would be restored.
    #[error(
        "object {object} would be a {behavior} of schema {schema} again, which no plugin in force reads: swap one in that does"
    )]
    Unreadable {
        /// Which.
        object: ObjectId,
        /// Its behaviour.
        behavior: String,
        /// Its schema version.
        schema: u32,
    },
    /// Too many at once.
    #[error("at most {} transactions are undone together", TRANSACTIONS_MAX)]
    TooMany,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] UndoRefusal),
    /// It could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What an undo has to write.
#[derive(Clone, Debug, Default)]
pub struct UndoPlan {
    /// What was durable when it was made.
    pub as_of: Tid,
    /// The objects.
    pub objects: BTreeMap<ObjectId, Restored<Arc<ObjectRecord>>>,
    /// The names.
    pub names: BTreeMap<Arc<str>, Restored<ObjectId>>,
    /// Names that objects which come back had when they went, and that were given away since, with those objects. It is as of when the
    /// plan was made: nobody could know of a name that is given after that.
    pub names_lost: Vec<(Arc<str>, ObjectId)>,
    /// If objects are removed or come back and the history after the undone transactions is too long: from which transaction on nobody
    /// looked for references to the former, and for the names of the latter.
    pub unchecked: Option<Tid>,
}

/// An object or a name as an undo leaves it.
#[derive(Clone, Debug)]
pub struct Restored<T> {
    /// The first of the transactions to be undone that wrote it.
    pub undone: Tid,
    /// The transaction of its newest version.
    pub newest: Tid,
    /// What it becomes; none if it is removed.
    pub record: Option<T>,
    /// Where that comes from.
    from: Tid,
}

impl UndoPlan {
    /// Whether there is nothing to undo: the transactions wrote nothing.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.names.is_empty()
    }
}

/// A transaction as an undo sees it.
struct Undone {
    method: String,
    is_hosts: bool,
    objects: Vec<(ObjectId, Tid)>,
    names: Vec<(Arc<str>, Tid)>,
}

impl Reader {
    /// What has to be written to undo transactions together.
    ///
    /// # Errors
    ///
    /// If they cannot be undone, the storage fails, or a record is damaged.
    pub fn plan_undo(&mut self, tids: &[Tid]) -> Result<UndoPlan, UndoError> {
        let tids: BTreeSet<Tid> = tids.iter().copied().collect();
        if tids.len() > TRANSACTIONS_MAX {
            return Err(UndoRefusal::TooMany.into());
        }
        let head = self.identity().head().tid;
        let mut plan = UndoPlan { as_of: head, ..UndoPlan::default() };
        // Newest first: each finds what the ones after it leave.
        for tid in tids.iter().rev().copied() {
            let Undone { method, is_hosts, objects, names } = self.undone(tid, head)?;
            if is_hosts && !UNDOABLE.contains(&&*method) || objects.iter().any(|(object, _)| *object == HOST_OBJECT) {
                return Err(UndoRefusal::NotUndoable { tid, method }.into());
            }
            for (object, previous) in objects {
                let newest = self.durable(object)?.map_or(tid, |version| version.tid);
                let restored = plan.objects.entry(object).or_insert_with(|| Restored::new(tid, newest));
                self.take_back(&object, restored, tid, previous)?;
            }
            for (name, previous) in names {
                let newest = self.durable_name(&name)?.map_or(tid, |version| version.tid);
                let restored = plan.names.entry(name.clone()).or_insert_with(|| Restored::new(tid, newest));
                self.take_back(&*name, restored, tid, previous)?;
            }
        }
        self.fetch(&mut plan)?;
        self.check_restored_references(&plan, Reader::durable)?;
        if let Some(first) = tids.first() {
            self.look_at_later(&mut plan, *first, head)?;
        }
        Ok(plan)
    }

    fn undone(&self, tid: Tid, head: Tid) -> Result<Undone, UndoError> {
        let none = || UndoRefusal::NoSuchTransaction { tid, last: head };
        if tid == Tid::NONE || tid > head {
            return Err(none().into());
        }
        let view = self.identity().history.read()?;
        let transaction = view.transaction(tid)?.ok_or_else(none)?;
        Ok(Undone {
            method: transaction.method.to_owned(),
            is_hosts: transaction.target.is_none(),
            objects: transaction.writes.iter().map(|write| (write.object, write.pointers.previous)).collect(),
            names: transaction.names.iter().map(|it| (Arc::from(it.name), it.pointers.previous)).collect(),
        })
    }

    /// Goes back by one transaction, if that is the one which made the version that `restored` has come to.
    fn take_back<K: Versioned + ?Sized>(
        &self,
        key: &K,
        restored: &mut Restored<K::Content>,
        tid: Tid,
        previous: Tid,
    ) -> Result<(), UndoError> {
        let view = self.identity().history.read()?;
        let mut by = restored.from;
        while by > tid && view.transaction(by)?.is_some_and(|it| it.target.is_none() && it.method == MIGRATE) {
            by = written(&view, key, by)?.pointers.previous;
        }
        if by != tid {
            return Err(UndoRefusal::WrittenSince { tid, what: key.describe(), by }.into());
        }
        (restored.undone, restored.from) = (tid, previous);
        Ok(())
    }

    /// Reads what comes back.
    fn fetch(&self, plan: &mut UndoPlan) -> Result<(), StorageError> {
        for (object, restored) in &mut plan.objects {
            self.fetch_version(object, restored)?;
        }
        plan.names.iter_mut().try_for_each(|(name, restored)| self.fetch_version(&**name, restored))
    }

    fn fetch_version<K: Versioned + ?Sized>(
        &self,
        key: &K,
        restored: &mut Restored<K::Content>,
    ) -> Result<(), StorageError> {
        if let Some(from) = restored.from.exists() {
            restored.record = written(&self.identity().history.read()?, key, from)?.record;
        }
        Ok(())
    }

    /// Refuses to let what comes back refer to what was deleted since, or is removed by the same undo; `newest` says what is there.
    fn check_restored_references(&mut self, plan: &UndoPlan, newest: Newest) -> Result<(), UndoError> {
        for (id, restored) in &plan.objects {
            for object in restored.record.iter().flat_map(|record| references(record)) {
                self.check_restored_reference(plan, newest, id, restored, object)?;
            }
        }
        for (name, restored) in &plan.names {
            if let Some(object) = restored.record {
                self.check_restored_reference(plan, newest, &**name, restored, object)?;
            }
        }
        Ok(())
    }

    fn check_restored_reference<K: Versioned + ?Sized>(
        &mut self,
        plan: &UndoPlan,
        newest: Newest,
        key: &K,
        restored: &Restored<K::Content>,
        object: ObjectId,
    ) -> Result<(), UndoError> {
        let newest = newest(self, object)?;
        let is_there = newest.as_ref().is_some_and(|newest| newest.record.is_some());
        if let Some(other) = plan.objects.get(&object) {
            if other.record.is_none() && is_there {
                let by = restored.from;
                return Err(UndoRefusal::NeededSince { object, what: key.describe(), by }.into());
            }
        } else if let Some(gone) = newest.filter(|newest| !is_there && newest.tid > restored.undone) {
            return Err(UndoRefusal::DeletedSince { what: key.describe(), object, by: gone.tid }.into());
        }
        Ok(())
    }

    /// Whether nothing that was recorded since a plan was made, durable or not, speaks against it: for the executor, before it writes. That
    /// the versions are still the newest on which it was made is not looked at.
    ///
    /// # Errors
    ///
    /// If something does, the storage fails, or a record is damaged.
    pub fn recheck_undo(&mut self, plan: &UndoPlan) -> Result<(), UndoError> {
        self.check_restored_references(plan, Reader::newest)?;
        let mut later = Later::new(plan);
        for (object, restored) in &plan.objects {
            if restored.record.is_none() && self.newest_record(*object)?.is_some() {
                later.needed.removed.insert(*object);
            }
        }
        if later.needed.removed.is_empty() {
            return Ok(());
        }
        let identity = self.identity().clone();
        let durable = identity.head().tid;
        later.walk(&identity, plan.as_of, durable)?;
        // What is not durable yet is in no record.
        identity.objects.visit(|object, versions| {
            let (tid, version) = versions.newest();
            if *tid > durable {
                later.pass_object(*tid, *object, version.record.as_deref());
            }
        });
        identity.names.visit(|name, versions| {
            let (tid, version) = versions.newest();
            if *tid > durable {
                later.pass_name(*tid, name, version.record);
            }
        });
        match later.needed.first() {
            Some(refusal) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// Looks at what happened after the undone transactions: refuses to remove what something else has come to refer to, and finds
    /// the names that what comes back has lost.
    fn look_at_later(&mut self, plan: &mut UndoPlan, first: Tid, head: Tid) -> Result<(), UndoError> {
        let (mut removed, mut back) = (FxHashSet::default(), FxHashMap::default());
        for (object, restored) in &plan.objects {
            let is_there = self.durable(*object)?.is_some_and(|version| version.record.is_some());
            match &restored.record {
                None if is_there => _ = removed.insert(*object),
                Some(_) if !is_there => _ = back.insert(*object, restored.undone),
                _ => {}
            }
        }
        if removed.is_empty() && back.is_empty() {
            return Ok(());
        }
        let last = head.min(Tid(first.0.saturating_add(LOOKED_AT_MAX)));
        plan.unchecked = (last < head).then(|| last.next());
        let identity = self.identity().clone();
        let mut later = Later::new(plan);
        later.needed.removed = removed;
        later.went = back.values().copied().collect();
        later.walk(&identity, first, last)?;
        let Later { needed, named_anew, .. } = later;
        self.check_needed(needed, last == head)?;
        for (name, previous, tid) in named_anew {
            let Some(object) = self.name_as_of(&name, previous)? else { continue };
            let had = back.get(&object).is_some_and(|went| previous < *went && *went < tid);
            if had && self.durable_name(&name)?.is_none_or(|version| version.record != Some(object)) {
                plan.names_lost.push((name, object));
            }
        }
        plan.names_lost.sort_unstable();
        Ok(())
    }

    /// Refuses to remove what something else still refers to.
    fn check_needed(&mut self, needed: Needed, is_all: bool) -> Result<(), UndoError> {
        for (by, (tid, object)) in needed.objects {
            // What lies beyond what was looked at may have taken the reference away again.
            if is_all || self.durable(by)?.is_some_and(|version| version.tid == tid) {
                return Err(UndoRefusal::NeededSince { object, what: by.describe(), by: tid }.into());
            }
        }
        for (name, (tid, object)) in needed.names {
            if is_all || self.durable_name(&name)?.is_some_and(|version| version.tid == tid) {
                return Err(UndoRefusal::NeededSince { object, what: name.describe(), by: tid }.into());
            }
        }
        Ok(())
    }
}

impl<T> Restored<T> {
    fn new(undone: Tid, newest: Tid) -> Restored<T> {
        Restored { undone, newest, record: None, from: newest }
    }
}

/// How the newest version of an object is found: that which is durable, or any.
type Newest = fn(&mut Reader, ObjectId) -> Result<Option<Version>, StorageError>;

/// What goes by after the undone transactions.
struct Later<'a> {
    plan: &'a UndoPlan,
    needed: Needed,
    /// The transactions since which objects that come back were not what they will be.
    went: BTreeSet<Tid>,
    /// Names that were written over after one of these: what wrote the name before, and what wrote over it.
    named_anew: Vec<(Arc<str>, Tid, Tid)>,
}

/// What has come to refer to objects that would be removed: since when, and to which.
#[derive(Default)]
struct Needed {
    removed: FxHashSet<ObjectId>,
    objects: FxHashMap<ObjectId, (Tid, ObjectId)>,
    names: FxHashMap<String, (Tid, ObjectId)>,
}

impl Needed {
    /// A refusal for one of them, if there are any.
    fn first(&self) -> Option<UndoRefusal> {
        let objects = self.objects.iter().map(|(by, found)| (by.describe(), found));
        let names = self.names.iter().map(|(by, found)| (by.describe(), found));
        let (what, (by, object)) = objects.chain(names).next()?;
        Some(UndoRefusal::NeededSince { object: *object, what, by: *by })
    }
}

impl<'a> Later<'a> {
    fn new(plan: &'a UndoPlan) -> Later<'a> {
        Later { plan, needed: Needed::default(), went: BTreeSet::new(), named_anew: Vec::new() }
    }

    /// Lets the transactions after `since` go by, up to `until`, which have to be durable.
    fn walk(&mut self, identity: &Identity, since: Tid, until: Tid) -> Result<(), StorageError> {
        identity.walk_history(since.next(), |batch| {
            for (tid, transaction) in batch.encoded().skip_while(|(tid, _)| *tid <= since) {
                if tid > until {
                    return Ok(false);
                }
                RawTransaction::read(transaction, |change| self.pass(tid, change))
                    .map_err(|error| identity.damaged(tid, error.to_string()))?;
            }
            Ok(true)
        })
    }

    /// Lets a change go by.
    fn pass(&mut self, tid: Tid, change: Change<'_>) -> Result<(), theseus_value::DecodeError> {
        match change {
            Change::Object(object, version) if !self.needed.removed.is_empty() => {
                self.pass_object(tid, object, version.decode::<Arc<ObjectRecord>>()?.as_deref());
            }
            Change::Name(name, version) => {
                self.pass_name(tid, name, version.decode::<ObjectId>()?);
                if let Some(previous) = version.pointers.previous.exists()
                    && !self.plan.names.contains_key(name)
                    && self.went.range(previous.next()..tid).next().is_some()
                {
                    self.named_anew.push((name.into(), previous, tid));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pass_object(&mut self, tid: Tid, object: ObjectId, record: Option<&ObjectRecord>) {
        if self.plan.objects.contains_key(&object) {
            return;
        }
        let needed = &mut self.needed;
        let mut references = record.into_iter().flat_map(references);
        match references.find(|reference| needed.removed.contains(reference)) {
            Some(reference) => _ = needed.objects.insert(object, (tid, reference)),
            None => _ = needed.objects.remove(&object),
        }
    }

    fn pass_name(&mut self, tid: Tid, name: &str, object: Option<ObjectId>) {
        if self.plan.names.contains_key(name) {
            return;
        }
        match object.filter(|object| self.needed.removed.contains(object)) {
            Some(object) => _ = self.needed.names.insert(name.to_owned(), (tid, object)),
            None => _ = self.needed.names.remove(name),
        }
    }
}

/// What an object refers to.
fn references(record: &ObjectRecord) -> Vec<ObjectId> {
    let mut found = Vec::new();
    // It was read as a whole before.
    _ = record.each_reference(&mut |object| found.push(object));
    found
}
