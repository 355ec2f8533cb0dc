//! What became of a child that gave no answer.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

/// How many of its last lines a report shows.
const LINES_SHOWN: usize = 8;

/// How long each of them may be, in characters.
const LINE_CHARACTERS_MAX: usize = 200;

/// A child that gave no answer, and is gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What happened.
    pub cause: Cause,
    /// What it had said it was about to do; empty if nothing.
    pub doing: String,
    /// The last lines that it printed.
    pub output: Vec<String>,
}

/// What happened to a child.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Cause {
    /// A signal ended it.
    #[error("it crashed with {name} (signal {signal})")]
    Crashed {
        /// The signal's number.
        signal: i32,
        /// The signal's name.
        name: &'static str,
    },
    /// It ended itself.
    #[error("it ended its process with exit code {code}")]
    Exited {
        /// The exit code.
        code: i32,
    },
    /// It did not answer in time.
    #[error("it did not come to an end within {after_ms} ms")]
    Hung {
        /// The time it was given, in milliseconds.
        after_ms: u64,
    },
    /// It printed too much.
    #[error("it printed more than {bytes} bytes")]
    Flooded {
        /// The limit, in bytes.
        bytes: u64,
    },
    /// It asked for more memory than it was given.
    #[error("it ran out of memory: it was given {bytes} bytes of address space")]
    OutOfMemory {
        /// The limit, in bytes.
        bytes: u64,
    },
    /// What it said is no answer.
    #[error("its connection to the host carried what is no answer: {what}")]
    Garbled {
        /// What was wrong.
        what: String,
    },
}

impl Fault {
    /// An answer came, and is none.
    pub fn garbled(what: impl Into<String>) -> Fault {
        Fault { cause: Cause::Garbled { what: what.into() }, doing: String::new(), output: Vec::new() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cause.fmt(f)?;
        if !self.output.is_empty() {
            write!(f, "; the last it printed: {}", self.output.join(" | "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

impl Cause {
    /// What an exit status says.
    pub(super) fn of(status: ExitStatus, output: &str, memory_bytes: u64, deadline: Duration) -> Cause {
        let Some(signal) = status.signal() else {
            return Cause::Exited { code: status.code().unwrap_or_default() };
        };
        match signal_name(signal) {
            // The standard library says so when the allocator has nothing left, and aborts.
            "SIGABRT" if output.contains("memory allocation of ") && output.contains(" bytes failed") => {
                Cause::OutOfMemory { bytes: memory_bytes }
            }
            // The limit of processor time, which stands behind the deadline.
            "SIGXCPU" => Cause::Hung { after_ms: deadline.as_millis() as u64 },
            name => Cause::Crashed { signal, name },
        }
    }
}

/// The last lines of an output, for people: what happened, not where in which library. A panic that cannot unwind prints
/// a backtrace whatever the environment says.
pub(super) fn last_lines(output: &str) -> Vec<String> {
    let lines = output.lines().map(str::trim_end);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty() && !is_backtrace(line)).collect();
    let readable = |line: &&str| {
        let line: String = line.chars().take(LINE_CHARACTERS_MAX).collect();
        line.chars().map(|it| if it.is_control() { ' ' } else { it }).collect()
    };
    lines[lines.len().saturating_sub(LINES_SHOWN)..].iter().map(readable).collect()
}

/// Whether a line is part of a backtrace: ` 12: function`, or `at file:line` below it.
fn is_backtrace(line: &str) -> bool {
    let words = line.trim_start();
    let frame = words.trim_start_matches(|it: char| it.is_ascii_digit());
    let is_frame = words.len() < line.len() && frame.len() < words.len() && frame.starts_with(": ");
    is_frame || (words.len() < line.len() && words.starts_with("at ")) || line == "stack backtrace:"
}

fn signal_name(signal: i32) -> &'static str {
    const NAMES: &[(i32, &str)] = &[
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map_or("a signal", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: i32, output: &str) -> Cause {
        Cause::of(ExitStatus::from_raw(raw), output, 1 << 20, Duration::from_millis(5))
    }

    #[test]
    fn an_exit_status_becomes_a_cause() {
        assert_eq!(of(libc::SIGSEGV, ""), Cause::Crashed { signal: libc::SIGSEGV, name: "SIGSEGV" });
        assert_eq!(of(3 << 8, ""), Cause::Exited { code: 3 });
        assert_eq!(of(libc::SIGXCPU, ""), Cause::Hung { after_ms: 5 });
        assert_eq!(of(libc::SIGABRT, "panicked"), Cause::Crashed { signal: libc::SIGABRT, name: "SIGABRT" });
        assert_eq!(of(libc::SIGABRT, "memory allocation of 64 bytes failed\n"), Cause::OutOfMemory { bytes: 1 << 20 });
    }

    #[test]
    fn a_backtrace_does_not_hide_what_happened() {
        let output =
            "no start today\nstack backtrace:\n   0:  0x55f9 - start\n             at ./start.c:1\naborting.\n3: 4\n";
        assert_eq!(last_lines(output), ["no start today", "aborting.", "3: 4"]);
    }

    #[test]
    fn only_the_last_lines_are_shown_and_none_can_pass_for_two() {
        let output: String = (0..20).map(|number| format!("line {number}\x1b[2J\n\n")).collect();
        let lines = last_lines(&output);
        assert_eq!(lines.len(), LINES_SHOWN);
        assert_eq!(lines[LINES_SHOWN - 1], "line 19 [2J");
    }
}
