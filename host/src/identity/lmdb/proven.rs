//! Walking along a database in search of damage in LMDB's own pages.

use super::{Db, ReadTxn, StorageError};

/// The smallest pages that LMDB uses, in bytes.
const PAGE_BYTES_MIN: usize = 4096;

impl ReadTxn {
    /// Does what [`walk`](Self::walk) does, for those who look for damage: the keys have to ascend, and whoever looks for a key has to be led to it by the pages
    /// above. For that it is enough to look for those at the edges of each page.
    pub(in crate::identity) fn walk_proven<'a, E: From<StorageError>>(
        &'a self,
        db: Db,
        from: &[u8],
        mut visit: impl FnMut(&'a [u8], &'a [u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let page = |key: &[u8]| key.as_ptr() as usize / PAGE_BYTES_MIN;
        let mut last: Option<&[u8]> = None;
        self.walk::<E>(db, from, |key, value| {
            if last.is_none_or(|last| page(last) != page(key)) {
                last.into_iter().chain([key]).try_for_each(|edge| self.leads_to(db, edge))?;
            }
            let is_in_order = last.is_none_or(|last| last < key);
            last = Some(key);
            let go_on = visit(key, value)?;
            if is_in_order {
                Ok(go_on)
            } else {
                Err(self.env.damaged("an LMDB page", "its keys are not in order").into())
            }
        })?;
        last.map_or(Ok(()), |last| self.leads_to(db, last)).map_err(E::from)
    }

    /// Makes sure that looking for a key leads to the place where it stands.
    fn leads_to(&self, db: Db, key: &[u8]) -> Result<(), StorageError> {
        // A copy, because the binding takes a key that LMDB finds where it was given to be the one that was given.
        let copy: Box<[u8]> = key.into();
        match self.seek(db, &copy)? {
            Some((found, _)) if found.as_ptr() == key.as_ptr() => Ok(()),
            _ => Err(self.env.damaged("an LMDB page", "looking for a key does not lead to the place where it stands")),
        }
    }
}
