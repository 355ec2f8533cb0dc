//! The generations that were replaced: drained, unloaded, or pinned with a reason, until the reason goes away.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    exec::spawn,
    plugin::{self, Digest, Generation, GenerationNumber, Leaving, PinReason, Unloaded},
};

/// How often a generation is looked at that will be unloaded soon.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// How often a pinned generation is looked at.
const LOOK_AT_PINNED: Duration = Duration::from_millis(250);

/// How long a reason that can pass may stand before the generation counts as pinned: a thread that was told to end needs a moment.
const GRACE: Duration = Duration::from_millis(100);

/// A thread that takes replaced generations and ends them as soon as nothing uses them any more.
pub struct Retirement {
    sender: Mutex<Option<mpsc::Sender<Vec<Arc<Generation>>>>>,
    state: Arc<Mutex<State>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A lock because the thread writes what operators read.
#[derive(Default)]
struct State {
    retired: BTreeMap<GenerationNumber, RetiredView>,
    gone: BTreeMap<String, Gone>,
    strays: usize,
}

/// What there is to say about replaced generations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Those that are still in memory, oldest first.
    pub retired: Vec<RetiredView>,
    /// What was unloaded since the start, by plugin.
    pub gone: BTreeMap<String, Gone>,
    /// Libraries in memory that were never put in force: they did not start, and could not be unloaded either.
    pub strays: usize,
}

/// So many replaced plugins are still in memory that no other should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{pinned} plugins that are not used any more cannot be unloaded, and plugins.pinned_max is {pinned_max}: a restart cycle is \
     needed, which `theseus apply BUNDLE` asks for; `theseus plugins` has the reasons"
)]
pub struct Full {
    /// How many.
    pub pinned: usize,
    /// How many may be.
    pub pinned_max: usize,
}

/// What was unloaded of one plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gone {
    /// How many generations.
    pub generations: u64,
    /// What those leaked that count their bytes; none if none did.
    pub leaked_bytes: Option<u64>,
}

impl Report {
    /// How many generations were unloaded since the start.
    pub fn unloaded(&self) -> u64 {
        self.gone.values().map(|gone| gone.generations).sum()
    }

    /// How many libraries stay in memory although nothing uses them.
    pub fn pinned(&self) -> usize {
        let is_pinned = |view: &&RetiredView| matches!(view.whereabouts, Whereabouts::Pinned { .. });
        self.retired.iter().filter(is_pinned).count() + self.strays
    }
}

/// A replaced generation that is still in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetiredView {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its file.
    pub digest: Digest,
    /// The behaviours it had, with their schema versions.
    pub behaviors: Vec<(String, u32)>,
    /// Where it stands.
    pub whereabouts: Whereabouts,
}

/// Where a replaced generation stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// It still executes what had begun, or threads are destroying what is its.
    Draining,
    /// It cannot be unloaded.
    Pinned {
        /// Why.
        reason: PinReason,
    },
}

impl Retirement {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    pub fn start() -> Retirement {
        let (sender, receiver) = mpsc::channel();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let thread = Mutex::new(Some(spawn("retirement", move || run(&receiver, &shared))));
        Retirement { sender: Mutex::new(Some(sender)), state, thread }
    }

    /// Ends generations once nobody else has them.
    pub fn retire(&self, generations: Vec<Arc<Generation>>) {
        let views = generations.iter().map(|generation| (generation.number(), view(generation)));
        lock(&self.state).retired.extend(views);
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // Fails only if the thread is gone, and then the process ends with the generations still loaded.
            _ = sender.send(generations);
        }
        // An idle executor may still have the set that was in force before.
        plugin::wake_threads();
    }

    /// What became of the replaced generations.
    pub fn report(&self) -> Report {
        let state = lock(&self.state);
        Report { retired: state.retired.values().cloned().collect(), gone: state.gone.clone(), strays: state.strays }
    }

    /// Whether one more generation may be replaced.
    ///
    /// # Errors
    ///
    /// If as many plugins as that stay in memory.
    pub fn room(&self, pinned_max: usize) -> Result<(), Full> {
        let pinned = self.report().pinned();
        if pinned >= pinned_max { Err(Full { pinned, pinned_max }) } else { Ok(()) }
    }

    /// Ends the thread. Generations that are still in use stay loaded.
    pub fn stop(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            log::error!("the thread that unloads plugins had panicked");
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn view(generation: &Generation) -> RetiredView {
    RetiredView {
        name: generation.name().to_string(),
        version: generation.version().to_owned(),
        digest: generation.digest(),
        behaviors: generation.behaviors().iter().map(|it| (it.name().to_string(), it.schema())).collect(),
        whereabouts: Whereabouts::Draining,
    }
}

/// A generation that was told to go.
struct Departure {
    leaving: Leaving,
    told: Instant,
    /// Why it counts as pinned, once it does.
    pinned: Option<PinReason>,
}

fn run(receiver: &mpsc::Receiver<Vec<Arc<Generation>>>, state: &Mutex<State>) {
    let mut draining: Vec<Arc<Generation>> = Vec::new();
    let mut departures: Vec<Departure> = Vec::new();
    let mut looked_at_pinned = Instant::now();
    loop {
        let soon = !draining.is_empty() || departures.iter().any(|departure| departure.pinned.is_none());
        match receiver.recv_timeout(if soon { LOOK_AGAIN } else { LOOK_AT_PINNED }) {
            Ok(generations) => draining.extend(generations),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let mut still = Vec::new();
        for generation in draining {
            match Arc::try_unwrap(generation) {
                Ok(generation) => {
                    let leaving = Leaving::begin(generation);
                    departures.push(Departure { leaving, told: Instant::now(), pinned: None });
                }
                Err(generation) => still.push(generation),
            }
        }
        draining = still;
        let all = looked_at_pinned.elapsed() >= LOOK_AT_PINNED;
        if all {
            looked_at_pinned = Instant::now();
            let strays = plugin::sweep_strays();
            lock(state).strays = strays;
        }
        departures.retain_mut(|departure| (departure.pinned.is_some() && !all) || !depart(departure, state));
    }
}

/// Unloads a generation if that is possible; otherwise notes why not. Answers whether it is gone.
fn depart(departure: &mut Departure, state: &Mutex<State>) -> bool {
    let name = format!("{} {}", departure.leaving.name, departure.leaving.version);
    let number = departure.leaving.number;
    match departure.leaving.unload() {
        Ok(Unloaded { leaked_bytes }) => {
            let mut state = lock(state);
            state.retired.remove(&number);
            let gone = state.gone.entry(departure.leaving.name.clone()).or_default();
            gone.generations += 1;
            if let Some(bytes) = leaked_bytes {
                *gone.leaked_bytes.get_or_insert(0) += bytes;
            }
            drop(state);
            match leaked_bytes {
                Some(bytes) if bytes > 0 => {
                    log::info!("{name} is unloaded; it leaked {bytes} bytes")
                }
                _ => log::info!("{name} is unloaded"),
            }
            true
        }
        Err(PinReason::Settling) if departure.pinned.is_none() => false,
        Err(reason) if reason.can_pass() && departure.told.elapsed() < GRACE => false,
        Err(reason) => {
            if departure.pinned.as_ref() != Some(&reason) {
                log::warn!("{name} stays in memory: {reason}");
                if let Some(view) = lock(state).retired.get_mut(&number) {
                    view.whereabouts = Whereabouts::Pinned { reason: reason.clone() };
                }
                departure.pinned = Some(reason);
            }
            false
        }
    }
}
