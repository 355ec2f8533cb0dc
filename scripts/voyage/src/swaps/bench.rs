//! What a swap costs: the host, its clients, and in comparison with Erlang.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Sorted, Swapped, SwapsError, erlang, rounded,
    vessel::{PATIENCE, Vessel},
};
use crate::load::{self, Load};

/// Counters that the clients increment.
const COUNTERS: usize = 16;
/// Objects made in one transaction.
const OBJECTS_AT_ONCE: u64 = 50_000;
/// The first requests of a run meet cold connections and are left out.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long the replaced plugins may take to go, with a million objects that one of them still has to migrate.
const SETTLE_WAIT: Duration = Duration::from_secs(120);
/// How often runs with and without swaps take turns, so that a machine that slows down slows both.
const ROUNDS: u32 = 3;
/// What the flip of an idle host is measured over, after some that are not counted.
const FLIPS: usize = 1_000;
const FLIPS_LEFT_OUT: usize = 50;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The host's binary.
    pub theseus: PathBuf,
    /// The folder with the plugins' libraries.
    pub plugins: PathBuf,
    /// A folder for what is needed meanwhile.
    pub folder: PathBuf,
    /// Live objects of the swapped behaviour, one run each.
    pub objects: Vec<u64>,
    /// Requests a second of all clients together.
    pub rate: u32,
    /// Clients.
    pub clients: usize,
    /// Swaps a second.
    pub swaps_per_s: u32,
    /// Seconds that each run takes, without swaps and with them.
    pub seconds: u64,
    /// The program that measures Erlang.
    pub erlang: PathBuf,
}

/// The plugins that take turns.
struct Files {
    /// Two files of the same plugin.
    same: [PathBuf; 2],
    /// The next version, whose objects have another schema.
    next: PathBuf,
    bench: PathBuf,
}

/// Measures, and gives each figure to `tell`.
///
/// # Errors
///
/// If it could not be carried through, or a client was not served as it should be.
pub fn run(bench: &Bench, tell: &mut dyn FnMut(Value)) -> Result<(), SwapsError> {
    let files = Files::prepare(bench)?;
    flips(bench, &files, tell)?;
    for objects in &bench.objects {
        population(bench, &files, *objects, tell)?;
    }
    Ok(())
}

impl Files {
    fn prepare(bench: &Bench) -> Result<Files, SwapsError> {
        let plugins = absolute(&bench.plugins)?;
        let library = |name: &str| plugins.join(format!("lib{name}.so"));
        let counter = library("counter");
        let folder = absolute(&bench.folder)?;
        let same = ["counter-a.so", "counter-b.so"].map(|name| folder.join(name));
        altered_copy(&counter, &same[0], b"a")?;
        altered_copy(&counter, &same[1], b"b")?;
        Ok(Files { same, next: library("counter_v2"), bench: library("bench_plugin") })
    }
}

/// Where a folder really is. The host takes absolute paths only, since it has a working directory of its own.
pub(crate) fn absolute(folder: &Path) -> Result<PathBuf, SwapsError> {
    let failed = |source| SwapsError::File { action: "find", path: folder.to_owned(), source };
    folder.canonicalize().map_err(failed)
}

/// A copy of a library that does the same and is another file: what stands behind the last section is never loaded.
pub(crate) fn altered_copy(file: &Path, to: &Path, mark: &[u8]) -> Result<(), SwapsError> {
    let copied = fs::copy(file, to).and_then(|_| fs::File::options().append(true).open(to)?.write_all(mark));
    copied.map_err(|source| SwapsError::File { action: "copy the plugin to", path: to.to_owned(), source })
}

/// Swaps one after another in an idle host, against Erlang's.
fn flips(bench: &Bench, files: &Files, tell: &mut dyn FnMut(Value)) -> Result<(), SwapsError> {
    let mut vessel = Vessel::launch(&bench.theseus, &bench.folder.join("idle"), "")?;
    let mut swaps = Vec::new();
    for (file, number) in files.same.iter().cycle().zip(0..FLIPS_LEFT_OUT + FLIPS) {
        let swapped = vessel.swap(std::slice::from_ref(file))?;
        if number >= FLIPS_LEFT_OUT {
            swaps.push(swapped);
        }
    }
    let left_over = vessel.settle(SETTLE_WAIT)?;
    tell(json!({ "name": "swap_idle_left_in_memory", "value": left_over.values().sum::<u64>(), "unit": "plugins" }));
    stages("idle", &swaps, tell);
    let flip = |swap: &Swapped| (swap.stages_us.get("load").copied().unwrap_or(0) + swap.pause_us) as f64;
    let flip = Sorted::new(swaps.iter().map(flip).collect());
    let whole = Sorted::new(swaps.iter().map(|swap| (swap.to - swap.from).as_micros() as f64).collect());
    let erlang = erlang::figures(&bench.erlang, &bench.folder)?;
    let baseline = erlang.as_ref().and_then(|figures| figures.get("swap_us").copied());
    for (name, times) in [("swap_load_check_flip", flip), ("swap_whole", whole)] {
        let (value, least, p99) = (rounded(times.at(0.5)), rounded(times.at(0.0)), rounded(times.at(0.99)));
        let mut line = json!({ "name": name, "value": value, "unit": "us", "min": least, "p99": p99 });
        if let Some(baseline) = baseline {
            line["baseline"] = json!(rounded(baseline));
            line["baseline_of"] = json!("Erlang purge + load of a tiny module");
            line["ratio"] = json!((times.at(0.5) / baseline * 1000.0).round() / 1000.0);
        }
        tell(line);
    }
    vessel.stop_and_verify(&bench.theseus).map(drop)
}

/// The time of each stage.
fn stages(run: &str, swaps: &[Swapped], tell: &mut dyn FnMut(Value)) {
    let mut stages: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for swap in swaps {
        for (stage, us) in &swap.stages_us {
            stages.entry(format!("stage_{stage}")).or_default().push(*us as f64);
        }
        stages.entry("pause".to_owned()).or_default().push(swap.pause_us as f64);
    }
    for (stage, times) in stages {
        let times = Sorted::new(times);
        tell(json!({
            "name": format!("swap_{run}_{stage}"), "value": times.at(0.5), "unit": "us", "min": times.at(0.0),
            "p99": times.at(0.99), "max": times.at(1.0), "swaps": times.len(),
        }));
    }
}

/// One run: load without swaps and with them, on so many objects.
struct Round {
    without: Vec<f64>,
    with: Vec<f64>,
    /// Those of `with` that were under way at the same time as a swap.
    during: Vec<f64>,
    swaps: Vec<Swapped>,
}

fn population(bench: &Bench, files: &Files, objects: u64, tell: &mut dyn FnMut(Value)) -> Result<(), SwapsError> {
    let home = bench.folder.join(format!("with-{objects}"));
    let mut vessel = Vessel::launch(&bench.theseus, &home, "")?;
    for file in [&files.same[1], &files.bench] {
        vessel.swap(std::slice::from_ref(file))?;
    }
    make_objects(&vessel, objects)?;
    let mut round = Round { without: Vec::new(), with: Vec::new(), during: Vec::new(), swaps: Vec::new() };
    let seconds = Duration::from_secs(bench.seconds) / ROUNDS;
    let mut turns = files.same.iter().cycle();
    for _ in 0..ROUNDS {
        let (requests, _) = loaded(bench, &mut vessel, seconds, None)?;
        round.without.extend(latencies(&requests, |_, _| true));
        let (requests, swaps) = loaded(bench, &mut vessel, seconds, Some(&mut turns))?;
        round.with.extend(latencies(&requests, |_, _| true));
        round.during.extend(latencies(&requests, during(&swaps, Duration::ZERO)));
        round.swaps.extend(swaps);
    }
    let run = format!("{objects}_objects");
    stages(&run, &round.swaps, tell);
    let without = Sorted::new(round.without);
    clients(&format!("{run}_clients"), &without, Sorted::new(round.with), tell);
    clients(&format!("{run}_clients_during"), &without, Sorted::new(round.during), tell);

    // To another schema and back again: what clients touch migrates at once, the rest in the background.
    let aftermath = seconds.saturating_sub(WARM_UP * 2);
    for (direction, file) in [("forwards", &files.next), ("back", &files.same[0])] {
        let mut once = std::iter::once(file);
        let (requests, swaps) = loaded(bench, &mut vessel, seconds, Some(&mut once))?;
        let run = format!("{run}_migrating_{direction}");
        stages(&run, &swaps, tell);
        let after = Sorted::new(latencies(&requests, during(&swaps, aftermath)));
        clients(&format!("{run}_clients_during"), &without, after, tell);
    }
    let left_over = vessel.settle(SETTLE_WAIT)?.values().sum::<u64>();
    tell(json!({ "name": format!("swap_{run}_left_in_memory"), "value": left_over, "unit": "plugins" }));
    vessel.stop_and_verify(&bench.theseus).map(drop)
}

fn make_objects(vessel: &Vessel, objects: u64) -> Result<(), SwapsError> {
    let mut client = vessel.client();
    client.create("bench.Maker", "maker", &json!({}), "make-maker")?;
    let mut made = 0;
    while made < objects {
        let count = OBJECTS_AT_ONCE.min(objects - made);
        let arguments = json!({ "behavior": load::COUNTER, "count": count });
        client.call("maker", "make", &arguments, &format!("make-{made}"))?;
        made += count;
    }
    // The object table follows behind; it is not what is measured here.
    thread::sleep(Duration::from_secs(1) + Duration::from_micros(5 * objects));
    Ok(())
}

type Times = Vec<(Instant, Instant)>;

/// Puts load on the host for some time, and swaps the given files meanwhile, at the rate set. Returns when each request was due
/// and answered, and the swaps.
fn loaded(
    bench: &Bench,
    vessel: &mut Vessel,
    seconds: Duration,
    files: Option<&mut dyn Iterator<Item = &PathBuf>>,
) -> Result<(Times, Vec<Swapped>), SwapsError> {
    let running = load::start(Load {
        to: vessel.address(),
        prefix: "load".to_owned(),
        counters: COUNTERS,
        accounts: 0,
        clients: bench.clients,
        requests_max: None,
        rate: Some(bench.rate),
        one_by_one: true,
        patience: PATIENCE,
    })?;
    let start = Instant::now();
    let mut swaps = Vec::new();
    thread::sleep(WARM_UP * 2);
    if let Some(files) = files {
        let every = Duration::from_secs(1) / bench.swaps_per_s;
        while start.elapsed() + every < seconds
            && let Some(file) = files.next()
        {
            let due = Instant::now() + every;
            swaps.push(vessel.swap(std::slice::from_ref(file))?);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    thread::sleep(seconds.saturating_sub(start.elapsed()));
    let (report, latencies) = running.finish()?;
    if !report.faultless() || report.attempts.broken + report.attempts.refused > 0 {
        return Err(SwapsError::Load(format!("{report:?}")));
    }
    let warm = start + WARM_UP;
    Ok((latencies.requests().iter().filter(|(from, _)| *from > warm).copied().collect(), swaps))
}

/// Microseconds that the requests took which are wanted.
fn latencies(requests: &Times, mut wanted: impl FnMut(Instant, Instant) -> bool) -> Vec<f64> {
    let wanted = requests.iter().filter(|(from, to)| wanted(*from, *to));
    wanted.map(|(from, to)| to.duration_since(*from).as_secs_f64() * 1e6).collect()
}

/// Whether a request was under way at the same time as a swap, or some time after it.
fn during(swaps: &[Swapped], after: Duration) -> impl FnMut(Instant, Instant) -> bool + '_ {
    move |from, to| {
        // Swaps do not overlap, so the last one that began before the request ended is the one to look at.
        let before = swaps.partition_point(|swap| swap.from <= to);
        before > 0 && swaps[before - 1].to + after >= from
    }
}

/// What clients see, against the run without swaps.
fn clients(run: &str, without: &Sorted, with: Sorted, tell: &mut dyn FnMut(Value)) {
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        let (value, baseline) = (rounded(with.at(part)), rounded(without.at(part)));
        tell(json!({
            "name": format!("swap_{run}_{name}"), "value": value, "unit": "us", "baseline": baseline,
            "baseline_of": "no swaps", "above": rounded(value - baseline), "requests": with.len(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_belongs_to_the_swap_it_overlaps() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let swap = |from, to| Swapped { from: at(from), to: at(to), pause_us: 0, stages_us: BTreeMap::new() };
        let swaps = [swap(10, 20), swap(50, 60)];
        let mut overlaps = during(&swaps, Duration::ZERO);
        for (from, to, expected) in [
            (0, 9, false),
            (5, 11, true),
            (12, 13, true),
            (19, 30, true),
            (21, 49, false),
            (55, 90, true),
            (61, 62, false),
        ] {
            assert_eq!(overlaps(at(from), at(to)), expected, "{from} to {to}");
        }
        assert!(during(&swaps, Duration::from_millis(5))(at(62), at(70)));
    }
}
