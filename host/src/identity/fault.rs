//! What becomes of a process that cannot read an identity's file any more.
//!
//! LMDB reads its file through a mapping and believes what stands there. A page that the disk does not give is a signal
//! (SIGBUS), and a page with flipped bits may send LMDB anywhere (SIGSEGV) or break one of its assertions (SIGABRT). There is
//! no way back from these: LMDB may hold its locks, and half of a page may be copied. So the process ends, but it says
//! why and ends with the exit code of a damaged identity, as for every other damage. Faults that are not the identity's
//! - in a plugin, say - go to whoever handled that signal before.

#![allow(
    unsafe_code,
    reason = "handling a signal: the handler reads atomics and a message that outlives the mapping, and calls only what POSIX \
              lists as async-signal-safe"
)]

use std::{
    cell::Cell,
    marker::PhantomData,
    mem::MaybeUninit,
    path::Path,
    ptr,
    sync::{
        Once,
        atomic::{AtomicPtr, AtomicUsize, Ordering},
    },
};

/// The exit code for a damaged identity, as everywhere in the command line.
const EXIT_DAMAGED: i32 = 5;

/// How many environments are watched at once; a process has a few. Those beyond are read without a net.
const WATCHED_MAX: usize = 64;

const SIGNALS: [i32; 3] = [libc::SIGBUS, libc::SIGSEGV, libc::SIGABRT];

/// A mapping that is watched, if `message` is there.
struct Slot {
    start: AtomicUsize,
    length: AtomicUsize,
    message: AtomicPtr<String>,
}

static SLOTS: [Slot; WATCHED_MAX] = [const {
    Slot { start: AtomicUsize::new(0), length: AtomicUsize::new(0), message: AtomicPtr::new(ptr::null_mut()) }
}; WATCHED_MAX];

/// Who handled the signals before, in the order of [`SIGNALS`]. Written once, before the handler is there.
static mut BEFORE: [MaybeUninit<libc::sigaction>; SIGNALS.len()] = [MaybeUninit::uninit(); SIGNALS.len()];

thread_local! {
    /// The slot of the environment in whose calls this thread is, plus one. Without a destructor and initialised when the
    /// program is loaded, so that a handler may read it.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

/// A watched environment. It is watched no more when this value goes.
pub(super) struct Watch(usize);

impl Watch {
    /// Watches the environment in a folder.
    pub(super) fn begin(folder: &Path) -> Watch {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        let message = Box::into_raw(Box::new(format!(
            "theseus: identity_damaged: {} cannot be read: its disk fails, or its pages are damaged; the process ends before it \
             gives a wrong answer. `theseus verify` says what is damaged; `theseus repair` makes the objects again, `theseus restore` takes a backup\n",
            folder.join("data.mdb").display()
        )));
        let free = |slot: &&Slot| {
            slot.message.compare_exchange(ptr::null_mut(), message, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let Some(place) = SLOTS.iter().position(|slot| free(&slot)) else {
            // SAFETY: it was made by `Box::into_raw` above, and nobody else has got it.
            drop(unsafe { Box::from_raw(message) });
            return Watch(WATCHED_MAX);
        };
        Watch(place)
    }

    /// Says where its file is mapped: the address and the length.
    pub(super) fn mapped_at(&self, mapping: Option<(usize, usize)>) {
        if let (Some(slot), Some((start, length))) = (SLOTS.get(self.0), mapping) {
            slot.start.store(start, Ordering::Relaxed);
            slot.length.store(length, Ordering::Release);
        }
    }

    /// Says that this thread calls LMDB, until the answer goes: whatever signal ends it there is for the environment to explain.
    pub(super) fn enter(&self) -> Inside {
        Inside { before: INSIDE.replace(self.0 + 1), thread: PhantomData }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(slot) = SLOTS.get(self.0) else { return };
        slot.length.store(0, Ordering::Release);
        let message = slot.message.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: it was made by `Box::into_raw` and put here once; only the handler reads it, for a fault in a mapping or a call
        // of an environment that is open, and this one is being closed.
        drop(unsafe { Box::from_raw(message) });
    }
}

/// A call of LMDB under way on this thread, see [`Watch::enter`].
pub(super) struct Inside {
    before: usize,
    /// It belongs to the thread that made it.
    thread: PhantomData<*const ()>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

fn install() {
    for (place, signal) in SIGNALS.into_iter().enumerate() {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: an all-zero `sigaction` is a valid one, which is then filled. `BEFORE` is written here only, before the handler
        // that reads it is installed, under a `Once`. `handle` has the signature that SA_SIGINFO asks for and is part of the
        // executable, which is never unmapped. SA_ONSTACK, because the standard library's own handler for stack overflows,
        // to which `handle` passes on, needs the alternate stack.
        unsafe {
            let action = action.assume_init_mut();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            let before = ptr::addr_of_mut!(BEFORE).cast::<libc::sigaction>().add(place);
            libc::sigaction(signal, ptr::null(), before);
            libc::sigaction(signal, action, ptr::null_mut());
        }
    }
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system gives a valid `siginfo_t` to a handler installed with SA_SIGINFO; the address is set for these signals
    // when the kernel raised them (a positive code), and only then it is looked at.
    let address = unsafe { ((*info).si_code > 0 && signal != libc::SIGABRT).then(|| (*info).si_addr() as usize) };
    let is_here = |slot: &&Slot| {
        let length = slot.length.load(Ordering::Acquire);
        address.is_some_and(|address| address.wrapping_sub(slot.start.load(Ordering::Relaxed)) < length)
    };
    let inside = INSIDE.get().checked_sub(1).and_then(|place| SLOTS.get(place));
    if let Some(slot) = SLOTS.iter().find(is_here).or(inside) {
        let message = slot.message.load(Ordering::Acquire);
        // SAFETY: the message lives as long as its environment is open, and whoever reads its mapping or calls it keeps it open.
        // write(2) and _exit(2) are async-signal-safe.
        unsafe {
            if let Some(message) = message.as_ref() {
                libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            }
            libc::_exit(EXIT_DAMAGED);
        }
    }
    if let Some(place) = SIGNALS.iter().position(|it| *it == signal) {
        // SAFETY: `BEFORE` was filled before this handler was installed. The signal comes again when this returns, because what
        // raised it is executed again; after an abort, which is not, the C library raises it a second time itself.
        unsafe { libc::sigaction(signal, ptr::addr_of!(BEFORE).cast::<libc::sigaction>().add(place), ptr::null_mut()) };
    }
}
