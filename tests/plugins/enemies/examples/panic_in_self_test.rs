//! Panics in its own test.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    panic!("the test is not passed")
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Panics in its own test.
    pub fn strike(&mut self) -> i64 {
        0
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
