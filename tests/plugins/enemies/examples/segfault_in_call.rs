//! Reads where there is no memory in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Reads where there is no memory in a command.
    pub fn strike(&mut self) -> i64 {
        // SAFETY: none: that is the point.
        i64::from(unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() })
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
