//! The host that is killed: an identity of its own, and a process on it at a time.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{api::Host, programs::Theseus, swaps::SwapsError};

/// How long a host may take to start or to stop.
const START_WAIT: Duration = Duration::from_secs(120);
/// How long one question at the start waits for its answer, while the host may also have ended.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks at something that is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// An identity, and the host on it, which is killed when this value is dropped.
pub(super) struct Vessel {
    theseus: Theseus,
    log: PathBuf,
    child: Option<Child>,
}

impl Vessel {
    /// Makes an identity. `settings` are TOML, without the section `http`.
    pub(super) fn make(binary: &Path, folder: &Path, settings: &str) -> Result<Vessel, SwapsError> {
        let home = folder.join("home");
        let theseus = Theseus { binary: binary.to_owned(), home: home.clone() };
        theseus.run(&["init"])?;
        let file = home.join("theseus.toml");
        fs::write(&file, format!("[http]\nlisten = \"127.0.0.1:0\"\n{settings}"))
            .map_err(|source| SwapsError::File { action: "write", path: file, source })?;
        Ok(Vessel { theseus, log: folder.join("log"), child: None })
    }

    /// Its command line.
    pub(super) fn theseus(&self) -> &Theseus {
        &self.theseus
    }

    /// Where every incarnation can be reached.
    pub(super) fn socket(&self) -> PathBuf {
        self.theseus.home.join("run/admin.sock")
    }

    /// Starts a host, and waits for nothing.
    pub(super) fn start(&mut self) -> Result<(), SwapsError> {
        let failed = |source| SwapsError::File { action: "write", path: self.log.clone(), source };
        let log = File::options().append(true).create(true).open(&self.log).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let mut command = Command::new(&self.theseus.binary);
        command.arg("--home").arg(&self.theseus.home).arg("run");
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|source| SwapsError::File { action: "start", path: self.theseus.binary.clone(), source })?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits for its first answer, and gives its status.
    pub(super) fn wait_until_ready(&mut self) -> Result<Value, SwapsError> {
        let until = Instant::now() + START_WAIT;
        while Instant::now() < until {
            if let Some(status) = self.ended() {
                return Err(self.problem(format!("did not start: {status}")));
            }
            if let Ok(status) = Host::new(self.socket(), STATUS_PATIENCE).get("/v1/status") {
                return Ok(status);
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(self.problem("did not start in time".to_owned()))
    }

    /// Ends it as a crash would. It must not have ended by itself.
    pub(super) fn kill(&mut self) -> Result<(), SwapsError> {
        if let Some(status) = self.ended() {
            return Err(self.problem(format!("ended by itself: {status}")));
        }
        self.end();
        Ok(())
    }

    /// Stops it in order.
    pub(super) fn stop(&mut self) -> Result<(), SwapsError> {
        let Some(child) = &self.child else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        // It may just have ended by itself, and then the wait below shows it.
        _ = kill_process(pid.expect("process ids are positive and fit, and it came from the system"), Signal::TERM);
        let until = Instant::now() + START_WAIT;
        while Instant::now() < until {
            match self.ended() {
                Some(status) if status.success() => {
                    self.child = None;
                    return Ok(());
                }
                Some(status) => return Err(self.problem(format!("did not stop in order: {status}"))),
                None => thread::sleep(LOOK_EVERY),
            }
        }
        Err(self.problem("did not stop in time".to_owned()))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // One that has ended by itself needs no end.
            child.kill().ok();
            child.wait().ok();
        }
    }

    fn problem(&self, problem: String) -> SwapsError {
        SwapsError::Host { problem, log: self.log.clone() }
    }
}

impl Drop for Vessel {
    fn drop(&mut self) {
        self.end();
    }
}
