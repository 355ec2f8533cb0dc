//! The scheduler thread: hands messages that are due to the executor.
//!
//! It holds a window, the messages that are due next, and fills it from the index of the object table when it is used up. The
//! executor tells it of every message that comes to wait. What it holds is a hint and no more: the executor delivers a message
//! only if it still is there and due at that very time, so nothing is delivered twice, whatever the scheduler believes.
//!
//! Deliveries go through the queue of all commands, and only so many are under way at once. So neither clients nor deliveries
//! can keep the others from their turn.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustc_hash::{FxHashMap, FxHashSet};
use theseus_abi::Failure;
use theseus_value::ObjectId;

use super::{Command, Doing, Refusal, Reply, Start, Vitals, intake::Intake, messages, now_us, spawn};
use crate::identity::{Identity, IndexDefinition, Reader, StorageError, Tid, Wanted};

/// How many messages the window is filled with; in unit tests so few that others are left.
const WINDOW: usize = if cfg!(test) { 16 } else { 65_536 };

/// How many messages the inbox holds; of more the index has to be asked.
const INBOX_MAX: usize = 65_536;

/// How long the scheduler sleeps at most: the clock may have been changed meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long it rests after the executor has refused a delivery, at first and at most: then the disk is full, or the like.
const REST_US: std::ops::RangeInclusive<u64> = 50_000..=2_000_000;

/// How long a message rests that cannot be delivered and cannot be set aside, because its receiver cannot be read.
const DAMAGED_REST: Duration = Duration::from_secs(60);

/// How far back the clock has to go to count as set back, in microseconds.
const SET_BACK_US: u64 = 500_000;

/// When a message is due, in microseconds since the Unix epoch, and which it is: the order of delivery, because ids are given in
/// the order of posting.
type DueMessage = (u64, ObjectId);

/// What the executor tells the scheduler.
pub(super) struct Inbox {
    // A lock because the executor, the committer and the scheduler meet here. Held for a few instructions only.
    news: Mutex<News>,
    bell: Sender<()>,
    rung: Receiver<()>,
}

#[derive(Default)]
struct News {
    /// Messages that wait.
    waiting: Vec<DueMessage>,
    /// Deliveries that are no longer under way.
    ended: Vec<(DueMessage, Ended)>,
    /// The index has to be asked.
    look_again: bool,
}

/// What the executor did with a delivery.
#[derive(PartialEq, Eq, Debug)]
enum Ended {
    Taken,
    /// It takes none now.
    Refused,
    /// It cannot take this one.
    Damaged(Failure),
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        let (bell, rung) = bounded(1);
        Inbox { news: Mutex::new(News { look_again: true, ..News::default() }), bell, rung }
    }

    /// A message waits.
    pub(super) fn waits(&self, due_us: u64, message: ObjectId) {
        let mut news = self.news();
        if news.waiting.len() < INBOX_MAX {
            news.waiting.push((due_us, message));
        } else {
            news.look_again = true;
        }
        drop(news);
        self.ring();
    }

    /// What was told before may be wrong: transactions were forgotten.
    pub(super) fn look_again(&self) {
        self.news().look_again = true;
        self.ring();
    }

    /// Wakes the scheduler.
    pub(super) fn ring(&self) {
        // A bell that was rung already need not be rung again.
        _ = self.bell.try_send(());
    }

    fn ended(&self, message: DueMessage, ended: Ended) {
        self.news().ended.push((message, ended));
        self.ring();
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when `stopping` is set and the bell is rung.
pub(super) fn start(
    start: &Start<'_>,
    vitals: &Arc<Vitals>,
    inbox: &Arc<Inbox>,
    commands: Arc<Intake>,
    stopping: Arc<AtomicBool>,
) -> JoinHandle<()> {
    let scheduler = Scheduler {
        reader: Reader::new(start.identity.clone()),
        vitals: vitals.clone(),
        inbox: inbox.clone(),
        commands,
        stopping,
        in_flight_max: start.config.messages.in_flight_max,
        window: Window::default(),
        in_flight: FxHashSet::default(),
        damaged: FxHashMap::default(),
        unreadable: FxHashSet::default(),
        told: None,
        rest: None,
        clock: Clock::new(last_time(&start.identity)),
    };
    spawn("scheduler", move || scheduler.run())
}

/// When the last record before this start was made.
fn last_time(identity: &Identity) -> u64 {
    let before_start = Tid(identity.head().tid.0.saturating_sub(1));
    let time = identity.with_batch(before_start, |batch| Ok(batch.header.time_us));
    time.ok().flatten().unwrap_or(0)
}

struct Scheduler {
    reader: Reader,
    vitals: Arc<Vitals>,
    inbox: Arc<Inbox>,
    commands: Arc<Intake>,
    stopping: Arc<AtomicBool>,
    in_flight_max: usize,
    window: Window,
    /// What was handed to the executor and has not come back.
    in_flight: FxHashSet<DueMessage>,
    /// Until when those rest that cannot be delivered.
    damaged: FxHashMap<DueMessage, Instant>,
    /// Messages that cannot be read, which the log has told of.
    unreadable: FxHashSet<ObjectId>,
    /// When the log last told of one that cannot be delivered, and how many there were since.
    told: Option<(Instant, u64)>,
    /// How long to rest after the last refusal, and since when; none if the last delivery was taken.
    rest: Option<(u64, u64)>,
    clock: Clock,
}

impl Scheduler {
    fn run(mut self) {
        while !self.stopping.load(Ordering::Acquire) {
            self.clock.look(now_us(), self.vitals.next_object.load(Ordering::Relaxed));
            self.take_news();
            if self.window.is_used_up()
                && let Err(error) = self.fill_window()
            {
                log::error!("posted messages are not delivered for a while: {error}");
                self.refused();
            }
            let sleep = self.hand_over();
            self.reader.release();
            // Woken or not, the next round finds out what there is to do.
            _ = self.inbox.rung.recv_timeout(sleep);
        }
    }

    fn take_news(&mut self) {
        let News { waiting, ended, look_again } = std::mem::take(&mut *self.inbox.news());
        for (message, ended) in ended {
            self.in_flight.remove(&message);
            match ended {
                Ended::Taken => self.rest = None,
                Ended::Refused => {
                    self.refused();
                    self.window.add(message);
                }
                Ended::Damaged(failure) => {
                    self.rest = None;
                    self.tell(message.1, &failure);
                    self.damaged.insert(message, Instant::now() + DAMAGED_REST);
                }
            }
        }
        let rested = self.damaged.extract_if(|_, until| *until <= Instant::now());
        rested.for_each(|(message, _)| self.window.add(message));
        if look_again {
            self.window.forget();
        } else {
            waiting.into_iter().for_each(|message| self.window.add(message));
        }
    }

    /// Writes into the log that a message cannot be delivered, once a minute: there may be very many for one receiver.
    fn tell(&mut self, message: ObjectId, failure: &Failure) {
        match &mut self.told {
            Some((at, since)) if at.elapsed() < DAMAGED_REST => *since += 1,
            told => {
                log::error!("message {message} is not delivered for now: {failure}");
                if let Some((_, others @ 1..)) = told {
                    log::error!("{others} other deliveries failed so since this was said last");
                }
                *told = Some((Instant::now(), 0));
            }
        }
    }

    fn refused(&mut self) {
        let rest_us = self.rest.map_or(*REST_US.start(), |(rest_us, _)| (2 * rest_us).min(*REST_US.end()));
        self.rest = Some((rest_us, self.clock.now_us));
    }

    /// Fills the window from the index, from as far on as there is something to deliver.
    fn fill_window(&mut self) -> Result<(), StorageError> {
        let index = IndexDefinition::due();
        let (mut window, mut after) = (Window { known: true, ..Window::default() }, None);
        let mut unreadable = FxHashSet::default();
        loop {
            let wanted = Wanted { index: &index, condition: None, after: after.as_deref(), limit: WINDOW };
            let found =
                self.reader.matching_newest(wanted)?.expect("an index that the host brings with it is complete");
            for (message, error) in found.unreadable {
                if !self.unreadable.contains(&message) {
                    log::error!("message {message} is not delivered: {error}");
                }
                unreadable.insert(message);
            }
            let due = |(object, version): &(ObjectId, crate::identity::Version)| {
                Some((messages::due_us(version.record.as_ref()?)?, *object))
            };
            let all: Vec<DueMessage> = found.objects.iter().filter_map(due).collect();
            window.horizon = found.next.as_ref().and_then(|_| all.last().copied());
            let is_ours =
                |message: &DueMessage| !self.in_flight.contains(message) && !self.damaged.contains_key(message);
            window.due = all.into_iter().filter(is_ours).collect();
            after = found.next;
            if after.is_none() || !window.due.is_empty() {
                (self.window, self.unreadable) = (window, unreadable);
                return Ok(());
            }
            self.reader.release();
        }
    }

    /// Hands over what is due; answers how long to sleep.
    fn hand_over(&mut self) -> Duration {
        let now_us = self.clock.now_us;
        let (mut room, mut sleep) = (self.in_flight_max, SLEEP_MAX);
        if let Some((rest_us, since_us)) = self.rest {
            let over_us = since_us.saturating_add(rest_us);
            if (since_us..over_us).contains(&now_us) {
                return Duration::from_micros(over_us - now_us).min(SLEEP_MAX);
            }
            // One goes first to see whether it is taken now.
            room = 1;
        }
        while self.in_flight.len() < room {
            let Some(next) = self.window.next_due(&self.clock) else {
                if let Some((due_us, _)) = self.window.due.first() {
                    sleep = sleep.min(Duration::from_micros(due_us.saturating_sub(now_us)));
                } else if self.window.is_used_up() {
                    sleep = Duration::ZERO;
                }
                break;
            };
            self.send(next);
        }
        sleep
    }

    /// Gives a message to the executor. It does not wait for room among the commands: few are under way at once.
    fn send(&mut self, next: DueMessage) {
        let (due_us, message) = next;
        let inbox = self.inbox.clone();
        let reply: Reply = Box::new(move |done| {
            let ended = match done {
                Ok(_) => Ended::Taken,
                Err(Refusal::Failed(failure)) => Ended::Damaged(failure),
                Err(_) => Ended::Refused,
            };
            inbox.ended(next, ended);
        });
        self.window.due.remove(&next);
        self.in_flight.insert(next);
        // One that is not taken is the end of the host, and so of the scheduler.
        _ = self.commands.force(Command { doing: Doing::Deliver { message, due_us }, request_id: None, reply });
    }
}

/// The messages that are due next.
#[derive(Default)]
struct Window {
    due: BTreeSet<DueMessage>,
    /// What is due after this is not in the window; none if all is.
    horizon: Option<DueMessage>,
    /// Whether it was filled.
    known: bool,
}

impl Window {
    /// Whether the index has to be asked for more.
    fn is_used_up(&self) -> bool {
        !self.known || self.due.is_empty() && self.horizon.is_some()
    }

    fn forget(&mut self) {
        *self = Window::default();
    }

    fn add(&mut self, message: DueMessage) {
        if !self.known || self.horizon.is_some_and(|horizon| message > horizon) {
            return;
        }
        self.due.insert(message);
        if self.due.len() > 2 * WINDOW {
            self.due.pop_last();
            self.horizon = self.due.last().copied();
        }
    }

    /// The first message that is due.
    fn next_due(&self, clock: &Clock) -> Option<DueMessage> {
        let latest = clock.now_us.max(clock.before.0);
        self.due.range(..=(latest, ObjectId(u64::MAX))).find(|message| clock.is_due(**message)).copied()
    }
}

/// The time, and what it was before the clock was set back.
struct Clock {
    now_us: u64,
    /// Up to when messages had come to be due before, and the first object id that was not given then.
    before: (u64, ObjectId),
}

impl Clock {
    /// A clock of a host before which another ended at `last_us`.
    fn new(last_us: u64) -> Clock {
        Clock { now_us: last_us, before: (0, ObjectId(0)) }
    }

    /// Looks what the time is. Messages that were due before the clock was set back stay due: they do not wait for the same
    /// time to come again.
    fn look(&mut self, now_us: u64, next_object: u64) {
        if now_us.saturating_add(SET_BACK_US) < self.now_us {
            log::warn!("the clock was set back by {} ms", (self.now_us - now_us) / 1000);
            self.before = (self.now_us.max(self.before.0), ObjectId(next_object));
        }
        self.now_us = now_us;
    }

    fn is_due(&self, (due_us, message): DueMessage) -> bool {
        due_us <= self.now_us || due_us <= self.before.0 && message < self.before.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_messages_that_are_due_first() {
        let mut window = Window { known: true, ..Window::default() };
        for due in (0..3 * WINDOW as u64).rev() {
            window.add((due, ObjectId(due)));
        }
        assert_eq!(window.due.len(), 2 * WINDOW);
        let last = 2 * WINDOW as u64 - 1;
        assert_eq!(window.horizon, Some((last, ObjectId(last))));
        let clock = Clock::new(last);
        for due in 0..=last {
            assert!(!window.is_used_up());
            let next = window.next_due(&clock);
            assert_eq!(next, Some((due, ObjectId(due))));
            window.due.remove(&next.unwrap());
        }
        assert!(window.is_used_up(), "the others are in the index");
    }

    #[test]
    fn messages_of_one_time_come_in_the_order_of_posting() {
        let mut window = Window { known: true, ..Window::default() };
        [5, 3, 4].into_iter().for_each(|id| window.add((10, ObjectId(id))));
        let order: Vec<_> = window.due.iter().map(|(_, message)| message.0).collect();
        assert_eq!(order, [3, 4, 5]);
    }

    #[test]
    fn what_was_due_stays_due_when_the_clock_is_set_back() {
        let mut clock = Clock::new(0);
        clock.look(10_000_000, 5);
        assert!(clock.is_due((10_000_000, ObjectId(4))) && !clock.is_due((10_000_001, ObjectId(4))));
        clock.look(2_000_000, 5);
        assert!(clock.is_due((10_000_000, ObjectId(4))), "it was due already");
        assert!(!clock.is_due((10_000_000, ObjectId(5))), "it was posted since");
        assert!(!clock.is_due((10_000_001, ObjectId(4))));
        // A small step is no setting back.
        clock.look(1_900_000, 9);
        assert!(!clock.is_due((3_000_000, ObjectId(7))));
    }
}
