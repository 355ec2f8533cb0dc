//! Real objects for a candidate to migrate: a few of each schema version, from all over the identity.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
};

use rustc_hash::FxHashSet;
use theseus_value::{
    ObjectId,
    raw::{MapView, merge_maps},
};

use super::{Sample, Samples};
use crate::{
    exec::{Engine, PluginSet, State},
    identity::{ObjectRecord, ObjectWalk, Reader},
    swap::{
        confined::Bytes,
        plan::{MigratedBy, Migration},
    },
};

/// How many objects are looked at for samples.
const LOOKS_MAX: usize = 20_000;

/// How many bytes of slots are taken in all.
const BYTES_MAX: usize = 16 << 20;

/// How many ancestors of an object are looked at; one with more is no sample.
const ANCESTORS_MAX: usize = 64;

/// Picks up to `most` objects for each migration that is the candidate's own. What cannot be read is left out: it is no fault of a plugin.
pub(super) fn pick(engine: &Engine, migrations: &[Migration], most: u64) -> Vec<Samples> {
    let own = || migrations.iter().filter(|migration| migration.by == MigratedBy::Offered);
    let none_yet = |it: &Migration| Samples { behavior: it.behavior.clone(), from: it.from, objects: Vec::new() };
    let mut picked: Vec<Samples> = own().map(none_yet).collect();
    // As many as are wanted, or as there are.
    let mut wanted: Vec<u64> = own().map(|migration| migration.objects.min(most)).collect();
    if wanted.iter().all(|&count| count == 0) {
        return picked;
    }
    let (mut reader, plugins) = (Reader::new(engine.identity().clone()), engine.plugins());
    let (mut bytes, mut seen) = (0, FxHashSet::default());
    for id in candidates(engine) {
        if bytes > BYTES_MAX || wanted.iter().all(|&count| count == 0) {
            break;
        }
        if !seen.insert(id) {
            continue;
        }
        let Ok(Some(record)) = reader.object(id) else { continue };
        let fits = |it: &Samples| it.behavior == *record.behavior && it.from == record.schema;
        let Some(place) = picked.iter().position(fits).filter(|&place| wanted[place] > 0) else { continue };
        let Some(sample) = sample(&mut reader, &plugins, id.0, &record) else { continue };
        bytes += sample.slots.0.len();
        wanted[place] -= 1;
        picked[place].objects.push(sample);
    }
    picked
}

/// Objects from all over the identity, some of them more than once: all if there are few.
fn candidates(engine: &Engine) -> Box<dyn Iterator<Item = ObjectId>> {
    let mut reader = Reader::new(engine.identity().clone());
    let first = ObjectWalk::new(&reader).next(&mut reader, LOOKS_MAX).unwrap_or_default();
    if first.len() < LOOKS_MAX {
        return Box::new(spread(first.len() as u64).map(move |place| first[place as usize - 1]));
    }
    let ids = engine.vitals().next_object.load(Ordering::Relaxed).saturating_sub(1);
    // Ids may lie far apart: what falls in between stands for the next one.
    let drawn = spread(ids).take(LOOKS_MAX).map(ObjectId);
    let found = drawn.filter_map(move |id| reader.first_object_from(id).ok().map(|found| found.unwrap_or(id)));
    // They may also lie close together, far from where most are drawn.
    Box::new(found.chain(first))
}

/// The numbers from 1 to `count`, each once, such that any first part of them lies evenly over the whole: multiples of the
/// golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4, theorem S).
fn spread(count: u64) -> impl Iterator<Item = u64> {
    let mut step = (count as f64 * 0.618_033_988_749_895) as u64 + 1;
    while divisor(step, count) > 1 {
        step += 1;
    }
    (0..count).map(move |turn| 1 + (u128::from(turn) * u128::from(step) % u128::from(count)) as u64)
}

/// The greatest common divisor.
fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// What a migration gets to see of an object: the slots that it has and inherits. None if that is not to be had simply: an
/// ancestor may have migrated before it.
fn sample(state: &mut dyn State, plugins: &PluginSet, id: u64, record: &ObjectRecord) -> Option<Sample> {
    let (mut all, mut ancestors) = (record.slots.to_vec(), Vec::new());
    let mut seen: FxHashSet<ObjectId> = [ObjectId(id)].into_iter().collect();
    let mut level = record.parents.to_vec();
    while !level.is_empty() {
        let mut next = Vec::new();
        for parent in level {
            if !seen.insert(parent) {
                continue;
            }
            let stored: Arc<ObjectRecord> = match state.object(parent) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(_) => return None,
            };
            if seen.len() > ANCESTORS_MAX || (stored.behavior == record.behavior && stored.schema != record.schema) {
                return None;
            }
            let mut merged = Vec::new();
            merge_maps(&stored.slots, &all, &mut merged).ok()?;
            all = merged;
            next.extend_from_slice(&stored.parents);
            if stored.behavior != record.behavior {
                ancestors.push(stored);
            }
        }
        level = next;
    }
    let present = plugins.behavior(&record.behavior).filter(|it| it.schema() == record.schema);
    let mut others = Vec::new();
    for entry in MapView::new(&all).ok()?.iter() {
        let (name, _) = entry.ok()?;
        let is_own = present.is_some_and(|behavior| behavior.has_slot(name));
        if !is_own && ancestors.iter().any(|it| plugins.has_slot(it, name).unwrap_or(false)) {
            others.push(name.to_owned());
        }
    }
    Some(Sample { id, slots: Bytes(Cow::Owned(all)), others })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_comes_once() {
        for count in [0, 1, 2, 3, 10, 64, 99, 1000] {
            let mut numbers: Vec<u64> = spread(count).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_first_part_lies_over_the_whole() {
        let count = 1_000_000;
        let mut numbers: Vec<u64> = spread(count).take(200).collect();
        numbers.sort_unstable();
        let gaps = numbers.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.max().unwrap() < 3 * count / 200);
    }
}
