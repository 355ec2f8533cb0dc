//! Objects as text: what is exported and imported is the same, to the last digit; an import is done whole or not at all.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use theseus_tests::{
    Home, Host, Json, artifacts,
    dice::Dice,
    home::document,
    json,
    load::Load,
    process::{Process, Signal},
    until,
};

const HEADER: &str = "{\"format\":\"theseus.export\",\"version\":1}";

/// A file beside a home.
fn file(home: &Home, name: &str, content: &str) -> PathBuf {
    let path = home.beside(name);
    fs::write(&path, content).unwrap();
    path
}

/// A file of these lines, with the header before them and the end behind.
fn lines(home: &Home, name: &str, lines: &[&str]) -> PathBuf {
    let names = lines.iter().filter(|line| line.contains("\"name\"")).count();
    let transactions = lines.iter().filter(|line| line.contains("\"transaction\"")).count();
    let mut text = format!("{HEADER}\n");
    lines.iter().for_each(|line| writeln!(text, "{line}").unwrap());
    let objects = lines.len() - names - transactions;
    writeln!(text, "{{\"end\":true,\"objects\":{objects},\"names\":{names}}}").unwrap();
    file(home, name, &text)
}

fn import(home: &Home, path: &Path, more: &[&str]) -> Json {
    document(&home.run(&[&["import", path.to_str().unwrap(), "--json"], more].concat()))
}

fn refused(home: &Home, path: &Path, more: &[&str], code: i32) -> String {
    let before = home.json(&["status"])["head"].clone();
    let message = home.cli(&[&["import", path.to_str().unwrap()], more].concat()).failed(code);
    assert_eq!(home.json(&["status"])["head"], before, "nothing was imported");
    message
}

/// An export without its header.
fn body(home: &Home, more: &[&str]) -> String {
    let text = home.run(&[&["export"], more].concat());
    let (header, body) = text.split_once('\n').unwrap();
    assert_eq!(document(header)["format"], "theseus.export");
    body.to_owned()
}

/// What an interruption left is removed, at once or by the next export to that file; what another export writes is not.
#[test]
fn an_interrupted_export_leaves_nothing() {
    const OBJECTS: usize = 4_000;

    let home = Home::new();
    let large = "x".repeat(4_000);
    let object = |id: usize| {
        format!("{{\"id\":{id},\"behavior\":\"a.A\",\"schema\":1,\"parents\":[],\"slots\":{{\"text\":\"{large}\"}}}}")
    };
    let objects: Vec<String> = (1..=OBJECTS).map(object).collect();
    import(&home, &lines(&home, "large.jsonl", &objects.iter().map(String::as_str).collect::<Vec<_>>()), &[]);
    let folder = home.beside("exports");
    fs::create_dir(&folder).unwrap();
    let (target, log) = (folder.join("out.jsonl"), home.beside("export.log"));
    fs::write(&target, "as it was").unwrap();
    let found = || {
        let mut names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    // One that is at work and stands still.
    let begin = || loop {
        _ = fs::remove_file(&log);
        let mut process = Process::start(&mut home.command(&["export", target.to_str().unwrap()]), &log);
        let its = format!(".out.jsonl.{}.tmp", process.pid());
        until("an export to begin", || found().contains(&its) || process.ended().is_some());
        if process.ended().is_none() {
            process.signal(Signal::STOP);
            // It stops at its next step.
            thread::sleep(Duration::from_millis(20));
            if found().contains(&its) {
                return process;
            }
            process.signal(Signal::CONT);
            process.wait();
        }
        fs::write(&target, "as it was").unwrap();
    };
    for signal in [Signal::INT, Signal::TERM] {
        let mut process = begin();
        process.signal(signal);
        process.signal(Signal::CONT);
        let status = process.wait();
        assert_eq!(status.code(), Some(1), "{signal:?}: {status}");
        assert!(process.log().contains("theseus: interrupted: "), "{signal:?}: {}", process.log());
        assert_eq!(found(), ["out.jsonl"], "{signal:?}");
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "as it was");

    // One that is killed can do nothing; one that waits is at work still.
    begin().kill();
    assert_eq!(found().len(), 2);
    let mut waits = begin();
    let left = found();
    assert_eq!(left.len(), 2, "what was killed is gone, what waits is there: {left:?}");
    home.run(&["export", target.to_str().unwrap()]);
    assert_eq!(found(), left);
    let whole = fs::read(&target).unwrap();
    fs::remove_file(&target).unwrap();
    waits.signal(Signal::CONT);
    assert_eq!(waits.wait().code(), Some(0), "{}", waits.log());
    assert_eq!(found(), ["out.jsonl"]);
    assert!(fs::read(&target).unwrap() == whole);
}

#[test]
fn every_value_comes_back_as_it_was() {
    let home = Home::new();
    let mut dice = Dice(0xe4b0);
    let mut values: Vec<String> = [
        "null",
        "true",
        "0",
        "-0.0",
        "0.0",
        "1",
        "1.0",
        "-1",
        "18446744073709551615",
        "-9223372036854775808",
        "5e-324",
        "1.7976931348623157e+308",
        "0.1",
        "1e+16",
        "{\"$int\":\"-18446744073709551616\"}",
        "{\"$float\":\"NaN\"}",
        "{\"$float\":\"-Infinity\"}",
        "{\"$bytes\":\"AP8B\"}",
        "\"\"",
        "\"\\u0000\\n\u{2028} \u{1f680}\"",
        "[]",
        "{}",
        "{\"$$ref\":7}",
        "{\"$$\":1}",
        "{\"$ref\":1}",
        "{\"$ref\":99}",
        "{\"$ref\":1,\"x\":2}",
        "[[[{\"a\":[{\"$ref\":2}]}]]]",
    ]
    .map(str::to_owned)
    .into();
    // Floats whose last digit is lost if they are not read exactly.
    values.extend((0..200).map(|_| {
        let float = f64::from_bits(dice.roll(u64::MAX));
        if float.is_finite() { serde_json::to_string(&float).unwrap() } else { "0.5".to_owned() }
    }));
    let objects: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(number, value)| {
            let id = number * 2 + 1;
            format!("{{\"id\":{id},\"behavior\":\"any.Thing\",\"schema\":3,\"parents\":[1,{id}],\"slots\":{{\"it\":{value}}}}}")
        })
        .collect();
    let mut all: Vec<&str> = objects.iter().map(String::as_str).collect();
    all.extend([
        "{\"name\":\"a b\",\"id\":3}",
        "{\"name\":\"first\",\"id\":1}",
        "{\"name\":\"\u{e9}t\u{e9}\",\"id\":3}",
    ]);
    let done = import(&home, &lines(&home, "in.jsonl", &all), &["--keep-ids"]);
    assert_eq!((&done["objects"], &done["names"]), (&json!(objects.len()), &json!(3)));
    home.verify();
    let exported = body(&home, &[]);
    let found: Vec<&str> = exported.lines().collect();
    for (found, written) in found.iter().zip(&all) {
        assert_eq!(found, written);
    }
    assert_eq!(found.len(), all.len() + 1);

    // Once more around, through another identity.
    let (other, path) = (Home::new(), home.beside("out.jsonl"));
    home.run(&["export", path.to_str().unwrap()]);
    import(&other, &path, &[]);
    assert!(body(&other, &[]) == exported, "it is the same, line for line");
    other.verify();
    assert_eq!(other.json(&["status"])["objects"], objects.len());
}

#[test]
fn an_export_shows_any_transaction_also_beside_a_host_under_load() {
    let home = Home::with_settings("[identity]\ntail_transactions_max = 200\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    for name in ["a", "b", "c", "visits"] {
        client.create("counter.Counter", name);
    }
    client.call("a", "increment", &json!([5]));
    client.delete("/v1/objects/b").ok();
    let at = home.tid().to_string();
    let then = body(&home, &["--at", &at]);
    assert_eq!(then.lines().count(), 7, "three objects, three names, the end: {then}");
    assert!(then.contains("{\"count\":5}") && !then.contains("\"b\""), "{then}");
    let load = Load::start(host.address(), "visits", 4);
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(150));
        assert_eq!(body(&home, &["--at", &at]), then);
        let now = home.run(&["export"]);
        let tid = document(now.lines().next().unwrap())["tid"].to_string();
        // The export may have the last record a moment before the host that writes it has answered it.
        let get = ["get", "visits", "--at", &tid];
        until("the host to know it too", || home.cli(&get).code == 0);
        let slots = home.json(&get)["slots"].clone();
        assert!(now.contains(&format!("\"slots\":{slots}")), "as of {tid} it has {slots}: {now}");
    }
    load.finish();
    host.stop();
    assert_eq!(body(&home, &["--at", &at]), then);
    let other = Home::new();
    import(&other, &file(&home, "then.jsonl", &home.run(&["export", "--at", &at])), &[]);
    assert_eq!(body(&other, &[]), then);
    // What was imported lives on.
    let host = Host::start(&other);
    other.swap(&[&artifacts::plugin("counter")]);
    assert_eq!(host.client().call("a", "increment", &json!([1])), 6);
    let next = host.client().create("counter.Counter", "b");
    assert!(next > 4, "no id is given twice: {next}");
    host.stop();
    other.verify();
    home.cli(&["export", "--at", "999999"]).failed(1);
    // A time stands for what had been committed by then: the future for all, and there may have been nothing.
    let last = document(home.run(&["export", "--at", "2999-01-01T00:00:00Z"]).lines().next().unwrap())["tid"].clone();
    assert_eq!(last, home.tid());
    let nothing = home.cli(&["export", "--at", "1999-01-01T00:00:00Z"]).failed(1);
    assert!(nothing.contains("no_such_transaction: nothing had been committed at that time"), "{nothing}");
    home.cli(&["export", "--at", "soon"]).failed(2);
}

#[test]
fn what_is_no_plain_file_is_written_and_not_replaced() {
    let home = Home::new();
    let (pipe, link, aim) = (home.beside("pipe"), home.beside("link"), home.beside("aim.jsonl"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    home.run(&["export", pipe.to_str().unwrap()]);
    assert!(!fs::symlink_metadata(&pipe).unwrap().is_file(), "the pipe is still one");
    assert_eq!(reader.join().unwrap().trim_end(), home.run(&["export"]));

    fs::write(&aim, "as it was").unwrap();
    std::os::unix::fs::symlink(&aim, &link).unwrap();
    home.run(&["export", link.to_str().unwrap()]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&aim).unwrap().trim_end(), home.run(&["export"]));
    let folder = home.cli(&["export", home.path().to_str().unwrap()]).failed(1);
    assert!(folder.contains("output: ") && folder.contains("directory"), "{folder}");
}

#[test]
fn ids_that_are_taken_are_given_anew_and_references_follow() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    for name in ["one", "two"] {
        host.client().create("counter.Counter", name);
    }
    let path = lines(
        &home,
        "in.jsonl",
        &[
            "{\"id\":1,\"behavior\":\"any.Thing\",\"schema\":1,\"parents\":[2],\"slots\":{\"to\":[{\"$ref\":9},{\"$ref\":2}],\"gone\":{\"$ref\":3}}}",
            "{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"gone\":{\"$ref\":50}}}",
            "{\"id\":9,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"me\":{\"$ref\":9}}}",
            "{\"name\":\"imported\",\"id\":1}",
        ],
    );
    let message = home.cli(&["import", path.to_str().unwrap()]).failed(1);
    assert!(message.contains("identity_in_use"), "{message}");
    host.stop();
    assert!(refused(&home, &path, &["--keep-ids"], 4).contains("import_refused"));
    let done = import(&home, &path, &[]);
    assert_eq!((&done["objects"], &done["renumbered"]), (&json!(3), &json!(2)));
    let (first, second) = (home.json(&["get", "imported"]), home.json(&["get", "9"]));
    let id = first["id"].as_u64().unwrap();
    assert!(id > 50, "beyond every id of the file: {id}");
    let two = first["parents"][0].as_u64().unwrap();
    assert_eq!(first["slots"]["to"], json!([{ "$ref": 9 }, { "$ref": two }]));
    assert_eq!(home.json(&["get", &two.to_string()])["slots"], json!({ "gone": { "$ref": 50 } }));
    assert_eq!(second["slots"]["me"], json!({ "$ref": 9 }));
    for gone in [first["slots"]["gone"]["$ref"].to_string(), "50".to_owned()] {
        home.cli(&["get", &gone]).failed(1);
    }
    home.verify();
    assert!(refused(&home, &path, &[], 4).contains("`imported`"), "the name is taken now");
    let host = Host::start(&home);
    let next = host.client().create("counter.Counter", "three");
    assert!(next > id, "{next}");
    assert_eq!(home.transactions("theseus.start").len(), 2);
    host.stop();
    home.verify();
}

/// Ids may lie as far apart as they like. Those that would leave too few for others are given anew.
#[test]
fn great_ids_are_ids_like_any_other() {
    let home = Home::new();
    let great = 1_u64 << 62;
    let object = |id: u64, to: u64| {
        format!(
            "{{\"id\":{id},\"behavior\":\"counter.Counter\",\"schema\":1,\"slots\":{{\"count\":1,\"to\":{{\"$ref\":{to}}}}}}}"
        )
    };
    let all = [object(1, great), object(5, u64::MAX), object(great, u64::MAX - 1), object(u64::MAX, 5)];
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let path = lines(&home, "in.jsonl", &[all[0], all[1], all[2], all[3], "{\"name\":\"one\",\"id\":1}"]);
    assert!(refused(&home, &path, &["--keep-ids"], 4).contains("import_refused"));
    assert_eq!(import(&home, &path, &[])["renumbered"], 1);
    // Of the two that were too great one is not there, and stays so.
    assert_eq!(home.json(&["get", &great.to_string()])["slots"]["to"], json!({ "$ref": great + 1 }));
    assert_eq!(home.json(&["get", "5"])["slots"]["to"], json!({ "$ref": great + 2 }));
    assert_eq!(home.json(&["get", &(great + 2).to_string()])["slots"]["to"], json!({ "$ref": 5 }));
    home.cli(&["get", &(great + 1).to_string()]).failed(1);
    home.verify();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    // What has the greatest id of the file has a name by way of the first.
    let collected = home.json(&["gc"]);
    assert_eq!((&collected["objects"], &collected["removed"]), (&json!(4), &json!(2)), "{collected}");
    let ids = ["next", "after"].map(|name| host.client().create("counter.Counter", name));
    assert_eq!(ids, [great + 3, great + 4]);
    host.stop();
    // What was written can be read.
    let other = Home::new();
    import(&other, &file(&home, "out.jsonl", &home.run(&["export"])), &[]);
    assert_eq!(other.json(&["status"])["objects"], 4);
    other.verify();
}

#[test]
fn a_file_may_bring_its_history() {
    let home = Home::new();
    let path = lines(
        &home,
        "in.jsonl",
        &[
            "{\"transaction\":{\"time_us\":1000000,\"note\":\"first\",\"user\":\"ada\"}}",
            "{\"id\":1,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"n\":1,\"to\":{\"$ref\":2}}}",
            "{\"name\":\"it\",\"id\":1}",
            "{\"transaction\":{\"time_us\":2000000}}",
            "{\"id\":1,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"n\":2}}",
            "{\"id\":2,\"behavior\":\"any.Other\",\"schema\":1,\"slots\":{}}",
            "{\"name\":\"it\",\"id\":2}",
            "{\"transaction\":{\"time_us\":3000000}}",
            "{\"id\":1,\"deleted\":true}",
            "{\"name\":\"it\",\"id\":null}",
        ],
    );
    let done = import(&home, &path, &[]);
    assert_eq!(done["transactions"], 3);
    let history = home.transactions("theseus.import");
    let times: Vec<u64> = history.iter().map(|line| line["time_us"].as_u64().unwrap()).collect();
    assert_eq!(times, [1_000_000, 2_000_000, 3_000_000]);
    assert_eq!((&history[0]["arguments"]["note"], &history[0]["arguments"]["user"]), (&json!("first"), &json!("ada")));
    let tid = |number: usize| history[number]["tid"].to_string();
    assert_eq!(home.json(&["get", "it", "--at", &tid(0)])["slots"]["n"], 1);
    assert_eq!(home.json(&["get", "1", "--at", &tid(1)])["slots"]["n"], 2);
    assert_eq!(home.json(&["get", "it", "--at", &tid(1)])["id"], 2);
    home.cli(&["get", "1"]).failed(1);
    home.cli(&["get", "it"]).failed(1);
    home.verify();
}

#[test]
fn what_is_wrong_with_a_file_is_told_by_its_line_and_nothing_is_imported() {
    let home = Home::new();
    let good = "{\"id\":1,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{}}";
    let object = |text: &str| lines(&home, "in.jsonl", &[good, text]);
    for (line, problem) in [
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1}", "slots"),
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":[]}", "not a JSON object"),
        ("{\"id\":2,\"behavior\":\"Thing\",\"schema\":1,\"slots\":{}}", "not the name of a behaviour"),
        ("{\"id\":2,\"behavior\":\"theseus.Host\",\"schema\":1,\"slots\":{}}", "belongs to its home"),
        ("{\"id\":0,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{}}", "cannot be the id"),
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"a\":1,\"a\":2}}", "twice"),
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"a\":18446744073709551616}}", "does not fit"),
        (
            "{\"id\":2,\"behavior\":\"theseus.Message\",\"schema\":1,\"slots\":{\"due_us\":1}}",
            "a message without `target`",
        ),
        (
            "{\"id\":2,\"behavior\":\"theseus.Message\",\"schema\":1,\"slots\":{\"due_us\":1,\"every_us\":0,\"method\":\"m\",\"posted_us\":1,\"since_us\":1,\"target\":{\"$ref\":1}}}",
            "not what `theseus export` writes",
        ),
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{\"a\":{\"$ref\":\"x\"}}}", "$ref"),
        ("{\"id\":2,\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{},\"other\":1}", "other"),
        ("{\"id\":-2,\"deleted\":true}", "-2"),
        ("{\"name\":\"7\",\"id\":1}", "digits"),
        ("{\"name\":\"x\",\"id\":3}", "which no line before defines"),
        ("{\"end\":true,\"objects\":1,\"names\":0}", "nothing may follow"),
        (good, "twice"),
        ("{", "EOF"),
    ] {
        let message = refused(&home, &object(line), &[], 1);
        assert!(message.contains("bad_import") && message.contains(problem), "{line}: {message}");
        assert!(message.contains("line 3") || message.contains("line 4"), "{line}: {message}");
    }
    for (text, problem) in [
        (String::new(), "empty"),
        ("{\"format\":\"theseus.export\",\"version\":2}\n".to_owned(), "theseus.export 2"),
        (format!("{HEADER}\n{good}\n"), "cut off"),
        (format!("{HEADER}\n{good}\n{{\"end\":true,\"objects\":2,\"names\":0}}\n"), "lines are missing"),
    ] {
        let message = refused(&home, &file(&home, "in.jsonl", &text), &[], 1);
        assert!(message.contains(problem), "{message}");
    }
    import(&home, &object("{\"name\":\"x\",\"id\":1}"), &[]);
}

#[test]
fn an_import_that_does_not_fit_the_quota_is_refused_and_taken_back() {
    let home = Home::with_settings("[identity]\nquota_bytes = 8388608\n");
    let mut text = format!("{HEADER}\n");
    for id in 1..=6000 {
        let padding = "x".repeat(2000);
        writeln!(
            text,
            "{{\"id\":{id},\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{{\"padding\":\"{padding}\"}}}}"
        )
        .unwrap();
    }
    text.push_str("{\"end\":true,\"objects\":6000,\"names\":0}\n");
    let message = refused(&home, &file(&home, "large.jsonl", &text), &[], 1);
    assert!(message.contains("storage_full") && message.contains("quota_bytes"), "{message}");
    assert_eq!(home.json(&["status"])["objects"], 0);
    home.verify();
}

#[test]
fn an_import_that_is_killed_is_taken_back() {
    let home = Home::with_settings("[identity]\ntail_transactions_max = 100\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    host.stop();
    let before = home.verify();
    let mut text = format!("{HEADER}\n");
    let padding = "x".repeat(2000);
    for id in 1..=60_000 {
        writeln!(
            text,
            "{{\"id\":{id},\"behavior\":\"any.Thing\",\"schema\":1,\"slots\":{{\"padding\":\"{padding}\",\"next\":{{\"$ref\":1}}}}}}"
        )
        .unwrap();
    }
    text.push_str("{\"end\":true,\"objects\":60000,\"names\":0}\n");
    let path = file(&home, "in.jsonl", &text);
    let size = || fs::metadata(home.file("identity/history/data.mdb")).unwrap().len();
    let (empty, mut met) = (size(), 0);
    for round in 0..4 {
        let mut child = home.command(&["import", path.to_str().unwrap()]).spawn().unwrap();
        // In the middle of writing, a little later each time.
        until("the import to write", || size() > empty + 1 || child.try_wait().unwrap().is_some());
        thread::sleep(Duration::from_millis(20 + 60 * round));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            met += 1;
        }
        child.wait().unwrap();
        if round == 1 {
            let message = home.cli(&["backup", "--to", home.beside("backup").to_str().unwrap()]).failed(1);
            assert!(message.contains("import"), "who only reads does not see half of it: {message}");
        }
        if round % 2 == 1 {
            let host = Host::start(&home);
            assert_eq!(host.client().get("/v1/status").ok()["objects"], 1);
            host.stop();
            home.verify();
        }
    }
    assert!(met > 0, "no import was met while it wrote");
    let done = import(&home, &path, &[]);
    assert_eq!(done["objects"], 60_000);
    let after = home.verify();
    assert!(after["rows"].as_u64() > before["rows"].as_u64().map(|rows| rows + 59_999));
    assert_eq!(home.json(&["status"])["objects"], 60_001);
}
