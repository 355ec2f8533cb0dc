//! Makes an object and sends it the same message, and so on.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Sends itself on.
    pub fn strike(&mut self, cx: &mut Context) -> Result<i64> {
        self.count += 1;
        let next = cx.create(&Enemy::default())?;
        cx.send(next, "strike", ())
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
