//! Replacing plugins in the live host: nothing is lost, and what is refused leaves everything as it was.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use theseus_tests::{
    Client, Home, Host, Json, artifacts, fixtures, home::document, json, load::Load, process, process::Process, until,
};

/// A running host with the counter, an object `visits` of it, and a client.
fn counting() -> (Home, Host, Client) {
    counting_with(|_| {})
}

fn counting_with(prepare: impl FnOnce(&mut Command)) -> (Home, Host, Client) {
    counting_in(Home::new(), prepare)
}

/// With no migration but at first touch.
fn counting_lazily() -> (Home, Host, Client) {
    counting_in(Home::with_settings("[plugins]\nmigration_rest_ms = 3600000\n"), |_| {})
}

fn counting_in(home: Home, prepare: impl FnOnce(&mut Command)) -> (Home, Host, Client) {
    let host = Host::start_with(&home, prepare);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    (home, host, client)
}

fn digest(file: &Path) -> String {
    blake3::hash(&fs::read(file).unwrap()).to_string()
}

/// The plugins in force with their digests, and those that were replaced and are still there.
fn plugins(home: &Home) -> (Vec<(String, String)>, Vec<Json>) {
    let all = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
    let (active, retired): (Vec<_>, Vec<_>) = all.into_iter().partition(|plugin| plugin["state"] == "active");
    let text = |plugin: &Json, field: &str| plugin[field].as_str().unwrap().to_owned();
    (active.iter().map(|plugin| (text(plugin, "name"), text(plugin, "digest"))).collect(), retired)
}

/// Waits until no replaced plugin is left in memory.
fn until_unloaded(home: &Home, host: &Host) {
    until("the replaced plugins to be unloaded", || {
        let (active, retired) = plugins(home);
        retired.is_empty() && process::plugin_images(host.pid()) == active.len()
    });
}

#[test]
fn a_swap_under_load_loses_and_repeats_nothing() {
    let (home, host, mut client) = counting();
    let load = Load::start(host.address(), "visits", 6);
    thread::sleep(Duration::from_millis(300));
    let [old, new] = ["counter", "counter-v2"].map(artifacts::plugin);
    let swapped = home.swap(&[&new]);
    thread::sleep(Duration::from_millis(300));
    let report = load.finish();
    assert_eq!((report.refused, report.broken), (0, 0), "no connection suffers");
    assert!(report.longest < Duration::from_secs(5), "no request waits long: {:?}", report.longest);
    let count = client.call("visits", "count", &json!([])).as_i64().unwrap();
    report.assert_exactly_once(count);

    // The history says which code did what: the one file before the swap, the other after it.
    let history = home.lines(&["history"]);
    let at = history.iter().position(|line| line["tid"] == swapped["tid"]).unwrap();
    assert_eq!(history[at]["method"], "theseus.swap");
    let (v1, v2) = (digest(&old), digest(&new));
    assert_eq!(history[at]["arguments"]["plugins"]["counter"], json!({ "from": v1, "to": v2, "version": "2.0.0" }));
    for (lines, digest) in [(&history[..at], &v1), (&history[at + 1..], &v2)] {
        let increments: Vec<_> = lines.iter().filter(|line| line["method"] == "increment").collect();
        assert!(!increments.is_empty(), "the load covers the swap");
        assert!(increments.iter().all(|line| line["executed_by"]["digest"] == **digest));
    }
    assert_eq!(plugins(&home).0, [("counter".to_owned(), v2)]);
    until_unloaded(&home, &host);
    host.stop();
    home.verify();
}

#[test]
fn a_batch_goes_on_through_swaps() {
    let (home, host, _) = counting();
    let lines = "{\"object\":\"visits\",\"method\":\"increment\",\"arguments\":[1]}\n".repeat(3000);
    let mut client = host.client();
    let batch = thread::spawn(move || client.send("POST", "/v1/batch", &[], lines.as_bytes()).unwrap().lines());
    let files = [home.beside("other.so"), artifacts::plugin("counter")];
    artifacts::altered_copy(&files[1], &files[0], "another file");
    let mut swaps = 0;
    while !batch.is_finished() {
        home.swap(&[&files[swaps % 2]]);
        swaps += 1;
    }
    assert!(swaps > 0);
    let results: Vec<i64> = batch.join().unwrap().iter().map(|line| line["result"].as_i64().unwrap()).collect();
    assert_eq!(results, (1..=3000).collect::<Vec<i64>>());
    host.stop();
    home.verify();
}

#[test]
fn objects_migrate_when_they_are_touched() {
    let (home, host, mut client) = counting_lazily();
    client.call("visits", "increment", &json!([10]));
    client.create("counter.Counter", "others");
    client.post("/v1/objects", &json!({ "derive": "visits", "name": "child" })).ok();
    let v2 = artifacts::plugin("counter-v2");
    let plan = home.json(&["plan", v2.to_str().unwrap()]);
    assert_eq!((&plan["kind"], &plan["reasons"]), (&json!("swap"), &json!([])));
    let planned = &plan["plugins"][0];
    assert_eq!(
        planned["migrations"],
        json!([{ "behavior": "counter.Counter", "from": 1, "to": 2, "objects": 3, "by": "plugin" }])
    );
    assert_eq!(planned["reversible"], true);
    let tid = client.tid();
    let swapped = home.swap(&[&v2]);
    assert_eq!(swapped["plugins"], plan["plugins"], "it does what the plan says");
    assert_eq!(swapped["tid"], tid + 1, "a swap is one transaction, whatever the number of objects");

    let schema =
        |client: &mut Client, object: &str| client.get(&format!("/v1/objects/{object}")).ok()["schema"].clone();
    assert_eq!(schema(&mut client, "visits"), 1, "nobody has touched it yet");
    assert_eq!(client.call("visits", "step", &json!([])), 1, "a query sees it migrated");
    assert_eq!(schema(&mut client, "visits"), 1, "and leaves no trace");
    assert_eq!(client.call("visits", "increment", &json!([])), 11, "the new method works on the old object");
    assert_eq!(schema(&mut client, "visits"), 2);
    assert_eq!(client.call("visits", "set_step", &json!([3])), 1);
    assert_eq!(client.get("/v1/objects/visits").ok()["slots"], json!({ "count": 11, "step": 3 }));
    let past = client.get(&format!("/v1/objects/visits?at={tid}")).ok();
    assert_eq!((&past["schema"], &past["slots"]), (&json!(1), &json!({ "count": 10 })), "the past stays what it was");
    assert_eq!(schema(&mut client, "others"), 1);
    assert_eq!(client.call("child", "increment", &json!({ "by": 3 })), 14, "a derived object sees its migrated parent");
    host.stop();
    home.verify();
    let host = Host::start(&home);
    assert_eq!(host.client().call("others", "increment", &json!([])), 1, "also after a restart");
    host.stop();
    home.verify();
}

#[test]
fn a_derived_object_migrates_alike_before_and_after_its_parent() {
    for parent_first in [true, false] {
        let (home, host, mut client) = counting_lazily();
        client.call("visits", "increment", &json!([10]));
        client.post("/v1/objects", &json!({ "derive": "visits", "name": "child" })).ok();
        home.swap(&[&artifacts::plugin("counter-v2")]);
        if !parent_first {
            assert_eq!(client.call("child", "increment", &json!([])), 11);
        }
        client.call("visits", "set_step", &json!([5]));
        let expected = if parent_first { (15, 15) } else { (16, 16) };
        assert_eq!(client.call("child", "increment", &json!([])), expected.0, "parent first: {parent_first}");
        let slots = client.get("/v1/objects/child").ok()["slots"].clone();
        assert_eq!(slots, json!({ "count": expected.1 }), "it has its own of what it wrote, and nothing else");
        host.stop();
        home.verify();
    }
}

#[test]
fn a_slot_with_a_new_name_is_inherited_whoever_migrates_first() {
    // What each sees after one of them was incremented, and so migrated, first.
    for (first, sees) in [("visits", [11, 11, 11]), ("child", [10, 11, 11]), ("grandchild", [10, 10, 11])] {
        let (home, host, mut client) = counting_lazily();
        client.call("visits", "increment", &json!([10]));
        for (child, parent) in [("child", "visits"), ("grandchild", "child")] {
            client.post("/v1/objects", &json!({ "derive": parent, "name": child })).ok();
        }
        let renamed = artifacts::renamed_counter();
        // It cannot turn objects back, and that has to be said.
        let fault = home.cli(&["swap", renamed.to_str().unwrap()]).failed(4);
        assert!(fault.contains("--irreversible"), "{fault}");
        home.json(&["swap", "--irreversible", renamed.to_str().unwrap()]);
        assert_eq!(client.call(first, "increment", &json!([1])), 11, "{first}");
        for (object, sees) in ["visits", "child", "grandchild"].into_iter().zip(sees) {
            assert_eq!(client.call(object, "count", &json!([])), sees, "{object} after {first}");
        }
        // And when all have been written.
        for object in ["grandchild", "child", "visits"] {
            let count = client.call(object, "count", &json!([])).as_i64().unwrap();
            assert_eq!(client.call(object, "increment", &json!([100])), count + 100, "{object} after {first}");
        }
        host.stop();
        home.verify();
    }
}

#[test]
fn a_swap_survives_a_restart_and_a_crash() {
    let (home, host, mut client) = counting();
    let file = home.beside("counter-2.so");
    fs::copy(artifacts::plugin("counter-v2"), &file).unwrap();
    home.swap(&[&file]);
    client.call("visits", "set_step", &json!([5]));
    fs::remove_file(&file).unwrap();
    let in_force = plugins(&home).0;
    host.stop();
    let host = Host::start(&home);
    assert_eq!(plugins(&home).0, in_force, "it comes from the store, whatever became of the file");
    assert_eq!(host.client().call("visits", "increment", &json!([])), 5);
    home.swap(&[&artifacts::plugin("ledger")]);
    let in_force = plugins(&home).0;
    host.kill();
    let host = Host::start(&home);
    assert_eq!(plugins(&home).0, in_force);
    assert_eq!(host.client().call("visits", "increment", &json!([])), 10);
    host.stop();
    home.verify();
}

#[test]
fn a_crash_during_a_swap_leaves_the_old_or_the_new() {
    // A host that dies while a plugin is on probation takes it back, which is another test's.
    let (home, mut host, _) = counting_in(Home::with_settings("[plugins]\nprobation_ms = 0\n"), |_| {});
    let file_of = |round: u32| {
        let file = home.beside(&format!("round-{round}.so"));
        artifacts::altered_copy(&artifacts::plugin("counter"), &file, &format!("round {round:02}"));
        file
    };
    let load = Load::start(host.address(), "visits", 2);
    // The crashes lie evenly over the time that a swap takes under this load, and go on until a swap was through.
    let whole = Instant::now();
    home.swap(&[&file_of(0)]);
    let step = whole.elapsed() / 5;
    let mut outcomes = [0, 0];
    let mut round = 0;
    while outcomes[0] < 2 {
        assert!(round < 60, "no swap comes to its end: {outcomes:?}");
        round += 1;
        let file = file_of(round);
        let before = plugins(&home).0[0].1.clone();
        let swap = Process::start(&mut home.command(&["swap", file.to_str().unwrap()]), &home.beside("swap.log"));
        thread::sleep(step * (round - 1));
        host.kill();
        drop(swap);
        home.verify();
        host = Host::start(&home);
        load.move_to(host.address());
        let after = plugins(&home).0[0].1.clone();
        assert!(after == before || after == digest(&file), "{after} is in force after {before}");
        outcomes[usize::from(after == before)] += 1;
    }
    assert!(outcomes[1] > 0, "the crashes all came after: {outcomes:?}");
    let report = load.finish();
    let count = host.client().call("visits", "count", &json!([])).as_i64().unwrap();
    report.assert_exactly_once(count);
    host.stop();
    home.verify();
}

#[test]
fn the_same_file_again_is_nothing_to_do() {
    let (home, host, mut client) = counting();
    let before = client.get("/v1/status").ok();
    let swapped = home.swap(&[&artifacts::plugin("counter")]);
    assert_eq!((&swapped["tid"], &swapped["plugins"]), (&Json::Null, &json!([])));
    let copy = home.beside("another-name.so");
    fs::copy(artifacts::plugin("counter"), &copy).unwrap();
    assert!(home.run(&["swap", copy.to_str().unwrap()]).contains("nothing to do"));
    let after = client.get("/v1/status").ok();
    assert_eq!((&after["tid"], &after["plugins"]), (&before["tid"], &before["plugins"]));
    assert_eq!(process::plugin_images(host.pid()), 1);
}

#[test]
fn several_plugins_are_swapped_together_or_not_at_all() {
    let (home, host, mut client) = counting();
    let before = client.tid();
    let [v2, ledger, text] = [artifacts::plugin("counter-v2"), artifacts::plugin("ledger"), home.beside("text.so")];
    fs::write(&text, "not a plugin").unwrap();
    let files = [&v2, &ledger, &text].map(|file| file.to_str().unwrap());
    home.cli(&[&["swap"], &files[..]].concat()).failed(4);
    assert_eq!(client.tid(), before);
    assert_eq!(plugins(&home).0.len(), 1);
    let v1 = home.beside("first.so");
    artifacts::altered_copy(&artifacts::plugin("counter"), &v1, "another file");
    let message = home.cli(&["swap", v2.to_str().unwrap(), v1.to_str().unwrap()]).failed(4);
    assert!(message.contains("offered twice"), "{message}");
    let swapped = home.swap(&[&v2, &ledger]);
    assert_eq!(swapped["tid"], before + 1, "one transaction for the set");
    assert_eq!(plugins(&home).0.len(), 2);
    until_unloaded(&home, &host);
}

#[test]
fn many_swaps_leave_nothing_behind() {
    let (home, host, mut client) = counting();
    let variants: Vec<PathBuf> = (0..3)
        .map(|number| {
            let file = home.beside(&format!("variant-{number}.so"));
            artifacts::altered_copy(&artifacts::plugin("counter"), &file, &format!("variant {number}"));
            file
        })
        .collect();
    for round in 0..30 {
        home.swap(&[&variants[round % 3]]);
        client.call("visits", "increment", &json!([1]));
    }
    until_unloaded(&home, &host);
    assert_eq!(client.call("visits", "count", &json!([])), 30);
    host.stop();
    home.verify();
}

#[test]
fn a_plugin_that_cannot_be_unloaded_is_listed_with_its_reason() {
    let (home, host, mut client) = counting();
    let mut held = fs::read(fixtures::bare()).unwrap();
    let file = home.beside("held.so");
    fixtures::replace(&mut held, "fixture-mode=well", "fixture-mode=hold");
    fs::write(&file, &held).unwrap();
    home.swap(&[&file]);
    home.swap(&[&fixtures::bare()]);
    until("the plugin to be pinned", || plugins(&home).1.iter().any(|plugin| plugin["state"] == "pinned"));
    let (active, retired) = plugins(&home);
    assert_eq!(retired.len(), 1, "{retired:?}");
    assert_eq!(retired[0]["digest"], digest(&file));
    assert!(retired[0]["reason"].as_str().unwrap().contains("holds a thread"), "{}", retired[0]);
    assert!(home.run(&["plugins"]).contains("pinned: "), "people see it too");
    assert_eq!(process::plugin_images(host.pid()), active.len() + 1);
    assert_eq!(client.call("visits", "increment", &json!([1])), 1);
    host.stop();
    let host = Host::start(&home);
    assert_eq!(plugins(&home).1.len(), 0, "a restart gets rid of it");
    host.stop();
}

// --- Refusals -----------------------------------------------------------------------------------------------------------

/// A swap that has to be refused with exit code 4, a code and a message, and leaves everything as it was.
fn refused(home: &Home, host: &Host, file: &Path, code: &str, says: &str) {
    let look = || {
        let status = home.json(&["status"]);
        let images = process::plugin_images(host.pid());
        (status["tid"].clone(), status["head"].clone(), status["plugins"].clone(), images)
    };
    let before = look();
    let file = file.to_str().unwrap();
    let plan = home.cli(&["plan", file, "--json"]);
    assert_eq!(plan.code, 4, "the plan says so before: {plan:?}");
    assert_eq!(document(&plan.stdout)["kind"], "refused");
    let message = home.cli(&["swap", file]).failed(4);
    assert!(message.starts_with(&format!("theseus: {code}: ")), "{message}");
    assert!(message.contains(says), "{message}");
    assert_eq!(look(), before, "nothing has changed");
}

#[test]
fn files_that_are_no_plugins_are_refused_by_their_look() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let (home, host, mut client) = counting_with(|command| _ = command.env("THESEUS_FIXTURE_TOUCH", &trace));
    let place = |name: &str| home.beside(name);
    let good = fs::read(artifacts::plugin("counter-v2")).unwrap();
    let changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(place(name), &bytes).unwrap();
        place(name)
    };

    fs::write(place("text.so"), "#!/bin/sh\necho hello\n").unwrap();
    refused(&home, &host, &place("text.so"), "plugin_refused", "not an ELF file");
    fs::write(place("empty.so"), "").unwrap();
    refused(&home, &host, &place("empty.so"), "plugin_refused", "not an ELF file (0 bytes)");
    for part in [2, 3, 100] {
        let file = changed("part.so", &|bytes| bytes.truncate(bytes.len() / part));
        refused(&home, &host, &file, "plugin_refused", "part.so");
    }
    let file = changed("machine.so", &|bytes| fixtures::set_machine(bytes, 243));
    refused(&home, &host, &file, "plugin_refused", "built for");
    let (old, new) = (r#""abi":{"min":1,"max":1}"#, r#""abi":{"min":9,"max":9}"#);
    let file = changed("abi.so", &|bytes| fixtures::replace(bytes, old, new));
    refused(&home, &host, &file, "plugin_refused", "ABI version 9, this host speaks 1");
    let layout = format!("\"layout\":\"{:016x}\"", theseus_abi::LAYOUT_FINGERPRINT);
    let file = changed("layout.so", &|bytes| fixtures::replace(bytes, &layout, "\"layout\":\"0123456789abcdef\""));
    refused(&home, &host, &file, "plugin_refused", "laid out differently");
    let file = changed("panic.so", &|bytes| fixtures::replace(bytes, "\"panic\":\"unwind\"", "\"panic\":\"abort!\""));
    refused(&home, &host, &file, "plugin_refused", "panic=");
    refused(&home, &host, &artifacts::theseus(), "plugin_refused", "");
    refused(&home, &host, &fixtures::noteless(), "plugin_refused", "not a Theseus plugin");
    home.cli(&["plan", home.path().to_str().unwrap()]).failed(4);
    home.cli(&["swap", home.path().to_str().unwrap()]).failed(4);
    refused(&home, &host, &place("nothing.so"), "plugin_refused", "nothing.so");

    let touch = fixtures::touch(&home.beside(""));
    refused(&home, &host, &touch, "plugin_refused", "not a Theseus plugin");
    assert!(!trace.exists(), "its initialiser has run");
    prove_that_the_trace_works(&touch, &trace);

    assert_eq!(client.call("visits", "increment", &json!([1])), 1);
    host.stop();
    home.verify();
}

/// A refusal proves nothing if the library would leave no trace when it is loaded.
fn prove_that_the_trace_works(library: &Path, trace: &Path) {
    let mut loads = Command::new("true");
    assert!(loads.env("LD_PRELOAD", library).env("THESEUS_FIXTURE_TOUCH", trace).status().unwrap().success());
    assert!(trace.exists(), "the library leaves no trace when it is loaded");
    fs::remove_file(trace).unwrap();
}

#[test]
fn a_library_with_a_false_manifest_is_refused_when_it_is_loaded() {
    let (home, host, mut client) = counting();
    let before = client.tid();
    let message = home.cli(&["swap", fixtures::lying().to_str().unwrap()]).failed(4);
    assert!(message.starts_with("theseus: plugin_refused: "), "{message}");
    for mode in ["init", "name", "json"] {
        let mut bytes = fs::read(fixtures::bare()).unwrap();
        let file = home.beside(&format!("{mode}.so"));
        fixtures::replace(&mut bytes, "fixture-mode=well", &format!("fixture-mode={mode}"));
        fs::write(&file, &bytes).unwrap();
        let message = home.cli(&["swap", file.to_str().unwrap()]).failed(4);
        assert!(message.starts_with("theseus: plugin_refused: "), "{mode}: {message}");
    }
    assert_eq!(client.tid(), before);
    until_unloaded(&home, &host);
    assert_eq!(client.call("visits", "increment", &json!([1])), 1);
}

#[test]
fn a_plugin_that_cannot_read_the_objects_is_refused_by_the_plan() {
    let (home, host, mut client) = counting_lazily();
    client.create("counter.Counter", "others");
    let renamed = artifacts::renamed_counter();
    let message = home.cli(&["swap", renamed.to_str().unwrap()]).failed(4);
    assert!(message.contains("--irreversible"), "{message}");
    home.run(&["swap", "--irreversible", renamed.to_str().unwrap()]);
    client.call("visits", "increment", &json!([1]));
    let v1 = artifacts::plugin("counter");
    refused(&home, &host, &v1, "plan_refused", "1 objects of `counter.Counter` have schema version 2");
    assert_eq!(client.call("visits", "increment", &json!([1])), 2);
    // What nobody has touched is still of version 1, so without `visits` version 1 can come back.
    client.delete("/v1/objects/visits").ok();
    home.swap(&[&v1]);
    host.stop();
    home.verify();
}

#[test]
fn a_plugin_that_would_leave_objects_without_their_behaviour_is_refused() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("ledger")]);
    let mut client = host.client();
    client.create("ledger.Ledger", "book");
    client.call("book", "open", &json!(["Ann", 1]));
    let mut bytes = fs::read(artifacts::plugin("ledger")).unwrap();
    fixtures::replace(&mut bytes, "\"ledger.Account\"", "\"ledger.Amounts\"");
    let file = home.beside("amounts.so");
    fs::write(&file, bytes).unwrap();
    refused(&home, &host, &file, "plan_refused", "no longer provide `ledger.Account`, but 1 objects have it");
    assert_eq!(client.call("book", "total", &json!([])), 1);
}
