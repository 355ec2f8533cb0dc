//! The border between the edges (HTTP, command line) and the host.
//!
//! An edge turns what it received into an [`Action`], hands it to the runtime, and turns the [`Answer`] or the
//! [`ActionError`] into its own format. Nothing else crosses. Edges may not know what is behind it, and what is behind it does
//! not know JSON, HTTP or terminals.

#![allow(missing_docs, reason = "fields are described where their type or variant is, as far as their names do not")]

mod pack;
mod undo;
mod verify;

use std::{collections::BTreeMap, path::PathBuf};

use theseus_value::{ObjectId, Value};

pub use self::{
    pack::{PackView, PackWish},
    undo::{LostNameView, UndoneView},
    verify::{Damage, KeptHeadFound, KeptHeadView, RepairReport, VerifyReport},
};
pub use crate::{
    exec::Due,
    identity::{Condition, Relation},
    swap::{MigratedBy, SwapOptions, rehearsal},
};

/// The number of a transaction: 1, 2, 3 ... without gaps.
pub type Tid = u64;

/// A moment of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// After a transaction.
    Tid(Tid),
    /// At a time: after the last commit before it.
    Time { us: u64 },
}

/// An object as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectRef {
    /// By id.
    Id(ObjectId),
    /// By its unique name.
    Name(String),
}

/// Something that can be asked of a running host.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Makes an object; slots left out get the behaviour's defaults. `slots` is a map.
    Create { behavior: String, name: Option<String>, slots: Value, request_id: Option<String> },
    /// Copies an object: its own slots and parents.
    Clone { object: ObjectRef, name: Option<String>, request_id: Option<String> },
    /// Makes an empty object that delegates to all of `parents`, in this order, with the first one's behaviour.
    Derive { parents: Vec<ObjectRef>, name: Option<String>, request_id: Option<String> },
    /// Removes an object. The names it carries end with it.
    Delete { object: ObjectRef, request_id: Option<String> },
    /// Sends a message. `arguments` is a map (by name), an array (by position) or null (none).
    Call { object: ObjectRef, method: String, arguments: Value, request_id: Option<String>, mode: CallMode },
    /// One object, now or at a moment of the past.
    Get { object: ObjectRef, at: Option<At> },
    /// Names and the objects that carry them, in name order, now or at a moment of the past; `after` continues a listing.
    List { prefix: String, after: Option<String>, limit: usize, at: Option<At> },
    /// Transactions from `from` on, oldest first: all, or those that wrote `object`. A time is that of the commit.
    History { object: Option<ObjectRef>, from: At, limit: usize },
    /// The state of the host.
    Status,
    /// The plugins in force, and the retired ones that are still loaded.
    Plugins,
    /// What `apply` would do with these files or this bundle, without doing it.
    Plan { paths: Vec<PathBuf> },
    /// Replaces or brings in plugins, all of them or none.
    Swap { paths: Vec<PathBuf>, options: SwapOptions },
    /// Takes back the last swap: of one plugin, or of all that were swapped together.
    Rollback { plugin: Option<String> },
    /// Executes the last recorded transactions again with these files. Changes nothing.
    Rehearse { paths: Vec<PathBuf>, last: u64, told: rehearsal::Told },
    /// Does what the plan says: a swap, or a restart cycle.
    Apply { bundle: PathBuf, reason: String, options: SwapOptions },
    /// Gives a name to an object, or frees it if there is none.
    Name { name: String, object: Option<ObjectRef>, request_id: Option<String> },
    /// Gives an object these parents, and no others.
    SetParents { object: ObjectRef, parents: Vec<ObjectRef>, request_id: Option<String> },
    /// The messages that nobody understood.
    Misses,
    /// Takes transactions back: what they wrote becomes what it was before them.
    Undo { tids: Vec<Tid>, request_id: Option<String> },
    /// Packs the history: what came before leaves it. Or only tells what that would do.
    Pack { wish: PackWish, dry_run: bool },
    /// Removes what cannot be reached from a name or from the host's own objects, or only counts it.
    Collect { dry_run: bool },
    /// Posts a message for after the commit. `arguments` is a map (by name), an array (by position) or null (none).
    Post {
        target: ObjectRef,
        method: String,
        arguments: Value,
        due: Due,
        /// After how many microseconds it is due again; none if it is delivered once.
        every_us: Option<u64>,
        request_id: Option<String>,
    },
    /// Takes a posted message back.
    CancelMessage { message: ObjectId, request_id: Option<String> },
    /// Makes a message due at once whose delivery has failed.
    RetryMessage { message: ObjectId, request_id: Option<String> },
    /// Posted messages: those that wait by when they are due, then those that were set aside. `after` continues a listing.
    Messages { target: Option<ObjectRef>, which: WhichMessages, after: Option<String>, limit: usize },
    /// Objects by what a slot holds, in its order. `after` continues a listing.
    Find { behavior: Option<String>, slot: String, condition: Condition, after: Option<String>, limit: usize },
    /// Makes an index of a behaviour's objects by a slot.
    CreateIndex { behavior: String, slot: String },
    /// Removes an index.
    DropIndex { behavior: String, slot: String },
    /// The indexes.
    Indexes,
}

/// Which posted messages are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhichMessages {
    /// Those that wait.
    Waiting,
    /// Those that were set aside.
    SetAside,
    /// All.
    All,
}

/// How a `Call` may be executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallMode {
    /// A command or a query, whichever the method is.
    Any,
    /// Only a query: a command is refused with `read_only` and nothing happens.
    QueryOnly,
    /// A command or a query, executed in the order of submission with the commands around it.
    InOrder,
}

/// What came of an [`Action`].
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// Of `Create`, `Clone`, `Derive`.
    Object { id: ObjectId, at: Head },
    /// Of `Delete`.
    Deleted { at: Head },
    /// Of `Call`: the method's result. `tid` is the transaction it ran in; none for a query.
    Result { value: Value, tid: Option<Tid>, at: Head },
    /// Of `Get`.
    Record(ObjectView),
    /// Of `List`, as of transaction `at`; `next` is the name after which to go on, none if the end was reached. There may be more although
    /// there are few names, or none: names that have become free are looked at too.
    Names { names: Vec<(String, ObjectId, String)>, next: Option<String>, at: Tid },
    /// Of `History`; `next` is where to go on, none at the end; `packed` is the last that was packed away, if it was asked for.
    History { transactions: Vec<TransactionView>, next: Option<Tid>, packed: Option<Tid> },
    /// Of `Status`.
    Status(StatusView),
    /// Of `Plugins`.
    Plugins(PluginsView),
    /// Of `Plan`.
    Plan(PlanView),
    /// Of `Swap`.
    Swapped(SwapView),
    /// Of `Rollback`.
    RolledBack(RollbackView),
    /// Of `Rehearse`.
    Rehearsed(Box<rehearsal::Report>),
    /// Of `Apply`.
    Applied(AppliedView),
    /// Of `SetParents`.
    Parents { parents: Vec<ObjectId>, at: Head },
    /// Of `Misses`.
    Misses(MissesView),
    /// Of `Undo`.
    Undone(UndoneView),
    /// Of `Pack`.
    Packed(PackView),
    /// Of `Collect`.
    Collected(CollectedView),
    /// Of `Messages`; `next` continues the listing, none if the end was reached. There may be fewer than asked for.
    Messages { messages: Vec<MessageView>, next: Option<String> },
    /// Of `Find`; `next` continues the listing, none if the end was reached.
    Found { objects: Vec<FoundView>, next: Option<String> },
    /// Of `CreateIndex`.
    Index(IndexView),
    /// Of `Indexes`.
    Indexes(Vec<IndexView>),
}

/// A posted message. Times are microseconds since the Unix epoch.
#[derive(Clone, PartialEq, Debug)]
pub struct MessageView {
    pub id: ObjectId,
    pub target: ObjectId,
    pub method: String,
    pub arguments: Value,
    pub posted_us: u64,
    /// None if it was set aside.
    pub due_us: Option<u64>,
    /// None if it waits.
    pub set_aside_us: Option<u64>,
    pub every_us: Option<u64>,
    /// How often its delivery has failed since the last that did not, and how at last.
    pub attempts: u64,
    pub error: Option<ActionError>,
}

/// An object that was found by what a slot holds.
#[derive(Clone, PartialEq, Debug)]
pub struct FoundView {
    pub id: ObjectId,
    pub behavior: String,
    /// What the slot holds.
    pub value: Value,
    /// The transaction that wrote this version.
    pub tid: Tid,
}

/// An index of objects by a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexView {
    /// The transaction that made it.
    pub index: Tid,
    pub behavior: String,
    pub slot: String,
    /// Whether all objects are in it.
    pub complete: bool,
}

/// A point of the history that is durable: its last transaction and the digest of its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub tid: Tid,
    /// blake3 of the last batch record.
    pub hash: [u8; 32],
}

/// One object.
#[derive(Clone, PartialEq, Debug)]
pub struct ObjectView {
    pub id: ObjectId,
    pub behavior: String,
    pub schema: u32,
    pub parents: Vec<ObjectId>,
    /// The object's own slots, a map.
    pub slots: Value,
    /// The transaction that wrote this version, and how many versions there are up to it.
    pub tid: Tid,
    pub version: u64,
}

/// One transaction of the history.
#[derive(Clone, PartialEq, Debug)]
pub struct TransactionView {
    pub tid: Tid,
    pub time_us: u64,
    pub incarnation: u64,
    pub request_id: Option<String>,
    /// None for what the host itself did (start, stop, swap, ...).
    pub target: Option<ObjectId>,
    pub method: String,
    pub arguments: Value,
    pub outcome: Result<Value, ActionError>,
    /// The plugin that executed it and its digest in hexadecimal; none for what the host itself did.
    pub executed_by: Option<(String, String)>,
    /// The objects written: id and version.
    pub writes: Vec<(ObjectId, u64)>,
}

/// The state of the host.
#[derive(Clone, PartialEq, Debug)]
pub struct StatusView {
    /// The identity's own id, 32 hexadecimal digits, given at `init`.
    pub identity: String,
    pub head: Head,
    pub incarnation: u64,
    pub uptime_ms: u64,
    /// The address of the application listener, such as `127.0.0.1:7070`.
    pub http: Option<String>,
    pub host_version: String,
    pub abi_version: u32,
    pub healthy: bool,
    /// Why `healthy` is false.
    pub trouble: Option<String>,
    pub objects: u64,
    /// Posted messages that wait, and that were set aside.
    pub messages_waiting: u64,
    pub messages_set_aside: u64,
    pub plugins: Vec<PluginView>,
    pub trials: TrialsView,
    /// The restart cycle under way, if any: instruction id.
    pub update: Option<String>,
    pub storage: StorageView,
}

/// The room that the identity takes and has, in bytes; zeros while it was not measured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StorageView {
    pub history_bytes: u64,
    pub objects_bytes: u64,
    pub disk_free_bytes: u64,
    /// Why commands are refused; none if there is room.
    pub shortage: Option<String>,
}

/// The plugins of a host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PluginsView {
    /// Those in force, and replaced ones that are still loaded.
    pub plugins: Vec<PluginView>,
    /// How many replaced generations were unloaded since the host started.
    pub unloaded: u64,
    /// How many of them each plugin had, and the bytes that they leaked if it counts them.
    pub gone: Vec<(String, u64, Option<u64>)>,
    pub trials: TrialsView,
}

/// What became and becomes of swaps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrialsView {
    /// The plugins that have to prove themselves.
    pub probation: Vec<ProbationView>,
    /// Those that did not, and are in force because they could not be taken back.
    pub failed: Vec<FailedView>,
    /// The files that are not taken again.
    pub quarantine: Vec<QuarantineView>,
}

/// A plugin on probation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbationView {
    pub plugin: String,
    pub digest: String,
    /// The transaction that put it in force.
    pub swap: Tid,
    /// When it ends, in microseconds since the Unix epoch.
    pub until_us: u64,
    /// The errors that count, and how many may be.
    pub errors: u64,
    pub errors_max: u64,
    /// How often the host has died meanwhile, and how often it may.
    pub crashes: u64,
    pub crashes_max: u64,
    /// What the errors were.
    pub faults: Vec<FaultView>,
}

/// Errors of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultView {
    /// `panicked`, `deadline`, `migration`, or a failure's code, with its kind behind a `/`.
    pub what: String,
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

/// A plugin that failed its probation and could not be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedView {
    pub plugin: String,
    pub digest: String,
    /// The transaction that put it in force.
    pub swap: Tid,
    pub reason: String,
}

/// A file that was taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuarantineView {
    pub plugin: String,
    pub digest: String,
    /// The transaction that took it back, and its time.
    pub tid: Tid,
    pub time_us: u64,
    pub reason: String,
}

/// A generation of a plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PluginView {
    pub name: String,
    pub version: String,
    /// In hexadecimal.
    pub digest: String,
    pub state: PluginState,
    /// Behaviour names with their schema versions.
    pub behaviors: Vec<(String, u32)>,
    /// Objects of its behaviours that have another schema as yet, if it is in force.
    pub migrations: Vec<ProgressView>,
}

/// How far objects have come that have another schema than their behaviour in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgressView {
    pub behavior: String,
    /// The schema that they have, and the one that they shall get.
    pub from: u32,
    pub to: u32,
    /// How many there are.
    pub left: u64,
    /// How many were migrated in the background since the last swap or start.
    pub done: u64,
    /// How many could not be, and why: the first of them, with the error.
    pub failed: u64,
    pub failures: Vec<(ObjectId, String)>,
}

/// Where a generation stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PluginState {
    /// In force: executes messages.
    Active,
    /// Replaced by an older one; turns the objects back that have its schema.
    Fallback,
    /// Replaced, still executing what had begun.
    Draining,
    /// Replaced and drained, but not unloadable, and why.
    Pinned { reason: String },
}

/// What would be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanView {
    pub kind: PlanKind,
    /// Why a restart cycle is needed, or why it is refused; empty for a swap.
    pub reasons: Vec<String>,
    pub plugins: Vec<PlannedPlugin>,
    /// The plugins in force that stay as they are: name and version.
    pub stays: Vec<(String, String)>,
}

/// Which way an upgrade takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanKind {
    /// Everything is in force already.
    Nothing,
    /// In the live process.
    Swap,
    /// By the external restart cycle.
    Restart,
    /// Not at all.
    Refused,
}

/// What would happen to one plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedPlugin {
    pub name: String,
    /// Digest in force now, in hexadecimal.
    pub from: Option<String>,
    pub to: String,
    pub version: String,
    pub migrations: Vec<PlannedMigration>,
    /// Whether the old plugin could take the objects back.
    pub reversible: bool,
    /// Whether the old plugin stays loaded, because it alone can turn objects back.
    pub keeps_fallback: bool,
}

/// Objects that would migrate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedMigration {
    pub behavior: String,
    /// The schema that they have, and the one that they would get.
    pub from: u32,
    pub to: u32,
    pub objects: u64,
    pub by: MigratedBy,
}

/// What a swap did.
#[derive(Clone, PartialEq, Debug)]
pub struct SwapView {
    /// The transaction that put the set in force; none if everything was in force already.
    pub tid: Option<Tid>,
    pub plugins: Vec<PlannedPlugin>,
    /// How each of them was tried in a process of its own.
    pub probes: Vec<ProbeView>,
    /// Microseconds during which no transaction could start.
    pub pause_us: u64,
    /// What was found when it was rehearsed, if that was asked for.
    pub rehearsal: Option<Box<rehearsal::Report>>,
    /// None if nothing came into force, or if there is no probation.
    pub probation: Option<WindowView>,
    /// What an eager swap could not migrate.
    pub left: Vec<ProgressView>,
    /// Why an eager swap did not come to the end of the migration, if it did not.
    pub unfinished: Option<String>,
    /// Microseconds spent in each stage (`inspect`, `plan`, `probe`, `keep`, `load`, `commit` ...).
    pub stages_us: BTreeMap<String, u64>,
}

/// For how long what a swap put in force is on probation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WindowView {
    pub ms: u64,
    /// How many errors it may give.
    pub errors_max: u64,
    /// Whether it can be taken back if it gives more.
    pub reversible: bool,
}

/// What a rollback did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RollbackView {
    /// The transaction that took the swap back.
    pub tid: Tid,
    /// The transaction of the swap.
    pub swap: Tid,
    /// By plugin the digest that was in force and the one that is; none for a plugin that left.
    pub plugins: Vec<(String, String, Option<String>)>,
    pub pause_us: u64,
    pub stages_us: BTreeMap<String, u64>,
}

/// How a plugin was tried before a swap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeView {
    pub plugin: String,
    /// Whether its file was in force in this host before, and was therefore not tried again: the rest is empty then.
    pub known: bool,
    /// What its process was forbidden, and what the kernel could not forbid it.
    pub confined: Vec<String>,
    pub missing: Vec<String>,
    /// How many real objects were migrated.
    pub samples: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// What `apply` did or set in motion.
#[derive(Clone, PartialEq, Debug)]
pub enum AppliedView {
    Swapped(SwapView),
    /// A restart cycle was requested under this id; the host goes on working until the watchdog stops it.
    Requested {
        id: String,
    },
}

/// Why an action was not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActionError {
    /// The field's word: a name of [`theseus_abi::FailureCode`], or one of [`codes`].
    pub code: String,
    /// The behaviour's own word, if it gave one.
    pub kind: Option<String>,
    /// What happened and what to do.
    pub message: String,
    /// The transaction that recorded the failure, if any code ran.
    pub tid: Option<Tid>,
}

/// Codes of [`ActionError`] beyond those of the ABI.
pub mod codes {
    /// What an undo would take back was written since, or is needed.
    pub const UNDO_CONFLICT: &str = "undo_conflict";
    /// What only the host itself can take back.
    pub const NOT_UNDOABLE: &str = "not_undoable";
    /// A bounded queue is full; try again later. (HTTP 429)
    pub const OVERLOADED: &str = "overloaded";
    /// The host is stopping; the next one will answer. (HTTP 503)
    pub const STOPPING: &str = "stopping";
    /// The disk is full or failed; nothing was done. (HTTP 507)
    pub const STORAGE_FULL: &str = "storage_full";
    /// The storage does not work; the host has to be restarted. (HTTP 503)
    pub const STORAGE_FAILED: &str = "storage_failed";
    /// The plugin file is not acceptable. (HTTP 422; exit code 4)
    pub const PLUGIN_REFUSED: &str = "plugin_refused";
    /// The plugins fail where those in force did not. (HTTP 409; exit code 4)
    pub const REHEARSAL_FAILED: &str = "rehearsal_failed";
    /// The plan says no. (HTTP 409; exit code 4)
    pub const PLAN_REFUSED: &str = "plan_refused";
    /// The request id was used for a different request. (HTTP 422)
    pub const REQUEST_ID_REUSED: &str = "request_id_reused";
    /// The transaction asked for is not in the history. (HTTP 404)
    pub const NO_SUCH_TRANSACTION: &str = "no_such_transaction";
    /// It was there, and has been packed away. (HTTP 410)
    pub const PACKED: &str = "packed";
    /// The settings cannot be used. (Of commands that read them.)
    pub const BAD_SETTINGS: &str = "bad_settings";
    /// Another process has the identity. (Of commands that need it for themselves, or read while a host does not answer yet, or no more.)
    pub const IDENTITY_IN_USE: &str = "identity_in_use";
    /// No index answers the question, or there is none to drop. (HTTP 409; exit code 4)
    pub const NO_INDEX: &str = "no_index";
    /// The index is being built. (HTTP 409)
    pub const INDEX_BUILDING: &str = "index_building";
    /// There is such an index already. (HTTP 409)
    pub const INDEX_EXISTS: &str = "index_exists";
    /// The request itself is malformed. (HTTP 400; exit code 2)
    pub const BAD_REQUEST: &str = "bad_request";
}

/// The messages that nobody understood since the host started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissesView {
    pub total: u64,
    /// By behaviour and selector, the most frequent first: all of them, unless there were more than are told apart.
    pub misses: Vec<MissView>,
}

/// A method that was asked for and is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissView {
    pub behavior: String,
    pub selector: String,
    pub count: u64,
    /// When first and last, in microseconds since the Unix epoch.
    pub first_us: u64,
    pub last_us: u64,
}

/// What a collection found and did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CollectedView {
    /// Whether nothing was to be removed.
    pub dry_run: bool,
    /// The transaction as of which objects were looked at; what was touched after it was left alone.
    pub since: Tid,
    /// How many objects there were.
    pub objects: u64,
    /// How many of them could not be reached, and were not touched meanwhile.
    pub unreachable: u64,
    /// How many were removed. What somebody else removed meanwhile is not counted.
    pub removed: u64,
    /// How many could not be reached at first, and were left because they were touched, or touched ones led to them.
    pub spared: u64,
    /// The transactions that removed them. Until the history is packed, they can be undone, the last one first.
    pub transactions: Vec<Tid>,
    pub elapsed_ms: u64,
}
