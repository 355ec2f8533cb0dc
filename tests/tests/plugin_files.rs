//! `theseus plugin ...`: files are judged without being loaded, signed, and developed beside a running host.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use theseus_tests::{
    Home, Host, Json, artifacts, fixtures,
    home::{finish, plain_command},
    json,
    process::{Process, Signal},
    until,
};

/// Runs `theseus plugin ...` as somebody who has no home.
fn alone(arguments: &[&str]) -> theseus_tests::Output {
    finish(plain_command().arg("plugin").args(arguments).env_remove("HOME").current_dir("/"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn digest(file: &Path) -> String {
    blake3::hash(&fs::read(file).unwrap()).to_string()
}

#[test]
fn a_file_is_shown_whole_and_nothing_of_it_runs() {
    let home = Home::bare("");
    let folder = home.beside("");
    let library = fixtures::touch(&folder);
    let trace = home.beside("trace");
    let mut inspect = home.command(&["plugin", "inspect", text(&library)]);
    let shown = finish(inspect.env("THESEUS_FIXTURE_TOUCH", &trace)).succeeded();
    assert!(shown.contains("REFUSED") && shown.contains("no .note.theseus note"), "{shown}");
    let mut check = home.command(&["plugin", "check", text(&library)]);
    assert_eq!(finish(check.env("THESEUS_FIXTURE_TOUCH", &trace)).code, 4);
    assert!(!trace.exists(), "its initialiser has run");
    // That it would have left a trace.
    let mut loads = Command::new("true");
    assert!(loads.env("LD_PRELOAD", &library).env("THESEUS_FIXTURE_TOUCH", &trace).status().unwrap().success());
    assert!(trace.exists());

    let ledger = artifacts::plugin("ledger");
    let found: Json = serde_json::from_str(&alone(&["inspect", text(&ledger), "--json"]).succeeded()).unwrap();
    assert_eq!((&found["acceptable"], &found["reasons"]), (&json!(true), &json!([])));
    assert_eq!(found["digest"], digest(&ledger));
    assert_eq!(found["manifest"]["behaviors"][1]["name"], "ledger.Account");
    let needed = found["library"]["needed"].as_array().unwrap();
    assert!(needed.iter().any(|needed| needed["name"] == "libc.so.6" && needed["found"].is_string()), "{found}");
    let shown = alone(&["inspect", text(&ledger)]).succeeded();
    for part in ["ledger 1.0.0", "ledger.Account, schema 1", "panic=unwind", "by nobody", "verdict    acceptable"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    assert!(alone(&["inspect", "/no/such/file.so"]).failed(1).contains("/no/such/file.so"));
}

#[test]
fn all_files_are_judged_also_after_one_that_is_refused() {
    let counter = artifacts::plugin("counter");
    let files = ["/etc/passwd", text(&counter), "/no/such.so"];
    let judged = alone(&[&["check"], &files[..]].concat());
    assert_eq!(judged.code, 4, "{judged:?}");
    let lines: Vec<&str> = judged.stdout.lines().collect();
    assert!(lines[0].starts_with("/etc/passwd: REFUSED: this is not a plugin: not an ELF file"), "{lines:?}");
    assert_eq!(lines[1], format!("{}: acceptable", counter.display()));
    assert!(lines[2].starts_with("/no/such.so: REFUSED: cannot open"), "{lines:?}");
    let judged: Json = serde_json::from_str(&alone(&[&["check", "--json"], &files[..]].concat()).stdout).unwrap();
    let verdicts: Vec<_> = judged["files"].as_array().unwrap().iter().map(|file| file["acceptable"] == true).collect();
    assert_eq!(verdicts, [false, true, false]);
    assert_eq!(judged["files"][1]["version"], "1.0.0");
    alone(&["check", text(&counter)]).succeeded();
}

/// A copy of the counter that a test may spoil.
fn copy(home: &Home) -> PathBuf {
    let file = home.beside("libcounter.so");
    fs::copy(artifacts::plugin("counter"), &file).unwrap();
    file
}

#[test]
fn a_host_takes_no_file_that_others_could_have_written() {
    let home = Home::new();
    let host = Host::start(&home);
    let file = copy(&home);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["swap", "plan"] {
        let said = home.cli(&[command, text(&file)]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(format!("{}{}", said.stdout, said.stderr).contains("`chmod go-w "), "{said:?}");
    }
    assert!(home.cli(&["plugin", "check", text(&file)]).stdout.contains("`chmod go-w "));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    home.swap(&[&file]);
    host.stop();
    home.verify();
}

#[test]
fn a_host_that_asks_for_signatures_takes_no_other_file() {
    let home = Home::with_settings("[plugins]\ntrust = \"signed\"\n");
    let host = Host::start(&home);
    let file = copy(&home);
    let keys = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let key = home.beside("builder.key");
    fs::write(&key, keys.sk.to_box(None).unwrap().into_string()).unwrap();
    let swap = || home.cli(&["swap", text(&file)]);
    assert!(swap().failed(4).contains("plugin_refused: "), "unsigned");
    let said = home.run(&["plugin", "sign", text(&file), "--key", text(&key)]);
    assert!(said.starts_with(&format!("{}.minisig is the signature by key ", file.display())), "{said}");
    assert!(swap().failed(4).contains("which is not trusted"), "by nobody that is known");
    fs::write(home.file("trust/builder.pub"), keys.pk.to_box().unwrap().into_string()).unwrap();
    let shown = home.run(&["plugin", "inspect", text(&file)]);
    assert!(shown.contains("trust/builder.pub): timestamp:"), "{shown}");
    let signed = fs::read(&file).unwrap();
    fs::write(&file, [&signed[..], b"x"].concat()).unwrap();
    assert!(swap().failed(4).contains("is false"), "changed afterwards");
    fs::write(&file, signed).unwrap();
    swap().succeeded();
    // What is in force stays so, whoever is trusted later.
    fs::remove_file(home.file("trust/builder.pub")).unwrap();
    host.stop();
    let host = Host::start(&home);
    host.client().create("counter.Counter", "visits");
    host.stop();
    home.verify();
}

#[test]
fn signatures_are_those_of_minisign() {
    let home = Home::bare("");
    let (file, key, public) = (copy(&home), home.beside("k.key"), home.beside("k.pub"));
    let minisign = |arguments: &[&str]| Command::new("minisign").args(arguments).output();
    let Ok(made) = minisign(&["-G", "-W", "-s", text(&key), "-p", text(&public)]) else {
        return eprintln!("NOT CHECKED: the program minisign is not installed");
    };
    assert!(made.status.success(), "{made:?}");
    home.run(&["plugin", "sign", text(&file), "--key", text(&key), "--comment", "built in a test"]);
    let verified = minisign(&["-Vm", text(&file), "-p", text(&public)]).unwrap();
    assert!(String::from_utf8_lossy(&verified.stdout).contains("Trusted comment: built in a test"), "{verified:?}");
    fs::remove_file(home.beside("libcounter.so.minisig")).unwrap();
    assert!(minisign(&["-Sm", text(&file), "-s", text(&key), "-t", "by the program"]).unwrap().status.success());
    fs::create_dir(home.file("trust")).unwrap();
    fs::copy(&public, home.file("trust/k.pub")).unwrap();
    let shown = home.run(&["plugin", "inspect", text(&file)]);
    assert!(shown.contains("trust/k.pub): by the program"), "{shown}");
}

#[test]
fn what_was_not_granted_is_refused_and_not_done() {
    let home = Home::with_settings("[plugins]\ncapabilities = []\n");
    let host = Host::start(&home);
    let said = home.cli(&["swap", text(&artifacts::troublemaker())]).failed(4);
    assert!(said.contains("capability `request_upgrade`") && said.contains("plugins.capabilities"), "{said}");
    host.stop();

    // Granted, brought in, and taken away again: it works on without.
    fs::write(home.file("theseus.toml"), "[http]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    host.client().create("troublemaker.Trouble", "trouble");
    host.stop();
    fs::write(home.file("theseus.toml"), "[http]\nlisten = \"127.0.0.1:0\"\n[plugins]\ncapabilities = []\n").unwrap();
    let host = Host::start(&home);
    let said = home.cli(&["call", "trouble", "renew", "\"/nowhere\""]).failed(1);
    assert!(said.starts_with("theseus: not_allowed: "), "{said}");
    assert_eq!(home.run(&["call", "trouble", "touch"]), "1", "what else it did was undone");
    assert!(home.transactions("theseus.upgrade_requested").is_empty());
    host.stop();
    home.verify();
}

/// A crate made by `plugin new`, built where the other fixtures are and with the same versions of what it needs.
fn new_crate(home: &Home) -> PathBuf {
    let (folder, sdk) = (home.beside("tariff"), artifacts::checkout().join("abi/plugin"));
    home.run(&["plugin", "new", text(&folder), "--sdk", text(&sdk)]);
    home.cli(&["plugin", "new", text(&folder), "--sdk", text(&sdk)]).failed(1);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    fs::write(folder.join("Cargo.toml"), manifest + "\n[profile.dev]\ndebug = false\n").unwrap();
    fs::copy(artifacts::checkout().join("tests/fixtures/troublemaker/Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    fixtures::build(text(&folder.join("Cargo.toml")), "tariff");
    folder
}

/// `theseus plugin dev` of a crate.
fn dev(home: &Home, folder: &Path, more: &[&str]) -> Command {
    let mut command = home.command(&[&["plugin", "dev", text(folder)], more].concat());
    command.env("CARGO_TARGET_DIR", artifacts::checkout().join("target/fixtures"));
    command
}

#[test]
fn a_crate_is_developed_while_its_objects_live_on() {
    let home = Home::new();
    let folder = new_crate(&home);
    assert_eq!(finish(&mut dev(&home, &folder, &["--once"])).code, 3, "no host runs");
    let host = Host::start(&home);
    finish(&mut dev(&home, &folder, &["--once"])).succeeded();
    home.run(&["new", "tariff.Counter", "visits"]);
    assert_eq!(home.run(&["call", "visits", "increment", "5"]), "5");

    let log = home.beside("dev.log");
    let mut dev = Process::start(&mut dev(&home, &folder, &[]), &log);
    let says = |dev: &Process, part: &str| until(part, || dev.log().contains(part));
    says(&dev, "watching");
    let source = folder.join("src/lib.rs");
    let original = fs::read_to_string(&source).unwrap();
    let answers = |line: &str| original.replacen("        self.count\n", line, 1);
    let count = || home.run(&["call", "visits", "count"]);
    assert_eq!(count(), "5");

    fs::write(&source, answers("        self.count + 1000\n")).unwrap();
    until("the first change to be in force", || count() == "1005");
    says(&dev, "object visits\n");
    says(&dev, "  count  5\n");

    fs::write(&source, answers("        self.cuont\n")).unwrap();
    says(&dev, "not swapped: it does not build");
    assert!(dev.log().contains("no field `cuont` on type"), "cargo's own words are shown:\n{}", dev.log());
    assert_eq!(count(), "1005");

    // It builds, and the host refuses it.
    fs::write(&source, original.replacen("version = 1", "version = 2", 1)).unwrap();
    says(&dev, "plan_refused");
    assert_eq!(count(), "1005");

    fs::write(&source, answers("        self.count + 2000\n")).unwrap();
    until("the second change to be in force", || count() == "2005");
    assert_eq!(home.run(&["call", "visits", "increment"]), "6", "the state lives on");

    dev.signal(Signal::INT);
    assert_eq!(dev.wait().code(), Some(0), "it ends in order:\n{}", dev.log());
    host.stop();
    home.verify();
}

#[test]
fn a_new_crate_passes_its_own_test() {
    let home = Home::bare("");
    let folder = new_crate(&home);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["test", "--quiet", "--manifest-path", text(&folder.join("Cargo.toml"))]);
    let tested = cargo.env("CARGO_TARGET_DIR", artifacts::checkout().join("target/fixtures")).output().unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
    assert!(String::from_utf8_lossy(&tested.stdout).contains("1 passed"));
    for name in ["Tariff", "1st", "a.b", ""] {
        home.cli(&["plugin", "new", text(&home.beside("").join(name))]).failed(2);
    }
}
