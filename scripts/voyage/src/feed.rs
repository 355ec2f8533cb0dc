//! Takes a file of flights in over HTTP: in the order of the file, each flight once, whatever breaks on the way.
//!
//! One batch is under way at a time, while the next ones are read ahead: with a second one under way, its flights would be
//! executed although the first one was refused. Request ids are made from line numbers, so what is sent again after a broken
//! connection, or by a second run over the same file, is executed once.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    api::{ApiError, Attempts, Batch, Host, Problem},
    flights::{BOARD, FileError, FlightFile},
};

/// How many batches are read ahead.
const READ_AHEAD: usize = 4;
/// The most flights in one batch. Their answers have to fit into the socket's buffers while the batch is being sent.
pub const LINES_PER_REQUEST_MAX: usize = 2_000;

/// What to feed, and how.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The file of flights.
    pub file: PathBuf,
    /// The host.
    pub to: SocketAddr,
    /// The name of the board that takes the flights in; made if there is none.
    pub board: String,
    /// Flights in one batch, 1 to [`LINES_PER_REQUEST_MAX`].
    pub lines_per_request: usize,
    /// Where to note how far it came, so that another run goes on from there.
    pub state: Option<PathBuf>,
    /// What the request ids begin with; the line number follows.
    pub ids: String,
    /// The most flights per second; none for as fast as they are taken.
    pub rate_max: Option<u32>,
    /// How long one batch is tried.
    pub patience: Duration,
}

/// What a feed did.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct FeedReport {
    /// Flights answered in this run.
    pub events: u64,
    /// Flights that an earlier run had noted as answered.
    pub resumed_after: u64,
    /// Seconds.
    pub seconds: f64,
    /// Flights a second.
    pub events_per_s: f64,
    /// Batches.
    pub batches: u64,
    /// Alerts that the answers told of.
    pub alerts: u64,
    /// Sent again, and connections refused.
    pub attempts: Attempts,
    /// Whether the end of the file was reached.
    pub finished: bool,
}

/// Why a feed ended early. Run it again to go on: what was executed is not executed again.
#[derive(thiserror::Error, Debug)]
pub enum FeedError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The host could not be talked to.
    #[error("{source} (lines up to {answered} are in)")]
    Api {
        /// The last line that was answered.
        answered: u64,
        /// What went wrong.
        source: ApiError,
    },
    /// A flight was not taken. Only the rest of its batch may have been executed, because the order matters.
    #[error("line {line} was not taken: {problem}; the rest of its batch may have been executed before it")]
    Refused {
        /// The line of the file.
        line: u64,
        /// What the host said.
        problem: Problem,
    },
    /// The note of an earlier run does not fit or cannot be kept.
    #[error("the state file {}: {problem}", path.display())]
    State {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The note in a state file.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
struct State {
    /// The file that is being fed, and its length in bytes.
    file: PathBuf,
    bytes: u64,
    /// What request ids begin with.
    ids: String,
    /// The last line that was answered.
    line: u64,
}

struct Prepared {
    batch: Batch,
    first_line: u64,
}

/// Feeds a file; `watch` is told after each batch how many flights are in, those of earlier runs included.
///
/// # Panics
///
/// If `lines_per_request` is out of its range.
pub fn run(feed: &Feed, watch: &mut dyn FnMut(u64)) -> Result<FeedReport, FeedError> {
    assert!((1..=LINES_PER_REQUEST_MAX).contains(&feed.lines_per_request), "lines per request are out of range");
    let mut state = begin_state(feed)?;
    let resumed_after = state.line - 1;
    let mut file = FlightFile::open(&feed.file)?;
    let mut host = Host::new(feed.to, feed.patience);
    let slots = serde_json::json!({});
    host.create(BOARD, &feed.board, &slots, &format!("{}board-{}", feed.ids, feed.board))
        .map_err(|source| FeedError::Api { answered: state.line, source })?;
    let start = Instant::now();
    let mut report = FeedReport {
        events: 0,
        resumed_after,
        seconds: 0.0,
        events_per_s: 0.0,
        batches: 0,
        alerts: 0,
        attempts: Attempts::default(),
        finished: false,
    };
    let ended = thread::scope(|scope| {
        let (to_send, prepared) = mpsc::sync_channel(READ_AHEAD);
        let after = state.line;
        let reader = scope.spawn(move || read_ahead(feed, &mut file, after, &to_send));
        for prepared in prepared {
            let sent = send_batch(&mut host, &prepared, &mut state, &mut report);
            keep_state(feed, &state)?;
            sent?;
            watch(state.line - 1);
            if let Some(rate_max) = feed.rate_max {
                let due = Duration::from_secs_f64(report.events as f64 / f64::from(rate_max));
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        reader.join().expect("the reader does not panic")?;
        report.finished = true;
        Ok(())
    });
    ended.map(|()| {
        report.seconds = start.elapsed().as_secs_f64();
        report.events_per_s = report.events as f64 / report.seconds.max(1e-9);
        report.attempts = host.attempts();
        report
    })
}

/// Reads flights after line `after`, and hands them on in batches until the other side hangs up.
fn read_ahead(
    feed: &Feed,
    file: &mut FlightFile,
    after: u64,
    to_send: &mpsc::SyncSender<Prepared>,
) -> Result<(), FileError> {
    let mut batch = Batch::default();
    let mut first_line = 0;
    while let Some((line, flight)) = file.next_flight()? {
        if line <= after {
            continue;
        }
        if batch.is_empty() {
            first_line = line;
        }
        batch.push(Some(&format!("{}{line}", feed.ids)), &feed.board, "record", &flight);
        if batch.len() == feed.lines_per_request {
            let prepared = Prepared { batch: std::mem::take(&mut batch), first_line };
            if to_send.send(prepared).is_err() {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        // Nobody listens any more only if the feed has ended, and then for a reason that it reports itself.
        to_send.send(Prepared { batch, first_line }).ok();
    }
    Ok(())
}

fn send_batch(
    host: &mut Host,
    prepared: &Prepared,
    state: &mut State,
    report: &mut FeedReport,
) -> Result<(), FeedError> {
    let mut refused = None;
    let sent = host.batch(&prepared.batch, &mut |place, answer| match answer {
        _ if refused.is_some() => {}
        Ok(done) => {
            state.line = prepared.first_line + place as u64;
            report.events += 1;
            report.alerts += done.result.as_array().map_or(0, |alerts| alerts.len() as u64);
        }
        Err(problem) => refused = Some(FeedError::Refused { line: prepared.first_line + place as u64, problem }),
    });
    report.batches += 1;
    if let Some(refused) = refused {
        return Err(refused);
    }
    sent.map_err(|source| FeedError::Api { answered: state.line, source })
}

fn begin_state(feed: &Feed) -> Result<State, FeedError> {
    let opened = |source| FeedError::File(FileError::Open { path: feed.file.clone(), source });
    let fresh = State {
        file: feed.file.canonicalize().map_err(opened)?,
        bytes: feed.file.metadata().map_err(opened)?.len(),
        ids: feed.ids.clone(),
        line: 1,
    };
    let Some(path) = &feed.state else { return Ok(fresh) };
    let wrong = |problem: String| FeedError::State { path: path.clone(), problem };
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let kept: State = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if (State { line: 1, ..kept.clone() }) != fresh {
        return Err(wrong(format!("belongs to {} of {} bytes; name another one", kept.file.display(), kept.bytes)));
    }
    Ok(kept)
}

/// Notes how far the feed came. An older note after a power failure does no harm: request ids tell what was executed.
fn keep_state(feed: &Feed, state: &State) -> Result<(), FeedError> {
    let Some(path) = &feed.state else { return Ok(()) };
    let wrong = |error: io::Error| FeedError::State { path: path.clone(), problem: error.to_string() };
    let text = serde_json::to_vec(state).expect("a state is JSON");
    let temporary = temporary_beside(path);
    fs::write(&temporary, text).map_err(wrong)?;
    fs::rename(&temporary, path).map_err(wrong)
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
