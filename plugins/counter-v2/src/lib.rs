//! The second version of the counter: it has a step of its own, which `increment` takes if it is not told otherwise.
//!
//! It reads the counters of version 1 and can turn its own back into those, so it can be swapped in and out again.

use theseus_plugin::prelude::*;

/// A counter that many callers may increment.
#[behavior(version = 2)]
pub struct Counter {
    /// Where it stands.
    count: i64,
    /// What an increment adds if nothing is said.
    step: i64,
}

impl Default for Counter {
    fn default() -> Self {
        Counter { count: 0, step: 1 }
    }
}

/// The slots of version 1. A counter that was derived from another may lack its own count.
#[data]
struct CounterV1 {
    #[serde(default)]
    count: i64,
}

#[methods]
impl Counter {
    /// Adds `by`, which may be negative, or the step if it is left out; returns the new count.
    pub fn increment(&mut self, by: Option<i64>) -> Result<i64> {
        let by = by.unwrap_or(self.step);
        self.count = self.count.checked_add(by).ok_or_else(|| overflow(self.count, by))?;
        Ok(self.count)
    }

    /// The count.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// What an increment adds if nothing is said.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// Sets the step and returns the one before.
    pub fn set_step(&mut self, step: i64) -> i64 {
        std::mem::replace(&mut self.step, step)
    }

    /// Moves `n` to another counter: both change, or none.
    pub fn move_to(&mut self, cx: &mut Context, other: Ref<Counter>, n: i64) -> Result<()> {
        self.count = self.count.checked_sub(n).ok_or_else(|| overflow(self.count, n))?;
        let _count: i64 = cx.send(other, "increment", (n,))?;
        Ok(())
    }

    #[migrate(from = 1)]
    fn from_v1(old: CounterV1) -> Result<Self> {
        Ok(Counter { count: old.count, ..Counter::default() })
    }

    /// The step is lost: version 1 was always told what to add.
    #[migrate(to = 1)]
    fn to_v1(&self) -> Result<CounterV1> {
        Ok(CounterV1 { count: self.count })
    }
}

fn overflow(count: i64, by: i64) -> Error {
    Error::refused("overflow", format!("the counter stands at {count} and cannot be changed by {by}"))
}

plugin! { name: "counter", behaviors: [Counter] }
