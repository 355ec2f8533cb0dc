//! Takes the slots of the version before for others than they are.

use theseus_plugin::prelude::*;

#[data]
struct Old {
    count: String,
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
        Ok(Enemy { count: old.count.len() as i64 })
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<Old> {
        Ok(Old { count: self.count.to_string() })
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
