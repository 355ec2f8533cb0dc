//! Where commands wait for the executor.
//!
//! The executor takes over all that wait at once, so under load a command costs its sender an uncontended lock and the executor
//! next to nothing; and it is woken only if it sleeps.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Command;

/// Of how many commands in hand the executor keeps exact count for those who want to know how many wait.
const COUNTED: usize = 64;

/// The senders' end. The executor ends when it is dropped.
pub(super) struct Intake {
    shared: Arc<Shared>,
    alarm: Sender<()>,
}

/// The executor's end.
pub(super) struct Outlet {
    shared: Arc<Shared>,
    alarm: Receiver<()>,
    /// What was taken over and is not begun.
    in_hand: VecDeque<Command>,
}

struct Shared {
    /// A lock because any thread sends.
    waiting: Mutex<Waiting>,
    /// How many the executor has taken over and not begun.
    in_hand: AtomicUsize,
    /// Whether the executor has to be woken.
    asleep: AtomicBool,
    most: usize,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    closed: bool,
}

/// Why a command was not taken.
pub(super) enum NoEntry {
    /// As many wait as may.
    Full(Command),
    /// The executor has ended.
    Closed(Command),
}

/// An intake in which up to `most` commands may wait.
pub(super) fn intake(most: usize) -> (Intake, Outlet) {
    let (sender, alarm) = bounded(1);
    let asleep = AtomicBool::new(false);
    let shared = Arc::new(Shared { waiting: Mutex::default(), in_hand: AtomicUsize::new(0), asleep, most });
    (Intake { shared: shared.clone(), alarm: sender }, Outlet { shared, alarm, in_hand: VecDeque::new() })
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(
    clippy::result_large_err,
    reason = "a command that is not taken goes back to its sender, who has to answer it"
)]
impl Intake {
    /// How many commands wait.
    pub(super) fn len(&self) -> usize {
        self.shared.waiting().commands.len() + self.shared.in_hand.load(Ordering::Relaxed)
    }

    /// Adds a command if it may still wait.
    pub(super) fn offer(&self, command: Command) -> Result<(), NoEntry> {
        self.add(command, self.shared.most)
    }

    /// Adds a command however many wait.
    pub(super) fn force(&self, command: Command) -> Result<(), NoEntry> {
        self.add(command, usize::MAX)
    }

    fn add(&self, command: Command, most: usize) -> Result<(), NoEntry> {
        let mut waiting = self.shared.waiting();
        if waiting.closed {
            return Err(NoEntry::Closed(command));
        }
        if waiting.commands.len() + self.shared.in_hand.load(Ordering::Relaxed) >= most {
            return Err(NoEntry::Full(command));
        }
        waiting.commands.push_back(command);
        drop(waiting);
        if self.shared.asleep.load(Ordering::Relaxed) && self.shared.asleep.swap(false, Ordering::Relaxed) {
            // Full if the executor has been rung already.
            _ = self.alarm.try_send(());
        }
        Ok(())
    }
}

impl Outlet {
    /// The next command, if one waits.
    pub(super) fn next(&mut self) -> Option<Command> {
        if self.in_hand.is_empty() {
            // Both keep their memory, and take turns with it.
            std::mem::swap(&mut self.shared.waiting().commands, &mut self.in_hand);
        }
        let next = self.in_hand.pop_front();
        let left = self.in_hand.len();
        if left < COUNTED || left.is_multiple_of(COUNTED) {
            self.shared.in_hand.store(left, Ordering::Relaxed);
        }
        next
    }

    /// The next commands that were taken over, in order.
    pub(super) fn coming(&self) -> impl Iterator<Item = &Command> {
        self.in_hand.iter()
    }

    /// How many commands were taken over and are not begun.
    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether no command waits.
    pub(super) fn is_empty(&self) -> bool {
        self.in_hand.is_empty() && self.shared.waiting().commands.is_empty()
    }

    /// What rings when a command comes while nothing waits; it is disconnected when no more can come. None if one waits: then
    /// nothing would ring.
    pub(super) fn alarm(&self) -> Option<&Receiver<()>> {
        self.shared.asleep.store(true, Ordering::Relaxed);
        // Who adds a command from now on holds the lock after this, and so sees that the executor sleeps.
        let none_waits = self.in_hand.is_empty() && self.shared.waiting().commands.is_empty();
        none_waits.then_some(&self.alarm)
    }

    /// Takes no more. Answers what still waits.
    pub(super) fn close(self) -> impl Iterator<Item = Command> {
        let mut waiting = self.shared.waiting();
        waiting.closed = true;
        let rest = std::mem::take(&mut waiting.commands);
        self.in_hand.into_iter().chain(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;
    use crate::exec::Doing;

    fn command(number: usize, done: &Arc<Mutex<Vec<usize>>>) -> Command {
        let done = done.clone();
        let doing = Doing::Look { look: Box::new(|_, _| {}) };
        Command { doing, request_id: None, reply: Box::new(move |_| done.lock().unwrap().push(number)) }
    }

    fn answer(command: Command) {
        (command.reply)(Err(crate::exec::Refusal::Stopping));
    }

    #[test]
    fn a_sleeper_misses_nothing_and_order_is_kept() {
        const EACH: usize = 20_000;
        let (intake, mut outlet) = intake(50);
        let done = Arc::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..EACH {
                    let mut next = command(number, &done);
                    while let Err(NoEntry::Full(again) | NoEntry::Closed(again)) = intake.offer(next) {
                        next = again;
                        thread::yield_now();
                    }
                }
            });
            let mut answered = 0;
            while answered < EACH {
                match outlet.next() {
                    Some(command) => {
                        answer(command);
                        answered += 1;
                    }
                    None => {
                        if let Some(alarm) = outlet.alarm() {
                            alarm.recv_timeout(Duration::from_secs(10)).expect("it is woken");
                        }
                    }
                }
            }
        });
        assert!(done.lock().unwrap().iter().copied().eq(0..EACH));
    }

    #[test]
    fn no_more_wait_than_may_and_none_once_it_is_closed() {
        let (intake, mut outlet) = intake(2);
        let done = Arc::default();
        for number in 0..2 {
            assert!(intake.offer(command(number, &done)).is_ok());
        }
        assert!(matches!(intake.offer(command(2, &done)), Err(NoEntry::Full(_))));
        answer(outlet.next().unwrap());
        assert_eq!(intake.len(), 1, "what is taken over and not begun still waits");
        assert!(intake.offer(command(3, &done)).is_ok());
        assert!(matches!(intake.offer(command(4, &done)), Err(NoEntry::Full(_))));
        assert!(intake.force(command(5, &done)).is_ok());
        outlet.close().for_each(answer);
        assert_eq!(*done.lock().unwrap(), [0, 1, 3, 5]);
        assert!(matches!(intake.force(command(6, &done)), Err(NoEntry::Closed(_))));
    }
}
