//! The generations that were replaced: drained, unloaded, or pinned with a reason.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::plugin::{self, Digest, Generation, Pinned, Retired};

/// How often a draining generation is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A thread that takes replaced generations and ends them as soon as nothing uses them any more.
pub struct Retirement {
    sender: Mutex<Option<mpsc::Sender<Vec<Arc<Generation>>>>>,
    state: Arc<Mutex<State>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A lock because the thread writes what operators read.
#[derive(Default)]
struct State {
    draining: Vec<RetiredView>,
    pinned: Vec<Pinned>,
    unloaded: u64,
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
    /// It still executes what had begun.
    Draining,
    /// It cannot be unloaded.
    Pinned {
        /// Why.
        reason: String,
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
        let thread = thread::Builder::new().name("retirement".into()).spawn(move || run(&receiver, &shared));
        let thread = Mutex::new(Some(thread.expect("the system gives a thread at start")));
        Retirement { sender: Mutex::new(Some(sender)), state, thread }
    }

    /// Ends generations once nobody else has them.
    pub fn retire(&self, generations: Vec<Arc<Generation>>) {
        let views = generations.iter().map(|generation| view(generation));
        self.state.lock().unwrap_or_else(PoisonError::into_inner).draining.extend(views);
        if let Some(sender) = &*self.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            // Fails only if the thread is gone, and then the process ends with the generations still loaded.
            _ = sender.send(generations);
        }
    }

    /// The replaced generations that are still in memory, and how many were unloaded.
    pub fn report(&self) -> (Vec<RetiredView>, u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.let_go_of_unmapped();
        let pinned = state.pinned.iter().map(|pinned| RetiredView {
            name: pinned.name.clone(),
            version: pinned.version.clone(),
            digest: pinned.digest,
            behaviors: Vec::new(),
            whereabouts: Whereabouts::Pinned { reason: pinned.reason.to_string() },
        });
        (state.draining.iter().cloned().chain(pinned).collect(), state.unloaded)
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

impl State {
    /// Forgets pinned generations whose reason has gone away: the dynamic linker has unmapped them since.
    fn let_go_of_unmapped(&mut self) {
        let before = self.pinned.len();
        self.pinned.retain(|pinned| pinned.is_mapped());
        self.unloaded += (before - self.pinned.len()) as u64;
    }
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

fn run(receiver: &mpsc::Receiver<Vec<Arc<Generation>>>, state: &Mutex<State>) {
    let mut draining: Vec<Arc<Generation>> = Vec::new();
    loop {
        let received = if draining.is_empty() {
            receiver.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            receiver.recv_timeout(LOOK_AGAIN)
        };
        match received {
            Ok(generations) => draining.extend(generations),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let mut still = Vec::new();
        for generation in draining {
            let digest = generation.digest();
            match Arc::try_unwrap(generation) {
                Ok(generation) => end(generation, digest, state),
                Err(generation) => still.push(generation),
            }
        }
        draining = still;
    }
}

fn end(generation: Generation, digest: Digest, state: &Mutex<State>) {
    let name = format!("{} {}", generation.name(), generation.version());
    let retired = plugin::retire(generation);
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(place) = state.draining.iter().position(|view| view.digest == digest) {
        state.draining.remove(place);
    }
    match retired {
        Retired::Unloaded => {
            state.unloaded += 1;
            log::info!("{name} is unloaded");
        }
        Retired::Pinned(pinned) => state.pinned.push(*pinned),
    }
}
