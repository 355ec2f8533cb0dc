//! The host's HTTP interface as a client sees it, and the one rule about sending again.
//!
//! A request is sent again, under the same key, only where its connection broke before the whole answer came; the key makes
//! the host execute it once. A refused connection had not sent anything, so connecting is tried again. An answer is an
//! answer: an error status is handed to the caller and never retried. Both kinds of patience end after a set time.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{Address, Client, Request, SendError, Waits, encode_segment};

/// How long to wait before another attempt.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(10);
/// How many names are asked for at once.
const LIST_LIMIT: usize = 1_000;

/// A host, as one client with one connection sees it.
#[derive(Debug)]
pub struct Host {
    client: Client,
    patience: Duration,
    attempts: Attempts,
}

/// What it took to get the answers, beyond sending each request once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Attempts {
    /// Connections that broke before a whole answer came, each of which made a request be sent again.
    pub broken: u64,
    /// Connections that were refused.
    pub refused: u64,
}

/// The result of a message.
#[derive(Deserialize, Clone, PartialEq, Debug)]
pub struct Done {
    /// What the method returned.
    pub result: Value,
    /// The transaction it ran in; none for a query.
    #[serde(default)]
    pub tid: Option<u64>,
}

/// An error that the host answered with (RFC 9457).
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The host's word for it, such as `overloaded`.
    pub code: String,
    /// The behaviour's own word for it, such as `overdraft`.
    pub kind: Option<String>,
    /// What happened and what to do.
    pub detail: String,
    /// The transaction that recorded the failure.
    pub tid: Option<u64>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.status, self.kind.as_deref().unwrap_or(&self.code), self.detail)
    }
}

/// Why a request did not give a result.
#[derive(thiserror::Error, Debug)]
pub enum ApiError {
    /// The host said no.
    #[error("the host answered {0}")]
    Problem(Problem),
    /// No whole answer came in the time set; whether the request was executed is not known.
    #[error("gave up after {waited_s} s without an answer: {source}")]
    Unanswered {
        /// How long it was tried, in seconds.
        waited_s: u64,
        /// What went wrong the last time.
        source: SendError,
    },
    /// The other side does not speak the protocol.
    #[error(transparent)]
    Malformed(SendError),
    /// The answer is HTTP, but not what the request should bring.
    #[error("{what} was answered with something else: {problem}")]
    Unexpected {
        /// The request.
        what: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// One object in a listing of names.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The object's id.
    pub id: u64,
    /// Its behaviour.
    pub behavior: String,
}

#[derive(Deserialize)]
struct Made {
    id: u64,
}

#[derive(Deserialize)]
struct Listing {
    names: Vec<Named>,
    more: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BatchAnswer {
    Failed { error: Problem },
    Done(Done),
}

/// Calls for `POST /v1/batch`, encoded as they will be sent, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

#[derive(Serialize)]
struct BatchCall<'a, A> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    object: &'a str,
    method: &'a str,
    arguments: &'a A,
}

impl Batch {
    /// Adds a call; `id` is its request id, which a query does not need.
    pub fn push(&mut self, id: Option<&str>, object: &str, method: &str, arguments: &impl Serialize) {
        let call = BatchCall { id, object, method, arguments };
        serde_json::to_writer(&mut self.bytes, &call).expect("arguments are JSON and memory takes writes");
        self.bytes.push(b'\n');
        self.ends.push(self.bytes.len());
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no call.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn from(&self, line: usize) -> &[u8] {
        let start = if line == 0 { 0 } else { self.ends[line - 1] };
        &self.bytes[start..]
    }
}

impl Host {
    /// A host at an address. `patience` is how long one request is tried before it counts as unanswered.
    pub fn new(address: impl Into<Address>, patience: Duration) -> Self {
        let waits = Waits { answer: patience, ..Waits::default() };
        Host { client: Client::new(address, waits), patience, attempts: Attempts::default() }
    }

    /// What it has taken so far to get answers.
    pub fn attempts(&self) -> Attempts {
        self.attempts
    }

    /// Sends a message under a request id.
    pub fn call(&mut self, object: &str, method: &str, arguments: &Value, key: &str) -> Result<Done, ApiError> {
        let target = format!("/v1/objects/{}/{}", encode_segment(object), encode_segment(method));
        let body = arguments.to_string();
        self.exchange(&Request::post(&target, Some(key), body.as_bytes()))
    }

    /// Asks a query that takes no arguments.
    pub fn ask(&mut self, object: &str, query: &str) -> Result<Value, ApiError> {
        let target = format!("/v1/objects/{}/{}", encode_segment(object), encode_segment(query));
        let done: Done = self.exchange(&Request::get(&target))?;
        Ok(done.result)
    }

    /// Makes a named object. Returns false if the name is taken already, whatever carries it.
    pub fn create(&mut self, behavior: &str, name: &str, slots: &Value, key: &str) -> Result<bool, ApiError> {
        let body = serde_json::json!({ "behavior": behavior, "name": name, "slots": slots }).to_string();
        match self.exchange::<Value>(&Request::post("/v1/objects", Some(key), body.as_bytes())) {
            Ok(_) => Ok(true),
            Err(ApiError::Problem(problem)) if problem.code == "name_taken" => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes an object, with a name or without, and returns its id.
    pub fn make(&mut self, behavior: &str, name: Option<&str>, slots: &Value, key: &str) -> Result<u64, ApiError> {
        let body = serde_json::json!({ "behavior": behavior, "name": name, "slots": slots }).to_string();
        let made: Made = self.exchange(&Request::post("/v1/objects", Some(key), body.as_bytes()))?;
        Ok(made.id)
    }

    /// Gives an object these parents and no others.
    pub fn set_parents(&mut self, object: &str, parents: &[u64], key: &str) -> Result<(), ApiError> {
        let target = format!("/v1/objects/{}/parents", encode_segment(object));
        let body = serde_json::json!({ "parents": parents }).to_string();
        let request = Request { verb: "PUT", ..Request::post(&target, Some(key), body.as_bytes()) };
        self.exchange::<Value>(&request).map(drop)
    }

    /// Posts a message, as `POST /v1/messages` takes it, and returns its id.
    pub fn post_message(&mut self, message: &Value, key: &str) -> Result<u64, ApiError> {
        let body = message.to_string();
        let made: Made = self.exchange(&Request::post("/v1/messages", Some(key), body.as_bytes()))?;
        Ok(made.id)
    }

    /// Takes a posted message back.
    pub fn cancel(&mut self, message: u64, key: &str) -> Result<(), ApiError> {
        let target = format!("/v1/messages/{message}");
        let request = Request { verb: "DELETE", key: Some(key), ..Request::get(&target) };
        self.exchange::<Value>(&request).map(drop)
    }

    /// Whether posted messages to an object wait, or were set aside.
    pub fn has_messages(&mut self, object: &str) -> Result<bool, ApiError> {
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/v1/messages?target={}{after}", encode_segment(object)))?;
            if page["messages"].as_array().is_some_and(|messages| !messages.is_empty()) {
                return Ok(true);
            }
            // A page may be empty and not the last.
            let Some(next) = page["next"].as_str() else { return Ok(false) };
            after = format!("&after={}", encode_segment(next));
        }
    }

    /// Removes an object.
    pub fn delete(&mut self, object: &str, key: &str) -> Result<(), ApiError> {
        let target = format!("/v1/objects/{}", encode_segment(object));
        let request = Request { verb: "DELETE", key: Some(key), ..Request::get(&target) };
        self.exchange::<Value>(&request).map(drop)
    }

    /// Sends a JSON document without a request id, as to the control routes, and reads another.
    pub fn post(&mut self, target: &str, body: &Value) -> Result<Value, ApiError> {
        self.exchange(&Request::post(target, None, body.to_string().as_bytes()))
    }

    /// Reads a JSON document, such as `/v1/plugins`.
    pub fn get(&mut self, target: &str) -> Result<Value, ApiError> {
        self.exchange(&Request::get(target))
    }

    /// All names that begin with `prefix`, in name order.
    pub fn list(&mut self, prefix: &str) -> Result<Vec<Named>, ApiError> {
        let mut names: Vec<Named> = Vec::new();
        loop {
            let mut target = format!("/v1/objects?prefix={}&limit={LIST_LIMIT}", encode_segment(prefix));
            if let Some(last) = names.last() {
                target.push_str("&after=");
                target.push_str(&encode_segment(&last.name));
            }
            let listing: Listing = self.exchange(&Request::get(&target))?;
            let empty = listing.names.is_empty();
            names.extend(listing.names);
            if !listing.more || empty {
                return Ok(names);
            }
        }
    }

    /// Reads transactions from `from` on, at most `limit`, and gives each to `take`. Returns how many there were.
    pub fn history(&mut self, from: u64, limit: usize, take: &mut dyn FnMut(Value)) -> Result<usize, ApiError> {
        let target = format!("/v1/history?from={from}&limit={limit}");
        let answer = self.send(&Request::get(&target))?;
        let mut count = 0;
        for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            take(decode(&target, line)?);
            count += 1;
        }
        Ok(count)
    }

    /// Sends calls that are executed in order, and gives each answer to `take` with the call's place in the batch.
    ///
    /// Where the connection breaks, the calls without an answer are sent again under their ids. Every call has been answered
    /// once this returns `Ok`.
    pub fn batch(&mut self, batch: &Batch, take: &mut dyn FnMut(usize, Result<Done, Problem>)) -> Result<(), ApiError> {
        const WHAT: &str = "POST /v1/batch";
        let mut answered = 0;
        let mut since = Instant::now();
        while answered < batch.len() {
            let answered_before = answered;
            let mut lines = Vec::new();
            let sent = self.batch_once(batch.from(answered), &mut lines);
            if let Ok(status @ 300..) = sent {
                return Err(ApiError::Problem(problem(status, &lines)));
            }
            // A connection may break within a line; only a whole one is an answer.
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                if line == b"\n" || (sent.is_err() && line.last() != Some(&b'\n')) {
                    continue;
                }
                if answered == batch.len() {
                    let problem = "there are more answers than calls".to_owned();
                    return Err(ApiError::Unexpected { what: WHAT.to_owned(), problem });
                }
                take(
                    answered,
                    match decode(WHAT, line)? {
                        BatchAnswer::Done(done) => Ok(done),
                        BatchAnswer::Failed { error } => Err(error),
                    },
                );
                answered += 1;
            }
            match sent {
                Ok(_) if answered < batch.len() => {
                    let problem = format!("{answered} answers to {} calls", batch.len());
                    return Err(ApiError::Unexpected { what: WHAT.to_owned(), problem });
                }
                Ok(_) => {}
                Err(error) => {
                    if answered > answered_before {
                        since = Instant::now();
                    }
                    self.bear(error, since)?;
                }
            }
        }
        Ok(())
    }

    /// Sends calls once; collects what came of the answer, also where the connection broke.
    fn batch_once(&mut self, calls: &[u8], lines: &mut Vec<u8>) -> Result<u16, SendError> {
        let request =
            Request { verb: "POST", target: "/v1/batch", key: None, content_type: "application/x-ndjson", body: calls };
        self.client.post(&request)?;
        let mut good = true;
        let received = self.client.receive(&mut |status, bytes| {
            good = status < 300;
            lines.extend_from_slice(bytes);
        });
        if received.is_err() && !good {
            // Half an error about the whole batch answers none of its calls.
            lines.clear();
        }
        received
    }

    fn exchange<T: serde::de::DeserializeOwned>(&mut self, request: &Request<'_>) -> Result<T, ApiError> {
        let body = self.send(request)?;
        decode(&format!("{} {}", request.verb, request.target), &body)
    }

    /// Sends a request until it is answered, and returns the body of a good answer.
    fn send(&mut self, request: &Request<'_>) -> Result<Vec<u8>, ApiError> {
        let since = Instant::now();
        loop {
            match self.client.send(request) {
                Ok(answer) if answer.status < 300 => return Ok(answer.body),
                Ok(answer) => return Err(ApiError::Problem(problem(answer.status, &answer.body))),
                Err(error) => self.bear(error, since)?,
            }
        }
    }

    /// Counts a failure, and decides whether there is patience left for another attempt.
    fn bear(&mut self, error: SendError, since: Instant) -> Result<(), ApiError> {
        match error {
            SendError::Malformed { .. } => return Err(ApiError::Malformed(error)),
            SendError::Broken { .. } => self.attempts.broken += 1,
            SendError::Refused { .. } => self.attempts.refused += 1,
        }
        let waited = since.elapsed();
        if waited >= self.patience {
            return Err(ApiError::Unanswered { waited_s: waited.as_secs(), source: error });
        }
        thread::sleep(ATTEMPT_PAUSE);
        Ok(())
    }
}

fn decode<T: serde::de::DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
        ApiError::Unexpected { what: what.to_owned(), problem: format!("{error} in {shown:?}") }
    })
}

fn problem(status: u16, body: &[u8]) -> Problem {
    let mut problem: Problem = serde_json::from_slice(body)
        .unwrap_or_else(|_| Problem { detail: String::from_utf8_lossy(body).into_owned(), ..Problem::default() });
    problem.status = status;
    problem
}
