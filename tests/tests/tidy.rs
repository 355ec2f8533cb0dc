//! How the project is written: its layers, its bans, its bounds.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use theseus_tests::{
    artifacts::checkout,
    sources::{self, Source},
};

/// The longest file in Rust, in lines.
const LINES_MAX: usize = 700;

/// Which rooms of the host each room may use, from the top down.
const LAYERS: &[(&str, &[&str])] = &[
    ("main", &[]),
    ("cli", &["gateway", "runtime", "config", "home"]),
    ("cli/run", &["gateway", "runtime", "config", "home", "restart"]),
    ("gateway", &["runtime", "config", "home"]),
    ("runtime", &["swap", "restart", "plugin", "exec", "identity", "config", "home"]),
    ("swap", &["sandbox", "plugin", "exec", "identity", "config", "home"]),
    ("restart", &["home", "config"]),
    ("exec", &["plugin", "identity", "config", "home"]),
    ("plugin", &["config"]),
    ("sandbox", &[]),
    ("identity", &[]),
    ("config", &["home"]),
    ("home", &[]),
];

/// The files that may hold unsafe code; each says why at its top.
const UNSAFE: &[&str] = &[
    "abi/macros/src/plugin.rs",
    "abi/plugin/src/counting.rs",
    "abi/plugin/src/root.rs",
    "host/src/cli/exit.rs",
    "host/src/identity/fault.rs",
    "host/src/identity/lease.rs",
    "host/src/identity/lmdb.rs",
    "host/src/identity/prefetch.rs",
    "host/src/plugin/boundary.rs",
    "host/src/plugin/hooks/exports.rs",
    "host/src/plugin/hooks/thread.rs",
    "host/src/plugin/image.rs",
    "host/src/plugin/loader.rs",
    "host/src/plugin/mapped.rs",
    "host/src/restart/listeners.rs",
    "host/src/sandbox/confine.rs",
    "scripts/watchdog/src/launch.rs",
];

/// Fails with all that was found.
fn assert_none(what: &str, found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn own_code() -> Vec<Source> {
    let mut sources = sources::rust("");
    sources.retain(|source| !source.is_test());
    sources
}

/// The room of a file of the host, and the row of the layers that holds for it.
fn room(path: &str) -> (&str, &str) {
    let inside = path.strip_prefix("host/src/").unwrap().strip_suffix(".rs").unwrap();
    let room = inside.split('/').next().unwrap();
    let row = if LAYERS.iter().any(|(row, _)| *row == inside) { inside } else { room };
    (room, row)
}

#[test]
fn rooms_of_the_host_use_only_what_lies_below_them() {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for source in
        sources::rust("host/src/").iter().filter(|source| !source.is_test() && !source.path.ends_with("src/lib.rs"))
    {
        let (own, row) = room(&source.path);
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == row) else {
            found.push(format!(
                "{} is in a room that has no layer: add it to LAYERS and to host/src/lib.rs",
                source.path
            ));
            continue;
        };
        seen.insert(row.to_owned());
        for used in source.rooms() {
            if used != own && !allowed.contains(&used.as_str()) {
                found.push(format!("{} uses crate::{used}; {row} may use {allowed:?}", source.path));
            }
        }
        if source.code().contains("super::super") {
            found.push(format!("{} climbs by super::super: name the room from crate:: on", source.path));
        }
    }
    assert_none("what a room may use", found);
    assert_eq!(seen.len(), LAYERS.len(), "a row of LAYERS stands for nothing: {seen:?}");
}

#[test]
fn the_command_line_knows_of_the_restart_only_what_starting_takes() {
    let run = sources::rust("host/src/cli/run.rs").remove(0).code();
    assert!(run.contains("restart::{Notifier, listeners}"), "{run}");
    assert_eq!(run.matches("restart::").count(), 1);
}

#[test]
fn the_library_shows_the_layers_as_they_are() {
    let lib = sources::rust("host/src/lib.rs").remove(0).text;
    assert!(lib.contains("cli, gateway -> runtime -> {swap, restart} -> {plugin, exec} -> identity"), "{lib}");
    for (room, _) in LAYERS.iter().filter(|(room, _)| !room.contains('/') && *room != "main") {
        assert!(lib.contains(&format!("pub mod {room};")), "{room}");
    }
}

#[test]
fn the_identity_knows_nothing_of_plugins() {
    // Generations stand in the history as names and digests; who they are is not its business.
    let mut found = Vec::new();
    for source in sources::rust("host/src/identity/").iter().filter(|source| !source.is_test()) {
        for (number, line) in source.code().lines().enumerate() {
            if line.contains("plugin::") || line.contains("theseus_abi") || line.contains("libloading") {
                found.push(format!("{}:{}: {line}", source.path, number + 1));
            }
        }
    }
    assert_none("plugins in the identity", found);
}

#[test]
fn one_module_owns_lmdb() {
    let names = ["use lmdb::", "use lmdb_sys", "::lmdb::", "lmdb_sys::"];
    let users = own_code().into_iter().filter(|source| names.iter().any(|name| source.code().contains(name)));
    assert_eq!(users.map(|source| source.path).collect::<Vec<_>>(), ["host/src/identity/lmdb.rs"]);
}

#[test]
fn only_the_abi_is_shared_with_plugins() {
    let manifest = |path: &str| std::fs::read_to_string(checkout().join(path)).unwrap();
    for path in ["abi/Cargo.toml", "abi/plugin/Cargo.toml", "abi/value/Cargo.toml", "abi/macros/Cargo.toml"] {
        assert!(!manifest(path).contains("theseus-host"), "{path}");
    }
    let watchdog = manifest("scripts/watchdog/Cargo.toml");
    let shared = watchdog.lines().filter(|line| line.starts_with("theseus-"));
    assert_none("the watchdog shares nothing but formats with the host", shared.map(str::to_owned));
    for source in sources::rust("plugins/") {
        assert!(!source.code().contains("theseus_host"), "{}", source.path);
    }
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut found = Vec::new();
    for source in own_code() {
        for (number, line) in source.code().lines().enumerate() {
            if line.contains(".unwrap()") {
                found.push(format!("{}:{}: say with `expect` why it cannot fail", source.path, number + 1));
            }
        }
    }
    assert_none("unwrap", found);
}

#[test]
fn unsafe_code_lies_in_few_named_files() {
    let holders = own_code().into_iter().filter(|source| source.code().contains("unsafe_code"));
    let holders = holders.filter(|source| !source.path.starts_with("tests/")).map(|source| source.path);
    assert_eq!(holders.collect::<Vec<_>>(), UNSAFE);
    let manifest = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""), "elsewhere the compiler forbids it");
}

#[test]
fn every_crate_of_the_workspace_has_its_lints() {
    let manifest = std::fs::read_to_string(checkout().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: Vec<&str> = members.split(',').map(|member| member.trim().trim_matches('"')).collect();
    for member in members.iter().filter(|member| !member.is_empty()) {
        let manifest = std::fs::read_to_string(checkout().join(member).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member}");
        assert!(manifest.contains("description = \""), "{member}");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimplemented", "!"), concat!("todo", "!"), "XXX "];
    let mut found = Vec::new();
    for source in sources::all().iter().filter(|source| source.path != "tests/tests/tidy.rs") {
        for (number, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{}: {word}", source.path, number + 1));
            }
        }
    }
    assert_none("what was put off", found);
}

#[test]
fn files_can_be_read_at_one_sitting() {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources::rust("").into_iter().filter(|source| lines(source) > LINES_MAX);
    assert_none("too long", long.map(|source| format!("{}: {} lines", source.path, lines(&source))));
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/user"), concat!("/Us", "ers/")];
    let mut found = Vec::new();
    for source in sources::all() {
        for (number, line) in source.text.lines().enumerate() {
            for place in places.iter().filter(|place| line.contains(**place)) {
                found.push(format!("{}:{}: {place}", source.path, number + 1));
            }
        }
    }
    assert_none("paths of a machine", found);
}

#[test]
fn every_module_is_part_of_its_crate() {
    let sources = sources::rust("");
    let declares = |source: &Source, name: &str| {
        let text = &source.text;
        text.contains(&format!("mod {name};")) || text.contains(&format!("mod r#{name};"))
    };
    let mut found = Vec::new();
    for source in &sources {
        let Some((folder, file)) = source.path.rsplit_once('/') else { continue };
        let name = file.strip_suffix(".rs").unwrap();
        let in_sources = source.path.contains("/src/");
        if !in_sources || ["lib", "main"].contains(&name) {
            continue;
        }
        let (folder, name) = if name == "mod" { folder.rsplit_once('/').unwrap() } else { (folder, name) };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| format!("{folder}/{parent}"));
        let declared = sources
            .iter()
            .filter(|parent| parents.contains(&parent.path) || parent.path == format!("{folder}.rs"))
            .any(|parent| declares(parent, name));
        if !declared {
            found.push(format!("{} is compiled by nobody", source.path));
        }
    }
    assert_none("dead files", found);
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut found = Vec::new();
    for source in sources::all().iter().filter(|source| source.path.ends_with(".md")) {
        let folder = checkout().join(&source.path).parent().unwrap().to_owned();
        for part in source.text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                found.push(format!("{}: {target}", source.path));
            }
        }
    }
    assert_none("links to nothing", found);
}
