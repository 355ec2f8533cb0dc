//! What a host that stops leaves for the next one, and how the next one proves that it goes on from there.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    files::{self, FileError},
    instruction::InstructionId,
    paths::RestartPaths,
};

/// The schema of a handoff that this program writes and reads.
pub const SCHEMA: u32 = 1;

/// The end of the history as the stopping host knew it: `update/handoff/ID`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Handoff {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The instruction that caused the stop.
    pub id: InstructionId,
    /// The identity's own id.
    pub identity: String,
    /// The last transaction, which is the host's own stop.
    pub tid: u64,
    /// The digest of the last record of the history.
    pub head: Digest,
    /// The incarnation that stopped.
    pub incarnation: u64,
    /// When, in microseconds since the Unix epoch.
    pub time_us: u64,
}

/// Why a handoff could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HandoffError {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file speaks of another instruction than its name.
    #[error("{} is the handoff of instruction {found}: it was put there by hand; remove it and start again", path.display())]
    OtherInstruction {
        /// The file.
        path: PathBuf,
        /// The instruction it names.
        found: InstructionId,
    },
}

/// Why a host does not continue the history that was handed off. It must not go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContinuityError {
    /// It is another identity altogether.
    #[error("this is identity {found}, but identity {expected} was handed off: check which home folder is mounted")]
    OtherIdentity {
        /// The identity that was handed off.
        expected: String,
        /// The identity found.
        found: String,
    },
    /// The history ends before the handoff.
    #[error(
        "the history ends at transaction {found}, but {expected} was handed off: it was cut off or restored from a backup"
    )]
    Truncated {
        /// The last transaction that was handed off.
        expected: u64,
        /// The last transaction found.
        found: u64,
    },
    /// The history has the handed-off transaction, but not the handed-off record.
    #[error(
        "the record that ends with transaction {tid} is not {head}, the one handed off: this is a different history"
    )]
    Diverged {
        /// The last transaction that was handed off.
        tid: u64,
        /// The digest that was handed off.
        head: Digest,
    },
}

/// Publishes the handoff of an instruction, after the last transaction is durable.
///
/// An earlier one of the same instruction is replaced: the host was stopped and started before the watchdog came to it.
///
/// # Errors
///
/// If the file cannot be made durable. The host may exit all the same; the next one then reads the head from the
/// history.
pub fn publish(home: &Path, handoff: &Handoff) -> Result<(), FileError> {
    files::publish(&RestartPaths::new(home).handoff(handoff.id.as_str()), &files::to_json(handoff))
}

/// Reads the handoff of an instruction; none if the host before did not come to write it.
///
/// # Errors
///
/// If it is there, but not readable as the handoff of this instruction.
pub fn read(home: &Path, id: &InstructionId) -> Result<Option<Handoff>, HandoffError> {
    let path = RestartPaths::new(home).handoff(id.as_str());
    match files::read_json::<Handoff>(&path, SCHEMA)? {
        Some(handoff) if handoff.id != *id => Err(HandoffError::OtherInstruction { path, found: handoff.id }),
        other => Ok(other),
    }
}

/// Proves that the history at hand continues the one that was handed off.
///
/// `identity` and `tid` are the identity's own id and its last transaction; `contains` says whether the history has a
/// record that ends with this transaction and has this digest. Since a record's digest covers the one before it, a
/// history that contains the handed-off head contains all that led to it.
///
/// # Errors
///
/// What is wrong, if it is not a continuation. Such a host must exit without writing anything.
pub fn prove(
    handoff: &Handoff,
    identity: &str,
    tid: u64,
    contains: impl FnOnce(u64, &Digest) -> bool,
) -> Result<(), ContinuityError> {
    if handoff.identity != identity {
        return Err(ContinuityError::OtherIdentity { expected: handoff.identity.clone(), found: identity.to_owned() });
    }
    if tid < handoff.tid {
        return Err(ContinuityError::Truncated { expected: handoff.tid, found: tid });
    }
    if !contains(handoff.tid, &handoff.head) {
        return Err(ContinuityError::Diverged { tid: handoff.tid, head: handoff.head });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Handoff {
        Handoff {
            schema: SCHEMA,
            id: InstructionId::generate(),
            identity: "00112233445566778899aabbccddeeff".into(),
            tid: 7,
            head: blake3::hash(b"head").into(),
            incarnation: 2,
            time_us: 3,
        }
    }

    #[test]
    fn a_handoff_is_read_back_and_belongs_to_its_instruction() {
        let home = tempfile::tempdir().unwrap();
        let handoff = example();
        assert_eq!(read(home.path(), &handoff.id).unwrap(), None);
        publish(home.path(), &handoff).unwrap();
        assert_eq!(read(home.path(), &handoff.id).unwrap(), Some(handoff.clone()));

        let other = InstructionId::generate();
        let paths = RestartPaths::new(home.path());
        std::fs::copy(paths.handoff(handoff.id.as_str()), paths.handoff(other.as_str())).unwrap();
        assert!(matches!(read(home.path(), &other), Err(HandoffError::OtherInstruction { .. })));
        std::fs::write(paths.handoff(other.as_str()), "{\"schema\":2}").unwrap();
        assert!(matches!(read(home.path(), &other), Err(HandoffError::File(FileError::Schema { found: 2, .. }))));
        std::fs::write(paths.handoff(other.as_str()), "{\"sche").unwrap();
        assert!(matches!(read(home.path(), &other), Err(HandoffError::File(FileError::Malformed { .. }))));
    }

    #[test]
    fn only_a_continuation_is_accepted() {
        let handoff = example();
        let check = |identity: &str, tid, contains: bool| {
            prove(&handoff, identity, tid, |asked, head| {
                assert_eq!((asked, *head), (7, handoff.head));
                contains
            })
        };
        assert_eq!(check(&handoff.identity, 7, true), Ok(()));
        assert_eq!(check(&handoff.identity, 9, true), Ok(()));
        assert!(matches!(check("another", 7, true), Err(ContinuityError::OtherIdentity { .. })));
        assert_eq!(check(&handoff.identity, 6, true), Err(ContinuityError::Truncated { expected: 7, found: 6 }));
        assert!(matches!(check(&handoff.identity, 8, false), Err(ContinuityError::Diverged { tid: 7, .. })));
    }
}
