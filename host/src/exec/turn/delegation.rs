//! Delegation: what an object does not have itself is looked up along its parents.
//!
//! As in Self: the search goes level by level, parents of a level have equal rank, and two different answers at one level are
//! an error. The receiver stays who it is; what a method writes is written to the receiver.

use rustc_hash::{FxHashMap, FxHashSet};
use theseus_abi::{Failure, FailureCode};
use theseus_value::{
    ObjectId,
    raw::{MapView, Writer},
};

use super::{Turn, encoding};
use crate::{
    identity::ObjectRecord,
    plugin::{Behavior, MethodId},
};

/// How many objects one look along the parents may visit.
const ANCESTORS_MAX: usize = 1_000;

impl<'a> Turn<'a> {
    /// Finds the method: the object's own behaviour's, else that of the nearest parents.
    pub(super) fn resolve(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        method: &str,
    ) -> Result<(&'a Behavior, MethodId), Failure> {
        let plugins = self.plugins;
        let own = plugins.behavior(&record.behavior);
        if let Some(behavior) = own
            && let Some(id) = behavior.method(method)
        {
            return Ok((behavior, id));
        }
        let mut found: Option<(&'a Behavior, MethodId)> = None;
        self.walk_parents(record, |_, parent| {
            let Some(behavior) = plugins.behavior(&parent.behavior) else { return Ok(false) };
            let Some(id) = behavior.method(method) else { return Ok(false) };
            match found {
                Some((other, _)) if other.name() != behavior.name() => Err(Failure::new(
                    FailureCode::AMBIGUOUS,
                    format!(
                        "object {receiver} inherits `{method}` from {} and from {}, parents of equal rank",
                        other.name(),
                        behavior.name()
                    ),
                )),
                _ => {
                    found = Some((behavior, id));
                    Ok(true)
                }
            }
        })?;
        found.ok_or_else(|| not_understood(receiver, record, own, method))
    }

    /// Writes the slots that a behaviour works with: the object's own, and those it lacks from the nearest parents.
    pub(super) fn gather_slots(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        behavior: &Behavior,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let own = MapView::new(&record.slots).map_err(|error| encoding(receiver, &error))?;
        let names = behavior.slot_names();
        let mut missing = Vec::new();
        for name in names {
            if own.get(name).map_err(|error| encoding(receiver, &error))?.is_none() {
                missing.push(&**name);
            }
        }
        let inherited = self.inherit(receiver, record, &missing)?;
        let count = names.len() - missing.len() + inherited.len();
        let mut writer = Writer::new(out);
        writer.map(count);
        for name in names {
            let value = match own.get(name).map_err(|error| encoding(receiver, &error))? {
                Some(value) => value,
                None => match inherited.get(&**name) {
                    Some(value) => value,
                    None => continue,
                },
            };
            writer.text(name);
            writer.raw(value);
        }
        Ok(())
    }

    /// Looks slots up along the parents: for each name the value of the nearest parents that have it.
    pub(super) fn inherit<'n>(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        names: &[&'n str],
    ) -> Result<FxHashMap<&'n str, Box<[u8]>>, Failure> {
        let mut found: FxHashMap<&str, (usize, Box<[u8]>)> = FxHashMap::default();
        if names.is_empty() {
            return Ok(FxHashMap::default());
        }
        self.walk_parents(record, |depth, parent| {
            let slots = MapView::new(&parent.slots).map_err(|error| encoding(receiver, &error))?;
            for name in names {
                let Some(value) = slots.get(name).map_err(|error| encoding(receiver, &error))? else { continue };
                match found.get(name) {
                    Some((at, other)) if *at == depth && **other != *value => {
                        let message = format!("object {receiver} inherits different values of the slot `{name}` from parents of equal rank");
                        return Err(Failure::new(FailureCode::AMBIGUOUS, message));
                    }
                    Some(_) => {}
                    None => {
                        found.insert(name, (depth, value.into()));
                    }
                }
            }
            Ok(found.len() == names.len())
        })?;
        Ok(found.into_iter().map(|(name, (_, value))| (name, value)).collect())
    }

    /// Visits the parents level by level, each once, with their distance from the object, until a level in which `visit`
    /// answered true is complete.
    pub(super) fn walk_parents(
        &mut self,
        record: &ObjectRecord,
        mut visit: impl FnMut(usize, &ObjectRecord) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut seen: FxHashSet<ObjectId> = FxHashSet::default();
        let mut level: Vec<ObjectId> = record.parents.to_vec();
        let mut depth = 1;
        while !level.is_empty() {
            let mut next = Vec::new();
            let mut done = false;
            for parent in level {
                if !seen.insert(parent) {
                    continue;
                }
                check_ancestors(seen.len())?;
                let parent = self.load(parent).map_err(|failure| match failure.code {
                    FailureCode::NO_SUCH_OBJECT => Failure::new(
                        FailureCode::NO_SUCH_OBJECT,
                        format!("object {parent}, to which the receiver delegates, was deleted"),
                    ),
                    _ => failure,
                })?;
                done |= visit(depth, &parent)?;
                next.extend_from_slice(&parent.parents);
            }
            if done {
                break;
            }
            (level, depth) = (next, depth + 1);
        }
        Ok(())
    }
}

pub(super) fn check_ancestors(seen: usize) -> Result<(), Failure> {
    if seen <= ANCESTORS_MAX {
        return Ok(());
    }
    let message = format!("an object may delegate to {ANCESTORS_MAX} others, those of its parents counted");
    Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message))
}

fn not_understood(receiver: ObjectId, record: &ObjectRecord, own: Option<&Behavior>, method: &str) -> Failure {
    match own {
        Some(behavior) => {
            let methods: Vec<_> = behavior.description().methods.iter().map(|method| method.name.as_str()).collect();
            let message = format!(
                "object {receiver} ({}) has no method `{method}`, nor has a parent; it has: {}",
                record.behavior,
                methods.join(", ")
            );
            Failure::new(FailureCode::NO_SUCH_METHOD, message)
        }
        None => {
            let message = format!(
                "no plugin in force provides {}, the behaviour of object {receiver}: swap one in that does",
                record.behavior
            );
            Failure::new(FailureCode::NO_SUCH_BEHAVIOR, message)
        }
    }
}
