//! Takes a signal for itself in a command.

use theseus_plugin::prelude::*;

extern "C" fn on_signal(_: libc::c_int) {}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Takes a signal for itself in a command.
    pub fn strike(&mut self) -> i64 {
        // SAFETY: the handler touches nothing.
        unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t) };
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
