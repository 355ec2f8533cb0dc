//! Proving an identity whole: every record hash, every link of the chain, every pointer between versions, and the object table against
//! the history.
//!
//! It only reads, and may run beside a live host; but a damaged LMDB page can take a process down, so it belongs into a
//! process of its own.
//!
//! The history is walked once, with what it says so far in memory: of each object some 32 bytes. When the walk is at the very
//! transaction that the table has reached, the table's rows are compared. Beside a live host the table moves on, so that happens in
//! steps: a step compares some rows with a view of its own, and before the next one the history is walked to where the table is by then. So
//! each row is compared exactly, and no view is kept for long.

mod base;
mod compare;
mod requests;
mod seen;
mod state;
mod walk;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use theseus_value::ObjectId;

use self::{
    compare::{Against, Compared, expected_reached},
    requests::RequestsCompared,
    walk::{Ended, Walk},
};
use super::{
    Head, IdentityId, Place, RecordHash, StorageError, Tid,
    history::History,
    secondary,
    table::{Table, TableView},
};

/// One place where an identity is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

/// A reference, parent or name to an object that there never was. No host lets one be written, but it is what was recorded, so it is no
/// damage; one to an object that was deleted is nothing special.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dangling {
    /// What refers to it.
    pub from: String,
    /// The id that was never given.
    pub to: ObjectId,
}

/// What became of a head that somebody else kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptHead {
    /// It is part of this history.
    Part,
    /// The record that ends there is another one: this is not the history that had that head.
    Other {
        /// The hash of that record.
        hash: RecordHash,
    },
    /// No record ends there, so nobody was ever given such a head.
    NoEnd,
    /// This history ends before it: it was cut off, or is another one.
    Beyond,
    /// Everything up to this later transaction was packed away, so nobody can tell any more.
    Packed {
        /// The last transaction that was.
        before: Tid,
    },
}

impl KeptHead {
    /// Why it is not part of the history that ends with `head`; none if it is.
    pub fn problem(self, kept: Head, head: Head) -> Option<String> {
        let tid = kept.tid;
        match self {
            KeptHead::Part => None,
            KeptHead::Other { hash } => {
                Some(format!("the record that ends with transaction {tid} is {hash}: this history never had that head"))
            }
            KeptHead::NoEnd => Some(format!(
                "no record ends with transaction {tid}, so nobody was ever given such a head: was it copied right?"
            )),
            KeptHead::Beyond => Some(format!(
                "this history ends with transaction {}: it was cut off, or is not the one that had that head",
                head.tid
            )),
            KeptHead::Packed { before } => Some(format!(
                "everything up to transaction {before} was packed away, so this history cannot tell any more; a backup made before \
                 can"
            )),
        }
    }
}

/// What a verification found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// The identity's own id.
    pub identity: IdentityId,
    /// The last record.
    pub head: Head,
    /// Records walked.
    pub batches: u64,
    /// Transactions walked.
    pub transactions: u64,
    /// Bytes of history walked.
    pub bytes: u64,
    /// Rows of the object table compared.
    pub rows: u64,
    /// Whether there is no object table, so that nothing of it was compared. A host that starts makes it anew, so it is no damage.
    pub table_missing: bool,
    /// What is damaged: at most [`DAMAGE_MAX`] places. Empty if the identity is whole.
    pub damage: Vec<Damage>,
    /// How many references, parents and names stand for objects that there never were.
    pub dangling: u64,
    /// The first of them.
    pub dangling_listed: Vec<Dangling>,
    /// The transaction up to which an interrupted verification had come that was gone on with.
    pub resumed_at: Option<Tid>,
    /// What became of the head that was asked for.
    pub kept_head: Option<KeptHead>,
}

/// How a verification ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verification {
    /// It came to its end.
    Done(Box<Verified>),
    /// It was told to stop, having walked the history up to this transaction.
    Interrupted(Tid),
}

/// What became of going on where a verification was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resumption {
    /// It goes on after this transaction.
    At(Tid),
    /// It begins anew: there is no note.
    NoNote,
    /// It begins anew: the note is not what was written, or is of another identity or another version of this program.
    Unusable,
    /// It begins anew: what was noted is not the beginning of what there is now, because that was packed or put back since.
    Outdated,
}

/// How far a verification has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Transactions walked and rows compared.
    pub done: u64,
    /// How many there were when it began.
    pub total: u64,
    /// Bytes of history walked by this process.
    pub bytes: u64,
}

/// What is to be verified, and how.
pub struct Options<'a> {
    /// Where to note how far it has come: now and then, and when it is told to stop.
    pub state: Option<&'a Path>,
    /// To go on where that note says, if it is of this identity: is told what becomes of that.
    pub resume: Option<&'a mut (dyn FnMut(Resumption) + Send)>,
    /// A head that is to be part of this history.
    pub kept_head: Option<Head>,
    /// Is told how far it has come; answers whether to go on.
    pub progress: &'a mut (dyn FnMut(Progress) -> bool + Send),
}

/// How many damaged places are listed before the search ends.
pub(super) const DAMAGE_MAX: usize = 100;

/// How long rows are compared with one view of the table.
const VIEW: Duration = Duration::from_secs(1);

/// How long a verification takes before it notes how far it has come; and by how many times longer than the note takes.
const NOTE_AFTER: Duration = Duration::from_secs(60);
const NOTE_SHARE: u32 = 20;

/// Walks a whole identity. `progress` takes how many transactions and rows are done, and how many there are.
///
/// # Errors
///
/// If there is none or the storage fails; damage is not an error but part of the answer.
pub fn verify(place: &Place, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<Verified, StorageError> {
    let progress = &mut |now: Progress| {
        progress(now.done, now.total);
        true
    };
    match verify_with(place, Options { state: None, resume: None, kept_head: None, progress })? {
        Verification::Done(verified) => Ok(*verified),
        Verification::Interrupted(_) => unreachable!("nobody told it to stop"),
    }
}

/// The same, as it is asked for.
///
/// # Errors
///
/// If there is none or the storage fails; damage is not an error but part of the answer.
pub fn verify_with(place: &Place, mut options: Options<'_>) -> Result<Verification, StorageError> {
    loop {
        if let Some(verification) = attempt(place, &mut options)? {
            return Ok(verification);
        }
        // A host has packed away what was still to be walked: begin with the new base.
        if let Some(tell) = options.resume.take() {
            tell(Resumption::Outdated);
        }
    }
}

fn attempt(place: &Place, options: &mut Options<'_>) -> Result<Option<Verification>, StorageError> {
    let history = History::open(place, true)?;
    let (mut damage, mut table_missing) = (Vec::new(), false);
    let table = match Table::open(&place.objects, place.objects_bytes_max, false, true) {
        Ok(table) => Some(table),
        Err(StorageError::Missing { .. }) => {
            table_missing = true;
            None
        }
        Err(error) => {
            damage.push(table_damage(error)?);
            None
        }
    };
    let view = history.read()?;
    let (identity, head, packed) = (view.identity()?, view.head()?, view.packed());
    drop(view);
    let mut run = Run {
        history: history.clone(),
        identity,
        walk: Walk::default(),
        damage,
        rows: 0,
        total: head.tid.0 - packed.tid.0,
        overtaken: false,
        bytes_before: 0,
        note_at: Instant::now() + NOTE_AFTER,
        options,
    };
    let resumed_at = run.begin(table.as_ref())?;
    let mut compared = Compared::default();
    let went_on = match &table {
        Some(table) => run.table(table, &mut compared)? && run.walk_to_the_end()?,
        None => run.walk_to_the_end()?,
    };
    if run.overtaken {
        return Ok(None);
    }
    if !went_on && run.damage.len() + run.walk.damage.len() < DAMAGE_MAX {
        run.note()?;
        return Ok(Some(Verification::Interrupted(run.walk.head.tid)));
    }
    let kept_head = run.options.kept_head.map(|kept| judge(&history, kept)).transpose()?;
    let Run { walk, damage, rows, .. } = run;
    let mut all = walk.damage;
    all.extend(damage);
    all.truncate(DAMAGE_MAX);
    Ok(Some(Verification::Done(Box::new(Verified {
        identity,
        head: history.read()?.head()?,
        batches: walk.batches,
        transactions: walk.transactions,
        bytes: walk.bytes,
        rows: rows + compared.rows,
        table_missing,
        damage: all,
        dangling: compared.dangling,
        dangling_listed: compared.listed,
        resumed_at,
        kept_head,
    }))))
}

/// What becomes of a head that somebody kept.
fn judge(history: &History, kept: Head) -> Result<KeptHead, StorageError> {
    if kept == Head::default() {
        return Ok(KeptHead::Part);
    }
    let view = history.read()?;
    let found = view.hash_at(kept.tid);
    // After the look, because what it did not find may have been packed away meanwhile.
    let packed = history.packed_elsewhere()?.filter(|packed| kept.tid <= *packed);
    let found = match (found, packed) {
        (Err(StorageError::Packed { before }), _) | (Ok(None), Some(before)) => return Ok(KeptHead::Packed { before }),
        (found, _) => found?,
    };
    Ok(match found {
        Some(hash) if hash == kept.hash => KeptHead::Part,
        Some(hash) => KeptHead::Other { hash },
        None if kept.tid > view.head()?.tid => KeptHead::Beyond,
        None => KeptHead::NoEnd,
    })
}

/// Damage of the table is told, anything else ends the verification.
fn table_damage(error: StorageError) -> Result<Damage, StorageError> {
    match error {
        StorageError::Damaged { place, problem, .. } => Ok(Damage { place: format!("object table, {place}"), problem }),
        error => Err(error),
    }
}

/// How a step of the comparison ended.
enum Step {
    Done,
    Paused,
    Stopped,
}

/// After how many rows it is asked whether to go on.
const PAUSE_ROWS: u64 = 512;

/// A verification under way.
struct Run<'a, 'b> {
    history: History,
    identity: IdentityId,
    walk: Walk,
    /// What is wrong with the table.
    damage: Vec<Damage>,
    rows: u64,
    total: u64,
    /// What another process had walked.
    bytes_before: u64,
    note_at: Instant,
    /// Whether a host has packed away what was still to be walked.
    overtaken: bool,
    options: &'a mut Options<'b>,
}

impl Run<'_, '_> {
    /// Finds out where to begin.
    fn begin(&mut self, table: Option<&Table>) -> Result<Option<Tid>, StorageError> {
        let mut oldest = None;
        if let Some(table) = table {
            let view = table.read()?;
            self.total += view.rows()?;
            oldest = view.oldest_request()?;
        }
        if self.options.resume.is_some() {
            let noted = self.noted(oldest)?;
            if let Some(tell) = &mut self.options.resume {
                tell(noted.as_ref().map_or_else(|why| *why, |walk| Resumption::At(walk.head.tid)));
            }
            if let Ok(walk) = noted {
                self.bytes_before = walk.bytes;
                self.walk = walk;
                return Ok(Some(self.walk.head.tid));
            }
        }
        let base_rows = self.walk.begin(&self.history.read()?, oldest.unwrap_or_default())?;
        (self.rows, self.total) = (base_rows, self.total + base_rows);
        Ok(None)
    }

    /// What the note says, or why it cannot be gone on with. `oldest` is the oldest request that the table remembers.
    fn noted(&self, oldest: Option<Tid>) -> Result<Result<Walk, Resumption>, StorageError> {
        let Some(state) = self.options.state.filter(|state| state.exists()) else { return Ok(Err(Resumption::NoNote)) };
        let Some(walk) = state::load(state, self.identity) else { return Ok(Err(Resumption::Unusable)) };
        let is_current = self.history.read()?.hash_at(walk.head.tid).ok().flatten() == Some(walk.head.hash)
            && walk.base == self.history.base().map(|base| base.mark())
            && oldest.is_none_or(|oldest| oldest >= walk.requests.from);
        Ok(if is_current { Ok(walk) } else { Err(Resumption::Outdated) })
    }

    /// Walks the history up to a transaction, with views that are not kept for long; answers false if it was told to stop, or if there is too
    /// much damage.
    fn walk_to(&mut self, until: Tid) -> Result<bool, StorageError> {
        let Run { history, identity, walk, rows, total, bytes_before, note_at, overtaken, options, .. } = self;
        let Options { state, progress, .. } = &mut **options;
        let mut noted = Ok(());
        let mut go_on = |walk: &Walk| {
            if let Some(state) = state.filter(|_| Instant::now() >= *note_at) {
                let started = Instant::now();
                noted = state::save(state, *identity, walk);
                *note_at = Instant::now() + NOTE_AFTER.max(started.elapsed() * NOTE_SHARE);
            }
            let bytes = walk.bytes - *bytes_before;
            noted.is_ok() && progress(Progress { done: walk.transactions + *rows, total: *total, bytes })
        };
        let ended = loop {
            let view = history.read()?;
            // Looked at with the view open, in which nothing can vanish any more.
            *overtaken = history.packed_elsewhere()?.is_some_and(|packed| packed > walk.head.tid);
            if *overtaken {
                return Ok(false);
            }
            match walk.walk(&view, until, &mut go_on)? {
                Ended::ViewUsed => history.let_go_of_pages(),
                ended => break ended,
            }
        };
        noted.map(|()| ended == Ended::Reached)
    }

    fn walk_to_the_end(&mut self) -> Result<bool, StorageError> {
        let until = self.history.read()?.head()?.tid;
        self.walk_to(until)
    }

    /// Compares the table; answers false if it was told to stop, or if there is too much damage.
    fn table(&mut self, table: &Table, compared: &mut Compared) -> Result<bool, StorageError> {
        let mut requests = RequestsCompared::default();
        // Most of the way without a view of the table.
        match table.read()?.reached() {
            Ok(reached) if !self.walk_to(reached.tid)? => return Ok(false),
            _ => {}
        }
        loop {
            let (view, other) = (table.read()?, table.read()?);
            let reached = match (view.reached(), other.reached()) {
                (Ok(one), Ok(other)) if one.tid == other.tid => one.tid,
                (Ok(_), Ok(_)) => continue,
                (Err(error), _) | (_, Err(error)) => {
                    self.damage.push(table_damage(error)?);
                    return Ok(true);
                }
            };
            if !self.walk_to(reached)? {
                return Ok(false);
            }
            if self.walk.head.tid != reached {
                self.misplaced(reached);
                return Ok(true);
            }
            match self.compare(&view, other, compared, &mut requests)? {
                Step::Done => {
                    self.rows += requests.rows;
                    return self.conclude(&view, compared);
                }
                Step::Paused => {}
                Step::Stopped => return Ok(false),
            }
        }
    }

    /// The table is as of a transaction at which the history cannot be compared with it.
    fn misplaced(&mut self, reached: Tid) {
        let head = self.walk.head.tid;
        let (place, problem) = if head < reached {
            ("history", format!("it ends with transaction {head}, the objects are as of {reached}"))
        } else if self.walk.damage.is_empty() {
            ("object table", format!("it is as of transaction {reached}, with which no record of the history ends"))
        } else {
            return;
        };
        self.damage.push(Damage { place: place.to_owned(), problem });
    }

    /// Compares rows for a while, objects and names on this thread, request ids on another.
    fn compare(
        &mut self,
        view: &TableView,
        other: TableView,
        compared: &mut Compared,
        requests: &mut RequestsCompared,
    ) -> Result<Step, StorageError> {
        let until = Instant::now() + VIEW;
        let (stop, request_rows) = (AtomicBool::new(false), AtomicU64::new(requests.rows));
        let (walk, progress) = (&self.walk, &mut self.options.progress);
        let (done_before, total, bytes) =
            (walk.transactions + compared.rows, self.total, walk.bytes - self.bytes_before);
        let (mut rows, mut found, mut found_of_requests) = (0, Vec::new(), Vec::new());
        let their_rows = requests.rows;
        let (compared, requests) = thread::scope(|scope| {
            let others = thread::Builder::new().name("theseus-verify".into());
            let others = others.spawn_scoped(scope, || {
                let other = other;
                let mut looked_at = 0;
                let mut pause = || {
                    looked_at += 1;
                    request_rows.store(their_rows + looked_at, Ordering::Relaxed);
                    looked_at % PAUSE_ROWS == 0 && (stop.load(Ordering::Relaxed) || Instant::now() >= until)
                };
                walk.requests.compare(&other, walk.broken, requests, &mut pause, &mut into(&mut found_of_requests))
            });
            let others = others.expect("threads can be started");
            let mut pause = || {
                rows += 1;
                if rows % PAUSE_ROWS != 0 {
                    return false;
                }
                let done = done_before + rows + request_rows.load(Ordering::Relaxed);
                if !progress(Progress { done, total, bytes }) {
                    stop.store(true, Ordering::Relaxed);
                }
                stop.load(Ordering::Relaxed) || Instant::now() >= until
            };
            let against = Against { graph: &walk.graph, broken: walk.broken };
            let compared = compared.compare(&against, view, &mut pause, &mut into(&mut found));
            (compared, others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        self.damage.append(&mut found);
        self.damage.append(&mut found_of_requests);
        let mut all = true;
        for part in [compared, requests] {
            match part {
                Ok(done) => all &= done,
                Err(error) => self.damage.push(table_damage(error)?),
            }
        }
        Ok(if stop.into_inner() {
            Step::Stopped
        } else if all || self.damage.len() >= DAMAGE_MAX {
            Step::Done
        } else {
            Step::Paused
        })
    }

    /// Compares what can be compared only when all rows were. `view` is as of the last transaction walked.
    fn conclude(&mut self, view: &TableView, compared: &mut Compared) -> Result<bool, StorageError> {
        let walk = &self.walk;
        let against = Against { graph: &walk.graph, broken: walk.broken };
        let mut concluded = || {
            let mut tell = into(&mut self.damage);
            compared.missing_names(&against, &self.history, view, &mut tell)?;
            let expected = expected_reached(&walk.graph, walk.head.tid);
            if !walk.broken && view.reached()? != expected {
                let place = "the note of how far the object table has come".to_owned();
                tell(place, format!("the history asks for {expected:?}"));
            }
            secondary::verify(view, &mut tell)
        };
        match concluded() {
            Ok(rows) => self.rows += rows,
            Err(error) => self.damage.push(table_damage(error)?),
        }
        Ok(true)
    }

    /// Notes how far it has come, so that it can be gone on with.
    fn note(&self) -> Result<(), StorageError> {
        self.options.state.map_or(Ok(()), |state| state::save(state, self.identity, &self.walk))
    }
}

/// Lists what is damaged, as far as there is room; answers whether there still is.
fn into(list: &mut Vec<Damage>) -> impl FnMut(String, String) -> bool {
    |place, problem| {
        list.push(Damage { place, problem });
        list.len() < DAMAGE_MAX
    }
}
