//! Never ends its own test.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
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
    /// Never ends its own test.
    pub fn strike(&mut self) -> i64 {
        0
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
