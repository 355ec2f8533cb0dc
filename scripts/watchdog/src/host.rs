//! A host that is running, and how long what it does may take.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::notify::Message;

/// A running host.
#[derive(Debug)]
pub(crate) struct Host {
    child: Child,
    pidfd: OwnedFd,
    phase: Phase,
    ready: Option<Instant>,
    ordered: bool,
    ping: Option<Instant>,
    ping_timeout: Option<Duration>,
    limits: Limits,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until it is ready.
    pub(crate) start: Duration,
    /// Until it has stopped.
    pub(crate) stop: Duration,
    /// Either of them, if it asks for more time.
    pub(crate) extended: Duration,
    /// Between two pings.
    pub(crate) ping: Option<Duration>,
}

/// What a host is doing. A deadline moves up to its limit when the host asks for more time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Starting { deadline: Instant, limit: Instant },
    Ready,
    Stopping { deadline: Instant, limit: Instant },
    Killed,
}

impl Host {
    /// Watches over a process that was just started.
    pub(crate) fn new(child: Child, limits: Limits) -> io::Result<Host> {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let now = Instant::now();
        let limit = now + limits.start.max(limits.extended);
        let phase = Phase::Starting { deadline: now + limits.start, limit };
        Ok(Host { child, pidfd, phase, ready: None, ordered: false, ping: None, ping_timeout: limits.ping, limits })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it became ready, if it ever did.
    pub(crate) fn ready_since(&self) -> Option<Instant> {
        self.ready
    }

    /// Whether it was the watchdog's wish that it stops.
    pub(crate) fn was_told_to_stop(&self) -> bool {
        self.ordered
    }

    /// Whether it was told to stop, or killed.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Killed)
    }

    /// Takes in what it said. Says whether it has just become ready.
    pub(crate) fn hear(&mut self, message: &Message) -> bool {
        let now = Instant::now();
        match (message, &mut self.phase) {
            (Message::Ready, Phase::Starting { .. }) => {
                self.phase = Phase::Ready;
                self.ready = Some(now);
                return true;
            }
            (
                Message::ExtendTimeout(time),
                Phase::Starting { deadline, limit } | Phase::Stopping { deadline, limit },
            ) => {
                *deadline = (*deadline).max(now.checked_add(*time).unwrap_or(*limit)).min(*limit);
            }
            (Message::Ping, _) => self.ping = Some(now),
            (Message::Status(text), _) => log::info!("host: {text}"),
            _ => {}
        }
        false
    }

    /// Tells it to stop: SIGTERM, once.
    pub(crate) fn stop(&mut self) {
        self.ordered = true;
        if self.is_stopping() {
            return;
        }
        let now = Instant::now();
        let limit = now + self.limits.stop.max(self.limits.extended);
        self.phase = Phase::Stopping { deadline: now + self.limits.stop, limit };
        self.signal(Signal::TERM);
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.phase = Phase::Killed;
        self.signal(Signal::KILL);
    }

    /// When [`enforce`](Self::enforce) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let ping = self.ping.zip(self.ping_timeout).map(|(last, timeout)| last + timeout);
        match self.phase {
            Phase::Starting { deadline, .. } | Phase::Stopping { deadline, .. } => Some(deadline),
            Phase::Ready => ping,
            Phase::Killed => None,
        }
    }

    /// Kills it if it took longer than it may.
    pub(crate) fn enforce(&mut self) {
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            let doing = match self.phase {
                Phase::Starting { .. } => "did not become ready in time",
                Phase::Ready => "has stopped sending WATCHDOG=1",
                Phase::Stopping { .. } | Phase::Killed => "did not stop in time",
            };
            log::error!("host {} {doing}; it is killed", self.pid());
            self.kill();
        }
    }

    /// How it ended, if it has.
    pub(crate) fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            log::error!("host {} cannot be sent {signal:?}: {error}", self.pid());
        }
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
