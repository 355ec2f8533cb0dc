//! Keeping a host running.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod support;

use std::{
    fs,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{Vessels, ask, until};
use theseus_watchdog::releases::Link;

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn runs(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

#[test]
fn starts_the_first_release_and_stops_on_request() {
    let mut vessels = Vessels::new();
    let answer = vessels.start_and_ask();
    assert_eq!(answer.release, vessels.link(Link::Current));
    assert_eq!(answer.release, vessels.link(Link::Good));
    vessels.stop();
    assert!(!runs(answer.pid));
    let log = fs::read_to_string(vessels.home().join("identity/history.log")).unwrap();
    assert!(log.ends_with(" stop\n"), "the host was not asked to stop: {log}");

    let again = vessels.start_and_ask();
    assert_eq!(again.release, answer.release);
    assert!(again.tid > answer.tid);
}

#[test]
fn a_crashed_host_is_restarted_and_no_client_is_refused() {
    let mut vessels = Vessels::new();
    vessels.options.push("--stable-s=0".into());
    let mut answer = vessels.start_and_ask();
    let address = vessels.address().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let clients = {
        let over = Arc::clone(&over);
        let address = address.clone();
        thread::spawn(move || {
            let (mut asked, mut refused) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                asked += 1;
                let result = ask(&address);
                refused += u32::from(result.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused));
            }
            (asked, refused)
        })
    };
    let mut longest = Duration::ZERO;
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(30));
        let killed = Instant::now();
        kill(answer.pid);
        let before = answer.pid;
        until("a new host", || {
            answer = ask(&address).unwrap_or(answer.clone());
            answer.pid != before
        });
        longest = longest.max(killed.elapsed());
    }
    over.store(true, Ordering::SeqCst);
    let (asked, refused) = clients.join().unwrap();
    println!("{asked} asked, {refused} refused, longest time without a host {longest:?}");
    assert_eq!(refused, 0);
    assert!(asked > 20, "{asked}");
    // Typically 15 ms; the margin is for machines that do other things as well.
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[test]
fn a_host_that_crashes_on_and_on_is_held_until_resumed() {
    let mut vessels = Vessels::new();
    vessels.options.push("--crash-limit=3".into());
    vessels.variables.push(("VESSEL_BEHAVIOR", "crash".into()));
    vessels.start();
    assert_eq!(vessels.wait().code(), Some(3));
    let held = vessels.home().join("update/held");
    assert!(fs::read_to_string(&held).unwrap().contains("4 times in a row"));
    assert!(vessels.history().contains("\"event\":\"held\""));

    // Started again, it stays held, also if the host would work now.
    vessels.variables.clear();
    vessels.start();
    assert_eq!(vessels.wait().code(), Some(3));
    fs::remove_file(&held).unwrap();
    vessels.start_and_ask();
}

#[test]
fn a_damaged_identity_is_held_at_once() {
    let mut vessels = Vessels::new();
    vessels.variables.push(("VESSEL_BEHAVIOR", "damaged".into()));
    vessels.start();
    assert_eq!(vessels.wait().code(), Some(3));
    assert!(fs::read_to_string(vessels.home().join("update/held")).unwrap().contains("damaged"));
}

#[test]
fn a_home_has_one_watchdog_and_one_host() {
    let mut vessels = Vessels::new();
    let answer = vessels.start_and_ask();
    let first = vessels.watchdog.take();
    vessels.start();
    assert_eq!(vessels.wait().code(), Some(1));
    vessels.watchdog = first;
    assert_eq!(vessels.ask().pid, answer.pid);

    // The watchdog dies; its host stops; the next one waits for it and starts another.
    vessels.signal_watchdog(Signal::KILL);
    vessels.wait();
    let next = vessels.start_and_ask();
    assert_ne!(next.pid, answer.pid);
    until("the end of the first host", || !runs(answer.pid));
}

#[test]
fn a_host_that_does_not_let_go_is_waited_for() {
    let mut vessels = Vessels::new();
    vessels.variables.push(("VESSEL_BEHAVIOR", "ignores-sigterm".into()));
    let answer = vessels.start_and_ask();
    vessels.signal_watchdog(Signal::KILL);
    vessels.wait();
    vessels.variables.clear();
    fs::remove_file(vessels.home().join("address")).unwrap();
    vessels.start();
    thread::sleep(Duration::from_millis(500));
    assert!(runs(answer.pid), "it ignores SIGTERM, and nobody else may end it");
    assert!(!vessels.home().join("address").exists(), "a second host was started beside the first");
    kill(answer.pid);
    assert_ne!(vessels.ask().pid, answer.pid);
}

#[test]
fn a_host_that_is_stuck_is_killed() {
    let mut vessels = Vessels::new();
    vessels.options.extend(["--start-timeout-s=1".into(), "--extended-limit-s=1".into(), "--crash-limit=0".into()]);
    vessels.options.retain(|option| option != "--start-timeout-s=5");
    vessels.variables.push(("VESSEL_BEHAVIOR", "never-ready".into()));
    vessels.start();
    assert_eq!(vessels.wait().code(), Some(3));
    assert!(fs::read_to_string(vessels.home().join("update/held")).unwrap().contains("signal 9"));
}

#[test]
fn under_a_supervisor_it_takes_the_socket_and_reports() {
    let mut vessels = Vessels::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let reports = UnixDatagram::bind(vessels.path("notify")).unwrap();
    reports.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // A shell stands in for the supervisor: it knows the process id before the watchdog takes its place.
    vessels.script(
        "supervise",
        "#!/bin/sh\nexport LISTEN_PID=$$ LISTEN_FDS=1\nexec 3<&0 </dev/null\nexec \"$WATCHDOG\" \"$@\"\n",
    );
    let mut supervisor = Command::new(vessels.path("apply/supervise"));
    supervisor.env("WATCHDOG", env!("CARGO_BIN_EXE_theseus-watchdog")).env("NOTIFY_SOCKET", vessels.path("notify"));
    supervisor.env("WATCHDOG_USEC", "4000000").stdin(Stdio::from(OwnedFd::from(listener)));
    vessels.start_command(supervisor);
    assert!(vessels.ask().tid > 0);
    assert_eq!(vessels.address().unwrap(), address, "it opened a socket of its own");
    let mut expected = vec!["READY=1", "WATCHDOG=1"];
    let mut buffer = [0; 256];
    while !expected.is_empty() {
        let length = reports.recv(&mut buffer).unwrap();
        let report = String::from_utf8_lossy(&buffer[..length]).into_owned();
        expected.retain(|expected| *expected != report);
    }
    // The host got its own supervisor's variables, not those of the watchdog, or it would have reported to the socket
    // above.
    kill(vessels.ask().pid);
    assert!(ask(&address).unwrap().tid > 0);
    vessels.stop();
}
