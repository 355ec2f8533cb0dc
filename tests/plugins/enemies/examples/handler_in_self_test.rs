//! Takes a signal for itself in its own test.

use theseus_plugin::prelude::*;

extern "C" fn on_signal(_: libc::c_int) {}

fn self_test() -> Result<()> {
    // SAFETY: the handler touches nothing.
    unsafe { libc::signal(libc::SIGUSR2, on_signal as *const () as libc::sighandler_t) };
    Ok(())
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
