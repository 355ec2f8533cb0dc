//! Long jobs that operators ask for: each on a thread of its own, so that nothing else waits for it, and one of each kind at a time.
//!
//! A job works in steps and asks between two of them whether to [go on](GoOn): a host that stops waits for one step at most.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{
    action::{ActionError, Answer, codes},
    host::Reply,
    views,
};
use crate::exec::Refusal;

/// What can be under way once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Job {
    /// Recorded transactions are executed again with other plugins.
    Rehearsal,
    /// The history is packed.
    Pack,
    /// What cannot be reached is removed.
    Collection,
}

impl Job {
    /// The name of its thread.
    fn name(self) -> &'static str {
        match self {
            Job::Rehearsal => "rehearsal",
            Job::Pack => "pack",
            Job::Collection => "collection",
        }
    }

    /// What it is called in messages.
    fn title(self) -> &'static str {
        match self {
            Job::Rehearsal => "a rehearsal",
            Job::Pack => "a pack of the history",
            Job::Collection => "a collection of unreachable objects",
        }
    }
}

/// Tells a job whether to go on. It has to be asked at least every tenth of a second.
#[derive(Clone, Debug)]
pub(super) struct GoOn(Arc<AtomicBool>);

impl GoOn {
    /// Whether to go on; if not, the host is stopping.
    pub(super) fn ask(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The jobs of a host.
pub(super) struct Jobs {
    /// The thread of the last job of each kind; none after the stop. A lock because any request may begin a job.
    threads: Mutex<Option<BTreeMap<Job, JoinHandle<()>>>>,
    go_on: GoOn,
}

impl Jobs {
    pub(super) fn new() -> Jobs {
        Jobs { threads: Mutex::new(Some(BTreeMap::new())), go_on: GoOn(Arc::new(AtomicBool::new(true))) }
    }

    /// Begins a job, whose answer goes to `reply`; refused if one of its kind is under way.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    pub(super) fn start(
        &self,
        job: Job,
        reply: Reply,
        work: impl FnOnce(&GoOn) -> Result<Answer, ActionError> + Send + 'static,
    ) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(threads) = &mut *threads else { return reply(Err(views::refusal(&Refusal::Stopping))) };
        if threads.get(&job).is_some_and(|thread| !thread.is_finished()) {
            let message = format!("{} is under way: wait for its end", job.title());
            return reply(Err(views::error(codes::OVERLOADED, message)));
        }
        let go_on = self.go_on.clone();
        let run = move || match go_on.ask() {
            true => reply(work(&go_on)),
            false => reply(Err(views::refusal(&Refusal::Stopping))),
        };
        let thread = thread::Builder::new().name(job.name().into()).spawn(run);
        // The thread of the one before has ended, so nothing is left behind by forgetting it.
        threads.insert(job, thread.expect("the system gives a thread"));
    }

    /// Tells all jobs to end at their next step, and begins no more.
    pub(super) fn cancel(&self) {
        self.go_on.0.store(false, Ordering::Release);
    }

    /// Cancels all jobs and waits until they have ended.
    pub(super) fn stop(&self) {
        self.cancel();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (job, thread) in threads.into_iter().flatten() {
            if thread.join().is_err() {
                log::error!("the thread of {} had panicked", job.title());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    type Answers = mpsc::Receiver<Result<Answer, ActionError>>;

    fn start(jobs: &Jobs, work: impl FnOnce(&GoOn) + Send + 'static) -> Answers {
        let (sender, receiver) = mpsc::channel();
        let refused = || Err(views::error("done", ""));
        jobs.start(Job::Rehearsal, Box::new(move |answer| _ = sender.send(answer)), move |go_on| {
            work(go_on);
            refused()
        });
        receiver
    }

    fn code(answers: &Answers) -> String {
        answers.recv().unwrap().unwrap_err().code
    }

    #[test]
    fn one_of_a_kind_at_a_time_and_none_after_the_stop() {
        let jobs = Jobs::new();
        let (end, wait) = mpsc::channel::<()>();
        let first = start(&jobs, move |_| _ = wait.recv());
        assert_eq!(code(&start(&jobs, |_| {})), codes::OVERLOADED);
        drop(end);
        assert_eq!(code(&first), "done");
        // Its thread may still be about to end.
        while code(&start(&jobs, |_| {})) != "done" {
            thread::yield_now();
        }
        let endless = loop {
            let (begun, is_begun) = mpsc::channel();
            let answers = start(&jobs, move |go_on| {
                _ = begun.send(());
                while go_on.ask() {
                    thread::yield_now();
                }
            });
            if is_begun.recv().is_ok() {
                break answers;
            }
            assert_eq!(code(&answers), codes::OVERLOADED);
        };
        jobs.stop();
        assert_eq!(code(&endless), "done");
        assert_eq!(code(&start(&jobs, |_| {})), codes::STOPPING);
    }
}
