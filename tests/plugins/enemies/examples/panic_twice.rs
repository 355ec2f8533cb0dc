//! Panics while it unwinds from a panic, which ends a process.

use theseus_plugin::prelude::*;

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("and again");
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
    /// Panics while it unwinds from a panic, which ends a process.
    pub fn strike(&mut self) -> i64 {
        let _bomb = Bomb;
        panic!("once")
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
