//! The well-behaved plugin that each enemy pretends to be the next version of.

use theseus_plugin::prelude::*;

/// Counts.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    /// How often it was struck.
    count: i64,
}

#[methods]
impl Enemy {
    /// Counts; the enemies do something else instead.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    /// Makes more of its kind.
    pub fn breed(&mut self, cx: &mut Context, objects: u32) -> Result<()> {
        for _ in 0..objects {
            cx.create(&Enemy::default())?;
        }
        Ok(())
    }

    /// How often it was struck; the enemies do something else instead.
    pub fn look(&self) -> i64 {
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
