//! How a host takes up an identity: the start is recorded first, then the plugins in force are loaded - or those before them, if
//! the host has died of the present ones too often.

use std::{collections::BTreeMap, sync::Arc, thread};

use theseus_value::{DecodeError, Value};

use super::{
    host::{OpenError, VERSION, note},
    portable::IMPORT,
};
use crate::{
    config::{self, Config},
    exec::{self, PluginSet},
    identity::{Identity, Incarnation, Resume, StorageError},
    plugin::{self, Digest, Store},
    swap::{self, Crashed, Memory},
};

/// The last transaction of an incarnation that ended in order; but an import may follow it.
const STOP: &str = "theseus.stop";

/// What a start begins with.
pub(super) struct Beginning {
    /// The number of this start.
    pub incarnation: Incarnation,
    /// The plugins in force.
    pub plugins: PluginSet,
    /// The swaps that are taken back by this start, whose plugins were not loaded.
    pub without: Vec<Crashed>,
    /// The swaps that are to be taken back, whose plugins had to be loaded for that.
    pub with: Vec<Crashed>,
}

/// Records the start and loads the plugins.
pub(super) fn begin(
    identity: &Arc<Identity>,
    resume: &Resume,
    store: &Store,
    config: &Config,
    is_trial: bool,
) -> Result<Beginning, OpenError> {
    let incarnation = Incarnation(resume.incarnation.0 + 1);
    // Another release's death on trial is that release's.
    let died = !is_trial && !ended_in_order(identity)?;
    let remember = died.then(|| swap::remember(|memory, _| memory.crashed()));
    let note = start_note(resume, incarnation);
    exec::begin(identity, resume, incarnation, "theseus.start", &note, remember).map_err(OpenError::Record)?;
    let crashed = if is_trial { Vec::new() } else { swap::crashed(&Memory::read(identity)?, &config.plugins) };
    let (without, with): (Vec<_>, Vec<_>) =
        crashed.into_iter().partition(|it| swap::can_do_without(it, store, resume.census()));
    let plugins = load_plugins(store, resume, &config.plugins, &swap::substitutes(&without))?;
    Ok(Beginning { incarnation, plugins, without, with })
}

/// Whether the host before had time to say that it stops. An import that came after it says so in its place.
pub(super) fn ended_in_order(identity: &Arc<Identity>) -> Result<bool, StorageError> {
    let head = identity.head().tid;
    let damaged = |error: DecodeError| identity.damaged(head, error.to_string());
    let stopped = identity.with_batch(head, |batch| {
        let last = batch.transaction(head).expect("the batch was found by this transaction").map_err(damaged)?;
        if last.method == IMPORT {
            let note = Value::decode(last.arguments).map_err(damaged)?;
            return Ok(note.as_map().and_then(|note| note.get("after_stop")).and_then(Value::as_bool) == Some(true));
        }
        Ok(last.method == STOP)
    })?;
    // An identity without a history has just been made.
    Ok(stopped.unwrap_or(true))
}

/// Loads the generations that the last record says are in force, and their fallbacks; for some plugins another file instead,
/// or none.
///
/// On a thread that ends with it: this one lives as long as the host, but takes no errands, so what a plugin leaves on it could not
/// be destroyed.
fn load_plugins(
    store: &Store,
    resume: &Resume,
    config: &config::Plugins,
    instead: &BTreeMap<Arc<str>, Option<Digest>>,
) -> Result<PluginSet, OpenError> {
    let loaded = thread::scope(|scope| scope.spawn(|| load_in_force(store, resume, config, instead)).join());
    loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn load_in_force(
    store: &Store,
    resume: &Resume,
    config: &config::Plugins,
    instead: &BTreeMap<Arc<str>, Option<Digest>>,
) -> Result<PluginSet, OpenError> {
    let fail = |name: &str, problem: &dyn std::fmt::Display| OpenError::Plugin {
        plugin: name.into(),
        problem: problem.to_string(),
    };
    let mut files = Vec::new();
    for (name, digest) in resume.generations.iter() {
        let (plugin, is_fallback) = PluginSet::recorded_name(name);
        let digest = match instead.get(plugin) {
            None => Digest::from_bytes(*digest),
            Some(Some(digest)) if !is_fallback => *digest,
            Some(_) => continue,
        };
        let staged = store.fetch(digest).map_err(|error| fail(name, &error))?;
        let mut inspection = plugin::inspect_staged(&staged).map_err(|error| fail(name, &error))?;
        // It was granted what it asks for when it was swapped in. If the settings have become stricter, it works without.
        inspection.capabilities.retain(|capability| config.capabilities.contains(capability));
        files.push((name, staged, inspection));
    }
    swap::sort_providers_first(&mut files, |(_, _, inspection)| inspection);
    let (mut generations, mut fallbacks) = (Vec::new(), Vec::new());
    for (name, staged, inspection) in files {
        let generation = Arc::new(plugin::load(staged, inspection).map_err(|error| fail(name, &error))?);
        let (_, is_fallback) = PluginSet::recorded_name(name);
        if is_fallback { fallbacks.push(generation) } else { generations.push(generation) }
    }
    let set = PluginSet::default()
        .with(&generations)
        .map_err(|conflict| OpenError::Plugin { plugin: conflict.second.clone(), problem: conflict.to_string() })?;
    Ok(set.with_fallbacks(&fallbacks))
}

fn start_note(resume: &Resume, incarnation: Incarnation) -> Vec<u8> {
    note([
        ("host", Value::Text(VERSION.to_owned())),
        ("abi", Value::Int(theseus_abi::ABI_VERSION.into())),
        ("incarnation", Value::Int(incarnation.0.into())),
        ("replayed", Value::Int(resume.replayed.transactions.into())),
    ])
}
