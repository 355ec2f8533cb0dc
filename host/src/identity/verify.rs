//! Proving an identity whole: every record hash, every link of the chain, and the object table against the history.
//!
//! It only reads, and may run beside a live host; but a damaged LMDB page can take a process down, so it belongs into a
//! process of its own.

use rustc_hash::FxHashMap;
use theseus_value::ObjectId;

use super::{
    Head, IdentityId, Place, StorageError, Tid, Version,
    batch::BatchView,
    fingerprint,
    history::{History, StoredBatch},
    table::{Reached, RequestRow, Table, TableView},
    write::count,
};

/// One place where an identity is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The identity's own id.
    pub identity: IdentityId,
    /// The last record.
    pub head: Head,
    /// Records walked.
    pub batches: u64,
    /// Transactions walked.
    pub transactions: u64,
    /// Bytes of history walked.
    pub bytes: u64,
    /// Rows of the object table compared.
    pub rows: u64,
    /// What is damaged: at most [`DAMAGE_MAX`] places. Empty if the identity is whole.
    pub damage: Vec<Damage>,
}

/// How many damaged places are listed before the search ends.
pub(super) const DAMAGE_MAX: usize = 100;

/// Takes how many transactions and rows are done, and how many there are.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Walks a whole identity.
///
/// # Errors
///
/// If there is none or the storage fails; damage is not an error but part of the answer.
pub fn verify(place: &Place, progress: Progress<'_>) -> Result<Verified, StorageError> {
    let history = History::open(&place.history, place.history_bytes_max, true)?;
    // The table first: the history is then at least as new.
    let table = match Table::open(&place.objects, place.objects_bytes_max, false, true) {
        Ok(table) => Some(table.read()?),
        Err(StorageError::Missing { .. }) => None,
        Err(error) => return Err(error),
    };
    let view = history.read()?;
    let head = view.head()?;
    let mut walk = Walk {
        table,
        reached: Tid::NONE,
        objects: FxHashMap::default(),
        names: FxHashMap::default(),
        requests: FxHashMap::default(),
        broken: false,
        head: Head::default(),
        found: Verified {
            identity: view.identity()?,
            head,
            batches: 0,
            transactions: 0,
            bytes: 0,
            rows: 0,
            damage: Vec::new(),
        },
    };
    let rows = walk.open_table()?;
    let total = head.tid.0 + rows;
    view.walk_stored::<StorageError>(|key, value| {
        walk.batch(key, value);
        if walk.head.tid == walk.reached {
            walk.compare_table()?;
        }
        progress(walk.found.transactions + walk.found.rows, total);
        Ok(walk.found.damage.len() < DAMAGE_MAX)
    })?;
    if walk.head.tid < walk.reached {
        let problem = format!("it ends with transaction {}, the objects are as of {}", walk.head.tid, walk.reached);
        walk.damage("history".to_owned(), problem);
    } else if walk.table.is_some() && rows > 0 && walk.found.damage.is_empty() {
        let problem = format!("it is as of transaction {}, with which no record of the history ends", walk.reached);
        walk.damage("object table".to_owned(), problem);
    }
    Ok(walk.found)
}

struct Walk {
    table: Option<TableView>,
    /// The transaction as of which the table is.
    reached: Tid,
    /// What the history says so far.
    objects: FxHashMap<ObjectId, Version>,
    names: FxHashMap<String, (Tid, ObjectId)>,
    /// The requests that the table remembers and the history has not shown yet.
    requests: FxHashMap<String, RequestRow>,
    /// The last record walked.
    head: Head,
    /// Whether a record could not be read, so that what follows from the records is not known any more.
    broken: bool,
    found: Verified,
}

impl Walk {
    /// Reads how far the table has come; answers how many rows it has. A table that cannot say is damaged and left out.
    fn open_table(&mut self) -> Result<u64, StorageError> {
        let Some(table) = &self.table else { return Ok(0) };
        let read = table.reached().and_then(|reached| {
            self.reached = reached.tid;
            table.walk_requests(|id, row| {
                self.found.rows += 1;
                match row {
                    Ok(row) => _ = self.requests.insert(id.to_owned(), row),
                    Err(problem) => {
                        self.found.damage.push(Damage { place: format!("the request id `{id}`"), problem });
                    }
                }
                Ok(self.found.damage.len() < DAMAGE_MAX)
            })?;
            table.rows()
        });
        read.or_else(|error| {
            self.table = None;
            self.damage("object table".to_owned(), error.to_string());
            Ok(0)
        })
    }

    fn damage(&mut self, place: String, problem: String) {
        self.found.damage.push(Damage { place, problem });
    }

    fn batch(&mut self, key: &[u8], value: &[u8]) {
        self.found.batches += 1;
        self.found.bytes += value.len() as u64;
        let expected_first = self.head.tid.next();
        let stored = match StoredBatch::split(key, value) {
            Ok(stored) => stored,
            Err(problem) => return self.damage(format!("history record after transaction {}", self.head.tid), problem),
        };
        let place = format!("history record of transactions {expected_first} to {}", stored.last);
        match stored.check() {
            Ok(view) => self.whole_batch(&place, &view),
            Err(problem) => {
                self.broken = true;
                self.damage(place, problem);
            }
        }
        // The stored hash, damaged or not, is what the next record's link is compared with: each damage is told once.
        self.head = Head { tid: stored.last, hash: stored.hash };
    }

    fn whole_batch(&mut self, place: &str, view: &BatchView<'_>) {
        let header = &view.header;
        if header.first != self.head.tid.next() {
            let problem = format!("it begins with transaction {}, so some are missing before it", header.first);
            self.damage(place.to_owned(), problem);
        }
        if header.previous != self.head.hash {
            let problem = format!("it continues {}, but the record before it is {}", header.previous, self.head.hash);
            self.damage(place.to_owned(), problem);
        }
        for (tid, transaction) in view.transactions() {
            self.found.transactions += 1;
            match transaction {
                Ok(transaction) => {
                    if let Some(id) = transaction.request_id {
                        let (target, fingerprint) =
                            (transaction.target, fingerprint(transaction.method, transaction.arguments));
                        if self.requests.get(id) == Some(&RequestRow { tid, target, fingerprint }) {
                            self.requests.remove(id);
                        }
                    }
                    for write in transaction.writes {
                        self.write(tid, write);
                    }
                    for (name, object) in transaction.names {
                        match object {
                            Some(object) => self.names.insert(name.to_owned(), (tid, object)),
                            None => self.names.remove(name),
                        };
                    }
                }
                Err(error) => self.damage(format!("transaction {tid}"), error.to_string()),
            }
        }
    }

    fn write(&mut self, tid: Tid, write: super::Write) {
        let object = write.object;
        let version = match self.objects.get(&object) {
            Some(before) => before.succeeded_by(tid, write.record.clone()),
            None => Version::first(tid, write.record.clone()),
        };
        let (found, expected) =
            ((write.number, write.previous, write.jump), (version.number, version.previous, version.jump()));
        if found != expected && !self.broken {
            let (found, expected) = (pointers(&found), pointers(&expected));
            let place = format!("transaction {tid}, object {object}");
            self.damage(place, format!("it is {found}, but the versions before it ask for {expected}"));
        }
        self.objects.insert(object, version);
    }

    /// Compares the table with what the history says at the transaction that the table has reached.
    fn compare_table(&mut self) -> Result<(), StorageError> {
        let Some(table) = self.table.take() else { return Ok(()) };
        if self.broken {
            // Each row's own seal was all that could be checked, and the damaged record is what has to be mended first.
            return self.check_seals(&table);
        }
        let (mut rows, mut objects, mut names) = (0, 0, 0);
        let mut damage = Vec::new();
        table.walk_objects(|object, row| {
            rows += 1;
            let expected = self.objects.get(&object);
            objects += usize::from(expected.is_some());
            if let Err(problem) = compare_object(row, expected) {
                damage.push(Damage { place: format!("object {object}"), problem });
            }
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        table.walk_names(|name, row| {
            rows += 1;
            let expected = self.names.get(name);
            names += usize::from(expected.is_some());
            if let Err(problem) = compare_name(row, expected) {
                damage.push(Damage { place: format!("the name `{name}`"), problem });
            }
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        for (id, row) in self.requests.drain().take(DAMAGE_MAX) {
            let problem = format!("its row points to transaction {}, which is not that request", row.tid);
            damage.push(Damage { place: format!("the request id `{id}`"), problem });
        }
        let reached = self.expected_reached();
        if table.reached()? != reached {
            let problem = format!("the history asks for {reached:?}");
            damage.push(Damage { place: "the note of how far the object table has come".to_owned(), problem });
        }
        if damage.len() < DAMAGE_MAX && (objects, names) != (self.objects.len(), self.names.len()) {
            self.look_for_missing(&table, &mut damage)?;
        }
        self.found.rows += rows;
        self.found.damage.append(&mut damage);
        Ok(())
    }

    /// Checks what can be checked of the table without the history.
    fn check_seals(&mut self, table: &TableView) -> Result<(), StorageError> {
        let mut damage = Vec::new();
        table.walk_objects(|object, row| {
            damage.extend(row.err().map(|problem| Damage { place: format!("object {object}"), problem }));
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        table.walk_names(|name, row| {
            damage.extend(row.err().map(|problem| Damage { place: format!("the name `{name}`"), problem }));
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        self.found.damage.append(&mut damage);
        Ok(())
    }

    /// What the table's own note has to say.
    fn expected_reached(&self) -> Reached {
        let mut expected = Reached { tid: self.reached, ..Reached::start() };
        for (object, version) in &self.objects {
            expected.next_object = expected.next_object.max(object.0 + 1);
            count(&mut expected.census, *object, None, version);
        }
        expected
    }

    /// Lists what the history has and the table has not.
    fn look_for_missing(&self, table: &TableView, damage: &mut Vec<Damage>) -> Result<(), StorageError> {
        for (object, version) in &self.objects {
            if table.object(*object)?.is_none() {
                let problem = format!("the object table lacks it, transaction {} wrote it", version.tid);
                damage.push(Damage { place: format!("object {object}"), problem });
            }
        }
        for (name, (tid, _)) in &self.names {
            if table.name(name)?.is_none() {
                let problem = format!("the object table lacks it, transaction {tid} gave it");
                damage.push(Damage { place: format!("the name `{name}`"), problem });
            }
        }
        damage.truncate(DAMAGE_MAX);
        Ok(())
    }
}

fn pointers((number, previous, jump): &(u64, Tid, Tid)) -> String {
    format!("version {number} after transaction {previous}, jumping to {jump}")
}

fn compare_object(row: Result<Version, String>, expected: Option<&Version>) -> Result<(), String> {
    let row = row?;
    match expected {
        Some(expected) if *expected == row => Ok(()),
        Some(expected) if (expected.number, expected.tid) == (row.number, row.tid) => {
            Err(format!("its content is not what transaction {} wrote", row.tid))
        }
        Some(expected) => Err(format!(
            "it is version {} of transaction {}, the history has version {} of transaction {}",
            row.number, row.tid, expected.number, expected.tid
        )),
        None => Err("the history does not have it".to_owned()),
    }
}

fn compare_name(row: Result<(Tid, ObjectId), String>, expected: Option<&(Tid, ObjectId)>) -> Result<(), String> {
    match (row?, expected) {
        (row, Some(expected)) if row == *expected => Ok(()),
        ((tid, object), Some((expected_tid, expected))) => Err(format!(
            "it stands for object {object} since transaction {tid}, in the history for {expected} since {expected_tid}"
        )),
        (_, None) => Err("the history does not have it".to_owned()),
    }
}
