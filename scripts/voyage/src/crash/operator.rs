//! What operators do while the host is killed: plugins are swapped without a pause, now and then the history is packed, and what nothing leads to
//! is collected.

use std::{path::PathBuf, sync::atomic::Ordering, thread, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::{Crash, PATIENCE, Shared, dice::Dice};
use crate::{
    api::{ApiError, Host},
    swaps::{
        SwapsError,
        bench::{absolute, altered_copy},
    },
};

/// One turn in so many packs the history, once it has more transactions than it keeps.
const PACK_EVERY: usize = 10;
/// How many transactions a pack keeps.
const PACK_KEEPS: u64 = 1_000;
/// The longest rest between two doings, in milliseconds.
const REST_MS_MAX: u64 = 150;
/// The longest rest between two collections, in milliseconds.
const COLLECT_MS_MAX: u64 = 400;

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
    /// Packs that were answered.
    pub packs: u64,
    /// Collections that were answered.
    pub collections: u64,
    /// What those removed.
    pub collected: u64,
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
    pub(super) fn work(self, shared: &Shared, mut dice: Dice) -> Result<Operated, SwapsError> {
        let mut host = Host::new(self.socket.clone(), PATIENCE);
        let mut operated = Operated::default();
        let mut turn = 0;
        while !shared.stop.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(dice.roll(REST_MS_MAX)));
            turn += 1;
            if turn % PACK_EVERY == 0 {
                operated.packs += u64::from(pack(&mut host, shared)?);
            }
            // Sent again after a crash; if the first one was committed, there is nothing left to do.
            match host.post("/v1/swap", &json!({ "paths": [&self.counters[turn % 2]] })) {
                Ok(_) => operated.swaps += 1,
                // On a busy machine it may take longer than each of these hosts lives.
                Err(ApiError::Unanswered { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
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

/// Collects now and then until it is told to stop. Answers how many collections were answered, and how many objects those removed.
pub(super) fn collect(shared: &Shared, mut dice: Dice) -> Result<(u64, u64), ApiError> {
    let mut host = Host::new(shared.socket.clone(), PATIENCE);
    let (mut collections, mut collected) = (0, 0);
    while !shared.stop.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(dice.roll(COLLECT_MS_MAX)));
        match host.post("/v1/gc", &json!({})) {
            Ok(done) => {
                collections += 1;
                collected += done["removed"].as_u64().unwrap_or(0);
            }
            // Something else is under way that a collection waits for.
            Err(ApiError::Problem(problem)) if problem.status < 500 => {}
            // It may take longer than each of these hosts lives.
            Err(ApiError::Unanswered { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((collections, collected))
}

/// Packs what is old away; false if there is not enough of it.
fn pack(host: &mut Host, shared: &Shared) -> Result<bool, SwapsError> {
    let status = host.get("/v1/status")?;
    let tid = status["tid"].as_u64().ok_or(SwapsError::Missing { field: "tid", document: status })?;
    let before = tid.saturating_sub(PACK_KEEPS);
    if before < PACK_KEEPS {
        return Ok(false);
    }
    shared.packed_tid.fetch_max(before, Ordering::AcqRel);
    match host.post("/v1/pack", &json!({ "before": before })) {
        Ok(_) => Ok(true),
        // The one before was killed and goes on by itself, or had come further than it had time to say.
        Err(ApiError::Problem(problem)) if problem.status < 500 => Ok(false),
        // It may take longer than each of these hosts lives.
        Err(ApiError::Unanswered { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn digest_in_force(host: &mut Host) -> Result<String, SwapsError> {
    let document = host.get("/v1/plugins")?;
    let is_it = |plugin: &&serde_json::Value| plugin["name"] == "counter" && plugin["state"] == "active";
    let found = document["plugins"].as_array().and_then(|plugins| plugins.iter().find(is_it));
    let digest = found.and_then(|plugin| plugin["digest"].as_str()).map(str::to_owned);
    digest.ok_or(SwapsError::Missing { field: "an active counter", document })
}
