//! The set of plugins in force.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_abi::MethodKind;

use super::Faults;
use crate::{
    identity::sort_generations,
    plugin::{Behavior, Generation},
};

/// The generations that execute messages, one per plugin name. Immutable: a swap makes another set.
///
/// Each set keeps its generations loaded; a generation is unloaded when the last set that has it is gone.
#[derive(Default)]
pub struct PluginSet {
    generations: BTreeMap<Arc<str>, Arc<Generation>>,
    /// Where each behaviour is: its generation and its place there.
    behaviors: FxHashMap<Arc<str>, (Arc<Generation>, usize)>,
    /// The kinds that methods of a name have, over all behaviours.
    methods: FxHashMap<Box<str>, MethodKinds>,
    record: Arc<[(String, [u8; 32])]>,
    /// What goes wrong in the generations, of this set and of those before and after it.
    faults: Arc<Faults>,
}

/// Which kinds of method a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MethodKinds {
    /// Some behaviour has a command of this name.
    pub command: bool,
    /// Some behaviour has a query of this name.
    pub query: bool,
}

/// Two plugins provide the same behaviour.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the behaviour `{behavior}` is provided by `{first}` and by `{second}`: one of the two has to be renamed")]
pub struct BehaviorConflict {
    /// The behaviour.
    pub behavior: String,
    /// One plugin.
    pub first: String,
    /// The other plugin.
    pub second: String,
}

impl PluginSet {
    /// This set with some generations added or put in the place of others of their name.
    ///
    /// # Errors
    ///
    /// If two plugins would provide the same behaviour.
    pub fn with(&self, next: &[Arc<Generation>]) -> Result<PluginSet, BehaviorConflict> {
        let mut generations = self.generations.clone();
        for generation in next {
            generations.insert(generation.name().clone(), generation.clone());
        }
        let mut behaviors: FxHashMap<Arc<str>, (Arc<Generation>, usize)> = FxHashMap::default();
        let mut methods: FxHashMap<Box<str>, MethodKinds> = FxHashMap::default();
        for generation in generations.values() {
            for (place, behavior) in generation.behaviors().iter().enumerate() {
                let name = behavior.name();
                if let Some((other, _)) = behaviors.insert(name.clone(), (generation.clone(), place)) {
                    let (first, second) = (other.name().to_string(), generation.name().to_string());
                    return Err(BehaviorConflict { behavior: name.to_string(), first, second });
                }
                for method in &behavior.description().methods {
                    let kinds = methods.entry(method.name.as_str().into()).or_default();
                    match method.kind {
                        MethodKind::Command => kinds.command = true,
                        MethodKind::Query => kinds.query = true,
                    }
                }
            }
        }
        let mut record: Vec<_> = generations
            .values()
            .map(|generation| (generation.name().to_string(), *generation.digest().as_bytes()))
            .collect();
        sort_generations(&mut record);
        Ok(PluginSet { generations, behaviors, methods, record: record.into(), faults: self.faults.clone() })
    }

    /// A behaviour by name.
    #[inline]
    pub fn behavior(&self, name: &str) -> Option<&Behavior> {
        self.behaviors.get(name).map(|(generation, place)| &generation.behaviors()[*place])
    }

    /// The names of all behaviours, sorted.
    pub fn behavior_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.behaviors.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    /// Which kinds of method a name stands for.
    pub fn method_kinds(&self, name: &str) -> MethodKinds {
        self.methods.get(name).copied().unwrap_or_default()
    }

    /// A plugin by name.
    pub fn plugin(&self, name: &str) -> Option<&Arc<Generation>> {
        self.generations.get(name)
    }

    /// The plugins in the order of their names.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<Generation>> {
        self.generations.values()
    }

    /// The generation that provides a behaviour.
    pub fn provider(&self, behavior: &str) -> Option<&Arc<Generation>> {
        self.behaviors.get(behavior).map(|(generation, _)| generation)
    }

    /// What goes wrong in the generations.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// The set as the history records it.
    pub fn record(&self) -> &Arc<[(String, [u8; 32])]> {
        &self.record
    }
}
