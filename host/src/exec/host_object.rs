//! The host's own object: written with what the host itself does, in the same transaction, and closed to everybody else.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RString};
use theseus_value::ObjectId;

use super::{Refusal, committer, now_us, turn::EMPTY_MAP};
use crate::identity::{
    Committer, Draft, HOST_BEHAVIOR, HOST_OBJECT, Head, Identity, Incarnation, MESSAGE_BEHAVIOR, ObjectRecord, Outcome,
    Resume, StorageError, Tid, Writer, is_hosts_own,
};

/// The schema version of the host's own object. What a later host adds to it, this one keeps.
const SCHEMA: u32 = 1;

/// Makes of what the host remembers what it is to remember from now on, both encoded maps; none if that is the same.
pub type Remember = Box<dyn FnOnce(Moment<'_>) -> Option<Vec<u8>> + Send>;

/// The transaction in which the host comes to remember something.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Its number.
    pub tid: Tid,
    /// Its time, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// What the host remembered until then: an encoded map.
    pub remembered: &'a [u8],
}

/// The host's own object as the next transaction is to write it; none if it stays as it is.
pub(super) fn write(
    writer: &mut Writer,
    time_us: u64,
    remember: Option<Remember>,
) -> Result<Option<Arc<ObjectRecord>>, StorageError> {
    let Some(remember) = remember else { return Ok(None) };
    let tid = writer.next_tid();
    let before = writer.reader().newest(HOST_OBJECT)?.and_then(|version| version.record.clone());
    let remembered = before.as_ref().map_or(EMPTY_MAP, |record| &record.slots);
    Ok(remember(Moment { tid, time_us, remembered }).map(|slots| {
        let (behavior, slots) = (HOST_BEHAVIOR.into(), slots.into());
        Arc::new(ObjectRecord { behavior, schema: SCHEMA, parents: [].into(), slots })
    }))
}

/// Records that an incarnation begins, before its engine runs and before any plugin is loaded: whatever a plugin does then, the
/// history shows that there was a start.
///
/// # Errors
///
/// If it could not be made durable.
pub fn begin(
    identity: &Arc<Identity>,
    resume: &Resume,
    incarnation: Incarnation,
    what: &str,
    note: &[u8],
    remember: Option<Remember>,
) -> Result<Head, Refusal> {
    let refused = |error: StorageError| committer::refusal(&error);
    let (mut writer, time_us) = (Writer::new(identity.clone(), resume), now_us());
    let record = write(&mut writer, time_us, remember).map_err(refused)?;
    let writes: Vec<_> = record.into_iter().map(|record| (HOST_OBJECT, Some(record))).collect();
    let draft = Draft {
        request_id: None,
        target: None,
        method: what,
        arguments: note,
        time_us,
        seed: 0,
        outcome: &Outcome::Done([].into()),
        writes: &writes,
        names: &[],
    };
    writer.record(&draft).map_err(refused)?;
    let mut committer = Committer::new(identity.clone(), incarnation);
    let head = committer.append(writer.close_batch(), &resume.generations, now_us()).map_err(refused)?;
    committer.publish(head);
    Ok(head)
}

/// Nobody but the host itself uses its objects.
pub(super) fn check_open(object: ObjectId, record: &ObjectRecord) -> Result<(), Failure> {
    if !is_hosts_own(&record.behavior) {
        return Ok(());
    }
    let message = match &*record.behavior {
        MESSAGE_BEHAVIOR => format!(
            "object {object} is a posted message: it can be read and cancelled, but not be sent to, copied, derived from, named or \
             deleted"
        ),
        _ => format!(
            "object {object} is the host's own: it can be read, but not be sent to, copied, derived from, named or deleted"
        ),
    };
    Err(Failure { kind: RString::from("host_object"), ..Failure::new(FailureCode::REFUSED, message) })
}
