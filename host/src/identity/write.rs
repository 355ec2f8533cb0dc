//! Adding transactions: the executor's [`Writer`] numbers them and makes them visible to itself, the [`Committer`] makes them
//! durable and visible to all.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use theseus_value::ObjectId;

use super::{
    Base, BatchHeader, Census, HOST_OBJECT, Head, Identity, Incarnation, ObjectRecord, Reader, Remembered, Resume,
    StorageError, Tid, Version,
    batch::{BatchBuilder, Draft, Versions},
    fingerprint,
};

/// Transactions on their way to the committer.
pub struct ClosedBatch {
    first: Tid,
    last: Tid,
    transactions: BatchBuilder,
    /// The base that comes into force with it.
    base: Option<Arc<Base>>,
    /// Which attempt this is: raised when an earlier batch failed and its transactions were forgotten.
    pub epoch: u64,
}

impl ClosedBatch {
    /// Its last transaction.
    pub fn last(&self) -> Tid {
        self.last
    }

    /// How many transactions it has.
    pub fn len(&self) -> usize {
        self.transactions.len()
    }

    /// Whether it has none: it then stands for a wait until all before it is durable.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
}

/// What the writer knew at the end of a batch: enough to go back there.
#[derive(Clone)]
struct Mark {
    tid: Tid,
    next_object: u64,
    census: Census,
    recorded: Amount,
}

/// A stretch of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// How many transactions.
    pub transactions: u64,
    /// How many versions of objects they made.
    pub writes: u64,
    /// How many bytes they take.
    pub bytes: u64,
}

/// Which request ids are remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestMemory {
    /// How many, at most; of more, the oldest are forgotten.
    pub count_max: u64,
    /// Those of transactions since then, in microseconds since the Unix epoch; older ones are forgotten.
    pub since_us: u64,
}

/// What a checkpoint has to bring the object table to.
pub struct CheckpointPlan {
    pub(super) until: Tid,
    pub(super) next_object: u64,
    pub(super) census: Census,
    /// Which request ids to remember.
    pub memory: RequestMemory,
    /// What to leave in the overlay although the table has it.
    pub keep: Keep,
}

/// How much stays in memory of what the object table has already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// How many objects, and how many names.
    pub objects: usize,
    /// How much memory the objects may take, in bytes.
    pub bytes: usize,
}

/// The executor's way to add transactions. There is one at a time.
pub struct Writer {
    reader: Reader,
    next_tid: Tid,
    batch_first: Tid,
    next_object: u64,
    census: Census,
    open: BatchBuilder,
    /// The base that comes into force with the open batch.
    base: Option<Arc<Base>>,
    /// Ends of the batches that are not durable yet, after the end of the last that is.
    marks: VecDeque<Mark>,
    /// While a checkpoint is under way, what it works on must not leave the overlay.
    checkpoint: Option<Mark>,
    /// What was recorded since the start, what was replayed then included, and how much of that the object table has reached.
    recorded: Amount,
    reached: Amount,
    epoch: u64,
    versions: Versions,
    /// What those change in the census. Kept for its memory, as they are.
    recounts: Vec<Recount>,
}

impl Writer {
    /// A writer that goes on where the identity was when it was opened.
    pub fn new(identity: Arc<Identity>, resume: &Resume) -> Writer {
        let tid = identity.head().tid;
        let recorded = resume.replayed;
        let mark = Mark { tid, next_object: resume.next_object, census: resume.census.clone(), recorded };
        Writer {
            reader: Reader::new(identity),
            next_tid: tid.next(),
            batch_first: tid.next(),
            next_object: mark.next_object,
            census: mark.census.clone(),
            open: BatchBuilder::default(),
            base: None,
            marks: [mark].into(),
            checkpoint: None,
            recorded,
            reached: Amount::default(),
            epoch: 0,
            versions: Versions::default(),
            recounts: Vec::new(),
        }
    }

    /// Reads what the writer sees: all that was recorded, durable or not.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// The identity that it writes.
    pub fn identity(&self) -> &Arc<Identity> {
        self.reader.identity()
    }

    /// The transaction that is recorded next.
    pub fn next_tid(&self) -> Tid {
        self.next_tid
    }

    /// The id that the next new object gets.
    pub fn next_object(&self) -> u64 {
        self.next_object
    }

    /// Whether a base comes into force with the open batch.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The objects, counted, as of the last transaction recorded.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// Which attempt the open batch belongs to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many transactions and bytes the open batch has.
    pub fn open_batch(&self) -> (usize, usize) {
        (self.open.len(), self.open.bytes())
    }

    /// Adds a transaction to the open batch and makes it visible to this writer's reader.
    ///
    /// # Errors
    ///
    /// If the version before one of the writes cannot be read; then nothing was recorded.
    pub fn record(&mut self, draft: &Draft<'_>) -> Result<Tid, StorageError> {
        let tid = self.next_tid;
        self.versions.objects.clear();
        self.versions.names.clear();
        self.recounts.clear();
        for (object, record) in draft.writes {
            let (version, recount) = self.reader.look_at_newest(*object, |before| {
                let version = Version::after(before, tid, record.clone());
                let recount = Recount::between(*object, before, &version);
                (version, recount)
            })?;
            self.versions.objects.push((*object, version));
            self.recounts.extend(recount);
        }
        for (name, object) in draft.names {
            let before = self.reader.newest_name(name)?;
            self.versions.names.push((name.clone(), Version::after(before.as_ref(), tid, *object)));
        }
        // Only now, because reading may have failed half-way.
        self.recounts.drain(..).for_each(|recount| recount.apply(&mut self.census));
        self.open.push(draft, &self.versions);
        self.recorded.writes += draft.writes.len() as u64;
        self.show(tid, draft);
        self.next_tid = tid.next();
        Ok(tid)
    }

    /// Puts what a transaction made into the overlay.
    fn show(&mut self, tid: Tid, draft: &Draft<'_>) {
        self.see_checkpoint_end();
        let identity = self.reader.identity();
        let durable = identity.head().tid;
        let keep_from = self.checkpoint.as_ref().map_or(durable, |until| until.tid.min(durable));
        for (object, version) in self.versions.objects.drain(..) {
            self.next_object = self.next_object.max(object.0 + 1);
            identity.objects.put(object, tid, version, self.batch_first, keep_from);
        }
        for (name, version) in self.versions.names.drain(..) {
            identity.names.put(name, tid, version, self.batch_first, keep_from);
        }
        if let Some(id) = draft.request_id {
            let fingerprint = fingerprint(draft.method, draft.arguments);
            let outcome = Some(draft.outcome.clone());
            let (target, time_us) = (draft.target, draft.time_us);
            let remembered = Remembered { tid, target, fingerprint, time_us, outcome };
            identity.requests.put(Arc::from(id), tid, remembered, self.batch_first, keep_from);
        }
    }

    /// Takes note if the checkpoint that was under way has ended.
    fn see_checkpoint_end(&mut self) {
        let identity = self.reader.identity();
        if self.checkpoint.is_some()
            && !identity.checkpointing.load(Ordering::Acquire)
            && let Some(until) = self.checkpoint.take()
            && identity.reached() >= until.tid
        {
            self.reached = until.recorded;
        }
    }

    /// Puts a base in force when the open batch becomes durable, which has to have a transaction that says so.
    pub fn put_in_force(&mut self, base: Arc<Base>) {
        self.base = Some(base);
    }

    /// Ends the open batch; it may be empty. The next transaction opens another.
    pub fn close_batch(&mut self) -> ClosedBatch {
        let batch = ClosedBatch {
            first: self.batch_first,
            last: Tid(self.next_tid.0 - 1),
            transactions: std::mem::take(&mut self.open),
            base: self.base.take(),
            epoch: self.epoch,
        };
        if !batch.is_empty() {
            self.recorded.transactions += batch.len() as u64;
            self.recorded.bytes += batch.transactions.bytes() as u64;
            let (next_object, census, recorded) = (self.next_object, self.census.clone(), self.recorded);
            let mark = Mark { tid: batch.last, next_object, census, recorded };
            self.marks.push_back(mark);
        }
        self.batch_first = self.next_tid;
        batch
    }

    /// Forgets every transaction that is not durable, because the storage refused a batch.
    pub fn roll_back(&mut self) {
        let durable = self.drop_passed_marks();
        let identity = self.reader.identity();
        identity.objects.roll_back(durable);
        identity.names.roll_back(durable);
        identity.requests.roll_back(durable);
        self.marks.truncate(1);
        let mark = &self.marks[0];
        (self.next_object, self.census) = (mark.next_object, mark.census.clone());
        self.recorded = mark.recorded;
        self.next_tid = durable.next();
        self.batch_first = self.next_tid;
        (self.open, self.base) = (BatchBuilder::default(), None);
        self.epoch += 1;
    }

    /// How many bytes were recorded since the start, the open batch and what was replayed then included.
    pub fn recorded_bytes(&self) -> u64 {
        self.recorded.bytes + self.open.bytes() as u64
    }

    /// How many of them are not durable.
    pub fn unwritten_bytes(&mut self) -> u64 {
        self.drop_passed_marks();
        self.recorded_bytes() - self.marks[0].recorded.bytes
    }

    /// How many durable transactions the object table has not seen.
    pub fn lag(&self) -> u64 {
        let identity = self.reader.identity();
        identity.head().tid.0 - identity.reached().0
    }

    /// Whether the object table has seen all that is durable, and no checkpoint is under way.
    pub fn is_caught_up(&mut self) -> bool {
        self.see_checkpoint_end();
        self.checkpoint.is_none() && self.lag() == 0
    }

    /// What the object table has not seen, but for the open batch.
    pub fn behind(&mut self) -> Amount {
        self.see_checkpoint_end();
        Amount {
            transactions: self.recorded.transactions - self.reached.transactions,
            writes: self.recorded.writes - self.reached.writes,
            bytes: self.recorded.bytes - self.reached.bytes,
        }
    }

    /// What a checkpoint now has to do; none if one is under way or there is nothing to do.
    ///
    /// Whoever takes the plan has to carry it out with [`Identity::checkpoint`].
    pub fn plan_checkpoint(&mut self, memory: RequestMemory, keep: Keep) -> Option<CheckpointPlan> {
        let durable = self.drop_passed_marks();
        let identity = self.reader.identity();
        if durable <= identity.reached() || identity.checkpointing.swap(true, Ordering::AcqRel) {
            return None;
        }
        let mark = self.marks[0].clone();
        self.checkpoint = Some(mark.clone());
        let Mark { tid: until, next_object, census, .. } = mark;
        Some(CheckpointPlan { until, next_object, census, memory, keep })
    }

    /// Drops the marks before the one of the last durable batch, which stays first; answers its transaction.
    fn drop_passed_marks(&mut self) -> Tid {
        let durable = self.reader.identity().head().tid;
        while self.marks.get(1).is_some_and(|mark| mark.tid <= durable) {
            self.marks.pop_front();
        }
        assert_eq!(self.marks[0].tid, durable, "every durable batch was closed by this writer");
        durable
    }
}

/// What a new version of an object changes in the census: what is counted out, and what in.
pub(super) struct Recount {
    before: Option<(Arc<str>, u32)>,
    after: Option<(Arc<str>, u32)>,
}

impl Recount {
    /// None if it changes nothing. The host's own object does not count.
    pub(super) fn between(object: ObjectId, before: Option<&Version>, after: &Version) -> Option<Recount> {
        let kind = |record: &ObjectRecord| (record.behavior.clone(), record.schema);
        let (before, after) = (before.and_then(|version| version.record.as_deref()), after.record.as_deref());
        let same = match (before, after) {
            (Some(before), Some(after)) => (&before.behavior, before.schema) == (&after.behavior, after.schema),
            (before, after) => before.is_none() && after.is_none(),
        };
        (object != HOST_OBJECT && !same).then(|| Recount { before: before.map(kind), after: after.map(kind) })
    }

    /// Carries it out.
    pub(super) fn apply(self, census: &mut Census) {
        if let Some(before) = self.before
            && let Some(objects) = census.get_mut(&before)
        {
            *objects -= 1;
            if *objects == 0 {
                census.remove(&before);
            }
        }
        if let Some(after) = self.after {
            *census.entry(after).or_default() += 1;
        }
    }
}

/// Counts a new version of an object in, and the one before it out.
pub(super) fn count(census: &mut Census, object: ObjectId, before: Option<&Version>, after: &Version) {
    if let Some(recount) = Recount::between(object, before, after) {
        recount.apply(census);
    }
}

/// Makes batches durable, one after another. There is one at a time.
pub struct Committer {
    identity: Arc<Identity>,
    incarnation: Incarnation,
    /// Since when, or from when on, records that were packed away may be removed; none if there are none.
    trim_due: Option<Instant>,
}

/// The most that one step removes of what was packed away: batches, and their bytes.
const TRIM_BATCHES: usize = 256;
const TRIM_BYTES: usize = 16 << 20;

impl Committer {
    /// A committer that continues the history as `incarnation`.
    pub fn new(identity: Arc<Identity>, incarnation: Incarnation) -> Committer {
        let trim_due = (identity.packed() != Head::default()).then(Instant::now);
        Committer { identity, incarnation, trim_due }
    }

    /// Appends a batch to the history. When it returns, the batch is durable; readers see it after
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    ///
    /// If the storage fails. The history is then as it was.
    pub fn append(
        &mut self,
        batch: ClosedBatch,
        generations: &Arc<[(String, [u8; 32])]>,
        time_us: u64,
    ) -> Result<Head, StorageError> {
        let head = self.identity.head();
        if batch.is_empty() {
            return Ok(head);
        }
        assert_eq!(batch.first, head.tid.next(), "batches come in order and none is left out");
        let header = BatchHeader {
            first: batch.first,
            last: batch.last,
            time_us,
            incarnation: self.incarnation,
            generations: generations.clone(),
            previous: head.hash,
        };
        let head = self.identity.history.append(&header, &batch.transactions, batch.base.as_ref())?;
        if batch.base.is_some() {
            self.trim_due = Some(Instant::now());
        }
        Ok(head)
    }

    /// Has the last records lie in the database too, which are durable already: for the end of a host.
    ///
    /// # Errors
    ///
    /// If the storage fails. The next start finds them where they are.
    pub fn settle(&mut self) -> Result<(), StorageError> {
        self.identity.history.settle()
    }

    /// Since when, or from when on, there is something to [`trim`](Self::trim); none if there is not.
    pub fn trim_due(&self) -> Option<Instant> {
        self.trim_due
    }

    /// Puts it off.
    pub fn trim_after(&mut self, time: Duration) {
        self.trim_due = Some(Instant::now() + time);
    }

    /// Removes a bounded part of the records that were packed away.
    ///
    /// # Errors
    ///
    /// If the storage fails; then nothing was removed, and it can be tried again.
    pub fn trim(&mut self) -> Result<(), StorageError> {
        let more = self.identity.history.trim(TRIM_BATCHES, TRIM_BYTES)?;
        self.trim_due = more.then(Instant::now);
        Ok(())
    }

    /// Shows readers what was made durable.
    pub fn publish(&mut self, head: Head) {
        if head != self.identity.head() {
            self.identity.head.store(Arc::new(head));
        }
    }
}
