//! What goes on without end, for a few seconds: `scripts/soak` does the same for longer.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use serde_json::Value as Json;
use theseus_tests::{artifacts, home::finish};

#[test]
fn hundreds_of_swaps_under_load_lose_nothing_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = artifacts::plugin("counter");
    let mut soak = Command::new(artifacts::voyage());
    soak.args(["soak-swap", "--swaps", "200", "--warm-up", "50", "--rate", "400", "--touch", "--theseus"])
        .arg(artifacts::theseus())
        .arg("--plugins")
        .arg(plugins.parent().unwrap())
        .arg("--folder")
        .arg(folder.path().join("soak"));
    let output = finish(&mut soak).succeeded();
    let report: Json = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["swaps"], 250);
    // Each swap and each increment is one transaction.
    let answered = report["load"]["answered"].as_u64().unwrap();
    assert!(answered > 0, "the load covers the swaps");
    assert!(report["verified_transactions"].as_u64().unwrap() >= 250 + answered);
}

#[test]
fn dozens_of_crashes_lose_nothing_and_do_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = artifacts::plugin("counter");
    let mut soak = Command::new(artifacts::voyage());
    soak.args(["soak-crash", "--rounds", "40", "--verify-every", "10", "--theseus"])
        .arg(artifacts::theseus())
        .arg("--plugins")
        .arg(plugins.parent().unwrap())
        .arg("--folder")
        .arg(folder.path());
    let output = finish(&mut soak).succeeded();
    let report: Json = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert_eq!(report["problems"], serde_json::json!([]));
    assert_eq!(report["rounds"], 40);
    for what in ["at_start", "answered", "broken", "repeated", "posted", "ticks", "held"] {
        assert!(report[what].as_u64().unwrap() > 0, "{what}: {report}");
    }
    for what in ["swaps", "collections", "collected"] {
        assert!(report["operated"][what].as_u64().unwrap() > 0, "{what}: {report}");
    }
}
