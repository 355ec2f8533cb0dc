//! What users and plugins rely on, word for word. A change here is a change for them: look at it, and if it is meant, run the
//! tests with `UPDATE_GOLDEN=1`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use theseus_abi::{ABI_VERSION, FailureCode, HOST_ABI, LAYOUT_FINGERPRINT};
use theseus_tests::{
    Home, artifacts,
    artifacts::checkout,
    fixtures,
    home::{finish, plain_command},
};

/// Compares with a file of `tests/golden`.
fn assert_golden(name: &str, found: &str) {
    let path = checkout().join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(&path, found).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let differs = golden.lines().zip(found.lines()).position(|(golden, found)| golden != found);
    let differs = differs.unwrap_or_else(|| golden.lines().count().min(found.lines().count()));
    let line = |text: &str| text.lines().nth(differs).unwrap_or("(the end)").to_owned();
    assert!(
        golden == found,
        "{name} differs from line {} on:\n  golden: {}\n  found:  {}\nIf that is meant: UPDATE_GOLDEN=1",
        differs + 1,
        line(&golden),
        line(found)
    );
}

fn help(arguments: &[&str]) -> String {
    // As wide as the widest terminal that is made use of.
    finish(plain_command().args(arguments).env("COLUMNS", "100")).succeeded()
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<&str> {
    let Some(listed) = help.split("Commands:\n").nth(1) else { return Vec::new() };
    let lines = listed.split("\n\n").next().unwrap().lines();
    let lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next()).filter(|command| *command != "help").collect()
}

#[test]
fn the_help_of_the_command_line() {
    let whole = help(&["--help"]);
    let commands = commands(&whole);
    assert!(commands.len() > 15, "{commands:?}");
    let mut found = format!("$ theseus --help\n{whole}\n");
    for command in commands {
        let text = help(&[command, "--help"]);
        found += &format!("\n$ theseus {command} --help\n{text}\n");
        for within in self::commands(&text) {
            found += &format!("\n$ theseus {command} {within} --help\n{}\n", help(&[command, within, "--help"]));
        }
    }
    assert_golden("help.txt", &found);
}

/// If this fails and the version is the same, plugins that were built before would be loaded and misbehave: read the
/// policy at the top of `abi/src/lib.rs`.
#[test]
fn the_boundary_to_plugins() {
    let mut found =
        format!("ABI version {ABI_VERSION}, hosts serve {HOST_ABI}\nlayout fingerprint {LAYOUT_FINGERPRINT:016x}\n");
    for code in FailureCode::ALL {
        found += &format!("failure {} {}\n", code.0, code.name());
    }
    assert_golden("abi.txt", &found);
}

/// What `theseus plugin inspect` and `check` print, without what differs from build to build and from system to system.
#[test]
fn the_view_of_plugin_files() {
    let home = Home::bare("");
    let other = home.beside("other.txt");
    fs::write(&other, "no plugin").unwrap();
    let files = [artifacts::plugin("counter-v2"), fixtures::noteless(), other];
    let names = ["libcounter_v2.so", "libnoteless.so", "other.txt"];
    let paths: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let plugin = |arguments: &[&str]| {
        let output = finish(plain_command().arg("plugin").args(arguments).env_remove("HOME").current_dir("/"));
        format!("{}(exit {})\n", output.stdout, output.code)
    };
    let mut found = String::new();
    for (path, name) in paths.iter().zip(names) {
        found += &format!("$ theseus plugin inspect {name}\n");
        let text = plugin(&["inspect", path]).replace(path, name);
        let mut last = "";
        for line in text.lines() {
            let word = line.split(' ').next().unwrap();
            match word {
                "digest" | "size" | "abi" | "built" | "needs" | "owner" => found += &format!("{word:<10} ...\n"),
                // Further libraries that it needs, and the build id, which not every linker gives.
                "" if last == "needs" => continue,
                "build" => continue,
                _ => found += &format!("{line}\n"),
            }
            last = word;
        }
        found.push('\n');
    }
    found += &format!("$ theseus plugin check {}\n", names.join(" "));
    let mut verdicts = plugin(&[&["check"], &paths[..]].concat());
    for (path, name) in paths.iter().zip(names) {
        verdicts = verdicts.replace(path, name);
    }
    found += &verdicts;
    assert_golden("plugin-files.txt", &found);
}
