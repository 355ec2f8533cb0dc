//! The life of an identity from `theseus init` on, as an operator sees it on the command line.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use theseus_tests::{
    Home, Host, Json, artifacts,
    home::{Output, document, finish, plain_command},
    host, json,
    process::{Process, Signal},
    until,
};

/// A home with a running host and the example counter.
fn counting() -> (Home, Host) {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    (home, host)
}

/// What a problem on standard error says, with `--json`.
fn problem(output: Output, exit: i32) -> Json {
    document(output.failed(exit).trim())
}

#[test]
fn init_makes_an_identity_and_writes_the_settings_down() {
    let home = Home::bare("");
    fs::remove_file(home.file("theseus.toml")).unwrap();
    let made = home.json(&["init"]);
    let identity = made["identity"].as_str().unwrap();
    assert!(identity.len() == 32 && identity.bytes().all(|digit| digit.is_ascii_hexdigit()), "{identity}");
    assert_eq!(made["home"], home.path().to_str().unwrap());
    let settings = fs::read_to_string(home.file("theseus.toml")).unwrap();
    assert!(settings.contains("listen = \"127.0.0.1:7070\""), "{settings}");
    let status = home.json(&["status"]);
    assert_eq!((&status["identity"], &status["tid"]), (&made["identity"], &json!(0)));
    assert_eq!(home.verify()["identity"], made["identity"]);
}

#[test]
fn init_does_not_touch_what_is_there() {
    let home = Home::bare("[execution]\nqueue_max = 77\n");
    let settings = fs::read_to_string(home.file("theseus.toml")).unwrap();
    let identity = home.json(&["init"])["identity"].clone();
    assert_eq!(fs::read_to_string(home.file("theseus.toml")).unwrap(), settings);
    let message = home.cli(&["init"]).failed(1);
    assert!(message.contains("already holds an identity"), "{message}");
    assert_eq!(home.json(&["status"])["identity"], identity);
    home.verify();
}

#[test]
fn objects_are_made_called_copied_and_removed() {
    let (home, host) = counting();
    assert_eq!(home.run(&["new", "counter.Counter", "visits"]), "1");
    assert_eq!(home.run(&["call", "visits", "increment", "4"]), "4");
    assert_eq!(home.run(&["call", "visits", "increment", "{\"by\": 8}"]), "12");
    assert_eq!(home.run(&["call", "1", "increment", "[-2]"]), "10");
    assert_eq!(home.cli(&["call", "visits", "count"]).stdout, "10\n", "the answer alone");
    assert_eq!(home.run(&["clone", "visits", "copy"]), "2");
    assert_eq!(home.run(&["derive", "visits", "child"]), "3");
    assert_eq!(home.run(&["new", "counter.Counter", "--slots", "{\"count\": 100}"]), "4");
    assert_eq!(home.run(&["call", "4", "count"]), "100");
    let listed = home.run(&["ls"]);
    let words: Vec<Vec<&str>> = listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        words,
        [["child", "3", "counter.Counter"], ["copy", "2", "counter.Counter"], ["visits", "1", "counter.Counter"],]
    );
    assert_eq!(home.run(&["ls", "vis"]).lines().count(), 2);
    assert_eq!(home.run(&["delete", "copy"]), "deleted copy");
    let message = home.cli(&["get", "copy"]).failed(1);
    assert!(message.starts_with("theseus: no_such_object: "), "{message}");
    let message = home.cli(&["get", "2"]).failed(1);
    assert!(message.contains("deleted in transaction"), "{message}");
    assert_eq!(home.json(&["get", "2", "--at", "7"])["slots"], json!({ "count": 10 }), "its history stays");
    // A name is free again when its object is gone, an id is not.
    assert_eq!(home.run(&["new", "counter.Counter", "copy"]), "5");
    home.verify();
    host.stop();
}

#[test]
fn with_json_each_command_prints_one_document() {
    let (home, host) = counting();
    let made = home.json(&["new", "counter.Counter", "visits"]);
    assert_eq!(made["id"], 1);
    let at = made["at"].as_str().unwrap();
    let (tid, hash) = at.split_once(':').unwrap();
    assert!(tid == "3" && hash.len() == 64, "{at}");
    assert_eq!(home.json(&["call", "visits", "increment", "10"]), json!({ "result": 10, "tid": 4 }));
    assert_eq!(home.json(&["call", "visits", "count"]), json!({ "result": 10, "tid": null }));
    assert_eq!(
        home.json(&["get", "visits"]),
        json!({ "id": 1, "behavior": "counter.Counter", "schema": 1, "parents": [], "slots": { "count": 10 },
                "tid": 4, "version": 2 })
    );
    assert_eq!(home.json(&["get", "visits", "--at", "3"])["slots"], json!({ "count": 0 }));
    assert_eq!(home.json(&["ls"]), json!({ "names": [{ "name": "visits", "id": 1, "behavior": "counter.Counter" }] }));
    assert_eq!(home.json(&["clone", "visits"])["id"], 2);
    assert_eq!(home.json(&["derive", "visits"])["id"], 3);
    assert_eq!(home.json(&["get", "3"])["parents"], json!([1]));
    let deleted = home.json(&["delete", "3"]);
    assert_eq!(deleted["deleted"], json!(true), "{deleted}");
    let history = home.lines(&["history", "visits"]);
    assert_eq!(history.len(), 2);
    assert_eq!(history[1]["method"], "increment");
    assert_eq!(history[1]["writes"], json!([{ "id": 1, "version": 2 }]));
    assert_eq!(history[1]["executed_by"]["plugin"], "counter");
    let status = home.json(&["status"]);
    for field in ["identity", "tid", "head", "incarnation", "http", "plugins"] {
        assert!(!status[field].is_null(), "the status lacks {field}");
    }
    assert_eq!(status["http"], host.address().to_string());
    assert_eq!(home.json(&["plugins"])["plugins"], status["plugins"]);
    assert_eq!(home.json(&["plan", artifacts::plugin("counter").to_str().unwrap()])["kind"], "nothing");
    let report = home.verify();
    assert_eq!((&report["tid"], &report["head"]), (&status["tid"], &status["head"]));
    assert_eq!(problem(home.cli(&["get", "nothing", "--json"]), 1)["code"], "no_such_object");
    host.stop();
}

#[test]
fn a_head_is_shown_as_verify_takes_it() {
    let (home, host) = counting();
    let status = home.json(&["status"]);
    let head = format!("{}:{}", status["tid"], status["head"].as_str().unwrap());
    assert!(home.run(&["status"]).contains(&format!("head      {head}\n")), "{}", home.run(&["status"]));
    let verified = home.run(&["verify", "--head", &head]);
    assert!(verified.ends_with(&format!("\nhead {head}")), "{verified}");
    let backup = home.beside("backup");
    let taken = home.run(&["backup", "--to", backup.to_str().unwrap()]);
    assert!(taken.ends_with(&format!("\nhead {head}")), "{taken}");
    host.stop();
}

#[test]
fn a_text_is_printed_without_its_quotes_and_the_rest_as_json() {
    let home = Home::new();
    let _host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker(), &artifacts::plugin("ledger")]);
    home.run(&["new", "troublemaker.Trouble", "t"]);
    assert_eq!(home.run(&["call", "t", "keep", "\"two words\""]), "9");
    assert_eq!(home.run(&["call", "t", "note"]), "two words");
    home.run(&["new", "ledger.Ledger", "book"]);
    assert_eq!(home.run(&["call", "book", "open", "[\"Ann\", 5]"]), "{\"$ref\":3}");
    assert_eq!(home.run(&["call", "book", "owners"]), "[\"Ann\"]");
    assert_eq!(home.run(&["call", "t", "swell", "0"]), "null");
}

#[test]
fn exit_codes_tell_what_kind_of_failure_it_was() {
    let (home, host) = counting();
    home.run(&["new", "counter.Counter", "visits"]);
    let no_plugin = home.beside("text.so");
    fs::write(&no_plugin, "this is not a plugin").unwrap();
    let no_plugin = no_plugin.to_str().unwrap();
    let before = home.tid();
    for (arguments, code) in [
        (&["status"][..], 0),
        (&["call", "visits", "nothing"], 1),
        (&["call", "visits", "increment"], 1),
        (&["new", "counter.Nothing"], 1),
        (&["new", "counter.Counter", "visits"], 1),
        (&["get", "visits", "--at", "99"], 1),
        (&["sail"], 2),
        (&["get"], 2),
        (&["call", "visits", "increment", "{"], 2),
        (&["call", "visits", "increment", "5", "--request-id", "two words"], 2),
        (&["new", "counter.Counter", "--slots", "[1]"], 2),
        (&["swap", no_plugin], 4),
        (&["plan", no_plugin], 4),
        (&["apply", no_plugin], 4),
    ] {
        let output = home.cli(arguments);
        assert_eq!(output.code, code, "`{}`: {}{}", output.command, output.stdout, output.stderr);
        assert!(code == 0 || !(output.stdout + &output.stderr).is_empty(), "`{}` says nothing", output.command);
    }
    assert_eq!(home.tid(), before, "what was refused has no place in the history");
    host.stop();
    for arguments in [
        &["new", "counter.Counter"][..],
        &["call", "visits", "count"],
        &["clone", "visits"],
        &["derive", "visits"],
        &["delete", "visits"],
        &["swap", no_plugin],
        &["plan", no_plugin],
        &["apply", no_plugin],
        &["history", "--follow"],
    ] {
        let message = home.cli(arguments).failed(3);
        assert!(message.contains("theseus --home") && message.contains(" run"), "it says how to start one: {message}");
        assert_eq!(problem(home.cli(&[arguments, &["--json"]].concat()), 3)["code"], "no_host");
    }
    let empty = home.beside("empty");
    fs::create_dir(&empty).unwrap();
    for command in ["status", "ls", "history", "verify", "plugins", "run"] {
        let message = finish(plain_command().arg("--home").arg(&empty).arg(command)).failed(1);
        assert!(message.contains("init"), "`{command}` says what to do: {message}");
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0, "looking at a home makes nothing in it");
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    let home = Home::new();
    let folder = home.path().to_str().unwrap();
    let outputs = [
        finish(plain_command().args(["--home", folder, "--json", "ls"])),
        finish(plain_command().args(["ls", "--json", "--home", folder])),
        finish(plain_command().args(["--json", "ls", "--home", folder])),
        finish(plain_command().args(["ls", "--json"]).env("THESEUS_HOME", folder)),
        finish(plain_command().args(["ls", "--json", "--home", folder]).env("THESEUS_HOME", "/nonexistent")),
    ];
    for output in outputs {
        assert_eq!(output.succeeded(), "{\"names\":[]}");
    }
}

#[test]
fn what_can_be_read_without_a_host_is_the_same_as_with_one() {
    let (home, host) = counting();
    home.swap(&[&artifacts::plugin("ledger"), &artifacts::troublemaker()]);
    home.run(&["new", "counter.Counter", "visits"]);
    for by in 1..=20 {
        home.run(&["call", "visits", "increment", &by.to_string()]);
    }
    home.cli(&["call", "visits", "increment", "9223372036854775807"]).failed(1);
    let tid = home.tid().to_string();
    let questions = [
        &["get", "visits"][..],
        &["get", "visits", "--at", "10"],
        &["ls"],
        &["history", "--limit", &tid],
        &["history", "visits", "--from", "5", "--limit", "3"],
        &["plugins"],
        &["get", "nothing"],
        &["get", "visits", "--at", "100"],
        &["verify"],
    ];
    let ask = |json: bool| {
        let flags: &[&str] = if json { &["--json"] } else { &[] };
        let answers = questions.iter().map(|question| home.cli(&[question, flags].concat()));
        answers.map(|Output { command, code, stdout, stderr }| (command, code, stdout, stderr)).collect::<Vec<_>>()
    };
    let with_host = [ask(false), ask(true)];
    host.stop();
    let last = questions.len() - 1;
    for (with, without) in with_host.into_iter().zip([ask(false), ask(true)]) {
        for (with, without) in with[..last].iter().zip(&without[..last]) {
            if with.1 == 0 {
                assert_eq!(with, without);
            } else {
                // The one tells what the host answered, the other what was found; the code is the same.
                assert_eq!((&with.0, with.1), (&without.0, without.1));
            }
        }
        assert_eq!((with[last].1, without[last].1), (0, 0), "verify works with and without a host");
    }
    let status = home.json(&["status"]);
    assert_eq!((&status["healthy"], &status["http"]), (&json!(false), &Json::Null));
}

#[test]
fn a_restart_keeps_everything() {
    let (home, host) = counting();
    home.run(&["new", "counter.Counter", "visits"]);
    home.run(&["call", "visits", "increment", "10", "--request-id", "first"]);
    home.run(&["derive", "visits", "child"]);
    let (before, objects) = (home.json(&["status"]), home.json(&["get", "child"]));
    host.stop();
    let host = Host::start(&home);
    let after = home.json(&["status"]);
    assert_eq!(after["identity"], before["identity"]);
    assert_eq!(after["plugins"], before["plugins"], "the plugins in force are loaded again");
    assert_eq!(after["objects"], before["objects"]);
    assert_eq!(after["incarnation"], 2);
    // The stop and the start are transactions of their own.
    assert_eq!(after["tid"].as_u64(), before["tid"].as_u64().map(|tid| tid + 2));
    assert_eq!(home.json(&["get", "child"]), objects);
    assert_eq!(home.run(&["call", "child", "count"]), "10");
    assert_eq!(home.run(&["call", "visits", "increment", "10", "--request-id", "first"]), "10", "not executed again");
    assert_eq!(home.run(&["call", "visits", "increment", "1"]), "11");
    let methods: Vec<_> =
        home.lines(&["history"]).iter().map(|line| line["method"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        methods,
        [
            "theseus.start",
            "theseus.swap",
            "theseus.create",
            "increment",
            "theseus.derive",
            "theseus.stop",
            "theseus.start",
            "increment",
        ]
    );
    host.stop();
    home.verify();
}

#[test]
fn a_second_host_is_refused_and_harms_nothing() {
    let (home, host) = counting();
    home.run(&["new", "counter.Counter", "visits"]);
    let message = home.cli(&["run"]).failed(1);
    assert!(message.contains("owner.lock is held by another host"), "{message}");
    assert_eq!(home.run(&["call", "visits", "increment", "10"]), "10", "its control socket is still there");
    assert_eq!(host.client().call("visits", "count", &json!([])), 10);
    assert_eq!(home.json(&["status"])["incarnation"], 1);
    host.stop();
    home.verify();
}

#[test]
fn a_host_that_was_killed_leaves_nothing_in_the_way_of_the_next() {
    let (home, host) = counting();
    home.run(&["new", "counter.Counter", "visits"]);
    home.run(&["call", "visits", "increment", "10"]);
    host.kill();
    assert!(home.file("run/admin.sock").exists(), "otherwise this test says nothing");
    assert_eq!(home.run(&["get", "visits", "--json"]).matches("\"count\":10").count(), 1, "works without a host");
    home.cli(&["call", "visits", "count"]).failed(3);
    let host = Host::start(&home);
    assert_eq!(home.run(&["call", "visits", "count"]), "10");
    host.stop();
}

#[test]
fn sigterm_and_sigint_end_a_host_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new();
        let mut process = Host::spawn(&home, |_| {});
        until("an answer", || host::status(&home).is_some());
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0));
        assert!(!home.file("run/admin.sock").exists(), "the control socket is gone");
        let last = home.lines(&["history"]).pop().unwrap();
        assert_eq!((&last["method"], &last["target"]), (&json!("theseus.stop"), &Json::Null));
    }
}

#[test]
fn a_stopping_host_finishes_what_it_has_begun() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    home.run(&["new", "troublemaker.Trouble", "t"]);
    let mut client = host.client();
    let slow = std::thread::spawn(move || client.call("t", "dawdle", &json!({ "ms": 1000 })));
    until("the call to begin", || {
        host.client().get("/metrics").text().contains("theseus_longest_call_ms") && {
            let metrics = host.client().get("/metrics");
            let longest = metrics.text().lines().find(|line| line.starts_with("theseus_longest_call_ms "));
            longest.is_some_and(|line| !line.ends_with(" 0"))
        }
    });
    host.stop();
    assert_eq!(slow.join().unwrap(), Json::Null, "it was answered");
    assert_eq!(home.json(&["get", "t"])["slots"]["count"], 1);
}

#[test]
fn a_followed_history_shows_what_is_committed_meanwhile() {
    let (home, host) = counting();
    home.run(&["new", "counter.Counter", "visits"]);
    let log = home.beside("followed");
    let mut follower =
        Process::start(&mut home.command(&["history", "visits", "--from", "3", "--follow", "--json"]), &log);
    let lines = || follower_lines(&log);
    until("the past", || lines().len() == 1);
    home.run(&["call", "visits", "increment", "7"]);
    until("the present", || lines().len() == 2);
    let last = lines().pop().unwrap();
    assert_eq!((&last["method"], &last["result"]), (&json!("increment"), &json!(7)));
    host.stop();
    follower.wait();
}

fn follower_lines(log: &Path) -> Vec<Json> {
    let text = fs::read_to_string(log).unwrap();
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(document).collect()
}

#[test]
fn a_watched_status_is_shown_again_and_again_also_through_a_restart() {
    let (home, host) = counting();
    let log = home.beside("watched");
    let _watcher = Process::start(&mut home.command(&["status", "--watch", "--json"]), &log);
    let shows = |incarnation: u64, healthy: bool| {
        let lines = follower_lines(&log);
        lines.iter().any(|line| line["incarnation"] == incarnation && line["healthy"] == healthy)
    };
    until("the status of the first host", || shows(1, true));
    host.stop();
    until("the status without a host", || shows(1, false));
    let _host = Host::start(&home);
    until("the status of the second host", || shows(2, true));
}

#[test]
fn settings_that_do_not_exist_are_refused_by_name() {
    let home = Home::bare("[execution]\nqueue_maximum = 5\n");
    let message = home.cli(&["init"]).failed(1);
    assert!(message.contains("queue_maximum") && message.contains("theseus.toml"), "{message}");
}

#[test]
fn wrong_settings_have_one_code_whoever_reads_them() {
    let home = Home::new();
    let backup = home.beside("backup");
    let backup = backup.to_str().unwrap();
    fs::write(home.file("theseus.toml"), "[execution]\nqueue_maximum = 5\n").unwrap();
    for command in [
        &["run"][..],
        &["status"],
        &["get", "1"],
        &["ls"],
        &["history"],
        &["verify"],
        &["repair"],
        &["backup", "--to", backup],
        &["export"],
        &["import", "nothing.jsonl"],
        &["plugin", "inspect", "nothing.so"],
    ] {
        let problem = problem(home.cli(&[command, &["--json"]].concat()), 1);
        assert_eq!(problem["code"], "bad_settings", "{command:?}: {problem}");
    }
}

#[test]
fn restart_cycles_are_held_where_there_is_an_identity() {
    let home = Home::new();
    home.run(&["hold", "--reason", "the disk is being changed"]);
    assert!(home.run(&["resume"]).contains("the disk is being changed"));
    // A folder that is not there, relative and absolute, and one that holds something else.
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for place in ["missing", missing.to_str().unwrap(), folder.path().to_str().unwrap()] {
        for command in ["hold", "resume"] {
            let output = finish(plain_command().current_dir(folder.path()).args(["--home", place, command]));
            let message = output.failed(1);
            assert!(message.contains("no_identity") && message.contains(place), "{message}");
        }
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn wrong_use_is_told_in_json_too() {
    let home = Home::new();
    for line in [&["sail"][..], &["swap"], &["get", "x", "--at", "never"], &["ls", "--wher", "a=1"], &["pack"]] {
        let told = problem(home.cli(&[line, &["--json"]].concat()), 2);
        assert_eq!((&told["code"], &told["type"]), (&json!("usage"), &json!("urn:theseus:error:usage")));
        assert!(told["detail"].as_str().is_some_and(|detail| !detail.starts_with("error")), "{told}");
        assert!(home.cli(line).failed(2).contains("Usage:") || line[0] == "get", "{line:?}");
    }
    assert!(home.cli(&["get", "--help", "--json"]).succeeded().contains("Usage:"));
}

#[test]
fn a_second_owner_is_told_who_has_the_identity() {
    let (home, host) = counting();
    for command in [&["run"][..], &["repair"], &["import", "nothing.jsonl"]] {
        let problem = problem(home.cli(&[command, &["--json"]].concat()), 1);
        assert_eq!(problem["code"], "identity_in_use", "{command:?}: {problem}");
    }
    host.stop();
}

#[test]
fn a_port_that_is_taken_is_named() {
    let (home, other) = (Home::new(), Home::new());
    let host = Host::start(&home);
    fs::write(other.file("theseus.toml"), format!("[http]\nlisten = \"{}\"\n", host.address())).unwrap();
    let message = other.cli(&["run"]).failed(1);
    assert!(message.contains(&host.address().to_string()) && message.contains("http.listen"), "{message}");
    other.verify();
}

#[test]
fn completions_and_manual_pages_need_no_home() {
    for shell in ["bash", "zsh", "fish"] {
        let script = finish(plain_command().args(["completions", shell])).succeeded();
        assert!(script.contains("theseus") && script.contains("history"), "{shell}");
    }
    assert!(finish(plain_command().arg("man")).succeeded().starts_with(".ie"), "a page for man(1)");
    assert!(finish(plain_command().args(["man", "swap"])).succeeded().contains("Replaces or brings in plugins"));
    finish(plain_command().args(["man", "sail"])).failed(2);
}
