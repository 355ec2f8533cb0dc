//! The child's side: confined first, then it works for the parent until the parent has enough.

use std::{
    io::{self, Write},
    os::unix::net::UnixStream,
    process::{self, ExitCode},
};

use rustix::{fs::OFlags, net::sockopt};

use super::{
    Limits,
    confine::{self, Confinement},
    frames::{self, Kind},
};

/// The exit code of a child that has lost its parent.
const LOST: i32 = 70;

/// Where a child reaches its parent while it works.
pub struct Desk {
    socket: UnixStream,
}

impl Desk {
    /// Asks the parent for something and waits for it.
    pub fn need(&mut self, what: &[u8]) -> Vec<u8> {
        or_lost(frames::write(&self.socket, Kind::Need, what));
        match or_lost(frames::read(&self.socket)) {
            Some((Kind::Given, bytes)) => bytes,
            _ => process::exit(LOST),
        }
    }

    /// Tells the parent what comes next, so that it can say where a child was that does not come back.
    pub fn doing(&mut self, what: &str) {
        or_lost(frames::write(&self.socket, Kind::Doing, what.as_bytes()));
    }
}

/// Works as a child: for each question of the parent calls `work` with it, and sends what it returns.
///
/// Returns when the parent has closed the connection. A process that was not started by [`Child::spawn`](super::Child::spawn)
/// is told so, with exit code 2.
pub fn serve(work: &mut dyn FnMut(&[u8], &mut Desk) -> Vec<u8>) -> ExitCode {
    let mut desk = match open() {
        Ok(socket) => Desk { socket },
        Err(error) => {
            _ = writeln!(io::stderr(), "only a Theseus host starts this command, for itself: {error}");
            return ExitCode::from(2);
        }
    };
    log_to_output();
    let limits = or_lost(frames::read(&desk.socket)).filter(|(kind, _)| *kind == Kind::Confine);
    let Some((_, limits)) = limits else { return ExitCode::SUCCESS };
    let limits: Limits = or_lost(theseus_value::from_slice(&limits).map_err(io::Error::other));
    let confinement: Confinement = confine::confine(&limits);
    let confinement = theseus_value::to_vec(&confinement).expect("lists of texts have an encoding");
    or_lost(frames::write(&desk.socket, Kind::Ready, &confinement));
    while let Some((Kind::Request, request)) = or_lost(frames::read(&desk.socket)) {
        let answer = work(&request, &mut desk);
        or_lost(frames::write(&desk.socket, Kind::Answer, &answer));
    }
    ExitCode::SUCCESS
}

/// The connection to the parent, which came as standard input; nothing else that was inherited stays open.
fn open() -> io::Result<UnixStream> {
    sockopt::socket_type(io::stdin())?;
    confine::close_inherited();
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::fs::open(
        "/dev/null",
        OFlags::RDONLY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?)?;
    Ok(UnixStream::from(socket))
}

/// Without its parent a child has nobody to work for.
fn or_lost<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        _ = writeln!(io::stderr(), "the connection to the host is broken: {error}");
        process::exit(LOST)
    })
}

/// Log lines, those of plugins too, are part of what the child prints.
fn log_to_output() {
    struct Lines;

    impl log::Log for Lines {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Info
        }

        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                _ = writeln!(io::stderr(), "{} {}: {}", record.level(), record.target(), record.args());
            }
        }

        fn flush(&self) {}
    }

    // Fails only if there is a logger already, and then that one is used.
    _ = log::set_logger(&Lines);
    log::set_max_level(log::LevelFilter::Info);
}
