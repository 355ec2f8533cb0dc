//! Which objects can be reached, and which cannot: the arithmetic of a collection, apart from where objects come from.
//!
//! A collection has two sides. [`Marking`] walks from the roots over everything that they lead to, on committed state, a few objects at a
//! time, while commands go on. [`Sweeping`] belongs to the executor. From the beginning of a collection it is told of each
//! recorded transaction what that touched: the objects that it wrote, named, sent to, or referred to. What was touched is
//! never removed, nor is what it leads to.
//!
//! Why nothing that can be reached is removed: take the way that leads to an object when it would be removed. If no object on it was
//! touched, the way was there all the time, and the marking went along it. Else the last one that was touched was kept together with
//! all that it led to at that moment, and what was written since is touched itself. Objects that were made since the beginning
//! were never candidates.
//!
//! Sets of objects are bits by id, so that ten million objects that were made one after another take little more than a megabyte each.

use std::{collections::BTreeMap, sync::Arc};

use theseus_value::{DecodeError, ObjectId};

use crate::identity::{ObjectRecord, is_hosts_own};

/// How many objects that are still to be looked at stand in a list; the others are only marked, and found again by looking for them.
const LISTED_MAX: usize = 1 << 20;

/// How many ids share a piece of a set, and in how many words.
const PIECE: u64 = 64 * WORDS as u64;
const WORDS: usize = 64;

/// A set of object ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectSet {
    /// The pieces that have something, by number.
    pieces: BTreeMap<u64, Box<[u64; WORDS]>>,
    len: u64,
}

impl ObjectSet {
    /// How many objects it has.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has an object.
    pub fn contains(&self, object: ObjectId) -> bool {
        let (piece, word, bit) = place(object);
        self.pieces.get(&piece).is_some_and(|words| words[word] & bit != 0)
    }

    /// Adds an object. Answers whether it was not there.
    fn insert(&mut self, object: ObjectId) -> bool {
        let (piece, word, bit) = place(object);
        let word = &mut self.pieces.entry(piece).or_insert_with(|| Box::new([0; WORDS]))[word];
        let added = *word & bit == 0;
        *word |= bit;
        self.len += u64::from(added);
        added
    }

    /// Takes an object out. Answers whether it was there.
    fn remove(&mut self, object: ObjectId) -> bool {
        let (piece, word, bit) = place(object);
        let Some(words) = self.pieces.get_mut(&piece) else { return false };
        let removed = words[word] & bit != 0;
        words[word] &= !bit;
        self.len -= u64::from(removed);
        if words[word] == 0 && **words == [0; WORDS] {
            self.pieces.remove(&piece);
        }
        removed
    }

    /// The first object from an id on.
    fn next(&self, from: u64) -> Option<ObjectId> {
        let (first, word, bit) = place(ObjectId(from));
        self.pieces.range(first..).find_map(|(piece, words)| {
            let (begin, mask) = if *piece == first { (word, !(bit - 1)) } else { (0, u64::MAX) };
            let masked = |at: usize| if at == begin { words[at] & mask } else { words[at] };
            let at = (begin..WORDS).find(|at| masked(*at) != 0)?;
            Some(ObjectId(piece * PIECE + at as u64 * 64 + u64::from(masked(at).trailing_zeros())))
        })
    }

    /// Takes out everything that another set has.
    fn subtract(&mut self, other: &ObjectSet) {
        self.pieces.retain(|piece, words| {
            if let Some(others) = other.pieces.get(piece) {
                words.iter_mut().zip(others.iter()).for_each(|(word, other)| *word &= !other);
            }
            **words != [0; WORDS]
        });
        self.len = self.pieces.values().flat_map(|words| words.iter()).map(|word| u64::from(word.count_ones())).sum();
    }
}

/// The piece of a set that an object belongs to, the word in it, and the bit in that.
fn place(object: ObjectId) -> (u64, usize, u64) {
    (object.0 / PIECE, (object.0 % PIECE / 64) as usize, 1 << (object.0 % 64))
}

/// Objects that are still to be looked at, each once.
#[derive(Default)]
struct Pending {
    listed: Vec<ObjectId>,
    /// Those for which the list had no room.
    others: ObjectSet,
    /// Where to look for them next.
    place: u64,
}

impl Pending {
    fn push(&mut self, object: ObjectId) {
        if self.listed.len() < LISTED_MAX {
            self.listed.push(object);
        } else {
            self.others.insert(object);
        }
    }

    fn pop(&mut self) -> Option<ObjectId> {
        if let Some(object) = self.listed.pop() {
            return Some(object);
        }
        if self.others.is_empty() {
            return None;
        }
        let object = self.others.next(self.place).or_else(|| self.others.next(0))?;
        self.place = object.0;
        self.others.remove(object);
        Some(object)
    }
}

/// The walk from the roots.
pub struct Marking {
    limit: u64,
    /// The objects that there are, without the host's own.
    found: ObjectSet,
    reached: ObjectSet,
    pending: Pending,
}

impl Marking {
    /// A walk over objects with ids below `limit`. It needs all that there [are](Self::find), and all [roots](Self::root) beside the
    /// host's own objects.
    pub fn new(limit: u64) -> Marking {
        Marking { limit, found: ObjectSet::default(), reached: ObjectSet::default(), pending: Pending::default() }
    }

    /// Takes note of an object that there is. The host's own are roots.
    pub fn find(&mut self, object: ObjectId, record: &ObjectRecord) {
        if is_hosts_own(&record.behavior) {
            self.root(object);
        } else if object.0 < self.limit {
            self.found.insert(object);
        }
    }

    /// Takes an object, and all that it leads to, as reached.
    pub fn root(&mut self, object: ObjectId) {
        if object.0 < self.limit && self.reached.insert(object) {
            self.pending.push(object);
        }
    }

    /// Follows the references of `count` objects more, as `fetch` gives them. Answers whether there are none left.
    ///
    /// # Errors
    ///
    /// What `fetch` fails with, or that slots cannot be read. Then the walk is of no use any more.
    pub fn step<E: From<DecodeError>>(
        &mut self,
        count: usize,
        mut fetch: impl FnMut(ObjectId) -> Result<Option<Arc<ObjectRecord>>, E>,
    ) -> Result<bool, E> {
        for _ in 0..count {
            let Some(object) = self.pending.pop() else { return Ok(true) };
            if let Some(record) = fetch(object)? {
                record.each_reference(&mut |object| self.root(object))?;
            }
        }
        Ok(false)
    }

    /// How many objects there are, and those of them that were not reached.
    pub fn finish(self) -> (u64, ObjectSet) {
        let Marking { found: mut unreached, reached, .. } = self;
        let objects = unreached.len();
        unreached.subtract(&reached);
        (objects, unreached)
    }
}

/// What the executor knows of a collection under way.
pub(super) struct Sweeping {
    limit: u64,
    touched: ObjectSet,
    /// What is removed unless it is touched; none while the marking goes on.
    candidates: Option<ObjectSet>,
    /// What was a candidate, and leads perhaps to others.
    pending: Pending,
    /// How far the touched objects and the candidates have been gone through.
    next_touched: u64,
    next_candidate: u64,
    spared: u64,
}

impl Sweeping {
    /// The beginning of a collection among objects with ids below `limit`: those that there are now.
    pub(super) fn new(limit: u64) -> Sweeping {
        let (touched, pending) = (ObjectSet::default(), Pending::default());
        Sweeping { limit, touched, candidates: None, pending, next_touched: 0, next_candidate: 0, spared: 0 }
    }

    /// Ids below this one are looked at.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Tells that an object was touched.
    pub(super) fn touch(&mut self, object: ObjectId) {
        let Some(candidates) = &mut self.candidates else {
            if object.0 < self.limit {
                self.touched.insert(object);
            }
            return;
        };
        if candidates.remove(object) {
            self.spared += 1;
            self.pending.push(object);
        }
    }

    /// Tells that an object was written.
    ///
    /// # Errors
    ///
    /// If its slots cannot be read.
    pub(super) fn written(&mut self, object: ObjectId, record: Option<&ObjectRecord>) -> Result<(), DecodeError> {
        self.touch(object);
        record.map_or(Ok(()), |record| record.each_reference(&mut |object| self.touch(object)))
    }

    /// Hands over what the marking did not reach.
    pub(super) fn offer(&mut self, unreached: ObjectSet) {
        self.candidates = Some(unreached);
    }

    /// How many candidates there are, and how many there were that were touched or led to.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.candidates.as_ref().map_or(0, ObjectSet::len), self.spared)
    }

    /// Takes what was touched, and all that it leads to, from the candidates, as long as `go_on` says. Answers whether that is done.
    ///
    /// # Errors
    ///
    /// What `fetch` fails with, or that slots cannot be read.
    pub(super) fn settle<E: From<DecodeError>>(
        &mut self,
        mut fetch: impl FnMut(ObjectId) -> Result<Option<Arc<ObjectRecord>>, E>,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool, E> {
        while go_on() {
            if let Some(object) = self.pending.pop() {
                if let Some(record) = fetch(object)? {
                    record.each_reference(&mut |object| self.touch(object))?;
                }
            } else if let Some(object) = self.touched.next(self.next_touched) {
                self.next_touched = object.0 + 1;
                self.touch(object);
            } else {
                self.next_touched = self.limit;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes up to `count` candidates, to be removed here and now. Only right after [`settle`](Self::settle) was done.
    pub(super) fn take(&mut self, count: usize) -> Vec<ObjectId> {
        let mut taken = Vec::new();
        let Some(candidates) = &mut self.candidates else { return taken };
        while taken.len() < count
            && let Some(object) = candidates.next(self.next_candidate)
        {
            candidates.remove(object);
            self.next_candidate = object.0 + 1;
            taken.push(object);
        }
        taken
    }
}

#[cfg(test)]
mod tests;
