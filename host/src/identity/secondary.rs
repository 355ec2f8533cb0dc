//! Secondary indexes: the objects of a behaviour in the order of what one of their slots holds.
//!
//! They belong to the object table, and the checkpointer keeps them: with an object's row it writes the object's rows here, so
//! an index always says what the table's rows say. What has changed since is for [`matching`](super::matching) to add.
//!
//! Which indexes there are stands in the slot `indexes` of the host's own object, and so in the history. How far each has come
//! stands in the table's `meta`, under `index` and the index's number: a new index is filled in steps, each a small LMDB
//! transaction, while checkpoints keep up what is there; a dropped one is emptied in steps as well.
//!
//! A row's key is the number of the index (8 bytes, big-endian), the [key](super::order) of the value, and the object (8 bytes,
//! big-endian); its value is the seal of nothing. An object whose slot has no place in an order has no row.

use std::sync::Arc;

use theseus_value::{
    DecodeError, ObjectId, Value,
    raw::{MapView, Reader, Writer},
};

use super::{
    HOST_OBJECT, MESSAGE_BEHAVIOR, ObjectRecord, StorageError, Tid, Version,
    lmdb::WriteTxn,
    order::ValueKey,
    record::expect_array,
    table::{META, OBJECTS, SECONDARY, Table, TableView, seal, unseal},
    version::Row,
};

/// The slot of the host's own object that lists the indexes.
pub const INDEXES_SLOT: &str = "indexes";

/// The beginning of the keys of `meta` that tell how far an index has come.
const STATE_KEY: &[u8] = b"index";

/// Names an index: the transaction that made it, so none is ever given again. Those that the host brings with it have numbers
/// of transactions that cannot be one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IndexNumber(pub u64);

/// What an index is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexDefinition {
    /// Which it is.
    pub number: IndexNumber,
    /// The behaviour whose objects are in it.
    pub behavior: Arc<str>,
    /// The slot by which they are ordered.
    pub slot: Arc<str>,
}

/// How far an index has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexState {
    /// Objects before this one are in it.
    Building(ObjectId),
    /// All are.
    Complete,
    /// It was dropped, and has rows still.
    Dropping,
}

impl IndexDefinition {
    /// The messages that wait, by when they are due.
    pub fn due() -> IndexDefinition {
        IndexDefinition { number: IndexNumber(0), behavior: MESSAGE_BEHAVIOR.into(), slot: "due_us".into() }
    }

    /// The messages that were set aside, by when.
    pub fn set_aside() -> IndexDefinition {
        IndexDefinition { number: IndexNumber(1), behavior: MESSAGE_BEHAVIOR.into(), slot: "set_aside_us".into() }
    }

    /// Whether the host brings it with it.
    pub fn is_built_in(&self) -> bool {
        self.number.0 <= 1
    }

    /// The indexes that the slots of the host's own object list.
    ///
    /// # Errors
    ///
    /// If the slots are not what this host writes.
    pub fn read_all(slots: &[u8]) -> Result<Vec<IndexDefinition>, DecodeError> {
        let Some(listed) = MapView::new(slots)?.get(INDEXES_SLOT)? else { return Ok(Vec::new()) };
        let mut reader = Reader::new(listed);
        let count = reader.array()?;
        let one = |_| {
            let entry = MapView::new(reader.item()?)?;
            let missing = |name: &str| serde::de::Error::custom(format!("an index without `{name}`"));
            let item = |name: &str| entry.get(name)?.ok_or_else(|| missing(name));
            Ok(IndexDefinition {
                number: IndexNumber(Reader::new(item("index")?).uint()?),
                behavior: Reader::new(item("behavior")?).text()?.into(),
                slot: Reader::new(item("slot")?).text()?.into(),
            })
        };
        (0..count).map(one).collect()
    }

    /// The list as the host's own object has it.
    pub fn write_all(definitions: &[IndexDefinition]) -> Value {
        let entry = |it: &IndexDefinition| {
            let entries = [
                ("index", Value::from(it.number.0)),
                ("behavior", Value::Text(it.behavior.to_string())),
                ("slot", Value::Text(it.slot.to_string())),
            ];
            Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        Value::Array(definitions.iter().map(entry).collect())
    }

    /// The key of an object's row; none if it has none.
    fn row_key(&self, object: ObjectId, record: &ObjectRecord) -> Result<Option<Vec<u8>>, DecodeError> {
        if record.behavior != self.behavior {
            return Ok(None);
        }
        let value = self.value_key(record)?;
        Ok(value.map(|value| row_key(self.number, &value.bytes, object)))
    }

    /// What an object is ordered by; none if it is not.
    pub(super) fn value_key(&self, record: &ObjectRecord) -> Result<Option<ValueKey>, DecodeError> {
        match MapView::new(&record.slots)?.get(&self.slot)? {
            Some(item) => ValueKey::of(item),
            None => Ok(None),
        }
    }
}

/// The key of a row.
pub(super) fn row_key(number: IndexNumber, value: &[u8], object: ObjectId) -> Vec<u8> {
    [&number.0.to_be_bytes(), value, &object.0.to_be_bytes()].concat()
}

/// Takes the key of a row apart: the index, the key of the value, the object.
pub(super) fn split_key(key: &[u8]) -> Option<(IndexNumber, &[u8], ObjectId)> {
    let (number, rest) = key.split_first_chunk::<8>()?;
    let (value, object) = rest.split_last_chunk::<8>()?;
    Some((IndexNumber(u64::from_be_bytes(*number)), value, ObjectId(u64::from_be_bytes(*object))))
}

fn state_key(number: IndexNumber) -> Vec<u8> {
    [STATE_KEY, &number.0.to_be_bytes()].concat()
}

fn put_state(txn: &mut WriteTxn<'_>, index: &IndexDefinition, state: IndexState) -> Result<(), StorageError> {
    let (key, mut value) = (state_key(index.number), Vec::new());
    seal(&mut value, META, &key, |out| {
        let mut writer = Writer::new(out);
        writer.array(3);
        writer.text(&index.behavior);
        writer.text(&index.slot);
        match state {
            IndexState::Building(next) => writer.uint(next.0),
            IndexState::Complete => writer.bool(true),
            IndexState::Dropping => writer.bool(false),
        }
    });
    txn.put(META, &key, &value)
}

fn decode_state(number: IndexNumber, body: &[u8]) -> Result<(IndexDefinition, IndexState), DecodeError> {
    let mut reader = Reader::new(body);
    expect_array(&mut reader, 3)?;
    let (behavior, slot) = (reader.text()?.into(), reader.text()?.into());
    let state = match reader.peek()? {
        theseus_value::raw::Kind::Bool if reader.bool()? => IndexState::Complete,
        theseus_value::raw::Kind::Bool => IndexState::Dropping,
        _ => IndexState::Building(ObjectId(reader.uint()?)),
    };
    reader.finish()?;
    Ok((IndexDefinition { number, behavior, slot }, state))
}

impl TableView {
    /// All indexes that have rows or will have, those of the host first.
    pub(super) fn indexes(&self) -> Result<Vec<(IndexDefinition, IndexState)>, StorageError> {
        let built_in = [IndexDefinition::due(), IndexDefinition::set_aside()];
        let mut indexes: Vec<_> = built_in.into_iter().map(|it| (it, IndexState::Complete)).collect();
        self.txn.walk(META, STATE_KEY, |key, value| {
            let Some(number) = key.strip_prefix(STATE_KEY) else { return Ok(false) };
            let state =
                <[u8; 8]>::try_from(number).map_err(|_| "its key is not 8 bytes".to_owned()).and_then(|number| {
                    let body = unseal(META, key, value)?;
                    decode_state(IndexNumber(u64::from_be_bytes(number)), body).map_err(|error| error.to_string())
                });
            indexes.push(state.map_err(|problem| self.env.damaged("the note of how far an index has come", problem))?);
            Ok::<_, StorageError>(true)
        })?;
        Ok(indexes)
    }

    /// How far an index has come; none if the table has not seen yet that it was made.
    pub(super) fn index_state(&self, number: IndexNumber) -> Result<Option<IndexState>, StorageError> {
        Ok(self.indexes()?.into_iter().find(|(index, _)| index.number == number).map(|(_, state)| state))
    }

    /// Keys of rows from `from` on, in order, until `visit` answers false.
    pub(super) fn index_rows(
        &self,
        from: &[u8],
        mut visit: impl FnMut(IndexNumber, &[u8], ObjectId) -> bool,
    ) -> Result<(), StorageError> {
        self.txn.walk(SECONDARY, from, |key, value| {
            let parts = split_key(key).ok_or_else(|| "its key is too short".to_owned());
            let parts = parts.and_then(|parts| unseal(SECONDARY, key, value).map(|_| parts));
            let (number, value, object) = parts.map_err(|problem| self.env.damaged("a row of an index", problem))?;
            Ok(visit(number, value, object))
        })
    }

    fn undecodable(&self, object: ObjectId, error: &DecodeError) -> StorageError {
        self.env.damaged(format!("object {object}"), error.to_string())
    }
}

/// Brings the rows of the indexes to what a checkpoint makes of objects. `before` is the table as it was.
pub(super) fn maintain<'a>(
    before: &TableView,
    txn: &mut WriteTxn<'_>,
    objects: impl Iterator<Item = (ObjectId, &'a Version)>,
) -> Result<(), StorageError> {
    let mut indexes = before.indexes()?;
    indexes.retain(|(_, state)| *state != IndexState::Dropping);
    let keys = |object: ObjectId, record: Option<&ObjectRecord>| -> Result<Vec<Vec<u8>>, StorageError> {
        let Some(record) = record else { return Ok(Vec::new()) };
        let keys = indexes.iter().filter_map(|(index, _)| index.row_key(object, record).transpose());
        keys.collect::<Result<_, _>>().map_err(|error| before.undecodable(object, &error))
    };
    let (mut value, mut host) = (Vec::new(), None);
    for (object, version) in objects {
        host = if object == HOST_OBJECT { Some(version) } else { host };
        let record = version.record.as_deref();
        // An object keeps its behaviour for life, so the version before has rows only if this one may have some.
        if record.is_some_and(|record| indexes.iter().all(|(index, _)| index.behavior != record.behavior)) {
            continue;
        }
        let old = before.object(object)?;
        let old = keys(object, old.as_ref().and_then(|version| version.record.as_deref()))?;
        let new = keys(object, record)?;
        for key in old.iter().filter(|key| !new.contains(key)) {
            txn.delete(SECONDARY, key)?;
        }
        for key in new.iter().filter(|key| !old.contains(key)) {
            seal(&mut value, SECONDARY, key, |_| {});
            txn.put(SECONDARY, key, &value)?;
        }
    }
    host.map_or(Ok(()), |host| take_up(before, txn, host))
}

/// Begins indexes that were made, and ends those that were dropped.
fn take_up(before: &TableView, txn: &mut WriteTxn<'_>, host: &Version) -> Result<(), StorageError> {
    let listed = host.record.as_ref().map_or_else(|| Ok(Vec::new()), |record| IndexDefinition::read_all(&record.slots));
    let listed = listed.map_err(|error| before.undecodable(HOST_OBJECT, &error))?;
    let known = before.indexes()?;
    for index in &listed {
        if known.iter().all(|(it, _)| it.number != index.number) {
            put_state(txn, index, IndexState::Building(ObjectId(1)))?;
        }
    }
    for (index, state) in &known {
        let is_listed = listed.iter().any(|it| it.number == index.number);
        if !index.is_built_in() && *state != IndexState::Dropping && !is_listed {
            put_state(txn, index, IndexState::Dropping)?;
        }
    }
    Ok(())
}

impl Table {
    /// Does a step of what is to be done about indexes, of about so many rows; answers whether there is more to do. For the
    /// checkpointer.
    pub(super) fn index_step(&self, rows_max: usize) -> Result<bool, StorageError> {
        let view = self.read()?;
        let due = view.indexes()?.into_iter().find(|(_, state)| *state != IndexState::Complete);
        let Some((index, state)) = due else { return Ok(false) };
        let mut txn = self.write()?;
        match state {
            IndexState::Building(from) => {
                let next = fill(&view, &mut txn, &index, from, rows_max)?;
                put_state(&mut txn, &index, next.map_or(IndexState::Complete, IndexState::Building))?;
            }
            IndexState::Dropping => {
                let mut rows = Vec::new();
                view.index_rows(&index.number.0.to_be_bytes(), |number, value, object| {
                    let ours = number == index.number;
                    rows.extend(ours.then(|| row_key(number, value, object)));
                    ours && rows.len() < rows_max
                })?;
                rows.iter().try_for_each(|key| txn.delete(SECONDARY, key))?;
                if rows.len() < rows_max {
                    txn.delete(META, &state_key(index.number))?;
                }
            }
            IndexState::Complete => unreachable!("these were left out"),
        }
        txn.commit()?;
        Ok(true)
    }
}

/// Puts objects from `from` on into an index; answers where to go on, none at the end.
fn fill(
    view: &TableView,
    txn: &mut WriteTxn<'_>,
    index: &IndexDefinition,
    from: ObjectId,
    rows_max: usize,
) -> Result<Option<ObjectId>, StorageError> {
    let (mut looked_at, mut next, mut seals) = (0, None, Vec::new());
    view.txn.walk(OBJECTS, &from.0.to_be_bytes(), |key, value| {
        let object = view.object_id(key)?;
        if looked_at == rows_max {
            next = Some(object);
            return Ok(false);
        }
        looked_at += 1;
        let version = view.object_row(object, key, value)?;
        let Some(record) = &version.record else { return Ok(true) };
        if let Some(key) = index.row_key(object, record).map_err(|error| view.undecodable(object, &error))? {
            seal(&mut seals, SECONDARY, &key, |_| {});
            txn.put(SECONDARY, &key, &seals)?;
        }
        Ok::<_, StorageError>(true)
    })?;
    Ok(next)
}

/// Compares the rows of the indexes with those of the objects, and the indexes there are with those that were made. `damage` is
/// told places and problems until it answers false. Answers how many rows there are.
pub(super) fn verify(view: &TableView, damage: &mut dyn FnMut(String, String) -> bool) -> Result<u64, StorageError> {
    let indexes = match view.indexes() {
        Ok(indexes) => indexes,
        Err(error @ StorageError::Damaged { .. }) => {
            damage("the indexes".to_owned(), error.to_string());
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    if !verify_list(view, &indexes, damage)? {
        return Ok(0);
    }
    let mut rows = 0;
    view.txn.walk(SECONDARY, &[], |key, value| {
        rows += 1;
        let problem = verify_row(view, &indexes, key, value)?;
        Ok::<_, StorageError>(problem.is_none_or(|(place, problem)| damage(place, problem)))
    })?;
    view.walk_objects(ObjectId(0), |object, row| {
        // What is wrong with the row itself is told by whoever compares it with the history.
        let Ok(Row { content: Some(record), .. }) = row else { return Ok(true) };
        let Ok(record) = ObjectRecord::decode(&mut Reader::new(record)) else { return Ok(true) };
        for (place, problem) in missing_rows(view, &indexes, object, &record)? {
            if !damage(place, problem) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    Ok(rows)
}

/// Which indexes lack an object that they should have: places and problems.
pub(super) fn missing_rows(
    view: &TableView,
    indexes: &[(IndexDefinition, IndexState)],
    object: ObjectId,
    record: &ObjectRecord,
) -> Result<Vec<(String, String)>, StorageError> {
    let mut missing = Vec::new();
    for (index, state) in indexes {
        let expected = match state {
            IndexState::Building(next) => object < *next,
            IndexState::Complete => true,
            IndexState::Dropping => false,
        };
        let Some(key) = index.row_key(object, record).ok().flatten().filter(|_| expected) else { continue };
        if view.txn.get(SECONDARY, &key)?.is_none() {
            missing.push((place(index), format!("object {object} is missing")));
        }
    }
    Ok(missing)
}

fn place(index: &IndexDefinition) -> String {
    format!("the index of {} by {}", index.behavior, index.slot)
}

/// Whether the indexes there are are those that the host's own object lists.
pub(super) fn verify_list(
    view: &TableView,
    indexes: &[(IndexDefinition, IndexState)],
    damage: &mut dyn FnMut(String, String) -> bool,
) -> Result<bool, StorageError> {
    // A row that cannot be read is told by whoever compares it with the history.
    let Ok(host) = view.object(HOST_OBJECT) else { return Ok(false) };
    let slots = host.and_then(|host| Some(host.record.as_ref()?.slots.clone()));
    let listed = slots.map_or_else(|| Ok(Vec::new()), |slots| IndexDefinition::read_all(&slots));
    let Ok(listed) = listed else {
        return Ok(damage(format!("object {HOST_OBJECT}"), "its list of indexes is not understood".to_owned()));
    };
    let kept: Vec<_> =
        indexes.iter().filter(|(it, state)| !it.is_built_in() && *state != IndexState::Dropping).collect();
    for index in &listed {
        if !kept.iter().any(|(it, _)| it == index) {
            return Ok(damage(place(index), "it was made, but is not there".to_owned()));
        }
    }
    for (index, _) in kept {
        if !listed.contains(index) {
            return Ok(damage(place(index), "it is there, but was not made".to_owned()));
        }
    }
    Ok(true)
}

/// What is wrong with a row, if anything is: the place and the problem.
pub(super) fn verify_row(
    view: &TableView,
    indexes: &[(IndexDefinition, IndexState)],
    key: &[u8],
    value: &[u8],
) -> Result<Option<(String, String)>, StorageError> {
    let wrong = |problem: String| Ok(Some(("a row of an index".to_owned(), problem)));
    let Some((number, _, object)) = split_key(key) else { return wrong("its key is too short".to_owned()) };
    if let Err(problem) = unseal(SECONDARY, key, value) {
        return wrong(problem);
    }
    let Some((index, state)) = indexes.iter().find(|(index, _)| index.number == number) else {
        return wrong(format!("there is no index {}", number.0));
    };
    if *state == IndexState::Dropping {
        return Ok(None);
    }
    let expected = match view.object(object) {
        Ok(version) => version.and_then(|version| index.row_key(object, version.record.as_ref()?).ok().flatten()),
        // It is told as damage of the object.
        Err(StorageError::Damaged { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let agrees = expected.as_deref() == Some(key);
    Ok((!agrees).then(|| (place(index), format!("it has object {object} at a value that the object does not have"))))
}

impl super::Identity {
    /// Does a step of what is to be done about indexes; answers whether there is more to do. For the checkpointer.
    ///
    /// # Errors
    ///
    /// If the storage fails; then nothing has changed and it can be tried again.
    pub fn index_step(&self, rows_max: usize) -> Result<bool, StorageError> {
        self.table.index_step(rows_max)
    }

    /// How far an index has come; none if the object table has not seen yet that it was made.
    ///
    /// # Errors
    ///
    /// If the storage fails or the note of it is damaged.
    pub fn index_state(&self, number: IndexNumber) -> Result<Option<IndexState>, StorageError> {
        self.table.read()?.index_state(number)
    }
}

impl super::Reader {
    /// The indexes that operators made, as of a durable transaction.
    ///
    /// # Errors
    ///
    /// If the storage fails, or if the list is damaged.
    pub fn indexes(&mut self, at: Tid) -> Result<Vec<IndexDefinition>, StorageError> {
        let host = self.snapshot(HOST_OBJECT, at)?;
        let Some(record) = host.and_then(|version| version.record.clone()) else { return Ok(Vec::new()) };
        IndexDefinition::read_all(&record.slots)
            .map_err(|error| self.identity().damaged(at, format!("the list of indexes is not understood: {error}")))
    }
}
