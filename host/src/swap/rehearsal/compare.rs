//! What a transaction did this time, held against what it did when it was recorded.
//!
//! Compared are the outcome and the state that it left behind: for each object that either of the two wrote, what the
//! candidate would find afterwards. So an object that was recorded in an older schema is migrated first, and an object that
//! was only migrated counts as unchanged.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};

use rustc_hash::FxHashMap;
use theseus_abi::Failure;
use theseus_value::{ObjectId, Value};

use super::wire::Change;
use crate::{
    exec::{PluginSet, Repeated, Repeater, State},
    identity::{ObjectRecord, Outcome, Transaction},
};

/// How many differences of one transaction are told.
const CHANGES_MAX: usize = 50;

/// The largest value that is shown as it is, in bytes.
pub(super) const SHOWN_BYTES_MAX: usize = 16 << 10;

/// An encoded null, for which nothing at all may stand.
const NULL: &[u8] = &[0xf6];

/// Where the record and the repetition differ.
#[derive(Default, Debug)]
pub(super) struct Comparison {
    /// Whether the outcomes differ: the results, or the codes and kinds of failures. Their texts are for people.
    pub result: bool,
    /// Whether what was written differs.
    pub writes: bool,
    pub changes: Vec<Change>,
    /// How many differences there are beyond `changes`.
    pub more: u64,
}

impl Comparison {
    pub(super) fn is_same(&self) -> bool {
        !self.result && !self.writes
    }

    /// Compares. `state` is what the transaction met, `plugins` are those it was repeated with.
    ///
    /// # Errors
    ///
    /// If the state cannot be read, or an object cannot be migrated.
    pub(super) fn of(
        recorded: &Transaction<'_>,
        repeated: &Repeated,
        repeater: &mut Repeater,
        state: &mut dyn State,
        plugins: &PluginSet,
    ) -> Result<Comparison, Failure> {
        let mut found = Comparison::default();
        found.outcomes(&recorded.outcome, repeated);
        let (writes, names) = &repeated.changes;
        let same_writes = recorded.writes.len() == writes.len()
            && recorded
                .writes
                .iter()
                .zip(writes)
                .all(|(a, (object, record))| a.object == *object && a.record == *record);
        if !same_writes {
            found.objects(recorded, writes, repeater, state, plugins)?;
        }
        let recorded_names: FxHashMap<&str, Option<ObjectId>> =
            recorded.names.iter().map(|naming| (naming.name, naming.object)).collect();
        let repeated_names: FxHashMap<&str, Option<ObjectId>> = names.iter().map(|(name, it)| (&**name, *it)).collect();
        for name in recorded_names.keys().chain(repeated_names.keys()).collect::<BTreeSet<_>>() {
            let mut stands_for = |names: &FxHashMap<&str, Option<ObjectId>>| match names.get(*name) {
                Some(object) => Ok(*object),
                None => state.name(name),
            };
            let (before, now) = (stands_for(&recorded_names)?, stands_for(&repeated_names)?);
            if before != now {
                found.writes = true;
                let value = |object: Option<ObjectId>| object.map(Value::Ref);
                found.differ(None, &key("names", name), value(before).as_ref(), value(now).as_ref());
            }
        }
        Ok(found)
    }

    fn outcomes(&mut self, recorded: &Outcome, repeated: &Repeated) {
        let or_null = |bytes: &[u8]| if bytes.is_empty() { NULL.to_vec() } else { bytes.to_vec() };
        match (recorded, &repeated.outcome) {
            (Outcome::Done(before), Ok(now)) => {
                let (before, now) = (or_null(before), or_null(now));
                if before != now {
                    self.result = true;
                    self.values(None, "result", Some(&before), Some(&now));
                }
            }
            (Outcome::Failed(before), Err(now)) => {
                self.result = before.code != now.code.name() || before.kind != now.kind.as_str();
            }
            (Outcome::Done(_), Err(_)) | (Outcome::Failed(_), Ok(_)) => self.result = true,
        }
    }

    fn objects(
        &mut self,
        recorded: &Transaction<'_>,
        repeated: &[(ObjectId, Option<Arc<ObjectRecord>>)],
        repeater: &mut Repeater,
        state: &mut dyn State,
        plugins: &PluginSet,
    ) -> Result<(), Failure> {
        let before: Writes = recorded.writes.iter().map(|write| (write.object, write.record.clone())).collect();
        let now: Writes = repeated.iter().cloned().collect();
        let all: BTreeSet<ObjectId> = before.keys().chain(now.keys()).copied().collect();
        let mut left = |writes: &Writes| {
            let mut after = After { state: &mut *state, writes };
            repeater.find(&mut after, plugins, all.iter().copied())
        };
        let (before, now) = (left(&before)?, left(&now)?);
        for ((object, before), now) in all.iter().zip(before).zip(now) {
            self.object(*object, before.as_deref(), now.as_deref());
        }
        Ok(())
    }

    fn object(&mut self, object: ObjectId, before: Option<&ObjectRecord>, now: Option<&ObjectRecord>) {
        if before == now {
            return;
        }
        self.writes = true;
        let object = Some(object);
        let (Some(before), Some(now)) = (before, now) else {
            let slots = |record: Option<&ObjectRecord>| record.map(|record| record.slots.to_vec());
            return self.whole(object, "", slots(before), slots(now));
        };
        if before.behavior != now.behavior || before.schema != now.schema {
            let kind = |record: &ObjectRecord| Value::Text(format!("{} version {}", record.behavior, record.schema));
            self.differ(object, "behavior", Some(&kind(before)), Some(&kind(now)));
        }
        if before.parents != now.parents {
            let parents =
                |record: &ObjectRecord| Value::Array(record.parents.iter().map(|id| Value::Ref(*id)).collect());
            self.differ(object, "parents", Some(&parents(before)), Some(&parents(now)));
        }
        if before.slots != now.slots {
            self.values(object, "slots", Some(&before.slots), Some(&now.slots));
        }
    }

    /// Tells where two encoded values differ.
    fn values(&mut self, object: Option<ObjectId>, path: &str, before: Option<&[u8]>, now: Option<&[u8]>) {
        let decode = |bytes: Option<&[u8]>| bytes.map(|bytes| Value::decode(bytes).unwrap_or(Value::Null));
        self.differ(object, path, decode(before).as_ref(), decode(now).as_ref());
    }

    /// Goes down to the parts that differ.
    fn differ(&mut self, object: Option<ObjectId>, path: &str, before: Option<&Value>, now: Option<&Value>) {
        match (before, now) {
            (Some(a), Some(b)) if a == b => {}
            (Some(Value::Map(a)), Some(Value::Map(b))) => {
                let names: BTreeSet<&str> = a.iter().chain(b.iter()).map(|(name, _)| name).collect();
                for name in names {
                    let (a, b) = (a.get(name), b.get(name));
                    if a != b {
                        self.differ(object, &key(path, name), a, b);
                    }
                }
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                for place in 0..a.len().max(b.len()) {
                    self.differ(object, &format!("{path}[{place}]"), a.get(place), b.get(place));
                }
            }
            _ => self.whole(object, path, before.map(Value::encode), now.map(Value::encode)),
        }
    }

    fn whole(&mut self, object: Option<ObjectId>, path: &str, before: Option<Vec<u8>>, now: Option<Vec<u8>>) {
        if self.changes.len() == CHANGES_MAX {
            self.more += 1;
            return;
        }
        let (recorded, offered) = (before.map(shown), now.map(shown));
        self.changes.push(Change { object, path: path.to_owned(), recorded, offered });
    }
}

/// An encoded value as it is told: in full unless it is very large.
pub(super) fn shown(value: Vec<u8>) -> Box<[u8]> {
    if value.len() <= SHOWN_BYTES_MAX {
        return value.into();
    }
    Value::Text(format!("({} bytes)", value.len())).encode().into()
}

/// The path of an entry of a map.
fn key(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|it| it.is_alphanumeric() || it == '_');
    let mut path = path.to_owned();
    // Writing into a `String` cannot fail.
    _ = if plain { write!(path, ".{name}") } else { write!(path, "[{name:?}]") };
    path
}

type Writes = FxHashMap<ObjectId, Option<Arc<ObjectRecord>>>;

/// A state as a transaction left it behind.
struct After<'a> {
    state: &'a mut dyn State,
    writes: &'a Writes,
}

impl State for After<'_> {
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        match self.writes.get(&object) {
            Some(record) => Ok(record.clone()),
            None => self.state.object(object),
        }
    }

    fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        match self.writes.get(&object) {
            Some(Some(record)) if record.schema == schema => Ok(Some(record.clone())),
            Some(None) => Ok(None),
            _ => self.state.last_in_schema(object, schema),
        }
    }

    fn name(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        self.state.name(name)
    }
}

#[cfg(test)]
mod tests {
    use theseus_abi::FailureCode;

    use super::*;
    use crate::{
        config::Execution,
        exec::Nothing,
        identity::{Naming, Pointers, RecordedFailure, Tid, Write},
    };

    fn map(entries: &[(&str, Value)]) -> Value {
        Value::Map(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn record(slots: &Value) -> Option<Arc<ObjectRecord>> {
        let (behavior, slots) = ("a.B".into(), slots.encode().into());
        Some(Arc::new(ObjectRecord { behavior, schema: 1, parents: [].into(), slots }))
    }

    fn recorded(outcome: Outcome, writes: Vec<Write>) -> Transaction<'static> {
        let pointers = Pointers { number: 1, previous: Tid(0), jump: Tid(0) };
        let names = vec![Naming { name: "visits", pointers, object: Some(ObjectId(1)) }];
        let arguments = &[0xf6_u8][..];
        let (target, method) = (Some(ObjectId(1)), "m");
        Transaction { request_id: None, target, method, arguments, time_us: 0, seed: 0, outcome, writes, names }
    }

    fn compare(recorded: &Transaction<'_>, repeated: &Repeated) -> Comparison {
        let mut repeater = Repeater::new(Execution::default());
        Comparison::of(recorded, repeated, &mut repeater, &mut Nothing, &PluginSet::default()).unwrap()
    }

    fn written(record: Option<Arc<ObjectRecord>>) -> Vec<Write> {
        vec![Write { object: ObjectId(1), pointers: Pointers { number: 1, previous: Tid(0), jump: Tid(0) }, record }]
    }

    #[test]
    fn what_is_the_same_is_the_same() {
        let record = record(&map(&[("count", Value::Int(1))]));
        let names = vec![("visits".into(), Some(ObjectId(1)))];
        let repeated = Repeated { outcome: Ok([].into()), changes: (vec![(ObjectId(1), record.clone())], names) };
        let found = compare(&recorded(Outcome::Done(NULL.into()), written(record)), &repeated);
        assert!(found.is_same() && found.changes.is_empty(), "{found:?}");
    }

    #[test]
    fn differences_are_told_by_their_places() {
        let list = |last: i64| Value::Array(vec![Value::Int(1), Value::Int(last.into())]);
        let before = map(&[("count", Value::Int(1)), ("list", list(2)), ("odd name", Value::Null), ("gone", list(1))]);
        let now = map(&[("count", Value::Int(1)), ("list", list(3)), ("odd name", Value::Int(1))]);
        let repeated =
            Repeated { outcome: Ok(list(2).encode().into()), changes: (vec![(ObjectId(1), record(&now))], vec![]) };
        let found = compare(&recorded(Outcome::Done(list(1).encode().into()), written(record(&before))), &repeated);
        assert!(found.result && found.writes);
        let paths: Vec<_> = found.changes.iter().map(|it| (it.object, it.path.as_str())).collect();
        let one = Some(ObjectId(1));
        let expected = [
            (None, "result[1]"),
            (one, "slots.gone"),
            (one, "slots.list[1]"),
            (one, "slots[\"odd name\"]"),
            (None, "names.visits"),
        ];
        assert_eq!(paths, expected);
        assert_eq!(found.changes[1].offered, None);
        assert_eq!(found.changes[2].offered.as_deref(), Some(&[3][..]));
    }

    #[test]
    fn an_object_that_only_one_of_the_two_has_is_told_whole() {
        let slots = map(&[("count", Value::Int(1))]);
        let repeated =
            Repeated { outcome: Ok([].into()), changes: (vec![], vec![("visits".into(), Some(ObjectId(1)))]) };
        let found = compare(&recorded(Outcome::Done(NULL.into()), written(record(&slots))), &repeated);
        assert!(found.writes && !found.result);
        assert_eq!(found.changes[0].recorded.as_deref(), Some(&slots.encode()[..]));
        assert_eq!((found.changes[0].path.as_str(), found.changes[0].offered.as_ref()), ("", None));
    }

    #[test]
    fn failures_differ_by_code_and_kind_not_by_their_text() {
        let failed = |kind: &str| {
            let (code, kind, message) = ("refused".into(), kind.into(), "words".into());
            recorded(Outcome::failed(RecordedFailure { code, kind, message }), vec![])
        };
        let mut failure = Failure::new(FailureCode::REFUSED, "other words");
        failure.kind = "overdraft".into();
        let names = vec![("visits".into(), Some(ObjectId(1)))];
        let repeated = Repeated { outcome: Err(failure), changes: (vec![], names) };
        assert!(compare(&failed("overdraft"), &repeated).is_same());
        assert!(compare(&failed("closed"), &repeated).result);
    }

    #[test]
    fn many_differences_are_counted_and_large_values_left_out() {
        let many = |by: i64| Value::Array((0..200).map(|it| Value::Int((it + by).into())).collect());
        let mut found = Comparison::default();
        found.differ(None, "result", Some(&many(0)), Some(&many(1)));
        assert_eq!((found.changes.len(), found.more), (CHANGES_MAX, 150));
        let large = Value::Text("x".repeat(SHOWN_BYTES_MAX));
        assert!(shown(large.encode()).len() < 100);
    }
}
