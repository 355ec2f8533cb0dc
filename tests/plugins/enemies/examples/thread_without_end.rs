//! Starts a thread that never ends, in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Starts a thread that never ends, in a command.
    pub fn strike(&mut self) -> i64 {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
