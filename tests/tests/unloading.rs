//! What replaced plugins leave behind: cleared away while the host works, or listed until it can be.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use theseus_tests::{Home, Host, Json, artifacts, fixtures, home::document, json, load::Load, process, until};

/// Copies of a plugin, each of which is another file to the host.
fn variants(home: &Home, file: &Path, count: usize) -> Vec<PathBuf> {
    let variant = |number| {
        let copy = home.beside(&format!("variant-{number}.so"));
        artifacts::altered_copy(file, &copy, &format!("variant {number}"));
        copy
    };
    (0..count).map(variant).collect()
}

fn in_state(home: &Home, state: &str) -> Vec<Json> {
    let plugins = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
    plugins.into_iter().filter(|plugin| plugin["state"] == *state).collect()
}

fn count(host: &Host, what: &str) -> usize {
    fs::read_dir(format!("/proc/{}/{what}", host.pid())).unwrap().count()
}

#[test]
fn untidy_plugins_are_replaced_under_load_and_leave_nothing() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter"), &fixtures::litter()]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    client.create("litter.Leaver", "leaver");
    let variants = variants(&home, &fixtures::litter(), 2);
    let load = Load::start(host.address(), "visits", 4);
    let mut use_and_swap = |round: usize| {
        for _ in 0..4 {
            for method in ["leave_local", "leave_local_too", "leave_chain", "leave_value", "run_thread"] {
                client.call("leaver", method, &json!([0]));
            }
            for method in ["leave_current", "leave_plain_key"] {
                client.call("leaver", method, &json!([]));
            }
        }
        client.call("leaver", "hoard", &json!([100_000]));
        home.swap(&[&variants[round % 2]]);
    };
    for round in 0..5 {
        use_and_swap(round);
    }
    until("the first ones to be unloaded", || home.json(&["plugins"])["plugins"].as_array().unwrap().len() == 2);
    let (threads, files) = (count(&host, "task"), count(&host, "fd"));
    for round in 5..35 {
        use_and_swap(round);
    }
    until("all replaced ones to be unloaded", || process::plugin_images(host.pid()) == 2);
    assert_eq!(in_state(&home, "pinned"), [] as [Json; 0]);
    let report = load.finish();
    assert_eq!((report.refused, report.broken), (0, 0));
    report.assert_exactly_once(client.call("visits", "count", &json!([])).as_i64().unwrap());
    let (threads_now, files_now) = (count(&host, "task"), count(&host, "fd"));
    assert!(threads_now <= threads, "{threads} threads became {threads_now}");
    assert!(files_now <= files, "{files} open files became {files_now}");
    let gone = home.json(&["plugins"])["gone"].clone();
    assert_eq!(gone, json!([{ "name": "litter", "unloaded": 35, "leaked_bytes": 0 }]));

    client.call("leaver", "leak", &json!([1234]));
    home.swap(&[&fixtures::litter()]);
    until("the leak to be seen", || home.json(&["plugins"])["gone"][0]["leaked_bytes"] == 1234);
    assert!(home.run(&["plugins"]).contains("1234 bytes were never freed"));
    host.stop();
    home.verify();
}

#[test]
fn a_pinned_plugin_goes_when_its_reason_goes() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::litter()]);
    let mut client = host.client();
    client.create("litter.Leaver", "leaver");
    client.call("leaver", "leave_thread_for_ms", &json!([1500]));
    home.swap(&[&variants(&home, &fixtures::litter(), 1)[0]]);
    until("it to be pinned", || !in_state(&home, "pinned").is_empty());
    let reason = in_state(&home, "pinned")[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("1 of the threads that it started still run"), "{reason}");
    until("its thread to end", || process::plugin_images(host.pid()) == 1);
    until("it to be forgotten", || in_state(&home, "pinned").is_empty());
    host.stop();
}

#[test]
fn when_too_many_stay_in_memory_the_plan_asks_for_a_restart_cycle() {
    let home = Home::with_settings("[plugins]\npinned_max = 2\n");
    let host = Host::start(&home);
    let mut held = fs::read(fixtures::bare()).unwrap();
    fixtures::replace(&mut held, "fixture-mode=well", "fixture-mode=hold");
    let file = home.beside("held.so");
    fs::write(&file, &held).unwrap();
    let variants = variants(&home, &file, 4);
    for (round, variant) in variants[..3].iter().enumerate() {
        home.swap(&[variant]);
        until("the one before to be pinned", || in_state(&home, "pinned").len() == round);
    }
    let offered = variants[3].to_str().unwrap();
    let refused = home.cli(&["swap", offered]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.stderr.contains("plan_refused") && refused.stderr.contains("`theseus apply BUNDLE`"),
        "{refused:?}"
    );
    let plan = document(&home.cli(&["plan", offered, "--json"]).stdout);
    assert_eq!(plan["kind"], "restart");
    assert!(plan["reasons"][0].as_str().unwrap().contains("plugins.pinned_max is 2"), "{plan}");
    // What is new replaces nothing, and is let in.
    home.swap(&[&artifacts::plugin("counter")]);

    let bundle = home.beside("bundle");
    fs::create_dir_all(bundle.join("plugins")).unwrap();
    fs::copy(&variants[3], bundle.join("plugins/held.so")).unwrap();
    let manifest = json!({ "schema": 1, "name": "held", "version": "4", "epoch": 1, "plugins": ["plugins/held.so"] });
    fs::write(bundle.join("bundle.json"), manifest.to_string()).unwrap();
    let applied = home.json(&["apply", bundle.to_str().unwrap()]);
    assert!(applied["id"].is_string() || applied["requested"].is_string(), "{applied}");
    host.stop();

    let host = Host::start(&home);
    assert_eq!(in_state(&home, "pinned").len(), 0, "a restart gets rid of them");
    home.swap(&[&variants[3]]);
    thread::sleep(Duration::from_millis(300));
    host.stop();
}
