//! A disk that is full or cannot be written: commands are refused before it is, reading goes on, and writing resumes by itself.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use theseus_tests::{Client, Home, Host, artifacts, json, until};

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None if this machine does not let us.
    fn mount(megabytes: u32) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "theseus-tests"]).arg(folder.path()).output();
        if mounted.is_ok_and(|mounted| mounted.status.success()) {
            return Some(SmallDisk(folder));
        }
        assert!(std::env::var_os("CI").is_none(), "a small disk cannot be mounted here, and in CI it has to be");
        eprintln!("SKIPPED: a small disk cannot be mounted here (needs root), so a full disk was not tested");
        None
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Writes a file until only so many bytes are free.
fn fill(disk: &SmallDisk, name: &str, leave: u64) {
    let mut ballast = File::create(disk.file(name)).unwrap();
    let step = vec![0; 64 << 10];
    while free(disk) > leave + step.len() as u64 {
        std::io::Write::write_all(&mut ballast, &step).unwrap();
    }
}

fn free(disk: &SmallDisk) -> u64 {
    let state = rustix::fs::statvfs(disk.0.path()).unwrap();
    state.f_bavail * state.f_frsize
}

#[test]
fn what_only_reads_works_on_a_disk_that_cannot_be_written() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let home = Home::at(disk.0.path(), "[identity]\ndisk_free_bytes_min = 0\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    host.client().create("troublemaker.Trouble", "kept");
    host.stop();
    let (status, export) = (home.json(&["status"]), home.run(&["export"]));
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(disk.0.path()).status().unwrap();
    assert!(remounted.success());
    for command in [
        &["ls"][..],
        &["get", "kept"],
        &["history"],
        &["messages"],
        &["plugins"],
        &["index", "ls"],
        &["parents", "kept"],
        &["verify"],
    ] {
        home.run(command);
    }
    assert_eq!(home.json(&["status"])["head"], status["head"]);
    assert_eq!(home.run(&["export"]), export);
    let file = home.beside("in.jsonl");
    fs::write(&file, &export).unwrap();
    for command in [&["import", file.to_str().unwrap()][..], &["repair"], &["run"]] {
        let message = home.cli(command).failed(1);
        assert!(message.contains("cannot_open") && message.contains("Read-only file system"), "{message}");
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_again() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let home = Home::at(disk.0.path(), "[identity]\ndisk_free_bytes_min = 0\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    client.create("troublemaker.Trouble", "one");
    client.call("one", "touch", &json!([]));
    fill(&disk, "ballast", 1 << 20);

    let text = "x".repeat(50_000);
    let keep =
        |client: &mut Client, number: u32| client.post("/v1/objects/one/keep", &json!([format!("{number} {text}")]));
    let mut kept = 0;
    let refused = loop {
        let answer = keep(&mut client, kept);
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
        assert!(kept < 1000, "the disk does not become full");
    };
    assert!(kept > 0, "nothing fitted at all");
    refused.problem(507, "storage_full");
    for _ in 0..20 {
        keep(&mut client, kept).problem(507, "storage_full");
    }
    // Reading goes on, and shows what was answered last.
    let note = client.call("one", "note", &json!([]));
    assert!(note.as_str().unwrap().starts_with(&format!("{} ", kept - 1)), "{note:.10}");
    assert_eq!(home.json(&["get", "one"])["slots"]["count"], 1);
    home.lines(&["history"]);
    let message = home.cli(&["call", "one", "keep", &format!("\"{text}\"")]).failed(1);
    assert!(message.contains("free some disk space"), "it says what to do: {message}");
    let large = home.cli(&["swap", artifacts::plugin("ledger").to_str().unwrap()]);
    let message = large.failed(1);
    assert!(message.contains("storage_full"), "{message}");
    assert_eq!(client.get("/health").status, 200, "it is no fault of the host");

    fs::remove_file(disk.file("ballast")).unwrap();
    let freed = Instant::now();
    until("writing to work again", || keep(&mut client, kept).status == 200);
    assert!(freed.elapsed() < Duration::from_secs(5), "it took {:?}", freed.elapsed());
    assert_eq!(client.call("one", "touch", &json!([])), 2);
    home.swap(&[&artifacts::plugin("ledger")]);
    host.stop();
    let report = home.verify();
    assert_eq!(home.transactions("keep").len() as u32, kept + 1, "what was refused is not in the history");
    let host = Host::start(&home);
    assert_eq!(home.json(&["status"])["identity"], report["identity"]);
    host.stop();
}

#[test]
fn commands_are_refused_before_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let home = Home::at(disk.0.path(), "");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "one");
    let done = client.post_once("/v1/objects/one/increment", "once", &json!([0])).ok();
    home.until_settled();
    // A twentieth of the disk has to stay free.
    fill(&disk, "ballast", 1 << 20);
    until("the want of room to be seen", || home.json(&["status"])["storage"]["shortage"].is_string());
    assert!(home.run(&["status"]).contains("COMMANDS ARE REFUSED"), "an operator sees it");
    client.post("/v1/objects/one/increment", &json!([1])).problem(507, "storage_full");
    client.post("/v1/objects", &json!({ "behavior": "counter.Counter" })).problem(507, "storage_full");
    assert_eq!(client.call("one", "count", &json!([])), 0, "reading goes on");
    let again = client.post_once("/v1/objects/one/increment", "once", &json!([0])).ok();
    assert_eq!(again, done, "what was done is answered again: that takes no room");
    assert!(client.get("/metrics").text().contains("theseus_storage_short 1"));
    // There is still room for what the host itself has to say.
    host.stop();
    let host = Host::start(&home);
    let mut client = host.client();
    client.post("/v1/objects/one/increment", &json!([1])).problem(507, "storage_full");
    fs::remove_file(disk.file("ballast")).unwrap();
    until("commands to be executed again", || client.post("/v1/objects/one/increment", &json!([1])).status == 200);
    assert_eq!(home.json(&["status"])["storage"]["shortage"], json!(null));
    host.stop();
    home.verify();
}

/// Also of those who write as fast as they can.
#[test]
fn what_is_kept_free_stays_free() {
    const CLIENTS: u64 = 4;

    let Some(disk) = SmallDisk::mount(80) else { return };
    let home = Home::at(disk.0.path(), "");
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let text = "x".repeat(300_000);
    thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (mut client, name, text) = (host.client(), format!("it-{client}"), &text);
            threads.spawn(move || {
                client.create("troublemaker.Trouble", &name);
                let mut keep = |number: u32| {
                    client.post(&format!("/v1/objects/{name}/keep"), &json!([format!("{number} {text}")])).status
                };
                assert!((0..1000).any(|number| keep(number) == 507), "it is never refused");
            });
        }
    });
    home.until_settled();
    let least = 4 << 20;
    let left = free(&disk);
    println!("{left} bytes of {least} are left");
    assert!(left > least / 2, "{left} bytes are left");
    // It was not refused for nothing either.
    assert!(left < 6 * least, "{left} bytes are left");
    host.stop();
    home.verify();
}

#[test]
fn a_quota_bounds_the_identity() {
    let home = Home::with_settings("[identity]\nquota_bytes = 4194304\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    client.create("troublemaker.Trouble", "one");
    let text = "x".repeat(50_000);
    let mut kept = 0;
    let refused = loop {
        let answer = client.post("/v1/objects/one/keep", &json!([format!("{kept} {text}")]));
        if answer.status != 200 {
            break answer;
        }
        kept += 1;
        assert!(kept < 100, "the quota does not hold");
    };
    let message = refused.problem(507, "storage_full");
    assert!(message.to_string().contains("quota_bytes"), "{message}");
    let storage = &home.json(&["status"])["storage"];
    let taken = storage["history_bytes"].as_u64().unwrap() + storage["objects_bytes"].as_u64().unwrap();
    assert!((3 << 20..4 << 20).contains(&taken), "{storage}");
    let note = client.call("one", "note", &json!([]));
    assert!(note.as_str().unwrap().starts_with(&format!("{} ", kept - 1)), "{note:.10}");
    host.stop();
    home.verify();
}

#[test]
fn a_host_on_a_full_disk_stops_and_starts_again_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(40) else { return };
    let home = Home::at(disk.0.path(), "[identity]\ndisk_free_bytes_min = 0\n");
    let mut host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    client.create("troublemaker.Trouble", "one");
    home.until_settled();
    fill(&disk, "ballast", 0);
    let mut touched = 0;
    while client.post("/v1/objects/one/touch", &json!([])).status == 200 {
        touched += 1;
    }
    // Its stop cannot be recorded, and it says so; it does not hang.
    assert_ne!(host.end().code(), Some(0));
    let message = home.cli(&["run"]).failed(1);
    assert!(message.contains("room"), "{message}");
    fs::remove_file(disk.file("ballast")).unwrap();
    let host = Host::start(&home);
    assert_eq!(host.client().call("one", "count", &json!([])), touched);
    host.stop();
    home.verify();
}
