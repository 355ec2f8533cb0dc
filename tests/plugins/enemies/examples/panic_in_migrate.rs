//! Panics over each object of the version before.

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
        panic!("cannot read a count of {}", old.count)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
