//! A limit on how long a process that reads beside a host may keep one view of the files.
//!
//! Pages that a view shows are not used again, so a reader that is stopped in the midst of one - by Ctrl-Z, by a debugger, by a terminal
//! that nobody reads - would let the host's files grow for as long as it is stopped. A stopped process cannot end its view, and nobody else
//! can. So the kernel ends the process: a timer that sends SIGKILL is set when a view begins and as it is read, and taken away when none is left. The host then
//! finds that the reader is gone, and frees its slot.

#![allow(unsafe_code, reason = "timers of the system: each call gets pointers to values that outlive it")]

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// What this process is bound by. A lock because views begin and end on any thread.
static LEASES: Mutex<Leases> = Mutex::new(Leases { timer: None, limit: Duration::ZERO, open: 0 });

struct Leases {
    timer: Option<Timer>,
    limit: Duration,
    /// How many views there are.
    open: usize,
}

/// Ends this process from now on when it keeps a view of an identity's files for longer than that. For processes that read beside a host; a host
/// has other means. Where the system gives no timer there is no limit.
pub fn limit_views(limit: Duration) {
    let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
    leases.limit = limit;
    if leases.timer.is_none() {
        leases.timer = Timer::new();
    }
}

/// Shows that the process goes on: whoever reads much in one view is not stopped.
pub(super) fn touch() {
    /// How many reads there are between two settings of the timer, which is a call of the system.
    const READS: u32 = 256;
    static READS_DONE: AtomicU32 = AtomicU32::new(0);

    if READS_DONE.fetch_add(1, Ordering::Relaxed).is_multiple_of(READS) {
        let leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.open > 0 {
            leases.set(leases.limit);
        }
    }
}

/// A view. While there is one, the process has to go on.
pub(super) struct Lease(());

impl Lease {
    pub(super) fn begin() -> Lease {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        leases.open += 1;
        leases.set(leases.limit);
        Lease(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        leases.open -= 1;
        if leases.open == 0 {
            leases.set(Duration::ZERO);
        }
    }
}

impl Leases {
    /// Has the process ended after a time; zero for never.
    fn set(&self, after: Duration) {
        if let Some(timer) = &self.timer {
            timer.set(after);
        }
    }
}

#[cfg(target_os = "linux")]
use system::Timer;

#[cfg(target_os = "linux")]
mod system {
    use std::{mem::MaybeUninit, ptr, time::Duration};

    pub(super) struct Timer(libc::timer_t);

    // SAFETY: a timer belongs to the process, not to a thread; the id is only ever handed back to the system.
    unsafe impl Send for Timer {}

    impl Timer {
        pub(super) fn new() -> Option<Timer> {
            let mut event = MaybeUninit::<libc::sigevent>::zeroed();
            let mut timer = MaybeUninit::<libc::timer_t>::uninit();
            // SAFETY: a zeroed `sigevent` is a valid one, of which two fields are then set; both values outlive the call, which
            // writes the timer if it answers 0.
            unsafe {
                (*event.as_mut_ptr()).sigev_notify = libc::SIGEV_SIGNAL;
                (*event.as_mut_ptr()).sigev_signo = libc::SIGKILL;
                let made = libc::timer_create(libc::CLOCK_MONOTONIC, event.as_mut_ptr(), timer.as_mut_ptr());
                (made == 0).then(|| Timer(timer.assume_init()))
            }
        }

        pub(super) fn set(&self, after: Duration) {
            let value = libc::timespec {
                tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: after.subsec_nanos().into(),
            };
            let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            // SAFETY: the timer was made by `timer_create` and is never deleted; `spec` outlives the call, and nothing is asked back.
            unsafe { libc::timer_settime(self.0, 0, &spec, ptr::null_mut()) };
        }
    }
}

/// Elsewhere there are no such timers.
#[cfg(not(target_os = "linux"))]
enum Timer {}

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new() -> Option<Timer> {
        None
    }

    fn set(&self, _: Duration) {
        match *self {}
    }
}
