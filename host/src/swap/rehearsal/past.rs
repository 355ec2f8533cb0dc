//! The past, as the transactions of a rehearsal met it: it moves forward with them.
//!
//! What a transaction wrote is remembered as it goes by, so that an object is looked up in the history once at most, and each
//! question is answered as of the very transaction that it is asked for.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::{
    select::walk_back,
    wire::{self, Need},
};
use crate::identity::{HOST_OBJECT, Identity, ObjectRecord, Reader, StorageError, Tid, Transaction, Write};

/// How many bytes of objects are remembered.
const KEPT_BYTES: usize = 256 << 20;

/// What an object costs beside its slots, in bytes, roughly.
const OBJECT_BYTES: usize = 200;

/// The id that a new object gets if nobody knows any more which it got: far from all that are in use.
const UNKNOWN_NEXT_OBJECT: u64 = 1 << 62;

pub(super) struct Past {
    reader: Reader,
    /// The last transaction that `objects` and `names` know.
    settled: Tid,
    objects: FxHashMap<ObjectId, Option<Arc<ObjectRecord>>>,
    bytes: usize,
    names: FxHashMap<Arc<str>, Option<ObjectId>>,
    /// What transactions after `settled` wrote, oldest first.
    recent: FxHashMap<ObjectId, Versions<Option<Arc<ObjectRecord>>>>,
    recent_names: FxHashMap<Arc<str>, Versions<Option<ObjectId>>>,
    next_object: Option<u64>,
    failure: Option<StorageError>,
}

/// What some transactions wrote, oldest first.
type Versions<V> = Vec<(Tid, V)>;

impl Past {
    /// The past as of `first`. At most `most` transactions are looked at for the id that the next new object got.
    pub(super) fn new(identity: Arc<Identity>, first: Tid, most: u64) -> Result<Past, StorageError> {
        let settled = Tid(first.0 - 1);
        let next_object = next_object(&identity, settled, most)?;
        Ok(Past {
            reader: Reader::new(identity),
            settled,
            objects: FxHashMap::default(),
            bytes: 0,
            names: FxHashMap::default(),
            recent: FxHashMap::default(),
            recent_names: FxHashMap::default(),
            next_object,
            failure: None,
        })
    }

    /// The id that the next new object got when this transaction, the next to go by, began.
    pub(super) fn next_object(&self, transaction: &Transaction<'_>) -> u64 {
        let made = transaction.writes.iter().filter(|write| is_made(write)).map(|write| write.object.0).min();
        self.next_object.or(made).unwrap_or(UNKNOWN_NEXT_OBJECT)
    }

    /// Lets a transaction go by.
    pub(super) fn pass(&mut self, tid: Tid, transaction: &Transaction<'_>) {
        for write in &transaction.writes {
            self.recent.entry(write.object).or_default().push((tid, write.record.clone()));
            if is_made(write) {
                self.next_object = self.next_object.max(Some(write.object.0 + 1));
            }
        }
        for naming in &transaction.names {
            self.recent_names.entry(Arc::from(naming.name)).or_default().push((tid, naming.object));
        }
    }

    /// Nobody will ask any more for what was before the transactions up to `tid`, which have gone by.
    pub(super) fn settle(&mut self, tid: Tid) {
        self.settled = tid;
        for (object, mut versions) in self.recent.drain() {
            if let Some((_, record)) = versions.pop() {
                let bytes = |record: &Option<Arc<ObjectRecord>>| record.as_ref().map_or(0, |it| it.slots.len());
                self.bytes += bytes(&record) + OBJECT_BYTES;
                if let Some(before) = self.objects.insert(object, record) {
                    self.bytes -= bytes(&before) + OBJECT_BYTES;
                }
            }
        }
        for (name, mut namings) in self.recent_names.drain() {
            if let Some((_, object)) = namings.pop() {
                self.names.insert(name, object);
            }
        }
        if self.bytes > KEPT_BYTES {
            self.objects.clear();
            self.bytes = 0;
        }
        self.reader.refresh();
    }

    /// An object as transaction `tid` met it.
    pub(super) fn object(&mut self, tid: Tid, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        if let Some(record) = newest_before(&self.recent, &object, tid) {
            return Ok(record);
        }
        if let Some(record) = self.objects.get(&object) {
            return Ok(record.clone());
        }
        let record = self.reader.as_of(object, self.settled)?.and_then(|version| version.record.clone());
        self.bytes += record.as_ref().map_or(0, |record| record.slots.len()) + OBJECT_BYTES;
        self.objects.insert(object, record.clone());
        Ok(record)
    }

    fn last_in_schema(
        &mut self,
        tid: Tid,
        object: ObjectId,
        schema: u32,
    ) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
        match self.object(tid, object)? {
            Some(record) if record.schema == schema => Ok(Some(record)),
            Some(_) => self.reader.last_in_schema_as_of(object, schema, Tid(tid.0 - 1)),
            None => Ok(None),
        }
    }

    /// The object that a name stood for when transaction `tid` began.
    fn name(&mut self, tid: Tid, name: &str) -> Result<Option<ObjectId>, StorageError> {
        if let Some(object) = newest_before(&self.recent_names, name, tid) {
            return Ok(object);
        }
        if let Some(object) = self.names.get(name) {
            return Ok(*object);
        }
        let object = self.reader.name_as_of(name, self.settled)?;
        self.names.insert(name.into(), object);
        Ok(object)
    }

    /// Answers what a child needs. Why a question has no answer is remembered for [`take_failure`](Self::take_failure).
    pub(super) fn serve(&mut self, need: &[u8]) -> Vec<u8> {
        // What is no question gets no answer.
        let Ok(need) = Need::read(need) else { return wire::give_nothing() };
        let given = match need {
            Need::Object(tid, object) => self.object(tid, object).map(|record| wire::give_record(record.as_deref())),
            Need::LastInSchema(tid, object, schema) => {
                let record = self.last_in_schema(tid, object, schema);
                record.map(|record| wire::give_record(record.as_deref()))
            }
            Need::Name(tid, name) => self.name(tid, name).map(wire::give_object),
        };
        given.unwrap_or_else(|error| {
            self.failure = Some(error);
            wire::give_nothing()
        })
    }

    /// Why a question had no answer since this was last asked.
    pub(super) fn take_failure(&mut self) -> Option<StorageError> {
        self.failure.take()
    }
}

fn newest_before<K, Q, V>(recent: &FxHashMap<K, Versions<V>>, key: &Q, tid: Tid) -> Option<V>
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
    V: Clone,
{
    let versions = recent.get(key)?;
    versions.iter().rev().find(|(written, _)| *written < tid).map(|(_, value)| value.clone())
}

/// The id that the next new object got after transaction `tid`: one more than the last that was given. None if that was
/// too long ago.
fn next_object(identity: &Identity, tid: Tid, most: u64) -> Result<Option<u64>, StorageError> {
    let (mut next, mut looked_at) = (None, 0);
    walk_back(identity, tid, |_, transaction| {
        let made = transaction.writes.iter().filter(|write| is_made(write)).map(|write| write.object.0);
        next = made.max().map(|last| last + 1);
        looked_at += 1;
        Ok(next.is_none() && looked_at < most)
    })?;
    Ok(next.or((looked_at < most).then(|| identity.next_object_when_packed())))
}

/// Whether a write made its object, which got its id from the row.
fn is_made(write: &Write) -> bool {
    write.pointers.number == 1 && write.object != HOST_OBJECT
}
