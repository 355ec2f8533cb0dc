//! Backups: taken under load, added to, restored whole or up to a transaction, and refused wherever they are not what was written.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use theseus_tests::{Home, Host, Json, Output, artifacts, dice::Dice, home, json, load::Load, until};

/// Small segments, so that a few of them come about.
const SETTINGS: &str = "[identity]\nbackup_segment_bytes_max = 20000\ntail_transactions_max = 200\n";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a restore of a backup into a new home prints, and that home.
fn restore(backup: &Path, more: &[&str]) -> (Home, Output) {
    let home = Home::bare("");
    // The settings come from the backup.
    fs::remove_file(home.file("theseus.toml")).unwrap();
    let output = home.cli(&[&["restore", "--json", "--from", text(backup)], more].concat());
    (home, output)
}

/// Nothing of an identity is there.
fn assert_empty(home: &Home) {
    for left in ["identity/history", "identity/objects", "identity.restoring"] {
        assert!(!home.file(left).exists(), "{left} was left behind");
    }
}

fn segments(backup: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(backup).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|it| it == "segment")).collect();
    segments.sort();
    segments
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_backup_under_load_restores_to_the_same_head() {
    let home = Home::with_settings(SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    let load = Load::start(host.address(), "visits", 4);
    let backup = home.beside("backup");
    let mut last = json!({ "tid": 0, "full": true });
    for round in 0..4 {
        thread::sleep(Duration::from_millis(250));
        let taken = home.json(&["backup", "--to", text(&backup)]);
        assert_eq!((&taken["full"], &taken["since"]), (&json!(round == 0), &last["tid"]));
        assert!(taken["tid"].as_u64() > last["tid"].as_u64() && taken["records"].as_u64() > Some(0), "{taken}");
        let checked = home.json(&["backup", "--check", text(&backup)]);
        assert_eq!((&checked["head"], &checked["tid"]), (&taken["head"], &taken["tid"]));
        last = taken;
    }
    load.finish();
    host.stop();
    assert!(segments(&backup).len() > 4, "segments end where they are long enough");

    let (again, output) = restore(&backup, &[]);
    let restored = home::document(&output.succeeded());
    assert_eq!((&restored["head"], &restored["tid"], &restored["cut"]), (&last["head"], &last["tid"], &json!(false)));
    assert_eq!(restored["identity"], home.json(&["status"])["identity"]);
    let report = again.verify();
    assert_eq!((&report["head"], &report["tid"]), (&last["head"], &last["tid"]));
    assert!(report["rows"].as_u64() > Some(0), "the object table was made");
    assert!(fs::read_to_string(again.file("theseus.toml")).unwrap().contains("backup_segment_bytes_max"));
    let tid = last["tid"].to_string();
    assert_eq!(again.run(&["get", "visits"]), home.run(&["get", "visits", "--at", &tid]));

    // It goes on, with its plugins and its history, and that is another course of the same identity.
    let host = Host::start(&again);
    let count = again.json(&["get", "visits"])["slots"]["count"].as_i64().unwrap();
    assert_eq!(host.client().call("visits", "increment", &json!([1])), count + 1);
    host.stop();
    again.verify();
    home.run(&["backup", "--to", text(&backup)]);
    let message = again.cli(&["backup", "--to", text(&backup)]).failed(4);
    assert!(message.contains("backup_refused") && message.contains("not part of this history"), "{message}");
}

#[test]
fn a_backup_restores_to_every_transaction() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    // Several transactions in a record.
    let calls: String =
        (0..60).map(|_| "{\"object\":\"visits\",\"method\":\"increment\",\"arguments\":[1]}\n").collect();
    let answers = client.send("POST", "/v1/batch", &[], calls.as_bytes()).unwrap();
    assert_eq!(answers.status, 200, "{}", answers.text());
    host.stop();
    let backup = home.beside("backup");
    let last = home.json(&["backup", "--to", text(&backup)])["tid"].as_u64().unwrap();
    let mut cut = 0;
    for to in [1, 2, 3, 4, 10, 31, 40, last - 1, last] {
        let (again, output) = restore(&backup, &["--to", &to.to_string()]);
        let restored = home::document(&output.succeeded());
        assert_eq!(restored["tid"], to);
        cut += u64::from(restored["cut"] == true);
        let report = again.verify();
        assert_eq!((&report["tid"], &report["head"]), (&restored["tid"], &restored["head"]));
        let lines = |home: &Home| -> Vec<Json> {
            let mut lines = home.lines(&["history"]);
            lines.truncate(to as usize);
            lines
        };
        assert_eq!(lines(&again), lines(&home), "the same transactions, to the last digit");
    }
    assert!(cut > 0, "some lie within a record");
    for to in ["0", "9999"] {
        let (again, output) = restore(&backup, &["--to", to]);
        assert!(output.failed(1).contains("no_such_transaction"));
        assert_empty(&again);
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    let (backup, empty) = (home.beside("backup"), home.beside("empty"));
    home.run(&["backup", "--to", text(&backup)]);
    let message = other.cli(&["backup", "--to", text(&backup)]).failed(4);
    assert!(message.contains("a backup of identity"), "{message}");
    let message = home.cli(&["restore", "--from", text(&backup)]).failed(4);
    assert!(message.contains("holds an identity"), "{message}");
    let message = home.cli(&["backup", "--check", text(&empty)]).failed(1);
    assert!(message.contains("no_backup"), "{message}");
    let message = home.cli(&["backup", "--to", text(home.path())]).failed(4);
    assert!(message.contains("not empty"), "{message}");
    let (again, output) = restore(&empty, &[]);
    output.failed(1);
    assert_empty(&again);

    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.stop();
    let plugin = fs::read_dir(home.file("plugins")).unwrap().next().unwrap().unwrap().path();
    let content = fs::read(&plugin).unwrap();
    fs::remove_file(&plugin).unwrap();
    let message = home.cli(&["backup", "--to", text(&backup)]).failed(4);
    assert!(message.contains("plugin file") && message.contains(".so"), "{message}");
    home.run(&["backup", "--check", text(&backup)]);
    fs::write(&plugin, content).unwrap();
    home.run(&["backup", "--to", text(&backup)]);
    let (again, output) = restore(&backup, &[]);
    output.succeeded();
    let host = Host::start(&again);
    host.client().create("counter.Counter", "visits");
    host.stop();
}

/// A stopped home's backup of several segments.
fn several() -> (Home, PathBuf) {
    let home = Home::with_settings(SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    let backup = home.beside("backup");
    for _ in 0..3 {
        for _ in 0..20 {
            client.call("visits", "increment", &json!([1]));
        }
        home.run(&["backup", "--to", text(&backup)]);
    }
    host.stop();
    (home, backup)
}

/// A damaged copy of a backup is refused, with its place, by whoever reads it.
fn assert_refused(home: &Home, backup: &Path, what: &str, places: &[&str]) {
    let message = home.cli(&["backup", "--check", text(backup)]).failed(5);
    assert!(message.starts_with("theseus: backup_damaged: "), "{what}: {message}");
    assert!(places.iter().all(|place| message.contains(place)), "{what}: {message}");
    let (again, output) = restore(backup, &[]);
    let told = output.failed(5);
    assert!(told.contains("backup_damaged"), "{what}: {told}");
    assert_empty(&again);
}

#[test]
fn a_damaged_backup_is_refused_wherever_it_is_damaged() {
    let (home, backup) = several();
    let found = segments(&backup);
    assert!(found.len() >= 3, "{found:?}");
    let damaged = home.beside("damaged");
    let with = |change: &mut dyn FnMut(&Path)| {
        _ = fs::remove_dir_all(&damaged);
        copy(&backup, &damaged);
        change(&damaged);
    };
    let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().to_owned();
    for file in &found {
        let name = name(file);
        with(&mut |folder| fs::remove_file(folder.join(&name)).unwrap());
        assert_refused(&home, &damaged, "a missing segment", &[&name]);
    }
    let (first, second) = (name(&found[0]), name(&found[1]));
    with(&mut |folder| {
        fs::rename(folder.join(&first), folder.join("aside")).unwrap();
        fs::rename(folder.join(&second), folder.join(&first)).unwrap();
        fs::rename(folder.join("aside"), folder.join(&second)).unwrap();
    });
    assert_refused(&home, &damaged, "two segments in each other's place", &[&first, "byte"]);

    // Every file of it, cut off and with flipped bits at random places.
    let mut files: Vec<PathBuf> = found.iter().map(|file| PathBuf::from(name(file))).collect();
    files.push("backup.json".into());
    files.push(
        Path::new("plugins").join(fs::read_dir(backup.join("plugins")).unwrap().next().unwrap().unwrap().file_name()),
    );
    let mut dice = Dice(0xbac0);
    for file in &files {
        let whole = fs::read(backup.join(file)).unwrap();
        let shown = name(file);
        for round in 0..4 {
            let length = if round == 0 { 0 } else { dice.roll(whole.len() as u64) as usize };
            with(&mut |folder| fs::write(folder.join(file), &whole[..length]).unwrap());
            assert_refused(&home, &damaged, &format!("{shown} cut off after {length} bytes"), &[&shown]);
        }
        for _ in 0..6 {
            let bit = dice.roll(whole.len() as u64 * 8) as usize;
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            with(&mut |folder| fs::write(folder.join(file), &flipped).unwrap());
            assert_refused(&home, &damaged, &format!("bit {bit} of {shown} flipped"), &[&shown]);
        }
    }
    // What comes after the transaction asked for does not matter.
    let last = found.last().unwrap();
    with(&mut |folder| fs::write(folder.join(last.file_name().unwrap()), "").unwrap());
    let (again, output) = restore(&damaged, &["--to", "10"]);
    output.succeeded();
    again.verify();
    // A damaged backup is not added to either, as far as that can be seen at a glance.
    let message = home.cli(&["backup", "--to", text(&damaged)]).failed(5);
    assert!(message.contains(&name(last)), "{message}");
    home.run(&["backup", "--check", text(&backup)]);
}

#[test]
fn an_interrupted_backup_is_the_one_before_it() {
    let (home, backup) = several();
    let before = home.run(&["backup", "--check", text(&backup), "--json"]);
    // What a crash leaves behind.
    fs::write(backup.join(".segment.tmp"), "half of").unwrap();
    fs::write(backup.join(".backup.json.tmp"), "half of").unwrap();
    assert_eq!(home.run(&["backup", "--check", text(&backup), "--json"]), before);
    let host = Host::start(&home);
    host.stop();
    let taken = home.json(&["backup", "--to", text(&backup)]);
    let (again, output) = restore(&backup, &[]);
    assert_eq!(home::document(&output.succeeded())["head"], taken["head"]);
    again.verify();
}

#[test]
fn a_pack_that_overtakes_a_backup_is_told_as_that() {
    // Each record is a segment, so the backup takes its time.
    let home = Home::with_settings("[identity]\nbackup_segment_bytes_max = 1\n");
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    (0..1000).for_each(|_| _ = host.client().call("visits", "increment", &json!([1])));
    let backup = home.beside("backup");
    let packing = thread::spawn({
        let (mut admin, backup, before) = (home.admin(), backup.clone(), home.tid());
        move || {
            until("the backup has begun", || backup.exists() && !segments(&backup).is_empty());
            admin.post("/v1/pack", &json!({ "before": before })).ok();
        }
    });
    let message = home.cli(&["backup", "--to", text(&backup)]).failed(4);
    packing.join().unwrap();
    assert!(message.contains("backup_refused") && message.contains("was packed"), "{message}");
    host.stop();
    home.run(&["backup", "--check", text(&backup)]);
}

#[test]
fn a_plugin_file_that_a_backup_lost_is_copied_again() {
    let (home, backup) = several();
    let file = fs::read_dir(backup.join("plugins")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    let lose: [(&str, &dyn Fn()); 3] = [
        ("is gone", &|| fs::remove_file(&file).unwrap()),
        ("is gone with its folder", &|| fs::remove_dir_all(backup.join("plugins")).unwrap()),
        ("was cut off", &|| fs::write(&file, &whole[..whole.len() / 2]).unwrap()),
    ];
    for (how, lose) in &lose {
        lose();
        home.cli(&["backup", "--check", text(&backup)]).failed(5);
        home.run(&["backup", "--to", text(&backup)]);
        assert!(fs::read(&file).unwrap() == whole, "a file that {how}");
        home.run(&["backup", "--check", text(&backup)]);
    }
    // Where the home has it no more, it says what a check says.
    fs::rename(home.file("plugins").join(file.file_name().unwrap()), home.beside("aside")).unwrap();
    for (how, lose) in &lose {
        fs::create_dir_all(backup.join("plugins")).unwrap();
        fs::write(&file, &whole).unwrap();
        home.run(&["backup", "--to", text(&backup)]);
        lose();
        let message = home.cli(&["backup", "--to", text(&backup)]).failed(5);
        assert!(message.contains("backup_damaged") && message.contains(text(&file)), "a file that {how}: {message}");
    }
}

#[test]
fn a_first_backup_that_was_interrupted_is_none_yet() {
    let home = Home::new();
    let backup = home.beside("backup");
    // Of an identity in which nothing has happened there is not much, but that is whole.
    let empty = home.beside("empty");
    home.run(&["backup", "--to", text(&empty)]);
    assert_eq!(home.json(&["backup", "--check", text(&empty)])["records"], 0);
    restore(&empty, &[]).1.succeeded();

    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.stop();
    // It ends on the way, since a file is missing that it comes to late.
    fs::rename(home.file("plugins"), home.beside("plugins")).unwrap();
    home.cli(&["backup", "--to", text(&backup)]).failed(4);
    let message = home.cli(&["backup", "--check", text(&backup)]).failed(1);
    assert!(message.contains("no_backup") && message.contains("backup --to"), "{message}");
    let (again, output) = restore(&backup, &[]);
    let message = output.failed(1);
    assert!(message.contains("no_backup"), "{message}");
    assert_empty(&again);

    fs::rename(home.beside("plugins"), home.file("plugins")).unwrap();
    let taken = home.json(&["backup", "--to", text(&backup)]);
    assert_eq!(taken["full"], true, "{taken}");
    assert_eq!(home.json(&["backup", "--check", text(&backup)])["head"], taken["head"]);
    let (again, output) = restore(&backup, &[]);
    output.succeeded();
    assert_eq!(again.verify()["head"], taken["head"]);
}

#[test]
fn a_packed_history_is_backed_up_with_its_base() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    let increment = |client: &mut theseus_tests::Client, times: u64| {
        for _ in 0..times {
            client.call("visits", "increment", &json!([1]));
        }
    };
    let folders = ["early", "before", "after"].map(|name| home.beside(name));
    let [early, before, after] = folders.each_ref().map(|folder| text(folder));
    home.run(&["backup", "--to", early]);
    increment(&mut client, 30);
    home.run(&["backup", "--to", before]);
    let packed = home.json(&["pack", "--before", &(home.tid() - 5).to_string()]);
    increment(&mut client, 10);

    // What the first one lacks has gone; the second one has it still; a new one begins with the base.
    let message = home.cli(&["backup", "--to", early]).failed(4);
    assert!(message.contains("backup_refused") && message.contains("was packed"), "{message}");
    let added = home.json(&["backup", "--to", before]);
    assert_eq!(added["full"], false);
    let begun = home.json(&["backup", "--to", after]);
    let start = begun["since"].as_u64().unwrap();
    assert!(begun["full"] == true && start > 0, "{begun} after {packed}");
    increment(&mut client, 10);
    home.run(&["backup", "--to", after]);
    host.stop();
    let last = home.json(&["backup", "--to", after]);
    home.run(&["backup", "--to", before]);
    for folder in [before, after] {
        home.run(&["backup", "--check", folder]);
        let (again, output) = restore(Path::new(folder), &[]);
        assert_eq!(home::document(&output.succeeded())["head"], last["head"]);
        assert_eq!(again.verify()["head"], last["head"]);
        assert_eq!(again.run(&["export"]), home.run(&["export"]));
        let host = Host::start(&again);
        increment(&mut host.client(), 1);
        host.stop();
        again.verify();
    }
    let (again, output) = restore(Path::new(after), &["--to", &start.to_string()]);
    assert!(output.failed(1).contains("no_such_transaction"));
    assert_empty(&again);
    let (again, output) = restore(Path::new(after), &["--to", &(start + 1).to_string()]);
    output.succeeded();
    again.verify();

    let base = fs::read_dir(after).unwrap().map(|entry| entry.unwrap().path());
    let base = base.filter(|path| path.extension().is_some_and(|it| it == "base")).collect::<Vec<_>>().remove(0);
    let (whole, mut dice) = (fs::read(&base).unwrap(), Dice(0xba5e));
    let name = base.file_name().unwrap().to_str().unwrap();
    for _ in 0..10 {
        let bit = dice.roll(whole.len() as u64 * 8) as usize;
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&base, &flipped).unwrap();
        assert_refused(&home, Path::new(after), &format!("bit {bit} of the base flipped"), &[name]);
        fs::write(&base, &whole[..dice.roll(whole.len() as u64) as usize]).unwrap();
        assert_refused(&home, Path::new(after), "the base cut off", &[name]);
    }
    fs::remove_file(&base).unwrap();
    assert_refused(&home, Path::new(after), "the base missing", &[name]);
}
