//! The note that an import is under way: what follows it can be taken back.

use super::{BATCHES, Head, History, HistoryView, META, SEAL_BYTES};
use crate::identity::{StorageError, Tid};

const IMPORTING: &[u8] = b"importing";

impl History {
    /// Notes where the history ends, so that what is added from now on can be taken back.
    pub(in crate::identity) fn begin_import(&self) -> Result<(), StorageError> {
        // What is taken back has to be in one place.
        self.settle()?;
        self.wal.bypass(true);
        let head = self.read()?.head()?.tid.0.to_be_bytes();
        let mut txn = self.env.write()?;
        txn.put(META, IMPORTING, &[&head[..], &blake3::hash(&head).as_bytes()[..SEAL_BYTES]].concat())?;
        txn.commit()
    }

    /// Forgets that note: what was added stays.
    pub(in crate::identity) fn end_import(&self) -> Result<(), StorageError> {
        let mut txn = self.env.write()?;
        txn.delete(META, IMPORTING)?;
        txn.commit()?;
        self.wal.bypass(false);
        Ok(())
    }

    /// Removes what an interrupted import added, newest first and in bounded steps, so that what is left is a history at every
    /// moment; answers whether there was such an import, whose end is then to be [noted](Self::end_import). Only for who opens the
    /// identity to write.
    pub(in crate::identity) fn begin_taking_back(&self) -> Result<bool, StorageError> {
        const STEP: usize = 64;

        let mut keys = Vec::new();
        {
            let view = self.read()?;
            let Some(head) = view.importing()? else { return Ok(false) };
            log::warn!("an import was interrupted: its transactions, from {} on, are taken back", head.next());
            view.txn.walk::<StorageError>(BATCHES, &head.next().0.to_be_bytes(), |key, _| {
                keys.push(key.to_vec());
                Ok(true)
            })?;
        }
        while !keys.is_empty() {
            let mut txn = self.env.write()?;
            for key in keys.drain(keys.len().saturating_sub(STEP)..).rev() {
                txn.delete(BATCHES, &key)?;
            }
            txn.commit()?;
        }
        Ok(true)
    }
}

impl HistoryView {
    /// The head. Refused while an import is under way, whose transactions may be taken back: looked up in one view, because an import may
    /// begin at any moment beside who only reads.
    pub(in crate::identity) fn lasting_head(&self) -> Result<Head, StorageError> {
        match self.importing()? {
            None => self.head(),
            Some(_) => Err(StorageError::Unfinished { path: self.env.path().to_owned() }),
        }
    }

    /// Where the history ended when the import began that has not ended yet; none if there is none.
    pub(super) fn importing(&self) -> Result<Option<Tid>, StorageError> {
        let Some(note) = self.txn.get(META, IMPORTING)? else { return Ok(None) };
        match note.split_first_chunk::<8>() {
            Some((head, seal)) if blake3::hash(head).as_bytes()[..SEAL_BYTES] == *seal => {
                Ok(Some(Tid(u64::from_be_bytes(*head))))
            }
            _ => {
                Err(self.env.damaged("the note of an import", "it does not have the checksum that was stored with it"))
            }
        }
    }
}
