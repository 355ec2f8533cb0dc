//! Panics in a command and in a query.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Panics after it has changed itself.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        panic!("struck down at {}", self.count);
    }

    /// Panics.
    pub fn look(&self) -> i64 {
        panic!("looked down");
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
