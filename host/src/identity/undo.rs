//! Undo: what transactions wrote becomes again what it was before them.
//!
//! A plan is made on what is durable, away from the executor. It says of each object and name which version it was made on, so that the
//! executor only has to see whether that is still the newest.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};
use theseus_value::{ObjectId, Value};

use super::{
    HOST_OBJECT, ObjectRecord, Reader, StorageError, Tid,
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
        let mut plan = UndoPlan::default();
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
        self.check_restored_references(&plan)?;
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

    /// Refuses to let what comes back refer to what was deleted since.
    fn check_restored_references(&mut self, plan: &UndoPlan) -> Result<(), UndoError> {
        for (id, restored) in &plan.objects {
            let Some(record) = &restored.record else { continue };
            for object in record.references() {
                if plan.objects.contains_key(&object) {
                    continue;
                }
                let newest = self.durable(object)?;
                if let Some(gone) = newest.filter(|newest| newest.record.is_none() && newest.tid > restored.undone) {
                    return Err(UndoRefusal::DeletedSince { what: id.describe(), object, by: gone.tid }.into());
                }
            }
        }
        Ok(())
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
        let mut later = Later {
            plan,
            needed: Needed { removed, objects: FxHashMap::default(), names: FxHashMap::default() },
            went: back.values().copied().collect(),
            named_anew: Vec::new(),
        };
        identity.walk_history(first.next(), |batch| {
            for (tid, transaction) in batch.encoded().skip_while(|(tid, _)| *tid <= first) {
                if tid > last {
                    return Ok(false);
                }
                RawTransaction::read(transaction, |change| later.pass(tid, change))
                    .map_err(|error| identity.damaged(tid, error.to_string()))?;
            }
            Ok(true)
        })?;
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
struct Needed {
    removed: FxHashSet<ObjectId>,
    objects: FxHashMap<ObjectId, (Tid, ObjectId)>,
    names: FxHashMap<String, (Tid, ObjectId)>,
}

impl Later<'_> {
    /// Lets a change go by.
    fn pass(&mut self, tid: Tid, change: Change<'_>) -> Result<(), theseus_value::DecodeError> {
        let needed = &mut self.needed;
        match change {
            Change::Object(object, version)
                if !needed.removed.is_empty() && !self.plan.objects.contains_key(&object) =>
            {
                let record = version.decode::<Arc<ObjectRecord>>()?;
                let mut references = record.iter().flat_map(|record| record.references());
                match references.find(|reference| needed.removed.contains(reference)) {
                    Some(reference) => _ = needed.objects.insert(object, (tid, reference)),
                    None => _ = needed.objects.remove(&object),
                }
            }
            Change::Name(name, version) if !self.plan.names.contains_key(name) => {
                match version.decode::<ObjectId>()?.filter(|object| needed.removed.contains(object)) {
                    Some(object) => _ = needed.names.insert(name.to_owned(), (tid, object)),
                    None => _ = needed.names.remove(name),
                }
                if let Some(previous) = version.pointers.previous.exists()
                    && self.went.range(previous.next()..tid).next().is_some()
                {
                    self.named_anew.push((name.into(), previous, tid));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl ObjectRecord {
    /// The objects that it refers to: its parents and the references in its slots.
    fn references(&self) -> Vec<ObjectId> {
        /// How a reference begins in its encoding; other things may begin so too.
        const TAG: [u8; 2] = [0xd8, 0x27];

        fn collect(value: &Value, found: &mut Vec<ObjectId>) {
            match value {
                Value::Ref(object) => found.push(*object),
                Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
                Value::Map(map) => map.iter().for_each(|(_, item)| collect(item, found)),
                _ => {}
            }
        }
        let mut found = self.parents.to_vec();
        if self.slots.windows(TAG.len()).any(|it| it == TAG)
            && let Ok(slots) = Value::decode(&self.slots)
        {
            collect(&slots, &mut found);
        }
        found
    }
}
