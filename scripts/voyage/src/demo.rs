//! The demonstration: a host under live traffic has its plugins replaced, is replaced itself, and is killed; then everything
//! is accounted for.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    account::{Account, Event, FLIGHT_IDS, compare_figures, number, read_history},
    api::{ApiError, Host},
    feed::{self, Feed, FeedError, FeedReport},
    flights::{self, FiguresError, FileError},
    load::{self, Load, LoadReport, Running},
    measure::Latencies,
    programs::{ProgramError, Theseus, Watchdog, WatchdogStart},
    progress::Progress,
};

/// How long one request is tried: longer than any restart takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the host may take to be ready, or an upgrade to be confirmed.
const READY_WAIT: Duration = Duration::from_secs(120);
/// How long the host's status is waited for at once, while what is awaited may also fail.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// Traffic is watched for so long after each event.
const AFTERMATH: Duration = Duration::from_millis(500);

/// What the demonstration runs with.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The host's binary.
    pub theseus: PathBuf,
    /// The watchdog's binary.
    pub watchdog: PathBuf,
    /// The folder with the plugins' libraries.
    pub plugins: PathBuf,
    /// The folder with the upgrade scripts.
    pub apply: PathBuf,
    /// A bundle with a rebuilt host.
    pub bundle: PathBuf,
    /// A folder for the identity that does not exist yet.
    pub home: PathBuf,
    /// The flights.
    pub flights: PathBuf,
    /// The program that computes the figures independently.
    pub figures: PathBuf,
    /// About how long the flights should take.
    pub flights_for: Duration,
    /// Clients of the load.
    pub clients: usize,
}

/// Why the demonstration could not be carried through.
#[derive(thiserror::Error, Debug)]
pub enum DemoError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The host could not be talked to.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The flights could not be taken in.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The file of flights cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The figures could not be read.
    #[error(transparent)]
    Figures(#[from] FiguresError),
    /// No port of the loopback interface is free.
    #[error("no free port on 127.0.0.1: {0}")]
    NoPort(#[source] std::io::Error),
    /// The home exists.
    #[error("{} exists already; the demonstration needs a folder of its own", home.display())]
    HomeExists {
        /// The folder.
        home: PathBuf,
    },
    /// Something that was waited for did not happen.
    #[error("{what} did not happen within {waited_s} s; see {}", log.display())]
    TooSlow {
        /// What was waited for.
        what: String,
        /// How long, in seconds.
        waited_s: u64,
        /// Where the host and the watchdog tell why.
        log: PathBuf,
    },
    /// The watchdog ended.
    #[error("the watchdog ended with {status}; see {}", log.display())]
    WatchdogEnded {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Where it tells why.
        log: PathBuf,
    },
    /// The host told something that does not fit.
    #[error("the host's {what} lacks {field}: {document}")]
    Missing {
        /// Which answer.
        what: &'static str,
        /// What is not in it.
        field: &'static str,
        /// The answer.
        document: Value,
    },
}

struct Stage<'a> {
    demo: &'a Demo,
    theseus: Theseus,
    watchdog: Watchdog,
    log: PathBuf,
    to: SocketAddr,
    start: Instant,
    /// Flights that are in.
    flights: Arc<AtomicU64>,
    flights_total: u64,
    progress: Progress,
    events: Vec<(Event, Instant, Instant)>,
    problems: Vec<String>,
}

/// Carries the demonstration through. It takes about as long as the flights, and some seconds more.
///
/// # Errors
///
/// If it could not be carried through. What went through but is not as it should be is in [`Account::problems`].
pub fn run(demo: &Demo) -> Result<Account, DemoError> {
    let flights_total = flights::count_flights(&demo.flights)?;
    let mut stage = set_stage(demo, flights_total)?;
    let load = start_load(&stage)?;
    let feed = start_feed(&stage);
    stage.start = Instant::now();
    stage.progress.note(&format!("traffic: {} clients, and {flights_total} flights", demo.clients));

    stage.sail_until(0.2, &feed)?;
    stage.swap()?;
    stage.sail_until(0.45, &feed)?;
    stage.restart_cycle()?;
    stage.sail_until(0.7, &feed)?;
    stage.kill()?;
    stage.sail_until(1.0, &feed)?;
    stage.progress.finish();
    let flights = feed.join().expect("the feed does not panic")?;
    let (load, latencies) = load.finish()?;
    take_account(stage, load, &latencies, flights)
}

fn set_stage(demo: &Demo, flights_total: u64) -> Result<Stage<'_>, DemoError> {
    if demo.home.exists() {
        return Err(DemoError::HomeExists { home: demo.home.clone() });
    }
    let theseus = Theseus { binary: demo.theseus.clone(), home: demo.home.clone() };
    theseus.run(&["init"])?;
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let to = listener.map_err(DemoError::NoPort)?;
    let log = demo.home.with_extension("log");
    let watchdog = Watchdog::start(&WatchdogStart {
        binary: &demo.watchdog,
        host: &demo.theseus,
        home: &demo.home,
        apply: &demo.apply,
        listen: to,
        log: &log,
    })?;
    let mut stage = Stage {
        demo,
        theseus,
        watchdog,
        log,
        to,
        start: Instant::now(),
        flights: Arc::default(),
        flights_total,
        progress: Progress::new("flights", flights_total),
        events: Vec::new(),
        problems: Vec::new(),
    };
    stage.wait_for("the first start of the host", |_| true)?;
    stage.theseus.json(&stage.swap_arguments(&["counter", "ledger", "flights"]).each())?;
    Ok(stage)
}

fn start_load(stage: &Stage<'_>) -> Result<Running, DemoError> {
    let load = Load {
        to: stage.to,
        prefix: "load".to_owned(),
        counters: 16,
        accounts: 16,
        clients: stage.demo.clients,
        requests_max: None,
        rate: None,
        one_by_one: false,
        patience: PATIENCE,
    };
    Ok(load::start(load)?)
}

fn start_feed(stage: &Stage<'_>) -> thread::JoinHandle<Result<FeedReport, FeedError>> {
    let rate = (stage.flights_total / stage.demo.flights_for.as_secs().max(1)).max(1);
    let feed = Feed {
        file: stage.demo.flights.clone(),
        to: stage.to,
        board: "board".to_owned(),
        // About ten requests a second, so that something is under way at every moment.
        lines_per_request: usize::try_from(rate / 10).unwrap_or(usize::MAX).clamp(1, 500),
        state: None,
        ids: FLIGHT_IDS.to_owned(),
        rate_max: Some(u32::try_from(rate).unwrap_or(u32::MAX)),
        patience: PATIENCE,
    };
    let flights = Arc::clone(&stage.flights);
    thread::spawn(move || feed::run(&feed, &mut |now| flights.store(now, Ordering::Relaxed)))
}

/// A list of texts, borrowed as the command line takes them.
struct Texts(Vec<String>);

impl Texts {
    fn each(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

impl Stage<'_> {
    /// Lets the traffic go on until a part of the flights is in.
    fn sail_until(
        &mut self,
        part: f64,
        feed: &thread::JoinHandle<Result<FeedReport, FeedError>>,
    ) -> Result<(), DemoError> {
        let goal = (self.flights_total as f64 * part) as u64;
        while !feed.is_finished() {
            let flights = self.flights.load(Ordering::Relaxed);
            self.progress.set(flights);
            if part < 1.0 && flights >= goal {
                break;
            }
            self.check_watchdog()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn swap(&mut self) -> Result<(), DemoError> {
        let arguments = self.swap_arguments(&["counter_v2", "flights_v2"]);
        self.event("swap of counter and flights", |stage| {
            let swapped = stage.theseus.json(&arguments.each())?;
            let pause_us = number(&swapped, "swap", "pause_us")?;
            Ok(format!("no transaction could start for {pause_us} us"))
        })
    }

    fn restart_cycle(&mut self) -> Result<(), DemoError> {
        let bundle = self.demo.bundle.to_string_lossy().into_owned();
        self.event("restart cycle to a rebuilt host", |stage| {
            let before = stage.status()?;
            let incarnation = number(&before, "status", "incarnation")?;
            stage.theseus.json(&["apply", &bundle, "--reason", "a rebuilt host for the demonstration"])?;
            let after = stage.wait_for("the restart cycle", |status| {
                status["incarnation"].as_u64().is_some_and(|now| now > incarnation) && status["update"].is_null()
            })?;
            let (from, to) = (&before["host_version"], &after["host_version"]);
            if from == to {
                stage.problems.push(format!("the restart cycle ended with the host that it began with, {to}"));
            }
            Ok(format!("host {from} became {to}, incarnation {incarnation} became {}", after["incarnation"]))
        })
    }

    fn kill(&mut self) -> Result<(), DemoError> {
        self.event("kill -9 of the host", |stage| {
            let before = stage.status()?;
            let incarnation = number(&before, "status", "incarnation")?;
            let process = stage.watchdog.kill_host()?;
            let after = stage.wait_for("the start after the kill", |status| {
                status["incarnation"].as_u64().is_some_and(|now| now > incarnation)
            })?;
            if before["host_version"] != after["host_version"] {
                stage.problems.push(format!("after the kill another host came up, {}", after["host_version"]));
            }
            Ok(format!("process {process} killed, incarnation {incarnation} became {}", after["incarnation"]))
        })
    }

    /// Does something to the host, and notes when.
    fn event(
        &mut self,
        what: &str,
        work: impl FnOnce(&mut Self) -> Result<String, DemoError>,
    ) -> Result<(), DemoError> {
        self.progress.note(&format!("{:>6.1} s  {what} ...", self.start.elapsed().as_secs_f64()));
        let from = Instant::now();
        let flights_before = self.flights.load(Ordering::Relaxed);
        let note = work(self)?;
        let to = Instant::now();
        thread::sleep(AFTERMATH);
        let flights_after = self.flights.load(Ordering::Relaxed);
        self.progress.note(&format!("{:>6.1} s  {what}: {note}", self.start.elapsed().as_secs_f64()));
        let event = Event {
            what: what.to_owned(),
            at_s: (from - self.start).as_secs_f64(),
            took_ms: (to - from).as_secs_f64() * 1e3,
            slowest_us: None,
            during_flights: flights_after > flights_before,
            note,
        };
        self.events.push((event, from, to));
        Ok(())
    }

    /// The host's status. Asked over HTTP, where the question waits for the next host while there is none; the command line
    /// would open the identity itself, which is not its turn.
    fn status(&self) -> Result<Value, ApiError> {
        Host::new(self.to, STATUS_PATIENCE).get("/v1/status")
    }

    /// Waits until the host's status is as wanted, and returns it.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, DemoError> {
        let until = Instant::now() + READY_WAIT;
        while Instant::now() < until {
            // While one host goes and the next one comes, an answer may take longer than this is patient.
            if let Ok(status) = self.status()
                && wanted(&status)
            {
                return Ok(status);
            }
            self.check_watchdog()?;
            self.progress.set(self.flights.load(Ordering::Relaxed));
            thread::sleep(Duration::from_millis(20));
        }
        Err(DemoError::TooSlow { what: what.to_owned(), waited_s: READY_WAIT.as_secs(), log: self.log.clone() })
    }

    fn check_watchdog(&mut self) -> Result<(), DemoError> {
        match self.watchdog.ended() {
            Some(status) => Err(DemoError::WatchdogEnded { status, log: self.log.clone() }),
            None => Ok(()),
        }
    }

    fn swap_arguments(&self, plugins: &[&str]) -> Texts {
        let files = plugins.iter().map(|name| {
            let file = format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
            self.demo.plugins.join(file).to_string_lossy().into_owned()
        });
        Texts(std::iter::once("swap".to_owned()).chain(files).collect())
    }
}

/// Compares everything with everything, and stops the host.
fn take_account(
    stage: Stage<'_>,
    load: LoadReport,
    latencies: &Latencies,
    flights: FeedReport,
) -> Result<Account, DemoError> {
    let mut host = Host::new(stage.to, PATIENCE);
    let mut record = read_history(&mut host)?;
    let mut problems = stage.problems.clone();
    problems.append(&mut record.problems);
    let figures_equal = compare_figures(
        &mut host,
        &stage.demo.flights,
        &stage.demo.figures,
        record.second_rule_from_line,
        &mut problems,
    )?;
    let Stage { demo, theseus, watchdog, events, flights_total, .. } = stage;
    watchdog.stop()?;
    let verified = theseus.json(&["verify"])?;
    if verified["whole"] != Value::Bool(true) {
        problems.push(format!("verify found damage: {}", verified["damage"]));
    }
    let events: Vec<Event> = events
        .into_iter()
        .map(|(event, from, to)| {
            let slowest = latencies.slowest_between(from, to + AFTERMATH);
            let slowest_us = slowest.map(|slowest| u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX));
            Event { slowest_us, ..event }
        })
        .collect();
    for event in events.iter().filter(|event| event.slowest_us.is_none()) {
        problems.push(format!("no traffic was under way during the {}", event.what));
    }
    if !load.faultless() {
        problems.push("the load is not accounted for: something was refused, lost, wrong or executed twice".to_owned());
    }
    if load.attempts.refused + flights.attempts.refused > 0 {
        problems.push("connections were refused although the watchdog holds the listening socket".to_owned());
    }
    if !flights.finished || flights.events != flights_total {
        problems.push(format!("{} of {flights_total} flights were taken in", flights.events));
    }
    if record.flights != flights_total {
        problems.push(format!("the history holds {} of {flights_total} flights", record.flights));
    }
    if record.second_rule_from_line.is_none() {
        problems.push(format!("no flight of {} was executed by the second version", demo.flights.display()));
    }
    Ok(Account {
        events,
        load,
        flights,
        second_rule_from_line: record.second_rule_from_line,
        figures_equal,
        executed: record.executed,
        transactions: record.transactions,
        request_ids_repeated: record.request_ids_repeated,
        verified_transactions: number(&verified, "verification", "transactions")?,
        problems,
    })
}
