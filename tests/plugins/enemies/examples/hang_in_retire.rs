//! Never lets go of what it holds.

use theseus_plugin::prelude::*;

fn retire() -> Result<()> {
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
    /// Never lets go of what it holds.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], retire: retire }
