//! Collection of objects that cannot be reached.
//!
//! The job walks from the roots - names, and the host's own objects - over committed state, and has the executor remove what it did
//! not come to. Meanwhile the executor sees to it that nothing that was touched is removed: `exec/reach.rs` says why that is enough.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use theseus_value::{DecodeError, ObjectId};

use super::{
    action::{ActionError, Answer, CollectedView, codes},
    jobs::GoOn,
    views,
};
use crate::{
    exec::{CollectStep, Collected, Doing, Done, Engine, Marking, Refusal},
    identity::{ObjectRecord, ObjectWalk, Reader, StorageError},
    swap,
};

/// How many objects are looked at before the read transaction is let go of, so that it keeps no pages of the table in use.
const OBJECTS_AT_ONCE: usize = 1024;

/// How many names are read at once.
const NAMES_AT_ONCE: usize = 10_000;

/// How long the job waits when the host has too much to do.
const BACK_OFF: Duration = Duration::from_millis(5);

/// Why a collection came to no end. What it removed is removed.
enum Interruption {
    Refused(Refusal),
    Storage(StorageError),
    Slots(DecodeError),
    CommitFailed,
}

impl From<Refusal> for Interruption {
    fn from(refusal: Refusal) -> Self {
        Interruption::Refused(refusal)
    }
}

impl From<StorageError> for Interruption {
    fn from(error: StorageError) -> Self {
        Interruption::Storage(error)
    }
}

impl From<DecodeError> for Interruption {
    fn from(error: DecodeError) -> Self {
        Interruption::Slots(error)
    }
}

impl Interruption {
    fn told(self) -> ActionError {
        match self {
            Interruption::Refused(refusal) => views::refusal(&refusal),
            Interruption::Storage(error) => views::storage(error),
            Interruption::Slots(error) => {
                views::error("identity_damaged", format!("the slots of an object cannot be read: {error}"))
            }
            Interruption::CommitFailed => {
                let message =
                    "a commit failed while objects were collected: collect again, what was removed is removed";
                views::error(codes::STORAGE_FULL, message)
            }
        }
    }
}

/// Removes what cannot be reached, or only counts it.
pub(super) fn collect(engine: &Arc<Engine>, dry_run: bool, go_on: &GoOn) -> Result<Answer, ActionError> {
    let mut job = Job { engine, go_on, reader: Reader::new(engine.identity().clone()) };
    let collected = job.run(dry_run);
    // Whatever came of it, nothing has to be noted any more. A host that stops has forgotten it by itself.
    _ = job.step(|| CollectStep::End);
    let view = collected.map_err(Interruption::told)?;
    log::info!(
        "{} of {} objects could not be reached, {} were removed in {} transactions",
        view.unreachable,
        view.objects,
        view.removed,
        view.transactions.len()
    );
    Ok(Answer::Collected(view))
}

/// An object as it is durably: what is not may be taken back.
fn fetch(reader: &mut Reader, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Interruption> {
    Ok(reader.durable(object)?.and_then(|version| version.record))
}

struct Job<'a> {
    engine: &'a Engine,
    go_on: &'a GoOn,
    reader: Reader,
}

impl Job<'_> {
    fn run(&mut self, dry_run: bool) -> Result<CollectedView, Interruption> {
        let begun = Instant::now();
        // When that is answered, all that was before it is durable, and all that comes after it is noted.
        let (Collected { limit, .. }, done) = self.step(|| CollectStep::Begin)?;
        let mut marking = Marking::new(limit);
        self.mark_names(&mut marking)?;
        self.find(&mut marking)?;
        self.mark(&mut marking)?;
        let (objects, unreached) = marking.finish();
        self.step(|| CollectStep::Offer(unreached.clone()))?;
        let mut view = CollectedView {
            dry_run,
            since: done.head.tid.0,
            objects,
            unreachable: 0,
            removed: 0,
            spared: 0,
            transactions: Vec::new(),
            elapsed_ms: 0,
        };
        loop {
            let (step, done) = self.step(|| CollectStep::Sweep { remove: !dry_run })?;
            view.removed += step.removed;
            view.transactions.extend(done.tid.map(|tid| tid.0));
            (view.unreachable, view.spared) = (view.removed + step.left, step.spared);
            if step.settled && (dry_run || step.left == 0) {
                break;
            }
        }
        view.elapsed_ms = begun.elapsed().as_millis() as u64;
        Ok(view)
    }

    /// Takes what has a name as reached.
    fn mark_names(&mut self, marking: &mut Marking) -> Result<(), Interruption> {
        let mut after: Option<String> = None;
        loop {
            self.ask_whether_to_go_on()?;
            let head = self.reader.identity().head().tid;
            let page = self.reader.names("", after.as_deref(), head, NAMES_AT_ONCE)?;
            self.reader.release();
            page.names.iter().for_each(|(_, object)| marking.root(*object));
            match page.next {
                Some(last) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Finds all objects that there are.
    fn find(&mut self, marking: &mut Marking) -> Result<(), Interruption> {
        let mut walk = ObjectWalk::new(&self.reader);
        loop {
            self.ask_whether_to_go_on()?;
            let objects = walk.next(&mut self.reader, OBJECTS_AT_ONCE)?;
            if objects.is_empty() {
                return Ok(());
            }
            for object in objects {
                if let Some(record) = fetch(&mut self.reader, object)? {
                    marking.find(object, &record);
                }
            }
            self.reader.release();
        }
    }

    /// Follows all references from there.
    fn mark(&mut self, marking: &mut Marking) -> Result<(), Interruption> {
        loop {
            self.ask_whether_to_go_on()?;
            let done = marking.step(OBJECTS_AT_ONCE, |object| fetch(&mut self.reader, object))?;
            self.reader.release();
            if done {
                return Ok(());
            }
        }
    }

    fn ask_whether_to_go_on(&self) -> Result<(), Interruption> {
        if self.go_on.ask() { Ok(()) } else { Err(Refusal::Stopping.into()) }
    }

    /// Has the executor take a step, and waits until that is durable.
    fn step(&self, step: impl Fn() -> CollectStep) -> Result<(Collected, Done), Interruption> {
        loop {
            self.ask_whether_to_go_on()?;
            let (sender, receiver) = mpsc::channel();
            let report = Box::new(move |collected| _ = sender.send(collected));
            match swap::ask(self.engine, Doing::Collect { step: step(), report }) {
                Ok(done) => {
                    let collected = receiver.recv().map_err(|_| Refusal::Stopping)?;
                    return if collected.broken_off { Err(Interruption::CommitFailed) } else { Ok((collected, done)) };
                }
                Err(Refusal::Overloaded) => thread::sleep(BACK_OFF),
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
}
