//! When the object table is brought forward, and how far it may lag behind.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Executor, Refusal, ToCome, Vitals, request_memory};
use crate::identity::{CheckpointPlan, Identity, Keep, StorageError};

/// How often readers that keep old pages in use are looked for, at least.
const LET_GO_INTERVAL: Duration = Duration::from_secs(1);

/// How long the object table may stay behind while there is always something to do: an index that was made is begun with a
/// checkpoint.
const TABLE_AGE_MAX: Duration = Duration::from_secs(5);

/// How many rows one step of making or dropping an index goes through: milliseconds for which a checkpoint may have to wait.
const INDEX_STEP_ROWS: usize = 10_000;

/// How long the executor waits for the table at most before it looks after everything else.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Brings the object table forward. Want of room passes; any other failure is the host's end.
pub(super) fn checkpointer(
    identity: &Identity,
    plans: &Receiver<CheckpointPlan>,
    is_stuck: &AtomicBool,
    vitals: &Vitals,
) {
    // A start goes on with the indexes that the host before has left unfinished.
    let mut next = (true, Duration::ZERO);
    loop {
        let (started, (indexing, rest)) = (Instant::now(), next);
        let done = match plans.recv_timeout(rest) {
            Ok(plan) => identity.checkpoint(plan).map(|()| {
                log::debug!("the object table has reached {} in {:?}", identity.reached(), started.elapsed());
                is_stuck.store(false, Ordering::Relaxed);
                true
            }),
            // A checkpoint sees to the readers too.
            Err(RecvTimeoutError::Timeout) => match identity.let_go_of_readers() {
                Ok(()) if indexing => identity.index_step(INDEX_STEP_ROWS),
                done => done.map(|()| false),
            },
            Err(RecvTimeoutError::Disconnected) => break,
        };
        next = after(&done, indexing);
        match done {
            Ok(_) => {}
            // Tried again and again, so told once.
            Err(error) if error.is_full() => {
                if !is_stuck.swap(true, Ordering::Relaxed) {
                    log::warn!("the object table stays at {} and is tried again: {error}", identity.reached());
                }
            }
            Err(error) => vitals.fail(error.to_string()),
        }
    }
}

/// Whether there may be something to do about indexes next, and how long to wait for a checkpoint before; `done` says of what was done
/// last whether there is.
fn after(done: &Result<bool, StorageError>, indexing: bool) -> (bool, Duration) {
    match done {
        Ok(true) => (true, Duration::ZERO),
        Ok(false) => (false, LET_GO_INTERVAL),
        // What an index lacked room for is tried again, also if nothing is committed that would bring a checkpoint.
        Err(_) => (indexing, LET_GO_INTERVAL),
    }
}

impl Executor {
    /// Has the object table brought forward when it lags, and waits for it when it lags too much.
    pub(super) fn see_to_the_table(&mut self) {
        while let Some((tid, _)) = self.superseded.front()
            && *tid <= self.writer.reader().identity().head().tid
        {
            self.superseded.pop_front();
        }
        let (due, _) = self.lag();
        if due || self.checkpointed.elapsed() >= TABLE_AGE_MAX {
            self.checkpoint();
        }
        // The table cannot keep up: what it has not seen must stay bounded.
        let until = Instant::now() + WAIT_MAX;
        while self.lag().1 && !self.is_hopeless() && Instant::now() < until {
            self.checkpoint();
            thread::sleep(Duration::from_millis(1));
        }
        self.expect_writes();
    }

    /// Whether a checkpoint is due, and whether it is so overdue that commands have to wait for it.
    fn lag(&mut self) -> (bool, bool) {
        let (settings, behind) = (&self.config.identity, self.writer.behind());
        let reaches = |part: u64| {
            behind.transactions >= settings.tail_transactions_max / part
                || behind.bytes >= settings.tail_bytes_max / part
        };
        let (mut due, mut overdue) = (reaches(2), reaches(1));
        // A checkpoint takes memory for each page that it changes: of a table so large that most writes meet another page, few.
        let pages_max = settings.checkpoint_pages_max;
        if self.writer.reader().identity().object_pages() > pages_max {
            due |= behind.writes >= pages_max / 4;
            overdue |= behind.writes >= pages_max / 4 * 3;
        }
        (due, overdue)
    }

    /// Has the room measured if what was recorded since may have used it up.
    pub(super) fn see_to_the_room(&mut self) {
        let recorded = self.writer.recorded_bytes();
        // After a failed commit it is less than it was.
        if recorded.abs_diff(self.measured) <= self.room.allowance() {
            return;
        }
        self.measured = recorded;
        self.measure(false);
        if self.room.allowance() == 0 {
            // The table may take far less than all that it has not seen.
            self.bring_forward(WAIT_MAX);
            self.measure(true);
        }
    }

    fn measure(&mut self, to_come_counts: bool) {
        self.expect_writes();
        self.room.look(self.writer.identity(), &self.config.identity, to_come_counts);
    }

    /// Tells the watch of the room what is to come.
    fn expect_writes(&mut self) {
        let open = self.writer.open_batch().1 as u64;
        let (history_bytes, objects_bytes) = (self.writer.unwritten_bytes(), self.writer.behind().bytes + open);
        self.room.expect(ToCome { history_bytes, objects_bytes });
    }

    /// Why nothing that takes room may be done now, if so.
    pub(super) fn no_room(&self) -> Option<Refusal> {
        let lags = self.writer.lag() >= self.config.identity.tail_transactions_max;
        if self.table_is_stuck.load(Ordering::Relaxed) && lags {
            let message =
                "the object table cannot be brought up to date, so what it lacks would grow without bound".to_owned();
            return Some(Refusal::StorageFull { message });
        }
        self.room.refusal()
    }

    /// Whether waiting for the table is in vain.
    fn is_hopeless(&self) -> bool {
        self.vitals.fatal().is_some()
            || self.table_is_stuck.load(Ordering::Relaxed)
            || self.committing.is_failed(self.writer.epoch())
    }

    /// Has the object table brought up to date before the end, so that the next start has nothing to make up for. Given up if that
    /// fails, or takes longer than stopping may: then it is made up for.
    pub(super) fn finish_the_table(&mut self) {
        self.bring_forward(Duration::from_millis(self.config.execution.drain_ms_max));
    }

    /// Has the object table brought up to date, and waits for that, but not longer than this.
    fn bring_forward(&mut self, longest: Duration) {
        let until = Instant::now() + longest;
        while !self.writer.is_caught_up() && !self.is_hopeless() && Instant::now() < until {
            self.checkpoint();
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has the object table brought up to date, unless that is being done.
    pub(super) fn checkpoint(&mut self) {
        self.checkpointed = Instant::now();
        let settings = &self.config.identity;
        let keep = Keep { objects: settings.cache_objects_max, bytes: settings.cache_bytes_max };
        if let Some(plan) = self.writer.plan_checkpoint(request_memory(settings), keep) {
            // Fails only if the checkpointer is gone, and then the host is about to end.
            _ = self.plans.send(plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_had_no_room_is_gone_on_with_by_itself() {
        let full = || Err(StorageError::Full { path: "objects".into() });
        assert_eq!(after(&full(), true), (true, LET_GO_INTERVAL));
        // A checkpoint that had none is planned again by the executor.
        assert_eq!(after(&full(), false), (false, LET_GO_INTERVAL));
        assert_eq!(after(&Ok(true), false), (true, Duration::ZERO));
        assert_eq!(after(&Ok(false), true), (false, LET_GO_INTERVAL));
    }
}
