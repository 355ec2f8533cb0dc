//! A candidate is tried in a process of its own before the host loads it: whatever it does there, the host goes on.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use theseus_tests::{Client, Home, Host, Json, artifacts, fixtures, json, process, until};

/// Limits that are soon reached.
const SETTINGS: &str = "[plugins]\nprobe_ms_max = 2000\nprobe_memory_bytes_max = 536870912\n";

/// A host with the well-behaved plugin, and objects of it: `e0`, `e1` ... with these counts.
fn struck(counts: &[usize]) -> (Home, Host, Client) {
    let home = Home::with_settings(SETTINGS);
    let host = Host::start_with(&home, |command| _ = command.env("THESEUS_FIXTURE_TOUCH", home.beside("touched")));
    home.swap(&[&fixtures::enemy("well")]);
    let mut client = host.client();
    for (number, count) in counts.iter().enumerate() {
        let name = format!("e{number}");
        client.create("enemy.Enemy", &name);
        for _ in 0..*count {
            client.call(&name, "strike", &json!([]));
        }
    }
    (home, host, client)
}

/// A swap that has to be refused, and leaves everything as it was, with the host's own log saying nothing worse.
fn refused(home: &Home, host: &Host, file: &Path, says: &[&str]) {
    let before = (host.client().tid(), home.json(&["plugins"]));
    let message = home.cli(&["swap", "--irreversible", file.to_str().unwrap()]).failed(4);
    for text in says {
        assert!(message.contains(text), "{}: {message}", file.display());
    }
    assert!(message.starts_with("theseus: plugin_refused: "), "{message}");
    assert_eq!((host.client().tid(), home.json(&["plugins"])), before, "{}", file.display());
    assert_eq!(process::plugin_images(host.pid()), 1);
    assert_eq!(children(host.pid()), "", "its process is gone, and was waited for");
}

/// The processes that a process has started and not waited for.
fn children(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default()).collect()
}

fn swap(home: &Home, file: &Path) -> Json {
    home.json(&["swap", "--irreversible", file.to_str().unwrap()])
}

fn warnings(swapped: &Json) -> Vec<String> {
    let warnings = swapped["probes"][0]["warnings"].as_array().unwrap();
    warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_does_not_come_back_is_refused_with_its_cause() {
    let (home, host, mut client) = struck(&[3]);
    let before = Instant::now();
    for (enemy, says) in [
        ("segfault_in_init", &["at init", "crashed with SIGSEGV"][..]),
        ("exit_in_init", &["at init", "exit code 0"]),
        ("panic_in_init", &["at init", "crashed with SIGABRT", "no start today"]),
        ("hang_in_init", &["at init", "within 2000 ms", "plugins.probe_ms_max"]),
        ("allocate_in_init", &["at init", "ran out of memory", "plugins.probe_memory_bytes_max"]),
        ("exit_in_self_test", &["at self_test", "exit code 0"]),
        ("panic_in_self_test", &["at self_test", "panicked"]),
        ("hang_in_self_test", &["at self_test", "within 2000 ms"]),
        (
            "print_in_self_test",
            &["at self_test", "more than 1048576 bytes", "a dull plugin", "plugins.probe_output_bytes_max"],
        ),
        ("stray_write_in_self_test", &["at self_test", "what is no answer"]),
        ("garbage_from_construct", &["at construct enemy.Enemy", "deterministic CBOR"]),
        ("hang_in_migrate", &["at migrate object 1 of enemy.Enemy from 1", "within 2000 ms"]),
        ("panic_in_migrate", &["at migrate object 1 of enemy.Enemy from 1", "panicked"]),
        ("garbage_from_migrate", &["at migrate object 1 of enemy.Enemy from 1", "deterministic CBOR"]),
        ("hang_in_retire", &["at retire", "within 2000 ms"]),
        ("misread_migration", &["at migrate object 1 of enemy.Enemy from 1", "with each of 1 objects", "bad_slots"]),
    ] {
        refused(&home, &host, &fixtures::enemy(enemy), says);
    }
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    assert_eq!(client.call("e0", "strike", &json!([])), 4, "the host goes on");
    host.stop();
    home.verify();
}

#[test]
fn what_reaches_out_is_refused() {
    let (home, host, _) = struck(&[]);
    refused(&home, &host, &fixtures::enemy("file_in_init"), &["at load", "no file for me", "Permission denied"]);
    assert!(!home.beside("touched").exists());
    refused(&home, &host, &fixtures::enemy("socket_in_self_test"), &["at self_test", "Operation not permitted"]);
    refused(&home, &host, &fixtures::enemy("thread_in_self_test"), &["1 threads running (`straggler`)", "`threads`"]);
    host.stop();
}

#[test]
fn real_objects_are_migrated_and_turned_back() {
    let (home, host, mut client) = struck(&[0, 1, 2, 3]);
    let odd = swap(&home, &fixtures::enemy("refuses_odd_objects"));
    assert_eq!(odd["probes"][0]["samples"], 4);
    let [warning] = &warnings(&odd)[..] else { panic!("{odd}") };
    assert!(warning.starts_with("2 of 4 objects of enemy.Enemy in version 1 do not migrate"), "{warning}");
    assert!(warning.contains("is odd"), "{warning}");
    assert_eq!(client.call("e2", "strike", &json!([])), 3, "those that can do");
    host.stop();

    let (home, host, _) = struck(&[0, 5]);
    let lossy = swap(&home, &fixtures::enemy("lossy_migration"));
    assert_eq!(
        warnings(&lossy),
        ["turned back to version 1, 1 of 2 objects of enemy.Enemy lose slots: `count` of object 2"]
    );
    host.stop();

    // A slot that a parent's behaviour has as well is no less the object's own.
    let (home, host, mut client) = struck(&[5]);
    home.swap(&[&artifacts::plugin("counter")]);
    let counter = client.create("counter.Counter", "visits");
    let parents = json!({ "parents": [counter] }).to_string();
    client.send("PUT", "/v1/objects/e0/parents", &[], parents.as_bytes()).unwrap().ok();
    let lossy = swap(&home, &fixtures::enemy("lossy_migration"));
    assert!(warnings(&lossy)[0].ends_with("lose slots: `count` of object 1"), "{lossy}");
    host.stop();

    let (home, host, _) = struck(&[1, 3]);
    let odd = swap(&home, &fixtures::enemy("refuses_odd_objects"));
    assert!(warnings(&odd)[0].starts_with("2 of 2 objects"), "a rule of its own is no reason to refuse: {odd}");
    host.stop();
    home.verify();
}

#[test]
fn what_would_stay_in_memory_is_told_before() {
    let (home, host, _) = struck(&[]);
    for (enemy, says) in [("handler_in_self_test", "it handles signal 12"), ("panic_in_retire", "will not go")] {
        let swapped = swap(&home, &fixtures::enemy(enemy));
        let [warning] = &warnings(&swapped)[..] else { panic!("{enemy}: {swapped}") };
        assert!(warning.starts_with("once replaced, it would stay in memory: ") && warning.contains(says), "{warning}");
    }
    host.stop();
}

#[test]
fn objects_that_inherit_are_migrated_with_what_they_inherit() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    client.post("/v1/objects", &json!({ "derive": "visits", "name": "child" })).ok();
    let swapped = home.swap(&[&artifacts::plugin("counter-v2")]);
    assert_eq!((&swapped["probes"][0]["samples"], warnings(&swapped)), (&json!(2), vec![]));
    host.stop();
}

#[test]
fn a_file_that_was_in_force_is_not_tried_again() {
    let (home, host, _) = struck(&[1]);
    let well = fixtures::enemy("well");
    let other: PathBuf = home.beside("other.so");
    artifacts::altered_copy(&well, &other, "another file");
    let probe = |swapped: &Json| swapped["probes"][0].clone();
    let first = probe(&swap(&home, &other));
    assert_eq!((&first["plugin"], &first["known"]), (&json!("enemy"), &json!(false)));
    assert!(!first["confined"].as_array().unwrap().is_empty(), "{first}");
    let again = probe(&swap(&home, &well));
    assert_eq!((&again["known"], &again["confined"]), (&json!(true), &json!([])));
    assert!(home.run(&["swap", other.to_str().unwrap()]).contains("enemy was in force before"));
    host.stop();
}

#[test]
fn a_refusal_costs_the_host_nothing() {
    let (home, host, mut client) = struck(&[1]);
    let open = || fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    let enemy = fixtures::enemy("segfault_in_init");
    refused(&home, &host, &enemy, &["SIGSEGV"]);
    let before = open();
    for _ in 0..5 {
        refused(&home, &host, &enemy, &["SIGSEGV"]);
    }
    // A connection of the command line may be open for a moment after its answer.
    until("the host to have as many files open as before", || open() <= before);
    assert_eq!(client.call("e0", "strike", &json!([])), 2);
    host.stop();
}
