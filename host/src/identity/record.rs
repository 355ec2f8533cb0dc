//! Objects and their versions, and the rows in which the object table keeps them.
//!
//! # Finding a version
//!
//! The versions of an object form a list, newest first. Each write in the history points to the version before it and,
//! further back, to a *jump* version, arranged as in a skew-binary list (E. Myers, "An applicative random-access stack",
//! 1983), so that the version at any transaction is found in O(log versions) steps without an index. Where a version's
//! jump leads depends on its number alone ([`jump_number`]). The newest version also carries its [`spine`](Version::spine):
//! where the chain of jumps leads from it. That is all that is needed to number the next version without reading old ones.

use std::sync::Arc;

use serde::de::Error as _;
use theseus_value::{
    DecodeError, ObjectId,
    raw::{Reader, Writer},
};

use super::Tid;

/// What an object is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct ObjectRecord {
    /// The name of its behaviour, `plugin.Type`.
    pub behavior: Arc<str>,
    /// The version of its slots.
    pub schema: u32,
    /// The objects to which it delegates, all of equal rank.
    pub parents: Box<[ObjectId]>,
    /// Its own slots: an encoded map.
    pub slots: Box<[u8]>,
}

impl ObjectRecord {
    /// Appends the record: `[behavior, schema, [parent...], {slot...}]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(4);
        writer.text(&self.behavior);
        writer.uint(u64::from(self.schema));
        writer.array(self.parents.len());
        for parent in &self.parents {
            writer.uint(parent.0);
        }
        writer.raw(&self.slots);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// If the next item is something else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<ObjectRecord, DecodeError> {
        expect_array(reader, 4)?;
        let behavior = Arc::from(reader.text()?);
        let schema = small(reader.uint()?)?;
        let count = reader.array()?;
        let parents = (0..count).map(|_| reader.uint().map(ObjectId)).collect::<Result<_, _>>()?;
        let slots = reader.item()?.into();
        Ok(ObjectRecord { behavior, schema, parents, slots })
    }

    /// Reads over a record; answers its behaviour and its schema version.
    pub(super) fn skip<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, u32), DecodeError> {
        expect_array(reader, 4)?;
        let (behavior, schema) = (reader.text()?, small(reader.uint()?)?);
        for _ in 0..reader.array()? {
            reader.uint()?;
        }
        reader.item()?;
        Ok((behavior, schema))
    }
}

/// One version of an object: what a transaction made of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Version {
    /// The transaction that wrote it.
    pub tid: Tid,
    /// How many versions there are up to this one.
    pub number: u64,
    /// The transaction that wrote the version before; [`Tid::NONE`] for the first.
    pub previous: Tid,
    /// The transactions that wrote the jump version, the jump version's jump version, and so on.
    pub spine: Box<[Tid]>,
    /// The object; none if the transaction deleted it.
    pub record: Option<Arc<ObjectRecord>>,
}

impl Version {
    /// The first version of an object.
    pub(super) fn first(tid: Tid, record: Option<Arc<ObjectRecord>>) -> Version {
        Version { tid, number: 1, previous: Tid::NONE, spine: Box::new([]), record }
    }

    /// The version that follows this one.
    pub(super) fn succeeded_by(&self, tid: Tid, record: Option<Arc<ObjectRecord>>) -> Version {
        let number = self.number + 1;
        let spine = if jump_number(number) == self.number {
            [self.tid].iter().chain(self.spine.iter()).copied().collect()
        } else {
            self.spine.get(1..).unwrap_or_default().into()
        };
        Version { tid, number, previous: self.tid, spine, record }
    }

    /// The transaction that wrote the version to which this one jumps; [`Tid::NONE`] if it jumps before the first.
    pub(super) fn jump(&self) -> Tid {
        self.spine.first().copied().unwrap_or_default()
    }

    /// Appends the row of the object table: `[tid, number, previous, [spine...], record]`.
    pub(super) fn encode_row(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(5);
        writer.uint(self.tid.0);
        writer.uint(self.number);
        writer.uint(self.previous.0);
        writer.array(self.spine.len());
        for tid in &self.spine {
            writer.uint(tid.0);
        }
        match &self.record {
            Some(record) => record.encode(out),
            None => writer.null(),
        }
    }

    /// Reads what [`encode_row`](Self::encode_row) wrote.
    pub(super) fn decode_row(row: &[u8]) -> Result<Version, DecodeError> {
        let ObjectRow { tid, number, previous, spine, record } = ObjectRow::read(row)?;
        let record = record.map(|record| ObjectRecord::decode(&mut Reader::new(record)).map(Arc::new)).transpose()?;
        Ok(Version { tid, number, previous, spine: spine.into(), record })
    }
}

/// A row of the object table whose object is still encoded. See [`Version`] for its parts.
pub(super) struct ObjectRow<'a> {
    pub tid: Tid,
    pub number: u64,
    pub previous: Tid,
    pub spine: Vec<Tid>,
    pub record: Option<&'a [u8]>,
}

impl<'a> ObjectRow<'a> {
    /// Reads what [`Version::encode_row`] wrote.
    pub(super) fn read(row: &'a [u8]) -> Result<ObjectRow<'a>, DecodeError> {
        let mut reader = Reader::new(row);
        expect_array(&mut reader, 5)?;
        let tid = Tid(reader.uint()?);
        let number = reader.uint()?;
        let previous = Tid(reader.uint()?);
        let count = reader.array()?;
        let spine = (0..count).map(|_| reader.uint().map(Tid)).collect::<Result<_, _>>()?;
        let start = reader.position();
        let record = if reader.null()? {
            None
        } else {
            ObjectRecord::skip(&mut reader)?;
            Some(&row[start..])
        };
        reader.finish()?;
        Ok(ObjectRow { tid, number, previous, spine, record })
    }
}

/// The number of the version to which version `number` jumps; 0 stands before the first.
///
/// `number` is written in skew-binary, as a sum of terms 2^k - 1 with the largest first; a jump drops the smallest term.
pub(super) fn jump_number(number: u64) -> u64 {
    let mut rest = number;
    let mut last = 0;
    while rest > 0 {
        // The largest 2^k - 1 that is not above `rest`.
        last = (rest / 2 + 1).next_power_of_two() * 2 - 1;
        while last > rest {
            last /= 2;
        }
        rest -= last;
    }
    number - last
}

pub(super) fn expect_array(reader: &mut Reader<'_>, expected: usize) -> Result<(), DecodeError> {
    let length = reader.array()?;
    if length == expected {
        Ok(())
    } else {
        Err(DecodeError::custom(format!("an array of {length} items where one of {expected} belongs")))
    }
}

pub(super) fn small(number: u64) -> Result<u32, DecodeError> {
    u32::try_from(number).map_err(|_| DecodeError::custom(format!("{number} does not fit 32 bits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_drop_the_smallest_skew_binary_term() {
        let numbers: Vec<u64> = (1..=8).map(jump_number).collect();
        assert_eq!(numbers, [0, 1, 0, 3, 4, 3, 0, 7]);
    }

    /// Each version's spine is the chain of jumps that its number prescribes, and is logarithmically short.
    #[test]
    fn a_spine_is_the_chain_of_jumps() {
        let mut version = Version::first(Tid(10), None);
        for step in 2..=2_000_u64 {
            version = version.succeeded_by(Tid(step * 10), None);
            let mut chain = Vec::new();
            let mut number = jump_number(version.number);
            while number > 0 {
                chain.push(Tid(number * 10));
                number = jump_number(number);
            }
            assert_eq!(version.spine.as_ref(), chain);
            assert_eq!(version.previous, Tid((step - 1) * 10));
            assert!(chain.len() <= 2 * 11);
        }
    }

    #[test]
    fn a_row_reads_back() {
        let slots = theseus_value::to_vec(&[("count", 5)].into_iter().collect::<std::collections::BTreeMap<_, _>>());
        let record = ObjectRecord {
            behavior: "counter.Counter".into(),
            schema: 2,
            parents: [ObjectId(3), ObjectId(9)].into(),
            slots: slots.unwrap().into(),
        };
        let version = Version::first(Tid(4), Some(Arc::new(record))).succeeded_by(Tid(9), None);
        for version in [version.clone(), version.succeeded_by(Tid(12), version.record.clone())] {
            let mut row = Vec::new();
            version.encode_row(&mut row);
            assert_eq!(Version::decode_row(&row).unwrap(), version);
        }
    }
}
