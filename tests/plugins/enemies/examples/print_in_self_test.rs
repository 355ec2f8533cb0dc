//! Prints without end in its own test.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    loop {
        println!("all work and no play makes a dull plugin");
    }
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Prints without end in its own test.
    pub fn strike(&mut self) -> i64 {
        0
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
