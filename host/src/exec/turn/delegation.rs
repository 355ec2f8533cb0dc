//! Delegation: what an object does not have itself is looked up along its parents.
//!
//! As in Self: the search goes level by level, parents of a level have equal rank, and two different answers at one level are
//! an error. The receiver stays who it is; what a method writes is written to the receiver.

use std::sync::Arc;

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

/// The method that an object is asked with what neither it nor a parent has a method for, in place of that: it gets the name
/// (`selector`) and the `arguments`.
pub(in crate::exec) const DOES_NOT_UNDERSTAND: &str = "does_not_understand";

/// The method that executes a message.
pub(super) struct Resolved<'a> {
    /// The object in which it was found.
    pub holder: ObjectId,
    /// That object's behaviour.
    pub behavior: &'a Behavior,
    pub method: MethodId,
    /// The message as its arguments, if the method is [`DOES_NOT_UNDERSTAND`] in place of the one that was asked for.
    pub wrapped: Option<Vec<u8>>,
}

/// A method, and the object in which it was found.
pub(super) type Found<'a> = (ObjectId, &'a Behavior, MethodId);

impl<'a> Turn<'a> {
    /// Finds the method for a message.
    pub(super) fn resolve(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        method: &str,
        arguments: &[u8],
    ) -> Result<Resolved<'a>, Failure> {
        if let Some((holder, behavior, method)) = self.find_method(receiver, record, method)? {
            return Ok(Resolved { holder, behavior, method, wrapped: None });
        }
        if method != DOES_NOT_UNDERSTAND
            && let Some((holder, behavior, instead)) = self.find_method(receiver, record, DOES_NOT_UNDERSTAND)?
        {
            return Ok(Resolved { holder, behavior, method: instead, wrapped: Some(wrap(method, arguments)) });
        }
        self.plugins.misses().count(&record.behavior, method, self.time_us);
        Err(not_understood(receiver, record, self.plugins.behavior(&record.behavior), method))
    }

    /// The object's own behaviour's method of a name, else that of the nearest parents.
    fn find_method(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        method: &str,
    ) -> Result<Option<Found<'a>>, Failure> {
        if let Some(behavior) = self.plugins.behavior(&record.behavior)
            && let Some(id) = behavior.method(method)
        {
            return Ok(Some((receiver, behavior, id)));
        }
        self.resolve_along(receiver, &record.parents, method, None)
    }

    /// The nearest method of a name from these parents on. What has the behaviour `beside` is passed over, but not its parents.
    pub(super) fn resolve_along(
        &mut self,
        receiver: ObjectId,
        parents: &[ObjectId],
        method: &str,
        beside: Option<&str>,
    ) -> Result<Option<Found<'a>>, Failure> {
        let plugins = self.plugins;
        self.nearest(receiver, parents, method, |parent| {
            let behavior = plugins.behavior(&parent.behavior).filter(|it| beside != Some(&**it.name()))?;
            Some((behavior, behavior.method(method)?))
        })
        .map(|found| found.map(|(holder, (behavior, method))| (holder, behavior, method)))
    }

    /// What `look` finds in the nearest parents, and in which of them: the first of a level. Two that have it through different
    /// behaviours are of equal rank.
    fn nearest<T>(
        &mut self,
        receiver: ObjectId,
        parents: &[ObjectId],
        name: &str,
        look: impl Fn(&ObjectRecord) -> Option<T>,
    ) -> Result<Option<(ObjectId, T)>, Failure> {
        let mut found: Option<(ObjectId, Arc<str>, T)> = None;
        self.walk_parents(parents, |_, id, parent| {
            let Some(here) = look(parent) else { return Ok(false) };
            match &found {
                Some((_, other, _)) if **other != *parent.behavior => {
                    let message = format!(
                        "object {receiver} inherits `{name}` from {other} and from {}, parents of equal rank",
                        parent.behavior
                    );
                    return Err(Failure::new(FailureCode::AMBIGUOUS, message));
                }
                Some(_) => {}
                None => found = Some((id, parent.behavior.clone(), here)),
            }
            Ok(true)
        })?;
        Ok(found.map(|(id, _, here)| (id, here)))
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
        self.walk_parents(&record.parents, |depth, _, parent| {
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
        parents: &[ObjectId],
        mut visit: impl FnMut(usize, ObjectId, &ObjectRecord) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let mut seen: FxHashSet<ObjectId> = FxHashSet::default();
        let mut level: Vec<ObjectId> = parents.to_vec();
        let mut depth = 1;
        while !level.is_empty() {
            let mut next = Vec::new();
            let mut done = false;
            for id in level {
                if !seen.insert(id) {
                    continue;
                }
                check_ancestors(seen.len())?;
                let parent = self.load(id).map_err(|failure| match failure.code {
                    FailureCode::NO_SUCH_OBJECT => Failure::new(
                        FailureCode::NO_SUCH_OBJECT,
                        format!("object {id}, to which the receiver delegates, was deleted"),
                    ),
                    _ => failure,
                })?;
                done |= visit(depth, id, &parent)?;
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

/// A message as the arguments of [`DOES_NOT_UNDERSTAND`].
fn wrap(selector: &str, arguments: &[u8]) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(32 + selector.len() + arguments.len());
    let mut writer = Writer::new(&mut wrapped);
    writer.map(2);
    writer.text("selector");
    writer.text(selector);
    writer.text("arguments");
    match arguments {
        [] => writer.null(),
        given => writer.raw(given),
    }
    wrapped
}

#[cfg(test)]
mod tests;
