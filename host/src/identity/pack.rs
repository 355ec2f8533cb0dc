//! Packing: everything up to the end of one batch leaves the history, and a [`Base`] takes its place.
//!
//! The base is made while everything else goes on, in bounded steps, each on views of its own: a step takes a range of rows from
//! the object table, and what is newer there than the base may be is followed back through the history. The past does not change,
//! so it does not matter when a row is looked at. Then the executor puts the base in force, with a transaction that names it; and
//! the committer removes what lies before it.

use std::{sync::Arc, time::Instant};

use theseus_value::ObjectId;

use super::{
    Base, Head, Identity, StorageError, Tid, Version,
    base::{self, BaseBuilder},
    history::HistoryView,
    lmdb::{Db, OwnedEntry},
    read::version_at,
    table::{REQUESTS, Reached, TableView, seal},
    version::Versioned,
    write::count,
};

/// The most that a step looks at, in rows, and writes, in bytes.
const STEP_ROWS: usize = 2_000;
const STEP_BYTES: usize = 1 << 20;
/// Room on the disk that has to be left when the base is there, or a twentieth of a small one.
const SPARE_BYTES: u64 = 64 << 20;

/// Up to where the history is to be packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PackUntil {
    /// Up to the last end of a batch that is not after this transaction.
    Tid(Tid),
    /// Up to the last batch that was committed at this time, in microseconds since the Unix epoch, or before.
    TimeUs(u64),
}

/// What a pack would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackPlan {
    /// The last record that leaves. The state as of it is kept.
    pub head: Head,
    /// The first transaction that leaves.
    pub first: Tid,
    /// When the first and the last batch that leave were committed, in microseconds since the Unix epoch.
    pub times_us: (u64, u64),
    /// How much room the base may need on the disk.
    pub bytes: u64,
}

impl PackPlan {
    /// How many transactions leave.
    pub fn transactions(&self) -> u64 {
        self.head.tid.0 + 1 - self.first.0
    }
}

/// Why a base was not made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// There is too little room for it.
    #[error("the base may need {needed} bytes and {free} are free: make room, or move the identity to a larger disk")]
    NoRoom {
        /// What it may need, with some to spare.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// It was not to go on.
    #[error("it was interrupted: nothing has changed")]
    Interrupted,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Identity {
    /// What a pack would do; none if there is nothing to pack.
    ///
    /// # Errors
    ///
    /// If the storage fails or a record is damaged.
    pub fn plan_pack(&self, until: PackUntil) -> Result<Option<PackPlan>, StorageError> {
        // A time is looked up first: what it comes to is in every view that is opened after that.
        let until = match until {
            PackUntil::TimeUs(time_us) => match self.tid_at(time_us) {
                Err(StorageError::Packed { .. }) => return Ok(None),
                at => at?,
            },
            PackUntil::Tid(tid) => tid,
        };
        let view = self.history.read()?;
        let (packed, head) = (view.packed().tid, view.head()?);
        // The ends of the batch that holds a transaction and of the one before, and when it was committed.
        let batch = |tid: Tid| {
            let found = view.with_batch(tid, |batch| Ok(batch.header.clone()))?;
            found.ok_or_else(|| view.damaged(tid, "the history does not have it"))
        };
        let end_before = |tid: Tid| {
            let header = batch(tid)?;
            Ok::<_, StorageError>(if header.last == tid { tid } else { Tid(header.first.0 - 1) })
        };
        if until <= packed {
            return Ok(None);
        }
        let last = end_before(until.min(head.tid))?;
        if last <= packed {
            return Ok(None);
        }
        let hash = view.hash_at(last)?.ok_or_else(|| view.damaged(last, "no record ends with it"))?;
        let times_us = (batch(packed.next())?.time_us, batch(last)?.time_us);
        let bytes = self.table.usage()?.used_bytes;
        Ok(Some(PackPlan { head: Head { tid: last, hash }, first: packed.next(), times_us, bytes }))
    }

    /// Whether there is room for a base.
    ///
    /// # Errors
    ///
    /// If there is not, or if that cannot be found out.
    pub fn room_for_base(&self, plan: &PackPlan) -> Result<(), PackError> {
        let (free, disk) = self.history.disk()?;
        let needed = plan.bytes + SPARE_BYTES.min(disk / 20);
        if free < needed { Err(PackError::NoRoom { needed, free }) } else { Ok(()) }
    }

    /// Makes a base, durable but not in force. The object table has to have reached its transaction. `go_on` is asked after each
    /// step. One at a time.
    ///
    /// # Errors
    ///
    /// See [`PackError`]. Then nothing is left of it.
    pub fn build_base(&self, plan: &PackPlan, go_on: &dyn Fn() -> bool) -> Result<Arc<Base>, PackError> {
        assert!(plan.head.tid <= self.reached(), "the table has what goes into the base");
        self.room_for_base(plan)?;
        let (bases, map_bytes) = self.history.bases();
        let mut building =
            Building { identity: self, at: plan.head.tid, base: BaseBuilder::new(bases, plan.head, map_bytes)?, go_on };
        let mut reached = Reached { tid: plan.head.tid, ..Reached::start() };
        building.versions::<ObjectId>(|object, version| {
            count(&mut reached.census, *object, None, version);
            reached.next_object = reached.next_object.max(object.0 + 1);
        })?;
        building.versions::<str>(|_, _| {})?;
        building.requests()?;
        Ok(Arc::new(building.base.finish(&reached)?))
    }

    /// Removes every base that is not in force. Not while one is made.
    ///
    /// # Errors
    ///
    /// If the files cannot be removed.
    pub fn remove_other_bases(&self) -> Result<(), StorageError> {
        base::remove_others(self.history.bases().0, self.packed().tid.exists())
    }
}

struct Building<'a> {
    identity: &'a Identity,
    at: Tid,
    base: BaseBuilder,
    go_on: &'a dyn Fn() -> bool,
}

impl Building<'_> {
    /// Adds rows, as many at a time as `step` takes from the table.
    fn rows(
        &mut self,
        db: Db,
        mut step: impl FnMut(&mut Step, &TableView, &HistoryView) -> Result<(), StorageError>,
    ) -> Result<(), PackError> {
        let mut taken = Step::default();
        loop {
            let started = Instant::now();
            let after = std::mem::take(&mut taken.last);
            taken = Step { after, ..Step::default() };
            // A view that is held for long makes the file grow.
            step(&mut taken, &self.identity.table.read()?, &self.identity.history.read()?)?;
            self.base.add(db, &taken.rows)?;
            if !taken.is_full {
                return Ok(());
            }
            if !(self.go_on)() {
                return Err(PackError::Interrupted);
            }
            // Others want the processor and the disk, too.
            std::thread::sleep(started.elapsed());
        }
    }

    /// Adds the versions of all objects or names.
    fn versions<K: Versioned + ?Sized>(
        &mut self,
        mut note: impl FnMut(&K, &Version<K::Content>),
    ) -> Result<(), PackError> {
        let at = self.at;
        self.rows(K::ROWS, |step, table, history| {
            let after = std::mem::take(&mut step.after);
            table.rows_after::<K>(&after, |key, version, (stored, value)| {
                if !step.takes(stored) {
                    return Ok(false);
                }
                if version.tid <= at {
                    note(key, &version);
                    step.add(stored, value.to_vec());
                } else if let Some(version) = version_at(history, key, &version, at)? {
                    note(key, &version);
                    let mut row = Vec::new();
                    seal(&mut row, K::ROWS, stored, |out| version.encode_row(out));
                    step.add(stored, row);
                }
                Ok(true)
            })
        })
    }

    /// Adds the request ids that are still remembered: what was executed before must not be executed again if the table has to be
    /// made anew.
    fn requests(&mut self) -> Result<(), PackError> {
        let at = self.at;
        self.rows(REQUESTS, |step, table, _| {
            let after = std::mem::take(&mut step.after);
            table.requests_after(&after, |row, (stored, value)| {
                if !step.takes(stored) {
                    return Ok(false);
                }
                if row.tid <= at {
                    step.add(stored, value.to_vec());
                }
                Ok(true)
            })
        })
    }
}

/// What one step took from the table.
#[derive(Default)]
struct Step {
    /// The key behind which it begins.
    after: Vec<u8>,
    rows: Vec<OwnedEntry>,
    bytes: usize,
    looked_at: usize,
    /// The last key that was looked at.
    last: Vec<u8>,
    /// Whether it ended before the table did.
    is_full: bool,
}

impl Step {
    /// Whether the row with this key still fits.
    fn takes(&mut self, key: &[u8]) -> bool {
        self.is_full = self.looked_at == STEP_ROWS || self.bytes >= STEP_BYTES;
        if !self.is_full {
            self.looked_at += 1;
            self.last.clear();
            self.last.extend_from_slice(key);
        }
        !self.is_full
    }

    fn add(&mut self, key: &[u8], row: Vec<u8>) {
        self.bytes += key.len() + row.len();
        self.rows.push((key.to_vec(), row));
    }
}
