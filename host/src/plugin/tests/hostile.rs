//! Files made to deceive whoever judges them: libraries in C with a plugin's note, and plugins that lie in it.

use std::path::PathBuf;

use theseus_abi::{HOST_ABI, LAYOUT_FINGERPRINT, note};

use super::*;

/// A manifest that is right in every respect but those that `fields` say otherwise.
fn manifest(fields: &[(&str, &str)]) -> String {
    let layout = format!("\"{LAYOUT_FINGERPRINT:016x}\"");
    let abi = format!("{{\"min\":{},\"max\":{}}}", HOST_ABI.min, HOST_ABI.max);
    let target = format!("\"{}\"", target::HOST);
    let mut all = vec![
        ("name", "\"enemy\""),
        ("version", "\"1.0.0\""),
        ("abi", &abi),
        ("layout", &layout),
        ("behaviors", "[]"),
        ("rustc", "\"none\""),
        ("panic", "\"unwind\""),
        ("target", &target),
    ];
    for (name, value) in fields {
        all.retain(|(other, _)| other != name);
        all.push((name, value));
    }
    let all: Vec<_> = all.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", all.join(","))
}

/// Builds a library with this note, and judges it.
fn judged(manifest: &str, root: Option<usize>) -> Result<Inspection, Refusal> {
    let directory = tempfile::tempdir().unwrap();
    inspect(&std::fs::read(fixtures::noted(directory.path(), manifest, root)).unwrap())
}

fn refusal(fields: &[(&str, &str)]) -> Refusal {
    judged(&manifest(fields), Some(4096)).unwrap_err()
}

#[test]
fn a_note_alone_makes_no_plugin() {
    assert_eq!(judged(&manifest(&[]), None).unwrap_err(), Refusal::NoRootModule);
    assert_eq!(judged(&manifest(&[]), Some(8)).unwrap_err(), Refusal::NoRootModule);
    // More cannot be said without loading it; what is there instead of a root module is found out where it does no harm.
    assert_eq!(judged(&manifest(&[]), Some(4096)).unwrap().manifest.name, "enemy");
}

#[test]
fn a_note_that_is_none_is_refused() {
    let long = format!("{}{}", manifest(&[]), " ".repeat(note::LENGTH_MAX));
    assert_eq!(judged(&long, None).unwrap_err(), Refusal::BadNote { problem: "it is longer than a manifest may be" });
    let deep = "[".repeat(60_000);
    for nonsense in
        ["", "{", "null", "[]", "name = \"enemy\"", "\u{1b}[2J", &deep, "{\"abi\":{\"min\":-1,\"max\":1e99}}"]
    {
        let refusal = judged(nonsense, None).unwrap_err();
        assert!(matches!(refusal, Refusal::BadManifest { .. }), "{nonsense:.20}: {refusal:?}");
        assert!(!refusal.to_string().contains('\u{1b}') && refusal.to_string().len() < 300, "{refusal}");
    }
}

#[test]
fn what_a_note_says_has_to_fit_the_host() {
    let musl = target::HOST.replace("gnu", "musl");
    let other = refusal(&[("target", &format!("\"{musl}\""))]);
    assert_eq!(other, Refusal::WrongTarget { found: musl, host: target::HOST });
    assert!(other.to_string().contains("`cargo build --release --target "), "{other}");
    let other = refusal(&[("panic", "\"abort\"")]);
    assert!(other.to_string().contains("`panic = \"unwind\"`"), "{other}");
    for version in ["1", "one", "1.0.0\\u001b[2J", ""] {
        let other = refusal(&[("version", &format!("\"{version}\""))]);
        assert!(matches!(other, Refusal::BadVersion { .. }), "{other:?}");
        assert!(!other.to_string().contains('\u{1b}'));
    }
    for requires in [
        r#"{"behavior":"ledger.Account","version":"new"}"#,
        r#"{"behavior":"Account","version":"^1"}"#,
        r#"{"behavior":"ledger.","version":"^1"}"#,
        r#"{"behavior":"../x.Y","version":"^1"}"#,
    ] {
        let other = refusal(&[("requires", &format!("[{requires}]"))]);
        assert!(matches!(other, Refusal::BadRequirement { .. }), "{other:?}");
    }
    let other = refusal(&[("capabilities", "[\"threads\",\"everything\"]")]);
    assert_eq!(other, Refusal::UnknownCapability { word: "everything".to_owned() });
    assert!(other.to_string().contains("it knows request_upgrade, threads"), "{other}");
    let other = refusal(&[("behaviors", r#"[{"name":"ledger.Account","schema":1}]"#)]);
    assert!(matches!(other, Refusal::BadName { what: "behavior", .. }), "{other:?}");
}

#[test]
fn what_a_note_asks_for_can_be_read() {
    let asks = [
        ("requires", r#"[{"behavior":"ledger.Account","version":">=1.2, <3"}]"#),
        ("capabilities", r#"["threads","request_upgrade"]"#),
        ("version", "\"1.2.3-rc.1\""),
        ("something_of_tomorrow", "[1,2]"),
    ];
    let inspection = judged(&manifest(&asks), Some(4096)).unwrap();
    assert_eq!(inspection.version.to_string(), "1.2.3-rc.1");
    assert_eq!(inspection.requires[0].behavior, "ledger.Account");
    assert!(inspection.requires[0].range.matches(&"2.9.9".parse().unwrap()));
    assert!(!inspection.requires[0].range.matches(&"3.0.0".parse().unwrap()));
    assert_eq!(Vec::from_iter(inspection.capabilities), theseus_abi::Capability::ALL);
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let bytes = bare("well", |bytes| fixtures::replace(bytes, "libgcc_s.so.1", "libgcc_x\u{7}so.1"));
    let refusal = inspect(&bytes).unwrap_err();
    assert!(matches!(&refusal, Refusal::MissingLibraries { names } if names.len() == 1), "{refusal:?}");
    assert!(refusal.to_string().contains("needs libgcc_x\u{fffd}so.1"), "{refusal}");
}

#[test]
fn sections_that_contradict_the_dynamic_table_are_refused() {
    const SHT_DYNSYM: u32 = 11;
    for field in [16, 24] {
        // The address, then the offset of the section with the dynamic symbols.
        let bytes = bare("well", |bytes| {
            let at = fixtures::section(bytes, SHT_DYNSYM) + field;
            bytes[at] ^= 0x40;
        });
        let refusal = inspect(&bytes).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed { .. } | Refusal::NoRootModule), "{refusal:?}");
    }
}

#[test]
fn no_code_of_a_plugin_that_is_judged_runs() {
    let directory = tempfile::tempdir().unwrap();
    let library = fixtures::noted(directory.path(), &manifest(&[]), Some(4096));
    let trace = directory.path().join("trace");
    let environment = [("THESEUS_FIXTURE_TOUCH", trace.as_path()), ("THESEUS_FIXTURE_LIBRARY", &library)];
    in_own_process(module_path!(), "the_trap_is_judged", &environment);
    assert!(!trace.exists(), "code of a judged file has run");
    // That the trap works: whoever loads it leaves a trace.
    in_own_process(module_path!(), "the_trap_is_loaded", &environment);
    assert!(trace.exists(), "the fixture leaves no trace when it is loaded");
}

fn trap() -> (Staged, Result<Inspection, Refusal>) {
    let path = PathBuf::from(std::env::var_os("THESEUS_FIXTURE_LIBRARY").unwrap());
    let staged = stage(&path, FILE_BYTES_LIMIT).unwrap();
    let inspection = inspect(staged.bytes());
    (staged, inspection)
}

#[test]
#[ignore = "run by no_code_of_a_plugin_that_is_judged_runs, in a process that would show it"]
fn the_trap_is_judged() {
    assert!(trap().1.is_ok());
}

#[test]
#[ignore = "run by no_code_of_a_plugin_that_is_judged_runs, in a process of its own"]
fn the_trap_is_loaded() {
    let (staged, inspection) = trap();
    // What stands where the root module should be is none.
    assert!(matches!(load(staged, inspection.unwrap()), Err(LoadError::Root { .. })));
}
