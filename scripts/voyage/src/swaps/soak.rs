//! Swaps without end: a host under load has its plugins replaced again and again, and nothing may be left behind.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Resources, Sorted, Swapped, SwapsError,
    bench::{absolute, altered_copy},
    rounded,
    touch::Toucher,
    vessel::{PATIENCE, Vessel},
};
use crate::{
    load::{self, Load, LoadReport},
    progress::Progress,
};

/// Memory may grow by so many bytes a swap.
const GROWTH_BYTES_MAX: f64 = 200.0;
/// Growth counts over at least so many swaps: a run shorter than that says little, since the allocator takes and gives back
/// memory in larger pieces.
const GROWTH_SWAPS_MIN: u64 = 50_000;
/// Counters that the clients increment.
const COUNTERS: usize = 16;
/// How often the process is looked at.
const LOOKS: u64 = 20;
/// Threads and descriptors may be more by so many at one look than at another, since clients' connections and the threads that
/// serve them come and go.
const SLACK: u64 = 8;
/// How long the last of the replaced plugins may take to go.
const SETTLE_WAIT: Duration = Duration::from_secs(30);
/// The host remembers as much of the past as it may before the first look, so that its memory does not grow by what the load
/// does. So it may remember less here than by default, or the run up to that would be too long.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 4000\nrequest_ids_max = 10000\n";

/// Which plugins take turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pair {
    /// Two files of the counter.
    Same,
    /// The counter and its next version: objects migrate each time, forwards and backwards.
    Schema,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Soak {
    /// The host's binary.
    pub theseus: PathBuf,
    /// The folder with the plugins' libraries.
    pub plugins: PathBuf,
    /// A folder for what is needed meanwhile.
    pub folder: PathBuf,
    /// How many swaps.
    pub swaps: u64,
    /// Swaps before the first look, which warm everything up.
    pub warm_up: u64,
    /// Which plugins take turns.
    pub pair: Pair,
    /// Requests a second of all clients together.
    pub rate: u32,
    /// Clients.
    pub clients: usize,
    /// Swaps, together with the counter, a plugin that leaves data with a destructor and a key on each thread that calls it.
    pub touch: bool,
}

/// What came of it.
#[derive(Serialize, Clone, Debug)]
pub struct SoakReport {
    /// Swaps that were done, the warm-up included.
    pub swaps: u64,
    /// Swaps a second.
    pub swaps_per_s: f64,
    /// The clients' requests.
    pub load: LoadReport,
    /// At the first look.
    pub first: Resources,
    /// At the last look, when nothing was left to be unloaded.
    pub last: Resources,
    /// Times that threads were touched by a plugin that leaves something on them; none if that was not asked for.
    pub touched: Option<u64>,
    /// Growth of all resident memory, in bytes a swap.
    pub growth_bytes_per_swap: f64,
    /// Growth of the memory that belongs to no file, in bytes a swap.
    pub own_growth_bytes_per_swap: f64,
    /// Transactions that `theseus verify` walked once all was over.
    pub verified_transactions: u64,
    /// Everything that is not as it should be; empty if all is.
    pub problems: Vec<String>,
}

/// Swaps, and gives what it sees on the way to `tell`.
///
/// # Errors
///
/// If it could not be carried through. What went through but is not as it should be is in [`SoakReport::problems`].
pub fn run(soak: &Soak, tell: &mut dyn FnMut(Value)) -> Result<SoakReport, SwapsError> {
    let files = files(soak)?;
    let mut vessel = Vessel::launch(&soak.theseus, &soak.folder.join("home"), SETTINGS)?;
    vessel.swap(&files[1])?;
    let toucher = soak.touch.then(|| Toucher::start(vessel.address())).transpose()?;
    let running = load::start(Load {
        to: vessel.address(),
        prefix: "load".to_owned(),
        counters: COUNTERS,
        accounts: 0,
        clients: soak.clients,
        requests_max: None,
        rate: Some(soak.rate),
        one_by_one: false,
        patience: PATIENCE,
    })?;
    let mut turns = files.iter().cycle();
    let mut next = || turns.next().expect("a cycle does not end");
    for _ in 0..soak.warm_up {
        vessel.swap(next())?;
    }
    vessel.settle(SETTLE_WAIT)?;
    let first = Resources::of(vessel.process())?;
    tell(json!({ "swaps": 0, "resources": first }));
    let progress = Progress::new("swaps", soak.swaps);
    let (start, mut recent) = (Instant::now(), Vec::new());
    for done in 1..=soak.swaps {
        recent.push(vessel.swap(next())?);
        progress.set(done);
        if done % (soak.swaps / LOOKS).max(1) == 0 && done < soak.swaps {
            let resources = Resources::of(vessel.process())?;
            tell(look(done, &resources, std::mem::take(&mut recent)));
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    progress.finish();
    let left_over = vessel.settle(SETTLE_WAIT)?;
    let last = Resources::of(vessel.process())?;
    tell(look(soak.swaps, &last, recent));
    let (load, _) = running.finish()?;
    let touched = toucher.map(Toucher::finish).transpose()?;
    let mut report = SoakReport {
        swaps: soak.swaps + soak.warm_up,
        swaps_per_s: rounded(soak.swaps as f64 / seconds),
        load,
        first,
        last,
        touched,
        growth_bytes_per_swap: growth(first.resident, last.resident, soak.swaps),
        own_growth_bytes_per_swap: growth(first.own, last.own, soak.swaps),
        verified_transactions: 0,
        problems: Vec::new(),
    };
    if !left_over.is_empty() {
        report.problems.push(format!("plugins that were replaced are still in memory: {left_over:?}"));
    }
    if vessel.troubles() > 0 {
        report.problems.push(format!("{} requests for a swap had to be sent again", vessel.troubles()));
    }
    report.verified_transactions = vessel.stop_and_verify(&soak.theseus)?;
    report.problems.extend(problems(&report));
    Ok(report)
}

/// Bytes a swap.
fn growth(first: u64, last: u64, swaps: u64) -> f64 {
    rounded((last as f64 - first as f64) / swaps.max(GROWTH_SWAPS_MIN) as f64)
}

/// The files that take turns, in a folder of this run's own.
fn files(soak: &Soak) -> Result<[Vec<PathBuf>; 2], SwapsError> {
    fs::create_dir_all(&soak.folder).map_err(|source| {
        let path = soak.folder.clone();
        SwapsError::File { action: "make", path, source }
    })?;
    let folder = absolute(&soak.folder)?;
    let second = if soak.pair == Pair::Schema { "counter_v2" } else { "counter" };
    let set = |mark: &str, counter: &str| {
        let touching = soak.touch.then_some("bench_plugin");
        let copy = |name: &str| {
            let file = folder.join(format!("{name}-{mark}.so"));
            altered_copy(&soak.plugins.join(format!("lib{name}.so")), &file, mark.as_bytes()).map(|()| file)
        };
        std::iter::once(counter).chain(touching).map(copy).collect::<Result<Vec<_>, _>>()
    };
    Ok([set("a", second)?, set("b", "counter")?])
}

/// One look at the process, with the times of the swaps since the look before.
fn look(swaps: u64, resources: &Resources, recent: Vec<Swapped>) -> Value {
    let times = Sorted::new(recent.iter().map(|swap| (swap.to - swap.from).as_micros() as f64).collect());
    let pauses = Sorted::new(recent.iter().map(|swap| swap.pause_us as f64).collect());
    let summary = |times: &Sorted| json!({ "p50": times.at(0.5), "p99": times.at(0.99), "max": times.at(1.0) });
    json!({ "swaps": swaps, "resources": resources, "swap_us": summary(&times), "pause_us": summary(&pauses) })
}

/// What is not as it should be.
fn problems(report: &SoakReport) -> Vec<String> {
    let (first, last) = (&report.first, &report.last);
    let mut problems = Vec::new();
    if !report.load.faultless() {
        problems.push("requests were refused, lost or executed twice".to_owned());
    }
    let broken = report.load.attempts.broken + report.load.attempts.refused;
    if broken > 0 {
        problems.push(format!("{broken} connections of clients broke or were refused"));
    }
    for (what, growth) in
        [("resident memory", report.growth_bytes_per_swap), ("own memory", report.own_growth_bytes_per_swap)]
    {
        if growth >= GROWTH_BYTES_MAX {
            problems.push(format!("{what} grew by {growth} bytes a swap; the bound is {GROWTH_BYTES_MAX}"));
        }
    }
    for (what, first, last, slack) in [
        ("mappings of plugins", first.plugin_mappings, last.plugin_mappings, 0),
        ("mappings", first.mappings, last.mappings, SLACK),
        ("threads", first.threads, last.threads, SLACK),
        ("file descriptors", first.descriptors, last.descriptors, SLACK),
    ] {
        if last > first + slack {
            problems.push(format!("{what} grew from {first} to {last}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Attempts, measure::LatencySummary, model::Comparison};

    fn resources() -> Resources {
        let (resident, own) = (90 << 20, 30 << 20);
        Resources { resident, own, mappings: 200, plugin_mappings: 5, threads: 20, descriptors: 40 }
    }

    fn report() -> SoakReport {
        let load = LoadReport {
            sent: 10,
            answered: 10,
            attempts: Attempts::default(),
            refused: 0,
            unanswered: 0,
            counters: Comparison::default(),
            ledger_total: None,
            transfers: 0,
            seconds: 1.0,
            answers_per_s: 10.0,
            latency: LatencySummary { p50_us: 1, p99_us: 1, p999_us: 1, max_us: 1 },
            longest_silence_us: 1,
            samples: Vec::new(),
        };
        SoakReport {
            swaps: 1000,
            swaps_per_s: 100.0,
            load,
            first: resources(),
            last: resources(),
            touched: None,
            growth_bytes_per_swap: 10.0,
            own_growth_bytes_per_swap: 10.0,
            verified_transactions: 1010,
            problems: Vec::new(),
        }
    }

    #[test]
    fn each_bound_is_told_when_it_is_broken() {
        assert_eq!(problems(&report()), Vec::<String>::new());
        type Breaks = fn(&mut SoakReport);
        let broken: [(&str, Breaks); 8] = [
            ("refused, lost", |report| report.load.refused = 1),
            ("connections", |report| report.load.attempts.broken = 1),
            ("resident memory", |report| report.growth_bytes_per_swap = 200.0),
            ("own memory", |report| report.own_growth_bytes_per_swap = 200.0),
            ("mappings of plugins", |report| report.last.plugin_mappings += 1),
            ("mappings grew", |report| report.last.mappings += SLACK + 1),
            ("threads", |report| report.last.threads += SLACK + 1),
            ("descriptors", |report| report.last.descriptors += SLACK + 1),
        ];
        for (word, breaks) in broken {
            let mut report = report();
            breaks(&mut report);
            if report.load.refused > 0 {
                report.load.sent += 1;
            }
            let problems = problems(&report);
            assert!(problems.len() == 1 && problems[0].contains(word), "{word}: {problems:?}");
        }
    }
}
