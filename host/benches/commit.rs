//! Durable commands per second through a plugin, and what bare LMDB and ZODB make of the same.
//!
//! Prints one JSON line per figure. Baselines are measured in the same run: LMDB appends records of the very sizes that the
//! history got, with a sync each; ZODB runs where its Python package is installed and `ZODB_BASELINE` names the script.

mod parts;

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lmdb::{DatabaseFlags, Environment, EnvironmentFlags, Transaction, WriteFlags};
use parts::{Dice, Load, figure, increment, make_objects, memory_mb, processor_time, setting, swap_counter_in};
use theseus_host::{
    config::Config,
    exec::QueryWorker,
    home::Home,
    identity::{Identity, Tid},
    runtime::{CONFINED_COMMAND, Runtime, offline, place, work_confined},
};

/// Of how long the figures of the long run are.
const RANDOM_SLICE: Duration = Duration::from_secs(5);
/// How many counters there are, unless `OBJECTS` says otherwise.
const OBJECTS: u64 = 100_000;
/// Commands that share a commit. One batch is executed while another is made durable, so twice as many are under way; but a
/// single caller waits for each answer.
const BATCHES: [u64; 5] = [1, 10, 100, 1_000, 4_000];

fn main() -> ExitCode {
    // The swap below tries the plugin in a process of its own, which is this program again.
    if env::args().nth(1).as_deref() == Some(CONFINED_COMMAND) {
        return work_confined();
    }
    let seconds = setting("SECONDS_EACH").unwrap_or(3);
    let objects = setting("OBJECTS").unwrap_or(OBJECTS);
    let batches = setting("BATCH").map_or_else(|| BATCHES.to_vec(), |only| vec![only]);
    let zodb = zodb_baseline();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::new(folder.path().join("home"));
    let config = Config::default();
    offline::init(&home, &config).expect("a new identity");
    let mut measured = Vec::new();
    {
        let runtime = Runtime::open(&home, &config).expect("the host opens");
        swap_counter_in(&runtime);
        make_objects(&runtime, objects);
        for batch in batches {
            measured.push(measure(&runtime, objects, batch, Duration::from_secs(seconds)));
        }
        runtime.stop().expect("the host stops");
    }
    for run in measured {
        let sizes = record_sizes(&home, &config, run.first, run.last);
        let records = sizes.len();
        let bare = append_bare(folder.path(), &sizes, run.commands);
        figure(&format!("commit_batch_{}", run.batch), run.rate(), "commands/s", Some(("bare LMDB", bare)));
        let file = append_to_file(folder.path(), &sizes, run.commands);
        figure(
            &format!("commit_batch_{}_file", run.batch),
            run.rate(),
            "commands/s",
            Some(("append + fdatasync", file)),
        );
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
    match setting("RANDOM_SECONDS").unwrap_or(60) {
        0 => {}
        seconds => measure_random(folder.path(), Duration::from_secs(seconds)),
    }
    ExitCode::SUCCESS
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
fn measure(runtime: &Runtime, objects: u64, batch: u64, time: Duration) -> Run {
    let (mut load, mut dice) = (Load::new(if batch == 1 { 1 } else { 2 * batch }), Dice(batch));
    let (first, before, started) = (runtime.head().tid + 1, processor_time(), Instant::now());
    while started.elapsed() < time {
        for _ in 0..16.min(batch) {
            load.send(runtime, increment(&mut dice, objects));
        }
    }
    load.finish();
    let elapsed = started.elapsed();
    let since = |(name, spent): (String, Duration)| {
        let before = before.get(&name).copied().unwrap_or_default();
        (name, spent.saturating_sub(before))
    };
    let spent = processor_time().into_iter().map(since).collect();
    Run { batch, commands: load.sent(), elapsed, first, last: runtime.head().tid, spent }
}

/// Increments of counters chosen at random from many, for long: whether the rate holds, and what checkpoints do to the answers.
fn measure_random(folder: &Path, time: Duration) {
    let home = Home::new(folder.join("random"));
    let config = Config::default();
    offline::init(&home, &config).expect("a new identity");
    let runtime = Runtime::open(&home, &config).expect("the host opens");
    swap_counter_in(&runtime);
    let objects = setting("RANDOM_OBJECTS").unwrap_or(1_000_000);
    make_objects(&runtime, objects);
    let (mut load, mut dice) = (Load::new(2_000), Dice(1));
    let (started, overlay) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let (mut memory, mut slices, mut counted) = (0_f64, Vec::new(), 0);
    while started.elapsed() < time {
        let slice = Instant::now();
        while slice.elapsed() < RANDOM_SLICE.min(time) {
            for _ in 0..4_000 {
                load.send(&runtime, increment(&mut dice, objects));
            }
            let overlay = overlay.clone();
            let look = move |worker: &mut QueryWorker| {
                let objects = worker.reader().identity().overlay_objects() as u64;
                overlay.fetch_max(objects, Ordering::Relaxed);
            };
            // A look that finds no room is left out.
            _ = runtime.with_query_thread(look);
            memory = memory.max(memory_mb("self"));
        }
        let answered = load.answered();
        slices.push((answered - counted) as f64 / slice.elapsed().as_secs_f64());
        counted = answered;
    }
    load.finish();
    let first = slices[0];
    for (number, slice) in slices.iter().enumerate() {
        figure(&format!("random_{}_s", 5 * (number + 1)), *slice, "commands/s", Some(("the first 5 s", first)));
    }
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
        figure(&format!("random_latency_{name}"), load.percentile_ms(part), "ms", None);
    }
    figure("random_latency_max", load.longest_ms(), "ms", None);
    figure("random_longest_without_answer", load.longest_silence_ms(), "ms", None);
    figure("random_overlay_max", overlay.load(Ordering::Relaxed) as f64, "objects", None);
    figure("random_memory_max", memory, "MB", None);
    runtime.stop().expect("the host stops");
}

/// The size of each history record and the transactions in it, as far as they belong to a run.
fn record_sizes(home: &Home, config: &Config, first: u64, last: u64) -> Vec<usize> {
    let opened = Identity::open(&place(home, config), true).expect("the identity opens");
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

/// Appends records of these sizes to a plain file, each with a sync; commands per second.
fn append_to_file(folder: &Path, sizes: &[usize], commands: u64) -> f64 {
    let path = folder.join("plain");
    let mut file = File::create(&path).expect("a file");
    let payload = vec![0xa5_u8; sizes.iter().copied().max().unwrap_or(0)];
    let started = Instant::now();
    for size in sizes {
        file.write_all(&payload[..*size]).expect("room");
        file.sync_data().expect("a sync");
    }
    let rate = commands as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(&path).expect("the file goes");
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
