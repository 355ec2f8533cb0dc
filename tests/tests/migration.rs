//! Objects of old schemas: brought up in the background, taken back by a downgrade, left alone where they cannot migrate.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::PathBuf};

use theseus_tests::{Client, Home, Host, Json, artifacts, fixtures, json, until};

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
fn objects_migrate_however_far_apart_their_ids_are() {
    let home = Home::new();
    let ids = [1, 5, 1_u64 << 40, 1 << 61];
    let mut file = "{\"format\":\"theseus.export\",\"version\":1}\n".to_owned();
    for id in ids {
        let object = json!({ "id": id, "behavior": "counter.Counter", "schema": 1, "slots": { "count": 3 } });
        file += &format!("{object}\n");
    }
    file += &format!("{}\n", json!({ "end": true, "objects": ids.len(), "names": 0 }));
    let path = home.beside("far.jsonl");
    fs::write(&path, file).unwrap();
    home.run(&["import", "--keep-ids", path.to_str().unwrap()]);
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let swapped = home.json(&["swap", "--eager", artifacts::plugin("counter-v2").to_str().unwrap()]);
    assert_eq!((&swapped["left"], &swapped["unfinished"]), (&json!([]), &Json::Null));
    assert_eq!(swapped["probes"][0]["samples"], ids.len(), "all of them were tried beforehand: {swapped}");
    let mut client = host.client();
    for id in ids {
        assert_eq!(slots(&mut client, &id.to_string()), json!({ "count": 3, "step": 1 }));
    }
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

/// How many errors were counted of the plugin on probation.
fn probation_errors(home: &Home) -> u64 {
    home.json(&["plugins"])["probation"][0]["errors"].as_u64().unwrap()
}

/// An item with a number.
fn item(client: &mut Client, name: &str, n: i64) -> u64 {
    let id = client.create("items.Item", name);
    client.call(name, "set", &json!([n]));
    id
}

#[test]
fn an_object_that_cannot_migrate_is_left_as_it_was_and_blocks_nothing() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::items("items")]);
    let mut client = host.client();
    let ids: Vec<u64> = (10..16).map(|n| item(&mut client, &format!("item-{n}"), n)).collect();
    let v2 = fixtures::items("items_2");
    let swapped = home.json(&["swap", "--eager", v2.to_str().unwrap()]);
    let failed = json!([{
        "behavior": "items.Item", "from": 1, "to": 2, "left": 1, "done": 5, "failed": 1,
        "failures": [{ "object": ids[3], "error": "unlucky: there is no 13 any more" }],
    }]);
    assert_eq!((&swapped["left"], &swapped["unfinished"]), (&failed, &Json::Null));
    assert_eq!(plugins(&home, "active")[0]["migrations"], failed);
    let again = home.json(&["swap", "--eager", v2.to_str().unwrap()]);
    assert_eq!((&again["tid"], &again["left"][0]["failed"]), (&Json::Null, &json!(1)));
    assert_eq!(probation_errors(&home), 1, "however often the host itself tries");
    assert!(home.run(&["plugins"]).contains(&format!("object {}: unlucky", ids[3])));
    assert_eq!(client.call("item-14", "add", &json!([1])), 15);
    assert_eq!(schema(&mut client, "item-13"), 1);
    let refused = client.post("/v1/objects/item-13/add", &json!([1]));
    assert!(refused.text().contains("there is no 13 any more"), "{}", refused.text());

    // Version 3 reads only what version 2 makes of it.
    let v3 = fixtures::items("items_3");
    let plan = home.json(&["plan", v3.to_str().unwrap()]);
    let by: Vec<_> = plan["plugins"][0]["migrations"].as_array().unwrap().iter().map(|it| &it["by"]).collect();
    assert_eq!(by, ["present", "plugin"]);
    let message = home.cli(&["swap", v3.to_str().unwrap()]).failed(4);
    assert!(message.contains(&format!("object {}: unlucky", ids[3])), "{message}");

    // The older plugin can mend it, and then everything goes on.
    home.swap(&[&fixtures::items("items")]);
    client.call("item-13", "set", &json!([12]));
    home.swap(&[&v2]);
    home.swap(&[&v3]);
    until_migrated(&home);
    assert_eq!((schema(&mut client, "item-13"), client.call("item-13", "n", &json!([]))), (3, json!(12)));
    host.stop();
    home.verify();
}

#[test]
fn steps_that_are_full_are_nobodys_fault() {
    let home = Home::with_settings("[execution]\nwrite_bytes_per_transaction_max = 400\n");
    let host = Host::start(&home);
    home.swap(&[&fixtures::items("items")]);
    let mut client = host.client();
    for n in 20..60 {
        item(&mut client, &format!("item-{n}"), n);
    }
    let swapped = home.json(&["swap", "--eager", fixtures::items("items_2").to_str().unwrap()]);
    assert_eq!((&swapped["left"], &swapped["unfinished"]), (&json!([]), &Json::Null));
    let steps = home.transactions("theseus.migrate");
    assert!(steps.len() >= 4, "{} steps: the limit has to come before the objects of a step do", steps.len());
    assert_eq!(probation_errors(&home), 0);
    host.stop();
    home.verify();
}

#[test]
fn a_failure_is_forgotten_when_its_object_is() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::items("items")]);
    let mut client = host.client();
    item(&mut client, "lucky", 7);
    item(&mut client, "unlucky", 13);
    let other = item(&mut client, "unlucky-too", 13);
    home.json(&["swap", "--eager", fixtures::items("items_2").to_str().unwrap()]);
    assert_eq!(plugins(&home, "active")[0]["migrations"][0]["failed"], 2);
    client.delete("/v1/objects/unlucky").ok();
    until("one failure to be forgotten", || {
        let progress = &plugins(&home, "active")[0]["migrations"][0];
        let failures = progress["failures"].as_array().unwrap();
        progress["failed"] == 1 && failures.len() == 1 && failures[0]["object"] == other
    });
    client.delete(&format!("/v1/objects/{other}")).ok();
    until_migrated(&home);
    host.stop();
    home.verify();
}

#[test]
fn failures_may_go_while_the_walk_is_under_way() {
    // Two steps, with time before each.
    let home = Home::with_settings(
        "[plugins]\nmigration_objects_max = 5\nmigration_step_us_max = 1000000\nmigration_rest_ms = 1500\n",
    );
    let host = Host::start(&home);
    home.swap(&[&fixtures::items("items")]);
    let mut client = host.client();
    let ids: Vec<u64> = (0..6).map(|n| item(&mut client, &format!("item-{n}"), if n < 5 { 13 } else { 7 })).collect();
    home.swap(&[&fixtures::items("items_2")]);
    let progress = || plugins(&home, "active")[0]["migrations"][0].clone();
    until("the first step", || progress()["failed"] == 5);
    ids[..4].iter().for_each(|id| _ = client.delete(&format!("/v1/objects/{id}")).ok());
    until("the second step", || schema(&mut client, "item-5") == 2);
    until("the end of the walk", || progress()["failures"].as_array().unwrap().len() == 1);
    assert_eq!((&progress()["failed"], &progress()["left"]), (&json!(1), &json!(1)));
    client.call("item-5", "add", &json!([1]));
    host.stop();
    home.verify();
}

#[test]
fn a_chain_of_plugins_finishes_each_migration_before_the_next() {
    let home = lazy();
    let host = Host::start(&home);
    home.swap(&[&fixtures::items("items")]);
    let mut client = host.client();
    for n in 0..50 {
        item(&mut client, &format!("item-{n}"), -n);
    }
    home.json(&["swap", fixtures::items("items_2").to_str().unwrap()]);
    client.call("item-7", "add", &json!([1]));
    let swapped = home.swap(&[&fixtures::items("items_3")]);
    assert!(swapped["stages_us"]["finish_migration"].as_u64().unwrap() > 0);
    assert!((0..50).all(|n| schema(&mut client, &format!("item-{n}")) == 2), "nobody has touched them since");
    assert_eq!(client.call("item-7", "add", &json!([0])), -6);
    assert_eq!(slots(&mut client, "item-7"), json!({ "number": -6, "label": "" }));

    // Down again in two steps; -13 has no way from 2 to 1.
    home.swap(&[&fixtures::items("items_2")]);
    let v1 = fixtures::items("items");
    let plan = home.json(&["plan", v1.to_str().unwrap()]);
    let by: Vec<_> = plan["plugins"][0]["migrations"].as_array().unwrap().iter().map(|it| &it["by"]).collect();
    assert_eq!(by, ["fallback", "present"], "{plan}");
    home.json(&["swap", v1.to_str().unwrap(), "--eager"]);
    let progress = &plugins(&home, "active")[0]["migrations"][0];
    assert_eq!((&progress["left"], &progress["failed"], &progress["from"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(plugins(&home, "fallback").len(), 1, "it is still needed");
    assert_eq!(client.call("item-7", "add", &json!([0])), -6);
    client.delete("/v1/objects/item-13").ok();
    until_migrated(&home);
    host.stop();
    home.verify();
}

#[test]
fn one_plugin_can_read_and_write_through_versions_between() {
    let home = lazy();
    let host = Host::start(&home);
    let (v1, v3) = (fixtures::items("items"), fixtures::items("items_3_from_1"));
    home.swap(&[&v1]);
    let mut client = host.client();
    item(&mut client, "thirteen", 13);
    home.swap(&[&v3]);
    assert_eq!(client.call("thirteen", "add", &json!([1])), 14);
    assert_eq!(slots(&mut client, "thirteen"), json!({ "number": 14, "label": "old" }));
    home.swap(&[&v1]);
    assert_eq!(client.call("thirteen", "add", &json!([1])), 15);
    assert_eq!(slots(&mut client, "thirteen"), json!({ "n": 15 }));
    host.stop();
    home.verify();
}

// --- Slots that parents' methods left -----------------------------------------------------------------------------------

/// Gives an object parents.
fn set_parents(client: &mut Client, object: &str, parents: &[u64]) {
    let body = json!({ "parents": parents }).to_string();
    client.send("PUT", &format!("/v1/objects/{object}/parents"), &[], body.as_bytes()).unwrap().ok();
}

/// Counters at 3: `linked` has a node among its parents, which is 1, and a slot of its own by a method of that; `child` inherits all
/// of it; `stray` has such a slot, but no such parent any more; and `plain` never had any.
fn linked(home: &Home, client: &mut Client) {
    home.swap(&[&artifacts::plugin("counter"), &fixtures::kin()]);
    let node = client.create("kin.Node", "n");
    for name in ["linked", "stray", "plain"] {
        client.create("counter.Counter", name);
        client.call(name, "increment", &json!([3]));
    }
    for name in ["linked", "stray"] {
        set_parents(client, name, &[node]);
        client.call(name, "link", &json!([{ "$ref": node }]));
    }
    set_parents(client, "stray", &[]);
    client.post("/v1/objects", &json!({ "derive": "linked", "name": "child" })).ok();
}

/// What parents' methods left to `linked` is there as ever, whatever version its own slots have.
fn assert_linked(client: &mut Client, by: &str) {
    let next = json!([{ "$ref": 1 }]);
    for name in ["linked", "child"] {
        assert_eq!(client.call(name, "next", &json!([])), next, "{name} {by}");
        assert_eq!(client.call(name, "count", &json!([])), 3, "{name} {by}");
    }
    assert_eq!(slots(client, "linked")["next"], next, "{by}");
    assert_eq!(slots(client, "child"), json!({}), "it inherits as before {by}");
}

#[test]
fn slots_by_the_parents_methods_stay_in_every_direction() {
    let home = lazy();
    let host = Host::start(&home);
    let mut client = host.client();
    linked(&home, &mut client);
    let (v1, v2) = (artifacts::plugin("counter"), artifacts::plugin("counter-v2"));
    let next = json!([{ "$ref": 1 }]);
    assert_linked(&mut client, "at first");
    let rehearsed = home.json(&["rehearse", v2.to_str().unwrap(), "--last", "100"]);
    let counts = &rehearsed["counts"];
    assert_eq!(counts["same"].as_u64().unwrap() + counts["slower"].as_u64().unwrap(), 8, "{rehearsed:#}");
    assert_eq!(rehearsed["transactions"], 8);

    let eagerly = home.json(&["swap", "--eager", v2.to_str().unwrap()]);
    assert_eq!((&eagerly["left"], &eagerly["probes"][0]["samples"]), (&json!([]), &json!(4)));
    let stray = "turned back to version 1, 1 of 4 objects of counter.Counter lose slots: `next` of object 3";
    assert_eq!(eagerly["probes"][0]["warnings"], json!([stray]), "what nobody knows is lost, and nothing else");
    assert_linked(&mut client, "forward, eagerly");
    assert_eq!((schema(&mut client, "linked"), schema(&mut client, "child")), (2, 2));
    assert_eq!(
        slots(&mut client, "linked"),
        json!({ "count": 3, "next": next }),
        "its step is that of everything inherited"
    );
    assert_eq!(slots(&mut client, "stray"), json!({ "count": 3, "step": 1 }));
    assert_eq!(slots(&mut client, "plain"), json!({ "count": 3, "step": 1 }));

    home.json(&["swap", "--eager", v1.to_str().unwrap()]);
    assert_linked(&mut client, "back, eagerly");
    assert_eq!(slots(&mut client, "linked"), json!({ "count": 3, "next": next }));
    assert_eq!(slots(&mut client, "plain"), json!({ "count": 3 }));

    home.swap(&[&v2]);
    assert_linked(&mut client, "forward, for the moment of a query");
    assert_eq!(schema(&mut client, "linked"), 1);
    client.call("linked", "increment", &json!([0]));
    assert_linked(&mut client, "forward, touched by a command");
    assert_eq!(schema(&mut client, "linked"), 2);
    client.call("linked", "unlink", &json!([]));
    client.call("linked", "link", &json!([{ "$ref": 1 }]));

    home.run(&["rollback"]);
    assert_linked(&mut client, "rolled back, for the moment of a query");
    assert_eq!(schema(&mut client, "linked"), 2);
    client.call("linked", "increment", &json!([0]));
    assert_linked(&mut client, "rolled back, touched by a command");
    assert_eq!(slots(&mut client, "linked"), json!({ "count": 3, "next": next }));
    host.stop();
    home.verify();
}

#[test]
fn slots_by_the_parents_methods_stay_through_chains() {
    let home = lazy();
    let host = Host::start(&home);
    let mut client = host.client();
    home.swap(&[&fixtures::items("items"), &fixtures::kin()]);
    let node = client.create("kin.Node", "n");
    item(&mut client, "linked", 7);
    set_parents(&mut client, "linked", &[node]);
    client.call("linked", "link", &json!([{ "$ref": node }]));
    let next = json!([{ "$ref": node }]);
    // The label is that of everything inherited.
    for (file, own) in [
        ("items_2", json!({ "n": 7 })),
        ("items_3", json!({ "number": 7 })),
        ("items_2", json!({ "n": 7 })),
        ("items", json!({ "n": 7 })),
        ("items_3_from_1", json!({ "number": 7 })),
        ("items", json!({ "n": 7 })),
    ] {
        home.json(&["swap", fixtures::items(file).to_str().unwrap(), "--eager"]);
        assert_eq!(client.call("linked", "next", &json!([])), next, "{file}");
        let mut expected = own;
        expected["next"] = next.clone();
        assert_eq!(slots(&mut client, "linked"), expected, "{file}");
    }
    host.stop();
    home.verify();
}

/// Imports two objects before any plugin is there: 1, and 2, which has it as its parent.
fn imported(parent: (&str, &Json), child: (&str, &Json)) -> Home {
    let home = Home::new();
    let mut file = format!("{}\n", json!({ "format": "theseus.export", "version": 1 }));
    for (id, (behavior, slots), parents) in [(1, parent, json!([])), (2, child, json!([1]))] {
        let object = json!({ "id": id, "behavior": behavior, "schema": 1, "parents": parents, "slots": slots });
        file += &format!("{object}\n");
    }
    file += &format!("{}\n", json!({ "end": true, "objects": 2, "names": 0 }));
    let path = home.beside("two.jsonl");
    fs::write(&path, file).unwrap();
    home.run(&["import", "--keep-ids", path.to_str().unwrap()]);
    home
}

/// Which slots the parents' methods left is then known by the slots that the parents have.
#[test]
fn slots_by_the_parents_methods_stay_also_before_their_plugin_is_in_force() {
    let next = json!([{ "$ref": 1 }]);
    let before = json!({ "count": 3, "next": next, "other": 1 });
    let home = imported(("kin.Node", &json!({ "next": [] })), ("counter.Counter", &before));
    let host = Host::start(&home);
    let mut client = host.client();
    home.json(&["swap", "--eager", artifacts::plugin("counter-v2").to_str().unwrap()]);
    assert_eq!(slots(&mut client, "2"), json!({ "count": 3, "next": next }));
    home.swap(&[&fixtures::kin()]);
    assert_eq!(client.call("2", "next", &json!([])), next);
    host.stop();
    home.verify();
}

#[test]
fn a_slot_that_a_parent_has_too_is_converted_and_stays_the_parents() {
    let home = imported(("other.Thing", &json!({ "n": 1 })), ("items.Item", &json!({ "n": 7 })));
    let host = Host::start(&home);
    let mut client = host.client();
    home.json(&["swap", "--eager", fixtures::items("items_3_from_1").to_str().unwrap()]);
    assert_eq!(slots(&mut client, "2"), json!({ "n": 7, "number": 7 }));
    assert_eq!(client.call("2", "add", &json!([1])), 8);
    home.json(&["swap", "--eager", fixtures::items("items").to_str().unwrap()]);
    assert_eq!(slots(&mut client, "2"), json!({ "n": 8 }), "what either version has is its own");
    host.stop();
    home.verify();
}

// --- Requirements -------------------------------------------------------------------------------------------------------

/// The items under another version.
fn items_of_version(home: &Home, version: &str) -> PathBuf {
    let mut bytes = fs::read(fixtures::items("items")).unwrap();
    fixtures::replace(&mut bytes, "\"version\":\"1.0.0\"", &format!("\"version\":\"{version}\""));
    let file = home.beside(&format!("items-{version}.so"));
    fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn a_plugin_needs_what_it_requires_and_keeps_it() {
    let home = Home::new();
    let host = Host::start(&home);
    let till = fixtures::items("till");
    let [items, newer, next] = ["1.0.0", "1.4.2", "2.0.0"].map(|version| items_of_version(&home, version));
    let refused = |files: &[&PathBuf], says: &str| {
        let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        let plan = home.cli(&[&["plan", "--json"], &files[..]].concat());
        assert!(plan.stdout.contains("\"refused\""), "{plan:?}");
        let message = home.cli(&[&["swap"], &files[..]].concat()).failed(4);
        assert!(message.contains(says), "{message}");
    };
    refused(&[&till], "`till` requires `items.Item` (^1), which no plugin would provide");
    refused(&[&till, &next], "that would have version 2.0.0: add a file of `items`");
    let plan = home.json(&["plan", till.to_str().unwrap(), items.to_str().unwrap()]);
    let order: Vec<_> = plan["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["name"]).collect();
    assert_eq!(order, ["items", "till"], "what is required comes first, however it is given");
    home.swap(&[&till, &items]);
    refused(&[&next], "`till` is in force and requires `items.Item` of `items` ^1, but version 2.0.0 is offered");
    let plan = home.json(&["plan", newer.to_str().unwrap()]);
    assert_eq!(plan["stays"], json!([{ "name": "till", "version": "1.0.0" }]));
    home.swap(&[&newer]);
    let mut client = host.client();
    client.create("till.Till", "till");
    let id = item(&mut client, "pear", 5);
    assert_eq!(client.call("till", "ring", &json!([{ "$ref": id }, 2])), json!([7, 1]));
    host.stop();
    let host = Host::start(&home);
    assert_eq!(plugins(&home, "active").len(), 2);
    host.stop();
}
