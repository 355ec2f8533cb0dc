//! Version 1 of the items.

use theseus_plugin::prelude::*;

/// A number.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Item {
    /// The number.
    n: i64,
}

#[methods]
impl Item {
    /// Sets the number and returns the one before.
    pub fn set(&mut self, n: i64) -> i64 {
        std::mem::replace(&mut self.n, n)
    }

    /// Adds to the number and returns the new one.
    pub fn add(&mut self, by: i64) -> i64 {
        self.n += by;
        self.n
    }

    /// The number.
    pub fn n(&self) -> i64 {
        self.n
    }
}

plugin! { name: "items", behaviors: [Item] }
