//! Captures a backtrace in each call.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Captures a backtrace in each call.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        trace.lines().count() as i64
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
