//! Calls itself until the stack is used up.

use theseus_plugin::prelude::*;

fn deeper(level: i64) -> i64 {
    let frame = std::hint::black_box([level; 512]);
    if level < 0 { 0 } else { deeper(level + 1) + frame[7] }
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Calls itself until the stack is used up.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        deeper(self.count)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
