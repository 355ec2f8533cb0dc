//! A small host for the tests of the watchdog: it owns an identity, keeps a history in a chain of hashes, answers on
//! the socket it was given, and goes through the restart cycle with the host's own code for it.
//!
//! What is wrong with it is written in the file `behavior` of its release, or in `VESSEL_BEHAVIOR`.

#![allow(clippy::unwrap_used, reason = "a vessel that panics is a crash, which the tests see")]

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the host uses all of it; this program uses what it needs"
)]
#[path = "../../../host/src/restart/mod.rs"]
pub mod restart;

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::exit,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use restart::{Digest, Notifier, RestartPaths, Trial, confirm, handoff, instruction, listeners};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, flock},
};

const IDENTITY: &str = "000102030405060708090a0b0c0d0e0f";

/// No test lasts longer, and a vessel that ignores SIGTERM must not outlive its test for long.
const LIFETIME: Duration = Duration::from_secs(90);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|argument| argument == "--version") {
        println!("vessel 1");
        return;
    }
    let [_, flag, home, command] = &arguments[..] else { panic!("usage: vessel --home DIR run, not {arguments:?}") };
    assert_eq!((flag.as_str(), command.as_str()), ("--home", "run"));
    run(Path::new(home));
}

fn run(home: &Path) {
    let behavior = behavior();
    let is = |word: &str| behavior.split_whitespace().any(|found| found == word);
    if is("damaged") {
        exit(5);
    }
    let lock = File::create(home.join("identity/owner.lock")).unwrap();
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        violation(home, "two owners");
    }
    let mut history = History::open(home);
    let notifier = Notifier::from_env().unwrap();
    if is("crash") {
        exit(1);
    }
    let trial = Trial::from_env().unwrap();
    if let Some(Trial { id }) = &trial
        && let Some(handoff) = handoff::read(home, id).unwrap()
    {
        let head = history.tid();
        if let Err(error) = handoff::prove(&handoff, IDENTITY, head, |tid, hash| history.contains(tid, hash)) {
            violation(home, &error.to_string());
        }
    }
    let (mut stop, sender) = UnixStream::pair().unwrap();
    stop.set_nonblocking(true).unwrap();
    // The signal is caught either way; whoever ignores it listens to another one.
    let signal = if is("ignores-sigterm") { signal_hook::consts::SIGUSR2 } else { signal_hook::consts::SIGTERM };
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false))).unwrap();
    signal_hook::low_level::pipe::register(signal, sender).unwrap();
    history.append("start");
    let listener = listeners::take().unwrap().pop().expect("the watchdog hands over a socket");
    fs::write(home.join("address"), listener.local_addr().unwrap().to_string()).unwrap();
    // One that crashes after its confirmation is not ready before, so that its end is seen first.
    let silent = trial.is_some() && is("crash-after-confirm");
    if !silent && !is("never-ready") {
        notifier.ready();
    }
    if let Some(Trial { id }) = &trial
        && !is("no-confirm")
    {
        history.append("confirmed");
        let confirmed = confirm::Confirmed {
            schema: confirm::SCHEMA,
            id: id.clone(),
            identity: IDENTITY.into(),
            tid: history.tid(),
            head: history.head(),
            incarnation: 1,
            time_us: instruction::now_us(),
        };
        confirm::publish(home, &confirmed).unwrap();
        if is("crash-after-confirm") {
            exit(1);
        }
    }
    serve(&listener, &mut stop, &mut history, &notifier);
    notifier.stopping();
    if is("slow-stop") {
        notifier.extend_timeout(Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1500));
    }
    history.append("stop");
    hand_off(home, &history);
}

fn behavior() -> String {
    if let Ok(behavior) = std::env::var("VESSEL_BEHAVIOR") {
        return behavior;
    }
    let release = release();
    fs::read_to_string(release.join("behavior")).unwrap_or_default()
}

fn release() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

fn violation(home: &Path, what: &str) -> ! {
    let mut file = File::options().append(true).create(true).open(home.join("violations")).unwrap();
    writeln!(file, "{what}").unwrap();
    exit(9)
}

/// Answers every connection with `RELEASE PID TID`, one transaction each, until SIGTERM.
fn serve(listener: &TcpListener, stop: &mut UnixStream, history: &mut History, notifier: &Notifier) {
    let started = Instant::now();
    let release = release().file_name().unwrap().to_string_lossy().into_owned();
    let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    while started.elapsed() < LIFETIME {
        let mut sources = [
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut sources, Some(&wait));
        notifier.ping();
        if !matches!(stop.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            // What has connected is answered first.
            while answer(listener, &release, history) {}
            return;
        }
        answer(listener, &release, history);
    }
}

fn answer(listener: &TcpListener, release: &str, history: &mut History) -> bool {
    let Ok((mut stream, _)) = listener.accept() else { return false };
    history.append("call");
    let _ = stream.write_all(format!("{release} {} {}\n", std::process::id(), history.tid()).as_bytes());
    true
}

/// Hands off for every instruction that is under way.
fn hand_off(home: &Path, history: &History) {
    let spool = RestartPaths::new(home).spool();
    for entry in fs::read_dir(spool).unwrap() {
        let path = entry.unwrap().path();
        let Some(Ok(id)) = path.file_stem().map(|stem| stem.to_string_lossy().parse()) else { continue };
        let handoff = handoff::Handoff {
            schema: handoff::SCHEMA,
            id,
            identity: IDENTITY.into(),
            tid: history.tid(),
            head: history.head(),
            incarnation: 1,
            time_us: instruction::now_us(),
        };
        handoff::publish(home, &handoff).unwrap();
    }
}

/// A text file of lines `TID HASH WHAT`, each hash over the one before: enough of a history to be cut or forked.
struct History {
    file: File,
    hashes: Vec<blake3::Hash>,
}

impl History {
    fn open(home: &Path) -> History {
        let path = home.join("identity/history.log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let file = File::options().append(true).create(true).open(&path).unwrap();
        let mut history = History { file, hashes: Vec::new() };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (tid, hash, what) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let expected = history.next_hash(what);
            if tid != (history.tid() + 1).to_string() || hash != expected.to_string() {
                violation(home, &format!("the history is broken at {line}"));
            }
            history.hashes.push(expected);
        }
        history
    }

    fn next_hash(&self, what: &str) -> blake3::Hash {
        let before = self.hashes.last().map_or([0; 32], |hash| *hash.as_bytes());
        blake3::hash(&[&before, what.as_bytes()].concat())
    }

    fn append(&mut self, what: &str) {
        let hash = self.next_hash(what);
        self.hashes.push(hash);
        self.file.write_all(format!("{} {hash} {what}\n", self.tid()).as_bytes()).unwrap();
    }

    fn tid(&self) -> u64 {
        self.hashes.len() as u64
    }

    fn head(&self) -> Digest {
        (*self.hashes.last().expect("a started vessel has a history")).into()
    }

    fn contains(&self, tid: u64, hash: &Digest) -> bool {
        let index = usize::try_from(tid).ok().and_then(|tid| tid.checked_sub(1));
        index.and_then(|index| self.hashes.get(index)).is_some_and(|found| Digest::from(*found) == *hash)
    }
}
