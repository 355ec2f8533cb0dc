//! Why bytes are not a value, and why a value has no bytes.

use thiserror::Error;

/// Why bytes could not be read. `position` counts bytes from the start of what was read.
#[derive(Error, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends within a value, or a length reaches beyond its end.
    #[error("byte {position}: the input ends in the middle of a value")]
    Truncated {
        /// Where the unfinished value begins.
        position: usize,
    },
    /// Something follows the value.
    #[error("byte {position}: nothing may follow the value")]
    Trailing {
        /// Where the surplus begins.
        position: usize,
    },
    /// A length, an integer or a float takes more bytes than it needs.
    #[error("byte {position}: not the shortest form of this value, as deterministic encoding requires")]
    NotShortest {
        /// Where the value begins.
        position: usize,
    },
    /// A head that has no place in the encoding: indefinite lengths, other tags, other simple values.
    #[error("byte {position}: 0x{head:02x} does not begin a value of the deterministic encoding")]
    Unsupported {
        /// Where the head stands.
        position: usize,
        /// Its first byte.
        head: u8,
    },
    /// A text is not UTF-8.
    #[error("byte {position}: the text is not UTF-8")]
    NotUtf8 {
        /// Where the text begins.
        position: usize,
    },
    /// A map key is not greater than the one before it.
    #[error("byte {position}: the key {key:?} is out of order or given twice")]
    KeyOrder {
        /// Where the key begins.
        position: usize,
        /// The key, shortened if long.
        key: String,
    },
    /// Arrays and maps are nested more than [`DEPTH_MAX`](crate::DEPTH_MAX) deep.
    #[error("byte {position}: nested more than {} deep", crate::DEPTH_MAX)]
    TooDeep {
        /// Where the innermost array or map begins.
        position: usize,
    },
    /// A well-formed value of another kind than the one asked for.
    #[error("expected {expected}, found {found} (byte {position})")]
    Unexpected {
        /// Where the value begins.
        position: usize,
        /// What was asked for.
        expected: Box<str>,
        /// What is there: its kind and as much of its content as is short.
        found: Box<str>,
    },
    /// The type being read refused the value.
    #[error("{message}")]
    Refused {
        /// The type's words.
        message: String,
    },
}

impl serde::de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        DecodeError::Refused { message: message.to_string() }
    }
}

/// Why a value could not be written.
#[derive(Error, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum EncodeError {
    /// An integer below -2^64 or above 2^64-1.
    #[error("the integer {value} is out of range: -2^64 to 2^64-1 can be stored")]
    IntegerRange {
        /// The integer.
        value: String,
    },
    /// A map key that is neither text nor has a text form.
    #[error("a map key has to be a text, an integer, a boolean or a unit variant, not {found}")]
    KeyNotText {
        /// What was given as a key.
        found: &'static str,
    },
    /// A map with two equal keys.
    #[error("the key {key:?} is given twice")]
    DuplicateKey {
        /// The key, shortened if long.
        key: String,
    },
    /// Arrays and maps are nested more than [`DEPTH_MAX`](crate::DEPTH_MAX) deep.
    #[error("nested more than {} deep", crate::DEPTH_MAX)]
    TooDeep,
    /// The type being written refused.
    #[error("{message}")]
    Refused {
        /// The type's words.
        message: String,
    },
}

impl serde::ser::Error for EncodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        EncodeError::Refused { message: message.to_string() }
    }
}
