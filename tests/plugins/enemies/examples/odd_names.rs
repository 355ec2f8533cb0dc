//! Takes names that are no names.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Tries one odd name after the other, and says which it got.
    pub fn strike(&mut self, cx: &mut Context) -> Result<Vec<String>> {
        let myself = cx.receiver();
        let long = "x".repeat(256);
        let odd = ["", "7", "a\nb", "a\0b", "\u{1b}[2J", &long, "..", "a/b", "a b?c#d%20", "\u{202e}evil", "ж🚢"];
        Ok(odd.into_iter().filter(|name| cx.name(name, myself).is_ok()).map(str::to_owned).collect())
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
