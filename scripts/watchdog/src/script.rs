//! Running an upgrade script: in its own process group, until a deadline.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::{files::Lock, launch, sandbox};

/// How long a script may take to react to SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A script that is running.
#[derive(Debug)]
pub(crate) struct Script {
    child: Child,
    group: Pid,
    pidfd: OwnedFd,
    deadline: Instant,
    timeout: Duration,
    terminated: bool,
}

impl Script {
    /// Starts a script. `variables` are what it is told; `lock` is what keeps a second one from starting beside it.
    pub(crate) fn start(
        path: &Path,
        home: &Path,
        variables: &[(&str, &str)],
        lock: Lock,
        timeout: Duration,
    ) -> io::Result<Script> {
        let temporary = home.join("run/apply");
        fs::create_dir_all(&temporary)?;
        let ruleset = match sandbox::ruleset(home) {
            Ok(ruleset) => Some(ruleset),
            Err(error) => {
                log::error!("{}: NOT kept from writing to the identity: {error}", path.display());
                None
            }
        };
        let mut command = Command::new(path);
        command.current_dir(&temporary).env("TMPDIR", &temporary).envs(variables.iter().copied());
        for supervisors in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(supervisors);
        }
        let child = launch::script(&mut command, lock.file(), ruleset)?;
        let group = Pid::from_child(&child);
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        // From here on the lock is held by the script and its children alone.
        drop(lock);
        Ok(Script { child, group, pidfd, deadline: Instant::now() + timeout, timeout, terminated: false })
    }

    /// When [`poll`](Self::poll) has something to do, even if the script has not ended.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the script has ended, and whether well. After its deadline it is asked to end, and then killed.
    pub(crate) fn poll(&mut self) -> io::Result<Option<Result<(), String>>> {
        if let Some(status) = self.child.try_wait()? {
            // What it left running in its group must not go on while the new host starts.
            self.signal(Signal::KILL);
            return Ok(Some(self.result(status)));
        }
        if Instant::now() >= self.deadline {
            self.end();
        }
        Ok(None)
    }

    /// Asks it to end, and kills it if it was asked before.
    pub(crate) fn end(&mut self) {
        self.signal(if self.terminated { Signal::KILL } else { Signal::TERM });
        self.terminated = true;
        self.deadline = Instant::now() + GRACE;
    }

    /// Whether it was asked to end.
    pub(crate) fn was_asked_to_end(&self) -> bool {
        self.terminated
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone, which is just as well.
        let _ = kill_process_group(self.group, signal);
    }

    fn result(&self, status: ExitStatus) -> Result<(), String> {
        if self.terminated {
            Err(format!("the upgrade script took longer than {} s", self.timeout.as_secs()))
        } else if status.success() {
            Ok(())
        } else {
            Err(format!("the upgrade script failed with {status}"))
        }
    }
}

impl AsFd for Script {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
