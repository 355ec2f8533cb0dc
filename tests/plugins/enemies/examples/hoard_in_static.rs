//! Holds eight megabytes in a static and does not free them.

use std::sync::OnceLock;

use theseus_plugin::{Counting, prelude::*};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

static HOARD: OnceLock<Vec<u8>> = OnceLock::new();

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Holds eight megabytes in a static and does not free them.
    pub fn strike(&mut self) -> i64 {
        HOARD.get_or_init(|| vec![7; 8 << 20]).len() as i64
    }
}

plugin! { name: "enemy", behaviors: [Enemy], allocator: ALLOCATOR }
