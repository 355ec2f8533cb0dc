//! Giving an object other parents.
//!
//! Cycles are not refused: Self has them, to look along them is safe because no object is visited twice, and to find out
//! whether a change closes one would mean to walk over all that can be reached from it.

use std::sync::Arc;

use rustc_hash::FxHashSet;
use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use super::{Turn, check_not_host};
use crate::identity::ObjectRecord;

/// How many parents an object may have.
pub(in crate::exec) const PARENTS_MAX: usize = 100;

impl Turn<'_> {
    pub(super) fn put_parents(&mut self, object: ObjectId, parents: &[ObjectId]) -> Result<(), Failure> {
        self.changing("give objects other parents")?;
        let record = self.load(object)?;
        let mut seen = FxHashSet::default();
        if parents.len() > PARENTS_MAX {
            let message = format!("an object may have {PARENTS_MAX} parents, not {}", parents.len());
            return Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message));
        }
        for parent in parents {
            check_not_host(*parent)?;
            if !seen.insert(*parent) {
                let message = format!("object {parent} is named twice: each parent has one rank, that of all others");
                return Err(Failure::new(FailureCode::BAD_ARGUMENTS, message));
            }
            if self.peek(*parent)?.is_none() {
                let message = format!("there is no object {parent} that could be a parent");
                return Err(Failure::new(FailureCode::NO_SUCH_OBJECT, message));
            }
        }
        if *record.parents == *parents {
            return Ok(());
        }
        self.write(object, Some(Arc::new(ObjectRecord { parents: parents.into(), ..(*record).clone() })))
    }
}
