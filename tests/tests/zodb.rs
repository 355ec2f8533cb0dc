//! What Python's ZODB wrote becomes an identity: objects, BTrees, and the transactions with their times.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path, process::Command};

use theseus_tests::{
    Home, Json, Output,
    artifacts::checkout,
    home::{document, finish},
    json,
};

/// What pip says if it reaches no registry.
const NO_NETWORK: &[&str] = &["connection", "Temporary failure", "timed out", "name resolution", "unreachable"];

fn script(arguments: &[&str]) -> Output {
    finish(Command::new(checkout().join("scripts/import-zodb")).args(arguments))
}

/// A Python that has ZODB; none, loudly, if it cannot be had. In CI only a missing network excuses that.
fn python() -> Option<String> {
    let output = script(&["--python"]);
    if output.code == 0 {
        return Some(output.succeeded());
    }
    let offline = NO_NETWORK.iter().any(|words| output.stderr.contains(words));
    assert!(offline || std::env::var_os("CI").is_none(), "ZODB cannot be had:\n{}", output.stderr);
    eprintln!("NOT CHECKED: scripts/import-zodb, because ZODB cannot be had:\n{}", output.stderr);
    None
}

/// A home into which a storage was imported, and what ZODB says of its trees.
fn imported(python: &str, more: &[&str]) -> (Home, Json) {
    let home = Home::new();
    let (storage, out) = (home.beside("Data.fs"), home.beside("import.jsonl"));
    let make = checkout().join("tests/fixtures/zodb/make.py");
    let states = document(&finish(Command::new(python).arg(make).arg(&storage)).succeeded());
    script(&[&[storage.to_str().unwrap(), "--out", out.to_str().unwrap()], more].concat()).succeeded();
    home.run(&["import", out.to_str().unwrap()]);
    home.verify();
    (home, states)
}

/// The object that a slot of another one refers to.
fn follow(home: &Home, map: &Json, key: &str) -> Json {
    home.json(&["get", &map[key]["$ref"].to_string()])
}

#[test]
fn a_storage_of_zodb_becomes_an_identity_with_its_history() {
    let Some(python) = python() else { return };
    let (home, states) = imported(&python, &["--map", "__main__.Person=people.Person"]);
    let root = home.json(&["get", "root"]);
    assert_eq!((&root["id"], &root["behavior"]), (&json!(1), &json!("persistent.mapping.PersistentMapping")));
    let data = &root["slots"]["data"];
    let (ada, bob) = (follow(&home, data, "ada"), follow(&home, data, "bob"));
    assert_eq!((&ada["behavior"], &bob["behavior"]), (&json!("people.Person"), &json!("people.Person")));
    assert_eq!((&ada["slots"]["friend"], &bob["slots"]["friend"]), (&data["bob"], &data["ada"]));
    assert_eq!((&ada["slots"]["self"], &bob["slots"]["name"]), (&data["ada"], &json!("Bob")));
    let list = follow(&home, data, "list");
    assert_eq!(list["slots"]["data"], json!([1, data["bob"]]));

    let values = &ada["slots"]["values"];
    for (name, value) in [
        ("none", json!(null)),
        ("true", json!(true)),
        ("int", json!(-7)),
        ("large", json!(9_223_372_036_854_775_808_u64)),
        ("larger", json!({ "$int": "-18446744073709551616" })),
        ("huge", json!({ "python": "int", "text": "1000000000000000000000000000000" })),
        ("float", json!(0.1)),
        ("whole", json!(1.0)),
        ("infinite", json!({ "$float": "Infinity" })),
        ("bytes", json!({ "$bytes": "AP8=" })),
        ("text", json!("\u{e9}\u{1f680}")),
        ("tuple", json!([1, "two"])),
        ("set", json!({ "python": "set", "items": [1, 2, 3] })),
        ("empty", json!({})),
        ("mark", json!({ "$$ref": 5 })),
        ("numbers", json!({ "python": "dict", "items": [[1, "one"]] })),
        ("when", json!({ "python": "datetime.datetime", "iso": "2020-02-29T12:30:15.250000" })),
        ("day", json!({ "python": "datetime.date", "iso": "1999-12-31" })),
        ("price", json!({ "python": "decimal.Decimal", "text": "1.10" })),
        ("point", json!({ "python": "__main__.Point", "state": { "x": 1, "y": 2 } })),
        ("class", json!({ "python": "class", "name": "__main__.Point" })),
        ("friends", json!([data["ada"], data["bob"]])),
    ] {
        assert_eq!(values[name], value, "{name}");
    }
    assert_eq!(values["negative zero"].to_string(), "-0.0");

    // The trees as ZODB itself reads them, as of each transaction.
    let history = home.transactions("theseus.import");
    let at = |note: &str| {
        let found = history.iter().find(|line| line["arguments"]["note"] == note);
        found.unwrap_or_else(|| panic!("no transaction `{note}`"))
    };
    let mut compared = 0;
    for (note, state) in states.as_object().unwrap() {
        // What wrote nothing of the trees is no transaction less.
        let tid = at(note)["tid"].to_string();
        for (name, slot) in [("words", "items"), ("numbers", "items"), ("tags", "keys")] {
            let tree = home.json(&["get", &data[name]["$ref"].to_string(), "--at", &tid]);
            assert!(tree["slots"][slot] == state[name], "{name} after `{note}`: {}", tree["slots"]);
            compared += 1;
        }
    }
    assert!(compared >= 9, "{compared}");
    assert_eq!(follow(&home, data, "words")["behavior"], "BTrees.OOBTree.OOBTree");

    // Times, users, and what was taken back.
    let times: Vec<u64> = history.iter().map(|line| line["time_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times[0] > 1_500_000_000_000_000, "{times:?}");
    assert!(at("renamed")["arguments"]["user"].as_str().unwrap().ends_with("bob"));
    let past = |object: &Json, note: &str| {
        home.json(&["get", &object["$ref"].to_string(), "--at", &at(note)["tid"].to_string()])["slots"].clone()
    };
    assert_eq!(past(&data["bob"], "renamed")["name"], "Robert");
    assert_eq!(past(&data["bob"], "taken back")["name"], "Bob");
    let then = home.json(&["get", "root", "--at", &at("eve")["tid"].to_string()])["slots"]["data"].clone();
    assert_eq!(past(&then["eve"], "eve")["name"], "Eve");
    home.cli(&["get", &then["eve"]["$ref"].to_string()]).failed(1);
    assert!(then["long"].is_object() && data["long"].is_null());
    let first = home.json(&["get", "root", "--at", &history[0]["tid"].to_string()]);
    assert_eq!(first["slots"]["data"], json!({}), "an empty root was all there was");
}

/// Nothing is taken for the whole that is not, and nothing is left where it could be taken for it.
#[test]
fn a_file_that_is_no_whole_storage_is_refused_in_one_line() {
    let Some(python) = python() else { return };
    let home = Home::bare("");
    let (storage, out) = (home.beside("Data.fs"), home.beside("import.jsonl"));
    finish(Command::new(&python).arg(checkout().join("tests/fixtures/zodb/make.py")).arg(&storage)).succeeded();
    let whole = fs::read(&storage).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 3..][..400].fill(0);
    let cut = &whole[..whole.len() - 37];
    let path = home.beside("other.fs");
    let [path_text, out_text] = [&path, &out].map(|path| path.to_str().unwrap());
    for (bytes, says) in [
        (&b"hello\n"[..], "no FileStorage"),
        (b"", "no FileStorage"),
        (&whole[1..], "no FileStorage"),
        (cut, "--accept-truncated"),
        (&damaged, "other.fs"),
    ] {
        fs::write(&path, bytes).unwrap();
        let message = script(&[path_text, "--out", out_text]).failed(1);
        let told: Vec<&str> = message.lines().filter(|line| line.starts_with("import-zodb: ")).collect();
        assert!(told.len() == 1 && told[0].contains(says) && !message.contains("Traceback"), "{message}");
        let left: Vec<_> = fs::read_dir(out.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().contains("import.jsonl")), "{left:?}");
    }
    // Without its last transaction, if that is what somebody wants.
    fs::write(&path, cut).unwrap();
    let said = script(&[path_text, "--accept-truncated", "--out", out_text]);
    assert!(said.code == 0 && said.stderr.contains("left out"), "{}", said.stderr);
    let transactions = |path: &Path| fs::read_to_string(path).unwrap().matches("{\"transaction\":").count();
    let less = transactions(&out);
    script(&[storage.to_str().unwrap(), "--out", out_text]).succeeded();
    assert_eq!(transactions(&out), less + 1);
}

#[test]
fn a_storage_may_be_imported_without_its_history() {
    let Some(python) = python() else { return };
    let (home, states) = imported(&python, &["--no-history", "--root", "app"]);
    let data = home.json(&["get", "app"])["slots"]["data"].clone();
    assert!(follow(&home, &data, "words")["slots"]["items"] == states["removed"]["words"], "as ZODB has them at last");
    assert_eq!(home.transactions("theseus.import").len(), 1);
    let message = script(&["no-such-file.fs"]).failed(1);
    assert!(message.contains("no-such-file.fs is no file"), "{message}");
}
