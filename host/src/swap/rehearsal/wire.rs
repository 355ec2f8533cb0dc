//! What crosses between the host and the child in which a rehearsal is done: deterministic CBOR, read with care on both sides.
//!
//! ```text
//! request = [0, limits, [file...] in force, [file...] fallbacks, [file...] offered] / [1, forget all, [step...]]
//! file    = [path, bytes]
//! step    = [tid, next object, [object...] to forget, [name...] to forget, [[object, record / null]...] as before it, transaction]
//! answer  = null / text: what could not be loaded      (to the first request)
//!         = [finding...]                                 (to the others)
//! finding = [class, reason / null, ns in force, ns offered, outcome / null, [change...], further changes]
//! change  = [object / null, path, recorded / null, offered / null]
//! need    = [0, tid, object] / [1, tid, object, schema] / [2, tid, name]
//! given   = [] (it could not be read) / [record / null] / [object / null]
//! ```
//!
//! Values stand in byte strings, so that how deep they are nested does not add up.

use std::{path::Path, sync::Arc};

use serde::de::Error as _;
use theseus_value::{
    DecodeError, ObjectId,
    raw::{Reader, Writer},
};

use super::report::Class;
use crate::{
    config::Execution,
    identity::{ObjectRecord, Outcome, RecordedFailure, Tid},
};

/// A plugin file as it crosses.
pub(super) struct File<'a> {
    /// Where it was read from, for messages.
    pub path: &'a Path,
    pub bytes: &'a [u8],
}

/// A question to the child.
pub(super) enum Request<'a> {
    /// Load these, and execute with these limits.
    Load { limits: Box<Execution>, in_force: Vec<File<'a>>, fallbacks: Vec<File<'a>>, offered: Vec<File<'a>> },
    /// Execute these transactions.
    Steps { forget_all: bool, steps: Vec<Step<'a>> },
}

/// A transaction to execute, and what the child cannot know of the past before it.
pub(super) struct Step<'a> {
    pub tid: Tid,
    pub next_object: u64,
    /// Objects that transactions in between wrote, which the child may have as they were before.
    pub forget_objects: Vec<ObjectId>,
    /// Names that transactions in between gave or freed.
    pub forget_names: Vec<&'a str>,
    /// Objects as they were before the transaction.
    pub objects: Vec<(ObjectId, Option<Arc<ObjectRecord>>)>,
    /// The transaction as it stands in the history.
    pub transaction: &'a [u8],
}

/// What the child asks back: something as it was before a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Need<'a> {
    Object(Tid, ObjectId),
    LastInSchema(Tid, ObjectId, u32),
    Name(Tid, &'a str),
}

/// What the child found out about a transaction.
#[derive(PartialEq, Debug)]
pub(super) struct Finding {
    pub class: Class,
    pub reason: Option<String>,
    /// How long it took with the plugins in force, and with those offered, in nanoseconds.
    pub in_force_ns: u64,
    pub offered_ns: u64,
    /// How it ended with those offered; none if it was not executed with them.
    pub outcome: Option<Outcome>,
    pub changes: Vec<Change>,
    /// How many differences there are beyond `changes`.
    pub more: u64,
}

/// One place where the record and the candidate differ.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Change {
    /// The object, if it is about one.
    pub object: Option<ObjectId>,
    /// The place, within the object if there is one.
    pub path: String,
    /// The encoded value in the record; none if there is none.
    pub recorded: Option<Box<[u8]>>,
    /// The encoded value with the plugins offered.
    pub offered: Option<Box<[u8]>>,
}

// --- To the child -----------------------------------------------------------------------------------------------------

/// `files` are those in force, their fallbacks, and those offered.
pub(super) fn write_load(limits: &Execution, files: [Vec<File<'_>>; 3]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.array(5);
    writer.uint(0);
    writer.raw(&theseus_value::to_vec(limits).expect("numbers have an encoding"));
    for files in files {
        writer.array(files.len());
        for file in files {
            writer.array(2);
            writer.text(&file.path.to_string_lossy());
            writer.bytes(file.bytes);
        }
    }
    out
}

pub(super) fn write_steps(forget_all: bool, steps: &[Step<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.array(3);
    writer.uint(1);
    writer.bool(forget_all);
    writer.array(steps.len());
    for step in steps {
        let mut writer = Writer::new(&mut out);
        writer.array(6);
        writer.uint(step.tid.0);
        writer.uint(step.next_object);
        writer.array(step.forget_objects.len());
        step.forget_objects.iter().for_each(|object| writer.uint(object.0));
        writer.array(step.forget_names.len());
        step.forget_names.iter().for_each(|name| writer.text(name));
        writer.array(step.objects.len());
        for (object, record) in &step.objects {
            let mut writer = Writer::new(&mut out);
            writer.array(2);
            writer.uint(object.0);
            write_record(&mut out, record.as_deref());
        }
        Writer::new(&mut out).bytes(step.transaction);
    }
    out
}

impl<'a> Request<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let request = match (reader.array()?, reader.uint()?) {
            (5, 0) => {
                let limits = Box::new(theseus_value::from_slice(reader.item()?)?);
                let (in_force, fallbacks) = (read_files(&mut reader)?, read_files(&mut reader)?);
                Request::Load { limits, in_force, fallbacks, offered: read_files(&mut reader)? }
            }
            (3, 1) => {
                let forget_all = reader.bool()?;
                let count = reader.array()?;
                let steps = (0..count).map(|_| Step::read(&mut reader)).collect::<Result<_, _>>()?;
                Request::Steps { forget_all, steps }
            }
            (length, kind) => return Err(unknown("request", kind, length)),
        };
        reader.finish()?;
        Ok(request)
    }
}

fn read_files<'a>(reader: &mut Reader<'a>) -> Result<Vec<File<'a>>, DecodeError> {
    let count = reader.array()?;
    let file = |_| {
        array(reader, 2)?;
        Ok(File { path: Path::new(reader.text()?), bytes: reader.bytes()? })
    };
    (0..count).map(file).collect()
}

impl<'a> Step<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Step<'a>, DecodeError> {
        array(reader, 6)?;
        let (tid, next_object) = (Tid(reader.uint()?), reader.uint()?);
        let count = reader.array()?;
        let forget_objects = (0..count).map(|_| reader.uint().map(ObjectId)).collect::<Result<_, _>>()?;
        let count = reader.array()?;
        let forget_names = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
        let count = reader.array()?;
        let object = |_| {
            array(reader, 2)?;
            Ok((ObjectId(reader.uint()?), read_record(reader)?))
        };
        let objects = (0..count).map(object).collect::<Result<_, DecodeError>>()?;
        Ok(Step { tid, next_object, forget_objects, forget_names, objects, transaction: reader.bytes()? })
    }
}

// --- What the child needs ---------------------------------------------------------------------------------------------

impl<'a> Need<'a> {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        let (length, kind, tid) = match self {
            Need::Object(tid, _) => (3, 0, tid),
            Need::LastInSchema(tid, ..) => (4, 1, tid),
            Need::Name(tid, _) => (3, 2, tid),
        };
        writer.array(length);
        writer.uint(kind);
        writer.uint(tid.0);
        match self {
            Need::Object(_, object) => writer.uint(object.0),
            Need::LastInSchema(_, object, schema) => {
                writer.uint(object.0);
                writer.uint(u64::from(*schema));
            }
            Need::Name(_, name) => writer.text(name),
        }
        out
    }

    pub(super) fn read(bytes: &'a [u8]) -> Result<Need<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (length, kind, tid) = (reader.array()?, reader.uint()?, Tid(reader.uint()?));
        let need = match (length, kind) {
            (3, 0) => Need::Object(tid, ObjectId(reader.uint()?)),
            (4, 1) => {
                let object = ObjectId(reader.uint()?);
                let schema = u32::try_from(reader.uint()?).map_err(DecodeError::custom)?;
                Need::LastInSchema(tid, object, schema)
            }
            (3, 2) => Need::Name(tid, reader.text()?),
            _ => return Err(unknown("need", kind, length)),
        };
        reader.finish()?;
        Ok(need)
    }
}

/// What is given if it could not be read.
pub(super) fn give_nothing() -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).array(0);
    out
}

pub(super) fn give_record(record: Option<&ObjectRecord>) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).array(1);
    write_record(&mut out, record);
    out
}

pub(super) fn give_object(object: Option<ObjectId>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.array(1);
    optional(&mut writer, object, |writer, object| writer.uint(object.0));
    out
}

/// A record, if the parent could read whether there is one.
#[expect(clippy::option_option, reason = "not known and not there are different things")]
pub(super) fn take_record(bytes: &[u8]) -> Result<Option<Option<Arc<ObjectRecord>>>, DecodeError> {
    take(bytes, read_record)
}

/// The object of a name, if the parent could read whether there is one.
#[expect(clippy::option_option, reason = "not known and not there are different things")]
pub(super) fn take_object(bytes: &[u8]) -> Result<Option<Option<ObjectId>>, DecodeError> {
    take(bytes, |reader| if reader.null()? { Ok(None) } else { Ok(Some(ObjectId(reader.uint()?))) })
}

fn take<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let taken = if reader.array()? == 0 { None } else { Some(read(&mut reader)?) };
    reader.finish()?;
    Ok(taken)
}

// --- From the child ---------------------------------------------------------------------------------------------------

pub(super) fn write_loaded(loaded: &Result<(), String>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    optional(&mut writer, loaded.as_ref().err(), |writer, problem| writer.text(problem));
    out
}

/// What could not be loaded; none if all could.
pub(super) fn read_loaded(bytes: &[u8]) -> Result<Option<String>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let problem = optional_text(&mut reader)?;
    reader.finish()?;
    Ok(problem)
}

pub(super) fn write_findings(findings: &[Finding]) -> Vec<u8> {
    let mut out = Vec::new();
    Writer::new(&mut out).array(findings.len());
    for finding in findings {
        finding.write(&mut out);
    }
    out
}

pub(super) fn read_findings(bytes: &[u8]) -> Result<Vec<Finding>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.array()?;
    let findings = (0..count).map(|_| Finding::read(&mut reader)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(findings)
}

impl Finding {
    /// Of a transaction that was not executed to an end.
    pub(super) fn without(class: Class, reason: String) -> Finding {
        let (outcome, changes) = (None, Vec::new());
        Finding { class, reason: Some(reason), in_force_ns: 0, offered_ns: 0, outcome, changes, more: 0 }
    }

    /// How much its values hold, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let outcome = match &self.outcome {
            Some(Outcome::Done(result)) => result.len(),
            Some(Outcome::Failed(failure)) => failure.message.len(),
            None => 0,
        };
        let value = |value: &Option<Box<[u8]>>| value.as_ref().map_or(0, |value| value.len());
        let changes = self.changes.iter().map(|it| it.path.len() + value(&it.recorded) + value(&it.offered));
        outcome + changes.sum::<usize>()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(7);
        writer.uint(self.class as u64);
        optional(&mut writer, self.reason.as_ref(), |writer, reason| writer.text(reason));
        writer.uint(self.in_force_ns);
        writer.uint(self.offered_ns);
        optional(&mut writer, self.outcome.as_ref(), write_outcome);
        writer.array(self.changes.len());
        for change in &self.changes {
            writer.array(4);
            optional(&mut writer, change.object, |writer, object| writer.uint(object.0));
            writer.text(&change.path);
            optional(&mut writer, change.recorded.as_ref(), |writer, value| writer.bytes(value));
            optional(&mut writer, change.offered.as_ref(), |writer, value| writer.bytes(value));
        }
        writer.uint(self.more);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Finding, DecodeError> {
        array(reader, 7)?;
        let class = reader.uint()?;
        let class = Class::ALL.into_iter().find(|it| *it as u64 == class).ok_or_else(|| unknown("class", class, 7))?;
        let reason = optional_text(reader)?;
        let (in_force_ns, offered_ns) = (reader.uint()?, reader.uint()?);
        let outcome = if reader.null()? { None } else { Some(read_outcome(reader)?) };
        let count = reader.array()?;
        let change = |_| {
            array(reader, 4)?;
            let object = if reader.null()? { None } else { Some(ObjectId(reader.uint()?)) };
            let path = reader.text()?.to_owned();
            Ok(Change { object, path, recorded: optional_value(reader)?, offered: optional_value(reader)? })
        };
        let changes = (0..count).map(change).collect::<Result<_, DecodeError>>()?;
        Ok(Finding { class, reason, in_force_ns, offered_ns, outcome, changes, more: reader.uint()? })
    }
}

fn write_outcome(writer: &mut Writer<'_>, outcome: &Outcome) {
    match outcome {
        Outcome::Done(result) => {
            writer.array(1);
            writer.bytes(result);
        }
        Outcome::Failed(failure) => {
            writer.array(3);
            writer.text(&failure.code);
            writer.text(&failure.kind);
            writer.text(&failure.message);
        }
    }
}

fn read_outcome(reader: &mut Reader<'_>) -> Result<Outcome, DecodeError> {
    match reader.array()? {
        1 => Ok(Outcome::Done(value(reader)?.into())),
        3 => {
            let (code, kind) = (reader.text()?.to_owned(), reader.text()?.to_owned());
            Ok(Outcome::failed(RecordedFailure { code, kind, message: reader.text()?.to_owned() }))
        }
        length => Err(unknown("outcome", 0, length)),
    }
}

// --- Parts ------------------------------------------------------------------------------------------------------------

fn write_record(out: &mut Vec<u8>, record: Option<&ObjectRecord>) {
    match record {
        Some(record) => record.encode(out),
        None => Writer::new(out).null(),
    }
}

fn read_record(reader: &mut Reader<'_>) -> Result<Option<Arc<ObjectRecord>>, DecodeError> {
    if reader.null()? { Ok(None) } else { ObjectRecord::decode(reader).map(|record| Some(Arc::new(record))) }
}

fn optional<T>(writer: &mut Writer<'_>, part: Option<T>, write: impl FnOnce(&mut Writer<'_>, T)) {
    match part {
        Some(part) => write(writer, part),
        None => writer.null(),
    }
}

fn optional_text(reader: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    if reader.null()? { Ok(None) } else { Ok(Some(reader.text()?.to_owned())) }
}

fn optional_value(reader: &mut Reader<'_>) -> Result<Option<Box<[u8]>>, DecodeError> {
    if reader.null()? { Ok(None) } else { value(reader).map(Some) }
}

/// A value in its byte string.
fn value(reader: &mut Reader<'_>) -> Result<Box<[u8]>, DecodeError> {
    let value = reader.bytes()?;
    theseus_value::raw::validate(value)?;
    Ok(value.into())
}

fn array(reader: &mut Reader<'_>, expected: usize) -> Result<(), DecodeError> {
    match reader.array()? {
        length if length == expected => Ok(()),
        length => Err(DecodeError::custom(format!("an array of {length} items where one of {expected} belongs"))),
    }
}

fn unknown(what: &str, kind: u64, length: usize) -> DecodeError {
    DecodeError::custom(format!("a {what} of kind {kind} with {length} items"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Arc<ObjectRecord> {
        Arc::new(ObjectRecord {
            behavior: "a.B".into(),
            schema: 2,
            parents: [ObjectId(3)].into(),
            slots: [0xa0].into(),
        })
    }

    #[test]
    fn requests_read_back() {
        let limits = Execution { nesting_max: 7, ..Execution::default() };
        let file = |path: &'static str, bytes| File { path: Path::new(path), bytes };
        let bytes = write_load(&limits, [vec![file("a", b"x")], vec![], vec![file("b", b"y"), file("c", b"")]]);
        let Request::Load { limits: read, in_force, fallbacks, offered } = Request::read(&bytes).unwrap() else {
            panic!()
        };
        assert!(fallbacks.is_empty());
        assert_eq!(*read, limits);
        assert_eq!((in_force.len(), offered.len(), offered[0].bytes), (1, 2, &b"y"[..]));
        assert_eq!(offered[1].path, Path::new("c"));

        let step = Step {
            tid: Tid(9),
            next_object: 5,
            forget_objects: vec![ObjectId(1)],
            forget_names: vec!["visits"],
            objects: vec![(ObjectId(4), Some(record())), (ObjectId(5), None)],
            transaction: b"as it is",
        };
        let bytes = write_steps(true, &[step]);
        let Request::Steps { forget_all: true, steps } = Request::read(&bytes).unwrap() else { panic!() };
        assert_eq!((steps[0].tid, steps[0].next_object), (Tid(9), 5));
        assert_eq!(steps[0].objects, [(ObjectId(4), Some(record())), (ObjectId(5), None)]);
        assert_eq!((&steps[0].forget_objects[..], &steps[0].forget_names[..]), (&[ObjectId(1)][..], &["visits"][..]));
        assert_eq!(steps[0].transaction, b"as it is");
        for length in 0..bytes.len() {
            assert!(Request::read(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn needs_and_what_is_given_read_back() {
        for need in
            [Need::Object(Tid(1), ObjectId(2)), Need::LastInSchema(Tid(1), ObjectId(2), 3), Need::Name(Tid(4), "a")]
        {
            assert_eq!(Need::read(&need.write()).unwrap(), need);
        }
        assert_eq!(take_record(&give_nothing()).unwrap(), None);
        assert_eq!(take_record(&give_record(None)).unwrap(), Some(None));
        assert_eq!(take_record(&give_record(Some(&record()))).unwrap(), Some(Some(record())));
        assert_eq!(take_object(&give_object(Some(ObjectId(2)))).unwrap(), Some(Some(ObjectId(2))));
    }

    #[test]
    fn findings_read_back() {
        let failure = RecordedFailure { code: "refused".into(), kind: "no".into(), message: "never".into() };
        let change =
            Change { object: Some(ObjectId(1)), path: "slots.a".into(), recorded: None, offered: Some([1].into()) };
        let finding = |outcome| Finding {
            class: Class::DifferentResult,
            reason: Some("because".into()),
            in_force_ns: 1,
            offered_ns: 2,
            outcome,
            changes: vec![change.clone(), Change { object: None, ..change.clone() }],
            more: 3,
        };
        for outcome in [None, Some(Outcome::Done([0xf6].into())), Some(Outcome::failed(failure))] {
            let findings = [finding(outcome)];
            let bytes = write_findings(&findings);
            assert_eq!(read_findings(&bytes).unwrap(), findings);
            assert!(read_findings(&bytes[..bytes.len() - 1]).is_err());
        }
        assert_eq!(read_loaded(&write_loaded(&Err("no".into()))).unwrap().as_deref(), Some("no"));
        assert_eq!(read_loaded(&write_loaded(&Ok(()))).unwrap(), None);
    }
}
