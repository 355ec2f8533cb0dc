//! A host that runs by itself on a home of its own, and the swaps asked of it over its control socket.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::SwapsError;
use crate::{api::Host, programs::Theseus};

/// How long one request is tried.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the host may take to start or to stop.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long the first answer is waited for at once, while the host may also have ended.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at something that is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A running host. It is stopped, or if need be killed, when this value is dropped.
pub(super) struct Vessel {
    child: Child,
    home: PathBuf,
    log: PathBuf,
    control: Host,
    to: SocketAddr,
}

/// What a swap was answered with.
#[derive(Clone, Debug)]
pub struct Swapped {
    /// When it was asked for.
    pub from: Instant,
    /// When the answer was there.
    pub to: Instant,
    /// For how long no transaction could start, in microseconds.
    pub pause_us: u64,
    /// Microseconds spent in each stage.
    pub stages_us: BTreeMap<String, u64>,
}

impl Vessel {
    /// Makes an identity in a folder that does not exist yet, and starts a host on it. `settings` are TOML, without the section
    /// `http`.
    pub(super) fn launch(binary: &Path, home: &Path, settings: &str) -> Result<Vessel, SwapsError> {
        let theseus = Theseus { binary: binary.to_owned(), home: home.to_owned() };
        theseus.run(&["init"])?;
        let file = home.join("theseus.toml");
        fs::write(&file, format!("[http]\nlisten = \"127.0.0.1:0\"\n{settings}"))
            .map_err(|source| SwapsError::File { action: "write", path: file.clone(), source })?;
        let log = home.with_extension("log");
        let failed = |source| SwapsError::File { action: "write", path: log.clone(), source };
        let output = File::create(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let child = Command::new(binary)
            .arg("--home")
            .arg(home)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|source| SwapsError::File { action: "start", path: binary.to_owned(), source })?;
        let control = Host::new(home.join("run/admin.sock"), PATIENCE);
        let mut vessel = Vessel { child, home: home.to_owned(), log, control, to: SocketAddr::from(([0; 4], 0)) };
        vessel.to = vessel.wait_for_address()?;
        Ok(vessel)
    }

    /// Where applications connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.to
    }

    /// Its process id.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// A client for applications.
    pub(super) fn client(&self) -> Host {
        Host::new(self.to, PATIENCE)
    }

    /// Puts plugin files in force, together.
    pub(super) fn swap(&mut self, files: &[PathBuf]) -> Result<Swapped, SwapsError> {
        let from = Instant::now();
        let answer = self.control.post("/v1/swap", &json!({ "paths": files }))?;
        let to = Instant::now();
        let missing = |field| SwapsError::Missing { field, document: answer.clone() };
        let pause_us = answer["pause_us"].as_u64().ok_or_else(|| missing("pause_us"))?;
        let stages = answer["stages_us"].as_object().ok_or_else(|| missing("stages_us"))?;
        let stages_us = stages.iter().map(|(name, us)| (name.clone(), us.as_u64().unwrap_or(0))).collect();
        if answer["tid"].is_null() {
            return Err(missing("tid"));
        }
        Ok(Swapped { from, to, pause_us, stages_us })
    }

    /// A document of the control socket.
    pub(super) fn ask(&mut self, target: &str) -> Result<Value, SwapsError> {
        Ok(self.control.get(target)?)
    }

    /// How often a request on the control socket had to be sent again.
    pub(super) fn troubles(&self) -> u64 {
        let attempts = self.control.attempts();
        attempts.broken + attempts.refused
    }

    /// The plugins that were replaced and are still in memory, by state: `draining`, `pinned`.
    pub(super) fn left_over(&mut self) -> Result<BTreeMap<String, u64>, SwapsError> {
        let answer = self.ask("/v1/plugins")?;
        let plugins = answer["plugins"].as_array();
        let plugins = plugins.ok_or_else(|| SwapsError::Missing { field: "plugins", document: answer.clone() })?;
        let mut left_over = BTreeMap::new();
        for plugin in plugins {
            let state = plugin["state"].as_str().unwrap_or("unknown");
            if state != "active" {
                *left_over.entry(state.to_owned()).or_insert(0) += 1;
            }
        }
        Ok(left_over)
    }

    /// Waits until nothing replaced is in memory any more, for at most so long. Returns what is left then.
    pub(super) fn settle(&mut self, wait: Duration) -> Result<BTreeMap<String, u64>, SwapsError> {
        let until = Instant::now() + wait;
        loop {
            let left_over = self.left_over()?;
            if left_over.is_empty() || Instant::now() >= until {
                return Ok(left_over);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Stops it in order, and checks the whole identity. Returns how many transactions were verified.
    pub(super) fn stop_and_verify(mut self, binary: &Path) -> Result<u64, SwapsError> {
        self.end()?;
        let report = Theseus { binary: binary.to_owned(), home: self.home.clone() }.json(&["verify"])?;
        report["transactions"].as_u64().ok_or(SwapsError::Missing { field: "transactions", document: report })
    }

    /// Stops it in order.
    pub(super) fn end(&mut self) -> Result<(), SwapsError> {
        if self.ended() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It may just have ended by itself, and then the wait below shows it.
        _ = kill_process(pid.expect("process ids are positive and fit, and it came from the system"), Signal::TERM);
        let until = Instant::now() + START_WAIT;
        while Instant::now() < until {
            if self.ended() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
        self.child.kill().ok();
        self.child.wait().ok();
        Err(self.problem(format!("did not stop within {} s", START_WAIT.as_secs())))
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn problem(&self, problem: String) -> SwapsError {
        SwapsError::Host { problem, log: self.log.clone() }
    }

    fn wait_for_address(&mut self) -> Result<SocketAddr, SwapsError> {
        let until = Instant::now() + START_WAIT;
        let socket = self.home.join("run/admin.sock");
        while Instant::now() < until && !self.ended() {
            // A host of its own each time, so that waiting for the start is not counted as trouble.
            if let Ok(status) = Host::new(socket.clone(), STATUS_PATIENCE).get("/v1/status")
                && let Some(address) = status["http"].as_str().and_then(|text| text.parse().ok())
            {
                return Ok(address);
            }
            thread::sleep(LOOK_EVERY);
        }
        Err(self.problem("did not start".to_owned()))
    }
}

impl Drop for Vessel {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("voyage: while stopping the host: {error}");
        }
    }
}
