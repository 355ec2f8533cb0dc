//! Collections against a plain model, with commands that come between any two of their steps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use theseus_value::Value;

use super::*;

#[test]
fn sets_have_what_was_put_into_them() {
    let mut set = ObjectSet::default();
    assert!([0, 63, 64, 199].map(|id| set.insert(ObjectId(id))).iter().all(|added| *added));
    assert!(!set.insert(ObjectId(63)) && set.len() == 4);
    let from = |id| set.next(id).map(|object| object.0);
    assert_eq!(
        [0, 1, 63, 64, 65, 199, 200, 1000].map(from),
        [Some(0), Some(63), Some(63), Some(64), Some(199), Some(199), None, None]
    );
    assert!(set.contains(ObjectId(199)) && !set.contains(ObjectId(198)) && !set.contains(ObjectId(9999)));
    let mut other = ObjectSet::default();
    other.insert(ObjectId(64));
    other.insert(ObjectId(65));
    set.subtract(&other);
    assert!(set.len() == 3 && !set.contains(ObjectId(64)));
    assert!(set.remove(ObjectId(0)) && !set.remove(ObjectId(0)) && !set.remove(ObjectId(9999)) && set.len() == 2);
}

proptest! {
    /// Also with ids that lie far apart.
    #[test]
    fn a_set_is_one_of_any_numbers(
        steps in proptest::collection::vec((0..3_u8, prop_oneof![0..300_u64, any::<u64>(), Just(1 << 40)]), 0..200),
        others in proptest::collection::btree_set(0..300_u64, 0..100),
    ) {
        let (mut set, mut model) = (ObjectSet::default(), BTreeSet::new());
        for (what, id) in steps {
            match what {
                0 => prop_assert_eq!(set.remove(ObjectId(id)), model.remove(&id)),
                _ => prop_assert_eq!(set.insert(ObjectId(id)), model.insert(id)),
            }
            prop_assert_eq!(set.next(id / 2).map(|object| object.0), model.range(id / 2..).next().copied());
            prop_assert_eq!(set.len(), model.len() as u64);
        }
        let mut other = ObjectSet::default();
        others.iter().for_each(|id| _ = other.insert(ObjectId(*id)));
        set.subtract(&other);
        model.retain(|id| !others.contains(id));
        let mut same = ObjectSet::default();
        model.iter().for_each(|id| _ = same.insert(ObjectId(*id)));
        prop_assert_eq!(set, same);
    }
}

#[test]
fn what_the_list_has_no_room_for_is_found_again() {
    let limit = LISTED_MAX as u64 + 1000;
    let mut pending = Pending::default();
    (0..limit).for_each(|id| pending.push(ObjectId(id)));
    let mut seen = ObjectSet::default();
    while let Some(object) = pending.pop() {
        assert!(seen.insert(object), "object {object} came twice");
    }
    assert_eq!(seen.len(), limit);
}

/// What a client or the host does between two steps. Objects are meant by any number, whether they are there or not.
#[derive(Clone, Debug)]
enum Step {
    Create { references: Vec<u64>, parents: Vec<u64>, hosts_own: bool },
    Write { object: u64, references: Vec<u64> },
    Delete { object: u64 },
    Name { name: u8, object: Option<u64> },
    Send { object: u64 },
    Commit,
    Fail,
    Collect { objects: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || proptest::collection::vec(0..40_u64, 0..3);
    prop_oneof![
        6 => (ids(), ids(), proptest::bool::weighted(0.1))
            .prop_map(|(references, parents, hosts_own)| Step::Create { references, parents, hosts_own }),
        4 => (0..40_u64, ids()).prop_map(|(object, references)| Step::Write { object, references }),
        1 => (0..40_u64).prop_map(|object| Step::Delete { object }),
        3 => (0..4_u8, proptest::option::of(0..40_u64)).prop_map(|(name, object)| Step::Name { name, object }),
        1 => (0..40_u64).prop_map(|object| Step::Send { object }),
        4 => Just(Step::Commit),
        1 => proptest::bool::weighted(0.1).prop_map(|fail| if fail { Step::Fail } else { Step::Commit }),
        20 => (1..6_usize).prop_map(|objects| Step::Collect { objects }),
    ]
}

#[derive(Clone, Default)]
struct Graph {
    objects: BTreeMap<u64, Arc<ObjectRecord>>,
    names: BTreeMap<u8, u64>,
    next: u64,
}

impl Graph {
    fn references(&self, object: u64) -> Vec<u64> {
        let mut all = Vec::new();
        if let Some(record) = self.objects.get(&object) {
            record.each_reference(&mut |object| all.push(object.0)).unwrap();
        }
        all
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let own = self.objects.iter().filter(|(_, record)| is_hosts_own(&record.behavior)).map(|(id, _)| *id);
        let mut left: Vec<u64> = self.names.values().copied().chain(own).collect();
        let mut seen = BTreeSet::new();
        while let Some(object) = left.pop() {
            if self.objects.contains_key(&object) && seen.insert(object) {
                left.extend(self.references(object));
            }
        }
        seen
    }
}

fn record(references: &[u64], parents: &[u64], hosts_own: bool) -> Arc<ObjectRecord> {
    let references = references.iter().map(|id| Value::Ref(ObjectId(*id))).collect();
    let inner = Value::Map([("deep".to_owned(), Value::Array(references))].into_iter().collect());
    let slots = Value::Map([("n".to_owned(), 1.into()), ("slot".to_owned(), inner)].into_iter().collect());
    Arc::new(ObjectRecord {
        behavior: if hosts_own { "theseus.Message" } else { "a.B" }.into(),
        schema: 1,
        parents: parents.iter().map(|id| ObjectId(*id)).collect(),
        slots: slots.encode().into(),
    })
}

/// A collection under way, as the job and the executor have it.
struct Run {
    sweeping: Sweeping,
    /// Whether all that was before the beginning is durable.
    durable: bool,
    marking: Option<Marking>,
    names_seen: u16,
    /// The first object that was not looked for yet.
    next: u64,
    /// What the model knows: what could not be reached at the beginning, what was touched since, and every reference since.
    unreachable: BTreeSet<u64>,
    touched: BTreeSet<u64>,
    edges: BTreeSet<(u64, u64)>,
}

#[derive(Default)]
struct World {
    newest: Graph,
    durable: Graph,
    run: Option<Run>,
    finished: usize,
}

impl World {
    fn touched(&mut self, object: u64, written: Option<&ObjectRecord>) {
        let Some(run) = &mut self.run else { return };
        run.sweeping.written(ObjectId(object), written).unwrap();
        run.touched.insert(object);
        let references = self.newest.references(object);
        run.touched.extend(references.iter());
        run.edges.extend(references.iter().map(|to| (object, *to)));
    }

    fn put(&mut self, object: u64, record: Arc<ObjectRecord>) {
        self.newest.objects.insert(object, record.clone());
        self.touched(object, Some(&record));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create { references, parents, hosts_own } => {
                let object = self.newest.next.max(1);
                self.newest.next = object + 1;
                self.put(object, record(&references, &parents, hosts_own));
            }
            Step::Write { object, references } => {
                if self.newest.objects.get(&object).is_some_and(|before| !is_hosts_own(&before.behavior)) {
                    self.put(object, record(&references, &[], false));
                }
            }
            Step::Delete { object } => {
                self.newest.objects.remove(&object);
                self.touched(object, None);
            }
            Step::Name { name, object } => {
                // As for real: what is named is there.
                match object.filter(|object| self.newest.objects.contains_key(object)) {
                    Some(object) => {
                        self.newest.names.insert(name, object);
                        self.touched(object, None);
                    }
                    None => _ = self.newest.names.remove(&name),
                }
            }
            Step::Send { object } => self.touched(object, None),
            Step::Commit => {
                self.durable = self.newest.clone();
                if let Some(run) = &mut self.run {
                    run.durable = true;
                }
            }
            Step::Fail => {
                self.newest = self.durable.clone();
                self.run = None;
            }
            Step::Collect { objects } => self.collect(objects),
        }
    }

    fn collect(&mut self, objects: usize) {
        let Some(mut run) = self.run.take() else {
            let limit = self.newest.next.max(1);
            let reachable = self.newest.reachable();
            let unreachable = self.newest.objects.keys().copied().filter(|id| !reachable.contains(id)).collect();
            let edges = self
                .newest
                .objects
                .keys()
                .flat_map(|from| self.newest.references(*from).into_iter().map(|to| (*from, to)));
            self.run = Some(Run {
                sweeping: Sweeping::new(limit),
                durable: false,
                marking: Some(Marking::new(limit)),
                names_seen: 0,
                next: 0,
                unreachable,
                touched: BTreeSet::new(),
                edges: edges.collect(),
            });
            return;
        };
        if run.durable {
            match &mut run.marking {
                Some(marking) if run.names_seen < 4 => {
                    if let Some(object) = self.durable.names.get(&(run.names_seen as u8)) {
                        marking.root(ObjectId(*object));
                    }
                    run.names_seen += 1;
                }
                Some(marking) if self.durable.objects.range(run.next..).next().is_some() => {
                    for (object, record) in self.durable.objects.range(run.next..).take(objects) {
                        marking.find(ObjectId(*object), record);
                        run.next = object + 1;
                    }
                }
                Some(marking) => {
                    let fetch = |object: ObjectId| Ok::<_, DecodeError>(self.durable.objects.get(&object.0).cloned());
                    if marking.step(objects, fetch).unwrap() {
                        let (_, unreached) = run.marking.take().unwrap().finish();
                        run.sweeping.offer(unreached);
                    }
                }
                None => {
                    if self.sweep(&mut run, objects) {
                        return;
                    }
                }
            }
        }
        self.run = Some(run);
    }

    /// Answers whether that was the end.
    fn sweep(&mut self, run: &mut Run, objects: usize) -> bool {
        let fetch = |object: ObjectId| Ok::<_, DecodeError>(self.newest.objects.get(&object.0).cloned());
        let mut left = objects;
        let go_on = || {
            left = left.saturating_sub(1);
            left > 0
        };
        if !run.sweeping.settle(fetch, go_on).unwrap() {
            return false;
        }
        let taken = run.sweeping.take(objects);
        let reachable = self.newest.reachable();
        for object in &taken {
            assert!(!reachable.contains(&object.0), "object {object} can be reached and would be removed");
            self.newest.objects.remove(&object.0);
        }
        if run.sweeping.counts().0 > 0 {
            return false;
        }
        // All is gone that could not be reached, was not touched, and to which nothing touched ever led.
        let (mut kept, mut left) = (BTreeSet::new(), run.touched.iter().copied().collect::<Vec<_>>());
        while let Some(object) = left.pop() {
            if kept.insert(object) {
                left.extend(run.edges.range((object, 0)..=(object, u64::MAX)).map(|(_, to)| *to));
            }
        }
        for object in run.unreachable.difference(&kept) {
            assert!(!self.newest.objects.contains_key(object), "object {object} could not be reached and is there");
        }
        self.finished += 1;
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn nothing_reachable_is_removed_and_everything_untouched_goes(
        before in proptest::collection::vec(step(), 0..40),
        during in proptest::collection::vec(step(), 0..150),
    ) {
        let mut world = World::default();
        before.into_iter().filter(|step| !matches!(step, Step::Collect { .. })).for_each(|step| world.step(step));
        world.step(Step::Commit);
        world.step(Step::Collect { objects: 1 });
        during.into_iter().for_each(|step| world.step(step));
        // What is under way comes to its end when nobody disturbs it.
        let finished = world.finished;
        for _ in 0..400 {
            world.step(Step::Commit);
            world.step(Step::Collect { objects: 3 });
        }
        prop_assert!(world.finished > finished);
        // And nothing but what can be reached is left after one that nobody disturbed from the beginning.
        let reachable = world.newest.reachable();
        prop_assert_eq!(world.newest.objects.keys().copied().collect::<BTreeSet<_>>(), reachable);
    }
}
