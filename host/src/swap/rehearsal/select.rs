//! Which transactions of the history are rehearsed: the last ones that concern some behaviours.

use std::{collections::BTreeSet, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::report::End;
use crate::{
    exec::CREATE,
    identity::{Identity, Reader, StorageError, Tid, Transaction},
};

/// How many objects' behaviours are remembered while the history is walked.
const BEHAVIORS_KEPT: usize = 1_000_000;

/// The transactions to rehearse.
pub(super) struct Selection {
    /// The transactions, oldest first, each with the behaviour that it is told under.
    pub entries: Vec<Entry>,
    /// Why there are no more.
    pub end: End,
}

/// A transaction to rehearse.
#[derive(Clone)]
pub(super) struct Entry {
    pub tid: Tid,
    /// The behaviour of its receiver, or of the object that it made.
    pub behavior: Arc<str>,
}

/// Walks the history back from its head until there are `last` transactions, or `most` were looked at, or `go_on` says no.
pub(super) fn select(
    identity: &Arc<Identity>,
    affected: &BTreeSet<Arc<str>>,
    (last, most): (u64, u64),
    go_on: &dyn Fn() -> bool,
) -> Result<Selection, StorageError> {
    let mut selector = Selector { reader: Reader::new(identity.clone()), behaviors: FxHashMap::default(), affected };
    let mut found = Selection { entries: Vec::new(), end: End::Enough };
    let mut looked_at = 0;
    if last > 0 {
        walk_back(identity, identity.head().tid, |tid, transaction| {
            if looked_at == most {
                found.end = End::LookedAt(most);
                return Ok(false);
            }
            looked_at += 1;
            if let Some(behavior) = selector.concerns(tid, transaction)? {
                found.entries.push(Entry { tid, behavior });
            }
            Ok((found.entries.len() as u64) < last && go_on())
        })?;
        if found.end == End::Enough && (found.entries.len() as u64) < last {
            found.end = End::Beginning;
        }
    }
    found.entries.reverse();
    Ok(found)
}

/// Hands transactions to `visit`, newest first, until it answers false or there are no more.
pub(super) fn walk_back(
    identity: &Identity,
    from: Tid,
    mut visit: impl FnMut(Tid, &Transaction<'_>) -> Result<bool, StorageError>,
) -> Result<(), StorageError> {
    let mut last = from;
    while last != Tid::NONE {
        // Each record by itself: a view that is held for long makes the file grow.
        let next = identity.with_batch(last, |batch| {
            for tid in (batch.header.first.0..=last.0).rev().map(Tid) {
                let Some(transaction) = batch.transaction(tid) else { break };
                let transaction = transaction.map_err(|error| identity.damaged(tid, error.to_string()))?;
                if !visit(tid, &transaction)? {
                    return Ok(Tid::NONE);
                }
            }
            Ok(Tid(batch.header.first.0 - 1))
        })?;
        last = next.unwrap_or(Tid::NONE);
    }
    Ok(())
}

struct Selector<'a> {
    reader: Reader,
    /// What is known of objects: an object keeps its behaviour for life.
    behaviors: FxHashMap<ObjectId, Option<Arc<str>>>,
    affected: &'a BTreeSet<Arc<str>>,
}

impl Selector<'_> {
    /// The behaviour under which a transaction is told, if it is to be rehearsed.
    fn concerns(&mut self, tid: Tid, transaction: &Transaction<'_>) -> Result<Option<Arc<str>>, StorageError> {
        let is_message = transaction.target.is_some() && !transaction.method.starts_with("theseus.");
        if !is_message && transaction.method != CREATE {
            return Ok(None);
        }
        let mut first = None;
        let mut concerned = false;
        for write in &transaction.writes {
            let behavior = match &write.record {
                Some(record) => Some(record.behavior.clone()),
                None => self.behavior(tid, write.object)?,
            };
            concerned |= behavior.as_ref().is_some_and(|behavior| self.affected.contains(behavior));
            first = first.or(behavior);
        }
        let own = match transaction.target {
            Some(target) => match transaction.writes.iter().find(|write| write.object == target) {
                Some(write) if write.record.is_some() => write.record.as_ref().map(|record| record.behavior.clone()),
                _ => self.behavior(tid, target)?,
            },
            None => first,
        };
        concerned |= own.as_ref().is_some_and(|behavior| self.affected.contains(behavior));
        Ok(own.filter(|_| concerned))
    }

    /// The behaviour of an object that was there before a transaction.
    fn behavior(&mut self, tid: Tid, object: ObjectId) -> Result<Option<Arc<str>>, StorageError> {
        if let Some(known) = self.behaviors.get(&object) {
            return Ok(known.clone());
        }
        let mut version = self.reader.newest(object)?;
        if version.as_ref().is_none_or(|version| version.record.is_none()) {
            version = self.reader.as_of(object, Tid(tid.0 - 1))?;
        }
        let behavior = version.and_then(|version| Some(version.record.as_ref()?.behavior.clone()));
        if self.behaviors.len() >= BEHAVIORS_KEPT {
            self.behaviors.clear();
        }
        self.behaviors.insert(object, behavior.clone());
        Ok(behavior)
    }
}
