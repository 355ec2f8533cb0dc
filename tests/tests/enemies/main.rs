//! Plugins that do what no plugin should, brought into running hosts under load: each row of `docs/hostile-plugins.md`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod arena;
mod by_file;
mod contained;
mod fatal;
mod refused;
mod staying;
mod table;

use std::{collections::BTreeSet, fs};

use theseus_tests::artifacts;

#[test]
fn every_enemy_has_one_row_and_every_row_an_enemy_that_is_fought() {
    let cases =
        [by_file::CASES, refused::CASES, refused::HANGING, contained::CASES, staying::CASES, fatal::CASES].concat();
    let fought: BTreeSet<String> = cases.iter().map(|case| case.plugin.to_owned()).collect();
    assert_eq!(fought.len(), cases.len(), "an enemy is fought twice");
    let rows: Vec<String> = table::rows().into_iter().map(|row| row.plugin).collect();
    let described: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(described.len(), rows.len(), "an enemy has two rows");
    assert_eq!(described, fought);
    let examples = fs::read_dir(artifacts::checkout().join("tests/plugins/enemies/examples")).unwrap();
    for example in examples.map(|entry| entry.unwrap().path()) {
        let name = example.file_stem().unwrap().to_str().unwrap();
        assert!(fought.contains(name), "nobody fights `{name}`");
    }
}
