//! The query threads: whatever only reads runs here, in parallel, each on one committed snapshot.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
};

use arc_swap::{ArcSwap, Guard};
use crossbeam_channel::{TryRecvError, select};
use theseus_abi::Failure;

use super::{
    Done, ObjectName, PluginSet, Queue, Refusal, Start, Vitals, now_us, spawn, split_mix,
    state::Snapshot,
    turn::{Scratch, Turn},
};
use crate::{
    config::Execution,
    identity::{Head, Outcome, Reader},
    plugin::Errands,
};

/// Something to be done on a query thread.
pub(super) type Query = Box<dyn FnOnce(&mut QueryWorker) + Send>;

/// What came of a message that was taken for a query.
pub enum Queried {
    /// It was one.
    Done(Done),
    /// What would execute it is a command, which a query thread refuses so. Its name alone does not tell: a method may have been
    /// replaced since, or stand in for what is not understood.
    Command(Failure),
}

/// What a query thread works with.
pub struct QueryWorker {
    reader: Reader,
    published: Arc<ArcSwap<PluginSet>>,
    limits: Execution,
    scratch: Scratch,
    vitals: Arc<Vitals>,
    thread: usize,
    seeds: u64,
    ended: bool,
}

pub(super) fn start(
    start: &Start<'_>,
    vitals: &Arc<Vitals>,
    published: &Arc<ArcSwap<PluginSet>>,
    queue: &Queue<Query>,
) -> Vec<JoinHandle<()>> {
    (1..=start.config.execution.query_threads)
        .map(|thread| {
            let mut worker = QueryWorker {
                reader: Reader::new(start.identity.clone()),
                published: published.clone(),
                limits: start.config.execution.clone(),
                scratch: Scratch::default(),
                vitals: vitals.clone(),
                thread,
                seeds: now_us() ^ (thread as u64) << 56,
                ended: false,
            };
            let queue = queue.clone();
            spawn(&format!("query-{thread}"), move || worker.run(&queue, &Errands::of_this_thread()))
        })
        .collect()
}

impl QueryWorker {
    fn run(&mut self, queue: &Queue<Query>, errands: &Errands) {
        while !self.ended {
            if errands.are_due() {
                self.vitals.busy(self.thread);
                errands.run();
                self.vitals.idle(self.thread);
            }
            let query = match queue.try_recv() {
                Ok(query) => query,
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {
                    // An idle thread must not hold a view open: it would make the table's file grow.
                    self.reader.release();
                    select! {
                        recv(queue) -> query => match query {
                            Ok(query) => query,
                            Err(_) => break,
                        },
                        recv(errands.bell()) -> _ => continue,
                    }
                }
            };
            query(self);
            self.reader.refresh();
        }
    }

    /// Reads objects and names.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// The plugins in force.
    pub fn plugins(&self) -> Arc<PluginSet> {
        self.published.load_full()
    }

    /// Executes a query on the last committed state.
    ///
    /// # Errors
    ///
    /// If it could not be begun or failed; a query that fails leaves no trace.
    pub fn call(&mut self, object: &ObjectName, method: &str, arguments: &[u8]) -> Result<Queried, Refusal> {
        self.vitals.busy(self.thread);
        let result = self.execute(object, method, arguments);
        self.vitals.idle(self.thread);
        self.vitals.queries[self.thread].0.fetch_add(1, Ordering::Relaxed);
        result.map_err(Refusal::Failed)
    }

    fn execute(&mut self, object: &ObjectName, method: &str, arguments: &[u8]) -> Result<Queried, Failure> {
        let (head, plugins) = self.head_and_plugins();
        let mut snapshot = Snapshot { reader: &mut self.reader, head: head.tid };
        let given = (now_us(), split_mix(&mut self.seeds));
        let turn = Turn::new(&mut snapshot, &mut self.scratch, &plugins, &self.limits, given);
        let mut turn = Turn { read_only: true, ..turn };
        let target = turn.find(object)?;
        let result = turn.message(target, method, arguments);
        if let Some(failure) = turn.poison.take() {
            return Err(failure);
        }
        let buffers = match result {
            Ok(buffers) => buffers,
            Err(failure) if turn.command => return Ok(Queried::Command(failure)),
            Err(failure) => return Err(failure),
        };
        let outcome = Outcome::Done(buffers.result.as_slice().into());
        self.scratch.recycle(buffers);
        Ok(Queried::Done(Done { tid: None, outcome, head, pause_us: 0 }))
    }

    /// The last committed state, and the set that was put in force last before it or right after it, so that it can read all of it.
    fn head_and_plugins(&self) -> (Head, Guard<Arc<PluginSet>>) {
        let mut plugins = self.published.load();
        loop {
            // A set is shown before the head of the batch that it begins.
            let head = self.reader.identity().head();
            let after = self.published.load();
            if Arc::ptr_eq(&plugins, &after) {
                return (head, plugins);
            }
            plugins = after;
        }
    }

    /// Ends the thread after what it is doing.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }
}
