//! The probe: a candidate is loaded and tried in a child process before the host loads it.
//!
//! There it is loaded and initialised, tests itself, constructs each behaviour, migrates real objects and turns them back,
//! and is unloaded again. Whatever it does - crash, hang, end the process, fill memory or output - is a refusal with the stage
//! at which it happened, and the host never notices.
//!
//! What refuses: the end of the process, a deadline, a panic, malformed answers, a failed self test, a thread that is left
//! without the capability for it, and a migration that cannot make sense of any sample of a schema version. What is only told:
//! objects that do not migrate otherwise (they stay as they are), slots that are lost on the way back, and what would keep the
//! library in memory after it was replaced.

mod samples;
mod work;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use theseus_abi::Capability;

use super::{
    Candidate, SwapError, Swapper,
    confined::{self, Bytes},
    plan::{Change, Plan},
};
use crate::{
    plugin::Digest,
    sandbox::{Cause, Fault, SpawnError},
};

pub(super) use self::work::work;

/// What became of one candidate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// The plugin.
    pub plugin: String,
    /// How it was tried; none if its file had been in force in this process before, and was not tried again.
    pub tried: Option<Tried>,
}

/// How a candidate was tried that was found good.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// What the process was forbidden.
    pub confined: Vec<String>,
    /// What the kernel could not forbid it.
    pub missing: Vec<String>,
    /// How many objects were migrated.
    pub samples: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Why a candidate was not found good.
#[derive(Debug, thiserror::Error)]
pub enum ProbeFailure {
    /// There is no process to try it in.
    #[error("it cannot be tried: {0}")]
    Start(#[from] SpawnError),
    /// Its process came to a bad end.
    #[error("it failed at {stage}, in a process of its own: {fault}{}", advice(&fault.cause))]
    Fault {
        /// What it was doing.
        stage: String,
        /// What happened.
        fault: Fault,
    },
    /// It did something that no plugin may do, or said itself that it does not work.
    #[error("it failed at {stage}, in a process of its own: {reason}")]
    Refused {
        /// What it was doing.
        stage: String,
        /// What is wrong.
        reason: String,
    },
}

/// Which limit it was, for somebody who finds it too strict.
fn advice(cause: &Cause) -> &'static str {
    match cause {
        Cause::Hung { .. } => " (the limit is plugins.probe_ms_max)",
        Cause::Flooded { .. } => " (the limit is plugins.probe_output_bytes_max)",
        Cause::OutOfMemory { .. } => " (the limit is plugins.probe_memory_bytes_max)",
        Cause::Crashed { .. } | Cause::Exited { .. } | Cause::Garbled { .. } => "",
    }
}

/// What a child is asked to try.
#[derive(Serialize, Deserialize)]
pub(super) struct Task {
    /// Where the file was read from.
    origin: String,
    /// Whether it may keep threads.
    threads: bool,
    samples: Vec<Samples>,
}

/// Objects to be migrated.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Samples {
    behavior: String,
    /// The schema version that they have.
    from: u32,
    objects: Vec<Sample>,
}

/// An object to be migrated.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Sample {
    id: u64,
    /// All its slots, inherited ones too.
    slots: Bytes<'static>,
    /// The names of those that are not its behaviour's, but an ancestor's: no migration takes them away, unless the candidate
    /// has such slots itself.
    others: Vec<String>,
}

/// What a child answers.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    refused: Option<Refused>,
    samples: u64,
    warnings: Vec<String>,
}

/// See [`ProbeFailure::Refused`].
#[derive(Serialize, Deserialize, Debug)]
struct Refused {
    stage: String,
    reason: String,
}

/// The files that were in force in this process, and need not be tried again.
pub struct Known {
    /// A lock because the swapper is shared.
    digests: Mutex<BTreeSet<Digest>>,
}

impl Known {
    /// Those in force at the start.
    pub fn new(digests: impl IntoIterator<Item = Digest>) -> Known {
        Known { digests: Mutex::new(digests.into_iter().collect()) }
    }

    pub(super) fn add(&self, digests: impl IntoIterator<Item = Digest>) {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).extend(digests);
    }

    fn has(&self, digest: Digest) -> bool {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }
}

/// Tries each candidate in a child of its own.
pub(super) fn probe(swapper: &Swapper, candidates: &[Candidate], plan: &Plan) -> Result<Vec<Probed>, SwapError> {
    let mut probed = Vec::new();
    for candidate in candidates {
        let digest = candidate.inspection.digest;
        let change = plan.changes.iter().find(|change| change.to == digest);
        let tried = match change {
            Some(change) if !swapper.known.has(digest) => {
                let tried = probe_one(swapper, candidate, change);
                let path = || candidate.path.clone();
                Some(tried.map_err(|failure| SwapError::Probe { path: path(), failure: Box::new(failure) })?)
            }
            _ => None,
        };
        probed.push(Probed { plugin: candidate.inspection.manifest.name.clone(), tried });
    }
    Ok(probed)
}

fn probe_one(swapper: &Swapper, candidate: &Candidate, change: &Change) -> Result<Tried, ProbeFailure> {
    let settings = &swapper.settings;
    let task = Task {
        origin: candidate.path.to_string_lossy().into_owned(),
        threads: candidate.inspection.capabilities.contains(&Capability::Threads),
        samples: samples::pick(&swapper.engine, &change.migrations, settings.probe_samples),
    };
    let mut child = confined::spawn(settings, candidate.staged.length())?;
    let request = confined::Task::Probe(task).encode();
    let fault = |fault: Fault| {
        let stage = if fault.doing.is_empty() { "start".to_owned() } else { fault.doing.clone() };
        ProbeFailure::Fault { stage, fault }
    };
    // The file is all that a child may need; what a plugin asks for in its place, it gets, too.
    let mut serve = |_: &[u8]| candidate.staged.bytes().to_vec();
    let answer = child.ask(&request, &mut serve, confined::deadline(settings)).map_err(fault)?;
    let report = theseus_value::from_slice::<Report>(&answer);
    let report = report.map_err(|error| fault(Fault::garbled(error.to_string())))?;
    if let Some(Refused { stage, reason }) = report.refused {
        return Err(ProbeFailure::Refused { stage, reason });
    }
    for warning in &report.warnings {
        log::warn!("{} {}: {warning}", change.name, change.version);
    }
    let (confined, missing) = (child.confinement().confined.clone(), child.confinement().missing.clone());
    Ok(Tried { confined, missing, samples: report.samples, warnings: report.warnings })
}
