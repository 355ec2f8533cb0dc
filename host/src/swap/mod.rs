//! Swapping plugins inside the live process.
//!
//! A plugin file is *staged* and *inspected* (nothing of it has run), *planned* against what is in force, *probed* in a child
//! process, kept in the store and *loaded* (in the host, not yet visible), then *committed* by the executor between two transactions, all plugins of the set at once.
//! The generations it replaced are *retired*: drained, told to let go of what they hold, unloaded. Whatever refuses before
//! the commit leaves the live system untouched.

mod confined;
mod crash;
mod dependencies;
mod memory;
mod migration;
mod plan;
mod probation;
mod probe;
pub mod rehearsal;
mod retire;
mod rollback;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Instant,
};

use theseus_value::Value;

pub use self::{
    confined::{COMMAND as CONFINED_COMMAND, work as work_confined},
    crash::{Crashed, can_do_without, crashed, substitutes},
    dependencies::sort_providers_first,
    memory::{Memory, OnProbation, Quarantined, remember},
    migration::{FailedObject, Migrator, Progress},
    plan::{Change, MigratedBy, Migration, Plan, Problem, plan},
    probation::Probation,
    probe::{Known, ProbeFailure, Probed, Tried},
    rehearsal::{Rehearsal, RehearsalError, Report as Rehearsed},
    retire::{Full, Gone, Report, RetiredView, Retirement, Whereabouts},
    rollback::{Back, Cause, RollbackError, TakenBack},
};
use crate::{
    config,
    exec::{Admit, Command, Doing, Done, Engine, PluginSet, Refusal, Remember},
    identity::{Census, StorageError},
    plugin::{self, FetchError, Generation, Inspection, KeepError, LoadError, Policy, StageError, Staged, Store},
};

/// Under which a swap stands in the history.
const SWAP: &str = "theseus.swap";

/// A file that was staged and found to be a plugin, but not loaded.
struct Candidate {
    /// Where it was read from.
    path: PathBuf,
    /// What was found in it.
    inspection: Inspection,
    staged: Staged,
}

/// Why nothing was swapped.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// A file could not be read as a plugin file.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// A file is not an acceptable plugin. None of its code has run.
    #[error("{}: {refusal}", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why.
        refusal: plugin::Refusal,
    },
    /// The settings do not allow it. None of its code has run.
    #[error("{}: {denial}", path.display())]
    Denied {
        /// The file.
        path: PathBuf,
        /// Why.
        denial: plugin::Denial,
    },
    /// The plugins do not fit what is in force.
    #[error("{}", list(problems))]
    Plan {
        /// Why.
        problems: Vec<Problem>,
    },
    /// It could not be undone, and that was not asked for.
    #[error(
        "the swap could not be undone: {} cannot turn the objects back that it migrates; say --irreversible if that is meant",
        plugins.join(", ")
    )]
    Irreversible {
        /// The plugins that do not write the schema that they read.
        plugins: Vec<String>,
    },
    /// The present plugin could not migrate everything that it has to before it can be replaced.
    #[error(
        "objects that only the present plugin can read have to migrate before it is replaced, and {}; mend or delete them, or \
         offer a plugin that reads their schema",
        list_failed(left)
    )]
    Unfinished {
        /// What is left.
        left: Vec<Progress>,
    },
    /// The migration that has to come before the swap was interrupted.
    #[error("the objects that have to migrate before the swap have not: {problem}")]
    MigrationInterrupted {
        /// Why.
        problem: String,
        /// Whether it may work in a moment.
        passes: bool,
    },
    /// What the host remembers cannot be read.
    #[error(transparent)]
    Memory(#[from] StorageError),
    /// There are too many plugins in memory that cannot be unloaded.
    #[error(transparent)]
    Full(#[from] Full),
    /// The file could not be kept for the next start.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The plugin that would turn objects back could not be loaded again at the next start.
    #[error("`{plugin}` has to stay loaded to turn its objects back, and the next start could not load it: {source}")]
    Fallback {
        /// The plugin.
        plugin: String,
        /// What is wrong with its file.
        source: FetchError,
    },
    /// The library could not be loaded.
    #[error("{}: {source}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<LoadError>,
    },
    /// It was tried in a process of its own, and is no good.
    #[error("{}: {failure}", path.display())]
    Probe {
        /// The file.
        path: PathBuf,
        /// Why.
        failure: Box<ProbeFailure>,
    },
    /// It could not be rehearsed.
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    /// It failed where it did not fail before.
    #[error("{}; `theseus rehearse` tells all of it", report.errors())]
    Rehearsed {
        /// What was found.
        report: Box<Rehearsed>,
    },
    /// The executor did not carry it out.
    #[error(transparent)]
    Execute(#[from] Refusal),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

/// The objects that could not migrate, in words.
fn list_failed(left: &[Progress]) -> String {
    let of_one = |progress: &Progress| {
        let Progress { behind, failed, failures, .. } = progress;
        let shown = failures.iter().take(3).map(|it| format!("object {}: {}", it.object, it.failure));
        let shown: Vec<_> = shown.collect();
        format!("{failed} of {} failed ({})", behind.behavior, shown.join("; "))
    };
    left.iter().filter(|it| it.failed > 0).map(of_one).collect::<Vec<_>>().join(", ")
}

/// What a swap may do beyond the ordinary, and what it shall do before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SwapOptions {
    /// Rehearse so many recorded transactions before, and refuse if the candidate fails where the record did not.
    pub rehearse: Option<u64>,
    /// Go on although the replaced plugins could not take the migrated objects back.
    pub irreversible: bool,
    /// Answer only when all objects have migrated.
    pub eager: bool,
    /// Take a file although it was rolled back before.
    pub quarantined: bool,
}

/// What a swap did.
#[derive(Debug)]
pub struct Swapped {
    /// What it changed; empty if everything was in force already.
    pub plan: Plan,
    /// The transaction and the pause; none if nothing was to be changed.
    pub done: Option<Done>,
    /// What was found when it was rehearsed, if that was asked for.
    pub rehearsal: Option<Rehearsed>,
    /// How each changed plugin was tried.
    pub probed: Vec<Probed>,
    /// What an eager swap could not migrate, and whether it came to the end: in words why not.
    pub left: Result<Vec<Progress>, String>,
    /// Microseconds spent in each stage.
    pub stages_us: BTreeMap<String, u64>,
}

/// Stages and inspects plugin files. Nothing of them runs.
///
/// # Errors
///
/// If one of them is not acceptable.
fn examine(paths: &[PathBuf], policy: Policy<'_>) -> Result<Vec<Candidate>, SwapError> {
    paths.iter().map(|path| examine_one(path, policy)).collect()
}

fn examine_one(path: &Path, policy: Policy<'_>) -> Result<Candidate, SwapError> {
    let (staged, source) = plugin::stage_from_source(path, policy.settings.file_bytes_max)?;
    let inspection = plugin::inspect_staged(&staged);
    let inspection = inspection.map_err(|refusal| SwapError::Inspect { path: path.to_owned(), refusal })?;
    let permitted = policy.provenance(&source, staged.bytes()).and_then(|source| policy.permit(&source, &inspection));
    permitted.map_err(|denial| SwapError::Denied { path: path.to_owned(), denial })?;
    Ok(Candidate { path: path.to_owned(), inspection, staged })
}

/// What swaps work with.
pub struct Swapper {
    /// Where plugins are in force.
    pub engine: Arc<Engine>,
    /// Where their files are kept.
    pub store: Store,
    /// What ends replaced generations.
    pub retirement: Arc<Retirement>,
    /// What migrates objects in the background.
    pub migrator: Migrator,
    /// What is known of plugins on probation.
    pub probation: Probation,
    /// The files that were in force before.
    pub known: Known,
    /// The settings for plugins.
    pub settings: config::Plugins,
    /// The limits of transactions.
    pub execution: config::Execution,
    /// The folder with the keys whose signatures are trusted.
    pub keys: PathBuf,
}

impl Swapper {
    fn policy(&self) -> Policy<'_> {
        Policy { settings: &self.settings, keys: &self.keys }
    }

    /// What a swap of these files would change, as of now. Changes nothing.
    ///
    /// # Errors
    ///
    /// If a file is not acceptable, or if the executor does not answer.
    pub fn foresee(&self, paths: &[PathBuf]) -> Result<Plan, SwapError> {
        let candidates = examine(paths, self.policy())?;
        let mut plan = self.plan(&candidates, &[])?;
        plan.problems.extend(self.quarantined(&plan)?);
        Ok(plan)
    }

    /// Whether the plugins that a plan replaces may stay in memory, if it comes to that.
    ///
    /// # Errors
    ///
    /// If there are too many already.
    pub fn room(&self, plan: &Plan) -> Result<(), Full> {
        if plan.changes.iter().all(|change| change.from.is_none()) {
            return Ok(());
        }
        self.retirement.room(self.settings.pinned_max)
    }

    fn plan(&self, candidates: &[Candidate], removed: &[Arc<str>]) -> Result<Plan, Refusal> {
        let (offers, removed) = (inspections(candidates), removed.to_vec());
        look(&self.engine, move |plugins, census| plan::plan_with_removal(plugins, census, &offers, &removed))
    }

    /// Puts plugin files in force, all of them or none, and retires what they replace.
    ///
    /// # Errors
    ///
    /// If a file is not acceptable, does not fit, or cannot be loaded, or if the storage refuses. Nothing has changed then.
    pub fn swap(&self, paths: &[PathBuf], options: &SwapOptions) -> Result<Swapped, SwapError> {
        let mut stages = Stages::begin();
        let mut candidates = examine(paths, self.policy())?;
        stages.end("inspect");
        let mut foreseen = self.plan(&candidates, &[])?;
        if !options.quarantined {
            foreseen.problems.extend(self.quarantined(&foreseen)?);
        }
        if !foreseen.problems.is_empty() {
            return Err(SwapError::Plan { problems: foreseen.problems });
        }
        let one_way = foreseen.changes.iter().filter(|change| !change.reversible);
        let one_way: Vec<String> = one_way.map(|change| change.name.clone()).collect();
        if !one_way.is_empty() && !options.irreversible {
            return Err(SwapError::Irreversible { plugins: one_way });
        }
        self.room(&foreseen)?;
        stages.end("plan");
        sort_providers_first(&mut candidates, |candidate| &candidate.inspection);
        candidates.retain(|candidate| foreseen.changes.iter().any(|change| change.to == candidate.inspection.digest));
        if candidates.is_empty() {
            return Ok(Swapped {
                plan: foreseen,
                done: None,
                rehearsal: None,
                probed: Vec::new(),
                left: self.finish_if(options.eager),
                stages_us: stages.us,
            });
        }
        let probed = probe::probe(self, &candidates, &foreseen)?;
        stages.end("probe");
        let rehearsal = options.rehearse.map(|last| self.rehearse_before(&candidates, &foreseen, last)).transpose()?;
        if rehearsal.is_some() {
            stages.end("rehearse");
        }
        for candidate in &candidates {
            self.store.keep(&candidate.staged)?;
        }
        self.keeps_fallbacks(&foreseen)?;
        stages.end("keep");
        if foreseen.changes.iter().any(Change::waits_for_migration) {
            self.finish_present(&foreseen)?;
            stages.end("finish_migration");
        }
        let offers = inspections(&candidates);
        let generations = load(candidates, &self.retirement)?;
        stages.end("load");
        let (note, remember) = (note(&foreseen), self.begin_probation(&foreseen, &generations));
        let (removed, irreversible) = (Vec::new(), options.irreversible);
        let done = self.commit(Installing { what: SWAP, offers, generations, removed, irreversible, note, remember });
        self.end_counting(&foreseen, done.is_ok());
        let done = done?;
        stages.end("commit");
        let left = self.finish_if(options.eager);
        if options.eager {
            stages.end("migrate");
        }
        Ok(Swapped { plan: foreseen, done: Some(done), rehearsal, probed, left, stages_us: stages.us })
    }

    /// Whether the files of the plugins that would stay as fallbacks are there for the next start.
    fn keeps_fallbacks(&self, plan: &Plan) -> Result<(), SwapError> {
        for change in plan.changes.iter().filter(|change| change.keeps_fallback()) {
            let Some(digest) = change.from else { continue };
            let fetched = self.store.fetch(digest);
            fetched.map_err(|source| SwapError::Fallback { plugin: change.name.clone(), source })?;
        }
        Ok(())
    }

    /// Has the present plugins migrate what those offered could not read.
    fn finish_present(&self, plan: &Plan) -> Result<(), SwapError> {
        let left = self
            .migrator
            .finish()
            .map_err(|it| SwapError::MigrationInterrupted { problem: it.problem, passes: it.passes })?;
        let behaviors = plan.changes.iter().flat_map(|change| &change.migrations);
        let waiting: Vec<_> = behaviors.filter(|it| it.by == MigratedBy::PresentFirst).collect();
        let is_waited_for = |it: &Progress| {
            waiting.iter().any(|wait| *wait.behavior == *it.behind.behavior && wait.from == it.behind.from)
        };
        let left: Vec<Progress> = left.into_iter().filter(is_waited_for).collect();
        if left.is_empty() { Ok(()) } else { Err(SwapError::Unfinished { left }) }
    }

    /// Puts generations in force and retires what leaves the set; those that need not migrate objects any more included.
    fn commit(&self, installing: Installing) -> Result<Done, SwapError> {
        let Installing { what, offers, generations, removed, irreversible, note, remember } = installing;
        let (sender, receiver) = mpsc::channel();
        let (next, gone) = (generations.clone(), removed.clone());
        let admit: Admit = Box::new(move |plugins, census| {
            let now = plan::plan_with_removal(plugins, census, &offers, &gone);
            if !now.problems.is_empty() {
                return Err(list(&now.problems));
            }
            if now.changes.iter().any(Change::waits_for_migration) {
                return Err("objects have come up that the present plugin has to migrate first: try again".to_owned());
            }
            if !irreversible && now.changes.iter().any(|change| !change.reversible) {
                return Err("objects have come up that could not be turned back: say --irreversible if that is meant"
                    .to_owned());
            }
            let fallbacks = plan::fallbacks(&plugins.without(&gone), census, &next);
            let replaced = next.iter().filter_map(|generation| plugins.plugin(generation.name()));
            let removed = gone.iter().filter_map(|name| plugins.plugin(name));
            let leaving = replaced.chain(removed).chain(plugins.fallbacks());
            let stays = |it: &&Arc<Generation>| fallbacks.iter().any(|fallback| Arc::ptr_eq(fallback, it));
            _ = sender.send(leaving.filter(|it| !stays(it)).cloned().collect::<Vec<_>>());
            Ok(fallbacks)
        });
        let (generations, loaded) = (generations.clone(), generations);
        let doing = Doing::Install { what, generations, removed, admit, note, remember: Some(remember) };
        match ask(&self.engine, doing) {
            Ok(done) => {
                self.known.add(loaded.iter().map(|generation| generation.digest()));
                self.retirement.retire(receiver.recv().unwrap_or_default());
                self.migrator.wake();
                Ok(done)
            }
            Err(refusal) => {
                self.retirement.retire(loaded);
                Err(refusal.into())
            }
        }
    }

    /// The files of a plan that are in quarantine.
    fn quarantined(&self, plan: &Plan) -> Result<Vec<Problem>, SwapError> {
        let memory = Memory::read(self.engine.identity())?;
        let problem = |change: &Change| {
            let found = memory.quarantine.get(&change.to.to_string())?;
            let Quarantined { tid, time_us, reason, .. } = found.clone();
            Some(Problem::Quarantined { plugin: change.name.clone(), tid, time_us, reason })
        };
        Ok(plan.changes.iter().filter_map(problem).collect())
    }

    /// Waits, if that is wanted, until all objects have migrated that can. What is on probation is seen to meanwhile.
    fn finish_if(&self, eager: bool) -> Result<Vec<Progress>, String> {
        if !eager {
            return Ok(Vec::new());
        }
        let meanwhile = || _ = self.see_to_probation();
        self.migrator.finish_while(meanwhile).map_err(|interrupted| interrupted.problem)
    }
}

/// How long the stages take.
struct Stages {
    us: BTreeMap<String, u64>,
    since: Instant,
}

impl Stages {
    fn begin() -> Stages {
        Stages { us: BTreeMap::new(), since: Instant::now() }
    }

    /// Ends the present stage; the next begins.
    fn end(&mut self, name: &str) {
        self.us.insert(name.to_owned(), self.since.elapsed().as_micros() as u64);
        self.since = Instant::now();
    }
}

/// What is put in force, and how it stands in the history.
struct Installing {
    what: &'static str,
    /// What was found in the files of `generations`.
    offers: Vec<Inspection>,
    generations: Vec<Arc<Generation>>,
    /// The plugins that leave without another in their place.
    removed: Vec<Arc<str>>,
    /// Whether it may be something that cannot be undone.
    irreversible: bool,
    note: Vec<u8>,
    remember: Remember,
}

fn inspections(candidates: &[Candidate]) -> Vec<Inspection> {
    candidates.iter().map(|candidate| candidate.inspection.clone()).collect()
}

/// Loads candidates. If one fails, those loaded are retired again.
fn load(candidates: Vec<Candidate>, retirement: &Retirement) -> Result<Vec<Arc<Generation>>, SwapError> {
    let mut generations = Vec::new();
    for Candidate { path, inspection, staged } in candidates {
        match plugin::load(staged, inspection) {
            Ok(generation) => generations.push(Arc::new(generation)),
            Err(source) => {
                retirement.retire(generations);
                return Err(SwapError::Load { path, source: Box::new(source) });
            }
        }
    }
    Ok(generations)
}

/// How a swap stands in the history.
fn note(plan: &Plan) -> Vec<u8> {
    let text = |text: &dyn std::fmt::Display| Value::Text(text.to_string());
    let change = |change: &Change| {
        let from = change.from.map_or(Value::Null, |from| text(&from));
        let entries = [("from", from), ("to", text(&change.to)), ("version", text(&change.version))];
        Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    };
    let plugins = plan.changes.iter().map(|it| (it.name.clone(), change(it))).collect();
    Value::Map([("plugins".to_owned(), Value::Map(plugins))].into_iter().collect()).encode()
}

/// Looks at what is in force between two transactions.
fn look<T: Send + 'static>(
    engine: &Engine,
    at: impl FnOnce(&PluginSet, &Census) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (sender, receiver) = mpsc::channel();
    ask(engine, Doing::Look { look: Box::new(move |plugins, census| _ = sender.send(at(plugins, census))) })?;
    receiver.recv().map_err(|_| Refusal::Stopping)
}

/// Has the executor do something and waits for the answer.
///
/// # Errors
///
/// What the executor answers.
pub fn ask(engine: &Engine, doing: Doing) -> Result<Done, Refusal> {
    let (sender, receiver) = mpsc::channel();
    let reply = Box::new(move |result| _ = sender.send(result));
    engine.command(Command { doing, request_id: None, reply });
    receiver.recv().unwrap_or(Err(Refusal::Stopping))
}
