//! Undo against a model: states, and who wrote what when.

use std::collections::{BTreeMap, BTreeSet};

use theseus_value::Value;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Writes objects (none: deletes) and names.
    Write {
        objects: BTreeMap<u64, Option<u8>>,
        names: BTreeMap<u8, Option<u64>>,
    },
    /// Undoes these transactions, counted back from the last.
    Undo(BTreeSet<usize>),
    Checkpoint,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let objects = proptest::collection::btree_map(1..6_u64, proptest::option::weighted(0.8, any::<u8>()), 0..3);
    let names = proptest::collection::btree_map(0..3_u8, proptest::option::weighted(0.7, 1..6_u64), 0..2);
    prop_oneof![
        6 => (objects, names).prop_map(|(objects, names)| Step::Write { objects, names }),
        5 => proptest::collection::btree_set(0..6_usize, 1..4).prop_map(Step::Undo),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

/// What a transaction wrote.
type Keys = (BTreeSet<u64>, BTreeSet<String>);

/// What an undo of some transactions gives, or none if it has to be refused.
fn expected(states: &[State], wrote: &[Keys], undone: &BTreeSet<usize>) -> Option<State> {
    let now = states.last().unwrap();
    let mut next = now.clone();
    // Whoever wrote a key after the first undone transaction that did has to be undone too.
    let before = |wrote_it: &dyn Fn(&Keys) -> bool| {
        let first = undone.iter().copied().find(|tid| wrote_it(&wrote[*tid]))?;
        let all = (first..wrote.len()).filter(|tid| wrote_it(&wrote[*tid])).all(|tid| undone.contains(&tid));
        Some(all.then(|| &states[first - 1]))
    };
    let mut removed = BTreeSet::new();
    for object in 1..6 {
        if let Some(before) = before(&|keys| keys.0.contains(&object)) {
            let before = before?.0.get(&object).copied().flatten();
            if before.is_none() && now.0.get(&object).copied().flatten().is_some() {
                removed.insert(object);
            }
            next.0.insert(object, before);
        }
    }
    let first = *undone.first()?;
    for name in (0..3).map(name) {
        match before(&|keys| keys.1.contains(&name)) {
            Some(before) => {
                let object = before?.1.get(&name).copied().flatten();
                if object.is_some_and(|object| removed.contains(&object)) {
                    return None;
                }
                // One that something else deleted after the name was taken from it is not there to be given it back.
                let taken = undone.iter().copied().find(|tid| wrote[*tid].1.contains(&name))?;
                let deleted = |object: u64| {
                    let is_there = now.0.get(&object).copied().flatten().is_some();
                    let written = wrote.iter().rposition(|keys| keys.0.contains(&object));
                    let is_undone = undone.iter().any(|tid| wrote[*tid].0.contains(&object));
                    !is_there && !is_undone && written.is_some_and(|tid| tid > taken)
                };
                if object.is_some_and(deleted) {
                    return None;
                }
                next.1.insert(name.clone(), object);
            }
            None => {
                let given = (first + 1..wrote.len()).any(|tid| wrote[tid].1.contains(&name));
                let stands_for = now.1.get(&name).copied().flatten();
                if given && stands_for.is_some_and(|object| removed.contains(&object)) {
                    return None;
                }
            }
        }
    }
    Some(next)
}

/// The names that objects which come back had before the first of these transactions that wrote them, and do not have then.
fn lost(states: &[State], wrote: &[Keys], undone: &BTreeSet<usize>, next: &State) -> Vec<(Arc<str>, ObjectId)> {
    let now = states.last().unwrap();
    let mut lost = Vec::new();
    for name in (0..3).map(name) {
        if undone.iter().any(|tid| wrote[*tid].1.contains(&name)) {
            continue;
        }
        for object in 1..6 {
            let Some(first) = undone.iter().find(|tid| wrote[**tid].0.contains(&object)) else { continue };
            let is_in = |state: &State| state.0.get(&object).copied().flatten().is_some();
            let has_it = |state: &State| state.1.get(&name).copied().flatten() == Some(object);
            if !is_in(now) && is_in(next) && has_it(&states[first - 1]) && !has_it(next) {
                lost.push((Arc::from(&*name), ObjectId(object)));
            }
        }
    }
    lost
}

fn name(number: u8) -> String {
    format!("name-{number}")
}

/// Records and commits a transaction.
fn commit(
    subject: &mut Subject,
    writes: &[(ObjectId, Option<Arc<ObjectRecord>>)],
    names: &[(Arc<str>, Option<ObjectId>)],
) {
    let (writer, committer) = subject.open.as_mut().unwrap();
    let draft = Draft {
        request_id: None,
        target: None,
        method: "theseus.create",
        arguments: &[],
        time_us: 1,
        seed: 2,
        outcome: &Outcome::Done([].into()),
        writes,
        names,
    };
    writer.record(&draft).unwrap();
    let batch = writer.close_batch();
    let head = committer.append(batch, &(Arc::new([]) as Arc<[_]>), 3).unwrap();
    committer.publish(head);
    subject.durable += 1;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An undo gives what was there before the undone transactions, says which names that does not give back, and is refused when
    /// and only when later ones depend on them; afterwards every past state is still what it was.
    #[test]
    fn undo_gives_what_was_there_before(steps in proptest::collection::vec(step(), 1..50)) {
        let mut subject = Subject::new();
        let mut wrote: Vec<Keys> = vec![Keys::default()];
        for step in steps {
            match step {
                Step::Write { objects, names } => {
                    let mut state = subject.states.last().unwrap().clone();
                    state.0.extend(objects.iter().map(|(object, content)| (*object, *content)));
                    state.1.extend(names.iter().map(|(number, object)| (name(*number), *object)));
                    let writes: Vec<_> =
                        objects.iter().map(|(object, content)| (ObjectId(*object), content.map(record))).collect();
                    let named: Vec<_> =
                        names.iter().map(|(number, object)| (name(*number).into(), object.map(ObjectId))).collect();
                    commit(&mut subject, &writes, &named);
                    subject.states.push(state);
                    wrote.push((objects.into_keys().collect(), names.into_keys().map(name).collect()));
                }
                Step::Undo(back) => {
                    let last = subject.durable;
                    let undone: BTreeSet<usize> = back.iter().filter(|back| **back < last).map(|back| last - back).collect();
                    let expected = expected(&subject.states, &wrote, &undone);
                    let tids: Vec<Tid> = undone.iter().map(|tid| Tid(*tid as u64)).collect();
                    let plan = subject.open.as_mut().unwrap().0.reader().plan_undo(&tids);
                    let plan = match plan {
                        Err(UndoError::Refused(refusal)) => {
                            prop_assert_eq!(expected, None, "{}", refusal);
                            continue;
                        }
                        plan => plan.unwrap(),
                    };
                    if undone.is_empty() || plan.is_empty() {
                        continue;
                    }
                    prop_assert!(expected.is_some(), "an undo of {:?} was planned: {:?}", undone, plan);
                    let lost = lost(&subject.states, &wrote, &undone, expected.as_ref().unwrap());
                    prop_assert_eq!(&plan.names_lost, &lost, "of an undo of {:?}", undone);
                    let writes: Vec<_> = plan.objects.into_iter().map(|(object, it)| (object, it.record)).collect();
                    let names: Vec<_> = plan.names.into_iter().map(|(name, it)| (name, it.record)).collect();
                    commit(&mut subject, &writes, &names);
                    subject.states.push(expected.unwrap());
                    let keys = writes.iter().map(|(object, _)| object.0).collect();
                    wrote.push((keys, names.iter().map(|(name, _)| name.to_string()).collect()));
                }
                Step::Checkpoint => subject.step(super::Step::Checkpoint),
                Step::Reopen => subject.reopen(),
            }
        }
        for at in 0..=subject.durable {
            subject.check(at);
        }
        subject.open = None;
        prop_assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, &[]);
    }
}

#[test]
fn nothing_that_comes_back_refers_to_what_the_same_undo_removes() {
    let refers = |to: Option<u64>| {
        let value = to.map_or(Value::Null, |id| Value::Ref(ObjectId(id)));
        let slots = Value::Map([("to".to_owned(), value)].into_iter().collect()).encode().into();
        Some(Arc::new(ObjectRecord { behavior: "test.Thing".into(), schema: 1, parents: [].into(), slots }))
    };
    let mut subject = Subject::new();
    for (object, to) in [(1, None), (2, None), (1, Some(2)), (1, None)] {
        commit(&mut subject, &[(ObjectId(object), refers(to))], &[]);
    }
    let mut plan = |tids: &[u64]| {
        let tids: Vec<Tid> = tids.iter().copied().map(Tid).collect();
        subject.open.as_mut().unwrap().0.reader().plan_undo(&tids)
    };
    let refused = plan(&[2, 4]).unwrap_err();
    let expected = UndoRefusal::NeededSince { object: ObjectId(2), what: "object 1".to_owned(), by: Tid(3) };
    assert!(matches!(refused, UndoError::Refused(refused) if refused == expected));
    assert!(plan(&[2, 3, 4]).is_ok() && plan(&[4]).is_ok());
}

#[test]
fn no_name_is_given_back_to_what_the_same_undo_removes_or_what_was_deleted_since() {
    let named = |object: Option<u64>| [("it".into(), object.map(ObjectId))];
    let mut subject = Subject::new();
    commit(&mut subject, &[(ObjectId(1), Some(record(1)))], &[]);
    commit(&mut subject, &[], &named(Some(1)));
    commit(&mut subject, &[], &named(None));
    let plan = |subject: &mut Subject, tids: &[u64]| {
        let tids: Vec<Tid> = tids.iter().copied().map(Tid).collect();
        match subject.open.as_mut().unwrap().0.reader().plan_undo(&tids) {
            Err(UndoError::Refused(refusal)) => Some(refusal),
            plan => plan.map(|_| None).unwrap(),
        }
    };
    let what = "the name `it`".to_owned();
    let needed = UndoRefusal::NeededSince { object: ObjectId(1), what: what.clone(), by: Tid(2) };
    assert_eq!(plan(&mut subject, &[1, 3]), Some(needed));
    assert_eq!((plan(&mut subject, &[3]), plan(&mut subject, &[1, 2, 3])), (None, None));
    commit(&mut subject, &[(ObjectId(1), None)], &[]);
    let deleted = UndoRefusal::DeletedSince { what, object: ObjectId(1), by: Tid(4) };
    assert_eq!(plan(&mut subject, &[3]), Some(deleted));
    assert_eq!(plan(&mut subject, &[3, 4]), None);
}
