//! Objects of old schemas: brought up in the background, taken back by a downgrade, left alone where they cannot migrate.

#![allow(clippy::unwrap_used, reason = "tests")]

use theseus_tests::{Client, Home, Host, Json, artifacts, json, until};

/// A home whose objects migrate only when they are touched, or when somebody waits for it.
fn lazy() -> Home {
    Home::with_settings("[plugins]\nmigration_rest_ms = 3600000\n")
}

/// The plugins with a state.
fn plugins(home: &Home, state: &str) -> Vec<Json> {
    let mut all = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
    all.retain(|plugin| plugin["state"] == state);
    all
}

/// Waits until no object has another schema than its behaviour, and nobody has to turn one back.
fn until_migrated(home: &Home) {
    until("the end of the migration", || {
        plugins(home, "fallback").is_empty() && plugins(home, "active").iter().all(|it| it["migrations"] == json!([]))
    });
}

fn schema(client: &mut Client, object: &str) -> u64 {
    client.get(&format!("/v1/objects/{object}")).ok()["schema"].as_u64().unwrap()
}

fn slots(client: &mut Client, object: &str) -> Json {
    client.get(&format!("/v1/objects/{object}")).ok()["slots"].clone()
}

#[test]
fn what_nobody_touches_migrates_in_the_background() {
    let home = Home::with_settings("[plugins]\nmigration_objects_max = 7\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    let names: Vec<String> = (0..100).map(|number| format!("counter-{number}")).collect();
    for name in &names {
        client.create("counter.Counter", name);
    }
    client.call("counter-5", "increment", &json!([5]));
    client.post("/v1/objects", &json!({ "derive": "counter-5", "name": "child" })).ok();
    home.swap(&[&artifacts::plugin("counter-v2")]);
    until_migrated(&home);
    assert!(names.iter().all(|name| schema(&mut client, name) == 2));
    assert_eq!(slots(&mut client, "counter-5"), json!({ "count": 5, "step": 1 }));
    assert_eq!((schema(&mut client, "child"), slots(&mut client, "child")), (2, json!({})), "it inherits as before");
    let steps = home.transactions("theseus.migrate");
    assert!(steps.len() >= 101 / 7, "{}", steps.len());
    let migrated = |step: &Json| {
        assert_eq!((&step["arguments"]["failed"], &step["ok"]), (&json!([]), &json!(true)));
        let one = &step["arguments"]["migrated"][0];
        assert_eq!((&one["behavior"], &one["from"], &one["to"]), (&json!("counter.Counter"), &json!(1), &json!(2)));
        assert_eq!(one["objects"], step["writes"].as_array().unwrap().len());
        one["objects"].as_u64().unwrap()
    };
    assert!(steps.iter().all(|step| migrated(step) <= 7));
    assert_eq!(steps.iter().map(migrated).sum::<u64>(), 101);
    host.stop();
    home.verify();
}

#[test]
fn an_eager_swap_answers_when_everything_has_migrated() {
    let home = lazy();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    home.swap(&[&artifacts::plugin("counter-v2")]);
    assert_eq!(schema(&mut client, "visits"), 1);
    let progress = plugins(&home, "active")[0]["migrations"].clone();
    let expected = json!([{
        "behavior": "counter.Counter", "from": 1, "to": 2, "left": 1, "done": 0, "failed": 0, "failures": [],
    }]);
    assert_eq!(progress, expected);
    assert!(home.run(&["plugins"]).contains("schema 1 -> 2, 0 objects migrated, 1 left"));
    let copy = home.beside("copy.so");
    artifacts::altered_copy(&artifacts::plugin("counter-v2"), &copy, "another file");
    let swapped = home.json(&["swap", "--eager", copy.to_str().unwrap()]);
    assert_eq!((&swapped["left"], &swapped["unfinished"]), (&json!([]), &Json::Null));
    assert_eq!(schema(&mut client, "visits"), 2);
    assert_eq!(plugins(&home, "active")[0]["migrations"], json!([]));
    host.stop();
    home.verify();
}

#[test]
fn an_older_plugin_comes_back_and_the_newer_one_turns_its_objects_back() {
    let home = lazy();
    let host = Host::start(&home);
    let (v1, v2) = (artifacts::plugin("counter"), artifacts::plugin("counter-v2"));
    home.swap(&[&v1]);
    let mut client = host.client();
    for name in ["touched", "untouched"] {
        client.create("counter.Counter", name);
    }
    home.swap(&[&v2]);
    client.call("touched", "increment", &json!([10]));
    client.create("counter.Counter", "newer");
    client.call("newer", "set_step", &json!([3]));
    client.post("/v1/objects", &json!({ "derive": "touched", "name": "child" })).ok();
    client.call("child", "increment", &json!([]));

    let plan = home.json(&["plan", v1.to_str().unwrap()]);
    assert_eq!(plan["kind"], "swap");
    let migrations = json!([{ "behavior": "counter.Counter", "from": 2, "to": 1, "objects": 3, "by": "fallback" }]);
    assert_eq!(plan["plugins"][0]["migrations"], migrations);
    assert_eq!(plan["plugins"][0]["reversible"], true, "version 2 reads what version 1 leaves");
    home.swap(&[&v1]);
    assert_eq!(plugins(&home, "fallback").len(), 1);
    assert_eq!(client.call("touched", "count", &json!([])), 10, "a query turns it back for the moment");
    assert_eq!(schema(&mut client, "touched"), 2);
    assert_eq!(client.call("touched", "increment", &json!([1])), 11);
    assert_eq!(slots(&mut client, "touched"), json!({ "count": 11 }));
    client.post("/v1/objects/touched/step", &json!([])).problem(404, "no_such_method");

    // The next start loads both again.
    host.kill();
    let host = Host::start(&home);
    let mut client = host.client();
    assert_eq!(plugins(&home, "fallback").len(), 1);
    assert_eq!(client.call("child", "increment", &json!([1])), 12, "what it had of its own it keeps");
    assert_eq!((schema(&mut client, "newer"), schema(&mut client, "child")), (2, 1));

    // Not before everything is back can the fallback go.
    let copy = home.beside("copy.so");
    artifacts::altered_copy(&v1, &copy, "another file");
    let plan = home.json(&["plan", copy.to_str().unwrap()]);
    assert_eq!(plan["plugins"][0]["migrations"][0]["by"], "present");
    home.swap(&[&copy]);
    until_migrated(&home);
    assert_eq!((schema(&mut client, "newer"), slots(&mut client, "newer")), (1, json!({ "count": 0 })));
    assert_eq!(home.transactions("theseus.fallback_released").len(), 1);
    assert_eq!(plugins(&home, "active").len(), 1);
    host.stop();
    home.verify();
}
