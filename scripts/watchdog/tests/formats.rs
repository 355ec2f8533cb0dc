//! Both sides read and write what `docs/restart.md` describes, byte by byte.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::restart::{
    self, Digest, RestartPaths, bundle,
    confirm::Confirmed,
    handoff::Handoff,
    instruction::{self, Instruction},
};
use theseus_watchdog::{
    bundle as watchdog_bundle, instruction as watchdog_instruction,
    journal::{History, Line},
};

/// The digest of `tests/data/bundle`.
const BUNDLE_DIGEST: &str = "0b995479d87e03a7b5c0ec7b6210b500c919bdd91974ae3bb6ecc6d5656bfcac";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(data(name)).unwrap()
}

#[test]
fn host_and_watchdog_agree_on_the_digest_of_a_bundle() {
    let theirs = watchdog_bundle::digest(&data("bundle")).unwrap();
    let ours = bundle::read(&data("bundle")).unwrap();
    assert_eq!(theirs.as_str(), BUNDLE_DIGEST);
    assert_eq!(ours.digest.to_string(), BUNDLE_DIGEST);
    assert_eq!(ours.manifest.apply.as_deref(), Some("renew-2"));
    assert_eq!(watchdog_bundle::manifest(&data("bundle")).unwrap().epoch, ours.manifest.epoch);
    assert_eq!((ours.host.unwrap().executable, ours.plugins.len()), (true, 1));
}

#[test]
fn an_instruction_of_the_host_is_one_for_the_watchdog() {
    let home = tempfile::tempdir().unwrap();
    let written: Instruction = serde_json::from_str(&text("instruction.json")).unwrap();
    instruction::publish(home.path(), &written).unwrap();
    let path = RestartPaths::new(home.path()).instruction(written.id.as_str());
    assert_eq!(fs::read_to_string(&path).unwrap(), text("instruction.json"));
    let read = watchdog_instruction::read(&path).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(written).unwrap());
}

#[test]
fn handoff_and_confirmation_are_as_documented() {
    let home = tempfile::tempdir().unwrap();
    let handoff: Handoff = serde_json::from_str(&text("handoff.json")).unwrap();
    restart::handoff::publish(home.path(), &handoff).unwrap();
    let confirmed: Confirmed = serde_json::from_str(&text("confirm.json")).unwrap();
    restart::confirm::publish(home.path(), &confirmed).unwrap();
    let paths = RestartPaths::new(home.path());
    let id = handoff.id.as_str();
    assert_eq!(fs::read_to_string(paths.handoff(id)).unwrap(), text("handoff.json"));
    assert_eq!(fs::read_to_string(paths.confirm(id)).unwrap(), text("confirm.json"));
}

#[test]
fn the_history_of_the_watchdog_is_read_by_the_host() {
    let home = tempfile::tempdir().unwrap();
    let path = RestartPaths::new(home.path()).history();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut history = History::open(&path).unwrap();
    for line in text("history.jsonl").lines() {
        history.append(&serde_json::from_str::<Line>(line).unwrap()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), text("history.jsonl"));
    let outcome = |id: &str| instruction::outcome(home.path(), &id.parse().unwrap()).unwrap();
    assert_eq!(outcome("00065f1e7c2a9b40-5f3a91c2").unwrap().verdict, instruction::Verdict::Confirmed);
    let refused = outcome("00065f1ed0000000-00000001").unwrap();
    assert_eq!(refused.verdict, instruction::Verdict::Refused);
    assert!(refused.reason.contains("expired"));
    assert_eq!(outcome("00065f1ed0000000-00000002"), None);
}

#[test]
fn the_document_shows_these_files() {
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/restart.md")).unwrap();
    for name in ["bundle/bundle.json", "instruction.json", "handoff.json", "confirm.json", "history.jsonl"] {
        assert!(document.contains(&text(name)), "docs/restart.md does not show tests/data/{name}");
    }
    let listing = ["bin/theseus", "bundle.json", "plugins/libexample.so", "settings/example.toml"].map(|path| {
        let mode = if path == "bin/theseus" { 'x' } else { '-' };
        format!("{} {mode} {path}\n", blake3::hash(&fs::read(data("bundle").join(path)).unwrap()))
    });
    assert!(document.contains(&listing.concat()), "the listing in docs/restart.md should be\n{}", listing.concat());
    assert_eq!(Digest::from(blake3::hash(listing.concat().as_bytes())).to_string(), BUNDLE_DIGEST);
    assert!(document.contains(BUNDLE_DIGEST));
}
