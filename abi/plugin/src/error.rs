//! The one error that methods return.

use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RString};
use theseus_value::{DecodeError, EncodeError};

/// What methods return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a method did not do what it was asked.
///
/// It ends the transaction and reaches the caller as it is, be that another object or a client. An error that came back from
/// [`Context::send`](crate::Context::send) passes through `?` unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// In a box, so that results without an error stay small: every call returns a few of them.
    failure: Box<Failure>,
}

impl Error {
    /// The behaviour says no. `kind` is a word for programs (such as `overdraft`), `message` a sentence for people.
    pub fn refused(kind: &str, message: impl Into<String>) -> Self {
        Error::from(Failure { kind: RString::from(kind), ..Failure::new(FailureCode::REFUSED, message) })
    }

    /// A failure of one of the kinds that the host knows.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Error::from(Failure::new(code, message))
    }

    /// What kind of failure it is to the host.
    pub fn code(&self) -> FailureCode {
        self.failure.code
    }

    /// The behaviour's own word for it; empty if the code says it all.
    pub fn kind(&self) -> &str {
        self.failure.kind.as_str()
    }

    /// What happened.
    pub fn message(&self) -> &str {
        self.failure.message.as_str()
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.failure.fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error { failure: Box::new(failure) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        *error.failure
    }
}

/// The behaviour says no, without a word of its own.
impl From<String> for Error {
    fn from(message: String) -> Self {
        Error::refused("", message)
    }
}

/// The behaviour says no, without a word of its own.
impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Error::refused("", message)
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::new(FailureCode::BAD_ENCODING, error.to_string())
    }
}

impl From<EncodeError> for Error {
    fn from(error: EncodeError) -> Self {
        Error::new(FailureCode::BAD_ENCODING, error.to_string())
    }
}
