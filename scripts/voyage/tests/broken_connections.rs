//! The client against a server that breaks every few connections: before it executes a request, after it, and in the middle of
//! an answer. A server that is well behaved under the same rules is tested end to end with the host itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use theseus_voyage::{
    feed::{self, Feed, FeedError},
    load::{self, Load},
};

const EXCERPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/flights/data/flights-excerpt.csv.gz");
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server does wrong beyond breaking connections.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Executes a request again when it is sent again.
    ForgetsIds,
    /// Answers an increment now and then without executing it.
    LosesIncrements,
    /// Refuses the flight of this line.
    RefusesLine(u64),
}

struct Server {
    fault: Fault,
    requests: u64,
    answers: HashMap<String, Value>,
    counters: HashMap<String, i64>,
    flights: Vec<String>,
}

impl Server {
    fn start(fault: Fault) -> (SocketAddr, Arc<Mutex<Server>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Mutex::new(Server {
            fault,
            requests: 0,
            answers: HashMap::new(),
            counters: HashMap::new(),
            flights: Vec::new(),
        }));
        let shared = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let server = Arc::clone(&shared);
                // A connection that its client or the server itself breaks ends its thread.
                thread::spawn(move || serve(stream.unwrap(), &server).ok());
            }
        });
        (address, server)
    }

    fn execute(&mut self, id: Option<&str>, object: &str, method: &str, arguments: &Value) -> Value {
        if let Some(answer) = id.and_then(|id| self.answers.get(id))
            && self.fault != Fault::ForgetsIds
        {
            return answer.clone();
        }
        let tid = self.answers.len() as u64 + 1;
        let answer = match method {
            "count" => return json!({ "result": self.counters.get(object).unwrap_or(&0), "tid": null }),
            "increment" => {
                let count = self.counters.entry(object.to_owned()).or_default();
                *count += arguments["by"].as_i64().unwrap();
                let result = *count;
                if self.fault == Fault::LosesIncrements && result % 97 == 0 {
                    *count -= 1;
                }
                json!({ "result": result, "tid": tid })
            }
            "record" if matches!(self.fault, Fault::RefusesLine(line) if id == Some(&format!("flight-{line}"))) => {
                return json!({ "error": { "status": 429, "code": "overloaded", "kind": null, "detail": "later" } });
            }
            "record" => {
                self.flights.push(id.unwrap().to_owned());
                json!({ "result": [], "tid": tid })
            }
            _ => json!({ "error": { "status": 404, "code": "no_such_method", "detail": method } }),
        };
        self.answers.insert(id.unwrap().to_owned(), answer.clone());
        answer
    }
}

fn serve(stream: TcpStream, server: &Mutex<Server>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut key, mut length) = (String::new(), None, 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim().split_once(": ") {
                Some(("Idempotency-Key", value)) => key = Some(value.to_owned()),
                Some(("Content-Length", value)) => length = value.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut server = server.lock().unwrap();
        server.requests += 1;
        let breaks = match server.requests {
            number if number.is_multiple_of(7) => Some(0.0),
            number if number.is_multiple_of(11) => Some(0.5),
            _ => None,
        };
        if server.requests.is_multiple_of(5) {
            return Ok(());
        }
        let path = first.split(' ').nth(1).unwrap();
        let (status, answer) = respond(&mut server, path, key.as_deref(), &body);
        drop(server);
        let whole = format!("HTTP/1.1 {status} Fine\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        let sent = (whole.len() as f64 * breaks.unwrap_or(1.0)) as usize;
        reader.get_mut().write_all(&whole.as_bytes()[..sent])?;
        if breaks.is_some() {
            return Ok(());
        }
    }
}

fn respond(server: &mut Server, path: &str, key: Option<&str>, body: &[u8]) -> (u16, String) {
    match path.strip_prefix("/v1/").unwrap() {
        "objects" => (201, json!({ "id": 1 }).to_string()),
        "batch" => {
            let mut answers = String::new();
            for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let call: Value = serde_json::from_slice(line).unwrap();
                let (object, method) = (call["object"].as_str().unwrap(), call["method"].as_str().unwrap());
                let answer = server.execute(call["id"].as_str(), object, method, &call["arguments"]);
                answers.push_str(&format!("{answer}\n"));
            }
            (200, answers)
        }
        call => {
            let (object, method) = call.strip_prefix("objects/").unwrap().split_once('/').unwrap();
            let arguments = serde_json::from_slice(body).unwrap_or_default();
            (200, server.execute(key, object, method, &arguments).to_string())
        }
    }
}

fn feed_to(to: SocketAddr) -> Feed {
    Feed {
        file: PathBuf::from(EXCERPT),
        to,
        board: "board".to_owned(),
        lines_per_request: 30,
        state: None,
        ids: "flight-".to_owned(),
        rate_max: None,
        patience: PATIENCE,
    }
}

fn load_to(to: SocketAddr) -> Load {
    Load {
        to,
        prefix: "load".to_owned(),
        counters: 3,
        accounts: 0,
        clients: 4,
        requests_max: Some(2_000),
        rate: None,
        one_by_one: false,
        patience: PATIENCE,
    }
}

fn run_load(to: SocketAddr) -> load::LoadReport {
    let running = load::start(load_to(to)).unwrap();
    while !running.is_finished() {
        thread::sleep(Duration::from_millis(5));
    }
    running.finish().unwrap().0
}

#[test]
fn flights_arrive_once_and_in_order() {
    let (to, server) = Server::start(Fault::None);
    let mut position = 0;
    let report = feed::run(&feed_to(to), &mut |now| position = now).unwrap();
    assert_eq!((report.events, report.finished), (4_000, true));
    assert!(report.attempts.broken > 20, "{report:?}");
    assert_eq!(position, 4_000);
    let expected: Vec<String> = (2..=4_001).map(|line| format!("flight-{line}")).collect();
    assert_eq!(server.lock().unwrap().flights, expected);
}

#[test]
fn a_refused_flight_ends_the_feed_and_a_second_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let state = Some(folder.path().join("state.json"));
    let (to, server) = Server::start(Fault::RefusesLine(100));
    let feed = Feed { state, ..feed_to(to) };
    let error = feed::run(&feed, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, FeedError::Refused { line: 100, .. }), "{error}");
    server.lock().unwrap().fault = Fault::None;
    let report = feed::run(&feed, &mut |_| {}).unwrap();
    assert_eq!((report.resumed_after, report.events, report.finished), (98, 3_902, true));
    let mut flights = server.lock().unwrap().flights.clone();
    assert_eq!(
        flights.iter().position(|id| id == "flight-100"),
        Some(119),
        "only its own batch of 30 was executed before it"
    );
    flights.sort();
    flights.dedup();
    assert_eq!(flights.len(), 4_000);
    let other = Feed { ids: "other-".to_owned(), ..feed };
    let error = feed::run(&other, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, FeedError::State { .. }), "{error}");
}

#[test]
fn increments_are_executed_once() {
    let (to, _) = Server::start(Fault::None);
    let report = run_load(to);
    assert_eq!((report.sent, report.answered, report.counters.acknowledged), (2_000, 2_000, 2_000));
    assert!(report.attempts.broken > 300 && report.faultless(), "{report:?}");
}

#[test]
fn double_execution_and_loss_are_noticed() {
    let (to, _) = Server::start(Fault::ForgetsIds);
    let report = run_load(to);
    assert!(report.counters.executed_twice > 100 && !report.faultless(), "{report:?}");
    let (to, _) = Server::start(Fault::LosesIncrements);
    let report = run_load(to);
    assert!(report.counters.lost > 5 && report.counters.wrong > 5 && !report.faultless(), "{report:?}");
}
