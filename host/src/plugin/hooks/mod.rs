//! Watches what plugins leave in the process beside memory: thread-locals with destructors, thread keys, threads.
//!
//! The C library keeps account of these, but gives no way to settle: a library with a thread-local that is still to be destroyed
//! stays mapped, a thread key stays taken, and nobody knows of threads. So the executable defines the functions by which code
//! asks for them and exports them (`build.rs`), and the dynamic linker binds a plugin's references to these instead of
//! the C library's. What comes from an image that the host loaded as a plugin is kept on accounts here; everything else is passed on.
//!
//! - `exports`: the functions. They see every call in the process, so they take the short way wherever they can.
//! - [`watched`]: the images, and to which of them an address belongs.
//! - [`thread`]: what each thread owes to images, and [`Errands`], by which another thread has it settle.
//!
//! A thread settles by itself when it ends. A thread that lives on - the executor, say - has [`Errands`], and looks at them between
//! two pieces of work: nobody waits for anybody, and a destructor runs on the thread that its data belongs to.

#![cfg_attr(
    not(all(target_os = "linux", target_env = "gnu")),
    allow(dead_code, reason = "nobody enters anything where there are no hooks, so nothing is looked up either")
)]

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod elsewhere;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod exports;
mod thread;
mod watched;

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
use self::elsewhere as exports;
pub use self::thread::Errands;
pub(super) use self::{
    exports::are_in_force,
    thread::{ring_all, settle_here, summon, write_off},
    watched::{Watched, watch},
};
