//! Probation: what a swap has put in force has to prove itself for a while, or it is taken back.
//!
//! A generation on probation has a budget of errors. Counted is what is wrong by any measure (a panic, a message that took too
//! long, a failed migration, malformed bytes), and any failure of a kind that the generation before was not known to give.
//! Whoever gives more errors than the budget allows is taken back, together with all that came in the same swap, and put into
//! quarantine. So is what was on probation while the host died too often.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use theseus_value::Value;

use super::{
    Plan, Swapper, ask,
    memory::{self, Memory, OnProbation},
    rollback::{Back, Cause},
};
use crate::{
    exec::{self, Doing, Fault, Remember, Tally},
    identity::{Identity, Outcome, Reader, StorageError, Tid},
    plugin::{Digest, Generation},
};

/// Under which the good end of a probation stands in the history.
const CONFIRMED: &str = "theseus.swap_confirmed";

/// Under which it stands in the history that a probation ended badly and nothing could be done about it.
const FAILED: &str = "theseus.probation_failed";

/// How far the history is read back, in transactions, to learn how the generation before a new one failed. It is read when the
/// new one fails for the first time in a way that is not known yet.
const LEARN_FROM: u64 = 10_000;

/// How long it takes at most until the end of a probation is noticed, in case somebody sets the clock.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long to wait if the host had too much to do for a rollback.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// What the host knows of probations beside what it remembers.
#[derive(Default)]
pub struct Probation {
    /// The files whose predecessors' failures were looked up in the history. A lock because swaps and starts, on different
    /// threads, change it.
    learnt: Mutex<BTreeSet<Digest>>,
    /// How many swaps were taken back since the start, by whomever.
    pub rollbacks: AtomicU64,
}

impl Probation {
    fn learnt(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Swapper {
    /// What the host has to remember of a swap. From now on errors of what it puts in force count.
    pub(super) fn begin_probation(&self, plan: &Plan, generations: &[Arc<Generation>]) -> Remember {
        let swapped: Vec<_> = plan.changes.iter().map(|it| (it.name.clone(), it.from, it.to)).collect();
        let window_us = (self.settings.probation_ms > 0).then_some(self.settings.probation_ms * 1000);
        if window_us.is_some() {
            let plugins = self.engine.plugins();
            for (name, from, to) in &swapped {
                let next = generations.iter().find(|generation| generation.digest() == *to);
                let dropped = plugins.plugin(name).zip(next).map(|(before, after)| dropped(before, after));
                self.watch(*to, *from, dropped.unwrap_or_default());
            }
        }
        memory::remember(move |memory, moment| memory.swapped(moment, &swapped, window_us))
    }

    /// Ends the counting that is over after a swap: of what it replaced, or if it failed of what it would have put in force.
    pub(super) fn end_counting(&self, plan: &Plan, done: bool) {
        let plugins = self.engine.plugins();
        for change in &plan.changes {
            if let Some(digest) = if done { change.from } else { Some(change.to) } {
                plugins.faults().unwatch(digest);
            }
        }
    }

    fn watch(&self, to: Digest, from: Option<Digest>, dropped: BTreeSet<String>) {
        self.probation.learnt().remove(&to);
        self.engine.plugins().faults().watch(to, from, dropped, self.settings.probation_errors_max);
    }

    /// Goes on with the probations that were under way when the host before ended. Its count of errors is gone with it, and so
    /// is what the replaced generations could do.
    ///
    /// # Errors
    ///
    /// If what the host remembers cannot be read.
    pub fn resume_probation(&self) -> Result<(), StorageError> {
        for probation in Memory::read(self.engine.identity())?.probation.values() {
            self.watch(probation.to, probation.from, BTreeSet::new());
        }
        Ok(())
    }

    /// Sees to what is on probation: takes back what failed, confirms what did not. Answers when to look again; none if
    /// nothing is on probation.
    pub fn see_to_probation(&self) -> Option<Duration> {
        let memory = match Memory::read(self.engine.identity()) {
            Ok(memory) => memory,
            Err(error) => {
                log::error!("what is on probation cannot be looked after: {error}");
                return Some(LOOK_AGAIN);
            }
        };
        self.probation.learnt().retain(|digest| memory.probation.values().any(|it| it.to == *digest));
        let now_us = exec::now_us();
        let mut next: Option<Duration> = None;
        for (swap, plugins) in memory.trials() {
            let blamed = self.over_budget(&plugins);
            let until_us = plugins.values().map(|it| it.until_us).max().unwrap_or(0);
            if !blamed.is_empty() {
                if !self.take_back_failed(swap, &plugins, &blamed) {
                    return Some(TRY_AGAIN);
                }
                continue;
            }
            if until_us <= now_us {
                if !self.confirm(swap, &plugins) {
                    return Some(LOOK_AGAIN);
                }
                continue;
            }
            let left =
                Duration::from_micros(until_us.saturating_sub(now_us)).clamp(Duration::from_millis(1), LOOK_AGAIN);
            next = Some(next.map_or(left, |next| next.min(left)));
        }
        next
    }

    /// The plugins that gave more errors than they may, and what they gave.
    fn over_budget(&self, plugins: &BTreeMap<&str, &OnProbation>) -> BTreeMap<String, Vec<Tally>> {
        let mut over = BTreeMap::new();
        for (plugin, probation) in plugins {
            let faults = self.engine.plugins().faults().clone();
            let Some(tallies) = faults.tallies(probation.to) else { continue };
            if !tallies.is_empty() && self.probation.learnt().insert(probation.to) {
                self.learn(plugin, probation);
            }
            let tallies = faults.tallies(probation.to).unwrap_or_default();
            if sum(&tallies) > self.settings.probation_errors_max {
                over.insert((*plugin).to_owned(), tallies);
            }
        }
        over
    }

    /// Looks up in the history how the generation before failed.
    fn learn(&self, plugin: &str, probation: &OnProbation) {
        let Some(from) = probation.from else { return };
        match failures_before(self.engine.identity(), probation.tid, plugin, from) {
            Ok(faults) => self.engine.plugins().faults().acquaint(probation.to, faults),
            Err(error) => log::error!("how {plugin} failed before its last swap is not to be had: {error}"),
        }
    }

    fn take_back_failed(
        &self,
        swap: Tid,
        plugins: &BTreeMap<&str, &OnProbation>,
        blamed: &BTreeMap<String, Vec<Tally>>,
    ) -> bool {
        let backs: Vec<Back> = plugins.iter().map(|(plugin, probation)| Back::of(plugin, probation)).collect();
        let each = blamed.iter().map(|(plugin, tallies)| {
            let most = tallies.iter().max_by_key(|tally| tally.count);
            let most = most.map_or_else(String::new, |it| format!(", most of them {} ({})", it.fault, it.first));
            format!(
                "{plugin} gave {} errors on probation, {} are allowed{most}",
                sum(tallies),
                self.settings.probation_errors_max
            )
        });
        let reason = each.collect::<Vec<_>>().join("; ");
        let quarantine = blamed.keys().cloned().collect();
        let cause = Cause { what: "errors", reason, swap, quarantine, errors: blamed.clone() };
        self.take_back_or_say_why(&backs, &cause)
    }

    /// Takes back; if that cannot be, says so, and it is not tried again. False if it may work in a moment.
    pub(super) fn take_back_or_say_why(&self, backs: &[Back], cause: &Cause) -> bool {
        let (swap, reason) = (cause.swap, &cause.reason);
        match self.take_back(backs, cause) {
            Ok(swapped) => {
                let tid = swapped.done.and_then(|done| done.tid).unwrap_or_default();
                log::error!("the swap of transaction {swap} was taken back in transaction {tid}: {reason}");
                true
            }
            Err(error) if error.may_pass() => {
                log::warn!("the swap of transaction {swap} cannot be taken back yet: {error}");
                false
            }
            Err(error) => {
                let reason = format!("{reason}; it could not be taken back: {error}");
                log::error!("the swap of transaction {swap} has failed: {reason}. Swap in a plugin that works");
                let names = backs.iter().map(|back| (back.plugin.clone(), Value::Text(back.from.to_string())));
                let entries = [
                    ("swap", Value::Int(swap.0.into())),
                    ("plugins", Value::Map(names.collect())),
                    ("reason", Value::Text(reason.clone())),
                ];
                let remember = Some(memory::remember(move |memory, _| memory.failed(swap, &reason)));
                let noted = ask(&self.engine, Doing::Note { what: FAILED, note: note(entries), remember });
                if noted.is_ok() {
                    backs.iter().for_each(|back| self.engine.plugins().faults().unwatch(back.from));
                }
                noted.is_ok()
            }
        }
    }

    fn confirm(&self, swap: Tid, plugins: &BTreeMap<&str, &OnProbation>) -> bool {
        let faults = self.engine.plugins().faults().clone();
        let errors: u64 = plugins.values().filter_map(|it| Some(sum(&faults.tallies(it.to)?))).sum();
        let digests = plugins.iter().map(|(plugin, it)| ((*plugin).to_owned(), Value::Text(it.to.to_string())));
        let entries = [
            ("swap", Value::Int(swap.0.into())),
            ("plugins", Value::Map(digests.collect())),
            ("errors", Value::Int(errors.into())),
        ];
        let remember = Some(memory::remember(move |memory, _| memory.confirmed(swap)));
        match ask(&self.engine, Doing::Note { what: CONFIRMED, note: note(entries), remember }) {
            Ok(_) => {
                plugins.values().for_each(|it| faults.unwatch(it.to));
                let names: Vec<&str> = plugins.keys().copied().collect();
                log::info!("the swap of transaction {swap} is confirmed: {}", names.join(", "));
                true
            }
            Err(refusal) => {
                log::warn!("the swap of transaction {swap} is not confirmed yet: {refusal}");
                false
            }
        }
    }

    /// How many swaps were taken back since the start.
    pub fn rollbacks(&self) -> u64 {
        self.probation.rollbacks.load(Ordering::Relaxed)
    }
}

fn sum(tallies: &[Tally]) -> u64 {
    tallies.iter().map(|tally| tally.count).sum()
}

/// The methods that a generation had and the one after it has not, as `behavior.method`.
fn dropped(before: &Generation, after: &Generation) -> BTreeSet<String> {
    let methods = before.behaviors().iter().flat_map(|behavior| {
        let methods = behavior.description().methods.iter();
        methods.map(|method| (behavior.name().clone(), method.name.as_str()))
    });
    let is_left = |behavior: &str, method: &str| after.behavior(behavior).is_some_and(|it| it.method(method).is_some());
    let gone = methods.filter(|(behavior, method)| !is_left(behavior, method));
    gone.map(|(behavior, method)| format!("{behavior}.{method}")).collect()
}

/// An encoded map.
fn note<const N: usize>(entries: [(&str, Value); N]) -> Vec<u8> {
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).encode()
}

/// The ways in which messages to objects of a plugin failed before transaction `until`, while a file of it was in force.
fn failures_before(
    identity: &Arc<Identity>,
    until: Tid,
    plugin: &str,
    digest: Digest,
) -> Result<BTreeSet<Fault>, StorageError> {
    let from = Tid(until.0.saturating_sub(LEARN_FROM).max(1));
    let mut reader = Reader::new(identity.clone());
    let mut faults = BTreeSet::new();
    identity.walk_history(from, |batch| {
        let in_force = batch.header.generations.iter().any(|(name, it)| name == plugin && it == digest.as_bytes());
        for (tid, transaction) in batch.transactions().take_while(|(tid, _)| in_force && *tid < until) {
            let transaction = transaction.map_err(|error| identity.damaged(tid, error.to_string()))?;
            let (Some(target), Outcome::Failed(failure)) = (transaction.target, &transaction.outcome) else { continue };
            let version = reader.as_of(target, tid)?;
            let record = version.as_ref().and_then(|version| version.record.as_ref());
            // Behaviours are named `plugin.Type`.
            if record.and_then(|record| record.behavior.split_once('.')).is_some_and(|(name, _)| name == plugin) {
                faults.insert(Fault::of(&failure.code, &failure.kind));
            }
        }
        Ok(batch.header.last < until)
    })?;
    Ok(faults)
}
