//! `voyage`: traffic, real events and the demonstration, from the command line.

use std::{
    error::Error,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand};
use theseus_voyage::{
    api::Host,
    crash::{self, Crash},
    demo::{self, Demo},
    feed::{self, Feed, FeedReport, LINES_PER_REQUEST_MAX},
    flights,
    load::{self, Load},
    progress::Progress,
    report,
    swaps::{bench, soak},
};

/// Puts traffic on a running host, and tells what became of every request.
///
/// Exits with 0 if all is as it should be, 1 if something is off, and 2 if the command line is wrong.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes a file of flights in, in the order of the file, each flight once.
    Feed(FeedArgs),
    /// Waits until the host is ready.
    Wait {
        #[command(flatten)]
        to: To,
    },
    /// Prints what the host found in the flights, one line for each carrier, airport and aircraft.
    Figures {
        #[command(flatten)]
        to: To,
    },
    /// Prints what `theseus rehearse --json --all-differences`, given on standard input, found in the flights, one line for each
    /// flight that would come out otherwise.
    Differences,
    /// Increments counters and moves money from many clients, and compares the host with what they were told.
    Load(LoadArgs),
    /// Measures what swaps cost the host and its clients; one JSON line a figure.
    BenchSwap(BenchSwapArgs),
    /// Swaps without end under load; exits with 1 if anything is left behind, lost or done twice.
    SoakSwap(SoakSwapArgs),
    /// Kills a host under load again and again; exits with 1 if anything that was answered is not there, or is there twice.
    SoakCrash(SoakCrashArgs),
    /// Replaces plugins and the host under live traffic, kills it, and accounts for everything.
    Demo(DemoArgs),
}

#[derive(Args)]
struct To {
    /// The host's address.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7070")]
    to: SocketAddr,
    /// Seconds for which one request is tried before it counts as unanswered.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    patience: u64,
}

impl To {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

#[derive(Args)]
struct FeedArgs {
    /// Flights as CSV with a header, compressed with gzip or not.
    file: PathBuf,
    #[command(flatten)]
    to: To,
    /// The name of the object that takes the flights in.
    #[arg(long, default_value = "board")]
    board: String,
    /// Flights in one request.
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = lines_per_request)]
    lines_per_request: usize,
    /// Notes how far it came in this file, and goes on from there.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// What the request ids begin with; the line number follows.
    #[arg(long, value_name = "PREFIX", default_value = "flight-")]
    ids: String,
    /// The most flights per second.
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Prints the summary as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct LoadArgs {
    #[command(flatten)]
    to: To,
    /// Counters to spread the increments over.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    counters: usize,
    /// Accounts of the ledger; 0 for no transfers.
    #[arg(long, default_value_t = 16, value_parser = accounts)]
    accounts: usize,
    /// Clients, each with a connection of its own.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    clients: usize,
    /// How long to go on.
    #[arg(long, default_value_t = 10, conflicts_with = "requests")]
    seconds: u64,
    /// How many requests to send instead.
    #[arg(long)]
    requests: Option<u64>,
    /// What the names of the objects begin with. Nobody else may use these objects meanwhile.
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct DemoArgs {
    /// The host's binary.
    #[arg(long, value_name = "PATH")]
    theseus: PathBuf,
    /// The watchdog's binary.
    #[arg(long, value_name = "PATH")]
    watchdog: PathBuf,
    /// The folder with the plugins' libraries.
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// The folder with the upgrade scripts.
    #[arg(long, value_name = "DIR")]
    apply: PathBuf,
    /// A bundle with a rebuilt host.
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,
    /// A folder for the identity that does not exist yet.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The flights.
    #[arg(long, value_name = "FILE")]
    flights: PathBuf,
    /// The program that computes the same figures independently.
    #[arg(long, value_name = "PATH")]
    figures: PathBuf,
    /// About how many seconds the flights should take.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..))]
    seconds: u64,
    /// Clients of the load.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    clients: usize,
    /// Prints the account as JSON.
    #[arg(long)]
    json: bool,
}

/// What a host of its own takes.
#[derive(Args)]
struct Own {
    /// The host's binary.
    #[arg(long, value_name = "PATH")]
    theseus: PathBuf,
    /// The folder with the plugins' libraries.
    #[arg(long, value_name = "DIR")]
    plugins: PathBuf,
    /// An empty folder for what is needed meanwhile.
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// Clients, each with a connection of its own.
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    clients: usize,
}

#[derive(Args)]
struct BenchSwapArgs {
    #[command(flatten)]
    own: Own,
    /// Live objects of the swapped behaviour, one run each.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000])]
    objects: Vec<u64>,
    /// Requests a second of all clients together.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Swaps a second.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    swaps_per_s: u32,
    /// Seconds that each run takes, without swaps and with them.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(6..))]
    seconds: u64,
    /// The Erlang program to compare with.
    #[arg(long, value_name = "FILE")]
    erlang: PathBuf,
}

#[derive(Args)]
struct SoakSwapArgs {
    #[command(flatten)]
    own: Own,
    /// How many swaps.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    swaps: u64,
    /// Swaps before the first look at the process.
    #[arg(long, default_value_t = 5_000)]
    warm_up: u64,
    /// Requests a second of all clients together.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Has objects migrate with each swap, forwards and backwards.
    #[arg(long)]
    schema: bool,
    /// Swaps a second plugin as well, which leaves data with a destructor and a key on each thread that calls it.
    #[arg(long)]
    touch: bool,
}

#[derive(Args)]
struct SoakCrashArgs {
    #[command(flatten)]
    own: Own,
    /// How often the host is killed.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// After how many kills the whole identity is verified.
    #[arg(long, value_name = "ROUNDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    verify_every: u64,
    /// What the random moments come from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Feed(args) => feed_file(args),
        Command::Wait { to } => wait_until_ready(&to),
        Command::Figures { to } => print_figures(&to),
        Command::Differences => print_differences(),
        Command::Load(args) => make_load(args),
        Command::BenchSwap(args) => bench_swap(args),
        Command::SoakSwap(args) => soak_swap(args),
        Command::SoakCrash(args) => soak_crash(args),
        Command::Demo(args) => run_demo(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("voyage: {error}");
            ExitCode::FAILURE
        }
    }
}

fn feed_file(args: FeedArgs) -> Result<bool, Box<dyn Error>> {
    let total = flights::count_flights(&args.file)?;
    let patience = args.to.patience();
    let feed = Feed {
        file: args.file,
        to: args.to.to,
        board: args.board,
        lines_per_request: args.lines_per_request,
        state: args.state,
        ids: args.ids,
        rate_max: args.rate,
        patience,
    };
    let progress = Progress::new("flights", total);
    let report = feed::run(&feed, &mut |done| progress.set(done));
    progress.finish();
    let report: FeedReport = report?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report::feed(&report));
    }
    Ok(true)
}

fn wait_until_ready(to: &To) -> Result<bool, Box<dyn Error>> {
    Host::new(to.to, to.patience()).get("/ready")?;
    Ok(true)
}

fn print_figures(to: &To) -> Result<bool, Box<dyn Error>> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let count = flights::write_figures(&mut Host::new(to.to, to.patience()), &mut out)?;
    out.flush()?;
    if count == 0 {
        eprintln!("voyage: the host has seen no flights; take some in with `voyage feed`");
    }
    Ok(count > 0)
}

fn print_differences() -> Result<bool, Box<dyn Error>> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    flights::write_differences(std::io::stdin().lock(), &mut out)?;
    out.flush()?;
    Ok(true)
}

fn make_load(args: LoadArgs) -> Result<bool, Box<dyn Error>> {
    let load = Load {
        to: args.to.to,
        prefix: args.prefix,
        counters: args.counters,
        accounts: args.accounts,
        clients: args.clients,
        requests_max: args.requests,
        rate: None,
        one_by_one: false,
        patience: args.to.patience(),
    };
    let running = load::start(load)?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let progress = Progress::new("requests", args.requests.unwrap_or(0));
    while !running.is_finished() && (args.requests.is_some() || Instant::now() < end) {
        thread::sleep(Duration::from_millis(50));
        progress.set(running.answered());
    }
    progress.finish();
    let (report, _) = running.finish()?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report::load(&report));
    }
    Ok(report.faultless())
}

fn bench_swap(args: BenchSwapArgs) -> Result<bool, Box<dyn Error>> {
    let BenchSwapArgs { own, objects, rate, swaps_per_s, seconds, erlang } = args;
    let Own { theseus, plugins, folder, clients } = own;
    let bench = bench::Bench { theseus, plugins, folder, objects, rate, clients, swaps_per_s, seconds, erlang };
    bench::run(&bench, &mut |figure| println!("{figure}"))?;
    Ok(true)
}

fn soak_swap(args: SoakSwapArgs) -> Result<bool, Box<dyn Error>> {
    let SoakSwapArgs { own, swaps, warm_up, rate, schema, touch } = args;
    let Own { theseus, plugins, folder, clients } = own;
    let pair = if schema { soak::Pair::Schema } else { soak::Pair::Same };
    let soak = soak::Soak { theseus, plugins, folder, swaps, warm_up, pair, rate, clients, touch };
    let report = soak::run(&soak, &mut |look| println!("{look}"))?;
    println!("{}", serde_json::to_string(&report)?);
    for problem in &report.problems {
        eprintln!("voyage: {problem}");
    }
    Ok(report.problems.is_empty())
}

fn soak_crash(args: SoakCrashArgs) -> Result<bool, Box<dyn Error>> {
    let SoakCrashArgs { own, rounds, verify_every, seed } = args;
    let Own { theseus, plugins, folder, clients } = own;
    let report = crash::run(&Crash { theseus, plugins, folder, rounds, clients, verify_every, seed })?;
    println!("{}", serde_json::to_string(&report)?);
    for problem in &report.problems {
        eprintln!("voyage: {problem}");
    }
    Ok(report.problems.is_empty())
}

fn run_demo(args: DemoArgs) -> Result<bool, Box<dyn Error>> {
    let json = args.json;
    let account = demo::run(&Demo {
        theseus: args.theseus,
        watchdog: args.watchdog,
        plugins: args.plugins,
        apply: args.apply,
        bundle: args.bundle,
        home: args.home,
        flights: args.flights,
        figures: args.figures,
        flights_for: Duration::from_secs(args.seconds),
        clients: args.clients,
    })?;
    if json {
        println!("{}", serde_json::to_string(&account)?);
    } else {
        print!("{}", report::account(&account));
    }
    Ok(account.problems.is_empty())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number from 1 on".to_owned())
}

fn accounts(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number != 1).ok_or_else(|| "expected 0, or a number from 2 on".to_owned())
}

fn lines_per_request(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|lines| (1..=LINES_PER_REQUEST_MAX).contains(lines))
        .ok_or_else(|| format!("expected a number from 1 to {LINES_PER_REQUEST_MAX}"))
}
