//! The newest versions of what has changed, between the history and the object table.
//!
//! A map whose values carry the transaction that made them. The executor adds versions as it executes; readers look up the
//! newest one that their snapshot may see; the checkpointer takes what is durable into the table and then drops it. A key
//! keeps few versions at a time: what the open batch made of it, what the batch being committed did, and what is durable.
//!
//! A reader that finds nothing suitable here goes on to the table and, for versions older than the table's, to the history;
//! so versions may be dropped whenever the table has them or something newer that is durable.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
    sync::{PoisonError, RwLock},
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::Tid;

/// Enough that two cores rarely meet in one.
const SHARDS: usize = 64;

/// A concurrent map from keys to the newest versions of their values.
pub(super) struct Overlay<K, V> {
    // One lock per shard, because the executor writes while the query threads read. None is held while another is taken.
    shards: Box<[Shard<K, V>]>,
}

type Shard<K, V> = RwLock<FxHashMap<K, Versions<V>>>;

/// The versions of one value, oldest first, never empty.
type Versions<V> = Vec<(Tid, V)>;

impl<K: Hash + Eq + Clone, V: Clone> Overlay<K, V> {
    pub(super) fn new() -> Self {
        Overlay { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// The newest version.
    pub(super) fn newest<Q>(&self, key: &Q) -> Option<(Tid, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.last().cloned())
    }

    /// The newest version made by transaction `at` or before.
    pub(super) fn newest_at<Q>(&self, key: &Q, at: Tid) -> Option<(Tid, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.iter().rev().find(|(tid, _)| *tid <= at).cloned())
    }

    /// The newest version that fits.
    pub(super) fn newest_where<Q>(&self, key: &Q, fits: impl Fn(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.iter().rev().map(|(_, value)| value).find(|value| fits(value)).cloned())
    }

    /// Adds a version. Versions that `batch_first` or a later transaction made are replaced, because no snapshot can lie
    /// within a batch; of those up to `durable` only the newest is kept.
    pub(super) fn put(&self, key: K, tid: Tid, value: V, batch_first: Tid, durable: Tid) {
        let mut shard = self.shard(&key).write().unwrap_or_else(PoisonError::into_inner);
        let versions = shard.entry(key).or_insert_with(|| Vec::with_capacity(1));
        match versions.last_mut() {
            Some(last) if last.0 >= batch_first => *last = (tid, value),
            _ => versions.push((tid, value)),
        }
        let superseded = versions.iter().skip(1).take_while(|(tid, _)| *tid <= durable).count();
        versions.drain(..superseded);
    }

    /// The newest durable version. `durable` is asked while nothing can be dropped: what is dropped then is older than what
    /// was durable at some time before.
    pub(super) fn newest_durable<Q>(&self, key: &Q, durable: impl Fn() -> Tid) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| {
            let durable = durable();
            versions.iter().rev().find(|(tid, _)| *tid <= durable).map(|(_, value)| value.clone())
        })
    }

    /// The newest versions up to what `until` says that are newer than `since`, in no particular order. As for
    /// [`newest_durable`](Self::newest_durable), `until` is asked while nothing can be dropped.
    pub(super) fn changed(&self, since: Tid, until: impl Fn() -> Tid) -> Vec<(K, V)> {
        let mut changed = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let until = until();
            for (key, versions) in shard.iter() {
                match versions.iter().rev().find(|(tid, _)| *tid <= until) {
                    Some((tid, value)) if *tid > since => changed.push((key.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        changed
    }

    /// Shows every key with its versions, oldest first, in no particular order.
    pub(super) fn visit(&self, mut visit: impl FnMut(&K, &[(Tid, V)])) {
        for shard in &self.shards {
            shard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .for_each(|(key, versions)| visit(key, versions));
        }
    }

    /// Drops what the table has now: keys whose newest version is `reached` or older, down to `keep` of them, which stay
    /// because they are likely to be asked for again.
    pub(super) fn settle(&self, reached: Tid, keep: usize) {
        let keep = keep / SHARDS;
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let mut excess = shard.len().saturating_sub(keep);
            shard.retain(|_, versions| {
                let settled = versions.last().is_some_and(|(tid, _)| *tid <= reached);
                let drop = settled && excess > 0;
                excess -= usize::from(drop);
                !drop
            });
            // A burst must not leave its room behind for ever.
            if shard.capacity() > 4 * shard.len().max(1024) {
                shard.shrink_to(2 * keep);
            }
        }
    }

    /// Forgets everything that a transaction after `durable` made.
    pub(super) fn roll_back(&self, durable: Tid) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, versions| {
                versions.retain(|(tid, _)| *tid <= durable);
                !versions.is_empty()
            });
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn read<Q, R>(&self, key: &Q, look: impl FnOnce(&Versions<V>) -> Option<R>) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner).get(key).and_then(look)
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Shard<K, V> {
        // The map inside uses the low and the topmost bits of the same hash; these lie between.
        &self.shards[(FxBuildHasher.hash_one(key) >> 40) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write { key: u8, value: u32 },
        CloseBatch,
        BecomeDurable,
        Checkpoint,
        Fail,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..6_u8, any::<u32>()).prop_map(|(key, value)| Step::Write { key, value }),
            2 => Just(Step::CloseBatch),
            2 => Just(Step::BecomeDurable),
            1 => Just(Step::Checkpoint),
            1 => Just(Step::Fail),
        ]
    }

    proptest! {
        /// Over table and overlay together, a reader at the durable transaction and the executor see what a plain list of
        /// all writes says, whatever order batches, commits, failures and checkpoints come in.
        #[test]
        fn agrees_with_a_list_of_all_writes(steps in proptest::collection::vec(step(), 1..120)) {
            let overlay = Overlay::new();
            let mut writes: Vec<(u8, Tid, u32)> = Vec::new();
            let mut table: std::collections::BTreeMap<u8, (Tid, u32)> = Default::default();
            let (mut last, mut batch_first, mut closed, mut durable, mut reached) = (Tid(0), Tid(1), Tid(0), Tid(0), Tid(0));
            for step in steps {
                match step {
                    Step::Write { key, value } => {
                        last = last.next();
                        overlay.put(key, last, value, batch_first, durable);
                        writes.push((key, last, value));
                    }
                    Step::CloseBatch => { closed = last; batch_first = last.next(); }
                    Step::BecomeDurable => durable = closed,
                    Step::Checkpoint => {
                        for (key, value) in overlay.changed(reached, || durable) {
                            let tid = overlay.newest_at(&key, durable).unwrap().0;
                            table.insert(key, (tid, value));
                        }
                        reached = durable;
                        overlay.settle(reached, 0);
                    }
                    Step::Fail => {
                        overlay.roll_back(durable);
                        writes.retain(|(_, tid, _)| *tid <= durable);
                        (last, closed, batch_first) = (durable, durable, durable.next());
                    }
                }
                for key in 0..6_u8 {
                    let expected = |at: Tid| writes.iter().rev().find(|w| w.0 == key && w.1 <= at).map(|w| (w.1, w.2));
                    let tabled = table.get(&key).copied();
                    prop_assert_eq!(overlay.newest(&key).or(tabled), expected(last));
                    prop_assert_eq!(overlay.newest_at(&key, durable).or(tabled), expected(durable));
                }
            }
        }
    }
}
