//! Taking transactions back: what a plan says is written, if the plan still holds.

use theseus_abi::Failure;
use theseus_value::{ObjectId, Value};

use super::{Executed, Executor, Recording};
use crate::{
    exec::{Refusal, messages, now_us, state::storage},
    identity::{ObjectRecord, Outcome, Tid, UndoPlan, UndoRefusal, is_hosts_own},
    plugin::CallHost,
};

/// Under which it stands in the history.
const UNDO: &str = "theseus.undo";

/// How many transactions may have come since a plan was made: some tens of milliseconds are needed to look through them.
const RECHECKED_MAX: u64 = 100_000;

impl Executor {
    pub(super) fn undo(&mut self, tids: &[Tid], plan: Result<UndoPlan, Refusal>, request_id: Option<&str>) -> Executed {
        let mut tids = tids.to_vec();
        tids.sort_unstable();
        tids.dedup();
        let tids = tids.into_iter().map(|tid| Value::Int(tid.0.into())).collect();
        let note = map([("transactions", Value::Array(tids))]).encode();
        // First: what was undone under this request id cannot be planned a second time.
        if let Some(known) = self.repetition(request_id, None, UNDO, &note) {
            return known;
        }
        let plan = match plan {
            Ok(plan) => plan,
            Err(refusal) => return Executed::Refused(refusal),
        };
        if plan.is_empty() {
            return Executed::Answered { tid: None, outcome: Outcome::Done(told(&plan, &[]).encode().into()) };
        }
        if let Err(refusal) = self.still_holds(&plan) {
            return Executed::Refused(refusal);
        }
        let time_us = now_us();
        let holders = match self.restore(&plan, time_us) {
            Ok(holders) => holders,
            Err(failure) => return failure.into(),
        };
        let outcome = Outcome::Done(told(&plan, &holders).encode().into());
        let (target, method, seed) = (None, UNDO, 0);
        self.record(Recording { request_id, target, method, arguments: &note, time_us, seed, outcome })
    }

    /// Looks whether nothing of it was written since it was planned, and whether what comes back can be read.
    fn still_holds(&mut self, plan: &UndoPlan) -> Result<(), Refusal> {
        let storage = |error| Refusal::Failed(storage(error));
        for (object, restored) in &plan.objects {
            let newest = self.writer.reader().newest(*object).map_err(storage)?;
            let by = newest.as_ref().map_or(Tid::NONE, |version| version.tid);
            if by != restored.newest {
                return Err(
                    UndoRefusal::WrittenSince { tid: restored.undone, what: format!("object {object}"), by }.into()
                );
            }
            let Some(record) = &restored.record else { continue };
            let now = newest.and_then(|version| version.record.clone());
            // What cannot be read as it is now need not be readable afterwards either.
            let same = now.is_some_and(|now| (&now.behavior, now.schema) == (&record.behavior, record.schema));
            if !same && !self.reads(record) {
                let (behavior, schema) = (record.behavior.to_string(), record.schema);
                return Err(UndoRefusal::Unreadable { object: *object, behavior, schema }.into());
            }
        }
        for (name, restored) in &plan.names {
            let newest = self.writer.reader().newest_name(name).map_err(storage)?;
            let by = newest.map_or(Tid::NONE, |version| version.tid);
            if by != restored.newest {
                return Err(
                    UndoRefusal::WrittenSince { tid: restored.undone, what: format!("the name `{name}`"), by }.into()
                );
            }
        }
        // All others wait meanwhile.
        if self.writer.next_tid().0 - plan.as_of.0 > RECHECKED_MAX {
            return Err(Refusal::Overloaded);
        }
        self.writer.reader().recheck_undo(plan).map_err(Refusal::from)
    }

    /// Whether the plugins in force can work with an object.
    fn reads(&self, record: &ObjectRecord) -> bool {
        if is_hosts_own(&record.behavior) {
            return true;
        }
        let behavior = self.plugins.behavior(&record.behavior);
        behavior.is_some_and(|it| it.schema() == record.schema || self.plugins.way(it, record.schema).is_some())
    }

    /// Writes what comes back, and tells for each name that is lost which object has it then.
    fn restore(&mut self, plan: &UndoPlan, time_us: u64) -> Result<Vec<Option<ObjectId>>, Failure> {
        let mut turn = self.turn(time_us, 0);
        for (object, restored) in &plan.objects {
            let record = restored.record.clone();
            turn.restore(*object, record.map(|record| messages::restored(record, time_us)))?;
        }
        for (name, restored) in &plan.names {
            turn.restore_name(name.clone(), restored.record)?;
        }
        plan.names_lost.iter().map(|(name, _)| turn.name_get(name)).collect()
    }
}

/// What an undo does, for its result; `holders` have the names that are lost.
fn told(plan: &UndoPlan, holders: &[Option<ObjectId>]) -> Value {
    let objects = |there: bool| {
        let some = plan.objects.iter().filter(move |(_, restored)| restored.record.is_some() == there);
        Value::Array(some.map(|(object, _)| Value::Ref(*object)).collect())
    };
    let lost = plan.names_lost.iter().zip(holders).map(|((name, object), holder)| {
        let holder = holder.map_or(Value::Null, Value::Ref);
        map([("name", Value::Text(name.to_string())), ("object", Value::Ref(*object)), ("holder", holder)])
    });
    map([
        ("restored", objects(true)),
        ("removed", objects(false)),
        ("names", Value::Array(plan.names.keys().map(|name| Value::Text(name.to_string())).collect())),
        ("names_lost", Value::Array(lost.collect())),
        ("unchecked", plan.unchecked.map_or(Value::Null, |tid| Value::Int(tid.0.into()))),
    ])
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
