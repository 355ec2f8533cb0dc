//! Traffic from many clients, and what became of each request.
//!
//! Each client sends one request after another over its own connection: mostly increments of counters, and every few requests a
//! transfer between two accounts of a ledger. What was acknowledged is noted in the [model](crate::model) and compared with
//! the host afterwards.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    api::{ApiError, Attempts, Host},
    measure::{Latencies, LatencySummary, Silence},
    model::{Comparison, Counter},
};

/// The behaviour of the counters.
pub const COUNTER: &str = "counter.Counter";
/// The behaviour that moves money between accounts.
pub const LEDGER: &str = "ledger.Ledger";
/// What each account gets when it is made.
const OPENING_BALANCE: i64 = 1_000_000;
/// One request in so many is a transfer.
const TRANSFER_EVERY: u64 = 4;
/// How many refusals are kept word for word.
const SAMPLES_MAX: usize = 5;

/// What traffic to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// The host.
    pub to: SocketAddr,
    /// What the names of the objects begin with.
    pub prefix: String,
    /// Counters to spread the increments over; at least one.
    pub counters: usize,
    /// Accounts of the ledger; none, or at least two.
    pub accounts: usize,
    /// Clients, each a thread with a connection of its own; at least one.
    pub clients: usize,
    /// Requests of all clients together; none for as many as can be until the load is stopped.
    pub requests_max: Option<u64>,
    /// Requests a second of all clients together; none for as many as can be. They are due at fixed times, and latencies count
    /// from then: one slow answer does not hide the requests that would have waited behind it.
    pub rate: Option<u32>,
    /// Keeps the times of every request.
    pub one_by_one: bool,
    /// How long one request is tried.
    pub patience: Duration,
}

/// What became of the requests.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct LoadReport {
    /// Requests, each counted once however often it was sent.
    pub sent: u64,
    /// Requests that got their result.
    pub answered: u64,
    /// Requests that were sent again because a connection broke, and connections refused.
    pub attempts: Attempts,
    /// Requests that the host answered with an error.
    pub refused: u64,
    /// Requests that nobody answered in the time set.
    pub unanswered: u64,
    /// The counters compared with what was told.
    pub counters: Comparison,
    /// The ledger's total before and after; none without a ledger.
    pub ledger_total: Option<(i64, i64)>,
    /// Transfers that were acknowledged.
    pub transfers: u64,
    /// Seconds.
    pub seconds: f64,
    /// Answers a second.
    pub answers_per_s: f64,
    /// Latencies, from the first attempt to the answer.
    pub latency: LatencySummary,
    /// The longest time in which no client got an answer, in microseconds.
    pub longest_silence_us: u64,
    /// Some of the refusals, word for word.
    pub samples: Vec<String>,
}

impl LoadReport {
    /// Whether every request was answered and executed once.
    pub fn faultless(&self) -> bool {
        let Comparison { lost, executed_twice, wrong, .. } = self.counters;
        self.sent == self.answered
            && (lost, executed_twice, wrong) == (0, 0, 0)
            && self.ledger_total.is_none_or(|(before, after)| before == after)
    }
}

/// A load that is running.
#[derive(Debug)]
pub struct Running {
    load: Load,
    shared: Arc<Shared>,
    clients: Vec<thread::JoinHandle<Client>>,
    total_before: Option<i64>,
}

#[derive(Debug)]
struct Shared {
    run: String,
    start: Instant,
    counters: Vec<Counter>,
    /// The owners of the ledger's accounts.
    accounts: Vec<String>,
    ledger: String,
    stop: AtomicBool,
    /// Requests begun by all clients.
    begun: AtomicU64,
    answered: AtomicU64,
    silence: Silence,
}

/// What one client did.
#[derive(Debug)]
struct Client {
    answered: u64,
    transfers: u64,
    refused: u64,
    unanswered: u64,
    /// Increments without an answer, by counter.
    unanswered_at: Vec<u64>,
    attempts: Attempts,
    latencies: Latencies,
    samples: Vec<String>,
}

/// Makes what the load needs, and starts the clients.
///
/// # Panics
///
/// If the load has no client, no counter or a single account.
pub fn start(load: Load) -> Result<Running, ApiError> {
    assert!(load.clients > 0 && load.counters > 0 && load.accounts != 1, "the load's numbers are out of range");
    let run = run_name();
    let mut host = Host::new(load.to, load.patience);
    let mut counters = Vec::with_capacity(load.counters);
    for number in 0..load.counters {
        let name = format!("{}/counter-{number}", load.prefix);
        host.create(COUNTER, &name, &json!({}), &format!("{run}-{name}"))?;
        let count = number_of(&name, "count", host.ask(&name, "count")?)?;
        counters.push(Counter::new(name, count));
    }
    let ledger = format!("{}/ledger", load.prefix);
    let mut accounts = Vec::with_capacity(load.accounts);
    if load.accounts > 0 {
        host.create(LEDGER, &ledger, &json!({}), &format!("{run}-{ledger}"))?;
        let owners = host.ask(&ledger, "owners")?;
        for number in 0..load.accounts {
            let owner = format!("owner-{number}");
            if !owners.as_array().is_some_and(|owners| owners.iter().any(|known| *known == owner)) {
                let arguments = json!({ "name": owner, "initial": OPENING_BALANCE });
                host.call(&ledger, "open", &arguments, &format!("{run}-{owner}"))?;
            }
            accounts.push(owner);
        }
    }
    let total_before = (load.accounts > 0).then(|| ledger_total(&mut host, &ledger)).transpose()?;
    let start = Instant::now();
    let shared = Arc::new(Shared {
        run,
        start,
        counters,
        accounts,
        ledger,
        stop: AtomicBool::new(false),
        begun: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        silence: Silence::new(start),
    });
    let clients = (0..load.clients)
        .map(|number| {
            let (shared, load) = (Arc::clone(&shared), load.clone());
            thread::spawn(move || run_client(number, &load, &shared))
        })
        .collect();
    Ok(Running { load, shared, clients, total_before })
}

impl Load {
    fn latencies(&self, start: Instant) -> Latencies {
        if self.one_by_one { Latencies::one_by_one(start) } else { Latencies::new(start) }
    }

    /// When a client's next request is due; the clients take turns.
    fn due(&self, start: Instant, client: usize, turn: u64) -> Option<Instant> {
        let number = turn as f64 * self.clients as f64 + client as f64;
        self.rate.map(|rate| start + Duration::from_secs_f64(number / f64::from(rate)))
    }
}

impl Running {
    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Whether all clients have sent what they had to.
    pub fn is_finished(&self) -> bool {
        self.clients.iter().all(thread::JoinHandle::is_finished)
    }

    /// Stops the clients after the requests under way, compares, and reports. The latencies tell about any stretch of time.
    pub fn finish(self) -> Result<(LoadReport, Latencies), ApiError> {
        let Running { load, shared, clients, total_before } = self;
        shared.stop.store(true, Ordering::Relaxed);
        let clients: Vec<Client> =
            clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
        let seconds = shared.start.elapsed().as_secs_f64();
        let mut latencies = load.latencies(shared.start);
        let mut attempts = Attempts::default();
        let mut unanswered_at = vec![0; shared.counters.len()];
        let mut samples = Vec::new();
        for client in &clients {
            latencies.add(&client.latencies);
            attempts.broken += client.attempts.broken;
            attempts.refused += client.attempts.refused;
            for (sum, count) in unanswered_at.iter_mut().zip(&client.unanswered_at) {
                *sum += count;
            }
            samples.extend(client.samples.iter().cloned());
        }
        samples.truncate(SAMPLES_MAX);
        let sum = |count: fn(&Client) -> u64| clients.iter().map(count).sum::<u64>();

        let mut host = Host::new(load.to, load.patience);
        let mut counters = Comparison::default();
        for (counter, unanswered) in shared.counters.iter().zip(unanswered_at) {
            let last = number_of(&counter.name, "count", host.ask(&counter.name, "count")?)?;
            counters.add(counter.compare(last, unanswered));
        }
        let ledger_total = match total_before {
            Some(before) => Some((before, ledger_total(&mut host, &shared.ledger)?)),
            None => None,
        };
        let answered = sum(|client| client.answered);
        let (refused, unanswered) = (sum(|client| client.refused), sum(|client| client.unanswered));
        let report = LoadReport {
            sent: answered + refused + unanswered,
            answered,
            attempts,
            refused,
            unanswered,
            counters,
            ledger_total,
            transfers: sum(|client| client.transfers),
            seconds,
            answers_per_s: answered as f64 / seconds.max(1e-9),
            latency: latencies.summary(),
            longest_silence_us: shared.silence.longest_us(),
            samples,
        };
        Ok((report, latencies))
    }
}

fn run_client(number: usize, load: &Load, shared: &Shared) -> Client {
    let mut host = Host::new(load.to, load.patience);
    let mut client = Client {
        answered: 0,
        transfers: 0,
        refused: 0,
        unanswered: 0,
        unanswered_at: vec![0; shared.counters.len()],
        attempts: Attempts::default(),
        latencies: load.latencies(shared.start),
        samples: Vec::new(),
    };
    for turn in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let begun = shared.begun.fetch_add(1, Ordering::Relaxed);
        if load.requests_max.is_some_and(|requests_max| begun >= requests_max) {
            break;
        }
        let key = format!("{}-{number}-{turn}", shared.run);
        let spread = turn as usize * load.clients + number;
        let from = match load.due(shared.start, number, turn) {
            Some(due) => {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due
            }
            None => Instant::now(),
        };
        let answer = if shared.accounts.is_empty() || turn % TRANSFER_EVERY != 0 {
            let at = spread % shared.counters.len();
            let counter = &shared.counters[at];
            let answer = host.call(&counter.name, "increment", &json!({ "by": 1 }), &key);
            match &answer {
                Ok(done) => counter.acknowledge(done.result.as_i64()),
                Err(ApiError::Problem(_)) => {}
                Err(_) => client.unanswered_at[at] += 1,
            }
            answer
        } else {
            let payer = spread % shared.accounts.len();
            let payee = (payer + 1 + turn as usize % (shared.accounts.len() - 1)) % shared.accounts.len();
            let answer = transfer(&mut host, shared, payer, payee, &key);
            client.transfers += u64::from(answer.is_ok());
            answer
        };
        let to = Instant::now();
        match answer {
            Ok(_) => {
                client.answered += 1;
                shared.answered.fetch_add(1, Ordering::Relaxed);
                shared.silence.heard(to);
                client.latencies.record(from, to);
            }
            Err(error) => {
                match &error {
                    ApiError::Problem(_) => client.refused += 1,
                    _ => client.unanswered += 1,
                }
                if client.samples.len() < SAMPLES_MAX {
                    client.samples.push(format!("{key}: {error}"));
                }
            }
        }
    }
    client.attempts = host.attempts();
    client
}

fn transfer(
    host: &mut Host,
    shared: &Shared,
    payer: usize,
    payee: usize,
    key: &str,
) -> Result<crate::api::Done, ApiError> {
    let arguments = json!({ "from": shared.accounts[payer], "to": shared.accounts[payee], "amount": 1 });
    host.call(&shared.ledger, "transfer", &arguments, key)
}

/// The sum of all balances.
fn ledger_total(host: &mut Host, ledger: &str) -> Result<i64, ApiError> {
    number_of(ledger, "total", host.ask(ledger, "total")?)
}

fn number_of(object: &str, method: &str, result: Value) -> Result<i64, ApiError> {
    result.as_i64().ok_or_else(|| ApiError::Unexpected {
        what: format!("{method} of {object}"),
        problem: format!("{result} is not a whole number"),
    })
}

/// A name for this run, so that its request ids are not those of another run.
fn run_name() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("load-{:x}-{:x}", since.as_micros(), std::process::id())
}
