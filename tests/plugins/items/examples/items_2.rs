//! Version 2 of the items: there is a label, and no 13. It reads version 1 and writes it, but for -13.

use theseus_plugin::prelude::*;

/// A number with a label.
#[behavior(version = 2)]
#[derive(Default)]
pub struct Item {
    /// The number.
    n: i64,
    /// What else is known of it.
    label: String,
}

#[data]
struct ItemV1 {
    #[serde(default)]
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

    #[migrate(from = 1)]
    fn from_v1(old: ItemV1) -> Result<Self> {
        match old.n {
            13 => Err(Error::refused("unlucky", "there is no 13 any more")),
            n => Ok(Item { n, label: String::new() }),
        }
    }

    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<ItemV1> {
        match self.n {
            -13 => Err(Error::refused("unlucky", "there was no -13 yet")),
            n => Ok(ItemV1 { n }),
        }
    }
}

plugin! { name: "items", behaviors: [Item] }
