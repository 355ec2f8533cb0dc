//! Ends the process in its own test, and says that all is well.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    std::process::exit(0)
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
