//! What the clients were told, kept beside the host so that both can be compared afterwards.
//!
//! Every increment is by one, so its result is the number of that increment: over a whole run the results of one counter have
//! to be each number exactly once. That shows a lost or doubled execution of a single request among millions, and that
//! costs one bit for each.

use std::sync::Mutex;

use serde::Serialize;

/// One counter as its clients know it.
#[derive(Debug)]
pub struct Counter {
    /// The object's name.
    pub name: String,
    /// What it counted before the run.
    first: i64,
    /// One lock a counter: clients that share it meet here for a few nanoseconds a request.
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    acknowledged: u64,
    /// The bit `n` stands for the result `first + 1 + n`.
    seen: Vec<u64>,
    wrong: u64,
}

/// What comparing a counter with what was told about it shows.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Comparison {
    /// Increments that were acknowledged.
    pub acknowledged: u64,
    /// Acknowledged increments that the counter does not hold.
    pub lost: u64,
    /// Executions beyond one for each acknowledged increment.
    pub executed_twice: u64,
    /// Results that cannot be: told before, or outside of what was counted.
    pub wrong: u64,
}

impl Comparison {
    /// Adds another counter's.
    pub fn add(&mut self, other: Comparison) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.executed_twice += other.executed_twice;
        self.wrong += other.wrong;
    }
}

impl Counter {
    /// A counter that stands at `first`.
    pub fn new(name: String, first: i64) -> Self {
        Counter { name, first, told: Mutex::default() }
    }

    /// Notes the result of an increment.
    pub fn acknowledge(&self, result: Option<i64>) {
        let mut told = self.told.lock().expect("nothing panics while it holds this lock");
        told.acknowledged += 1;
        let number = result.and_then(|count| count.checked_sub(self.first)).and_then(|n| n.checked_sub(1));
        let Some(number) = number.and_then(|n| u64::try_from(n).ok()).filter(|n| *n < u64::from(u32::MAX)) else {
            told.wrong += 1;
            return;
        };
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if told.seen.len() <= word {
            told.seen.resize(word + 1, 0);
        }
        if told.seen[word] & bit != 0 {
            told.wrong += 1;
        }
        told.seen[word] |= bit;
    }

    /// Compares with what the counter says once all clients have stopped. `unanswered` increments may have been executed.
    pub fn compare(&self, last: i64, unanswered: u64) -> Comparison {
        let told = self.told.lock().expect("nothing panics while it holds this lock");
        let executed = u64::try_from(last.saturating_sub(self.first)).unwrap_or(0);
        let beyond: u64 = (executed..told.seen.len() as u64 * 64)
            .filter(|number| told.seen[(number / 64) as usize] & (1 << (number % 64)) != 0)
            .count() as u64;
        Comparison {
            acknowledged: told.acknowledged,
            lost: told.acknowledged.saturating_sub(executed),
            executed_twice: executed.saturating_sub(told.acknowledged + unanswered),
            wrong: told.wrong + beyond + u64::from(last < self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(results: &[i64]) -> Counter {
        let counter = Counter::new("c".to_owned(), 10);
        for result in results {
            counter.acknowledge(Some(*result));
        }
        counter
    }

    #[test]
    fn a_faultless_run_compares_clean() {
        let clean = Comparison { acknowledged: 3, ..Comparison::default() };
        assert_eq!(told(&[12, 11, 13]).compare(13, 0), clean);
        assert_eq!(told(&[12, 11, 13]).compare(14, 1), clean, "the unanswered one may have been executed");
    }

    #[test]
    fn every_kind_of_fault_shows() {
        let lost = told(&[11, 12, 13]).compare(12, 0);
        assert_eq!((lost.lost, lost.executed_twice, lost.wrong), (1, 0, 1));
        let twice = told(&[11, 12, 14]).compare(14, 0);
        assert_eq!((twice.lost, twice.executed_twice, twice.wrong), (0, 1, 0));
        // One lost and one doubled would cancel out in a sum.
        let both = told(&[11, 12, 12]).compare(13, 0);
        assert_eq!((both.lost, both.executed_twice, both.wrong), (0, 0, 1));
        let outside = told(&[10, 9]).compare(12, 0);
        assert_eq!(outside.wrong, 2);
        let counter = Counter::new("c".to_owned(), 0);
        counter.acknowledge(None);
        assert_eq!(counter.compare(1, 0).wrong, 1);
    }
}
