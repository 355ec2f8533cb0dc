//! Keeps a plugin that logs without end from filling the host's log: so many lines a second, the rest is counted.
//!
//! A plugin's lines are told apart by the first part of their target, which is its crate unless its author says otherwise.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::boundary::{WORD_BYTES_MAX, printable};

/// How many targets are told apart; further ones share what the last of them may write.
const METERS_MAX: usize = 64;

/// The time for which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

static LINES_PER_SECOND_MAX: AtomicU32 = AtomicU32::new(1000);

/// A lock because plugins log from any thread.
static METERS: Mutex<Meters> = Mutex::new(Meters { meters: Vec::new(), teller: false });

struct Meters {
    meters: Vec<Meter>,
    /// Whether a thread will say what is dropped.
    teller: bool,
}

/// What came from one target.
struct Meter {
    name: Box<[u8]>,
    since: Instant,
    lines: u32,
    dropped: u64,
}

/// Sets how many lines a second a plugin may log.
pub fn limit_log(lines_per_second_max: u32) {
    LINES_PER_SECOND_MAX.store(lines_per_second_max, Ordering::Relaxed);
}

/// Counts a line, and says whether it may be written.
pub(super) fn admits(target: &[u8]) -> bool {
    let mut meters = METERS.lock().unwrap_or_else(PoisonError::into_inner);
    if meters.admit(first_part(target), Instant::now(), LINES_PER_SECOND_MAX.load(Ordering::Relaxed)) {
        return true;
    }
    if !meters.teller {
        // Ends by itself. Without it, what is dropped is said when the next flood finds one.
        meters.teller = thread::Builder::new().name("dropped-lines".into()).spawn(tell).is_ok();
    }
    false
}

/// What stands before the first `::`.
fn first_part(target: &[u8]) -> &[u8] {
    let end = target.windows(2).position(|pair| pair == b"::").unwrap_or(target.len());
    &target[..end.min(WORD_BYTES_MAX)]
}

impl Meters {
    fn admit(&mut self, name: &[u8], now: Instant, lines_max: u32) -> bool {
        let full = self.meters.len() >= METERS_MAX;
        let place = self.meters.iter().position(|meter| *meter.name == *name);
        let place = place.or(full.then_some(METERS_MAX - 1)).unwrap_or_else(|| {
            self.meters.push(Meter { name: name.into(), since: now, lines: 0, dropped: 0 });
            self.meters.len() - 1
        });
        let meter = &mut self.meters[place];
        if now.duration_since(meter.since) >= WINDOW {
            (meter.since, meter.lines) = (now, 0);
        }
        let admitted = meter.lines < lines_max;
        if admitted {
            meter.lines += 1;
        } else {
            meter.dropped += 1;
        }
        admitted
    }

    /// Takes out what was dropped, by target, since it was last asked for.
    fn take_dropped(&mut self) -> Vec<(String, u64)> {
        let flooded = self.meters.iter_mut().filter(|meter| meter.dropped > 0);
        flooded
            .map(|meter| (String::from_utf8_lossy(&meter.name).into_owned(), std::mem::take(&mut meter.dropped)))
            .collect()
    }
}

/// Says what is dropped, until a second passes in which nothing was.
fn tell() {
    loop {
        thread::sleep(WINDOW);
        let dropped = {
            let mut meters = METERS.lock().unwrap_or_else(PoisonError::into_inner);
            let dropped = meters.take_dropped();
            meters.teller = !dropped.is_empty();
            dropped
        };
        if dropped.is_empty() {
            return;
        }
        let max = LINES_PER_SECOND_MAX.load(Ordering::Relaxed);
        for (name, lines) in dropped {
            let name = printable(&name);
            log::warn!("{lines} lines of plugin::{name} were dropped: it may log {max} a second");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meters() -> Meters {
        Meters { meters: Vec::new(), teller: false }
    }

    #[test]
    fn a_flood_is_cut_and_counted_and_others_are_not() {
        let (mut meters, start) = (meters(), Instant::now());
        let passed = (0..1000).filter(|_| meters.admit(b"flood", start, 10)).count();
        assert_eq!(passed, 10);
        assert!(meters.admit(b"quiet", start, 10));
        assert_eq!(meters.take_dropped(), [("flood".to_owned(), 990)]);
        assert_eq!(meters.take_dropped(), []);
        assert!(meters.admit(b"flood", start + WINDOW, 10), "a second later it may go on");
    }

    #[test]
    fn targets_without_end_share_what_one_may_write() {
        let (mut meters, start) = (meters(), Instant::now());
        let passed = (0..10_000).filter(|n: &u32| meters.admit(&n.to_ne_bytes(), start, 5)).count();
        assert_eq!(meters.meters.len(), METERS_MAX);
        assert_eq!(passed, METERS_MAX - 1 + 5);
    }

    #[test]
    fn the_modules_of_a_plugin_count_together() {
        assert_eq!(first_part(b"counter::deep::inside"), b"counter");
        assert_eq!(first_part(b"counter"), b"counter");
        assert_eq!(first_part(b""), b"");
        assert_eq!(first_part(&[b'x'; 1000]).len(), WORD_BYTES_MAX);
    }
}
