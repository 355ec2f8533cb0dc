//! From the start of a host's process to its first answer, after a clean stop and after a kill, by how many objects there are; and
//! how much memory the host takes with that many under load.
//!
//! Prints one JSON line per figure. `THESEUS` names the program, `COUNTER_PLUGIN` the plugin; OBJECTS=N for one number of objects.

mod parts;

use std::{
    env,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parts::{Dice, Load, figure, increment, memory_mb, setting, swap_counter_in};
use theseus_host::{
    config::Config,
    home::Home,
    identity::{Committer, Draft, Identity, Incarnation, Keep, ObjectRecord, Opened, Outcome, RequestMemory, Writer},
    runtime::{CONFINED_COMMAND, Runtime, offline, place, work_confined},
};
use theseus_value::{ObjectId, Value};

/// How many objects a transaction makes.
const OBJECTS_EACH: u64 = 5_000;

fn main() -> ExitCode {
    // The host starts its own program a second time to try the plugin.
    if env::args().nth(1).as_deref() == Some(CONFINED_COMMAND) {
        return work_confined();
    }
    let sizes = setting("OBJECTS").map_or_else(|| vec![100_000, 10_000_000], |only| vec![only]);
    for objects in sizes {
        measure(objects, Duration::from_secs(setting("LOAD_SECONDS").unwrap_or(20)));
    }
    ExitCode::SUCCESS
}

fn measure(objects: u64, load: Duration) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::new(folder.path().join("home"));
    let mut config = Config::default();
    config.http.listen = "127.0.0.1:0".parse().expect("an address");
    config.plugins.probation_ms = 0;
    offline::init(&home, &config).expect("a new identity");
    let tail = config.identity.tail_transactions_max;
    let started = Instant::now();
    append(&home, &config, Filling::Objects(objects));
    figure(&format!("open_{objects}_filled"), started.elapsed().as_secs_f64(), "s", None);
    let (memory, rate) = under_load(&home, &config, objects, load);
    figure(&format!("open_{objects}_load"), rate, "commands/s", None);
    figure(&format!("open_{objects}_memory"), memory, "MB", Some(("the bound", 300.0)));
    let clean: Vec<f64> = (0..5).map(|_| first_answer_ms(home.path(), true)).collect();
    figure(&format!("open_{objects}_clean"), median(clean), "ms", Some(("the bound", 50.0)));
    append(&home, &config, Filling::Tail { transactions: tail, objects });
    let killed = first_answer_ms(home.path(), false);
    figure(&format!("open_{objects}_killed"), killed, "ms", Some(("the bound", 2_000.0)));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What to append to an identity.
#[derive(Clone, Copy)]
enum Filling {
    /// New counters, which go to the object table.
    Objects(u64),
    /// As many increments as the table may lag behind, as a host leaves them that is killed.
    Tail { transactions: u64, objects: u64 },
}

fn counter(count: i64) -> Arc<ObjectRecord> {
    let slots = Value::Map([("count".to_owned(), Value::Int(count.into()))].into_iter().collect()).encode();
    Arc::new(ObjectRecord { behavior: "counter.Counter".into(), schema: 1, parents: [].into(), slots: slots.into() })
}

fn append(home: &Home, config: &Config, filling: Filling) {
    let Opened { identity, resume } = Identity::open(&place(home, config), false).expect("the identity opens");
    let (mut writer, mut dice) = (Writer::new(identity.clone(), &resume), Dice(7));
    let mut committer = Committer::new(identity.clone(), resume.incarnation.max(Incarnation(1)));
    let (record, arguments) = (counter(0), Value::Array(vec![Value::Int(1)]).encode());
    let transactions = match filling {
        Filling::Objects(objects) => objects.div_ceil(OBJECTS_EACH),
        Filling::Tail { transactions, .. } => transactions,
    };
    for number in 0..transactions {
        let writes: Vec<_> = match filling {
            Filling::Objects(objects) => {
                let first = 1 + number * OBJECTS_EACH;
                (first..=objects.min(first + OBJECTS_EACH - 1)).map(|id| (ObjectId(id), Some(record.clone()))).collect()
            }
            Filling::Tail { objects, .. } => {
                vec![(ObjectId(1 + dice.below(objects)), Some(counter(number as i64)))]
            }
        };
        let draft = Draft {
            request_id: None,
            target: Some(writes[0].0),
            method: "increment",
            arguments: &arguments,
            time_us: 1_700_000_000_000_000 + number,
            seed: number,
            outcome: &Outcome::Done([0x05].into()),
            writes: &writes,
            names: &[],
        };
        writer.record(&draft).expect("the storage works");
        let is_full = matches!(filling, Filling::Objects(_)) || (number + 1) % 1_000 == 0;
        if is_full || number + 1 == transactions {
            let head = committer.append(writer.close_batch(), &resume.generations, 1).expect("the storage works");
            committer.publish(head);
        }
        let is_due = (number + 1) % 20 == 0 || number + 1 == transactions;
        if matches!(filling, Filling::Objects(_)) && is_due {
            let memory = RequestMemory { count_max: 1_000_000, since_us: 0 };
            let plan = writer.plan_checkpoint(memory, Keep::default()).expect("nothing else is under way");
            identity.checkpoint(plan).expect("the storage works");
        }
    }
}

/// A host of this process, under load: its memory beside the pages of files at its greatest, in megabytes, and commands a second.
fn under_load(home: &Home, config: &Config, objects: u64, time: Duration) -> (f64, f64) {
    let runtime = Runtime::open(home, config).expect("the host opens");
    swap_counter_in(&runtime);
    let (mut load, mut dice, mut memory) = (Load::new(2_000), Dice(3), 0_f64);
    let started = Instant::now();
    while started.elapsed() < time {
        for _ in 0..2_000 {
            load.send(&runtime, increment(&mut dice, objects));
        }
        memory = memory.max(memory_mb("self"));
    }
    load.finish();
    let rate = load.sent() as f64 / started.elapsed().as_secs_f64();
    runtime.stop().expect("the host stops");
    (memory, rate)
}

/// Starts a host and asks for an object until it answers; milliseconds from the start of the process. Ends it cleanly, or kills it.
fn first_answer_ms(home: &Path, cleanly: bool) -> f64 {
    let program = env::var_os("THESEUS").expect("THESEUS names the program; `scripts/bench open` sets it");
    let socket = Home::new(home).admin_socket();
    _ = std::fs::remove_file(&socket);
    let started = Instant::now();
    let host =
        Command::new(program).arg("run").arg("--home").arg(home).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut host = host.expect("the host starts");
    let took = loop {
        assert!(started.elapsed() < Duration::from_secs(60), "the host does not answer");
        match asked(&socket) {
            Some(answer) => {
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                break started.elapsed();
            }
            None => thread::sleep(Duration::from_micros(500)),
        }
    };
    end(&mut host, cleanly);
    took.as_secs_f64() * 1000.0
}

/// The answer to a request for an object; none if nobody listens yet.
fn asked(socket: &Path) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"GET /v1/objects/5 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn end(host: &mut Child, cleanly: bool) {
    if cleanly {
        let stopped = Command::new("kill").arg("-TERM").arg(host.id().to_string()).status();
        assert!(stopped.expect("kill is there").success());
    } else {
        host.kill().expect("it lives");
    }
    host.wait().expect("it ends");
}
