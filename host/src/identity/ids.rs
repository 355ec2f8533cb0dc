//! The identity's newtypes: transaction numbers, record hashes, incarnations, and the identity's own id.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The number of a transaction. The first is 1; 0 stands for "before any".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tid(pub u64);

impl Tid {
    /// Before the first transaction.
    pub const NONE: Tid = Tid(0);

    /// The number of the transaction that follows this one.
    pub fn next(self) -> Tid {
        Tid(self.0 + 1)
    }

    /// None for [`Tid::NONE`].
    pub fn exists(self) -> Option<Tid> {
        (self != Tid::NONE).then_some(self)
    }
}

impl fmt::Display for Tid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many times a host has been started on the identity, this start included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// blake3 of a batch record. All zeros stands before the first record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct RecordHash(pub [u8; 32]);

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// blake3 of the rows of a base.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BaseDigest(pub [u8; 32]);

impl fmt::Display for BaseDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for BaseDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// The identity's own id: 16 random bytes, given once when it was created.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdentityId(pub [u8; 16]);

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// A text that is not the hexadecimal form of what was asked for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not {digits} hexadecimal digits")]
pub struct HexError {
    /// What was given.
    pub text: String,
    /// How many digits it should have.
    pub digits: usize,
}

impl FromStr for RecordHash {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        read_hex(text).map(RecordHash)
    }
}

impl FromStr for IdentityId {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        read_hex(text).map(IdentityId)
    }
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn read_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let error = || HexError { text: text.to_owned(), digits: 2 * N };
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(error());
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| error())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
    }
    Ok(bytes)
}
