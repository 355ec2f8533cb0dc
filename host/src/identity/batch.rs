//! The batch record: what one commit appends to the history.
//!
//! Deterministic CBOR. `docs/formats.md` describes it for readers in other languages.
//!
//! ```text
//! record      = [format, first tid, last tid, time in us, incarnation, {plugin: digest}, previous hash, [transaction...]]
//! transaction = byte string around
//!               [request id / null, target / null, method, arguments, time in us, seed, outcome, [write...], [naming...]]
//! outcome     = [0, result] / [1, code, kind, message]
//! write       = [object, number, previous tid, jump tid, object record / null]
//! naming      = [name, number, previous tid, jump tid, object / null]
//! ```
//!
//! Transactions are wrapped in byte strings so that a reader steps over those it does not want. An [`Index`](super::index::Index) beside the record
//! finds one of them, and tells whether it is whole, without reading the others: a record may hold thousands.

use std::sync::Arc;

use serde::de::Error as _;
use theseus_value::{
    DecodeError, ObjectId,
    raw::{Reader, Writer},
};

use super::{
    Bytes, Incarnation, NameVersion, ObjectRecord, Pointers, RecordHash, Tid, Version,
    index::Index,
    record::{expect_array, small},
    version::{Content, RawVersion},
};

/// The format that this code writes, and the only one that it reads.
pub(super) const FORMAT: u64 = 1;

/// How a transaction ended: the encoded result, or why there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The method returned this value, encoded.
    Done(Bytes),
    /// It failed, and nothing was written.
    Failed(Box<RecordedFailure>),
}

impl Outcome {
    /// It failed.
    pub fn failed(failure: impl Into<RecordedFailure>) -> Outcome {
        Outcome::Failed(Box::new(failure.into()))
    }
}

/// A failure as the history keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordedFailure {
    /// The failure's name, see [`theseus_abi::FailureCode::name`].
    pub code: String,
    /// The behaviour's own word for it, or empty.
    pub kind: String,
    /// What happened, for people.
    pub message: String,
}

/// A transaction that was executed and is to be recorded.
pub struct Draft<'a> {
    /// The client's id for the request, if it gave one.
    pub request_id: Option<&'a str>,
    /// The object that received the message; none for what the host itself did.
    pub target: Option<ObjectId>,
    /// The method, or for the host's own doings a name that begins with `theseus.`.
    pub method: &'a str,
    /// The encoded arguments; nothing at all stands for null.
    pub arguments: &'a [u8],
    /// The time it was given, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// The seed of its random numbers.
    pub seed: u64,
    /// How it ended. If it failed, it must not write.
    pub outcome: &'a Outcome,
    /// What it made of the objects it wrote: each at most once, none for deleted.
    pub writes: &'a [(ObjectId, Option<Arc<ObjectRecord>>)],
    /// The names it gave (to an object) or freed (none), each at most once.
    pub names: &'a [(Arc<str>, Option<ObjectId>)],
}

/// The versions that a transaction made.
#[derive(Default)]
pub(super) struct Versions {
    pub objects: Vec<(ObjectId, Version)>,
    pub names: Vec<(Arc<str>, NameVersion)>,
}

/// Transactions that are to become durable together.
#[derive(Default)]
pub(super) struct BatchBuilder {
    transactions: Vec<u8>,
    /// Where each transaction ends.
    ends: Vec<u32>,
    scratch: Vec<u8>,
}

impl BatchBuilder {
    /// How many transactions there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none yet.
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Their size in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.transactions.len()
    }

    /// The encoded transactions, as they follow the header.
    pub(super) fn transactions(&self) -> &[u8] {
        &self.transactions
    }

    /// The index of a record with this header.
    pub(super) fn index(&self, header: &BatchHeader, header_bytes: usize) -> Vec<u8> {
        Index::encode(header.first, header_bytes, &self.ends, &self.transactions)
    }

    /// Adds a transaction, with the versions that it made in the place of what it wrote.
    ///
    /// # Panics
    ///
    /// If the batch grows beyond 4 GiB, of which its bounds keep it far away.
    pub(super) fn push(&mut self, draft: &Draft<'_>, versions: &Versions) {
        self.scratch.clear();
        draft.encode(versions, &mut self.scratch);
        Writer::new(&mut self.transactions).bytes(&self.scratch);
        self.ends.push(u32::try_from(self.transactions.len()).expect("a batch is far smaller than 4 GiB"));
    }

    /// Adds a transaction as it stands in another record.
    ///
    /// # Panics
    ///
    /// As [`push`](Self::push) does.
    pub(super) fn push_encoded(&mut self, transaction: &[u8]) {
        Writer::new(&mut self.transactions).bytes(transaction);
        self.ends.push(u32::try_from(self.transactions.len()).expect("a batch is far smaller than 4 GiB"));
    }
}

impl Draft<'_> {
    fn encode(&self, versions: &Versions, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(9);
        match self.request_id {
            Some(id) => writer.text(id),
            None => writer.null(),
        }
        optional_object(&mut writer, self.target);
        writer.text(self.method);
        match self.arguments {
            [] => writer.null(),
            arguments => writer.raw(arguments),
        }
        writer.uint(self.time_us);
        writer.uint(self.seed);
        match self.outcome {
            Outcome::Done(result) => {
                writer.array(2);
                writer.uint(0);
                match result.as_ref() {
                    [] => writer.null(),
                    result => writer.raw(result),
                }
            }
            Outcome::Failed(failure) => {
                writer.array(4);
                writer.uint(1);
                writer.text(&failure.code);
                writer.text(&failure.kind);
                writer.text(&failure.message);
            }
        }
        writer.array(versions.objects.len());
        for (object, version) in &versions.objects {
            let mut writer = Writer::new(out);
            writer.array(5);
            writer.uint(object.0);
            encode_version(version, out);
        }
        Writer::new(out).array(versions.names.len());
        for (name, version) in &versions.names {
            let mut writer = Writer::new(out);
            writer.array(5);
            writer.text(name);
            encode_version(version, out);
        }
    }
}

fn encode_version<T: Content>(version: &Version<T>, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    version.pointers().encode(&mut writer);
    match &version.record {
        Some(record) => record.encode(out),
        None => writer.null(),
    }
}

fn optional_object(writer: &mut Writer<'_>, object: Option<ObjectId>) {
    match object {
        Some(object) => writer.uint(object.0),
        None => writer.null(),
    }
}

/// What stands at the head of a batch record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Its first transaction.
    pub first: Tid,
    /// Its last transaction.
    pub last: Tid,
    /// When it was handed over for commit, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// The host's start that wrote it.
    pub incarnation: Incarnation,
    /// The generations in force: plugin name and blake3 of its file.
    pub generations: Arc<[(String, [u8; 32])]>,
    /// The hash of the record before.
    pub previous: RecordHash,
}

impl BatchHeader {
    /// Appends everything of the record that stands before the transactions.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(8);
        writer.uint(FORMAT);
        writer.uint(self.first.0);
        writer.uint(self.last.0);
        writer.uint(self.time_us);
        writer.uint(self.incarnation.0);
        writer.map(self.generations.len());
        for (name, digest) in self.generations.iter() {
            writer.text(name);
            writer.bytes(digest);
        }
        writer.bytes(&self.previous.0);
        writer.array((self.last.0 + 1 - self.first.0) as usize);
    }
}

/// The generations in the order in which a deterministic map has its keys.
pub fn sort_generations(generations: &mut [(String, [u8; 32])]) {
    generations.sort_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
}

/// A batch record being read: the header, and the transactions still encoded.
pub struct BatchView<'a> {
    /// The header.
    pub header: BatchHeader,
    record: &'a [u8],
    transactions: Vec<&'a [u8]>,
}

impl<'a> BatchView<'a> {
    /// Reads a record: the header in full, the transactions only as far as to tell them apart.
    ///
    /// # Errors
    ///
    /// If the bytes are not a batch record of [`FORMAT`].
    pub fn decode(record: &'a [u8]) -> Result<BatchView<'a>, DecodeError> {
        let mut reader = Reader::new(record);
        expect_array(&mut reader, 8)?;
        let format = reader.uint()?;
        if format != FORMAT {
            return Err(DecodeError::custom(format!("batch format {format}, but this host reads {FORMAT}")));
        }
        let first = Tid(reader.uint()?);
        let last = Tid(reader.uint()?);
        let time_us = reader.uint()?;
        let incarnation = Incarnation(reader.uint()?);
        let mut generations = Vec::new();
        for _ in 0..reader.map()? {
            generations.push((reader.text()?.to_owned(), fixed(reader.bytes()?)?));
        }
        let previous = RecordHash(fixed(reader.bytes()?)?);
        let count = reader.array()?;
        if last.0.checked_sub(first.0).and_then(|span| span.checked_add(1)) != Some(count as u64) {
            return Err(DecodeError::custom(format!("{count} transactions numbered {first} to {last}")));
        }
        let transactions = (0..count).map(|_| reader.bytes()).collect::<Result<_, _>>()?;
        reader.finish()?;
        let generations = generations.into();
        let header = BatchHeader { first, last, time_us, incarnation, generations, previous };
        Ok(BatchView { header, record, transactions })
    }

    /// The record itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.record
    }

    /// The record's size in bytes.
    pub fn length(&self) -> usize {
        self.record.len()
    }

    /// The transactions with their numbers, in order, still encoded.
    pub(super) fn encoded(&self) -> impl Iterator<Item = (Tid, &'a [u8])> {
        (self.header.first.0..).map(Tid).zip(self.transactions.iter().copied())
    }

    /// The transactions in order, still encoded.
    pub(super) fn into_encoded(self) -> Vec<&'a [u8]> {
        self.transactions
    }

    /// The transactions with their numbers, in order.
    pub fn transactions(&self) -> impl Iterator<Item = (Tid, Result<Transaction<'a>, DecodeError>)> {
        let first = self.header.first.0;
        self.transactions.iter().enumerate().map(move |(i, bytes)| (Tid(first + i as u64), Transaction::decode(bytes)))
    }

    /// Whether an index says the same as the record.
    pub(super) fn fits(&self, index: &Index<'_>) -> bool {
        let first = self.header.first.0;
        let found = |place: usize| index.transaction(self.record, place, Tid(first + place as u64));
        index.len() == self.transactions.len()
            && self.transactions.iter().enumerate().all(|(place, bytes)| {
                found(place).is_some_and(|item| Reader::new(item).bytes().is_ok_and(|found| found == *bytes))
            })
    }

    /// One transaction as it is encoded, for [`Transaction::decode`]; none if it is not in this batch.
    pub fn encoded_at(&self, tid: Tid) -> Option<&'a [u8]> {
        let place = tid.0.checked_sub(self.header.first.0)? as usize;
        self.transactions.get(place).copied()
    }

    /// One transaction; none if it is not in this batch.
    pub fn transaction(&self, tid: Tid) -> Option<Result<Transaction<'a>, DecodeError>> {
        self.encoded_at(tid).map(Transaction::decode)
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::custom(format!("{} bytes where {N} belong", bytes.len())))
}

/// A transaction as it stands in the history.
#[derive(Clone, PartialEq, Debug)]
pub struct Transaction<'a> {
    /// See [`Draft`] for this and the following.
    pub request_id: Option<&'a str>,
    /// The object that received the message.
    pub target: Option<ObjectId>,
    /// The method.
    pub method: &'a str,
    /// The encoded arguments.
    pub arguments: &'a [u8],
    /// The time it was given, in microseconds since the Unix epoch.
    pub time_us: u64,
    /// The seed of its random numbers.
    pub seed: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The versions it made.
    pub writes: Vec<Write>,
    /// The names it gave or freed.
    pub names: Vec<Naming<'a>>,
}

/// A version of an object as it stands in the history.
#[derive(Clone, PartialEq, Debug)]
pub struct Write {
    /// Which object.
    pub object: ObjectId,
    /// Where the version stands among the others.
    pub pointers: Pointers,
    /// The object; none if it was deleted.
    pub record: Option<Arc<ObjectRecord>>,
}

/// A version of a name as it stands in the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Naming<'a> {
    /// Which name.
    pub name: &'a str,
    /// Where the version stands among the others.
    pub pointers: Pointers,
    /// The object that it stands for; none if it was freed.
    pub object: Option<ObjectId>,
}

impl<'a> Transaction<'a> {
    /// Reads a transaction as it stands in a record.
    pub(super) fn decode_item(item: &'a [u8]) -> Result<Transaction<'a>, DecodeError> {
        unwrap_item(item).and_then(Transaction::decode)
    }

    /// Reads a transaction as it stands in its byte string.
    ///
    /// # Errors
    ///
    /// If the bytes are not one.
    pub fn decode(bytes: &'a [u8]) -> Result<Transaction<'a>, DecodeError> {
        let (mut writes, mut names) = (Vec::new(), Vec::new());
        let raw = RawTransaction::read(bytes, |change| {
            match change {
                Change::Object(object, it) => {
                    writes.push(Write { object, pointers: it.pointers, record: it.decode()? });
                }
                Change::Name(name, it) => names.push(Naming { name, pointers: it.pointers, object: it.decode()? }),
            }
            Ok(())
        })?;
        let RawTransaction { request_id, target, method, arguments, time_us, seed, outcome } = raw;
        let outcome = match outcome {
            RawOutcome::Done(result) => Outcome::Done(result.into()),
            RawOutcome::Failed([code, kind, message]) => Outcome::failed(RecordedFailure {
                code: code.to_owned(),
                kind: kind.to_owned(),
                message: message.to_owned(),
            }),
        };
        Ok(Transaction { request_id, target, method, arguments, time_us, seed, outcome, writes, names })
    }
}

/// A transaction of which only the outside was read. See [`Transaction`] for its parts.
pub(super) struct RawTransaction<'a> {
    pub request_id: Option<&'a str>,
    pub target: Option<ObjectId>,
    pub method: &'a str,
    pub arguments: &'a [u8],
    pub time_us: u64,
    pub seed: u64,
    pub outcome: RawOutcome<'a>,
}

/// A version that a transaction made, still encoded.
pub(super) enum Change<'a> {
    Object(ObjectId, RawVersion<'a>),
    Name(&'a str, RawVersion<'a>),
}

/// An outcome that still lies in its record.
pub(super) enum RawOutcome<'a> {
    Done(&'a [u8]),
    /// Code, kind, message.
    Failed([&'a str; 3]),
}

impl<'a> RawTransaction<'a> {
    /// Reads a transaction as it stands in a record, and hands each version that it made to `visit`.
    pub(super) fn read_item(
        item: &'a [u8],
        visit: impl FnMut(Change<'a>) -> Result<(), DecodeError>,
    ) -> Result<RawTransaction<'a>, DecodeError> {
        unwrap_item(item).and_then(|bytes| RawTransaction::read(bytes, visit))
    }

    /// Reads a transaction and hands each version that it made to `visit`.
    pub(super) fn read(
        bytes: &'a [u8],
        mut visit: impl FnMut(Change<'a>) -> Result<(), DecodeError>,
    ) -> Result<RawTransaction<'a>, DecodeError> {
        let mut whole = Reader::new(bytes);
        let reader = &mut whole;
        expect_array(reader, 9)?;
        let request_id = if reader.null()? { None } else { Some(reader.text()?) };
        let target = read_object(reader)?;
        let method = reader.text()?;
        let arguments = reader.item()?;
        let time_us = reader.uint()?;
        let seed = reader.uint()?;
        let outcome = RawOutcome::read(reader)?;
        for _ in 0..reader.array()? {
            expect_array(reader, 5)?;
            let object = ObjectId(reader.uint()?);
            visit(Change::Object(object, RawVersion::read::<Arc<ObjectRecord>>(reader, bytes)?))?;
        }
        for _ in 0..reader.array()? {
            expect_array(reader, 5)?;
            let name = reader.text()?;
            visit(Change::Name(name, RawVersion::read::<ObjectId>(reader, bytes)?))?;
        }
        whole.finish()?;
        Ok(RawTransaction { request_id, target, method, arguments, time_us, seed, outcome })
    }
}

/// The content of the byte string that wraps a transaction in a record.
fn unwrap_item(item: &[u8]) -> Result<&[u8], DecodeError> {
    let mut reader = Reader::new(item);
    let bytes = reader.bytes()?;
    reader.finish()?;
    Ok(bytes)
}

fn read_object(reader: &mut Reader<'_>) -> Result<Option<ObjectId>, DecodeError> {
    if reader.null()? { Ok(None) } else { reader.uint().map(|id| Some(ObjectId(id))) }
}

impl<'a> RawOutcome<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<RawOutcome<'a>, DecodeError> {
        let length = reader.array()?;
        match (length, small(reader.uint()?)?) {
            (2, 0) => Ok(RawOutcome::Done(reader.item()?)),
            (4, 1) => Ok(RawOutcome::Failed([reader.text()?, reader.text()?, reader.text()?])),
            (length, kind) => Err(DecodeError::custom(format!("an outcome of kind {kind} with {length} items"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let record = ObjectRecord { behavior: "a.B".into(), schema: 1, parents: [].into(), slots: [0xa0].into() };
        let version = Arc::new(Version::first(Tid(7), Some(Arc::new(record))));
        let deleted = Arc::new(version.succeeded_by(Tid(8), None));
        let failure = RecordedFailure { code: "refused".into(), kind: "overdraft".into(), message: "no".into() };
        let failed = Outcome::failed(failure);
        let mut builder = BatchBuilder::default();
        let name: Arc<str> = "visits".into();
        let draft = Draft {
            request_id: Some("r-1"),
            target: Some(ObjectId(3)),
            method: "m",
            arguments: &[],
            time_us: 5,
            seed: u64::MAX,
            outcome: &Outcome::Done([].into()),
            writes: &[],
            names: &[(name.clone(), Some(ObjectId(3)))],
        };
        let named = NameVersion::first(Tid(7), Some(ObjectId(3)));
        let freed = named.succeeded_by(Tid(8), None);
        let made = |version: &Version, naming: &NameVersion| Versions {
            objects: vec![(ObjectId(3), version.clone())],
            names: vec![(name.clone(), naming.clone())],
        };
        builder.push(&draft, &made(&version, &named));
        let second = Draft {
            request_id: None,
            target: None,
            method: "theseus.delete",
            outcome: &failed,
            names: &[(name.clone(), None)],
            ..draft
        };
        builder.push(&second, &made(&deleted, &freed));
        let header = BatchHeader {
            first: Tid(7),
            last: Tid(8),
            time_us: 9,
            incarnation: Incarnation(2),
            generations: Arc::from([("counter".to_owned(), [7; 32])]),
            previous: RecordHash([9; 32]),
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.extend_from_slice(&builder.transactions);

        let view = BatchView::decode(&bytes).unwrap();
        assert_eq!(view.header, header);
        let first = view.transaction(Tid(7)).unwrap().unwrap();
        assert_eq!(first.request_id, Some("r-1"));
        assert_eq!(first.arguments, [0xf6]);
        assert_eq!(first.writes[0].record, version.record);
        let naming =
            |version: &NameVersion| Naming { name: "visits", pointers: version.pointers(), object: version.record };
        assert_eq!(first.names, [naming(&named)]);
        let second = view.transaction(Tid(8)).unwrap().unwrap();
        assert_eq!(second.outcome, failed);
        assert_eq!(second.writes[0].pointers, deleted.pointers());
        assert_eq!((second.writes[0].pointers.number, second.writes[0].pointers.previous), (2, Tid(7)));
        assert_eq!(second.names, [naming(&freed)]);
        assert_eq!(second.writes[0].record, None);
        assert!(view.transaction(Tid(9)).is_none());
        for length in 0..bytes.len() {
            assert!(BatchView::decode(&bytes[..length]).is_err());
        }
        an_index_finds_them(&view, &builder, &bytes);
        let mut empty = Vec::new();
        BatchHeader { first: Tid(8), last: Tid(7), ..header }.encode(&mut empty);
        assert!(BatchView::decode(&empty).is_err(), "a batch has a transaction");
    }

    fn an_index_finds_them(view: &BatchView<'_>, builder: &BatchBuilder, record: &[u8]) {
        let header_bytes = record.len() - builder.transactions.len();
        let stored = [record, &builder.index(&view.header, header_bytes)].concat();
        let read = |stored: &[u8], place: usize| {
            let (record, index) = Index::split(stored)?;
            let item = index.transaction(record, place, Tid(7 + place as u64))?;
            Some(Transaction::decode_item(item).unwrap().method.to_owned())
        };
        assert_eq!(read(&stored, 0).as_deref(), Some("m"));
        assert_eq!(read(&stored, 1).as_deref(), Some("theseus.delete"));
        assert_eq!(read(&stored, 2), None);
        assert!(view.fits(&Index::split(&stored).unwrap().1));
        // A damaged transaction is never taken for what was written; damage elsewhere may leave it alone.
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            for (place, method) in ["m", "theseus.delete"].into_iter().enumerate() {
                assert!(read(&damaged, place).is_none_or(|found| found == method), "bit {bit}");
            }
            if bit >= record.len() * 8 {
                let fits = Index::split(&damaged).is_some_and(|(found, index)| found == record && view.fits(&index));
                assert!(!fits, "bit {bit}");
            }
        }
        for length in 0..stored.len() {
            assert_eq!(Index::split(&stored[..length]).and_then(|_| read(&stored[..length], 0)), None, "{length}");
        }
    }
}
