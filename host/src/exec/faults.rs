//! What goes wrong in plugin code, counted by generation: enough to tell whether a new generation does worse than the one it
//! replaced.
//!
//! A message that ends well costs one load of an atomic number. Everything else happens when something went wrong: then the kind of
//! failure is remembered for the generation that gave it, and counted if the generation is *watched* and the one before it was
//! not known to fail like that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use crate::plugin::Digest;

/// How many ways to fail are told apart in one generation; further ones of a code count as one.
const FAULTS_MAX: usize = 64;

/// Of how many generations it is remembered how they failed.
const GENERATIONS_MAX: usize = 256;

/// How much of a message is kept, in characters.
const MESSAGE_CHARS_MAX: usize = 300;

/// Stands for the kinds of a code beyond [`FAULTS_MAX`].
const OTHER: &str = "...";

/// A way in which plugin code fails.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// It panicked.
    Panicked,
    /// A message took longer than one may.
    Overran,
    /// An object could not be brought into its schema.
    Migration,
    /// A message failed.
    Failed {
        /// The failure's name, see [`FailureCode::name`].
        code: String,
        /// The behaviour's own word, or empty.
        kind: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Panicked => f.write_str("panicked"),
            Fault::Overran => f.write_str("deadline"),
            Fault::Migration => f.write_str("migration"),
            Fault::Failed { code, kind } if kind.is_empty() => f.write_str(code),
            Fault::Failed { code, kind } => write!(f, "{code}/{kind}"),
        }
    }
}

impl Fault {
    /// What a failure with this code and kind is.
    pub fn of(code: &str, kind: &str) -> Fault {
        if code == FailureCode::PANICKED.name() {
            return Fault::Panicked;
        }
        Fault::Failed { code: code.to_owned(), kind: kind.to_owned() }
    }

    /// Whether it is one by any measure, not only by that of the generation before.
    fn is_absolute(&self) -> bool {
        match self {
            Fault::Panicked | Fault::Overran | Fault::Migration => true,
            Fault::Failed { code, .. } => code == FailureCode::BAD_ENCODING.name(),
        }
    }
}

/// How often a generation failed in one way since it is watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    /// The way.
    pub fault: Fault,
    /// How often.
    pub count: u64,
    /// What the first time said.
    pub first: String,
}

/// What went wrong, for all generations of a host.
pub struct Faults {
    /// How many generations are watched: all that a message that ends well looks at.
    watching: AtomicUsize,
    /// A lock because every thread that runs plugins writes what the operator reads.
    state: Mutex<State>,
    alarm: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct State {
    /// How generations are known to fail.
    known: BTreeMap<Digest, BTreeSet<Fault>>,
    watched: BTreeMap<Digest, Watched>,
}

struct Watched {
    /// How the generation before is known to fail; none if there was none. Then only what is wrong by any measure counts.
    familiar: Option<BTreeSet<Fault>>,
    /// The methods that the generation before had and this one has not, as `behavior.method`.
    dropped: BTreeSet<String>,
    errors_max: u64,
    tallies: BTreeMap<Fault, (u64, String)>,
    /// The objects that could not be migrated in the background, as far as the budget goes: each is tried again and again.
    left_behind: BTreeSet<ObjectId>,
}

impl Default for Faults {
    fn default() -> Self {
        Faults { watching: AtomicUsize::new(0), state: Mutex::default(), alarm: bounded(1) }
    }
}

impl Faults {
    /// Begins to count what goes wrong in `generation`, beyond what is known of `before`, and messages for methods that it has
    /// `dropped` (each as `behavior.method`).
    pub fn watch(&self, generation: Digest, before: Option<Digest>, dropped: BTreeSet<String>, errors_max: u64) {
        let mut state = self.state();
        let familiar = before.map(|before| state.known.get(&before).cloned().unwrap_or_default());
        let (tallies, left_behind) = (BTreeMap::new(), BTreeSet::new());
        state.watched.insert(generation, Watched { familiar, dropped, errors_max, tallies, left_behind });
        self.watching.store(state.watched.len(), Ordering::Relaxed);
    }

    /// Ends that.
    pub fn unwatch(&self, generation: Digest) {
        let mut state = self.state();
        state.watched.remove(&generation);
        self.watching.store(state.watched.len(), Ordering::Relaxed);
    }

    /// Adds to what is known of the generation before a watched one; what was counted of it is counted no more.
    pub fn acquaint(&self, generation: Digest, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state();
        let Some(watched) = state.watched.get_mut(&generation) else { return };
        let Some(familiar) = &mut watched.familiar else { return };
        faults.into_iter().for_each(|fault| learn(familiar, fault));
        watched.tallies.retain(|fault, _| fault.is_absolute() || !knows(familiar, fault));
    }

    /// What was counted of a watched generation; none if it is not watched.
    pub fn tallies(&self, generation: Digest) -> Option<Vec<Tally>> {
        let state = self.state();
        let tallies = state.watched.get(&generation)?.tallies.iter();
        Some(
            tallies
                .map(|(fault, (count, first))| Tally { fault: fault.clone(), count: *count, first: first.clone() })
                .collect(),
        )
    }

    /// Says when it is time to look: a watched generation failed for the first time, or has just failed too often.
    pub fn alarm(&self) -> &Receiver<()> {
        &self.alarm.1
    }

    /// The time, if somebody wants to know how long a message takes.
    #[inline]
    pub(super) fn clock(&self) -> Option<Instant> {
        (self.watching.load(Ordering::Relaxed) > 0).then(Instant::now)
    }

    /// Takes note of a failure that a generation's code gave.
    #[cold]
    pub(super) fn failed(&self, generation: Digest, failure: &Failure) {
        // These are nobody's fault but the storage's.
        if matches!(failure.code, FailureCode::STORAGE | FailureCode::IDENTITY_DAMAGED) {
            return;
        }
        self.note(generation, Fault::of(failure.code.name(), &failure.kind), &failure.message);
    }

    /// Takes note of a message for a method that a generation has not; false if the one before had not either.
    #[cold]
    pub(super) fn missing(&self, generation: Digest, behavior: &str, method: &str, failure: &Failure) -> bool {
        let dropped = format!("{behavior}.{method}");
        let is_dropped = self.state().watched.get(&generation).is_some_and(|it| it.dropped.contains(&dropped));
        if is_dropped {
            self.note(generation, Fault::of(failure.code.name(), &dropped), &failure.message);
        }
        is_dropped
    }

    /// Takes note of an object that could not be migrated in the background, once.
    #[cold]
    pub(super) fn left_behind(&self, generation: Digest, object: ObjectId, message: &str) {
        let is_new = self.state().watched.get_mut(&generation).is_none_or(|watched| {
            watched.left_behind.len() as u64 > watched.errors_max || watched.left_behind.insert(object)
        });
        if is_new {
            self.note(generation, Fault::Migration, message);
        }
    }

    /// Takes note that something went wrong in a generation.
    #[cold]
    pub(super) fn note(&self, generation: Digest, fault: Fault, message: &str) {
        let mut state = self.state();
        if state.known.len() >= GENERATIONS_MAX && !state.known.contains_key(&generation) {
            state.known.pop_first();
        }
        let known = state.known.entry(generation).or_default();
        if !known.contains(&fault) {
            learn(known, fault.clone());
        }
        let Some(watched) = state.watched.get_mut(&generation) else { return };
        let counts = fault.is_absolute() || watched.familiar.as_ref().is_some_and(|familiar| !knows(familiar, &fault));
        if !counts {
            return;
        }
        let fault = if watched.tallies.len() < FAULTS_MAX { fault } else { fault.folded() };
        let message = || message.chars().take(MESSAGE_CHARS_MAX).collect();
        let (count, _) = watched.tallies.entry(fault).or_insert_with(|| (0, message()));
        *count += 1;
        let errors: u64 = watched.tallies.values().map(|(count, _)| count).sum();
        if errors == 1 || errors > watched.errors_max {
            // If nobody has looked since the last one, they are about to.
            _ = self.alarm.0.try_send(());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// All kinds of its code.
    fn folded(self) -> Fault {
        match self {
            Fault::Failed { code, .. } => Fault::Failed { code, kind: OTHER.to_owned() },
            other => other,
        }
    }
}

fn learn(faults: &mut BTreeSet<Fault>, fault: Fault) {
    let fault = if faults.len() < FAULTS_MAX { fault } else { fault.folded() };
    faults.insert(fault);
}

fn knows(faults: &BTreeSet<Fault>, fault: &Fault) -> bool {
    faults.contains(fault) || faults.contains(&fault.clone().folded())
}

#[cfg(test)]
mod tests {
    use theseus_abi::abi_stable::std_types::RString;

    use super::*;

    const OLD: Digest = Digest::from_bytes([1; 32]);
    const NEW: Digest = Digest::from_bytes([2; 32]);

    fn refused(kind: &str) -> Failure {
        Failure { kind: RString::from(kind), ..Failure::new(FailureCode::REFUSED, format!("because of {kind}")) }
    }

    /// What was counted of the new generation, as text, with how often.
    fn counted(faults: &Faults) -> Vec<(String, u64)> {
        let tallies = faults.tallies(NEW).expect("it is watched");
        tallies.into_iter().map(|it| (it.fault.to_string(), it.count)).collect()
    }

    #[test]
    fn what_the_old_generation_did_too_does_not_count() {
        let faults = Faults::default();
        assert!(faults.clock().is_none(), "nobody is watched");
        faults.failed(OLD, &refused("overdraft"));
        faults.failed(OLD, &Failure::new(FailureCode::PANICKED, "at sea"));
        faults.watch(NEW, Some(OLD), BTreeSet::new(), 10);
        assert!(faults.clock().is_some());
        for _ in 0..3 {
            faults.failed(NEW, &refused("overdraft"));
            faults.failed(NEW, &refused("mutiny"));
            faults.failed(NEW, &Failure::new(FailureCode::PANICKED, "at sea"));
            faults.failed(NEW, &Failure::new(FailureCode::STORAGE, "the disk"));
            faults.failed(OLD, &refused("late"));
        }
        assert_eq!(counted(&faults), [("panicked".to_owned(), 3), ("refused/mutiny".to_owned(), 3)]);
        assert_eq!(faults.tallies(NEW).unwrap()[1].first, "because of mutiny");
        faults.acquaint(NEW, [Fault::of("refused", "mutiny"), Fault::Panicked]);
        faults.failed(NEW, &refused("mutiny"));
        assert_eq!(counted(&faults), [("panicked".to_owned(), 3)], "a panic counts by any measure");
        faults.unwatch(NEW);
        assert!(faults.tallies(NEW).is_none() && faults.clock().is_none());
    }

    #[test]
    fn a_new_plugin_answers_for_what_is_wrong_by_any_measure_only() {
        let faults = Faults::default();
        faults.watch(NEW, None, BTreeSet::new(), 10);
        faults.failed(NEW, &refused("overdraft"));
        faults.failed(NEW, &Failure::new(FailureCode::BAD_ARGUMENTS, "what?"));
        faults.failed(NEW, &Failure::new(FailureCode::BAD_ENCODING, "garbage"));
        faults.note(NEW, Fault::Overran, "60 ms");
        faults.note(NEW, Fault::Migration, "object 7");
        let expected = [("deadline".to_owned(), 1), ("migration".to_owned(), 1), ("bad_encoding".to_owned(), 1)];
        assert_eq!(counted(&faults), expected);
    }

    #[test]
    fn an_object_that_is_left_behind_counts_once() {
        let faults = Faults::default();
        faults.watch(NEW, Some(OLD), BTreeSet::new(), 2);
        for object in [7, 8, 7, 8, 7] {
            faults.left_behind(NEW, ObjectId(object), "unlucky");
        }
        assert_eq!(counted(&faults), [("migration".to_owned(), 2)]);
        faults.note(NEW, Fault::Migration, "a message failed because of it");
        (0..100).for_each(|object| faults.left_behind(NEW, ObjectId(object), "unlucky"));
        assert!(counted(&faults)[0].1 > 3);
        assert!(faults.state().watched[&NEW].left_behind.len() <= 3, "beyond the budget nobody needs to know");
    }

    #[test]
    fn dropped_methods_are_missed() {
        let faults = Faults::default();
        faults.watch(NEW, Some(OLD), ["a.A.sail".to_owned()].into(), 10);
        let failure = Failure::new(FailureCode::NO_SUCH_METHOD, "no such method");
        assert!(faults.missing(NEW, "a.A", "sail", &failure));
        assert!(!faults.missing(NEW, "a.A", "fly", &failure), "it never could");
        assert!(!faults.missing(OLD, "a.A", "sail", &failure));
        assert_eq!(counted(&faults), [("no_such_method/a.A.sail".to_owned(), 1)]);
    }

    #[test]
    fn the_alarm_rings_at_the_first_error_and_beyond_the_budget() {
        let faults = Faults::default();
        faults.watch(NEW, Some(OLD), BTreeSet::new(), 2);
        let rings = |number: u32| {
            faults.failed(NEW, &refused("mutiny"));
            assert_eq!(faults.alarm().try_recv().is_ok(), [1, 3, 4].contains(&number), "at error {number}");
        };
        (1..=4).for_each(rings);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let faults = Faults::default();
        for number in 0..10 * FAULTS_MAX {
            faults.failed(OLD, &refused(&format!("kind {number}")));
        }
        faults.watch(NEW, Some(OLD), BTreeSet::new(), 10);
        faults.failed(NEW, &refused("never heard of"));
        assert_eq!(counted(&faults), [], "who says anything may say this");
        faults.failed(NEW, &Failure::new(FailureCode::TOO_DEEP, "deep"));
        for number in 0..10 * FAULTS_MAX {
            let failure = Failure { kind: RString::from(format!("kind {number}")), ..refused("") };
            faults.failed(NEW, &Failure { code: FailureCode::LIMIT_EXCEEDED, ..failure });
        }
        let counted = counted(&faults);
        assert!(counted.len() <= FAULTS_MAX + 1, "{}", counted.len());
        assert_eq!(counted.iter().map(|(_, count)| count).sum::<u64>(), 1 + 10 * FAULTS_MAX as u64);
        for number in 0..=u8::MAX {
            for other in 0..3 {
                faults.failed(Digest::from_bytes([number ^ other << 4; 32]), &refused("any"));
            }
        }
        assert!(faults.state().known.len() <= GENERATIONS_MAX);
    }
}
