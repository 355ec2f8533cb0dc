//! Files that show by themselves that they are no plugins for this host: refused before any code of theirs runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use theseus_tests::{Json, artifacts, fixtures};

use crate::{
    arena::Arena,
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "a text", run: |arena| changed(arena, |bytes| *bytes = b"#!/bin/sh\necho hello\n".to_vec()) },
    Case { plugin: "half a file", run: |arena| changed(arena, |bytes| bytes.truncate(bytes.len() / 2)) },
    Case { plugin: "another processor", run: |arena| changed(arena, |bytes| fixtures::set_machine(bytes, 243)) },
    Case { plugin: "another ABI", run: another_abi },
    Case { plugin: "another layout", run: another_layout },
    Case { plugin: "panic=abort", run: panic_abort },
    Case { plugin: "a missing library", run: missing_library },
    Case { plugin: "written by others", run: written_by_others },
    Case { plugin: "noteless", run: |arena| arena.refused(&fixtures::noteless()) },
    Case { plugin: "touch.c", run: plain_c },
    Case { plugin: "noted.c, long", run: |arena| noted(arena, &"x".repeat(70_000)) },
    Case { plugin: "noted.c, no JSON", run: |arena| noted(arena, "I am a plugin, believe me") },
    Case { plugin: "noted.c, foreign behaviours", run: |arena| noted(arena, &manifest("counter.Counter")) },
    Case { plugin: "noted.c", run: |arena| noted(arena, &manifest("noted.Thing")) },
    Case { plugin: "lying", run: |arena| arena.refused(&fixtures::lying()) },
    Case { plugin: "the system's libraries", run: system_libraries },
];

#[test]
fn what_shows_by_its_file_runs_no_code() {
    let mut arena = Arena::new("[plugins]\nprobe_ms_max = 30_000\n");
    fight(&mut arena, CASES);
    assert!(!arena.touched().exists(), "an initialiser has run");
    arena.close();
}

/// A changed copy of the well-behaved plugin.
fn copy(arena: &Arena, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(fixtures::enemy("well")).unwrap();
    change(&mut bytes);
    let file = arena.home.beside("changed.so");
    fs::write(&file, bytes).unwrap();
    file
}

fn changed(arena: &mut Arena, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let file = copy(arena, change);
    arena.refused(&file)
}

fn another_abi(arena: &mut Arena) -> String {
    changed(arena, |bytes| fixtures::replace(bytes, r#""abi":{"min":1,"max":1}"#, r#""abi":{"min":9,"max":9}"#))
}

fn another_layout(arena: &mut Arena) -> String {
    let layout = format!("\"layout\":\"{:016x}\"", theseus_abi::LAYOUT_FINGERPRINT);
    changed(arena, |bytes| fixtures::replace(bytes, &layout, "\"layout\":\"0123456789abcdef\""))
}

fn panic_abort(arena: &mut Arena) -> String {
    changed(arena, |bytes| fixtures::replace(bytes, "\"panic\":\"unwind\"", "\"panic\":\"abort\" "))
}

fn missing_library(arena: &mut Arena) -> String {
    changed(arena, |bytes| fixtures::replace(bytes, "libgcc_s.so.1", "libgcc_t.so.1"))
}

fn written_by_others(arena: &mut Arena) -> String {
    let file = copy(arena, |_| {});
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let shown = arena.refused(&file);
    fs::remove_file(file).unwrap();
    shown
}

/// Its initialiser would leave a trace.
fn plain_c(arena: &mut Arena) -> String {
    let library = fixtures::touch(&arena.home.beside(""));
    arena.refused(&library)
}

/// The same with a note.
fn noted(arena: &mut Arena, manifest: &str) -> String {
    let library = fixtures::noted(&arena.home.beside(""), manifest, None);
    arena.refused(&library)
}

/// A good manifest of a plugin `noted`, which provides this.
fn manifest(behavior: &str) -> String {
    let well = fs::read(fixtures::enemy("well")).unwrap();
    let start = well.windows(15).position(|bytes| bytes == b"{\"name\":\"enemy\"").unwrap();
    let mut documents = serde_json::Deserializer::from_slice(&well[start..]).into_iter();
    let mut manifest: Json = documents.next().unwrap().unwrap();
    manifest["name"] = "noted".into();
    manifest["behaviors"][0]["name"] = behavior.into();
    manifest.to_string()
}

/// None of them is a plugin. All are judged, and every fiftieth is offered to the host.
fn system_libraries(arena: &mut Arena) -> String {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"].map(Path::new);
    let entries = folders.into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let is_library = |path: &PathBuf| path.to_string_lossy().contains(".so") && path.is_file();
    let libraries: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_library).collect();
    assert!(libraries.len() > 10, "this system has only {} libraries", libraries.len());
    let mut shown = String::new();
    for some in libraries.chunks(50) {
        let names: Vec<&str> = some.iter().map(|path| path.to_str().unwrap()).collect();
        let judged = arena.home.cli(&[&["plugin", "check"], &names[..]].concat());
        assert_eq!((judged.code, judged.stdout.matches(": REFUSED: ").count()), (4, names.len()), "{judged:?}");
        shown += &judged.stdout;
    }
    for library in libraries.iter().step_by(50) {
        arena.refused(library);
    }
    arena.refused(&artifacts::theseus());
    shown
}
