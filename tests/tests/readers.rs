//! Readers that take their time: however slow they are, the files do not grow because of them.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, io::Write, net::TcpStream, thread, time::Duration};

use rustix::process::Signal;
use theseus_tests::{
    Client, Home, Host, artifacts, json,
    process::{self, Process},
    until,
};

/// The table is brought forward every 500 transactions; a stopped command is ended after half a second.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 2000\nview_ms_max = 500\n\
                        [execution]\nquery_threads = 4\n";
const OBJECTS: u64 = 1500;
const ROUNDS: u64 = 12;

/// A host with many objects, each of which has been written.
fn started() -> (Home, Host, Client) {
    let home = Home::with_settings(SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    for number in 0..OBJECTS {
        client.create("troublemaker.Trouble", &format!("it-{number}"));
    }
    for _ in 0..3 {
        touch_all(&mut client);
    }
    (home, host, client)
}

/// Writes every object, in batches.
fn touch_all(client: &mut Client) {
    let lines: String = (1..=OBJECTS).map(|id| format!("{}\n", json!({ "object": id, "method": "touch" }))).collect();
    let answers = client.send("POST", "/v1/batch", &[], lines.as_bytes()).unwrap().lines();
    assert!(answers.iter().all(|answer| answer["result"].is_i64()), "{:?}", answers.first());
}

/// The sizes of the history's and the table's file, in bytes.
fn sizes(home: &Home) -> [u64; 2] {
    ["history", "objects"].map(|folder| fs::metadata(home.file(&format!("identity/{folder}/data.mdb"))).unwrap().len())
}

/// By how much the files grow while all objects are written again and again, a commit at a time in between.
fn growth(home: &Home, client: &mut Client) -> [u64; 2] {
    let before = sizes(home);
    for _ in 0..ROUNDS {
        touch_all(client);
        for id in 1..=50 {
            client.call(&id.to_string(), "touch", &json!([]));
        }
    }
    let after = sizes(home);
    [after[0] - before[0], after[1] - before[1]]
}

fn assert_bounded(what: &str, found: [u64; 2], alone: [u64; 2]) {
    for (file, found, alone) in [("history", found[0], alone[0]), ("table", found[1], alone[1])] {
        let most = alone + alone / 4 + (1 << 20);
        assert!(found <= most, "{what}: the {file} grew by {found} bytes, without readers by {alone}");
    }
}

/// Verifies without the short limit, which a busy machine might reach.
fn verify_patiently(home: &Home) {
    let settings = home.file("theseus.toml");
    let patient = fs::read_to_string(&settings).unwrap().replace("view_ms_max = 500", "view_ms_max = 60000");
    fs::write(settings, patient).unwrap();
    home.verify();
}

#[test]
fn slow_clients_and_slow_queries_keep_nothing_from_being_used_again() {
    let (home, host, mut client) = started();
    let alone = growth(&home, &mut client);

    // Clients that ask for much and read nothing.
    let silent: Vec<TcpStream> =
        ["/v1/history", "/v1/objects?limit=10000", "/v1/objects/1/history", "/v1/history?follow=1"]
            .into_iter()
            .map(|path| {
                let mut stream = TcpStream::connect(host.address()).unwrap();
                write!(stream, "GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
                stream
            })
            .collect();
    // Queries that have read, and will read again in the same snapshot.
    let address = host.address();
    let slow: Vec<_> = (0..2)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::tcp(address);
                client.call("1", "ponder", &json!({ "other": { "$ref": OBJECTS }, "ms": 4000 }))
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    let found = growth(&home, &mut client);
    assert_bounded("slow readers", found, alone);
    // What they see is one state all the same.
    assert!(slow.into_iter().all(|slow| slow.join().unwrap() == 0));
    drop(silent);
    host.stop();
    verify_patiently(&home);
}

#[test]
fn a_command_that_is_stopped_while_it_reads_is_ended() {
    let (home, host, mut client) = started();
    let alone = growth(&home, &mut client);
    // Whether one has a view open at the moment nobody sees from outside, so some are stopped here and there.
    let (mut verifying, mut stopped) = (Vec::new(), Vec::new());
    for ms in [30, 60, 100, 150, 220, 300] {
        let mut command = home.command(&["verify"]);
        let verify = Process::start(&mut command, &home.beside("verify.log"));
        thread::sleep(Duration::from_millis(ms));
        for pid in process::children(verify.pid(), "theseus") {
            process::signal(pid, Signal::STOP);
            stopped.push(pid);
        }
        verifying.push(verify);
    }
    let found = growth(&home, &mut client);
    assert_bounded("stopped commands", found, alone);
    until("the system ends what was stopped in the midst of a view", || {
        stopped.iter().any(|pid| process::is_gone(*pid))
    });
    for pid in stopped.into_iter().filter(|pid| !process::is_gone(*pid)) {
        process::signal(pid, Signal::KILL);
    }
    drop(verifying);
    host.stop();
    verify_patiently(&home);
}
