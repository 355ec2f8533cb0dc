//! Instructions to the watchdog, and what became of them.

use std::{
    fmt,
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    digest::Digest,
    files::{self, FileError},
    paths::RestartPaths,
};

/// The schema of an instruction that this program writes.
pub const SCHEMA: u32 = 1;

/// How long an instruction stays valid by default. A watchdog that comes later refuses it.
pub const LIFETIME_DEFAULT: Duration = Duration::from_secs(3600);

/// Names one instruction, and the restart cycle it causes: 1 to 64 of `a-z`, `0-9` and `-`.
///
/// It is a file name; ids made later sort later.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InstructionId(String);

/// A text that is not an instruction id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{text}` is not an instruction id: 1 to 64 of a-z, 0-9 and - are expected")]
pub struct IdError {
    /// The text, shortened.
    pub text: String,
}

/// What the watchdog is to do, as `update/spool/ID.json` holds it. Never edited once published.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its id, also its file's name.
    pub id: InstructionId,
    /// The digest of the bundle.
    pub release: Digest,
    /// Where the bundle lies; absolute.
    pub bundle: PathBuf,
    /// The bundle's release epoch.
    pub epoch: u64,
    /// Why, for people.
    pub reason: String,
    /// Who asked, for people.
    pub requested_by: String,
    /// When it was made, in microseconds since the Unix epoch.
    pub created_us: u64,
    /// From when on it is refused.
    pub expires_us: u64,
    /// The identity's own id.
    pub identity: String,
    /// The last durable transaction when it was made.
    pub tid: u64,
    /// The head of the history when it was made.
    pub head: Digest,
}

/// How a restart cycle ended.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The new release is in force, for good.
    Confirmed,
    /// The new release did not work; the old one is in force again.
    RolledBack,
    /// The instruction was not carried out, and nothing was touched.
    Refused,
}

/// What became of an instruction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Why; empty if it was confirmed.
    pub reason: String,
    /// When, in microseconds since the Unix epoch.
    pub time_us: u64,
}

impl InstructionId {
    /// A new id, made from the time and 32 random bits.
    pub fn generate() -> Self {
        // The standard library's hash keys are the system's randomness, without one more dependency for it.
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish() as u32;
        InstructionId(format!("{:016x}-{random:08x}", now_us()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstructionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InstructionId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(InstructionId(text.to_owned()))
        } else {
            Err(IdError { text: text.chars().take(80).collect() })
        }
    }
}

impl Serialize for InstructionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InstructionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Hands an instruction to the watchdog. Commit the intent before, so that a crash in between only delays it.
///
/// An instruction of this id that is already there, or has already been dealt with, is left as it is; so a host may
/// publish again at every start until [`outcome`] says how it ended.
///
/// # Errors
///
/// If the file cannot be made durable, or the history of updates cannot be read. Nothing is requested then.
pub fn publish(home: &Path, instruction: &Instruction) -> Result<(), FileError> {
    let path = RestartPaths::new(home).instruction(instruction.id.as_str());
    if path.exists() || outcome(home, &instruction.id)?.is_some() {
        return Ok(());
    }
    files::publish(&path, &files::to_json(instruction))
}

/// Whether an instruction waits for the watchdog, or is being carried out.
pub fn is_published(home: &Path, id: &InstructionId) -> bool {
    RestartPaths::new(home).instruction(id.as_str()).exists()
}

/// Whether the watchdog is done with an instruction.
///
/// # Errors
///
/// If the history of updates is there but cannot be read.
pub fn is_finished(home: &Path, id: &InstructionId) -> Result<bool, FileError> {
    Ok(outcome(home, id)?.is_some())
}

/// What became of an instruction; none if it is not finished.
///
/// A release counts as confirmed for good when this says [`Verdict::Confirmed`]; storage formats may be migrated then.
///
/// # Errors
///
/// If the history of updates is there but cannot be read.
pub fn outcome(home: &Path, id: &InstructionId) -> Result<Option<Outcome>, FileError> {
    /// A line about an instruction; lines about other things have no id, or another `event`.
    #[derive(Deserialize)]
    struct Line {
        id: InstructionId,
        event: Verdict,
        #[serde(default)]
        reason: String,
        time_us: u64,
    }
    let path = RestartPaths::new(home).history();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FileError::Read { path, source }),
    };
    // The last line may be half written at this moment; it is not yet durable then, and does not count.
    let lines = text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    let found = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()).find(|line| line.id == *id);
    Ok(found.map(|line| Outcome { verdict: line.event, reason: line.reason, time_us: line.time_us }))
}

/// The time, in microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Instruction {
        Instruction {
            schema: SCHEMA,
            id: InstructionId::generate(),
            release: blake3::hash(b"release").into(),
            bundle: "/srv/bundle".into(),
            epoch: 4,
            reason: "a test".into(),
            requested_by: "the tests".into(),
            created_us: 1,
            expires_us: 2,
            identity: "00112233445566778899aabbccddeeff".into(),
            tid: 7,
            head: blake3::hash(b"head").into(),
        }
    }

    #[test]
    fn ids_are_different_ordered_and_file_names() {
        let first = InstructionId::generate();
        std::thread::sleep(Duration::from_micros(10));
        let second = InstructionId::generate();
        assert!(first < second);
        assert_eq!(first.as_str().parse(), Ok(first.clone()));
        for bad in ["", ".", "a/b", "A", &"a".repeat(65)] {
            assert!(bad.parse::<InstructionId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instruction_is_written_once_and_not_after_it_was_finished() {
        let home = tempfile::tempdir().unwrap();
        let first = example();
        publish(home.path(), &first).unwrap();
        assert!(is_published(home.path(), &first.id));
        assert!(!is_finished(home.path(), &first.id).unwrap());
        let path = RestartPaths::new(home.path()).instruction(first.id.as_str());
        publish(home.path(), &Instruction { epoch: 9, ..first.clone() }).unwrap();
        let read: Instruction = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, first, "a published instruction was edited");

        std::fs::remove_file(&path).unwrap();
        let line =
            format!("{{\"schema\":1,\"event\":\"refused\",\"id\":\"{}\",\"reason\":\"old\",\"time_us\":5}}", first.id);
        let history = RestartPaths::new(home.path()).history();
        std::fs::write(&history, &line).unwrap();
        assert_eq!(outcome(home.path(), &first.id).unwrap(), None, "a line without its end counts");
        std::fs::write(&history, format!("{{\"event\":\"installed\"}}\n{line}\n")).unwrap();
        let expected = Outcome { verdict: Verdict::Refused, reason: "old".into(), time_us: 5 };
        assert_eq!(outcome(home.path(), &first.id).unwrap(), Some(expected));
        publish(home.path(), &first).unwrap();
        assert!(!is_published(home.path(), &first.id), "a finished instruction was published again");
    }
}
