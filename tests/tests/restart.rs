//! The restart cycle with the real watchdog and real hosts: the way to a new release, the way back, and crashes.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use theseus_tests::{Home, Json, Watched, artifacts, home::document, json, load::Load, until, watched::bundle};

/// Little patience with hosts that do not work, so that the tests are quick.
const OPTIONS: &[&str] = &["--health-window-s=10", "--tries=2", "--stop-timeout-s=20", "--start-timeout-s=20"];

/// A home under a watchdog, with the counter `visits`.
fn watched() -> (Home, Watched) {
    let home = Home::new();
    let watched = Watched::start(&home, OPTIONS);
    home.swap(&[&artifacts::plugin("counter")]);
    watched.client().create("counter.Counter", "visits");
    (home, watched)
}

/// A bundle with another host than the one that runs, which does the same.
fn next_release(home: &Home, version: &str, epoch: u64, plugins: &[&Path]) -> PathBuf {
    let host = home.beside("next-theseus");
    artifacts::altered_copy(&artifacts::theseus(), &host, version);
    let folder = home.beside(version);
    bundle(&folder, version, epoch, Some(&host), plugins);
    folder
}

/// A bundle whose host is a script.
fn scripted_release(home: &Home, version: &str, script: &str) -> PathBuf {
    let host = home.beside("scripted-theseus");
    fs::write(&host, script).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = home.beside(version);
    bundle(&folder, version, 1, Some(&host), &[]);
    folder
}

/// Asks for a bundle to be applied; gives the restart cycle's id.
fn apply(home: &Home, folder: &Path, reason: &str) -> String {
    let applied = home.json(&["apply", folder.to_str().unwrap(), "--reason", reason]);
    assert_eq!(applied["swapped"], Json::Null);
    applied["requested"].as_str().unwrap().to_owned()
}

/// The methods of the host's own transactions from the request of the cycle on, without swaps.
fn doings_since_request(home: &Home) -> Vec<(String, u64)> {
    let lines = home.lines(&["history"]);
    let start = lines.iter().rposition(|line| line["method"] == "theseus.update").unwrap();
    let own = lines[start..].iter().filter(|line| line["target"].is_null() && line["method"] != "theseus.swap");
    own.map(|line| (line["method"].as_str().unwrap().to_owned(), line["incarnation"].as_u64().unwrap())).collect()
}

fn read(file: &Path) -> Json {
    document(&fs::read_to_string(file).unwrap())
}

fn release_in_force(home: &Home) -> PathBuf {
    fs::canonicalize(home.file("releases/current")).unwrap()
}

#[test]
fn a_whole_cycle_brings_in_the_new_release_and_refuses_nobody() {
    let (home, watched) = watched();
    let folder = next_release(&home, "2.0.0", 1, &[&artifacts::plugin("counter-v2")]);
    let plan = home.json(&["plan", folder.to_str().unwrap()]);
    assert_eq!(plan["kind"], "restart", "{plan}");
    assert!(plan["reasons"][0].as_str().unwrap().contains("another host binary"), "{plan}");
    let (before, old) = (home.json(&["status"]), release_in_force(&home));
    let load = Load::start(watched.address(), "visits", 4);
    thread::sleep(Duration::from_millis(200));

    let id = apply(&home, &folder, "a test");
    let outcome = watched.outcome(&home, &id);
    assert_eq!(outcome["event"], "confirmed", "{outcome}");
    watched.incarnation(&home, 2);
    until("the release's plugin", || home.json(&["plugins"])["plugins"][0]["version"] == "2.0.0");
    thread::sleep(Duration::from_millis(200));

    let report = load.finish();
    assert_eq!(report.refused, 0, "no connection is refused");
    assert!(report.longest < Duration::from_secs(20), "nobody waits long: {:?}", report.longest);
    let count = watched.client().call("visits", "count", &json!([])).as_i64().unwrap();
    report.assert_exactly_once(count);

    let after = home.json(&["status"]);
    assert_eq!(after["identity"], before["identity"]);
    assert_eq!((&after["incarnation"], &after["update"]), (&json!(2), &Json::Null));
    assert_eq!(after["http"], before["http"], "the address is the same");
    let expected = [("theseus.update", 1), ("theseus.stop", 1), ("theseus.start", 2), ("theseus.confirmed", 2)];
    assert_eq!(doings_since_request(&home), expected.map(|(method, incarnation)| (method.to_owned(), incarnation)));
    let requested = home.transactions("theseus.update").pop().unwrap()["arguments"].clone();
    assert_eq!((&requested["id"], &requested["reason"]), (&json!(id), &json!("a test")));
    assert_ne!(release_in_force(&home), old);
    assert_eq!(release_in_force(&home), fs::canonicalize(home.file("releases/good")).unwrap());
    let host = watched.host().unwrap();
    assert!(fs::read_link(format!("/proc/{host}/exe")).unwrap().starts_with(release_in_force(&home)));

    // The old and the new host are links of one chain: the handoff is in it, and the confirmation.
    let handoff = read(&home.file("update/handoff").join(&id));
    let stop = home.transactions("theseus.stop").pop().unwrap();
    assert_eq!((&handoff["tid"], &handoff["identity"]), (&stop["tid"], &after["identity"]));
    watched.stop();
    home.verify();
}

#[test]
fn a_release_that_does_not_start_is_rolled_back_and_the_old_one_goes_on() {
    let (home, watched) = watched();
    let mut client = watched.client();
    client.call("visits", "increment", &json!([7]));
    let (identity, old) = (home.json(&["status"])["identity"].clone(), release_in_force(&home));
    let folder = scripted_release(&home, "broken", "#!/bin/sh\nexit 1\n");
    let load = Load::start(watched.address(), "visits", 2);
    let id = apply(&home, &folder, "it is broken");
    let outcome = watched.outcome(&home, &id);
    assert_eq!(outcome["event"], "rolled_back", "{outcome}");
    assert!(!outcome["reason"].as_str().unwrap().is_empty(), "{outcome}");
    let status = watched.incarnation(&home, 2);
    assert_eq!(status["identity"], identity);
    let report = load.finish();
    assert_eq!(report.refused, 0);
    assert_eq!(report.failures, Vec::<String>::new());
    let mut client = watched.client();
    let count = client.call("visits", "count", &json!([])).as_i64().unwrap();
    assert_eq!(count, 7 + report.counts.len() as i64);
    assert_eq!(release_in_force(&home), old);
    let expected = [("theseus.update", 1), ("theseus.stop", 1), ("theseus.start", 2)];
    assert_eq!(doings_since_request(&home), expected.map(|(method, incarnation)| (method.to_owned(), incarnation)));
    assert_eq!(fs::read_dir(home.file("update/quarantine")).unwrap().count(), 1);

    // It is not tried again, and another one is.
    let id = apply(&home, &folder, "once more");
    assert_eq!(watched.outcome(&home, &id)["event"], "refused");
    assert_eq!(home.json(&["status"])["incarnation"], 2, "the host was not touched");
    let id = apply(&home, &next_release(&home, "2.0.0", 1, &[]), "a good one");
    assert_eq!(watched.outcome(&home, &id)["event"], "confirmed");
    watched.stop();
    home.verify();
}

#[test]
fn a_release_that_starts_and_says_nothing_is_rolled_back() {
    let home = Home::new();
    let watched = Watched::start(&home, &["--health-window-s=1", "--tries=1"]);
    let id = apply(&home, &scripted_release(&home, "silent", "#!/bin/sh\nexec sleep 600\n"), "it sleeps");
    let outcome = watched.outcome(&home, &id);
    assert_eq!(outcome["event"], "rolled_back", "{outcome}");
    watched.incarnation(&home, 2);
    watched.stop();
    home.verify();
}

#[test]
fn a_killed_host_is_back_soon_and_has_lost_nothing() {
    let (home, watched) = watched();
    let load = Load::start(watched.address(), "visits", 4);
    let mut slowest = Duration::ZERO;
    for crash in 1..=4 {
        thread::sleep(Duration::from_millis(300));
        let killed = Instant::now();
        let host = watched.kill_host();
        watched.incarnation(&home, crash + 1);
        slowest = slowest.max(killed.elapsed());
        assert_ne!(watched.host(), Some(host));
    }
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let report = load.finish();
    assert_eq!(report.refused, 0, "the watchdog holds the socket");
    let count = watched.client().call("visits", "count", &json!([])).as_i64().unwrap();
    report.assert_exactly_once(count);
    assert_eq!(watched.host().map(|_| ()), Some(()));
    watched.stop();
    home.verify();
}

#[test]
fn a_host_that_is_killed_in_the_middle_of_a_cycle_does_not_stop_it() {
    let (home, watched) = watched();
    watched.client().call("visits", "increment", &json!([3]));
    let id = apply(&home, &next_release(&home, "2.0.0", 1, &[]), "a test");
    watched.kill_host();
    let outcome = watched.outcome(&home, &id);
    assert_eq!(outcome["event"], "confirmed", "{outcome}");
    until("an answer", || home.cli(&["call", "visits", "count"]).code == 0);
    assert_eq!(home.run(&["call", "visits", "count"]), "3");
    watched.stop();
    home.verify();
}

#[test]
fn a_plugin_sets_the_cycle_in_motion() {
    let home = Home::new();
    let watched = Watched::start(&home, OPTIONS);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = watched.client();
    let object = client.create("troublemaker.Trouble", "one");
    let folder = next_release(&home, "2.0.0", 1, &[]);

    // A transaction that fails has asked for nothing.
    client.post("/v1/objects/one/renew_and_burst", &json!([folder])).problem(500, "panicked");
    assert_eq!(home.transactions("theseus.update"), Vec::<Json>::new());

    client.call("one", "renew", &json!([folder]));
    until("the request in the history", || home.cli(&["history", "--json"]).stdout.contains("\"theseus.update\""));
    let requested = home.transactions("theseus.update").pop().unwrap()["arguments"].clone();
    assert_eq!(requested["requested_by"], format!("object {object}"));
    assert_eq!(requested["reason"], "the troublemaker wants it");
    let outcome = watched.outcome(&home, requested["id"].as_str().unwrap());
    assert_eq!(outcome["event"], "confirmed", "{outcome}");
    watched.incarnation(&home, 2);
    assert_eq!(home.json(&["get", "one"])["slots"]["count"], 1);
    watched.stop();
    home.verify();
}

#[test]
fn a_bundle_of_plugins_alone_is_swapped_in_the_live_host() {
    let (home, watched) = watched();
    let folder = home.beside("plugins-only");
    bundle(&folder, "1.1.0", 1, None, &[&artifacts::plugin("counter-v2"), &artifacts::plugin("ledger")]);
    assert_eq!(home.json(&["plan", folder.to_str().unwrap()])["kind"], "swap");
    let applied = home.json(&["apply", folder.to_str().unwrap()]);
    assert_eq!(applied["requested"], Json::Null);
    assert_eq!(applied["swapped"]["plugins"].as_array().unwrap().len(), 2);
    until("the old plugin to be unloaded", || home.json(&["plugins"])["plugins"].as_array().unwrap().len() == 2);
    assert_eq!(home.json(&["status"])["incarnation"], 1, "the host is the same");
    assert_eq!(home.json(&["plan", folder.to_str().unwrap()])["kind"], "nothing");

    // With the very host that runs it is no different.
    let folder = home.beside("same-host");
    bundle(&folder, "1.2.0", 1, Some(&artifacts::theseus()), &[&artifacts::plugin("ledger")]);
    assert_eq!(home.json(&["plan", folder.to_str().unwrap()])["kind"], "nothing");
    watched.stop();
    home.verify();
}

#[test]
fn what_is_no_bundle_is_refused_and_nothing_happens() {
    let (home, watched) = watched();
    let good = next_release(&home, "2.0.0", 1, &[]);
    let before = home.tid();
    let empty = home.beside("empty");
    fs::create_dir(&empty).unwrap();
    let damaged = |name: &str, change: &dyn Fn(&mut Json)| {
        let folder = home.beside(name);
        bundle(&folder, name, 1, Some(&artifacts::theseus()), &[]);
        let mut manifest = read(&folder.join("bundle.json"));
        change(&mut manifest);
        fs::write(folder.join("bundle.json"), manifest.to_string()).unwrap();
        folder
    };
    for folder in [
        empty,
        damaged("schema", &|manifest| manifest["schema"] = json!(7)),
        damaged("escape", &|manifest| manifest["plugins"] = json!(["../home/theseus.toml"])),
        damaged("missing", &|manifest| manifest["plugins"] = json!(["plugins/nothing.so"])),
        damaged("place", &|manifest| manifest["host"] = json!("theseus")),
    ] {
        let message = home.cli(&["apply", folder.to_str().unwrap()]).failed(4);
        assert!(message.starts_with("theseus: plan_refused: "), "{}: {message}", folder.display());
    }
    assert_eq!(home.tid(), before);

    // An older epoch than the one in force is refused by the watchdog, beside a host that goes on.
    let id = apply(&home, &good, "first");
    assert_eq!(watched.outcome(&home, &id)["event"], "confirmed");
    watched.incarnation(&home, 2);
    let id = apply(&home, &next_release(&home, "1.9.0", 0, &[]), "older");
    let outcome = watched.outcome(&home, &id);
    assert_eq!(outcome["event"], "refused", "{outcome}");
    assert_eq!(home.json(&["status"])["incarnation"], 2);
    watched.stop();
    home.verify();
}

#[test]
fn a_cycle_that_is_interrupted_anywhere_ends_in_one_of_the_two_releases() {
    let (home, mut watched) = watched();
    let listen = format!("--listen={}", watched.address());
    let mut count = 0;
    let mut confirmed = 0;
    for (round, delay_ms) in [0, 15, 40, 80, 150, 300].into_iter().enumerate() {
        count += 1;
        assert_eq!(watched.client().call("visits", "increment", &json!([1])), count);
        let id = apply(&home, &next_release(&home, &format!("round-{round}"), round as u64 + 1, &[]), "interrupted");
        thread::sleep(Duration::from_millis(delay_ms));
        watched.kill();
        watched = Watched::start(&home, &[OPTIONS, &[&listen]].concat());
        let outcome = watched.outcome(&home, &id);
        let event = outcome["event"].as_str().unwrap();
        assert!(event == "confirmed" || event == "rolled_back", "{outcome}");
        confirmed += u32::from(event == "confirmed");
        until("an answer", || home.cli(&["call", "visits", "count"]).code == 0);
        assert_eq!(home.run(&["call", "visits", "count"]), count.to_string());
        let good = fs::canonicalize(home.file("releases/good")).unwrap();
        assert_eq!(release_in_force(&home), good, "after {event}");
        home.verify();
    }
    assert!(confirmed > 0, "an interruption costs a try, not the update");
    watched.stop();
    home.verify();
    let update = home.transactions("theseus.update").len();
    assert_eq!(update, 6, "each cycle was requested once");
}

#[test]
fn a_damaged_identity_is_held_and_neither_repaired_nor_tried_forever() {
    let (home, watched) = watched();
    watched.stop();
    let history = home.file("identity/history/data.mdb");
    let whole = fs::read(&history).unwrap();
    let garbage = vec![0xa5; whole.len()];
    fs::write(&history, &garbage).unwrap();
    let mut watchdog = Watched::spawn(&home, OPTIONS);
    assert_eq!(watchdog.wait().code(), Some(3), "{}", watchdog.log());
    let reason = fs::read_to_string(home.file("update/held")).unwrap();
    assert!(!reason.trim().is_empty(), "it says why");
    assert_eq!(fs::read(&history).unwrap(), garbage, "nobody has touched it");
    assert_eq!(Watched::spawn(&home, OPTIONS).wait().code(), Some(3), "and it stays so");

    // An operator puts it right.
    fs::write(&history, &whole).unwrap();
    assert!(home.run(&["resume"]).contains(reason.trim()));
    let watched = Watched::start(&home, OPTIONS);
    assert_eq!(watched.client().call("visits", "count", &json!([])), 0);
    watched.stop();
    home.verify();
}

/// Whoever signals a whole process group, as supervisors do, reaches the watchdog more than once with one request.
#[test]
fn a_request_to_stop_that_arrives_twice_still_ends_in_order() {
    let (home, watched) = watched();
    // A connection that is kept open: the host takes a moment to drain it.
    let mut client = watched.client();
    client.call("visits", "count", &json!([]));
    watched.stop_twice();
    assert_eq!(home.transactions("theseus.stop").len(), 1, "the host has written its stop");
    assert_eq!(home.verify()["whole"], json!(true));
}
