//! Panics with a payload whose destructor panics again.

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
    /// Panics with a payload whose destructor panics again.
    pub fn strike(&mut self) -> i64 {
        std::panic::panic_any(Bomb)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
