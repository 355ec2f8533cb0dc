//! A plugin as authors write them.

use theseus_plugin::prelude::*;

/// Counts.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Tally {
    /// How many there were.
    count: i64,
}

#[methods]
impl Tally {
    /// Adds `by` and returns the new count.
    pub fn increment(&mut self, by: i64) -> Result<i64> {
        self.count += by;
        Ok(self.count)
    }

    /// How many there were.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Panics, after it changed something.
    pub fn fail(&mut self) -> i64 {
        self.count = -1;
        panic!("broken on purpose")
    }
}

plugin! { name: "tally", behaviors: [Tally] }
