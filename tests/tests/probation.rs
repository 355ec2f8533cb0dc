//! What a swap puts in force has to prove itself: what does worse than before is taken back, by itself or by an operator.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use theseus_tests::{
    Client, Home, Host, Json, artifacts, dice::Dice, home::document, json, load::Load, process::Process, until,
    until_some,
};

/// A running host with version 1 in force, an object `visits` of it, and a client.
fn proven(settings: &str) -> (Home, Host, Client) {
    let home = Home::with_settings(settings);
    let host = Host::start(&home);
    home.swap(&[&artifacts::probationer()]);
    let mut client = host.client();
    client.create("probationer.Subject", "visits");
    (home, host, client)
}

fn digest(file: &Path) -> String {
    blake3::hash(&fs::read(file).unwrap()).to_string()
}

/// The digests of the plugins in force, by name.
fn in_force(home: &Home) -> Vec<(String, String)> {
    let plugins = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
    let text = |plugin: &Json, field: &str| plugin[field].as_str().unwrap().to_owned();
    let active = plugins.iter().filter(|plugin| plugin["state"] == "active");
    active.map(|plugin| (text(plugin, "name"), text(plugin, "digest"))).collect()
}

fn is_in_force(home: &Home, file: &Path) -> bool {
    in_force(home).iter().any(|(_, it)| *it == digest(file))
}

/// Sends `act` with a word; gives the HTTP status.
fn act(client: &mut Client, object: &str, how: &str) -> u16 {
    client.post(&format!("/v1/objects/{object}/act"), &json!([how])).status
}

fn schema(client: &mut Client, object: &str) -> Json {
    client.get(&format!("/v1/objects/{object}")).ok()["schema"].clone()
}

#[test]
fn a_plugin_that_panics_is_taken_back_under_load_and_its_objects_with_it() {
    let (home, host, mut client) = proven("[plugins]\nprobation_errors_max = 5\n");
    let [v1, v2] = [artifacts::probationer(), artifacts::probationer_v2()];
    for number in 0..30 {
        client.create("probationer.Subject", &format!("other-{number}"));
        client.call(&format!("other-{number}"), "increment", &json!([number]));
    }
    let load = Load::start(host.address(), "visits", 4);
    thread::sleep(Duration::from_millis(200));
    let swapped = home.swap(&[&v2]);
    assert_eq!(swapped["probation"], json!({ "ms": 60_000, "errors_max": 5, "reversible": true }));
    until("the objects to migrate", || (0..30).all(|number| schema(&mut client, &format!("other-{number}")) == 2));
    for round in 1..=6 {
        assert_eq!(act(&mut client, "other-0", "panic"), 500, "in round {round}");
    }
    until("version 2 to be taken back", || is_in_force(&home, &v1));
    for number in 0..30 {
        let name = format!("other-{number}");
        until("the objects to come back", || schema(&mut client, &name) == 1);
        assert_eq!(client.call(&name, "count", &json!([])), number, "with its value");
    }
    let report = load.finish();
    assert_eq!((report.refused, report.broken), (0, 0), "no connection suffers");
    report.assert_exactly_once(client.call("visits", "count", &json!([])).as_i64().unwrap());

    let [rollback] = &home.transactions("theseus.rollback")[..] else { panic!("one rollback") };
    let note = &rollback["arguments"];
    assert_eq!((&note["cause"], &note["swap"]), (&json!("errors"), &swapped["tid"]));
    let (from, to) = (digest(&v2), digest(&v1));
    assert_eq!(note["plugins"]["probationer"], json!({ "from": from, "to": to, "quarantined": true }));
    let error = &note["errors"]["probationer"][0];
    assert_eq!((&error["what"], &error["count"]), (&json!("panicked"), &json!(6)));
    assert!(host.log().contains("gave 6 errors on probation, 5 are allowed"), "the log says so");

    // The file is not taken again, unless somebody insists.
    let quarantine = home.json(&["status"])["quarantine"].clone();
    assert_eq!((&quarantine[0]["digest"], &quarantine[0]["tid"]), (&json!(from), &rollback["tid"]));
    assert!(home.run(&["plugins"]).contains("in quarantine: probationer"));
    let path = v2.to_str().unwrap();
    let refused = home.cli(&["swap", path]).failed(4);
    assert!(refused.contains("quarantine") && refused.contains(&rollback["tid"].to_string()), "{refused}");
    let plan = home.cli(&["plan", path, "--json"]);
    assert_eq!((plan.code, &document(&plan.stdout)["kind"]), (4, &json!("refused")));
    assert!(plan.stdout.contains("--quarantined"), "{}", plan.stdout);
    home.run(&["swap", path, "--quarantined"]);
    assert!(is_in_force(&home, &v2));
    assert_eq!(home.json(&["status"])["quarantine"], json!([]), "who insists has overruled it");
    host.stop();
    home.verify();
}

#[test]
fn an_eager_swap_does_not_keep_what_fails_in_force() {
    let settings = "[plugins]\nprobation_errors_max = 1\nmigration_objects_max = 1\n";
    let (home, host, mut client) = proven(settings);
    let [v1, v2] = [artifacts::probationer(), artifacts::probationer_v2()];
    for number in 0..2_000 {
        client.create("probationer.Subject", &format!("other-{number}"));
    }
    thread::scope(|scope| {
        let swap = scope.spawn(|| home.json(&["swap", "--eager", v2.to_str().unwrap()]));
        until("version 2 to be in force", || is_in_force(&home, &v2));
        for _ in 0..2 {
            assert_eq!(act(&mut client, "visits", "panic"), 500);
        }
        until("version 2 to be taken back", || is_in_force(&home, &v1));
        swap.join().unwrap();
    });
    // The swap waited for the end, and the end was that everything came back.
    let count = |method| home.transactions(method).len();
    assert_eq!((count("theseus.swap"), count("theseus.rollback")), (2, 1));
    let rollback = home.transactions("theseus.rollback")[0]["tid"].as_u64().unwrap();
    let later = home.transactions("theseus.migrate").iter().filter(|it| it["tid"].as_u64().unwrap() > rollback).count();
    assert!(later > 0, "it was taken back before all had migrated");
    assert_eq!(schema(&mut client, "other-1999"), 1);
    host.stop();
}

#[test]
fn only_what_the_version_before_did_not_do_counts() {
    let (home, host, mut client) = proven("[plugins]\nprobation_errors_max = 2\n");
    let [v1, v2] = [artifacts::probationer(), artifacts::probationer_v2()];
    assert_eq!(act(&mut client, "visits", "overdraw"), 409);
    // Another incarnation knows it from the history alone.
    host.stop();
    let host = Host::start(&home);
    let mut client = host.client();
    home.swap(&[&v2]);
    for _ in 0..10 {
        assert_eq!(act(&mut client, "visits", "overdraw"), 409);
    }
    until("the refusals to be recognised", || home.json(&["status"])["probation"][0]["errors"] == 0);
    for errors in 1..=2 {
        assert_eq!(act(&mut client, "visits", "refuse"), 409);
        until("the new refusal to be counted", || home.json(&["status"])["probation"][0]["errors"] == errors);
    }
    let probation = home.json(&["plugins"])["probation"][0].clone();
    assert_eq!(probation["faults"][0]["what"], "refused/unheard_of");
    assert!(home.run(&["status"]).contains("2 errors of 2 allowed"));
    thread::sleep(Duration::from_millis(100));
    assert!(is_in_force(&home, &v2), "that many are allowed");
    act(&mut client, "visits", "refuse");
    until("version 2 to be taken back", || is_in_force(&home, &v1));
    host.stop();
    home.verify();
}

#[test]
fn queries_count_and_what_is_passed_on_counts_once() {
    let (home, host, mut client) = proven("[plugins]\nprobation_errors_max = 5\n");
    client.create("probationer.Subject", "other");
    home.swap(&[&artifacts::probationer_v2()]);
    assert_eq!(client.get("/v1/objects/visits/look?how=%22panic%22").status, 500);
    assert_eq!(client.post("/v1/objects/visits/look", &json!(["panic"])).status, 500);
    let other = client.get("/v1/objects/other").ok()["id"].clone();
    let pass_on = json!([{ "$ref": other }, "panic"]);
    assert_eq!(client.post("/v1/objects/visits/pass_on", &pass_on).status, 500);
    let probation = home.json(&["status"])["probation"][0].clone();
    assert_eq!((&probation["errors"], &probation["faults"][0]["what"]), (&json!(3), &json!("panicked")));
    host.stop();
    home.verify();
}

#[test]
fn a_method_that_is_gone_is_missed_and_one_that_never_was_is_not() {
    let (home, host, mut client) = proven("[plugins]\nprobation_errors_max = 2\n");
    home.swap(&[&artifacts::probationer_v2()]);
    for _ in 0..5 {
        client.get("/v1/objects/visits/fly").problem(404, "no_such_method");
    }
    assert_eq!(home.json(&["status"])["probation"][0]["errors"], 0);
    for _ in 0..3 {
        client.get("/v1/objects/visits/keep_old_ways").problem(404, "no_such_method");
    }
    until("version 2 to be taken back", || is_in_force(&home, &artifacts::probationer()));
    assert_eq!(client.get("/v1/objects/visits/keep_old_ways").ok()["result"], true);
    let note = home.transactions("theseus.rollback")[0]["arguments"].clone();
    assert_eq!(note["errors"]["probationer"][0]["what"], "no_such_method/probationer.Subject.keep_old_ways");
    host.stop();
    home.verify();
}

#[test]
fn a_message_that_takes_too_long_counts() {
    let settings = "[execution]\ncall_deadline_ms = 30\n[plugins]\nprobation_errors_max = 1\n";
    let (home, host, mut client) = proven(settings);
    home.swap(&[&artifacts::probationer_v2()]);
    for _ in 0..2 {
        assert_eq!(act(&mut client, "visits", "dawdle"), 200);
    }
    until("version 2 to be taken back", || is_in_force(&home, &artifacts::probationer()));
    let note = home.transactions("theseus.rollback")[0]["arguments"].clone();
    assert_eq!(note["errors"]["probationer"][0]["what"], "deadline");
    host.stop();
    home.verify();
}

#[test]
fn failed_migrations_count() {
    let (home, host, mut client) = proven("[plugins]\nprobation_errors_max = 3\n");
    for number in 0..4 {
        client.create("probationer.Subject", &format!("debt-{number}"));
        client.call(&format!("debt-{number}"), "increment", &json!([-5]));
    }
    home.swap(&[&artifacts::probationer_v2()]);
    until("version 2 to be taken back", || is_in_force(&home, &artifacts::probationer()));
    let note = home.transactions("theseus.rollback")[0]["arguments"].clone();
    assert_eq!(note["errors"]["probationer"][0]["what"], "migration");
    assert_eq!(client.call("debt-3", "count", &json!([])), -5);
    host.stop();
    home.verify();
}

#[test]
fn a_probation_ends_well_and_goes_on_after_a_restart() {
    let (home, host, mut client) = proven("[plugins]\nprobation_ms = 1500\nprobation_errors_max = 0\n");
    let v2 = artifacts::probationer_v2();
    let swapped = home.swap(&[&v2]);
    let until_us = home.json(&["status"])["probation"][0]["until_us"].clone();
    host.stop();
    assert_eq!(home.json(&["status"])["probation"][0]["until_us"], until_us, "also without a host");
    let host = Host::start(&home);
    assert_eq!(home.json(&["status"])["probation"][0]["until_us"], until_us, "the window is what it was");
    let confirmed = until_some("the confirmation", || {
        home.transactions("theseus.swap_confirmed").into_iter().find(|it| it["arguments"]["swap"] == swapped["tid"])
    });
    assert!(confirmed["time_us"].as_u64() >= until_us.as_u64());
    assert_eq!(confirmed["arguments"]["plugins"], json!({ "probationer": digest(&v2) }));
    assert_eq!(home.json(&["status"])["probation"], json!([]));
    client = {
        drop(client);
        host.client()
    };
    for _ in 0..3 {
        assert_eq!(act(&mut client, "visits", "panic"), 500);
    }
    thread::sleep(Duration::from_millis(100));
    assert!(is_in_force(&home, &v2), "nothing is counted any more");
    host.stop();
    home.verify();
}

#[test]
fn an_operator_takes_back_a_plugin_or_all_that_came_together() {
    let (home, host, mut client) = proven("");
    home.swap(&[&artifacts::plugin("counter")]);
    let before = in_force(&home);
    let set = [artifacts::probationer_v2(), artifacts::plugin("counter-v2"), artifacts::plugin("ledger")];
    let swapped = home.swap(&[&set[0], &set[1], &set[2]]);
    client.create("counter.Counter", "count");
    client.call("count", "increment", &json!([7]));
    assert_eq!(schema(&mut client, "count"), 2);

    // The whole set: what was new leaves.
    let back = home.json(&["rollback"]);
    assert_eq!(back["swap"], swapped["tid"]);
    assert_eq!(in_force(&home), before);
    assert_eq!(client.call("count", "count", &json!([])), 7, "made by the version that was taken back");
    assert_eq!(home.json(&["status"])["probation"], json!([]));
    assert_eq!(home.json(&["status"])["quarantine"], json!([]), "an operator's wish condemns no file");
    let message = home.cli(&["rollback"]).failed(4);
    assert!(message.contains("no swap to take back"), "twice would bring the same back: {message}");

    // One plugin of a set.
    home.swap(&[&set[0], &set[1], &set[2]]);
    let text = home.run(&["rollback", "counter"]);
    assert!(text.contains("is taken back in transaction"), "{text}");
    assert!(is_in_force(&home, &set[0]) && is_in_force(&home, &artifacts::plugin("counter")));
    let plugins: Vec<_> = home.json(&["status"])["probation"].as_array().unwrap().clone();
    assert_eq!(plugins.iter().map(|it| &it["plugin"]).collect::<Vec<_>>(), ["ledger", "probationer"]);
    home.cli(&["rollback", "counter"]).failed(4);
    home.cli(&["rollback", "sails"]).failed(4);

    // A new plugin with objects cannot leave.
    client.create("ledger.Account", "account");
    let message = home.cli(&["rollback", "ledger"]).failed(4);
    assert!(message.contains("ledger.Account"), "{message}");
    let causes: Vec<_> =
        home.transactions("theseus.rollback").iter().map(|it| it["arguments"]["cause"].clone()).collect();
    assert_eq!(causes, ["operator", "operator"]);
    host.stop();
    home.verify();
}

#[test]
fn a_second_rollback_does_not_go_further_back() {
    let (home, host, _client) = proven("");
    let [counter, ledger] = ["counter", "ledger"].map(artifacts::plugin);
    home.swap(&[&counter]);
    let before = in_force(&home);
    let swapped = home.swap(&[&ledger]);
    assert_eq!(home.json(&["rollback"])["swap"], swapped["tid"]);
    assert_eq!(in_force(&home), before);
    for _ in 0..2 {
        let message = home.cli(&["rollback"]).failed(4);
        assert!(message.contains("name the plugin"), "{message}");
        assert_eq!(in_force(&home), before, "the swap before is another matter");
    }
    // Whoever names a plugin means the last swap of that.
    home.run(&["rollback", "counter"]);
    assert!(!is_in_force(&home, &counter));
    // After another swap there is something to take back again.
    let swapped = home.swap(&[&ledger]);
    assert_eq!(home.json(&["rollback"])["swap"], swapped["tid"]);
    host.stop();
    home.verify();
}

#[test]
fn what_cannot_be_taken_back_is_said_and_not_tried_again() {
    let home = Home::with_settings("[plugins]\nprobation_errors_max = 0\n");
    let host = Host::start(&home);
    let v2 = artifacts::probationer_v2();
    home.swap(&[&v2]);
    let mut client = host.client();
    client.create("probationer.Subject", "visits");
    // A new plugin's own refusals are its business.
    assert_eq!(act(&mut client, "visits", "refuse"), 409);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(home.json(&["status"])["failed"], json!([]));
    assert_eq!(act(&mut client, "visits", "panic"), 500);
    let failed =
        until_some("the failure to be shown", || home.json(&["status"])["failed"].as_array().unwrap().first().cloned());
    assert_eq!(failed["digest"], digest(&v2));
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("panicked") && reason.contains("1 objects have it"), "{reason}");
    act(&mut client, "visits", "panic");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(home.transactions("theseus.probation_failed").len(), 1);
    assert!(is_in_force(&home, &v2) && home.json(&["status"])["healthy"] == true);
    host.stop();
    let host = Host::start(&home);
    assert_eq!(home.json(&["status"])["failed"][0], failed);
    home.swap(&[&altered(&home, &v2)]);
    assert_eq!(home.json(&["status"])["failed"], json!([]), "another file, another try");
    host.stop();
    home.verify();
}

/// Another file that does the same.
fn altered(home: &Home, file: &Path) -> PathBuf {
    let copy = home.beside("altered.so");
    artifacts::altered_copy(file, &copy, "another file");
    copy
}

#[test]
fn a_plugin_that_takes_the_host_down_is_taken_back_at_the_third_death() {
    let (home, mut host, mut client) = proven("");
    client.call("visits", "increment", &json!([3]));
    home.swap(&[&artifacts::probationer_v2()]);
    until("the object to migrate", || schema(&mut client, "visits") == 2);
    for death in 1..=3 {
        assert!(is_in_force(&home, &artifacts::probationer_v2()));
        assert!(client.send("POST", "/v1/objects/visits/act", &[], b"[\"crash\"]").is_err());
        host.kill();
        host = Host::start(&home);
        client = host.client();
        if death < 3 {
            assert_eq!(home.json(&["status"])["probation"][0]["crashes"], death);
        }
    }
    assert!(is_in_force(&home, &artifacts::probationer()));
    assert_eq!(client.call("visits", "count", &json!([])), 3);
    until("the object to come back", || schema(&mut client, "visits") == 1);
    let note = home.transactions("theseus.rollback")[0]["arguments"].clone();
    assert_eq!((&note["cause"], &note["plugins"]["probationer"]["quarantined"]), (&json!("crashes"), &json!(true)));
    home.cli(&["swap", artifacts::probationer_v2().to_str().unwrap()]).failed(4);
    host.stop();
    home.verify();
}

#[test]
fn a_plugin_of_the_same_schema_is_not_even_loaded_to_be_taken_back() {
    let (home, host, _) = proven("[plugins]\nprobation_crashes_max = 0\n");
    let (v1, other) = (artifacts::probationer(), altered(&home, &artifacts::probationer()));
    home.swap(&[&other]);
    host.kill();
    // It could not be: its file is gone.
    fs::remove_file(home.file(&format!("plugins/{}.so", digest(&other)))).unwrap();
    let host = Host::start(&home);
    assert!(is_in_force(&home, &v1));
    assert_eq!(home.transactions("theseus.rollback")[0]["arguments"]["cause"], "crashes");
    assert_eq!(host.client().call("visits", "increment", &json!([1])), 1);
    host.kill();
    let host = Host::start(&home);
    assert!(is_in_force(&home, &v1), "and that is what the history says from then on");
    host.stop();
    home.verify();
}

#[test]
fn a_crash_around_swap_and_rollback_leaves_one_set_whole() {
    let (home, mut host, mut client) = proven("[plugins]\nprobation_crashes_max = 1000\n");
    let old = [artifacts::probationer(), artifacts::plugin("counter")];
    let new = [artifacts::probationer_v2(), artifacts::plugin("counter-v2")];
    home.swap(&[&old[1]]);
    client.create("counter.Counter", "count");
    // As long as a swap takes here and now, and somewhat longer.
    let begun = Instant::now();
    home.swap(&[&new[0], &new[1]]);
    let longest_ms = begun.elapsed().as_millis() as u64 * 3 / 2;
    let (mut dice, mut seen) = (Dice(7), None);
    let mut outcomes = [0, 0];
    for round in 0..20 {
        let is_new = new.iter().all(|file| is_in_force(&home, file));
        assert!(
            is_new || old.iter().all(|file| is_in_force(&home, file)),
            "a mix in round {round}: {:?}",
            in_force(&home)
        );
        let files = new.each_ref().map(|file| file.to_str().unwrap());
        let command = if is_new { vec!["rollback"] } else { vec!["swap", files[0], files[1]] };
        for object in ["visits", "count"] {
            host.client().call(object, "increment", &json!([1]));
        }
        let process = Process::start(&mut home.command(&command), &home.beside("command.log"));
        thread::sleep(Duration::from_millis(dice.roll(longest_ms)));
        host.kill();
        drop(process);
        home.verify();
        host = Host::start(&home);
        outcomes[usize::from(seen.replace(is_new) == Some(is_new))] += 1;
        for object in ["visits", "count"] {
            assert_eq!(host.client().call(object, "count", &json!([])), round + 1, "{object} in round {round}");
        }
    }
    assert!(!outcomes.contains(&0), "the crashes came all before or all after: {outcomes:?}");
    host.stop();
    home.verify();
}

#[test]
fn the_hosts_own_object_is_there_to_be_read_and_for_nothing_else() {
    let (home, host, mut client) = proven("");
    assert_eq!(client.get("/v1/objects/visits").ok()["id"], 1, "ids begin as ever");
    assert_eq!(home.json(&["status"])["objects"], 1, "it does not count");
    let swap = home.transactions("theseus.swap")[0].clone();
    assert_eq!(swap["writes"], json!([{ "id": 0, "version": 1 }]));
    let own = home.json(&["get", "0"]);
    assert_eq!(
        (&own["behavior"], &own["slots"]["previous"]["probationer"]["from"]),
        (&json!("theseus.Host"), &Json::Null)
    );
    home.swap(&[&artifacts::probationer_v2()]);
    let now = home.json(&["get", "0"]);
    assert_eq!(now["slots"]["previous"]["probationer"]["from"], digest(&artifacts::probationer()));
    let past = home.json(&["get", "0", "--at", &swap["tid"].to_string()]);
    assert_eq!(past["slots"], own["slots"], "it has a past as any object");
    assert_eq!(home.lines(&["history", "0"]).len(), 2);
    for refused in [
        client.post("/v1/objects/0/increment", &json!([1])),
        client.get("/v1/objects/0/count"),
        client.delete("/v1/objects/0"),
        client.post("/v1/objects", &json!({ "clone": 0 })),
        client.post("/v1/objects", &json!({ "derive": 0 })),
    ] {
        assert_eq!(refused.problem(409, "refused")["kind"], "host_object");
    }
    host.stop();
    home.verify();
}
