//! One turn: the execution of one message and of all messages sent from within it.
//!
//! A turn reads one [state](State) of the identity and its own write set. A command's turn becomes a transaction if it ends well; a
//! query's turn can write nothing. What a failed message changed is undone before its sender sees the failure, so a sender
//! that goes on after one goes on from a whole state.

mod blame;
mod delegation;
mod migration;
mod parents;
mod posting;
mod resend;

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_abi::{Capability, Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::ObjectId;

pub(super) use self::delegation::DOES_NOT_UNDERSTAND;
use self::delegation::Resolved;
use super::{
    ObjectName, PluginSet, State,
    host_object::check_open,
    messages::{Due, Post},
};
use crate::{
    config::Execution,
    identity::{ObjectRecord, each_reference},
    plugin::{Behavior, CallBuffers, CallHost, MethodId, Resent},
};

/// An encoded map without entries.
pub(super) const EMPTY_MAP: &[u8] = &[0xa0];

/// The longest name of an object, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What each write of an object or a name counts beside its bytes: about what the host keeps to take it back.
const WRITE_COST_BYTES: usize = 64;

/// What a turn works with. Kept from turn to turn for its memory.
#[derive(Default)]
pub(super) struct Scratch {
    writes: FxHashMap<ObjectId, Option<Arc<ObjectRecord>>>,
    names: BTreeMap<Arc<str>, Option<ObjectId>>,
    undo: Vec<Undo>,
    busy: Vec<Busy>,
    /// What the methods that resend work on, with their places in `busy`: the innermost last.
    resending: Vec<(usize, resend::Resending)>,
    buffers: Vec<CallBuffers>,
    slots: Vec<Vec<u8>>,
    /// What a method's changes make of its receiver's slots.
    merged: Vec<u8>,
    /// Emptied lists for what a turn changed.
    changes: Changes,
}

/// A message that is being executed.
#[derive(Clone, Copy)]
struct Busy {
    object: ObjectId,
    command: bool,
    /// The object in which its method was found.
    holder: ObjectId,
}

/// How to take a change of the write set back.
enum Undo {
    Object(ObjectId, Option<Option<Arc<ObjectRecord>>>),
    Name(Arc<str>, Option<Option<ObjectId>>),
}

pub(super) struct Turn<'a> {
    pub state: &'a mut dyn State,
    pub plugins: &'a PluginSet,
    pub limits: &'a Execution,
    /// Whether only queries may be executed.
    pub read_only: bool,
    /// The id that the next new object gets.
    pub next_object: u64,
    pub time_us: u64,
    /// The state of the random sequence, at first the seed.
    pub random: u64,
    /// The request for a restart cycle that the turn made, encoded.
    pub upgrade: Option<Vec<u8>>,
    /// Whether the behaviour that is executing may ask for one.
    pub may_request_upgrade: bool,
    /// Whether the code of a behaviour was entered.
    pub entered: bool,
    /// Whether the message that began the turn is a command, once that is known.
    pub command: bool,
    pub written_bytes: usize,
    /// How many messages may be posted still.
    pub messages_left: u64,
    /// What the storage failed with, if it did: nothing of the turn may be recorded then, whatever the plugin makes of it.
    pub poison: Option<Failure>,
    pub blame: blame::Blame,
    pub scratch: &'a mut Scratch,
}

/// What a turn changed.
pub(super) type Changes = (Vec<(ObjectId, Option<Arc<ObjectRecord>>)>, Vec<(Arc<str>, Option<ObjectId>)>);

impl Scratch {
    /// Empties it for the next turn.
    pub(super) fn clear(&mut self) {
        self.writes.clear();
        self.names.clear();
        self.undo.clear();
        self.busy.clear();
        self.resending.clear();
    }

    /// Changes an object on the host's own account.
    pub(super) fn put(&mut self, object: ObjectId, record: Arc<ObjectRecord>) {
        self.writes.insert(object, Some(record));
    }

    /// Removes an object on the host's own account.
    pub(super) fn remove(&mut self, object: ObjectId) {
        self.writes.insert(object, None);
    }

    /// Takes what the turn changed: objects in the order of their ids, names in theirs.
    pub(super) fn take_changes(&mut self) -> Changes {
        let (mut writes, mut names) = std::mem::take(&mut self.changes);
        writes.extend(self.writes.drain());
        writes.sort_unstable_by_key(|(object, _)| *object);
        // Draining costs what the map has room for, and one large transaction must not cost all later ones.
        if self.writes.capacity() > 4 * 1024 {
            self.writes = FxHashMap::default();
        }
        names.extend(std::mem::take(&mut self.names));
        (writes, names)
    }

    /// Gives back what [`take_changes`](Self::take_changes) gave, for its memory.
    pub(super) fn give_back(&mut self, (mut writes, mut names): Changes) {
        // That of one large transaction is not kept for ever.
        if writes.capacity() <= 4 * 1024 && names.capacity() <= 4 * 1024 {
            writes.clear();
            names.clear();
            self.changes = (writes, names);
        }
    }

    /// Gives buffers back for the next call.
    pub(super) fn recycle(&mut self, buffers: CallBuffers) {
        self.buffers.push(buffers);
    }
}

impl<'a> Turn<'a> {
    /// A fresh turn, which may execute commands.
    pub(super) fn new(
        state: &'a mut dyn State,
        scratch: &'a mut Scratch,
        plugins: &'a PluginSet,
        limits: &'a Execution,
        (time_us, seed): (u64, u64),
    ) -> Turn<'a> {
        scratch.clear();
        Turn {
            state,
            plugins,
            limits,
            read_only: false,
            next_object: 0,
            time_us,
            random: seed,
            upgrade: None,
            may_request_upgrade: false,
            entered: false,
            command: false,
            written_bytes: 0,
            messages_left: u64::MAX,
            poison: None,
            blame: blame::Blame::default(),
            scratch,
        }
    }

    /// Finds an object by the name or id that a client gave.
    pub(super) fn find(&mut self, object: &ObjectName) -> Result<ObjectId, Failure> {
        match object {
            ObjectName::Id(id) => Ok(*id),
            ObjectName::Name(name) => self
                .named(name)?
                .ok_or_else(|| Failure::new(FailureCode::NO_SUCH_OBJECT, format!("no object has the name `{name}`"))),
        }
    }

    /// Executes a message. The result is in the buffers, which go back with [`Scratch::recycle`].
    ///
    /// After a failure the write set holds what it held before.
    pub(super) fn message(
        &mut self,
        receiver: ObjectId,
        method: &str,
        arguments: &[u8],
    ) -> Result<CallBuffers, Failure> {
        let (mark, upgrade) = (self.scratch.undo.len(), self.upgrade.clone());
        let result = self.execute(receiver, method, arguments);
        if result.is_err() {
            self.undo_to(mark);
            self.upgrade = upgrade;
        }
        result
    }

    fn execute(&mut self, receiver: ObjectId, method: &str, arguments: &[u8]) -> Result<CallBuffers, Failure> {
        let clock = self.plugins.faults().clock();
        let record = self.load(receiver)?;
        let resolved = self.resolve(receiver, &record, method, arguments);
        let Resolved { holder, behavior, method, wrapped } =
            resolved.inspect_err(|failure| self.blame_missing(&record.behavior, method, failure))?;
        let arguments = wrapped.as_deref().unwrap_or(arguments);
        let command = behavior.is_command(method);
        self.command |= command && self.scratch.busy.is_empty();
        self.admit(receiver, command, behavior, method)?;

        let mut slots = self.scratch.slots.pop().unwrap_or_default();
        let mut buffers = self.scratch.buffers.pop().unwrap_or_default();
        let depth = self.scratch.busy.len();
        self.scratch.busy.push(Busy { object: receiver, command, holder });
        let outcome = self.run(receiver, &record, behavior, method, arguments, &mut slots, &mut buffers);
        self.scratch.busy.pop();
        while self.scratch.resending.pop_if(|(at, _)| *at >= depth).is_some() {}
        slots.clear();
        self.scratch.slots.push(slots);
        if let Some(begun) = clock {
            self.time(begun, behavior);
        }
        match outcome {
            Ok(()) => Ok(buffers),
            Err(failure) => {
                self.blame(behavior, &failure);
                self.scratch.buffers.push(buffers);
                Err(failure)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where all parts of a call come together")]
    fn run(
        &mut self,
        receiver: ObjectId,
        record: &Arc<ObjectRecord>,
        behavior: &Behavior,
        method: MethodId,
        arguments: &[u8],
        delegated: &mut Vec<u8>,
        buffers: &mut CallBuffers,
    ) -> Result<(), Failure> {
        let slots = if record.parents.is_empty() {
            &*record.slots
        } else {
            self.gather_slots(receiver, record, behavior, delegated)?;
            delegated
        };
        self.entered = true;
        let sender_may = self.may_request_upgrade;
        self.may_request_upgrade = behavior.may(Capability::RequestUpgrade);
        let called = behavior.call(self, receiver, method, slots, arguments, buffers);
        self.may_request_upgrade = sender_may;
        called?;
        self.check_result(buffers)?;
        if let Some(slots) = self.changed_slots(receiver, record, buffers)? {
            // The method may have given its own receiver other parents.
            let now = self.scratch.writes.get(&receiver).and_then(Option::as_ref).unwrap_or(record);
            let changed = ObjectRecord { slots, ..(**now).clone() };
            self.check_references(&changed.slots, &record.slots)?;
            self.write(receiver, Some(Arc::new(changed)))?;
        }
        Ok(())
    }

    fn check_result(&self, buffers: &CallBuffers) -> Result<(), Failure> {
        let bytes_max = self.limits.write_bytes_per_transaction_max;
        if buffers.result.len() <= bytes_max {
            return Ok(());
        }
        Err(Failure::new(FailureCode::LIMIT_EXCEEDED, format!("a result may have {bytes_max} bytes")))
    }

    /// Whether a message may be executed now.
    fn admit(&self, receiver: ObjectId, command: bool, behavior: &Behavior, method: MethodId) -> Result<(), Failure> {
        let name = || format!("{}.{}", behavior.name(), behavior.description().methods[method.index()].name);
        if command && self.is_reading() {
            let message =
                format!("{} is a command: it may change the object, so a query cannot be it or send it", name());
            return Err(Failure::new(FailureCode::READ_ONLY, message));
        }
        self.check_nesting()?;
        // The state of an object lives in the plugin while a command on it runs: nobody else can see or change it.
        if self.is_busy(receiver) && (command || self.is_changing(receiver)) {
            let message = format!(
                "{} reached object {receiver} while a message to it waits for this one: call its method directly",
                name()
            );
            return Err(Failure::new(FailureCode::REENTRANT, message));
        }
        Ok(())
    }

    fn check_nesting(&self) -> Result<(), Failure> {
        if self.scratch.busy.len() < self.limits.nesting_max {
            return Ok(());
        }
        let message = format!("messages are nested {} deep, which is the limit", self.limits.nesting_max);
        Err(Failure::new(FailureCode::TOO_DEEP, message))
    }

    /// Whether a message to an object is being executed.
    fn is_busy(&self, object: ObjectId) -> bool {
        self.scratch.busy.iter().any(|busy| busy.object == object)
    }

    /// Whether a command on an object is being executed.
    fn is_changing(&self, object: ObjectId) -> bool {
        self.scratch.busy.iter().any(|busy| busy.object == object && busy.command)
    }

    // --- The write set ------------------------------------------------------------------------------------------------

    /// An object as the turn sees it, in the schema of the behaviour in force.
    fn load(&mut self, object: ObjectId) -> Result<Arc<ObjectRecord>, Failure> {
        let record = self.open(object)?;
        match self.plugins.behavior(&record.behavior) {
            Some(behavior) if behavior.schema() != record.schema => self
                .migrate(object, record, behavior)
                .inspect_err(|failure| self.blame_migration(behavior, None, failure)),
            _ => Ok(record),
        }
    }

    /// An object in the schema in which it is stored, if others than the host may use it.
    fn open(&mut self, object: ObjectId) -> Result<Arc<ObjectRecord>, Failure> {
        let record = self
            .peek(object)?
            .ok_or_else(|| Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {object}")))?;
        check_open(object, &record).map(|()| record)
    }

    /// An object as [`load`](Self::load) gives it; none if there is no such object.
    pub(super) fn see(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        match self.peek(object)? {
            Some(_) => self.load(object).map(Some),
            None => Ok(None),
        }
    }

    /// An object as the turn sees it, in the schema in which it is stored.
    fn peek(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        if let Some(written) = self.scratch.writes.get(&object) {
            return Ok(written.clone());
        }
        self.state.object(object).map_err(|failure| self.poisoned(failure))
    }

    /// Takes note that the storage failed.
    fn poisoned(&mut self, failure: Failure) -> Failure {
        self.poison = Some(failure.clone());
        failure
    }

    fn write(&mut self, object: ObjectId, record: Option<Arc<ObjectRecord>>) -> Result<(), Failure> {
        let objects_max = self.limits.objects_per_transaction_max;
        if self.scratch.writes.len() >= objects_max && !self.scratch.writes.contains_key(&object) {
            return Err(too_much(&format!("{objects_max} objects")));
        }
        self.count_written(record.as_ref().map_or(0, |record| record.slots.len()))?;
        let before = self.scratch.writes.insert(object, record);
        self.scratch.undo.push(Undo::Object(object, before));
        Ok(())
    }

    /// Whether every object that an encoded value refers to is or was there: else the reference would come to mean whatever gets that id.
    /// References that stand in `before`, the value that is replaced, are passed over: they are none of this turn's doing.
    pub(super) fn check_references(&self, encoded: &[u8], before: &[u8]) -> Result<(), Failure> {
        let strangers = |encoded: &[u8]| {
            let mut found = Vec::new();
            let read = each_reference(encoded, &mut |object| {
                if object.0 >= self.next_object {
                    found.push(object);
                }
            });
            read.map(|()| found).map_err(|error| Failure::new(FailureCode::BAD_ENCODING, error.to_string()))
        };
        let found = strangers(encoded)?;
        if found.is_empty() {
            return Ok(());
        }
        let known = strangers(before)?;
        let Some(object) = found.into_iter().find(|object| !known.contains(object)) else { return Ok(()) };
        let message = format!("there never was an object {object}, so nothing can refer to it: make it first");
        Err(Failure::new(FailureCode::NO_SUCH_OBJECT, message))
    }

    /// Makes an object what it was before.
    pub(super) fn restore(&mut self, object: ObjectId, record: Option<Arc<ObjectRecord>>) -> Result<(), Failure> {
        self.write(object, record)
    }

    /// Makes a name stand for what it stood for before.
    pub(super) fn restore_name(&mut self, name: Arc<str>, object: Option<ObjectId>) -> Result<(), Failure> {
        self.count_written(name.len())?;
        self.scratch.names.insert(name, object);
        Ok(())
    }

    /// Counts a write of so many bytes, if it may still be done. What is undone stays counted: it took the memory and the time.
    fn count_written(&mut self, bytes: usize) -> Result<(), Failure> {
        let (written, max) =
            (self.written_bytes + WRITE_COST_BYTES + bytes, self.limits.write_bytes_per_transaction_max);
        if written > max {
            return Err(too_much(&format!("{max} bytes")));
        }
        self.written_bytes = written;
        Ok(())
    }

    fn undo_to(&mut self, mark: usize) {
        let Scratch { undo, writes, names, .. } = &mut *self.scratch;
        for undo in undo.drain(mark..).rev() {
            match undo {
                Undo::Object(object, Some(before)) => drop(writes.insert(object, before)),
                Undo::Object(object, None) => drop(writes.remove(&object)),
                Undo::Name(name, Some(before)) => drop(names.insert(name, before)),
                Undo::Name(name, None) => drop(names.remove(&name)),
            }
        }
    }

    // --- Names --------------------------------------------------------------------------------------------------------

    /// The object that carries a name. A name ends with its object.
    fn named(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        let object = match self.scratch.names.get(name) {
            Some(object) => *object,
            None => self.state.name(name).map_err(|failure| self.poisoned(failure))?,
        };
        match object {
            Some(object) => Ok(self.peek(object)?.map(|_| object)),
            None => Ok(None),
        }
    }

    /// Whether nothing may be changed now, because a query is under way.
    fn is_reading(&self) -> bool {
        self.read_only || self.scratch.busy.iter().any(|busy| !busy.command)
    }

    fn changing(&self, what: &str) -> Result<(), Failure> {
        if self.is_reading() {
            return Err(Failure::new(
                FailureCode::READ_ONLY,
                format!("a query cannot {what}: make the method a command"),
            ));
        }
        Ok(())
    }

    fn add(&mut self, record: ObjectRecord) -> Result<ObjectId, Failure> {
        let object = ObjectId(self.next_object);
        self.next_object += 1;
        self.write(object, Some(Arc::new(record)))?;
        Ok(object)
    }
}

impl CallHost for Turn<'_> {
    fn send(&mut self, target: ObjectId, method: &str, arguments: &[u8], out: &mut RVec<u8>) -> Result<(), Failure> {
        let buffers = self.message(target, method, arguments)?;
        out.extend_from_slice(&buffers.result);
        self.scratch.buffers.push(buffers);
        Ok(())
    }

    fn create(&mut self, behavior: &str, slots: &[u8]) -> Result<ObjectId, Failure> {
        self.changing("create objects")?;
        let behavior = self.plugins.behavior(behavior).ok_or_else(|| no_such_behavior(self.plugins, behavior))?;
        let mut full = RVec::new();
        behavior
            .construct(if slots.is_empty() { EMPTY_MAP } else { slots }, &mut full)
            .inspect_err(|failure| self.blame(behavior, failure))?;
        self.check_references(&full, &[])?;
        let slots = full.as_slice().into();
        self.add(ObjectRecord {
            behavior: behavior.name().clone(),
            schema: behavior.schema(),
            parents: [].into(),
            slots,
        })
    }

    fn clone_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure> {
        self.changing("create objects")?;
        let record = self.load(original)?;
        if self.is_changing(original) {
            let message = format!("object {original} cannot be cloned while a command changes it");
            return Err(Failure::new(FailureCode::REENTRANT, message));
        }
        self.add((*record).clone())
    }

    fn derive_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure> {
        self.derive(&[original])
    }

    fn delete(&mut self, object: ObjectId) -> Result<(), Failure> {
        self.changing("delete objects")?;
        self.open(object)?;
        if self.is_busy(object) {
            let message = format!("object {object} cannot be deleted while a message to it is executed");
            return Err(Failure::new(FailureCode::REENTRANT, message));
        }
        self.write(object, None)
    }

    fn name_get(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        self.named(name)
    }

    fn name_set(&mut self, name: &str, object: Option<ObjectId>) -> Result<(), Failure> {
        self.changing("name objects")?;
        check_name(name)?;
        if let Some(object) = object {
            self.open(object)?;
            match self.named(name)? {
                Some(other) if other == object => return Ok(()),
                Some(other) => {
                    let message =
                        format!("the name `{name}` belongs to object {other}: free it first, or take another");
                    return Err(Failure::new(FailureCode::NAME_TAKEN, message));
                }
                None => {}
            }
        }
        self.count_written(name.len())?;
        let name: Arc<str> = name.into();
        let before = self.scratch.names.insert(name.clone(), object);
        self.scratch.undo.push(Undo::Name(name, before));
        Ok(())
    }

    fn now_us(&mut self) -> Result<u64, Failure> {
        Ok(self.time_us)
    }

    fn random(&mut self) -> Result<u64, Failure> {
        Ok(super::split_mix(&mut self.random))
    }

    fn request_upgrade(&mut self, request: &[u8]) -> Result<(), Failure> {
        self.changing("request an upgrade")?;
        if !self.may_request_upgrade {
            let message = format!(
                "requesting an upgrade takes the capability `{}`: ask for it in `plugin!` and grant it in plugins.capabilities",
                Capability::RequestUpgrade
            );
            return Err(Failure::new(FailureCode::NOT_ALLOWED, message));
        }
        self.upgrade = Some(request.to_vec());
        Ok(())
    }

    fn parents(&mut self, object: ObjectId) -> Result<Box<[ObjectId]>, Failure> {
        Ok(self.load(object)?.parents.clone())
    }

    fn set_parents(&mut self, object: ObjectId, parents: &[ObjectId]) -> Result<(), Failure> {
        self.put_parents(object, parents)
    }

    fn resend(&mut self, message: &Resent<'_>, out: &mut RVec<u8>, changed: &mut RVec<u8>) -> Result<(), Failure> {
        self.resend_message(message, out, changed)
    }

    fn post(
        &mut self,
        target: ObjectId,
        method: &str,
        arguments: &[u8],
        delay_us: u64,
        every_us: Option<u64>,
    ) -> Result<ObjectId, Failure> {
        self.post_message(&Post { target, method, arguments, due: Due::After(delay_us), every_us })
    }

    fn cancel(&mut self, message: ObjectId) -> Result<bool, Failure> {
        self.cancel_message(message)
    }
}

/// Whether a text may be a name: it has to fit a path segment and must not look like an id.
///
/// # Errors
///
/// Why it may not.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let problem = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        format!("a name has 1 to {NAME_BYTES_MAX} bytes")
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        "a name of digits alone would be taken for an id".to_owned()
    } else if name == "." || name == ".." {
        "many clients would leave it out of a path".to_owned()
    } else if name.chars().any(|character| character.is_control() || is_reordering(character)) {
        "a name has no control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(FailureCode::BAD_ARGUMENTS, format!("`{}` cannot be a name: {problem}", name.escape_debug())))
}

/// Whether a character changes the direction of those around it (Unicode Standard Annex 9): what is shown would not be what is
/// there.
fn is_reordering(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn too_much(what: &str) -> Failure {
    Failure::new(FailureCode::LIMIT_EXCEEDED, format!("a transaction may write {what}"))
}

fn no_such_behavior(plugins: &PluginSet, name: &str) -> Failure {
    let known = plugins.behavior_names();
    let known =
        if known.is_empty() { "none is there yet".to_owned() } else { format!("there are: {}", known.join(", ")) };
    let message = format!("no plugin in force provides the behaviour `{name}`; {known}");
    Failure::new(FailureCode::NO_SUCH_BEHAVIOR, message)
}

fn encoding(object: ObjectId, error: &theseus_value::DecodeError) -> Failure {
    Failure::new(FailureCode::BAD_ENCODING, format!("the slots of object {object}: {error}"))
}

#[cfg(test)]
mod tests;
