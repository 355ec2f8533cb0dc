//! Has a thread-local whose destructor panics, which ends a process.

use theseus_plugin::prelude::*;

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the thread-local goes off");
    }
}

thread_local! {
    static BOMB: Bomb = const { Bomb };
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Has a thread-local whose destructor panics, which ends a process.
    pub fn strike(&mut self) -> i64 {
        BOMB.with(|_| self.count += 1);
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
