//! What an operator does while the host is killed: plugins are swapped without a pause.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde::Serialize;
use serde_json::json;

use super::{Crash, PATIENCE, dice::Dice};
use crate::{
    api::Host,
    swaps::{
        SwapsError,
        bench::{absolute, altered_copy},
    },
};

/// The longest rest between two doings, in milliseconds.
const REST_MS_MAX: u64 = 150;

/// Who looks after the host, or would.
pub(super) struct Operator {
    socket: PathBuf,
    /// Two files of the counter that take turns.
    counters: [PathBuf; 2],
    ledger: PathBuf,
}

/// What was done.
#[derive(Serialize, Clone, Copy, Debug, Default)]
pub struct Operated {
    /// Swaps that were answered.
    pub swaps: u64,
    /// Requests that were sent again because the host was killed meanwhile.
    pub broken: u64,
}

impl Operator {
    /// One with files to swap.
    pub(super) fn new(crash: &Crash, socket: PathBuf) -> Result<Operator, SwapsError> {
        // The host has a working directory of its own.
        let (folder, plugins) = (absolute(&crash.folder)?, absolute(&crash.plugins)?);
        let counters = ["a", "b"].map(|mark| folder.join(format!("counter-{mark}.so")));
        for file in &counters {
            let mark = file.as_os_str().as_encoded_bytes();
            altered_copy(&plugins.join("libcounter.so"), file, mark)?;
        }
        Ok(Operator { socket, counters, ledger: plugins.join("libledger.so") })
    }

    /// Puts the first plugins in force.
    pub(super) fn bring_in(&self) -> Result<(), SwapsError> {
        let paths = [&self.counters[0], &self.ledger];
        Host::new(self.socket.clone(), PATIENCE).post("/v1/swap", &json!({ "paths": paths }))?;
        Ok(())
    }

    /// Works until it is told to stop. What was answered has to stay in force, whatever happens to the host.
    pub(super) fn work(self, stop: &AtomicBool, mut dice: Dice) -> Result<Operated, SwapsError> {
        let mut host = Host::new(self.socket.clone(), PATIENCE);
        let mut operated = Operated::default();
        let mut turn = 0;
        while !stop.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(dice.roll(REST_MS_MAX)));
            turn += 1;
            // Sent again after a crash; if the first one was committed, there is nothing left to do.
            host.post("/v1/swap", &json!({ "paths": [&self.counters[turn % 2]] }))?;
            operated.swaps += 1;
            let in_force = digest_in_force(&mut host)?;
            thread::sleep(Duration::from_millis(dice.roll(REST_MS_MAX)));
            let later = digest_in_force(&mut host)?;
            if in_force != later {
                let problem = format!("has {later} in force where a swap to {in_force} was answered");
                return Err(SwapsError::Host { problem, log: self.socket });
            }
        }
        operated.broken = host.attempts().broken;
        Ok(operated)
    }
}

fn digest_in_force(host: &mut Host) -> Result<String, SwapsError> {
    let document = host.get("/v1/plugins")?;
    let is_it = |plugin: &&serde_json::Value| plugin["name"] == "counter" && plugin["state"] == "active";
    let found = document["plugins"].as_array().and_then(|plugins| plugins.iter().find(is_it));
    let digest = found.and_then(|plugin| plugin["digest"].as_str()).map(str::to_owned);
    digest.ok_or(SwapsError::Missing { field: "an active counter", document })
}
