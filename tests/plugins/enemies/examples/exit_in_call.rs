//! Ends the process in a command, and says that all is well.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Ends the process in a command, and says that all is well.
    pub fn strike(&mut self) -> i64 {
        std::process::exit(0)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
