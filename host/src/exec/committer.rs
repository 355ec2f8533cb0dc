//! Commits: one batch is made durable on the committer thread while the executor fills the next. A batch with which a caller waits alone
//! the executor commits itself: nobody gains by handing it over, and to wake another thread takes time.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::{Done, PluginSet, Refusal, Reply, Vitals, now_us, spawn};
use crate::identity::{ClosedBatch, Committer, Head, Outcome, StorageError, Tid};

/// A batch and those who wait for it.
pub(super) struct Commit {
    pub batch: ClosedBatch,
    /// The set in force during the batch.
    pub plugins: Arc<PluginSet>,
    pub answers: Vec<Answer>,
    /// How many objects there are after it.
    pub objects: u64,
    /// How many messages wait after it, and how many were set aside.
    pub messages: (u64, u64),
    /// The id that the next new object gets after it.
    pub next_object: u64,
}

/// An answer that waits until its batch is durable.
pub(super) struct Answer {
    pub reply: Reply,
    pub tid: Option<Tid>,
    /// What it came to, or why it was not begun: that, too, rests on what the batch has.
    pub outcome: Result<Outcome, Refusal>,
    pub pause_us: u64,
    /// Method and arguments, which nobody needs any more. Another thread made them, so freeing them takes long, and the committer
    /// has more time than the executor.
    pub spent: Option<(String, Vec<u8>)>,
}

/// Says that the committer can take a batch, and what it did with the last.
pub(super) struct Ready {
    /// How many callers it answers now.
    pub answered: usize,
    took: Duration,
    since: Instant,
}

impl Ready {
    /// How much longer the executor may let a batch grow before it hands it over.
    pub(super) fn patience(&self) -> Duration {
        (self.took / 8).saturating_sub(self.since.elapsed())
    }
}

/// What the executor and the committer thread share beside their channels.
pub(super) struct Committing {
    /// A lock because both commit. The thread holds it while it does something, the executor takes it only if it is free.
    committer: Mutex<Committer>,
    vitals: Arc<Vitals>,
    published: Arc<ArcSwap<PluginSet>>,
    /// The epoch whose batches were refused, plus one; 0 if none was yet. The executor then forgets that epoch's transactions
    /// and begins the next.
    failed: AtomicU64,
    /// Why. A lock because the committer writes what the executor reads.
    refusal: Mutex<Option<Refusal>>,
}

/// A batch that is durable, or was refused, and those who wait for it.
pub(super) struct Committed {
    answers: Vec<Answer>,
    result: Result<Head, Refusal>,
    took: Duration,
}

impl Committed {
    /// Says that another batch can be taken.
    pub(super) fn ready(&self) -> Ready {
        Ready { answered: self.answers.len(), took: self.took, since: Instant::now() }
    }

    /// Answers those who wait.
    pub(super) fn give(self) {
        give(self.answers, &self.result);
    }
}

impl Committing {
    pub(super) fn new(
        committer: Committer,
        vitals: &Arc<Vitals>,
        published: &Arc<ArcSwap<PluginSet>>,
    ) -> Arc<Committing> {
        Arc::new(Committing {
            committer: Mutex::new(committer),
            vitals: vitals.clone(),
            published: published.clone(),
            failed: AtomicU64::new(0),
            refusal: Mutex::new(None),
        })
    }

    /// Whether batches of this epoch are refused.
    pub(super) fn is_failed(&self, epoch: u64) -> bool {
        self.failed.load(Ordering::Acquire) == epoch + 1
    }

    /// Why the last batch was refused that was.
    pub(super) fn refusal(&self) -> Refusal {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(Refusal::Stopping)
    }

    fn fail(&self, epoch: u64, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.failed.store(epoch + 1, Ordering::Release);
    }

    fn committer(&self) -> MutexGuard<'_, Committer> {
        self.committer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committer, if nobody has it.
    pub(super) fn idle(&self) -> Option<MutexGuard<'_, Committer>> {
        match self.committer.try_lock() {
            Ok(committer) => Some(committer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Makes a batch durable and shows it to readers. Those who wait for it are answered by [`Committed::give`].
    pub(super) fn commit(&self, committer: &mut Committer, commit: Commit) -> Committed {
        let Commit { batch, plugins, answers, objects, messages, next_object } = commit;
        let (epoch, started) = (batch.epoch, Instant::now());
        let count = batch.len() as u64;
        let result = match self.is_failed(epoch) {
            true => Err(self.refusal()),
            false => committer.append(batch, plugins.record(), now_us()).map_err(|error| refusal(&error)),
        };
        match &result {
            Ok(durable) => {
                // The set first: a reader takes a head and then a set, which has to be at least as new.
                if !Arc::ptr_eq(&self.published.load(), &plugins) {
                    self.published.store(plugins);
                }
                committer.publish(*durable);
                let vitals = &self.vitals;
                vitals.objects.store(objects, Ordering::Relaxed);
                vitals.messages_waiting.store(messages.0, Ordering::Relaxed);
                vitals.messages_set_aside.store(messages.1, Ordering::Relaxed);
                vitals.next_object.store(next_object, Ordering::Relaxed);
                vitals.transactions.fetch_add(count, Ordering::Relaxed);
                vitals.batches.fetch_add(u64::from(count > 0), Ordering::Relaxed);
            }
            Err(refusal) => {
                if let Refusal::StorageFailed { message } = refusal {
                    self.vitals.fail(message.clone());
                }
                self.fail(epoch, refusal.clone());
            }
        }
        Committed { answers, result, took: started.elapsed() }
    }
}

/// Starts the thread. It says through `ready` whenever it can take a batch, and ends when `batches` is closed.
pub(super) fn start(committing: Arc<Committing>, batches: Receiver<Commit>, ready: Sender<Ready>) -> JoinHandle<()> {
    spawn("committer", move || {
        _ = ready.send(Ready { answered: 0, took: Duration::ZERO, since: Instant::now() });
        while let Some(commit) = next(&committing, &batches) {
            let committed = committing.commit(&mut committing.committer(), commit);
            // What the executor does next does not depend on the answers, so it can go on before they are given.
            _ = ready.send(committed.ready());
            committed.give();
        }
        // After a failure nothing more is tried on the storage.
        if committing.vitals.fatal().is_none()
            && let Err(error) = committing.committer().settle()
        {
            log::warn!("the last records stay in the write-ahead log, from where the next start takes them: {error}");
        }
    })
}

/// The next batch; none if there will be no more. Meanwhile what was packed away is removed, a bounded part at a time: when there is
/// nothing else to do, and now and then also if there is.
fn next(committing: &Committing, batches: &Receiver<Commit>) -> Option<Commit> {
    /// Without a batch for this long there is time.
    const IDLE: Duration = Duration::from_millis(2);
    /// A host that is never idle takes the time after this long.
    const EVERY: Duration = Duration::from_millis(50);
    /// How long it waits if the disk is full.
    const FULL: Duration = Duration::from_secs(1);

    loop {
        let Some(due) = committing.committer().trim_due() else { return batches.recv().ok() };
        let committed = committing.vitals.batches.load(Ordering::Relaxed);
        match batches.recv_timeout(IDLE) {
            Ok(commit) if Instant::now() < due + EVERY => return Some(commit),
            Err(RecvTimeoutError::Disconnected) => return None,
            // The executor commits itself.
            Err(RecvTimeoutError::Timeout)
                if committing.vitals.batches.load(Ordering::Relaxed) != committed && Instant::now() < due + EVERY => {}
            commit => {
                let mut committer = committing.committer();
                if Instant::now() >= due
                    && let Err(error) = committer.trim()
                {
                    match error.is_full() {
                        true => committer.trim_after(FULL),
                        false => committing.vitals.fail(error.to_string()),
                    }
                }
                if let Ok(commit) = commit {
                    return Some(commit);
                }
            }
        }
    }
}

/// How callers learn that nothing could be made durable.
pub(super) fn refusal(error: &StorageError) -> Refusal {
    let message = error.to_string();
    if error.is_full() { Refusal::StorageFull { message } } else { Refusal::StorageFailed { message } }
}

/// Answers those who waited for a batch.
pub(super) fn give(answers: Vec<Answer>, result: &Result<Head, Refusal>) {
    for Answer { reply, tid, outcome, pause_us, spent } in answers {
        drop(spent);
        reply(match (result, outcome) {
            (Ok(head), Ok(outcome)) => Ok(Done { tid, outcome, head: *head, pause_us }),
            (Ok(_), Err(refusal)) => Err(refusal),
            (Err(refusal), _) => Err(refusal.clone()),
        });
    }
}
