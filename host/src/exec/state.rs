//! What a turn reads: one state of the identity.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use crate::identity::{ObjectRecord, Reader, StorageError, Tid};

/// One state of the identity, as a turn sees it before its own writes.
///
/// A failure is one of the storage: the turn that met it may not be recorded, whatever the plugin makes of it.
pub trait State {
    /// An object, in the schema in which it is stored; none if there is no such object.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure>;

    /// What an object last was in a schema version; none if it never was, or was deleted since.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, Failure>;

    /// The object that a name was last given to. Whether that object is still there is not asked.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    fn name(&mut self, name: &str) -> Result<Option<ObjectId>, Failure>;
}

/// The executor's state: everything that was recorded, durable or not.
impl State for Reader {
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        self.newest_record(object).map_err(storage)
    }

    fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        Reader::last_in_schema(self, object, schema).map_err(storage)
    }

    fn name(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        Reader::name(self, name).map_err(storage)
    }
}

/// The committed state whose head was at `head`.
pub(super) struct Snapshot<'a> {
    pub reader: &'a mut Reader,
    pub head: Tid,
}

impl State for Snapshot<'_> {
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        let version = self.reader.snapshot(object, self.head).map_err(storage)?;
        Ok(version.and_then(|version| version.record.clone()))
    }

    fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        self.reader.last_in_schema_as_of(object, schema, self.head).map_err(storage)
    }

    fn name(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        self.reader.snapshot_name(name, self.head).map_err(storage)
    }
}

/// How a failure of the storage reaches the code of a plugin, and clients.
#[expect(clippy::needless_pass_by_value, reason = "it is what an error is mapped with")]
pub(super) fn storage(error: StorageError) -> Failure {
    let damaged = matches!(error, StorageError::Damaged { .. });
    let code = if damaged { FailureCode::IDENTITY_DAMAGED } else { FailureCode::STORAGE };
    Failure::new(code, error.to_string())
}

/// A state in which nothing is.
#[cfg(test)]
pub(crate) struct Nothing;

#[cfg(test)]
impl State for Nothing {
    fn object(&mut self, _: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        Ok(None)
    }

    fn last_in_schema(&mut self, _: ObjectId, _: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        Ok(None)
    }

    fn name(&mut self, _: &str) -> Result<Option<ObjectId>, Failure> {
        Ok(None)
    }
}
