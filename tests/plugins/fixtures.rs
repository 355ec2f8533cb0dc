//! Builds the plugins of this folder when a test asks for one, and makes wrong ones out of good ones.
//!
//! Included by the tests that need it (`#[path = ...] mod fixtures;`); it depends on nothing but the standard library, cargo
//! and a C compiler.

#![allow(dead_code, unreachable_pub, reason = "each test that includes this file uses a part of it")]

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let holds_fixtures = |directory: &&Path| directory.join("tests/plugins/Cargo.toml").exists();
    let root = here.ancestors().find(holds_fixtures).expect("the tests run in a checkout");
    root.join("tests").canonicalize().unwrap().parent().unwrap().to_path_buf()
}

/// Where fixtures are built.
fn target() -> PathBuf {
    checkout().join("target/fixtures")
}

/// Builds a crate and gives the path of its cdylib. Each crate is built at most once in a process.
///
/// `manifest` is relative to the checkout; `name` is the crate's.
pub fn build(manifest: &str, name: &str) -> PathBuf {
    build_targets(manifest, name, &["--lib"]);
    target().join("debug").join(library(&name.replace('-', "_")))
}

/// The plugin whose objects post messages.
pub fn clock() -> PathBuf {
    build("tests/plugins/clock/Cargo.toml", "clock")
}

/// The file of a library.
fn library(name: &str) -> String {
    format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// Builds targets of a crate, at most once in a process.
fn build_targets(manifest: &str, name: &str, targets: &[&str]) {
    static BUILT: OnceLock<Mutex<HashSet<String>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if built.contains(manifest) {
        return;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", name])
        .args(targets)
        .arg("--manifest-path")
        .arg(checkout().join(manifest))
        .arg("--target-dir")
        .arg(target())
        .status()
        .unwrap();
    assert!(status.success(), "cannot build {manifest}");
    built.insert(manifest.to_owned());
}

/// A plugin of `enemies/examples`, or the well-behaved one that they pretend to follow, `well`.
pub fn enemy(name: &str) -> PathBuf {
    build_targets("tests/plugins/enemies/Cargo.toml", "enemies", &["--lib", "--examples"]);
    let debug = target().join("debug");
    if name == "well" { debug.join(library("enemies")) } else { debug.join("examples").join(library(name)) }
}

/// A plugin of `items`: its first version, `items`, or one of its examples.
pub fn items(name: &str) -> PathBuf {
    build_targets("tests/plugins/items/Cargo.toml", "items", &["--lib", "--examples"]);
    let debug = target().join("debug");
    if name == "items" { debug.join(library(name)) } else { debug.join("examples").join(library(name)) }
}

/// The plugin whose history is rehearsed, and its next version.
pub fn rehearsed() -> (PathBuf, PathBuf) {
    build_targets("tests/plugins/rehearsed/Cargo.toml", "rehearsed", &["--lib", "--examples"]);
    let debug = target().join("debug");
    (debug.join(library("rehearsed")), debug.join("examples").join(library("changed")))
}

/// The plugin written by hand, well-behaved unless asked.
pub fn bare() -> PathBuf {
    build("tests/plugins/bare/Cargo.toml", "bare")
}

/// A plugin written with the kit.
pub fn tally() -> PathBuf {
    build("tests/plugins/tally/Cargo.toml", "tally")
}

/// A plugin whose objects have parents and refer to each other.
pub fn kin() -> PathBuf {
    build("tests/plugins/kin/Cargo.toml", "kin")
}

/// A plugin that leaves behind whatever it is asked to.
pub fn litter() -> PathBuf {
    build("tests/plugins/litter/Cargo.toml", "litter")
}

/// A library with a good note and another root module.
pub fn lying() -> PathBuf {
    build("tests/plugins/lying/Cargo.toml", "lying")
}

/// A Rust library that is no plugin.
pub fn noteless() -> PathBuf {
    build("tests/plugins/noteless/Cargo.toml", "noteless")
}

/// A library in C whose initialiser makes the file named by `THESEUS_FIXTURE_TOUCH`; built into `directory`.
pub fn touch(directory: &Path) -> PathBuf {
    let path = directory.join("touch.so");
    let source = checkout().join("tests/plugins/touch.c");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&path, &source]).status().unwrap();
    assert!(status.success(), "cannot build {}", source.display());
    path
}

/// A library in C with the note of a plugin, whatever that says, and perhaps so many bytes where a root module would be; built
/// into `directory`. Its initialiser is that of [`touch`].
pub fn noted(directory: &Path, manifest: &str, root: Option<usize>) -> PathBuf {
    let path = directory.join("noted.so");
    let source = checkout().join("tests/plugins/noted.c");
    // A manifest can be longer than an argument may be.
    let header = directory.join("manifest.h");
    let literal: String = manifest.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    std::fs::write(&header, format!("#define MANIFEST \"{literal}\"\n")).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-include"]).arg(&header).args(root.map(|bytes| format!("-DROOT={bytes}")));
    let status = compiler.arg("-o").args([&path, &source]).status().unwrap();
    assert!(status.success(), "cannot build {}", source.display());
    path
}

/// Writes another text of the same length over each place where `old` stands, of which there has to be one.
pub fn replace(bytes: &mut [u8], old: &str, new: &str) {
    assert_eq!(old.len(), new.len(), "nothing may move in the file");
    let mut places = 0;
    for start in 0..=bytes.len() - old.len() {
        if bytes[start..].starts_with(old.as_bytes()) {
            bytes[start..start + new.len()].copy_from_slice(new.as_bytes());
            places += 1;
        }
    }
    assert!(places > 0, "`{old}` is not in the file");
}

/// Sets the machine in an ELF file's header.
pub fn set_machine(bytes: &mut [u8], machine: u16) {
    bytes[18..20].copy_from_slice(&machine.to_ne_bytes());
}

/// Where the header of the first section of this type stands in a 64-bit ELF file.
pub fn section(bytes: &[u8], kind: u32) -> usize {
    let sections = u64::from_ne_bytes(bytes[0x28..0x30].try_into().unwrap()) as usize;
    let count = usize::from(u16::from_ne_bytes([bytes[0x3c], bytes[0x3d]]));
    let is_wanted = |at: &usize| bytes[at + 4..at + 8] == kind.to_ne_bytes();
    (0..count).map(|i| sections + i * 64).find(is_wanted).expect("there is such a section")
}

/// The dynamic tag of flags such as [`DF_1_NODELETE`].
pub const DT_FLAGS_1: u64 = 0x6fff_fffb;
/// A library that is never unloaded.
pub const DF_1_NODELETE: u64 = 8;
/// An executable.
pub const DF_1_PIE: u64 = 0x0800_0000;

/// Where the header of the first segment of this type stands in a 64-bit ELF file.
pub fn segment(bytes: &[u8], kind: u32) -> usize {
    let segments = u64::from_ne_bytes(bytes[0x20..0x28].try_into().unwrap()) as usize;
    let count = usize::from(u16::from_ne_bytes([bytes[0x38], bytes[0x39]]));
    let is_wanted = |at: &usize| bytes[*at..at + 4] == kind.to_ne_bytes();
    (0..count).map(|i| segments + i * 56).find(is_wanted).expect("there is such a segment")
}

/// Where a 64-bit ELF file's dynamic entry stands, which has to be there.
pub fn dynamic_entry(bytes: &[u8], tag: u64) -> usize {
    const PT_DYNAMIC: u32 = 2;
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let table = word(segment(bytes, PT_DYNAMIC) + 8) as usize;
    (0..).map(|i| table + i * 16).find(|at| word(*at) == tag).expect("there is such an entry")
}

/// Adds flags to a 64-bit ELF file's dynamic entry, which has to be there.
pub fn add_dynamic_flags(bytes: &mut [u8], tag: u64, flags: u64) {
    let at = dynamic_entry(bytes, tag) + 8;
    let flags = u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) | flags;
    bytes[at..at + 8].copy_from_slice(&flags.to_ne_bytes());
}
