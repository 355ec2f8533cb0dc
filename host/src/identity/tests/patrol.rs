//! The patrol: what it finds, and that it finds nothing where nothing is wrong.

use super::*;
use crate::identity::{
    history::HistoryView,
    lmdb::Db,
    patrol::go_through_rows,
    secondary::row_key,
    table::{NAMES, RECENT, REQUESTS, RequestRow, SECONDARY, TableView, seal},
};

/// Takes a step, in which nothing is to be found.
pub(super) fn goes_on(identity: &Identity, at: &mut PatrolAt) {
    step(identity, at, 700);
}

fn step(identity: &Identity, at: &mut PatrolAt, bytes_max: u64) -> bool {
    let step = identity.patrol(at, bytes_max).unwrap();
    assert_eq!(step.damage, []);
    step.round
}

/// A round; none if the identity cannot even be opened: a damaged head is found before there is anything to go round in.
fn round(place: &Place) -> Option<Vec<Damage>> {
    let Opened { identity, .. } = Identity::open(place, true).ok()?;
    let (mut at, mut damage) = (PatrolAt::default(), Vec::new());
    loop {
        let step = identity.patrol(&mut at, 300).unwrap();
        damage.extend(step.damage);
        if step.round {
            assert_eq!(at, PatrolAt::default());
            return Some(damage);
        }
    }
}

/// Going round and round finds what is damaged, in the history and in the table, and passes over it.
#[test]
fn a_patrol_finds_damage() {
    let (subject, files) = small_identity();
    assert_eq!(round(&subject.place), Some(vec![]));
    let marker = b"test.Thing";
    for (file, expected) in files.iter().zip(["the history record after", "object "]) {
        let pristine = std::fs::read(file).unwrap();
        let places = pristine.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|(place, _)| place);
        let mut found = 0;
        for place in places {
            let mut damaged = pristine.clone();
            damaged[place] ^= 1;
            std::fs::write(file, damaged).unwrap();
            let damage = round(&subject.place).unwrap_or_default();
            found += usize::from(damage.iter().any(|damage| damage.place.starts_with(expected)));
        }
        assert!(found >= 7, "only {found} in {}", file.display());
        std::fs::write(file, pristine).unwrap();
    }
}

/// The number of the index in [`furnished`].
const INDEX: IndexNumber = IndexNumber(100);

/// A stopped identity that has a name, a remembered request id and an index, and of each some more beside it.
fn furnished() -> Subject {
    let mut subject = Subject::new();
    let index = IndexDefinition { number: INDEX, behavior: "test.Thing".into(), slot: "content".into() };
    let mut slots = Vec::new();
    let list = [(INDEXES_SLOT.to_owned(), IndexDefinition::write_all(&[index]))];
    slots.extend(theseus_value::Value::Map(list.into_iter().collect()).encode());
    let host = ObjectRecord { behavior: HOST_BEHAVIOR.into(), schema: 1, parents: [].into(), slots: slots.into() };
    let (writer, _) = subject.open.as_mut().unwrap();
    let draft = Draft {
        request_id: None,
        target: None,
        method: "theseus.test",
        arguments: &[],
        time_us: 1,
        seed: 2,
        outcome: &Outcome::Done([].into()),
        writes: &[(HOST_OBJECT, Some(Arc::new(host)))],
        names: &[],
    };
    writer.record(&draft).unwrap();
    subject.states.push(State::default());
    for number in 1..6 {
        subject.step(transaction(number));
    }
    subject.step(Step::Commit);
    subject.step(Step::Checkpoint);
    while subject.open.as_ref().unwrap().0.identity().index_step(3).unwrap() {}
    subject.open = None;
    assert_eq!(verify(&subject.place, &mut |_, _| {}).unwrap().damage, []);
    assert_eq!(round(&subject.place), Some(vec![]));
    subject
}

/// Transaction `1 + number` of [`furnished`]: an object of that number that holds it, a name for it, and a request id.
fn transaction(number: u8) -> Step {
    Step::Transaction {
        writes: vec![(number, Some(number))],
        name: Some((number, Some(number))),
        request: Some(number),
    }
}

/// The rows of transaction 4: the database, the key, and where damage of it is found.
fn rows() -> [(Db, Vec<u8>, &'static str); 4] {
    // The number 3 as a value of an index: a float, and nothing above it.
    let three = [&[2][..], &(3_f64.to_bits() | 1 << 63).to_be_bytes(), &[0, 0]].concat();
    [
        (NAMES, b"name-3".to_vec(), "the name `name-3`"),
        (REQUESTS, b"request-3".to_vec(), "the request id `request-3`"),
        (RECENT, 4_u64.to_be_bytes().to_vec(), "the request id of transaction 4"),
        (SECONDARY, row_key(INDEX, &three, ObjectId(3)), "a row of an index"),
    ]
}

/// Whatever byte of a row is damaged, the patrol finds it, and in the row's value it says which row it is.
#[test]
fn a_patrol_finds_a_damaged_byte_in_a_row_of_any_kind() {
    let subject = furnished();
    let file = subject.place.objects.join("data.mdb");
    let pristine = std::fs::read(&file).unwrap();
    for (db, key, place) in rows() {
        let row = {
            let Opened { identity, .. } = Identity::open(&subject.place, true).unwrap();
            [&key[..], identity.table.read().unwrap().entry(db, &key).unwrap().expect("the row is there")].concat()
        };
        // An older page may have it too, which nobody reads any more.
        let at: Vec<_> =
            pristine.windows(row.len()).enumerate().filter(|(_, it)| *it == row).map(|(at, _)| at).collect();
        for byte in 0..row.len() {
            let mut damaged = pristine.clone();
            at.iter().for_each(|at| damaged[at + byte] ^= 4);
            std::fs::write(&file, damaged).unwrap();
            let damage = round(&subject.place).expect("nothing of it is read to open it");
            assert!(!damage.is_empty(), "byte {byte} of {place}");
            assert!(
                byte < key.len() || damage.iter().any(|it| it.place == place),
                "byte {byte} of {place}: {damage:?}"
            );
        }
        std::fs::write(&file, &pristine).unwrap();
    }
    assert_eq!(round(&subject.place), Some(vec![]));
}

/// What a row is made to be, in which database and under which key; none if it is removed. And the place and the problem that are then found.
type Case<'a> = (Db, &'a [u8], Option<Vec<u8>>, &'a str, &'a str);

/// Rows that are whole and say what is not so, or are missing where another says that they are there.
#[test]
fn a_patrol_finds_rows_that_do_not_agree() {
    let sealed = |db, key: &[u8], body: &dyn Fn(&mut Vec<u8>)| {
        let mut value = Vec::new();
        seal(&mut value, db, key, body);
        Some(value)
    };
    let [(names, name, _), (requests, request, _), (recent, fourth, _), (indexes, indexed, _)] = rows();
    let other = |tid: u64, time_us: u64| {
        let fingerprint = fingerprint("theseus.test", &[0xa0]);
        let row = RequestRow { tid: Tid(tid), target: None, fingerprint, time_us };
        sealed(requests, &request, &move |out| row.encode(out))
    };
    let elsewhere = row_key(INDEX, &[1, 1], ObjectId(3));
    let ninth = 9_u64.to_be_bytes();
    let named = Version::first(Tid(4), Some(ObjectId(5)));
    let id = [&[0x81, 0x69][..], b"request-3"].concat();
    let index = "the index of test.Thing by content";
    let cases: [Case<'_>; 9] = [
        (
            names,
            &name,
            sealed(names, &name, &|out| named.encode_row(out)),
            "the name `name-3`",
            "it is not what transaction 4 wrote",
        ),
        (
            names,
            b"none",
            sealed(names, b"none", &|out| named.encode_row(out)),
            "the name `none`",
            "should have written it",
        ),
        (requests, &request, other(4, 5), "the request id `request-3`", "is not that request"),
        (requests, &request, other(3, 3), "the request id `request-3`", "is not that request"),
        (requests, &request, None, "the request id `request-3`", "of transaction 4, and none by id"),
        (recent, &fourth, None, "the request id of transaction 4", "its row by age is missing"),
        (
            recent,
            &ninth,
            sealed(recent, &ninth, &|out| out.extend(&id)),
            "the request id `request-3`",
            "was not that request",
        ),
        (indexes, &indexed, None, index, "object 3 is missing"),
        (indexes, &elsewhere, sealed(indexes, &elsewhere, &|_| {}), index, "that the object does not have"),
    ];
    let subject = furnished();
    let file = subject.place.objects.join("data.mdb");
    let pristine = std::fs::read(&file).unwrap();
    for (db, key, value, place, problem) in cases {
        {
            let Opened { identity, .. } = Identity::open(&subject.place, false).unwrap();
            let mut txn = identity.table.write().unwrap();
            match &value {
                Some(value) => txn.put(db, key, value).unwrap(),
                None => txn.delete(db, key).unwrap(),
            }
            txn.commit().unwrap();
        }
        let damage = round(&subject.place).unwrap();
        assert!(
            damage.iter().any(|it| it.place == place && it.problem.contains(problem)),
            "{place} {problem}: {damage:?}"
        );
        std::fs::write(&file, &pristine).unwrap();
    }
}

/// However much happens between the two looks of a step, at the table and at the history, nothing is taken for damage. The other way round it would
/// be.
#[test]
fn rows_are_held_against_a_history_that_is_not_older() {
    let mut subject = Subject::new();
    subject.place.requests = memory(3);
    let turn = |subject: &mut Subject| {
        (1..6).for_each(|number| subject.step(transaction(number)));
        subject.step(Step::Commit);
        subject.step(Step::Checkpoint);
    };
    let found = |table: &TableView, history: &HistoryView| {
        let mut step = PatrolStep { bytes: 0, damage: Vec::new(), round: false };
        let mut part = PatrolPart::Objects;
        loop {
            let db = part.rows().unwrap();
            assert!(go_through_rows((table, history), part, db, &mut Vec::new(), u64::MAX, &mut step).unwrap());
            match part.following() {
                Some(following) => part = following,
                None => return step.damage.len(),
            }
        }
    };
    turn(&mut subject);
    let identity = subject.open.as_ref().unwrap().0.identity().clone();
    let (table, history) = (identity.table.read().unwrap(), identity.history.read().unwrap());
    turn(&mut subject);
    assert_eq!(found(&table, &identity.history.read().unwrap()), 0);
    // Five objects, as many names, and in both directions the two request ids that had been forgotten and came again.
    assert_eq!(found(&identity.table.read().unwrap(), &history), 5 + 5 + 2 * 2);
    drop((table, history));
    let (packed, table) = (identity.packed(), identity.table.read().unwrap());
    turn(&mut subject);
    assert!(identity.history_on(packed).unwrap().is_some());
    // A base that comes into force between the two looks, although it is no newer than the table was: in both directions it lacks the
    // request ids that were forgotten before it was made.
    subject.step(Step::Pack { until: 10, trims: true });
    let history = identity.history.read().unwrap();
    assert_eq!((history.packed().tid, found(&table, &history)), (Tid(10), 2 * 2));
    assert!(identity.history_on(packed).unwrap().is_none(), "the step is taken again");
    let mut at = PatrolAt { part: PatrolPart::Requests, ..PatrolAt::default() };
    step(&identity, &mut at, u64::MAX);
    assert_eq!(at.part, PatrolPart::RequestsByAge);
}

/// While objects, names and request ids come, change, are forgotten and packed away, nothing is taken for damage.
#[test]
fn a_patrol_finds_nothing_while_everything_moves() {
    let mut subject = Subject::new();
    // Few are remembered, so they are forgotten all the time and used again.
    subject.place.requests = memory(3);
    let identity = subject.open.as_ref().unwrap().0.identity().clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let rounds = threads.spawn(|| {
            let (mut at, mut rounds) = (PatrolAt::default(), 0);
            while !stop.load(Ordering::Relaxed) {
                // A row in a step: so the views are taken all the time, between all that happens.
                rounds += u32::from(step(&identity, &mut at, 1));
            }
            rounds
        });
        let until = Instant::now() + Duration::from_secs(2);
        for turn in 0_u64.. {
            if Instant::now() >= until {
                break;
            }
            for number in 0..4 {
                subject.step(transaction(((turn + number) % 6) as u8 + 1));
            }
            subject.step(Step::Commit);
            if turn % 2 == 0 {
                subject.step(Step::Checkpoint);
            }
            if turn % 8 == 0 {
                subject.step(Step::Pack { until: subject.durable - 3, trims: turn % 16 == 0 });
            }
        }
        stop.store(true, Ordering::Relaxed);
        let rounds = rounds.join().unwrap();
        assert!(rounds > 20, "only {rounds}");
    });
    assert!(identity.packed().tid.0 > 20, "nothing was packed away");
}
