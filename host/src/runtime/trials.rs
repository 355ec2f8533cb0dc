//! What became and becomes of swaps, as operators see it: on probation, failed, in quarantine.

use super::action::{FailedView, FaultView, ProbationView, QuarantineView, TrialsView};
use crate::{
    config,
    exec::{Faults, Tally},
    swap::{Memory, OnProbation},
};

/// What the host remembers of swaps; `faults` are what a running one has counted.
pub(super) fn view(memory: &Memory, settings: &config::Plugins, faults: Option<&Faults>) -> TrialsView {
    let probation = |(plugin, it): (&String, &OnProbation)| {
        let tallies = faults.and_then(|faults| faults.tallies(it.to)).unwrap_or_default();
        ProbationView {
            plugin: plugin.clone(),
            digest: it.to.to_string(),
            swap: it.tid.0,
            until_us: it.until_us,
            errors: tallies.iter().map(|tally| tally.count).sum(),
            errors_max: settings.probation_errors_max,
            crashes: it.crashes,
            crashes_max: settings.probation_crashes_max,
            faults: tallies.iter().map(fault).collect(),
        }
    };
    let failed = memory.failed.iter().map(|(plugin, it)| FailedView {
        plugin: plugin.clone(),
        digest: it.to.to_string(),
        swap: it.tid.0,
        reason: it.reason.clone(),
    });
    let quarantine = memory.quarantine.iter().map(|(digest, it)| QuarantineView {
        plugin: it.plugin.clone(),
        digest: digest.clone(),
        tid: it.tid.0,
        time_us: it.time_us,
        reason: it.reason.clone(),
    });
    TrialsView {
        probation: memory.probation.iter().map(probation).collect(),
        failed: failed.collect(),
        quarantine: quarantine.collect(),
    }
}

fn fault(tally: &Tally) -> FaultView {
    FaultView { what: tally.fault.to_string(), count: tally.count, first: tally.first.clone() }
}
