//! What operators ask for and takes time: plans, swaps, restart cycles. One thread does it, one thing after another.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use theseus_abi::FailureCode;
use theseus_value::{ObjectId, Value};

use super::{
    action::{
        Action, ActionError, Answer, AppliedView, PlanKind, PlanView, PlannedMigration, PlannedPlugin, PluginState,
        PluginView, PluginsView, ProbeView, ProgressView, RollbackView, SwapOptions, SwapView, TrialsView, WindowView,
        codes, rehearsal::Told,
    },
    trials, views,
};
use crate::{
    exec::{Doing, Engine, Refusal},
    home::Home,
    identity::{Identity, IdentityId, Incarnation, StorageError, Tid},
    plugin::{Digest, Generation},
    restart::{
        bundle::{self, Bundle},
        instruction::{self, Instruction, InstructionId},
    },
    swap::{
        self, Change, Memory, Migration, Plan, Probed, Progress, RehearsalError, RollbackError, SwapError, Swapped,
        Swapper, Tried, Whereabouts,
    },
};

/// Under which the intent of a restart cycle stands in the history, with the whole instruction.
const UPDATE: &str = "theseus.update";

/// How far back a start looks for an intent that was committed but perhaps not published, in transactions. Publishing follows
/// the commit at once, so little can lie between.
const UPDATE_SEARCH: u64 = 50_000;

/// The most that may be asked for and not yet done.
pub(super) const QUEUE_MAX: usize = 64;

/// What the operator thread works with.
pub(super) struct Operator {
    pub home: Home,
    pub engine: Arc<Engine>,
    pub swapper: Swapper,
    pub identity: IdentityId,
    pub incarnation: Incarnation,
    /// How many indexes there may be.
    pub indexes_max: usize,
    /// The restart cycle under way. A lock because the thread sets it and every status reads it.
    pub update: Arc<Mutex<Option<InstructionId>>>,
}

impl Operator {
    /// Does what an operator asked.
    pub(super) fn perform(&self, action: Action) -> Result<Answer, ActionError> {
        match action {
            Action::Plan { paths } => self.plan(&paths).map(Answer::Plan),
            Action::Swap { paths, options } => self.swap(&paths, &options).map(Answer::Swapped),
            Action::Rollback { plugin } => self.rollback(plugin.as_deref()).map(Answer::RolledBack),
            Action::Apply { bundle, reason, options } => {
                self.apply(&bundle, &reason, "operator", &options).map(Answer::Applied)
            }
            Action::CreateIndex { behavior, slot } => self.create_index(behavior, slot),
            Action::DropIndex { behavior, slot } => self.drop_index(&behavior, &slot),
            _ => unreachable!("the runtime sends the operator these only"),
        }
    }

    /// Carries out a plugin's request for an upgrade.
    pub(super) fn upgrade(&self, requested_by: ObjectId, request: &[u8]) {
        let request = Value::decode(request).ok();
        let text = |name: &str| {
            let field = request.as_ref().and_then(|request| request.as_map()?.get(name));
            field.and_then(|field| field.as_text()).unwrap_or_default().to_owned()
        };
        let (bundle, reason) = (PathBuf::from(text("bundle")), text("reason"));
        match self.apply(&bundle, &reason, &format!("object {requested_by}"), &SwapOptions::default()) {
            Ok(applied) => log::info!("object {requested_by} requested an upgrade ({reason}): {applied:?}"),
            Err(error) => {
                log::error!("object {requested_by} requested an upgrade that was not done: {}", error.message)
            }
        }
    }

    fn plan(&self, paths: &[PathBuf]) -> Result<PlanView, ActionError> {
        if let [folder] = paths
            && folder.is_dir()
        {
            return Ok(self.plan_bundle(&read_bundle(folder)?));
        }
        Ok(self.plan_files(paths))
    }

    fn plan_bundle(&self, bundle: &Bundle) -> PlanView {
        match restart_reasons(bundle) {
            reasons if reasons.is_empty() => self.plan_files(&plugin_paths(bundle)),
            reasons => bare_plan(PlanKind::Restart, reasons),
        }
    }

    fn plan_files(&self, paths: &[PathBuf]) -> PlanView {
        match self.swapper.foresee(paths) {
            Ok(plan) => match (plan_view(&plan), self.swapper.room(&plan)) {
                (view @ PlanView { kind: PlanKind::Swap, .. }, Err(full)) => {
                    PlanView { kind: PlanKind::Restart, reasons: vec![full.to_string()], ..view }
                }
                (view, _) => view,
            },
            Err(error) => bare_plan(PlanKind::Refused, vec![error.to_string()]),
        }
    }

    /// Puts plugin files in force. No files are nothing to do, as for a bundle whose host is the one that runs.
    pub(super) fn swap(&self, paths: &[PathBuf], options: &SwapOptions) -> Result<SwapView, ActionError> {
        self.swapper
            .swap(paths, options)
            .map(|swapped| {
                let view = self.swap_view(&swapped);
                for plugin in &view.plugins {
                    let from = plugin.from.as_deref().map_or("nothing", short);
                    log::info!("{} {} in force: {} in place of {from}", plugin.name, plugin.version, short(&plugin.to));
                }
                view
            })
            .map_err(|error| swap_error(&error))
    }

    fn swap_view(&self, swapped: &Swapped) -> SwapView {
        let settings = &self.swapper.settings;
        let probation = WindowView {
            ms: settings.probation_ms,
            errors_max: settings.probation_errors_max,
            reversible: swapped.plan.changes.iter().all(|change| change.reversible),
        };
        SwapView {
            tid: swapped.done.as_ref().and_then(|done| done.tid).map(|tid| tid.0),
            plugins: swapped.plan.changes.iter().map(planned).collect(),
            probes: swapped.probed.iter().map(probe_view).collect(),
            rehearsal: swapped.rehearsal.clone().map(Box::new),
            pause_us: swapped.done.as_ref().map_or(0, |done| done.pause_us),
            probation: swapped.done.is_some().then_some(probation).filter(|it| it.ms > 0),
            left: swapped.left.iter().flatten().map(progress_view).collect(),
            unfinished: swapped.left.as_ref().err().cloned(),
            stages_us: swapped.stages_us.clone(),
        }
    }

    fn rollback(&self, plugin: Option<&str>) -> Result<RollbackView, ActionError> {
        let (back, swapped) = self.swapper.rollback(plugin).map_err(|error| rollback_error(&error))?;
        let done = swapped.done.expect("a rollback always puts something else in force");
        let plugins =
            back.backs.iter().map(|it| (it.plugin.clone(), it.from.to_string(), it.to.map(|to| to.to_string())));
        let (tid, stages_us) = (done.tid.unwrap_or_default().0, swapped.stages_us);
        log::info!("the swap of transaction {} was taken back in transaction {tid}", back.swap);
        Ok(RollbackView { tid, swap: back.swap.0, plugins: plugins.collect(), pause_us: done.pause_us, stages_us })
    }

    /// What became and becomes of swaps.
    pub(super) fn trials(&self) -> TrialsView {
        match Memory::read(self.engine.identity()) {
            Ok(memory) => trials::view(&memory, &self.swapper.settings, Some(self.engine.plugins().faults())),
            Err(error) => {
                log::error!("{error}");
                TrialsView::default()
            }
        }
    }

    /// Executes recorded transactions again.
    pub(super) fn rehearse(&self, paths: &[PathBuf], last: u64, told: Told) -> Result<Answer, ActionError> {
        let report = self.swapper.rehearse(paths, last, told).map_err(|error| swap_error(&error))?;
        Ok(Answer::Rehearsed(Box::new(report)))
    }

    fn apply(
        &self,
        folder: &Path,
        reason: &str,
        requested_by: &str,
        options: &SwapOptions,
    ) -> Result<AppliedView, ActionError> {
        let bundle = read_bundle(folder)?;
        if self.plan_bundle(&bundle).kind != PlanKind::Restart {
            return self.swap(&plugin_paths(&bundle), options).map(AppliedView::Swapped);
        }
        if let Some(id) = self.update_under_way() {
            let message = format!("the restart cycle {id} is under way: wait for its end");
            return Err(views::error(codes::PLAN_REFUSED, message));
        }
        let head = self.engine.identity().head();
        let now = instruction::now_us();
        let instruction = Instruction {
            schema: instruction::SCHEMA,
            id: InstructionId::generate(),
            release: bundle.digest,
            bundle: bundle.folder.clone(),
            epoch: bundle.manifest.epoch,
            reason: reason.to_owned(),
            requested_by: requested_by.to_owned(),
            created_us: now,
            expires_us: now + instruction::LIFETIME_DEFAULT.as_micros() as u64,
            identity: self.identity.to_string(),
            tid: head.tid.0,
            head: crate::restart::Digest(head.hash.0),
        };
        // The intent first: a crash in between delays the cycle, and the next start publishes it.
        let note = theseus_value::to_vec(&instruction).expect("an instruction is a plain struct");
        swap::ask(&self.engine, Doing::Note { what: UPDATE, note, remember: None })
            .map_err(|refusal| views::refusal(&refusal))?;
        self.publish(&instruction)?;
        Ok(AppliedView::Requested { id: instruction.id.to_string() })
    }

    fn publish(&self, instruction: &Instruction) -> Result<(), ActionError> {
        instruction::publish(self.home.path(), instruction)
            .map_err(|error| views::error("storage", format!("the restart cycle waits for the next start: {error}")))?;
        *self.update.lock().unwrap_or_else(PoisonError::into_inner) = Some(instruction.id.clone());
        log::info!(
            "restart cycle {} requested by {}: {}",
            instruction.id,
            instruction.requested_by,
            instruction.reason
        );
        Ok(())
    }

    /// The restart cycle that was requested and has not ended.
    pub(super) fn update_under_way(&self) -> Option<InstructionId> {
        let mut update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = &*update
            && !instruction::is_published(self.home.path(), id)
        {
            *update = None;
        }
        update.clone()
    }

    /// Takes up the restart cycle that a former incarnation committed: publishes it if that was not done.
    pub(super) fn take_up_update(&self, last: Option<Instruction>) {
        if let Some(instruction) = last.filter(|instruction| instruction.expires_us > instruction::now_us())
            && matches!(instruction::is_finished(self.home.path(), &instruction.id), Ok(false))
            && let Err(error) = self.publish(&instruction)
        {
            log::error!("{}", error.message);
        }
    }

    /// The last restart cycle that a former incarnation committed, if it was not long ago.
    pub(super) fn last_update(identity: &Identity) -> Result<Option<Instruction>, StorageError> {
        let from = Tid(identity.head().tid.0.saturating_sub(UPDATE_SEARCH).max(1));
        let mut last: Option<Instruction> = None;
        identity.walk_history(from, |batch| {
            for (tid, transaction) in batch.transactions() {
                let transaction = transaction.map_err(|error| identity.damaged(tid, error.to_string()))?;
                if transaction.method == UPDATE && transaction.target.is_none() {
                    last = theseus_value::from_slice(transaction.arguments).ok();
                }
            }
            Ok(true)
        })?;
        Ok(last)
    }

    /// The plugins of this host.
    pub(super) fn plugins_view(&self) -> PluginsView {
        let report = self.swapper.retirement.report();
        let unloaded = report.unloaded();
        let gone = report.gone.into_iter().map(|(name, gone)| (name, gone.generations, gone.leaked_bytes));
        PluginsView { plugins: self.plugins(), unloaded, gone: gone.collect(), trials: self.trials() }
    }

    /// The plugins in force and the replaced ones that are still loaded.
    pub(super) fn plugins(&self) -> Vec<PluginView> {
        let (set, progress) = (self.engine.plugins(), self.swapper.migrator.progress());
        let loaded = |generation: &Generation, state| {
            let its_own = |it: &&Progress| state == PluginState::Active && it.behind.plugin == *generation.name();
            PluginView {
                name: generation.name().to_string(),
                version: generation.version().to_owned(),
                digest: generation.digest().to_string(),
                behaviors: generation.behaviors().iter().map(|it| (it.name().to_string(), it.schema())).collect(),
                migrations: progress.iter().filter(its_own).map(progress_view).collect(),
                state,
            }
        };
        let active = set.plugins().map(|generation| loaded(generation, PluginState::Active));
        let fallbacks = set.fallbacks().map(|generation| loaded(generation, PluginState::Fallback));
        let retired = self.swapper.retirement.report().retired.into_iter().map(|view| PluginView {
            name: view.name,
            version: view.version,
            digest: view.digest.to_string(),
            state: match view.whereabouts {
                Whereabouts::Draining => PluginState::Draining,
                Whereabouts::Pinned { reason } => PluginState::Pinned { reason: reason.to_string() },
            },
            behaviors: view.behaviors,
            migrations: Vec::new(),
        });
        active.chain(fallbacks).chain(retired).collect()
    }
}

fn read_bundle(folder: &Path) -> Result<Bundle, ActionError> {
    bundle::read(folder).map_err(|error| views::error(codes::PLAN_REFUSED, error.to_string()))
}

fn plugin_paths(bundle: &Bundle) -> Vec<PathBuf> {
    bundle.plugins.iter().map(|file| bundle.folder.join(&file.path)).collect()
}

/// Why a bundle cannot be swapped in: it brings another host than the one that runs, or steps for outside.
fn restart_reasons(bundle: &Bundle) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(host) = &bundle.host {
        let running = std::fs::read("/proc/self/exe").map(|bytes| *blake3::hash(&bytes).as_bytes());
        if running.ok() != Some(host.digest.0) {
            reasons.push(format!("it brings another host binary than the one that runs ({})", host.digest));
        }
    }
    if let Some(script) = &bundle.manifest.apply {
        reasons.push(format!("it asks for the upgrade script `{script}`"));
    }
    reasons
}

fn bare_plan(kind: PlanKind, reasons: Vec<String>) -> PlanView {
    PlanView { kind, reasons, plugins: Vec::new(), stays: Vec::new() }
}

pub(super) fn plan_view(plan: &Plan) -> PlanView {
    let kind = match (plan.problems.is_empty(), plan.changes.is_empty()) {
        (false, _) => PlanKind::Refused,
        (true, true) => PlanKind::Nothing,
        (true, false) => PlanKind::Swap,
    };
    let reasons = plan.problems.iter().map(ToString::to_string).collect();
    PlanView { kind, reasons, plugins: plan.changes.iter().map(planned).collect(), stays: plan.stays.clone() }
}

fn planned(change: &Change) -> PlannedPlugin {
    let migrations = change.migrations.iter();
    PlannedPlugin {
        name: change.name.clone(),
        from: change.from.map(|digest: Digest| digest.to_string()),
        to: change.to.to_string(),
        version: change.version.clone(),
        migrations: migrations.map(planned_migration).collect(),
        reversible: change.reversible,
        keeps_fallback: change.keeps_fallback(),
    }
}

fn planned_migration(migration: &Migration) -> PlannedMigration {
    let Migration { behavior, from, to, objects, by } = migration.clone();
    PlannedMigration { behavior, from, to, objects, by }
}

fn progress_view(progress: &Progress) -> ProgressView {
    let Progress { behind, done, failed, failures } = progress;
    ProgressView {
        behavior: behind.behavior.to_string(),
        from: behind.from,
        to: behind.to,
        left: behind.objects,
        done: *done,
        failed: *failed,
        failures: failures.iter().map(|it| (it.object, it.failure.to_string())).collect(),
    }
}

fn rollback_error(failure: &RollbackError) -> ActionError {
    match failure {
        RollbackError::Swap(failure) => swap_error(failure),
        RollbackError::Memory(_) => views::error(FailureCode::STORAGE.name(), failure.to_string()),
        RollbackError::Nothing | RollbackError::NothingOf { .. } | RollbackError::Fetch { .. } => {
            views::error(codes::PLAN_REFUSED, failure.to_string())
        }
    }
}

fn probe_view(probed: &Probed) -> ProbeView {
    let plugin = probed.plugin.clone();
    let (known, tried) = (probed.tried.is_none(), probed.tried.clone().unwrap_or_default());
    let Tried { confined, missing, samples, warnings } = tried;
    ProbeView { plugin, known, confined, missing, samples, warnings }
}

fn swap_error(failure: &SwapError) -> ActionError {
    match failure {
        SwapError::Stage(_)
        | SwapError::Inspect { .. }
        | SwapError::Denied { .. }
        | SwapError::Load { .. }
        | SwapError::Probe { .. } => views::error(codes::PLUGIN_REFUSED, failure.to_string()),
        SwapError::Plan { .. }
        | SwapError::Irreversible { .. }
        | SwapError::Full(_)
        | SwapError::Unfinished { .. }
        | SwapError::MigrationInterrupted { .. }
        | SwapError::Fallback { .. } => views::error(codes::PLAN_REFUSED, failure.to_string()),
        SwapError::Memory(_) => views::error(FailureCode::STORAGE.name(), failure.to_string()),
        SwapError::Rehearsed { .. } => views::error(codes::REHEARSAL_FAILED, failure.to_string()),
        SwapError::Rehearsal(error) => rehearsal_error(error),
        SwapError::Keep(_) => views::error(codes::STORAGE_FULL, failure.to_string()),
        SwapError::Execute(refusal @ Refusal::NotAdmitted { .. }) => {
            views::error(codes::PLAN_REFUSED, refusal.to_string())
        }
        SwapError::Execute(refusal) => views::refusal(refusal),
    }
}

fn rehearsal_error(failure: &RehearsalError) -> ActionError {
    let code = match failure {
        RehearsalError::Storage(StorageError::Damaged { .. }) => FailureCode::IDENTITY_DAMAGED.name(),
        RehearsalError::Storage(_) | RehearsalError::Fetch(_) | RehearsalError::Spawn(_) => FailureCode::STORAGE.name(),
        RehearsalError::Load { .. } | RehearsalError::Fault { .. } => codes::PLUGIN_REFUSED,
        RehearsalError::Stopping => codes::STOPPING,
    };
    views::error(code, failure.to_string())
}

/// The first digits of a digest, for logs.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
