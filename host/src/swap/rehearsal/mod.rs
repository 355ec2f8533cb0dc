//! Rehearsal: recorded transactions are executed again, on the state that they met, with the plugins that are offered.
//!
//! A confined child process loads the plugins in force and those offered, and executes each transaction with both: the first
//! shows whether it can be repeated at all and how long it takes, the second what a swap would change. The child is given the
//! recorded time, random seed and arguments; the past it has from the host, which walks through the history beside it.
//!
//! ```text
//! host:  select (backwards) -> walk forward: past, steps ----> child: execute twice, compare with the record
//!                              answers about the past  <-----> what the child does not know yet
//!                              report                  <-----  findings
//! ```
//!
//! Each transaction is executed on the past as it was recorded, not on what the candidate made of the transaction before.

mod child;
mod compare;
mod past;
mod report;
mod select;
mod stage;
mod wire;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;
use theseus_value::ObjectId;

pub use crate::identity::{RecordedFailure, Tid};

pub use self::{
    child::Worker,
    report::{Class, Difference, End, Place, Report, Times, Told},
};
use self::{
    past::Past,
    select::Entry,
    wire::{File, Finding, Step},
};
use crate::{
    config::Execution,
    identity::{BatchView, Identity, ObjectRecord, Reader, StorageError, Transaction},
    plugin::FetchError,
    sandbox::{Child, Fault, Limits, Program, SpawnError},
    swap::confined::{Bytes, Task},
};

/// How many transactions one request to the child holds at most.
const STEPS_MAX: usize = 256;
/// How large a request may become by them, in bytes, roughly.
const STEPS_BYTES: usize = 8 << 20;
/// How many transactions go by before the past is settled, whether they are rehearsed or not.
const PASSING_MAX: usize = 4096;
/// How many objects the child is told to forget one by one.
const FORGET_MAX: usize = 100_000;
/// How much the child is given before it forgets all, in bytes.
const GIVEN_BYTES: usize = 64 << 20;
/// A request that takes longer is followed by a smaller one, and one that takes less than a quarter of it by a larger one.
const REQUEST_TIME: Duration = Duration::from_millis(100);
/// How much longer than its first transaction a request may take.
const REQUEST_SLACK: Duration = Duration::from_secs(2);
/// How often the child is started again after it ended or hung. A transaction that ends it within others does so twice.
const RESTARTS_MAX: u64 = 20;
/// How many names are searched for those of the objects that a report tells about.
const NAMES_MAX: usize = 1_000_000;

/// What is to be rehearsed.
pub struct Rehearsal {
    /// The history.
    pub identity: Arc<Identity>,
    /// Whether to go on: asked often.
    pub go_on: Box<dyn Fn() -> bool + Send>,
    /// The plugins in force: path for messages, and bytes.
    pub in_force: Vec<(PathBuf, Vec<u8>)>,
    /// Those of them that only turn objects back.
    pub fallbacks: Vec<(PathBuf, Vec<u8>)>,
    /// Those offered that are not in force.
    pub offered: Vec<(PathBuf, Vec<u8>)>,
    /// The behaviours that those concern.
    pub behaviors: BTreeSet<Arc<str>>,
    /// The limits of transactions.
    pub execution: Execution,
    /// The program that serves as a child with [`Worker`].
    pub program: Program,
    /// What the child may use.
    pub limits: Limits,
    /// How many transactions to execute.
    pub last: u64,
    /// How many transactions of the history may be looked at.
    pub transactions_max: u64,
    /// How long it may take, in milliseconds.
    pub ms_max: u64,
    /// How many differences are told.
    pub told: Told,
    /// The most of them.
    pub differences_max: usize,
}

/// Why a rehearsal could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The history could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no process in which to do it.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The plugins could not be loaded there.
    #[error("the plugins cannot be loaded for the rehearsal: {message}")]
    Load {
        /// What the loader says.
        message: String,
    },
    /// A plugin in force is not in the store.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The host stops.
    #[error("the host is stopping: the next one can rehearse")]
    Stopping,
    /// The process ended while it loaded the plugins.
    #[error("the plugins cannot be loaded for the rehearsal: {fault}")]
    Fault {
        /// What became of it.
        fault: Fault,
    },
}

impl Rehearsal {
    /// Executes the transactions and compares.
    ///
    /// # Errors
    ///
    /// See [`RehearsalError`]. What candidates do wrong with a transaction is in the report.
    pub fn run(&self) -> Result<Report, RehearsalError> {
        let begun = Instant::now();
        let mut report = self.rehearse(begun)?;
        self.find_names(&mut report)?;
        report.elapsed_ms = begun.elapsed().as_millis() as u64;
        Ok(report)
    }

    fn rehearse(&self, begun: Instant) -> Result<Report, RehearsalError> {
        let selection =
            select::select(&self.identity, &self.behaviors, (self.last, self.transactions_max), &*self.go_on)?;
        let behaviors = self.behaviors.iter().map(ToString::to_string).collect();
        if !(self.go_on)() {
            return Err(RehearsalError::Stopping);
        }
        let mut report = Report::new(self.last, behaviors);
        report.end = selection.end;
        let Some(first) = selection.entries.first() else { return Ok(report) };
        let past = Past::new(self.identity.clone(), first.tid, self.transactions_max)?;
        let mut runner = Runner::new(self, past, report, begun);
        runner.walk(&selection.entries)?;
        Ok(runner.report)
    }

    /// Looks for the names of the objects that the report tells about.
    fn find_names(&self, report: &mut Report) -> Result<(), StorageError> {
        const PAGE: usize = 10_000;

        let mut wanted: FxHashSet<ObjectId> = report.objects().collect();
        let mut reader = Reader::new(self.identity.clone());
        let (mut after, mut seen) = (None, 0);
        let head = self.identity.head().tid;
        while !wanted.is_empty() && seen < NAMES_MAX {
            let page = reader.names("", after.as_deref(), head, PAGE)?;
            seen += PAGE;
            for (name, object) in page.names {
                if wanted.remove(&object) {
                    report.names.insert(object, name);
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A rehearsal under way.
struct Runner<'a> {
    rehearsal: &'a Rehearsal,
    past: Past,
    report: Report,
    begun: Instant,
    child: Option<Child>,
    /// What is to be executed next.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// How many transactions have gone by since the past was settled.
    passed: usize,
    /// What others wrote since the last transaction to be rehearsed.
    forget_objects: FxHashSet<ObjectId>,
    forget_names: FxHashSet<Arc<str>>,
    /// The child forgets all before the next transaction.
    forget_all: bool,
    /// Objects that the child is likely to know.
    known: FxHashSet<ObjectId>,
    /// What it was given since it forgot all, in bytes.
    given_bytes: usize,
    /// How many transactions the next request holds.
    size: usize,
    over: bool,
}

/// A transaction to be executed.
struct Waiting {
    entry: Entry,
    method: String,
    next_object: u64,
    forget_objects: Vec<ObjectId>,
    forget_names: Vec<Arc<str>>,
    objects: Vec<(ObjectId, Option<Arc<ObjectRecord>>)>,
    transaction: Vec<u8>,
}

impl<'a> Runner<'a> {
    fn new(rehearsal: &'a Rehearsal, past: Past, report: Report, begun: Instant) -> Runner<'a> {
        Runner {
            rehearsal,
            past,
            report,
            begun,
            child: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            passed: 0,
            forget_objects: FxHashSet::default(),
            forget_names: FxHashSet::default(),
            forget_all: false,
            known: FxHashSet::default(),
            given_bytes: 0,
            size: 1,
            over: false,
        }
    }

    /// Goes through the history from the first to the last of these transactions.
    fn walk(&mut self, entries: &[Entry]) -> Result<(), RehearsalError> {
        let identity = self.rehearsal.identity.clone();
        let mut entries = entries.iter().peekable();
        let Some(mut at) = entries.peek().map(|entry| entry.tid) else { return Ok(()) };
        while entries.peek().is_some() && !self.over {
            // A copy, because a view that is held while transactions are executed makes the file grow.
            let record = identity.with_batch(at, |batch| Ok(batch.bytes().to_vec()))?;
            let missing = || identity.damaged(at, "it is missing");
            let record = record.ok_or_else(missing)?;
            let batch = BatchView::decode(&record).map_err(|error| identity.damaged(at, error.to_string()))?;
            while at <= batch.header.last && entries.peek().is_some() && !self.over {
                let damaged = |problem: &dyn std::fmt::Display| identity.damaged(at, problem.to_string());
                let encoded = batch.encoded_at(at).ok_or_else(|| damaged(&"it is missing"))?;
                let transaction = Transaction::decode(encoded).map_err(|error| damaged(&error))?;
                match entries.next_if(|entry| entry.tid == at) {
                    Some(entry) => self.rehearse(entry, &transaction, encoded)?,
                    None => self.pass_by(&transaction)?,
                }
                self.past.pass(at, &transaction);
                self.passed += 1;
                let bytes = self.waiting_bytes;
                if self.waiting.len() >= self.size || bytes >= STEPS_BYTES || self.passed >= PASSING_MAX {
                    self.execute(at)?;
                }
                at = at.next();
            }
        }
        self.execute(Tid(at.0 - 1))
    }

    /// Takes a transaction in that is to be executed.
    fn rehearse(&mut self, entry: &Entry, transaction: &Transaction<'_>, encoded: &[u8]) -> Result<(), RehearsalError> {
        let mut waiting = Waiting {
            entry: entry.clone(),
            method: transaction.method.to_owned(),
            next_object: self.past.next_object(transaction),
            forget_objects: self.forget_objects.drain().collect(),
            forget_names: self.forget_names.drain().collect(),
            objects: Vec::new(),
            transaction: encoded.to_vec(),
        };
        self.waiting_bytes += encoded.len();
        // What it is about to write it most likely reads: the child need not ask.
        let before = transaction.writes.iter().filter(|write| write.pointers.number > 1).map(|write| write.object);
        for object in before.chain(transaction.target) {
            if self.known.insert(object) {
                let record = self.past.object(entry.tid, object)?;
                self.waiting_bytes += record.as_ref().map_or(0, |record| record.slots.len());
                waiting.objects.push((object, record));
            }
        }
        self.known.extend(transaction.writes.iter().map(|write| write.object));
        self.waiting.push(waiting);
        Ok(())
    }

    /// Lets a transaction go by that is not executed.
    fn pass_by(&mut self, transaction: &Transaction<'_>) -> Result<(), RehearsalError> {
        for write in &transaction.writes {
            self.known.remove(&write.object);
            self.forget_objects.insert(write.object);
        }
        self.forget_names.extend(transaction.names.iter().map(|naming| Arc::from(naming.name)));
        if self.forget_objects.len() + self.forget_names.len() > FORGET_MAX {
            self.send()?;
            self.forget();
        }
        Ok(())
    }

    /// Has the child begin anew before the next transaction.
    fn forget(&mut self) {
        self.forget_all = true;
        self.forget_objects.clear();
        self.forget_names.clear();
        self.known.clear();
        self.given_bytes = 0;
    }

    /// Has what waits executed, and leaves the past before it behind.
    fn execute(&mut self, until: Tid) -> Result<(), RehearsalError> {
        self.send()?;
        self.past.settle(until);
        self.passed = 0;
        if self.given_bytes > GIVEN_BYTES {
            self.forget();
        }
        Ok(())
    }

    /// Has what waits executed.
    fn send(&mut self) -> Result<(), RehearsalError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.given_bytes += std::mem::take(&mut self.waiting_bytes);
        if !(self.rehearsal.go_on)() {
            return Err(RehearsalError::Stopping);
        }
        if waiting.is_empty() || self.over {
            return Ok(());
        }
        let begun = Instant::now();
        if self.ask(&waiting)? {
            match begun.elapsed() {
                took if took < REQUEST_TIME / 4 => self.size = (self.size * 2).min(STEPS_MAX),
                took if took > REQUEST_TIME => self.size = (self.size / 2).max(1),
                _ => {}
            }
        } else {
            self.size = 1;
            if waiting.len() > 1 {
                // One by one, to see which of them it was.
                for one in waiting {
                    self.ask(&[one])?;
                    if self.over {
                        break;
                    }
                }
            }
        }
        if self.begun.elapsed() > Duration::from_millis(self.rehearsal.ms_max) && !self.over {
            self.stop(End::Time(self.rehearsal.ms_max));
        }
        Ok(())
    }

    fn stop(&mut self, end: End) {
        self.over = true;
        self.report.end = end;
    }

    /// Has the child execute transactions, and notes what came of them. False if the child did not come back from several:
    /// then nothing was noted.
    fn ask(&mut self, waiting: &[Waiting]) -> Result<bool, RehearsalError> {
        let steps: Vec<Step<'_>> = waiting.iter().map(Waiting::step).collect();
        let request = task(wire::write_steps(std::mem::take(&mut self.forget_all), &steps));
        let slack = if waiting.len() > 1 { REQUEST_SLACK } else { Duration::from_secs(1) };
        let deadline = Duration::from_millis(self.rehearsal.execution.call_deadline_ms) * 2 + slack;
        let past = &mut self.past;
        let child = match &mut self.child {
            Some(child) => child,
            None => self.child.insert(self.rehearsal.start()?),
        };
        let given_bytes = &mut self.given_bytes;
        let mut serve = |need: &[u8]| {
            let given = past.serve(need);
            *given_bytes += given.len();
            given
        };
        let answer = child.ask(&request, &mut serve, deadline);
        let answer = answer.and_then(|answer| match wire::read_findings(&answer) {
            Ok(findings) if findings.len() == waiting.len() => Ok(findings),
            Ok(_) => Err(Fault::garbled("another number of findings than there were transactions")),
            Err(error) => Err(Fault::garbled(error.to_string())),
        });
        if let Some(error) = self.past.take_failure() {
            return Err(error.into());
        }
        match answer {
            Ok(findings) => {
                for (waiting, finding) in waiting.iter().zip(findings) {
                    self.note(waiting, finding);
                }
                Ok(true)
            }
            Err(fault) => {
                self.child = None;
                self.known.clear();
                self.report.restarts += 1;
                if let [one] = waiting {
                    let in_force = fault.doing == child::WITH_IN_FORCE;
                    let class = if in_force { Class::NotReproducible } else { Class::Error };
                    self.note(one, Finding::without(class, fault.to_string()));
                }
                if self.report.restarts >= RESTARTS_MAX {
                    self.stop(End::Restarts(RESTARTS_MAX));
                }
                Ok(waiting.len() == 1)
            }
        }
    }

    fn note(&mut self, waiting: &Waiting, finding: Finding) {
        let told = (self.rehearsal.told, self.rehearsal.differences_max);
        self.report.add(&waiting.entry, &waiting.method, &waiting.transaction, finding, told);
    }
}

impl Rehearsal {
    /// Starts a child and has it load both sets of plugins.
    fn start(&self) -> Result<Child, RehearsalError> {
        const LOAD: Duration = Duration::from_secs(60);

        let request = task(wire::write_load(
            &self.execution,
            [&self.in_force, &self.fallbacks, &self.offered].map(|it| files(it)),
        ));
        let mut child = Child::spawn(&self.program, &self.limits)?;
        let answer = child.ask(&request, &mut |_| wire::give_nothing(), LOAD);
        let loaded = answer.and_then(|it| wire::read_loaded(&it).map_err(|error| Fault::garbled(error.to_string())));
        match loaded {
            Ok(None) => Ok(child),
            Ok(Some(message)) => Err(RehearsalError::Load { message }),
            Err(fault) => Err(RehearsalError::Fault { fault }),
        }
    }
}

fn task(request: Vec<u8>) -> Vec<u8> {
    Task::Rehearse(Bytes(request.into())).encode()
}

fn files(files: &[(PathBuf, Vec<u8>)]) -> Vec<File<'_>> {
    files.iter().map(|(path, bytes)| File { path, bytes }).collect()
}

impl Waiting {
    fn step(&self) -> Step<'_> {
        Step {
            tid: self.entry.tid,
            next_object: self.next_object,
            forget_objects: self.forget_objects.clone(),
            forget_names: self.forget_names.iter().map(|name| &**name).collect(),
            objects: self.objects.clone(),
            transaction: &self.transaction,
        }
    }
}
