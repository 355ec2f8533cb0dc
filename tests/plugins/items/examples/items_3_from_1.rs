//! Version 3 of the items, which reads and writes version 1 by way of version 2.

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
struct ItemV1 {
    #[serde(default)]
    n: i64,
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

    #[migrate(from = 1, to = 2)]
    fn v1_to_v2(old: ItemV1) -> ItemV2 {
        ItemV2 { n: old.n, label: "old".into() }
    }

    #[migrate(from = 2)]
    fn from_v2(old: ItemV2) -> Self {
        Item { number: old.n, label: old.label }
    }

    #[migrate(to = 2)]
    fn to_v2(&self) -> ItemV2 {
        ItemV2 { n: self.number, label: self.label.clone() }
    }

    #[migrate(from = 2, to = 1)]
    fn v2_to_v1(old: ItemV2) -> ItemV1 {
        ItemV1 { n: old.n }
    }
}

plugin! { name: "items", behaviors: [Item] }
