//! Durable commands per second through a plugin, and what bare LMDB and ZODB make of the same.
//!
//! Prints one JSON line per figure. Baselines are measured in the same run: LMDB appends records of the very sizes that the
//! history got, with a sync each; ZODB runs where its Python package is installed and `ZODB_BASELINE` names the script.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lmdb::{DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};
use serde_json::json;
use theseus_host::{
    config::Config,
    home::Home,
    identity::{Identity, Place, RequestMemory, Tid},
    runtime::{
        CONFINED_COMMAND, Runtime,
        action::{Action, Answer, CallMode, ObjectRef},
        offline, work_confined,
    },
};
use theseus_value::{ObjectId, Value};

const OBJECTS: u64 = 100_000;
/// Commands that share a commit. One batch is executed while another is made durable, so twice as many are under way; but a
/// single caller waits for each answer.
const BATCHES: [u64; 5] = [1, 10, 100, 1_000, 4_000];

/// The settings of a run, from the environment: `SECONDS_EACH`, and `BATCH` for one figure only.
fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn main() -> ExitCode {
    // The swap below tries the plugin in a process of its own, which is this program again.
    if env::args().nth(1).as_deref() == Some(CONFINED_COMMAND) {
        return work_confined();
    }
    let seconds = setting("SECONDS_EACH").unwrap_or(3);
    let batches = setting("BATCH").map_or_else(|| BATCHES.to_vec(), |only| vec![only]);
    let zodb = zodb_baseline();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::new(folder.path().join("home"));
    let config = Config::default();
    offline::init(&home, &config).expect("a new identity");
    let mut measured = Vec::new();
    {
        let runtime = Runtime::open(&home, &config).expect("the host opens");
        ask(&runtime, Action::Swap { paths: vec![counter_plugin()], options: Default::default() });
        make_objects(&runtime);
        for batch in batches {
            measured.push(measure(&runtime, batch, Duration::from_secs(seconds)));
        }
        runtime.stop().expect("the host stops");
    }
    for run in measured {
        let sizes = record_sizes(&home, &config, run.first, run.last);
        let records = sizes.len();
        let bare = append_bare(folder.path(), &sizes, run.commands);
        figure(&format!("commit_batch_{}", run.batch), run.rate(), "commands/s", Some(("bare LMDB", bare)));
        if let Some(baseline) = zodb.get(&run.batch.min(1_000)) {
            figure(&format!("commit_batch_{}_zodb", run.batch), run.rate(), "commands/s", Some(("ZODB", *baseline)));
        }
        let per_record = run.commands as f64 / records.max(1) as f64;
        figure(&format!("commit_batch_{}_size", run.batch), per_record, "commands/record", None);
        for (thread, spent) in &run.spent {
            let each = spent.as_nanos() as f64 / run.commands as f64;
            if each >= 10.0 {
                figure(&format!("commit_batch_{}_processor_{thread}", run.batch), each, "ns/command", None);
            }
        }
    }
    ExitCode::SUCCESS
}

fn figure(name: &str, value: f64, unit: &str, baseline: Option<(&str, f64)>) {
    let mut line = json!({"name": name, "value": (value * 10.0).round() / 10.0, "unit": unit});
    if let Some((of, baseline)) = baseline {
        line["baseline"] = json!((baseline * 10.0).round() / 10.0);
        line["baseline_of"] = json!(of);
        line["ratio"] = json!((value / baseline * 1000.0).round() / 1000.0);
    }
    println!("{line}");
}

struct Run {
    batch: u64,
    commands: u64,
    elapsed: Duration,
    first: u64,
    last: u64,
    /// Processor time by thread.
    spent: BTreeMap<String, Duration>,
}

impl Run {
    fn rate(&self) -> f64 {
        self.commands as f64 / self.elapsed.as_secs_f64()
    }
}

/// Keeps as many increments of random counters under way as batches of this size need.
fn measure(runtime: &Runtime, batch: u64, time: Duration) -> Run {
    let in_flight = if batch == 1 { 1 } else { 2 * batch };
    let (answered, client) = (Arc::new(AtomicU64::new(0)), thread::current());
    let first = runtime.head().tid + 1;
    let before = processor_time();
    let started = Instant::now();
    let (mut sent, mut random) = (0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    // The client sleeps until a part of what it waits for is there.
    let wake_each = (batch / 4).max(1);
    while started.elapsed() < time {
        while sent - answered.load(Ordering::Acquire) < in_flight {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let object = ObjectRef::Id(ObjectId(1 + (random >> 33) % OBJECTS));
            let arguments = Value::Array(vec![Value::Int(1)]);
            let (method, mode) = ("increment".to_owned(), CallMode::Any);
            let (answered, client) = (answered.clone(), client.clone());
            let reply = Box::new(move |result: Result<Answer, _>| {
                result.expect("every increment is answered");
                if (answered.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(wake_each) {
                    client.unpark();
                }
            });
            runtime.perform(Action::Call { object, method, arguments, request_id: None, mode }, reply);
            sent += 1;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    while answered.load(Ordering::Acquire) < sent {
        thread::park_timeout(Duration::from_millis(1));
    }
    let elapsed = started.elapsed();
    let since = |(name, spent): (String, Duration)| {
        let before = before.get(&name).copied().unwrap_or_default();
        (name, spent.saturating_sub(before))
    };
    let spent = processor_time().into_iter().map(since).collect();
    Run { batch, commands: sent, elapsed, first, last: runtime.head().tid, spent }
}

/// What each thread of this process has spent on a processor so far, by its name.
fn processor_time() -> BTreeMap<String, Duration> {
    let mut spent = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("a process sees its threads").flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        // The first number of schedstat is nanoseconds on a processor.
        let nanoseconds = read("schedstat").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        *spent.entry(name).or_default() += Duration::from_nanos(nanoseconds);
    }
    spent
}

fn make_objects(runtime: &Runtime) {
    let answered = Arc::new(AtomicU64::new(0));
    for sent in 0..OBJECTS {
        while sent - answered.load(Ordering::Acquire) >= 5_000 {
            thread::yield_now();
        }
        let answered = answered.clone();
        let (behavior, slots) = ("counter.Counter".to_owned(), Value::Map(Default::default()));
        let reply = Box::new(move |result: Result<Answer, _>| {
            result.expect("every object is made");
            answered.fetch_add(1, Ordering::AcqRel);
        });
        runtime.perform(Action::Create { behavior, name: None, slots, request_id: None }, reply);
    }
    while answered.load(Ordering::Acquire) < OBJECTS {
        thread::yield_now();
    }
}

fn ask(runtime: &Runtime, action: Action) -> Answer {
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.perform(action, Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv().expect("an answer").expect("it is done")
}

/// The size of each history record and the transactions in it, as far as they belong to a run.
fn record_sizes(home: &Home, config: &Config, first: u64, last: u64) -> Vec<usize> {
    let place = Place {
        history: home.history(),
        objects: home.objects(),
        bases: home.bases(),
        history_bytes_max: config.identity.history_map_bytes,
        objects_bytes_max: config.identity.objects_map_bytes,
        requests: RequestMemory { count_max: 1_000_000, since_us: 0 },
    };
    let opened = Identity::open(&place, true).expect("the identity opens");
    let mut sizes = Vec::new();
    opened
        .identity
        .walk_history(Tid(first), |batch| {
            sizes.push(batch.length());
            Ok(batch.header.last.0 < last)
        })
        .expect("the history is whole");
    sizes
}

/// Appends records of these sizes to a fresh LMDB environment, each with a sync; commands per second.
fn append_bare(folder: &Path, sizes: &[usize], commands: u64) -> f64 {
    let folder = folder.join("bare");
    std::fs::create_dir_all(&folder).expect("a folder");
    let rate = {
        let mut builder = Environment::new();
        builder.set_flags(EnvironmentFlags::NO_TLS).set_map_size(64 << 30).set_max_dbs(1);
        let environment = builder.open(&folder).expect("an environment");
        let database = environment.create_db(Some("batches"), DatabaseFlags::empty()).expect("a database");
        let payload = vec![0xa5_u8; sizes.iter().copied().max().unwrap_or(0)];
        let started = Instant::now();
        for (key, size) in sizes.iter().enumerate() {
            let mut txn = environment.begin_rw_txn().expect("a transaction");
            let key = (key as u64).to_be_bytes();
            txn.put(database, &key, &&payload[..*size], WriteFlags::APPEND).expect("room");
            txn.commit().expect("a commit");
        }
        commands as f64 / started.elapsed().as_secs_f64()
    };
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    rate
}

/// Updates per second of ZODB by updates per commit; empty where it is not installed.
fn zodb_baseline() -> BTreeMap<u64, f64> {
    let Some(script) = env::var_os("ZODB_BASELINE").map(PathBuf::from).filter(|script| script.is_file()) else {
        eprintln!("no ZODB baseline: set ZODB_BASELINE to the script, and install ZODB for python3");
        return BTreeMap::new();
    };
    let output = Command::new("python3").arg(script).output().expect("python3 starts");
    let text = String::from_utf8_lossy(&output.stdout);
    // Lines such as `batch 100: 2.329 ms/commit, 42937 updates/s`.
    let parse = |line: &str| {
        let (batch, rest) = line.strip_prefix("batch ")?.split_once(": ")?;
        let rate = rest.split_once(", ")?.1.split_once(' ')?.0;
        Some((batch.parse().ok()?, rate.parse().ok()?))
    };
    let rates: BTreeMap<u64, f64> = text.lines().filter_map(parse).collect();
    if rates.is_empty() {
        eprintln!(
            "no ZODB baseline: {}",
            String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no output")
        );
    }
    rates
}

fn counter_plugin() -> PathBuf {
    let path = env::var_os("COUNTER_PLUGIN").map(PathBuf::from);
    path.expect("COUNTER_PLUGIN names libcounter.so; `scripts/bench commit` sets it")
}
