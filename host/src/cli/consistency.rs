//! `verify` and `repair`: in a process of their own, because a file that is damaged badly enough ends whoever reads it.

use std::{
    env,
    io::{self, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::Value as Json;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    fault::{Exit, Fault},
    output,
};
use crate::{
    gateway::json as forms,
    home::Home,
    runtime::{
        action::{KeptHeadFound, codes},
        offline::{self, KeptHead, Verify},
    },
};

/// Tells the child that it is the one to do it.
const IN_THIS_PROCESS: &str = "THESEUS_READ_IN_THIS_PROCESS";

/// How often the parent looks whether the child has ended, or it is itself to end.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How often the bar is drawn.
const DRAW: Duration = Duration::from_millis(100);

/// Prints a document: as it is, or as text for people.
pub(super) type Print<'a> = &'a dyn Fn(&Json, fn(&Json) -> String) -> Result<(), Fault>;

/// How to verify an identity.
pub(super) struct Verifying<'a> {
    /// Go on where one was interrupted.
    pub(super) resume: bool,
    /// A head that is to be part of the history.
    pub(super) kept_head: Option<&'a str>,
    /// Say for people what is done, beside the report.
    pub(super) with_notes: bool,
}

/// Checks every record of the history and compares the objects with it.
pub(super) fn verify(home: &Home, how: &Verifying<'_>, print: Print<'_>) -> Result<(), Fault> {
    let Verifying { resume, kept_head, with_notes } = *how;
    let kept_head = kept_head.map(parse_head).transpose()?;
    if !is_child() {
        return in_a_child(home);
    }
    let stop = stop_signals()?;
    let mut bar = Bar::new();
    let mut tell = |resumption| {
        if with_notes {
            eprintln!("{}", output::resumption(resumption));
        }
    };
    let report = offline::verify(
        home,
        Verify {
            resume: if resume { Some(&mut tell) } else { None },
            kept_head,
            progress: &mut |now| {
                bar.draw(now.done, now.total, Some(now.bytes));
                !stop.load(Ordering::Relaxed)
            },
        },
    );
    bar.clear();
    let Some(report) = report? else {
        return Err(interrupted("go on where it was with `theseus verify --resume`"));
    };
    print(&forms::verification(&report), output::verification)?;
    let is_good = report.is_good();
    match report.kept_head.map(|kept| kept.found) {
        _ if !is_good => Err(Fault::Shown(Exit::Damaged)),
        Some(KeptHeadFound::Packed { problem }) => Err(Fault::failed(codes::PACKED, problem)),
        _ => Ok(()),
    }
}

/// Makes the objects anew from the history.
pub(super) fn repair(home: &Home, print: Print<'_>) -> Result<(), Fault> {
    if !is_child() {
        return in_a_child(home);
    }
    let stop = stop_signals()?;
    let mut bar = Bar::new();
    let report = offline::repair(home, &mut |done, total| {
        bar.draw(done, total, None);
        !stop.load(Ordering::Relaxed)
    });
    bar.clear();
    let Some(report) = report? else {
        return Err(interrupted("nothing was changed"));
    };
    print(&forms::repaired(&report), output::repaired)
}

/// What is told when somebody has ended it.
pub(super) fn interrupted(what_now: &str) -> Fault {
    Fault::failed("interrupted", format!("interrupted; {what_now}"))
}

fn parse_head(text: &str) -> Result<KeptHead, Fault> {
    KeptHead::parse(text).ok_or_else(|| {
        let problem =
            format!("`{text}` is no head: give TID:HASH, as in the Theseus-Head of an answer or in `theseus status`");
        Fault::usage(problem)
    })
}

fn is_child() -> bool {
    env::var_os(IN_THIS_PROCESS).is_some()
}

fn cannot(error: impl std::fmt::Display) -> Fault {
    Fault::failed("cannot_read", format!("cannot start the reader: {error}"))
}

/// Executes the command line again in a child, which is told to end when this process is.
fn in_a_child(home: &Home) -> Result<(), Fault> {
    let stop = stop_signals()?;
    let child = env::current_exe()
        .and_then(|program| Command::new(program).args(env::args_os().skip(1)).env(IN_THIS_PROCESS, "1").spawn());
    let status = wait(child.map_err(cannot)?, &stop).map_err(cannot)?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        // The child has said what is wrong.
        (Some(code), _) => Err(Fault::Shown(Exit::of(code))),
        (None, Some(libc::SIGKILL)) => {
            let message = "the reader was killed: by somebody, or because it was stopped for longer than identity.view_ms_max in the midst \
                           of a view of the files, which would have let them grow; nothing was found out";
            Err(Fault::failed("interrupted", message))
        }
        // It was told to end before it listened to that.
        (None, Some(SIGINT | SIGTERM)) => Err(interrupted("nothing was done yet")),
        (None, signal) => {
            let message = format!(
                "{} is damaged so badly that reading it ended the reader (signal {}): restore a backup, or if it is the objects \
                 alone, which `theseus verify` tells when {} is out of the way, have them made again by `theseus repair`",
                home.identity().display(),
                signal.unwrap_or_default(),
                home.objects().display()
            );
            Err(Fault::damaged(message))
        }
    }
}

fn wait(mut child: Child, stop: &AtomicBool) -> io::Result<ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            // It may have ended just now.
            _ = i32::try_from(child.id()).ok().and_then(Pid::from_raw).map(|child| kill_process(child, Signal::TERM));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Becomes true when the process is told to end.
pub(super) fn stop_signals() -> Result<Arc<AtomicBool>, Fault> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(cannot)?;
    }
    if is_child() {
        // Nobody would see what it finds.
        set_parent_process_death_signal(Some(Signal::TERM)).map_err(cannot)?;
    }
    Ok(stop)
}

/// A line on a terminal that says how far something has come.
pub(super) struct Bar {
    is_shown: bool,
    started: Instant,
    drawn: Option<Instant>,
}

impl Bar {
    pub(super) fn new() -> Bar {
        Bar { is_shown: io::stderr().is_terminal(), started: Instant::now(), drawn: None }
    }

    pub(super) fn draw(&mut self, done: u64, total: u64, bytes: Option<u64>) {
        if !self.is_shown || self.drawn.is_some_and(|drawn| done < total && drawn.elapsed() < DRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let line = output::progress(done, total, bytes, self.started.elapsed());
        // A terminal that cannot be written to does not make the identity any worse.
        _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
