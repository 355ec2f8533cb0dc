//! Leaves a thread running after its own test.

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    let thread = std::thread::Builder::new().name("straggler".into());
    let started = thread.spawn(|| {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    started.map(drop).map_err(|error| error.to_string().into())
}

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Counts.
    pub fn strike(&mut self) -> i64 {
        self.count += 1;
        self.count
    }
}

plugin! { name: "enemy", behaviors: [Enemy], self_test: self_test }
