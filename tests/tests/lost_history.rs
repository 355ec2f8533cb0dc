//! A history that is gone: nothing can make it again, and nothing takes what is left for an empty home.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use theseus_tests::{Home, Host, artifacts};

/// What lies below a folder, but for what those write who only look.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, about) = (entry.path(), entry.path().symlink_metadata().unwrap());
        if about.is_dir() {
            found.extend(files(&path));
        }
        if !path.ends_with("lock.mdb") {
            found.push((path, about.len()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_history_that_is_gone_is_told_and_not_begun_anew() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    let backup = home.beside("backup");
    let backup = backup.to_str().unwrap();
    home.run(&["backup", "--to", backup]);
    host.stop();
    let other = home.beside("other");
    let questions: [&[&str]; 10] = [
        &["init"],
        &["restore", "--from", backup],
        &["run"],
        &["status"],
        &["ls"],
        &["verify"],
        &["repair"],
        &["export"],
        &["import", "lines.jsonl"],
        &["backup", "--to", other.to_str().unwrap()],
    ];
    let (identity, history) = (home.file("identity"), home.file("identity/history"));
    let aside = home.beside("aside");
    let gone: [(&str, &dyn Fn()); 4] = [
        ("gone", &|| ()),
        ("a folder that is not mounted", &|| fs::create_dir(&history).unwrap()),
        ("a link that leads nowhere", &|| symlink(home.beside("unmounted"), &history).unwrap()),
        ("gone but for its log", &|| {
            fs::create_dir(&history).unwrap();
            fs::copy(aside.join("wal"), history.join("wal")).unwrap();
        }),
    ];
    for packed in [false, true] {
        if packed {
            let host = Host::start(&home);
            home.run(&["pack", "--before", &home.tid().to_string()]);
            host.stop();
        }
        let whole = home.verify();
        for (how, make) in &gone {
            fs::rename(&history, &aside).unwrap();
            make();
            let left = files(&identity);
            for question in questions {
                let message = home.cli(question).failed(5);
                let is_told = message.contains("identity_damaged") && message.contains("the history is missing");
                assert!(is_told, "a history that is {how}: {question:?}: {message}");
            }
            assert_eq!(files(&identity), left, "a history that is {how}");
            _ = fs::remove_dir_all(&history).or_else(|_| fs::remove_file(&history));
            fs::rename(&aside, &history).unwrap();
            assert_eq!(home.verify()["head"], whole["head"]);
        }
    }
    // A base alone is something, too.
    fs::remove_dir_all(&history).unwrap();
    fs::remove_dir_all(home.file("identity/objects")).unwrap();
    home.cli(&["init"]).failed(5);
    // Where nothing of it is left there is nothing to be told.
    fs::remove_dir_all(home.file("identity/base")).unwrap();
    home.run(&["restore", "--from", backup]);
    home.verify();
}
