//! The JSON form of a rehearsal's report.

use serde_json::{Value as Json, json};
use theseus_value::{ObjectId, Value, json::to_json};

use crate::runtime::action::rehearsal::{Difference, End, Place, Report};

/// A report, as one document.
pub(super) fn report(report: &Report) -> Json {
    let (end, limit) = match report.end {
        End::Enough => ("enough", None),
        End::Beginning => ("beginning", None),
        End::LookedAt(limit) => ("looked_at", Some(limit)),
        End::Time(limit) => ("time", Some(limit)),
        End::Restarts(limit) => ("restarts", Some(limit)),
    };
    let counts = report.counts.iter().map(|(class, count)| (class.name().to_owned(), json!(count)));
    let methods = report.methods.iter().map(|(method, times)| {
        let (in_force_us, offered_us) = (micros(times.in_force_ns), micros(times.offered_ns));
        let times = json!({ "transactions": times.transactions, "in_force_us": in_force_us, "offered_us": offered_us });
        (method.clone(), times)
    });
    let name = |object: Option<ObjectId>| object.and_then(|object| report.names.get(&object));
    json!({
        "last": report.last,
        "transactions": report.transactions(),
        "from": report.span.map(|(from, _)| from.0),
        "to": report.span.map(|(_, to)| to.0),
        "end": end,
        "limit": limit,
        "behaviors": report.behaviors,
        "counts": counts.collect::<serde_json::Map<_, _>>(),
        "methods": methods.collect::<serde_json::Map<_, _>>(),
        "differences": report.differences.iter().map(|it| difference(it, &name)).collect::<Vec<_>>(),
        "restarts": report.restarts,
        "elapsed_ms": report.elapsed_ms,
    })
}

fn difference<'a>(it: &Difference, name: &dyn Fn(Option<ObjectId>) -> Option<&'a String>) -> Json {
    let ended = |outcome: &Result<Value, _>| match outcome {
        Ok(value) => json!({ "ok": true, "result": to_json(value), "error": null }),
        Err(failure) => {
            let failure: &crate::runtime::action::rehearsal::RecordedFailure = failure;
            let kind = (!failure.kind.is_empty()).then_some(&failure.kind);
            let error = json!({ "code": failure.code, "kind": kind, "message": failure.message });
            json!({ "ok": false, "result": null, "error": error })
        }
    };
    json!({
        "tid": it.tid.0,
        "class": it.class.name(),
        "reason": it.reason,
        "request_id": it.request_id,
        "object": it.object.map(|object| object.0),
        "name": name(it.object),
        "method": it.method,
        "arguments": to_json(&it.arguments),
        "recorded": ended(&it.recorded),
        "offered": it.offered.as_ref().map(ended),
        "in_force_us": micros(it.took_ns.0),
        "offered_us": micros(it.took_ns.1),
        "changes": it.changes.iter().map(|place| change(place, name)).collect::<Vec<_>>(),
        "more_changes": it.more,
    })
}

/// A place: `only` says which of the two has a value there, if only one has; null stands for the other then.
fn change<'a>(place: &Place, name: &dyn Fn(Option<ObjectId>) -> Option<&'a String>) -> Json {
    let only = match (&place.recorded, &place.offered) {
        (Some(_), None) => Some("recorded"),
        (None, Some(_)) => Some("offered"),
        _ => None,
    };
    json!({
        "object": place.object.map(|object| object.0),
        "name": name(place.object),
        "path": place.path,
        "recorded": place.recorded.as_ref().map(to_json),
        "offered": place.offered.as_ref().map(to_json),
        "only": only,
    })
}

fn micros(ns: u64) -> f64 {
    // To a tenth.
    (ns / 100) as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::action::rehearsal::{Class, RecordedFailure, Times};

    #[test]
    fn a_report_has_its_form() {
        let tid = crate::runtime::action::rehearsal::Tid;
        let failure = RecordedFailure { code: "panicked".into(), kind: String::new(), message: "oh".into() };
        let place = Place {
            object: Some(ObjectId(7)),
            path: "slots.count".into(),
            recorded: Some(Value::Int(1)),
            offered: None,
        };
        let one = Difference {
            tid: tid(5),
            class: Class::Error,
            reason: Some("panicked: oh".into()),
            request_id: Some("r".into()),
            object: Some(ObjectId(7)),
            method: "counter.Counter.increment".into(),
            arguments: Value::Array(vec![Value::Int(1)]),
            recorded: Ok(Value::Int(1)),
            offered: Some(Err(failure)),
            took_ns: (1_250, 2_000),
            changes: vec![place],
            more: 1,
        };
        let times = Times { transactions: 2, in_force_ns: 2_500, offered_ns: 4_000 };
        let mut report = Report::new(9, vec!["counter.Counter".into()]);
        report.span = Some((tid(4), tid(5)));
        report.end = End::LookedAt(100);
        report.counts = [(Class::Same, 1), (Class::Error, 1)].into();
        report.methods = [("counter.Counter.increment".to_owned(), times)].into();
        report.differences = vec![one];
        report.names = [(ObjectId(7), "visits".to_owned())].into();
        report.elapsed_ms = 3;
        let expected = json!({
            "last": 9, "transactions": 2, "from": 4, "to": 5, "end": "looked_at", "limit": 100,
            "behaviors": ["counter.Counter"], "counts": { "same": 1, "error": 1 },
            "methods": { "counter.Counter.increment": { "transactions": 2, "in_force_us": 2.5, "offered_us": 4.0 } },
            "differences": [{
                "tid": 5, "class": "error", "reason": "panicked: oh", "request_id": "r", "object": 7, "name": "visits",
                "method": "counter.Counter.increment", "arguments": [1],
                "recorded": { "ok": true, "result": 1, "error": null },
                "offered": { "ok": false, "result": null, "error": { "code": "panicked", "kind": null, "message": "oh" } },
                "in_force_us": 1.2, "offered_us": 2.0,
                "changes": [{ "object": 7, "name": "visits", "path": "slots.count", "recorded": 1, "offered": null,
                    "only": "recorded" }],
                "more_changes": 1,
            }],
            "restarts": 0, "elapsed_ms": 3,
        });
        assert_eq!(super::report(&report), expected);
    }
}
