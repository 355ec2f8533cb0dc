//! Executing messages: commands one after another on one thread, queries in parallel on a few, commits on one more, as long as there is
//! something to do meanwhile.
//!
//! ```text
//! clients -> queue -> executor -> closed batch -> committer -> history, answers
//!                        |  forgets what a failed commit refused
//!                        +-> checkpoint plan -> checkpointer -> object table
//! clients -> queue -> query threads, each on a committed snapshot
//! ```
//!
//! Plugin code runs on the executor and the query threads only. The queues are bounded; what does not fit is refused at
//! once. A caller gets its answer when the batch of its transaction is durable, never before.

mod again;
mod committer;
mod executor;
mod faults;
mod host_object;
mod intake;
mod messages;
mod misses;
mod plugins;
mod queries;
mod reach;
mod room;
mod scheduler;
mod schemas;
mod slots;
mod state;
mod turn;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustix::time::{ClockId, clock_gettime};
use theseus_abi::Failure;
use theseus_value::ObjectId;

#[cfg(test)]
pub(crate) use self::state::Nothing;
pub use self::{
    again::{Given, Repeated, Repeater},
    executor::Posting,
    faults::{Fault, Faults, Tally},
    host_object::{Moment, Remember, begin},
    messages::{Due, Message, MessageState, count as count_messages, delivered_by},
    misses::{Miss, Misses},
    plugins::{BehaviorConflict, Behind, MethodKinds, PluginSet},
    queries::{Queried, QueryWorker},
    reach::{Marking, ObjectSet},
    room::{RoomWatch, Shortage, shortage},
    schemas::{Schemas, Way},
    slots::pick_slots,
    state::State,
    turn::{NAME_BYTES_MAX, check_name},
};
use self::{
    intake::{Intake, NoEntry},
    scheduler::Inbox,
};
use crate::{
    config,
    identity::{
        Base, Census, Head, Identity, Incarnation, Outcome, Reader, RecordedFailure, RequestMemory, Resume,
        StorageError, Tid, UndoError, UndoPlan, UndoRefusal,
    },
    plugin::Generation,
};

/// The name under which an object that a client made stands in the history.
pub const CREATE: &str = "theseus.create";

/// An object as a client names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectName {
    /// By id.
    Id(ObjectId),
    /// By its unique name.
    Name(String),
}

/// A transaction to execute.
pub struct Command {
    /// What to do.
    pub doing: Doing,
    /// The client's id for it: the same id is executed once.
    pub request_id: Option<String>,
    /// Takes what came of it.
    pub reply: Reply,
}

/// What a transaction does.
pub enum Doing {
    /// Sends a message. A query among commands is executed in its turn and leaves no trace.
    Send {
        /// The receiver.
        object: ObjectName,
        /// The method.
        method: String,
        /// The encoded arguments: a map, an array, or nothing at all.
        arguments: Vec<u8>,
    },
    /// Makes an object.
    Create {
        /// Its behaviour.
        behavior: String,
        /// Its encoded slots: a map, or nothing at all.
        slots: Vec<u8>,
        /// Its name.
        name: Option<String>,
    },
    /// Copies an object.
    Clone {
        /// The original.
        object: ObjectName,
        /// The copy's name.
        name: Option<String>,
    },
    /// Makes an empty object that delegates to others.
    Derive {
        /// All its parents, in this order; it gets the first one's behaviour.
        parents: Vec<ObjectName>,
        /// The new object's name.
        name: Option<String>,
    },
    /// Removes an object.
    Delete {
        /// Which.
        object: ObjectName,
    },
    /// Gives a name to an object, or frees it.
    Name {
        /// The name.
        name: String,
        /// The object; none to free the name.
        object: Option<ObjectName>,
    },
    /// Gives an object other parents.
    Parents {
        /// Which.
        object: ObjectName,
        /// All that it is to have, in this order.
        parents: Vec<ObjectName>,
    },
    /// Posts a message for after the commit.
    Post(Posting),
    /// Takes a posted message back.
    Cancel {
        /// Which.
        message: ObjectId,
    },
    /// Makes a message due at once whose delivery has failed.
    Retry {
        /// Which.
        message: ObjectId,
    },
    /// Delivers a posted message, if it still is due at that time.
    Deliver {
        /// Which.
        message: ObjectId,
        /// When it is due, in microseconds since the Unix epoch.
        due_us: u64,
    },
    /// Puts another set in force: a swap.
    Install {
        /// Under which it stands in the history, such as `theseus.swap`.
        what: &'static str,
        /// The generations that come into force, at most one of each plugin.
        generations: Vec<Arc<Generation>>,
        /// The plugins that leave without another in their place.
        removed: Vec<Arc<str>>,
        /// Looks at the set in force and the objects there are, at the moment of the swap.
        admit: Admit,
        /// What the history says about it: an encoded map.
        note: Vec<u8>,
        /// What the host remembers of it.
        remember: Option<Remember>,
    },
    /// Brings objects into the schemas of the behaviours in force, as far as a step may go: one transaction, if there is
    /// anything to do.
    Migrate {
        /// Which. Those that are there already, or not there any more, are passed over.
        objects: Vec<ObjectId>,
        /// Takes what came of them, before that is durable. Called on the executor, so it must be quick.
        report: Box<dyn FnOnce(MigrationStep) + Send>,
    },
    /// Takes a collection of unreachable objects a step further. Each step is short, and leaves a trace if it removes something.
    Collect {
        /// Which step.
        step: CollectStep,
        /// Takes what came of it, before that is durable. Called on the executor, so it must be quick.
        report: Box<dyn FnOnce(Collected) + Send>,
    },
    /// Looks at the set in force and the objects there are, between two transactions. Leaves no trace.
    Look {
        /// Called on the executor, so it must be quick.
        look: Look,
    },
    /// Takes transactions back.
    Undo {
        /// Which.
        tids: Vec<Tid>,
        /// What has to be written, as [`plan_undo`] says, or why it may not be.
        plan: Result<UndoPlan, Refusal>,
    },
    /// Puts a base in force: what came before it is packed away.
    Pack {
        /// The base.
        base: Arc<Base>,
        /// What the history says about it: an encoded map.
        note: Vec<u8>,
    },
    /// Has the object table brought forward, if that is not being done already. Leaves no trace.
    Checkpoint,
    /// Writes into the history what the host itself did.
    Note {
        /// What, such as `theseus.start`.
        what: &'static str,
        /// The particulars: an encoded map.
        note: Vec<u8>,
        /// What the host remembers of it.
        remember: Option<Remember>,
    },
}

/// Plans a [`Doing::Undo`] on what is durable.
///
/// # Errors
///
/// Why the transactions may not be taken back, or what the storage failed with.
pub fn plan_undo(reader: &mut Reader, tids: &[Tid]) -> Result<UndoPlan, Refusal> {
    reader.plan_undo(tids).map_err(Refusal::from)
}

impl From<UndoError> for Refusal {
    fn from(error: UndoError) -> Self {
        match error {
            UndoError::Refused(refusal) => refusal.into(),
            UndoError::Storage(StorageError::Packed { before }) => UndoRefusal::Packed { before }.into(),
            UndoError::Storage(error) => state::storage(error).into(),
        }
    }
}

/// See [`Doing::Look`].
pub type Look = Box<dyn FnOnce(&PluginSet, &Census) + Send>;

/// See [`Doing::Install`]. Answers all the fallbacks of the set that will be in force, or in words why it may not be.
pub type Admit = Box<dyn FnOnce(&PluginSet, &Census) -> Result<Vec<Arc<Generation>>, String> + Send>;

/// See [`Doing::Collect`].
pub enum CollectStep {
    /// Begins: from now on all that is touched is kept.
    Begin,
    /// Hands over what cannot be reached from any root.
    Offer(ObjectSet),
    /// Takes what was touched from that, with all that it leads to, and removes some of the rest if that is done, and asked for.
    Sweep {
        /// Whether to remove.
        remove: bool,
    },
    /// Ends, however far it is.
    End,
}

/// What a [`Doing::Collect`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Ids below this one are looked at.
    pub limit: u64,
    /// Whether everything that was touched has been followed.
    pub settled: bool,
    /// How many objects this step removed.
    pub removed: u64,
    /// How many are left to be removed.
    pub left: u64,
    /// How many were to be removed and are not, because they were touched, or touched ones led to them.
    pub spared: u64,
    /// Whether the collection is no more: a commit failed meanwhile, and what was touched is not what it seemed.
    pub broken_off: bool,
}

/// What a [`Doing::Migrate`] came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MigrationStep {
    /// How many of the objects were looked at, from the first on; the others are for another step.
    pub examined: usize,
    /// How many were brought up, by behaviour, from which schema version, to which.
    pub migrated: BTreeMap<(Arc<str>, u32, u32), u64>,
    /// The objects that are left as they were, and why.
    pub failed: Vec<(ObjectId, Failure)>,
    /// What has still another schema than its behaviour in force.
    pub behind: Vec<Behind>,
}

/// Takes what came of a command or query. Called on a thread of the executor's, so it must be quick and not block.
pub type Reply = Box<dyn FnOnce(Result<Done, Refusal>) + Send>;

/// What came of a command or query.
#[derive(Clone, Debug)]
pub struct Done {
    /// The transaction; none for a query.
    pub tid: Option<Tid>,
    /// How it ended.
    pub outcome: Outcome,
    /// A durable point of the history that includes it.
    pub head: Head,
    /// Microseconds during which a swap kept other transactions from starting; 0 for everything else.
    pub pause_us: u64,
}

/// Why a command or query was not executed. Nothing was changed and nothing was recorded, but for
/// [`StorageFailed`](Refusal::StorageFailed).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The queue is full.
    #[error("the host has more to do than fits its queue: try again in a moment")]
    Overloaded,
    /// The host is stopping.
    #[error("the host is stopping: the next one will answer")]
    Stopping,
    /// There is no room on the disk.
    #[error("{message}")]
    StorageFull {
        /// The storage's words.
        message: String,
    },
    /// The storage failed, and with it the host. The disk may hold the transaction: the next host knows.
    #[error("{message}: the host ends; whether this was done the next one knows, by its request id")]
    StorageFailed {
        /// The storage's words.
        message: String,
    },
    /// The request id was used for something else.
    #[error("the request id was used for another request, in transaction {tid}: take a new one")]
    RequestIdReused {
        /// The transaction that executed that.
        tid: Tid,
    },
    /// The request was executed, and its answer has been packed away.
    #[error("{message}")]
    Packed {
        /// The storage's words.
        message: String,
    },
    /// A swap was not admitted.
    #[error("{reason}")]
    NotAdmitted {
        /// Why.
        reason: String,
    },
    /// Transactions may not be taken back.
    #[error(transparent)]
    NotUndone(#[from] UndoRefusal),
    /// It could not be begun: no such object, no such method, arguments that do not fit ...
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// A number in a cache line of its own: each thread writes its own all the time.
#[derive(Default)]
#[repr(align(64))]
struct OwnLine(AtomicU64);

/// What the threads tell about themselves.
#[derive(Default)]
pub struct Vitals {
    /// Why the host cannot go on, once it cannot. A lock because any thread may be the one to find out.
    fatal: Mutex<Option<String>>,
    /// Whether there is something in `fatal`.
    has_failed: AtomicBool,
    /// When each plugin-running thread began its present message, in milliseconds of [`coarse_ms`], plus one; 0 if idle.
    busy_since_ms: Box<[OwnLine]>,
    /// Transactions recorded and batches committed since the start.
    pub transactions: AtomicU64,
    /// Batches committed since the start.
    pub batches: AtomicU64,
    /// Queries executed since the start, by thread.
    queries: Box<[OwnLine]>,
    /// Objects as of the last batch handed to the committer.
    pub objects: AtomicU64,
    /// The id that the next new object gets, as of the last durable batch.
    pub next_object: AtomicU64,
    /// Messages that wait to be delivered, as of the last durable batch.
    pub messages_waiting: AtomicU64,
    /// Messages that were set aside, as of then.
    pub messages_set_aside: AtomicU64,
}

impl Vitals {
    fn new(threads: usize) -> Vitals {
        let busy_since_ms = (0..threads).map(|_| OwnLine::default()).collect();
        let queries = (0..threads).map(|_| OwnLine::default()).collect();
        Vitals { busy_since_ms, queries, ..Vitals::default() }
    }

    fn busy(&self, thread: usize) {
        self.busy_since_ms[thread].0.store(coarse_ms() + 1, Ordering::Relaxed);
    }

    fn idle(&self, thread: usize) {
        self.busy_since_ms[thread].0.store(0, Ordering::Relaxed);
    }

    fn fail(&self, message: String) {
        log::error!("the host cannot go on: {message}");
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        self.has_failed.store(true, Ordering::Release);
    }

    /// Why the host cannot go on; none if it can.
    pub fn fatal(&self) -> Option<String> {
        // Asked before each command.
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Queries executed since the start.
    pub fn queries(&self) -> u64 {
        self.queries.iter().map(|queries| queries.0.load(Ordering::Relaxed)).sum()
    }

    /// How long the longest message under way has taken, in milliseconds.
    pub fn longest_call_ms(&self) -> u64 {
        let now = coarse_ms() + 1;
        let since = |busy: &OwnLine| busy.0.load(Ordering::Relaxed);
        self.busy_since_ms
            .iter()
            .map(since)
            .filter(|since| *since > 0)
            .map(|since| now - since.min(now))
            .max()
            .unwrap_or(0)
    }
}

/// The running threads.
pub struct Engine {
    identity: Arc<Identity>,
    vitals: Arc<Vitals>,
    published: Arc<ArcSwap<PluginSet>>,
    commands: Arc<Intake>,
    queries: Sender<queries::Query>,
    stopping: Arc<AtomicBool>,
    room: Arc<RoomWatch>,
    /// Dropped at the stop, which ends the watch of the room.
    watching: Mutex<Option<Sender<()>>>,
    inbox: Arc<Inbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Engine {
    /// Has the scheduler end, which keeps the executor's queue open.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.inbox.ring();
    }
}

/// What an engine starts from.
pub struct Start<'a> {
    /// The identity.
    pub identity: Arc<Identity>,
    /// Where it goes on.
    pub resume: &'a Resume,
    /// The number of this start.
    pub incarnation: Incarnation,
    /// The plugins in force.
    pub plugins: Arc<PluginSet>,
    /// The settings.
    pub config: &'a config::Config,
    /// Takes a plugin's request for a restart cycle once its transaction is durable: who asked, and the encoded request.
    pub upgrades: UpgradeSink,
}

/// See [`Start::upgrades`]. Called on the thread that commits, so it must be quick and not block.
pub type UpgradeSink = Arc<dyn Fn(ObjectId, Vec<u8>) + Send + Sync>;

impl Engine {
    /// Starts the threads.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    pub fn start(start: Start<'_>) -> Engine {
        let execution = &start.config.execution;
        let vitals = Arc::new(Vitals::new(1 + execution.query_threads));
        let published = Arc::new(ArcSwap::new(start.plugins.clone()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (commands, command_queue) = intake::intake(execution.queue_max);
        let (queries, query_queue) = bounded(execution.query_queue_max);
        let (room, (watching, unwatched)) = (Arc::new(RoomWatch::default()), bounded(0));
        let watch = room::start(room.clone(), start.identity.clone(), start.config.identity.clone(), unwatched);
        let (commands, inbox) = (Arc::new(commands), Arc::new(Inbox::new()));
        let mut threads = executor::start(&start, &vitals, &published, &room, command_queue, &inbox);
        threads.push(watch);
        threads.push(scheduler::start(&start, &vitals, &inbox, commands.clone(), stopping.clone()));
        threads.extend(queries::start(&start, &vitals, &published, &query_queue));
        let threads = Mutex::new(threads);
        let watching = Mutex::new(Some(watching));
        Engine {
            identity: start.identity,
            vitals,
            published,
            commands,
            queries,
            stopping,
            room,
            watching,
            inbox,
            threads,
        }
    }

    /// The identity.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What the threads tell about themselves.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// How much room there is.
    pub fn room(&self) -> &RoomWatch {
        &self.room
    }

    /// The plugins in force as of the last durable transaction.
    pub fn plugins(&self) -> Arc<PluginSet> {
        self.published.load_full()
    }

    /// Which kinds of method a name stands for, over all behaviours in force.
    pub fn method_kinds(&self, method: &str) -> MethodKinds {
        self.published.load().method_kinds(method)
    }

    /// Whether nothing new is begun any more.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// How many commands and queries wait.
    pub fn waiting(&self) -> (usize, usize) {
        (self.commands.len(), self.queries.len())
    }

    /// Queues a command. Its reply is called here and now if it is refused. One that slips in while the engine ends is dropped
    /// uncalled, as is the connection that it came from.
    pub fn command(&self, command: Command) {
        if self.stopping.load(Ordering::Acquire) {
            return (command.reply)(Err(Refusal::Stopping));
        }
        match self.commands.offer(command) {
            Ok(()) => {}
            Err(NoEntry::Full(command)) => (command.reply)(Err(Refusal::Overloaded)),
            Err(NoEntry::Closed(command)) => (command.reply)(Err(Refusal::Stopping)),
        }
    }

    /// Queues something to be done on a query thread.
    ///
    /// # Errors
    ///
    /// If the queue is full or the host is stopping; then it is dropped.
    pub fn query(&self, work: impl FnOnce(&mut QueryWorker) + Send + 'static) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::Stopping);
        }
        self.queries.try_send(Box::new(work)).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Overloaded,
            TrySendError::Disconnected(_) => Refusal::Stopping,
        })
    }

    /// Refuses what comes from now on, finishes what was queued, writes `note` as the last transaction, and ends the
    /// threads. Answers the last head.
    ///
    /// # Errors
    ///
    /// If the last transaction could not be made durable.
    pub fn stop(&self, note: Vec<u8>) -> Result<Head, Refusal> {
        if self.stopping.swap(true, Ordering::AcqRel) {
            return Err(Refusal::Stopping);
        }
        let (sender, receiver) = bounded(1);
        let reply: Reply = Box::new(move |result| _ = sender.send(result));
        let doing = Doing::Note { what: executor::STOP, note, remember: None };
        // Also if the queue is full. Everything in it is executed before.
        if self.commands.force(Command { doing, request_id: None, reply }).is_err() {
            return Err(Refusal::Stopping);
        }
        let done = receiver.recv().unwrap_or(Err(Refusal::Stopping));
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.inbox.ring();
        for _ in 0..self.vitals.busy_since_ms.len() {
            _ = self.queries.send(Box::new(|worker| worker.end()));
        }
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the engine had panicked");
            }
        }
        done.map(|done| done.head)
    }
}

impl From<Failure> for RecordedFailure {
    fn from(failure: Failure) -> Self {
        RecordedFailure {
            code: failure.code.name().to_owned(),
            kind: failure.kind.into(),
            message: failure.message.into(),
        }
    }
}

/// Which request ids are remembered now.
pub(crate) fn request_memory(settings: &config::Identity) -> RequestMemory {
    RequestMemory {
        count_max: settings.request_ids_max as u64,
        since_us: now_us().saturating_sub(settings.request_ids_ms.saturating_mul(1000)),
    }
}

/// Milliseconds of a clock that only goes forward, in steps of a few. It is read before each message, and a clock that steps costs a
/// tenth of an exact one.
fn coarse_ms() -> u64 {
    #[cfg(target_os = "linux")]
    const CLOCK: ClockId = ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    const CLOCK: ClockId = ClockId::Monotonic;

    let now = clock_gettime(CLOCK);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The next number of the SplitMix64 sequence (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The stack of a thread that executes messages: deep nesting of messages takes stack, and plugins are generous with it.
pub(crate) const STACK_BYTES: usize = 64 << 20;

/// Starts a thread whose panic is the host's end: a host that has lost a thread must not go on answering.
///
/// # Panics
///
/// If the system gives no thread.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let guarded = move || {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            log::error!(
                "a thread of the host panicked; the host ends, so that it can be started again from what is durable"
            );
            std::process::abort();
        }
    };
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
    builder.spawn(guarded).expect("the system gives a thread at start")
}

/// A queue's receiving end, as the threads get it.
type Queue<T> = Receiver<T>;

#[cfg(test)]
mod tests;
