//! A process that a test started: its log, its signals, its end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::until_some;

/// How much of a log is shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// A child process whose output goes to a file. It is killed when the value goes, and if that is because the test failed, the
/// log is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it; what it prints is appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = File::options().append(true).create(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn();
        let child = child.unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
        Process { child, log: log.to_owned(), ended: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self::signal(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of process {}", self.pid());
        until_some(&what, || self.ended())
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().unwrap();
            self.ended = Some(self.child.wait().unwrap());
        }
    }

    /// Sends SIGTERM and waits a while for the end.
    pub fn terminate(&mut self, patience: Duration) {
        if self.ended().is_some() {
            return;
        }
        self.signal(Signal::TERM);
        let deadline = Instant::now() + patience;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- the end of {}\n{}", self.log.display(), shown.join("\n"));
        }
    }
}

/// Sends a signal to a process that this test started or its child.
pub fn signal(pid: u32, signal: Signal) {
    // A process that has just ended needs no signal any more.
    _ = kill_process(number(pid), signal);
}

/// Sends a signal to all processes of a group that this test made, as Ctrl-C does to what runs on a terminal.
pub fn signal_group(leader: u32, signal: Signal) {
    _ = kill_process_group(number(leader), signal);
}

fn number(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the system's process ids are positive and fit")
}

/// The children of a process whose program has this name (cut to 15 characters, as the kernel keeps it).
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // proc_pid_stat(5): `pid (name) state parent ...`; the name may hold anything but ends with the last bracket.
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let Some((_, program)) = head.split_once('(') else { continue };
        let mut fields = tail.split_ascii_whitespace();
        let (state, its_parent) = (fields.next(), fields.next().and_then(|text| text.parse::<u32>().ok()));
        if program == name && state != Some("Z") && its_parent == Some(parent) {
            found.push(pid);
        }
    }
    found
}

/// Whether a process has ended.
pub fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, tail)| tail.trim_start().starts_with('Z'))
}

/// How many library images a process has mapped that were loaded from memory, as plugins are.
pub fn plugin_images(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    // proc_pid_maps(5): address, permissions, offset, device, inode, path
    maps.lines()
        .filter(|line| line.contains("/memfd:"))
        .filter_map(|line| line.split_ascii_whitespace().nth(4))
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}
