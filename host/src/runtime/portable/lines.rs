//! The lines of an export: written from structs, read strictly, each with its number.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;
use theseus_value::strict_json::{self, Strict};

use super::{FORMAT, Failure, VERSION, failed};

/// The longest line that is read, in bytes: many times what a transaction may write.
const LINE_BYTES_MAX: u64 = 512 << 20;

/// The first line.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub format: String,
    pub version: u64,
    /// Where it comes from: another identity, or nothing of the kind.
    pub identity: Option<String>,
    /// As of which transaction.
    pub tid: Option<u64>,
    /// The hash of the record that ends with that transaction, if one does.
    pub head: Option<String>,
    /// The time of that transaction.
    pub time_us: Option<u64>,
}

/// From here on, another transaction.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Begin {
    pub time_us: Option<u64>,
    pub note: Option<String>,
    pub user: Option<String>,
}

/// An object.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Object {
    pub id: u64,
    pub behavior: String,
    pub schema: u32,
    #[serde(default)]
    pub parents: Vec<u64>,
    pub slots: Json,
}

/// An object that is no more.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Deleted {
    pub id: u64,
    pub deleted: bool,
}

/// A name and its object, or none if it is freed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Name {
    pub name: String,
    pub id: Option<u64>,
}

/// The last line: how much there is, so that a file that was cut off is known.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub end: bool,
    pub objects: u64,
    pub names: u64,
}

/// Any line but the first.
pub(super) enum Line {
    Begin(Begin),
    Object(Object),
    Deleted(u64),
    Name(Name),
    End(End),
}

/// A file being read.
pub(super) struct Lines {
    path: PathBuf,
    file: BufReader<File>,
    number: u64,
    bytes: u64,
    ended: bool,
    text: Vec<u8>,
}

impl Lines {
    /// Opens a file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Lines, Header), Failure> {
        let file = File::open(path).map_err(failed(path))?;
        if !file.metadata().map_err(failed(path))?.is_file() {
            let source = std::io::Error::other("it is read twice, so it has to be a regular file");
            return Err(failed(path)(source));
        }
        let file = BufReader::with_capacity(1 << 20, file);
        Lines { path: path.to_owned(), file, number: 0, bytes: 0, ended: false, text: Vec::new() }.begin()
    }

    /// Starts again from the beginning of the same file.
    pub(super) fn again(mut self) -> Result<(Lines, Header), Failure> {
        self.file.rewind().map_err(failed(&self.path))?;
        Lines { number: 0, bytes: 0, ended: false, ..self }.begin()
    }

    fn begin(mut self) -> Result<(Lines, Header), Failure> {
        if !self.read()? {
            return Err(self.wrong("the file is empty"));
        }
        let header: Header = self.parse()?;
        if header.format != FORMAT || header.version != VERSION {
            let found = format!("{} {}", header.format, header.version);
            return Err(self.wrong(format!("this is `{found}`, and this program reads `{FORMAT} {VERSION}`")));
        }
        Ok((self, header))
    }

    /// The next line; none after the last, which has to be the end.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Failure> {
        if !self.read()? {
            return if self.ended {
                Ok(None)
            } else {
                Err(self.wrong("the file was cut off: its last line is missing"))
            };
        }
        if self.ended {
            return Err(self.wrong("nothing may follow the end"));
        }
        let Strict(line) = self.parse()?;
        let has = |key: &str| line.get(key).is_some();
        let line = if has("transaction") {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Transaction {
                transaction: Begin,
            }
            Line::Begin(self.of::<Transaction>(line)?.transaction)
        } else if has("name") {
            Line::Name(self.of(line)?)
        } else if has("deleted") {
            let Deleted { id, deleted } = self.of(line)?;
            if !deleted {
                return Err(self.wrong("`deleted` can only be true"));
            }
            Line::Deleted(id)
        } else if has("end") {
            self.ended = true;
            Line::End(self.of(line)?)
        } else {
            Line::Object(self.of(line)?)
        };
        Ok(Some(line))
    }

    /// How many bytes were read, and how many there are.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.bytes, self.file.get_ref().metadata().map_or(0, |metadata| metadata.len()))
    }

    /// An error about the line that was read last.
    pub(super) fn wrong(&self, problem: impl Into<String>) -> Failure {
        Failure::Malformed { file: self.path.clone(), line: self.number, problem: problem.into() }
    }

    /// An error for a file that is not what it was.
    pub(super) fn changed(&self) -> Failure {
        Failure::Changed { file: self.path.clone() }
    }

    fn read(&mut self) -> Result<bool, Failure> {
        self.text.clear();
        self.number += 1;
        let mut limited = (&mut self.file).take(LINE_BYTES_MAX);
        let length = limited.read_until(b'\n', &mut self.text).map_err(failed(&self.path))?;
        self.bytes += length as u64;
        if self.text.last() != Some(&b'\n') && length as u64 == LINE_BYTES_MAX {
            return Err(self.wrong(format!("it is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(length > 0)
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        strict_json::parse(&self.text).map_err(|problem| self.wrong(problem))
    }

    fn of<T: DeserializeOwned>(&self, line: Json) -> Result<T, Failure> {
        T::deserialize(line).map_err(|error| self.wrong(error.to_string()))
    }
}
