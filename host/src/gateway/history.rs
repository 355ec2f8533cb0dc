//! The history as a stream of lines, read page by page so that its length does not matter.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Response, header},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::{Shared, json, problem::Problem, request, stopped};
use crate::runtime::action::{Action, Answer, At, ObjectRef, Tid, TransactionView};

/// How many transactions are asked for at once.
const PAGE_TRANSACTIONS: usize = 500;

/// How often a stream that follows looks for new transactions.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// What a client may ask of the history.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryQuery {
    /// The first transaction, or a time; the first of all if left out.
    from: Option<String>,
    /// The most lines; all if left out.
    limit: Option<u64>,
    /// 1 to go on with new transactions as they come.
    follow: Option<u8>,
}

/// Where a stream stands.
struct Reader {
    shared: Arc<Shared>,
    object: Option<ObjectRef>,
    /// What to ask for next; none at the end of the stream.
    from: Option<At>,
    lines_left: u64,
    follow: bool,
}

/// Answers with the history of everything, or of one object.
pub(crate) async fn respond(
    shared: Arc<Shared>,
    object: Option<ObjectRef>,
    query: HistoryQuery,
) -> Result<Response<Body>, Problem> {
    let follow = match query.follow {
        None | Some(0) => false,
        Some(1) => true,
        Some(_) => return Err(Problem::bad_request("follow is 0 or 1")),
    };
    let from = Some(request::moment(query.from)?.unwrap_or(At::Tid(1)));
    let mut reader = Reader { shared, object, from, lines_left: query.limit.unwrap_or(u64::MAX), follow };
    // The first page is read before the answer begins, so that an object that does not exist is still a plain 404.
    let first = reader.page().await?;
    let stream = futures_util::stream::unfold((Some(first), reader), |(first, mut reader)| async move {
        let chunk = match first {
            Some(first) => first,
            None => reader.next_chunk().await?,
        };
        Some((Ok::<_, Infallible>(chunk), (None, reader)))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

impl Reader {
    /// The next lines; none at the end. A failure is the last line.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            let from = self.from?;
            let is_to_come = matches!(from, At::Tid(from) if self.shared.runtime.head().tid < from);
            if self.follow && is_to_come && !self.waited().await {
                return None;
            }
            match self.page().await {
                Ok(lines) if lines.is_empty() => {}
                Ok(lines) => return Some(lines),
                Err(problem) => {
                    self.from = None;
                    return Some(format!("{}\n", json!({ "error": problem.to_json() })).into());
                }
            }
        }
    }

    /// Waits for transactions that are not there yet; false if the host stops.
    async fn waited(&self) -> bool {
        let mut stop = self.shared.stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => false,
            () = sleep(FOLLOW_INTERVAL) => true,
        }
    }

    /// Reads on from where the stream stands.
    async fn page(&mut self) -> Result<Bytes, Problem> {
        let Some(from) = self.from else { return Ok(Bytes::new()) };
        let limit = usize::try_from(self.lines_left).unwrap_or(usize::MAX).min(PAGE_TRANSACTIONS);
        if limit == 0 {
            self.from = None;
            return Ok(Bytes::new());
        }
        // Taken before the page is read: whatever is not newer than this is either in the page or does not concern it.
        let known = self.shared.runtime.head().tid;
        let answer = self.shared.ask(Action::History { object: self.object.clone(), from, limit }).await?;
        let Answer::History { transactions, next, packed } = answer else {
            unreachable!("the runtime answers History with History")
        };
        self.lines_left -= transactions.len() as u64;
        let seen = transactions.last().map_or(0, |transaction| transaction.tid);
        self.from = match next {
            _ if self.lines_left == 0 => None,
            None if self.follow && !*self.shared.stop.borrow() => {
                let asked = if let At::Tid(from) = from { from } else { 0 };
                Some(At::Tid(asked.max(known + 1).max(seen + 1)))
            }
            next => next.map(At::Tid),
        };
        Ok(lines(packed, &transactions))
    }
}

/// The lines of some transactions, after one that says what comes before them and is gone.
fn lines(packed: Option<Tid>, transactions: &[TransactionView]) -> Bytes {
    let mut out = Vec::new();
    if let Some(packed) = packed {
        out.extend_from_slice(format!("{}\n", json::packed(packed)).as_bytes());
    }
    for transaction in transactions {
        serde_json::to_writer(&mut out, &json::transaction(transaction)).expect("JSON can be written into memory");
        out.push(b'\n');
    }
    out.into()
}
