//! What a set of plugin files would change, and why it may not.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    exec::PluginSet,
    identity::Census,
    plugin::{Digest, Inspection},
};

/// What a swap would do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The plugins that would be brought in or replaced; those already in force are left out.
    pub changes: Vec<Change>,
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
    /// Whether the new plugin can turn every migrated object back.
    pub reversible: bool,
}

/// Objects that would migrate, each at its first touch.
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
    /// Objects could not be read any more.
    #[error(
        "{objects} objects of `{behavior}` have schema version {found}, which the new plugin (version {schema}) does not read: \
         give it a #[migrate(from = {found})]"
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
        let (migrations, problems) = migrations(census, offer);
        plan.problems.extend(problems);
        plan.problems.extend(orphans(plugins, census, offer));
        let reversible = migrations.iter().all(|migration| {
            let behavior = manifest.behaviors.iter().find(|behavior| behavior.name == migration.behavior);
            behavior.is_some_and(|behavior| behavior.writes.contains(&migration.from))
        });
        let (name, version) = (manifest.name.clone(), manifest.version.clone());
        plan.changes.push(Change { name, from, to: offer.digest, version, migrations, reversible });
    }
    plan.problems.extend(double_providers(plugins, &seen));
    plan
}

fn migrations(census: &Census, offer: &Inspection) -> (Vec<Migration>, Vec<Problem>) {
    let (mut migrations, mut problems) = (Vec::new(), Vec::new());
    for behavior in &offer.manifest.behaviors {
        let name: Arc<str> = behavior.name.as_str().into();
        for ((_, found), objects) in census.range((name.clone(), 0)..=(name, u32::MAX)) {
            let (found, objects) = (*found, *objects);
            if found == behavior.schema {
                continue;
            }
            let (behavior_name, schema) = (behavior.name.clone(), behavior.schema);
            if behavior.reads.contains(&found) {
                migrations.push(Migration { behavior: behavior_name, from: found, to: schema, objects });
            } else {
                problems.push(Problem::Unreadable { behavior: behavior_name, found, schema, objects });
            }
        }
    }
    (migrations, problems)
}

/// The behaviours that the plugin in force provides, the offered one does not, and objects have.
fn orphans(plugins: &PluginSet, census: &Census, offer: &Inspection) -> Vec<Problem> {
    let manifest = &offer.manifest;
    let Some(present) = plugins.plugin(&manifest.name) else { return Vec::new() };
    let gone = present.behaviors().iter().map(|behavior| behavior.name());
    gone.filter(|name| manifest.behaviors.iter().all(|behavior| behavior.name != ***name))
        .filter_map(|name| {
            let objects = census.range((name.clone(), 0)..=(name.clone(), u32::MAX)).map(|(_, objects)| objects).sum();
            let (plugin, behavior) = (manifest.name.clone(), name.to_string());
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
