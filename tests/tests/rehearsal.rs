//! Recorded transactions are executed again with plugins that are not in force, and what would change is told.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value as Json, json};
use theseus_tests::{Home, Host, artifacts, fixtures};

fn rehearse(home: &Home, file: &Path, options: &[&str]) -> Json {
    let output = home.cli(&[&["rehearse", file.to_str().unwrap(), "--json"], options].concat());
    // A report with errors ends with the code for a refusal, because a swap would be refused.
    let report: Json = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.code, if report["counts"]["error"] == 0 { 0 } else { 4 }, "{output:?}");
    report
}

fn act(home: &Home, object: &str, how: &str) {
    let output = home.cli(&["call", object, "act", &json!([how]).to_string()]);
    let refused = how.starts_with("refuse") || how == "allow";
    assert_eq!(output.code, i32::from(refused), "{output:?}");
}

/// The transactions that a report tells about, by what was asked for.
fn told(report: &Json) -> BTreeMap<String, Json> {
    let differences = report["differences"].as_array().unwrap().iter();
    differences.map(|it| (it["arguments"][0].as_str().unwrap_or("new").to_owned(), it.clone())).collect()
}

#[test]
fn each_way_in_which_it_can_come_out_is_told() {
    let home = Home::with_settings("[execution]\ncall_deadline_ms = 500\n");
    let _host = Host::start(&home);
    let (present, next) = fixtures::rehearsed();
    home.swap(&[&present]);
    home.run(&["new", "rehearsed.Actor", "a"]);
    let same = ["plain", "chance", "create", "refuse", "create"];
    let otherwise = [
        ("note", "different_writes"),
        ("result", "different_result"),
        ("refuse otherwise", "different_result"),
        ("allow", "different_result"),
        ("uncertain", "not_reproducible"),
        ("dawdle", "slower"),
        ("fail", "error"),
        ("panic", "error"),
        ("exit", "error"),
        ("crash", "error"),
        ("hang", "error"),
    ];
    same.iter().for_each(|how| act(&home, "a", how));
    otherwise.iter().for_each(|(how, _)| act(&home, "a", how));
    same.iter().for_each(|how| act(&home, "a", how));
    let before = home.tid();

    let report = rehearse(&home, &next, &[]);
    assert_eq!(home.tid(), before, "a rehearsal leaves no trace");
    let told = told(&report);
    let classes: Vec<_> = otherwise.iter().map(|(how, _)| (*how, told[*how]["class"].as_str().unwrap())).collect();
    assert_eq!(classes, otherwise, "{report:#}");
    assert_eq!(told.len(), otherwise.len(), "{report:#}");
    let counts = json!({ "same": 11, "slower": 1, "different_writes": 1, "different_result": 3, "not_reproducible": 1,
        "error": 5, "skipped": 0 });
    assert_eq!(report["counts"], counts);
    assert_eq!((&report["transactions"], &report["end"]), (&json!(22), &json!("beginning")));
    assert_eq!(report["behaviors"], json!(["rehearsed.Actor"]));

    // Side by side: the note's place within the object, the results, and what ended the process.
    let note = &told["note"]["changes"];
    assert_eq!(note.as_array().unwrap().len(), 1, "what was only migrated does not count: {note:#}");
    assert_eq!((&note[0]["name"], &note[0]["path"]), (&json!("a"), &json!("slots.notes[0]")));
    let count = |text: &Json| text.as_str().unwrap().split(' ').next_back().unwrap().parse::<i64>().unwrap();
    assert_eq!(count(&note[0]["recorded"]), count(&note[0]["offered"]));
    let result = &told["result"];
    assert_eq!(result["offered"], json!({ "ok": true, "result": -1, "error": null }));
    assert_eq!(result["recorded"]["result"], result["changes"][0]["recorded"]);
    assert_eq!(told["allow"]["recorded"]["error"]["kind"], "unwilling");
    assert_eq!(told["allow"]["offered"]["ok"], true);
    let reason = |how: &str| told[how]["reason"].as_str().unwrap();
    assert!(reason("panic").contains("the new version panics"), "{}", reason("panic"));
    assert!(reason("fail").contains("cannot do this"), "{}", reason("fail"));
    assert!(reason("crash").contains("SIGABRT"), "{}", reason("crash"));
    assert!(reason("hang").contains("did not come to an end"), "{}", reason("hang"));
    assert!(report["restarts"].as_u64().unwrap() >= 3);

    // A swap that rehearses is refused for the errors, and says so; without, it takes place.
    let refusal = home.cli(&["swap", next.to_str().unwrap(), "--rehearse", "100"]).failed(4);
    assert!(refusal.contains("5 of 22 rehearsed transactions fail"), "{refusal}");
    assert_eq!(home.tid(), before);
    // The last five came out the same, so nothing speaks against it.
    let swapped = home.json(&["swap", next.to_str().unwrap(), "--rehearse", "5"]);
    assert_eq!(swapped["rehearsal"]["counts"]["same"], 5);
    assert!(swapped["stages_us"]["rehearse"].as_u64().is_some());

    // The way back: what the new version wrote is turned back by it, as it would be after the swap.
    act(&home, "a", "plain");
    let back = rehearse(&home, &present, &["--last", "1"]);
    assert_eq!(back["counts"]["same"], 1, "{back:#}");
    home.verify();
}

/// Objects, names and ids are those of the past, however little of it is rehearsed and whatever became of them since.
#[test]
fn each_transaction_meets_its_own_past() {
    let home = Home::with_settings("[identity]\ntail_transactions_max = 8\n");
    let host = Host::start(&home);
    let (present, next) = fixtures::rehearsed();
    home.swap(&[&present, &artifacts::plugin("counter")]);
    home.run(&["new", "rehearsed.Actor", "a"]);
    home.run(&["new", "rehearsed.Actor", "b"]);
    home.run(&["new", "counter.Counter", "visits"]);
    for turn in 0..4 {
        for how in ["create", "plain", "chance"] {
            act(&home, "a", how);
            home.run(&["call", "visits", "increment", "1"]);
            act(&home, "b", how);
        }
        // The name becomes free, and `b` takes it for another object.
        let child = format!("child/{}", 3 * turn + 1);
        let exists = home.cli(&["delete", &child]);
        assert!(exists.code == 0 || exists.code == 1, "{exists:?}");
        act(&home, "b", "create");
    }
    host.stop();
    let _host = Host::start(&home);
    for last in ["1", "2", "5", "9", "17", "100"] {
        let report = rehearse(&home, &next, &["--last", last]);
        let transactions = last.parse::<u64>().unwrap().min(30);
        assert_eq!(report["transactions"], json!(transactions), "{report:#}");
        assert_eq!(report["counts"]["same"], report["transactions"], "{report:#}");
        assert_eq!(report["end"], if last == "100" { "beginning" } else { "enough" });
    }
    // The counter's own doings concern no actor, and looking for them has a bound.
    let report = rehearse(&home, &artifacts::plugin("counter-v2"), &["--last", "100"]);
    assert_eq!((&report["transactions"], &report["behaviors"]), (&json!(13), &json!(["counter.Counter"])));
    let text = home.run(&["rehearse", next.to_str().unwrap()]);
    assert!(text.starts_with("30 transactions of rehearsed.Actor executed again"), "{text}");
}

#[test]
fn the_search_for_transactions_is_bounded() {
    let home = Home::with_settings("[plugins]\nrehearsal_transactions_max = 5\n");
    let host = Host::start(&home);
    let (present, next) = fixtures::rehearsed();
    home.swap(&[&present]);
    home.run(&["new", "rehearsed.Actor", "a"]);
    for _ in 0..10 {
        act(&home, "a", "create");
    }
    let text = home.run(&["rehearse", present.to_str().unwrap()]);
    assert_eq!(text, "nothing to rehearse: no behaviour would change, what is offered is in force");
    let report = rehearse(&home, &next, &["--last", "100"]);
    assert_eq!((&report["end"], &report["limit"]), (&json!("looked_at"), &json!(5)));
    assert_eq!(report["transactions"], json!(5));
    assert_eq!(report["counts"]["same"], json!(5), "{report:#}");
    // Control is not for applications, and what cannot be accepted is not rehearsed.
    let application = host.client().send("POST", "/v1/rehearse", &[], b"{}").unwrap();
    assert_eq!(application.status, 403);
    home.cli(&["rehearse", artifacts::theseus().to_str().unwrap()]).failed(4);
}

/// Rehearsing the second rule for alerts on flights that were taken in with the first names exactly those for which an
/// independent computation of both rules says that an alert would be raised or not.
#[test]
fn the_second_rule_for_alerts_changes_what_an_independent_computation_says() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("flights")]);
    let file = match std::env::var_os("FLIGHTS") {
        Some(path) => path.into(),
        None => artifacts::checkout().join("plugins/flights/data/flights-excerpt.csv.gz"),
    };
    let mut feed = Command::new(artifacts::voyage());
    feed.args(["feed", "--to", &host.address().to_string()]).arg(&file).stderr(Stdio::null());
    assert!(feed.status().unwrap().success());

    // All flights take a while without optimisation.
    let last = if cfg!(debug_assertions) { "1000" } else { "1000000" };
    let report = rehearse(&home, &artifacts::plugin("flights-v2"), &["--last", last, "--all-differences"]);
    let lines = home.transactions("record").len() as u64;
    let first_line = lines + 2 - report["methods"]["flights.Board.record"]["transactions"].as_u64().unwrap();
    let mut differences = Command::new(artifacts::voyage());
    let mut differences = differences.arg("differences").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    differences.stdin.take().unwrap().write_all(report.to_string().as_bytes()).unwrap();
    let found = differences.wait_with_output().unwrap();
    assert!(found.status.success());
    let found: BTreeSet<String> = String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    let figures = artifacts::checkout().join("scripts/flights-figures");
    let expected = Command::new(figures).arg(&file).arg("rehearsal").stderr(Stdio::inherit()).output().unwrap();
    assert!(expected.status.success());
    let expected = String::from_utf8(expected.stdout).unwrap();
    let line = |of: &str| of.split('\t').next().unwrap().parse::<u64>().unwrap();
    let expected: BTreeSet<String> = expected.lines().filter(|it| line(it) >= first_line).map(str::to_owned).collect();
    assert!(expected.len() > 100, "the file is too short");
    let missing: Vec<_> = expected.difference(&found).take(5).collect();
    let surplus: Vec<_> = found.difference(&expected).take(5).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}, surplus: {surplus:#?}");
    let count = |class: &str| report["counts"][class].as_u64().unwrap();
    assert_eq!((count("error"), count("not_reproducible"), count("skipped")), (0, 0, 0), "{}", report["counts"]);
    let as_before = count("same") + count("slower");
    assert_eq!(as_before + expected.len() as u64, report["transactions"].as_u64().unwrap());
}
