//! A rehearsal's report for people.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::output::{items, plain};

/// The longest value that is shown in full, in characters.
const VALUE_MAX: usize = 160;

/// How many differences are shown, and how many places of one.
const SHOWN: usize = 10;
const PLACES: usize = 12;

/// The classes, those first that an operator has to know of.
const CLASSES: [(&str, &str); 7] = [
    ("error", "failed where the record did not"),
    ("different_result", "another result"),
    ("different_writes", "the same result, other writes"),
    ("slower", "the same, but slower"),
    ("same", "the same"),
    ("not_reproducible", "not the same with the plugins in force either"),
    ("skipped", "not executed"),
];

/// The report.
pub(super) fn report(report: &Json) -> String {
    let names: Vec<String> = items(&report["behaviors"]).map(plain).collect();
    if names.is_empty() {
        return "nothing to rehearse: no behaviour would change, what is offered is in force\n".to_owned();
    }
    let behaviors = names.join(", ");
    if report["transactions"] == 0 {
        return format!("no recorded transaction concerns {behaviors}{}\n", ended(report));
    }
    // Writing into a `String` cannot fail.
    let mut out = String::new();
    _ = writeln!(
        out,
        "{} transactions of {behaviors} executed again, from {} to {}, in {} ms{}",
        report["transactions"],
        report["from"],
        report["to"],
        report["elapsed_ms"],
        ended(report)
    );
    for (class, meaning) in CLASSES {
        let count = report["counts"][class].as_u64().unwrap_or(0);
        if count > 0 {
            _ = writeln!(out, "{count:>9}  {meaning}");
        }
    }
    for (method, times) in report["methods"].as_object().into_iter().flatten() {
        let count = times["transactions"].as_f64().unwrap_or(1.0);
        let each = |which: &str| times[which].as_f64().unwrap_or(0.0) / count;
        let (before, now) = (each("in_force_us"), each("offered_us"));
        _ = writeln!(out, "{method}: {before:.1} us each with the plugins in force, {now:.1} us with those offered");
    }
    out + &differences(report)
}

/// Why there are fewer than were asked for.
fn ended(report: &Json) -> String {
    let limit = &report["limit"];
    match report["end"].as_str() {
        Some("looked_at") => format!("; {limit} transactions were looked at (plugins.rehearsal_transactions_max)"),
        Some("time") => format!("; it ended after {limit} ms (plugins.rehearsal_ms_max)"),
        Some("restarts") => format!("; it ended because its process did, {limit} times"),
        _ => String::new(),
    }
}

fn differences(report: &Json) -> String {
    let mut out = String::new();
    let all: Vec<&Json> = items(&report["differences"]).collect();
    let mut shown = 0;
    for (class, meaning) in CLASSES {
        for difference in all.iter().filter(|it| it["class"] == class) {
            if shown == SHOWN {
                _ = writeln!(out, "more with --json --all-differences");
                return out;
            }
            shown += 1;
            out += &one(difference, meaning);
        }
    }
    out
}

fn one(difference: &Json, meaning: &str) -> String {
    let object = named(difference);
    let mut out = format!("transaction {}: {} of {object}", difference["tid"], plain(&difference["method"]));
    _ = writeln!(out, " {}: {meaning}", value(&difference["arguments"]));
    if let Some(reason) = difference["reason"].as_str() {
        _ = writeln!(out, "    {reason}");
    }
    if difference["class"] == "slower" {
        _ = writeln!(out, "    {} us -> {} us", difference["in_force_us"], difference["offered_us"]);
    }
    let (recorded, offered) = (outcome(&difference["recorded"]), outcome(&difference["offered"]));
    if !offered.is_empty() && recorded != offered {
        _ = writeln!(out, "    {recorded} -> {offered}");
    }
    let changes: Vec<&Json> = items(&difference["changes"]).collect();
    for change in
        changes.iter().filter(|it| !it["object"].is_null() || !plain(&it["path"]).starts_with("result")).take(PLACES)
    {
        let place = if change["object"].is_null() { String::new() } else { named(change) + " " };
        let side = |side: &str| match change["only"].as_str() {
            Some(only) if only != side => "nothing".to_owned(),
            _ => value(&change[side]),
        };
        _ = writeln!(out, "    {place}{}: {} -> {}", plain(&change["path"]), side("recorded"), side("offered"));
    }
    let more = changes.len().saturating_sub(PLACES) as u64 + difference["more_changes"].as_u64().unwrap_or(0);
    if more > 0 {
        _ = writeln!(out, "    and {more} more");
    }
    out
}

fn named(it: &Json) -> String {
    match it["name"].as_str() {
        Some(name) => name.to_owned(),
        None => plain(&it["object"]),
    }
}

fn outcome(outcome: &Json) -> String {
    match (&outcome["ok"], &outcome["error"]) {
        (Json::Bool(true), _) => value(&outcome["result"]),
        (Json::Bool(false), error) => {
            format!(
                "{}: {}",
                plain(if error["kind"].is_null() { &error["code"] } else { &error["kind"] }),
                plain(&error["message"])
            )
        }
        _ => String::new(),
    }
}

fn value(value: &Json) -> String {
    let text = value.to_string();
    if text.chars().count() <= VALUE_MAX {
        return text;
    }
    text.chars().take(VALUE_MAX).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_come_first_and_each_place_has_its_line() {
        let change =
            json!({ "object": 7, "name": "visits", "path": "slots.count", "recorded": 1, "offered": 2, "only": null });
        let gone =
            json!({ "object": 8, "name": null, "path": "", "recorded": {}, "offered": null, "only": "recorded" });
        let done = |result: i64| json!({ "ok": true, "result": result, "error": null });
        let failed =
            json!({ "ok": false, "result": null, "error": { "code": "panicked", "kind": null, "message": "oh" } });
        let writes = json!({ "tid": 4, "class": "different_writes", "reason": null, "object": 7, "name": "visits",
            "method": "c.C.add", "arguments": [1], "recorded": done(1), "offered": done(1), "changes": [change, gone],
            "more_changes": 3 });
        let error = json!({ "tid": 5, "class": "error", "reason": "panicked: oh", "object": 7, "name": "visits",
            "method": "c.C.add", "arguments": null, "recorded": done(1), "offered": failed, "changes": [], "more_changes": 0 });
        let document = json!({ "transactions": 3, "from": 3, "to": 5, "end": "time", "limit": 9, "elapsed_ms": 10,
            "behaviors": ["c.C"], "counts": { "same": 1, "error": 1, "different_writes": 1 },
            "methods": { "c.C.add": { "transactions": 2, "in_force_us": 5.0, "offered_us": 7.0 } },
            "differences": [writes, error] });
        let expected = "\
3 transactions of c.C executed again, from 3 to 5, in 10 ms; it ended after 9 ms (plugins.rehearsal_ms_max)
        1  failed where the record did not
        1  the same result, other writes
        1  the same
c.C.add: 2.5 us each with the plugins in force, 3.5 us with those offered
transaction 5: c.C.add of visits null: failed where the record did not
    panicked: oh
    1 -> panicked: oh
transaction 4: c.C.add of visits [1]: the same result, other writes
    visits slots.count: 1 -> 2
    8 : {} -> nothing
    and 3 more
";
        assert_eq!(report(&document), expected);
    }
}
