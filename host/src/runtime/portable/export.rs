//! Writing all objects and names as of a transaction.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use theseus_value::{Value, json::to_json};

use super::{
    FORMAT, Failure, VERSION,
    lines::{End, Header, Name, Object},
};
use crate::{
    config::Config,
    home::Home,
    identity::{HOST_OBJECT, Identity, ObjectWalk, Opened, Reader, Tid},
    runtime::{action::At, host},
};

/// How many objects or names are read in one read transaction.
const STEP: usize = 256;

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// From which identity.
    pub identity: String,
    /// As of which transaction.
    pub tid: u64,
    /// How many objects.
    pub objects: u64,
    /// How many names.
    pub names: u64,
}

/// Writes the objects and names of a home as of the moment `at`, or as of the last transaction. It reads the files, beside a running
/// host or without one.
///
/// The host's own object is left out: it is about this home.
///
/// # Errors
///
/// See [`Failure`].
pub fn export(home: &Home, at: Option<At>, out: &mut dyn Write) -> Result<Exported, Failure> {
    let config = Config::load(home)?;
    let Opened { identity, .. } = Identity::open(&host::place(home, &config), true)?;
    let last = identity.head().tid;
    let at = match at {
        None => last,
        Some(At::Tid(at)) if at == 0 || at > last.0 => return Err(Failure::NoSuchTransaction { at, last: last.0 }),
        Some(At::Tid(at)) => Tid(at),
        Some(At::Time { us }) => match identity.tid_at(us)? {
            Tid::NONE => return Err(Failure::NothingThen),
            at => at,
        },
    };
    let mut time_us = None;
    identity.with_batch(at, |batch| {
        let transaction = batch.transaction(at).transpose();
        time_us = transaction.map_err(|error| identity.damaged(at, error.to_string()))?.map(|it| it.time_us);
        Ok(())
    })?;
    let mut out = BufWriter::with_capacity(1 << 20, out);
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        identity: Some(identity.id().to_string()),
        tid: Some(at.0),
        head: identity.hash_at(at)?.map(|hash| hash.to_string()),
        time_us,
    };
    line(&mut out, &header)?;
    let mut reader = Reader::new(identity.clone());
    let objects = objects(&mut reader, at, &mut out)?;
    let names = names(&mut reader, at, &mut out)?;
    line(&mut out, &End { end: true, objects, names })?;
    out.flush().map_err(Failure::Output)?;
    Ok(Exported { identity: identity.id().to_string(), tid: at.0, objects, names })
}

fn objects(reader: &mut Reader, at: Tid, out: &mut impl Write) -> Result<u64, Failure> {
    let (mut walk, mut count) = (ObjectWalk::new(reader), 0);
    loop {
        let ids = walk.next(reader, STEP)?;
        if ids.is_empty() {
            return Ok(count);
        }
        for id in ids.into_iter().filter(|id| *id != HOST_OBJECT) {
            let Some(record) = reader.as_of(id, at)?.and_then(|version| version.record.clone()) else { continue };
            let slots = Value::decode(&record.slots)
                .map_err(|error| Failure::Slots { object: id.0, problem: error.to_string() })?;
            let object = Object {
                id: id.0,
                behavior: record.behavior.to_string(),
                schema: record.schema,
                parents: record.parents.iter().map(|parent| parent.0).collect(),
                slots: to_json(&slots),
            };
            line(out, &object)?;
            count += 1;
        }
        // A read transaction that is kept makes the file of a live host grow.
        reader.release();
    }
}

fn names(reader: &mut Reader, at: Tid, out: &mut impl Write) -> Result<u64, Failure> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = reader.names("", after.as_deref(), at, STEP)?;
        for (name, id) in page.names {
            // A name ends with its object.
            if reader.as_of(id, at)?.is_some_and(|version| version.record.is_some()) {
                line(out, &Name { name, id: Some(id.0) })?;
                count += 1;
            }
        }
        reader.release();
        after = page.next;
        if after.is_none() {
            return Ok(count);
        }
    }
}

fn line(out: &mut impl Write, line: &impl Serialize) -> Result<(), Failure> {
    let written = serde_json::to_writer(&mut *out, line).map_err(io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).map_err(Failure::Output)
}
