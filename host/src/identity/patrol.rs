//! Verifying a live identity bit by bit: each record of the history by its hash and as the one that follows the record before, and each
//! object's row against the version that the history has of it. It needs no memory to speak of, and no view for longer than a step.

use std::sync::Arc;

use theseus_value::{ObjectId, raw::Reader};

use super::{
    Damage, Head, Identity, ObjectRecord, StorageError, Tid,
    batch::RawTransaction,
    history::{HistoryView, StoredBatch},
    version::{Pointers, Row},
};

/// How far a patrol has come. It goes round and round: along the history, then along the objects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PatrolAt {
    /// The last record that was checked.
    pub head: Head,
    /// The next object to check; none while it goes along the history.
    pub object: Option<ObjectId>,
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
        let done = match at.object {
            None => self.patrol_history(&mut at.head, bytes_max, &mut step),
            Some(mut object) => {
                let done = self.patrol_objects(&mut object, bytes_max, &mut step);
                at.object = Some(object);
                done
            }
        };
        let done = match done {
            // A page of LMDB's own: what lies behind it cannot be told apart, so this part of the round ends.
            Err(StorageError::Damaged { place, problem, .. }) => {
                step.damage.push(Damage { place, problem });
                true
            }
            done => done?,
        };
        match (done, at.object) {
            (false, _) => {}
            (true, None) => at.object = Some(ObjectId(0)),
            (true, Some(_)) => {
                *at = PatrolAt::default();
                step.round = true;
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

    fn patrol_objects(&self, next: &mut ObjectId, bytes_max: u64, step: &mut PatrolStep) -> Result<bool, StorageError> {
        // The table first: the history is then at least as new.
        let table = self.table.read()?;
        let history = self.history.read()?;
        let mut done = true;
        table.walk_objects(*next, |object, row| {
            if step.bytes >= bytes_max {
                done = false;
                return Ok(false);
            }
            *next = ObjectId(object.0.saturating_add(1));
            let problem = match row {
                Ok(row) => {
                    // Looking the version up costs more than the row's bytes.
                    const LOOK_UP_BYTES: u64 = 512;
                    step.bytes += LOOK_UP_BYTES + row.content.map_or(0, |content| content.len() as u64);
                    check_row(&history, object, &row)?
                }
                Err(problem) => Some(problem),
            };
            step.damage.extend(problem.map(|problem| Damage { place: format!("object {object}"), problem }));
            Ok(true)
        })?;
        Ok(done)
    }
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

/// Compares a row with the version that its transaction wrote; in words if it differs.
fn check_row(history: &HistoryView, object: ObjectId, row: &Row<'_>) -> Result<Option<String>, StorageError> {
    let version = match history.version(&object, row.tid) {
        // Of what was packed away, the base has the last version, and that is none of it.
        Err(StorageError::Packed { .. }) => None,
        Err(StorageError::Damaged { place, problem, .. }) => return Ok(Some(format!("{place}: {problem}"))),
        version => version?,
    };
    let Some(version) = version else {
        return Ok(Some(format!("transaction {} should have written it, and did not", row.tid)));
    };
    let jump = row.spine.first().copied().unwrap_or(Tid::NONE);
    let pointers = Pointers { number: row.number, previous: row.previous, jump };
    let same = version.pointers == pointers && version.content == row.content;
    let readable =
        row.content.is_none_or(|record| ObjectRecord::decode(&mut Reader::new(record)).map(Arc::new).is_ok());
    Ok((!same || !readable).then(|| format!("it is not what transaction {} wrote", row.tid)))
}
