//! Verifying a live identity bit by bit: each record of the history by its hash and as the one that follows the record before; each row of
//! an object, a name or a remembered request id against what the history has of it; and the rows of the indexes against those of the
//! objects. It needs no memory to speak of, and no view for longer than a step.
//!
//! A live host changes rows all the time, but what is found is certain all the same. A step looks at the table in one view, in which all rows are as of
//! one transaction, and compares them with a view of the history that is newer and has all of them: history is only added to. What was packed
//! away since is the one exception, and then the step is taken again.

use serde::{Deserialize, Serialize};
use theseus_value::{ObjectId, raw::Reader};

use super::{
    Damage, Head, Identity, StorageError, Tid,
    batch::RawTransaction,
    history::{HistoryView, StoredBatch},
    lmdb::Db,
    secondary::{self, IndexDefinition, IndexState},
    table::{NAMES, OBJECTS, RECENT, REQUESTS, RequestRow, SECONDARY, TableView, decode_id, read_row, unseal},
    version::{Content, Pointers, Row, Versioned},
};

/// How far a patrol has come. It goes round and round, through one part after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatrolAt {
    /// The last record that was checked.
    pub head: Head,
    /// What it goes through.
    pub part: PatrolPart,
    /// The key of the next row to check; empty at the start of a part, and in the history.
    pub next: Vec<u8>,
}

/// What a patrol goes through, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum PatrolPart {
    /// The records.
    #[default]
    History,
    /// The rows of the objects.
    Objects,
    /// The rows of the names.
    Names,
    /// The remembered request ids.
    Requests,
    /// The same by age.
    RequestsByAge,
    /// The rows of the indexes.
    Indexes,
}

impl PatrolPart {
    /// What comes after it; none at the end of a round.
    pub(super) fn following(self) -> Option<PatrolPart> {
        match self {
            PatrolPart::History => Some(PatrolPart::Objects),
            PatrolPart::Objects => Some(PatrolPart::Names),
            PatrolPart::Names => Some(PatrolPart::Requests),
            PatrolPart::Requests => Some(PatrolPart::RequestsByAge),
            PatrolPart::RequestsByAge => Some(PatrolPart::Indexes),
            PatrolPart::Indexes => None,
        }
    }

    /// The database of the object table that has its rows; none for the history.
    pub(super) fn rows(self) -> Option<Db> {
        match self {
            PatrolPart::History => None,
            PatrolPart::Objects => Some(OBJECTS),
            PatrolPart::Names => Some(NAMES),
            PatrolPart::Requests => Some(REQUESTS),
            PatrolPart::RequestsByAge => Some(RECENT),
            PatrolPart::Indexes => Some(SECONDARY),
        }
    }
}

/// What a step of a patrol did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatrolStep {
    /// How many bytes were checked.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Whether the round is finished.
    pub round: bool,
}

impl Identity {
    /// Checks about so many bytes and moves on.
    ///
    /// # Errors
    ///
    /// If the storage fails. Damage is not an error but part of the answer; what is damaged is passed over.
    pub fn patrol(&self, at: &mut PatrolAt, bytes_max: u64) -> Result<PatrolStep, StorageError> {
        let mut step = PatrolStep { bytes: 0, damage: Vec::new(), round: false };
        let done = match at.part.rows() {
            None => self.patrol_history(&mut at.head, bytes_max, &mut step),
            Some(db) => self.patrol_rows(at.part, db, &mut at.next, bytes_max, &mut step),
        };
        let done = match done {
            // A page of LMDB's own: what lies behind it cannot be told apart, so this part of the round ends.
            Err(StorageError::Damaged { place, problem, .. }) => {
                step.damage.push(Damage { place, problem });
                true
            }
            done => done?,
        };
        if done {
            at.next.clear();
            match at.part.following() {
                Some(part) => at.part = part,
                None => {
                    *at = PatrolAt::default();
                    step.round = true;
                }
            }
        }
        Ok(step)
    }

    fn patrol_history(&self, head: &mut Head, bytes_max: u64, step: &mut PatrolStep) -> Result<bool, StorageError> {
        let view = self.history.read()?;
        if head.tid <= view.packed().tid {
            *head = view.packed();
        }
        // Where it was noted down, it may have been in another history.
        if view.hash_at(head.tid)?.is_none_or(|hash| hash != head.hash) && *head != Head::default() {
            *head = view.packed();
        }
        let mut done = true;
        view.walk_stored::<StorageError>(head.tid.next(), |key, value| {
            if step.bytes >= bytes_max {
                done = false;
                return Ok(false);
            }
            step.bytes += value.len() as u64;
            let place = format!("the history record after transaction {}", head.tid);
            if let Err(problem) = check_record(head, key, value) {
                step.damage.push(Damage { place, problem });
            }
            Ok(true)
        })?;
        Ok(done)
    }

    fn patrol_rows(
        &self,
        part: PatrolPart,
        db: Db,
        next: &mut Vec<u8>,
        bytes_max: u64,
        step: &mut PatrolStep,
    ) -> Result<bool, StorageError> {
        let packed = self.packed();
        // The table first: the history is then at least as new.
        let table = self.table.read()?;
        let Some(history) = self.history_on(packed)? else { return Ok(false) };
        go_through_rows((&table, &history), part, db, next, bytes_max, step)
    }

    /// The history, if it still stands on the base that ends with `packed`. One that was put in force after a look at the table may be newer
    /// than what was seen there, and lacks the request ids that were forgotten before it was made.
    pub(super) fn history_on(&self, packed: Head) -> Result<Option<HistoryView>, StorageError> {
        let history = self.history.read()?;
        Ok((history.packed() == packed).then_some(history))
    }
}

/// Looks at rows in two views, of which that of the history is not older; answers whether it came to the end of the part.
pub(super) fn go_through_rows(
    (table, history): (&TableView, &HistoryView),
    part: PatrolPart,
    db: Db,
    next: &mut Vec<u8>,
    bytes_max: u64,
    step: &mut PatrolStep,
) -> Result<bool, StorageError> {
    /// Looking up what a row is compared with costs more than its bytes.
    const LOOK_UP_BYTES: u64 = 512;

    let indexes = match table.indexes() {
        // It is told with the indexes.
        Err(StorageError::Damaged { .. }) if part != PatrolPart::Indexes => Vec::new(),
        indexes => indexes?,
    };
    if part == PatrolPart::Indexes && next.is_empty() {
        secondary::verify_list(table, &indexes, &mut |place, problem| {
            step.damage.push(Damage { place, problem });
            true
        })?;
    }
    let look = Look { table, history, indexes: &indexes };
    let mut done = true;
    table.walk_entries(db, &std::mem::take(next), |key, value| {
        if step.bytes >= bytes_max {
            (*next, done) = (key.to_vec(), false);
            return Ok(false);
        }
        step.bytes += LOOK_UP_BYTES + value.len() as u64;
        let found = look.at(part, key, value)?;
        step.damage.extend(found.into_iter().map(|(place, problem)| Damage { place, problem }));
        Ok(true)
    })?;
    Ok(done)
}

/// Checks a record as the one that follows `head`, which becomes the record's; in words if it is not.
fn check_record(head: &mut Head, key: &[u8], value: &[u8]) -> Result<(), String> {
    let before = *head;
    let stored = StoredBatch::split(key, value)?;
    *head = Head { tid: stored.last, hash: stored.hash };
    let batch = stored.check()?;
    let header = &batch.header;
    if (header.first, header.previous) != (before.tid.next(), before.hash) {
        return Err(format!("it begins with transaction {} and continues {}", header.first, header.previous));
    }
    for (tid, transaction) in batch.encoded() {
        RawTransaction::read(transaction, |_| Ok(())).map_err(|error| format!("transaction {tid}: {error}"))?;
    }
    Ok(())
}

/// Where something is wrong, and what.
type Wrong = (String, String);

/// The views with which the rows of one step are looked at.
struct Look<'a> {
    table: &'a TableView,
    history: &'a HistoryView,
    indexes: &'a [(IndexDefinition, IndexState)],
}

impl Look<'_> {
    /// What is wrong with a row.
    fn at(&self, part: PatrolPart, key: &[u8], value: &[u8]) -> Result<Vec<Wrong>, StorageError> {
        let wrong = match part {
            PatrolPart::History => None,
            PatrolPart::Objects => return self.at_object(key, value),
            PatrolPart::Names => {
                let place = || format!("the name `{}`", String::from_utf8_lossy(key));
                self.at_version::<str>(key, value)?.err().map(|problem| (place(), problem))
            }
            PatrolPart::Requests => self.at_request(key, value)?,
            PatrolPart::RequestsByAge => self.at_request_by_age(key, value)?,
            PatrolPart::Indexes => secondary::verify_row(self.table, self.indexes, key, value)?,
        };
        Ok(wrong.into_iter().collect())
    }

    fn at_object(&self, key: &[u8], value: &[u8]) -> Result<Vec<Wrong>, StorageError> {
        let Some(object) = ObjectId::of_row_key(key) else {
            return Ok(vec![("an object key".to_owned(), "it is not 8 bytes".to_owned())]);
        };
        match self.at_version::<ObjectId>(key, value)? {
            Ok(Some(record)) => secondary::missing_rows(self.table, self.indexes, *object, &record),
            Ok(None) => Ok(Vec::new()),
            Err(problem) => Ok(vec![(object.describe(), problem)]),
        }
    }

    /// Compares a row with the version that its transaction wrote: what it says, or in words how it differs.
    fn at_version<K: Versioned + ?Sized>(
        &self,
        key: &[u8],
        value: &[u8],
    ) -> Result<Result<Option<K::Content>, String>, StorageError> {
        let row = match read_row::<K::Content>(K::ROWS, key, value) {
            Ok(row) => row,
            Err(problem) => return Ok(Err(problem)),
        };
        let Some(key) = K::of_row_key(key) else { return Ok(Err("its key is malformed".to_owned())) };
        let Row { tid, number, previous, spine, content } = row;
        let version = match told(self.history.version(&*key, tid))? {
            Ok(version) => version,
            Err(problem) => return Ok(Err(problem)),
        };
        let Some(version) = version else {
            return Ok(Err(format!("transaction {tid} should have written it, and did not")));
        };
        let pointers = Pointers { number, previous, jump: spine.first().copied().unwrap_or(Tid::NONE) };
        let same = version.pointers == pointers && version.content == content;
        let read = content.map(|content| K::Content::decode(&mut Reader::new(content))).transpose();
        Ok(read.ok().filter(|_| same).ok_or_else(|| format!("it is not what transaction {tid} wrote")))
    }

    fn at_request(&self, key: &[u8], value: &[u8]) -> Result<Option<Wrong>, StorageError> {
        let place = format!("the request id `{}`", String::from_utf8_lossy(key));
        let row = unseal(REQUESTS, key, value)
            .and_then(|body| RequestRow::decode(body).map_err(|error| error.to_string()))
            .and_then(|row| Ok((str::from_utf8(key).map_err(|error| error.to_string())?, row)));
        let (id, row) = match row {
            Ok(row) => row,
            Err(problem) => return Ok(Some((place, problem))),
        };
        match self.request(row.tid, id)? {
            Ok(found) if found == Some(row) => {}
            Ok(_) => {
                let problem = format!("its row points to transaction {}, which is not that request", row.tid);
                return Ok(Some((place, problem)));
            }
            Err(problem) => return Ok(Some((place, problem))),
        }
        // That the row by age says the same is told when it is that row's turn.
        let by_age = self.table.entry(RECENT, &row.tid.0.to_be_bytes())?;
        Ok(by_age
            .is_none()
            .then(|| (format!("the request id of transaction {}", row.tid), "its row by age is missing".to_owned())))
    }

    fn at_request_by_age(&self, key: &[u8], value: &[u8]) -> Result<Option<Wrong>, StorageError> {
        let Ok(tid) = key.try_into().map(|tid| Tid(u64::from_be_bytes(tid))) else {
            return Ok(Some(("a remembered request id".to_owned(), "its key is not 8 bytes".to_owned())));
        };
        let id = unseal(RECENT, key, value).and_then(|body| decode_id(body).map_err(|error| error.to_string()));
        let id = match id {
            Ok(id) => id,
            Err(problem) => return Ok(Some((format!("the request id of transaction {tid}"), problem))),
        };
        let wrong = |problem: String| Ok(Some((format!("the request id `{id}`"), problem)));
        match self.request(tid, id)? {
            Ok(Some(_)) => {}
            Ok(None) => return wrong(format!("transaction {tid} was not that request")),
            Err(problem) => return wrong(problem),
        }
        match self.table.entry(REQUESTS, id.as_bytes())? {
            None => wrong(format!("it has a row by age, of transaction {tid}, and none by id")),
            Some(value) => {
                let row = unseal(REQUESTS, id.as_bytes(), value).map(RequestRow::decode);
                // One that cannot be read is told when it is its turn.
                let other = row.ok().and_then(Result::ok).filter(|row| row.tid != tid);
                other.map_or(Ok(None), |row| {
                    wrong(format!("it has a row by age of transaction {tid}, but its row by id is of {}", row.tid))
                })
            }
        }
    }

    /// What the history says of a request that a transaction should have been; none if it was not.
    fn request(&self, tid: Tid, id: &str) -> Result<Result<Option<RequestRow>, String>, StorageError> {
        if tid > self.history.packed().tid {
            return told(self.history.request(tid, id));
        }
        // The base has those that were remembered when it was made, and none of those is remembered anew.
        let Some((_, base)) = self.history.base_rows()? else { return Ok(Ok(None)) };
        Ok(told(base.request(id))?.map(|row| row.filter(|row| row.tid == tid)))
    }
}

/// What was found, or in words what is damaged there: damage is told and does not end the step.
fn told<T>(found: Result<Option<T>, StorageError>) -> Result<Result<Option<T>, String>, StorageError> {
    match found {
        // Of what was packed away, the base has the last version, and that is none of it.
        Err(StorageError::Packed { .. }) => Ok(Ok(None)),
        Err(StorageError::Damaged { place, problem, .. }) => Ok(Err(format!("{place}: {problem}"))),
        found => found.map(Ok),
    }
}
