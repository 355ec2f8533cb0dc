//! Sees to it that the process of a host does not end as if all were well when somebody else ends it.
//!
//! `exit()` in a plugin would be an end with code 0: a supervisor that restarts what has failed would let it be.

#![allow(unsafe_code, reason = "atexit takes a C function")]

use std::{
    io,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether the host runs, and an exit is therefore nobody's right.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// As long as it lives, an exit of the process becomes an abort.
pub(super) struct Guard(());

/// Begins to watch.
///
/// # Errors
///
/// If the system takes no further exit handlers.
pub(super) fn guard() -> io::Result<Guard> {
    static REGISTER: Once = Once::new();
    let mut registered = 0;
    REGISTER.call_once(|| {
        // SAFETY: `at_exit` has the signature asked for, and is part of the executable, which is never unmapped.
        registered = unsafe { libc::atexit(at_exit) };
    });
    if registered != 0 {
        return Err(io::Error::other("the system takes no further exit handlers"));
    }
    RUNNING.store(true, Ordering::SeqCst);
    Ok(Guard(()))
}

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::SeqCst);
    }
}

extern "C" fn at_exit() {
    if RUNNING.load(Ordering::SeqCst) {
        log::error!("somebody called exit() inside the host, as only a plugin can: the host ends as in a crash");
        std::process::abort();
    }
}
