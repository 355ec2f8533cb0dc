//! Giving parents to an object: to a new one, or others to one that is there.
//!
//! Cycles are not refused: Self has them, to look along them is safe because no object is visited twice, and to find out
//! whether a change closes one would mean to walk over all that can be reached from it.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use super::{EMPTY_MAP, Turn};
use crate::identity::ObjectRecord;

/// How many parents an object may have.
pub(in crate::exec) const PARENTS_MAX: usize = 100;

impl Turn<'_> {
    /// Makes an object without slots that delegates to all of these, and is what the first of them is.
    pub(in crate::exec) fn derive(&mut self, parents: &[ObjectId]) -> Result<ObjectId, Failure> {
        self.changing("create objects")?;
        self.check_parents(parents)?;
        let first = parents.first().ok_or_else(|| {
            Failure::new(FailureCode::BAD_ARGUMENTS, "an object is derived from at least one other, which it resembles")
        })?;
        let record = self.load(*first)?;
        self.add(ObjectRecord { parents: parents.into(), slots: EMPTY_MAP.into(), ..(*record).clone() })
    }

    pub(super) fn put_parents(&mut self, object: ObjectId, parents: &[ObjectId]) -> Result<(), Failure> {
        self.changing("give objects other parents")?;
        let record = self.load(object)?;
        self.check_parents(parents)?;
        if *record.parents == *parents {
            return Ok(());
        }
        self.write(object, Some(Arc::new(ObjectRecord { parents: parents.into(), ..(*record).clone() })))
    }

    /// Whether these may be the parents of an object.
    fn check_parents(&mut self, parents: &[ObjectId]) -> Result<(), Failure> {
        let mut seen = FxHashSet::default();
        if parents.len() > PARENTS_MAX {
            let message = format!("an object may have {PARENTS_MAX} parents, not {}", parents.len());
            return Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message));
        }
        for parent in parents {
            if !seen.insert(*parent) {
                let message = format!("object {parent} is named twice: each parent has one rank, that of all others");
                return Err(Failure::new(FailureCode::BAD_ARGUMENTS, message));
            }
            self.open(*parent)?;
        }
        Ok(())
    }
}
