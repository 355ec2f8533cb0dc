//! Never comes back from a command or a query.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Never comes back.
    pub fn strike(&mut self) -> i64 {
        loop {
            self.count = self.count.wrapping_add(1);
            std::hint::black_box(&self.count);
        }
    }

    /// Never comes back either.
    pub fn look(&self) -> i64 {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
