//! The identity against a plain model of it, through every order of batches, commits, failures, checkpoints and reopening.

mod importing;
mod patrol;
mod secondary;
mod times;
mod undo;

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use theseus_value::ObjectId;

use super::*;

type State = (BTreeMap<u64, Option<u8>>, BTreeMap<String, Option<u64>>);

#[derive(Clone, Debug)]
enum Step {
    /// Writes some objects (none: deletes), and perhaps names one.
    Transaction {
        writes: Vec<(u8, Option<u8>)>,
        name: Option<(u8, Option<u8>)>,
        request: Option<u8>,
    },
    Commit,
    /// The storage refuses what is not durable.
    RollBack,
    Checkpoint,
    Reopen,
    /// Packs the history up to this transaction of those there are, and removes what was packed away or some of it.
    Pack {
        until: usize,
        trims: bool,
    },
    /// Nothing is left of the object table.
    LoseTable,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (1..8_u8, proptest::option::weighted(0.9, any::<u8>()));
    let name = (0..4_u8, proptest::option::weighted(0.8, 1..8_u8));
    let writes = proptest::collection::vec(write, 0..4);
    let request = proptest::option::weighted(0.3, 0..6_u8);
    let transaction = (writes, proptest::option::weighted(0.3, name), request)
        .prop_map(|(writes, name, request)| Step::Transaction { writes, name, request });
    prop_oneof![
        12 => transaction,
        4 => Just(Step::Commit),
        1 => Just(Step::RollBack),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(until, trims)| Step::Pack { until, trims }),
        1 => Just(Step::LoseTable),
    ]
}

fn record(content: u8) -> Arc<ObjectRecord> {
    let mut slots = Vec::new();
    let mut writer = theseus_value::raw::Writer::new(&mut slots);
    writer.map(1);
    writer.text("content");
    writer.uint(content.into());
    let schema = schema(content);
    Arc::new(ObjectRecord { behavior: "test.Thing".into(), schema, parents: [].into(), slots: slots.into() })
}

/// Objects are now of this schema, now of that.
fn schema(content: u8) -> u32 {
    1 + u32::from(content % 3)
}

/// The last byte of an encoded map of one small integer is that integer, in its head or after it.
fn content(version: Option<Version>) -> Option<u8> {
    let record = version?.record.clone()?;
    record.slots.last().copied()
}

/// An open identity and what it ought to hold after each transaction.
struct Subject {
    _folder: tempfile::TempDir,
    place: Place,
    open: Option<(Writer, Committer)>,
    states: Vec<State>,
    durable: usize,
    requests: BTreeMap<u8, usize>,
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
        let mut subject = Subject {
            _folder: folder,
            place,
            open: None,
            states: vec![State::default()],
            durable: 0,
            requests: BTreeMap::new(),
        };
        subject.reopen();
        subject
    }

    fn reopen(&mut self) {
        self.open = None;
        self.forget();
        let Opened { identity, resume } = Identity::open(&self.place, false).unwrap();
        assert_eq!(identity.head().tid.0 as usize, self.durable);
        assert_eq!(resume.objects(), self.states[self.durable].0.values().flatten().count() as u64);
        let incarnation = Incarnation(resume.incarnation.0 + 1);
        self.open = Some((Writer::new(identity.clone(), &resume), Committer::new(identity, incarnation)));
    }

    fn forget(&mut self) {
        self.states.truncate(self.durable + 1);
        self.requests.retain(|_, tid| *tid <= self.durable);
    }

    fn step(&mut self, step: Step) {
        let (writer, committer) = self.open.as_mut().unwrap();
        match step {
            Step::Transaction { writes, name, request } => {
                let mut state = self.states.last().unwrap().clone();
                let writes: BTreeMap<u8, Option<u8>> = writes.into_iter().collect();
                state.0.extend(writes.iter().map(|(object, content)| (u64::from(*object), *content)));
                state.1.extend(name.map(|(name, object)| (format!("name-{name}"), object.map(u64::from))));
                let request = request.filter(|request| {
                    let known = writer.reader().request(&format!("request-{request}"));
                    matches!(known, Ok(None))
                });
                let request_id = request.map(|request| format!("request-{request}"));
                let written: Vec<_> =
                    writes.iter().map(|(object, content)| (ObjectId((*object).into()), content.map(record))).collect();
                let names: Vec<(Arc<str>, _)> = name
                    .map(|(name, object)| (format!("name-{name}").into(), object.map(|id| ObjectId(id.into()))))
                    .into_iter()
                    .collect();
                let outcome = Outcome::Done([0x05].into());
                // A clock that ticks with each transaction.
                let time_us = writer.next_tid().0;
                let draft = Draft {
                    request_id: request_id.as_deref(),
                    target: None,
                    method: "theseus.test",
                    arguments: &[0xa0],
                    time_us,
                    seed: 2,
                    outcome: &outcome,
                    writes: &written,
                    names: &names,
                };
                let tid = writer.record(&draft).unwrap();
                self.states.push(state);
                assert_eq!(tid.0 as usize, self.states.len() - 1);
                self.requests.extend(request.map(|request| (request, tid.0 as usize)));
            }
            Step::Commit => {
                let batch = writer.close_batch();
                let time_us = batch.last().0;
                let head = committer.append(batch, &(Arc::new([]) as Arc<[_]>), time_us).unwrap();
                committer.publish(head);
                self.durable = self.states.len() - 1;
            }
            Step::RollBack => {
                // The committer refused both the batch before and the open one.
                let _ = writer.close_batch();
                writer.roll_back();
                self.forget();
            }
            Step::Checkpoint => {
                if let Some(plan) = writer.plan_checkpoint(self.place.requests, Keep::default()) {
                    writer.reader().identity().clone().checkpoint(plan).unwrap();
                }
            }
            Step::Reopen => self.reopen(),
            Step::Pack { until, trims } => self.pack(until, trims),
            Step::LoseTable => {
                self.open = None;
                std::fs::remove_dir_all(&self.place.objects).unwrap();
                self.reopen();
            }
        }
    }

    fn pack(&mut self, until: usize, trims: bool) {
        self.step(Step::Checkpoint);
        let (writer, _) = self.open.as_mut().unwrap();
        let identity = writer.reader().identity().clone();
        let until = until % (self.durable + 1);
        let until =
            if until.is_multiple_of(2) { PackUntil::Tid(Tid(until as u64)) } else { PackUntil::TimeUs(until as u64) };
        let Some(plan) = identity.plan_pack(until).unwrap() else { return };
        assert_eq!(plan.first, identity.packed().tid.next());
        match until {
            PackUntil::Tid(tid) => assert!(plan.head.tid <= tid),
            PackUntil::TimeUs(time_us) => assert!(plan.times_us.1 <= time_us),
        }
        assert!(matches!(identity.build_base(&plan, &|| false), Ok(_) | Err(PackError::Interrupted)));
        let base = identity.build_base(&plan, &|| true).unwrap();
        let note = base.mark().note(plan.transactions(), 0);
        let draft = Draft {
            request_id: None,
            target: None,
            method: PACK,
            arguments: &note,
            time_us: writer.next_tid().0,
            seed: 0,
            outcome: &Outcome::Done([].into()),
            writes: &[],
            names: &[],
        };
        writer.record(&draft).unwrap();
        writer.put_in_force(base);
        self.states.push(self.states.last().unwrap().clone());
        self.step(Step::Commit);
        assert_eq!(identity.packed(), plan.head);
        identity.remove_other_bases().unwrap();
        let (_, committer) = self.open.as_mut().unwrap();
        while trims && committer.trim_due().is_some() {
            committer.trim().unwrap();
        }
    }

    fn check(&mut self, at: usize) {
        let (writer, _) = self.open.as_mut().unwrap();
        let mut reader = Reader::new(writer.reader().identity().clone());
        let packed = reader.identity().packed().tid.0 as usize;
        let is_packed = |error: &StorageError| matches!(error, StorageError::Packed { .. });
        for object in 1..8 {
            let id = ObjectId(object);
            let expected = |state: &State| state.0.get(&object).copied().flatten();
            let newest = content(writer.reader().newest(id).unwrap());
            assert_eq!(newest, expected(self.states.last().unwrap()), "object {object}, newest");
            let durable = content(reader.snapshot(id, Tid(self.durable as u64)).unwrap());
            assert_eq!(durable, expected(&self.states[self.durable]), "object {object}, durable");
            let at = at % (self.durable + 1);
            match reader.as_of(id, Tid(at as u64)) {
                Ok(past) => assert_eq!(content(past), expected(&self.states[at]), "object {object} as of {at}"),
                Err(error) => assert!(at < packed && is_packed(&error), "object {object} as of {at}: {error}"),
            }
            if self.durable + 1 < self.states.len() {
                continue;
            }
            for wanted in 1..=3 {
                // Back to where it was of that schema, or was not.
                let states = self.states[packed..].iter().rev().map(expected);
                let former = states.take_while(Option::is_some).flatten().find(|content| schema(*content) == wanted);
                // What a reader has seen it may remember longer than it is there.
                let reader = if packed == 0 { writer.reader() } else { &mut reader };
                let found = reader.last_in_schema(id, wanted).unwrap();
                assert_eq!(found.and_then(|record| record.slots.last().copied()), former, "object {object}");
            }
        }
        for name in 0..4 {
            let name = format!("name-{name}");
            let expected = |state: &State| state.1.get(&name).copied().flatten().map(ObjectId);
            assert_eq!(writer.reader().name(&name).unwrap(), expected(self.states.last().unwrap()));
            assert_eq!(
                reader.snapshot_name(&name, Tid(self.durable as u64)).unwrap(),
                expected(&self.states[self.durable])
            );
            let at = at % (self.durable + 1);
            match reader.name_as_of(&name, Tid(at as u64)) {
                Ok(past) => assert_eq!(past, expected(&self.states[at]), "{name} as of {at}"),
                Err(error) => assert!(at < packed && is_packed(&error), "{name} as of {at}: {error}"),
            }
        }
        // Listed in pages, as of the head and as of the past.
        for at in [self.durable, (at % (self.durable + 1)).max(packed)] {
            let (mut listed, mut after) = (Vec::new(), None);
            loop {
                let page = reader.names("name-", after.as_deref(), Tid(at as u64), 1 + at % 3).unwrap();
                listed.extend(page.names);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let expected = self.states[at].1.iter();
            let expected: Vec<_> = expected.filter_map(|(name, id)| Some((name.clone(), ObjectId((*id)?)))).collect();
            assert_eq!(listed, expected, "as of {at} of {}", self.durable);
        }
        for request in 0..6 {
            let expected = self.requests.get(&request).copied();
            match writer.reader().request(&format!("request-{request}")) {
                Ok(known) => assert_eq!(known.map(|(known, _)| known.tid.0 as usize), expected),
                Err(error) => assert!(expected.unwrap() <= packed && is_packed(&error), "{error}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The newest state, the durable state and any past state are those of the model after every step, and the identity
    /// that comes of it all is whole.
    #[test]
    fn an_identity_is_what_its_transactions_made_it(
        steps in proptest::collection::vec((step(), any::<usize>()), 1..60),
    ) {
        let mut subject = Subject::new();
        let mut patrol = PatrolAt::default();
        for (step, at) in steps {
            subject.step(step);
            subject.check(at);
            patrol::goes_on(subject.open.as_ref().unwrap().0.identity(), &mut patrol);
        }
        let packed = subject.open.take().unwrap().0.reader().identity().packed().tid.0 as usize;
        let verified = verify(&subject.place, &mut |_, _| {}).unwrap();
        prop_assert_eq!(&verified.damage, &[]);
        prop_assert_eq!(verified.transactions as usize + packed, subject.durable);
    }
}

/// While batches are committed and the table is brought forward, a snapshot shows every object as the last transaction of the
/// snapshot left it, and never an older one.
#[test]
fn snapshots_are_exact_while_everything_moves() {
    let subject = Subject::new();
    let (mut writer, mut committer) = subject.open.unwrap();
    let identity = writer.reader().identity().clone();
    let stop = AtomicBool::new(false);
    let moving = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let mut reader = Reader::new(identity.clone());
                while moving() {
                    let head = identity.head().tid;
                    for object in 1..5 {
                        let version = reader.snapshot(ObjectId(object), head).unwrap();
                        assert_eq!(version.map_or(Tid::NONE, |version| version.tid), head, "object {object}");
                    }
                    let named = reader.snapshot_name("name", head).unwrap();
                    assert!(head == Tid::NONE || named.is_some());
                    reader.refresh();
                }
            });
        }
        let mut plan = None;
        for round in 0..400_u64 {
            for _ in 0..3 {
                let writes: Vec<_> = (1..5).map(|object| (ObjectId(object), Some(record(7)))).collect();
                let names: [(Arc<str>, _); 1] = [("name".into(), Some(ObjectId(1 + round % 4)))];
                let draft = Draft {
                    request_id: None,
                    target: None,
                    method: "theseus.test",
                    arguments: &[],
                    time_us: 1,
                    seed: 2,
                    outcome: &Outcome::Done([].into()),
                    writes: &writes,
                    names: &names,
                };
                writer.record(&draft).unwrap();
            }
            let batch = writer.close_batch();
            let head = committer.append(batch, &(Arc::new([]) as Arc<[_]>), 3).unwrap();
            committer.publish(head);
            // A checkpoint takes some batches' time, as it does beside a busy executor.
            if round % 5 == 0 {
                plan = writer.plan_checkpoint(memory(10), Keep::default());
            } else if round % 5 == 3
                && let Some(plan) = plan.take()
            {
                identity.checkpoint(plan).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Makes an identity with a table and a history of a few batches; answers it and its files.
fn small_identity() -> (Subject, [PathBuf; 2]) {
    let mut subject = Subject::new();
    for round in 0..20_u8 {
        let writes = vec![(1 + round % 7, Some(round)), (1 + (round + 3) % 7, Some(round + 100))];
        subject.step(Step::Transaction { writes, name: Some((round % 4, Some(1))), request: None });
        subject.step(Step::Commit);
    }
    subject.step(Step::Checkpoint);
    subject.open.take().unwrap().1.settle().unwrap();
    let files = [subject.place.history.join("data.mdb"), subject.place.objects.join("data.mdb")];
    (subject, files)
}

/// Whatever bit of a record's hash or content, or of a row's seal or content, is flipped: verification finds it and says
/// where.
#[test]
fn one_flipped_bit_is_found() {
    let (subject, files) = small_identity();
    let whole = verify(&subject.place, &mut |_, _| {}).unwrap();
    assert_eq!(whole.damage, []);
    let marker = b"test.Thing";
    for file in files {
        let pristine = std::fs::read(&file).unwrap();
        let places: Vec<usize> =
            pristine.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|(place, _)| place).collect();
        assert!(places.len() > 5, "the marker stands in every record");
        let mut found = 0;
        for place in &places {
            for bit in 0..8 {
                let mut damaged = pristine.clone();
                damaged[place + 2] ^= 1 << bit;
                std::fs::write(&file, &damaged).unwrap();
                // Pages that a later commit replaced still lie in the file; what nobody reads cannot be damaged.
                match verify(&subject.place, &mut |_, _| {}) {
                    Ok(verified) if verified.damage.is_empty() => {}
                    Ok(verified) => {
                        found += 1;
                        let place = &verified.damage[0].place;
                        assert!(place.contains("history record") || place.contains("object "), "{place}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(found >= 7 * 8, "only {found} flips were found in {}", file.display());
        std::fs::write(&file, &pristine).unwrap();
    }
    assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap(), whole);
}

#[test]
fn a_cut_history_is_found_by_the_table_and_by_a_kept_head() {
    let (mut subject, _) = small_identity();
    subject.reopen();
    let head = subject.open.as_mut().unwrap().0.reader().identity().head();
    subject.open = None;
    let shorter = Subject::new();
    // Another, empty history under the same table.
    for name in ["data.mdb", "lock.mdb", "wal"] {
        std::fs::copy(shorter.place.history.join(name), subject.place.history.join(name)).unwrap();
    }
    let verified = verify(&subject.place, &mut |_, _| {}).unwrap();
    assert!(verified.damage.iter().any(|damage| damage.place == "history"), "{:?}", verified.damage);
    assert!(matches!(Identity::open(&subject.place, true), Err(StorageError::Damaged { .. })));
    std::fs::remove_dir_all(&subject.place.objects).unwrap();
    let opened = Identity::open(&subject.place, false).unwrap();
    assert!(!opened.identity.continues(head).unwrap());
}

#[test]
fn a_lost_table_is_made_again_from_the_history() {
    let (mut subject, _) = small_identity();
    std::fs::remove_dir_all(&subject.place.objects).unwrap();
    subject.reopen();
    subject.check(7);
    subject.step(Step::Checkpoint);
    subject.check(11);
    subject.open = None;
    assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, []);
}

/// Every row of the object table.
fn rows(place: &Place) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    Table::open(&place.objects, place.objects_bytes_max, false, true).unwrap().read().unwrap().dump()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A table that is made again has the very rows that the checkpoints made, also of request ids that were forgotten and used again.
    #[test]
    fn a_rebuilt_table_has_the_very_same_rows(steps in proptest::collection::vec(step(), 1..60), request_ids_max in 1..6_u64) {
        let mut subject = Subject::new();
        subject.place.requests = memory(request_ids_max);
        for step in steps {
            subject.step(step);
        }
        subject.step(Step::Commit);
        subject.step(Step::Checkpoint);
        subject.open = None;
        let before = rows(&subject.place);
        let head = verify(&subject.place, &mut |_, _| {}).unwrap().head;
        for lost in [false, true] {
            if lost {
                std::fs::remove_dir_all(&subject.place.objects).unwrap();
            }
            let rebuilt = rebuild(&subject.place, &mut |_, _| true).unwrap().unwrap();
            prop_assert_eq!(rebuilt.head, head);
            prop_assert_eq!(rebuilt.objects as usize, subject.states[subject.durable].0.values().flatten().count());
            prop_assert_eq!(&rows(&subject.place), &before);
        }
        prop_assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, []);
    }
}

/// What is made of a damaged history would be a guess.
#[test]
fn a_damaged_history_makes_no_table() {
    let (subject, [history, _]) = small_identity();
    let before = rows(&subject.place);
    let pristine = std::fs::read(&history).unwrap();
    let marker = b"test.Thing";
    let places = pristine.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|(place, _)| place);
    let mut refused = Vec::new();
    for place in places {
        let mut damaged = pristine.clone();
        damaged[place] ^= 1;
        std::fs::write(&history, &damaged).unwrap();
        match rebuild(&subject.place, &mut |_, _| true) {
            // Free space of the file.
            Ok(rebuilt) => assert_eq!(rebuilt.unwrap().transactions, 20),
            Err(RebuildError::History { last_good, .. }) => refused.push(last_good.0),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(rows(&subject.place), before);
    }
    refused.sort();
    refused.dedup();
    assert_eq!(refused, (0..20).collect::<Vec<_>>(), "each record was damaged once");
}

#[test]
fn old_request_ids_are_forgotten_oldest_first() {
    let mut subject = Subject::new();
    for request in 0..6 {
        subject.step(Step::Transaction { writes: vec![], name: None, request: Some(request) });
        subject.step(Step::Commit);
    }
    assert_eq!(known_after(&mut subject, memory(2)), [false, false, false, false, true, true]);
}

#[test]
fn request_ids_are_forgotten_after_their_time() {
    let mut subject = Subject::new();
    let transact = |subject: &mut Subject, request| {
        subject.step(Step::Transaction { writes: vec![], name: None, request });
        subject.step(Step::Commit);
    };
    (0..6).for_each(|request| transact(&mut subject, Some(request)));
    let fourth = RequestMemory { count_max: 10, since_us: 4 };
    assert_eq!(known_after(&mut subject, fourth), [false, false, false, true, true, true]);
    transact(&mut subject, None);
    assert_eq!(known_after(&mut subject, RequestMemory { count_max: 10, since_us: u64::MAX }), [false; 6]);
}

/// Which of six requests are known after a checkpoint.
fn known_after(subject: &mut Subject, memory: RequestMemory) -> [bool; 6] {
    let (writer, _) = subject.open.as_mut().unwrap();
    let plan = writer.plan_checkpoint(memory, Keep::default()).unwrap();
    writer.reader().identity().clone().checkpoint(plan).unwrap();
    [0, 1, 2, 3, 4, 5].map(|request| writer.reader().request(&format!("request-{request}")).unwrap().is_some())
}

/// Remembers so many requests, whenever they were.
fn memory(count_max: u64) -> RequestMemory {
    RequestMemory { count_max, since_us: 0 }
}

/// A verification that is stopped at any place and gone on with finds what one in one go finds.
#[test]
fn an_interrupted_verification_goes_on_where_it_was() {
    let (subject, [history, _]) = small_identity();
    let state = subject.place.history.with_file_name("verify.state");
    let pristine = std::fs::read(&history).unwrap();
    let marker = b"test.Thing";
    let last = pristine.windows(marker.len()).rposition(|it| it == marker).unwrap();
    for damaged in [false, true] {
        let mut bytes = pristine.clone();
        bytes[last] ^= u8::from(damaged);
        std::fs::write(&history, &bytes).unwrap();
        let whole = verify(&subject.place, &mut |_, _| {}).unwrap();
        for stop_after in 1..20 {
            _ = std::fs::remove_file(&state);
            let (mut steps, mut resumed, mut turns) = (0, None, 0);
            let found = loop {
                turns += 1;
                let until = steps + stop_after;
                let mut progress = |_: Progress| {
                    steps += 1;
                    steps < until
                };
                let options = VerifyOptions {
                    state: Some(&state),
                    resume: Some(&mut |_| {}),
                    kept_head: None,
                    progress: &mut progress,
                };
                match verify_with(&subject.place, options).unwrap() {
                    Verification::Done(found) => break *found,
                    Verification::Interrupted(at) => resumed = Some(at),
                }
                assert!(turns < 100, "it makes no progress");
            };
            assert_eq!(found.resumed_at, resumed);
            assert_eq!(Verified { resumed_at: None, ..found }, whole, "stopped after {stop_after}");
        }
        // A note that is not what was written is none.
        let stop = &mut |_| false;
        let options = VerifyOptions { state: Some(&state), resume: Some(&mut |_| {}), kept_head: None, progress: stop };
        let stopped = verify_with(&subject.place, options).unwrap();
        assert!(matches!(stopped, Verification::Interrupted(_)));
        let mut note = std::fs::read(&state).unwrap();
        let place = note.len() / 2;
        note[place] ^= 1;
        std::fs::write(&state, note).unwrap();
        let go_on = &mut |_| true;
        let options =
            VerifyOptions { state: Some(&state), resume: Some(&mut |_| {}), kept_head: None, progress: go_on };
        let Verification::Done(found) = verify_with(&subject.place, options).unwrap() else { panic!() };
        assert_eq!(*found, whole);
    }
}

#[test]
fn a_kept_head_is_proved() {
    let (mut subject, _) = small_identity();
    subject.reopen();
    let head = subject.open.as_mut().unwrap().0.reader().identity().head();
    let steps = |subject: &mut Subject, count: u8| {
        for content in 0..count {
            subject.step(Step::Transaction { writes: vec![(1, Some(content))], name: None, request: None });
        }
        subject.step(Step::Commit);
    };
    steps(&mut subject, 3);
    subject.open = None;
    let judge = |kept: Head| {
        let options = VerifyOptions { state: None, resume: None, kept_head: Some(kept), progress: &mut |_| true };
        let Verification::Done(found) = verify_with(&subject.place, options).unwrap() else { panic!() };
        assert_eq!(found.damage, []);
        found.kept_head.unwrap()
    };
    assert_eq!(judge(head), KeptHead::Part);
    assert_eq!(judge(Head::default()), KeptHead::Part);
    let other = Head { hash: RecordHash([7; 32]), ..head };
    assert_eq!(judge(other), KeptHead::Other { hash: head.hash });
    assert_eq!(judge(Head { tid: head.tid.next(), ..head }), KeptHead::NoEnd);
    assert_eq!(judge(Head { tid: Tid(head.tid.0 + 4), ..head }), KeptHead::Beyond);
}

/// What the making of an identity left that was cut off is not in the way of another one; a history is.
#[test]
fn an_identity_is_made_where_the_remains_of_one_are() {
    let (subject, [_, objects]) = small_identity();
    let place = &subject.place;
    assert!(matches!(Identity::create(place), Err(StorageError::Io { .. })));
    assert_eq!(verify(place, &mut |_, _| {}).unwrap().damage, []);
    // A table or a base is more than remains: somebody may have its history elsewhere.
    let partial = place.history.with_extension("partial");
    std::fs::remove_dir_all(&partial).unwrap();
    std::fs::rename(&place.history, &partial).unwrap();
    let is_lost = || matches!(Identity::is_there(place), Err(StorageError::Damaged { .. }));
    assert!(is_lost() && Identity::remove_remains(place).is_err() && objects.exists());
    std::fs::remove_dir_all(&place.objects).unwrap();
    std::fs::create_dir_all(place.bases.join("5")).unwrap();
    assert!(is_lost() && Identity::remove_remains(place).is_err());
    std::fs::remove_dir(place.bases.join("5")).unwrap();
    // The history had no name yet, or half of it was not written.
    let data = std::fs::read(partial.join("data.mdb")).unwrap();
    for remains in [&data[..], &data[..4096], &[0; 8192]] {
        std::fs::create_dir_all(&partial).unwrap();
        std::fs::write(partial.join("data.mdb"), remains).unwrap();
        assert!(!Identity::is_there(place).unwrap());
        let id = Identity::create(place).unwrap();
        let verified = verify(place, &mut |_, _| {}).unwrap();
        assert_eq!((verified.identity, verified.rows, &verified.damage[..]), (id, 0, &[][..]));
        let opened = Identity::open(place, false).unwrap();
        assert_eq!(opened.resume.next_object(), 1);
        drop(opened);
        std::fs::remove_dir_all(&place.history).unwrap();
        std::fs::remove_dir_all(&place.objects).unwrap();
    }
}
