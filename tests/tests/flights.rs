//! The main job on real input: the flights are taken in over HTTP, in order, through a swap, and the figures are those of an
//! independent computation.
//!
//! Takes the excerpt that the project ships, or the file that `FLIGHTS` names.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::json;
use theseus_tests::{Home, Host, artifacts};

/// The flights to take in.
fn flights() -> PathBuf {
    match std::env::var_os("FLIGHTS") {
        Some(path) => path.into(),
        None => artifacts::checkout().join("plugins/flights/data/flights-excerpt.csv.gz"),
    }
}

fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn voyage(arguments: &[&str]) -> Command {
    let mut command = Command::new(artifacts::voyage());
    command.args(arguments);
    command
}

/// What the independent computation finds, by the rule of version 1 or with that of version 2 from a line on.
fn expected(rule: &str) -> String {
    output(Command::new(artifacts::checkout().join("scripts/flights-figures")).arg(flights()).arg(rule))
}

#[test]
fn the_figures_are_those_of_an_independent_computation() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("flights")]);
    let address = host.address().to_string();
    let file = flights();
    output(voyage(&["feed", "--to", &address]).arg(&file));
    assert_eq!(output(&mut voyage(&["figures", "--to", &address])), expected("v1"));

    // Taking the file in again changes nothing: every line was executed once.
    let tid = home.tid();
    output(voyage(&["feed", "--to", &address]).arg(&file));
    assert_eq!(home.tid(), tid);
    assert_eq!(output(&mut voyage(&["figures", "--to", &address])), expected("v1"));

    // The history knows which file executed the events.
    let digest = home.json(&["plugins"])["plugins"][0]["digest"].clone();
    let events = host.client().get("/v1/history?from=3&limit=20").lines();
    let recorded = events.iter().find(|event| event["method"] == "record").expect("an event in the history");
    assert_eq!(recorded["executed_by"], json!({"plugin": "flights", "digest": digest}));
    host.stop();
    assert_eq!(home.verify()["whole"], json!(true));
}

/// With version 2 swapped in between, the rule changes from that event on, and everything counted before is carried over.
#[test]
fn a_swap_in_the_middle_changes_the_rule_and_keeps_the_figures() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("flights")]);
    let address = host.address().to_string();
    let mut feed = voyage(&["feed", "--to", &address]).arg(flights()).stderr(Stdio::null()).spawn().unwrap();
    theseus_tests::until("a part of the flights is taken in", || home.tid() > 1_000);
    home.swap(&[&artifacts::plugin("flights-v2")]);
    assert!(feed.wait().unwrap().success());

    let swap = home.transactions("theseus.swap").pop().unwrap();
    let from = swap["tid"].as_u64().unwrap();
    let first = host.client().get(&format!("/v1/history?from={from}&limit=50")).lines();
    let first = first.iter().find(|event| event["method"] == "record");
    let rule = match first {
        // The request id of an event is `flight-` and its line in the file.
        Some(event) => event["request_id"].as_str().unwrap().strip_prefix("flight-").unwrap().to_owned(),
        None => panic!("all events were taken in before the swap: the file is too short"),
    };
    assert_eq!(output(&mut voyage(&["figures", "--to", &address])), expected(&rule));
    host.stop();
    assert_eq!(home.verify()["whole"], json!(true));
}
