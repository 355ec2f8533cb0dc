//! What the inside looks like from outside: objects, names and transactions as [`Answer`]s, online and offline alike.

use std::sync::Arc;

use theseus_abi::FailureCode;
use theseus_value::{ObjectId, Value};

use super::action::{
    self, ActionError, Answer, At, LostNameView, MissView, MissesView, ObjectRef, ObjectView, StorageView,
    TransactionView, UndoneView, codes,
};
use crate::{
    exec::{Done, Misses, ObjectName, Refusal, Shortage},
    identity::{
        BatchHeader, Head, Outcome, Reader, RecordedFailure, Room, StorageError, Tid, Transaction, UndoRefusal,
    },
};

/// How many transactions one answer holds at most.
const HISTORY_MAX: usize = 10_000;

/// How many names one answer holds at most.
const NAMES_MAX: usize = 10_000;

/// How many names are looked at for one answer at most: each may take a walk through the history.
const NAMES_EXAMINED_MAX: usize = 2 * NAMES_MAX;

/// How many are looked at together at least.
const NAMES_EXAMINED_MIN: usize = 64;

pub(super) fn head(head: Head) -> action::Head {
    action::Head { tid: head.tid.0, hash: head.hash.0 }
}

/// The messages that nobody understood.
pub(super) fn misses(misses: &Misses) -> Answer {
    let rows = misses.list().into_iter().map(|miss| MissView {
        behavior: miss.behavior.to_string(),
        selector: miss.selector.to_string(),
        count: miss.count,
        first_us: miss.first_us,
        last_us: miss.last_us,
    });
    Answer::Misses(MissesView { total: misses.total(), misses: rows.collect() })
}

pub(super) fn object_name(object: ObjectRef) -> ObjectName {
    match object {
        ObjectRef::Id(id) => ObjectName::Id(id),
        ObjectRef::Name(name) => ObjectName::Name(name),
    }
}

pub(super) fn error(code: &str, message: impl Into<String>) -> ActionError {
    ActionError { code: code.to_owned(), kind: None, message: message.into(), tid: None }
}

/// How much room there is, and what there is too little of.
pub(super) fn storage_room(room: Option<Room>, shortage: Option<Arc<Shortage>>) -> StorageView {
    let room = room.unwrap_or_default();
    StorageView {
        history_bytes: room.history_bytes,
        objects_bytes: room.objects_bytes,
        disk_free_bytes: room.disk_free_bytes,
        shortage: shortage.map(|shortage| shortage.to_string()),
    }
}

/// The transaction as of which a client wants to see something: the last durable one, if it does not say.
pub(super) fn moment(reader: &Reader, at: Option<At>) -> Result<Tid, ActionError> {
    let (newest, packed) = (reader.identity().head().tid, reader.identity().packed().tid);
    match at {
        None => Ok(newest),
        Some(At::Tid(at)) if at > 0 && at < packed.0 => Err(storage(StorageError::Packed { before: packed })),
        Some(At::Tid(at)) if at == 0 || at > newest.0 => {
            let message = format!("there is no transaction {at}: the history has 1 to {newest}");
            Err(error(codes::NO_SUCH_TRANSACTION, message))
        }
        Some(At::Tid(at)) => Ok(Tid(at)),
        Some(At::Time { us }) => match reader.identity().tid_at(us).map_err(storage)? {
            Tid::NONE => Err(error(codes::NO_SUCH_TRANSACTION, "nothing had been committed at that time")),
            at => Ok(at),
        },
    }
}

/// One object, now or at a moment of the past.
pub(super) fn object(reader: &mut Reader, object: &ObjectRef, at: Option<At>) -> Result<Answer, ActionError> {
    let at = moment(reader, at)?;
    let id = find(reader, object, at)?;
    let version = reader.as_of(id, at).map_err(storage)?;
    let found = version.as_ref().and_then(|version| Some((version, version.record.as_ref()?)));
    let Some((version, record)) = found else {
        let message = match version {
            Some(version) => format!("object {id} was deleted in transaction {}", version.tid),
            None => format!("there is no object {id} as of transaction {at}"),
        };
        return Err(error("no_such_object", message));
    };
    Ok(Answer::Record(ObjectView {
        id,
        behavior: record.behavior.to_string(),
        schema: record.schema,
        parents: record.parents.to_vec(),
        slots: value(&record.slots)?,
        tid: version.tid.0,
        version: version.number,
    }))
}

/// The object that a client means as of a transaction. A name ends with its object, so a deleted object has none.
pub(super) fn find(reader: &mut Reader, object: &ObjectRef, at: Tid) -> Result<ObjectId, ActionError> {
    match object {
        ObjectRef::Id(id) => Ok(*id),
        ObjectRef::Name(name) => reader
            .name_as_of(name, at)
            .map_err(storage)?
            .ok_or_else(|| error("no_such_object", format!("no object has the name `{name}`"))),
    }
}

/// Names and their objects, as many as `limit`, unless too many had become free.
pub(super) fn names(
    reader: &mut Reader,
    prefix: &str,
    after: Option<String>,
    limit: usize,
    at: Option<At>,
) -> Result<Answer, ActionError> {
    let (at, limit) = (moment(reader, at)?, limit.clamp(1, NAMES_MAX));
    let (mut names, mut next, mut examined) = (Vec::new(), after, 0);
    loop {
        let examine = (limit - names.len()).max(NAMES_EXAMINED_MIN);
        let page = reader.names(prefix, next.as_deref(), at, examine).map_err(storage)?;
        examined += examine;
        next = page.next;
        for (name, id) in page.names {
            // A name ends with its object.
            let record = reader.snapshot(id, at).map_err(storage)?.and_then(|version| version.record.clone());
            let Some(record) = record else { continue };
            if names.len() == limit {
                next = names.last().map(|(name, ..): &(String, ObjectId, String)| name.clone());
                return Ok(Answer::Names { names, next, at: at.0 });
            }
            names.push((name, id, record.behavior.to_string()));
        }
        if next.is_none() || examined >= NAMES_EXAMINED_MAX {
            return Ok(Answer::Names { names, next, at: at.0 });
        }
    }
}

/// Transactions from `from` on, oldest first.
pub(super) fn history(
    reader: &mut Reader,
    object: Option<&ObjectRef>,
    from: At,
    limit: usize,
) -> Result<Answer, ActionError> {
    let limit = limit.clamp(1, HISTORY_MAX);
    let from = match from {
        At::Tid(from) => Tid(from.max(1)),
        At::Time { us } => match reader.identity().tid_at(us.saturating_sub(1)) {
            Err(StorageError::Packed { .. }) => Tid(1),
            at => at.map_err(storage)?.next(),
        },
    };
    // It begins with what is left.
    let packed = reader.identity().packed().tid;
    let (from, packed) = (from.max(packed.next()), (from <= packed).then_some(packed.0));
    let (transactions, next) = match object {
        Some(object) => {
            let head = reader.identity().head().tid;
            let object = find(reader, object, head)?;
            if reader.as_of(object, head).map_err(storage)?.is_none() {
                return Err(error(
                    "no_such_object",
                    format!("there is no object {object}, and none is known to have been"),
                ));
            }
            object_history(reader, object, from, limit)
        }
        None => whole_history(reader, from, limit),
    }
    .map_err(storage)?;
    Ok(Answer::History { transactions, next: next.map(|tid| tid.0), packed })
}

type Transactions = (Vec<TransactionView>, Option<Tid>);

fn object_history(
    reader: &mut Reader,
    object: ObjectId,
    from: Tid,
    limit: usize,
) -> Result<Transactions, StorageError> {
    let mut tids = reader.versions(object, from, limit + 1)?;
    let next = tids.get(limit).copied();
    tids.truncate(limit);
    let mut transactions = Vec::with_capacity(tids.len());
    for tid in tids {
        let identity = reader.identity().clone();
        let view = identity.with_batch(tid, |batch| {
            let transaction = batch.transaction(tid).expect("the batch was found by this transaction");
            let transaction = transaction.map_err(|error| identity.damaged(tid, error.to_string()))?;
            self::transaction(reader, tid, &batch.header, &transaction)
        })?;
        transactions.extend(view);
    }
    Ok((transactions, next))
}

fn whole_history(reader: &mut Reader, from: Tid, limit: usize) -> Result<Transactions, StorageError> {
    let identity = reader.identity().clone();
    let (mut transactions, mut next) = (Vec::new(), None);
    // A batch is in the history before readers may see what it did.
    let head = identity.head().tid;
    identity.walk_history(from, |batch| {
        if batch.header.last > head {
            return Ok(false);
        }
        for (tid, transaction) in batch.transactions().skip_while(|(tid, _)| *tid < from) {
            if transactions.len() == limit {
                next = Some(tid);
                return Ok(false);
            }
            let transaction = transaction.map_err(|error| identity.damaged(tid, error.to_string()))?;
            transactions.push(self::transaction(reader, tid, &batch.header, &transaction)?);
        }
        Ok(true)
    })?;
    Ok((transactions, next))
}

fn transaction(
    reader: &mut Reader,
    tid: Tid,
    header: &BatchHeader,
    transaction: &Transaction<'_>,
) -> Result<TransactionView, StorageError> {
    let damaged = |error: theseus_value::DecodeError| reader.identity().damaged(tid, error.to_string());
    let arguments = Value::decode(transaction.arguments).map_err(damaged)?;
    let outcome = match &transaction.outcome {
        Outcome::Done(result) => Ok(Value::decode(result).map_err(damaged)?),
        Outcome::Failed(failure) => Err(recorded(failure, tid)),
    };
    Ok(TransactionView {
        tid: tid.0,
        time_us: transaction.time_us,
        incarnation: header.incarnation.0,
        request_id: transaction.request_id.map(str::to_owned),
        target: transaction.target,
        method: transaction.method.to_owned(),
        arguments,
        outcome,
        executed_by: executed_by(reader, tid, header, transaction)?,
        writes: transaction.writes.iter().map(|write| (write.object, write.pointers.number)).collect(),
    })
}

/// The plugin of the target's behaviour, and which file of it was in force.
fn executed_by(
    reader: &mut Reader,
    tid: Tid,
    header: &BatchHeader,
    transaction: &Transaction<'_>,
) -> Result<Option<(String, String)>, StorageError> {
    let Some(target) = transaction.target else { return Ok(None) };
    let written = transaction.writes.iter().find(|write| write.object == target).and_then(|it| it.record.clone());
    let record = match written {
        Some(record) => Some(record),
        None => reader.as_of(target, tid)?.and_then(|version| version.record.clone()),
    };
    // Behaviours are named `plugin.Type`.
    let plugin = record.and_then(|record| Some(record.behavior.split_once('.')?.0.to_owned()));
    let digest =
        |plugin: &String| header.generations.iter().find(|(name, _)| name == plugin).map(|(_, digest)| *digest);
    Ok(plugin.and_then(|plugin| {
        let digest = digest(&plugin)?;
        Some((plugin, crate::plugin::Digest::from_bytes(digest).to_string()))
    }))
}

pub(super) fn recorded(failure: &RecordedFailure, tid: Tid) -> ActionError {
    ActionError {
        code: failure.code.clone(),
        kind: (!failure.kind.is_empty()).then(|| failure.kind.clone()),
        message: failure.message.clone(),
        tid: tid.exists().map(|tid| tid.0),
    }
}

pub(super) fn refusal(refusal: &Refusal) -> ActionError {
    let message = refusal.to_string();
    match refusal {
        Refusal::Overloaded => error(codes::OVERLOADED, message),
        Refusal::Stopping => error(codes::STOPPING, message),
        Refusal::StorageFull { .. } => error(codes::STORAGE_FULL, message),
        Refusal::StorageFailed { .. } => error(codes::STORAGE_FAILED, message),
        Refusal::RequestIdReused { .. } => error(codes::REQUEST_ID_REUSED, message),
        Refusal::Packed { .. } => error(codes::PACKED, message),
        Refusal::NotAdmitted { .. } => error(codes::PLAN_REFUSED, message),
        Refusal::NotUndone(refusal) => not_undone(refusal),
        Refusal::Failed(failure) => recorded(&RecordedFailure::from(failure.clone()), Tid::NONE),
    }
}

fn not_undone(refusal: &UndoRefusal) -> ActionError {
    let (code, kind, tid) = match refusal {
        UndoRefusal::NoSuchTransaction { .. } => (codes::NO_SUCH_TRANSACTION, None, None),
        UndoRefusal::Packed { .. } => (codes::PACKED, None, None),
        UndoRefusal::NotUndoable { tid, .. } => (codes::NOT_UNDOABLE, None, Some(tid.0)),
        UndoRefusal::WrittenSince { by, .. } => (codes::UNDO_CONFLICT, Some("written_since"), Some(by.0)),
        UndoRefusal::NeededSince { by, .. } => (codes::UNDO_CONFLICT, Some("needed_since"), Some(by.0)),
        UndoRefusal::DeletedSince { by, .. } => (codes::UNDO_CONFLICT, Some("deleted_since"), Some(by.0)),
        UndoRefusal::Unreadable { .. } => (codes::UNDO_CONFLICT, Some("unreadable"), None),
        UndoRefusal::TooMany => (FailureCode::LIMIT_EXCEEDED.name(), None, None),
    };
    ActionError { code: code.to_owned(), kind: kind.map(str::to_owned), message: refusal.to_string(), tid }
}

/// What an undo did, as its transaction tells.
pub(super) fn undone(done: &Done) -> Result<Answer, ActionError> {
    let Outcome::Done(result) = &done.outcome else {
        unreachable!("an undo that fails is refused");
    };
    let Value::Map(told) = value(result)? else { unreachable!("an undo tells what it did in a map") };
    let items = |name: &str| match told.get(name) {
        Some(Value::Array(items)) => &items[..],
        _ => &[],
    };
    let objects = |name: &str| {
        items(name).iter().filter_map(|item| if let Value::Ref(object) = item { Some(*object) } else { None }).collect()
    };
    let text = |item: &Value| if let Value::Text(name) = item { Some(name.clone()) } else { None };
    let lost = |item: &Value| {
        let Value::Map(lost) = item else { return None };
        let object = |name: &str| if let Some(Value::Ref(object)) = lost.get(name) { Some(*object) } else { None };
        Some(LostNameView {
            name: lost.get("name").and_then(text)?,
            object: object("object")?,
            holder: object("holder"),
        })
    };
    let unchecked = match told.get("unchecked") {
        Some(Value::Int(tid)) => u64::try_from(*tid).ok(),
        _ => None,
    };
    Ok(Answer::Undone(UndoneView {
        tid: done.tid.map(|tid| tid.0),
        at: head(done.head),
        restored: objects("restored"),
        removed: objects("removed"),
        names: items("names").iter().filter_map(text).collect(),
        names_lost: items("names_lost").iter().filter_map(lost).collect(),
        unchecked,
    }))
}

pub(super) fn storage(failure: StorageError) -> ActionError {
    let code = match &failure {
        StorageError::Damaged { .. } => FailureCode::IDENTITY_DAMAGED.name(),
        StorageError::Packed { .. } => codes::PACKED,
        _ => FailureCode::STORAGE.name(),
    };
    error(code, failure.to_string())
}

/// Decodes what is known to be encoded well.
pub(super) fn value(bytes: &[u8]) -> Result<Value, ActionError> {
    match bytes {
        [] => Ok(Value::Null),
        bytes => Value::decode(bytes).map_err(|problem| error("bad_encoding", problem.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Committer, Draft, Identity, Incarnation, Opened, Place, RequestMemory, Writer};

    #[test]
    fn the_history_ends_where_everything_else_that_is_read_does() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            history: folder.path().join("history"),
            objects: folder.path().join("objects"),
            bases: folder.path().join("base"),
            history_bytes_max: 64 << 20,
            objects_bytes_max: 64 << 20,
            requests: RequestMemory { count_max: 10, since_us: 0 },
        };
        Identity::create(&place).unwrap();
        let Opened { identity, resume } = Identity::open(&place, false).unwrap();
        let (mut writer, mut committer) =
            (Writer::new(identity.clone(), &resume), Committer::new(identity.clone(), Incarnation(1)));
        let mut reader = Reader::new(identity);
        let mut seen = || match history(&mut reader, None, At::Tid(1), 10) {
            Ok(Answer::History { transactions, next: None, .. }) => transactions.len(),
            other => panic!("{other:?}"),
        };
        for number in 0..3 {
            let (method, arguments, outcome) = ("theseus.test", &[0xf6][..], &Outcome::Done([].into()));
            let (request_id, target, time_us, seed, writes, names) = (None, None, 1, 2, &[], &[]);
            writer
                .record(&Draft { request_id, target, method, arguments, time_us, seed, outcome, writes, names })
                .unwrap();
            let head = committer.append(writer.close_batch(), &[].into(), 3).unwrap();
            assert_eq!(seen(), number, "the head that goes with the answer has no more");
            committer.publish(head);
            assert_eq!(seen(), number + 1);
        }
    }
}
