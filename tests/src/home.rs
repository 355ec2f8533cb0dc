//! A home folder of an identity, and the command line for it.

use std::{
    fs,
    io::{Read, Seek},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{PATIENCE, artifacts, http::Client, until};

/// Settings for tests: a port that the system chooses.
const SETTINGS: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// A folder of its own for a test, with a home in it.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    home: PathBuf,
}

/// What a command printed, and its exit code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// The command, for messages.
    pub command: String,
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Home {
    /// A home with an identity in it, whose host does not run.
    pub fn new() -> Home {
        Home::with_settings("")
    }

    /// The same with settings of its own, in TOML, without the section `http`.
    pub fn with_settings(settings: &str) -> Home {
        let home = Home::bare(settings);
        home.run(&["init"]);
        home
    }

    /// A folder with settings, without an identity.
    pub fn bare(settings: &str) -> Home {
        let folder = TempDir::new().unwrap();
        let home = folder.path().join("home");
        Home::prepare(folder, home, settings)
    }

    /// A home at a place of the test's choice, such as another file system; logs are kept elsewhere.
    pub fn at(place: &Path, settings: &str) -> Home {
        let home = Home::prepare(TempDir::new().unwrap(), place.join("home"), settings);
        home.run(&["init"]);
        home
    }

    /// A home that is there already, such as a copy of another; logs are kept elsewhere.
    pub fn existing(home: &Path) -> Home {
        Home { folder: TempDir::new().unwrap(), home: home.to_owned() }
    }

    fn prepare(folder: TempDir, home: PathBuf, settings: &str) -> Home {
        fs::create_dir(&home).unwrap();
        fs::write(home.join("theseus.toml"), format!("{SETTINGS}{settings}")).unwrap();
        Home { folder, home }
    }

    /// The home.
    pub fn path(&self) -> &Path {
        &self.home
    }

    /// A file of the home.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// A place beside the home, for what a test makes itself.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A `theseus` command for this home, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = plain_command();
        command.arg("--home").arg(&self.home).args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        finish(&mut self.command(arguments))
    }

    /// Runs a command that has to succeed, and gives what it printed without the last line break.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.cli(arguments).succeeded()
    }

    /// Runs a command with `--json` that has to succeed, and gives its document.
    pub fn json(&self, arguments: &[&str]) -> Json {
        document(&self.run(&[arguments, &["--json"]].concat()))
    }

    /// Runs a command with `--json` that prints a document a line.
    pub fn lines(&self, arguments: &[&str]) -> Vec<Json> {
        self.run(&[arguments, &["--json"]].concat()).lines().map(document).collect()
    }

    /// Brings in or replaces plugins.
    pub fn swap(&self, files: &[&Path]) -> Json {
        let files: Vec<_> = files.iter().map(|file| file.to_str().unwrap()).collect();
        self.json(&[&["swap"], &files[..]].concat())
    }

    /// A client of the control socket.
    pub fn admin(&self) -> Client {
        Client::unix(&self.file("run/admin.sock"))
    }

    /// Waits until the object table of the running host has the whole history.
    pub fn until_settled(&self) {
        let mut admin = self.admin();
        until("the object table to catch up", || admin.get("/metrics").text().contains("theseus_table_lag 0\n"));
    }

    /// Checks the whole identity, which has to be whole.
    pub fn verify(&self) -> Json {
        let report = self.json(&["verify"]);
        assert_eq!((&report["whole"], &report["damage"]), (&Json::Bool(true), &Json::Array(vec![])));
        report
    }

    /// The last transaction of the history.
    pub fn tid(&self) -> u64 {
        self.json(&["status"])["tid"].as_u64().unwrap()
    }

    /// All transactions with this method, oldest first.
    pub fn transactions(&self, method: &str) -> Vec<Json> {
        let mut lines = self.lines(&["history"]);
        lines.retain(|line| line["method"] == method);
        lines
    }
}

impl Default for Home {
    fn default() -> Home {
        Home::new()
    }
}

impl Output {
    /// Standard output without its last line break, if the command succeeded.
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "`{}` failed: {}{}", self.command, self.stdout, self.stderr);
        self.stdout.strip_suffix('\n').unwrap_or(&self.stdout).to_owned()
    }

    /// The message, if the command ended with this code and said something.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "`{}`: {}{}", self.command, self.stdout, self.stderr);
        assert!(!self.stderr.trim().is_empty(), "`{}` ended with {code} and did not say why", self.command);
        self.stderr
    }
}

/// `theseus` without a home, and without what the surroundings might tell it.
pub fn plain_command() -> Command {
    let mut command = Command::new(artifacts::theseus());
    for variable in ["THESEUS_HOME", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end, which has to come within the harness's patience.
pub fn finish(command: &mut Command) -> Output {
    let shown = command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    // Files, so that nobody has to read while the process runs.
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let child = command.stdin(Stdio::null()).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = child.spawn().unwrap_or_else(|error| panic!("`{shown}` does not start: {error}"));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("`{shown}` did not end within {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let mut texts = [String::new(), String::new()];
    for (file, text) in [&mut stdout, &mut stderr].into_iter().zip(&mut texts) {
        file.rewind().unwrap();
        file.read_to_string(text).unwrap();
    }
    let [stdout, stderr] = texts;
    Output { command: shown, code: status.code().unwrap_or(-1), stdout, stderr }
}

/// A JSON document.
pub fn document(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}
