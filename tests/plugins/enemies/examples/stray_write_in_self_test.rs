//! Writes to a file that it did not open, in its own test.

use std::{io::Write, os::fd::FromRawFd};

use theseus_plugin::prelude::*;

fn self_test() -> Result<()> {
    for descriptor in 3..6 {
        // SAFETY: none: whoever owns it does not expect this, and that is the point. It is not closed.
        let mut file = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(descriptor) });
        let _ = file.write_all(b"what is this doing here?");
    }
    Ok(())
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
