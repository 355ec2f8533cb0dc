//! What a set of plugin files would change, and why it may not.

use std::{collections::BTreeMap, sync::Arc};

use theseus_abi::BehaviorManifest;

use super::dependencies::Members;
use crate::{
    exec::{PluginSet, Schemas, Way},
    identity::{Census, Tid},
    plugin::{Behavior, Digest, Generation, Inspection},
};

/// What a swap would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The plugins that would be brought in or replaced; those already in force are left out.
    ///
    /// In the order in which they are loaded: each after those that it requires.
    pub changes: Vec<Change>,
    /// The plugins in force that would stay as they are: name and version.
    pub stays: Vec<(String, String)>,
    /// Why it may not be done; empty if it may.
    pub problems: Vec<Problem>,
}

/// What would happen to one plugin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The plugin's name.
    pub name: String,
    /// The file in force now.
    pub from: Option<Digest>,
    /// The file that would be.
    pub to: Digest,
    /// Its version, for people.
    pub version: String,
    /// The behaviours whose objects would migrate.
    pub migrations: Vec<Migration>,
    /// Whether every migrated object could come back, were the present plugin put in force again.
    pub reversible: bool,
}

impl Change {
    /// Whether the present plugin has objects to migrate before it can be replaced.
    pub fn waits_for_migration(&self) -> bool {
        self.migrations.iter().any(|migration| migration.by == MigratedBy::PresentFirst)
    }

    /// Whether the present plugin would stay loaded, because it alone can turn back what it wrote.
    pub fn keeps_fallback(&self) -> bool {
        self.migrations.iter().any(|migration| migration.by == MigratedBy::Fallback)
    }
}

/// Objects that would migrate, each at its first touch or in the background.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migration {
    /// Their behaviour.
    pub behavior: String,
    /// The schema version they have.
    pub from: u32,
    /// The schema version they would get.
    pub to: u32,
    /// How many they are.
    pub objects: u64,
    /// Who would migrate them.
    pub by: MigratedBy,
}

/// Who migrates objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigratedBy {
    /// The offered plugin: it reads their schema.
    Offered,
    /// The present plugin, which would stay loaded for that: it writes a schema that the offered one reads.
    Fallback,
    /// The present plugin, before it is replaced: the offered one reads only what it makes of them.
    PresentFirst,
}

/// Why a swap may not be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// Two files of one plugin.
    #[error("the plugin `{plugin}` is offered twice: give one file of it")]
    OfferedTwice {
        /// The plugin.
        plugin: String,
    },
    /// A behaviour would come from two plugins.
    #[error("the behaviour `{behavior}` would come from `{first}` and from `{second}`: rename it in one of them")]
    TwoProviders {
        /// The behaviour.
        behavior: String,
        /// One plugin.
        first: String,
        /// The other.
        second: String,
    },
    /// A plugin could not do without a behaviour that is not there.
    #[error(
        "`{plugin}` requires `{behavior}` ({range}), which no plugin would provide: add the file of one that does to the set"
    )]
    NotProvided {
        /// The plugin that requires it.
        plugin: String,
        /// The behaviour.
        behavior: String,
        /// Which versions of the plugin that provides it will do.
        range: String,
    },
    /// An offered plugin requires another version of one that would be there.
    #[error(
        "`{plugin}` requires `{behavior}` of `{provider}` {range}, but that would have version {version}: add a file of `{provider}` \
         in that range to the set"
    )]
    WrongVersion {
        /// The plugin that requires it.
        plugin: String,
        /// The behaviour.
        behavior: String,
        /// Which versions of the provider will do.
        range: String,
        /// The plugin that would provide it.
        provider: String,
        /// Its version.
        version: String,
    },
    /// A plugin in force requires another version of one that is offered.
    #[error(
        "`{plugin}` is in force and requires `{behavior}` of `{provider}` {range}, but version {version} is offered: add a file of \
         `{plugin}` to the set that works with it"
    )]
    BreaksDependent {
        /// The plugin that requires it.
        plugin: String,
        /// The behaviour.
        behavior: String,
        /// Which versions of the provider will do.
        range: String,
        /// The plugin that would provide it.
        provider: String,
        /// Its version.
        version: String,
    },
    /// Plugins require each other, so none of them can be loaded first.
    #[error("{} requires the first again: plugins cannot require each other in a circle", plugins.join(" requires "))]
    Circle {
        /// The plugins: each requires the next, and the last the first.
        plugins: Vec<String>,
    },
    /// Objects would be left without their behaviour.
    #[error(
        "`{plugin}` would no longer provide `{behavior}`, but {objects} objects have it: keep it, or delete them first"
    )]
    Orphans {
        /// The plugin.
        plugin: String,
        /// The behaviour.
        behavior: String,
        /// How many objects have it.
        objects: u64,
    },
    /// The file was taken back before.
    #[error(
        "this file of `{plugin}` is in quarantine since transaction {tid}: {reason}; mend it and build it again, or insist with \
         --quarantined"
    )]
    Quarantined {
        /// The plugin.
        plugin: String,
        /// The transaction that took it back.
        tid: Tid,
        /// When that was, in microseconds since the Unix epoch.
        time_us: u64,
        /// Why.
        reason: String,
    },
    /// Objects could not be read any more.
    #[error(
        "{objects} objects of `{behavior}` have schema version {found}, which the new plugin (version {schema}) does not read, and \
         the present one does not write one that it does: give the newer of the two a #[migrate]"
    )]
    Unreadable {
        /// The behaviour.
        behavior: String,
        /// The schema version of the objects.
        found: u32,
        /// The schema version of the new plugin.
        schema: u32,
        /// How many objects.
        objects: u64,
    },
}

/// Compares what is offered with what is in force and with the objects there are.
pub fn plan(plugins: &PluginSet, census: &Census, offers: &[Inspection]) -> Plan {
    let mut plan = Plan::default();
    let mut seen = BTreeMap::new();
    for offer in offers {
        let manifest = &offer.manifest;
        let from = plugins.plugin(&manifest.name).map(|generation| generation.digest());
        if seen.insert(&manifest.name, offer).is_some() {
            plan.problems.push(Problem::OfferedTwice { plugin: manifest.name.clone() });
            continue;
        }
        if from == Some(offer.digest) {
            continue;
        }
        let (migrations, problems) = migrations(plugins, census, offer);
        plan.problems.extend(problems);
        plan.problems.extend(orphans(plugins, census, offer, offers));
        let reversible = migrations.iter().all(|migration| {
            let behavior = manifest.behaviors.iter().find(|behavior| behavior.name == migration.behavior);
            behavior.is_some_and(|behavior| can_return(plugins, behavior, migration.from))
        });
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        plan.changes.push(Change { name, from, to: offer.digest, version, migrations, reversible });
    }
    plan.problems.extend(double_providers(plugins, &seen));
    let members = Members::of(plugins.plugins().map(|generation| generation.inspection()), seen.values().copied());
    plan.problems.extend(members.unmet());
    match members.arrange() {
        Ok(order) => plan.changes.sort_by_key(|change| order.iter().position(|name| *name == change.name)),
        Err(plugins) => plan.problems.push(Problem::Circle { plugins }),
    }
    let changes = |it: &&Arc<Generation>| plan.changes.iter().any(|change| *change.name == **it.name());
    let stays = plugins.plugins().filter(|it| !changes(it));
    plan.stays = stays.map(|it| (it.name().to_string(), it.version().to_owned())).collect();
    plan
}

/// The same if some plugins leave without another in their place.
pub(super) fn plan_with_removal(
    plugins: &PluginSet,
    census: &Census,
    offers: &[Inspection],
    removed: &[Arc<str>],
) -> Plan {
    if removed.is_empty() {
        return plan(plugins, census, offers);
    }
    let mut plan = plan(&plugins.without(removed), census, offers);
    for generation in removed.iter().filter_map(|name| plugins.plugin(name)) {
        plan.problems.extend(left_alone(generation, census, offers));
    }
    plan
}

fn migrations(plugins: &PluginSet, census: &Census, offer: &Inspection) -> (Vec<Migration>, Vec<Problem>) {
    let (mut migrations, mut problems) = (Vec::new(), Vec::new());
    // Only a generation of the same plugin can stay as its fallback.
    let replaced = plugins.plugin(&offer.manifest.name);
    for behavior in &offer.manifest.behaviors {
        let (name, offered): (Arc<str>, _) = (behavior.name.as_str().into(), Schemas::from(behavior));
        let fallback = replaced.and_then(|replaced| replaced.behavior(&name)).map(Schemas::from);
        for ((_, found), objects) in census.range((name.clone(), 0)..=(name.clone(), u32::MAX)) {
            let (found, objects) = (*found, *objects);
            if found == offered.own {
                continue;
            }
            let by = match offered.way_from(found, fallback) {
                Some(Way::Reads) => Some(MigratedBy::Offered),
                Some(Way::Fallback { .. }) => Some(MigratedBy::Fallback),
                None => plugins
                    .behavior(&name)
                    .is_some_and(|present| bridges(plugins, present, found, offered, fallback))
                    .then_some(MigratedBy::PresentFirst),
            };
            let (behavior, schema) = (behavior.name.clone(), offered.own);
            match by {
                Some(by) => migrations.push(Migration { behavior, from: found, to: schema, objects, by }),
                None => problems.push(Problem::Unreadable { behavior, found, schema, objects }),
            }
        }
    }
    (migrations, problems)
}

/// Whether what is in force turns objects of schema `found` into what the offered plugin can work with.
fn bridges(
    plugins: &PluginSet,
    present: &Behavior,
    found: u32,
    offered: Schemas<'_>,
    fallback: Option<Schemas<'_>>,
) -> bool {
    plugins.way(present, found).is_some() && offered.way_from(present.schema(), fallback).is_some()
}

/// Whether objects of schema `from` could come back from what the offered behaviour makes of them.
fn can_return(plugins: &PluginSet, offered: &BehaviorManifest, from: u32) -> bool {
    match plugins.behavior(&offered.name) {
        Some(present) => Schemas::from(present).can_return_from(offered.into()),
        None => offered.writes.contains(&from),
    }
}

/// The fallbacks of the set as it would be with these generations in force, as far as objects need them.
pub(super) fn fallbacks(plugins: &PluginSet, census: &Census, next: &[Arc<Generation>]) -> Vec<Arc<Generation>> {
    let is_replaced = |name: &str| next.iter().any(|generation| &**generation.name() == name);
    let stay = plugins.fallbacks().filter(|fallback| !is_replaced(fallback.name())).cloned();
    let replaced = next.iter().filter_map(|generation| plugins.plugin(generation.name()).cloned());
    let candidates: Vec<_> = stay.chain(replaced).collect();
    // A set that conflicts is refused anyway.
    plugins.with(next).map(|set| set.with_fallbacks(&candidates).needed_fallbacks(census)).unwrap_or_default()
}

/// The behaviours that the plugin in force provides, nobody offered does, and objects have.
fn orphans(plugins: &PluginSet, census: &Census, offer: &Inspection, offers: &[Inspection]) -> Vec<Problem> {
    plugins.plugin(&offer.manifest.name).map_or_else(Vec::new, |present| left_alone(present, census, offers))
}

/// The behaviours of a plugin that leaves, which nobody offered provides, and objects have.
fn left_alone(leaving: &Generation, census: &Census, offers: &[Inspection]) -> Vec<Problem> {
    let gone = leaving.behaviors().iter().map(|behavior| behavior.name());
    let offered = |name: &str| offers.iter().any(|offer| offer.manifest.behaviors.iter().any(|it| it.name == name));
    gone.filter(|name| !offered(name))
        .filter_map(|name| {
            let objects = census.range((name.clone(), 0)..=(name.clone(), u32::MAX)).map(|(_, objects)| objects).sum();
            let (plugin, behavior) = (leaving.name().to_string(), name.to_string());
            (objects > 0).then_some(Problem::Orphans { plugin, behavior, objects })
        })
        .collect()
}

/// The behaviours that two plugins would provide.
fn double_providers(plugins: &PluginSet, offers: &BTreeMap<&String, &Inspection>) -> Vec<Problem> {
    let mut providers: BTreeMap<&str, &str> = BTreeMap::new();
    let kept = plugins.plugins().filter(|generation| offers.keys().all(|name| ***name != **generation.name()));
    let kept = kept.flat_map(|generation| generation.behaviors().iter().map(|it| (&**it.name(), &**generation.name())));
    let offered = offers.values().flat_map(|offer| {
        offer.manifest.behaviors.iter().map(|behavior| (behavior.name.as_str(), offer.manifest.name.as_str()))
    });
    let mut problems = Vec::new();
    for (behavior, plugin) in kept.chain(offered) {
        if let Some(first) = providers.insert(behavior, plugin)
            && first != plugin
        {
            let (first, second) = (first.to_owned(), plugin.to_owned());
            problems.push(Problem::TwoProviders { behavior: behavior.to_owned(), first, second });
        }
    }
    problems
}
