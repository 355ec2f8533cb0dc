//! The executor thread: runs commands one after another, numbers and records them, and hands them over in batches.
//!
//! It hands over whenever the committer is ready, so a batch holds what was executed while the one before was made durable:
//! one transaction when there is little to do, thousands when there is much.

mod admit;
mod collect;
mod deliver;
mod install;
mod pack;
mod parents;
mod table;
mod undo;

use std::{
    collections::VecDeque,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use theseus_abi::{Failure, FailureCode};
use theseus_value::{ObjectId, Value, raw::Writer as ValueWriter};

pub use self::deliver::Posting;
use super::{
    CREATE, Command, Doing, ObjectName, PluginSet, Refusal, Reply, Start, UpgradeSink, Vitals,
    committer::{self, Answer, Commit, Committing, Ready},
    host_object::{self, Remember},
    intake::Outlet,
    messages, now_us,
    reach::Sweeping,
    request_memory,
    room::{RoomWatch, ToCome},
    scheduler::Inbox,
    spawn, split_mix,
    state::storage,
    turn::{Scratch, Turn},
};
use crate::{
    config,
    identity::{CheckpointPlan, Committer, Draft, HOST_OBJECT, Outcome, Tid, Writer, count_objects, getrandom},
    plugin::{CallHost, Errands},
};

/// The note that ends an incarnation, and with it the executor.
pub(super) const STOP: &str = "theseus.stop";

/// The method under which a plugin's request for a restart cycle stands in the history.
const UPGRADE: &str = "theseus.upgrade_requested";

/// How long the executor waits for something to do before it sees to the object table.
const IDLE: Duration = Duration::from_millis(250);

/// After how many commands the executor looks whether to hand over, if it has more at hand and the batch is not full.
const LOOK_EACH: usize = 16;

/// For how many commands at hand the executor has the objects brought near the processor at once: enough that it need not wait for one
/// after another, few enough that the first is not driven away by the last.
const FORESEE: usize = 16;

/// Starts the executor, the committer and the checkpointer.
pub(super) fn start(
    start: &Start<'_>,
    vitals: &Arc<Vitals>,
    published: &Arc<ArcSwap<PluginSet>>,
    room: &Arc<RoomWatch>,
    queue: Outlet,
    inbox: &Arc<Inbox>,
) -> Vec<JoinHandle<()>> {
    let committer = Committer::new(start.identity.clone(), start.incarnation);
    let committing = Committing::new(committer, vitals, published);
    let (commit_sender, commits) = bounded(1);
    let (ready_sender, ready) = bounded(1);
    let (plan_sender, plans) = bounded(1);
    let mut seed = [0; 8];
    getrandom(&mut seed);
    let table_is_stuck = Arc::new(AtomicBool::new(false));
    let mut executor = Executor {
        writer: Writer::new(start.identity.clone(), start.resume),
        plugins: published.load_full(),
        superseded: VecDeque::new(),
        config: start.config.clone(),
        vitals: vitals.clone(),
        scratch: Scratch::default(),
        answers: Vec::new(),
        spent: None,
        seeds: u64::from_le_bytes(seed),
        queue,
        commits: commit_sender,
        ready,
        committer: None,
        committing: committing.clone(),
        plans: plan_sender,
        table_is_stuck: table_is_stuck.clone(),
        room: room.clone(),
        measured: 0,
        upgrades: start.upgrades.clone(),
        inbox: inbox.clone(),
        messages_left: 0,
        checkpointed: Instant::now(),
        stopping: false,
        sweeping: None,
        foreseen: 0,
        in_company: false,
    };
    let (waiting, set_aside) = executor.count_messages();
    vitals.messages_waiting.store(waiting, Ordering::Relaxed);
    vitals.messages_set_aside.store(set_aside, Ordering::Relaxed);
    vitals.objects.store(count_objects(executor.writer.census()), Ordering::Relaxed);
    vitals.next_object.store(executor.writer.next_object(), Ordering::Relaxed);
    let (identity, checkpointer_vitals) = (start.identity.clone(), vitals.clone());
    vec![
        committer::start(committing, commits, ready_sender),
        spawn("checkpointer", move || table::checkpointer(&identity, &plans, &table_is_stuck, &checkpointer_vitals)),
        spawn("executor", move || executor.run(&Errands::of_this_thread())),
    ]
}

struct Executor {
    writer: Writer,
    plugins: Arc<PluginSet>,
    /// The sets that swaps replaced, with the transaction of the swap, until it is durable.
    superseded: VecDeque<(Tid, Arc<PluginSet>)>,
    config: config::Config,
    vitals: Arc<Vitals>,
    scratch: Scratch,
    /// Those who wait for the open batch.
    answers: Vec<Answer>,
    /// See [`Answer::spent`].
    spent: Option<(String, Vec<u8>)>,
    seeds: u64,
    queue: Outlet,
    commits: Sender<Commit>,
    /// Says when the committer can take a batch.
    ready: Receiver<Ready>,
    /// What it said, or what was found out here, until it gets one.
    committer: Option<Ready>,
    committing: Arc<Committing>,
    plans: Sender<CheckpointPlan>,
    /// Whether the last checkpoint failed for want of room.
    table_is_stuck: Arc<AtomicBool>,
    room: Arc<RoomWatch>,
    /// How many bytes were recorded when the executor had it measured last.
    measured: u64,
    upgrades: UpgradeSink,
    /// Takes the messages that wait.
    inbox: Arc<Inbox>,
    /// How many more may come to wait, about.
    messages_left: u64,
    /// When the table was last to be brought up to date.
    checkpointed: Instant,
    stopping: bool,
    /// The collection under way.
    sweeping: Option<Box<Sweeping>>,
    /// Of how many of the next commands the objects are near the processor already.
    foreseen: usize,
    /// Whether a command came while this thread committed, and since then there was always something under way when one came.
    in_company: bool,
}

/// What one command comes to.
enum Executed {
    /// A transaction was recorded.
    Recorded { tid: Tid, outcome: Outcome, pause_us: u64 },
    /// A query, or the repetition of a request: nothing new was recorded.
    Answered { tid: Option<Tid>, outcome: Outcome },
    /// Nothing was done.
    Refused(Refusal),
}

impl From<Failure> for Executed {
    fn from(failure: Failure) -> Self {
        Executed::Refused(Refusal::Failed(failure))
    }
}

impl Executor {
    fn run(mut self, errands: &Errands) {
        loop {
            if errands.are_due() {
                self.vitals.busy(0);
                errands.run();
                self.vitals.idle(0);
            }
            if self.is_time_to_look() && self.hand_over() {
                self.see_to_the_table();
            }
            let next = self.next(errands.bell());
            // After the wait, because the verdict may have come meanwhile.
            if self.committing.is_failed(self.writer.epoch()) {
                self.roll_back();
            }
            match next {
                Next::Command(command) => self.perform(command),
                Next::Nothing => {}
                Next::Rest => {
                    self.see_to_the_table();
                    self.checkpoint();
                }
                Next::End => break,
            }
        }
        self.finish_the_table();
        // Who came after the stop.
        for command in self.queue.close() {
            (command.reply)(Err(Refusal::Stopping));
        }
        // The channels close with the executor, and the threads behind them end.
    }

    /// Waits for a command, for an errand, or for the moment to hand the open batch over.
    fn next(&mut self, bell: &Receiver<()>) -> Next {
        let idle = self.answers.is_empty();
        if self.stopping {
            // The open batch was just given to the committer, however many commands wait.
            return Next::End;
        }
        if self.foreseen == 0 {
            self.foresee();
        }
        if let Some(command) = self.queue.next() {
            self.foreseen = self.foreseen.saturating_sub(1);
            return Next::Command(command);
        }
        let patience = match &self.committer {
            _ if idle => {
                self.writer.reader().release();
                IDLE
            }
            Some(ready) => ready.patience(),
            None => {
                let Some(alarm) = self.queue.alarm() else { return Next::Nothing };
                return select! {
                    recv(alarm) -> _ => Next::Nothing,
                    recv(self.ready) -> ready => {
                        self.committer = ready.ok();
                        Next::Nothing
                    }
                    recv(bell) -> _ => Next::Nothing,
                };
            }
        };
        let Some(alarm) = self.queue.alarm() else { return Next::Nothing };
        let next = select! {
            recv(alarm) -> rang => if rang.is_err() && idle { Next::End } else { Next::Nothing },
            recv(bell) -> _ => Next::Nothing,
            default(patience) => if idle { Next::Rest } else { Next::Nothing },
        };
        // Who comes while nothing is under way may be alone again.
        if idle && self.in_company {
            self.committer = self.committer.take().or_else(|| self.ready.try_recv().ok());
            self.in_company = self.committer.is_none();
        }
        next
    }

    /// Has what the next commands are going to need brought near the processor.
    fn foresee(&mut self) {
        let receiver = |command: &Command| match command.doing {
            Doing::Send { object: ObjectName::Id(object), .. } => Some(object),
            _ => None,
        };
        let coming = self.queue.coming().take(FORESEE);
        self.foreseen = self.queue.in_hand().min(FORESEE);
        self.writer.identity().foresee(coming.filter_map(receiver));
    }

    /// Whether the open batch may have to be handed over. While commands come one after another, that is asked for now and then.
    fn is_time_to_look(&self) -> bool {
        self.queue.in_hand() == 0 || self.answers.len().is_multiple_of(LOOK_EACH) || self.is_full() || self.stopping
    }

    /// Whether the open batch may not grow further.
    fn is_full(&self) -> bool {
        let (transactions, bytes) = self.writer.open_batch();
        let limits = &self.config.execution;
        transactions >= limits.batch_transactions_max || bytes >= limits.batch_bytes_max
    }

    /// Has the open batch committed if the committer is ready, or waits until it is if the batch is full or the last one. Answers whether
    /// that was begun, or done here.
    ///
    /// Callers who were just answered are likely to send again at once. To take them along, a batch waits for as many
    /// commands as the last commit answered, but only for a small part of the time that the commit took.
    fn hand_over(&mut self) -> bool {
        if self.answers.is_empty() {
            return false;
        }
        let at_once = self.is_full() || self.stopping;
        // Who waits behind so many others gets an answer sooner if fewer commits are made for them.
        if self.queue.in_hand() > 2 * self.answers.len() && !at_once {
            return false;
        }
        if self.committer.is_none() {
            self.committer = if at_once { self.ready.recv().ok() } else { self.ready.try_recv().ok() };
        }
        if let Some(ready) = &self.committer
            && (at_once || self.answers.len() >= ready.answered || ready.patience().is_zero())
        {
            let is_alone = self.answers.len() == 1 && ready.answered <= 1 && !self.in_company && self.queue.is_empty();
            // With a base come records to be removed, and for that the committer thread has to be woken.
            let here = is_alone && !at_once && !self.writer.has_base();
            let committing = self.committing.clone();
            match here.then(|| committing.idle()).flatten() {
                Some(committer) => self.commit_here(committer),
                None => self.close_batch(),
            }
            return true;
        }
        false
    }

    /// Gives the open batch to the committer, which has to be ready.
    fn close_batch(&mut self) {
        self.committer = None;
        let commit = self.take_batch();
        self.commits.send(commit).unwrap_or_else(|_| panic!("the committer outlives the executor"));
    }

    /// Commits the open batch on this thread.
    fn commit_here(&mut self, mut committer: MutexGuard<'_, Committer>) {
        let commit = self.take_batch();
        let committed = self.committing.commit(&mut committer, commit);
        drop(committer);
        self.committer = Some(committed.ready());
        // Others could have been served meanwhile.
        self.in_company = !self.queue.is_empty();
        committed.give();
    }

    fn take_batch(&mut self) -> Commit {
        self.writer.reader().refresh();
        let room = Vec::with_capacity(self.answers.len());
        Commit {
            batch: self.writer.close_batch(),
            plugins: self.plugins.clone(),
            answers: std::mem::replace(&mut self.answers, room),
            objects: count_objects(self.writer.census()),
            messages: self.count_messages(),
            next_object: self.writer.next_object(),
        }
    }

    /// Forgets what a failed commit refused.
    fn roll_back(&mut self) {
        // It has followed what was not to be.
        self.sweeping = None;
        self.writer.roll_back();
        let durable = self.writer.reader().identity().head().tid;
        while let Some((tid, _)) = self.superseded.back()
            && *tid > durable
        {
            (_, self.plugins) = self.superseded.pop_back().expect("it was just looked at");
        }
        committer::give(std::mem::take(&mut self.answers), &Err(self.committing.refusal()));
        // What was delivered waits again.
        self.inbox.look_again();
        self.count_messages();
    }

    /// How many messages wait, and how many were set aside.
    fn count_messages(&mut self) -> (u64, u64) {
        let (waiting, set_aside) = messages::count(self.writer.census());
        self.messages_left = self.config.execution.messages_waiting_max.saturating_sub(waiting);
        (waiting, set_aside)
    }

    fn perform(&mut self, command: Command) {
        let Command { doing, request_id, reply } = command;
        // Also if it cannot be recorded any more.
        self.stopping |= matches!(doing, Doing::Note { what: STOP, .. });
        if let Some(message) = self.vitals.fatal() {
            return reply(Err(Refusal::StorageFailed { message }));
        }
        self.see_to_the_room();
        if let Some(refusal) = self.no_room()
            && self.takes_room(&doing)
            && !self.has_seen(request_id.as_deref())
        {
            // Else nobody would while there are only commands to refuse.
            self.see_to_the_table();
            return reply(Err(refusal));
        }
        self.vitals.busy(0);
        let executed = self.execute(doing, request_id.as_deref());
        self.vitals.idle(0);
        match executed {
            Executed::Recorded { tid, outcome, pause_us } => self.answer(reply, Some(tid), Ok(outcome), pause_us),
            Executed::Answered { tid, outcome } => self.answer(reply, tid, Ok(outcome), 0),
            Executed::Refused(refusal) => self.answer(reply, None, Err(refusal), 0),
        }
    }

    fn answer(&mut self, reply: Reply, tid: Option<Tid>, outcome: Result<Outcome, Refusal>, pause_us: u64) {
        self.answers.push(Answer { reply, tid, outcome, pause_us, spent: self.spent.take() });
    }

    fn execute(&mut self, doing: Doing, request_id: Option<&str>) -> Executed {
        match doing {
            Doing::Send { object, method, arguments } => {
                // A name that stands for nothing any more does not keep a request from being recognised.
                let target = self.turn(0, 0).find(&object);
                if let Some(known) = self.repetition(request_id, target.as_ref().ok().copied(), &method, &arguments) {
                    return known;
                }
                let executed = match target {
                    Ok(target) => self.send(target, &method, &arguments, request_id),
                    Err(failure) => failure.into(),
                };
                self.spent = Some((method, arguments));
                executed
            }
            Doing::Look { look } => {
                look(&self.plugins, self.writer.census());
                Executed::Answered { tid: None, outcome: Outcome::Done([].into()) }
            }
            Doing::Install { what, generations, removed, admit, note, remember } => {
                self.install(what, (&generations, &removed), admit, &note, remember)
            }
            Doing::Post(posting) => self.post(&posting, request_id),
            Doing::Cancel { message } => self.cancel(message, request_id),
            Doing::Retry { message } => self.retry(message, request_id),
            Doing::Deliver { message, due_us } => self.deliver(message, due_us),
            Doing::Migrate { objects, report } => self.migrate(&objects, report),
            Doing::Note { what, note, remember } => self.note(what, &note, remember),
            Doing::Undo { tids, plan } => self.undo(&tids, plan, request_id),
            Doing::Pack { base, note } => self.pack(base, &note),
            Doing::Checkpoint => {
                self.checkpoint();
                Executed::Answered { tid: None, outcome: Outcome::Done([].into()) }
            }
            Doing::Collect { step, report } => self.collect(step, report),
            Doing::Parents { object, parents } => self.set_parents(&object, &parents, request_id),
            Doing::Create { .. }
            | Doing::Clone { .. }
            | Doing::Derive { .. }
            | Doing::Delete { .. }
            | Doing::Name { .. } => self.edit(&doing, request_id),
        }
    }

    /// Executes a message and records it, or answers a query.
    fn send(&mut self, target: ObjectId, method: &str, arguments: &[u8], request_id: Option<&str>) -> Executed {
        let (time_us, seed) = (now_us(), split_mix(&mut self.seeds));
        let mut turn = self.turn(time_us, seed);
        let result = turn.check_references(arguments, &[]).and_then(|()| turn.message(target, method, arguments));
        if let Some(failure) = turn.poison.take() {
            return failure.into();
        }
        let (command, entered, upgrade) = (turn.command, turn.entered, turn.upgrade.take());
        let outcome = match result {
            Ok(buffers) => {
                let outcome = Outcome::Done(buffers.result.as_slice().into());
                self.scratch.recycle(buffers);
                outcome
            }
            // What never reached the author's code, or failed by no fault of it, has no place in the history.
            Err(failure) if !command || !entered || is_unrecorded(failure.code) => return failure.into(),
            Err(failure) => Outcome::failed(failure),
        };
        if !command {
            return Executed::Answered { tid: None, outcome };
        }
        let recorded =
            self.record(Recording { request_id, target: Some(target), method, arguments, time_us, seed, outcome });
        if let (Executed::Recorded { .. }, Some(request)) = (&recorded, upgrade) {
            self.note_upgrade(target, &request, time_us);
        }
        recorded
    }

    /// Writes a plugin's request for a restart cycle into the history, from where the runtime takes it.
    fn note_upgrade(&mut self, requested_by: ObjectId, request: &[u8], time_us: u64) {
        self.scratch.clear();
        let outcome = Outcome::Done([].into());
        let noted = self.record(Recording {
            request_id: None,
            target: Some(requested_by),
            method: UPGRADE,
            arguments: request,
            time_us,
            seed: 0,
            outcome,
        });
        if let Executed::Recorded { tid, outcome, .. } = noted {
            let (upgrades, request) = (self.upgrades.clone(), request.to_vec());
            let reply: Reply = Box::new(move |durable| {
                if durable.is_ok() {
                    upgrades(requested_by, request);
                }
            });
            self.answer(reply, Some(tid), Ok(outcome), 0);
        }
    }

    /// Makes, copies, names or removes an object for a client.
    fn edit(&mut self, doing: &Doing, request_id: Option<&str>) -> Executed {
        let (method, note) = match Self::describe(doing) {
            Ok(described) => described,
            Err(failure) => return failure.into(),
        };
        if let Some(known) = self.repetition(request_id, None, method, &note) {
            return known;
        }
        let (time_us, seed) = (now_us(), split_mix(&mut self.seeds));
        let mut turn = self.turn(time_us, seed);
        let made = match doing {
            Doing::Create { behavior, slots, name } => {
                turn.create(behavior, slots).map(|id| (Some(id), name.as_deref()))
            }
            Doing::Clone { object, name } => {
                turn.find(object).and_then(|id| turn.clone_object(id)).map(|id| (Some(id), name.as_deref()))
            }
            Doing::Derive { parents, name } => {
                let parents = parents.iter().map(|parent| turn.find(parent)).collect::<Result<Vec<_>, _>>();
                parents.and_then(|parents| turn.derive(&parents)).map(|id| (Some(id), name.as_deref()))
            }
            Doing::Delete { object } => turn.find(object).and_then(|id| turn.delete(id)).map(|()| (None, None)),
            Doing::Name { name, object: Some(object) } => turn.find(object).map(|id| (Some(id), Some(&**name))),
            Doing::Name { name, object: None } => {
                turn.find(&ObjectName::Name(name.clone())).map(|_| (None, Some(&**name)))
            }
            _ => unreachable!("these are not edits"),
        };
        let named = made.and_then(|(id, name)| match name {
            Some(name) => turn.name_set(name, id).map(|()| id),
            None => Ok(id),
        });
        match named {
            Ok(id) => {
                let mut result = Vec::new();
                match id {
                    Some(id) => ValueWriter::new(&mut result).reference(id),
                    None => ValueWriter::new(&mut result).null(),
                }
                let outcome = Outcome::Done(result.into());
                self.record(Recording { request_id, target: None, method, arguments: &note, time_us, seed, outcome })
            }
            Err(failure) => failure.into(),
        }
    }

    /// How an edit stands in the history: its name and its particulars, as the client gave them.
    fn describe(doing: &Doing) -> Result<(&'static str, Vec<u8>), Failure> {
        let optional = |name: &Option<String>| name.clone().map_or(Value::Null, Value::Text);
        let (method, particulars) = match doing {
            Doing::Create { behavior, slots, name } => {
                let slots = if slots.is_empty() { Ok(Value::Map(Default::default())) } else { Value::decode(slots) };
                let slots = slots.map_err(|error| Failure::new(FailureCode::BAD_SLOTS, error.to_string()))?;
                let behavior = Value::Text(behavior.clone());
                (CREATE, vec![("behavior", behavior), ("slots", slots), ("name", optional(name))])
            }
            Doing::Clone { object, name } => {
                ("theseus.clone", vec![("object", given(object)), ("name", optional(name))])
            }
            Doing::Derive { parents, name } => {
                // One parent stands there as it did before there could be several.
                let parents = match &parents[..] {
                    [object] => ("object", given(object)),
                    objects => ("objects", Value::Array(objects.iter().map(given).collect())),
                };
                ("theseus.derive", vec![parents, ("name", optional(name))])
            }
            Doing::Delete { object } => ("theseus.delete", vec![("object", given(object))]),
            Doing::Name { name, object } => {
                let object = object.as_ref().map_or(Value::Null, given);
                ("theseus.name", vec![("name", Value::Text(name.clone())), ("object", object)])
            }
            _ => unreachable!("these are not edits"),
        };
        let note = particulars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok((method, Value::Map(note).encode()))
    }

    /// Records what the host itself did, with what it remembers of it.
    fn note(&mut self, what: &str, note: &[u8], remember: Option<Remember>) -> Executed {
        self.scratch.clear();
        let time_us = now_us();
        match host_object::write(&mut self.writer, time_us, remember) {
            Ok(Some(record)) => self.scratch.put(HOST_OBJECT, record),
            Ok(None) => {}
            Err(error) => return storage(error).into(),
        }
        let outcome = Outcome::Done([].into());
        let (request_id, target, seed) = (None, None, 0);
        self.record(Recording { request_id, target, method: what, arguments: note, time_us, seed, outcome })
    }

    /// Records a transaction with what the turn before it left in the scratch, if it ended well.
    fn record(&mut self, recording: Recording<'_>) -> Executed {
        let Recording { request_id, target, method, arguments, time_us, seed, outcome } = recording;
        let changes = self.scratch.take_changes();
        let (writes, names) = &changes;
        let draft = Draft { request_id, target, method, arguments, time_us, seed, outcome: &outcome, writes, names };
        let recorded = self.writer.record(&draft);
        if self.sweeping.is_some() {
            self.touch(target, writes, names);
        }
        let tid = match recorded {
            Ok(tid) => tid,
            Err(error) => return storage(error).into(),
        };
        for (object, record) in writes {
            if let Some(due_us) = record.as_deref().and_then(messages::due_us) {
                self.messages_left = self.messages_left.saturating_sub(1);
                self.inbox.waits(due_us, *object);
            }
        }
        self.scratch.give_back(changes);
        Executed::Recorded { tid, outcome, pause_us: 0 }
    }

    /// A fresh turn on the newest state.
    fn turn(&mut self, time_us: u64, seed: u64) -> Turn<'_> {
        let (next_object, messages_left) = (self.writer.next_object(), self.messages_left);
        let (reader, limits) = (self.writer.reader(), &self.config.execution);
        let turn = Turn::new(reader, &mut self.scratch, &self.plugins, limits, (time_us, seed));
        Turn { next_object, messages_left, ..turn }
    }
}

/// An object as a client named it.
fn given(object: &ObjectName) -> Value {
    match object {
        ObjectName::Id(id) => Value::Ref(*id),
        ObjectName::Name(name) => Value::Text(name.clone()),
    }
}

fn is_unrecorded(code: FailureCode) -> bool {
    matches!(code, FailureCode::BAD_ARGUMENTS | FailureCode::STORAGE | FailureCode::IDENTITY_DAMAGED)
}

/// A transaction on its way into the history, but for what it changed.
struct Recording<'a> {
    request_id: Option<&'a str>,
    target: Option<ObjectId>,
    method: &'a str,
    arguments: &'a [u8],
    time_us: u64,
    seed: u64,
    outcome: Outcome,
}

/// What the executor does next.
enum Next {
    Command(Command),
    /// Looks after the open batch.
    Nothing,
    /// Nobody wanted anything for a while: time for the object table.
    Rest,
    End,
}
