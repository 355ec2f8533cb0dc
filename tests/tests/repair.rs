//! `repair`, which makes the object table again and nothing else, and `verify --resume`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use theseus_tests::{
    Home, Host, Json, artifacts,
    dice::Dice,
    home::document,
    host::log_file,
    json,
    process::{Process, Signal, children, is_gone, signal, signal_group},
    until,
};

/// Up to where a history is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Packed {
    Nowhere,
    Midway,
    UpToTheEnd,
}

/// A home that has seen something of everything that stands in the table, whose host has stopped. What is packed of it comes from the
/// base.
fn led(packed: Packed) -> Home {
    let home = Home::with_settings("[plugins]\nprobation_ms = 0\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter"), &artifacts::plugin("ledger")]);
    let mut client = host.client();
    home.run(&["index", "create", "counter.Counter", "count"]);
    for number in 0..40 {
        client.create("counter.Counter", &format!("counter-{number}"));
        client.post_once("/v1/objects/counter-0/increment", &format!("request-{number}"), &json!([number])).ok();
    }
    if packed == Packed::Midway {
        home.run(&["pack", "--before", &home.tid().to_string()]);
    }
    for number in 0..20 {
        client.call(&format!("counter-{number}"), "increment", &json!([number % 7]));
        home.run(&["delete", &format!("counter-{}", number + 20)]);
    }
    client.create("counter.Counter", "counter-20");
    client.create("ledger.Account", "account");
    home.run(&["derive", "counter-1", "child"]);
    home.run(&["parents", "child", "counter-2", "counter-3"]);
    home.run(&["post", "counter-1", "increment", "1", "--in", "1h"]);
    home.run(&["post", "counter-1", "no_such_method"]);
    until("a message is set aside", || client.get("/v1/status").ok()["messages"]["set_aside"] == 1);
    home.swap(&[&artifacts::plugin("counter_v2")]);
    client.call("counter-3", "increment", &json!([1]));
    if packed == Packed::UpToTheEnd {
        home.run(&["pack", "--before", &home.tid().to_string()]);
    }
    home.until_settled();
    host.stop();
    home
}

/// What the table is asked for by those who read without a host.
fn answers(home: &Home) -> BTreeMap<String, String> {
    let past = (home.tid() - 8).to_string();
    let questions: [&[&str]; 9] = [
        &["export"],
        &["messages", "--json"],
        &["index", "ls", "--json"],
        &["ls", "--where", "count>=0", "--behavior", "counter.Counter", "--json"],
        &["ls", "--at", &past],
        &["history", "counter-0", "--json"],
        &["get", "counter-3", "--json"],
        &["get", "child", "--json"],
        &["plugins", "--json"],
    ];
    let answer = |question: &[&str]| {
        let answer = home.cli(question);
        // What was packed away is an answer too.
        assert!(answer.code == 0 || answer.stderr.contains("packed"), "{question:?}: {}", answer.stderr);
        answer.stdout + &answer.stderr
    };
    let mut answers: BTreeMap<_, _> = questions.map(|question| (question.join(" "), answer(question))).into();
    let mut status = home.json(&["status"]);
    // What is free on the disk is not of the identity.
    status["storage"] = Json::Null;
    answers.insert("status".to_owned(), status.to_string());
    answers
}

/// What lies in a folder.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let files =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|it| it == "mdb"));
    // Who reads beside others notes that in the lock file.
    files.filter(|path| !path.ends_with("lock.mdb")).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn assert_nothing_is_left(home: &Home) {
    let left: Vec<_> = fs::read_dir(home.file("identity")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let is_known = |name: &str| ["history", "objects", "owner.lock", "base"].contains(&name);
    assert!(left.iter().all(|name| is_known(name.to_str().unwrap())), "{left:?}");
}

#[test]
fn a_table_that_is_gone_or_damaged_is_made_again_as_it_was() {
    for packed in [Packed::Nowhere, Packed::Midway, Packed::UpToTheEnd] {
        let home = led(packed);
        let expected = answers(&home);
        let (folder, file) = (home.file("identity/objects"), home.file("identity/objects/data.mdb"));
        let whole = fs::read(&file).unwrap();
        let mut dice = Dice(0x7ab1e);
        let mut noise = whole.clone();
        noise[8192..].iter_mut().for_each(|byte| *byte ^= dice.roll(256) as u8);
        let head_gone = [&vec![0; 8192][..], &whole[8192..]].concat();
        let damages: [(&str, Option<&[u8]>); 6] = [
            ("is gone", None),
            ("is empty", Some(&[])),
            ("ends early", Some(&whole[..whole.len() / 2])),
            ("has no head", Some(&head_gone)),
            ("is noise", Some(&noise)),
            ("is whole", Some(&whole)),
        ];
        for (damage, bytes) in damages {
            match bytes {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_dir_all(&folder).unwrap(),
            }
            let report = home.json(&["repair"]);
            assert_eq!(report["tid"], home.tid(), "a table that {damage}");
            assert_eq!(answers(&home), expected, "a table that {damage}");
            assert_nothing_is_left(&home);
            let verified = home.verify();
            assert_eq!(verified["head"], report["head"]);
        }
        // A host goes on with it: nothing has to be replayed, ids and answers are those that come next and came first.
        let host = Host::start(&home);
        let mut client = host.client();
        let start = home.transactions("theseus.start").pop().unwrap();
        assert_eq!(start["arguments"]["replayed"], 0, "{start}");
        let again = client.post_once("/v1/objects/counter-0/increment", "request-39", &json!([39]));
        if packed != Packed::Nowhere {
            again.problem(410, "packed");
        } else {
            assert_eq!(again.ok()["result"], (0..40).sum::<i64>());
        }
        let last = document(expected["export"].lines().rfind(|line| line.contains("behavior")).unwrap());
        assert_eq!(client.create("counter.Counter", "next"), last["id"].as_u64().unwrap() + 1);
        host.stop();
        home.verify();
    }
}

#[test]
fn repair_is_refused_beside_a_host_and_without_an_identity() {
    let home = led(Packed::Nowhere);
    let host = Host::start(&home);
    let before = content(&home.file("identity/objects"));
    let message = home.cli(&["repair"]).failed(1);
    assert!(message.contains("owner.lock") && message.contains("host"), "{message}");
    assert_nothing_is_left(&home);
    assert_eq!(content(&home.file("identity/objects")).len(), before.len());
    let five = host.client().call("counter-5", "count", &json!([]));
    assert_eq!(host.client().call("counter-5", "increment", &json!([1])), five.as_i64().unwrap() + 1);
    host.stop();
    home.verify();
    home.run(&["repair"]);
    let bare = Home::bare("");
    bare.cli(&["repair"]).failed(1);
    assert!(!bare.file("identity/objects").exists());
}

/// Nothing is guessed: where the history cannot be believed there is no table, or the one that there was.
#[test]
fn a_damaged_history_is_no_ground_for_a_table() {
    let home = led(Packed::Nowhere);
    let expected = answers(&home);
    let objects = home.file("identity/objects");
    let pristine = content(&objects);
    let (file, wal) = (home.file("identity/history/data.mdb"), home.file("identity/history/wal"));
    let whole = [fs::read(&file).unwrap(), fs::read(&wal).unwrap()];
    // Whatever is done to the history: either it was of no concern, and the same comes out, or it is refused, and nothing is touched.
    let refused = |what: &str, gone: bool| {
        if gone {
            fs::remove_dir_all(&objects).unwrap();
        }
        let output = home.cli(&["repair"]);
        match output.code {
            0 => {
                fs::write(&file, &whole[0]).unwrap();
                fs::write(&wal, &whole[1]).unwrap();
                assert_eq!(answers(&home), expected, "{what}");
                home.verify();
            }
            5 => {
                assert!(output.stderr.contains("identity_damaged"), "{what}: {}", output.stderr);
                assert_eq!(objects.exists(), !gone, "{what}");
                assert!(gone || content(&objects) == pristine, "{what}: the table was touched");
            }
            code => panic!("{what}: exit code {code}: {}{}", output.stdout, output.stderr),
        }
        fs::create_dir_all(&objects).unwrap();
        for (path, bytes) in &pristine {
            fs::write(path, bytes).unwrap();
        }
        fs::write(&file, &whole[0]).unwrap();
        fs::write(&wal, &whole[1]).unwrap();
        output.code == 5
    };
    let (mut tried, mut found) = (0, 0);
    let marker = b"counter.Counter";
    for (at, path) in [&file, &wal].into_iter().enumerate() {
        let places = whole[at].windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|it| it.0);
        let places: Vec<_> = places.collect();
        for place in places.iter().step_by(places.len().div_ceil(8)) {
            let mut damaged = whole[at].clone();
            damaged[place + 3] ^= 4;
            fs::write(path, &damaged).unwrap();
            tried += 1;
            found += u32::from(refused(&format!("a bit at {place} of {}", path.display()), tried % 2 == 0));
        }
    }
    // Some lie in pages that nothing leads to any more, and in records that LMDB has meanwhile.
    assert!(found * 3 >= tried && tried >= 8, "{found} of {tried}");
    fs::write(&file, &whole[0][..whole[0].len() / 2]).unwrap();
    assert!(refused("a history that ends early", true));
    fs::remove_file(&wal).unwrap();
    assert!(refused("no write-ahead log", true));
    fs::write(&file, vec![0; whole[0].len()]).unwrap();
    assert!(refused("a history of zeros", false));
    home.verify();
    assert_eq!(answers(&home), expected);
}

// --- Verifications that are interrupted -----------------------------------------------------------------------------------------

/// A home with a history that takes a while to verify.
fn long() -> Home {
    const TRANSACTIONS: u64 = 12_000;

    let home = Home::new();
    let object = |count: u64| json!({ "id": count % 500 + 1, "behavior": "counter.Counter", "schema": 1, "parents": [], "slots": { "count": count } });
    let mut lines = vec![json!({ "format": "theseus.export", "version": 1 })];
    for number in 0..TRANSACTIONS {
        lines.extend([json!({ "transaction": { "time_us": number } }), object(number)]);
    }
    lines.push(json!({ "end": true, "objects": TRANSACTIONS, "names": 0 }));
    let file = home.beside("import.jsonl");
    fs::write(&file, lines.iter().map(|line| line.to_string() + "\n").collect::<String>()).unwrap();
    home.run(&["import", file.to_str().unwrap()]);
    home
}

/// What a verification finds, but for how long it took and where it began.
fn essence(mut report: Json) -> Json {
    for field in ["elapsed_ms", "resumed_at"] {
        report[field] = Json::Null;
    }
    report
}

/// Begins a verification, and ends it after a while with a signal.
fn interrupt(home: &Home, arguments: &[&str], after: Duration, signal: Signal) {
    let mut process = Process::start(&mut home.command(arguments), &log_file(home));
    thread::sleep(after);
    let readers = children(process.pid(), "theseus");
    process.signal(signal);
    process.wait();
    // Of one that was killed the reader is left, which ends by itself.
    until("the reader's end", || readers.iter().all(|reader| is_gone(*reader)));
}

#[test]
fn an_interrupted_verification_goes_on_where_it_was() {
    let home = long();
    let state = home.file("run/verify.state");
    let fresh = home.verify();
    assert_eq!(fresh["resumed_at"], Json::Null);
    let whole = essence(fresh.clone());
    let took = Duration::from_millis(fresh["elapsed_ms"].as_u64().unwrap());
    // Interrupted again and again, each time a little further on.
    let mut resumed = Vec::new();
    for signal in [Signal::TERM, Signal::INT, Signal::KILL, Signal::TERM] {
        let begun = resumed.len();
        for part in 1..20 {
            _ = fs::remove_file(&state);
            interrupt(&home, &["verify"], took * part / 20, signal);
            if !state.exists() {
                continue;
            }
            interrupt(&home, &["verify", "--resume"], took / 8, Signal::TERM);
            let report = home.json(&["verify", "--resume"]);
            if let Some(at) = report["resumed_at"].as_u64() {
                resumed.push(at);
                assert_eq!(essence(report), whole, "resumed at {at}");
                assert!(!state.exists(), "what was begun before is done with");
                if resumed.len() >= begun + 2 {
                    break;
                }
            }
        }
    }
    println!("a verification took {took:?}, others were resumed at {resumed:?}");
    let last = whole["tid"].as_u64().unwrap();
    assert!(resumed.len() >= 4 && resumed.iter().all(|at| (1..=last).contains(at)), "{resumed:?}");
    // There is nothing to go on with.
    assert_eq!(home.json(&["verify", "--resume"])["resumed_at"], Json::Null);
}

/// Whoever ends it, and whether all of it is told to or the one that was started alone: what there was is there.
#[test]
fn an_interrupted_repair_changes_nothing() {
    let home = long();
    let expected = home.run(&["export"]);
    let table = || fs::metadata(home.file("identity/objects/data.mdb")).unwrap().ino();
    let took = (0..3).map(|_| home.json(&["repair"])["elapsed_ms"].as_u64().unwrap()).min().unwrap();
    let (took, log) = (Duration::from_millis(took), home.beside("repair.log"));
    for (how, to_all) in [(Signal::INT, true), (Signal::TERM, true), (Signal::TERM, false), (Signal::KILL, false)] {
        let mut interrupted = 0;
        for part in 1..20 {
            _ = fs::remove_file(&log);
            let before = table();
            let mut process = Process::start(home.command(&["repair"]).process_group(0), &log);
            thread::sleep(took * part / 20);
            let workers = children(process.pid(), "theseus");
            let tell = if to_all { signal_group } else { signal };
            tell(process.pid(), how);
            let code = process.wait().code();
            until("the worker's end", || workers.iter().all(|worker| is_gone(*worker)));
            match code {
                // It was done before.
                Some(0) => continue,
                Some(code) => {
                    let said = process.log();
                    assert!(code == 1 && said.contains("theseus: interrupted: "), "{how:?}: {code}: {said}");
                    assert_nothing_is_left(&home);
                }
                // Killed, or told before it listened.
                None => {}
            }
            // The worker of one that was killed may have been done just then.
            interrupted += u32::from(table() == before);
            assert!(how == Signal::KILL || table() == before, "{how:?}");
        }
        assert!(interrupted >= 5, "{how:?}: {interrupted}");
    }
    assert_eq!(home.run(&["export"]), expected);
    home.run(&["repair"]);
    assert_nothing_is_left(&home);
    home.verify();
}

/// Whatever became of the identity meanwhile, the end is what a fresh verification finds.
/// Who takes many request ids and forgets most of them in one step leaves pages that LMDB took, gave back and never wrote; where
/// they are the last ones, the file ends before them.
#[test]
fn a_table_that_ends_in_pages_nobody_wrote_is_whole() {
    let home = Home::with_settings("[identity]\nrequest_ids_max = 10\n[plugins]\nprobation_ms = 0\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    for number in 0..300 {
        client.post_once("/v1/objects/visits/increment", &format!("id-{number}"), &json!([1])).ok();
    }
    let assert_whole = |home: &Home, when: &str| {
        let verified = home.cli(&["verify"]);
        assert_eq!(verified.code, 0, "{when}: {}{}", verified.stdout, verified.stderr);
        assert_eq!(home.json(&["get", "visits"])["slots"]["count"], 300, "{when}");
    };
    home.until_settled();
    assert_whole(&home, "beside the host");
    let backup = home.beside("backup");
    home.run(&["backup", "--to", backup.to_str().unwrap()]);
    host.stop();
    assert_whole(&home, "after the stop");
    for round in 1..=2 {
        home.run(&["repair"]);
        assert_whole(&home, &format!("after repair {round}"));
    }
    let restored = Home::bare("");
    fs::remove_file(restored.file("theseus.toml")).unwrap();
    restored.run(&["restore", "--from", backup.to_str().unwrap()]);
    assert_whole(&restored, "after the restore");
    // A table that lacks a page of use is still found out, with a word.
    let file = home.file("identity/objects/data.mdb");
    fs::File::options().write(true).open(&file).unwrap().set_len(3 * 4096).unwrap();
    let verified = home.cli(&["verify"]);
    assert!(verified.code == 5 && verified.stdout.contains("the end of data.mdb"), "{verified:?}");
    home.run(&["repair"]);
    assert_whole(&home, "after the last repair");
    let host = Host::start(&home);
    assert_whole(&home, "beside the next host");
    host.stop();
}

#[test]
fn a_resumed_verification_sees_what_happened_meanwhile() {
    let home = long();
    let state = home.file("run/verify.state");
    let took = Duration::from_millis(home.verify()["elapsed_ms"].as_u64().unwrap());
    let note = || {
        for part in 2..20 {
            _ = fs::remove_file(&state);
            interrupt(&home, &["verify"], took * part / 20, Signal::TERM);
            if state.exists() {
                return;
            }
        }
        panic!("no verification could be interrupted");
    };
    // A host has gone on, and a head from then is part of it.
    note();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "new");
    let (noted, status) = (fs::read(&state).unwrap(), home.json(&["status"]));
    let head = format!("{}:{}", status["tid"], status["head"].as_str().unwrap());
    client.call("new", "increment", &json!([1]));
    home.until_settled();
    let report = home.json(&["verify", "--resume", "--head", &head]);
    assert!(report["resumed_at"].as_u64().is_some() && report["whole"] == true, "{report}");
    assert_eq!(report["kept_head"]["part"], true, "{report}");
    // What was walked is packed away: it begins anew, with the base.
    home.run(&["pack", "--before", &home.tid().to_string()]);
    fs::write(&state, &noted).unwrap();
    let report = home.json(&["verify", "--resume"]);
    assert_eq!((&report["resumed_at"], &report["whole"]), (&Json::Null, &json!(true)), "{report}");
    host.stop();
    // A note that is damaged, or of another identity, is none.
    let other = Home::new();
    for (bytes, of) in [(&noted[..noted.len() - 1], &home), (&noted[..], &other)] {
        fs::create_dir_all(of.file("run")).unwrap();
        fs::write(of.file("run/verify.state"), bytes).unwrap();
        let report = of.json(&["verify", "--resume"]);
        assert_eq!((&report["resumed_at"], &report["whole"]), (&Json::Null, &json!(true)), "{report}");
    }
}

#[test]
fn a_resumed_verification_says_where_it_goes_on() {
    let home = long();
    let state = home.file("run/verify.state");
    let took = Duration::from_millis(home.verify()["elapsed_ms"].as_u64().unwrap());
    let says = |words: &str| {
        let output = home.cli(&["verify", "--resume"]);
        assert!(output.code == 0 && output.stderr.contains(words), "{words}: {}{}", output.stdout, output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    };
    says("begins at the start: there are no notes");
    for part in 2..20 {
        interrupt(&home, &["verify"], took * part / 20, Signal::TERM);
        if state.exists() {
            break;
        }
    }
    let noted = fs::read(&state).unwrap();
    let output = home.cli(&["verify", "--resume", "--json"]);
    assert_eq!(output.stderr, "", "who asks for documents gets no notes");
    let at = document(&output.stdout)["resumed_at"].as_u64().unwrap();
    fs::write(&state, &noted).unwrap();
    says(&format!("goes on after transaction {at}"));
    fs::write(&state, &noted[1..]).unwrap();
    says("begins at the start: the notes of the one that was interrupted cannot be used: they are damaged");
    // Notes of an identity that was put back to an earlier state.
    let other = home.beside("other");
    home.run(&["backup", "--to", other.to_str().unwrap()]);
    let earlier = Home::bare("");
    earlier.run(&["restore", "--from", other.to_str().unwrap(), "--to", &(at / 2).to_string()]);
    fs::write(earlier.file("run/verify.state"), &noted).unwrap();
    let output = earlier.cli(&["verify", "--resume"]);
    assert!(output.code == 0 && output.stderr.contains("put back"), "{}", output.stderr);
}

/// Damage behind the place where it goes on is found, and what was found before it is still told.
#[test]
fn a_resumed_verification_finds_the_damage() {
    let home = long();
    let state = home.file("run/verify.state");
    let took = Duration::from_millis(home.verify()["elapsed_ms"].as_u64().unwrap());
    let file = home.file("identity/history/data.mdb");
    let whole = fs::read(&file).unwrap();
    let marker = b"counter.Counter";
    let places: Vec<_> =
        whole.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|it| it.0).collect();
    let mut resumed = 0;
    for part in 2..18 {
        let mut damaged = whole.clone();
        damaged[places[places.len() * part / 20] + 3] ^= 4;
        fs::write(&file, &damaged).unwrap();
        let fresh = home.cli(&["verify", "--json"]);
        assert_eq!(fresh.code, 5, "{}{}", fresh.stdout, fresh.stderr);
        interrupt(&home, &["verify"], took * (20 - part as u32) / 20, Signal::TERM);
        if !state.exists() {
            continue;
        }
        let found = home.cli(&["verify", "--resume", "--json"]);
        assert_eq!(found.code, 5, "{}{}", found.stdout, found.stderr);
        let report = document(&found.stdout);
        resumed += u32::from(!report["resumed_at"].is_null());
        assert_eq!(essence(report), essence(document(&fresh.stdout)));
        if resumed >= 3 {
            break;
        }
    }
    assert!(resumed >= 2, "{resumed}");
}
