//! What a new host says once it has proved itself.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    files::{self, FileError},
    instruction::InstructionId,
    paths::RestartPaths,
};

/// The schema of a confirmation that this program writes.
pub const SCHEMA: u32 = 1;

/// The new host's word that it works: `update/confirm/ID`. There is no way back from it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The instruction that is confirmed.
    pub id: InstructionId,
    /// The identity's own id.
    pub identity: String,
    /// The transaction that recorded the confirmation.
    pub tid: u64,
    /// The head of the history after it.
    pub head: Digest,
    /// The incarnation that confirms.
    pub incarnation: u64,
    /// When, in microseconds since the Unix epoch.
    pub time_us: u64,
}

/// Publishes a confirmation. Commit it to the history before; publish it again at a start that finds it there and finds
/// the instruction not finished.
///
/// # Errors
///
/// If the file cannot be made durable. The watchdog then takes the trial for failed; the host should exit.
pub fn publish(home: &Path, confirmed: &Confirmed) -> Result<(), FileError> {
    files::publish(&RestartPaths::new(home).confirm(confirmed.id.as_str()), &files::to_json(confirmed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_lies_under_its_instruction() {
        let home = tempfile::tempdir().unwrap();
        let confirmed = Confirmed {
            schema: SCHEMA,
            id: InstructionId::generate(),
            identity: "00112233445566778899aabbccddeeff".into(),
            tid: 8,
            head: blake3::hash(b"head").into(),
            incarnation: 3,
            time_us: 4,
        };
        publish(home.path(), &confirmed).unwrap();
        let path = RestartPaths::new(home.path()).confirm(confirmed.id.as_str());
        assert_eq!(files::read_json::<Confirmed>(&path, SCHEMA).unwrap(), Some(confirmed));
    }
}
