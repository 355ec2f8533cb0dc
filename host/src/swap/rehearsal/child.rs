//! The child's side of a rehearsal: loads the plugins in force and those offered, and executes transactions with both.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use super::{
    compare::Comparison,
    report::Class,
    wire::{self, File, Finding, Need, Request, Step},
};
use crate::{
    config::Execution,
    exec::{Given, PluginSet, Repeated, Repeater, State, delivered_by},
    identity::{ObjectRecord, Outcome, Transaction},
    plugin::{self, Staged},
    sandbox::{self, Desk},
    swap::confined,
};

/// What a child says that it is doing, for the case that it does not come back.
pub(super) const WITH_IN_FORCE: &str = "with the plugins in force";
const WITH_OFFERED: &str = "with the plugins offered";

/// A candidate is slower if it takes more than so many times as long ...
const SLOWER_TIMES: u32 = 2;
/// ... and at least so much longer.
const SLOWER_BY: Duration = Duration::from_micros(100);
/// What looks slower is executed so many times again, because a process can be held up ...
const SLOWER_AGAIN: usize = 3;
/// ... unless it takes so long that there is no doubt.
const NO_DOUBT: Duration = Duration::from_millis(200);

/// The child's work, from request to request.
#[derive(Default)]
pub struct Worker {
    stage: Option<Stage>,
}

/// Where transactions are executed.
struct Stage {
    in_force: PluginSet,
    offered: PluginSet,
    repeater: Repeater,
    cache: Cache,
}

/// What the child knows of the past.
#[derive(Default)]
struct Cache {
    objects: FxHashMap<ObjectId, Option<Arc<ObjectRecord>>>,
    names: FxHashMap<Arc<str>, Option<ObjectId>>,
}

impl Worker {
    /// Answers one request of the parent.
    ///
    /// # Panics
    ///
    /// If it is not one: that ends the process, and the parent learns of it.
    pub fn work(&mut self, request: &[u8], desk: &mut Desk) -> Vec<u8> {
        confined::on_a_thread(|| self.answer(request, desk))
    }

    fn answer(&mut self, request: &[u8], desk: &mut Desk) -> Vec<u8> {
        match Request::read(request).unwrap_or_else(|error| panic!("the parent sent what is no request: {error}")) {
            Request::Load { limits, in_force, fallbacks, offered } => {
                let loaded = load(*limits, [in_force, fallbacks, offered]);
                // What plugins log about the past again and again is nobody's concern, and could fill the pipe.
                log::set_max_level(log::LevelFilter::Off);
                wire::write_loaded(&loaded.map(|stage| self.stage = Some(stage)))
            }
            Request::Steps { forget_all, steps } => {
                let stage = self.stage.as_mut().expect("the parent has plugins loaded first");
                if forget_all {
                    stage.cache = Cache::default();
                }
                let alone = steps.len() == 1;
                let findings: Vec<_> = steps.into_iter().map(|step| stage.step(step, alone, desk)).collect();
                wire::write_findings(&findings)
            }
        }
    }
}

/// Loads both sets: the files in force, their fallbacks, and those offered.
fn load(limits: Execution, files: [Vec<File<'_>>; 3]) -> Result<Stage, String> {
    let fail = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let seal = |file: &File<'_>| Staged::seal(file.bytes, file.path).map_err(|error| fail(file.path, &error));
    let seal_all = |files: &Vec<File<'_>>| files.iter().map(seal).collect::<Result<Vec<_>, String>>();
    let [in_force, fallbacks, offered] = &files;
    let staged = [seal_all(in_force)?, seal_all(fallbacks)?, seal_all(offered)?];
    // All files are made that will ever be.
    sandbox::forbid_files();
    let load = |staged: Staged| {
        let path = staged.origin().to_owned();
        let inspection = plugin::inspect_staged(&staged).map_err(|error| fail(&path, &error))?;
        plugin::load(staged, inspection).map(Arc::new).map_err(|error| fail(&path, &error))
    };
    let load_all = |staged: Vec<Staged>| staged.into_iter().map(load).collect::<Result<Vec<_>, String>>();
    let [in_force, fallbacks, offered] = staged;
    let (in_force, fallbacks, offered) = (load_all(in_force)?, load_all(fallbacks)?, load_all(offered)?);
    let in_force = PluginSet::default().with(&in_force).map_err(|error| error.to_string())?;
    let in_force = in_force.with_fallbacks(&fallbacks);
    // In the past there may be objects for every fallback, so each is there that a swap would keep if there were any now.
    let stay = fallbacks.iter().filter(|it| offered.iter().all(|next| next.name() != it.name()));
    let replaced = offered.iter().filter_map(|next| in_force.plugin(next.name()));
    let fallbacks: Vec<_> = stay.chain(replaced).cloned().collect();
    let offered = in_force.with(&offered).map_err(|error| error.to_string())?.with_fallbacks(&fallbacks);
    Ok(Stage { in_force, offered, repeater: Repeater::new(limits), cache: Cache::default() })
}

/// What came of a transaction with one of the two sets.
enum Run {
    /// It was executed and compared with its record.
    Done { repeated: Repeated, comparison: Comparison, took: Duration },
    /// What the transaction met, or what it wrote, cannot be read: an object is in a schema that these plugins do not know.
    Unreadable(Failure),
    /// What was written cannot be compared, because a migration of it fails.
    Broken(Failure),
}

impl Stage {
    /// Executes a transaction with both sets.
    fn step(&mut self, step: Step<'_>, alone: bool, desk: &mut Desk) -> Finding {
        let Step { tid, next_object, forget_objects, forget_names, objects, transaction } = step;
        let recorded = Transaction::decode(transaction).unwrap_or_else(|error| panic!("transaction {tid}: {error}"));
        forget_objects.iter().for_each(|object| _ = self.cache.objects.remove(object));
        forget_names.iter().for_each(|name| _ = self.cache.names.remove(*name));
        self.cache.objects.extend(objects);
        let doing = |what: &str, desk: &mut Desk| {
            if alone {
                desk.doing(what);
            }
        };
        let mut past = Past { tid, cache: &mut self.cache, desk, asked: Duration::ZERO };
        // What cannot be read is found out when it is executed.
        let delivered = delivered_by(&recorded, &mut past).unwrap_or(None);
        let given = Given {
            target: recorded.target,
            method: recorded.method,
            arguments: recorded.arguments,
            time_us: recorded.time_us,
            seed: recorded.seed,
            next_object,
            delivered,
        };
        doing(WITH_IN_FORCE, past.desk);
        let in_force = run(&mut self.repeater, &mut past, &self.in_force, &given, &recorded);
        doing(WITH_OFFERED, past.desk);
        let offered = run(&mut self.repeater, &mut past, &self.offered, &given, &recorded);
        let mut finding = judge(&recorded, in_force, offered);
        if finding.class == Class::Same && seems_slower(&finding) {
            for _ in 0..SLOWER_AGAIN {
                let mut again = |set, before: &mut u64| {
                    if let Run::Done { took, .. } = run(&mut self.repeater, &mut past, set, &given, &recorded) {
                        *before = (*before).min(took.as_nanos() as u64);
                    }
                };
                if finding.offered_ns < NO_DOUBT.as_nanos() as u64 {
                    again(&self.in_force, &mut finding.in_force_ns);
                    again(&self.offered, &mut finding.offered_ns);
                }
            }
            if seems_slower(&finding) {
                finding.class = Class::Slower;
            }
        }
        // The next transaction meets what was recorded, whatever came of it here.
        let writes = recorded.writes.into_iter().map(|write| (write.object, write.record));
        self.cache.objects.extend(writes);
        self.cache.names.extend(recorded.names.into_iter().map(|naming| (naming.name.into(), naming.object)));
        finding
    }
}

fn seems_slower(finding: &Finding) -> bool {
    let (before, now) = (Duration::from_nanos(finding.in_force_ns), Duration::from_nanos(finding.offered_ns));
    now > before * SLOWER_TIMES && now > before + SLOWER_BY
}

/// Executes a transaction and compares what came of it with its record.
fn run(
    repeater: &mut Repeater,
    past: &mut Past<'_>,
    plugins: &PluginSet,
    given: &Given<'_>,
    recorded: &Transaction<'_>,
) -> Run {
    past.asked = Duration::ZERO;
    let begun = Instant::now();
    let repeated = repeater.execute(past, plugins, given);
    let took = begun.elapsed().saturating_sub(past.asked);
    let repeated = match repeated {
        Ok(Repeated { outcome: Err(failure), .. }) if failure.code == FailureCode::NO_MIGRATION => {
            return Run::Unreadable(failure);
        }
        Ok(repeated) => repeated,
        Err(failure) => return Run::Unreadable(failure),
    };
    match Comparison::of(recorded, &repeated, repeater, past, plugins) {
        Ok(comparison) => Run::Done { repeated, comparison, took },
        Err(failure) if matches!(failure.code, FailureCode::NO_MIGRATION | FailureCode::STORAGE) => {
            Run::Unreadable(failure)
        }
        Err(failure) => Run::Broken(failure),
    }
}

/// What is to be said about a transaction.
fn judge(recorded: &Transaction<'_>, in_force: Run, offered: Run) -> Finding {
    let (repeated, comparison, took) = match offered {
        Run::Unreadable(failure) => return Finding::without(Class::Skipped, failure.to_string()),
        Run::Broken(failure) => {
            // What those in force cannot migrate either does not speak against the candidate.
            let class = if matches!(in_force, Run::Broken(_)) { Class::NotReproducible } else { Class::Error };
            return Finding::without(class, failure.to_string());
        }
        Run::Done { repeated, comparison, took } => (repeated, comparison, took),
    };
    let in_force_ns = match &in_force {
        Run::Done { took, .. } => took.as_nanos() as u64,
        _ => 0,
    };
    let (class, reason) = class_of(recorded, &in_force, &repeated, &comparison);
    let Comparison { changes, more, .. } = comparison;
    let outcome = match repeated.outcome {
        Ok(result) if result.is_empty() => Outcome::Done([0xf6].into()),
        Ok(result) => Outcome::Done(super::compare::shown(result.into()).into()),
        Err(failure) => Outcome::failed(failure),
    };
    let (outcome, offered_ns) = (Some(outcome), took.as_nanos() as u64);
    Finding { class, reason, in_force_ns, offered_ns, outcome, changes, more }
}

/// How a transaction came out that was executed with the plugins offered.
fn class_of(
    recorded: &Transaction<'_>,
    in_force: &Run,
    repeated: &Repeated,
    comparison: &Comparison,
) -> (Class, Option<String>) {
    if comparison.is_same() {
        return (Class::Same, None);
    }
    // What those in force fail with, if they fail.
    let failed = match in_force {
        Run::Done { repeated, .. } => repeated.outcome.as_ref().err(),
        _ => None,
    };
    if let Err(failure) = &repeated.outcome {
        let was_fine = matches!(recorded.outcome, Outcome::Done(_));
        let new = failed.is_none_or(|before| before.code != failure.code || before.kind != failure.kind);
        if new && (was_fine || failure.code == FailureCode::PANICKED) {
            return (Class::Error, Some(failure.to_string()));
        }
    }
    match in_force {
        Run::Done { comparison, .. } if !comparison.is_same() => {
            (Class::NotReproducible, Some("the plugins in force do not do again what was recorded".to_owned()))
        }
        _ if comparison.result => (Class::DifferentResult, None),
        _ => (Class::DifferentWrites, None),
    }
}

/// The state that a transaction met, as far as it is known here; the rest is asked for.
struct Past<'a> {
    tid: crate::identity::Tid,
    cache: &'a mut Cache,
    desk: &'a mut Desk,
    /// How long the parent was waited for.
    asked: Duration,
}

impl Past<'_> {
    fn ask<T>(
        &mut self,
        need: Need<'_>,
        take: impl FnOnce(&[u8]) -> Result<Option<T>, theseus_value::DecodeError>,
    ) -> Result<T, Failure> {
        let begun = Instant::now();
        let given = self.desk.need(&need.write());
        self.asked += begun.elapsed();
        let taken = take(&given).unwrap_or_else(|error| panic!("the parent gave what was not asked for: {error}"));
        taken.ok_or_else(|| Failure::new(FailureCode::STORAGE, "the past cannot be read"))
    }
}

impl State for Past<'_> {
    fn object(&mut self, object: ObjectId) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        if let Some(record) = self.cache.objects.get(&object) {
            return Ok(record.clone());
        }
        let record = self.ask(Need::Object(self.tid, object), wire::take_record)?;
        self.cache.objects.insert(object, record.clone());
        Ok(record)
    }

    fn last_in_schema(&mut self, object: ObjectId, schema: u32) -> Result<Option<Arc<ObjectRecord>>, Failure> {
        match self.object(object)? {
            Some(record) if record.schema == schema => Ok(Some(record)),
            Some(_) => self.ask(Need::LastInSchema(self.tid, object, schema), wire::take_record),
            None => Ok(None),
        }
    }

    fn name(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        if let Some(object) = self.cache.names.get(name) {
            return Ok(*object);
        }
        let object = self.ask(Need::Name(self.tid, name), wire::take_object)?;
        self.cache.names.insert(name.into(), object);
        Ok(object)
    }
}
