//! The look along the parents against a model that walks over nothing: it knows the shortest way to each object.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use theseus_value::Value;

use super::{
    super::{super::PluginSet, Scratch},
    *,
};
use crate::{config::Execution, exec::State};

/// How many objects there may be. The ids begin with 1, which is the receiver.
const OBJECTS: u64 = 9;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Behaviours; some have the method that is looked for.
const BEHAVIORS: [&str; 4] = ["test.One", "test.Two", "test.Three", "test.Four"];

/// An object; none if it was deleted.
type Node = Option<(Vec<u64>, usize, BTreeMap<usize, i8>)>;

/// Objects in memory, and how often each was read.
#[derive(Default)]
struct Memory {
    objects: BTreeMap<ObjectId, Arc<ObjectRecord>>,
    read: BTreeMap<ObjectId, usize>,
}

impl State for Memory {
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        *self.read.entry(object).or_default() += 1;
        Ok(self.objects.get(&object).cloned())
    }

    fn last_in_schema(&mut self, _: ObjectId, _: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        unreachable!("no behaviour is in force that could ask for it")
    }

    fn name(&mut self, _: &str) -> Result<Option<ObjectId>, Failure> {
        unreachable!("objects have no names here")
    }
}

impl Memory {
    fn of(nodes: &[Node]) -> Memory {
        let mut memory = Memory::default();
        for (node, id) in nodes.iter().zip(1..) {
            let Some((parents, behavior, slots)) = node else { continue };
            let slots = slots.iter().map(|(name, value)| (NAMES[*name].to_owned(), Value::Int((*value).into())));
            let record = ObjectRecord {
                behavior: BEHAVIORS[*behavior].into(),
                schema: 1,
                parents: parents.iter().copied().map(ObjectId).collect(),
                slots: Value::Map(slots.collect()).encode().into(),
            };
            memory.objects.insert(ObjectId(id), Arc::new(record));
        }
        memory
    }

    /// What a turn finds that has nothing else to do.
    fn look<R>(&mut self, look: impl FnOnce(&mut Turn<'_>, &ObjectRecord) -> R) -> R {
        let (mut scratch, plugins, limits) = (Scratch::default(), PluginSet::default(), Execution::default());
        let receiver = self.objects[&ObjectId(1)].clone();
        look(&mut Turn::new(self, &mut scratch, &plugins, &limits, (0, 0)), &receiver)
    }
}

/// The model.
struct Model<'a> {
    nodes: &'a [Node],
    /// By the id of an ancestor, the shortest way to it from the receiver: at each object which of its parents comes next. Of two that
    /// are as long, the one that turns to an earlier parent first.
    ways: BTreeMap<u64, Vec<usize>>,
}

impl Model<'_> {
    fn of(nodes: &[Node]) -> Model<'_> {
        let mut ways: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        loop {
            let before = ways.clone();
            // The receiver can be its own ancestor; the way that begins there is the empty one all the same.
            for (from, way) in [(1, Vec::new())].into_iter().chain(before.clone()) {
                let Some((parents, ..)) = &nodes[from as usize - 1] else { continue };
                for (place, parent) in parents.iter().enumerate() {
                    let way = [&way[..], &[place]].concat();
                    let is_better = ways.get(parent).is_none_or(|known| (way.len(), &way) < (known.len(), known));
                    if is_better {
                        ways.insert(*parent, way);
                    }
                }
            }
            if ways == before {
                return Model { nodes, ways };
            }
        }
    }

    /// The ancestors at a distance, in their order; those that were deleted too.
    fn level(&self, distance: usize) -> Vec<u64> {
        let mut level: Vec<_> = self.ways.iter().filter(|(_, way)| way.len() == distance).collect();
        level.sort_by_key(|(_, way)| *way);
        level.into_iter().map(|(id, _)| *id).collect()
    }

    fn distances(&self) -> impl Iterator<Item = usize> {
        1..=self.ways.values().map(Vec::len).max().unwrap_or(0)
    }

    /// What there is at a distance that `look` finds.
    fn found<T>(
        &self,
        distance: usize,
        look: impl Fn(&(Vec<u64>, usize, BTreeMap<usize, i8>)) -> Option<T>,
    ) -> Vec<(u64, T)> {
        let level = self.level(distance).into_iter();
        level.filter_map(|id| Some((id, look(self.nodes[id as usize - 1].as_ref()?)?))).collect()
    }

    /// The nearest distance at which there is something.
    fn nearest<T>(&self, look: impl Fn(&(Vec<u64>, usize, BTreeMap<usize, i8>)) -> Option<T>) -> Option<usize> {
        self.distances().find(|distance| !self.found(*distance, &look).is_empty())
    }

    fn has_deleted(&self, distance: usize) -> bool {
        self.level(distance).into_iter().any(|id| self.nodes[id as usize - 1].is_none())
    }

    /// The failures of which one has to come, if the look ends at a distance and `ambiguous` tells whether one is; and the last distance
    /// that is looked at.
    fn failures(&self, last: usize, ambiguous: impl Fn(usize) -> bool) -> (BTreeSet<&'static str>, usize) {
        for distance in 1..=last {
            let deleted = self.has_deleted(distance).then(|| FailureCode::NO_SUCH_OBJECT.name());
            let ambiguous = ambiguous(distance).then(|| FailureCode::AMBIGUOUS.name());
            let failures: BTreeSet<_> = deleted.into_iter().chain(ambiguous).collect();
            if !failures.is_empty() {
                return (failures, distance);
            }
        }
        (BTreeSet::new(), last)
    }

    /// Checks that nobody was looked at twice, everybody up to a distance - if nothing failed - and nobody beyond.
    fn check_read(&self, read: &BTreeMap<ObjectId, usize>, last: usize, failed: bool) -> Result<(), TestCaseError> {
        prop_assert!(read.values().all(|times| *times == 1), "{:?}", read);
        let up_to: BTreeSet<_> = (1..=last).flat_map(|distance| self.level(distance)).map(ObjectId).collect();
        let read: BTreeSet<_> = read.keys().copied().collect();
        prop_assert!(
            if failed { read.is_subset(&up_to) } else { read == up_to },
            "{:?} up to {}, not {:?}",
            read,
            last,
            up_to
        );
        Ok(())
    }
}

/// Objects with parents that may lead in circles, be named twice, or be gone.
fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let parents = proptest::collection::vec(1..=OBJECTS, 0..4);
    // Few values, so that some are equal.
    let slots = proptest::collection::btree_map(0..NAMES.len(), 0..3_i8, 0..3);
    let node = || (parents.clone(), 0..BEHAVIORS.len(), slots.clone());
    let others = proptest::collection::vec(proptest::option::weighted(0.93, node()), OBJECTS as usize - 1);
    (node(), others).prop_map(|(receiver, others)| [Some(receiver)].into_iter().chain(others).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Each slot is that of the nearest parents; two of equal rank that differ are an error, and only if nothing nearer has it.
    #[test]
    fn slots_are_those_of_the_nearest_parents(nodes in nodes(), names in proptest::sample::subsequence(vec![0, 1, 2], 1..=3)) {
        let (mut memory, model) = (Memory::of(&nodes), Model::of(&nodes));
        let asked: Vec<&str> = names.iter().map(|name| NAMES[*name]).collect();
        let result = memory.look(|turn, receiver| turn.inherit(ObjectId(1), receiver, &asked));

        let value = |name: usize| move |node: &(Vec<u64>, usize, BTreeMap<usize, i8>)| node.2.get(&name).copied();
        let nearest: Vec<_> = names.iter().map(|name| model.nearest(value(*name))).collect();
        // The look ends where the last of them is found, or at the end of all ways.
        let end = model.distances().last().unwrap_or(0);
        let last = nearest.iter().map(|distance| distance.unwrap_or(end)).max().unwrap_or(0);
        let values = |name: usize, distance| model.found(distance, value(name)).into_iter().map(|it| it.1).collect::<BTreeSet<_>>();
        let ambiguous =
            |at| names.iter().zip(&nearest).any(|(name, nearest)| *nearest == Some(at) && values(*name, at).len() > 1);
        let (failures, last) = model.failures(last, ambiguous);
        match result {
            Err(failure) => prop_assert!(failures.contains(failure.code.name()), "{}, not {:?}", failure, failures),
            Ok(found) => {
                prop_assert!(failures.is_empty(), "{:?}", failures);
                let found: BTreeMap<_, _> = found.into_iter().map(|(name, value)| (name, Value::decode(&value).unwrap())).collect();
                let expected = names.iter().zip(&nearest).filter_map(|(name, nearest)| {
                    let value = values(*name, (*nearest)?).pop_first()?;
                    Some((NAMES[*name], Value::Int(value.into())))
                });
                prop_assert_eq!(found, expected.collect());
            }
        }
        model.check_read(&memory.read, last, !failures.is_empty())?;
    }

    /// A method is that of the first of the nearest parents that have it; two of equal rank with different behaviours are an error.
    #[test]
    fn methods_are_those_of_the_nearest_parents(nodes in nodes(), with in proptest::collection::btree_set(0..BEHAVIORS.len(), 0..4)) {
        let (mut memory, model) = (Memory::of(&nodes), Model::of(&nodes));
        let has = |behavior: &str| with.iter().any(|it| BEHAVIORS[*it] == behavior);
        let result = memory.look(|turn, receiver| {
            turn.nearest(ObjectId(1), &receiver.parents, "method", |parent| has(&parent.behavior).then(|| parent.behavior.to_string()))
        });

        let method = |node: &(Vec<u64>, usize, BTreeMap<usize, i8>)| with.contains(&node.1).then_some(BEHAVIORS[node.1]);
        let nearest = model.nearest(method);
        let behaviors = |distance| model.found(distance, method).into_iter().map(|it| it.1).collect::<BTreeSet<_>>();
        let last = nearest.unwrap_or_else(|| model.distances().last().unwrap_or(0));
        let (failures, last) = model.failures(last, |at| nearest == Some(at) && behaviors(at).len() > 1);
        match result {
            Err(failure) => prop_assert!(failures.contains(failure.code.name()), "{}, not {:?}", failure, failures),
            Ok(found) => {
                prop_assert!(failures.is_empty(), "{:?}", failures);
                let first = nearest.and_then(|distance| model.found(distance, method).into_iter().next());
                prop_assert_eq!(found, first.map(|(id, behavior)| (ObjectId(id), behavior.to_owned())));
            }
        }
        model.check_read(&memory.read, last, !failures.is_empty())?;
    }
}

#[test]
fn a_look_along_too_many_parents_ends() {
    for (ancestors, fits) in [(ANCESTORS_MAX as u64, true), (ANCESTORS_MAX as u64 + 1, false)] {
        // A line whose last has the slot, and goes back to the receiver's first parent.
        let parents = |id: u64| vec![if id <= ancestors { id + 1 } else { 2 }];
        let slots = |id: u64| BTreeMap::from_iter((id == ancestors + 1).then_some((0, 7)));
        let nodes: Vec<Node> = (1..=ancestors + 1).map(|id| Some((parents(id), 0, slots(id)))).collect();
        let mut memory = Memory::of(&nodes);
        let found = memory.look(|turn, receiver| turn.inherit(ObjectId(1), receiver, &["a"]));
        match found {
            Ok(found) => assert!(fits && *found["a"] == *Value::Int(7).encode()),
            Err(failure) => assert!(!fits && failure.code == FailureCode::LIMIT_EXCEEDED, "{failure}"),
        }
        // Without the slot it comes around once and ends.
        let absent = memory.look(|turn, receiver| turn.inherit(ObjectId(1), receiver, &["b"]));
        assert_eq!(absent.is_ok_and(|found| found.is_empty()), fits);
    }
}
