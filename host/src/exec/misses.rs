//! Messages that nobody understood, counted by behaviour and selector: so operators see which method, or which plugin, is missing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many behaviours and selectors are told apart. Of more, those that were missed least are forgotten.
const MISSES_MAX: usize = 1_000;

/// How much of a selector is kept, in bytes.
const SELECTOR_BYTES_MAX: usize = 128;

/// A method that was asked for and is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Miss {
    /// The behaviour of the receiver.
    pub behavior: Arc<str>,
    /// The method's name; the end of a very long one is left out.
    pub selector: Arc<str>,
    /// How often.
    pub count: u64,
    /// When first, in microseconds since the Unix epoch.
    pub first_us: u64,
    /// When last.
    pub last_us: u64,
}

/// The messages that nobody understood since the host started.
#[derive(Default)]
pub struct Misses {
    total: AtomicU64,
    /// A lock because all threads that execute messages write what operators read. Nobody waits long: a miss is an error, and rare.
    rows: Mutex<BTreeMap<Key, Row>>,
}

/// Behaviour and selector.
type Key = (Arc<str>, Arc<str>);

#[derive(Clone, Copy)]
struct Row {
    count: u64,
    first_us: u64,
    last_us: u64,
}

impl Misses {
    /// How many there were.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// All that are remembered: the most frequent first, then those that came last.
    pub fn list(&self) -> Vec<Miss> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut misses: Vec<_> = rows
            .iter()
            .map(|((behavior, selector), row)| Miss {
                behavior: behavior.clone(),
                selector: selector.clone(),
                count: row.count,
                first_us: row.first_us,
                last_us: row.last_us,
            })
            .collect();
        misses.sort_by_key(|miss| std::cmp::Reverse((miss.count, miss.last_us)));
        misses
    }

    /// Counts one.
    #[cold]
    pub(super) fn count(&self, behavior: &Arc<str>, selector: &str, now_us: u64) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let ends = selector.char_indices().map(|(at, character)| at + character.len_utf8());
        let end = ends.take_while(|end| *end <= SELECTOR_BYTES_MAX).last().unwrap_or_default();
        let selector: Arc<str> = selector[..end].into();
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (behavior.clone(), selector);
        if let Some(row) = rows.get_mut(&key) {
            row.count += 1;
            row.last_us = row.last_us.max(now_us);
            return;
        }
        if rows.len() >= MISSES_MAX {
            let least = rows.iter().min_by_key(|(_, row)| (row.count, row.last_us)).map(|(key, _)| key.clone());
            least.and_then(|key| rows.remove(&key));
        }
        rows.insert(key, Row { count: 1, first_us: now_us, last_us: now_us });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_counted_by_behaviour_and_selector() {
        let misses = Misses::default();
        let (counter, account): (Arc<str>, Arc<str>) = ("counter.Counter".into(), "ledger.Account".into());
        misses.count(&counter, "frobnicate", 5);
        misses.count(&account, "frobnicate", 6);
        misses.count(&counter, "frobnicate", 7);
        let listed: Vec<_> =
            misses.list().into_iter().map(|it| (it.behavior, it.count, it.first_us, it.last_us)).collect();
        assert_eq!(listed, [(counter, 2, 5, 7), (account, 1, 6, 6)]);
        assert_eq!(misses.total(), 3);
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_is_missed_most() {
        let (misses, behavior): (_, Arc<str>) = (Misses::default(), "a.B".into());
        misses.count(&behavior, "often", 1);
        misses.count(&behavior, "often", 2);
        for number in 0..3 * MISSES_MAX as u64 {
            misses.count(&behavior, &format!("{number}{}", "é".repeat(200)), 3 + number);
        }
        let listed = misses.list();
        assert_eq!(listed.len(), MISSES_MAX);
        assert_eq!((&*listed[0].selector, listed[0].count), ("often", 2));
        assert!(listed[1].selector.starts_with("2999") && listed[1].selector.len() <= SELECTOR_BYTES_MAX);
        assert_eq!(misses.total(), 2 + 3 * MISSES_MAX as u64);
    }
}
