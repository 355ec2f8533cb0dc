//! The committer thread: makes one batch durable while the executor fills the next.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
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
    pub outcome: Outcome,
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

/// What the executor and the committer share beside their channels.
#[derive(Default)]
pub(super) struct Verdict {
    /// The epoch whose batches were refused, plus one; 0 if none was yet. The executor then forgets that epoch's transactions
    /// and begins the next.
    failed: AtomicU64,
    /// Why. A lock because the committer writes what the executor reads.
    refusal: Mutex<Option<Refusal>>,
}

impl Verdict {
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
}

/// Starts the thread. It says through `ready` whenever it can take a batch, and ends when `batches` is closed.
pub(super) fn start(
    mut committer: Committer,
    vitals: Arc<Vitals>,
    published: Arc<ArcSwap<PluginSet>>,
    verdict: Arc<Verdict>,
    batches: Receiver<Commit>,
    ready: Sender<Ready>,
) -> JoinHandle<()> {
    spawn("committer", move || {
        let tell = |answered, took| _ = ready.send(Ready { answered, took, since: Instant::now() });
        tell(0, Duration::ZERO);
        while let Some(commit) = next(&mut committer, &batches, &vitals) {
            let Commit { batch, plugins, answers, objects, messages, next_object } = commit;
            let (epoch, started) = (batch.epoch, Instant::now());
            let count = batch.len() as u64;
            let result = if verdict.is_failed(epoch) {
                Err(verdict.refusal())
            } else {
                commit_batch(&mut committer, batch, &plugins)
            };
            // What the executor does next does not depend on the answers, so it can go on before they are given.
            let answer = match result {
                Ok(durable) => {
                    // The set first: a reader takes a head and then a set, which has to be at least as new.
                    if !Arc::ptr_eq(&published.load(), &plugins) {
                        published.store(plugins);
                    }
                    committer.publish(durable);
                    vitals.objects.store(objects, Ordering::Relaxed);
                    vitals.messages_waiting.store(messages.0, Ordering::Relaxed);
                    vitals.messages_set_aside.store(messages.1, Ordering::Relaxed);
                    vitals.next_object.store(next_object, Ordering::Relaxed);
                    vitals.transactions.fetch_add(count, Ordering::Relaxed);
                    vitals.batches.fetch_add(u64::from(count > 0), Ordering::Relaxed);
                    Ok(durable)
                }
                Err(error) => {
                    if let Refusal::StorageFailed { message } = &error {
                        vitals.fail(message.clone());
                    }
                    verdict.fail(epoch, error.clone());
                    Err(error)
                }
            };
            tell(answers.len(), started.elapsed());
            give(answers, &answer);
        }
        // After a failure nothing more is tried on the storage.
        if vitals.fatal().is_none()
            && let Err(error) = committer.settle()
        {
            log::warn!("the last records stay in the write-ahead log, from where the next start takes them: {error}");
        }
    })
}

/// The next batch; none if there will be no more. Meanwhile what was packed away is removed, a bounded part at a time: when there is
/// nothing else to do, and now and then also if there is.
fn next(committer: &mut Committer, batches: &Receiver<Commit>, vitals: &Vitals) -> Option<Commit> {
    /// Without a batch for this long there is time.
    const IDLE: Duration = Duration::from_millis(2);
    /// A host that is never idle takes the time after this long.
    const EVERY: Duration = Duration::from_millis(50);
    /// How long it waits if the disk is full.
    const FULL: Duration = Duration::from_secs(1);

    loop {
        let Some(due) = committer.trim_due() else { return batches.recv().ok() };
        match batches.recv_timeout(IDLE) {
            Ok(commit) if Instant::now() < due + EVERY => return Some(commit),
            Err(RecvTimeoutError::Disconnected) => return None,
            commit => {
                if Instant::now() >= due
                    && let Err(error) = committer.trim()
                {
                    match error.is_full() {
                        true => committer.trim_after(FULL),
                        false => vitals.fail(error.to_string()),
                    }
                }
                if let Ok(commit) = commit {
                    return Some(commit);
                }
            }
        }
    }
}

fn commit_batch(committer: &mut Committer, batch: ClosedBatch, plugins: &PluginSet) -> Result<Head, Refusal> {
    committer.append(batch, plugins.record(), now_us()).map_err(|error| refusal(&error))
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
        match result {
            Ok(head) => reply(Ok(Done { tid, outcome, head: *head, pause_us })),
            Err(refusal) => reply(Err(refusal.clone())),
        }
    }
}
