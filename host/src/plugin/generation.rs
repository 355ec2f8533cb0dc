//! A loaded plugin: its behaviours, and how to call them.
//!
//! The functions of a generation are reached through borrows of it only, so they cannot be called after it was unloaded: an
//! `Arc<Generation>` is a pin, and [`retire`](super::retire::retire) takes the generation itself.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_abi::{
    BehaviorDescription, BehaviorManifest, BehaviorTableRef, Call, CallToken, Capability, Failure, FailureCode,
    Manifest, MethodKind, PluginRootRef,
    abi_stable::std_types::{RResult, RSlice, RVec},
};
use theseus_value::ObjectId;

use super::{
    boundary::{self, CallHost},
    digest::Digest,
    image::Image,
    inspect::Inspection,
};

/// Numbers the generations of this process in the order in which they were loaded: 1, 2, 3 ...
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GenerationNumber(pub u64);

impl std::fmt::Display for GenerationNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One plugin file, loaded and initialised.
///
/// Dropping it unloads the library without asking the plugin to free what it holds in statics; use
/// [`retire`](super::retire::retire).
pub struct Generation {
    pub(super) number: GenerationNumber,
    pub(super) origin: Box<Path>,
    pub(super) name: Arc<str>,
    pub(super) inspection: Inspection,
    pub(super) behaviors: Vec<Behavior>,
    pub(super) root: PluginRootRef,
    /// The code that `root` and the tables of `behaviors` point into.
    pub(super) image: Image,
}

impl Generation {
    /// Its number in this process.
    pub fn number(&self) -> GenerationNumber {
        self.number
    }

    /// The digest of its file.
    pub fn digest(&self) -> Digest {
        self.inspection.digest
    }

    /// Where its file was read from, for messages.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The plugin's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The plugin's own version.
    pub fn version(&self) -> &str {
        &self.inspection.manifest.version
    }

    /// What its file says about it.
    pub fn manifest(&self) -> &Manifest {
        &self.inspection.manifest
    }

    /// What was found when its file was inspected.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Its behaviours, in the order of the manifest.
    pub fn behaviors(&self) -> &[Behavior] {
        &self.behaviors
    }

    /// One of its behaviours by name.
    pub fn behavior(&self, name: &str) -> Option<&Behavior> {
        self.behaviors.iter().find(|behavior| &*behavior.name == name)
    }

    /// Runs the plugin's own check that it works on this machine.
    ///
    /// # Errors
    ///
    /// What the plugin reports.
    pub fn self_test(&self) -> Result<(), Failure> {
        self.root.self_test()().into_result().map_err(boundary::own_failure)
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("name", &self.name)
            .field("version", &self.version())
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// The number of a method within its behaviour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MethodId(u32);

impl MethodId {
    /// The method's place in [`BehaviorDescription::methods`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The vectors that calls write into. Keep them from call to call: each call empties them first, and their memory is reused.
#[derive(Default, Debug)]
pub struct CallBuffers {
    /// The encoded result; nothing at all stands for null.
    pub result: RVec<u8>,
    /// A map of the slots that the method changed; nothing at all if it changed none.
    pub changes: RVec<u8>,
}

/// One behaviour of a loaded plugin.
pub struct Behavior {
    name: Arc<str>,
    schema: u32,
    reads: Vec<u32>,
    writes: Vec<u32>,
    capabilities: BTreeSet<Capability>,
    description: BehaviorDescription,
    /// In the canonical order of map keys: shorter first, then bytewise.
    slot_names: Vec<Box<str>>,
    methods: FxHashMap<Box<str>, MethodId>,
    functions: Functions,
}

/// Where the behaviour's code is. Valid while the generation that owns the behaviour lives.
#[derive(Clone, Copy)]
struct Functions {
    call: extern "C" fn(&mut Call<'_>) -> RResult<(), Failure>,
    construct: extern "C" fn(RSlice<'_, u8>, &mut RVec<u8>) -> RResult<(), Failure>,
    migrate: extern "C" fn(u32, u32, RSlice<'_, u8>, &mut RVec<u8>) -> RResult<(), Failure>,
}

impl Behavior {
    /// Puts together what the file and the loaded table say. The caller keeps the table's library loaded while this lives.
    ///
    /// # Errors
    ///
    /// What is wrong with the description, as text.
    pub(super) fn new(
        manifest: &BehaviorManifest,
        capabilities: &BTreeSet<Capability>,
        table: BehaviorTableRef,
    ) -> Result<Behavior, String> {
        /// The longest description that is read, in bytes.
        const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

        let text = table.description();
        let json = text.as_rslice();
        if json.len() > DESCRIPTION_BYTES_MAX {
            return Err(format!("it has {} bytes, the limit is {DESCRIPTION_BYTES_MAX}", json.len()));
        }
        let description: BehaviorDescription = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
        let mut methods = FxHashMap::default();
        for (index, method) in (0..).zip(&description.methods) {
            if methods.insert(Box::from(method.name.as_str()), MethodId(index)).is_some() {
                return Err(format!("it lists the method `{}` twice", method.name));
            }
        }
        let mut slot_names: Vec<Box<str>> = description.slots.iter().map(|slot| slot.name.as_str().into()).collect();
        slot_names.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        if let Some(twice) = slot_names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("it lists the slot `{}` twice", twice[0]));
        }
        Ok(Behavior {
            name: manifest.name.as_str().into(),
            schema: manifest.schema,
            reads: manifest.reads.clone(),
            writes: manifest.writes.clone(),
            capabilities: capabilities.clone(),
            description,
            slot_names,
            methods,
            functions: Functions { call: table.call(), construct: table.construct(), migrate: table.migrate() },
        })
    }

    /// Its name, `plugin.Type`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The schema version of the slots it works with.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// The other schema versions whose slots it can turn into its own.
    pub fn reads(&self) -> &[u32] {
        &self.reads
    }

    /// The other schema versions into which it can turn its own slots.
    pub fn writes(&self) -> &[u32] {
        &self.writes
    }

    /// Whether its plugin has a capability.
    pub fn may(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// What it offers.
    pub fn description(&self) -> &BehaviorDescription {
        &self.description
    }

    /// The names of its slots, in the order in which they stand in an encoded map.
    pub fn slot_names(&self) -> &[Box<str>] {
        &self.slot_names
    }

    /// Whether it has a slot of this name.
    pub fn has_slot(&self, name: &str) -> bool {
        self.slot_names.iter().any(|own| **own == *name)
    }

    /// Finds a method.
    #[inline]
    pub fn method(&self, name: &str) -> Option<MethodId> {
        self.methods.get(name).copied()
    }

    /// Whether a method may change its receiver. False for a method of another behaviour that this one does not have.
    #[inline]
    pub fn is_command(&self, method: MethodId) -> bool {
        self.description.methods.get(method.index()).is_some_and(|method| method.kind == MethodKind::Command)
    }

    /// Runs a method. Requests of the plugin reach `host` until this returns.
    ///
    /// `slots` is a map; `arguments` a map, an array or nothing. On success the buffers hold the result and, for a command,
    /// the changed slots, both checked to be deterministic CBOR; on failure their content means nothing.
    ///
    /// # Errors
    ///
    /// What the plugin reports; [`BAD_ENCODING`](FailureCode::BAD_ENCODING) if what it returned is malformed;
    /// [`NO_SUCH_METHOD`](FailureCode::NO_SUCH_METHOD) if `method` belongs to another behaviour.
    pub fn call(
        &self,
        host: &mut dyn CallHost,
        receiver: ObjectId,
        method: MethodId,
        slots: &[u8],
        arguments: &[u8],
        out: &mut CallBuffers,
    ) -> Result<(), Failure> {
        let Some(description) = self.description.methods.get(method.index()) else {
            return Err(self.no_such_method(method));
        };
        let CallBuffers { result, changes } = out;
        // Out of the way of the calls that succeed: handing a failure's room up through the closures costs as much as the call.
        let mut failed = None;
        boundary::lend(result, |result| {
            boundary::lend(changes, |changes| {
                boundary::with_host(host, |token: CallToken| {
                    let (slots, arguments) = (RSlice::from_slice(slots), RSlice::from_slice(arguments));
                    let (receiver, method) = (receiver.0, method.0);
                    let mut call = Call { token, receiver, method, slots, arguments, result, changes };
                    if let RResult::RErr(failure) = (self.functions.call)(&mut call) {
                        failed = Some(Box::new(boundary::own_failure(failure)));
                    }
                })
            })
        });
        if let Some(failure) = failed {
            return Err(*failure);
        }
        if !result.is_empty() {
            boundary::check_value("result", result).map_err(|failure| self.blame(&description.name, failure))?;
        }
        if description.kind == MethodKind::Query {
            changes.clear();
        }
        if !changes.is_empty() {
            boundary::check_map("changes", changes).map_err(|failure| self.blame(&description.name, failure))?;
        }
        Ok(())
    }

    /// Checks the slots given for a new object, a map, and writes the full map with defaults filled in.
    ///
    /// # Errors
    ///
    /// What the plugin reports; [`BAD_ENCODING`](FailureCode::BAD_ENCODING) if what it wrote is malformed.
    pub fn construct(&self, slots: &[u8], out: &mut RVec<u8>) -> Result<(), Failure> {
        let outcome = boundary::lend(out, |out| (self.functions.construct)(RSlice::from_slice(slots), out));
        self.check_slots("construct", outcome, out)
    }

    /// Turns slots of schema version `from` into slots of version `to`; one of the two is the behaviour's own.
    ///
    /// # Errors
    ///
    /// What the plugin reports; [`BAD_ENCODING`](FailureCode::BAD_ENCODING) if what it wrote is malformed.
    pub fn migrate(&self, from: u32, to: u32, slots: &[u8], out: &mut RVec<u8>) -> Result<(), Failure> {
        let outcome = boundary::lend(out, |out| (self.functions.migrate)(from, to, RSlice::from_slice(slots), out));
        self.check_slots("migrate", outcome, out)
    }

    fn check_slots(&self, function: &str, outcome: RResult<(), Failure>, out: &RVec<u8>) -> Result<(), Failure> {
        match outcome {
            RResult::ROk(()) => boundary::check_map("slots", out).map_err(|failure| self.blame(function, failure)),
            RResult::RErr(failure) => Err(boundary::own_failure(failure)),
        }
    }

    /// Says whose fault it was.
    #[cold]
    fn blame(&self, function: &str, failure: Failure) -> Failure {
        let message = format!("{}.{function} is broken: {}", self.name, failure.message);
        log::error!("{message}");
        Failure::new(failure.code, message)
    }

    #[cold]
    fn no_such_method(&self, method: MethodId) -> Failure {
        Failure::new(FailureCode::NO_SUCH_METHOD, format!("{} has no method number {}", self.name, method.0))
    }
}

impl std::fmt::Debug for Behavior {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behavior").field("name", &self.name).field("schema", &self.schema).finish_non_exhaustive()
    }
}
