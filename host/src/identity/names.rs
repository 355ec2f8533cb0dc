//! The newest versions of names, in order: the overlay finds one by its name, this finds those that follow a name.

use std::{
    collections::BTreeSet,
    ops::{Bound, Deref},
    sync::{Arc, PoisonError, RwLock},
};

use super::{NameVersion, Tid, overlay::Overlay};

/// How many names are looked at under one lock, so that the executor never waits for long.
const CHUNK: usize = 1024;

/// The overlay of the names, and their order.
pub(super) struct Names {
    overlay: Overlay<Arc<str>, NameVersion>,
    /// The names in the overlay; for a moment also one that has just left it. Taken after none of the overlay's locks and never held while
    /// one is taken, but for the look at one name in [`settle`](Self::settle).
    order: RwLock<BTreeSet<Arc<str>>>,
}

impl Deref for Names {
    type Target = Overlay<Arc<str>, NameVersion>;

    fn deref(&self) -> &Self::Target {
        &self.overlay
    }
}

impl Names {
    pub(super) fn new() -> Names {
        Names { overlay: Overlay::new(), order: RwLock::default() }
    }

    /// See [`Overlay::put`].
    pub(super) fn put(&self, name: Arc<str>, tid: Tid, version: NameVersion, batch_first: Tid, durable: Tid) {
        self.overlay.put(name.clone(), tid, version, batch_first, durable);
        // Only now: whoever takes names out of the order looks into the overlay first.
        self.order.write().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    /// See [`Overlay::settle`].
    pub(super) fn settle(&self, reached: Tid, keep: usize, keep_bytes: usize) {
        self.overlay.settle(reached, keep, keep_bytes);
        self.forget_what_left();
    }

    /// See [`Overlay::roll_back`].
    pub(super) fn roll_back(&self, durable: Tid) {
        self.overlay.roll_back(durable);
        self.forget_what_left();
    }

    /// Up to `limit` names that begin with `prefix` and come after `after`, in order.
    pub(super) fn following(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Arc<str>> {
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let following = order.range::<str, _>((from, Bound::Unbounded));
        following.take_while(|name| name.starts_with(prefix)).take(limit).cloned().collect()
    }

    fn forget_what_left(&self) {
        let mut after = None;
        loop {
            let chunk = self.following("", after.as_deref(), CHUNK);
            let Some(last) = chunk.last() else { return };
            let mut order = self.order.write().unwrap_or_else(PoisonError::into_inner);
            for name in chunk.iter().filter(|name| self.overlay.newest(&***name).is_none()) {
                order.remove(name);
            }
            drop(order);
            after = Some(last.clone());
        }
    }
}
