//! Migration: an object that is touched is brought into the schema of the behaviour in force.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    DecodeError, ObjectId,
    raw::{MapView, merge_maps},
};

use super::{EMPTY_MAP, Turn, delegation::check_ancestors, encoding};
use crate::{
    exec::{PluginSet, Way, pick_slots},
    identity::{Bytes, ObjectRecord},
    plugin::Behavior,
};

impl<'a> Turn<'a> {
    /// Brings an object into the schema of the behaviour in force if it has another one. Answers its behaviour and the two
    /// versions if there was something to do. After a failure the object is as it was.
    pub(in crate::exec) fn bring_up(&mut self, object: ObjectId) -> Result<Option<(Arc<str>, u32, u32)>, Failure> {
        let Some(record) = self.peek(object)? else { return Ok(None) };
        let Some(behavior) = self.plugins.behavior(&record.behavior) else { return Ok(None) };
        let (name, from, to) = (record.behavior.clone(), record.schema, behavior.schema());
        if from == to {
            return Ok(None);
        }
        let mark = self.scratch.undo.len();
        match self.migrate(object, record, behavior) {
            Ok(_) => Ok(Some((name, from, to))),
            Err(failure) => {
                self.undo_to(mark);
                // What does not fit beside what was written before it is nobody's fault yet.
                if failure.code != FailureCode::LIMIT_EXCEEDED || mark == 0 {
                    self.blame_migration(behavior, Some(object), &failure);
                }
                Err(failure)
            }
        }
    }

    /// Brings an object into the schema of the behaviour in force: in the write set, so that it is stored with what the
    /// transaction makes of it, and forgotten after a query.
    ///
    /// A behaviour sees the slots that an object has or inherits, so an object with parents migrates the whole of them. What
    /// comes out as it does for an object that only inherits stays inherited. Slots that the object got by methods of its
    /// ancestors are kept beside what comes out.
    pub(super) fn migrate(
        &mut self,
        object: ObjectId,
        record: Arc<ObjectRecord>,
        behavior: &'a Behavior,
    ) -> Result<Arc<ObjectRecord>, Failure> {
        let (from, to) = (record.schema, behavior.schema());
        let Some(conversion) = Conversion::of(self.plugins, behavior, from) else {
            return Err(no_migration(object, &record, behavior));
        };
        self.entered = true;
        let slots: Bytes = if record.parents.is_empty() {
            conversion.run(&record.slots)?.as_slice().into()
        } else {
            let fail = |error| encoding(object, &error);
            let Inherited { slots: inherited, others } = self.inherited_in_schema(object, &record)?;
            let mut all = Vec::new();
            merge_maps(&inherited, &record.slots, &mut all).map_err(fail)?;
            let new = conversion.run(&all)?;
            // Parents of another behaviour need not have what this one could migrate; then nothing stays inherited.
            let only_inherited = conversion.run(&inherited).ok();
            let only_inherited = only_inherited.as_deref().unwrap_or(EMPTY_MAP);
            let own = own_slots(&record.slots, &new, only_inherited).map_err(fail)?;
            let kept = kept_slots(self.plugins, behavior, &record, &others).map_err(fail)?;
            let mut slots = Vec::new();
            merge_maps(&kept, &own, &mut slots).map_err(fail)?;
            slots.into()
        };
        let migrated = Arc::new(ObjectRecord { schema: to, slots, ..(*record).clone() });
        // What a query makes of it is forgotten.
        if !self.read_only {
            self.check_references(&migrated.slots, &record.slots)?;
        }
        self.write(object, Some(migrated.clone()))?;
        Ok(migrated)
    }

    /// What an object inherits, from parents of its behaviour as they were in its schema: a parent may have migrated before it.
    fn inherited_in_schema(&mut self, object: ObjectId, record: &ObjectRecord) -> Result<Inherited, Failure> {
        let (mut all, mut others) = (EMPTY_MAP.to_vec(), Vec::new());
        let mut seen: FxHashSet<ObjectId> = [object].into_iter().collect();
        let mut level = record.parents.to_vec();
        while !level.is_empty() {
            let mut next = Vec::new();
            for parent in level {
                if !seen.insert(parent) {
                    continue;
                }
                check_ancestors(seen.len())?;
                let mut stored = self.peek(parent)?;
                if stored.as_ref().is_some_and(|it| it.behavior == record.behavior && it.schema != record.schema) {
                    let before = self.state.last_in_schema(parent, record.schema);
                    let before = before.map_err(|failure| self.poisoned(failure))?;
                    stored = before.or(stored);
                }
                if let Some(parent) = stored {
                    let mut merged = Vec::new();
                    merge_maps(&parent.slots, &all, &mut merged).map_err(|error| encoding(object, &error))?;
                    all = merged;
                    next.extend_from_slice(&parent.parents);
                    if parent.behavior != record.behavior {
                        others.push(parent);
                    }
                }
            }
            level = next;
        }
        Ok(Inherited { slots: all, others })
    }
}

/// What an object that migrates has from its ancestors.
struct Inherited {
    /// All their slots, the nearest first.
    slots: Vec<u8>,
    /// Those of them that have another behaviour than the object.
    others: Vec<Arc<ObjectRecord>>,
}

/// How slots come from one schema version into that of the behaviour in force: one step after another, each by a generation
/// that has one of its two versions as its own.
struct Conversion<'a> {
    steps: Vec<(&'a Behavior, u32, u32)>,
}

impl<'a> Conversion<'a> {
    /// None if nobody can.
    fn of(plugins: &'a PluginSet, behavior: &'a Behavior, from: u32) -> Option<Conversion<'a>> {
        let to = behavior.schema();
        let writes = match plugins.way(behavior, from)? {
            Way::Reads => return Some(Conversion { steps: vec![(behavior, from, to)] }),
            Way::Fallback { writes } => writes,
        };
        let fallback = plugins.fallback_behavior(behavior.name())?;
        let own = fallback.schema();
        let mut steps = vec![(fallback, from, own), (fallback, own, writes), (behavior, writes, to)];
        steps.retain(|(_, from, to)| from != to);
        Some(Conversion { steps })
    }

    fn run(&self, slots: &[u8]) -> Result<RVec<u8>, Failure> {
        let mut before = RVec::new();
        let mut now = RVec::new();
        for (number, (behavior, from, to)) in self.steps.iter().enumerate() {
            std::mem::swap(&mut before, &mut now);
            let slots = if number == 0 { slots } else { &before };
            behavior.migrate(*from, *to, slots, &mut now)?;
        }
        Ok(now)
    }
}

/// Those of an object's migrated slots that it has to have itself: which it had itself, or which came out otherwise than for
/// an object that inherits everything.
fn own_slots(before: &[u8], new: &[u8], only_inherited: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (before, only_inherited) = (MapView::new(before)?, MapView::new(only_inherited)?);
    pick_slots(new, |name, value| Ok(before.get(name)?.is_some() || only_inherited.get(name)? != Some(value)))
}

/// Those of an object's own slots that are its ancestors' behaviours' and not its own one's, as far as that is known: their methods
/// left them, and no conversion answers them.
///
/// Only of a fallback the host knows which slots the old version had. So the conversion gets these all the same: one of them may
/// have been the old version's, too, and have another name in the new one.
fn kept_slots(
    plugins: &PluginSet,
    behavior: &Behavior,
    record: &ObjectRecord,
    others: &[Arc<ObjectRecord>],
) -> Result<Vec<u8>, DecodeError> {
    let old = plugins.fallback_behavior(behavior.name()).filter(|it| it.schema() == record.schema);
    pick_slots(&record.slots, |name, _| {
        if behavior.has_slot(name) || old.is_some_and(|it| it.has_slot(name)) {
            return Ok(false);
        }
        others.iter().try_fold(false, |found, it| Ok(found || plugins.has_slot(it, name)?))
    })
}

fn no_migration(object: ObjectId, record: &ObjectRecord, behavior: &Behavior) -> Failure {
    let from = record.schema;
    let message = format!(
        "object {object} has slots of {} version {from}, the plugin in force reads version {}{}: swap in a plugin that reads \
         version {from}",
        record.behavior,
        behavior.schema(),
        behavior.reads().iter().map(|version| format!(", {version}")).collect::<String>()
    );
    Failure::new(FailureCode::NO_MIGRATION, message)
}
