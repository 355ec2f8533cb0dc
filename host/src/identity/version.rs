//! Versions: what transactions made of an object or of a name, and the rows in which the object table keeps the newest ones.
//!
//! # Finding a version
//!
//! The versions of a thing form a list, newest first. Each write in the history points to the version before it and,
//! further back, to a *jump* version, arranged as in a skew-binary list (E. Myers, "An applicative random-access stack",
//! 1983), so that the version at any transaction is found in O(log versions) steps without an index. Where a version's
//! jump leads depends on its number alone ([`jump_number`]). The newest version also carries its [`spine`](Version::spine):
//! where the chain of jumps leads from it. That is all that is needed to number the next version without reading old ones.

use std::{borrow::Cow, sync::Arc};

use theseus_value::{
    DecodeError, ObjectId,
    raw::{Reader, Writer},
};

use super::{
    ObjectRecord, Small, Tid,
    batch::Change,
    lmdb::Db,
    record::expect_array,
    table::{NAMES, OBJECTS},
};

/// See [`Version::spine`]. Its length is logarithmic in the number of versions.
pub(super) type Spine = Small<Tid, 4>;

/// What can have versions, by its key in the history: objects by their ids, names by themselves.
pub(super) trait Versioned: ToOwned {
    /// What a version says.
    type Content: Content;

    /// The version, if that is one of this key.
    fn version<'a>(&self, change: Change<'a>) -> Option<RawVersion<'a>>;

    /// What it is called in messages.
    fn describe(&self) -> String;

    /// The database of the object table that has the newest versions.
    const ROWS: Db;

    /// The key of its row.
    fn row_key(&self) -> Cow<'_, [u8]>;

    /// What a key of a row stands for; none if it is none.
    fn of_row_key(key: &[u8]) -> Option<Cow<'_, Self>>;
}

/// What a version says, unless it says that there is nothing any more.
pub(super) trait Content: Sized {
    /// Appends it.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads what [`encode`](Self::encode) wrote.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads over it.
    fn skip(reader: &mut Reader<'_>) -> Result<(), DecodeError>;
}

impl Versioned for ObjectId {
    type Content = Arc<ObjectRecord>;

    fn version<'a>(&self, change: Change<'a>) -> Option<RawVersion<'a>> {
        match change {
            Change::Object(object, version) => (object == *self).then_some(version),
            Change::Name(..) => None,
        }
    }

    fn describe(&self) -> String {
        format!("object {self}")
    }

    const ROWS: Db = OBJECTS;

    fn row_key(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.to_be_bytes().to_vec())
    }

    fn of_row_key(key: &[u8]) -> Option<Cow<'_, Self>> {
        key.try_into().ok().map(|id| Cow::Owned(ObjectId(u64::from_be_bytes(id))))
    }
}

impl Content for Arc<ObjectRecord> {
    fn encode(&self, out: &mut Vec<u8>) {
        ObjectRecord::encode(self, out);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        ObjectRecord::decode(reader).map(Arc::new)
    }

    fn skip(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        ObjectRecord::skip(reader).map(drop)
    }
}

impl Versioned for str {
    type Content = ObjectId;

    fn version<'a>(&self, change: Change<'a>) -> Option<RawVersion<'a>> {
        match change {
            Change::Name(name, version) => (name == self).then_some(version),
            Change::Object(..) => None,
        }
    }

    fn describe(&self) -> String {
        format!("the name `{self}`")
    }

    const ROWS: Db = NAMES;

    fn row_key(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }

    fn of_row_key(key: &[u8]) -> Option<Cow<'_, Self>> {
        std::str::from_utf8(key).ok().map(Cow::Borrowed)
    }
}

impl Content for ObjectId {
    fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out).uint(self.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.uint().map(ObjectId)
    }

    fn skip(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        reader.uint().map(drop)
    }
}

/// Where a version stands among the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointers {
    /// How many versions there are up to this one.
    pub number: u64,
    /// The transaction that wrote the version before; [`Tid::NONE`] for the first.
    pub previous: Tid,
    /// The transaction that wrote the jump version; [`Tid::NONE`] if it jumps before the first.
    pub jump: Tid,
}

impl Pointers {
    pub(super) fn encode(&self, writer: &mut Writer<'_>) {
        writer.uint(self.number);
        writer.uint(self.previous.0);
        writer.uint(self.jump.0);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Pointers, DecodeError> {
        Ok(Pointers { number: reader.uint()?, previous: Tid(reader.uint()?), jump: Tid(reader.uint()?) })
    }
}

/// A version that still lies in its record.
#[derive(Clone, Copy)]
pub(super) struct RawVersion<'a> {
    pub pointers: Pointers,
    /// The encoded content; none if there is nothing any more.
    pub content: Option<&'a [u8]>,
}

impl<'a> RawVersion<'a> {
    pub(super) fn read<T: Content>(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<RawVersion<'a>, DecodeError> {
        Ok(RawVersion { pointers: Pointers::decode(reader)?, content: content::<T>(reader, bytes)? })
    }

    pub(super) fn decode<T: Content>(&self) -> Result<Option<T>, DecodeError> {
        self.content.map(|content| T::decode(&mut Reader::new(content))).transpose()
    }
}

/// Reads over a content or null; `bytes` is what the reader reads.
fn content<'a, T: Content>(reader: &mut Reader<'a>, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, DecodeError> {
    let start = reader.position();
    if reader.null()? {
        return Ok(None);
    }
    T::skip(reader)?;
    Ok(Some(&bytes[start..reader.position()]))
}

/// The newest version of an object, or of a name: what a transaction made of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Version<T = Arc<ObjectRecord>> {
    /// The transaction that wrote it.
    pub tid: Tid,
    /// How many versions there are up to this one.
    pub number: u64,
    /// The transaction that wrote the version before; [`Tid::NONE`] for the first.
    pub previous: Tid,
    /// The transactions that wrote the jump version, the jump version's jump version, and so on.
    pub spine: Spine,
    /// The object, or the object that the name stands for; none if the transaction deleted it, or freed the name.
    pub record: Option<T>,
}

/// The newest version of a name.
pub type NameVersion = Version<ObjectId>;

impl<T> Version<T> {
    /// The version that follows this one, or the first.
    pub(super) fn after(before: Option<&Version<T>>, tid: Tid, record: Option<T>) -> Version<T> {
        match before {
            Some(before) => before.succeeded_by(tid, record),
            None => Version::first(tid, record),
        }
    }

    /// The first version.
    pub(super) fn first(tid: Tid, record: Option<T>) -> Version<T> {
        Version { tid, number: 1, previous: Tid::NONE, spine: Spine::default(), record }
    }

    /// The version that follows this one.
    pub(super) fn succeeded_by(&self, tid: Tid, record: Option<T>) -> Version<T> {
        let number = self.number + 1;
        let spine = if jump_number(number) == self.number {
            Spine::with_first(self.tid, &self.spine)
        } else {
            self.spine.get(1..).unwrap_or_default().into()
        };
        Version { tid, number, previous: self.tid, spine, record }
    }

    /// Where it stands among the others.
    pub(super) fn pointers(&self) -> Pointers {
        let jump = self.spine.first().copied().unwrap_or_default();
        Pointers { number: self.number, previous: self.previous, jump }
    }
}

#[expect(private_bounds, reason = "no other content than that of objects and names")]
impl<T: Content> Version<T> {
    /// Appends the row of the object table: `[tid, number, previous, [spine...], content / null]`.
    pub(super) fn encode_row(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(5);
        writer.uint(self.tid.0);
        writer.uint(self.number);
        writer.uint(self.previous.0);
        writer.array(self.spine.len());
        for tid in self.spine.iter() {
            writer.uint(tid.0);
        }
        match &self.record {
            Some(record) => record.encode(out),
            None => writer.null(),
        }
    }

    /// Reads what [`encode_row`](Self::encode_row) wrote.
    pub(super) fn decode_row(row: &[u8]) -> Result<Version<T>, DecodeError> {
        let Row { tid, number, previous, spine, content } = Row::read::<T>(row)?;
        let record = content.map(|content| T::decode(&mut Reader::new(content))).transpose()?;
        Ok(Version { tid, number, previous, spine: spine.into(), record })
    }
}

/// A row of the object table whose content is still encoded. See [`Version`] for its parts.
pub(super) struct Row<'a> {
    pub tid: Tid,
    pub number: u64,
    pub previous: Tid,
    pub spine: Vec<Tid>,
    pub content: Option<&'a [u8]>,
}

impl<'a> Row<'a> {
    /// Reads what [`Version::encode_row`] wrote.
    pub(super) fn read<T: Content>(row: &'a [u8]) -> Result<Row<'a>, DecodeError> {
        let mut reader = Reader::new(row);
        expect_array(&mut reader, 5)?;
        let tid = Tid(reader.uint()?);
        let number = reader.uint()?;
        let previous = Tid(reader.uint()?);
        let count = reader.array()?;
        let spine = (0..count).map(|_| reader.uint().map(Tid)).collect::<Result<_, _>>()?;
        let content = content::<T>(&mut reader, row)?;
        reader.finish()?;
        Ok(Row { tid, number, previous, spine, content })
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
        let mut version = Version::<ObjectId>::first(Tid(10), None);
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
