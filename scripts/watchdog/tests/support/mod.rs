//! A home with a watchdog and vessels in it.

#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used, reason = "each test file uses what it needs")]

#[path = "../../../../host/src/restart/mod.rs"]
pub mod restart;

use std::{
    fs,
    io::{self, Read},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use restart::{
    bundle,
    instruction::{self, Instruction, InstructionId, Outcome},
};
use rustix::process::{Pid, Signal, kill_process};
use theseus_watchdog::{
    bundle::Digest,
    files::Layout,
    journal::Journal,
    releases::{Link, Releases},
};

pub const IDENTITY: &str = "000102030405060708090a0b0c0d0e0f";

/// Longer than anything in these tests takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A program of this crate's `examples`.
pub fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_theseus-watchdog")).with_file_name("examples").join(name);
    assert!(path.is_file(), "{} is missing: `cargo test` builds the examples", path.display());
    path
}

/// Waits for something to become true.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A home folder, and the watchdog that runs for it, if one does.
pub struct Vessels {
    folder: tempfile::TempDir,
    pub watchdog: Option<Child>,
    pub options: Vec<String>,
    pub variables: Vec<(&'static str, String)>,
}

/// What a vessel answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub release: Digest,
    pub pid: i32,
    pub tid: u64,
}

impl Vessels {
    pub fn new() -> Vessels {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("home/identity")).unwrap();
        let options = ["--health-window-s=2", "--stop-timeout-s=5", "--start-timeout-s=5", "--apply-timeout-s=5"];
        let options = options.map(str::to_owned).to_vec();
        Vessels { folder, watchdog: None, options, variables: Vec::new() }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn releases(&self) -> Releases {
        Releases::new(Layout { home: self.home() })
    }

    pub fn link(&self, link: Link) -> Digest {
        self.releases().link(link).unwrap().unwrap()
    }

    /// Starts a watchdog. What it and its vessels log goes to a file, which is shown if the test fails.
    pub fn start(&mut self) {
        self.start_program(Path::new(env!("CARGO_BIN_EXE_theseus-watchdog")), &[]);
    }

    pub fn start_program(&mut self, program: &Path, variables: &[(&str, &str)]) {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        self.start_command(command);
    }

    pub fn start_command(&mut self, mut command: Command) {
        assert!(self.watchdog.is_none());
        let log = fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        command.arg("--home").arg(self.home()).arg("--host").arg(example("vessel")).arg("--listen=127.0.0.1:0");
        command.args(&self.options).envs(self.variables.iter().map(|(name, value)| (name, value)));
        self.watchdog = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Starts a watchdog and waits for its first answer.
    pub fn start_and_ask(&mut self) -> Answer {
        let _ = fs::remove_file(self.home().join("address"));
        self.start();
        self.ask()
    }

    /// Connects once; the answer may take as long as a restart.
    pub fn try_ask(&self) -> io::Result<Answer> {
        ask(&self.address()?)
    }

    pub fn address(&self) -> io::Result<String> {
        fs::read_to_string(self.home().join("address"))
    }

    /// Asks until there is an answer.
    pub fn ask(&self) -> Answer {
        let mut answer = None;
        until("an answer", || {
            answer = self.try_ask().ok();
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Makes a bundle of a vessel that behaves so.
    pub fn bundle(&self, name: &str, epoch: u64, behavior: &str, rest: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::copy(example("vessel"), folder.join("bin/theseus")).unwrap();
        fs::write(folder.join("behavior"), behavior).unwrap();
        let manifest = format!(
            "{{\"schema\":1,\"name\":\"vessel\",\"version\":\"{name}\",\"epoch\":{epoch},\"host\":\"bin/theseus\",\
             \"files\":[\"behavior\"]{rest}}}"
        );
        fs::write(folder.join("bundle.json"), manifest).unwrap();
        folder
    }

    pub fn instruction(&self, folder: &Path) -> Instruction {
        let bundle = bundle::read(folder).unwrap();
        let now = instruction::now_us();
        Instruction {
            schema: instruction::SCHEMA,
            id: InstructionId::generate(),
            release: bundle.digest,
            bundle: bundle.folder,
            epoch: bundle.manifest.epoch,
            reason: "a test".into(),
            requested_by: "the tests".into(),
            created_us: now,
            expires_us: now + instruction::LIFETIME_DEFAULT.as_micros() as u64,
            identity: IDENTITY.into(),
            tid: 1,
            head: blake3::hash(b"head").into(),
        }
    }

    /// Requests an update to a bundle.
    pub fn request(&self, folder: &Path) -> Instruction {
        let instruction = self.instruction(folder);
        instruction::publish(&self.home(), &instruction).unwrap();
        instruction
    }

    /// Waits for the end of an update.
    pub fn outcome(&self, id: &InstructionId) -> Outcome {
        let mut outcome = None;
        until("the end of the update", || {
            outcome = instruction::outcome(&self.home(), id).unwrap();
            outcome.is_some()
        });
        outcome.unwrap()
    }

    pub fn wait_for_state(&self, state: &str) {
        let path = self.home().join("update/journal.json");
        until(&format!("state {state}"), || {
            Journal::read(&path).unwrap().is_some_and(|journal| journal.state == state)
        });
    }

    pub fn signal_watchdog(&self, signal: Signal) {
        let child = self.watchdog.as_ref().unwrap();
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Waits for the watchdog's end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.watchdog.take().unwrap();
        let mut status = None;
        until("the end of the watchdog", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn stop(&mut self) {
        self.signal_watchdog(Signal::TERM);
        assert_eq!(self.wait().code(), Some(0));
    }

    /// What vessels found to be wrong, which must be nothing.
    pub fn violations(&self) -> String {
        fs::read_to_string(self.home().join("violations")).unwrap_or_default()
    }

    pub fn history(&self) -> String {
        fs::read_to_string(self.home().join("update/history.jsonl")).unwrap_or_default()
    }

    pub fn script(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path("apply")).unwrap();
        let path = self.path("apply").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Asks once at an address.
pub fn ask(address: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let mut words = text.split_whitespace();
    let mut word = || words.next().ok_or(io::ErrorKind::UnexpectedEof);
    Ok(Answer { release: word()?.parse().unwrap(), pid: word()?.parse().unwrap(), tid: word()?.parse().unwrap() })
}

impl Drop for Vessels {
    fn drop(&mut self) {
        if let Some(mut child) = self.watchdog.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("--- log\n{}", fs::read_to_string(self.path("log")).unwrap_or_default());
            eprintln!("--- history\n{}--- violations\n{}", self.history(), self.violations());
        } else {
            assert_eq!(self.violations(), "");
        }
    }
}
