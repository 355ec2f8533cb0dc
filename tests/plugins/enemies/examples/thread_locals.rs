//! Leaves thread-locals with destructors on the threads that execute commands and queries.

use std::cell::RefCell;

use theseus_plugin::prelude::*;

thread_local! {
    static SEEN: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
}

fn see(count: i64) -> usize {
    SEEN.with_borrow_mut(|seen| {
        seen.push(count);
        seen.len()
    })
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Counts, and remembers on this thread.
    pub fn strike(&mut self) -> usize {
        self.count += 1;
        see(self.count)
    }

    /// Remembers on this thread.
    pub fn look(&self) -> usize {
        see(self.count)
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
