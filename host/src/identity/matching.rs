//! Finding objects by what a slot holds: the rows of an index, and what has changed since the object table was brought forward.
//!
//! What the table's rows say is true of every object that nobody wrote since. The others are all in the overlay; those of the
//! index's behaviour are looked at one by one, put in order, and merged with the rows.

use std::cmp::Ordering;

use theseus_value::{DecodeError, ObjectId, Value, raw::MapView};

use super::{
    Reader, StorageError, Tid, Version,
    order::{self, ValueKey},
    secondary::{IndexDefinition, IndexState, row_key},
    table::TableView,
};

/// The longest place that a client may go on from, in bytes.
const CURSOR_BYTES_MAX: usize = 500;

/// How many rows are read before they are looked at.
const ROWS_MAX: usize = 4096;

/// What a slot has to hold. Only values of the same kind compare: booleans, numbers, references, byte strings, texts.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    /// How it has to compare.
    pub relation: Relation,
    /// With what.
    pub value: Value,
}

/// How a slot's value has to compare with another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// It is less.
    Less,
    /// It is less or equal.
    AtMost,
    /// It is equal.
    Equal,
    /// It is greater or equal.
    AtLeast,
    /// It is greater.
    Greater,
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Relation::Less => order.is_lt(),
            Relation::AtMost => order.is_le(),
            Relation::Equal => order.is_eq(),
            Relation::AtLeast => order.is_ge(),
            Relation::Greater => order.is_gt(),
        }
    }
}

/// Objects that were found, in the order of the index.
#[derive(Debug)]
pub struct Matching {
    /// The objects.
    pub objects: Vec<(ObjectId, Version)>,
    /// Objects that stand in between and cannot be read, and why; only [`Reader::matching_newest`] goes on behind such.
    pub unreadable: Vec<(ObjectId, StorageError)>,
    /// Where to go on; none if these were the last.
    pub next: Option<Vec<u8>>,
}

/// What is looked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// By which index.
    pub index: &'a IndexDefinition,
    /// What its slot has to hold; none for anything that has a place in an order.
    pub condition: Option<&'a Condition>,
    /// Where to go on, as [`Matching::next`] said.
    pub after: Option<&'a [u8]>,
    /// How many objects to answer at most.
    pub limit: usize,
}

/// As of when.
#[derive(Clone, Copy)]
enum AsOf {
    /// The last durable transaction.
    Head,
    /// The last transaction, durable or not.
    Newest,
}

/// A condition, ready to be held against keys and slots.
struct Test<'a> {
    index: &'a IndexDefinition,
    relation: Relation,
    /// The encoded value and its key; none if everything passes.
    value: Option<(Vec<u8>, ValueKey)>,
}

impl<'a> Test<'a> {
    fn new(wanted: &Wanted<'a>) -> Test<'a> {
        let value = wanted.condition.map(|condition| {
            let item = condition.value.encode();
            let key = ValueKey::of(&item).ok().flatten();
            // What has no place in an order is equal to nothing, which the empty key is as well.
            let key = key.unwrap_or(ValueKey { bytes: vec![0], ordered: 1 });
            (item, key)
        });
        let relation = wanted.condition.map_or(Relation::Equal, |condition| condition.relation);
        Test { index: wanted.index, relation, value }
    }

    /// Where rows that can pass begin.
    fn start(&self) -> Vec<u8> {
        let number = self.index.number.0.to_be_bytes();
        let value = match &self.value {
            None => &[],
            Some((_, key)) if matches!(self.relation, Relation::Less | Relation::AtMost) => &key.bytes[..1],
            Some((_, key)) => &key.bytes[..key.ordered],
        };
        [&number, value].concat()
    }

    /// Whether rows of this value or one behind it can pass.
    fn goes_on(&self, value: &[u8]) -> bool {
        let Some((_, key)) = &self.value else { return true };
        let ordered = &key.bytes[..key.ordered];
        match self.relation {
            Relation::AtLeast | Relation::Greater => value.starts_with(&key.bytes[..1]),
            Relation::Equal => value <= &key.bytes[..],
            Relation::Less | Relation::AtMost => value.starts_with(ordered) || value <= ordered,
        }
    }

    /// The key of an object's value, if it passes.
    fn passes(&self, version: &Version) -> Result<Option<Vec<u8>>, DecodeError> {
        let Some(record) = version.record.as_deref().filter(|record| record.behavior == self.index.behavior) else {
            return Ok(None);
        };
        let Some(item) = MapView::new(&record.slots)?.get(&self.index.slot)? else { return Ok(None) };
        let Some(key) = ValueKey::of(item)? else { return Ok(None) };
        let passes = match &self.value {
            None => true,
            Some((value, _)) => order::compare(item, value)?.is_some_and(|order| self.relation.holds(order)),
        };
        Ok(passes.then_some(key.bytes))
    }
}

/// One search: what is looked for, in which view of the table, and as of when.
struct Search<'a> {
    view: &'a TableView,
    /// Up to where the view has seen the history.
    since: Tid,
    as_of: AsOf,
    head: Tid,
    test: &'a Test<'a>,
}

/// An object that was found, with its place in the index.
type Found = (Vec<u8>, ObjectId, Version);

impl Reader {
    /// Objects by what a slot holds, exactly as of the last durable transaction, in the order of the values and then of the ids.
    /// None if the index is not complete yet.
    ///
    /// # Errors
    ///
    /// If the storage fails, or if a row is damaged.
    pub fn matching(&mut self, wanted: Wanted<'_>) -> Result<Option<Matching>, StorageError> {
        self.matching_as_of(AsOf::Head, wanted)
    }

    /// As [`matching`](Self::matching), but with what is not durable yet, and without objects whose rows are damaged: it tells of those.
    ///
    /// # Errors
    ///
    /// If the storage fails, or if a row of the index is damaged.
    pub fn matching_newest(&mut self, wanted: Wanted<'_>) -> Result<Option<Matching>, StorageError> {
        self.matching_as_of(AsOf::Newest, wanted)
    }

    fn matching_as_of(&mut self, as_of: AsOf, wanted: Wanted<'_>) -> Result<Option<Matching>, StorageError> {
        let test = Test::new(&wanted);
        let after = wanted.after.map(|after| &after[..after.len().min(CURSOR_BYTES_MAX)]);
        loop {
            // A view of its own: the one that is kept open may be from before the index was complete.
            let view = self.identity().table.read()?;
            if view.index_state(wanted.index.number)? != Some(IndexState::Complete) {
                return Ok(None);
            }
            let since = view.reached()?.tid;
            // The table never goes beyond what is durable.
            let head = self.identity().head().tid;
            let search = Search { view: &view, since, as_of, head, test: &test };
            let changed = self.changed_since(&search)?;
            // What has left the overlay meanwhile is in the table, but not in this view of it.
            if self.identity().reached() > since {
                continue;
            }
            let is_after = |(value, object, _): &Found| after.is_none_or(|after| *place(value, *object) > *after);
            let mut changed: Vec<Found> = changed.into_iter().filter(is_after).collect();
            changed.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            return self.merge(&search, changed, after, wanted.limit).map(Some);
        }
    }

    /// The version of an object that counts.
    fn version(&mut self, object: ObjectId, as_of: AsOf, head: Tid) -> Result<Option<Version>, StorageError> {
        match as_of {
            AsOf::Head => self.snapshot(object, head),
            AsOf::Newest => self.newest(object),
        }
    }

    /// The objects that pass and were written after what the view has seen, in no order.
    fn changed_since(&mut self, search: &Search<'_>) -> Result<Vec<Found>, StorageError> {
        let Search { since, as_of, head, test, .. } = *search;
        let (mut found, mut unsure, mut broken) = (Vec::new(), Vec::new(), None);
        let ours = |version: &Version| version.record.as_ref().map(|record| record.behavior == test.index.behavior);
        self.identity().objects.visit(|object, versions| {
            let (tid, newest) = versions.newest();
            if *tid <= since {
                return;
            }
            // Of several versions it takes a closer look which one counts, and the one that does may have left already.
            if matches!(as_of, AsOf::Head) && *tid > head {
                // An object keeps its behaviour for life.
                if versions.iter().find_map(|(_, version)| ours(version)) != Some(false) {
                    unsure.push(*object);
                }
            } else if ours(newest) == Some(true) {
                match test.passes(newest) {
                    Ok(Some(value)) => found.push((value, *object, newest.clone())),
                    Ok(None) => {}
                    Err(error) => broken = Some((*tid, error)),
                }
            }
        });
        for object in unsure {
            let Some(version) = self.snapshot(object, head)?.filter(|version| version.tid > since) else { continue };
            match test.passes(&version) {
                Ok(Some(value)) => found.push((value, object, version)),
                Ok(None) => {}
                Err(error) => broken = Some((version.tid, error)),
            }
        }
        match broken {
            Some((tid, error)) => Err(self.identity().damaged(tid, error.to_string())),
            None => Ok(found),
        }
    }

    /// Puts what has changed among the rows of the index.
    fn merge(
        &mut self,
        search: &Search<'_>,
        changed: Vec<Found>,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Matching, StorageError> {
        let Search { view, as_of, test, .. } = *search;
        let (mut found, mut unreadable) = (Vec::<Found>::new(), Vec::new());
        let mut changed = changed.into_iter().peekable();
        let number = test.index.number;
        let mut from = test.start();
        if let Some(after) = after {
            // Nothing comes between a key and the same with a zero behind it.
            from = from.max([&number.0.to_be_bytes(), after, &[0]].concat());
        }
        let mut more_rows = true;
        while more_rows && found.len() <= limit {
            let mut rows = Vec::new();
            more_rows = false;
            view.index_rows(&from, |row, value, object| {
                if row != number || !test.goes_on(value) {
                    return false;
                }
                rows.push((value.to_vec(), object));
                more_rows = rows.len() == ROWS_MAX.min(limit + 1);
                !more_rows
            })?;
            if let Some((value, object)) = rows.last() {
                from = [&row_key(number, value, *object)[..], &[0]].concat();
            }
            for (value, object) in rows {
                while let Some(before) = changed.next_if(|it| (&it.0, it.1) < (&value, object)) {
                    found.push(before);
                }
                if found.len() > limit {
                    break;
                }
                match self.look_up(search, &value, object) {
                    Ok(Some(version)) => found.push((value, object, version)),
                    Ok(None) => {}
                    Err(error @ StorageError::Damaged { .. }) if matches!(as_of, AsOf::Newest) => {
                        unreadable.push((object, error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        while found.len() <= limit
            && let Some(last) = changed.next()
        {
            found.push(last);
        }
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(value, object, _)| place(value, *object));
        let objects = found.into_iter().map(|(_, object, version)| (object, version)).collect();
        Ok(Matching { objects, unreadable, next })
    }

    /// The object of a row of the index, if the row still counts and the object passes.
    fn look_up(
        &mut self,
        search: &Search<'_>,
        value: &[u8],
        object: ObjectId,
    ) -> Result<Option<Version>, StorageError> {
        let Search { view, since, as_of, head, test } = *search;
        let Some(version) = self.version(object, as_of, head)? else { return Err(wrong_row(view, test, object)) };
        // Of what has changed, the overlay has told already.
        if version.tid > since {
            return Ok(None);
        }
        match test.passes(&version).map_err(|_| wrong_row(view, test, object))? {
            Some(now) if now == value => Ok(Some(version)),
            Some(_) => Err(wrong_row(view, test, object)),
            None if test.index.value_key_of(&version).as_deref() != Some(value) => Err(wrong_row(view, test, object)),
            // A text that differs from the one looked for only behind what stands in keys.
            None => Ok(None),
        }
    }
}

impl IndexDefinition {
    /// The key of an object's value, if it has one that can be read.
    fn value_key_of(&self, version: &Version) -> Option<Vec<u8>> {
        let record = version.record.as_deref().filter(|record| record.behavior == self.behavior)?;
        Some(self.value_key(record).ok()??.bytes)
    }
}

/// The place of an object in an index.
fn place(value: &[u8], object: ObjectId) -> Vec<u8> {
    [value, &object.0.to_be_bytes()].concat()
}

#[cold]
fn wrong_row(view: &TableView, test: &Test<'_>, object: ObjectId) -> StorageError {
    let problem = format!("object {object} is not as its row says; drop the index and create it again");
    view.env.damaged(format!("the index of {} by {}", test.index.behavior, test.index.slot), problem)
}
