//! The rehearsal as a stage of a swap, and by itself.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{Class, Rehearsal, RehearsalError, Report, Told};
use crate::{
    plugin::Generation,
    sandbox::{Limits, Program},
    swap::{Candidate, SwapError, Swapper, confined, examine, plan::Plan},
};

impl Swapper {
    /// Executes the last `last` recorded transactions that concern these files again with them. Changes nothing.
    ///
    /// # Errors
    ///
    /// If a file is not acceptable or does not fit, or if the rehearsal cannot be done.
    pub fn rehearse(&self, paths: &[PathBuf], last: u64, told: Told) -> Result<Report, SwapError> {
        let candidates = examine(paths, self.policy())?;
        let plan = self.plan(&candidates, &[])?;
        if !plan.problems.is_empty() {
            return Err(SwapError::Plan { problems: plan.problems });
        }
        self.rehearse_candidates(&candidates, &plan, last, told)
    }

    /// Refuses candidates that fail where the record did not.
    pub(in crate::swap) fn rehearse_before(
        &self,
        candidates: &[Candidate],
        plan: &Plan,
        last: u64,
    ) -> Result<Report, SwapError> {
        let report = self.rehearse_candidates(candidates, plan, last, Told::First)?;
        if report.count(Class::Error) > 0 {
            return Err(SwapError::Rehearsed { report: Box::new(report) });
        }
        Ok(report)
    }

    fn rehearse_candidates(
        &self,
        candidates: &[Candidate],
        plan: &Plan,
        last: u64,
        told: Told,
    ) -> Result<Report, SwapError> {
        let changes = |candidate: &&Candidate| plan.changes.iter().any(|it| it.to == candidate.inspection.digest);
        let candidates: Vec<&Candidate> = candidates.iter().filter(changes).collect();
        let plugins = self.engine.plugins();
        let mut behaviors: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut offered = Vec::new();
        for candidate in candidates {
            let manifest = &candidate.inspection.manifest;
            behaviors.extend(manifest.behaviors.iter().map(|behavior| Arc::from(behavior.name.as_str())));
            let replaced = plugins.plugin(&manifest.name).into_iter().flat_map(|generation| generation.behaviors());
            behaviors.extend(replaced.map(|behavior| behavior.name().clone()));
            offered.push((candidate.path.clone(), candidate.staged.bytes().to_vec()));
        }
        let in_force: Vec<_> = plugins.plugins().map(|it| self.file(it)).collect::<Result<_, _>>()?;
        let fallbacks: Vec<_> = plugins.fallbacks().map(|it| self.file(it)).collect::<Result<_, _>>()?;
        // A rehearsal takes its time, and a generation that is replaced meanwhile does not wait for it.
        drop(plugins);
        let engine = self.engine.clone();
        let rehearsal = Rehearsal {
            identity: self.engine.identity().clone(),
            go_on: Box::new(move || !engine.is_stopping()),
            limits: self.limits(in_force.iter().chain(&fallbacks).chain(&offered).map(|(_, bytes)| bytes.len() as u64)),
            in_force,
            fallbacks,
            offered,
            behaviors,
            execution: self.execution.clone(),
            program: Program::this(&[confined::COMMAND]).map_err(|error| RehearsalError::Spawn(error.into()))?,
            last,
            transactions_max: self.settings.rehearsal_transactions_max,
            ms_max: self.settings.rehearsal_ms_max,
            told,
            differences_max: self.settings.rehearsal_differences_max,
        };
        Ok(rehearsal.run()?)
    }

    /// The file of a generation, from the store.
    fn file(&self, generation: &Generation) -> Result<(PathBuf, Vec<u8>), RehearsalError> {
        let staged = self.store.fetch(generation.digest())?;
        Ok((generation.origin().to_owned(), staged.bytes().to_vec()))
    }

    /// What the process may use: more than one in which a plugin is probed, for as many files as it loads.
    fn limits(&self, files: impl Iterator<Item = u64> + Clone) -> Limits {
        let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        Limits {
            memory_bytes: self.settings.probe_memory_bytes_max + 4 * files.clone().sum::<u64>(),
            output_bytes: self.settings.probe_output_bytes_max,
            file_bytes: files.max().unwrap_or_default(),
            processor_s: (self.settings.rehearsal_ms_max / 1000 + 1) * processors,
        }
    }
}
