//! Long jobs that operators ask for: each on a thread of its own, so that nothing else waits for it, and one of each kind at a time.
//!
//! A job works in steps and asks between two of them whether to [go on](GoOn): a host that stops waits for one step at most.

use std::{
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

/// The thread of a job.
struct Thread {
    job: Job,
    /// Whether its work is done. That is so before its answer is given: who has the answer may begin the next.
    done: Arc<AtomicBool>,
    handle: JoinHandle<()>,
}

/// The jobs of a host.
pub(super) struct Jobs {
    /// The threads that may not have ended; none after the stop. A lock because any request may begin a job.
    threads: Mutex<Option<Vec<Thread>>>,
    go_on: GoOn,
}

impl Jobs {
    pub(super) fn new() -> Jobs {
        Jobs { threads: Mutex::new(Some(Vec::new())), go_on: GoOn(Arc::new(AtomicBool::new(true))) }
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
        threads.retain(|thread| !thread.handle.is_finished());
        if threads.iter().any(|thread| thread.job == job && !thread.done.load(Ordering::Acquire)) {
            let message = format!("{} is under way: wait for its end", job.title());
            return reply(Err(views::error(codes::OVERLOADED, message)));
        }
        let (go_on, done) = (self.go_on.clone(), Arc::new(AtomicBool::new(false)));
        let is_done = done.clone();
        let run = move || {
            let answer = match go_on.ask() {
                true => work(&go_on),
                false => Err(views::refusal(&Refusal::Stopping)),
            };
            is_done.store(true, Ordering::Release);
            reply(answer);
        };
        let handle = thread::Builder::new().name(job.name().into()).spawn(run).expect("the system gives a thread");
        threads.push(Thread { job, done, handle });
    }

    /// Tells all jobs to end at their next step, and begins no more.
    pub(super) fn cancel(&self) {
        self.go_on.0.store(false, Ordering::Release);
    }

    /// Cancels all jobs and waits until they have ended.
    pub(super) fn stop(&self) {
        self.cancel();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        for Thread { job, handle, .. } in threads.into_iter().flatten() {
            if handle.join().is_err() {
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
        let (begun, is_begun) = mpsc::channel();
        let endless = start(&jobs, move |go_on| {
            _ = begun.send(());
            while go_on.ask() {
                thread::yield_now();
            }
        });
        is_begun.recv().expect("who was answered may begin the next at once");
        jobs.stop();
        assert_eq!(code(&endless), "done");
        assert_eq!(code(&start(&jobs, |_| {})), codes::STOPPING);
    }

    #[test]
    fn who_was_answered_may_begin_the_next_at_once() {
        let jobs = Jobs::new();
        for _ in 0..1_000 {
            assert_eq!(code(&start(&jobs, |_| {})), "done");
        }
    }

    #[test]
    fn a_job_that_panicked_keeps_no_other_from_being_done() {
        let jobs = Jobs::new();
        let panicked = start(&jobs, |_| panic!("this panic belongs to a test"));
        assert!(panicked.recv().is_err());
        // Its reply is dropped while its thread still unwinds.
        while code(&start(&jobs, |_| {})) != "done" {
            thread::yield_now();
        }
    }
}
