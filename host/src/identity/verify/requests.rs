//! The request ids that the table may remember, by digests of what their rows should say: there may be millions.

use twox_hash::XxHash3_64;

use crate::identity::{
    StorageError, Tid,
    batch::RawTransaction,
    fingerprint,
    table::{RequestRow, RequestRows, TableView},
};

/// A request that the history has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub tid: Tid,
    /// A digest of its id.
    pub id: u64,
    /// A digest of its row.
    pub row: u64,
}

impl Request {
    /// Of a row with this key and this body.
    pub(super) fn of(tid: Tid, id: &[u8], row: &[u8]) -> Request {
        Request { tid, id: digest(id), row: digest(row) }
    }
}

/// The requests that the history has, oldest first, from the oldest on that the table remembers.
#[derive(Default)]
pub(super) struct Requests {
    /// Where they begin.
    pub from: Tid,
    pub list: Vec<Request>,
}

/// How far the comparison with the rows of a table has come.
#[derive(Default)]
pub(super) struct RequestsCompared {
    next_recent: Tid,
    recent_done: bool,
    next_id: Vec<u8>,
    ids_done: bool,
    pub rows: u64,
}

impl Requests {
    pub(super) fn see(&mut self, tid: Tid, transaction: &RawTransaction<'_>, scratch: &mut Vec<u8>) {
        let Some(id) = transaction.request_id.filter(|_| tid >= self.from) else { return };
        let fingerprint = fingerprint(transaction.method, transaction.arguments);
        scratch.clear();
        let (target, time_us) = (transaction.target, transaction.time_us);
        RequestRow { tid, target, fingerprint, time_us }.encode(scratch);
        self.list.push(Request::of(tid, id.as_bytes(), scratch));
    }

    /// The place of a transaction in the list, or where it would be.
    fn place(&self, tid: Tid) -> Result<usize, usize> {
        // Most transactions have a request id or most have none: a guess is often right.
        let (Some(first), Some(last)) = (self.list.first(), self.list.last()) else { return Err(0) };
        if first.tid <= tid && tid <= last.tid && first.tid < last.tid {
            let span = u128::from(last.tid.0 - first.tid.0);
            let guess = (u128::from(tid.0 - first.tid.0) * (self.list.len() as u128 - 1) / span) as usize;
            if self.list[guess].tid == tid {
                return Ok(guess);
            }
        }
        self.list.binary_search_by_key(&tid, |request| request.tid)
    }

    /// Compares rows with what the history has until it is asked to pause; answers whether all are done. The table is as of the last
    /// transaction seen. Of a history that is `broken`, a record that could not be read may have had any of them.
    pub(super) fn compare(
        &self,
        view: &TableView,
        broken: bool,
        done: &mut RequestsCompared,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        if !done.recent_done {
            done.recent_done = self.compare_recent(view, broken, done, pause, damage)?;
        }
        if done.recent_done && !done.ids_done {
            done.ids_done = self.compare_ids(view, broken, done, pause, damage)?;
        }
        Ok(done.ids_done)
    }

    fn compare_recent(
        &self,
        view: &TableView,
        broken: bool,
        done: &mut RequestsCompared,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        let Some(oldest) = view.oldest_request()? else { return Ok(true) };
        let mut expected = self.place(done.next_recent.max(oldest)).unwrap_or_else(|place| place);
        let mut paused = false;
        view.walk_recent(done.next_recent, |tid, id| {
            if pause() {
                paused = true;
                return Ok(false);
            }
            done.rows += 1;
            done.next_recent = tid.next();
            while let Some(missing) = self.list.get(expected).filter(|request| request.tid < tid) {
                expected += 1;
                if !broken
                    && !self.is_superseded(missing)
                    && !damage(at(missing.tid), "its row by age is missing".to_owned())
                {
                    return Ok(false);
                }
            }
            let id = match id {
                Ok(id) => id,
                Err(problem) => {
                    expected += usize::from(self.list.get(expected).is_some_and(|request| request.tid == tid));
                    return Ok(damage(at(tid), problem));
                }
            };
            match self.list.get(expected).filter(|request| request.tid == tid) {
                Some(request) => {
                    expected += 1;
                    let same = request.id == digest(id.as_bytes());
                    Ok(same || damage(named(id), format!("transaction {tid} was not that request")))
                }
                None if broken || tid < self.from => Ok(true),
                None => Ok(damage(named(id), format!("transaction {tid} was not a request with an id"))),
            }
        })?;
        let missing = self.list.get(expected..).unwrap_or_default().iter().filter(|_| !paused && !broken);
        for missing in missing.filter(|request| !self.is_superseded(request)) {
            if !damage(at(missing.tid), "its row by age is missing".to_owned()) {
                break;
            }
        }
        Ok(!paused)
    }

    fn compare_ids(
        &self,
        view: &TableView,
        broken: bool,
        done: &mut RequestsCompared,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        let mut paused = false;
        let RequestRows { by_id, by_age } = view.request_rows()?;
        if by_id != by_age {
            let problem = format!("{by_id} rows by id and {by_age} by age");
            damage("the request ids".to_owned(), problem);
        }
        let mut next = std::mem::take(&mut done.next_id);
        view.walk_requests(&next.clone(), |id, row| {
            if pause() {
                paused = true;
                next = id.to_vec();
                return Ok(false);
            }
            done.rows += 1;
            let name = || named(&String::from_utf8_lossy(id));
            let (row, body) = match row {
                Ok(row) => row,
                Err(problem) => return Ok(damage(name(), problem)),
            };
            if broken || row.tid < self.from {
                return Ok(true);
            }
            let found = self.place(row.tid).ok().map(|place| self.list[place]);
            let expected = Request::of(row.tid, id, body);
            if found == Some(expected) {
                return Ok(true);
            }
            Ok(damage(name(), format!("its row points to transaction {}, which is not that request", row.tid)))
        })?;
        done.next_id = next;
        Ok(!paused)
    }

    /// Whether the same id was used again, after it had been forgotten.
    fn is_superseded(&self, request: &Request) -> bool {
        self.list.iter().rev().take_while(|later| later.tid > request.tid).any(|later| later.id == request.id)
    }
}

fn digest(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

fn named(id: &str) -> String {
    format!("the request id `{id}`")
}

fn at(tid: Tid) -> String {
    format!("the request id of transaction {tid}")
}
