//! The restart cycle, from the instruction to its end.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod support;

use std::{fs, time::Duration};

use support::{
    Vessels,
    restart::instruction::{self, Instruction, InstructionId, Verdict},
    until,
};
use theseus_watchdog::releases::Link;

#[test]
fn an_update_goes_through_with_its_script() {
    let mut vessels = Vessels::new();
    let home = vessels.home();
    vessels.script(
        "renew-1",
        "#!/bin/sh\n\
         echo \"$THESEUS_UPDATE_ID\" > \"$TMPDIR/id\" || exit 10\n\
         test \"$THESEUS_RELEASE\" = \"$THESEUS_HOME/releases/$(basename \"$THESEUS_RELEASE\")\" || exit 11\n\
         echo evil > \"$THESEUS_HOME/identity/evil\" && exit 12\n\
         echo evil >> \"$THESEUS_HOME/identity/history.log\" && exit 13\n\
         echo evil >> \"$THESEUS_RELEASE/behavior\" && exit 14\n\
         mv \"$THESEUS_HOME/identity\" \"$THESEUS_HOME/run/\" && exit 15\n\
         rm -f \"$THESEUS_HOME/identity/owner.lock\" && exit 16\n\
         exit 0\n",
    );
    vessels.options.push(format!("--apply-dir={}", vessels.path("apply").display()));
    let before = vessels.start_and_ask();
    let bundle = vessels.bundle("two", 7, "", ",\"apply\":\"renew-1\"");
    let instruction = vessels.request(&bundle);
    let outcome = vessels.outcome(&instruction.id);
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Verdict::Confirmed, ""));
    vessels.wait_for_state("idle");

    let after = vessels.ask();
    assert_eq!(after.release.to_string(), instruction.release.to_string());
    assert_eq!((vessels.link(Link::Current), vessels.link(Link::Good)), (after.release.clone(), after.release.clone()));
    assert_ne!(after.release, before.release);
    assert_eq!(vessels.releases().floor().unwrap(), 7);
    assert_eq!(vessels.releases().tries(&after.release).unwrap(), None);
    assert!(!instruction::is_published(&home, &instruction.id));
    assert!(!home.join("identity/evil").exists());
    assert_eq!(fs::read_to_string(home.join("run/apply/id")).unwrap().trim(), instruction.id.as_str());
    let log = fs::read_to_string(home.join("identity/history.log")).unwrap();
    let words: Vec<&str> = log.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    let expected: &[&str] = &["start", "call", "stop", "start", "confirmed", "call"];
    assert_eq!(words, expected, "one history, continued");

    // The next start is an ordinary one of the new release.
    vessels.stop();
    assert_eq!(vessels.start_and_ask().release, after.release);
}

#[test]
fn a_bundle_without_a_host_keeps_the_binary() {
    let mut vessels = Vessels::new();
    let before = vessels.start_and_ask();
    let bundle = vessels.bundle("two", 0, "", "");
    fs::write(
        bundle.join("bundle.json"),
        "{\"schema\":1,\"name\":\"v\",\"version\":\"2\",\"epoch\":0,\"files\":[\"behavior\"]}",
    )
    .unwrap();
    let instruction = vessels.request(&bundle);
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    let after = vessels.ask();
    assert_ne!(after.release, before.release);
    // Its own update is staged again, and found whole although it holds a file that its manifest does not name.
    vessels.wait_for_state("idle");
    let again = vessels.request(&bundle);
    assert_eq!(vessels.outcome(&again.id).verdict, Verdict::Confirmed);
}

#[test]
fn a_release_that_does_not_work_is_rolled_back() {
    for (behavior, reason) in [
        ("crash", "exited with code 1"),
        ("damaged", "exited with code 5"),
        ("never-ready no-confirm", "killed by signal 9"),
        ("no-confirm", "did not confirm"),
    ] {
        let mut vessels = Vessels::new();
        vessels.options.extend(["--tries=2".into(), "--extended-limit-s=2".into()]);
        let before = vessels.start_and_ask();
        let bundle = vessels.bundle("two", 3, behavior, "");
        let instruction = vessels.request(&bundle);
        let outcome = vessels.outcome(&instruction.id);
        assert_eq!(outcome.verdict, Verdict::RolledBack, "{behavior}");
        assert!(outcome.reason.contains(reason), "{behavior}: {}", outcome.reason);
        vessels.wait_for_state("idle");

        let after = vessels.ask();
        assert_eq!(after.release, before.release, "{behavior}");
        assert!(after.tid > before.tid);
        assert_eq!(vessels.link(Link::Good), before.release);
        assert_eq!(vessels.releases().floor().unwrap(), 0, "a release that failed must not shut out others");
        let log = fs::read_to_string(vessels.path("log")).unwrap();
        assert_eq!(log.matches(", on trial").count(), 2, "{behavior}: {log}");

        // Once is enough.
        let again = vessels.request(&bundle);
        let outcome = vessels.outcome(&again.id);
        assert_eq!(outcome.verdict, Verdict::Refused);
        assert!(outcome.reason.contains("quarantine"), "{}", outcome.reason);
        assert_eq!(vessels.ask().pid, after.pid);
    }
}

#[test]
fn a_script_that_fails_or_hangs_is_rolled_back() {
    for (script, reason) in
        [("exit 3", "exit status: 3"), ("trap '' TERM; while :; do sleep 1; done", "took longer than 1 s")]
    {
        let mut vessels = Vessels::new();
        vessels.script("default", &format!("#!/bin/sh\n{script}\n"));
        vessels.options.retain(|option| !option.starts_with("--apply-timeout-s"));
        vessels
            .options
            .extend([format!("--apply-dir={}", vessels.path("apply").display()), "--apply-timeout-s=1".into()]);
        let before = vessels.start_and_ask();
        let instruction = vessels.request(&vessels.bundle("two", 1, "", ""));
        let outcome = vessels.outcome(&instruction.id);
        assert_eq!(outcome.verdict, Verdict::RolledBack);
        assert!(outcome.reason.contains(reason), "{}", outcome.reason);
        assert_eq!(vessels.ask().release, before.release);
    }
}

#[test]
fn a_host_that_does_not_stop_is_killed_and_the_update_goes_on() {
    let mut vessels = Vessels::new();
    vessels.options.retain(|option| !option.starts_with("--stop-timeout-s"));
    vessels.options.push("--stop-timeout-s=1".into());
    let first = vessels.bundle("one", 0, "ignores-sigterm", "");
    vessels.start_and_ask();
    let instruction = vessels.request(&first);
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    vessels.wait_for_state("idle");

    let instruction = vessels.request(&vessels.bundle("two", 0, "", ""));
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    assert!(!vessels.home().join("update/handoff").join(instruction.id.as_str()).exists());
    assert_eq!(vessels.ask().release.to_string(), instruction.release.to_string());
}

#[test]
fn a_host_that_asks_for_time_to_stop_gets_it() {
    let mut vessels = Vessels::new();
    vessels.options.retain(|option| !option.starts_with("--stop-timeout-s"));
    vessels.options.push("--stop-timeout-s=1".into());
    vessels.variables.push(("VESSEL_BEHAVIOR", "slow-stop".into()));
    vessels.start_and_ask();
    let instruction = vessels.request(&vessels.bundle("two", 0, "", ""));
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    assert!(vessels.home().join("update/handoff").join(instruction.id.as_str()).exists());
}

#[test]
fn what_was_confirmed_is_not_rolled_back() {
    let mut vessels = Vessels::new();
    vessels.options.push("--tries=1".into());
    vessels.start_and_ask();
    let instruction = vessels.request(&vessels.bundle("two", 1, "crash-after-confirm", ""));
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    assert_eq!(vessels.ask().release.to_string(), instruction.release.to_string());
    assert_eq!(vessels.releases().floor().unwrap(), 1);
}

#[test]
fn when_the_good_release_fails_as_well_it_is_held() {
    let mut vessels = Vessels::new();
    vessels.options.extend(["--crash-limit=1".into(), "--tries=1".into()]);
    vessels.start_and_ask();
    // The good release breaks while the update is under way.
    vessels.script("break", "#!/bin/sh\nexit 1\n");
    vessels.options.push(format!("--apply-dir={}", vessels.path("apply").display()));
    vessels.stop();
    vessels.script("default", "#!/bin/sh\nexit 0\n");
    vessels.start_and_ask();
    let good = vessels.releases().folder(&vessels.link(Link::Good));
    fs::write(good.join("behavior"), "crash").unwrap();
    let instruction = vessels.request(&vessels.bundle("two", 1, "crash", ""));
    assert_eq!(vessels.wait().code(), Some(3));
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::RolledBack);
    let held = fs::read_to_string(vessels.home().join("update/held")).unwrap();
    assert!(held.contains("in a row") && held.contains("after a rollback"), "{held}");
    fs::remove_file(vessels.home().join("update/held")).unwrap();
    fs::remove_file(good.join("behavior")).unwrap();
    vessels.start_and_ask();
    vessels.wait_for_state("idle");
}

#[test]
fn bad_instructions_are_refused_and_the_host_works_on() {
    let mut vessels = Vessels::new();
    let home = vessels.home();
    let before = vessels.start_and_ask();
    fs::write(home.join("update/floor"), "5\n").unwrap();
    let bundle = vessels.bundle("two", 5, "", "");
    let good = vessels.instruction(&bundle);
    let put = |instruction: &Instruction, edit: &dyn Fn(String) -> String| {
        let text = edit(serde_json::to_string(instruction).unwrap());
        let path = home.join(format!("update/spool/{}.json", instruction.id));
        fs::write(path.with_extension("tmp"), text).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    };
    let new = || Instruction { id: InstructionId::generate(), ..good.clone() };
    let refused = |instruction: Instruction, edit: &dyn Fn(String) -> String, why: &str| {
        put(&instruction, edit);
        let outcome = vessels.outcome(&instruction.id);
        assert_eq!(outcome.verdict, Verdict::Refused);
        assert!(outcome.reason.contains(why), "expected `{why}`: {}", outcome.reason);
        let aside = home.join(format!("update/refused/{}.json", instruction.id));
        until("the refused instruction to be moved", || aside.exists());
        let reason = fs::read_to_string(aside.with_extension("reason")).unwrap();
        assert!(reason.contains(why), "{reason}");
    };
    let same = |text: String| text;
    refused(new(), &|text| text[..text.len() / 2].to_owned(), "not an instruction of schema 1");
    refused(new(), &|_| String::new(), "not an instruction");
    refused(new(), &|text| text.replace("\"schema\":1", "\"schema\":2"), "its schema is 2");
    refused(new(), &|text| text.replace("\"id\":\"", "\"id\":\"x"), "not the name of its file");
    refused(new(), &|text| text.replace("\"bundle\":\"/", "\"bundle\":\""), "not an absolute path");
    refused(Instruction { epoch: 4, ..new() }, &same, "build the release with a later epoch");
    refused(Instruction { epoch: 6, ..new() }, &same, "and the bundle's is 5");
    refused(Instruction { expires_us: instruction::now_us() - 1, ..new() }, &same, "expired");
    refused(Instruction { release: blake3::hash(b"other").into(), ..new() }, &same, "was changed after the request");
    refused(Instruction { bundle: "/nowhere".into(), ..new() }, &same, "cannot read");
    let scripted = vessels.instruction(&vessels.bundle("three", 5, "", ",\"apply\":\"absent\""));
    refused(scripted, &same, "missing or not executable");
    fs::write(home.join("update/quarantine").join(good.release.to_string()), "it was bad").unwrap();
    refused(new(), &same, "did not work before");
    // Whatever else lies there is moved away and does not stand in the way.
    fs::write(home.join("update/spool/What is this?.json"), "{}").unwrap();
    until("a strange file to be moved", || !home.join("update/spool/What is this?.json").exists());
    let partial = fs::read_dir(home.join("releases")).unwrap().flatten();
    let partial = partial.filter(|entry| entry.file_name().to_string_lossy().starts_with(".partial")).count();
    assert_eq!(partial, 0, "half unpacked releases are left behind");
    assert_eq!(vessels.ask().pid, before.pid, "the host was touched");

    fs::remove_dir_all(home.join("update/quarantine")).unwrap();
    fs::create_dir(home.join("update/quarantine")).unwrap();
    put(&good, &same);
    assert_eq!(vessels.outcome(&good.id).verdict, Verdict::Confirmed);
    vessels.wait_for_state("idle");
    let after = vessels.ask();
    // The same instruction again is nothing new.
    put(&good, &same);
    until("the second copy to be removed", || !instruction::is_published(&home, &good.id));
    assert_eq!(vessels.ask().pid, after.pid);
    assert_eq!(vessels.history().matches(good.id.as_str()).count(), 1);
}

#[test]
fn nothing_is_done_while_held_or_while_the_journal_cannot_be_written() {
    let mut vessels = Vessels::new();
    let home = vessels.home();
    let before = vessels.start_and_ask();
    fs::write(home.join("update/held"), "the operator is at work\n").unwrap();
    let instruction = vessels.request(&vessels.bundle("two", 1, "", ""));
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(vessels.ask().pid, before.pid);
    // A folder in the journal's place: it can neither be replaced nor read.
    fs::create_dir(home.join("update/journal.json")).unwrap();
    fs::remove_file(home.join("update/held")).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(vessels.ask().pid, before.pid);
    assert!(!instruction::is_finished(&home, &instruction.id).unwrap());
    fs::remove_dir(home.join("update/journal.json")).unwrap();
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
}

#[test]
fn the_script_that_comes_along_lets_a_working_release_through() {
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../apply");
    let mut vessels = Vessels::new();
    vessels.options.push(format!("--apply-dir={}", scripts.display()));
    vessels.start_and_ask();
    let instruction = vessels.request(&vessels.bundle("two", 1, "", ""));
    assert_eq!(vessels.outcome(&instruction.id).verdict, Verdict::Confirmed);
    assert!(fs::read_to_string(vessels.path("log")).unwrap().contains("vessel 1"), "the script did not ask the host");

    // A host that cannot run at all is found out before any try.
    vessels.wait_for_state("idle");
    let bundle = vessels.bundle("three", 1, "", "");
    fs::write(bundle.join("bin/theseus"), "#!/nowhere\n").unwrap();
    let instruction = vessels.request(&bundle);
    let outcome = vessels.outcome(&instruction.id);
    assert_eq!(outcome.verdict, Verdict::RolledBack);
    assert!(outcome.reason.contains("the upgrade script failed"), "{}", outcome.reason);
}
