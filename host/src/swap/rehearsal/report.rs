//! What a rehearsal found.

use std::collections::BTreeMap;

use theseus_value::{ObjectId, Value};

use super::{Entry, compare::SHOWN_BYTES_MAX, wire::Finding};
use crate::{
    exec::CREATE,
    identity::{Outcome, RecordedFailure, Tid, Transaction},
};

/// How a transaction came out with the plugins offered, against its record. The first that applies, from the bottom up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// The same result and the same writes.
    Same,
    /// The same, but it took more than twice the time that it takes with the plugins in force, and 100 us more.
    Slower,
    /// The same result, other writes.
    DifferentWrites,
    /// Another result, or a failure of another kind, or success where there was a failure.
    DifferentResult,
    /// The plugins in force do not do again what was recorded, so that nothing can be said about those offered.
    NotReproducible,
    /// It failed where the record did not, or it panicked, crashed or hung.
    Error,
    /// It was not executed: neither the object's past state nor what was written can be read.
    Skipped,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 7] = [
        Class::Same,
        Class::Slower,
        Class::DifferentWrites,
        Class::DifferentResult,
        Class::NotReproducible,
        Class::Error,
        Class::Skipped,
    ];

    /// Its name, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Class::Same => "same",
            Class::Slower => "slower",
            Class::DifferentWrites => "different_writes",
            Class::DifferentResult => "different_result",
            Class::NotReproducible => "not_reproducible",
            Class::Error => "error",
            Class::Skipped => "skipped",
        }
    }
}

/// Why a rehearsal has no more transactions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// As many were executed as were asked for.
    Enough,
    /// The history has no more of them.
    Beginning,
    /// So many transactions of the history were looked at, and that is the limit.
    LookedAt(u64),
    /// It took so many milliseconds, and that is the limit.
    Time(u64),
    /// The process in which they were executed had to be started again so often, and that is the limit.
    Restarts(u64),
}

/// What a rehearsal found.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// How many transactions were asked for.
    pub last: u64,
    /// The behaviours that the offered plugins concern.
    pub behaviors: Vec<String>,
    /// The first and the last transaction that was executed.
    pub span: Option<(Tid, Tid)>,
    /// Why there are no more.
    pub end: End,
    /// How many transactions came out how.
    pub counts: BTreeMap<Class, u64>,
    /// How long they took, by behaviour and method.
    pub methods: BTreeMap<String, Times>,
    /// Transactions that did not come out the same, oldest first: the first ones of each class, or all, up to a bound.
    pub differences: Vec<Difference>,
    /// The names of the objects that they are about, of those that have one.
    pub names: BTreeMap<ObjectId, String>,
    /// How often the process had to be started again because a candidate ended it, or did not come to an end.
    pub restarts: u64,
    /// How long the rehearsal took, in milliseconds.
    pub elapsed_ms: u64,
    /// How much `differences` hold, in bytes of encoded values.
    pub(super) told_bytes: usize,
}

/// How long transactions took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// How many transactions.
    pub transactions: u64,
    /// With the plugins in force, in nanoseconds.
    pub in_force_ns: u64,
    /// With those offered, in nanoseconds.
    pub offered_ns: u64,
}

/// A transaction that did not come out the same.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// The transaction.
    pub tid: Tid,
    /// How it came out.
    pub class: Class,
    /// Why, where the class does not say it all.
    pub reason: Option<String>,
    /// The client's id for the request.
    pub request_id: Option<String>,
    /// The receiver, or the object that was made.
    pub object: Option<ObjectId>,
    /// Behaviour and method.
    pub method: String,
    /// The arguments.
    pub arguments: Value,
    /// How it ended when it was recorded.
    pub recorded: Result<Value, RecordedFailure>,
    /// How it ended with the plugins offered; none if it was not executed with them to an end.
    pub offered: Option<Result<Value, RecordedFailure>>,
    /// How long it took with the plugins in force and with those offered, in nanoseconds.
    pub took_ns: (u64, u64),
    /// Where the two differ.
    pub changes: Vec<Place>,
    /// How many differences there are beyond `changes`.
    pub more: u64,
}

/// One place where the record and the candidate differ.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    /// The object, if it is about one.
    pub object: Option<ObjectId>,
    /// The place: `result`, or within an object `slots.count`, `parents`, or nothing for the whole of it.
    pub path: String,
    /// The value in the record; none if there is none.
    pub recorded: Option<Value>,
    /// The value with the plugins offered; none if there is none.
    pub offered: Option<Value>,
}

/// How many differences a report tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// The first of each class.
    First,
    /// All, up to the bound of the settings.
    All,
}

/// How many differences of one class are told if not all are.
const FIRST: u64 = 10;

/// How much is told: beyond the first, differences lose their places, and beyond the second, nothing more is told. In bytes of
/// encoded values.
const PLACES_BYTES: usize = 16 << 20;
const TOLD_BYTES: usize = 64 << 20;
/// What a difference costs beside its values, in bytes, roughly.
const DIFFERENCE_BYTES: usize = 200;

impl Report {
    /// An empty one.
    pub fn new(last: u64, behaviors: Vec<String>) -> Report {
        Report {
            last,
            behaviors,
            span: None,
            end: End::Beginning,
            counts: Class::ALL.into_iter().map(|class| (class, 0)).collect(),
            methods: BTreeMap::new(),
            differences: Vec::new(),
            names: BTreeMap::new(),
            restarts: 0,
            elapsed_ms: 0,
            told_bytes: 0,
        }
    }

    /// How many transactions came out in a way.
    pub fn count(&self, class: Class) -> u64 {
        self.counts.get(&class).copied().unwrap_or_default()
    }

    /// How many transactions there are in it.
    pub fn transactions(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Why it speaks against a swap, in one sentence.
    pub(in crate::swap) fn errors(&self) -> String {
        let first = self.differences.iter().find(|it| it.class == Class::Error);
        let first = first.map_or_else(String::new, |it| {
            format!(
                "; the first is transaction {}, {}: {}",
                it.tid,
                it.method,
                it.reason.as_deref().unwrap_or_default()
            )
        });
        let errors = self.count(Class::Error);
        format!("{errors} of {} rehearsed transactions fail that did not fail before{first}", self.transactions())
    }

    /// Adds a transaction.
    pub(super) fn add(
        &mut self,
        entry: &Entry,
        method: &str,
        transaction: &[u8],
        finding: Finding,
        (told, most): (Told, usize),
    ) {
        let first = self.span.map_or(entry.tid, |(first, _)| first);
        self.span = Some((first, entry.tid));
        let count = self.counts.entry(finding.class).or_default();
        *count += 1;
        let wanted = match told {
            Told::First => *count <= FIRST,
            Told::All => self.differences.len() < most && self.told_bytes < TOLD_BYTES,
        };
        // Making an object is told as the behaviour's `new`.
        let method = if method == CREATE { "new" } else { method };
        let method = format!("{}.{method}", entry.behavior);
        if finding.outcome.is_some() {
            let times = self.methods.entry(method.clone()).or_default();
            times.transactions += 1;
            times.in_force_ns += finding.in_force_ns;
            times.offered_ns += finding.offered_ns;
        }
        if finding.class != Class::Same && wanted {
            let mut finding = finding;
            if self.told_bytes >= PLACES_BYTES {
                finding.more += std::mem::take(&mut finding.changes).len() as u64;
            }
            let transaction = Transaction::decode(transaction).expect("it was decoded when it was taken in");
            let recorded = match &transaction.outcome {
                Outcome::Done(result) => result.len(),
                Outcome::Failed(failure) => failure.message.len(),
            };
            let parts = [transaction.arguments.len(), recorded].map(|bytes| bytes.min(SHOWN_BYTES_MAX));
            self.told_bytes += parts.iter().sum::<usize>() + finding.bytes() + DIFFERENCE_BYTES;
            self.differences.push(difference(entry, method, &transaction, finding));
        }
    }

    /// The objects whose names would be of use to the reader.
    pub(super) fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.differences.iter().flat_map(|difference| {
            difference.changes.iter().map(|place| place.object).chain([difference.object]).flatten()
        })
    }
}

fn difference(entry: &Entry, method: String, transaction: &Transaction<'_>, finding: Finding) -> Difference {
    let Finding { class, reason, in_force_ns, offered_ns, outcome, changes, more } = finding;
    Difference {
        tid: entry.tid,
        class,
        reason,
        request_id: transaction.request_id.map(str::to_owned),
        object: transaction.target.or(transaction.writes.first().map(|write| write.object)),
        method,
        arguments: value(transaction.arguments),
        recorded: ended(transaction.outcome.clone()),
        offered: outcome.map(ended),
        took_ns: (in_force_ns, offered_ns),
        changes: changes
            .into_iter()
            .map(|change| Place {
                object: change.object,
                path: change.path,
                recorded: change.recorded.as_deref().map(value),
                offered: change.offered.as_deref().map(value),
            })
            .collect(),
        more,
    }
}

fn ended(outcome: Outcome) -> Result<Value, RecordedFailure> {
    match outcome {
        Outcome::Done(result) => Ok(value(&result)),
        Outcome::Failed(failure) => Err(*failure),
    }
}

/// A value as it is told. What does not fit is told by its length.
fn value(bytes: &[u8]) -> Value {
    Value::decode(&super::compare::shown(bytes.to_vec())).unwrap_or(Value::Null)
}
