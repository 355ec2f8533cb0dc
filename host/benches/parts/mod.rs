//! What the benchmarks share: settings, figures, counters in a host of this process, and a load on them.

#![allow(dead_code, reason = "each benchmark uses some of it")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use theseus_host::runtime::{
    Runtime,
    action::{Action, Answer, CallMode, ObjectRef},
};
use theseus_value::{ObjectId, Value};

/// A setting of a run, a number, from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Prints a figure as a line of JSON.
pub(crate) fn figure(name: &str, value: f64, unit: &str, baseline: Option<(&str, f64)>) {
    let mut line = json!({"name": name, "value": (value * 10.0).round() / 10.0, "unit": unit});
    if let Some((of, baseline)) = baseline {
        line["baseline"] = json!((baseline * 10.0).round() / 10.0);
        line["baseline_of"] = json!(of);
        line["ratio"] = json!((value / baseline * 1000.0).round() / 1000.0);
    }
    println!("{line}");
}

pub(crate) fn counter_plugin() -> PathBuf {
    let path = env::var_os("COUNTER_PLUGIN").map(PathBuf::from);
    path.expect("COUNTER_PLUGIN names libcounter.so; `scripts/bench` sets it")
}

/// Does something and waits for it.
pub(crate) fn ask(runtime: &Runtime, action: Action) -> Answer {
    let (sender, receiver) = mpsc::channel();
    runtime.perform(action, Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv().expect("an answer").expect("it is done")
}

/// Swaps the counter in.
pub(crate) fn swap_counter_in(runtime: &Runtime) {
    ask(runtime, Action::Swap { paths: vec![counter_plugin()], options: Default::default() });
}

/// Makes so many counters.
pub(crate) fn make_objects(runtime: &Runtime, objects: u64) {
    let (mut load, slots) = (Load::new(4_000), Value::Map(Default::default()));
    for _ in 0..objects {
        let (behavior, slots) = ("counter.Counter".to_owned(), slots.clone());
        load.send(runtime, Action::Create { behavior, name: None, slots, request_id: None });
    }
    load.finish();
}

/// Random numbers for the choice of objects: a linear congruence with Knuth's constants, of which the upper half is used.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// An increment of a random counter.
pub(crate) fn increment(dice: &mut Dice, objects: u64) -> Action {
    let object = ObjectRef::Id(ObjectId(1 + dice.below(objects)));
    let arguments = Value::Array(vec![Value::Int(1)]);
    Action::Call { object, method: "increment".to_owned(), arguments, request_id: None, mode: CallMode::Any }
}

/// Keeps so many requests under way.
pub(crate) struct Load {
    in_flight: u64,
    sent: u64,
    seen: Arc<Seen>,
    client: thread::Thread,
    clock: Instant,
}

/// What the answers leave behind.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    /// How many took so long from request to answer: the place is the logarithm to the base 2 of the microseconds, times 8.
    took: Vec<AtomicU64>,
    longest_us: AtomicU64,
    /// When the last answer came, and the longest time without one, in microseconds since the load began.
    last_us: AtomicU64,
    silence_us: AtomicU64,
}

impl Load {
    pub(crate) fn new(in_flight: u64) -> Load {
        let took = (0..8 * 40).map(|_| AtomicU64::new(0)).collect();
        let seen = Arc::new(Seen { took, ..Seen::default() });
        Load { in_flight, sent: 0, seen, client: thread::current(), clock: Instant::now() }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn answered(&self) -> u64 {
        self.seen.answered.load(Ordering::Acquire)
    }

    /// Sends a request, when one may be under way.
    pub(crate) fn send(&mut self, runtime: &Runtime, action: Action) {
        while self.sent - self.answered() >= self.in_flight {
            thread::park_timeout(Duration::from_millis(1));
        }
        // The client sleeps until a part of what it waits for is there.
        let wake_each = (self.in_flight / 8).max(1);
        let (seen, client, clock, begun) = (self.seen.clone(), self.client.clone(), self.clock, self.clock.elapsed());
        let reply = Box::new(move |result: Result<Answer, _>| {
            result.expect("every request is answered");
            let answered = seen.answered.fetch_add(1, Ordering::AcqRel) + 1;
            // A clock for each would cost what is measured.
            if answered.is_multiple_of(8) {
                seen.note(begun, clock.elapsed());
            }
            if answered.is_multiple_of(wake_each) {
                client.unpark();
            }
        });
        runtime.perform(action, reply);
        self.sent += 1;
    }

    /// Waits for all answers.
    pub(crate) fn finish(&mut self) {
        while self.answered() < self.sent {
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// How long the given part of the answers took at most, in milliseconds, within a tenth.
    pub(crate) fn percentile_ms(&self, part: f64) -> f64 {
        let counts: Vec<u64> = self.seen.took.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let (all, mut passed) = (counts.iter().sum::<u64>() as f64, 0.0);
        for (place, count) in counts.iter().enumerate() {
            passed += *count as f64;
            if passed >= part * all {
                return 2_f64.powf((place + 1) as f64 / 8.0) / 1000.0;
            }
        }
        self.longest_ms()
    }

    pub(crate) fn longest_ms(&self) -> f64 {
        self.seen.longest_us.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// The longest time in which no answer came.
    pub(crate) fn longest_silence_ms(&self) -> f64 {
        self.seen.silence_us.load(Ordering::Relaxed) as f64 / 1000.0
    }
}

impl Seen {
    fn note(&self, begun: Duration, ended: Duration) {
        let (took_us, now_us) = ((ended - begun).as_micros().max(1) as u64, ended.as_micros() as u64);
        let place = ((took_us as f64).log2() * 8.0) as usize;
        self.took[place.min(self.took.len() - 1)].fetch_add(1, Ordering::Relaxed);
        self.longest_us.fetch_max(took_us, Ordering::Relaxed);
        let last = self.last_us.swap(now_us, Ordering::Relaxed);
        self.silence_us.fetch_max(now_us.saturating_sub(last), Ordering::Relaxed);
    }
}

/// What each thread of this process has spent on a processor so far, by its name.
pub(crate) fn processor_time() -> BTreeMap<String, Duration> {
    let mut spent = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").expect("a process sees its threads").flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let name = read("comm").trim().to_owned();
        // The first number of schedstat is nanoseconds on a processor.
        let nanoseconds = read("schedstat").split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        *spent.entry(name).or_default() += Duration::from_nanos(nanoseconds);
    }
    spent
}

/// The memory of a process that is no page of a file, in megabytes.
pub(crate) fn memory_mb(process: &str) -> f64 {
    status_mb(process, "RssAnon:")
}

/// The most memory that a process ever had at once, in megabytes, with the pages of files that it had mapped then.
pub(crate) fn memory_peak_mb(process: &str) -> f64 {
    status_mb(process, "VmHWM:")
}

/// A figure from proc_pid_status(5).
fn status_mb(process: &str, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.unwrap_or(0.0) / 1000.0
}
