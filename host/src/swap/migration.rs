//! Migration in the background: brings every object into the schema of its behaviour in force, in small steps.
//!
//! Objects migrate when they are touched; this thread touches those that nobody else does. It walks over all objects, hands
//! those that are behind to the executor, a few at a time, and goes on when that step is durable, so that commands hardly wait
//! for it. What cannot migrate is left as it was and listed. When nothing needs a fallback any more, it lets it go.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use theseus_abi::Failure;
use theseus_value::{ObjectId, Value};

use super::{ask, look, retire::Retirement};
use crate::{
    config,
    exec::{Admit, Behind, Doing, Engine, MigrationStep, PluginSet, Refusal, spawn},
    identity::{Census, ObjectWalk, Reader, StorageError},
    plugin::Generation,
};

/// Under which it stands in the history that fallbacks were let go of.
const RELEASED: &str = "theseus.fallback_released";

/// How often the thread looks whether what it could not migrate is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long it waits when the host has too much to do.
const BACK_OFF: Duration = Duration::from_millis(5);

/// How many objects are looked at between two questions whether there is something else to do.
const LOOKED_AT_AT_ONCE: usize = 10_000;

/// How many objects that could not migrate are kept by name, for each behaviour and schema.
const FAILURES_SHOWN_MAX: usize = 100;

/// How far objects of one behaviour and schema have come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What is behind, and who brings it up.
    pub behind: Behind,
    /// How many were brought up in the background since the last swap or start.
    pub done: u64,
    /// How many could not be.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<FailedObject>,
}

/// An object whose migration failed. It is left as it was, and tried again when it is touched and at the next start.
#[derive(Clone, Debug)]
pub struct FailedObject {
    /// Which.
    pub object: ObjectId,
    /// Why.
    pub failure: Failure,
}

/// The migration's thread.
pub struct Migrator {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    // A lock because the thread writes what operators read and wait for.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How many walks were asked for, and how many of them are done.
    wanted: u64,
    finished: u64,
    /// How often the set in force may have changed.
    sets: u64,
    /// How many wait for the end of a walk: then there is no rest.
    waiting: usize,
    /// Whether the last walk broke off, and is tried again.
    broken_off: Option<Broken>,
    stopping: bool,
    progress: Vec<Progress>,
}

/// Why the end of a migration was not reached.
#[derive(Clone, Debug)]
pub struct Broken {
    /// In words.
    pub problem: String,
    /// Whether it may work in a moment: the host has too much to do, or its disk is full.
    pub passes: bool,
}

/// Why a walk ended before its time.
enum Interruption {
    /// Another walk was asked for: the set in force may be another.
    Outdated,
    /// The host refused a step.
    Refused(Refusal),
    /// The storage did not give an object.
    Unreadable(String),
}

impl From<Refusal> for Interruption {
    fn from(refusal: Refusal) -> Self {
        Interruption::Refused(refusal)
    }
}

impl Migrator {
    /// Starts the thread, which does nothing until it is told to.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    pub fn start(engine: Arc<Engine>, retirement: Arc<Retirement>, settings: &config::Plugins) -> Migrator {
        let shared = Arc::new(Shared::default());
        let reader = Reader::new(engine.identity().clone());
        let (at_once, rest) = (settings.migration_objects_max, Duration::from_millis(settings.migration_rest_ms));
        let walker = Walker {
            shared: shared.clone(),
            engine: engine.clone(),
            retirement,
            reader,
            at_once,
            rest,
            walk: 0,
            sets: 0,
        };
        let thread = spawn("migration", move || walker.run());
        Migrator { engine, shared, thread: Mutex::new(Some(thread)) }
    }

    /// Has all objects looked through: after a swap, and after a start.
    pub fn wake(&self) {
        // Here and now, so that nobody who asks before the thread gets to it is told that nothing is behind.
        let behind = look(&self.engine, PluginSet::behind);
        let mut state = self.shared.lock();
        state.wanted += 1;
        state.sets += 1;
        state.progress.clear();
        // Refused only by a host that has too much to do or stops; the thread looks, too.
        state.set_behind(&behind.unwrap_or_default());
        self.shared.changed.notify_all();
    }

    /// Has all objects looked through and waits for the end. Answers what is left because it cannot migrate.
    ///
    /// # Errors
    ///
    /// If the end was not reached: the host stops, or its storage fails.
    pub fn finish(&self) -> Result<Vec<Progress>, Broken> {
        self.finish_while(|| ())
    }

    /// [`finish`](Self::finish), with something to do again and again meanwhile.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_while(&self, mut meanwhile: impl FnMut()) -> Result<Vec<Progress>, Broken> {
        /// How often.
        const MEANWHILE: Duration = Duration::from_millis(50);

        let mut state = self.shared.lock();
        state.wanted += 1;
        state.waiting += 1;
        let walk = state.wanted;
        self.shared.changed.notify_all();
        while state.finished < walk && !state.stopping {
            let waited = self.shared.changed.wait_timeout(state, MEANWHILE).unwrap_or_else(PoisonError::into_inner);
            drop(waited);
            meanwhile();
            state = self.shared.lock();
        }
        state.waiting -= 1;
        if state.finished < walk {
            return Err(Broken { problem: Refusal::Stopping.to_string(), passes: true });
        }
        match state.broken_off.clone() {
            Some(broken) => Err(broken),
            None => Ok(state.progress.clone()),
        }
    }

    /// How far objects have come that are behind; nothing if none is.
    pub fn progress(&self) -> Vec<Progress> {
        self.shared.lock().progress.clone()
    }

    /// Has the thread end after the step that it is in. Who waits for the end of a walk is told that it was not reached.
    pub fn cancel(&self) {
        self.shared.end();
    }

    /// [`cancel`](Self::cancel)s, and waits until the thread has ended.
    pub fn stop(&self) {
        self.cancel();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            log::error!("the thread that migrates objects had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }
}

/// What the thread works with.
struct Walker {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    retirement: Arc<Retirement>,
    reader: Reader,
    /// How many objects one step takes.
    at_once: usize,
    /// How long to rest before each.
    rest: Duration,
    /// The walk under way.
    walk: u64,
    /// [`State::sets`] when it began.
    sets: u64,
}

/// The objects that a walk has still to look at.
struct AllObjects {
    walk: ObjectWalk,
    /// The next ones.
    ids: std::vec::IntoIter<ObjectId>,
    is_over: bool,
}

impl AllObjects {
    fn new(reader: &Reader) -> AllObjects {
        AllObjects { walk: ObjectWalk::new(reader), ids: Vec::new().into_iter(), is_over: false }
    }
}

impl Walker {
    fn run(mut self) {
        while let Some(walk) = self.next() {
            let result = match walk {
                Some(walk) => {
                    self.walk = walk;
                    self.walk()
                }
                None => self.look().map(|left| {
                    if left {
                        self.shared.lock().wanted += 1;
                    }
                }),
            };
            self.reader.release();
            let broken_off = match result {
                Ok(()) => None,
                // The next one is due already; who waits for this one waits for that.
                Err(Interruption::Outdated) => continue,
                Err(Interruption::Refused(Refusal::Stopping)) => return self.shared.end(),
                Err(Interruption::Refused(refusal)) => {
                    let passes = matches!(refusal, Refusal::Overloaded | Refusal::StorageFull { .. });
                    Some(Broken { problem: refusal.to_string(), passes })
                }
                Err(Interruption::Unreadable(problem)) => Some(Broken { problem, passes: false }),
            };
            if let Some(Broken { problem, .. }) = &broken_off {
                log::error!("the migration of objects is interrupted and tried again: {problem}");
            }
            let mut state = self.shared.lock();
            state.broken_off = broken_off;
            state.finished = walk.unwrap_or(state.finished);
            self.shared.changed.notify_all();
        }
    }

    /// Waits for something to do: a walk, or - none - a look at what the last one left. None of both at the end.
    fn next(&self) -> Option<Option<u64>> {
        let mut state = self.shared.lock();
        loop {
            if state.stopping {
                return None;
            }
            if state.wanted > state.finished {
                return Some(Some(state.wanted));
            }
            if state.progress.is_empty() && state.broken_off.is_none() {
                state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.shared.changed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            if waited.1.timed_out() && state.wanted == state.finished && !state.stopping {
                return Some(state.broken_off.is_some().then_some(state.finished));
            }
        }
    }

    /// Looks through all objects and has those that are behind brought up.
    fn walk(&mut self) -> Result<(), Interruption> {
        {
            let mut state = self.shared.lock();
            state.progress.iter_mut().for_each(Progress::try_again);
            self.sets = state.sets;
        }
        let started = Instant::now();
        // What is made from now on has the schema in force.
        let mut all = AllObjects::new(&self.reader);
        let mut found: Vec<(ObjectId, Arc<str>, u32)> = Vec::new();
        let mut left = self.look()?;
        while left && (!all.is_over || !found.is_empty()) {
            self.collect(&mut all, &mut found)?;
            if found.is_empty() {
                continue;
            }
            self.rest()?;
            let objects = found.iter().map(|(object, ..)| *object).collect();
            let step = self.step(objects)?;
            left = self.note(&step, &found);
            found.drain(..step.examined);
        }
        self.look()?;
        let state = self.shared.lock();
        // What is behind without having failed is another walk's: a swap has come in between.
        for Progress { behind, failed, .. } in state.progress.iter().filter(|it| it.failed > 0) {
            let Behind { behavior, from, to, objects, .. } = behind;
            log::warn!(
                "{objects} objects of {behavior} are left in schema {from} instead of {to}: {failed} failed to migrate"
            );
        }
        log::debug!("walked over the objects in {:?}", started.elapsed());
        Ok(())
    }

    /// Looks on for objects that are behind, until a step is full or it is time for a question.
    fn collect(
        &mut self,
        all: &mut AllObjects,
        found: &mut Vec<(ObjectId, Arc<str>, u32)>,
    ) -> Result<(), Interruption> {
        self.go_on()?;
        let (plugins, head) = (self.engine.plugins(), self.engine.identity().head().tid);
        self.reader.refresh();
        let unreadable = |error: StorageError| Interruption::Unreadable(error.to_string());
        if all.ids.len() == 0 {
            all.ids = all.walk.next(&mut self.reader, LOOKED_AT_AT_ONCE).map_err(unreadable)?.into_iter();
            all.is_over = all.ids.len() == 0;
        }
        for object in all.ids.by_ref().take(LOOKED_AT_AT_ONCE) {
            let version = self.reader.snapshot(object, head).map_err(unreadable)?;
            let Some(record) = version.and_then(|version| version.record.clone()) else { continue };
            let Some(behavior) = plugins.behavior(&record.behavior) else { continue };
            if behavior.schema() != record.schema {
                found.push((object, record.behavior.clone(), record.schema));
                if found.len() >= self.at_once {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One step of the executor; answered when it is durable.
    fn step(&mut self, objects: Vec<ObjectId>) -> Result<MigrationStep, Interruption> {
        loop {
            let (sender, receiver) = mpsc::channel();
            let report = Box::new(move |step| _ = sender.send(step));
            match ask(&self.engine, Doing::Migrate { objects: objects.clone(), report }) {
                Ok(_) => return receiver.recv().map_err(|_| Refusal::Stopping.into()),
                Err(Refusal::Overloaded) => thread::sleep(BACK_OFF),
                Err(refusal) => return Err(refusal.into()),
            }
            self.go_on()?;
        }
    }

    /// Rests before a step, unless somebody waits.
    fn rest(&mut self) -> Result<(), Interruption> {
        if !self.rest.is_zero() {
            self.reader.release();
            let goes_on = |state: &mut State| state.wanted == self.walk && state.waiting == 0 && !state.stopping;
            let state = self.shared.lock();
            drop(self.shared.changed.wait_timeout_while(state, self.rest, goes_on));
        }
        self.go_on()
    }

    fn go_on(&self) -> Result<(), Interruption> {
        let state = self.shared.lock();
        match () {
            () if state.stopping => Err(Refusal::Stopping.into()),
            () if state.wanted != self.walk => Err(Interruption::Outdated),
            () => Ok(()),
        }
    }

    /// Takes down what a step did. Answers whether something is left that was not tried.
    fn note(&self, step: &MigrationStep, objects: &[(ObjectId, Arc<str>, u32)]) -> bool {
        let mut state = self.shared.lock();
        if state.sets != self.sets {
            // What the step saw is not in force any more.
            return true;
        }
        state.set_behind(&step.behind);
        for progress in &mut state.progress {
            let Behind { behavior, from, to, .. } = &progress.behind;
            progress.done += step.migrated.get(&(behavior.clone(), *from, *to)).copied().unwrap_or(0);
            for (object, failure) in &step.failed {
                let is_one = |it: &&(ObjectId, Arc<str>, u32)| it.0 == *object && it.1 == *behavior && it.2 == *from;
                if objects.iter().find(is_one).is_some() {
                    progress.failed += 1;
                    if progress.failures.len() < FAILURES_SHOWN_MAX {
                        progress.failures.push(FailedObject { object: *object, failure: failure.clone() });
                    }
                }
            }
        }
        state.progress.iter().any(|it| it.behind.objects > it.failed)
    }

    /// Looks what is behind, and lets go of fallbacks that nothing needs any more. Answers whether something is left that was
    /// not tried.
    fn look(&mut self) -> Result<bool, Interruption> {
        let both = |plugins: &PluginSet, census: &Census| (plugins.behind(census), needless_fallbacks(plugins, census));
        let (behind, needless) = loop {
            match look(&self.engine, both) {
                Err(Refusal::Overloaded) => thread::sleep(BACK_OFF),
                seen => break seen?,
            }
            self.go_on()?;
        };
        if !needless.is_empty() {
            self.release(needless)?;
        }
        self.forget_overcome()?;
        let mut state = self.shared.lock();
        if state.wanted != self.walk {
            return Err(Interruption::Outdated);
        }
        state.set_behind(&behind);
        Ok(state.progress.iter().any(|it| it.behind.objects > it.failed))
    }

    /// Forgets failures of objects that were deleted, or migrated when they were touched.
    fn forget_overcome(&mut self) -> Result<(), Interruption> {
        let head = self.engine.identity().head().tid;
        self.reader.refresh();
        let known = self.shared.lock().progress.clone();
        for Progress { behind: Behind { behavior, from, .. }, failures, .. } in known {
            for FailedObject { object, .. } in failures {
                let version = self.reader.snapshot(object, head);
                let version = version.map_err(|error| Interruption::Unreadable(error.to_string()))?;
                let record = version.and_then(|version| version.record.clone());
                if record.is_none_or(|record| record.schema != from || record.behavior != behavior) {
                    self.shared.lock().forget(object);
                }
            }
        }
        Ok(())
    }

    /// Takes fallbacks out of the set in force and retires them.
    fn release(&self, needless: Vec<Arc<Generation>>) -> Result<(), Interruption> {
        let digest = |it: &Arc<Generation>| (it.name().to_string(), Value::Text(it.digest().to_string()));
        let plugins = Value::Map(needless.iter().map(digest).collect());
        let note = Value::Map([("plugins".to_owned(), plugins)].into_iter().collect()).encode();
        let leaving = needless.clone();
        let admit: Admit = Box::new(move |plugins, census| {
            let is_leaving = |it: &Arc<Generation>| leaving.iter().any(|other| Arc::ptr_eq(it, other));
            // A swap may have come between.
            if needless_fallbacks(plugins, census).iter().filter(|it| is_leaving(it)).count() != leaving.len() {
                return Err("what needs the fallbacks has changed".to_owned());
            }
            Ok(plugins.fallbacks().filter(|it| !is_leaving(it)).cloned().collect())
        });
        match ask(
            &self.engine,
            Doing::Install {
                what: RELEASED,
                generations: Vec::new(),
                removed: Vec::new(),
                admit,
                note,
                remember: None,
            },
        ) {
            Ok(_) => {
                self.retirement.retire(needless);
                Ok(())
            }
            Err(Refusal::NotAdmitted { .. }) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

fn needless_fallbacks(plugins: &PluginSet, census: &Census) -> Vec<Arc<Generation>> {
    let needed = plugins.needed_fallbacks(census);
    plugins.fallbacks().filter(|it| !needed.iter().any(|needed| Arc::ptr_eq(it, needed))).cloned().collect()
}

impl State {
    /// Takes over what is behind now, and keeps what is known about it.
    fn set_behind(&mut self, behind: &[Behind]) {
        let before = std::mem::take(&mut self.progress);
        let known = |now: &Behind| {
            let same = |it: &&Progress| {
                (&it.behind.behavior, it.behind.from, it.behind.to) == (&now.behavior, now.from, now.to)
            };
            let (done, failed, failures) =
                before.iter().find(same).map(|it| (it.done, it.failed, it.failures.clone())).unwrap_or_default();
            Progress { behind: now.clone(), done, failed: failed.min(now.objects), failures }
        };
        self.progress = behind.iter().map(known).collect();
    }

    fn forget(&mut self, object: ObjectId) {
        for progress in &mut self.progress {
            let before = progress.failures.len();
            progress.failures.retain(|failed| failed.object != object);
            let (forgotten, left) = ((before - progress.failures.len()) as u64, progress.failures.len() as u64);
            // Of objects that went while the walk was under way fewer may be counted than are listed.
            progress.failed = progress.failed.saturating_sub(forgotten).max(left);
        }
    }
}

impl Progress {
    /// What failed is to be tried again.
    fn try_again(&mut self) {
        self.failed = 0;
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use theseus_abi::FailureCode;

    use super::*;

    fn behind(objects: u64) -> Behind {
        Behind { behavior: "a.B".into(), plugin: "a".into(), from: 1, to: 2, objects, way: None }
    }

    #[test]
    fn failures_of_objects_that_go_while_the_walk_is_under_way_are_forgotten() {
        let mut state = State::default();
        state.set_behind(&[behind(6)]);
        let failure = Failure::new(FailureCode::REFUSED, "unlucky");
        let failed = |object| FailedObject { object: ObjectId(object), failure: failure.clone() };
        (state.progress[0].failed, state.progress[0].failures) = (5, (1..=5).map(failed).collect());
        // The next step finds that four of them are gone, and brings up the one that had not been tried.
        state.set_behind(&[behind(1)]);
        (1..=4).for_each(|object| state.forget(ObjectId(object)));
        let Progress { failed, failures, .. } = &state.progress[0];
        assert_eq!((*failed, failures.len(), failures[0].object), (1, 1, ObjectId(5)));
    }
}
