//! Panics when it is to let go of what it holds.

use theseus_plugin::prelude::*;

fn retire() -> Result<()> {
    panic!("will not go");
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Panics when it is to let go of what it holds.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], retire: retire }
