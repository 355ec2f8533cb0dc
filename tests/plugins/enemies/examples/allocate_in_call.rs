//! Takes memory without end in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Takes memory without end in a command.
    pub fn strike(&mut self) -> i64 {
        let mut hoard = Vec::new();
        loop {
            hoard.push(Vec::<u8>::with_capacity(16 << 20));
            std::hint::black_box(&hoard);
        }
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
