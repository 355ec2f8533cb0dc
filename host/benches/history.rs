//! How long it takes to read an object and a name as of a random transaction, by how many versions they have.
//!
//! Prints one JSON line for each number of versions. The cost is to be logarithmic in that number.

use std::{sync::Arc, time::Instant};

use serde_json::json;
use theseus_host::identity::{
    Committer, Draft, Identity, Incarnation, ObjectRecord, Opened, Outcome, Place, Reader, RequestMemory, Tid, Writer,
};
use theseus_value::{ObjectId, Value};

const OBJECT: ObjectId = ObjectId(1);
const NAME: &str = "visits";
const BATCH: u64 = 1_000;
const READS: u64 = 20_000;
/// How many transactions of an object's history are asked for at once.
const LISTED: usize = 20;

fn main() {
    let most: u64 = std::env::var("VERSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    for versions in [1, 1_000, most] {
        measure(versions);
    }
}

fn measure(versions: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = Place {
        history: folder.path().join("history"),
        objects: folder.path().join("objects"),
        bases: folder.path().join("base"),
        history_bytes_max: 16 << 30,
        objects_bytes_max: 1 << 30,
        requests: RequestMemory { count_max: 1, since_us: 0 },
    };
    Identity::create(&place).expect("a new identity");
    let identity = fill(&place, versions);
    let mut reader = Reader::new(identity);
    let mut seed = 0_u64;
    let mut random = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Tid(1 + (seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) % versions)
    };
    let mut timed = |read: &mut dyn FnMut(&mut Reader, Tid)| {
        let (before, started) = (reader.records_read(), Instant::now());
        for _ in 0..READS {
            read(&mut reader, random());
        }
        let us = started.elapsed().as_secs_f64() * 1e6 / READS as f64;
        (us, (reader.records_read() - before) as f64 / READS as f64)
    };
    let (object_us, object_records) = timed(&mut |reader, at| {
        let version = reader.as_of(OBJECT, at).expect("the storage works").expect("it is there");
        assert_eq!((version.tid, version.number), (at, at.0), "each transaction wrote it");
    });
    let (name_us, name_records) = timed(&mut |reader, at| {
        let object = reader.name_as_of(NAME, at).expect("the storage works");
        assert_eq!(object, Some(ObjectId(at.0)), "each transaction gave it to another");
    });
    let (listed_us, listed_records) = timed(&mut |reader, from| {
        let listed = reader.versions(OBJECT, from, LISTED).expect("the storage works");
        assert_eq!(listed.first(), Some(&from), "each transaction wrote it");
    });
    let line = json!({
        "bench": "history", "versions": versions, "reads": READS,
        "object_us": object_us, "object_records": object_records,
        "name_us": name_us, "name_records": name_records,
        "listed_us": listed_us, "listed_records": listed_records, "listed": LISTED,
    });
    println!("{line}");
}

/// Writes one object and gives one name so many times.
fn fill(place: &Place, versions: u64) -> Arc<Identity> {
    let Opened { identity, resume } = Identity::open(place, false).expect("the identity opens");
    let mut writer = Writer::new(identity.clone(), &resume);
    let mut committer = Committer::new(identity.clone(), Incarnation(1));
    let generations: Arc<[_]> = Arc::new([("counter".to_owned(), [7; 32])]);
    let name: Arc<str> = NAME.into();
    for n in 1..=versions {
        let slots = Value::Map([("count".to_owned(), Value::Int(n.into()))].into_iter().collect()).encode();
        let record = ObjectRecord {
            behavior: "counter.Counter".into(),
            schema: 1,
            parents: [].into(),
            slots: slots.as_slice().into(),
        };
        let draft = Draft {
            request_id: None,
            target: Some(OBJECT),
            method: "increment",
            arguments: &[],
            time_us: 1_700_000_000_000_000 + n,
            seed: n,
            outcome: &Outcome::Done([0x05].into()),
            writes: &[(OBJECT, Some(Arc::new(record)))],
            names: &[(name.clone(), Some(ObjectId(n)))],
        };
        writer.record(&draft).expect("the storage works");
        if n % BATCH == 0 || n == versions {
            let head = committer.append(writer.close_batch(), &generations, 1).expect("the storage works");
            committer.publish(head);
        }
    }
    identity
}
