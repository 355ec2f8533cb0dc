//! The programs that the demonstration starts: the command line of the host, and the watchdog with the host below it.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long one command may take.
const COMMAND_WAIT: Duration = Duration::from_secs(300);
/// How long the watchdog and the host below it may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// Between two looks at something that is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a program did not do what it was started for.
#[derive(thiserror::Error, Debug)]
pub enum ProgramError {
    /// It cannot be started.
    #[error("cannot start {}: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` ended with {status}: {message}")]
    Failed {
        /// The command.
        command: String,
        /// Its status.
        status: std::process::ExitStatus,
        /// What it printed on standard error.
        message: String,
    },
    /// It did not end.
    #[error("`{command}` did not end within {waited_s} s")]
    TooSlow {
        /// The command.
        command: String,
        /// How long it was waited for, in seconds.
        waited_s: u64,
    },
    /// What it printed is not what it should print.
    #[error("`{command}` printed something else: {problem}")]
    Output {
        /// The command.
        command: String,
        /// What is wrong.
        problem: String,
    },
    /// The watchdog runs no host.
    #[error("the watchdog (process {watchdog}) runs no host at the moment")]
    NoHost {
        /// The watchdog's process id.
        watchdog: u32,
    },
    /// A signal could not be sent.
    #[error("cannot signal process {process}: {source}")]
    Signal {
        /// The process id.
        process: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs a program to its end, and returns what it printed if it ended well.
pub fn run(command: &mut Command) -> Result<String, ProgramError> {
    let shown = show(command);
    let output = run_bounded(command, &shown)?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ProgramError::Failed { command: shown, status: output.status, message });
    }
    String::from_utf8(output.stdout)
        .map_err(|error| ProgramError::Output { command: shown, problem: error.to_string() })
}

/// The host's command line, for one identity.
#[derive(Clone, Debug)]
pub struct Theseus {
    /// The binary.
    pub binary: PathBuf,
    /// The identity's folder.
    pub home: PathBuf,
}

impl Theseus {
    /// Runs a subcommand with `--json`, and returns the document that it prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, ProgramError> {
        let mut command = self.command(arguments);
        command.arg("--json");
        let text = run(&mut command)?;
        serde_json::from_str(&text)
            .map_err(|error| ProgramError::Output { command: show(&command), problem: format!("{error} in {text:?}") })
    }

    /// Runs a subcommand that has to end well.
    pub fn run(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        run(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--home").arg(&self.home).args(arguments);
        command
    }
}

/// A watchdog that supervises a host. It is stopped, and the host with it, when this value is dropped.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
}

/// How to start a watchdog.
#[derive(Clone, Debug)]
pub struct WatchdogStart<'a> {
    /// Its binary.
    pub binary: &'a Path,
    /// The host's binary.
    pub host: &'a Path,
    /// The identity's folder.
    pub home: &'a Path,
    /// The folder of upgrade scripts.
    pub apply: &'a Path,
    /// Where the host shall listen.
    pub listen: SocketAddr,
    /// Takes what both print.
    pub log: &'a Path,
}

impl Watchdog {
    /// Starts a watchdog.
    pub fn start(start: &WatchdogStart<'_>) -> Result<Self, ProgramError> {
        let failed = |source| ProgramError::Start { program: start.binary.to_owned(), source };
        let log = File::create(start.log).map_err(failed)?;
        let child = Command::new(start.binary)
            .arg("--home")
            .arg(start.home)
            .arg("--host")
            .arg(start.host)
            .arg("--apply-dir")
            .arg(start.apply)
            .arg("--listen")
            .arg(start.listen.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        Ok(Watchdog { child })
    }

    /// The exit status if it has ended although nobody stopped it.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The process id of the host that it runs.
    pub fn host_process(&self) -> Result<u32, ProgramError> {
        let watchdog = self.child.id();
        child_of(watchdog, "theseus").ok_or(ProgramError::NoHost { watchdog })
    }

    /// Kills the host that it runs, without notice. Returns the process id.
    pub fn kill_host(&self) -> Result<u32, ProgramError> {
        let process = self.host_process()?;
        signal(process, Signal::KILL)?;
        Ok(process)
    }

    /// Stops it and the host, and waits until both have ended.
    pub fn stop(mut self) -> Result<(), ProgramError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), ProgramError> {
        if self.ended().is_some() {
            return Ok(());
        }
        signal(self.child.id(), Signal::TERM)?;
        let until = Instant::now() + STOP_WAIT;
        while Instant::now() < until {
            if self.ended().is_some() {
                return Ok(());
            }
            thread::sleep(LOOK_EVERY);
        }
        let host = self.host_process();
        // Nothing is left to be done about a process that cannot be killed.
        self.child.kill().ok();
        self.child.wait().ok();
        if let Ok(host) = host {
            signal(host, Signal::KILL)?;
        }
        Err(ProgramError::TooSlow { command: "theseus-watchdog".to_owned(), waited_s: STOP_WAIT.as_secs() })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("voyage: while stopping the watchdog: {error}");
        }
    }
}

/// The child process of `parent` whose executable has a name (cut to 15 characters, as the kernel keeps it).
fn child_of(parent: u32, name: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.flatten() {
        let Some(id) = process.file_name().to_str().and_then(|text| text.parse::<u32>().ok()) else { continue };
        // A process may end while it is being looked at.
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        // proc_pid_stat(5): `id (name) state parent ...`, and the name may hold anything, so its end is the last bracket.
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let Some((_, command)) = head.split_once('(') else { continue };
        let mut fields = tail.split_ascii_whitespace();
        let (state, its_parent) = (fields.next(), fields.next().and_then(|text| text.parse::<u32>().ok()));
        if command == name && state != Some("Z") && its_parent == Some(parent) {
            return Some(id);
        }
    }
    None
}

fn signal(process: u32, signal: Signal) -> Result<(), ProgramError> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
    let pid = pid.expect("process ids are positive and fit, and they came from the system");
    kill_process(pid, signal).map_err(|error| ProgramError::Signal { process, source: error.into() })
}

fn run_bounded(command: &mut Command, shown: &str) -> Result<Output, ProgramError> {
    let failed = |source| ProgramError::Start { program: PathBuf::from(shown), source };
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let until = Instant::now() + COMMAND_WAIT;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= until {
            child.kill().ok();
            child.wait().ok();
            return Err(ProgramError::TooSlow { command: shown.to_owned(), waited_s: COMMAND_WAIT.as_secs() });
        }
        thread::sleep(Duration::from_millis(2));
    };
    let joined = |reader: thread::JoinHandle<Vec<u8>>| reader.join().expect("reading a pipe does not panic");
    Ok(Output { status, stdout: joined(stdout), stderr: joined(stderr) })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before a failure is still worth showing.
            pipe.read_to_end(&mut bytes).ok();
        }
        bytes
    })
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_failure_are_told() {
        assert_eq!(run(Command::new("sh").args(["-c", "echo out; echo err >&2"])).unwrap(), "out\n");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 4"])).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains('4'), "{error}");
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(matches!(error, ProgramError::Start { .. }), "{error}");
    }

    #[test]
    fn children_are_found_by_name() {
        let mut child = Command::new("sleep").arg("20").spawn().unwrap();
        // The name is the program's only once it has been executed.
        let until = Instant::now() + Duration::from_secs(5);
        let mut found = None;
        while found.is_none() && Instant::now() < until {
            found = child_of(std::process::id(), "sleep");
        }
        assert_eq!(found, Some(child.id()));
        assert_eq!(child_of(std::process::id(), "theseus"), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(child_of(std::process::id(), "sleep"), None);
    }
}
