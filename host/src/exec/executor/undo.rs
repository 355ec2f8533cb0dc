//! Taking transactions back: what a plan says is written, if the plan still holds.

use theseus_abi::Failure;
use theseus_value::Value;

use super::{Executed, Executor, Recording};
use crate::{
    exec::{Refusal, messages, now_us, state::storage},
    identity::{ObjectRecord, Outcome, Tid, UndoPlan, UndoRefusal, is_hosts_own},
};

/// Under which it stands in the history.
const UNDO: &str = "theseus.undo";

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
        let outcome = Outcome::Done(told(&plan).encode().into());
        if plan.is_empty() {
            return Executed::Answered { tid: None, outcome };
        }
        if let Err(refusal) = self.still_holds(&plan) {
            return Executed::Refused(refusal);
        }
        let time_us = now_us();
        if let Err(failure) = self.restore(plan, time_us) {
            return failure.into();
        }
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
        Ok(())
    }

    /// Whether the plugins in force can work with an object.
    fn reads(&self, record: &ObjectRecord) -> bool {
        if is_hosts_own(&record.behavior) {
            return true;
        }
        let behavior = self.plugins.behavior(&record.behavior);
        behavior.is_some_and(|it| it.schema() == record.schema || self.plugins.way(it, record.schema).is_some())
    }

    fn restore(&mut self, plan: UndoPlan, time_us: u64) -> Result<(), Failure> {
        let mut turn = self.turn(time_us, 0);
        for (object, restored) in plan.objects {
            turn.restore(object, restored.record.map(|record| messages::restored(record, time_us)))?;
        }
        plan.names.into_iter().try_for_each(|(name, restored)| turn.restore_name(name, restored.record))
    }
}

/// What an undo does, for its result.
fn told(plan: &UndoPlan) -> Value {
    let objects = |there: bool| {
        let some = plan.objects.iter().filter(move |(_, restored)| restored.record.is_some() == there);
        Value::Array(some.map(|(object, _)| Value::Ref(*object)).collect())
    };
    map([
        ("restored", objects(true)),
        ("removed", objects(false)),
        ("names", Value::Array(plan.names.keys().map(|name| Value::Text(name.to_string())).collect())),
        ("unchecked", plan.unchecked.map_or(Value::Null, |tid| Value::Int(tid.0.into()))),
    ])
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
