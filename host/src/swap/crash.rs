//! Plugins on probation that take the host down with them: after too many deaths the next start takes them back.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use theseus_abi::Manifest;

use super::{
    Memory, Swapper, ask, memory,
    rollback::{self, Back, Cause, ROLLBACK},
};
use crate::{
    config,
    exec::{Doing, Refusal},
    identity::Census,
    plugin::{self, Digest, Store},
};

/// A swap that is to be taken back because the host died too often since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Crashed {
    /// The plugins of the swap.
    pub backs: Vec<Back>,
    /// Why they are taken back.
    pub cause: Cause,
}

/// How often a start tries to take back what may work in a moment, and how long it waits in between.
const TRIES_MAX: usize = 50;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The swaps after which the host died more often than it may.
pub fn crashed(memory: &Memory, settings: &config::Plugins) -> Vec<Crashed> {
    let most = settings.probation_crashes_max;
    let over = memory.trials().into_iter().filter_map(|(swap, plugins)| {
        let crashes = plugins.values().map(|it| it.crashes).max().unwrap_or(0);
        if crashes <= most {
            return None;
        }
        let backs: Vec<Back> = plugins.iter().map(|(plugin, it)| Back::of(plugin, it)).collect();
        let names: Vec<&str> = plugins.keys().copied().collect();
        let reason =
            format!("the host died {crashes} times while {} was on probation, {most} are allowed", names.join(", "));
        let quarantine = names.iter().map(|name| (*name).to_owned()).collect();
        Some(Crashed { backs, cause: Cause { what: "crashes", reason, swap, quarantine, errors: BTreeMap::new() } })
    });
    over.collect()
}

/// Whether what was replaced can do without the plugins on probation: whether it reads every object of theirs as it is. Then
/// they need not even be loaded.
pub fn can_do_without(crashed: &Crashed, store: &Store, census: &Census) -> bool {
    crashed.backs.iter().all(|back| {
        let previous = match back.to {
            None => None,
            Some(digest) => match manifest(store, digest) {
                None => return false,
                manifest => manifest,
            },
        };
        let present = manifest(store, back.from);
        let provides = |manifest: &Option<Manifest>, name: &str| {
            manifest.iter().flat_map(|manifest| &manifest.behaviors).any(|behavior| behavior.name == name)
        };
        // Behaviours are named `plugin.Type`, also those of a file that cannot be read any more.
        let is_theirs = |name: &str| {
            name.split_once('.').is_some_and(|(plugin, _)| plugin == back.plugin)
                || provides(&present, name)
                || provides(&previous, name)
        };
        census.keys().filter(|(name, _)| is_theirs(name)).all(|(name, schema)| {
            let behaviors = previous.iter().flat_map(|manifest| &manifest.behaviors);
            let mut behaviors = behaviors.filter(|behavior| behavior.name == **name);
            behaviors.any(|behavior| behavior.schema == *schema || behavior.reads.contains(schema))
        })
    })
}

fn manifest(store: &Store, digest: Digest) -> Option<Manifest> {
    let staged = store.fetch(digest).ok()?;
    plugin::inspect_staged(&staged).ok().map(|inspection| inspection.manifest)
}

impl Swapper {
    /// Takes down that the host was started without what a swap had put in force, see [`can_do_without`].
    ///
    /// # Errors
    ///
    /// If it cannot be recorded.
    pub fn started_without(&self, crashed: Crashed) -> Result<(), Refusal> {
        let Crashed { backs, cause } = crashed;
        let note = rollback::note(&backs, &cause);
        let remember = Some(memory::remember(rollback::rolled_back(backs, cause.clone())));
        let done = ask(&self.engine, Doing::Note { what: ROLLBACK, note, remember })?;
        self.probation.rollbacks.fetch_add(1, Ordering::Relaxed);
        let tid = done.tid.unwrap_or_default();
        log::error!("the swap of transaction {} was taken back in transaction {tid}: {}", cause.swap, cause.reason);
        Ok(())
    }

    /// Takes back at the start what can only be taken back while it is loaded.
    pub fn take_back_crashed(&self, crashed: &Crashed) {
        // The thread of a start lives as long as the host, but takes no errands: what a plugin leaves on it could not be destroyed.
        let taken = thread::scope(|scope| {
            let take_back = || {
                (0..TRIES_MAX).any(|_| {
                    let done = self.take_back_or_say_why(&crashed.backs, &crashed.cause);
                    if !done {
                        thread::sleep(TRY_AGAIN);
                    }
                    done
                })
            };
            scope.spawn(take_back).join()
        });
        _ = taken.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}

/// What to load in the place of which plugins: the files that were replaced, none for plugins that were new.
pub fn substitutes(crashed: &[Crashed]) -> BTreeMap<Arc<str>, Option<Digest>> {
    crashed.iter().flat_map(|it| &it.backs).map(|back| (Arc::from(&*back.plugin), back.to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{exec::Moment, identity::Tid};

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    #[test]
    fn the_whole_swap_goes_after_one_death_too_many() {
        let (mut memory, settings) = (Memory::default(), config::Plugins::default());
        let at = |tid| Moment { tid: Tid(tid), time_us: 0, remembered: &[] };
        memory.swapped(&at(5), &[("a".into(), Some(digest(1)), digest(2)), ("b".into(), None, digest(3))], Some(60));
        memory.crashed();
        memory.swapped(&at(9), &[("c".into(), Some(digest(4)), digest(5))], Some(60));
        for _ in 0..settings.probation_crashes_max - 1 {
            memory.crashed();
            assert_eq!(crashed(&memory, &settings), []);
        }
        memory.crashed();
        let [found] = &crashed(&memory, &settings)[..] else { panic!("one of the two swaps") };
        let back = |plugin: &str, from, to| Back { plugin: plugin.into(), from, to };
        assert_eq!(found.backs, [back("a", digest(2), Some(digest(1))), back("b", digest(3), None)]);
        assert_eq!((found.cause.what, found.cause.swap), ("crashes", Tid(5)));
        assert!(found.cause.quarantine.iter().eq(["a", "b"]), "who of them it was is not known");
        let instead = substitutes(std::slice::from_ref(found));
        assert_eq!(
            instead.into_iter().map(|(name, it)| (name.to_string(), it)).collect::<Vec<_>>(),
            [("a".to_owned(), Some(digest(1))), ("b".to_owned(), None)]
        );
    }
}
