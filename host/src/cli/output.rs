//! Documents as text for people: lines and tables, the same whether a host answered or the identity itself.

use std::{fmt::Write, time::Duration};

use serde_json::Value as Json;

use super::rehearsal;
use crate::{gateway::time::format_time, runtime::offline::Resumption};

// Writing into a `String` cannot fail, so the results of `write!` are dropped.

/// From when on it is told how long something will still take; before that, and before a hundredth is done, it would be a guess.
const ESTIMATE_AFTER: Duration = Duration::from_secs(1);

/// How much of a digest tells it from others.
const DIGEST_DIGITS: usize = 12;

pub(super) fn status(status: &Json) -> String {
    let mut out = String::new();
    let health = match (status["healthy"] == true, status["trouble"].as_str()) {
        (true, _) => "good".to_owned(),
        (false, trouble) => format!("BAD: {}", trouble.unwrap_or("unknown")),
    };
    let host = format!(
        "theseus {}, ABI {}, incarnation {}, up {}",
        plain(&status["host_version"]),
        status["abi_version"],
        status["incarnation"],
        duration(status["uptime_ms"].as_u64().unwrap_or(0))
    );
    let messages = &status["messages"];
    let messages = format!("{} waiting, {} set aside", messages["waiting"], messages["set_aside"]);
    for (name, text) in [
        ("identity", plain(&status["identity"])),
        ("head", head(status)),
        ("host", host),
        ("http", plain(&status["http"])),
        ("health", health),
        ("objects", plain(&status["objects"])),
        ("messages", messages),
        ("storage", storage(&status["storage"])),
        ("update", plain(&status["update"])),
    ] {
        _ = writeln!(out, "{name:<9} {text}");
    }
    out.push('\n');
    out + &plugins(status)
}

/// The room that an identity takes, or what there is too little of.
fn storage(storage: &Json) -> String {
    if let Some(shortage) = storage["shortage"].as_str() {
        return format!("COMMANDS ARE REFUSED: {shortage}");
    }
    let megabytes = |field: &str| storage[field].as_u64().unwrap_or(0).div_ceil(1_000_000);
    let (history, objects, free) =
        (megabytes("history_bytes"), megabytes("objects_bytes"), megabytes("disk_free_bytes"));
    format!("history {history} MB, objects {objects} MB, {free} MB free on the disk")
}

/// The plugins of a document, and what becomes of swaps.
pub(super) fn plugins(document: &Json) -> String {
    let plugins = &document["plugins"];
    let rows = items(plugins).map(|plugin| {
        let behaviors = items(&plugin["behaviors"])
            .map(|behavior| format!("{} (schema {})", plain(&behavior["name"]), behavior["schema"]));
        let state = match plugin["reason"].as_str() {
            Some(reason) => format!("{}: {reason}", plain(&plugin["state"])),
            None => plain(&plugin["state"]),
        };
        [
            plain(&plugin["name"]),
            plain(&plugin["version"]),
            digest(&plugin["digest"]),
            behaviors.collect::<Vec<_>>().join(", "),
            state,
        ]
    });
    let migrations: Vec<&Json> = items(plugins).flat_map(|plugin| items(&plugin["migrations"])).collect();
    let table = table(["PLUGIN", "VERSION", "DIGEST", "BEHAVIORS", "STATE"], rows);
    table + &progress_of(&migrations) + &leaks(&document["gone"]) + &trials(document)
}

/// What became and becomes of swaps.
fn trials(document: &Json) -> String {
    let mut out = String::new();
    for it in items(&document["probation"]) {
        let until = format_time(it["until_us"].as_u64().unwrap_or(0));
        let (errors, crashes) = (&it["errors"], &it["crashes"]);
        _ = writeln!(
            out,
            "on probation: {} {} until {until}: {errors} errors of {} allowed, {crashes} crashes of {}",
            plain(&it["plugin"]),
            digest(&it["digest"]),
            it["errors_max"],
            it["crashes_max"]
        );
        for fault in items(&it["faults"]) {
            _ = writeln!(out, "  {} times {}: {}", fault["count"], plain(&fault["what"]), plain(&fault["first"]));
        }
    }
    for it in items(&document["failed"]) {
        let (plugin, reason) = (plain(&it["plugin"]), plain(&it["reason"]));
        _ = writeln!(out, "FAILED its probation: {plugin} {}: {reason}", digest(&it["digest"]));
    }
    for it in items(&document["quarantine"]) {
        let (plugin, digest, reason) = (plain(&it["plugin"]), digest(&it["digest"]), plain(&it["reason"]));
        _ = writeln!(out, "in quarantine: {plugin} {digest} since transaction {}: {reason}", it["tid"]);
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

/// What was leaked by plugins that were unloaded.
fn leaks(gone: &Json) -> String {
    let mut out = String::new();
    for plugin in items(gone).filter(|plugin| plugin["leaked_bytes"].as_u64().is_some_and(|bytes| bytes > 0)) {
        let (name, unloaded, bytes) = (plain(&plugin["name"]), &plugin["unloaded"], &plugin["leaked_bytes"]);
        _ = writeln!(out, "{name}: {unloaded} replaced and unloaded since the start; {bytes} bytes were never freed");
    }
    out
}

/// Objects that have not migrated as yet.
fn progress_of(migrations: &[&Json]) -> String {
    let mut out = String::new();
    for migration in migrations {
        let (behavior, left) = (plain(&migration["behavior"]), &migration["left"]);
        let (from, to) = (&migration["from"], &migration["to"]);
        _ = write!(out, "{behavior}: schema {from} -> {to}, {} objects migrated, {left} left", migration["done"]);
        match migration["failed"].as_u64() {
            Some(failed) if failed > 0 => _ = writeln!(out, ", {failed} failed:"),
            _ => out.push('\n'),
        }
        for failure in items(&migration["failures"]) {
            _ = writeln!(out, "  object {}: {}", failure["object"], plain(&failure["error"]));
        }
    }
    out
}

pub(super) fn names(names: &Json) -> String {
    let rows = items(names).map(|name| [plain(&name["name"]), plain(&name["id"]), plain(&name["behavior"])]);
    table(["NAME", "ID", "BEHAVIOR"], rows)
}

pub(super) fn object(object: &Json) -> String {
    let mut out = String::new();
    let parents: Vec<_> = items(&object["parents"]).map(plain).collect();
    let parents = if parents.is_empty() { "-".to_owned() } else { parents.join(", ") };
    for (name, text) in [
        ("id", plain(&object["id"])),
        ("behavior", format!("{} (schema {})", plain(&object["behavior"]), object["schema"])),
        ("version", format!("{}, of transaction {}", object["version"], object["tid"])),
        ("parents", parents),
    ] {
        _ = writeln!(out, "{name:<9} {text}");
    }
    let slots = object["slots"].as_object();
    out.push_str(if slots.is_some_and(|slots| !slots.is_empty()) { "slots\n" } else { "slots     -\n" });
    let width = slots.into_iter().flatten().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in slots.into_iter().flatten() {
        _ = writeln!(out, "  {name:<width$}  {value}");
    }
    out
}

/// What stands in a history for what was packed away.
pub(super) fn packed(line: &Json) -> String {
    format!("(transactions 1 to {} have been packed away)\n", line["packed"])
}

pub(super) fn transaction(transaction: &Json) -> String {
    let target = match &transaction["target"] {
        Json::Null => "host".to_owned(),
        id => id.to_string(),
    };
    let arguments = match &transaction["arguments"] {
        Json::Null => String::new(),
        arguments => format!(" {arguments}"),
    };
    let error = &transaction["error"];
    let outcome = match error["kind"].as_str() {
        _ if error.is_null() => transaction["result"].to_string(),
        Some(kind) => format!("{}/{kind}: {}", plain(&error["code"]), plain(&error["message"])),
        None => format!("{}: {}", plain(&error["code"]), plain(&error["message"])),
    };
    let sign = if error.is_null() { "->" } else { "FAILED" };
    let (tid, time) = (plain(&transaction["tid"]), format_time(transaction["time_us"].as_u64().unwrap_or(0)));
    format!("{tid:>8}  {time}  {target:>6}  {}{arguments} {sign} {outcome}\n", plain(&transaction["method"]))
}

pub(super) fn undone(undone: &Json) -> String {
    let Some(tid) = undone["tid"].as_u64() else { return "nothing to undo: nothing was written\n".into() };
    let mut out = format!("undone in transaction {tid}\n");
    for what in ["restored", "removed", "names"] {
        let all: Vec<_> = items(&undone[what]).map(plain).collect();
        if !all.is_empty() {
            _ = writeln!(out, "{what:<9} {}", all.join(", "));
        }
    }
    for lost in items(&undone["names_lost"]) {
        let (object, name) = (&lost["object"], plain(&lost["name"]));
        let holder = lost["holder"].as_u64().map_or("nothing".to_owned(), |holder| format!("object {holder}"));
        _ = writeln!(out, "object {object} is back without its name {name}, which stands for {holder} now");
    }
    if let Some(from) = undone["unchecked"].as_u64() {
        _ = writeln!(
            out,
            "references to what was removed and names of what is back were not looked for from transaction {from} on"
        );
    }
    out
}

pub(super) fn plan(plan: &Json) -> String {
    let mut out = match plan["kind"].as_str() {
        Some("nothing") => "nothing to do: everything is in force\n".to_owned(),
        Some("swap") => "swap in the live host\n".to_owned(),
        Some("restart") => "restart cycle\n".to_owned(),
        _ => "refused\n".to_owned(),
    };
    for reason in items(&plan["reasons"]) {
        _ = writeln!(out, "  because {}", plain(reason));
    }
    out.push_str(&planned(&plan["plugins"]));
    for plugin in items(&plan["stays"]) {
        _ = writeln!(out, "{} {}: stays", plain(&plugin["name"]), plain(&plugin["version"]));
    }
    out
}

pub(super) fn swap(swap: &Json) -> String {
    let Some(tid) = swap["tid"].as_u64() else { return "nothing to do: everything is in force\n".into() };
    let mut out = planned(&swap["plugins"]);
    if !swap["rehearsal"].is_null() {
        out += &rehearsal::report(&swap["rehearsal"]);
    }
    for probe in items(&swap["probes"]) {
        out += &tried(probe);
    }
    out.push_str(&progress_of(&items(&swap["left"]).collect::<Vec<_>>()));
    if let Some(problem) = swap["unfinished"].as_str() {
        _ = writeln!(out, "the migration goes on in the background: {problem}");
    }
    _ = write!(out, "in force since transaction {tid}; nothing ran for {} us", swap["pause_us"]);
    let stages = swap["stages_us"].as_object().into_iter().flatten();
    let stages: Vec<_> = stages.map(|(stage, time)| format!("{stage} {time} us")).collect();
    out.push_str(&if stages.is_empty() { "\n".to_owned() } else { format!(" ({})\n", stages.join(", ")) });
    out + &window(&swap["probation"])
}

/// For how long what was swapped is on probation.
fn window(probation: &Json) -> String {
    let (Some(ms), errors) = (probation["ms"].as_u64(), &probation["errors_max"]) else { return String::new() };
    let end = match probation["reversible"].as_bool() {
        Some(false) => "are reported, but it cannot be taken back",
        _ => "take it back",
    };
    format!("on probation for {}: more than {errors} errors {end}\n", duration(ms))
}

pub(super) fn rollback(rollback: &Json) -> String {
    let mut out = String::new();
    for plugin in items(&rollback["plugins"]) {
        let to = if plugin["to"].is_null() { "gone".to_owned() } else { digest(&plugin["to"]) };
        _ = writeln!(out, "{}: {} -> {to}", plain(&plugin["name"]), digest(&plugin["from"]));
    }
    let (tid, swap, pause) = (&rollback["tid"], &rollback["swap"], &rollback["pause_us"]);
    _ = writeln!(out, "the swap of transaction {swap} is taken back in transaction {tid}; nothing ran for {pause} us");
    out
}

pub(super) fn applied(applied: &Json) -> String {
    match applied["requested"].as_str() {
        Some(id) => format!("restart cycle {id} requested; the host works on until the watchdog stops it\n"),
        None => swap(&applied["swapped"]),
    }
}

/// How a plugin was tried.
fn tried(probe: &Json) -> String {
    let name = plain(&probe["plugin"]);
    if probe["known"] == true {
        return format!("{name} was in force before and was not tried again\n");
    }
    let samples = probe["samples"].as_u64().unwrap_or(0);
    let mut out = format!("{name} was tried in a process of its own, with {samples} objects\n");
    for warning in items(&probe["warnings"]) {
        _ = writeln!(out, "  but {}", plain(warning));
    }
    out
}

fn planned(plugins: &Json) -> String {
    let mut out = String::new();
    for plugin in items(plugins) {
        let from = if plugin["from"].is_null() { "new".into() } else { digest(&plugin["from"]) };
        let to = digest(&plugin["to"]);
        _ = writeln!(out, "{} {}: {from} -> {to}", plain(&plugin["name"]), plain(&plugin["version"]));
        for migration in items(&plugin["migrations"]) {
            let (behavior, objects) = (plain(&migration["behavior"]), &migration["objects"]);
            let by = match migration["by"].as_str() {
                Some("fallback") => ", by the plugin in force now, which stays loaded for that",
                Some("present") => ", which the plugin in force has to migrate before it is replaced",
                _ => "",
            };
            let (from, to) = (&migration["from"], &migration["to"]);
            _ = writeln!(out, "  {behavior}: schema {from} -> {to}, {objects} objects{by}");
        }
        if plugin["reversible"] == false {
            out.push_str("  cannot be undone: the plugin in force could not take the objects back\n");
        }
    }
    out
}

pub(super) fn verification(report: &Json) -> String {
    let mut out = String::new();
    for damage in items(&report["damage"]) {
        _ = writeln!(out, "DAMAGED  {}: {}", plain(&damage["place"]), plain(&damage["problem"]));
    }
    let is_objects_alone = items(&report["damage"]).all(|damage| !plain(&damage["place"]).contains("history record"));
    let table_missing = report["table_missing"] == true;
    let verdict = match report["whole"] == true {
        true if table_missing => "the history is whole",
        true => "whole",
        false if is_objects_alone => "not whole: the history is, so `theseus repair` makes the objects again",
        false => "not whole: restore it from a backup",
    };
    for dangling in items(&report["dangling"]["first"]) {
        _ = writeln!(
            out,
            "note     {} refers to object {}, which there never was",
            plain(&dangling["from"]),
            dangling["to"]
        );
    }
    if table_missing {
        let made = "`theseus repair` makes it from the history, or the host does when it starts";
        _ = writeln!(out, "note     the object table is missing: {made}");
    }
    let kept = &report["kept_head"];
    if let Some(head) = kept["head"].as_str() {
        _ = match kept["problem"].as_str() {
            None => writeln!(out, "{head} is part of this history"),
            Some(problem) if kept["part"].is_null() => writeln!(out, "UNPROVED {head}: {problem}"),
            Some(problem) => writeln!(out, "NOT PART {head}: {problem}"),
        };
    }
    _ = writeln!(
        out,
        "{} transactions in {} records ({}), {} rows: {verdict}\nhead {}",
        report["transactions"],
        report["batches"],
        size(report["bytes"].as_u64().unwrap_or(0)),
        report["rows"].as_u64().filter(|_| !table_missing).map_or("no".to_owned(), |rows| rows.to_string()),
        head(report)
    );
    out
}

/// Where a verification goes on that was to go on where one was interrupted.
pub(super) fn resumption(resumption: Resumption) -> String {
    let why = match resumption {
        Resumption::At(tid) => return format!("goes on after transaction {tid}, where it was interrupted"),
        Resumption::NoNote => "there are no notes of one that was interrupted",
        Resumption::Unusable => {
            "the notes of the one that was interrupted cannot be used: they are damaged, of another identity, or of another \
             version of this program"
        }
        Resumption::Outdated => {
            "the notes of the one that was interrupted cannot be used: the identity was packed, put back or made anew since"
        }
    };
    format!("begins at the start: {why}")
}

pub(super) fn repaired(report: &Json) -> String {
    format!(
        "made {} objects again from {} transactions\nhead {}\n",
        report["objects"],
        report["transactions"],
        head(report)
    )
}

/// How far something has come, in one line: how many of how many, how many bytes in how long.
pub(super) fn progress(done: u64, total: u64, bytes: Option<u64>, elapsed: Duration) -> String {
    const WIDTH: u64 = 30;
    let share = |of: u64| if total == 0 { of } else { (u128::from(done) * u128::from(of) / u128::from(total)) as u64 };
    let filled = share(WIDTH).min(WIDTH) as usize;
    let bar = "#".repeat(filled) + &".".repeat(WIDTH as usize - filled);
    let seconds = elapsed.as_secs_f64();
    let rate = bytes.map_or(String::new(), |bytes| format!("  {:.0} MB/s", bytes as f64 / 1e6 / seconds.max(1e-3)));
    // What took no time, or was next to nothing, says nothing of the rest.
    let left = match elapsed < ESTIMATE_AFTER || share(100) == 0 {
        true => String::new(),
        false => format!("  {:.0} s left", seconds * total.saturating_sub(done) as f64 / done.max(1) as f64),
    };
    format!("[{bar}] {:>3} %{rate}{left}", share(100))
}

/// Columns as wide as they need to be; the last one is not padded.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Text without its quotes, `-` for what is not there, and anything else as JSON.
pub(super) fn plain(value: &Json) -> String {
    match value {
        Json::Null => "-".into(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The head of a document, as `verify --head` takes it.
pub(super) fn head(document: &Json) -> String {
    format!("{}:{}", document["tid"], plain(&document["head"]))
}

fn digest(value: &Json) -> String {
    plain(value).chars().take(DIGEST_DIGITS).collect()
}

pub(super) fn items(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

pub(super) fn size(bytes: u64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    let mut amount = bytes as f64;
    let mut unit = units.next().unwrap_or("B");
    while amount >= 1024.0 && units.peek().is_some() {
        amount /= 1024.0;
        unit = units.next().unwrap_or(unit);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") }
}

fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_and_sizes_are_short() {
        assert_eq!(duration(59_999), "59 s");
        assert_eq!(duration(3_661_000), "1 h 1 min");
        assert_eq!(duration(90_000_000), "1 d 1 h");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn tables_line_up() {
        let names = json!([
            { "name": "a", "id": 100, "behavior": "counter.Counter" },
            { "name": "visits", "id": 7, "behavior": "b.B" },
        ]);
        assert_eq!(super::names(&names), "NAME    ID   BEHAVIOR\na       100  counter.Counter\nvisits  7    b.B\n");
    }

    #[test]
    fn an_object_shows_its_slots() {
        let object = json!({
            "id": 7, "behavior": "counter.Counter", "schema": 1, "parents": [2, 3], "slots": { "count": 3, "n": "x" },
            "tid": 11, "version": 2,
        });
        assert_eq!(
            super::object(&object),
            "id        7\nbehavior  counter.Counter (schema 1)\nversion   2, of transaction 11\nparents   2, 3\n\
             slots\n  count  3\n  n      \"x\"\n"
        );
    }

    #[test]
    fn transactions_show_what_came_of_them() {
        let mut line = json!({
            "tid": 12, "time_us": 0, "target": 7, "method": "increment", "arguments": [5], "result": 10, "error": null,
        });
        assert_eq!(transaction(&line), "      12  1970-01-01T00:00:00.000000Z       7  increment [5] -> 10\n");
        line["target"] = Json::Null;
        line["arguments"] = Json::Null;
        line["error"] = json!({ "code": "refused", "kind": "overdraft", "message": "too little" });
        assert_eq!(
            transaction(&line),
            "      12  1970-01-01T00:00:00.000000Z    host  increment FAILED refused/overdraft: too little\n"
        );
    }

    #[test]
    fn a_plan_says_what_cannot_be_undone() {
        let plan = json!({
            "kind": "swap", "reasons": [], "plugins": [{
                "name": "counter", "from": null, "to": "0123456789abcdef", "version": "2.0.0", "reversible": false,
                "migrations": [{ "behavior": "counter.Counter", "from": 1, "to": 2, "objects": 3 }],
            }],
        });
        let text = super::plan(&plan);
        assert!(text.starts_with("swap in the live host\ncounter 2.0.0: new -> 0123456789ab\n"), "{text}");
        assert!(text.contains("schema 1 -> 2, 3 objects") && text.contains("cannot be undone"), "{text}");
    }

    #[test]
    fn progress_fits_one_line_whatever_the_numbers() {
        for (done, total) in [(0, 0), (0, 10), (5, 10), (10, 10), (u64::MAX, u64::MAX)] {
            let line = progress(done, total, Some(done), Duration::from_secs(2));
            assert!(line.chars().count() < 79 && !line.contains('\n'), "{line}");
        }
        assert!(progress(5, 10, None, Duration::from_secs(2)).contains(" 50 %  2 s left"));
        for (done, total, ms) in [(1, 1_000_000, 100), (1, 1_000_000, 5_000), (5, 10, 100)] {
            let line = progress(done, total, Some(done), Duration::from_millis(ms));
            assert!(!line.contains("left"), "so early nobody can tell: {line}");
        }
    }
}
