//! Adding the content of a file to an identity, all of it or nothing.
//!
//! The file is read twice: once to find whatever is wrong with it, then to write it, in transactions of bounded size. While they
//! are being written the history has a note of where it ended before; whoever opens it with that note takes back what follows.

use std::{
    mem,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustc_hash::FxHashMap;
use theseus_value::{Map, ObjectId, Value};

use super::{
    Failure,
    lines::{Begin, Header, Line, Lines},
    survey::{Survey, slots},
};
use crate::{
    config::{self, Config},
    exec,
    home::Home,
    identity::{
        Committer, Draft, Head, Identity, Keep, ObjectRecord, Opened, Outcome, Reader, RequestMemory, Resume, Writer,
    },
    runtime::{host, owner::OwnerLock, start},
};

/// Under which its transactions stand in the history.
pub(in crate::runtime) const IMPORT: &str = "theseus.import";

/// How many objects one transaction has if the file does not say where transactions begin, and how many bytes of them.
const OBJECTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 4 << 20;

/// How many taken names a refusal shows.
const SHOWN_MAX: usize = 5;

/// How to import.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImportOptions {
    /// Refuse if an object cannot have the id that the file gives it.
    pub keep_ids: bool,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// Into which identity.
    pub identity: String,
    /// Where its history ends now.
    pub head: Head,
    /// How many objects the file defines.
    pub objects: u64,
    /// How many names it gives or frees.
    pub names: u64,
    /// In how many transactions.
    pub transactions: u64,
    /// How many objects have another id than in the file, because that was taken.
    pub renumbered: u64,
}

/// Imports a file into a home whose host does not run. `progress` is told the bytes that are done and all.
///
/// # Errors
///
/// See [`Failure`]. Nothing was imported then.
pub fn import(
    home: &Home,
    file: &Path,
    options: ImportOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Imported, Failure> {
    let config = Config::load(home)?;
    let place = host::place(home, &config);
    Identity::expect_there(&place)?;
    let _owner = OwnerLock::take(home)?;
    let (mut lines, _) = Lines::open(file)?;
    let survey = Survey::of(&mut lines, progress)?;
    let opened = Identity::open(&place, false)?;
    let ids = Ids::choose(&survey, &opened, options)?;
    check_names(&survey, &opened.identity)?;
    opened.identity.begin_import()?;
    let result = Import::begin(opened, &survey, ids, &config).and_then(|import| import.run(lines, progress));
    if result.is_err() {
        // Takes back what was written, as after a crash. If that fails too, whoever opens the identity next does it; what is to be
        // told is the first failure.
        _ = Identity::open(&place, false);
    }
    result
}

/// The greatest id that an object keeps: so many are left for those that come after it that they are never used up.
const ID_MAX: u64 = 1 << 62;

/// Which ids the objects of the file get.
struct Ids {
    /// Those that are not the file's.
    changed: FxHashMap<u64, u64>,
    /// Objects that are referred to and not defined: they have to stay missing.
    missing: Vec<u64>,
    renumbered: u64,
}

impl Ids {
    fn choose(survey: &Survey, opened: &Opened, options: ImportOptions) -> Result<Ids, Failure> {
        let free = opened.resume.next_object();
        let ids = survey.ids();
        let keeps = |id: &u64| (free..=ID_MAX).contains(id);
        let taken = ids.iter().filter(|id| !keeps(id) && survey.defines(**id)).count();
        if options.keep_ids && taken > 0 {
            return Err(Failure::IdsTaken { count: taken, next: free, greatest: ID_MAX });
        }
        let next = ids.iter().rev().find(|id| keeps(id)).map_or(free, |last| last + 1);
        let changed = ids.iter().copied().filter(|id| !keeps(id)).zip(next..).collect();
        let missing = ids.into_iter().filter(|id| !survey.defines(*id)).collect();
        Ok(Ids { changed, missing, renumbered: taken as u64 })
    }

    fn of(&self, id: u64) -> ObjectId {
        ObjectId(self.changed.get(&id).copied().unwrap_or(id))
    }

    /// Makes every reference within a value lead where its object is.
    fn follow(&self, value: Value) -> Value {
        match value {
            Value::Ref(object) => Value::Ref(self.of(object.0)),
            Value::Array(items) => Value::Array(items.into_iter().map(|item| self.follow(item)).collect()),
            Value::Map(map) => {
                let mut followed = Map::new();
                for (key, item) in map {
                    followed.insert(key, self.follow(item));
                }
                Value::Map(followed)
            }
            other => other,
        }
    }
}

/// A name that stands for an object cannot be given to another by the way.
fn check_names(survey: &Survey, identity: &Arc<Identity>) -> Result<(), Failure> {
    let (mut reader, mut taken) = (Reader::new(identity.clone()), Vec::new());
    let head = identity.head().tid;
    for name in survey.names() {
        let Some(object) = reader.name(name)? else { continue };
        // A name ends with its object.
        if reader.as_of(object, head)?.is_some_and(|version| version.record.is_some()) {
            taken.push(format!("`{name}`"));
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    taken.sort_unstable();
    let count = taken.len();
    taken.truncate(SHOWN_MAX);
    Err(Failure::NamesTaken { count, shown: taken })
}

type Writes = Vec<(ObjectId, Option<Arc<ObjectRecord>>)>;

/// An import under way.
struct Import {
    identity: Arc<Identity>,
    writer: Writer,
    committer: Committer,
    resume: Resume,
    ids: Ids,
    /// Objects and bytes after which a transaction ends although the file does not say so.
    bounds: (usize, usize),
    memory: RequestMemory,
    /// How much the identity may take.
    settings: config::Identity,
    lag_max: u64,
    batch_bytes_max: usize,
    expected: (u64, u64),
    /// Whether the host before stopped in order: the next start still wants to know.
    after_stop: bool,
    source: Option<(String, u64)>,
    begin: Begin,
    part: u64,
    writes: Writes,
    names: Vec<(Arc<str>, Option<ObjectId>)>,
    bytes: usize,
    transactions: u64,
}

impl Import {
    fn begin(opened: Opened, survey: &Survey, ids: Ids, config: &Config) -> Result<Import, Failure> {
        let Opened { identity, resume } = opened;
        let after_stop = start::ended_in_order(&identity)?;
        let bounds = match survey.has_transactions() {
            true => (config.execution.objects_per_transaction_max, config.execution.write_bytes_per_transaction_max),
            false => (OBJECTS_MAX, BYTES_MAX),
        };
        Ok(Import {
            writer: Writer::new(identity.clone(), &resume),
            committer: Committer::new(identity.clone(), resume.incarnation),
            identity,
            resume,
            ids,
            bounds,
            memory: exec::request_memory(&config.identity),
            settings: config.identity.clone(),
            lag_max: config.identity.tail_transactions_max.min(10_000),
            batch_bytes_max: config.execution.batch_bytes_max,
            expected: survey.counts(),
            after_stop,
            source: None,
            begin: Begin::default(),
            part: 0,
            writes: Vec::new(),
            names: Vec::new(),
            bytes: 0,
            transactions: 0,
        })
    }

    fn run(mut self, lines: Lines, progress: &mut dyn FnMut(u64, u64)) -> Result<Imported, Failure> {
        let (mut lines, Header { identity, tid, .. }) = lines.again()?;
        self.source = identity.zip(tid);
        self.miss()?;
        let mut found = (0, 0);
        while let Some(line) = lines.next()? {
            match line {
                Line::Begin(begin) => {
                    self.end_transaction()?;
                    (self.begin, self.part) = (begin, 0);
                }
                Line::Object(object) => {
                    found.0 += 1;
                    let id = self.ids.of(object.id);
                    let (behavior, schema) = (Arc::from(object.behavior.as_str()), object.schema);
                    let parents = object.parents.iter().map(|parent| self.ids.of(*parent)).collect();
                    let slots = self.ids.follow(slots(&lines, object)?).encode().into();
                    self.write(id, Some(ObjectRecord { behavior, schema, parents, slots }))?;
                }
                Line::Deleted(id) => {
                    found.0 += 1;
                    self.write(self.ids.of(id), None)?;
                }
                Line::Name(name) => {
                    found.1 += 1;
                    self.bytes += name.name.len();
                    self.names.push((Arc::from(name.name), name.id.map(|id| self.ids.of(id))));
                    self.end_if_full()?;
                }
                Line::End(_) => {}
            }
            let (done, total) = lines.progress();
            progress(total / 2 + done / 2, total);
        }
        if found != self.expected {
            return Err(lines.changed());
        }
        self.end_transaction()?;
        self.commit()?;
        self.checkpoint()?;
        self.identity.end_import()?;
        Ok(Imported {
            identity: self.identity.id().to_string(),
            head: self.identity.head(),
            objects: found.0,
            names: found.1,
            transactions: self.transactions,
            renumbered: self.ids.renumbered,
        })
    }

    /// Uses up the ids of objects that are referred to and not there: else a later object would get one of them.
    fn miss(&mut self) -> Result<(), Failure> {
        for id in mem::take(&mut self.ids.missing) {
            self.write(self.ids.of(id), None)?;
        }
        self.end_transaction()
    }

    fn write(&mut self, object: ObjectId, record: Option<ObjectRecord>) -> Result<(), Failure> {
        self.bytes += record.as_ref().map_or(0, |record| record.slots.len() + record.behavior.len());
        self.writes.push((object, record.map(Arc::new)));
        self.end_if_full()
    }

    fn end_if_full(&mut self) -> Result<(), Failure> {
        let (objects, bytes) = self.bounds;
        if self.writes.len() + self.names.len() >= objects || self.bytes >= bytes {
            return self.end_transaction();
        }
        Ok(())
    }

    /// Records what was collected, if anything was.
    fn end_transaction(&mut self) -> Result<(), Failure> {
        if self.writes.is_empty() && self.names.is_empty() {
            return Ok(());
        }
        self.writes.sort_unstable_by_key(|(object, _)| *object);
        self.names.sort_unstable();
        let arguments = self.note();
        self.writer.record(&Draft {
            request_id: None,
            target: None,
            method: IMPORT,
            arguments: &arguments,
            time_us: self.begin.time_us.unwrap_or_else(now_us),
            seed: 0,
            outcome: &Outcome::Done([].into()),
            writes: &self.writes,
            names: &self.names,
        })?;
        self.writes.clear();
        self.names.clear();
        (self.bytes, self.part) = (0, self.part + 1);
        self.transactions += 1;
        let (transactions, bytes) = self.writer.open_batch();
        if transactions >= 1024 || bytes >= self.batch_bytes_max {
            self.commit()?;
            if self.writer.lag() >= self.lag_max {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn note(&self) -> Vec<u8> {
        let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
        let from = self.source.as_ref().map_or(Value::Null, |(identity, tid)| {
            let mut from = Map::new();
            from.insert("identity", Value::Text(identity.clone()));
            from.insert("tid", *tid);
            Value::Map(from)
        });
        host::note([
            ("from", from),
            ("note", text(&self.begin.note)),
            ("user", text(&self.begin.user)),
            ("part", Value::Int(self.part.into())),
            ("after_stop", Value::Bool(self.after_stop)),
        ])
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if let Some(shortage) = exec::shortage(&self.identity, &self.settings)? {
            return Err(Failure::NoRoom(shortage));
        }
        let head = self.committer.append(self.writer.close_batch(), &self.resume.generations, now_us())?;
        self.committer.publish(head);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), Failure> {
        match self.writer.plan_checkpoint(self.memory, Keep::default()) {
            Some(plan) => Ok(self.identity.checkpoint(plan)?),
            None => Ok(()),
        }
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
