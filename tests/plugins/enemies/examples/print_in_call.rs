//! Prints and prints in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Prints and prints in a command.
    pub fn strike(&mut self) -> i64 {
        for line in 0..10_000 {
            println!("line {line} of a plugin that should have logged");
        }
        0
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
