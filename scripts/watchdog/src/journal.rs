//! What the watchdog remembers: its state, replaced whole, and the history of updates, appended to.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    bundle::Digest,
    files,
    instruction::{Instruction, now_us},
};

const SCHEMA: u32 = 1;

/// The watchdog's state as `update/journal.json` holds it. The tries of a trial are in the name of the trial file
/// instead.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    /// The format, 1.
    pub schema: u32,
    /// The [name](crate::cycle::State::name) of the state.
    pub state: String,
    /// The instruction that is being carried out.
    pub instruction: Option<Instruction>,
    /// Why it is rolled back or held.
    pub reason: Option<String>,
    /// When this state was entered, in microseconds since the Unix epoch.
    pub time_us: u64,
}

/// Why the watchdog cannot remember where it stood. It must not guess.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be read or written.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a journal of this version.
    #[error(
        "{} is not a journal of schema {SCHEMA}: {problem}; make sure that releases/current leads to the release you want, \
         then move the file away",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Journal {
    /// What is remembered; none if there is nothing.
    ///
    /// # Errors
    ///
    /// If it is there but not readable.
    pub fn read(path: &Path) -> Result<Option<Journal>, JournalError> {
        let content = files::read(path).map_err(|source| JournalError::Io { path: path.into(), source })?;
        let Some(content) = content else { return Ok(None) };
        let malformed = |problem| JournalError::Malformed { path: path.into(), problem };
        let journal: Journal = serde_json::from_slice(&content).map_err(|error| malformed(error.to_string()))?;
        if journal.schema != SCHEMA {
            return Err(malformed(format!("its schema is {}", journal.schema)));
        }
        Ok(Some(journal))
    }

    /// Replaces what is remembered.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn write(path: &Path, state: &str, instruction: Option<&Instruction>, reason: Option<&str>) -> io::Result<()> {
        let journal = Journal {
            schema: SCHEMA,
            state: state.into(),
            instruction: instruction.cloned(),
            reason: reason.map(str::to_owned),
            time_us: now_us(),
        };
        let mut text = serde_json::to_vec_pretty(&journal).expect("strings and numbers always have a JSON form");
        text.push(b'\n');
        files::publish(path, &text)
    }
}

/// A line of `update/history.jsonl`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The format, 1.
    pub schema: u32,
    /// When, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// What happened.
    pub event: What,
    /// The instruction it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The release it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Digest>,
    /// The good release before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// The release epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What a line of the history is about. The first three end an instruction; each gets one of them, once.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The new release is in force.
    Confirmed,
    /// The old release is in force again.
    RolledBack,
    /// The instruction was not followed, and nothing was touched.
    Refused,
    /// The first release was installed.
    Installed,
    /// The host cannot be kept running.
    Held,
}

impl Line {
    /// A line about now.
    pub fn now(event: What) -> Self {
        Line {
            schema: SCHEMA,
            time_us: now_us(),
            event,
            id: None,
            release: None,
            from: None,
            epoch: None,
            reason: String::new(),
        }
    }
}

/// The history of updates.
#[derive(Debug)]
pub struct History {
    file: File,
    finished: HashSet<String>,
}

impl History {
    /// Opens the history, makes it if it is missing, and cuts off a last line that was not finished.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<History> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            log::warn!("the last line of {} was cut off while it was written; it is dropped", path.display());
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let mut finished = HashSet::new();
        for line in text[..whole].split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => finished.extend(ended_by(&line)),
                Err(error) => log::warn!("a line of {} is not understood and left alone: {error}", path.display()),
            }
        }
        files::sync_folder(path.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(History { file, finished })
    }

    /// Whether an instruction is finished.
    pub fn is_finished(&self, id: &str) -> bool {
        self.finished.contains(id)
    }

    /// Appends a line and makes it durable. An instruction that is finished is not finished again.
    ///
    /// # Errors
    ///
    /// What the system said. The line is not there then.
    pub fn append(&mut self, line: &Line) -> io::Result<()> {
        let ended = ended_by(line);
        if ended.as_ref().is_some_and(|id| self.is_finished(id)) {
            return Ok(());
        }
        let mut text = serde_json::to_vec(line).expect("strings and numbers always have a JSON form");
        text.push(b'\n');
        let start = self.file.seek(SeekFrom::End(0))?;
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_all()) {
            // A half line would spoil the next one. If this fails as well, opening cuts it off.
            let _ = self.file.set_len(start);
            return Err(error);
        }
        self.finished.extend(ended);
        Ok(())
    }
}

fn ended_by(line: &Line) -> Option<String> {
    let ends = matches!(line.event, What::Confirmed | What::RolledBack | What::Refused);
    line.id.clone().filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_survives_a_cut_and_ends_an_instruction_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let ended = Line { id: Some("a1".into()), ..Line::now(What::Confirmed) };
        {
            let mut history = History::open(&path).unwrap();
            history.append(&Line::now(What::Installed)).unwrap();
            assert!(!history.is_finished("a1"));
            history.append(&ended).unwrap();
            history.append(&Line { event: What::RolledBack, ..ended.clone() }).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 2);
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut history = History::open(&path).unwrap();
            assert!(!history.is_finished("a1"), "cut at {cut}");
            history.append(&ended).unwrap();
            assert!(History::open(&path).unwrap().is_finished("a1"), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_journal_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.json");
        assert_eq!(Journal::read(&path).unwrap(), None);
        Journal::write(&path, "held", None, Some("why")).unwrap();
        let journal = Journal::read(&path).unwrap().unwrap();
        assert_eq!((journal.state.as_str(), journal.reason.as_deref()), ("held", Some("why")));
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in [&text[..text.len() / 2], &text.replace("\"schema\": 1", "\"schema\": 2"), ""] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Journal::read(&path), Err(JournalError::Malformed { .. })), "{bad}");
        }
    }
}
