//! The JSON forms of everything that the host answers, used alike by HTTP and by the command line without a host.
//!
//! Field names are a contract: fields may be added, none is renamed or removed. Digests and hashes are lower-case
//! hexadecimal, times are microseconds since the Unix epoch, and what does not apply is null rather than missing.

use std::io::Write;

use serde_json::{Value as Json, json};
use theseus_value::{ObjectId, Value, json::to_json};

use super::{finding, pack, rehearsal};
use crate::runtime::action::{
    ActionError, Answer, AppliedView, CollectedView, FailedView, FaultView, Head, KeptHeadFound, LostNameView,
    MigratedBy, MissView, ObjectView, PlanKind, PlanView, PlannedMigration, PlannedPlugin, PluginState, PluginView,
    ProbationView, ProbeView, ProgressView, QuarantineView, RepairReport, RollbackView, StatusView, SwapView, Tid,
    TransactionView, TrialsView, UndoneView, VerifyReport,
};

/// The form of an answer, as one document.
pub fn answer(answer: &Answer) -> Json {
    match answer {
        Answer::Object { id, at } => json!({ "id": id.0, "at": head(at) }),
        Answer::Deleted { at } => json!({ "deleted": true, "at": head(at) }),
        Answer::Result { value, tid, at: _ } => json!({ "result": to_json(value), "tid": tid }),
        Answer::Record(view) => object(view),
        Answer::Names { names, next, at } => {
            let names: Vec<Json> = names.iter().map(name).collect();
            json!({ "names": names, "more": next.is_some(), "next": next, "at": at })
        }
        Answer::History { transactions, next, packed } => {
            let transactions: Vec<Json> = transactions.iter().map(transaction).collect();
            json!({ "transactions": transactions, "next": next, "packed": packed })
        }
        Answer::Status(view) => status(view),
        Answer::Undone(view) => undone(view),
        Answer::Plugins(view) => {
            let plugins: Vec<Json> = view.plugins.iter().map(plugin).collect();
            let gone = |(name, generations, leaked): &(String, u64, Option<u64>)| json!({ "name": name, "unloaded": generations, "leaked_bytes": leaked });
            let gone: Vec<Json> = view.gone.iter().map(gone).collect();
            with_trials(json!({ "plugins": plugins, "unloaded": view.unloaded, "gone": gone }), &view.trials)
        }
        Answer::Plan(view) => plan(view),
        Answer::Swapped(view) => swap(view),
        Answer::RolledBack(view) => rollback(view),
        Answer::Rehearsed(report) => rehearsal::report(report),
        Answer::Packed(view) => pack::packed(view),
        Answer::Parents { parents, at } => {
            json!({ "parents": parents.iter().map(|id| id.0).collect::<Vec<_>>(), "at": head(at) })
        }
        Answer::Misses(view) => {
            json!({ "total": view.total, "misses": view.misses.iter().map(miss).collect::<Vec<_>>() })
        }
        Answer::Collected(view) => collected(view),
        Answer::Messages { messages, next } => {
            json!({ "messages": messages.iter().map(finding::message).collect::<Vec<_>>(), "next": next })
        }
        Answer::Found { objects, next } => {
            json!({ "objects": objects.iter().map(finding::found).collect::<Vec<_>>(), "next": next })
        }
        Answer::Index(view) => finding::index(view),
        Answer::Indexes(indexes) => json!({ "indexes": indexes.iter().map(finding::index).collect::<Vec<_>>() }),
        Answer::Applied(AppliedView::Swapped(view)) => json!({ "swapped": swap(view), "requested": null }),
        Answer::Applied(AppliedView::Requested { id }) => json!({ "swapped": null, "requested": id }),
    }
}

/// Appends the form of a method's result, the same as [`answer`] gives, without building a document first.
pub(crate) fn write_result(out: &mut Vec<u8>, value: &Value, tid: Option<Tid>) {
    out.extend_from_slice(b"{\"result\":");
    serde_json::to_writer(&mut *out, &to_json(value)).expect("a JSON document can be written into memory");
    match tid {
        Some(tid) => write!(out, ",\"tid\":{tid}}}").expect("memory can be written to"),
        None => out.extend_from_slice(b",\"tid\":null}"),
    }
}

/// A head as answers and the `Theseus-Head` header show it: `TID:HASH`.
pub fn head(head: &Head) -> String {
    format!("{}:{}", head.tid, hex(&head.hash))
}

/// A hash or digest.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn undone(view: &UndoneView) -> Json {
    let ids = |objects: &[ObjectId]| objects.iter().map(|object| object.0).collect::<Vec<_>>();
    let lost = |lost: &LostNameView| json!({ "name": lost.name, "object": lost.object.0, "holder": lost.holder.map(|holder| holder.0) });
    json!({
        "tid": view.tid,
        "restored": ids(&view.restored),
        "removed": ids(&view.removed),
        "names": view.names,
        "names_lost": view.names_lost.iter().map(lost).collect::<Vec<_>>(),
        "unchecked": view.unchecked,
        "at": head(&view.at),
    })
}

/// The line in a history that stands for what was packed away.
pub fn packed(packed: Tid) -> Json {
    json!({ "packed": packed })
}

/// One transaction, a line of the history.
pub fn transaction(view: &TransactionView) -> Json {
    let (result, error) = match &view.outcome {
        Ok(value) => (to_json(value), Json::Null),
        Err(error) => (Json::Null, self::error(error)),
    };
    json!({
        "tid": view.tid,
        "time_us": view.time_us,
        "incarnation": view.incarnation,
        "request_id": view.request_id,
        "target": view.target.map(|id| id.0),
        "method": view.method,
        "arguments": to_json(&view.arguments),
        "ok": view.outcome.is_ok(),
        "result": result,
        "error": error,
        "executed_by": view.executed_by.as_ref().map(|(plugin, digest)| json!({ "plugin": plugin, "digest": digest })),
        "writes": view.writes.iter().map(|(id, version)| json!({ "id": id.0, "version": version })).collect::<Vec<_>>(),
    })
}

/// An error within another document; by itself it is a [`Problem`](super::problem::Problem).
pub(super) fn error(error: &ActionError) -> Json {
    json!({ "code": error.code, "kind": error.kind, "message": error.message })
}

/// What `verify` found.
pub fn verification(report: &VerifyReport) -> Json {
    json!({
        "identity": report.identity,
        "tid": report.head.tid,
        "head": hex(&report.head.hash),
        "batches": report.batches,
        "transactions": report.transactions,
        "bytes": report.bytes,
        "rows": report.rows,
        "table_missing": report.table_missing,
        "elapsed_ms": report.elapsed_ms,
        "whole": report.damage.is_empty(),
        "damage": report.damage.iter().map(|damage| json!({ "place": damage.place, "problem": damage.problem }))
            .collect::<Vec<_>>(),
        "dangling": {
            "count": report.dangling,
            "first": report.dangling_listed.iter().map(|(from, to)| json!({ "from": from, "to": to.0 })).collect::<Vec<_>>(),
        },
        "resumed_at": report.resumed_at,
        "kept_head": report.kept_head.as_ref().map(|kept| json!({
            "head": head(&kept.head), "part": is_part(&kept.found), "problem": kept.found.problem(),
        })),
    })
}

/// Whether a head is part of the history; none if it cannot tell.
fn is_part(found: &KeptHeadFound) -> Option<bool> {
    match found {
        KeptHeadFound::Part => Some(true),
        KeptHeadFound::NotPart { .. } => Some(false),
        KeptHeadFound::Packed { .. } => None,
    }
}

/// What `repair` did.
pub fn repaired(report: &RepairReport) -> Json {
    json!({
        "tid": report.head.tid,
        "head": hex(&report.head.hash),
        "transactions": report.transactions,
        "objects": report.objects,
        "elapsed_ms": report.elapsed_ms,
    })
}

fn object(view: &ObjectView) -> Json {
    json!({
        "id": view.id.0,
        "behavior": view.behavior,
        "schema": view.schema,
        "parents": view.parents.iter().map(|id| id.0).collect::<Vec<_>>(),
        "slots": to_json(&view.slots),
        "tid": view.tid,
        "version": view.version,
    })
}

fn name((name, id, behavior): &(String, ObjectId, String)) -> Json {
    json!({ "name": name, "id": id.0, "behavior": behavior })
}

fn collected(view: &CollectedView) -> Json {
    json!({
        "dry_run": view.dry_run,
        "since": view.since,
        "objects": view.objects,
        "unreachable": view.unreachable,
        "removed": view.removed,
        "spared": view.spared,
        "transactions": view.transactions,
        "elapsed_ms": view.elapsed_ms,
    })
}

fn miss(view: &MissView) -> Json {
    json!({
        "behavior": view.behavior,
        "selector": view.selector,
        "count": view.count,
        "first_us": view.first_us,
        "last_us": view.last_us,
    })
}

fn status(view: &StatusView) -> Json {
    let document = json!({
        "identity": view.identity,
        "tid": view.head.tid,
        "head": hex(&view.head.hash),
        "incarnation": view.incarnation,
        "uptime_ms": view.uptime_ms,
        "http": view.http,
        "host_version": view.host_version,
        "abi_version": view.abi_version,
        "healthy": view.healthy,
        "trouble": view.trouble,
        "objects": view.objects,
        "messages": { "waiting": view.messages_waiting, "set_aside": view.messages_set_aside },
        "plugins": view.plugins.iter().map(plugin).collect::<Vec<_>>(),
        "update": view.update,
        "storage": {
            "history_bytes": view.storage.history_bytes,
            "objects_bytes": view.storage.objects_bytes,
            "disk_free_bytes": view.storage.disk_free_bytes,
            "shortage": view.storage.shortage,
        },
    });
    with_trials(document, &view.trials)
}

/// A document about plugins, with what becomes of swaps.
fn with_trials(mut document: Json, trials: &TrialsView) -> Json {
    let fault = |it: &FaultView| json!({ "what": it.what, "count": it.count, "first": it.first });
    let probation = |it: &ProbationView| {
        json!({
            "plugin": it.plugin,
            "digest": it.digest,
            "swap": it.swap,
            "until_us": it.until_us,
            "errors": it.errors,
            "errors_max": it.errors_max,
            "crashes": it.crashes,
            "crashes_max": it.crashes_max,
            "faults": it.faults.iter().map(fault).collect::<Vec<_>>(),
        })
    };
    let failed =
        |it: &FailedView| json!({ "plugin": it.plugin, "digest": it.digest, "swap": it.swap, "reason": it.reason });
    let quarantined = |it: &QuarantineView| {
        let QuarantineView { plugin, digest, tid, time_us, reason } = it;
        json!({ "plugin": plugin, "digest": digest, "tid": tid, "time_us": time_us, "reason": reason })
    };
    document["probation"] = trials.probation.iter().map(probation).collect();
    document["failed"] = trials.failed.iter().map(failed).collect();
    document["quarantine"] = trials.quarantine.iter().map(quarantined).collect();
    document
}

fn plugin(view: &PluginView) -> Json {
    let (state, reason) = match &view.state {
        PluginState::Active => ("active", None),
        PluginState::Fallback => ("fallback", None),
        PluginState::Draining => ("draining", None),
        PluginState::Pinned { reason } => ("pinned", Some(reason)),
    };
    json!({
        "name": view.name,
        "version": view.version,
        "digest": view.digest,
        "state": state,
        "reason": reason,
        "behaviors": view.behaviors.iter().map(|(name, schema)| json!({ "name": name, "schema": schema }))
            .collect::<Vec<_>>(),
        "migrations": view.migrations.iter().map(progress).collect::<Vec<_>>(),
    })
}

fn progress(view: &ProgressView) -> Json {
    json!({
        "behavior": view.behavior,
        "from": view.from,
        "to": view.to,
        "left": view.left,
        "done": view.done,
        "failed": view.failed,
        "failures": view.failures.iter().map(|(object, error)| json!({ "object": object.0, "error": error }))
            .collect::<Vec<_>>(),
    })
}

fn plan(view: &PlanView) -> Json {
    let kind = match view.kind {
        PlanKind::Nothing => "nothing",
        PlanKind::Swap => "swap",
        PlanKind::Restart => "restart",
        PlanKind::Refused => "refused",
    };
    json!({
        "kind": kind,
        "reasons": view.reasons,
        "plugins": view.plugins.iter().map(planned).collect::<Vec<_>>(),
        "stays": view.stays.iter().map(|(name, version)| json!({ "name": name, "version": version })).collect::<Vec<_>>(),
    })
}

fn planned(plugin: &PlannedPlugin) -> Json {
    let migrations = plugin.migrations.iter().map(|migration| {
        let by = match migration.by {
            MigratedBy::Offered => "plugin",
            MigratedBy::Fallback => "fallback",
            MigratedBy::PresentFirst => "present",
        };
        let PlannedMigration { behavior, from, to, objects, .. } = migration;
        json!({ "behavior": behavior, "from": from, "to": to, "objects": objects, "by": by })
    });
    json!({
        "name": plugin.name,
        "from": plugin.from,
        "to": plugin.to,
        "version": plugin.version,
        "migrations": migrations.collect::<Vec<_>>(),
        "reversible": plugin.reversible,
        "keeps_fallback": plugin.keeps_fallback,
    })
}

fn swap(view: &SwapView) -> Json {
    json!({
        "tid": view.tid,
        "plugins": view.plugins.iter().map(planned).collect::<Vec<_>>(),
        "probes": view.probes.iter().map(probe).collect::<Vec<_>>(),
        "rehearsal": view.rehearsal.as_deref().map(rehearsal::report),
        "pause_us": view.pause_us,
        "probation": view.probation.as_ref().map(|it| {
            json!({ "ms": it.ms, "errors_max": it.errors_max, "reversible": it.reversible })
        }),
        "left": view.left.iter().map(progress).collect::<Vec<_>>(),
        "unfinished": view.unfinished,
        "stages_us": view.stages_us,
    })
}

fn rollback(view: &RollbackView) -> Json {
    let plugin = |(name, from, to): &(String, String, Option<String>)| json!({ "name": name, "from": from, "to": to });
    json!({
        "tid": view.tid,
        "swap": view.swap,
        "plugins": view.plugins.iter().map(plugin).collect::<Vec<_>>(),
        "pause_us": view.pause_us,
        "stages_us": view.stages_us,
    })
}

fn probe(view: &ProbeView) -> Json {
    json!({
        "plugin": view.plugin,
        "known": view.known,
        "confined": view.confined,
        "missing": view.missing,
        "samples": view.samples,
        "warnings": view.warnings,
    })
}

#[cfg(test)]
mod tests {
    use theseus_value::json::from_json;

    use super::*;
    use crate::runtime::action::{Damage, StorageView, WindowView};

    fn value(json: Json) -> Value {
        from_json(json).unwrap()
    }

    fn some_head() -> Head {
        let mut hash = [0; 32];
        (hash[0], hash[31]) = (0xab, 0x01);
        Head { tid: 12, hash }
    }

    const HASH: &str = "ab00000000000000000000000000000000000000000000000000000000000001";

    fn planned_plugin() -> PlannedPlugin {
        PlannedPlugin {
            name: "counter".into(),
            from: Some("aa".into()),
            to: "bb".into(),
            version: "2.0.0".into(),
            migrations: vec![PlannedMigration {
                behavior: "counter.Counter".into(),
                from: 1,
                to: 2,
                objects: 3,
                by: MigratedBy::Offered,
            }],
            reversible: false,
            keeps_fallback: false,
        }
    }

    #[test]
    fn results_have_one_form_however_they_are_written() {
        for (result, tid) in [(json!(10), Some(7)), (json!({ "a": [null, "x\n"] }), None)] {
            let (value, at) = (value(result.clone()), some_head());
            let mut bytes = Vec::new();
            write_result(&mut bytes, &value, tid);
            assert_eq!(bytes, serde_json::to_vec(&answer(&Answer::Result { value, tid, at })).unwrap());
            assert_eq!(serde_json::from_slice::<Json>(&bytes).unwrap(), json!({ "result": result, "tid": tid }));
        }
    }

    #[test]
    fn creations_tell_the_id_and_the_head() {
        let created = answer(&Answer::Object { id: ObjectId(5), at: some_head() });
        assert_eq!(created, json!({ "id": 5, "at": format!("12:{HASH}") }));
    }

    #[test]
    fn transactions_tell_success_from_failure() {
        let mut view = TransactionView {
            tid: 3,
            time_us: 1,
            incarnation: 2,
            request_id: Some("r".into()),
            target: Some(ObjectId(9)),
            method: "increment".into(),
            arguments: value(json!({ "by": 5 })),
            outcome: Ok(value(json!(10))),
            executed_by: Some(("counter".into(), "aa".into())),
            writes: vec![(ObjectId(9), 4)],
        };
        let line = transaction(&view);
        assert_eq!(
            line,
            json!({
                "tid": 3, "time_us": 1, "incarnation": 2, "request_id": "r", "target": 9, "method": "increment",
                "arguments": { "by": 5 }, "ok": true, "result": 10, "error": null,
                "executed_by": { "plugin": "counter", "digest": "aa" }, "writes": [{ "id": 9, "version": 4 }],
            })
        );
        view.outcome = Err(ActionError {
            code: "refused".into(),
            kind: Some("overdraft".into()),
            message: "too little".into(),
            tid: Some(3),
        });
        view.executed_by = None;
        let line = transaction(&view);
        assert_eq!(line["ok"], json!(false));
        assert_eq!(line["error"], json!({ "code": "refused", "kind": "overdraft", "message": "too little" }));
        assert_eq!(line["executed_by"], Json::Null);
    }

    #[test]
    fn status_has_the_fields_of_the_contract() {
        let view = StatusView {
            identity: "0123".into(),
            head: some_head(),
            incarnation: 4,
            uptime_ms: 5,
            http: Some("127.0.0.1:7070".into()),
            host_version: "0.1.0".into(),
            abi_version: 1,
            healthy: true,
            trouble: None,
            objects: 6,
            messages_waiting: 5,
            messages_set_aside: 1,
            plugins: vec![PluginView {
                name: "counter".into(),
                version: "1.0.0".into(),
                digest: "aa".into(),
                state: PluginState::Pinned { reason: "a thread lives".into() },
                behaviors: vec![("counter.Counter".into(), 1)],
                migrations: vec![ProgressView {
                    behavior: "counter.Counter".into(),
                    from: 1,
                    to: 2,
                    left: 3,
                    done: 4,
                    failed: 1,
                    failures: vec![(ObjectId(9), "panicked: no".into())],
                }],
            }],
            trials: TrialsView {
                probation: vec![ProbationView {
                    plugin: "counter".into(),
                    digest: "bb".into(),
                    swap: 7,
                    until_us: 8,
                    errors: 3,
                    errors_max: 10,
                    crashes: 1,
                    crashes_max: 2,
                    faults: vec![FaultView { what: "panicked".into(), count: 3, first: "no".into() }],
                }],
                failed: vec![FailedView {
                    plugin: "ledger".into(),
                    digest: "cc".into(),
                    swap: 9,
                    reason: "it fell".into(),
                }],
                quarantine: vec![QuarantineView {
                    plugin: "flights".into(),
                    digest: "dd".into(),
                    tid: 6,
                    time_us: 5,
                    reason: "it sank".into(),
                }],
            },
            update: None,
            storage: StorageView { shortage: Some("full".into()), ..StorageView::default() },
        };
        let status = answer(&Answer::Status(view));
        assert_eq!(status["tid"], json!(12));
        assert_eq!(status["head"], json!(HASH));
        assert_eq!(status["http"], json!("127.0.0.1:7070"));
        assert_eq!(
            status["probation"],
            json!([{
                "plugin": "counter", "digest": "bb", "swap": 7, "until_us": 8, "errors": 3, "errors_max": 10, "crashes": 1,
                "crashes_max": 2, "faults": [{ "what": "panicked", "count": 3, "first": "no" }],
            }])
        );
        assert_eq!(status["failed"], json!([{ "plugin": "ledger", "digest": "cc", "swap": 9, "reason": "it fell" }]));
        assert_eq!(
            status["quarantine"],
            json!([{ "plugin": "flights", "digest": "dd", "tid": 6, "time_us": 5, "reason": "it sank" }])
        );
        assert_eq!(
            status["plugins"],
            json!([{
                "name": "counter", "version": "1.0.0", "digest": "aa", "state": "pinned", "reason": "a thread lives",
                "behaviors": [{ "name": "counter.Counter", "schema": 1 }],
                "migrations": [{
                    "behavior": "counter.Counter", "from": 1, "to": 2, "left": 3, "done": 4, "failed": 1,
                    "failures": [{ "object": 9, "error": "panicked: no" }],
                }],
            }])
        );
        let storage = json!({ "history_bytes": 0, "objects_bytes": 0, "disk_free_bytes": 0, "shortage": "full" });
        assert_eq!(status["storage"], storage);
        for field in ["identity", "incarnation"] {
            assert!(!status[field].is_null(), "{field} is missing");
        }
    }

    #[test]
    fn plans_and_swaps_tell_what_migrates() {
        let plugin = json!({
            "name": "counter", "from": "aa", "to": "bb", "version": "2.0.0", "reversible": false, "keeps_fallback": false,
            "migrations": [{ "behavior": "counter.Counter", "from": 1, "to": 2, "objects": 3, "by": "plugin" }],
        });
        let view = PlanView {
            kind: PlanKind::Swap,
            reasons: vec![],
            plugins: vec![planned_plugin()],
            stays: vec![("ledger".into(), "1.0.0".into())],
        };
        assert_eq!(
            answer(&Answer::Plan(view)),
            json!({ "kind": "swap", "reasons": [], "plugins": [plugin], "stays": [{ "name": "ledger", "version": "1.0.0" }] })
        );
        let stages_us = [("load".to_owned(), 7)].into();
        let probes = vec![ProbeView {
            plugin: "counter".into(),
            known: false,
            confined: vec!["no sockets".into()],
            missing: vec![],
            samples: 3,
            warnings: vec!["it keeps a thread".into()],
        }];
        let probe = json!({ "plugin": "counter", "known": false, "confined": ["no sockets"], "missing": [], "samples": 3,
            "warnings": ["it keeps a thread"] });
        let swapped = SwapView {
            tid: Some(8),
            plugins: vec![planned_plugin()],
            probes,
            rehearsal: None,
            pause_us: 9,
            probation: Some(WindowView { ms: 60, errors_max: 10, reversible: true }),
            left: vec![],
            unfinished: None,
            stages_us,
        };
        let swap = json!({
            "tid": 8, "plugins": [plugin], "probes": [probe], "rehearsal": null, "pause_us": 9,
            "probation": { "ms": 60, "errors_max": 10, "reversible": true }, "left": [], "unfinished": null, "stages_us": { "load": 7 },
        });
        assert_eq!(answer(&Answer::Swapped(swapped.clone())), swap);
        let applied = answer(&Answer::Applied(AppliedView::Swapped(swapped)));
        assert_eq!(applied, json!({ "swapped": swap, "requested": null }));
        let requested = answer(&Answer::Applied(AppliedView::Requested { id: "u1".into() }));
        assert_eq!(requested, json!({ "swapped": null, "requested": "u1" }));
    }

    #[test]
    fn objects_names_and_pages_of_history() {
        let view = ObjectView {
            id: ObjectId(7),
            behavior: "counter.Counter".into(),
            schema: 1,
            parents: vec![ObjectId(2)],
            slots: value(json!({ "count": 3 })),
            tid: 11,
            version: 2,
        };
        assert_eq!(
            answer(&Answer::Record(view)),
            json!({
                "id": 7, "behavior": "counter.Counter", "schema": 1, "parents": [2], "slots": { "count": 3 },
                "tid": 11, "version": 2,
            })
        );
        let names = vec![("visits".to_owned(), ObjectId(7), "counter.Counter".to_owned())];
        assert_eq!(
            answer(&Answer::Names { names, next: Some("visits".to_owned()), at: 9 }),
            json!({ "names": [{ "name": "visits", "id": 7, "behavior": "counter.Counter" }], "more": true, "next": "visits", "at": 9 })
        );
        let page = answer(&Answer::History { transactions: vec![], next: Some(4), packed: None });
        assert_eq!(page, json!({ "transactions": [], "next": 4, "packed": null }));
    }

    #[test]
    fn a_damaged_identity_is_not_whole() {
        let mut report = VerifyReport {
            identity: "0123".into(),
            head: some_head(),
            batches: 1,
            transactions: 2,
            bytes: 3,
            rows: 4,
            table_missing: false,
            elapsed_ms: 5,
            damage: vec![],
            dangling: 1,
            dangling_listed: vec![("object 7".into(), ObjectId(9))],
            resumed_at: None,
            kept_head: None,
        };
        assert_eq!(verification(&report)["whole"], json!(true));
        report.damage.push(Damage { place: "object 7".into(), problem: "differs".into() });
        let found = verification(&report);
        assert_eq!(found["whole"], json!(false));
        assert_eq!(found["damage"], json!([{ "place": "object 7", "problem": "differs" }]));
    }
}
