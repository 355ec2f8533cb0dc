//! `docs/formats.md` against real files: a reader written from the document alone, with other libraries than the host's, reads a home
//! that has seen everything, and finds in it what the command line shows.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cddl;
mod life;
mod reader;

use std::{collections::BTreeSet, fs};

use theseus_tests::{Home, dice::Dice, json};

use cddl::Rules;
use reader::{Key, Reader};

#[test]
fn a_reader_written_from_the_document_reads_a_real_home() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats.md")).unwrap();
    let rules = Rules::of(&document);
    let home = Home::new();
    life::lead(&home);
    let reader = Reader::read(&home, &rules);
    assert_eq!(reader.logged, 0, "a host that has stopped leaves nothing in the write-ahead log");

    let status = home.json(&["status"]);
    assert_eq!(status["identity"], reader.identity);
    assert_eq!(status["tid"], reader.head.0);
    assert_eq!(status["head"], hex(&reader.head.1));
    reader.check_table(&home, &rules);
    check_objects(&home, &reader);
    check_names(&home, &reader);
    check_the_past(&home, &reader);

    // Nothing is described that does not exist: every note that the document knows was met.
    let met: BTreeSet<&str> = reader.methods.iter().map(String::as_str).collect();
    let described: BTreeSet<&str> = rules.names().filter(|name| name.starts_with("theseus.")).collect();
    let met = &met | &BTreeSet::from(["theseus.pack"]);
    let unmet: Vec<_> = described.difference(&met).filter(|name| !life::RARE.contains(name)).collect();
    assert!(unmet.is_empty(), "the home has seen no {unmet:?}");
}

/// The same after the history was packed, so that what is there stands on a base, and after the host was killed.
#[test]
fn the_reader_reads_a_packed_home_whose_host_was_killed() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats.md")).unwrap();
    let rules = Rules::of(&document);
    let home = Home::new();
    life::lead(&home);
    life::pack(&home);
    let reader = Reader::read(&home, &rules);
    assert!(reader.first > 1, "it was packed");
    assert!(reader.logged > 0, "the last records are in the write-ahead log");
    assert!(reader.methods.contains("theseus.pack"));
    assert_eq!(home.json(&["status"])["head"], hex(&reader.head.1));
    reader.check_table(&home, &rules);
    check_objects(&home, &reader);
    check_names(&home, &reader);
    check_the_past(&home, &reader);
}

/// Every object as the command line shows it.
fn check_objects(home: &Home, reader: &Reader) {
    let mut compared = 0;
    for (key, versions) in &reader.versions {
        let Key::Object(id) = key else { continue };
        let newest = versions.last().unwrap();
        let id = id.to_string();
        let Some(content) = &newest.content else {
            home.cli(&["get", &id]).failed(1);
            continue;
        };
        let shown = home.json(&["get", &id]);
        assert_eq!(shown["tid"], newest.tid, "object {id}");
        assert_eq!(shown["version"], newest.number, "object {id}");
        let record = content.as_array().unwrap();
        assert_eq!(shown["behavior"].as_str(), record[0].as_text(), "object {id}");
        let own = record[3].as_map().unwrap().iter().map(|(name, _)| name.as_text().unwrap());
        let shown: BTreeSet<&str> = shown["slots"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(own.collect::<BTreeSet<_>>(), shown, "object {id}");
        compared += 1;
    }
    assert!(compared > 10, "only {compared} objects");
}

/// The names as the command line lists them: those whose object is there.
fn check_names(home: &Home, reader: &Reader) {
    let listed: BTreeSet<(String, u64)> = home.json(&["ls"])["names"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["name"].as_str().unwrap().to_owned(), it["id"].as_u64().unwrap()))
        .collect();
    let mut read = BTreeSet::new();
    for (key, versions) in &reader.versions {
        if let (Key::Name(name), Some(object)) = (key, &versions.last().unwrap().content) {
            let object = u64::try_from(object.as_integer().unwrap()).unwrap();
            let lives = reader.versions[&Key::Object(object)].last().unwrap().content.is_some();
            read.extend(lives.then(|| (name.clone(), object)));
        }
    }
    assert_eq!(read, listed);
}

/// Versions of the past, found by the pointers as the document says.
fn check_the_past(home: &Home, reader: &Reader) {
    let mut dice = Dice(0xf0_4a75);
    let keys: Vec<_> = reader.versions.keys().filter(|key| matches!(key, Key::Object(_))).collect();
    for _ in 0..40 {
        let key = keys[dice.roll(keys.len() as u64) as usize];
        let at = reader.first + dice.roll(reader.head.0 - reader.first + 1);
        let (found, steps) = reader.as_of(key, at);
        let Key::Object(id) = key else { unreachable!("only objects were taken") };
        let shown = home.cli(&["get", &id.to_string(), "--at", &at.to_string(), "--json"]);
        match found.filter(|version| version.content.is_some()) {
            Some(version) => {
                let shown: theseus_tests::Json = theseus_tests::home::document(&shown.succeeded());
                assert_eq!(shown["tid"], json!(version.tid), "object {id} at {at}");
            }
            None => drop(shown.failed(1)),
        }
        let versions = reader.versions[key].len() as f64;
        assert!(f64::from(steps) <= 2.0 * (versions + 1.0).log2() + 2.0, "{steps} steps among {versions} versions");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
