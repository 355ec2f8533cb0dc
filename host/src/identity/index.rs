//! The index beside a batch record: finds one transaction, and tells whether it is whole, without reading the others.

use twox_hash::XxHash3_64;

use super::Tid;

/// An entry of an [`Index`], in bytes: where a transaction ends, and its checksum.
const ENTRY_BYTES: usize = 12;
/// A number of an [`Index`], in bytes.
const WORD_BYTES: usize = 4;

/// Where each transaction of a record is, with a checksum of its own: `[u32 length of the header, (u32 end, u64 XXH3)...,
/// u32 count]`, little-endian. Ends count from the end of the header; the seed of a checksum is the transaction's tid.
///
/// It repeats what the record says, so it is not part of the record's hash.
#[derive(Clone, Copy)]
pub(super) struct Index<'a> {
    header_bytes: usize,
    entries: &'a [[u8; ENTRY_BYTES]],
}

impl<'a> Index<'a> {
    pub(super) fn encode(first: Tid, header_bytes: usize, ends: &[u32], transactions: &[u8]) -> Vec<u8> {
        let mut index = Vec::with_capacity(2 * WORD_BYTES + ends.len() * ENTRY_BYTES);
        index.extend_from_slice(&(header_bytes as u32).to_le_bytes());
        let mut start = 0;
        for (tid, end) in (first.0..).zip(ends) {
            let bytes = &transactions[start..*end as usize];
            index.extend_from_slice(&end.to_le_bytes());
            index.extend_from_slice(&XxHash3_64::oneshot_with_seed(tid, bytes).to_le_bytes());
            start = *end as usize;
        }
        index.extend_from_slice(&(ends.len() as u32).to_le_bytes());
        index
    }

    /// Splits what is stored into the record and its index; none if it is too short for one.
    pub(super) fn split(stored: &'a [u8]) -> Option<(&'a [u8], Index<'a>)> {
        let (rest, count) = stored.split_last_chunk::<WORD_BYTES>()?;
        let entries_bytes = (u32::from_le_bytes(*count) as usize).checked_mul(ENTRY_BYTES)?;
        let (rest, entries) = rest.split_at_checked(rest.len().checked_sub(entries_bytes)?)?;
        let (record, header_bytes) = rest.split_last_chunk::<WORD_BYTES>()?;
        let (entries, _) = entries.as_chunks();
        Some((record, Index { header_bytes: u32::from_le_bytes(*header_bytes) as usize, entries }))
    }

    /// How many transactions there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The transaction at a place in the record, if it is what was written.
    pub(super) fn transaction(&self, record: &'a [u8], place: usize, tid: Tid) -> Option<&'a [u8]> {
        let end = |entry: &[u8; ENTRY_BYTES]| {
            let [a, b, c, d, ..] = *entry;
            self.header_bytes + u32::from_le_bytes([a, b, c, d]) as usize
        };
        let entry = self.entries.get(place)?;
        let start = match place.checked_sub(1) {
            Some(before) => end(self.entries.get(before)?),
            None => self.header_bytes,
        };
        let bytes = record.get(start..end(entry))?;
        let seal = XxHash3_64::oneshot_with_seed(tid.0, bytes).to_le_bytes();
        (entry[WORD_BYTES..] == seal).then_some(bytes)
    }
}
