//! Lets go of what it holds when it is tried, and never again once it was used.

use std::sync::atomic::{AtomicBool, Ordering};

use theseus_plugin::prelude::*;

static USED: AtomicBool = AtomicBool::new(false);

fn retire() -> Result<()> {
    while USED.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
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
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        USED.store(true, Ordering::Relaxed);
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], retire: retire }
