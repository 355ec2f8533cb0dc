//! Packing the history of a live host: what is kept is what it was, what is gone is said to be gone, and a death at any moment
//! leaves one or the other.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use theseus_tests::{Client, Home, Host, Json, artifacts, dice::Dice, home::document, json, until};

/// Makes some counters, the first named `visits`.
fn populate(client: &mut Client, objects: u64) {
    client.create("counter.Counter", "visits");
    for count in 1..objects {
        client.post("/v1/objects", &json!({ "behavior": "counter.Counter", "slots": { "count": count } })).ok();
    }
}

fn count(client: &mut Client, object: u64, at: u64) -> Json {
    client.get(&format!("/v1/objects/{object}?at={at}")).ok()["slots"]["count"].clone()
}

/// The folders of bases.
fn bases(home: &Home) -> Vec<String> {
    let Ok(entries) = fs::read_dir(home.file("identity/base")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_kept_is_what_it_was_and_what_is_gone_is_said_to_be_gone() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    populate(&mut client, 8);
    let asked =
        client.send("POST", "/v1/objects/visits/increment", &[("idempotency-key", "once")], b"[5]").unwrap().ok();
    let mut dice = Dice(0x9ac);
    // The objects' counts as of each transaction.
    let mut counts: Vec<(u64, u64, Json)> = Vec::new();
    for _ in 0..200 {
        let object = dice.roll(8) + 1;
        let answer = client.post(&format!("/v1/objects/{object}/increment"), &json!([dice.roll(100)])).ok();
        counts.push((answer["tid"].as_u64().unwrap(), object, answer["result"].clone()));
    }
    let last = counts.last().unwrap().0;
    for (round, before) in [last - 120, last - 60, last - 5].into_iter().enumerate() {
        let dry = home.json(&["pack", "--before", &before.to_string(), "--dry-run"]);
        assert_eq!((&dry["dry_run"], &dry["packed"], &dry["tid"]), (&json!(true), &json!(before), &Json::Null));
        let packed = home.json(&["pack", "--before", &before.to_string()]);
        assert_eq!((&packed["packed"], &packed["transactions"]), (&dry["packed"], &dry["transactions"]));
        assert_eq!(packed["objects"], 8);
        assert_eq!(bases(&home), [before.to_string()]);
        let again = home.json(&["pack", "--before", &before.to_string()]);
        assert_eq!((&again["transactions"], &again["tid"]), (&json!(0), &Json::Null), "nothing is left to pack");
        for (tid, object, expected) in &counts {
            if *tid >= before {
                assert_eq!(count(&mut client, *object, *tid), *expected, "object {object} as of {tid}");
            } else {
                client.get(&format!("/v1/objects/{object}?at={tid}")).problem(410, "packed");
            }
        }
        let history = client.get("/v1/objects/visits/history").lines();
        assert_eq!(history[0], json!({ "packed": before }));
        assert!(home.cli(&["undo", &before.to_string()]).failed(1).contains("packed: what was done up to"));
        assert!(history[1..].iter().all(|line| line["tid"].as_u64().unwrap() > before));
        assert_eq!(client.get("/v1/history").lines()[1]["tid"], before + 1);
        assert_eq!(client.get(&format!("/v1/history?from={}", before + 1)).lines()[0]["tid"], before + 1);
        // The request is known, though its answer is gone: it is not executed again.
        let repeated =
            client.send("POST", "/v1/objects/visits/increment", &[("idempotency-key", "once")], b"[5]").unwrap();
        repeated.problem(410, "packed");
        let exported = home.cli(&["export", "--at", &(before - 1).to_string(), "--json"]).failed(1);
        assert_eq!(document(exported.trim())["code"], "packed", "{exported}");
        home.verify();
        let noted = home.transactions("theseus.pack");
        assert_eq!(noted.last().unwrap()["arguments"]["before"], before);
        assert_eq!(noted.last().unwrap()["arguments"]["base"], packed["base"]);
        assert_eq!(noted.len(), round + 1);
    }
    assert_eq!(asked["result"], 5);
    host.kill();
    // Without the object table all is still there: in the base, and in what came after it.
    home.verify();
    fs::remove_dir_all(home.file("identity/objects")).unwrap();
    let host = Host::start(&home);
    let mut client = host.client();
    for (tid, object, expected) in counts.iter().filter(|(tid, ..)| *tid >= last - 5) {
        assert_eq!(count(&mut client, *object, *tid), *expected);
    }
    client
        .send("POST", "/v1/objects/visits/increment", &[("idempotency-key", "once")], b"[5]")
        .unwrap()
        .problem(410, "packed");
    assert_eq!(home.json(&["get", "visits"])["id"], 1);
    host.stop();
    home.verify();
    assert_eq!(home.lines(&["history"])[0], json!({ "packed": last - 5 }));
}

#[test]
fn a_head_from_before_a_pack_is_no_damage() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    let kept = client.post("/v1/objects/visits/increment", &json!([1])).header("theseus-head").unwrap().to_owned();
    client.call("visits", "increment", &json!([1]));
    home.run(&["pack", "--before", &home.tid().to_string()]);
    let output = home.cli(&["verify", "--head", &kept]);
    assert!(output.stdout.contains(&format!("UNPROVED {kept}: ")), "{}", output.stdout);
    assert!(output.stdout.contains(": whole\n"), "{}", output.stdout);
    assert!(output.failed(1).starts_with("theseus: packed: "));
    let output = home.cli(&["verify", "--head", &kept, "--json"]);
    let report = document(&output.stdout);
    assert_eq!((&report["whole"], &report["kept_head"]["part"]), (&json!(true), &Json::Null), "{report}");
    assert_eq!(document(output.failed(1).trim())["code"], "packed");
    // A head that this history never had is another matter.
    let wrong = format!("{}:{}", home.tid(), "0".repeat(64));
    assert_eq!(home.cli(&["verify", "--head", &wrong]).code, 5);
    host.stop();
}

#[test]
fn a_changed_base_is_found() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    populate(&mut host.client(), 20);
    let before = home.tid();
    home.run(&["pack", "--before", &before.to_string()]);
    host.stop();
    let file = home.file(&format!("identity/base/{before}/data.mdb"));
    let whole = fs::read(&file).unwrap();
    let marker = b"counter.Counter";
    let places: Vec<usize> =
        whole.windows(marker.len()).enumerate().filter(|(_, it)| it == marker).map(|it| it.0).collect();
    assert!(places.len() >= 20);
    // Some lie in pages that nothing leads to any more.
    let (mut flipped, mut found) = (0, 0);
    for place in places.iter().step_by(3) {
        let mut damaged = whole.clone();
        damaged[place + 3] ^= 4;
        fs::write(&file, &damaged).unwrap();
        let code = home.cli(&["verify"]).code;
        assert!(code == 0 || code == 5, "{code}");
        (flipped, found) = (flipped + 1, found + u32::from(code == 5));
    }
    assert!(found * 3 >= flipped, "{found} of {flipped}");
    fs::write(&file, &whole).unwrap();
    home.verify();
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    assert_eq!(home.cli(&["verify"]).code, 5);
}

/// While a host is loaded its history is packed again and again; commands are begun and answered meanwhile.
#[test]
fn commits_go_on_while_the_history_is_packed() {
    const CLIENTS: u64 = 4;
    const PACKS: u64 = 5;

    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    populate(&mut host.client(), 500);
    let stop = AtomicBool::new(false);
    // How many packs were asked for and answered so far: an odd number while one is under way.
    let packing = AtomicU64::new(0);
    let meanwhile = AtomicU64::new(0);
    thread::scope(|threads| {
        for number in 0..CLIENTS {
            let (mut client, stop, packing, meanwhile) = (host.client(), &stop, &packing, &meanwhile);
            threads.spawn(move || {
                let mut dice = Dice(number);
                while !stop.load(Ordering::Relaxed) {
                    let object = dice.roll(500) + 1;
                    let begun = packing.load(Ordering::SeqCst);
                    client.post(&format!("/v1/objects/{object}/increment"), &json!([1])).ok();
                    let same = begun % 2 == 1 && packing.load(Ordering::SeqCst) == begun;
                    meanwhile.fetch_add(u64::from(same), Ordering::Relaxed);
                }
            });
        }
        let mut admin = home.admin();
        for _ in 0..PACKS {
            thread::sleep(Duration::from_millis(300));
            let before = home.tid() - 10;
            packing.fetch_add(1, Ordering::SeqCst);
            let pack = admin.post("/v1/pack", &json!({ "before": before }));
            packing.fetch_add(1, Ordering::SeqCst);
            assert!(pack.ok()["transactions"].as_u64().unwrap() > 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let meanwhile = meanwhile.into_inner();
    println!("{meanwhile} commands were begun and answered within {PACKS} packs");
    assert!(meanwhile > CLIENTS * PACKS, "{meanwhile} commands, and {PACKS} packs");
    host.stop();
    home.verify();
}

/// Killed while a base is made, put in force, or what lies before it removed: the next host goes on where this one was.
#[test]
fn a_death_while_packing_leaves_one_history_or_the_other() {
    let home = Home::new();
    let mut dice = Dice(0xdead);
    let mut host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    populate(&mut host.client(), 300);
    let mut answered = 0_u64;
    let (mut in_force, mut unfinished) = (0, 0);
    for round in 0..12 {
        let mut client = host.client();
        for _ in 0..60 {
            client.call("visits", "increment", &json!([1]));
            answered += 1;
        }
        let before = home.tid();
        let mut admin = home.admin();
        let asked = thread::spawn(move || {
            admin.send("POST", "/v1/pack", &[], json!({ "before": before }).to_string().as_bytes())
        });
        // Half of them die while they pack, the others while what was packed away is removed.
        if round % 2 == 0 {
            thread::sleep(Duration::from_micros(dice.roll(120_000)));
        } else {
            until("the pack", || asked.is_finished());
            thread::sleep(Duration::from_micros(dice.roll(5_000)));
        }
        host.kill();
        let done = asked.join().unwrap().is_ok_and(|answer| answer.status == 200);
        home.verify();
        host = Host::start(&home);
        let is_in_force = home.file(&format!("identity/base/{before}")).exists();
        assert!(is_in_force || !done, "a pack that was answered is there");
        assert!(bases(&home).len() <= 1, "nothing is left of what was not finished");
        (in_force, unfinished) = (in_force + u32::from(is_in_force), unfinished + u32::from(!is_in_force));
        assert_eq!(home.json(&["get", "visits"])["slots"]["count"], answered);
    }
    println!("{in_force} packs were in force, {unfinished} were not finished");
    until("what was packed away is removed", || home.lines(&["history"]).len() < 600);
    host.stop();
    home.verify();
}
