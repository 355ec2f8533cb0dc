//! What swaps ask of the executor: another set between two batches, and objects brought up in bounded steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use theseus_abi::FailureCode;
use theseus_value::{ObjectId, Value};

use super::{Executed, Executor, Recording};
use crate::{
    exec::{Admit, MigrationStep, Refusal, Remember, now_us},
    identity::{MIGRATE, Outcome},
    plugin::Generation,
};

impl Executor {
    /// Puts another set in force between two batches.
    pub(super) fn install(
        &mut self,
        what: &str,
        (generations, removed): (&[Arc<Generation>], &[Arc<str>]),
        admit: Admit,
        note: &[u8],
        remember: Option<Remember>,
    ) -> Executed {
        let started = Instant::now();
        let refused = |reason| Executed::Refused(Refusal::NotAdmitted { reason });
        let fallbacks = match admit(&self.plugins, self.writer.census()) {
            Ok(fallbacks) => fallbacks,
            Err(reason) => return refused(reason),
        };
        let next = match self.plugins.without(removed).with(generations) {
            Ok(next) => Arc::new(next.with_fallbacks(&fallbacks)),
            Err(conflict) => return refused(conflict.to_string()),
        };
        // A record names one set of generations: what was executed with the old one goes into a batch of its own.
        if !self.answers.is_empty() {
            if self.committer.is_none() {
                self.committer = self.ready.recv().ok();
            }
            self.close_batch();
        }
        let before = std::mem::replace(&mut self.plugins, next);
        match self.note(what, note, remember) {
            Executed::Recorded { tid, outcome, .. } => {
                self.superseded.push_back((tid, before));
                Executed::Recorded { tid, outcome, pause_us: started.elapsed().as_micros() as u64 }
            }
            other => {
                self.plugins = before;
                other
            }
        }
    }

    /// Brings objects into the schemas in force, one after another, until the time of a step is over. An object whose migration
    /// fails is left as it was and keeps no other from migrating.
    pub(super) fn migrate(&mut self, objects: &[ObjectId], report: Box<dyn FnOnce(MigrationStep) + Send>) -> Executed {
        let (started, time_us) = (Instant::now(), now_us());
        let longest = Duration::from_micros(self.config.plugins.migration_step_us_max);
        let mut step = MigrationStep::default();
        let mut turn = self.turn(time_us, 0);
        for object in objects {
            if step.examined > 0 && started.elapsed() >= longest {
                break;
            }
            match turn.bring_up(*object) {
                Ok(Some(change)) => *step.migrated.entry(change).or_default() += 1,
                Ok(None) => {}
                // No more fits this transaction: it is the first of the next.
                Err(failure) if failure.code == FailureCode::LIMIT_EXCEEDED && !step.migrated.is_empty() => break,
                Err(failure) => step.failed.push((*object, failure)),
            }
            step.examined += 1;
        }
        if let Some(failure) = turn.poison.take() {
            return failure.into();
        }
        let outcome = Outcome::Done([].into());
        let executed = if step.migrated.is_empty() {
            Executed::Answered { tid: None, outcome }
        } else {
            let (request_id, target, method, seed) = (None, None, MIGRATE, 0);
            self.record(Recording { request_id, target, method, arguments: &note(&step), time_us, seed, outcome })
        };
        if !matches!(executed, Executed::Refused(_)) {
            step.behind = self.plugins.behind(self.writer.census());
            report(step);
        }
        executed
    }
}

/// How a step of the migration stands in the history.
fn note(step: &MigrationStep) -> Vec<u8> {
    let map = |entries: Vec<(&str, Value)>| {
        Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let migrated = step.migrated.iter().map(|((behavior, from, to), objects)| {
        map(vec![
            ("behavior", Value::Text(behavior.to_string())),
            ("from", Value::Int((*from).into())),
            ("to", Value::Int((*to).into())),
            ("objects", Value::Int((*objects).into())),
        ])
    });
    let failed = step.failed.iter().map(|(object, _)| Value::Ref(*object));
    map(vec![("migrated", Value::Array(migrated.collect())), ("failed", Value::Array(failed.collect()))]).encode()
}
