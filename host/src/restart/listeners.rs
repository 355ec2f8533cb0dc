//! Sockets that a supervisor holds and hands over, by the protocol of `sd_listen_fds(3)`.
#![allow(unsafe_code, reason = "file descriptors that the process was started with have no owner yet")]

use std::{
    env, io,
    net::TcpListener,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{io::FdFlags, net::sockopt};

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// The most sockets that are taken.
const COUNT_MAX: i32 = 16;

/// Why the sockets could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ListenersError {
    /// They have an owner already.
    #[error("the sockets were already taken: listeners::take is called once in a process")]
    Taken,
    /// `LISTEN_FDS` is not a number in bounds.
    #[error("LISTEN_FDS is `{value}`, and a number from 0 to {COUNT_MAX} is expected")]
    Count {
        /// What it holds.
        value: String,
    },
    /// A descriptor is not a socket that accepts TCP connections.
    #[error("descriptor {fd} was handed over as a socket that accepts TCP connections, and is not one: {source}")]
    NotListening {
        /// Its number.
        fd: i32,
        /// What the system said.
        source: io::Error,
    },
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the listening sockets that this process was started with, in order; none if `LISTEN_PID` is another process.
///
/// They are closed on `exec`, so that children do not get them. Whether they block is as the supervisor left it, and is
/// shared with it: set what you need.
///
/// # Errors
///
/// If they were taken before, or the environment promises what is not there.
pub fn take() -> Result<Vec<TcpListener>, ListenersError> {
    let value = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    if value("LISTEN_PID") != Some(std::process::id().to_string()) {
        return Ok(Vec::new());
    }
    let count = value("LISTEN_FDS").unwrap_or_default();
    let count = match count.parse::<i32>() {
        Ok(number) if (0..=COUNT_MAX).contains(&number) => number,
        _ => return Err(ListenersError::Count { value: count }),
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(ListenersError::Taken);
    }
    (FIRST..FIRST + count).map(take_one).collect()
}

fn take_one(fd: i32) -> Result<TcpListener, ListenersError> {
    let failed = |source: io::Error| ListenersError::NotListening { fd, source };
    // SAFETY: whether `fd` is open at all is what the first call finds out; it is used for nothing else before that.
    // Nobody closes it meanwhile: `TAKEN` makes this function its only user, and the protocol says that it is ours.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let listening = sockopt::socket_acceptconn(borrowed).map_err(|e| failed(e.into()))?;
    let family = sockopt::socket_domain(borrowed).map_err(|e| failed(e.into()))?;
    if !listening || !matches!(family, rustix::net::AddressFamily::INET | rustix::net::AddressFamily::INET6) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: it is open, as the calls above have shown, and `TAKEN` lets only one owner be made of it.
    let owned = unsafe { OwnedFd::from_raw_fd(borrowed.as_raw_fd()) };
    Ok(TcpListener::from(owned))
}
