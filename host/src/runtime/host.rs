//! The running host: opens an identity, starts the engine with the plugins in force, and does what is asked.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select};
use theseus_abi::FailureCode;
use theseus_value::{ObjectId, Value};

use super::{
    action::{self, Action, ActionError, Answer, CallMode, Head, ObjectRef, StatusView, SwapOptions, codes},
    finding, gc,
    jobs::{Job, Jobs},
    operator::{Operator, QUEUE_MAX},
    owner::{OwnerError, OwnerLock},
    patrol::Patrol,
    start::{self, Beginning},
    views,
};
use crate::{
    config::{Config, ConfigError},
    exec::{self, Command, Doing, Done, Engine, Posting, Queried, QueryWorker, Refusal, Start},
    home::Home,
    identity::{Identity, Opened, Outcome, Place, RebuildError, RecordHash, StorageError, Tid},
    plugin::{self, Errands, Store},
    restart::{Trial, bundle, confirm, handoff, instruction},
    swap::{self, Known, Migrator, Probation, Retirement, Swapper},
};

/// Takes what came of an action. Called on a thread of the host's, so it must be quick and not block.
pub type Reply = Box<dyn FnOnce(Result<Answer, ActionError>) + Send>;

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is an identity already.
    #[error("{home} already holds an identity: choose another home")]
    Exists {
        /// The home.
        home: Home,
    },
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The identity has another owner, or its lock cannot be taken.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// The storage does not give the identity.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The objects cannot be made again from the history.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// A plugin in force cannot be loaded again.
    #[error("the plugin `{plugin}` in force cannot be loaded: {problem}")]
    Plugin {
        /// Its name.
        plugin: String,
        /// What the store or the loader says.
        problem: String,
    },
    /// This is not the continuation that the restart cycle asks for.
    #[error("this host does not continue what was handed off: {problem}")]
    Continuity {
        /// What differs.
        problem: String,
    },
    /// The home's files cannot be used.
    #[error("{problem}")]
    Home {
        /// What is wrong.
        problem: String,
    },
    /// The start could not be written into the history.
    #[error("the start could not be recorded: {0}")]
    Record(Refusal),
}

impl OpenError {
    /// The word for it.
    pub fn code(&self) -> &'static str {
        match self {
            _ if self.exit_code() == 5 => FailureCode::IDENTITY_DAMAGED.name(),
            OpenError::Settings(_) => codes::BAD_SETTINGS,
            OpenError::Owner(OwnerError::Owned { .. }) => codes::IDENTITY_IN_USE,
            OpenError::Storage(StorageError::Packed { .. }) => codes::PACKED,
            _ => "cannot_open",
        }
    }

    /// The exit code of a command that fails with it: 5 for a damaged identity, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            OpenError::Storage(StorageError::Damaged { .. })
            | OpenError::Rebuild(RebuildError::History { .. } | RebuildError::Storage(StorageError::Damaged { .. })) => {
                5
            }
            _ => 1,
        }
    }
}

/// Why a host did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The last transaction was not made durable.
    #[error(transparent)]
    Commit(Refusal),
    /// The handoff to the next host was not written. That host reads the head from the history instead.
    #[error("{0}")]
    Handoff(String),
}

/// Something for the operator thread.
enum Order {
    Action(Action, Reply),
    Upgrade(ObjectId, Vec<u8>),
    /// Plugins that came with a release that was confirmed.
    Release(Vec<PathBuf>),
}

/// A running host.
pub struct Runtime {
    engine: Arc<Engine>,
    operator: Arc<Operator>,
    orders: Mutex<Option<Sender<Order>>>,
    operator_thread: Mutex<Option<JoinHandle<()>>>,
    jobs: Jobs,
    pub(super) patrol: Patrol,
    trial: Option<Trial>,
    started: Instant,
    /// A lock because `run` sets it and every status reads it.
    http: Mutex<Option<String>>,
    call_deadline_ms: u64,
    // Last, so that nobody else can own the identity before everything else here is gone.
    _owner: OwnerLock,
}

impl Runtime {
    /// Opens the identity and starts to execute with the plugins that the history says are in force.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. [`OpenError::Plugin`] comes after the start was recorded, every other before.
    pub fn open(home: &Home, config: &Config) -> Result<Runtime, OpenError> {
        let started = Instant::now();
        let trial = Trial::from_env().map_err(|error| OpenError::Continuity { problem: error.to_string() })?;
        let place = place(home, config);
        Identity::expect_there(&place)?;
        let owner = OwnerLock::take(home)?;
        let Opened { identity, resume } = Identity::open(&place, false)?;
        if let Some(trial) = &trial {
            prove_continuity(home, trial, &identity)?;
        }
        let store =
            Store::open(&home.plugin_store()).map_err(|error| OpenError::Home { problem: error.to_string() })?;
        plugin::limit_log(config.log.plugin_lines_per_second_max);
        // Reads what may be damaged, so it comes before anything is written.
        let update = Operator::last_update(&identity)?;
        let Beginning { incarnation, plugins, without, with } =
            start::begin(&identity, &resume, &store, config, trial.is_some())?;
        let (orders, order_queue) = bounded(QUEUE_MAX);
        let upgrades = orders.clone();
        let engine = Arc::new(Engine::start(Start {
            identity: identity.clone(),
            resume: &resume,
            incarnation,
            plugins: Arc::new(plugins),
            config,
            upgrades: Arc::new(move |object, request| {
                if upgrades.try_send(Order::Upgrade(object, request)).is_err() {
                    log::error!("object {object} requested an upgrade, but the operator has too much to do already");
                }
            }),
        }));
        let retirement = Arc::new(Retirement::start());
        let operator = Arc::new(Operator {
            home: home.clone(),
            engine: engine.clone(),
            swapper: Swapper {
                engine: engine.clone(),
                store,
                migrator: Migrator::start(engine.clone(), retirement.clone(), &config.plugins),
                retirement,
                probation: Probation::default(),
                known: Known::new(engine.plugins().plugins().map(|generation| generation.digest())),
                settings: config.plugins.clone(),
                execution: config.execution.clone(),
                keys: home.trust(),
            },
            identity: identity.id(),
            incarnation,
            indexes_max: config.identity.indexes_max,
            update: Arc::default(),
        });
        operator.take_up_update(update);
        for crashed in without {
            operator.swapper.started_without(crashed).map_err(OpenError::Record)?;
        }
        with.iter().for_each(|crashed| operator.swapper.take_back_crashed(crashed));
        operator.swapper.resume_probation()?;
        // A release on trial may not be the one that goes on.
        if trial.is_none() {
            operator.swapper.migrator.wake();
        }
        log::info!(
            "identity {} at {}, incarnation {}, {} transactions replayed, open after {:?}",
            identity.id(),
            identity.head().tid,
            incarnation.0,
            resume.replayed.transactions,
            started.elapsed()
        );
        Ok(Runtime {
            operator_thread: Mutex::new(Some(start_operator(operator.clone(), order_queue))),
            orders: Mutex::new(Some(orders)),
            engine,
            operator,
            jobs: Jobs::new(),
            patrol: Patrol::start(identity, home.patrol_note(), config.identity.patrol_bytes_per_second),
            trial,
            started,
            http: Mutex::new(None),
            call_deadline_ms: config.execution.call_deadline_ms,
            _owner: owner,
        })
    }

    /// Does something. The reply comes when it is done and durable; if it cannot even be queued, before this returns.
    pub fn perform(&self, action: Action, reply: Reply) {
        match action {
            Action::Call { object, method, arguments, request_id, mode } => {
                self.call(object, method, &arguments, request_id, mode, reply);
            }
            Action::Create { behavior, name, slots, request_id } => {
                let slots = slots.encode();
                self.edit(Doing::Create { behavior, slots, name }, request_id, reply);
            }
            Action::Clone { object, name, request_id } => {
                self.edit(Doing::Clone { object: views::object_name(object), name }, request_id, reply);
            }
            Action::Derive { parents, name, request_id } => {
                let parents = parents.into_iter().map(views::object_name).collect();
                self.edit(Doing::Derive { parents, name }, request_id, reply);
            }
            Action::Delete { object, request_id } => {
                self.edit(Doing::Delete { object: views::object_name(object) }, request_id, reply);
            }
            Action::Name { name, object, request_id } => {
                self.edit(Doing::Name { name, object: object.map(views::object_name) }, request_id, reply);
            }
            Action::SetParents { object, parents, request_id } => {
                let parents = parents.into_iter().map(views::object_name).collect();
                self.edit(Doing::Parents { object: views::object_name(object), parents }, request_id, reply);
            }
            Action::Misses => reply(Ok(views::misses(self.engine.plugins().misses()))),
            Action::Get { object, at } => self.read(reply, move |worker| views::object(worker.reader(), &object, at)),
            Action::List { prefix, after, limit, at } => {
                self.read(reply, move |worker| views::names(worker.reader(), &prefix, after, limit, at));
            }
            Action::History { object, from, limit } => {
                self.read(reply, move |worker| views::history(worker.reader(), object.as_ref(), from, limit));
            }
            Action::Undo { tids, request_id } => self.undo(tids, request_id, reply),
            Action::Status => reply(Ok(Answer::Status(self.status()))),
            Action::Plugins => reply(Ok(Answer::Plugins(self.operator.plugins_view()))),
            Action::Rehearse { paths, last, told } => {
                let operator = self.operator.clone();
                self.jobs.start(Job::Rehearsal, reply, move |_| operator.rehearse(&paths, last, told));
            }
            Action::Pack { wish, dry_run } => {
                let engine = self.engine.clone();
                self.jobs.start(Job::Pack, reply, move |go_on| super::pack::pack(&engine, wish, dry_run, go_on));
            }
            Action::Collect { dry_run } => {
                let engine = self.engine.clone();
                self.jobs.start(Job::Collection, reply, move |go_on| gc::collect(&engine, dry_run, go_on));
            }
            Action::Plan { .. }
            | Action::Swap { .. }
            | Action::Rollback { .. }
            | Action::Apply { .. }
            | Action::CreateIndex { .. }
            | Action::DropIndex { .. } => self.order(action, reply),
            Action::Post { target, method, arguments, due, every_us, request_id } => match encoded(&arguments) {
                Ok(arguments) => {
                    let target = views::object_name(target);
                    self.edit(Doing::Post(Posting { target, method, arguments, due, every_us }), request_id, reply);
                }
                Err(error) => reply(Err(error)),
            },
            Action::CancelMessage { message, request_id } => {
                self.edit(Doing::Cancel { message }, request_id, reply);
            }
            Action::RetryMessage { message, request_id } => {
                self.edit(Doing::Retry { message }, request_id, reply);
            }
            Action::Messages { target, which, after, limit } => self.read(reply, move |worker| {
                finding::messages(worker.reader(), target.as_ref(), which, after.as_deref(), limit)
            }),
            Action::Find { behavior, slot, condition, after, limit } => self.read(reply, move |worker| {
                finding::find(worker.reader(), behavior.as_deref(), &slot, &condition, after.as_deref(), limit)
            }),
            Action::Indexes => self.read(reply, |worker| finding::indexes(worker.reader())),
        }
    }

    /// Does something on a query thread, for applications that hold the host in their own process: many queries with one hand-over.
    /// While it lasts the thread does nothing else, and no plugin that is replaced can be unloaded.
    ///
    /// # Errors
    ///
    /// If the queue is full or the host is stopping; then it is dropped.
    pub fn with_query_thread(&self, work: impl FnOnce(&mut QueryWorker) + Send + 'static) -> Result<(), Refusal> {
        self.engine.query(work)
    }

    /// Says where applications connect, for the status.
    pub fn set_http_address(&self, address: String) {
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// The last durable point of the history.
    pub fn head(&self) -> Head {
        views::head(self.engine.identity().head())
    }

    /// Why the host cannot go on and has to end, so that it can be started again; none if it can.
    pub fn fatal(&self) -> Option<String> {
        self.engine.vitals().fatal()
    }

    /// Whether the host works.
    ///
    /// # Errors
    ///
    /// Why it does not, for people. A host whose message takes too long may recover; any other has to be restarted.
    pub fn health(&self) -> Result<(), String> {
        if let Some(fatal) = self.fatal() {
            return Err(fatal);
        }
        let longest = self.engine.vitals().longest_call_ms();
        if longest > self.call_deadline_ms {
            return Err(format!(
                "a message has been executing for {longest} ms; {} are allowed",
                self.call_deadline_ms
            ));
        }
        Ok(())
    }

    /// If this start is the trial of a new release: confirms it, now that the host serves, and takes the release's plugins.
    ///
    /// # Errors
    ///
    /// If the confirmation could not be made durable. The watchdog then takes the trial as failed.
    pub fn confirm_trial(&self) -> Result<(), String> {
        let Some(trial) = &self.trial else { return Ok(()) };
        self.health()?;
        let note = note([("id", Value::Text(trial.id.to_string()))]);
        let done = swap::ask(&self.engine, Doing::Note { what: "theseus.confirmed", note, remember: None })
            .map_err(|refusal| refusal.to_string())?;
        let confirmed = confirm::Confirmed {
            schema: confirm::SCHEMA,
            id: trial.id.clone(),
            identity: self.operator.identity.to_string(),
            tid: done.head.tid.0,
            head: crate::restart::Digest(done.head.hash.0),
            incarnation: self.operator.incarnation.0,
            time_us: instruction::now_us(),
        };
        confirm::publish(self.operator.home.path(), &confirmed).map_err(|error| error.to_string())?;
        log::info!("release confirmed for restart cycle {}", trial.id);
        self.operator.swapper.migrator.wake();
        self.take_release_plugins();
        Ok(())
    }

    /// Swaps in the plugins that the release in force brought along.
    fn take_release_plugins(&self) {
        let release = crate::restart::RestartPaths::new(self.operator.home.path()).current();
        let paths: Vec<_> = match bundle::read(&release) {
            Ok(bundle) => bundle.plugins.iter().map(|file| bundle.folder.join(&file.path)).collect(),
            Err(error) => return log::error!("the plugins of the release are left out: {error}"),
        };
        if !paths.is_empty()
            && let Some(orders) = &*self.orders.lock().unwrap_or_else(PoisonError::into_inner)
            && orders.try_send(Order::Release(paths)).is_err()
        {
            log::error!(
                "the plugins of the release are left out: the operator has too much to do; swap them in by hand"
            );
        }
    }

    /// Finishes what was begun, writes the stop into the history, and hands off if a restart cycle asked for it.
    ///
    /// # Errors
    ///
    /// If the stop was not recorded, or the handoff not written.
    pub fn stop(&self) -> Result<Head, StopError> {
        self.patrol.stop();
        // Jobs end at their next step, which the engine may have to do for them; so does a migration, for which the operator may wait.
        self.jobs.cancel();
        self.operator.swapper.migrator.cancel();
        // No more orders; the one being carried out is finished.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take();
        let update = self.operator.update_under_way();
        let note = note([("update", update.as_ref().map_or(Value::Null, |id| Value::Text(id.to_string())))]);
        let head = self.engine.stop(note).map_err(StopError::Commit)?;
        if let Some(thread) = self.operator_thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            log::error!("the operator thread had panicked");
        }
        self.jobs.stop();
        self.operator.swapper.migrator.stop();
        self.operator.swapper.retirement.stop();
        if let Some(id) = update {
            let handoff = handoff::Handoff {
                schema: handoff::SCHEMA,
                id,
                identity: self.operator.identity.to_string(),
                tid: head.tid.0,
                head: crate::restart::Digest(head.hash.0),
                incarnation: self.operator.incarnation.0,
                time_us: instruction::now_us(),
            };
            handoff::publish(self.operator.home.path(), &handoff)
                .map_err(|error| StopError::Handoff(error.to_string()))?;
            log::info!("handed off to restart cycle {}", handoff.id);
        }
        Ok(views::head(head))
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(super) fn operator(&self) -> &Arc<Operator> {
        &self.operator
    }

    fn call(
        &self,
        object: ObjectRef,
        method: String,
        arguments: &Value,
        request_id: Option<String>,
        mode: CallMode,
        reply: Reply,
    ) {
        let arguments = match encoded(arguments) {
            Ok(arguments) => arguments,
            Err(error) => return reply(Err(error)),
        };
        let object = views::object_name(object);
        // Only a name that stands for commands needs the executor at once; a query finds out what else is executed by a command.
        let query = match mode {
            CallMode::QueryOnly => true,
            CallMode::Any => !self.engine.method_kinds(&method).command,
            CallMode::InOrder => false,
        };
        if !query {
            return send(&self.engine, Doing::Send { object, method, arguments }, request_id, reply);
        }
        let engine = self.engine.clone();
        self.on_query_thread(reply, move |worker, reply| {
            // It may be that of a command which no plugin in force has any more.
            if request_id.as_deref().is_some_and(|id| !matches!(worker.reader().request(id), Ok(None))) {
                return send(&engine, Doing::Send { object, method, arguments }, request_id, reply);
            }
            match worker.call(&object, &method, &arguments) {
                Ok(Queried::Command(_)) if mode == CallMode::Any => {
                    send(&engine, Doing::Send { object, method, arguments }, request_id, reply);
                }
                Ok(Queried::Command(failure)) => reply(Err(views::refusal(&Refusal::Failed(failure)))),
                Ok(Queried::Done(done)) => reply(result(&done)),
                Err(refusal) => reply(Err(views::refusal(&refusal))),
            }
        });
    }

    fn edit(&self, doing: Doing, request_id: Option<String>, reply: Reply) {
        let reply: exec::Reply = Box::new(move |done| {
            reply(done.map_err(|refusal| views::refusal(&refusal)).and_then(|done| edited(&done)));
        });
        self.engine.command(Command { doing, request_id, reply });
    }

    fn read(&self, reply: Reply, work: impl FnOnce(&mut QueryWorker) -> Result<Answer, ActionError> + Send + 'static) {
        self.on_query_thread(reply, |worker, reply| reply(work(worker)));
    }

    /// Has something done on a query thread, which sees to the reply.
    fn on_query_thread(&self, reply: Reply, work: impl FnOnce(&mut QueryWorker, Reply) + Send + 'static) {
        // The reply is needed in both branches, and only one of them runs.
        let slot = Arc::new(Mutex::new(Some(reply)));
        let take = move |slot: &Mutex<Option<Reply>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let queued = slot.clone();
        let sent = self.engine.query(move |worker| {
            if let Some(reply) = take(&queued) {
                work(worker, reply);
            }
        });
        if let Err(refusal) = sent
            && let Some(reply) = take(&slot)
        {
            reply(Err(views::refusal(&refusal)));
        }
    }

    /// Plans the undo beside the executor, which then only has to see whether the plan still holds.
    fn undo(&self, tids: Vec<action::Tid>, request_id: Option<String>, reply: Reply) {
        let engine = self.engine.clone();
        self.on_query_thread(reply, move |worker, reply| {
            let tids: Vec<_> = tids.into_iter().map(Tid).collect();
            let plan = exec::plan_undo(worker.reader(), &tids);
            let reply: exec::Reply = Box::new(move |done| {
                reply(done.map_err(|refusal| views::refusal(&refusal)).and_then(|done| views::undone(&done)));
            });
            engine.command(Command { doing: Doing::Undo { tids, plan }, request_id, reply });
        });
    }

    fn order(&self, action: Action, reply: Reply) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(orders) = &*orders else { return reply(Err(views::refusal(&Refusal::Stopping))) };
        if let Err(error) = orders.try_send(Order::Action(action, reply))
            && let Order::Action(_, reply) = error.into_inner()
        {
            reply(Err(views::refusal(&Refusal::Overloaded)));
        }
    }

    fn status(&self) -> StatusView {
        let trouble = self.health().err();
        StatusView {
            identity: self.operator.identity.to_string(),
            head: self.head(),
            incarnation: self.operator.incarnation.0,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            http: self.http.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            host_version: VERSION.to_owned(),
            abi_version: theseus_abi::ABI_VERSION,
            healthy: trouble.is_none(),
            trouble,
            objects: self.engine.vitals().objects.load(std::sync::atomic::Ordering::Relaxed),
            messages_waiting: self.engine.vitals().messages_waiting.load(std::sync::atomic::Ordering::Relaxed),
            messages_set_aside: self.engine.vitals().messages_set_aside.load(std::sync::atomic::Ordering::Relaxed),
            plugins: self.operator.plugins(),
            trials: self.operator.trials(),
            update: self.operator.update_under_way().map(|id| id.to_string()),
            storage: views::storage_room(self.engine.room().room(), self.engine.room().shortage()),
        }
    }
}

/// The host's version. A build may set its own by `THESEUS_BUILD_STAMP`.
pub(super) const VERSION: &str = match option_env!("THESEUS_BUILD_STAMP") {
    Some(stamp) => stamp,
    None => env!("CARGO_PKG_VERSION"),
};

fn carry_out(operator: &Operator, order: Order) {
    match order {
        Order::Action(action, reply) => reply(operator.perform(action)),
        Order::Upgrade(object, request) => operator.upgrade(object, &request),
        Order::Release(paths) => {
            if let Err(error) = operator.swap(&paths, &SwapOptions::default()) {
                log::error!("the plugins of the release were not swapped in: {}", error.message);
            }
        }
    }
}

fn start_operator(operator: Arc<Operator>, orders: Receiver<Order>) -> JoinHandle<()> {
    let run = move || {
        let (errands, alarm) = (Errands::of_this_thread(), operator.engine.plugins().faults().alarm().clone());
        loop {
            errands.run();
            // Nothing on probation, nothing to see to.
            let wait = operator.swapper.see_to_probation().map_or_else(never, after);
            select! {
                recv(orders) -> order => match order {
                    Ok(order) => carry_out(&operator, order),
                    Err(_) => break,
                },
                recv(errands.bell()) -> _ => {}
                recv(alarm) -> _ => {}
                recv(wait) -> _ => {}
            }
        }
    };
    exec::spawn("operator", run)
}

/// Where the identity of a home lies, and how large it may become.
pub fn place(home: &Home, config: &Config) -> Place {
    Place {
        history: home.history(),
        objects: home.objects(),
        bases: home.bases(),
        history_bytes_max: config.identity.history_map_bytes,
        objects_bytes_max: config.identity.objects_map_bytes,
        requests: exec::request_memory(&config.identity),
    }
}

/// In a trial: the history at hand has to be the one that was handed off.
fn prove_continuity(home: &Home, trial: &Trial, identity: &Identity) -> Result<(), OpenError> {
    let problem = |error: &dyn std::fmt::Display| OpenError::Continuity { problem: error.to_string() };
    let Some(handoff) = handoff::read(home.path(), &trial.id).map_err(|error| problem(&error))? else {
        // The host before did not stop in order: what it made durable is all there is to continue.
        log::warn!("restart cycle {} left no handoff: the head is taken from the history", trial.id);
        return Ok(());
    };
    let contains = |tid, hash: &crate::restart::Digest| {
        let head = crate::identity::Head { tid: Tid(tid), hash: RecordHash(hash.0) };
        identity.continues(head).unwrap_or_else(|error| {
            log::error!("{error}");
            false
        })
    };
    handoff::prove(&handoff, &identity.id().to_string(), identity.head().tid.0, contains)
        .map_err(|error| problem(&error))
}

/// An encoded map, as the history has it for what the host itself does.
pub(super) fn note<const N: usize>(entries: [(&str, Value); N]) -> Vec<u8> {
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).encode()
}

/// Queues a message for the executor.
fn send(engine: &Engine, doing: Doing, request_id: Option<String>, reply: Reply) {
    let reply: exec::Reply = Box::new(move |done| {
        reply(done.map_err(|refusal| views::refusal(&refusal)).and_then(|done| result(&done)));
    });
    engine.command(Command { doing, request_id, reply });
}

/// Arguments as they are sent.
fn encoded(arguments: &Value) -> Result<Vec<u8>, ActionError> {
    match arguments {
        Value::Null => Ok(Vec::new()),
        Value::Map(_) | Value::Array(_) => Ok(arguments.encode()),
        other => {
            let message = format!("arguments are an object (by name) or an array (by position), not {other:?}");
            Err(views::error("bad_arguments", message))
        }
    }
}

fn result(done: &Done) -> Result<Answer, ActionError> {
    match &done.outcome {
        Outcome::Done(result) => {
            let (tid, at) = (done.tid.map(|tid| tid.0), views::head(done.head));
            Ok(Answer::Result { value: views::value(result)?, tid, at })
        }
        Outcome::Failed(failure) => Err(views::recorded(failure, done.tid.unwrap_or_default())),
    }
}

fn edited(done: &Done) -> Result<Answer, ActionError> {
    let at = views::head(done.head);
    match &done.outcome {
        Outcome::Done(result) => match views::value(result)? {
            Value::Ref(id) => Ok(Answer::Object { id, at }),
            Value::Array(parents) => {
                let reference = |parent: &Value| match parent {
                    Value::Ref(id) => Some(*id),
                    _ => None,
                };
                let parents = parents.iter().filter_map(reference).collect();
                Ok(Answer::Parents { parents, at })
            }
            _ => Ok(Answer::Deleted { at }),
        },
        Outcome::Failed(failure) => Err(views::recorded(failure, done.tid.unwrap_or_default())),
    }
}
