//! What a collection asks of the executor: to note what is touched meanwhile, and to remove what is not, in bounded steps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use theseus_abi::Failure;
use theseus_value::{DecodeError, ObjectId, Value};

use super::{Executed, Executor, Recording, Sweeping, storage};
use crate::{
    exec::{CollectStep, Collected, now_us},
    identity::{ObjectRecord, Outcome, Reader, StorageError},
};

/// Under which a step that removes something stands in the history.
const COLLECT: &str = "theseus.collect";

/// Why a step could not read an object.
enum Unreadable {
    Storage(StorageError),
    Slots(DecodeError),
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        Unreadable::Slots(error)
    }
}

impl From<Unreadable> for Failure {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Storage(error) => storage(error),
            Unreadable::Slots(error) => {
                let message = format!("the slots of an object cannot be read: {error}");
                Failure::new(theseus_abi::FailureCode::IDENTITY_DAMAGED, message)
            }
        }
    }
}

fn newest(reader: &mut Reader, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Unreadable> {
    let version = reader.newest(object).map_err(Unreadable::Storage)?;
    Ok(version.and_then(|version| version.record.clone()))
}

impl Executor {
    /// A step of a collection.
    pub(super) fn collect(&mut self, step: CollectStep, report: Box<dyn FnOnce(Collected) + Send>) -> Executed {
        let nothing = || Executed::Answered { tid: None, outcome: Outcome::Done([].into()) };
        match (step, &mut self.sweeping) {
            (CollectStep::Begin, _) => self.sweeping = Some(Box::new(Sweeping::new(self.writer.next_object()))),
            (CollectStep::End, _) => self.sweeping = None,
            (_, None) => {
                report(Collected { broken_off: true, ..Collected::default() });
                return nothing();
            }
            (CollectStep::Offer(unreached), Some(sweeping)) => sweeping.offer(unreached),
            (CollectStep::Sweep { remove }, Some(_)) => return self.sweep(remove, report),
        }
        report(self.collected(false, 0));
        nothing()
    }

    /// Follows what was touched, and removes candidates when nothing of that is left.
    fn sweep(&mut self, remove: bool, report: Box<dyn FnOnce(Collected) + Send>) -> Executed {
        let Some(mut sweeping) = self.sweeping.take() else { unreachable!("the caller has looked") };
        let (started, settings) = (Instant::now(), &self.config.identity);
        let (longest, most) = (Duration::from_micros(settings.collect_step_us_max), settings.collect_objects_max);
        let reader = self.writer.reader();
        let settled = sweeping.settle(|object| newest(reader, object), || started.elapsed() < longest);
        let taken = match &settled {
            Ok(true) if remove => sweeping.take(most),
            _ => Vec::new(),
        };
        self.sweeping = Some(sweeping);
        let removed = settled.and_then(|settled| Ok((settled, self.remove_all(&taken)?)));
        let (settled, removed) = match removed {
            Ok(done) => done,
            Err(unreadable) => {
                self.sweeping = None;
                return Failure::from(unreadable).into();
            }
        };
        let outcome = Outcome::Done([].into());
        let executed = if removed == 0 {
            Executed::Answered { tid: None, outcome }
        } else {
            let note = Value::Map([("objects".to_owned(), Value::Int(removed.into()))].into_iter().collect()).encode();
            let (request_id, target, method, time_us, seed) = (None, None, COLLECT, now_us(), 0);
            self.record(Recording { request_id, target, method, arguments: &note, time_us, seed, outcome })
        };
        if matches!(executed, Executed::Refused(_)) {
            self.sweeping = None;
        } else {
            report(self.collected(settled, removed));
        }
        executed
    }

    /// Puts the removal of objects into the scratch; answers of how many. Some may have been removed by others.
    fn remove_all(&mut self, objects: &[ObjectId]) -> Result<u64, Unreadable> {
        self.scratch.clear();
        let mut removed = 0;
        for object in objects {
            if newest(self.writer.reader(), *object)?.is_some() {
                self.scratch.remove(*object);
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn collected(&self, settled: bool, removed: u64) -> Collected {
        let Some(sweeping) = &self.sweeping else { return Collected::default() };
        let (left, spared) = sweeping.counts();
        Collected { limit: sweeping.limit(), settled, removed, left, spared, broken_off: false }
    }

    /// Notes what a transaction touched, for the collection under way.
    pub(super) fn touch(
        &mut self,
        target: Option<ObjectId>,
        writes: &[(ObjectId, Option<Arc<ObjectRecord>>)],
        names: &[(Arc<str>, Option<ObjectId>)],
    ) {
        let Some(sweeping) = &mut self.sweeping else { return };
        target.into_iter().chain(names.iter().filter_map(|(_, object)| *object)).for_each(|it| sweeping.touch(it));
        let written = writes.iter().try_for_each(|(object, record)| sweeping.written(*object, record.as_deref()));
        if let Err(error) = written {
            log::error!("the collection under way ends: an object was written whose slots cannot be read: {error}");
            self.sweeping = None;
        }
    }
}
