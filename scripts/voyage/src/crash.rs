//! Crashes without end: a host under load is killed at random moments - while it commits, brings its table forward, delivers messages, collects, swaps,
//! starts, recovers from the crash before - and clients who know what they were answered look whether all of it is still there, and
//! whether what has to come of it comes, once.

mod client;
mod dice;
mod expected;
mod operator;
mod vessel;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};

use self::{
    client::{Client, Worked},
    dice::Dice,
    expected::All,
    operator::{Operated, Operator},
    vessel::Vessel,
};
use crate::{
    api::{ApiError, Host},
    load::{COUNTER, LEDGER},
    model::{Comparison, Counter},
    progress::Progress,
    swaps::SwapsError,
};

/// One request is tried for as long as a host under crashes may take to answer it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Counters of all clients.
const SHARED_COUNTERS: usize = 4;
/// Accounts of the ledger.
const ACCOUNTS: usize = 8;
/// What each holds at first.
const OPENING_BALANCE: i64 = 1_000_000_000;
/// The longest time that a host under load is let live, in milliseconds.
const LIFE_MS_MAX: u64 = 160;
/// One crash in so many is one of the start.
const EARLY_ONE_IN: u64 = 4;
/// The longest time that a start is let live which is to crash, in milliseconds.
const EARLY_MS_MAX: u64 = 60;
/// Transactions of the history that are read at once.
const PAGE: usize = 5_000;
/// A table that may lag little is brought forward all the time, so that crashes meet that too. A swap is not taken back because
/// the host dies.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 400\n[plugins]\nprobation_ms = 0\n";

/// What to do.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The host's binary.
    pub theseus: PathBuf,
    /// The folder with the plugins' libraries.
    pub plugins: PathBuf,
    /// A folder for what is needed meanwhile.
    pub folder: PathBuf,
    /// How often the host is killed.
    pub rounds: u64,
    /// Clients.
    pub clients: usize,
    /// After how many crashes the whole identity is verified.
    pub verify_every: u64,
    /// What the random moments come from.
    pub seed: u64,
}

/// What came of it.
#[derive(Serialize, Clone, Debug, Default)]
pub struct CrashReport {
    /// How often the host was killed.
    pub rounds: u64,
    /// How many of these kills met a start, before it was ready.
    pub at_start: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were sent again because their connection broke.
    pub broken: u64,
    /// Requests sent again under the id of an answered one, to be answered the same.
    pub repeated: u64,
    /// Messages that were posted, each to be delivered once.
    pub posted: u64,
    /// How often timers went off.
    pub ticks: u64,
    /// Objects without a name that something came to lead to, most of them until the next one.
    pub held: u64,
    /// What operators had done meanwhile.
    pub operated: Operated,
    /// How often the whole identity was verified.
    pub verified: u64,
    /// How often the head that was verified before was proven to be part of the history.
    pub continued: u64,
    /// Transactions of the history at the end.
    pub transactions: u64,
    /// Seconds.
    pub seconds: f64,
    /// Kills a second, with everything in between.
    pub rounds_per_s: f64,
    /// The head that was verified last, which each later one has to continue.
    #[serde(skip)]
    head: Option<(u64, String)>,
    /// What the shared counters were compared with.
    pub counters: Comparison,
    /// Everything that is not as it should be; empty if all is.
    pub problems: Vec<String>,
}

/// What all clients share.
struct Shared {
    /// The host's socket, the same for each incarnation.
    socket: PathBuf,
    /// Distinguishes the request ids of this run.
    run: String,
    counters: Vec<Counter>,
    /// What has to come of what the clients did.
    expected: All,
    /// Up to which transaction the history was packed, or is about to be.
    packed_tid: AtomicU64,
    /// The greatest transaction that was answered.
    answered_tid: AtomicU64,
    /// Every request id that was answered, and its transaction. A lock because all clients add to what is compared at the end.
    answered: Mutex<HashMap<String, Option<u64>>>,
    stop: AtomicBool,
}

impl Shared {
    fn note(&self, key: String, tid: Option<u64>) {
        self.answered_tid.fetch_max(tid.unwrap_or(0), Ordering::AcqRel);
        self.answered.lock().expect("nothing panics while it holds this lock").insert(key, tid);
    }
}

/// Kills, and looks.
///
/// # Errors
///
/// If it could not be carried through. What went through but is not as it should be is in [`CrashReport::problems`].
pub fn run(crash: &Crash) -> Result<CrashReport, SwapsError> {
    let mut vessel = Vessel::make(&crash.theseus, &crash.folder, SETTINGS)?;
    let operator = Operator::new(crash, vessel.socket())?;
    vessel.start()?;
    vessel.wait_until_ready()?;
    let shared = Arc::new(prepare(crash, &operator, &vessel)?);
    let clients: Vec<_> = (0..crash.clients)
        .map(|number| {
            let (shared, dice) = (Arc::clone(&shared), Dice::new(crash.seed.wrapping_add(number as u64 + 1)));
            thread::spawn(move || Client::new(number, shared, dice).and_then(Client::work))
        })
        .collect();
    let operating = {
        let (shared, dice) = (Arc::clone(&shared), Dice::new(crash.seed ^ 0x0bad_5eed));
        thread::spawn(move || operator.work(&shared, dice))
    };
    let collecting = {
        let (shared, dice) = (Arc::clone(&shared), Dice::new(crash.seed ^ 0x00c0_11ec));
        thread::spawn(move || operator::collect(&shared, dice))
    };
    let started = Instant::now();
    let mut report = CrashReport::default();
    let crashed = crash_all(crash, &mut vessel, &shared, &mut report);
    report.seconds = started.elapsed().as_secs_f64();
    report.rounds_per_s = report.rounds as f64 / report.seconds.max(1e-9);
    shared.stop.store(true, Ordering::Release);
    crashed?;
    let mut worked = Vec::new();
    for client in clients {
        worked.push(client.join().expect("a client does not panic")?);
    }
    report.operated = operating.join().expect("the operator does not panic")?;
    (report.operated.collections, report.operated.collected) =
        collecting.join().expect("who collects does not panic")?;
    account(&mut report, &vessel, &shared, worked)?;
    vessel.stop()?;
    verify(&vessel, &shared, &mut report)?;
    Ok(report)
}

/// Makes what the clients share.
fn prepare(crash: &Crash, operator: &Operator, vessel: &Vessel) -> Result<Shared, SwapsError> {
    operator.bring_in()?;
    let mut host = Host::new(vessel.socket(), PATIENCE);
    let run = format!("crash-{:x}", std::process::id());
    let mut counters = Vec::new();
    for number in 0..SHARED_COUNTERS {
        let name = format!("shared-{number}");
        host.create(COUNTER, &name, &json!({}), &format!("{run}-{name}"))?;
        counters.push(Counter::new(name, 0));
    }
    host.create(LEDGER, "ledger", &json!({}), &format!("{run}-ledger"))?;
    for number in 0..ACCOUNTS {
        let arguments = json!({ "name": account_of(number as u64), "initial": OPENING_BALANCE });
        host.call("ledger", "open", &arguments, &format!("{run}-account-{number}"))?;
    }
    let (packed_tid, answered_tid, answered) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::default());
    let (socket, stop) = (vessel.socket(), AtomicBool::new(false));
    let expected = All::new(crash.clients);
    Ok(Shared { socket, run, counters, expected, packed_tid, answered_tid, answered, stop })
}

fn account_of(number: u64) -> String {
    format!("owner-{number}")
}

/// Kills the host as often as asked, and leaves one running.
fn crash_all(crash: &Crash, vessel: &mut Vessel, shared: &Shared, report: &mut CrashReport) -> Result<(), SwapsError> {
    let mut dice = Dice::new(crash.seed);
    let progress = Progress::new("crashes", crash.rounds);
    while report.rounds < crash.rounds {
        thread::sleep(Duration::from_millis(dice.roll(LIFE_MS_MAX)));
        vessel.kill()?;
        report.rounds += 1;
        // A start that is killed before it has recovered, and then perhaps the next one too.
        while report.rounds < crash.rounds && dice.roll(EARLY_ONE_IN) == 0 {
            vessel.start()?;
            thread::sleep(Duration::from_millis(dice.roll(EARLY_MS_MAX)));
            vessel.kill()?;
            report.rounds += 1;
            report.at_start += 1;
        }
        if report.rounds.is_multiple_of(crash.verify_every) {
            verify(vessel, shared, report)?;
        }
        // Before the start: what is answered from now on may be newer.
        let answered = shared.answered_tid.load(Ordering::Acquire);
        vessel.start()?;
        let status = vessel.wait_until_ready()?;
        let tid = status["tid"].as_u64().unwrap_or(0);
        if tid < answered {
            report
                .problems
                .push(format!("after crash {} the history ends with {tid}, {answered} was answered", report.rounds));
        }
        progress.set(report.rounds);
        if !report.problems.is_empty() {
            break;
        }
    }
    progress.finish();
    Ok(())
}

/// Verifies the identity while no host runs: all of it, that what was answered last is part of it, and that what has to come of that is there or
/// has come.
fn verify(vessel: &Vessel, shared: &Shared, report: &mut CrashReport) -> Result<(), SwapsError> {
    let answered = shared.answered_tid.load(Ordering::Acquire);
    let mut arguments = vec!["verify"];
    // Of what was packed away, a history cannot tell.
    let packed = shared.packed_tid.load(Ordering::Acquire);
    if let Some((_, head)) = report.head.as_ref().filter(|(tid, _)| *tid > packed) {
        arguments.extend(["--head", head]);
        report.continued += 1;
    }
    let found = vessel.theseus().json(&arguments)?;
    report.verified += 1;
    let head = found["head"].as_str().map(|hash| format!("{}:{hash}", found["tid"]));
    report.head = head.map(|head| (found["tid"].as_u64().unwrap_or(0), head));
    let tid = found["tid"].as_u64().unwrap_or(0);
    report.transactions = tid;
    if found["whole"] != true || tid < answered {
        report.problems.push(format!("after crash {}, where {answered} was answered: {found}", report.rounds));
    }
    let unexpected = shared.expected.compare_with_files(vessel.theseus())?;
    report.problems.extend(unexpected.into_iter().map(|problem| format!("after crash {}: {problem}", report.rounds)));
    Ok(())
}

/// Compares what the clients were told with the host that runs now.
fn account(report: &mut CrashReport, vessel: &Vessel, shared: &Shared, clients: Vec<Worked>) -> Result<(), SwapsError> {
    let mut host = Host::new(vessel.socket(), PATIENCE);
    let mut names = Vec::new();
    for worked in clients {
        report.answered += worked.answered;
        report.broken += worked.attempts.broken;
        report.repeated += worked.repeated;
        report.posted += worked.posted;
        report.ticks += worked.ticks;
        report.held += worked.held;
        report.problems.extend(worked.problems);
        names.extend(worked.names);
    }
    for counter in &shared.counters {
        let last = host.ask(&counter.name, "count")?.as_i64().unwrap_or(i64::MIN);
        report.counters.add(counter.compare(last, 0));
    }
    let Comparison { lost, executed_twice, wrong, .. } = report.counters;
    if (lost, executed_twice, wrong) != (0, 0, 0) {
        report.problems.push(format!("the shared counters: {:?}", report.counters));
    }
    let audit = host.ask("ledger", "audit")?;
    if audit["balanced"] != true || audit["held"] != json!(OPENING_BALANCE * ACCOUNTS as i64) {
        report.problems.push(format!("the ledger: {audit}"));
    }
    names.sort();
    let listed: Vec<String> = host.list("made-")?.into_iter().map(|named| named.name).collect();
    if listed != names {
        report.problems.push(format!("{} names are there, {} should be", listed.len(), names.len()));
    }
    report.operated.collected += shared.expected.compare_with_host(&mut host, &mut report.problems)?;
    report.problems.extend(compare_history(&mut host, shared)?);
    Ok(())
}

/// Every answered request stands in the history once, in the transaction that its answer named; every posted message was delivered in one
/// transaction, and each timer at most once in a period.
fn compare_history(host: &mut Host, shared: &Shared) -> Result<Vec<String>, ApiError> {
    let mut recorded: HashMap<String, Vec<u64>> = HashMap::new();
    let mut deliveries: HashMap<u64, Vec<(u64, i64)>> = HashMap::new();
    let (mut next, mut packed) = (1, 0);
    let mut problems = Vec::new();
    loop {
        let count = host.history(next, PAGE, &mut |line: Value| {
            if let Some(before) = line["packed"].as_u64() {
                (packed, next) = (before, before + 1);
                return;
            }
            let tid = line["tid"].as_u64().unwrap_or(0);
            if tid != next {
                problems.push(format!("the history goes on with {tid} where {next} should be"));
            }
            next = tid + 1;
            if let Some(id) = line["request_id"].as_str() {
                recorded.entry(id.to_owned()).or_default().push(tid);
            } else if let Some(target) = line["target"].as_u64().filter(|_| line["ok"] == true) {
                // Nobody but the host sends messages without a request id.
                let adds = line["arguments"]["by"].as_i64().unwrap_or(0);
                deliveries.entry(target).or_default().push((line["time_us"].as_u64().unwrap_or(0), adds));
            }
        })?;
        if count == 0 || !problems.is_empty() {
            break;
        }
    }
    let answered = shared.answered.lock().expect("nothing panics while it holds this lock");
    for (id, tid) in answered.iter() {
        let found = recorded.get(id).map_or(&[][..], Vec::as_slice);
        // What an answer did not name may have been packed away.
        if found.is_empty() && tid.unwrap_or(0) <= packed && packed > 0 {
            continue;
        }
        if found.len() != 1 || tid.is_some_and(|tid| tid != found[0]) {
            problems.push(format!("request {id} was answered as transaction {tid:?} and is recorded in {found:?}"));
        }
    }
    let twice = recorded.iter().filter(|(id, tids)| tids.len() > 1 && !answered.contains_key(*id));
    problems.extend(twice.map(|(id, tids)| format!("request {id} was executed in {tids:?}")));
    problems.extend(shared.expected.compare_with_history(&deliveries, packed > 0));
    problems.truncate(20);
    Ok(problems)
}
