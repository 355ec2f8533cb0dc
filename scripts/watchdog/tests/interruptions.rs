//! The watchdog is killed at every transition; the next one ends in the new release or the old one, with one owner.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod support;

use support::{Vessels, example, restart::instruction::Verdict, until};
use theseus_watchdog::{bundle::Digest, releases::Link};

/// Kills the watchdog at a transition of an update to a vessel that behaves so; says which release it ends in.
fn fall(at: &str, behavior: &str) -> (Digest, Digest, Verdict) {
    let mut vessels = Vessels::new();
    vessels.options.push("--tries=2".into());
    let old = vessels.start_and_ask().release;
    vessels.stop();
    let bundle = vessels.bundle("two", 1, behavior, "");
    std::fs::remove_file(vessels.home().join("address")).unwrap();
    vessels.start_program(&example("falling_watchdog"), &[("THESEUS_FALL_AT", at)]);
    vessels.ask();
    let instruction = vessels.request(&bundle);
    let fallen = vessels.wait();
    assert_eq!(fallen.code(), None, "{at}: it did not fall");

    vessels.start_and_ask();
    let outcome = vessels.outcome(&instruction.id);
    vessels.wait_for_state("idle");
    until("the end of the cycle", || !vessels.home().join(format!("update/spool/{}.json", instruction.id)).exists());
    let answer = vessels.ask();
    assert_eq!(vessels.link(Link::Current), answer.release, "{at}");
    assert_eq!(vessels.link(Link::Good), answer.release, "{at}");
    assert_eq!(vessels.releases().tries(&answer.release).unwrap(), None, "{at}");
    assert_eq!(vessels.history().matches(instruction.id.as_str()).count(), 1, "{at}: {}", vessels.history());
    let new = instruction.release.to_string().parse().unwrap();
    assert!([&old, &new].contains(&&answer.release), "{at}");
    // `Drop` checks that no vessel has found a second owner or a broken history.
    (answer.release, new, outcome.verdict)
}

#[test]
fn a_good_update_arrives_wherever_the_watchdog_falls() {
    let states = ["requested", "accepted", "staged", "stopping", "handed_off", "quiesced", "applied", "trial"];
    for state in states.iter().chain(&["checking", "confirmed"]) {
        for moment in ["before", "after"] {
            let at = format!("{state}:{moment}");
            let (found, new, verdict) = fall(&at, "");
            assert_eq!((found, verdict), (new, Verdict::Confirmed), "{at}");
        }
    }
}

#[test]
fn a_bad_update_is_rolled_back_wherever_the_watchdog_falls() {
    for state in ["trial", "checking", "rolled_back"] {
        for moment in ["before", "after"] {
            let at = format!("{state}:{moment}");
            let (found, new, verdict) = fall(&at, "crash");
            assert_ne!(found, new, "{at}");
            assert_eq!(verdict, Verdict::RolledBack, "{at}");
        }
    }
}

#[test]
fn a_try_is_taken_on_disk_before_its_host_is_started() {
    let mut vessels = Vessels::new();
    vessels.options.push("--tries=2".into());
    let old = vessels.start_and_ask().release;
    let falling = [("THESEUS_FALL_AT", "checking:after")];
    vessels.stop();
    vessels.start_program(&example("falling_watchdog"), &falling);
    let instruction = vessels.request(&vessels.bundle("two", 1, "", ""));
    for left in [1, 0] {
        assert_eq!(vessels.wait().code(), None);
        let new = instruction.release.to_string().parse().unwrap();
        assert_eq!(vessels.releases().tries(&new).unwrap().unwrap().left, left);
        if left > 0 {
            vessels.start_program(&example("falling_watchdog"), &falling);
        }
    }
    // Both tries are gone, although no host was ever started.
    assert_eq!(vessels.start_and_ask().release, old);
    let outcome = vessels.outcome(&instruction.id);
    assert_eq!((outcome.verdict, outcome.reason.as_str()), (Verdict::RolledBack, "the try was interrupted"));
}
