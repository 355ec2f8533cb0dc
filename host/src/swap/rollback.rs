//! Rollback: a swap in the other direction.
//!
//! It goes the way of a swap - plan, load, commit between two transactions - with the files that were replaced, from the store, and
//! is recorded as `theseus.rollback`. A plugin that the swap had brought in new leaves again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use theseus_value::Value;

use super::{
    Candidate, Change, Installing, Stages, SwapError, Swapped, Swapper, inspections, load,
    memory::{self, Memory, OnProbation},
    sort_providers_first,
};
use crate::{
    exec::{Moment, Refusal, Tally},
    identity::{StorageError, Tid},
    plugin::{self, Digest, FetchError},
};

/// Under which a rollback stands in the history.
pub(super) const ROLLBACK: &str = "theseus.rollback";

/// Why nothing was rolled back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There was no swap since the last rollback.
    #[error(
        "there is no swap to take back: none was done, or the last one was taken back already; to go further back, name the \
         plugin, or swap in the file that is wanted"
    )]
    Nothing,
    /// The plugin was not swapped.
    #[error(
        "there is no swap of `{plugin}` to take back: none was done, or the last one was taken back already; to go further back, \
         swap in the file that is wanted"
    )]
    NothingOf {
        /// The plugin.
        plugin: String,
    },
    /// What was swapped last is not known.
    #[error(transparent)]
    Memory(#[from] StorageError),
    /// The file that was replaced is not there.
    #[error("the file that `{plugin}` had before cannot be had: {source}")]
    Fetch {
        /// The plugin.
        plugin: String,
        /// Why.
        source: FetchError,
    },
    /// It could not be put in force.
    #[error(transparent)]
    Swap(#[from] SwapError),
}

impl RollbackError {
    /// Whether it may work in a moment: the host had too much to do, or what it found has changed since.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            RollbackError::Swap(SwapError::Execute(refusal)) => {
                !matches!(refusal, Refusal::Failed(_) | Refusal::RequestIdReused { .. })
            }
            RollbackError::Swap(SwapError::MigrationInterrupted { passes, .. }) => *passes,
            _ => false,
        }
    }
}

/// One plugin to be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Back {
    /// The plugin.
    pub plugin: String,
    /// The file in force.
    pub from: Digest,
    /// The file to go back to; none if the plugin was new.
    pub to: Option<Digest>,
}

/// A swap that is taken back, whole or in part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TakenBack {
    /// Its transaction.
    pub swap: Tid,
    /// The plugins.
    pub backs: Vec<Back>,
}

/// Why plugins are taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    /// Who or what it is, in a word: `operator`, `errors` or `crashes`.
    pub what: &'static str,
    /// For people.
    pub reason: String,
    /// The transaction of the swap that is taken back.
    pub swap: Tid,
    /// The plugins whose files are not to be taken again.
    pub quarantine: BTreeSet<String>,
    /// What went wrong, by plugin.
    pub errors: BTreeMap<String, Vec<Tally>>,
}

impl Back {
    /// What taking back a plugin on probation means.
    pub(super) fn of(plugin: &str, probation: &OnProbation) -> Back {
        Back { plugin: plugin.to_owned(), from: probation.to, to: probation.from }
    }
}

/// What `theseus rollback` takes back: the last swap of one plugin, or all plugins of the last swap, if no rollback came after it.
fn last_swap(memory: &Memory, plugin: Option<&str>) -> Result<TakenBack, RollbackError> {
    let back = |(plugin, it): (&String, &memory::Previous)| Back { plugin: plugin.clone(), from: it.to, to: it.from };
    if let Some(plugin) = plugin {
        let found = memory.previous.get_key_value(plugin);
        let found = found.ok_or_else(|| RollbackError::NothingOf { plugin: plugin.to_owned() })?;
        return Ok(TakenBack { swap: found.1.tid, backs: vec![back(found)] });
    }
    let swap = memory.previous.values().map(|it| it.tid).max();
    let swap = swap.filter(|swap| Some(*swap) > memory.rolled_back).ok_or(RollbackError::Nothing)?;
    Ok(TakenBack { swap, backs: memory.previous.iter().filter(|(_, it)| it.tid == swap).map(back).collect() })
}

impl Swapper {
    /// Takes back the last swap of one plugin, or of all plugins that were swapped last.
    ///
    /// # Errors
    ///
    /// If there is none, or if what was replaced cannot be put in force again. Nothing has changed then.
    pub fn rollback(&self, plugin: Option<&str>) -> Result<(TakenBack, Swapped), RollbackError> {
        let memory = Memory::read(self.engine.identity())?;
        let TakenBack { swap, backs } = last_swap(&memory, plugin)?;
        let reason = "an operator asked for it".to_owned();
        let cause = Cause { what: "operator", reason, swap, quarantine: BTreeSet::new(), errors: BTreeMap::new() };
        let swapped = self.take_back(&backs, &cause)?;
        Ok((TakenBack { swap, backs }, swapped))
    }

    /// Puts in force again what a swap replaced.
    ///
    /// # Errors
    ///
    /// If that cannot be. Nothing has changed then.
    pub fn take_back(&self, backs: &[Back], cause: &Cause) -> Result<Swapped, RollbackError> {
        let mut stages = Stages::begin();
        let mut candidates = Vec::new();
        for back in backs {
            let Some(digest) = back.to else { continue };
            candidates.push(self.candidate_from_store(&back.plugin, digest)?);
        }
        sort_providers_first(&mut candidates, |candidate| &candidate.inspection);
        stages.end("inspect");
        let removed = backs.iter().filter(|back| back.to.is_none()).map(|back| Arc::from(&*back.plugin)).collect();
        let swapped = self.install_back(candidates, removed, backs, cause, stages)?;
        self.probation.rollbacks.fetch_add(1, Ordering::Relaxed);
        for back in backs {
            self.engine.plugins().faults().unwatch(back.from);
        }
        Ok(swapped)
    }

    fn install_back(
        &self,
        candidates: Vec<Candidate>,
        removed: Vec<Arc<str>>,
        backs: &[Back],
        cause: &Cause,
        mut stages: Stages,
    ) -> Result<Swapped, SwapError> {
        let foreseen = self.plan(&candidates, &removed)?;
        if !foreseen.problems.is_empty() {
            return Err(SwapError::Plan { problems: foreseen.problems });
        }
        self.keeps_fallbacks(&foreseen)?;
        stages.end("plan");
        if foreseen.changes.iter().any(Change::waits_for_migration) {
            self.finish_present(&foreseen)?;
            stages.end("finish_migration");
        }
        let offers = inspections(&candidates);
        let generations = load(candidates, &self.retirement)?;
        stages.end("load");
        let note = note(backs, cause);
        let remember = memory::remember(rolled_back(backs.to_vec(), cause.clone()));
        let done = self.commit(Installing {
            what: ROLLBACK,
            offers,
            generations,
            removed,
            irreversible: true,
            note,
            remember,
        })?;
        stages.end("commit");
        Ok(Swapped {
            plan: foreseen,
            done: Some(done),
            rehearsal: None,
            probed: Vec::new(),
            left: Ok(Vec::new()),
            stages_us: stages.us,
        })
    }

    /// A file that was in force before.
    fn candidate_from_store(&self, plugin: &str, digest: Digest) -> Result<Candidate, RollbackError> {
        let path = self.store.path(digest);
        let staged = self.store.fetch(digest);
        let staged = staged.map_err(|source| RollbackError::Fetch { plugin: plugin.to_owned(), source })?;
        match plugin::inspect_staged(&staged) {
            Ok(mut inspection) => {
                // As at a start: if the settings have become stricter since it was granted what it asks for, it works without.
                inspection.capabilities.retain(|capability| self.settings.capabilities.contains(capability));
                Ok(Candidate { path, inspection, staged })
            }
            Err(refusal) => Err(SwapError::Inspect { path, refusal }.into()),
        }
    }
}

/// What the host remembers of a rollback.
pub(super) fn rolled_back(backs: Vec<Back>, cause: Cause) -> impl FnOnce(&mut Memory, &Moment<'_>) + Send + 'static {
    move |memory, moment| {
        let plugins: Vec<String> = backs.iter().map(|back| back.plugin.clone()).collect();
        let blamed = backs.iter().filter(|back| cause.quarantine.contains(&back.plugin));
        let quarantined: Vec<_> = blamed.map(|it| (it.plugin.clone(), it.from, cause.reason.clone())).collect();
        memory.rolled_back(moment, &plugins, &quarantined);
    }
}

/// How a rollback stands in the history.
pub(super) fn note(backs: &[Back], cause: &Cause) -> Vec<u8> {
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let text = |text: &dyn std::fmt::Display| Value::Text(text.to_string());
    let plugins = backs.iter().map(|back| {
        let to = back.to.map_or(Value::Null, |to| text(&to));
        let quarantined = Value::Bool(cause.quarantine.contains(&back.plugin));
        (back.plugin.clone(), map(vec![("from", text(&back.from)), ("to", to), ("quarantined", quarantined)]))
    });
    let error = |tally: &Tally| {
        let count = Value::Int(tally.count.into());
        map(vec![("what", text(&tally.fault)), ("count", count), ("first", text(&tally.first))])
    };
    let errors = cause
        .errors
        .iter()
        .map(|(plugin, tallies)| (plugin.clone(), Value::Array(tallies.iter().map(error).collect())));
    let entries = vec![
        ("cause", text(&cause.what)),
        ("reason", text(&cause.reason)),
        ("swap", Value::Int(cause.swap.0.into())),
        ("plugins", Value::Map(plugins.collect())),
        ("errors", Value::Map(errors.collect())),
    ];
    map(entries).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    #[test]
    fn the_last_swap_is_taken_back_whole_or_one_plugin_of_any() {
        let mut memory = Memory::default();
        let at = |tid| Moment { tid: Tid(tid), time_us: 0, remembered: &[] };
        assert!(matches!(last_swap(&memory, None), Err(RollbackError::Nothing)));
        memory.swapped(&at(3), &[("ledger".into(), Some(digest(7)), digest(8))], None);
        let set = [("counter".into(), Some(digest(1)), digest(2)), ("flights".into(), None, digest(4))];
        memory.swapped(&at(5), &set, None);
        let names = |plugin| {
            let TakenBack { swap, backs } = last_swap(&memory, plugin).unwrap();
            (swap.0, backs.into_iter().map(|back| (back.plugin, back.from, back.to)).collect::<Vec<_>>())
        };
        let [counter, flights] =
            [("counter".to_owned(), digest(2), Some(digest(1))), ("flights".to_owned(), digest(4), None)];
        assert_eq!(names(None), (5, vec![counter.clone(), flights]));
        assert_eq!(names(Some("counter")), (5, vec![counter]));
        assert_eq!(names(Some("ledger")), (3, vec![("ledger".to_owned(), digest(8), Some(digest(7)))]));
        memory.rolled_back(&at(6), &["counter".into()], &[]);
        assert!(matches!(last_swap(&memory, None), Err(RollbackError::Nothing)));
        assert_eq!(last_swap(&memory, Some("ledger")).unwrap().swap, Tid(3));
        let missing = last_swap(&memory, Some("other"));
        assert!(matches!(missing, Err(RollbackError::NothingOf { plugin }) if plugin == "other"));
    }
}
