//! What can become of the files of an identity: kills, flipped bits, ends that are cut off, files that are gone.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use theseus_tests::{Client, Home, Host, artifacts, dice::Dice, home::document, host, json, load::Load, until};

/// How often the host is killed.
const CRASHES: u64 = 15;

// --- Crashes ------------------------------------------------------------------------------------------------------------

#[test]
fn what_was_answered_survives_every_crash_and_nothing_is_done_twice() {
    // A table that lags little is brought forward all the time, so that crashes meet it too.
    let home = Home::with_settings("[identity]\ntail_transactions_max = 200\n");
    let mut host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    let load = Load::start(host.address(), "visits", 4);
    let mut dice = Dice(0x7e5e);
    let mut last = 0;
    for crash in 1..=CRASHES {
        thread::sleep(Duration::from_millis(dice.roll(250)));
        host.kill();
        let report = home.verify();
        let tid = report["tid"].as_u64().unwrap();
        assert!(tid >= last, "crash {crash} took transactions {tid} to {last} back");
        host = Host::start(&home);
        load.move_to(host.address());
        last = tid;
    }
    thread::sleep(Duration::from_millis(200));
    let report = load.finish();
    assert!(report.broken + report.refused > 0, "no crash met a request");
    let mut client = host.client();
    assert_eq!(client.get("/v1/status").ok()["incarnation"], CRASHES + 1);
    let count = client.call("visits", "count", &json!([])).as_i64().unwrap();
    assert_eq!(home.transactions("increment").len() as i64, count);
    report.assert_exactly_once(count);
    let metrics = client.get("/metrics");
    assert!(metrics.text().contains("theseus_damage_total 0\n"), "{}", metrics.text());
    host.stop();
    home.verify();
}

// --- Bits ---------------------------------------------------------------------------------------------------------------

/// A text that stands nowhere else, long enough that LMDB gives the record that holds it pages of its own.
fn marker(name: &str) -> String {
    format!("<<{name}>>").repeat(1000)
}

/// A stopped home whose objects hold markers: `kept` and `replaced` (by another text later), with some history around.
fn marked() -> Home {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    for name in ["kept", "replaced"] {
        client.create("troublemaker.Trouble", name);
    }
    for round in 0..20 {
        client.call("kept", "touch", &json!([]));
        match round {
            5 => _ = client.call("kept", "keep", &json!([marker("kept")])),
            10 => _ = client.call("replaced", "keep", &json!([marker("replaced")])),
            15 => _ = client.call("replaced", "keep", &json!(["something else"])),
            _ => {}
        }
    }
    home.until_settled();
    host.stop();
    home.verify();
    home
}

/// Where a text stands in a file.
fn places(file: &Path, text: &str) -> Vec<u64> {
    let bytes = fs::read(file).unwrap();
    let found = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    found.map(|(place, _)| place as u64).collect()
}

fn flip(file: &Path, place: u64, bit: u8) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], place).unwrap();
}

/// The damage that `verify` finds, which there has to be.
fn damage(home: &Home) -> Vec<(String, String)> {
    let output = home.cli(&["verify", "--json"]);
    assert_eq!(output.code, 5, "{}{}", output.stdout, output.stderr);
    let report = document(&output.stdout);
    assert_eq!(report["whole"], false);
    let text = home.cli(&["verify"]);
    assert!(text.code == 5 && text.stdout.contains("DAMAGED"), "people are told, too: {}", text.stdout);
    let damage = report["damage"].as_array().unwrap().iter();
    damage.map(|it| (it["place"].as_str().unwrap().to_owned(), it["problem"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_flipped_bit_in_the_history_is_found_and_placed() {
    let home = marked();
    let tid = home.transactions("keep").iter().find(|line| line["target"] == 2).unwrap()["tid"].as_u64().unwrap();
    let file = home.file("identity/history/data.mdb");
    // Once in the arguments and once in what the object became.
    let found = places(&file, &marker("replaced"));
    assert!(found.len() >= 2, "{found:?}");
    for place in [found[0], found[0] + 3000, *found.last().unwrap() + 7999] {
        for bit in [0, 6] {
            flip(&file, place, bit);
            let damage = damage(&home);
            assert_eq!(damage[0].0, format!("history record of transactions {tid} to {tid}"), "{damage:?}");
            assert!(damage[0].1.contains("has the hash"), "{damage:?}");
            flip(&file, place, bit);
        }
    }
    home.verify();
}

/// Starts a host on a damaged identity. It may refuse, with exit code 5 and its reason, and then writes nothing; else it has
/// to go on without what is damaged, as `look` checks.
fn start_damaged(home: &Home, look: impl FnOnce(&mut Client)) {
    let head = || document(&home.cli(&["verify", "--json"]).stdout)["head"].clone();
    let before = head();
    let mut process = Host::spawn(home, |_| {});
    until("the host to start or end", || process.ended().is_some() || host::status(home).is_some());
    match process.ended() {
        Some(status) => {
            assert_eq!(status.code(), Some(5), "{}", process.log());
            assert!(process.log().contains("theseus: identity_damaged: "), "{}", process.log());
            assert_eq!(head(), before, "a host that does not start adds nothing to a damaged history");
        }
        None => look(&mut home.admin()),
    }
}

#[test]
fn a_damaged_record_is_told_to_whoever_reads_it() {
    let home = marked();
    let tid = home.transactions("keep").iter().find(|line| line["target"] == 2).unwrap()["tid"].clone();
    let file = home.file("identity/history/data.mdb");
    flip(&file, places(&file, &marker("replaced"))[0] + 100, 3);
    home.run(&["get", "replaced"]);
    home.cli(&["get", "replaced", "--at", &tid.to_string()]).failed(5);
    home.cli(&["history"]).failed(5);
    start_damaged(&home, |client| {
        assert_eq!(client.call("replaced", "note", &json!([])), "something else");
        client.get(&format!("/v1/objects/replaced?at={tid}")).problem(500, "identity_damaged");
        home.cli(&["get", "replaced", "--at", &tid.to_string()]).failed(5);
        assert_eq!(client.call("replaced", "touch", &json!([])), 1, "the host goes on");
    });
    damage(&home);
}

#[test]
fn a_flipped_bit_in_the_object_table_is_found_and_placed() {
    let home = marked();
    let host = Host::start(&home);
    for target in ["kept", "kept", "replaced"] {
        // Late enough for the host to be gone by then.
        let message = json!({ "target": target, "method": "touch", "delay_ms": 6000 });
        assert_eq!(host.client().post("/v1/messages", &message).status, 201);
    }
    host.stop();
    let file = home.file("identity/objects/data.mdb");
    let found = places(&file, &marker("kept"));
    assert!(!found.is_empty());
    // The table writes a new row beside the old, so some of these may be free space by now. One is the row.
    for place in &found {
        flip(&file, place + 4000, 2);
    }
    let damage = damage(&home);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0].0, "object 1");
    let message = home.cli(&["get", "kept"]).failed(5);
    assert!(message.starts_with("theseus: identity_damaged: "), "{message}");
    home.run(&["get", "replaced"]);
    start_damaged(&home, |client| {
        client.get("/v1/objects/kept").problem(500, "identity_damaged");
        client.get("/v1/objects/kept/note").problem(500, "identity_damaged");
        client.post("/v1/objects/kept/touch", &json!([])).problem(500, "identity_damaged");
        // A message that nobody can receive is in nobody's way.
        until("the other is delivered", || client.call("replaced", "count", &json!([])) == 1);
        assert_eq!(client.get("/v1/status").ok()["messages"]["waiting"], 2);
        let log = fs::read_to_string(host::log_file(&home)).unwrap();
        assert_eq!(log.matches("is not delivered for now").count(), 1, "one line tells of both: {log}");
    });
    for place in &found {
        flip(&file, place + 4000, 2);
    }
    home.verify();
}

#[test]
fn a_damaged_message_is_in_no_other_ones_way() {
    let home = marked();
    let host = Host::start(&home);
    let mut client = host.client();
    let lost = marker("lost");
    for (target, method, arguments) in [("kept", "keep", json!([lost])), ("replaced", "touch", json!([]))] {
        // Late enough for the host to be gone by then.
        let message = json!({ "target": target, "method": method, "arguments": arguments, "delay_ms": 6000 });
        assert_eq!(client.post("/v1/messages", &message).status, 201);
    }
    host.stop();
    let file = home.file("identity/objects/data.mdb");
    let found = places(&file, &lost);
    assert!(!found.is_empty());
    let turn = || found.iter().for_each(|place| flip(&file, place + 4000, 2));
    turn();
    damage(&home);
    let host = Host::start(&home);
    let mut client = host.client();
    until("the other is delivered", || client.call("replaced", "count", &json!([])) == 1);
    let log = host.log();
    assert!(log.contains(" is not delivered: ") && log.contains("damaged at"), "{log}");
    assert_eq!(client.call("kept", "note", &json!([])), marker("kept"), "the damaged one was not");
    host.stop();
    turn();
    let host = Host::start(&home);
    until("it is delivered as well", || host.client().call("kept", "note", &json!([])) == lost);
    host.stop();
    home.verify();
}

/// A bit of a name, of a request id, of the same by age and of a row of an index flips under a running host. Nobody asks for any of them.
#[test]
fn a_running_host_finds_a_flipped_bit_in_a_row_of_any_kind() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let (mut client, mut admin) = (host.client(), home.admin());
    client.create("troublemaker.Trouble", "the-name-of-it");
    client.post_once("/v1/objects/the-name-of-it/keep", "the-request-id", &json!(["<<kept in an index>>"])).ok();
    admin.post("/v1/indexes", &json!({ "behavior": "troublemaker.Trouble", "slot": "note" })).ok();
    until("the index to be complete", || admin.get("/v1/indexes").ok()["indexes"][0]["complete"] == true);
    home.until_settled();
    let file = home.file("identity/objects/data.mdb");
    // A key is followed by its row's seal. A row by age has the id as a text in an array; a row of an index ends with the object's id.
    let ids = places(&file, "the-request-id");
    let bytes = fs::read(&file).unwrap();
    let (by_age, by_id): (Vec<u64>, _) =
        ids.iter().partition(|at| bytes[**at as usize - 2..].starts_with(&[0x81, 0x6e]));
    let behind = |places: Vec<u64>, length: usize| places.iter().map(|at| at + length as u64).collect::<Vec<_>>();
    let indexed = "\u{5}<<kept in an index>>\0\0".to_owned();
    let rows = [
        ("the name `the-name-of-it`", behind(places(&file, "the-name-of-it"), "the-name-of-it".len())),
        ("the request id `the-request-id`", behind(by_id, "the-request-id".len())),
        ("the request id of transaction", by_age),
        ("a row of an index", behind(places(&file, &indexed), indexed.len() + 8)),
    ];
    for (what, places) in rows {
        assert!(!places.is_empty(), "{what}");
        places.iter().for_each(|place| flip(&file, *place, 5));
    }
    let damage = |admin: &mut Client| {
        let metrics = admin.get("/metrics");
        let found = metrics.text().lines().find_map(|line| line.strip_prefix("theseus_damage_total "));
        found.unwrap().parse::<u64>().unwrap()
    };
    // A rest may have to pass before the next round.
    until("the host to find them", || damage(&mut admin) >= 4);
    let log = host.log();
    for what in [
        "the name `the-name-of-it`: its content has the checksum",
        "the request id `the-request-id`: its content has the checksum",
        "the request id of transaction ",
        "a row of an index: its content has the checksum",
    ] {
        assert!(log.contains(&format!("DAMAGED at {what}")), "{what}: {log}");
    }
    host.kill();
}

#[test]
fn any_flipped_bit_of_a_record_is_found() {
    let home = marked();
    let file = home.file("identity/history/data.mdb");
    let first = places(&file, &marker("kept"))[0];
    let mut dice = Dice(0xb17);
    for _ in 0..25 {
        let (place, bit) = (first + dice.roll(8000), dice.roll(8) as u8);
        flip(&file, place, bit);
        let damage = damage(&home);
        assert!(damage[0].0.starts_with("history record of transactions"), "bit {bit} of byte {place}: {damage:?}");
        flip(&file, place, bit);
    }
    home.verify();
}

#[test]
fn a_flipped_bit_in_the_names_of_tables_is_found() {
    let home = marked();
    let mut wrong = Vec::new();
    for (file, names) in [
        ("identity/objects/data.mdb", &["reached", "objects", "names", "meta"][..]),
        ("identity/history/data.mdb", &["batches", "meta"]),
    ] {
        let path = home.file(file);
        let before = fs::read(&path).unwrap();
        for name in names {
            let found = places(&path, name);
            assert!(!found.is_empty(), "{file} has no `{name}`: this test is to be brought up to date");
            for place in found {
                flip(&path, place, 0);
            }
            let output = home.cli(&["verify"]);
            if output.code != 5 {
                wrong.push(format!("`{name}` in {file}: exit {}: {}{}", output.code, output.stdout, output.stderr));
            }
            fs::write(&path, &before).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    home.verify();
}

#[test]
fn a_flipped_bit_anywhere_is_told_or_makes_no_difference() {
    let home = marked();
    let mut whole = home.verify();
    whole["elapsed_ms"] = json!(0);
    let mut dice = Dice(0xf11b);
    let (mut found, mut wrong) = (0, Vec::new());
    for file in ["identity/history/data.mdb", "identity/objects/data.mdb"] {
        let path = home.file(file);
        let length = fs::metadata(&path).unwrap().len();
        for number in 0..100 {
            // Every other one into the pages where LMDB keeps its own books.
            let place =
                if number % 2 == 0 { dice.roll(length) } else { dice.roll(length / 4096) * 4096 + dice.roll(64) };
            let bit = dice.roll(8) as u8;
            let before = fs::read(&path).unwrap();
            flip(&path, place, bit);
            let output = home.cli(&["verify", "--json"]);
            let same = || {
                let mut report = document(&output.stdout);
                report["elapsed_ms"] = json!(0);
                report == whole
            };
            match output.code {
                0 if same() => {}
                5 => found += 1,
                code => {
                    let said = output.stdout.clone() + &output.stderr;
                    wrong.push(format!("bit {bit} of byte {place} of {file}: exit {code}: {said}"));
                }
            }
            fs::write(&path, before).unwrap();
        }
    }
    assert!(found > 0, "not one of them was found");
    assert!(wrong.is_empty(), "instead of {whole}:\n{}", wrong.join("\n"));
    home.verify();
}

// --- Files that end early -----------------------------------------------------------------------------------------------

#[test]
fn a_history_that_was_cut_off_is_told_and_not_crashed_over() {
    let home = marked();
    let files = ["history/data.mdb", "history/wal", "objects/data.mdb"].map(|it| home.file(&format!("identity/{it}")));
    let kept = files.each_ref().map(|file| fs::read(file).unwrap());
    let (file, whole) = (&files[0], &kept[0]);
    let shown = home.json(&["get", "kept"]);
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for length in [0, 100, 4096, 8192, 20_000, whole.len() / 2, whole.len() - 4096] {
        fs::write(file, &whole[..length]).unwrap();
        for command in ["verify", "get"] {
            let arguments: &[&str] = if command == "get" { &["get", "kept"] } else { &[command] };
            let output = home.cli(arguments);
            let said = output.stdout + &output.stderr;
            let panicked = said.contains("panicked at");
            // Filling it up keeps LMDB from reading beyond its end; what is left of it stays.
            let after = fs::read(file).unwrap();
            let kept = after.starts_with(&whole[..length]) && after[length..].iter().all(|byte| *byte == 0);
            // A single object may well be whole.
            let answered = command == "get" && output.code == 0;
            if !(output.code == 5 || answered) || said.trim().is_empty() || panicked || !kept {
                let said: String = said.chars().take(300).collect();
                let code = output.code;
                wrong.push(format!("`{command}` with {length} bytes: exit {code}, kept: {kept}: {said}"));
            }
        }
        // A host may do without the records that are gone, if they are old; then it does not lie about the others.
        let mut process = Host::spawn(&home, |_| {});
        until("the host to start or end", || process.ended().is_some() || host::status(&home).is_some());
        match process.ended() {
            Some(status) => {
                refused += 1;
                let log = process.log();
                let told = log.contains("theseus: identity_damaged: ") && !log.contains("panicked at");
                assert!(status.code() == Some(5) && told, "with {length} bytes: {status}: {log}");
            }
            None => {
                let answer = home.admin().get("/v1/objects/kept");
                match answer.status {
                    200 => assert_eq!(answer.json()["slots"], shown["slots"], "with {length} bytes"),
                    _ => drop(answer.problem(500, "identity_damaged")),
                }
            }
        }
        drop(process);
        files.iter().zip(&kept).for_each(|(file, bytes)| fs::write(file, bytes).unwrap());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 5, "{refused} hosts were refused");
    home.verify();
}

#[test]
fn an_object_table_that_is_gone_is_made_again() {
    let home = marked();
    let before = home.json(&["get", "kept"]);
    assert_eq!(home.verify()["table_missing"], false);
    // It is no damage, but nobody is told that it was compared.
    let file = home.file("identity/objects/data.mdb");
    for remove in [fs::remove_file(&file), fs::remove_dir_all(home.file("identity/objects"))] {
        remove.unwrap();
        let report = home.verify();
        assert_eq!((&report["table_missing"], &report["rows"]), (&json!(true), &json!(0)), "{report}");
        let text = home.run(&["verify"]);
        assert!(text.contains("the object table is missing") && text.contains("theseus repair"), "{text}");
        assert!(text.contains("no rows") && text.contains("the history is whole"), "{text}");
    }
    let host = Host::start(&home);
    assert_eq!(home.json(&["get", "kept"]), before);
    home.until_settled();
    host.stop();
    assert_eq!(home.verify()["table_missing"], false);
    assert!(home.run(&["verify"]).contains(" rows: whole\n"));
}

#[test]
fn a_missing_plugin_file_keeps_the_host_from_starting_and_nothing_else() {
    let home = marked();
    let store: Vec<PathBuf> = fs::read_dir(home.file("plugins")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(store.len(), 1, "{store:?}");
    let aside = home.beside("aside.so");
    fs::rename(&store[0], &aside).unwrap();
    let message = home.cli(&["run"]).failed(1);
    assert!(message.contains("troublemaker"), "{message}");
    home.run(&["get", "kept"]);
    // A file with another content is as good as none.
    artifacts::altered_copy(&aside, &store[0], "x");
    let message = home.cli(&["run"]).failed(1);
    assert!(message.contains("troublemaker"), "{message}");
    fs::rename(&aside, &store[0]).unwrap();
    Host::start(&home).stop();
    home.verify();
}
