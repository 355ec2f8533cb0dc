//! The set of plugins in force.

use std::{collections::BTreeMap, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_abi::MethodKind;
use theseus_value::{DecodeError, raw::MapView};

use super::{
    Faults, Misses,
    schemas::{Schemas, Way},
};
use crate::{
    identity::{Census, ObjectRecord, sort_generations},
    plugin::{Behavior, Generation},
};

/// What follows a plugin's name where the record of a set names its fallback.
const FALLBACK: &str = "/fallback";

/// The generations that execute messages, one per plugin name. Immutable: a swap makes another set.
///
/// Each set keeps its generations loaded; a generation is unloaded when the last set that has it is gone.
#[derive(Default)]
pub struct PluginSet {
    generations: BTreeMap<Arc<str>, Arc<Generation>>,
    /// The fallbacks, at most one per plugin: newer generations that older ones replaced, and that alone can turn what they
    /// wrote into something that the older ones read.
    fallbacks: BTreeMap<Arc<str>, Arc<Generation>>,
    /// Where each behaviour is: its generation and its place there.
    behaviors: FxHashMap<Arc<str>, (Arc<Generation>, usize)>,
    /// The kinds that methods of a name have, over all behaviours.
    methods: FxHashMap<Box<str>, MethodKinds>,
    record: Arc<[(String, [u8; 32])]>,
    /// What goes wrong in the generations, of this set and of those before and after it.
    faults: Arc<Faults>,
    /// The messages that nobody understood, of this set and of those before and after it.
    misses: Arc<Misses>,
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

/// Objects of a behaviour in force that have another schema than it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behind {
    /// The behaviour.
    pub behavior: Arc<str>,
    /// The plugin in force that provides it.
    pub plugin: Arc<str>,
    /// The schema version of the objects.
    pub from: u32,
    /// The schema version of the behaviour.
    pub to: u32,
    /// How many they are.
    pub objects: u64,
    /// Who can bring them there; none if nobody can.
    pub way: Option<Way>,
}

impl PluginSet {
    /// This set with some generations added or put in the place of others of their name. Fallbacks of those that were replaced
    /// go with them.
    ///
    /// # Errors
    ///
    /// If two plugins would provide the same behaviour.
    pub fn with(&self, next: &[Arc<Generation>]) -> Result<PluginSet, BehaviorConflict> {
        let (mut generations, mut fallbacks) = (self.generations.clone(), self.fallbacks.clone());
        for generation in next {
            generations.insert(generation.name().clone(), generation.clone());
            fallbacks.remove(generation.name());
        }
        PluginSet::of(generations, fallbacks, (self.faults.clone(), self.misses.clone()))
    }

    /// This set without some plugins, and without their fallbacks.
    #[must_use]
    pub fn without(&self, removed: &[Arc<str>]) -> PluginSet {
        let (mut generations, mut fallbacks) = (self.generations.clone(), self.fallbacks.clone());
        generations.retain(|name, _| !removed.contains(name));
        fallbacks.retain(|name, _| !removed.contains(name));
        let set = PluginSet::of(generations, fallbacks, (self.faults.clone(), self.misses.clone()));
        set.expect("where no two plugins conflict, fewer of them do not")
    }

    fn of(
        generations: BTreeMap<Arc<str>, Arc<Generation>>,
        fallbacks: BTreeMap<Arc<str>, Arc<Generation>>,
        (faults, misses): (Arc<Faults>, Arc<Misses>),
    ) -> Result<PluginSet, BehaviorConflict> {
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
        let record = record_of(&generations, &fallbacks);
        Ok(PluginSet { generations, fallbacks, behaviors, methods, record, faults, misses })
    }

    /// This set with exactly these fallbacks, at most one of each plugin.
    #[must_use]
    pub fn with_fallbacks(self, fallbacks: &[Arc<Generation>]) -> PluginSet {
        let by_name = |generation: &Arc<Generation>| (generation.name().clone(), generation.clone());
        let fallbacks = fallbacks.iter().map(by_name).collect();
        PluginSet { record: record_of(&self.generations, &fallbacks), fallbacks, ..self }
    }

    /// Whose generation a name in the [record](Self::record) of a set means, and whether it is that plugin's fallback.
    pub fn recorded_name(name: &str) -> (&str, bool) {
        match name.strip_suffix(FALLBACK) {
            Some(plugin) => (plugin, true),
            None => (name, false),
        }
    }

    /// A behaviour by name.
    #[inline]
    pub fn behavior(&self, name: &str) -> Option<&Behavior> {
        self.behaviors.get(name).map(|(generation, place)| &generation.behaviors()[*place])
    }

    /// The same behaviour as the fallback of its plugin has it.
    pub fn fallback_behavior(&self, name: &str) -> Option<&Behavior> {
        let (generation, _) = self.behaviors.get(name)?;
        self.fallbacks.get(generation.name())?.behavior(name)
    }

    /// Whether the methods of an object know a slot of this name: its behaviour has it, or if no plugin in force provides that, the
    /// object itself.
    ///
    /// # Errors
    ///
    /// If the object's slots are not a whole encoded map.
    pub fn has_slot(&self, object: &ObjectRecord, name: &str) -> Result<bool, DecodeError> {
        match self.behavior(&object.behavior) {
            Some(behavior) => Ok(behavior.has_slot(name)),
            None => Ok(MapView::new(&object.slots)?.get(name)?.is_some()),
        }
    }

    /// How objects of a behaviour come from another schema version into that of the behaviour in force, if they can.
    pub fn way(&self, behavior: &Behavior, schema: u32) -> Option<Way> {
        let fallback = || self.fallback_behavior(behavior.name()).map(Schemas::from);
        let own = Schemas::from(behavior);
        // A fallback is rarely there and rarely needed.
        own.way_from(schema, None).or_else(|| own.way_from(schema, fallback()))
    }

    /// Objects that have another schema than the behaviour in force, by behaviour and schema.
    pub fn behind(&self, census: &Census) -> Vec<Behind> {
        let behind = census.iter().filter_map(|((name, schema), objects)| {
            let (generation, place) = self.behaviors.get(name)?;
            let behavior = &generation.behaviors()[*place];
            (behavior.schema() != *schema).then(|| Behind {
                behavior: name.clone(),
                plugin: generation.name().clone(),
                from: *schema,
                to: behavior.schema(),
                objects: *objects,
                way: self.way(behavior, *schema),
            })
        });
        behind.collect()
    }

    /// The fallbacks that some object still needs.
    pub fn needed_fallbacks(&self, census: &Census) -> Vec<Arc<Generation>> {
        let behind = self.behind(census);
        let is_needed = |plugin: &Arc<str>| {
            behind.iter().any(|it| it.plugin == *plugin && matches!(it.way, Some(Way::Fallback { .. })))
        };
        self.fallbacks.iter().filter(|(plugin, _)| is_needed(plugin)).map(|(_, it)| it.clone()).collect()
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

    /// The messages that nobody understood.
    pub fn misses(&self) -> &Arc<Misses> {
        &self.misses
    }

    /// The fallbacks in the order of their plugins' names.
    pub fn fallbacks(&self) -> impl Iterator<Item = &Arc<Generation>> {
        self.fallbacks.values()
    }

    /// Whether it has this very generation, in force or as a fallback.
    pub fn has(&self, generation: &Arc<Generation>) -> bool {
        self.plugins().chain(self.fallbacks()).any(|other| Arc::ptr_eq(other, generation))
    }

    /// The set as the history records it: the digest of each plugin in force under its name, that of its fallback under
    /// `NAME/fallback`.
    pub fn record(&self) -> &Arc<[(String, [u8; 32])]> {
        &self.record
    }
}

fn record_of(
    generations: &BTreeMap<Arc<str>, Arc<Generation>>,
    fallbacks: &BTreeMap<Arc<str>, Arc<Generation>>,
) -> Arc<[(String, [u8; 32])]> {
    let row = |name: String, generation: &Generation| (name, *generation.digest().as_bytes());
    let in_force = generations.iter().map(|(name, generation)| row(name.to_string(), generation));
    let fallbacks = fallbacks.iter().map(|(name, generation)| row(format!("{name}{FALLBACK}"), generation));
    let mut record: Vec<_> = in_force.chain(fallbacks).collect();
    sort_generations(&mut record);
    record.into()
}
