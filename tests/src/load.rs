//! Clients that increment counters without a pause, and know exactly what they were answered.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value as Json, json};

use crate::http::Client;

/// Between two tries to reach a host that does not answer.
const RETRY: Duration = Duration::from_millis(5);

/// What happened to the requests of all clients.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// The counts that were answered: each increment's own, in no order.
    pub counts: Vec<i64>,
    /// Answers other than the expected one.
    pub failures: Vec<String>,
    /// Connections that were refused.
    pub refused: u64,
    /// Connections that ended before the answer; the request was sent again with its id.
    pub broken: u64,
    /// The longest time from the first try of a request to its answer.
    pub longest: Duration,
}

/// Clients at work on one counter, each request with an id of its own, each repeated until it is answered.
#[derive(Debug)]
pub struct Load {
    target: Arc<Target>,
    clients: Vec<JoinHandle<Report>>,
}

#[derive(Debug)]
struct Target {
    /// Where the host is; a lock because a test moves it when it starts another host.
    address: Mutex<SocketAddr>,
    object: String,
    /// How long a client rests after each answer.
    rest: Duration,
    end: AtomicBool,
}

impl Load {
    /// Starts the clients.
    pub fn start(address: SocketAddr, object: &str, clients: usize) -> Load {
        Load::with_rest(address, object, clients, Duration::ZERO)
    }

    /// Starts one client that rests after each answer, so that a long test does not wait for the load.
    pub fn gentle(address: SocketAddr, object: &str) -> Load {
        Load::with_rest(address, object, 1, Duration::from_millis(2))
    }

    fn with_rest(address: SocketAddr, object: &str, clients: usize, rest: Duration) -> Load {
        let (address, object) = (Mutex::new(address), object.to_owned());
        let target = Arc::new(Target { address, object, rest, end: AtomicBool::new(false) });
        let work = |client| {
            let target = target.clone();
            thread::spawn(move || target.work(client))
        };
        let clients = (0..clients).map(work).collect();
        Load { target, clients }
    }

    /// Says where the host is from now on.
    pub fn move_to(&self, address: SocketAddr) {
        *self.target.address.lock().unwrap() = address;
    }

    /// Ends the clients when each has the answer to what it asked last.
    pub fn finish(mut self) -> Report {
        self.target.end.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for client in self.clients.drain(..) {
            let part = client.join().unwrap();
            report.counts.extend(part.counts);
            report.failures.extend(part.failures);
            report.refused += part.refused;
            report.broken += part.broken;
            report.longest = report.longest.max(part.longest);
        }
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that failed does not finish; its clients would never hear from a host again.
        self.target.end.store(true, Ordering::Relaxed);
    }
}

impl Target {
    fn work(&self, client: usize) -> Report {
        let mut report = Report::default();
        let path = format!("/v1/objects/{}/increment", self.object);
        let mut address = *self.address.lock().unwrap();
        let mut connection = Client::tcp(address);
        for number in 0.. {
            if self.end.load(Ordering::Relaxed) {
                break;
            }
            let id = format!("{}-{client}-{number}", std::process::id());
            let (first, body) = (Instant::now(), json!({ "by": 1 }).to_string());
            loop {
                let now = *self.address.lock().unwrap();
                if now != address {
                    (address, connection) = (now, Client::tcp(now));
                }
                match connection.send("POST", &path, &[("Idempotency-Key", &id)], body.as_bytes()) {
                    Ok(answer) if answer.status == 200 => {
                        report.counts.push(answer.json()["result"].as_i64().unwrap());
                        break;
                    }
                    // What the host says when it stops; the next one will do it.
                    Ok(answer) if answer.status == 503 && code(&answer.json()) == "stopping" => report.broken += 1,
                    Ok(answer) => {
                        report.failures.push(format!("HTTP {}: {}", answer.status, answer.text()));
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => report.refused += 1,
                    Err(_) => report.broken += 1,
                }
                if self.end.load(Ordering::Relaxed) && first.elapsed() > crate::PATIENCE {
                    report.failures.push(format!("request {id} was never answered"));
                    break;
                }
                thread::sleep(RETRY);
            }
            report.longest = report.longest.max(first.elapsed());
            thread::sleep(self.rest);
        }
        report
    }
}

impl Report {
    /// Each increment that was answered was done exactly once, if the counter now stands at `count` and nobody else
    /// incremented it.
    pub fn assert_exactly_once(mut self, count: i64) {
        assert_eq!(self.failures, Vec::<String>::new());
        self.counts.sort_unstable();
        let expected: Vec<i64> = (1..=count).collect();
        assert!(!expected.is_empty(), "nothing was done at all");
        if let Some((found, expected)) = self.counts.iter().zip(&expected).find(|(found, expected)| found != expected) {
            panic!("an increment was lost or done twice: {found} was answered where {expected} is the next");
        }
        assert_eq!(self.counts.len(), expected.len(), "answers and increments differ in number");
    }
}

fn code(problem: &Json) -> &str {
    problem["code"].as_str().unwrap_or_default()
}
