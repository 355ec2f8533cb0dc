//! The one loop: do the work of the state, make the next state durable, wait for something to happen.

use std::{
    fs::DirBuilder,
    io,
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::DirBuilderExt, net::UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    low_level,
};

use crate::{
    bundle::Digest,
    cycle::{Event, Impossible, State, Tries, next},
    files::{self, Layout, Lock},
    host::Host,
    instruction::{Instruction, Refusal},
    journal::{History, Journal, JournalError, Line, What},
    launch::FirstDescriptor,
    notify::{Inbox, Upstream},
    options::Options,
    releases::{InstallError, Link, Releases},
    script::Script,
};

mod steps;
mod supervise;

use supervise::Restarts;

/// The longest time between two looks at everything, whether or not something happened.
const TICK: Duration = Duration::from_secs(1);

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// How long after a request to stop another one counts as a second, which kills the host.
const SECOND_REQUEST: Duration = Duration::from_secs(2);

/// How a run of the watchdog ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was asked to stop, and the host has stopped.
    Stopped,
    /// The host cannot be kept running; `update/held` says why.
    Held,
}

/// When an observer of a transition is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The work of the old state is done, and the journal still says the old state.
    Before,
    /// The journal says the new state.
    After,
}

/// Why the watchdog could not start, or had to give up.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something that it needs could not be had.
    #[error("cannot {doing}: {source}")]
    Setup {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// A second watchdog would be one too many.
    #[error("another watchdog runs for {}: there can be only one", home.display())]
    AnotherWatchdog {
        /// The home folder.
        home: PathBuf,
    },
    /// There is no release to start.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The journal is there, but it cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A mistake in the watchdog.
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

/// A step that could not be done now. It is tried again, and the state stays what it is.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("cannot open {address} for applications: {source}")]
    Listen { address: String, source: io::Error },
}

/// Names what was being done when the system said no.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StepError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, StepError> {
        self.map_err(|source| StepError::Io { doing, source })
    }
}

/// Supervises a host until the process gets SIGTERM or SIGINT, or the host cannot be kept running.
///
/// `observer` is told of every transition: from, to, and whether the journal has it already.
///
/// The calling process must have one thread: processes are started by `fork`, and the watchdog handles SIGTERM and
/// SIGINT.
///
/// # Errors
///
/// If something that it needs cannot be had at the start. Later failures are logged and tried again.
pub fn run(options: &Options, observer: &mut dyn FnMut(State, State, Moment)) -> Result<End, RunError> {
    let mut watchdog = Watchdog::new(options, observer)?;
    match watchdog.load()? {
        Some(end) => Ok(end),
        None => watchdog.run(),
    }
}

/// Everything that the watchdog holds.
struct Watchdog<'a> {
    options: &'a Options,
    observer: &'a mut dyn FnMut(State, State, Moment),
    layout: Layout,
    releases: Releases,
    history: History,
    inbox: Inbox,
    upstream: Upstream,
    signals: UnixStream,
    /// Where new instructions and confirmations announce themselves; without it they are found a little later.
    changes: Option<OwnedFd>,
    /// Opened when the first host is about to start, since a host of a dead watchdog may still have the address.
    listener: Option<TcpListener>,
    _lock: Lock,
    _first: FirstDescriptor,

    state: State,
    /// An event whose state could not be made durable yet.
    pending: Option<Event>,
    /// The instruction of the cycle, from `Accepted` on.
    instruction: Option<Instruction>,
    /// The instruction that is being looked at.
    candidate: Option<PathBuf>,
    /// Why it is rolled back, or held.
    reason: Option<String>,

    host: Option<Host>,
    restarts: Restarts,
    /// Held from `Quiesced` until the moment before a host is started.
    owner: Option<Lock>,
    owner_waited: Option<Instant>,
    script: Option<Script>,
    script_waited: Option<Instant>,
    /// The host of this try was started.
    try_started: bool,
    /// The links lead to the old release again.
    rolled_back: bool,
    /// Since when it has been asked to stop.
    leaving: Option<Instant>,
    /// When there is something to do even if nothing happens.
    wake: Instant,
}

impl<'a> Watchdog<'a> {
    fn new(options: &'a Options, observer: &'a mut dyn FnMut(State, State, Moment)) -> Result<Watchdog<'a>, RunError> {
        fn setup<T>(doing: impl Into<String>, result: io::Result<T>) -> Result<T, RunError> {
            result.map_err(|source| RunError::Setup { doing: doing.into(), source })
        }
        // Before any other descriptor is made.
        let first = setup("open /dev/null", FirstDescriptor::occupy())?;
        let signals = setup("handle signals", handle_signals())?;
        let mut folders = DirBuilder::new();
        folders.recursive(true).mode(0o700);
        setup(format!("make {}", options.home.display()), folders.create(&options.home))?;
        let home = setup(format!("find {}", options.home.display()), options.home.canonicalize())?;
        let layout = Layout { home };
        for folder in layout.folders() {
            setup(format!("make {}", folder.display()), folders.create(&folder))?;
        }
        let lock = setup("lock update/watchdog.lock", Lock::try_take(&layout.watchdog_lock()))?;
        let Some(lock) = lock else { return Err(RunError::AnotherWatchdog { home: layout.home }) };
        let changes = watch(&layout).inspect_err(|error| log::warn!("changes are not announced: {error}")).ok();
        Ok(Watchdog {
            releases: Releases::new(layout.clone()),
            history: setup("open update/history.jsonl", History::open(&layout.history()))?,
            inbox: setup("open a socket for notifications", Inbox::open())?,
            upstream: setup("use NOTIFY_SOCKET", Upstream::from_env())?,
            signals,
            changes,
            listener: None,
            _lock: lock,
            _first: first,
            options,
            observer,
            layout,
            state: State::Idle,
            pending: None,
            instruction: None,
            candidate: None,
            reason: None,
            host: None,
            restarts: Restarts::default(),
            owner: None,
            owner_waited: None,
            script: None,
            script_waited: None,
            try_started: false,
            rolled_back: false,
            leaving: None,
            wake: Instant::now(),
        })
    }

    /// Goes back to where the last watchdog stood. Says how it ends if it ends at once.
    fn load(&mut self) -> Result<Option<End>, RunError> {
        if let Some(release) = self.releases.ensure_first(self.options.host.as_deref())? {
            log::info!("installed the first release, {}", release.short());
            let line = Line { release: Some(release), ..Line::now(What::Installed) };
            let appended = self.history.append(&line);
            appended.map_err(|source| RunError::Setup { doing: "write update/history.jsonl".into(), source })?;
        }
        let path = self.layout.journal();
        let Some(journal) = Journal::read(&path)? else { return Ok(None) };
        let tries = match &journal.instruction {
            Some(instruction) => self.releases.tries(&instruction.release),
            None => Ok(None),
        };
        let tries = tries.map_err(|source| RunError::Setup { doing: "read the trial file".into(), source })?;
        let state = State::from_name(&journal.state, tries.unwrap_or(Tries { left: 0, done: 0 }));
        let malformed = |problem| JournalError::Malformed { path: path.clone(), problem };
        let state = state.ok_or_else(|| malformed(format!("there is no state `{}`", journal.state)))?;
        let needed = !matches!(state, State::Idle | State::Held | State::Requested);
        if needed && journal.instruction.is_none() {
            return Err(malformed(format!("state `{}` needs its instruction", journal.state)).into());
        }
        (self.state, self.instruction, self.reason) = (state, journal.instruction, journal.reason);
        if state.in_cycle() {
            log::info!("going on with {}, which was interrupted", self.describe(state));
        }
        match state {
            State::Held if self.layout.held().exists() => {
                log::error!("held: {}; `theseus resume` lets it start again", self.reason.as_deref().unwrap_or("?"));
                return Ok(Some(End::Held));
            }
            State::Held => self.pending = Some(Event::Resumed),
            // Whatever became of that host, its try is taken.
            State::Checking(_) => self.try_started = true,
            _ => {}
        }
        Ok(None)
    }

    fn run(&mut self) -> Result<End, RunError> {
        loop {
            self.wake = Instant::now() + TICK;
            if self.leaving.is_some() {
                if self.leave() {
                    return Ok(End::Stopped);
                }
            } else {
                match self.step() {
                    Ok(true) if self.state == State::Held => return Ok(End::Held),
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(Trouble::Fatal(error)) => return Err(error),
                    // What works on is left working; what stands still is tried again at the next tick.
                    Err(Trouble::Passing(error)) => log::error!("{error}; it is tried again"),
                }
            }
            self.wait().map_err(|source| RunError::Setup { doing: "wait for events".into(), source })?;
        }
    }

    /// Does what can be done now. Says whether the state has changed.
    fn step(&mut self) -> Result<bool, Trouble> {
        let event = match self.pending.take() {
            Some(event) => Some(event),
            None => match self.work() {
                Err(StepError::Listen { address, source }) => {
                    let doing = format!("open {address} for applications");
                    return Err(Trouble::Fatal(RunError::Setup { doing, source }));
                }
                Err(error) => return Err(Trouble::Passing(error)),
                Ok(event) => event,
            },
        };
        let Some(event) = event else { return Ok(false) };
        let to = next(self.state, event).map_err(|error| Trouble::Fatal(error.into()))?;
        (self.observer)(self.state, to, Moment::Before);
        let ends = to == State::Idle;
        let instruction = self.instruction.as_ref().filter(|_| !ends);
        let reason = self.reason.as_deref().filter(|_| !ends);
        if let Err(source) = Journal::write(&self.layout.journal(), to.name(), instruction, reason) {
            // The work is done, and some of it cannot be noticed twice.
            self.pending = Some(event);
            return Err(Trouble::Passing(StepError::Io { doing: "write update/journal.json", source }));
        }
        (self.observer)(self.state, to, Moment::After);
        log::info!("{}", self.describe(to));
        self.upstream.status(&self.describe(to));
        self.state = to;
        if ends {
            (self.instruction, self.reason, self.candidate) = (None, None, None);
            (self.try_started, self.rolled_back) = (false, false);
        }
        Ok(true)
    }

    fn describe(&self, state: State) -> String {
        let tries = match state {
            State::Trial(tries) | State::Checking(tries) => {
                format!(" (tries: {} left, {} done)", tries.left, tries.done)
            }
            _ => String::new(),
        };
        match &self.instruction {
            Some(instruction) if state != State::Idle => {
                format!("update {} to {}: {}{tries}", instruction.id, instruction.release.short(), state.name())
            }
            _ => state.name().to_owned(),
        }
    }

    /// Waits until something happens or has to be done, and takes in what happened.
    fn wait(&mut self) -> io::Result<()> {
        let deadlines =
            [Some(self.wake), self.host.as_ref().and_then(Host::deadline), self.script.as_ref().map(Script::deadline)];
        let until = deadlines.into_iter().flatten().min().unwrap_or(self.wake);
        let rest = until.saturating_duration_since(Instant::now()).min(TICK);
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: i64::from(rest.subsec_nanos()) };
        let sources = [
            Some(self.signals.as_fd()),
            Some(self.inbox.as_fd()),
            self.changes.as_ref().map(AsFd::as_fd),
            self.host.as_ref().map(AsFd::as_fd),
            self.script.as_ref().map(AsFd::as_fd),
        ];
        let mut polled: Vec<PollFd<'_>> =
            sources.into_iter().flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.take_signals()?;
        self.drain_changes();
        // Before the exit is seen, so that the last words of a host count.
        self.hear_host()?;
        self.see_exit()?;
        self.upstream.ping();
        Ok(())
    }

    fn take_signals(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64];
        let received = match io::Read::read(&mut self.signals, &mut buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            other => other?,
        };
        match (received, self.leaving) {
            (0, _) => {}
            (_, None) => {
                log::info!("asked to stop");
                self.upstream.stopping();
                self.leaving = Some(Instant::now());
            }
            // Whoever signals the process group reaches the watchdog twice with one request.
            (_, Some(since)) if since.elapsed() < SECOND_REQUEST => {}
            (_, Some(_)) => {
                if let Some(host) = &mut self.host {
                    log::warn!("asked to stop a second time; the host is killed");
                    host.kill();
                }
            }
        }
        Ok(())
    }

    fn drain_changes(&self) {
        let Some(changes) = &self.changes else { return };
        // What changed is found by looking; the announcement only says that it is time to.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(changes, &mut buffer);
        while reader.next().is_ok() {}
    }

    /// Sees to it that the watchdog is called again by then.
    fn wake_by(&mut self, time: Instant) {
        self.wake = self.wake.min(time);
    }

    /// The instruction of the cycle.
    fn cycle(&self) -> &Instruction {
        self.instruction.as_ref().expect("in a cycle there is an instruction: `step` and `load` see to it")
    }
}

/// What stops a step.
enum Trouble {
    Passing(StepError),
    Fatal(RunError),
}

fn handle_signals() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    for signal in [SIGTERM, SIGINT] {
        low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    Ok(receiver)
}

fn watch(layout: &Layout) -> io::Result<OwnedFd> {
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    for folder in [layout.spool(), layout.confirmations()] {
        inotify::add_watch(&changes, folder, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE)?;
    }
    Ok(changes)
}
