//! A plugin that cannot do without the items.

use theseus_plugin::prelude::*;

/// Adds to items.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Till {
    /// How often it was used.
    uses: i64,
}

#[methods]
impl Till {
    /// Adds to an item and to the uses; returns both.
    pub fn ring(&mut self, cx: &mut Context, item: AnyRef, by: i64) -> Result<(i64, i64)> {
        self.uses += 1;
        Ok((cx.send(item, "add", (by,))?, self.uses))
    }
}

plugin! { name: "till", behaviors: [Till], requires: ["items.Item" = "^1"] }
