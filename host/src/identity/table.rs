//! The object table: the newest version of every object, the names, and the request ids that are still remembered.
//!
//! It follows behind the history. A *checkpoint* brings it, in one LMDB transaction, to a later transaction of the history,
//! and notes which one it reached; what came after is in the overlay, or is replayed from the history at start.
//!
//! LMDB environment `identity/objects/`. Every value begins with its seal, because LMDB itself has no checksums: 8 bytes,
//! little-endian, xxHash3-64 of the rest of the value, seeded with the xxHash3-64 of the key, seeded with the number of the
//! database in the table below, from 0. Numbers in keys are 64 bits, big-endian.
//!
//! | database    | key        | rest of the value                                                                |
//! |-------------|------------|----------------------------------------------------------------------------------|
//! | `objects`   | object     | `[tid, number, previous, [spine...], record / null]`, see [`Version::encode_row`] |
//! | `names`     | name       | `[tid, number, previous, [spine...], object / null]`                             |
//! | `requests`  | request id | `[tid, target / null, fingerprint, time]`                                        |
//! | `recent`    | tid        | `[request id]`: the same by age, to forget the oldest first                      |
//! | `meta`      | `reached`  | `[tid, next object, [[behaviour, schema, objects]...]]`                          |
//! | `secondary` | see [`secondary`](super::secondary) | nothing                                                 |

use std::{collections::BTreeMap, path::Path, sync::Arc};

use theseus_value::{
    DecodeError, ObjectId,
    raw::{Reader, Writer},
};
use twox_hash::XxHash3_64;

use super::{
    NameVersion, ObjectRecord, RequestMemory, StorageError, Tid, Version,
    lmdb::{Db, Env, EnvOptions, OwnedEntry, ReadTxn, Usage, WriteTxn},
    record::{expect_array, small},
    secondary,
    version::{Content, Row, Versioned},
};

const DATABASES: &[&str] = &["objects", "names", "requests", "recent", "meta", "secondary"];
pub(super) const OBJECTS: Db = Db(0);
pub(super) const NAMES: Db = Db(1);
pub(super) const REQUESTS: Db = Db(2);
pub(super) const RECENT: Db = Db(3);
pub(super) const META: Db = Db(4);
pub(super) const SECONDARY: Db = Db(5);
const REACHED: &[u8] = b"reached";
const SEAL_BYTES: usize = 8;

/// How many objects there are of each behaviour and schema version.
pub type Census = BTreeMap<(Arc<str>, u32), u64>;

/// How far the table has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reached {
    /// The last transaction it contains.
    pub tid: Tid,
    /// The next object id to give.
    pub next_object: u64,
    /// The objects it holds, counted.
    pub census: Census,
}

impl Reached {
    /// Of an empty table.
    pub(super) fn start() -> Reached {
        Reached { tid: Tid::NONE, next_object: 1, census: Census::new() }
    }
}

/// A request that was executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RequestRow {
    /// The transaction in which.
    pub tid: Tid,
    /// The object that received the message.
    pub target: Option<ObjectId>,
    /// What was asked, see [`super::Remembered::fingerprint`].
    pub fingerprint: u64,
    /// When it was executed, in microseconds since the Unix epoch.
    pub time_us: u64,
}

impl RequestRow {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(4);
        writer.uint(self.tid.0);
        match self.target {
            Some(target) => writer.uint(target.0),
            None => writer.null(),
        }
        writer.uint(self.fingerprint);
        writer.uint(self.time_us);
    }

    pub(super) fn decode(body: &[u8]) -> Result<RequestRow, DecodeError> {
        let mut reader = Reader::new(body);
        expect_array(&mut reader, 4)?;
        let tid = Tid(reader.uint()?);
        let target = if reader.null()? { None } else { Some(ObjectId(reader.uint()?)) };
        let (fingerprint, time_us) = (reader.uint()?, reader.uint()?);
        reader.finish()?;
        Ok(RequestRow { tid, target, fingerprint, time_us })
    }
}

/// How many requests are remembered; the two are the same unless something is damaged.
pub(super) struct RequestRows {
    pub by_id: u64,
    pub by_age: u64,
}

/// What a checkpoint writes.
pub(super) struct Checkpoint {
    pub reached: Reached,
    pub objects: Vec<(ObjectId, Version)>,
    pub names: Vec<(Arc<str>, NameVersion)>,
    pub requests: Vec<(Arc<str>, RequestRow)>,
    /// Transactions whose request ids are among `requests` again, after they had been forgotten.
    pub superseded: Vec<Tid>,
    /// Which request ids to remember.
    pub memory: RequestMemory,
}

/// The table's environment.
#[derive(Clone)]
pub(super) struct Table {
    env: Env,
}

impl Table {
    /// How many databases it has.
    pub(super) const DATABASES: usize = DATABASES.len();

    pub(super) fn open(path: &Path, map_bytes: usize, create: bool, read_only: bool) -> Result<Table, StorageError> {
        let options = EnvOptions { path, map_bytes, databases: DATABASES, create, read_only, random_reads: true };
        Ok(Table { env: Env::open(&options)? })
    }

    /// See [`Env::clear_stale_readers`].
    pub(super) fn clear_stale_readers(&self) -> Result<(), StorageError> {
        self.env.clear_stale_readers()
    }

    pub(super) fn read(&self) -> Result<TableView, StorageError> {
        Ok(TableView { txn: self.env.read()?, env: self.env.clone() })
    }

    pub(super) fn write(&self) -> Result<WriteTxn<'_>, StorageError> {
        self.env.write()
    }

    /// How much of its room it takes.
    pub(super) fn usage(&self) -> Result<Usage, StorageError> {
        self.env.usage()
    }

    /// Brings the table forward. Only the checkpointer may call it.
    pub(super) fn advance(&self, mut checkpoint: Checkpoint) -> Result<(), StorageError> {
        // In key order, so that neighbours share the pages that are written.
        checkpoint.objects.sort_unstable_by_key(|(object, _)| *object);
        checkpoint.names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        checkpoint.requests.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        // As it was, for the indexes: nobody else writes.
        let before = self.read()?;
        let mut txn = self.env.write()?;
        secondary::maintain(&before, &mut txn, checkpoint.objects.iter().map(|(object, version)| (*object, version)))?;
        let mut value = Vec::new();
        for (object, version) in &checkpoint.objects {
            let key = object.0.to_be_bytes();
            seal(&mut value, OBJECTS, &key, |out| version.encode_row(out));
            txn.put(OBJECTS, &key, &value)?;
        }
        for (name, version) in &checkpoint.names {
            seal(&mut value, NAMES, name.as_bytes(), |out| version.encode_row(out));
            txn.put(NAMES, name.as_bytes(), &value)?;
        }
        for tid in &checkpoint.superseded {
            txn.delete(RECENT, &tid.0.to_be_bytes())?;
        }
        for (id, row) in &checkpoint.requests {
            seal(&mut value, REQUESTS, id.as_bytes(), |out| row.encode(out));
            txn.put(REQUESTS, id.as_bytes(), &value)?;
            let key = row.tid.0.to_be_bytes();
            seal(&mut value, RECENT, &key, |out| {
                let mut writer = Writer::new(out);
                writer.array(1);
                writer.text(id);
            });
            txn.put(RECENT, &key, &value)?;
        }
        self.forget_requests(&mut txn, &checkpoint)?;
        seal(&mut value, META, REACHED, |out| encode_reached(&checkpoint.reached, out));
        txn.put(META, REACHED, &value)?;
        txn.commit()
    }

    /// Adds rows whose keys are greater than all that are there. For tables that nobody else knows yet.
    pub(super) fn append_rows(&self, db: Db, rows: &[OwnedEntry]) -> Result<(), StorageError> {
        let mut txn = self.env.write()?;
        for (key, value) in rows {
            txn.append(db, key, value)?;
        }
        txn.commit()
    }

    /// Adds objects with the rows that a base has for them, as [`append_rows`](Self::append_rows) does, and what the indexes say of
    /// them, which no base has.
    pub(super) fn append_objects(&self, objects: &[(ObjectId, Version, Vec<u8>)]) -> Result<(), StorageError> {
        let before = self.read()?;
        let mut txn = self.env.write()?;
        for (object, _, row) in objects {
            txn.append(OBJECTS, &object.0.to_be_bytes(), row)?;
        }
        secondary::maintain(&before, &mut txn, objects.iter().map(|(object, version, _)| (*object, version)))?;
        txn.commit()
    }

    /// The row that says how far a table has come, and its database.
    pub(super) fn reached_row(reached: &Reached) -> (Db, OwnedEntry) {
        let mut value = Vec::new();
        seal(&mut value, META, REACHED, |out| encode_reached(reached, out));
        (META, (REACHED.to_vec(), value))
    }

    /// Forgets the oldest requests: more than are to be remembered, and those whose time has passed. Of the latter only so many at
    /// once that the transaction stays small, but more than have come.
    fn forget_requests(&self, txn: &mut WriteTxn<'_>, checkpoint: &Checkpoint) -> Result<(), StorageError> {
        const EXPIRED_MIN: usize = 1000;

        let surplus = txn.count(RECENT)?.saturating_sub(checkpoint.memory.count_max) as usize;
        let expired_max = EXPIRED_MIN + 2 * checkpoint.requests.len();
        for (number, (key, value)) in txn.first(RECENT, surplus.max(expired_max))?.into_iter().enumerate() {
            let damaged = |problem| self.env.damaged("a remembered request id", problem);
            let id = unseal(RECENT, &key, &value)
                .and_then(|body| decode_id(body).map_err(|error| error.to_string()))
                .map_err(damaged)?;
            if number >= surplus {
                let value =
                    txn.get(REQUESTS, id.as_bytes())?.ok_or_else(|| damaged("its row is missing".to_owned()))?;
                let row = unseal(REQUESTS, id.as_bytes(), value)
                    .and_then(|body| RequestRow::decode(body).map_err(|error| error.to_string()))
                    .map_err(damaged)?;
                if row.time_us >= checkpoint.memory.since_us {
                    break;
                }
            }
            txn.delete(REQUESTS, id.as_bytes())?;
            txn.delete(RECENT, &key)?;
        }
        Ok(())
    }
}

/// The table as it stood at one moment.
pub(super) struct TableView {
    pub(super) txn: ReadTxn,
    pub(super) env: Env,
}

impl TableView {
    /// How far the table has come; the start if it is new.
    pub(super) fn reached(&self) -> Result<Reached, StorageError> {
        let Some(value) = self.txn.get(META, REACHED)? else { return Ok(Reached::start()) };
        self.open(META, REACHED, value, "the note of the transaction it reached", decode_reached)
    }

    pub(super) fn object(&self, object: ObjectId) -> Result<Option<Version>, StorageError> {
        let key = object.0.to_be_bytes();
        let Some(value) = self.txn.get(OBJECTS, &key)? else {
            return self.absent(OBJECTS, &key, || format!("object {object}"));
        };
        self.object_row(object, &key, value).map(Some)
    }

    /// Takes a row of the objects apart.
    pub(super) fn object_row(&self, object: ObjectId, key: &[u8], value: &[u8]) -> Result<Version, StorageError> {
        self.open(OBJECTS, key, value, &format!("object {object}"), Version::decode_row)
    }

    /// The object of a key.
    pub(super) fn object_id(&self, key: &[u8]) -> Result<ObjectId, StorageError> {
        let id = <[u8; 8]>::try_from(key).map_err(|_| self.env.damaged("an object key", "it is not 8 bytes"))?;
        Ok(ObjectId(u64::from_be_bytes(id)))
    }

    /// The ids of up to `limit` objects from `from` on, deleted ones too, in order.
    pub(super) fn object_ids(&self, from: ObjectId, limit: usize) -> Result<Vec<ObjectId>, StorageError> {
        let mut ids = Vec::with_capacity(limit);
        self.txn.walk::<StorageError>(OBJECTS, &from.0.to_be_bytes(), |key, _| {
            let id = <[u8; 8]>::try_from(key).map_err(|_| self.env.damaged("an object key", "it is not 8 bytes"))?;
            ids.push(ObjectId(u64::from_be_bytes(id)));
            Ok(ids.len() < limit)
        })?;
        Ok(ids)
    }

    /// The newest version of a name that was ever given.
    pub(super) fn name(&self, name: &str) -> Result<Option<NameVersion>, StorageError> {
        // LMDB has no empty keys, and nothing has an empty name.
        if name.is_empty() {
            return Ok(None);
        }
        let place = || format!("the name `{name}`");
        let Some(value) = self.txn.get(NAMES, name.as_bytes())? else {
            return self.absent(NAMES, name.as_bytes(), place);
        };
        self.open(NAMES, name.as_bytes(), value, &place(), Version::decode_row).map(Some)
    }

    /// Names from `from` on, in order, freed ones too, until `visit` answers false.
    pub(super) fn names(&self, from: &str, mut visit: impl FnMut(&str) -> bool) -> Result<(), StorageError> {
        self.txn.walk(NAMES, from.as_bytes(), |key, _| {
            let name = std::str::from_utf8(key).map_err(|error| self.env.damaged("a name", error.to_string()))?;
            Ok(visit(name))
        })
    }

    /// The newest version of an object or a name, still encoded.
    pub(super) fn row<K: Versioned + ?Sized>(&self, key: &K) -> Result<Option<Row<'_>>, StorageError> {
        let row_key = key.row_key();
        if row_key.is_empty() {
            return Ok(None);
        }
        let Some(value) = self.txn.get(K::ROWS, &row_key)? else { return Ok(None) };
        let row = read_row::<K::Content>(K::ROWS, &row_key, value);
        row.map(Some).map_err(|problem| self.env.damaged(key.describe(), problem))
    }

    /// The rows of objects or names whose keys are greater than `after`, as they are stored and read, until `visit` answers false.
    pub(super) fn rows_after<K: Versioned + ?Sized>(
        &self,
        after: &[u8],
        mut visit: impl FnMut(&K, Version<K::Content>, (&[u8], &[u8])) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk(K::ROWS, after, |stored, value| {
            if stored == after {
                return Ok(true);
            }
            let key = K::of_row_key(stored).ok_or_else(|| self.env.damaged("a row", "its key is malformed"))?;
            let version = self.open(K::ROWS, stored, value, &key.describe(), Version::decode_row)?;
            visit(&key, version, (stored, value))
        })
    }

    /// Hands every entry of every database to `visit`, in the order of databases and keys, until it answers false.
    pub(super) fn every_entry(
        &self,
        mut visit: impl FnMut(Db, &[u8], &[u8]) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        let mut go_on = true;
        for db in (0..DATABASES.len()).map(Db) {
            self.txn.walk::<StorageError>(db, &[], |key, value| {
                go_on = visit(db, key, value)?;
                Ok(go_on)
            })?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// Takes a row of the remembered requests apart.
    pub(super) fn request_row<'a>(&self, key: &'a [u8], value: &[u8]) -> Result<(&'a str, RequestRow), StorageError> {
        let damaged = |problem| self.env.damaged("a request id", problem);
        let id = std::str::from_utf8(key).map_err(|error| damaged(error.to_string()))?;
        let row = unseal(REQUESTS, key, value)
            .and_then(|body| RequestRow::decode(body).map_err(|error| error.to_string()))
            .map_err(damaged)?;
        Ok((id, row))
    }

    /// The rows of the remembered requests whose keys are greater than `after`, until `visit` answers false.
    pub(super) fn requests_after(
        &self,
        after: &[u8],
        mut visit: impl FnMut(RequestRow, (&[u8], &[u8])) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk(REQUESTS, after, |stored, value| {
            if stored == after {
                return Ok(true);
            }
            let (_, row) = self.request_row(stored, value)?;
            visit(row, (stored, value))
        })
    }

    /// An error about something in the table.
    pub(super) fn damaged(&self, place: &str, problem: String) -> StorageError {
        self.env.damaged(place, problem)
    }

    pub(super) fn request(&self, id: &str) -> Result<Option<RequestRow>, StorageError> {
        let place = || format!("the request id `{id}`");
        let Some(value) = self.txn.get(REQUESTS, id.as_bytes())? else {
            return self.absent(REQUESTS, id.as_bytes(), place);
        };
        self.open(REQUESTS, id.as_bytes(), value, &place(), RequestRow::decode).map(Some)
    }

    /// Makes sure that a row which was not found is not there: LMDB misses a row whose key is damaged, or finds a wrong place for it.
    /// The rows between which it would stand have to be whole and in order.
    fn absent<T>(&self, db: Db, key: &[u8], place: impl Fn() -> String) -> Result<Option<T>, StorageError> {
        for (key, value) in self.txn.around(db, key)?.into_iter().flatten() {
            let beside = |problem| format!("it is not there, and beside the place where it would be {problem}");
            unseal(db, key, value).map_err(|problem| self.env.damaged(place(), beside(problem)))?;
        }
        Ok(None)
    }

    /// The rows of the objects from one on: the object and its version, or what is wrong with the row.
    pub(super) fn walk_objects(
        &self,
        from: ObjectId,
        mut visit: impl FnMut(ObjectId, Result<Row<'_>, String>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk_proven(OBJECTS, &from.0.to_be_bytes(), |key, value| {
            visit(self.object_id(key)?, read_row::<Arc<ObjectRecord>>(OBJECTS, key, value))
        })
    }

    /// The rows of the names from one on.
    pub(super) fn walk_names(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], Result<Row<'_>, String>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk_proven(NAMES, from, |key, value| visit(key, read_row::<ObjectId>(NAMES, key, value)))
    }

    /// The entries of a database from one on, as they are stored: for those who look for damage.
    pub(super) fn walk_entries(
        &self,
        db: Db,
        from: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk_proven(db, from, visit)
    }

    /// The value of an entry, as it is stored.
    pub(super) fn entry(&self, db: Db, key: &[u8]) -> Result<Option<&[u8]>, StorageError> {
        self.txn.get(db, key)
    }

    /// The transaction of the oldest request that is remembered.
    pub(super) fn oldest_request(&self) -> Result<Option<Tid>, StorageError> {
        Ok(self
            .txn
            .seek(RECENT, &[0])?
            .and_then(|(key, _)| key.try_into().ok())
            .map(|key| Tid(u64::from_be_bytes(key))))
    }

    /// The rows of remembered requests by age, from a transaction on: the transaction and the id, or what is wrong with the row.
    pub(super) fn walk_recent(
        &self,
        from: Tid,
        mut visit: impl FnMut(Tid, Result<&str, String>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk_proven(RECENT, &from.0.to_be_bytes(), |key, value| {
            let tid =
                key.try_into().map_err(|_| self.env.damaged("a remembered request id", "its key is not 8 bytes"))?;
            let id = unseal(RECENT, key, value).and_then(|body| decode_id(body).map_err(|error| error.to_string()));
            visit(Tid(u64::from_be_bytes(tid)), id)
        })
    }

    /// The rows of remembered requests by id, from an id on: the id, and the row as it is and encoded, or what is wrong with it.
    pub(super) fn walk_requests(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], Result<(RequestRow, &[u8]), String>) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.txn.walk_proven(REQUESTS, from, |key, value| {
            let row = unseal(REQUESTS, key, value).and_then(|body| {
                let row = RequestRow::decode(body).map_err(|error| error.to_string())?;
                Ok((row, body))
            });
            visit(key, row)
        })
    }

    /// How many requests are remembered.
    pub(super) fn request_rows(&self) -> Result<RequestRows, StorageError> {
        Ok(RequestRows { by_id: self.txn.count(REQUESTS)?, by_age: self.txn.count(RECENT)? })
    }

    /// Every row of every database, as it is stored.
    #[cfg(test)]
    pub(super) fn dump(&self) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        for (number, name) in DATABASES.iter().enumerate() {
            let walked = self.txn.walk::<StorageError>(Db(number), &[], |key, value| {
                rows.push((*name, key.to_vec(), value.to_vec()));
                Ok(true)
            });
            walked.expect("the storage works");
        }
        rows
    }

    /// On how many pages the objects are.
    pub(super) fn object_pages(&self) -> Result<u64, StorageError> {
        self.txn.leaf_pages(OBJECTS)
    }

    /// How many objects, names and request ids there are to walk.
    pub(super) fn rows(&self) -> Result<u64, StorageError> {
        let requests = self.request_rows()?;
        Ok(self.txn.count(OBJECTS)? + self.txn.count(NAMES)? + requests.by_id + requests.by_age)
    }

    fn open<T>(
        &self,
        db: Db,
        key: &[u8],
        value: &[u8],
        place: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, StorageError> {
        unseal(db, key, value)
            .and_then(|body| decode(body).map_err(|error| error.to_string()))
            .map_err(|problem| self.env.damaged(place, problem))
    }
}

/// Takes a row apart, or says what is wrong with it.
pub(super) fn read_row<'a, T: Content>(db: Db, key: &[u8], value: &'a [u8]) -> Result<Row<'a>, String> {
    unseal(db, key, value).and_then(|body| Row::read::<T>(body).map_err(|error| error.to_string()))
}

/// Writes a value with its seal into `value`.
pub(super) fn seal(value: &mut Vec<u8>, db: Db, key: &[u8], body: impl FnOnce(&mut Vec<u8>)) {
    value.clear();
    value.extend_from_slice(&[0; SEAL_BYTES]);
    body(value);
    let sum = checksum(db, key, &value[SEAL_BYTES..]);
    value[..SEAL_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// Takes the seal off a value; in words if it does not fit.
pub(super) fn unseal<'a>(db: Db, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let (sum, body) =
        value.split_first_chunk::<SEAL_BYTES>().ok_or_else(|| format!("only {} bytes long", value.len()))?;
    let (stored, found) = (u64::from_le_bytes(*sum), checksum(db, key, body));
    if stored == found {
        Ok(body)
    } else {
        Err(format!("its content has the checksum {found:016x}, but {stored:016x} was stored with it"))
    }
}

fn checksum(db: Db, key: &[u8], body: &[u8]) -> u64 {
    let seed = XxHash3_64::oneshot_with_seed(db.0 as u64, key);
    XxHash3_64::oneshot_with_seed(seed, body)
}

/// The id of a request, as its row by age has it.
pub(super) fn decode_id(body: &[u8]) -> Result<&str, DecodeError> {
    let mut reader = Reader::new(body);
    expect_array(&mut reader, 1)?;
    let text = reader.text()?;
    reader.finish()?;
    Ok(text)
}

fn encode_reached(reached: &Reached, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    writer.array(3);
    writer.uint(reached.tid.0);
    writer.uint(reached.next_object);
    writer.array(reached.census.len());
    for ((behavior, schema), objects) in &reached.census {
        writer.array(3);
        writer.text(behavior);
        writer.uint(u64::from(*schema));
        writer.uint(*objects);
    }
}

fn decode_reached(body: &[u8]) -> Result<Reached, DecodeError> {
    let mut reader = Reader::new(body);
    expect_array(&mut reader, 3)?;
    let (tid, next_object) = (Tid(reader.uint()?), reader.uint()?);
    let mut census = Census::new();
    for _ in 0..reader.array()? {
        expect_array(&mut reader, 3)?;
        census.insert((Arc::from(reader.text()?), small(reader.uint()?)?), reader.uint()?);
    }
    reader.finish()?;
    Ok(Reached { tid, next_object, census })
}
