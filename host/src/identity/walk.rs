//! Walking all objects there ever were, a bounded number at a time, so that no read transaction is kept for long.

use theseus_value::ObjectId;

use super::{Reader, StorageError, Tid};

/// Up to `limit` keys of the overlay and of the table, after which the next ones begin.
fn merge<K: Ord + Clone>(tabled: &mut Vec<K>, overlaid: &mut Vec<K>, limit: usize) {
    // If the table has more, what lies behind its last key is for the next time.
    let end = (tabled.len() == limit).then(|| tabled.last().cloned()).flatten();
    let later = |key: &K| end.as_ref().is_some_and(|end| key > end);
    let from = overlaid.iter().rposition(later).map_or(0, |place| place + 1);
    tabled.extend(overlaid.drain(from..));
    tabled.sort_unstable();
    tabled.dedup();
}

/// All objects by id, deleted ones too.
pub struct ObjectWalk {
    /// Those that the overlay has and that are to come, last first.
    overlaid: Vec<ObjectId>,
    next: ObjectId,
}

impl ObjectWalk {
    /// Begins at the first object.
    pub fn new(reader: &Reader) -> ObjectWalk {
        let overlaid = reader.identity().objects.changed(Tid::NONE, || Tid(u64::MAX));
        let mut overlaid: Vec<ObjectId> = overlaid.into_iter().map(|(object, _)| object).collect();
        overlaid.sort_unstable_by(|a, b| b.cmp(a));
        ObjectWalk { overlaid, next: ObjectId(0) }
    }

    /// The next objects in order, `limit` of those that the table has and those between them; none after the last.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn next(&mut self, reader: &mut Reader, limit: usize) -> Result<Vec<ObjectId>, StorageError> {
        let mut objects = reader.table(|table| table.object_ids(self.next, limit))?;
        merge(&mut objects, &mut self.overlaid, limit);
        self.next = ObjectId(objects.last().map_or(u64::MAX, |last| last.0.saturating_add(1)));
        Ok(objects)
    }
}

impl Reader {
    /// The first object of the object table from an id on, deleted ones too; none if there is none.
    ///
    /// # Errors
    ///
    /// If the storage fails.
    pub fn first_object_from(&self, id: ObjectId) -> Result<Option<ObjectId>, StorageError> {
        Ok(self.table(|table| table.object_ids(id, 1))?.pop())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_comes_once_and_in_order() {
        let table: Vec<u64> = (0..100).filter(|key| key % 3 != 0).collect();
        for limit in 1..12 {
            let mut overlaid: Vec<u64> = (0..120).filter(|key| key % 2 == 0).rev().collect();
            let (mut walked, mut next) = (Vec::new(), 0);
            loop {
                let mut keys: Vec<u64> = table.iter().copied().filter(|key| *key >= next).take(limit).collect();
                merge(&mut keys, &mut overlaid, limit);
                let Some(last) = keys.last() else { break };
                next = last + 1;
                walked.extend(keys);
            }
            let expected: Vec<u64> = (0..120).filter(|key| key % 2 == 0 || (key % 3 != 0 && *key < 100)).collect();
            assert_eq!(walked, expected, "{limit} at a time");
        }
    }
}
