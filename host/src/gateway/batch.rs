//! `POST /v1/batch`: many calls through one request, a line each, answered a line each in the same order.
//!
//! Lines are executed while later ones still arrive, and answered as they become durable. How many are under way is
//! bounded, and a full executor is waited for, so a client that sends faster than the host executes is slowed
//! down by TCP instead of being refused.

use std::{io, mem, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, header},
};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{Shared, json, problem::Problem, request, stopped};
use crate::runtime::action::{ActionError, Answer, codes};

/// How long a batch may go on after the host began to stop. Then lines that have not arrived are not waited for.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// How long to wait before a line is offered again to a full executor: doubled each time, up to the second.
const OVERLOAD_WAITS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// Answers that are ready are sent together up to about this many bytes.
const CHUNK_BYTES: usize = 32 * 1024;

/// One line's answer, or what it is waiting for.
enum Pending {
    Waiting(oneshot::Receiver<Result<Answer, ActionError>>),
    /// Written already.
    Line(Vec<u8>),
    /// The batch ends before its end: the connection is to be closed, so that no client takes it for complete.
    Cut(&'static str),
}

/// Answers a batch.
pub(crate) fn respond(shared: Arc<Shared>, body: Body) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(shared.config.batch_in_flight_max);
    tokio::spawn(submit_lines(shared, body, sender));
    let answers = Answers { pending: receiver, held: None };
    let mut response = Response::new(Body::from_stream(futures_util::stream::unfold(answers, Answers::next_chunk)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

/// Hands each line to the runtime as it arrives. Ends with the body, with the client, or with the host.
async fn submit_lines(shared: Arc<Shared>, mut body: Body, pending: mpsc::Sender<Pending>) {
    let mut lines = LineSplitter::new(shared.config.batch_line_bytes_max);
    let mut stop = shared.stop.clone();
    let deadline = async move {
        stopped(&mut stop).await;
        sleep(STOP_GRACE).await;
    };
    let mut deadline = std::pin::pin!(deadline);
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut deadline => {
                _ = pending.send(Pending::Cut("the host is stopping")).await;
                return;
            }
            frame = body.frame() => frame,
        };
        match frame {
            Some(Ok(frame)) => lines.feed(frame.into_data().unwrap_or_default()),
            Some(Err(_)) => {
                _ = pending.send(Pending::Cut("the request broke off")).await;
                return;
            }
            None => lines.finish(),
        }
        let ended = lines.ended;
        while let Some(line) = lines.next() {
            let Some(outcome) = submit(&shared, line, &pending).await else { return };
            if pending.send(outcome).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// Hands one line to the runtime, as often as it takes while the executor is full; none if the client went away.
///
/// A line is never offered while an earlier one still waits for room, which keeps them in order: the runtime reports a
/// full queue before `perform` returns.
async fn submit(shared: &Shared, line: Line, pending: &mpsc::Sender<Pending>) -> Option<Pending> {
    let line = match line {
        Line::Whole(line) => line,
        Line::TooLong => {
            let bytes_max = shared.config.batch_line_bytes_max;
            let problem = Problem::bad_request(format!("the line is longer than {bytes_max} bytes"));
            return Some(line_of(&Err(problem)));
        }
    };
    let (mut wait, wait_max) = OVERLOAD_WAITS;
    loop {
        let action = match request::batch_line(&line) {
            Ok(action) => action,
            Err(problem) => return Some(line_of(&Err(problem))),
        };
        let mut reply = shared.send(action);
        match reply.try_recv() {
            Ok(Err(error)) if error.code == codes::OVERLOADED => {
                tokio::select! {
                    () = sleep(wait) => wait = (wait * 2).min(wait_max),
                    () = pending.closed() => return None,
                }
            }
            Ok(outcome) => return Some(line_of(&outcome.map_err(Problem::from))),
            Err(_) => return Some(Pending::Waiting(reply)),
        }
    }
}

/// The answers, in the order of the lines.
struct Answers {
    pending: mpsc::Receiver<Pending>,
    /// The next one, if it was taken from the queue before it was ready.
    held: Option<Pending>,
}

impl Answers {
    /// Waits for one answer and takes along those that are ready by then.
    async fn next_chunk(mut self) -> Option<(io::Result<Bytes>, Answers)> {
        let first = match self.held.take() {
            Some(held) => held,
            None => self.pending.recv().await?,
        };
        let mut chunk = Vec::with_capacity(1024);
        match first {
            Pending::Cut(reason) => return Some((Err(io::Error::other(reason)), self)),
            Pending::Waiting(reply) => write_line(&mut chunk, &super::received(reply).await),
            Pending::Line(line) => chunk = line,
        }
        while chunk.len() < CHUNK_BYTES
            && let Ok(next) = self.pending.try_recv()
        {
            match next {
                Pending::Line(line) => chunk.extend_from_slice(&line),
                Pending::Waiting(mut reply) => match reply.try_recv() {
                    Ok(outcome) => write_line(&mut chunk, &outcome.map_err(Problem::from)),
                    Err(_) => {
                        self.held = Some(Pending::Waiting(reply));
                        break;
                    }
                },
                Pending::Cut(_) => {
                    self.held = Some(next);
                    break;
                }
            }
        }
        Some((Ok(chunk.into()), self))
    }
}

fn line_of(outcome: &Result<Answer, Problem>) -> Pending {
    let mut line = Vec::new();
    write_line(&mut line, outcome);
    Pending::Line(line)
}

fn write_line(out: &mut Vec<u8>, outcome: &Result<Answer, Problem>) {
    match outcome {
        Ok(Answer::Result { value, tid, at: _ }) => json::write_result(out, value, *tid),
        Ok(answer) => out.extend_from_slice(json::answer(answer).to_string().as_bytes()),
        Err(problem) => out.extend_from_slice(json!({ "error": problem.to_json() }).to_string().as_bytes()),
    }
    out.push(b'\n');
}

#[derive(PartialEq, Eq, Debug)]
enum Line {
    /// Without its line break.
    Whole(Bytes),
    /// It was skipped.
    TooLong,
}

/// Cuts chunks of bytes into lines of bounded length. Lines of white space alone are left out.
struct LineSplitter {
    chunk: Bytes,
    /// The beginning of a line that goes on in the next chunk.
    partial: Vec<u8>,
    /// Within a line that is too long.
    skipping: bool,
    ended: bool,
    bytes_max: usize,
}

impl LineSplitter {
    fn new(bytes_max: usize) -> LineSplitter {
        LineSplitter { chunk: Bytes::new(), partial: Vec::new(), skipping: false, ended: false, bytes_max }
    }

    /// Adds the next chunk. All lines of the one before have been taken.
    fn feed(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "lines were left");
        self.chunk = chunk;
    }

    /// The last line may lack its line break.
    fn finish(&mut self) {
        self.ended = true;
        self.feed(Bytes::from_static(b"\n"));
    }

    fn next(&mut self) -> Option<Line> {
        while !self.chunk.is_empty() {
            let Some(length) = self.chunk.iter().position(|byte| *byte == b'\n') else {
                return self.keep_rest();
            };
            let rest = self.chunk.split_off(length + 1);
            let mut line = mem::replace(&mut self.chunk, rest);
            line.truncate(length);
            if mem::take(&mut self.skipping) {
                continue;
            }
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = mem::take(&mut self.partial).into();
            }
            if line.len() > self.bytes_max {
                return Some(Line::TooLong);
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Line::Whole(line));
            }
        }
        None
    }

    /// Keeps the beginning of a line until its end arrives, or gives it up if it is too long already.
    fn keep_rest(&mut self) -> Option<Line> {
        let rest = mem::take(&mut self.chunk);
        if self.skipping {
            return None;
        }
        if self.partial.len() + rest.len() > self.bytes_max {
            self.partial = Vec::new();
            self.skipping = true;
            return Some(Line::TooLong);
        }
        self.partial.extend_from_slice(&rest);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of `text` when it arrives in chunks of `chunk_bytes`; `!` stands for one that is too long.
    fn split(text: &str, chunk_bytes: usize, bytes_max: usize) -> Vec<String> {
        let mut splitter = LineSplitter::new(bytes_max);
        let mut lines = Vec::new();
        let mut chunks = text.as_bytes().chunks(chunk_bytes);
        while !splitter.ended {
            match chunks.next() {
                Some(chunk) => splitter.feed(Bytes::copy_from_slice(chunk)),
                None => splitter.finish(),
            }
            while let Some(line) = splitter.next() {
                lines.push(match line {
                    Line::Whole(line) => String::from_utf8(line.to_vec()).unwrap(),
                    Line::TooLong => "!".into(),
                });
            }
        }
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        for chunk_bytes in 1..20 {
            assert_eq!(split("one\n\ntwo\r\n  \nthree", chunk_bytes, 8), ["one", "two\r", "three"], "{chunk_bytes}");
            assert_eq!(split("a\n", chunk_bytes, 8), ["a"], "{chunk_bytes}");
            assert_eq!(split("", chunk_bytes, 8), [""; 0], "{chunk_bytes}");
        }
    }

    #[test]
    fn a_long_line_is_one_error_and_the_next_is_read() {
        for chunk_bytes in 1..20 {
            assert_eq!(split("12345\n123456\n12345\nx1234567", chunk_bytes, 5), ["12345", "!", "12345", "!"]);
        }
    }

    fn object_5() -> Answer {
        let at = crate::runtime::action::Head { tid: 1, hash: [0; 32] };
        Answer::Object { id: theseus_value::ObjectId(5), at }
    }

    #[tokio::test]
    async fn answers_keep_the_order_of_the_lines() {
        let (sender, pending) = mpsc::channel(8);
        let answers = Answers { pending, held: None };
        let (first, waits) = oneshot::channel();
        let (second, waits_too) = oneshot::channel();
        for reply in [waits, waits_too] {
            assert!(sender.try_send(Pending::Waiting(reply)).is_ok());
        }
        assert!(sender.try_send(line_of(&Err(Problem::bad_request("x")))).is_ok());
        assert!(sender.try_send(Pending::Cut("over")).is_ok());
        drop(sender);
        first.send(Ok(object_5())).unwrap();
        // The second is not there yet, so the chunk ends before it, though the third is ready.
        let (chunk, answers) = answers.next_chunk().await.unwrap();
        assert_eq!(chunk.unwrap().iter().filter(|byte| **byte == b'\n').count(), 1);
        second.send(Ok(object_5())).unwrap();
        let (chunk, answers) = answers.next_chunk().await.unwrap();
        let lines: Vec<_> = String::from_utf8(chunk.unwrap().to_vec()).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("\"id\":5") && lines[1].contains("\"error\":{"), "{lines:?}");
        let (cut, answers) = answers.next_chunk().await.unwrap();
        assert_eq!(cut.unwrap_err().to_string(), "over");
        assert!(answers.next_chunk().await.is_none());
    }
}
