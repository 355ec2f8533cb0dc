//! Version 3 of the items: the number has another name. It knows of version 2 only.

use theseus_plugin::prelude::*;

/// A number with a label.
#[behavior(version = 3)]
#[derive(Default)]
pub struct Item {
    /// The number.
    number: i64,
    /// What else is known of it.
    label: String,
}

#[data]
struct ItemV2 {
    #[serde(default)]
    n: i64,
    #[serde(default)]
    label: String,
}

#[methods]
impl Item {
    /// Sets the number and returns the one before.
    pub fn set(&mut self, n: i64) -> i64 {
        std::mem::replace(&mut self.number, n)
    }

    /// Adds to the number and returns the new one.
    pub fn add(&mut self, by: i64) -> i64 {
        self.number += by;
        self.number
    }

    /// The number.
    pub fn n(&self) -> i64 {
        self.number
    }

    #[migrate(from = 2)]
    fn from_v2(old: ItemV2) -> Self {
        Item { number: old.n, label: old.label }
    }

    #[migrate(to = 2)]
    fn to_v2(&self) -> ItemV2 {
        ItemV2 { n: self.number, label: self.label.clone() }
    }
}

plugin! { name: "items", behaviors: [Item] }
