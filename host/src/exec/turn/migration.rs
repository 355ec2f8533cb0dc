//! Migration: an object that is touched is brought into the schema of the behaviour in force.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    ObjectId,
    raw::{MapView, Writer, merge_maps},
};

use super::{EMPTY_MAP, Turn, delegation::check_ancestors, encoding};
use crate::{identity::ObjectRecord, plugin::Behavior};

impl Turn<'_> {
    /// Brings an object into the schema of the behaviour in force: in the write set, so that it is stored with what the
    /// transaction makes of it, and forgotten after a query.
    ///
    /// A behaviour sees the slots that an object has or inherits, so an object with parents migrates the whole of them. What
    /// comes out as it does for an object that only inherits stays inherited.
    pub(super) fn migrate(
        &mut self,
        object: ObjectId,
        record: Arc<ObjectRecord>,
        behavior: &Behavior,
    ) -> Result<Arc<ObjectRecord>, Failure> {
        let (from, to) = (record.schema, behavior.schema());
        if !behavior.reads().contains(&from) {
            return Err(no_migration(object, &record, behavior));
        }
        self.entered = true;
        let mut new = RVec::new();
        let slots: Box<[u8]> = if record.parents.is_empty() {
            behavior.migrate(from, to, &record.slots, &mut new)?;
            new.as_slice().into()
        } else {
            let fail = |error| encoding(object, &error);
            let inherited = self.inherited_in_schema(object, &record)?;
            let mut all = Vec::new();
            merge_maps(&inherited, &record.slots, &mut all).map_err(fail)?;
            behavior.migrate(from, to, &all, &mut new)?;
            let mut only_inherited = RVec::new();
            // Parents of another behaviour need not have what this one could migrate; then nothing stays inherited.
            let nothing = behavior.migrate(from, to, &inherited, &mut only_inherited).is_err();
            let only_inherited = if nothing { EMPTY_MAP } else { &only_inherited };
            own_slots(&record.slots, &new, only_inherited).map_err(fail)?
        };
        let migrated = Arc::new(ObjectRecord { schema: to, slots, ..(*record).clone() });
        self.write(object, Some(migrated.clone()))?;
        Ok(migrated)
    }

    /// All slots that an object inherits, from parents of its behaviour as they were in its schema: a parent may have
    /// migrated before it.
    pub(super) fn inherited_in_schema(&mut self, object: ObjectId, record: &ObjectRecord) -> Result<Vec<u8>, Failure> {
        let mut all = EMPTY_MAP.to_vec();
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
                }
            }
            level = next;
        }
        Ok(all)
    }
}

/// Those of an object's migrated slots that it has to have itself: which it had itself, or which came out otherwise than for
/// an object that inherits everything.
fn own_slots(before: &[u8], new: &[u8], only_inherited: &[u8]) -> Result<Box<[u8]>, theseus_value::DecodeError> {
    let (before, only_inherited) = (MapView::new(before)?, MapView::new(only_inherited)?);
    let mut own = Vec::new();
    for entry in MapView::new(new)?.iter() {
        let (name, value) = entry?;
        if before.get(name)?.is_some() || only_inherited.get(name)? != Some(value) {
            own.push((name, value));
        }
    }
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.map(own.len());
    for (name, value) in own {
        writer.text(name);
        writer.raw(value);
    }
    Ok(out.into())
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
