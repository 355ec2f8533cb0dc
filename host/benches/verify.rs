//! How fast an identity is verified: every hash, link and pointer of the history, and the object table against it; and how much memory that
//! takes.
//!
//! Prints one JSON line. The bound is 300 MB of history a second, read from the page cache. The verification is a process of its own, so its memory
//! is not that of whoever made the identity. `memory_mb` is the most that it had, as it was looked at now and then, without the
//! pages of the files that it reads: what it remembers. `memory_peak_mb` is the most with those pages, as the system counts (VmHWM); both
//! without what it had before it began.

mod parts;

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
    time::Instant,
};

use parts::{memory_mb, memory_peak_mb};
use serde_json::json;
use theseus_host::identity::{
    Committer, Draft, Identity, Incarnation, Keep, ObjectRecord, Opened, Outcome, Place, RequestMemory, Writer,
};
use theseus_value::{ObjectId, Value};

/// What the program is called with to verify the identity in a folder.
const VERIFY: &str = "verify-the-identity-in";

const OBJECTS: u64 = 200_000;
const BATCH: u64 = 1_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, what, folder] = &arguments[..]
        && what == VERIFY
    {
        verify(&place(Path::new(folder)));
        return ExitCode::SUCCESS;
    }
    let transactions = parts::setting("TRANSACTIONS").unwrap_or(2_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let place = place(folder.path());
    Identity::create(&place).expect("a new identity");
    fill(&place, transactions);
    let mut verifying = Command::new(env::current_exe().expect("a program knows its file"));
    let ended = verifying.arg(VERIFY).arg(folder.path()).status().expect("it can be started again");
    if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn place(folder: &Path) -> Place {
    Place {
        history: folder.join("history"),
        objects: folder.join("objects"),
        bases: folder.join("base"),
        history_bytes_max: 64 << 30,
        objects_bytes_max: 16 << 30,
        requests: RequestMemory { count_max: 1_000_000, since_us: 0 },
    }
}

fn verify(place: &Place) {
    /// How often its memory is looked at, in records and rows.
    const LOOK_EVERY: u32 = 20;

    let (before, peak_before) = (memory_mb("self"), memory_peak_mb("self"));
    let (mut most, mut steps) = (before, 0_u32);
    let started = Instant::now();
    let found = theseus_host::identity::verify(place, &mut |_, _| {
        steps += 1;
        if steps.is_multiple_of(LOOK_EVERY) {
            most = most.max(memory_mb("self"));
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let found = found.expect("the storage works");
    assert!(found.damage.is_empty(), "{:?}", found.damage);
    let megabytes = found.bytes as f64 / 1e6;
    let line = json!({
        "bench": "verify", "transactions": found.transactions, "rows": found.rows, "megabytes": megabytes.round(),
        "seconds": seconds, "megabytes_per_second": megabytes / seconds, "bound": 300,
        "transactions_per_second": found.transactions as f64 / seconds,
        "memory_mb": (most - before).round(), "memory_peak_mb": (memory_peak_mb("self") - peak_before).round(),
    });
    println!("{line}");
}

/// Writes transactions that each write one of the objects, in an order that looks random, as a host would.
fn fill(place: &Place, transactions: u64) {
    let Opened { identity, resume } = Identity::open(place, false).expect("the identity opens");
    let mut writer = Writer::new(identity.clone(), &resume);
    let mut committer = Committer::new(identity.clone(), Incarnation(1));
    let generations: Arc<[_]> = Arc::new([("counter".to_owned(), [7; 32])]);
    let arguments = Value::Array(vec![Value::Int(1)]).encode();
    for n in 0..transactions {
        let object = ObjectId(1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % OBJECTS);
        let slots = [("count", Value::Int(n.into())), ("note", Value::Text("x".repeat(64)))];
        let slots = Value::Map(slots.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).encode();
        let record =
            ObjectRecord { behavior: "counter.Counter".into(), schema: 1, parents: [].into(), slots: slots.into() };
        let request_id = format!("request-{n}");
        let draft = Draft {
            request_id: Some(&request_id),
            target: Some(object),
            method: "increment",
            arguments: &arguments,
            time_us: 1_700_000_000_000_000 + n,
            seed: n,
            outcome: &Outcome::Done([0x05].into()),
            writes: &[(object, Some(Arc::new(record)))],
            names: &[],
        };
        writer.record(&draft).expect("the storage works");
        if (n + 1) % BATCH == 0 || n + 1 == transactions {
            let head = committer.append(writer.close_batch(), &generations, 1).expect("the storage works");
            committer.publish(head);
        }
        if (n + 1) % 400_000 == 0 || n + 1 == transactions {
            let plan = writer
                .plan_checkpoint(RequestMemory { count_max: 1_000_000, since_us: 0 }, Keep::default())
                .expect("nothing else is under way");
            identity.checkpoint(plan).expect("the storage works");
        }
    }
}
