//! Changes the working directory of the process in a command.

use theseus_plugin::prelude::*;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Goes elsewhere.
    pub fn strike(&mut self) -> Result<String> {
        std::env::set_current_dir("/proc").map_err(|error| error.to_string())?;
        self.count += 1;
        let here = std::env::current_dir().map_err(|error| error.to_string())?;
        Ok(here.display().to_string())
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
