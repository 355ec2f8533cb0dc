//! Holds eight megabytes in a static, and frees them when it is retired.

use std::sync::{Mutex, PoisonError};

use theseus_plugin::{Counting, prelude::*};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

static HOARD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn retire() -> Result<()> {
    drop(std::mem::take(&mut *HOARD.lock().unwrap_or_else(PoisonError::into_inner)));
    Ok(())
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Holds eight megabytes in a static, and frees them when it is retired.
    pub fn strike(&mut self) -> i64 {
        let mut hoard = HOARD.lock().unwrap_or_else(PoisonError::into_inner);
        hoard.resize(8 << 20, 7);
        hoard.len() as i64
    }
}

plugin! { name: "enemy", behaviors: [Enemy], allocator: ALLOCATOR, retire: retire }
