//! Migrates no object with an odd count.

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
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    #[migrate(from = 1)]
    fn from_v1(old: Old) -> Result<Self> {
        if old.count % 2 != 0 {
            return Err(Error::refused("odd", format!("a count of {} is odd", old.count)));
        }
        Ok(Enemy { count: old.count })
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<Old> {
        Ok(Old { count: self.count })
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
