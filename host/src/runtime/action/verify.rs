//! What was found in an identity, and what was made of it anew, as edges see it.

#![allow(missing_docs, reason = "fields are described where their type or variant is, as far as their names do not")]

use theseus_value::ObjectId;

use super::Head;

/// What `verify` found.
#[derive(Clone, PartialEq, Debug)]
pub struct VerifyReport {
    pub identity: String,
    pub head: Head,
    /// Records, transactions and bytes of history that were walked.
    pub batches: u64,
    pub transactions: u64,
    pub bytes: u64,
    /// Rows of the object table (objects, deleted ones too, and names) that were compared with it.
    pub rows: u64,
    /// Whether there is no object table. That is no damage: `repair` and a start of the host make it from the history.
    pub table_missing: bool,
    pub elapsed_ms: u64,
    /// Empty if the identity is whole.
    pub damage: Vec<Damage>,
    /// How many references, parents and names stand for objects that there never were; no damage.
    pub dangling: u64,
    /// The first of them: what refers, and to what.
    pub dangling_listed: Vec<(String, ObjectId)>,
    /// The transaction up to which an interrupted verification had come that was gone on with.
    pub resumed_at: Option<u64>,
    /// What became of a head that was asked for.
    pub kept_head: Option<KeptHeadView>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        let is_wrong = |kept: &KeptHeadView| matches!(kept.found, KeptHeadFound::NotPart { .. });
        self.damage.is_empty() && !self.kept_head.as_ref().is_some_and(is_wrong)
    }
}

/// A head that somebody kept, and whether it is part of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptHeadView {
    /// The head.
    pub head: Head,
    /// Whether it is.
    pub found: KeptHeadFound,
}

/// What a history says of a head that somebody kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeptHeadFound {
    /// It is part of it.
    Part,
    /// It is not, and why.
    NotPart { problem: String },
    /// It cannot tell, because what was there was packed away.
    Packed { problem: String },
}

impl KeptHeadFound {
    /// Why it is not known to be part of the history; none if it is.
    pub fn problem(&self) -> Option<&str> {
        match self {
            KeptHeadFound::Part => None,
            KeptHeadFound::NotPart { problem } | KeptHeadFound::Packed { problem } => Some(problem),
        }
    }
}

/// What `repair` did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RepairReport {
    /// The last record, as of which the objects are now.
    pub head: Head,
    /// Transactions that were read.
    pub transactions: u64,
    /// Objects that exist.
    pub objects: u64,
    pub elapsed_ms: u64,
}

/// One place where the identity is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where: `history record of transactions 5 to 9`, `object 7`, ...
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}
