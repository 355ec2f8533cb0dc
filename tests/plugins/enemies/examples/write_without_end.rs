//! Makes objects, grows its slot, and takes names, each without end.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Makes objects.
    pub fn strike(&mut self, cx: &mut Context) -> Result<i64> {
        loop {
            cx.create(&Enemy::default())?;
        }
    }

    /// Changes one object again and again.
    pub fn churn(&mut self, cx: &mut Context) -> Result<i64> {
        let other = cx.create(&Enemy::default())?;
        loop {
            cx.send::<i64>(other, "count_up", ())?;
        }
    }

    /// Counts.
    pub fn count_up(&mut self) -> i64 {
        self.count += 1;
        self.count
    }

    /// Takes names.
    pub fn claim(&mut self, cx: &mut Context) -> Result<i64> {
        let myself = cx.receiver();
        loop {
            self.count += 1;
            cx.name(&format!("{}-{:0200}", "mine", self.count), myself)?;
        }
    }

    /// Answers more than anybody asked for.
    pub fn boast(&mut self) -> String {
        "I am great. ".repeat(20 << 20)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
