//! Proving an identity whole: every record hash, every link of the chain, and the object table against the history.
//!
//! It only reads, and may run beside a live host; but a damaged LMDB page can take a process down, so it belongs into a
//! process of its own.

use std::{iter::Peekable, sync::Arc, vec};

use rustc_hash::FxHashMap;
use theseus_value::{DecodeError, ObjectId, raw::Reader};
use twox_hash::XxHash3_64;

use super::{
    BaseDigest, BaseMark, HOST_OBJECT, Head, IdentityId, ObjectRecord, PACK, Place, Pointers, StorageError, Tid,
    base::hash_row,
    batch::{BatchView, Change, RawTransaction},
    fingerprint,
    history::{History, HistoryView, StoredBatch},
    lmdb::Db,
    secondary,
    table::{NAMES, OBJECTS, REQUESTS, Reached, RememberedRow, RequestRow, Table, TableView, read_row, unseal},
    version::{RawVersion, Row, Versioned, jump_number},
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
    let history = History::open(place, true)?;
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
        kinds: Kinds::default(),
        names: FxHashMap::default(),
        requests: Vec::new().into_iter().peekable(),
        base: None,
        based: FxHashMap::default(),
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
    let packed = view.packed().tid.0;
    let based = walk.base(&view)?;
    let total = head.tid.0 - packed + based + rows;
    if packed > 0 && walk.head.tid == walk.reached {
        walk.compare_table()?;
    }
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
    objects: FxHashMap<ObjectId, Seen>,
    kinds: Kinds,
    names: FxHashMap<String, Seen>,
    /// The requests that the table remembers and the history has not shown yet, oldest first.
    requests: Peekable<vec::IntoIter<RememberedRow>>,
    /// The base that the history stands on.
    base: Option<BaseMark>,
    /// The requests that it remembers.
    based: FxHashMap<u64, RequestRow>,
    /// The last record walked.
    head: Head,
    /// Whether a record could not be read, so that what follows from the records is not known any more.
    broken: bool,
    found: Verified,
}

/// The newest version of an object or a name so far: what is needed to judge the next one and the row, without its content.
struct Seen {
    tid: Tid,
    number: u64,
    previous: Tid,
    /// [`Version::spine`], last first, so that it grows and shrinks at its end.
    spine: Vec<Tid>,
    /// A digest of the content; none if the object is deleted or the name free.
    digest: Option<u64>,
    /// Of an object, the number of its behaviour and schema version.
    kind: usize,
}

impl Seen {
    /// What a row says.
    fn of(row: &Row<'_>) -> Seen {
        let spine = row.spine.iter().rev().copied().collect();
        let (tid, number, previous, digest) = (row.tid, row.number, row.previous, row.content.map(digest));
        Seen { tid, number, previous, spine, digest, kind: 0 }
    }

    fn first(tid: Tid) -> Seen {
        Seen { tid, number: 1, previous: Tid::NONE, spine: Vec::new(), digest: None, kind: 0 }
    }

    /// See [`Version::succeeded_by`].
    fn advance(&mut self, tid: Tid) {
        self.number += 1;
        if jump_number(self.number) == self.number - 1 {
            self.spine.push(self.tid);
        } else {
            self.spine.pop();
        }
        (self.previous, self.tid) = (self.tid, tid);
    }

    /// Takes the version's content. Where the version does not stand where those before it ask for, says of what and how.
    fn take<K: Versioned + ?Sized>(&mut self, key: &K, version: RawVersion<'_>) -> Result<(), (String, String)> {
        self.digest = version.content.map(digest);
        let (found, expected) = (version.pointers, self.pointers());
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (pointers(found), pointers(expected));
        Err((key.describe(), format!("it is {found}, but the versions before it ask for {expected}")))
    }

    fn pointers(&self) -> Pointers {
        let jump = self.spine.last().copied().unwrap_or_default();
        Pointers { number: self.number, previous: self.previous, jump }
    }
}

/// The behaviours and schema versions that objects have, by number.
#[derive(Default)]
struct Kinds(Vec<(Arc<str>, u32)>);

impl Kinds {
    /// The number of a kind; `guess` is looked at first.
    fn number(&mut self, guess: usize, behavior: &str, schema: u32) -> usize {
        let same = |(known, version): &(Arc<str>, u32)| **known == *behavior && *version == schema;
        if self.0.get(guess).is_some_and(same) {
            return guess;
        }
        self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push((behavior.into(), schema));
            self.0.len() - 1
        })
    }
}

fn digest(record: &[u8]) -> u64 {
    XxHash3_64::oneshot(record)
}

impl Walk {
    /// Begins with the base, if there is one: its rows have to be those that the history names. Answers how many there are.
    fn base(&mut self, view: &HistoryView) -> Result<u64, StorageError> {
        let Some((mark, base)) = view.base_rows()? else { return Ok(0) };
        let (mut hasher, mut rows) = (blake3::Hasher::new(), 0);
        let mut damage = Vec::new();
        base.every_entry(|db, key, value| {
            rows += 1;
            hash_row(&mut hasher, key, value);
            if let Err(problem) = self.base_row(db, key, value) {
                damage.push(Damage { place: format!("the base, row {rows}"), problem });
            }
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        let digest = BaseDigest(*hasher.finalize().as_bytes());
        if digest != mark.digest && damage.len() < DAMAGE_MAX {
            let problem = format!("its rows have the digest {digest}, but it was put in force as {}", mark.digest);
            damage.push(Damage { place: "the base".to_owned(), problem });
        }
        self.broken |= !damage.is_empty();
        self.found.damage.append(&mut damage);
        self.found.rows += rows;
        self.head = mark.head;
        self.base = Some(mark);
        // What was packed away is remembered by the base alone.
        while let Some(remembered) = self.requests.next_if(|row| row.row.tid <= mark.head.tid) {
            if self.based.get(&remembered.id) != Some(&remembered.row) && !self.broken {
                self.wrong_request(&remembered);
            }
        }
        self.based = FxHashMap::default();
        Ok(rows)
    }

    /// Takes up what a row of the base says.
    fn base_row(&mut self, db: Db, key: &[u8], value: &[u8]) -> Result<(), String> {
        match db {
            OBJECTS => {
                let object = ObjectId::of_row_key(key).ok_or("its key is malformed")?.into_owned();
                let row = read_row::<Arc<ObjectRecord>>(db, key, value)?;
                let kind = match row.content.map(|record| ObjectRecord::skip(&mut Reader::new(record))) {
                    Some(kind) => kind.map(|(behavior, schema)| self.kinds.number(0, behavior, schema)),
                    None => Ok(0),
                };
                let kind = kind.map_err(|error| error.to_string())?;
                self.objects.insert(object, Seen { kind, ..Seen::of(&row) });
            }
            NAMES => {
                let name = str::of_row_key(key).ok_or("its key is malformed")?.into_owned();
                self.names.insert(name, Seen::of(&read_row::<ObjectId>(db, key, value)?));
            }
            REQUESTS => {
                let row = unseal(db, key, value)?;
                let row = RequestRow::decode(row).map_err(|error| error.to_string())?;
                let id = String::from_utf8_lossy(key);
                self.based.insert(RememberedRow::digest(&id), row);
            }
            _ => drop(unseal(db, key, value)?),
        }
        Ok(())
    }

    /// Compares what a pack noted with the base, if that is its base.
    fn pack(&mut self, tid: Tid, arguments: &[u8]) {
        if let Some(mark) = self.base
            && !mark.fits_note(arguments)
        {
            let problem = format!("it put another base in force than that of digest {}, which is there", mark.digest);
            self.damage(format!("transaction {tid}"), problem);
        }
    }

    /// Reads how far the table has come; answers how many rows it has. A table that cannot say is damaged and left out.
    fn open_table(&mut self) -> Result<u64, StorageError> {
        let Some(table) = &self.table else { return Ok(0) };
        let read = table.reached().and_then(|reached| {
            self.reached = reached.tid;
            let (rows, damage) = table.remembered(DAMAGE_MAX)?;
            self.found.rows += rows.len() as u64;
            self.requests = rows.into_iter().peekable();
            let damage = damage.into_iter();
            self.found.damage.extend(damage.map(|(id, problem)| Damage { place: request_place(&id), problem }));
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
        for (tid, transaction) in view.encoded() {
            self.found.transactions += 1;
            match RawTransaction::read(transaction, |change| self.change(tid, change)) {
                Ok(transaction) => {
                    if transaction.target.is_none() && transaction.method == PACK {
                        self.pack(tid, transaction.arguments);
                    }
                    self.request(tid, &transaction);
                }
                Err(error) => self.damage(format!("transaction {tid}"), error.to_string()),
            }
        }
    }

    fn change(&mut self, tid: Tid, change: Change<'_>) -> Result<(), DecodeError> {
        let wrong = match change {
            Change::Object(object, version) => {
                let seen = self.objects.entry(object).and_modify(|seen| seen.advance(tid));
                let seen = seen.or_insert_with(|| Seen::first(tid));
                if let Some(record) = version.content {
                    let (behavior, schema) = ObjectRecord::skip(&mut Reader::new(record))?;
                    seen.kind = self.kinds.number(seen.kind, behavior, schema);
                }
                seen.take(&object, version)
            }
            Change::Name(name, version) => match self.names.get_mut(name) {
                Some(seen) => {
                    seen.advance(tid);
                    seen.take(name, version)
                }
                None => self.names.entry(name.to_owned()).or_insert_with(|| Seen::first(tid)).take(name, version),
            },
        };
        if let Err((key, problem)) = wrong
            && !self.broken
        {
            self.damage(format!("transaction {tid}, {key}"), problem);
        }
        Ok(())
    }

    fn request(&mut self, tid: Tid, transaction: &RawTransaction<'_>) {
        self.requests_before(tid);
        if let Some(remembered) = self.requests.next_if(|row| row.row.tid == tid) {
            let fingerprint = fingerprint(transaction.method, transaction.arguments);
            let (target, time_us) = (transaction.target, transaction.time_us);
            let row = RequestRow { tid, target, fingerprint, time_us };
            if transaction.request_id.map(RememberedRow::digest) != Some(remembered.id) || remembered.row != row {
                self.wrong_request(&remembered);
            }
        }
    }

    /// The remembered requests of transactions before `tid`, which were not there.
    fn requests_before(&mut self, tid: Tid) {
        while let Some(remembered) = self.requests.next_if(|row| row.row.tid < tid) {
            // A record that could not be read may have had them.
            if !self.broken && self.found.damage.len() < DAMAGE_MAX {
                self.wrong_request(&remembered);
            }
        }
    }

    fn wrong_request(&mut self, remembered: &RememberedRow) {
        let id = self.table.as_ref().map_or_else(String::new, |table| table.request_id_of(remembered.row.tid));
        let problem = format!("its row points to transaction {}, which is not that request", remembered.row.tid);
        self.damage(request_place(&id), problem);
    }

    /// Compares the table with what the history says at the transaction that the table has reached.
    fn compare_table(&mut self) -> Result<(), StorageError> {
        self.requests_before(Tid(u64::MAX));
        let Some(table) = self.table.take() else { return Ok(()) };
        let (mut rows, mut objects, mut names) = (0, 0, 0);
        let mut damage = Vec::new();
        table.walk_objects(|object, row| {
            rows += 1;
            // With a record that cannot be read, each row's own seal is all that can be checked, and the record is what has to be
            // mended first.
            let expected = if self.broken { Ok(None) } else { self.objects.get(&object).map(Some).ok_or(()) };
            objects += usize::from(expected.is_ok());
            if let Err(problem) = compare(row, expected) {
                damage.push(Damage { place: format!("object {object}"), problem });
            }
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        table.walk_names(|name, row| {
            rows += 1;
            let expected = if self.broken { Ok(None) } else { self.names.get(name).map(Some).ok_or(()) };
            names += usize::from(expected.is_ok());
            if let Err(problem) = compare(row, expected) {
                damage.push(Damage { place: format!("the name `{name}`"), problem });
            }
            Ok(damage.len() < DAMAGE_MAX)
        })?;
        if !self.broken {
            let reached = self.expected_reached();
            if table.reached()? != reached {
                let problem = format!("the history asks for {reached:?}");
                damage.push(Damage { place: "the note of how far the object table has come".to_owned(), problem });
            }
            if damage.len() < DAMAGE_MAX && (objects, names) != (self.objects.len(), self.names.len()) {
                self.look_for_missing(&table, &mut damage)?;
            }
        }
        rows += secondary::verify(&table, &mut |place, problem| {
            damage.push(Damage { place, problem });
            damage.len() < DAMAGE_MAX
        })?;
        self.found.rows += rows;
        self.found.damage.append(&mut damage);
        Ok(())
    }

    /// What the table's own note has to say.
    fn expected_reached(&self) -> Reached {
        let mut expected = Reached { tid: self.reached, ..Reached::start() };
        for (object, seen) in &self.objects {
            expected.next_object = expected.next_object.max(object.0 + 1);
            if seen.digest.is_some() && *object != HOST_OBJECT {
                *expected.census.entry(self.kinds.0[seen.kind].clone()).or_default() += 1;
            }
        }
        expected
    }

    /// Lists what the history has and the table has not.
    fn look_for_missing(&self, table: &TableView, damage: &mut Vec<Damage>) -> Result<(), StorageError> {
        for (object, seen) in &self.objects {
            if damage.len() < DAMAGE_MAX && table.object(*object)?.is_none() {
                let problem = format!("the object table lacks it, transaction {} wrote it", seen.tid);
                damage.push(Damage { place: format!("object {object}"), problem });
            }
        }
        for (name, seen) in &self.names {
            if damage.len() < DAMAGE_MAX && table.name(name)?.is_none() {
                let problem = format!("the object table lacks it, transaction {} gave or freed it", seen.tid);
                damage.push(Damage { place: format!("the name `{name}`"), problem });
            }
        }
        Ok(())
    }
}

fn request_place(id: &str) -> String {
    format!("the request id `{id}`")
}

fn pointers(Pointers { number, previous, jump }: Pointers) -> String {
    format!("version {number} after transaction {previous}, jumping to {jump}")
}

/// What a row should say: something, nothing that is known, or that it should not be there.
type Expected<'a> = Result<Option<&'a Seen>, ()>;

fn compare(row: Result<Row<'_>, String>, expected: Expected<'_>) -> Result<(), String> {
    let row = row?;
    let expected = match expected {
        Ok(Some(expected)) => expected,
        Ok(None) => return Ok(()),
        Err(()) => return Err("the history does not have it".to_owned()),
    };
    if (expected.number, expected.tid) != (row.number, row.tid) {
        return Err(format!(
            "it is version {} of transaction {}, the history has version {} of transaction {}",
            row.number, row.tid, expected.number, expected.tid
        ));
    }
    let same = row.previous == expected.previous
        && row.content.map(digest) == expected.digest
        && row.spine.iter().eq(expected.spine.iter().rev());
    if same { Ok(()) } else { Err(format!("its content is not what transaction {} wrote", row.tid)) }
}
