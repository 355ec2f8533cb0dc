//! Records on their way into the database.

use super::{BASE, BATCHES, HASH_BYTES, Head, History, META, StoredBatch};
use crate::identity::{
    BaseMark, BatchHeader, IdentityId, Place, RecordHash, StorageError, Tid, batch::BatchBuilder, lmdb::Env,
    table::seal,
};

/// A batch as it is to lie in the database, in memory of its own.
pub(in crate::identity) struct StoredRecord {
    follows: Head,
    last: Tid,
    key: [u8; 8],
    value: Vec<u8>,
}

impl StoredRecord {
    /// Puts a record and its index together.
    pub(in crate::identity) fn new(header: &BatchHeader, batch: &BatchBuilder) -> StoredRecord {
        let mut value = vec![0; HASH_BYTES];
        header.encode(&mut value);
        let index = batch.index(header, value.len() - HASH_BYTES);
        value.extend_from_slice(batch.transactions());
        let hash = blake3::hash(&value[HASH_BYTES..]);
        value[..HASH_BYTES].copy_from_slice(hash.as_bytes());
        value.extend_from_slice(&index);
        StoredRecord { follows: follows(header), last: header.last, key: header.last.0.to_be_bytes(), value }
    }

    /// A record that was read, if it is what was written; else says in words what is wrong.
    pub(super) fn read(last: Tid, value: Vec<u8>) -> Result<StoredRecord, String> {
        let key = last.0.to_be_bytes();
        let follows = follows(&StoredBatch::split(&key, &value)?.check()?.header);
        Ok(StoredRecord { follows, last, key, value })
    }

    /// The head of the history before it.
    pub(super) fn follows(&self) -> Head {
        self.follows
    }

    /// The head of the history with it.
    pub(super) fn head(&self) -> Head {
        Head { tid: self.last, hash: self.hash() }
    }

    /// Its last transaction.
    pub(in crate::identity) fn last(&self) -> Tid {
        self.last
    }

    /// Its key in the database.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Its value in the database: the hash, the record, the index.
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    /// Taken apart; in words if it is malformed.
    pub(super) fn stored(&self) -> Result<StoredBatch<'_>, String> {
        StoredBatch::split(&self.key, &self.value)
    }

    /// The record's hash.
    pub(in crate::identity) fn hash(&self) -> RecordHash {
        let hash = self.value.first_chunk::<HASH_BYTES>();
        RecordHash(*hash.expect("a stored record begins with its hash"))
    }

    /// Its length in bytes.
    pub(in crate::identity) fn bytes(&self) -> usize {
        self.value.len()
    }
}

fn follows(header: &BatchHeader) -> Head {
    Head { tid: Tid(header.first.0 - 1), hash: header.previous }
}

impl History {
    /// Makes an empty history that stands on a base, which is there already, if one is given.
    pub(in crate::identity) fn create_on(
        place: &Place,
        identity: IdentityId,
        base: Option<BaseMark>,
    ) -> Result<(), StorageError> {
        History::create(place, identity)?;
        let Some(base) = base else { return Ok(()) };
        let env = Env::open(&History::options(place, false, false))?;
        let mut value = Vec::new();
        seal(&mut value, META, BASE, |out| base.encode(out));
        let mut txn = env.write()?;
        txn.put(META, BASE, &value)?;
        txn.commit()
    }

    /// Adds records that were made before, in one transaction: bounded by who calls it.
    pub(in crate::identity) fn append_stored(&self, records: &[StoredRecord]) -> Result<(), StorageError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut txn = self.env.write()?;
        for record in records {
            txn.append(BATCHES, record.key(), record.value())?;
        }
        txn.commit()
    }
}
