//! Panics over objects of the version before, but not over the first ones, which are all that a trial shows it.

use std::sync::atomic::{AtomicU64, Ordering};

use theseus_plugin::prelude::*;

static MIGRATED: AtomicU64 = AtomicU64::new(0);

#[data]
struct Old {
    #[serde(default)]
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
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    #[migrate(from = 1)]
    fn from_v1(old: Old) -> Result<Self> {
        let number = MIGRATED.fetch_add(1, Ordering::Relaxed);
        assert!(number < 500, "had enough after {number} objects");
        Ok(Enemy { count: old.count })
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<Old> {
        Ok(Old { count: self.count })
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
