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
    collections::hash_map::Entry,
    hash::{BuildHasher, Hash},
    sync::{PoisonError, RwLock},
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::Tid;

/// Enough that threads rarely meet in one, and that none is locked for long while all are walked over.
const SHARDS: usize = 256;

/// A concurrent map from keys to the newest versions of their values.
pub(super) struct Overlay<K, V> {
    // One lock per shard, because the executor writes while the query threads read. None is held while another is taken.
    shards: Box<[Shard<K, V>]>,
}

type Shard<K, V> = RwLock<FxHashMap<K, Versions<V>>>;

/// A value and the transaction that made it.
pub(super) type At<V> = (Tid, V);

/// How much memory a value takes, its place in the map included.
pub(super) trait Weight {
    /// In bytes, roughly.
    fn weight(&self) -> usize;
}

/// The versions of one value. The newest lies in the map itself. While its object is written again and again, a value has the newest version and the
/// newest durable one, seldom more; of most objects that are written now and then there is but the newest, and the map stays small.
pub(super) struct Versions<V> {
    newest: At<V>,
    /// Kept for its memory while there is no version in it.
    earlier: Option<Box<Earlier<V>>>,
}

struct Earlier<V> {
    /// The version before the newest.
    before: Option<At<V>>,
    /// What comes before that, oldest first.
    older: Vec<At<V>>,
}

impl<V> Versions<V> {
    pub(super) fn newest(&self) -> &At<V> {
        &self.newest
    }

    /// Newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &At<V>> {
        let earlier = self.earlier.iter().flat_map(|earlier| earlier.before.iter().chain(earlier.older.iter().rev()));
        std::iter::once(&self.newest).chain(earlier)
    }

    /// The newest that `at` or an earlier transaction made.
    fn at(&self, at: Tid) -> Option<&At<V>> {
        self.iter().find(|(tid, _)| *tid <= at)
    }

    /// See [`Overlay::put`]. Answers what it has no room for any more.
    fn put(&mut self, newest: At<V>, batch_first: Tid, durable: Tid) -> Option<At<V>> {
        if self.newest.0 >= batch_first {
            return Some(std::mem::replace(&mut self.newest, newest));
        }
        let last = std::mem::replace(&mut self.newest, newest);
        if self.newest.0 <= durable {
            self.earlier = None;
            return Some(last);
        }
        let Earlier { before, older } = &mut **self.earlier.get_or_insert_default();
        if last.0 <= durable {
            older.clear();
            return before.replace(last);
        }
        if let Some(before) = before.replace(last) {
            if before.0 <= durable {
                older.clear();
            } else {
                let superseded = older.iter().skip(1).take_while(|(tid, _)| *tid <= durable).count();
                older.drain(..superseded);
            }
            older.push(before);
        }
        None
    }

    /// Forgets what was made after `durable`; false if nothing is left.
    fn roll_back(&mut self, durable: Tid) -> bool {
        while self.newest.0 > durable {
            let Some(earlier) = &mut self.earlier else { return false };
            let Some(before) = earlier.before.take() else { return false };
            self.newest = before;
            earlier.before = earlier.older.pop();
        }
        true
    }
}

impl<V> Default for Earlier<V> {
    fn default() -> Self {
        Earlier { before: None, older: Vec::new() }
    }
}

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
        self.read(key, |versions| Some(versions.newest.clone()))
    }

    /// Shows the versions of a key to `look`, if there are any.
    pub(super) fn look_at(&self, key: &K, look: impl FnOnce(&Versions<V>)) {
        self.read(key, |versions| {
            look(versions);
            Some(())
        });
    }

    /// What `look` makes of the newest version.
    pub(super) fn look_at_newest<Q, R>(&self, key: &Q, look: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| Some(look(&versions.newest.1)))
    }

    /// The newest version made by transaction `at` or before.
    pub(super) fn newest_at<Q>(&self, key: &Q, at: Tid) -> Option<(Tid, V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.at(at).cloned())
    }

    /// The newest version that fits.
    pub(super) fn newest_where<Q>(&self, key: &Q, fits: impl Fn(&V) -> bool) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.iter().map(|(_, value)| value).find(|value| fits(value)).cloned())
    }

    /// Adds a version. Versions that `batch_first` or a later transaction made are replaced, because no snapshot can lie
    /// within a batch; of those up to `durable` only the newest is kept.
    pub(super) fn put(&self, key: K, tid: Tid, value: V, batch_first: Tid, durable: Tid) {
        let mut shard = self.shard(&key).write().unwrap_or_else(PoisonError::into_inner);
        let superseded = match shard.entry(key) {
            Entry::Occupied(mut entry) => entry.get_mut().put((tid, value), batch_first, durable),
            Entry::Vacant(entry) => {
                entry.insert(Versions { newest: (tid, value), earlier: None });
                None
            }
        };
        // What is freed is freed without the lock.
        drop(shard);
        drop(superseded);
    }

    /// The newest durable version. `durable` is asked while nothing can be dropped: what is dropped then is older than what
    /// was durable at some time before.
    pub(super) fn newest_durable<Q>(&self, key: &Q, durable: impl Fn() -> Tid) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.read(key, |versions| versions.at(durable()).map(|(_, value)| value.clone()))
    }

    /// The newest versions up to what `until` says that are newer than `since`, in no particular order. As for
    /// [`newest_durable`](Self::newest_durable), `until` is asked while nothing can be dropped.
    pub(super) fn changed(&self, since: Tid, until: impl Fn() -> Tid) -> Vec<(K, V)> {
        let mut changed = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let until = until();
            for (key, versions) in shard.iter() {
                match versions.at(until) {
                    Some((tid, value)) if *tid > since => changed.push((key.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        changed
    }

    /// Shows every key with its versions, in no particular order.
    pub(super) fn visit(&self, mut visit: impl FnMut(&K, &Versions<V>)) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.iter().for_each(|(key, versions)| visit(key, versions));
        }
    }

    /// Forgets everything that a transaction after `durable` made.
    pub(super) fn roll_back(&self, durable: Tid) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, versions| versions.roll_back(durable));
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

impl<K: Hash + Eq + Clone, V: Clone + Weight> Overlay<K, V> {
    /// Drops what the table has now: keys whose newest version is `reached` or older. Some of them stay, because they are likely to
    /// be asked for again: up to `keep` of all keys, and at most `keep_bytes` of their values.
    pub(super) fn settle(&self, reached: Tid, keep: usize, keep_bytes: usize) {
        let (keep, keep_bytes) = (keep / SHARDS, keep_bytes / SHARDS);
        for shard in &self.shards {
            // Freed without the lock: the executor may want the shard.
            let mut dropped = Vec::new();
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let mut excess = shard.len().saturating_sub(keep);
            let mut kept_bytes = 0;
            dropped.extend(shard.extract_if(|_, versions| {
                if versions.newest.0 > reached {
                    return false;
                }
                let weight = if excess > 0 { 0 } else { versions.newest.1.weight() };
                let drops = excess > 0 || kept_bytes + weight > keep_bytes;
                excess = excess.saturating_sub(usize::from(drops));
                kept_bytes += if drops { 0 } else { weight };
                drops
            }));
            // A burst must not leave its room behind for ever.
            if shard.capacity() > 4 * shard.len().max(1024) {
                shard.shrink_to(2 * keep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Weight for u32 {
        fn weight(&self) -> usize {
            100
        }
    }

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
                        overlay.settle(reached, 0, 0);
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
