//! Starting processes, and taking over the descriptors that this one was started with.
//!
//! All unsafe code of the watchdog is here. What runs between `fork` and `exec` is kept to plain system calls and
//! `setenv`.
#![allow(unsafe_code, reason = "descriptors by number, and the steps between fork and exec, have no safe interface")]

use std::{
    ffi::CString,
    fs::File,
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use landlock::RulesetCreated;
use rustix::{
    io::FdFlags,
    process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal},
};

/// The descriptor under which the protocol of `sd_listen_fds(3)` hands over the first socket.
const FIRST: i32 = 3;

/// Keeps descriptor 3 in use, so that nothing that matters - such as the pipe over which `exec` reports its failure -
/// gets that number and is overwritten in the child.
#[derive(Debug)]
pub(crate) struct FirstDescriptor {
    _occupied: Option<OwnedFd>,
}

impl FirstDescriptor {
    /// Occupies it, unless it is in use already. Whoever uses it already must go on doing so.
    pub(crate) fn occupy() -> io::Result<Self> {
        let file = OwnedFd::from(File::open("/dev/null")?);
        Ok(FirstDescriptor { _occupied: Some(file).filter(|file| file.as_raw_fd() == FIRST) })
    }
}

/// A second handle of the socket that was handed to this process as descriptor 3.
///
/// # Errors
///
/// If it is not a listening socket.
pub(crate) fn adopt_listener() -> io::Result<TcpListener> {
    // SAFETY: it is borrowed for the duplication only, and nothing in this process closes descriptor 3: if it is not
    // open, the duplication fails; if it is, it was handed over and has no other owner.
    let handed_over = unsafe { BorrowedFd::borrow_raw(FIRST) };
    let socket = rustix::io::fcntl_dupfd_cloexec(handed_over, FIRST + 1)?;
    // The original must not reach children as a stray descriptor; those that need it get their own copy.
    rustix::io::fcntl_setfd(handed_over, FdFlags::CLOEXEC)?;
    if rustix::net::sockopt::socket_acceptconn(&socket)? {
        Ok(TcpListener::from(socket))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptor 3 is not a listening socket"))
    }
}

/// Starts a host with the listening socket as descriptor 3 and with these variables, on top of the watchdog's own.
/// It gets SIGTERM when the watchdog dies. `listener` and every variable of a supervisor are the watchdog's to give.
///
/// # Errors
///
/// What the system said, also if it was `exec` that failed.
pub(crate) fn host(
    binary: &Path,
    home: &Path,
    listener: &TcpListener,
    variables: &[(&str, String)],
    removed: &[&str],
) -> io::Result<Child> {
    let text = |text: &str| CString::new(text).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let variables: Vec<(CString, CString)> =
        variables.iter().map(|(name, value)| Ok((text(name)?, text(value)?))).collect::<io::Result<_>>()?;
    let removed: Vec<CString> = removed.iter().map(|name| text(name)).collect::<io::Result<_>>()?;
    let listener = listener.as_raw_fd();
    let parent = getpid();

    let mut command = Command::new(binary);
    // Its own process group: Ctrl-C at a terminal is for the watchdog, which then stops the host in order.
    command.arg("--home").arg(home).arg("run").stdin(Stdio::null()).process_group(0);
    let between = move || {
        die_with(parent, Signal::TERM)?;
        hand_over(listener)?;
        // The environment is changed here because LISTEN_PID is only known here. The standard library's own calls would
        // wait for a lock that the parent holds during the fork.
        removed.iter().try_for_each(|name| unset(name))?;
        variables.iter().try_for_each(|(name, value)| set(name, value))?;
        let pid = text_of(getpid());
        set(c"LISTEN_PID", std::ffi::CStr::from_bytes_until_nul(&pid).map_err(|_| io::ErrorKind::InvalidData)?)
    };
    // SAFETY: the watchdog has a single thread, so that no lock can be held by another one at the fork; glibc itself
    // keeps its allocator and environment usable in the child. The closure makes system calls and changes the child's
    // environment. No variable is set through `command`, so `exec` takes the environment as the closure left it.
    unsafe { command.pre_exec(between) };
    command.spawn()
}

/// Starts an upgrade script in a process group of its own, under `ruleset` if there is one. It, and whatever it starts,
/// holds `lock` open. It is killed when the watchdog dies.
///
/// # Errors
///
/// What the system said, also if it was `exec` that failed.
pub(crate) fn script(command: &mut Command, lock: &File, ruleset: Option<RulesetCreated>) -> io::Result<Child> {
    let parent = getpid();
    let lock = lock.as_fd().as_raw_fd();
    let mut ruleset = ruleset;
    let between = move || {
        die_with(parent, Signal::KILL)?;
        // SAFETY: the parent keeps the lock's file open until after the spawn, so in the child it is open as well.
        let lock = unsafe { BorrowedFd::borrow_raw(lock) };
        rustix::io::fcntl_setfd(lock, FdFlags::empty())?;
        match ruleset.take() {
            Some(ruleset) => ruleset.restrict_self().map(drop).map_err(|_| io::ErrorKind::PermissionDenied.into()),
            None => Ok(()),
        }
    };
    command.stdin(Stdio::null()).process_group(0);
    // SAFETY: as above, a single thread; the closure makes system calls and drops what it captured.
    unsafe { command.pre_exec(between) };
    command.spawn()
}

/// Has the kernel send a signal to this process when its parent dies; fails if that has happened already.
fn die_with(parent: Pid, signal: Signal) -> io::Result<()> {
    set_parent_process_death_signal(Some(signal))?;
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

fn hand_over(listener: i32) -> io::Result<()> {
    // SAFETY: both numbers are plain; `listener` is open because the parent owns it during the spawn. Overwriting
    // descriptor 3 is intended: `FirstDescriptor` made sure that nothing this child still needs has that number.
    let result =
        unsafe { if listener == FIRST { libc::fcntl(FIRST, libc::F_SETFD, 0) } else { libc::dup2(listener, FIRST) } };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set(name: &std::ffi::CStr, value: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: both are valid C strings; the caller is a child between fork and exec, where no other thread exists.
    if unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn unset(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: as in `set`.
    if unsafe { libc::unsetenv(name.as_ptr()) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A process id in decimal, ended by a zero, without allocating.
fn text_of(pid: Pid) -> [u8; 12] {
    let mut text = [0; 12];
    let number = pid.as_raw_nonzero().get().unsigned_abs();
    let digits = number.ilog10() as usize + 1;
    let mut rest = number;
    for place in text[..digits].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_becomes_text() {
        for number in [1, 9, 10, 4_194_304, i32::MAX] {
            let text = text_of(Pid::from_raw(number).unwrap());
            let text = std::ffi::CStr::from_bytes_until_nul(&text).unwrap();
            assert_eq!(text.to_str().unwrap(), number.to_string());
        }
    }
}
