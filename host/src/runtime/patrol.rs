//! The thread that verifies the live identity, a little at a time, round after round.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::identity::{Head, Identity, PatrolAt, PatrolPart, Tid};

/// How many bytes are checked at once.
const STEP_BYTES: u64 = 64 << 10;

/// How often it is noted how far it has come.
const NOTE_EVERY: Duration = Duration::from_secs(30);

/// How long it rests after a fault of the storage, and after a round.
const REST: Duration = Duration::from_secs(10);

/// What it has found so far.
#[derive(Default)]
pub(super) struct Found {
    /// The last transaction whose record was checked in this round.
    pub tid: AtomicU64,
    /// Rounds that came to their end since the start.
    pub rounds: AtomicU64,
    /// Damaged places that were met since the start.
    pub damage: AtomicU64,
}

/// The patrol of a running host.
pub(super) struct Patrol {
    pub found: Arc<Found>,
    /// Dropped to end it.
    stop: Mutex<Option<Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Patrol {
    /// Begins, or goes on where `note` says. With 0 bytes a second it never does.
    pub(super) fn start(identity: Arc<Identity>, note: PathBuf, bytes_per_second: u64) -> Patrol {
        let found = Arc::new(Found::default());
        let (stop, stopped) = bounded(0);
        let thread = (bytes_per_second > 0).then(|| {
            let found = found.clone();
            let walk = move || walk(&identity, &note, bytes_per_second, &found, &stopped);
            thread::Builder::new().name("theseus-patrol".into()).spawn(walk).expect("threads can be started")
        });
        Patrol { found, stop: Mutex::new(Some(stop)), thread: Mutex::new(thread) }
    }

    /// Ends it after its step.
    pub(super) fn stop(&self) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            log::error!("the patrol thread had panicked");
        }
    }
}

fn walk(identity: &Identity, note: &Path, bytes_per_second: u64, found: &Found, stopped: &Receiver<()>) {
    let mut at = Note::read(note, identity);
    let mut noted = Instant::now();
    let mut rest = Duration::ZERO;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(rest) {
        rest = match identity.patrol(&mut at, STEP_BYTES) {
            Ok(step) => {
                for damage in &step.damage {
                    found.damage.fetch_add(1, Ordering::Relaxed);
                    log::error!(
                        "the identity is DAMAGED at {}: {}. Stop the host, keep a copy of the home, and run `theseus verify`: it tells whether \
                         `theseus repair` is enough or a backup has to be restored",
                        damage.place,
                        damage.problem
                    );
                }
                found.rounds.fetch_add(u64::from(step.round), Ordering::Relaxed);
                let took = Duration::from_secs_f64(step.bytes as f64 / bytes_per_second as f64);
                if step.round { took.max(REST) } else { took }
            }
            Err(error) => {
                log::warn!("verifying in the background: {error}");
                REST
            }
        };
        found.tid.store(at.head.tid.0, Ordering::Relaxed);
        if noted.elapsed() >= NOTE_EVERY {
            noted = Instant::now();
            Note::write(note, identity, &at);
        }
    }
    Note::write(note, identity, &at);
}

/// How far it has come, in a file. If that is lost or wrong, the round begins anew.
#[derive(Serialize, Deserialize)]
struct Note {
    identity: String,
    tid: u64,
    hash: String,
    part: PatrolPart,
    next: Vec<u8>,
}

impl Note {
    fn read(path: &Path, identity: &Identity) -> PatrolAt {
        let read = || {
            let note: Note = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            let head = Head { tid: Tid(note.tid), hash: note.hash.parse().ok()? };
            let same = note.identity == identity.id().to_string();
            same.then_some(PatrolAt { head, part: note.part, next: note.next })
        };
        read().unwrap_or_default()
    }

    fn write(path: &Path, identity: &Identity, at: &PatrolAt) {
        let note = Note {
            identity: identity.id().to_string(),
            tid: at.head.tid.0,
            hash: at.head.hash.to_string(),
            part: at.part,
            next: at.next.clone(),
        };
        let made = path.with_extension("tmp");
        let written = serde_json::to_vec(&note)
            .map_err(std::io::Error::other)
            .and_then(|note| fs::write(&made, note))
            .and_then(|()| fs::rename(&made, path));
        if let Err(error) = written {
            log::debug!("{}: {error}", path.display());
        }
    }
}
