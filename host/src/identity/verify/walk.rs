//! The walk along the history. One thread reads records, checks their hashes and takes them apart, another one keeps what they say; what
//! the first reads the second looks at in place.

use std::thread;

use crossbeam_channel::{Receiver, bounded};
use theseus_value::DecodeError;

use super::{
    super::{
        BaseMark, Head, PACK, Pointers, StorageError, Tid,
        batch::{Change, RawTransaction},
        history::{HistoryView, StoredBatch},
    },
    DAMAGE_MAX, Damage,
    requests::Requests,
    seen::Graph,
};

/// How many records may wait for the second thread.
const QUEUE: usize = 16;

/// How many bytes of history are walked with one view. A view that is kept makes the file of a live host grow.
const VIEW_BYTES: u64 = 256 << 20;

/// How far the walk has come, and what the history says up to there.
#[derive(Default)]
pub(super) struct Walk {
    /// The last record walked.
    pub head: Head,
    /// The base on which the history stands.
    pub base: Option<BaseMark>,
    pub batches: u64,
    pub transactions: u64,
    pub bytes: u64,
    pub graph: Graph,
    pub requests: Requests,
    /// Whether a record could not be read, so that what follows from the records is not known any more.
    pub broken: bool,
    pub damage: Vec<Damage>,
    scratch: Vec<u8>,
}

/// A record, as far as the first thread has looked at it.
struct Checked<'a> {
    bytes: u64,
    content: Result<Content<'a>, Damage>,
    /// Where the walk stands behind it.
    head: Head,
    broken: bool,
}

struct Content<'a> {
    first: Tid,
    /// Each with the number of changes up to its end.
    transactions: Vec<(Result<RawTransaction<'a>, DecodeError>, usize)>,
    changes: Vec<Change<'a>>,
    /// What is wrong with its links, although it can be read.
    unlinked: Vec<Damage>,
}

/// Why the walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// There is no more, or not before the transaction that was asked for.
    Reached,
    /// One view has been used for long enough.
    ViewUsed,
    /// Whoever asked for it has had enough.
    Stopped,
}

impl Walk {
    /// Walks on until a record ends with transaction `until` or behind it. `go_on` is told after each record how far it is.
    pub(super) fn walk(
        &mut self,
        view: &HistoryView,
        until: Tid,
        go_on: &mut (dyn FnMut(&Walk) -> bool + Send),
    ) -> Result<Ended, StorageError> {
        let (mut head, mut read, mut ended) = (self.head, 0, Ended::Reached);
        if head.tid >= until {
            return Ok(ended);
        }
        let walked = thread::scope(|scope| {
            let (sender, receiver) = bounded(QUEUE);
            let taking = thread::Builder::new().name("theseus-verify".into());
            let taking = taking.spawn_scoped(scope, || self.take(receiver, go_on)).expect("threads can be started");
            let walked = view.walk_stored::<StorageError>(head.tid.next(), |key, value| {
                let checked = check(head, key, value);
                head = checked.head;
                read += value.len() as u64;
                if sender.send(checked).is_err() {
                    ended = Ended::Stopped;
                } else if head.tid < until && read >= VIEW_BYTES {
                    ended = Ended::ViewUsed;
                }
                Ok(ended == Ended::Reached && head.tid < until)
            });
            drop(sender);
            match taking.join() {
                Ok(true) => {}
                Ok(false) => ended = Ended::Stopped,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            walked
        });
        walked.map(|()| ended)
    }

    /// Takes in what the first thread has checked; answers false if it had enough before that.
    fn take(&mut self, records: Receiver<Checked<'_>>, go_on: &mut (dyn FnMut(&Walk) -> bool + Send)) -> bool {
        for record in records {
            self.record(record);
            if self.damage.len() >= DAMAGE_MAX || !go_on(self) {
                return false;
            }
        }
        true
    }

    fn record(&mut self, record: Checked<'_>) {
        self.batches += 1;
        self.bytes += record.bytes;
        self.broken |= record.broken;
        self.head = record.head;
        let content = match record.content {
            Ok(content) => content,
            Err(damage) => return self.damage.push(damage),
        };
        self.damage.extend(content.unlinked);
        let mut begin = 0;
        for (tid, (transaction, end)) in (content.first.0..).map(Tid).zip(content.transactions) {
            self.transactions += 1;
            let made = content.changes[begin..end].iter().try_for_each(|change| self.change(tid, change));
            begin = end;
            match made.and(transaction) {
                Ok(transaction) => {
                    if transaction.target.is_none() && transaction.method == PACK {
                        self.pack(tid, transaction.arguments);
                    }
                    self.requests.see(tid, &transaction, &mut self.scratch);
                }
                Err(error) => self.told(format!("transaction {tid}"), error.to_string()),
            }
        }
    }

    fn change(&mut self, tid: Tid, change: &Change<'_>) -> Result<(), DecodeError> {
        let (recorded, expected) = match change {
            Change::Object(object, version) => (version.pointers, self.graph.see_object(tid, *object, version)?),
            Change::Name(name, version) => (version.pointers, self.graph.see_name(tid, name, version)),
        };
        if recorded != expected && !self.broken {
            let what = match change {
                Change::Object(object, _) => format!("object {object}"),
                Change::Name(name, _) => format!("the name `{name}`"),
            };
            let (recorded, expected) = (describe(&recorded), describe(&expected));
            let problem = format!("it is {recorded}, but the versions before it ask for {expected}");
            self.told(format!("transaction {tid}, {what}"), problem);
        }
        Ok(())
    }

    /// Compares what a pack noted with the base, if that is its base.
    fn pack(&mut self, tid: Tid, note: &[u8]) {
        if let Some(mark) = self.base.filter(|mark| !mark.fits_note(note)) {
            let problem = format!("it put another base in force than that of digest {}, which is there", mark.digest);
            self.told(format!("transaction {tid}"), problem);
        }
    }

    fn told(&mut self, place: String, problem: String) {
        self.damage.push(Damage { place, problem });
    }
}

fn describe(Pointers { number, previous, jump }: &Pointers) -> String {
    format!("version {number} after transaction {previous}, jumping to {jump}")
}

/// Checks a record by itself and as the one that follows `before`.
fn check<'a>(before: Head, key: &[u8], value: &'a [u8]) -> Checked<'a> {
    let bytes = value.len() as u64;
    let expected_first = before.tid.next();
    let stored = match StoredBatch::split(key, value) {
        Ok(stored) => stored,
        Err(problem) => {
            let place = format!("history record after transaction {}", before.tid);
            return Checked { bytes, content: Err(Damage { place, problem }), head: before, broken: true };
        }
    };
    // The stored hash, damaged or not, is what the next record's link is compared with: each damage is told once.
    let head = Head { tid: stored.last, hash: stored.hash };
    let place = || format!("history record of transactions {expected_first} to {}", stored.last);
    let view = match stored.check() {
        Ok(view) => view,
        Err(problem) => {
            return Checked { bytes, content: Err(Damage { place: place(), problem }), head, broken: true };
        }
    };
    let header = &view.header;
    let mut unlinked = Vec::new();
    if header.first != expected_first {
        let problem = format!("it begins with transaction {}, so some are missing before it", header.first);
        unlinked.push(Damage { place: place(), problem });
    }
    if header.previous != before.hash {
        let problem = format!("it continues {}, but the record before it is {}", header.previous, before.hash);
        unlinked.push(Damage { place: place(), problem });
    }
    let (first, broken) = (header.first, header.first != expected_first);
    let encoded = view.into_encoded();
    let (mut transactions, mut changes) = (Vec::with_capacity(encoded.len()), Vec::with_capacity(encoded.len()));
    for bytes in encoded {
        let transaction = RawTransaction::read(bytes, |change| {
            changes.push(change);
            Ok(())
        });
        transactions.push((transaction, changes.len()));
    }
    Checked { bytes, content: Ok(Content { first, transactions, changes, unlinked }), head, broken }
}
