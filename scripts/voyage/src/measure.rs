//! What clients see of time: latencies, the longest silence, and the slowest request in any stretch of time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The width of a slot in the timeline.
const SLOT: Duration = Duration::from_millis(10);
/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// The latencies of one client.
#[derive(Clone, Debug)]
pub struct Latencies {
    start: Instant,
    histogram: Histogram<u64>,
    /// The longest latency in microseconds of a request that was under way in each slot since `start`.
    timeline: Vec<u32>,
    /// Every request, if they are wanted one by one.
    requests: Option<Vec<(Instant, Instant)>>,
}

impl Latencies {
    /// Nothing measured yet; `start` is the beginning of time, common to all clients.
    pub fn new(start: Instant) -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order");
        Latencies { start, histogram, timeline: Vec::new(), requests: None }
    }

    /// The same, and every request is kept with its beginning and its end.
    pub fn one_by_one(start: Instant) -> Self {
        Latencies { requests: Some(Vec::new()), ..Latencies::new(start) }
    }

    /// Every request with its beginning and its end, by client; none if they were not kept.
    pub fn requests(&self) -> &[(Instant, Instant)] {
        self.requests.as_deref().unwrap_or_default()
    }

    /// Notes a request that was sent at `from` and answered at `to`.
    pub fn record(&mut self, from: Instant, to: Instant) {
        let latency_us = u64::try_from((to - from).as_micros()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(latency_us.max(1));
        let (first, last) = (self.slot(from), self.slot(to));
        if self.timeline.len() <= last {
            self.timeline.resize(last + 1, 0);
        }
        let latency_us = u32::try_from(latency_us).unwrap_or(u32::MAX);
        for slot in &mut self.timeline[first..=last] {
            *slot = latency_us.max(*slot);
        }
        if let Some(requests) = &mut self.requests {
            requests.push((from, to));
        }
    }

    /// Takes another client's measurements in.
    pub fn add(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), 0);
        }
        for (slot, theirs) in self.timeline.iter_mut().zip(&other.timeline) {
            *slot = (*slot).max(*theirs);
        }
        if let (Some(requests), Some(theirs)) = (&mut self.requests, &other.requests) {
            requests.extend_from_slice(theirs);
        }
    }

    /// The latency of the slowest request that was under way between two instants; none if there was no request.
    pub fn slowest_between(&self, from: Instant, to: Instant) -> Option<Duration> {
        let (first, last) = (self.slot(from), self.slot(to));
        let slots = self.timeline.get(first..)?;
        let slowest = slots.iter().take(last - first + 1).max().copied().unwrap_or(0);
        (slowest > 0).then(|| Duration::from_micros(slowest.into()))
    }

    /// The usual percentiles.
    pub fn summary(&self) -> LatencySummary {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        LatencySummary { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: self.histogram.max() }
    }

    fn slot(&self, at: Instant) -> usize {
        let since = at.saturating_duration_since(self.start);
        usize::try_from(since.as_micros() / SLOT.as_micros()).expect("a run does not last as long")
    }
}

/// Percentiles of latency in microseconds.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LatencySummary {
    /// Half of the requests were answered as fast.
    pub p50_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1,000.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// The longest time in which no client got an answer.
#[derive(Debug)]
pub struct Silence {
    start: Instant,
    last_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Silence {
    /// Begins to listen.
    pub fn new(start: Instant) -> Self {
        Silence { start, last_us: AtomicU64::new(0), longest_us: AtomicU64::new(0) }
    }

    /// Notes that an answer came.
    pub fn heard(&self, at: Instant) {
        let now_us = u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX);
        // Two clients may come here in the other order than their answers did: time only moves on.
        let last_us = self.last_us.fetch_max(now_us, Ordering::Relaxed);
        self.longest_us.fetch_max(now_us.saturating_sub(last_us), Ordering::Relaxed);
    }

    /// The longest so far, in microseconds.
    pub fn longest_us(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_request_shows_in_every_moment_it_was_under_way() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut one = Latencies::new(start);
        one.record(at(5), at(6));
        one.record(at(100), at(180));
        let mut two = Latencies::new(start);
        two.record(at(90), at(93));
        one.add(&two);
        assert_eq!(one.slowest_between(at(140), at(150)), Some(Duration::from_millis(80)));
        assert_eq!(one.slowest_between(at(0), at(20)), Some(Duration::from_millis(1)));
        assert_eq!(one.slowest_between(at(90), at(95)), Some(Duration::from_millis(3)));
        assert_eq!(one.slowest_between(at(20), at(60)), None);
        assert_eq!(one.slowest_between(at(500), at(600)), None);
        assert!((80_000..80_100).contains(&one.summary().max_us), "{:?}", one.summary());
    }

    #[test]
    fn silence_is_the_longest_gap() {
        let start = Instant::now();
        let silence = Silence::new(start);
        for ms in [3, 4, 54, 53, 60] {
            silence.heard(start + Duration::from_millis(ms));
        }
        assert_eq!(silence.longest_us(), 50_000);
    }
}
