//! Never finishes the first object of the version before.

use theseus_plugin::prelude::*;

#[data]
struct Old {
    count: i64,
}

/// The enemy.
#[behavior(version = 2)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    #[migrate(from = 1)]
    fn from_v1(old: Old) -> Result<Self> {
        std::hint::black_box(old.count);
        loop {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
