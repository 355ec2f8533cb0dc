//! The probe's half in the child.

use std::{fs, thread, time::Duration};

use theseus_abi::{Capability, Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    DecodeError,
    raw::{MapView, merge_maps},
};

use super::{Refused, Report, Sample, Samples, Task};
use crate::{
    exec::pick_slots,
    plugin::{Behavior, Generation, Leaving, PinReason},
    sandbox::Desk,
    swap::confined,
};

/// How long a thread that was waited for may still be seen, in steps of a millisecond.
const THREAD_END_MS: u64 = 200;

/// How long something that keeps a library in memory is given to go away, in steps of a millisecond.
const UNLOAD_MS: u64 = 100;

/// Tries a candidate.
pub(in crate::swap) fn work(task: &Task, desk: &mut Desk) -> Report {
    let mut report = Report { refused: None, samples: 0, warnings: Vec::new() };
    let tried = confined::on_a_thread(|| Trial { task, desk: &mut *desk, report: &mut report }.run());
    // The thread has ended, and with it its thread-locals; now the library goes.
    match tried {
        Ok(generation) => {
            desk.doing("retire");
            let mut leaving = Leaving::begin(generation);
            // If it never comes back, the time for all this ends, and then this is what it did.
            while let Err(PinReason::Retiring) = leaving.unload() {
                thread::sleep(Duration::from_millis(1));
            }
            desk.doing("unload");
            if let Err(reason) = unload(&mut leaving) {
                report.warnings.push(format!("once replaced, it would stay in memory: {reason}"));
            }
        }
        Err(refused) => report.refused = Some(refused),
    }
    report
}

/// Unloads it, waiting a little for what may pass.
fn unload(leaving: &mut Leaving) -> Result<(), PinReason> {
    for _ in 0..UNLOAD_MS {
        match leaving.unload() {
            Err(reason) if reason.can_pass() => thread::sleep(Duration::from_millis(1)),
            done => return done.map(drop),
        }
    }
    leaving.unload().map(drop)
}

/// One candidate on its thread.
struct Trial<'a> {
    task: &'a Task,
    desk: &'a mut Desk,
    report: &'a mut Report,
}

impl Trial<'_> {
    fn run(mut self) -> Result<Generation, Refused> {
        let threads = threads();
        let generation =
            confined::load(&self.task.origin, self.desk).map_err(|error| refused("load", error.to_string()))?;
        self.doing("self_test");
        generation.self_test().map_err(|failure| refused("self_test", failure.to_string()))?;
        for behavior in generation.behaviors() {
            self.construct(behavior)?;
        }
        for samples in &self.task.samples {
            if let Some(behavior) = generation.behavior(&samples.behavior) {
                self.migrate_all(behavior, samples)?;
            }
        }
        self.doing("what it leaves behind");
        self.look_for_threads(&threads)?;
        self.doing("the destructors of its thread-locals");
        Ok(generation)
    }

    fn doing(&mut self, stage: &str) {
        self.desk.doing(stage);
    }

    /// A behaviour may want slots for a new object; only what no plugin may do is held against it.
    fn construct(&mut self, behavior: &Behavior) -> Result<(), Refused> {
        const NO_SLOTS: &[u8] = &[0xa0];
        let stage = format!("construct {}", behavior.name());
        self.doing(&stage);
        match behavior.construct(NO_SLOTS, &mut RVec::new()) {
            Err(failure) if is_broken(&failure) => Err(refused(&stage, failure.to_string())),
            _ => Ok(()),
        }
    }

    fn migrate_all(&mut self, behavior: &Behavior, samples: &Samples) -> Result<(), Refused> {
        let (from, to) = (samples.from, behavior.schema());
        let reversible = behavior.writes().contains(&from);
        let (mut forward, mut back, mut lossy) = (Tally::default(), Tally::default(), Tally::default());
        let (mut new, mut old) = (RVec::new(), RVec::new());
        for Sample { id: object, slots, others } in &samples.objects {
            self.report.samples += 1;
            let stage = format!("migrate object {object} of {} from {from}", behavior.name());
            self.doing(&stage);
            if let Err(failure) = behavior.migrate(from, to, &slots.0, &mut new) {
                forward.add(&stage, &failure)?;
                continue;
            }
            if !reversible {
                continue;
            }
            let stage = format!("migrate object {object} of {} back to {from}", behavior.name());
            self.doing(&stage);
            let garbled = |error: DecodeError| refused(&stage, error.to_string());
            let is_kept = |name: &str| others.iter().any(|other| other == name) && !behavior.has_slot(name);
            let kept = pick_slots(&slots.0, |name, _| Ok(is_kept(name))).map_err(garbled)?;
            if let Err(failure) = behavior.migrate(to, from, &beside(&kept, &new).map_err(garbled)?, &mut old) {
                back.add(&stage, &failure)?;
                continue;
            }
            let lost = beside(&kept, &old).and_then(|old| lost_slots(&slots.0, &old)).map_err(garbled)?;
            if !lost.is_empty() {
                lossy.count(format!("{} of object {object}", lost.join(", ")));
            }
        }
        let all = samples.objects.len();
        for (tally, what) in [(forward, "do not migrate"), (back, "cannot be turned back")] {
            let Some((example, stage)) = tally.first else { continue };
            if tally.count == all && !tally.by_its_own_rules {
                return Err(refused(&stage, format!("so it is with each of {all} objects tried: {example}")));
            }
            let (name, count) = (behavior.name(), tally.count);
            self.report.warnings.push(format!(
                "{count} of {all} objects of {name} in version {from} {what} and would stay as they are; {stage}: {example}"
            ));
        }
        if let Some((example, _)) = lossy.first {
            self.report.warnings.push(format!(
                "turned back to version {from}, {} of {all} objects of {} lose slots: {example}",
                lossy.count,
                behavior.name()
            ));
        }
        Ok(())
    }

    /// A thread that goes on executes code of the plugin, which can then never be unloaded.
    fn look_for_threads(&mut self, before: &[String]) -> Result<(), Refused> {
        let mut left = Vec::new();
        for _ in 0..THREAD_END_MS {
            left = threads();
            for known in before {
                left.iter().position(|name| name == known).map(|place| left.swap_remove(place));
            }
            if left.is_empty() || self.task.threads {
                break;
            }
            // One that was just joined may not be gone for the kernel.
            thread::sleep(Duration::from_millis(1));
        }
        if left.is_empty() {
            return Ok(());
        }
        let names = left.join("`, `");
        let count = left.len();
        if self.task.threads {
            self.report.warnings.push(format!("it keeps {count} threads (`{names}`), which it has to end in `retire`"));
            return Ok(());
        }
        let reason = format!(
            "it left {count} threads running (`{names}`): end them before it returns, or ask for the capability `{}`",
            Capability::Threads
        );
        Err(refused("what it leaves behind", reason))
    }
}

/// How many objects something happened to, and the first of them.
#[derive(Default)]
struct Tally {
    count: usize,
    /// Whether the behaviour said no to one of them by its own rules, and thus knew what it was given.
    by_its_own_rules: bool,
    /// What happened, and at which stage.
    first: Option<(String, String)>,
}

impl Tally {
    /// An object that the plugin refuses; what no plugin may do refuses the plugin.
    fn add(&mut self, stage: &str, failure: &Failure) -> Result<(), Refused> {
        if is_broken(failure) {
            return Err(refused(stage, failure.to_string()));
        }
        self.count += 1;
        self.by_its_own_rules |= failure.code == FailureCode::REFUSED;
        self.first.get_or_insert_with(|| (failure.to_string(), stage.to_owned()));
        Ok(())
    }

    fn count(&mut self, example: String) {
        self.count += 1;
        self.first.get_or_insert_with(|| (example, String::new()));
    }
}

/// Whether a failure says that the plugin is broken, rather than that it does not take what it was given.
fn is_broken(failure: &Failure) -> bool {
    matches!(failure.code, FailureCode::PANICKED | FailureCode::BAD_ENCODING)
}

fn refused(stage: &str, reason: impl Into<String>) -> Refused {
    Refused { stage: stage.to_owned(), reason: reason.into() }
}

/// What a migration answered, with the slots that are kept beside it.
fn beside(kept: &[u8], answered: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut all = Vec::new();
    merge_maps(kept, answered, &mut all).map(|()| all)
}

/// The slots of `before` that `after` has not, or with another value. What was added is no loss.
fn lost_slots(before: &[u8], after: &[u8]) -> Result<Vec<String>, DecodeError> {
    let after = MapView::new(after)?;
    let mut lost = Vec::new();
    for entry in MapView::new(before)?.iter() {
        let (name, value) = entry?;
        if after.get(name)? != Some(value) {
            lost.push(format!("`{name}`"));
        }
    }
    Ok(lost)
}

/// The names of the threads of this process; none where the system does not tell.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = tasks.map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.map(|name| name.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use theseus_value::Value;

    use super::*;

    fn map(entries: &[(&str, i64)]) -> Vec<u8> {
        let entries = entries.iter().map(|(name, value)| ((*name).to_owned(), Value::Int(i128::from(*value))));
        Value::Map(entries.collect()).encode()
    }

    #[test]
    fn a_slot_that_is_missing_or_another_is_lost_and_a_new_one_is_not() {
        let before = map(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(lost_slots(&before, &before).unwrap(), Vec::<String>::new());
        assert_eq!(lost_slots(&before, &map(&[("a", 1), ("b", 0), ("d", 4)])).unwrap(), ["`b`", "`c`"]);
    }

    #[test]
    fn threads_are_seen_by_name() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel();
        // A thread takes its name itself, before it does anything else.
        let work = move || started.send(()).map_err(|_| std::sync::mpsc::RecvError).and_then(|()| receiver.recv());
        let thread = thread::Builder::new().name("a-worker".into()).spawn(work).unwrap();
        has_started.recv().unwrap();
        assert!(threads().contains(&"a-worker".to_owned()), "{:?}", threads());
        drop(sender);
        thread.join().unwrap().unwrap_err();
    }
}
