//! Indexes against a walk over all objects.

use std::cmp::Ordering as Order;

use theseus_value::Value;

use super::*;
use crate::identity::{order, secondary::row_key};

const OBJECTS: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    /// Writes objects; without a value they lose the slot.
    Write(Vec<(u64, Option<Value>)>),
    Delete(u64),
    /// Writes what an object was some versions ago, as an undo does.
    Undo(u64, usize),
    Create,
    Drop,
    Commit,
    RollBack,
    Checkpoint,
    /// A step of the checkpointer.
    Work(usize),
    Reopen,
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0..6_i64).prop_map(Value::from),
        2 => (0..6_u8).prop_map(|it| Value::Float(f64::from(it) / 2.0)),
        3 => "[ab]{0,2}".prop_map(Value::Text),
        2 => "[ab]{1,2}".prop_map(|end| Value::Text("x".repeat(210) + &end)),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => (0..3_u64).prop_map(|it| Value::Ref(ObjectId(it))),
        1 => Just(Value::Null),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let write = (1..OBJECTS, proptest::option::weighted(0.9, value()));
    prop_oneof![
        10 => proptest::collection::vec(write, 1..4).prop_map(Step::Write),
        3 => (1..OBJECTS).prop_map(Step::Delete),
        2 => (1..OBJECTS, 1..4_usize).prop_map(|(object, back)| Step::Undo(object, back)),
        2 => Just(Step::Create),
        1 => Just(Step::Drop),
        5 => Just(Step::Commit),
        1 => Just(Step::RollBack),
        4 => Just(Step::Checkpoint),
        4 => (1..9_usize).prop_map(Step::Work),
        1 => Just(Step::Reopen),
    ]
}

type State = BTreeMap<u64, Option<Value>>;

/// An open identity with at most one index, and what it ought to hold.
struct Subject {
    _folder: tempfile::TempDir,
    place: Place,
    open: Option<(Writer, Committer)>,
    /// The values of all objects after each transaction that was made, and the index there was.
    states: Vec<(State, Option<IndexDefinition>)>,
    durable: usize,
    /// How often the index was asked and could answer.
    answers: usize,
}

fn index(number: u64) -> IndexDefinition {
    IndexDefinition { number: IndexNumber(number), behavior: "test.Thing".into(), slot: "v".into() }
}

fn encoded(entries: impl IntoIterator<Item = (String, Value)>) -> Box<[u8]> {
    Value::Map(entries.into_iter().collect()).encode().into()
}

/// Objects of even ids are of another behaviour.
fn object(id: u64, value: Option<&Value>) -> Arc<ObjectRecord> {
    let behavior = if id.is_multiple_of(4) { "test.Other" } else { "test.Thing" };
    let slots = encoded(value.map(|value| ("v".to_owned(), value.clone())));
    Arc::new(ObjectRecord { behavior: behavior.into(), schema: 1, parents: [].into(), slots: slots.into() })
}

fn host(indexes: &[IndexDefinition]) -> Arc<ObjectRecord> {
    let slots = encoded([(INDEXES_SLOT.to_owned(), IndexDefinition::write_all(indexes))]);
    Arc::new(ObjectRecord { behavior: HOST_BEHAVIOR.into(), schema: 1, parents: [].into(), slots: slots.into() })
}

impl Subject {
    fn new() -> Subject {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            history: folder.path().join("history"),
            objects: folder.path().join("objects"),
            bases: folder.path().join("base"),
            history_bytes_max: 64 << 20,
            objects_bytes_max: 64 << 20,
            requests: memory(1_000),
        };
        Identity::create(&place).unwrap();
        let states = vec![Default::default()];
        let mut subject = Subject { _folder: folder, place, open: None, states, durable: 0, answers: 0 };
        subject.reopen();
        subject
    }

    fn reopen(&mut self) {
        self.open = None;
        self.states.truncate(self.durable + 1);
        let Opened { identity, resume } = Identity::open(&self.place, false).unwrap();
        let incarnation = Incarnation(resume.incarnation.0 + 1);
        self.open = Some((Writer::new(identity.clone(), &resume), Committer::new(identity, incarnation)));
    }

    fn record(&mut self, writes: Vec<(ObjectId, Option<Arc<ObjectRecord>>)>, next: (State, Option<IndexDefinition>)) {
        let draft = Draft {
            request_id: None,
            target: None,
            method: "theseus.test",
            arguments: &[],
            time_us: 1,
            seed: 2,
            outcome: &Outcome::Done([].into()),
            writes: &writes,
            names: &[],
        };
        let (writer, _) = self.open.as_mut().unwrap();
        assert_eq!(writer.record(&draft).unwrap().0 as usize, self.states.len());
        self.states.push(next);
    }

    fn step(&mut self, step: Step) {
        let (mut state, mut made) = self.states.last().unwrap().clone();
        let writes = match step {
            Step::Write(values) => {
                let values: BTreeMap<_, _> = values.into_iter().collect();
                state.extend(values.clone());
                values.iter().map(|(id, value)| (ObjectId(*id), Some(object(*id, value.as_ref())))).collect()
            }
            Step::Delete(id) => {
                state.remove(&id);
                vec![(ObjectId(id), None)]
            }
            Step::Undo(id, back) => {
                let before = &self.states[self.states.len().saturating_sub(1 + back)].0.get(&id).cloned();
                match before {
                    Some(before) => state.insert(id, before.clone()),
                    None => state.remove(&id),
                };
                vec![(ObjectId(id), before.as_ref().map(|before| object(id, before.as_ref())))]
            }
            Step::Create => {
                // The one before goes.
                made = Some(index(self.states.len() as u64 + 100));
                vec![(HOST_OBJECT, Some(host(made.as_slice())))]
            }
            Step::Drop => {
                made = None;
                vec![(HOST_OBJECT, Some(host(&[])))]
            }
            other => return self.storage(other),
        };
        self.record(writes, (state, made));
    }

    fn storage(&mut self, step: Step) {
        if let Step::Reopen = step {
            return self.reopen();
        }
        let (writer, committer) = self.open.as_mut().unwrap();
        let identity = writer.reader().identity().clone();
        match step {
            Step::Commit => {
                let head = committer.append(writer.close_batch(), &(Arc::new([]) as Arc<[_]>), 3).unwrap();
                committer.publish(head);
                self.durable = self.states.len() - 1;
            }
            Step::RollBack => {
                let _ = writer.close_batch();
                writer.roll_back();
                self.states.truncate(self.durable + 1);
            }
            Step::Checkpoint => {
                if let Some(plan) = writer.plan_checkpoint(memory(1_000), Keep::default()) {
                    identity.checkpoint(plan).unwrap();
                }
            }
            Step::Work(rows) => _ = identity.index_step(rows).unwrap(),
            _ => unreachable!("these are transactions"),
        }
    }

    /// Whatever is asked comes out as a walk over all objects says, page by page.
    fn check(&mut self, relation: Relation, value: &Value, limit: usize) {
        let condition = Condition { relation, value: value.clone() };
        for (newest, (state, made)) in [(false, &self.states[self.durable]), (true, self.states.last().unwrap())] {
            let Some(index) = made else { continue };
            let (writer, _) = self.open.as_mut().unwrap();
            for condition in [None, Some(&condition)] {
                let mut expected: Vec<_> = state
                    .iter()
                    .filter(|(id, _)| !id.is_multiple_of(4))
                    .filter_map(|(id, held)| Some((held.as_ref().filter(|it| has_order(it))?, *id)))
                    .filter(|(held, _)| condition.is_none_or(|it| holds(it, held)))
                    .collect();
                expected.sort_by(|(a, one), (b, other)| key(a).cmp(&key(b)).then(one.cmp(other)));
                let expected: Vec<u64> = expected.into_iter().map(|(_, id)| id).collect();
                let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
                let complete = loop {
                    let wanted = Wanted { index, condition, after: after.as_deref(), limit };
                    let page = match newest {
                        true => writer.reader().matching_newest(wanted).unwrap(),
                        false => writer.reader().matching(wanted).unwrap(),
                    };
                    let Some(page) = page else { break false };
                    assert!(page.objects.len() <= limit);
                    found.extend(page.objects.iter().map(|(id, _)| id.0));
                    after = page.next;
                    if after.is_none() {
                        break true;
                    }
                };
                self.answers += usize::from(complete);
                assert!(!complete || found == expected, "{condition:?}: {found:?}, not {expected:?} of {state:?}");
            }
        }
    }
}

fn key(value: &Value) -> Vec<u8> {
    order::ValueKey::of(&value.encode()).unwrap().unwrap().bytes
}

fn holds(condition: &Condition, held: &Value) -> bool {
    let order = order::compare(&held.encode(), &condition.value.encode()).unwrap();
    match (condition.relation, order) {
        (_, None) => false,
        (Relation::Less, Some(order)) => order == Order::Less,
        (Relation::AtMost, Some(order)) => order != Order::Greater,
        (Relation::Equal, Some(order)) => order == Order::Equal,
        (Relation::AtLeast, Some(order)) => order != Order::Less,
        (Relation::Greater, Some(order)) => order == Order::Greater,
    }
}

fn relation() -> impl Strategy<Value = Relation> {
    use Relation::{AtLeast, AtMost, Equal, Greater, Less};
    prop_oneof![Just(Less), Just(AtMost), Just(Equal), Just(AtLeast), Just(Greater)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_index_says_what_the_objects_say(
        steps in proptest::collection::vec((step(), relation(), value(), 1..5_usize), 1..60),
    ) {
        let mut subject = Subject::new();
        let mut at = PatrolAt::default();
        for (step, relation, value, limit) in steps {
            subject.step(step);
            patrol::goes_on(subject.open.as_ref().unwrap().0.identity(), &mut at);
            subject.check(relation, &value, limit);
        }
        // At last everything is brought forward, and then the index has to answer.
        for step in [Step::Commit, Step::Checkpoint] {
            subject.step(step);
        }
        while subject.open.as_ref().unwrap().0.identity().index_step(3).unwrap() {}
        let (answers, made) = (subject.answers, subject.states.last().unwrap().1.is_some());
        subject.check(Relation::AtLeast, &Value::from(2), 3);
        prop_assert!(!made || subject.answers > answers);
        subject.open = None;
        prop_assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, vec![]);
    }
}

/// A host that ends in the middle of building an index goes on where it was.
#[test]
fn an_index_is_built_in_steps_across_restarts() {
    let mut subject = Subject::new();
    for _ in 0..3 {
        subject.step(Step::Write((1..OBJECTS).map(|id| (id, Some(Value::from(id)))).collect()));
    }
    for step in [Step::Create, Step::Commit] {
        subject.step(step);
    }
    let number = subject.states.last().unwrap().1.as_ref().unwrap().number;
    let state = |subject: &Subject| subject.open.as_ref().unwrap().0.identity().index_state(number).unwrap();
    assert_eq!(state(&subject), None);
    subject.step(Step::Checkpoint);
    let mut from = vec![state(&subject)];
    while from.last().unwrap() != &Some(IndexState::Complete) {
        subject.step(Step::Work(5));
        subject.step(Step::Reopen);
        subject.check(Relation::AtMost, &Value::from(7), 4);
        from.push(state(&subject));
    }
    let building = [1, 6, 11].map(|id| Some(IndexState::Building(ObjectId(id))));
    assert_eq!(from[..3], building);
    assert_eq!(subject.answers, 4, "asked with and without a condition, newest and durable");
}

/// Whatever bit of an index's rows is flipped, verification finds it.
#[test]
fn one_flipped_bit_of_an_index_is_found() {
    let mut subject = Subject::new();
    for step in
        [Step::Create, Step::Write((1..OBJECTS).map(|id| (id, Some(Value::Text(format!("needle{id}"))))).collect())]
    {
        subject.step(step);
    }
    for step in [Step::Commit, Step::Checkpoint, Step::Work(100), Step::Work(100)] {
        subject.step(step);
    }
    let number = subject.states.last().unwrap().1.as_ref().unwrap().number;
    subject.open = None;
    assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, []);
    let file = subject.place.objects.join("data.mdb");
    let pristine = std::fs::read(&file).unwrap();
    // The value with its end, as it stands in keys alone.
    let key = row_key(number, &key(&Value::Text("needle7".to_owned())), ObjectId(7));
    let place = pristine.windows(key.len()).rposition(|it| it == key).expect("the row is there");
    // The key but for the index's number, and the seal behind it.
    let mut found = 0;
    for byte in place + 8..place + key.len() + 8 {
        for bit in 0..8 {
            let mut damaged = pristine.clone();
            damaged[byte] ^= 1 << bit;
            std::fs::write(&file, &damaged).unwrap();
            found += u32::from(!verify(&subject.place, &mut |_, _| {}).unwrap().damage.is_empty());
        }
    }
    assert_eq!(found as usize, (key.len() - 8 + 8) * 8);
}
