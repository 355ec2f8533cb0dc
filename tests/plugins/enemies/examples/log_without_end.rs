//! Logs a million lines in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Logs a million lines in a command.
    pub fn strike(&mut self) -> i64 {
        for line in 0..1_000_000 {
            log::info!("line {line} of a million");
        }
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
