//! Resending: a method runs the parents' version of a method on its own receiver.
//!
//! While a command runs, the state of its receiver lives in the plugin. So a resent message takes along the slots as the running
//! method has them; the host lays them over what is recorded, runs the parents' method on that, and hands back the slots
//! as they are then. Nothing of it reaches the write set before the running method ends: what its own behaviour has slots for
//! comes with its result, and the rest - slots that only the parents' behaviours know - is kept here until then.

use std::sync::Arc;

use theseus_abi::{Capability, Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    ObjectId,
    raw::{MapView, Writer, merge_maps},
};

use super::{Busy, Turn, encoding};
use crate::{
    exec::pick_slots,
    identity::{Bytes, ObjectRecord},
    plugin::{Behavior, CallBuffers, Resent},
};

/// What a method that resends works on.
pub(super) struct Resending {
    /// The receiver as the method was begun with it.
    pub record: Arc<ObjectRecord>,
    /// The own slots of the receiver that the method's behaviour does not have, as they are now.
    pub others: Vec<u8>,
}

/// What a method left: its own slots, whole; none if none changed.
pub(super) type Slots = Option<Bytes>;

impl<'a> Turn<'a> {
    pub(super) fn resend_message(
        &mut self,
        message: &Resent<'_>,
        out: &mut RVec<u8>,
        changed: &mut RVec<u8>,
    ) -> Result<(), Failure> {
        let running = *self.scratch.busy.last().expect("only a running method can ask for it");
        let behavior = self.behavior_of(running.holder)?;
        let record = self.resending(&running)?;
        let now = Arc::new(ObjectRecord {
            slots: self.lay_over(&running, behavior, message.slots)?.into(),
            ..(*record).clone()
        });
        let (holder, found, method) = self.resolve_beyond(&running, behavior, message)?;

        let (mark, upgrade) = (self.scratch.undo.len(), self.upgrade.clone());
        let command = found.is_command(method);
        self.admit_resent(command, found, &running)?;
        let clock = self.plugins.faults().clock();
        let mut buffers = self.scratch.buffers.pop().unwrap_or_default();
        let depth = self.scratch.busy.len();
        let resending = self.scratch.resending.len();
        self.scratch.resending.push((depth, Resending { record: now.clone(), others: others(&now.slots, found)? }));
        self.scratch.busy.push(Busy { object: running.object, command, holder });
        let outcome = self.run_resent(running.object, &now, found, method, message.arguments, &mut buffers);
        self.scratch.busy.pop();
        self.scratch.resending.truncate(resending);
        if let Some(begun) = clock {
            self.time(begun, found);
        }
        let outcome = outcome.and_then(|slots| {
            out.extend_from_slice(&buffers.result);
            match slots {
                Some(slots) => self.take_over(&running, behavior, &record, slots, changed),
                None => Ok(()),
            }
        });
        self.scratch.buffers.push(buffers);
        outcome.inspect_err(|failure| {
            self.blame(found, failure);
            self.undo_to(mark);
            self.upgrade = upgrade;
        })
    }

    /// The behaviour of an object in which a method was found.
    fn behavior_of(&mut self, holder: ObjectId) -> Result<&'a Behavior, Failure> {
        let record = self.load(holder)?;
        let plugins = self.plugins;
        Ok(plugins.behavior(&record.behavior).expect("a method of it is running"))
    }

    /// The receiver as the running method was begun with it. Remembered from the first time on, because what is stored may change.
    fn resending(&mut self, running: &Busy) -> Result<Arc<ObjectRecord>, Failure> {
        let depth = self.scratch.busy.len() - 1;
        if let Some((at, resending)) = self.scratch.resending.last()
            && *at == depth
        {
            return Ok(resending.record.clone());
        }
        let record = self.load(running.object)?;
        let behavior = self.behavior_of(running.holder)?;
        let others = others(&record.slots, behavior)?;
        self.scratch.resending.push((depth, Resending { record: record.clone(), others }));
        Ok(record)
    }

    /// The receiver's own slots at this moment: those of the running behaviour as the plugin has them, but inherited ones only if
    /// they were changed, and the others as they were left.
    fn lay_over(&mut self, running: &Busy, behavior: &Behavior, slots: &[u8]) -> Result<Box<[u8]>, Failure> {
        let Resending { record, others } = &self.scratch.resending.last().expect("it was just remembered").1;
        let (record, others) = (record.clone(), others.clone());
        let mut given = Vec::new();
        self.gather_slots(running.object, &record, behavior, &mut given)?;
        let error = |error| encoding(running.object, &error);
        let (given, now) = (MapView::new(&given).map_err(error)?, MapView::new(slots).map_err(error)?);
        let mut changes = Vec::new();
        let mut writer = Writer::new(&mut changes);
        let (start, mut count) = (writer.open_map(), 0);
        for name in behavior.slot_names() {
            let Some(value) = now.get(name).map_err(error)? else { continue };
            if given.get(name).map_err(error)? != Some(value) {
                writer.text(name);
                writer.raw(value);
                count += 1;
            }
        }
        writer.close_map(start, count);
        let (mut base, mut whole) = (Vec::new(), Vec::new());
        merge_maps(&record.slots, &others, &mut base).map_err(error)?;
        merge_maps(&base, &changes, &mut whole).map_err(error)?;
        Ok(whole.into())
    }

    /// Finds the method to run, and the object that has it.
    fn resolve_beyond(
        &mut self,
        running: &Busy,
        behavior: &Behavior,
        message: &Resent<'_>,
    ) -> Result<(ObjectId, &'a Behavior, crate::plugin::MethodId), Failure> {
        let parents = self.load(running.holder)?.parents.clone();
        let parents = match message.parent {
            None => parents,
            Some(parent) if parents.contains(&parent) => [parent].into(),
            Some(parent) => {
                let message =
                    format!("object {parent} is not a parent of object {}, whose method resends", running.holder);
                return Err(Failure::new(FailureCode::BAD_ARGUMENTS, message));
            }
        };
        // What is derived from an object has its behaviour, too: it would only run the same code again.
        let found = self.resolve_along(running.object, &parents, message.method, Some(behavior.name()))?;
        found.ok_or_else(|| {
            let message = format!(
                "no parent of object {} has another method `{}` to which {} could resend it",
                running.holder,
                message.method,
                behavior.name()
            );
            Failure::new(FailureCode::NO_SUCH_METHOD, message)
        })
    }

    /// Whether a resent message may be executed now. It reaches its own receiver, as every other message may not.
    fn admit_resent(&self, command: bool, found: &Behavior, running: &Busy) -> Result<(), Failure> {
        if command && !running.command {
            let message = format!("a query cannot resend to a command of {}: make the method a command", found.name());
            return Err(Failure::new(FailureCode::READ_ONLY, message));
        }
        self.check_nesting()
    }

    fn run_resent(
        &mut self,
        receiver: ObjectId,
        record: &Arc<ObjectRecord>,
        behavior: &Behavior,
        method: crate::plugin::MethodId,
        arguments: &[u8],
        buffers: &mut CallBuffers,
    ) -> Result<Slots, Failure> {
        let mut slots = self.scratch.slots.pop().unwrap_or_default();
        let gathered = self.gather_slots(receiver, record, behavior, &mut slots);
        let sender_may = self.may_request_upgrade;
        self.may_request_upgrade = behavior.may(Capability::RequestUpgrade);
        let called = gathered.and_then(|()| behavior.call(self, receiver, method, &slots, arguments, buffers));
        self.may_request_upgrade = sender_may;
        slots.clear();
        self.scratch.slots.push(slots);
        called?;
        self.check_result(buffers)?;
        self.changed_slots(receiver, record, buffers)
    }

    /// Takes over what the parents' method made of the receiver, and gives the running one its part of it.
    fn take_over(
        &mut self,
        running: &Busy,
        behavior: &Behavior,
        record: &Arc<ObjectRecord>,
        slots: Bytes,
        changed: &mut RVec<u8>,
    ) -> Result<(), Failure> {
        self.count_written(slots.len())?;
        let now = ObjectRecord { slots, ..(**record).clone() };
        let mut gathered = Vec::new();
        self.gather_slots(running.object, &now, behavior, &mut gathered)?;
        let others = others(&now.slots, behavior)?;
        changed.extend_from_slice(&gathered);
        self.scratch.resending.last_mut().expect("it was remembered before").1.others = others;
        Ok(())
    }

    /// The own slots that a method leaves to its receiver, whole; none if none changed.
    pub(super) fn changed_slots(
        &mut self,
        receiver: ObjectId,
        record: &ObjectRecord,
        buffers: &CallBuffers,
    ) -> Result<Slots, Failure> {
        let error = |error| encoding(receiver, &error);
        let depth = self.scratch.busy.len() - 1;
        let resending = self.scratch.resending.pop_if(|(at, _)| *at == depth);
        if resending.is_none() && buffers.changes.is_empty() {
            return Ok(None);
        }
        let Some((_, Resending { others, .. })) = resending else {
            let merged = &mut self.scratch.merged;
            merged.clear();
            merge_maps(&record.slots, &buffers.changes, merged).map_err(error)?;
            return Ok(Some(merged.as_slice().into()));
        };
        let mut merged = Vec::with_capacity(record.slots.len() + buffers.changes.len());
        let mut base = Vec::with_capacity(record.slots.len());
        merge_maps(&record.slots, &others, &mut base).map_err(error)?;
        match buffers.changes.is_empty() {
            true => merged = base,
            false => merge_maps(&base, &buffers.changes, &mut merged).map_err(error)?,
        }
        Ok((*merged != *record.slots).then(|| merged.into()))
    }
}

/// The slots that a behaviour does not have.
fn others(slots: &[u8], behavior: &Behavior) -> Result<Vec<u8>, Failure> {
    let broken =
        |error: theseus_value::DecodeError| Failure::new(FailureCode::BAD_ENCODING, format!("the slots: {error}"));
    pick_slots(slots, |name, _| Ok(!behavior.has_slot(name))).map_err(broken)
}
