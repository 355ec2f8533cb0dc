//! Packing the history, as edges ask for it and see it.

#![allow(missing_docs, reason = "fields are described where their type or variant is, as far as their names do not")]

use super::{At, Head, Tid};

/// How far the history is to be packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackWish {
    /// The transactions up to this one or this time leave, this one too. The state as of it stays, and what came after it.
    Before(At),
    /// What was committed in so many days stays.
    KeepDays(u64),
}

/// What a pack did, or would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackView {
    pub dry_run: bool,
    /// The last transaction that is packed away then. The state as of it is kept.
    pub packed: Tid,
    /// The first that leaves by this, and how many; 0 if there is nothing to pack.
    pub first: Tid,
    pub transactions: u64,
    /// When the first and the last batch that leave were committed, in microseconds since the Unix epoch.
    pub times_us: Option<(u64, u64)>,
    /// How much room the base may need on the disk.
    pub bytes_max: u64,
    /// How many objects the base has. Not known beforehand, as what follows.
    pub objects: u64,
    /// The base's digest, in hexadecimal.
    pub base: Option<String>,
    /// The transaction of the pack.
    pub tid: Option<Tid>,
    pub at: Head,
    pub elapsed_ms: u64,
}
