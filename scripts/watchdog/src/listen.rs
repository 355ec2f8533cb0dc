//! The socket that clients connect to. The watchdog holds it and never reads from it.

use std::{
    env, io,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use crate::launch;

/// How many connections may wait while no host accepts; the kernel bounds it further (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// How long an address may still be in use, by a host of a watchdog that died.
const IN_USE_MAX: Duration = Duration::from_secs(3);

/// Opens the socket: the one that a supervisor handed over, or a new one at `address`.
pub(crate) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let value = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let listener = if value("LISTEN_PID") == Some(std::process::id().to_string()) {
        match value("LISTEN_FDS").as_deref() {
            Some("1") => launch::adopt_listener()?,
            other => {
                let problem = format!("LISTEN_FDS is {}, and exactly 1 socket is expected", other.unwrap_or("not set"));
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
        }
    } else {
        bind(address)?
    };
    // The flag belongs to the socket, which all hosts share; every host wants it so.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + IN_USE_MAX;
    loop {
        // The standard library sets SO_REUSEADDR, so connections of the past do not count.
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
            Ok(listener) => {
                rustix::net::listen(&listener, BACKLOG)?;
                return Ok(listener);
            }
        }
    }
}
