//! One turn: the execution of one message and of all messages sent from within it.
//!
//! A turn reads one view of the identity and its own write set. A command's turn becomes a transaction if it ends well; a
//! query's turn can write nothing. What a failed message changed is undone before its sender sees the failure, so a sender
//! that goes on after one goes on from a whole state.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};
use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    ObjectId,
    raw::{MapView, Writer, merge_maps},
};

use super::{ObjectName, PluginSet};
use crate::{
    config::Execution,
    identity::{ObjectRecord, Reader, StorageError, Tid},
    plugin::{Behavior, CallBuffers, CallHost, MethodId},
};

/// An encoded map without entries.
const EMPTY_MAP: &[u8] = &[0xa0];

/// How many objects one look along the parents may visit.
const ANCESTORS_MAX: usize = 1_000;

/// The longest name of an object, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Which state of the identity a turn reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    /// The executor's: everything that was recorded, durable or not.
    Newest,
    /// The committed state whose head this was.
    Snapshot(Tid),
}

/// What a turn works with. Kept from turn to turn for its memory.
#[derive(Default)]
pub(super) struct Scratch {
    writes: FxHashMap<ObjectId, Option<Arc<ObjectRecord>>>,
    names: BTreeMap<Arc<str>, Option<ObjectId>>,
    undo: Vec<Undo>,
    busy: Vec<(ObjectId, bool)>,
    buffers: Vec<CallBuffers>,
    slots: Vec<Vec<u8>>,
}

/// How to take a change of the write set back.
enum Undo {
    Object(ObjectId, Option<Option<Arc<ObjectRecord>>>),
    Name(Arc<str>, Option<Option<ObjectId>>),
}

pub(super) struct Turn<'a> {
    pub reader: &'a mut Reader,
    pub plugins: &'a PluginSet,
    pub limits: &'a Execution,
    pub view: View,
    /// Whether only queries may be executed.
    pub read_only: bool,
    /// The id that the next new object gets.
    pub next_object: u64,
    pub time_us: u64,
    /// The state of the random sequence, at first the seed.
    pub random: u64,
    /// The request for a restart cycle that the turn made, encoded.
    pub upgrade: Option<Vec<u8>>,
    /// Whether the code of a behaviour was entered.
    pub entered: bool,
    /// Whether the message that began the turn is a command, once that is known.
    pub command: bool,
    pub written_bytes: usize,
    /// What the storage failed with, if it did: nothing of the turn may be recorded then, whatever the plugin makes of it.
    pub poison: Option<Failure>,
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
    }

    /// Takes what the turn changed: objects in the order of their ids, names in theirs.
    pub(super) fn take_changes(&mut self) -> Changes {
        let mut writes: Vec<_> = self.writes.drain().collect();
        writes.sort_unstable_by_key(|(object, _)| *object);
        // Draining costs what the map has room for, and one large transaction must not cost all later ones.
        if self.writes.capacity() > 4 * 1024 {
            self.writes = FxHashMap::default();
        }
        (writes, std::mem::take(&mut self.names).into_iter().collect())
    }

    /// Gives buffers back for the next call.
    pub(super) fn recycle(&mut self, buffers: CallBuffers) {
        self.buffers.push(buffers);
    }
}

impl<'a> Turn<'a> {
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
        let record = self.load(receiver)?;
        let (behavior, method) = self.resolve(receiver, &record, method)?;
        let command = behavior.is_command(method);
        self.command |= command && self.scratch.busy.is_empty();
        self.admit(receiver, command, behavior, method)?;

        let mut slots = self.scratch.slots.pop().unwrap_or_default();
        let mut buffers = self.scratch.buffers.pop().unwrap_or_default();
        self.scratch.busy.push((receiver, command));
        let outcome = self.run(receiver, &record, behavior, method, arguments, &mut slots, &mut buffers);
        self.scratch.busy.pop();
        slots.clear();
        self.scratch.slots.push(slots);
        match outcome {
            Ok(()) => Ok(buffers),
            Err(failure) => {
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
        behavior.call(self, receiver, method, slots, arguments, buffers)?;
        if buffers.result.len() > self.limits.write_bytes_per_transaction_max {
            let message = format!("a result may have {} bytes", self.limits.write_bytes_per_transaction_max);
            return Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message));
        }
        if !buffers.changes.is_empty() {
            let mut merged = Vec::with_capacity(record.slots.len() + buffers.changes.len());
            merge_maps(&record.slots, &buffers.changes, &mut merged).map_err(|error| encoding(receiver, &error))?;
            let changed = ObjectRecord { slots: merged.into(), ..(**record).clone() };
            self.write(receiver, Some(Arc::new(changed)))?;
        }
        Ok(())
    }

    /// Whether a message may be executed now.
    fn admit(&self, receiver: ObjectId, command: bool, behavior: &Behavior, method: MethodId) -> Result<(), Failure> {
        let name = || format!("{}.{}", behavior.name(), behavior.description().methods[method.index()].name);
        if command && self.is_reading() {
            let message =
                format!("{} is a command: it may change the object, so a query cannot be it or send it", name());
            return Err(Failure::new(FailureCode::READ_ONLY, message));
        }
        if self.scratch.busy.len() >= self.limits.nesting_max {
            let message = format!("messages are nested {} deep, which is the limit", self.limits.nesting_max);
            return Err(Failure::new(FailureCode::TOO_DEEP, message));
        }
        // The state of an object lives in the plugin while a command on it runs: nobody else can see or change it.
        let busy = self.scratch.busy.iter().find(|(object, _)| *object == receiver);
        if busy.is_some() && (command || self.scratch.busy.contains(&(receiver, true))) {
            let message = format!(
                "{} reached object {receiver} while a message to it waits for this one: call the method directly, or post it",
                name()
            );
            return Err(Failure::new(FailureCode::REENTRANT, message));
        }
        Ok(())
    }

    // --- Delegation ---------------------------------------------------------------------------------------------------

    /// Finds the method: the object's own behaviour's, else that of the nearest parents.
    fn resolve(
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
    fn gather_slots(
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
    fn inherit<'n>(
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
    fn walk_parents(
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

    // --- The write set ------------------------------------------------------------------------------------------------

    /// An object as the turn sees it, in the schema of the behaviour in force.
    fn load(&mut self, object: ObjectId) -> Result<Arc<ObjectRecord>, Failure> {
        let record = self
            .peek(object)?
            .ok_or_else(|| Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {object}")))?;
        match self.plugins.behavior(&record.behavior) {
            Some(behavior) if behavior.schema() != record.schema => self.migrate(object, record, behavior),
            _ => Ok(record),
        }
    }

    /// An object as the turn sees it, in the schema in which it is stored.
    fn peek(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        if let Some(written) = self.scratch.writes.get(&object) {
            return Ok(written.clone());
        }
        let version = match self.view {
            View::Newest => self.reader.newest(object),
            View::Snapshot(head) => self.reader.snapshot(object, head),
        };
        let version = version.map_err(|error| self.poisoned(&error))?;
        Ok(version.and_then(|version| version.record.clone()))
    }

    /// Takes note that the storage failed.
    fn poisoned(&mut self, error: &StorageError) -> Failure {
        let failure = storage(error);
        self.poison = Some(failure.clone());
        failure
    }

    fn write(&mut self, object: ObjectId, record: Option<Arc<ObjectRecord>>) -> Result<(), Failure> {
        let limit =
            |what: String| Err(Failure::new(FailureCode::LIMIT_EXCEEDED, format!("a transaction may write {what}")));
        let bytes = self.written_bytes + record.as_ref().map_or(0, |record| record.slots.len());
        let (bytes_max, objects_max) =
            (self.limits.write_bytes_per_transaction_max, self.limits.objects_per_transaction_max);
        if bytes > bytes_max {
            return limit(format!("{bytes_max} bytes"));
        }
        if self.scratch.writes.len() >= objects_max && !self.scratch.writes.contains_key(&object) {
            return limit(format!("{objects_max} objects"));
        }
        self.written_bytes = bytes;
        let before = self.scratch.writes.insert(object, record);
        self.scratch.undo.push(Undo::Object(object, before));
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

    /// Brings an object into the schema of the behaviour in force: in the write set, so that it is stored with what the
    /// transaction makes of it, and forgotten after a query.
    ///
    /// A behaviour sees the slots that an object has or inherits, so an object with parents migrates the whole of them. What
    /// comes out as it does for an object that only inherits stays inherited.
    fn migrate(
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
    fn inherited_in_schema(&mut self, object: ObjectId, record: &ObjectRecord) -> Result<Vec<u8>, Failure> {
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
                    let before = self.reader.last_in_schema(parent, record.schema);
                    let before = before.map_err(|error| self.poisoned(&error))?;
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

    // --- Names --------------------------------------------------------------------------------------------------------

    /// The object that carries a name. A name ends with its object.
    fn named(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        let object = match self.scratch.names.get(name) {
            Some(object) => *object,
            None => match self.view {
                View::Newest => self.reader.name(name),
                View::Snapshot(_) => self.reader.durable_name(name),
            }
            .map_err(|error| self.poisoned(&error))?,
        };
        match object {
            Some(object) => Ok(self.peek(object)?.map(|_| object)),
            None => Ok(None),
        }
    }

    /// Whether nothing may be changed now, because a query is under way.
    fn is_reading(&self) -> bool {
        self.read_only || self.scratch.busy.iter().any(|(_, command)| !command)
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
        behavior.construct(if slots.is_empty() { EMPTY_MAP } else { slots }, &mut full)?;
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
        if self.scratch.busy.contains(&(original, true)) {
            let message = format!("object {original} cannot be cloned while a command changes it");
            return Err(Failure::new(FailureCode::REENTRANT, message));
        }
        self.add((*record).clone())
    }

    fn derive_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure> {
        self.changing("create objects")?;
        let record = self.load(original)?;
        let parents = [original].into();
        self.add(ObjectRecord { parents, slots: EMPTY_MAP.into(), ..(*record).clone() })
    }

    fn delete(&mut self, object: ObjectId) -> Result<(), Failure> {
        self.changing("delete objects")?;
        if self.peek(object)?.is_none() {
            return Err(Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {object}")));
        }
        if self.scratch.busy.iter().any(|(busy, _)| *busy == object) {
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
            if self.peek(object)?.is_none() {
                return Err(Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {object}")));
            }
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
        self.upgrade = Some(request.to_vec());
        Ok(())
    }
}

fn check_ancestors(seen: usize) -> Result<(), Failure> {
    if seen <= ANCESTORS_MAX {
        return Ok(());
    }
    let message = format!("an object may delegate to {ANCESTORS_MAX} others, those of its parents counted");
    Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message))
}

/// Whether a text may be a name: it has to fit a path segment and must not look like an id.
fn check_name(name: &str) -> Result<(), Failure> {
    let problem = if name.is_empty() || name.len() > NAME_BYTES_MAX {
        format!("a name has 1 to {NAME_BYTES_MAX} bytes")
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        "a name of digits alone would be taken for an id".to_owned()
    } else if name.chars().any(char::is_control) {
        "a name has no control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::new(FailureCode::BAD_ARGUMENTS, format!("`{}` cannot be a name: {problem}", name.escape_debug())))
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

pub(super) fn storage(error: &StorageError) -> Failure {
    let damaged = matches!(error, StorageError::Damaged { .. });
    let code = if damaged { FailureCode::IDENTITY_DAMAGED } else { FailureCode::STORAGE };
    Failure::new(code, error.to_string())
}
