//! Deletes every object and frees every name that it can.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Deletes what it can, and says how much that was.
    pub fn strike(&mut self, cx: &mut Context) -> Result<i64> {
        let myself = cx.receiver();
        for name in ["visits", "enemy", "theseus"] {
            cx.unname(name)?;
        }
        for id in (0..100).map(ObjectId).filter(|id| *id != myself.id()) {
            self.count += i64::from(cx.delete(id).is_ok());
        }
        Ok(self.count)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
