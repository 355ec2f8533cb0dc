//! Asks for a restart cycle in each call, with a release that is not there.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Wants to be elsewhere.
    pub fn strike(&mut self, cx: &mut Context) -> Result<i64> {
        self.count += 1;
        let reason = format!("for the {}th time", self.count);
        cx.request_upgrade(UpgradeRequest { bundle: "/nowhere/at/all".to_owned(), reason })?;
        Ok(self.count)
    }
}

plugin! { name: "enemy", behaviors: [Enemy], capabilities: ["request_upgrade"] }
