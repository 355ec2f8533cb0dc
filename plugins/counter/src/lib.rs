//! A counter, the smallest plugin that does something.

use theseus_plugin::prelude::*;

/// A counter that many callers may increment.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Counter {
    /// Where it stands.
    count: i64,
}

#[methods]
impl Counter {
    /// Adds `by`, which may be negative, and returns the new count.
    pub fn increment(&mut self, by: i64) -> Result<i64> {
        self.count = self.count.checked_add(by).ok_or_else(|| overflow(self.count, by))?;
        Ok(self.count)
    }

    /// The count.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Moves `n` to another counter: both change, or none.
    pub fn move_to(&mut self, cx: &mut Context, other: Ref<Counter>, n: i64) -> Result<()> {
        self.count = self.count.checked_sub(n).ok_or_else(|| overflow(self.count, n))?;
        let _count: i64 = cx.send(other, "increment", (n,))?;
        Ok(())
    }
}

fn overflow(count: i64, by: i64) -> Error {
    Error::refused("overflow", format!("the counter stands at {count} and cannot be changed by {by}"))
}

plugin! { name: "counter", behaviors: [Counter] }
