//! Disks that fail: calls that give an error, one by one, and a file system that is gone from one moment to the next.
//!
//! `THESEUS_FAULTS` sets how many calls are made to fail (`scripts/soak faults`).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use tempfile::TempDir;
use theseus_tests::{
    Client, Home, Host, artifacts, host, json,
    keyed::{self, Became, Keyed},
    process::Process,
    shim, until,
};

/// Brings the table forward all the time, so that its writes fail too.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 8\n[plugins]\nprobation_ms = 0\n";

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// How many failures are tried; the test spreads them over all calls.
fn faults() -> u64 {
    env::var("THESEUS_FAULTS").map_or(24, |number| number.parse().unwrap())
}

/// A folder in memory, if there is such a thing.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

// --- Calls that fail ----------------------------------------------------------------------------------------------------------

/// A home with two objects, whose host does not run.
fn with_objects(folder: &Path) -> Home {
    let home = Home::at(folder, SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    for name in ["one", "two"] {
        host.client().create("troublemaker.Trouble", name);
    }
    host.stop();
    home
}

/// Waits until a host answers or has ended; its address if it answers.
fn wait_for(home: &Home, process: &mut Process) -> Option<std::net::SocketAddr> {
    let mut address = None;
    until("the host to answer or to end", || {
        address = host::http_address(home);
        address.is_some() || process.ended().is_some()
    });
    address
}

/// Runs a host through a little life - a start, commands, a swap, a stop - and tells what became of the commands.
fn live(home: &Home, prepare: impl FnOnce(&mut Command)) -> (Vec<Keyed>, Process) {
    let mut process = Host::spawn(home, prepare);
    let mut requests = Vec::new();
    if let Some(address) = wait_for(home, &mut process) {
        let mut client = Client::tcp(address);
        for number in 0..14 {
            let object = ["one", "two"][number % 2];
            let bytes = (number % 5 == 3).then_some(9_000);
            requests.push(Keyed::write(&mut client, format!("request-{number}"), object, bytes));
            if number == 7 {
                // Writes the plugin's file; if that fails, it says why, and nothing else is touched.
                _ = home.cli(&["swap", artifacts::plugin("counter").to_str().unwrap()]);
            }
        }
        // The table is brought forward when there is nothing else to do.
        thread::sleep(Duration::from_millis(280));
    }
    process.terminate(Duration::from_secs(20));
    (requests, process)
}

/// What is wrong after a life in which calls failed.
fn after(home: &Home, requests: &[Keyed], mut process: Process) -> Vec<String> {
    let mut wrong = Vec::new();
    let (log, status) = (process.log(), process.ended());
    let Some(status) = status else { return vec!["the host does not end".to_owned()] };
    let unanswered = requests.iter().any(|it| it.became == Became::Lost) || requests.is_empty();
    if status.signal().is_some() {
        wrong.push(format!("the host ended with {status}: {log}"));
    }
    if log.contains("panicked") || (unanswered && (status.success() || !log.contains("theseus: "))) {
        wrong.push(format!("the host ended with {status} and does not say why: {log}"));
    }
    // The disk works again.
    let restarted = Host::start(home);
    let mut client = restarted.client();
    for request in requests.iter().filter(|it| matches!(it.became, Became::Done { .. })) {
        let again = Keyed::send(&mut client, request.key.clone(), &request.path, request.body.clone());
        if again.became != request.became {
            wrong.push(format!("{} became {:?}, and again {:?}", request.key, request.became, again.became));
        }
    }
    client.call("one", "touch", &json!([]));
    restarted.stop();
    home.verify();
    wrong.extend(keyed::compare(home, requests));
    wrong
}

#[test]
fn whichever_call_fails_is_told_and_nothing_that_was_answered_is_lost() {
    let folder = scratch();
    let template = with_objects(folder.path());
    let copied = |number: u64| {
        let place = folder.path().join(format!("run-{number}"));
        copy(template.path(), &place);
        (Home::existing(&place), place)
    };
    // How many calls there are if none fails.
    let (home, place) = copied(0);
    let log = home.beside("changes");
    let (requests, process) = live(&home, |command| shim::record(command, &place, &log, 0));
    assert!(requests.iter().all(|it| matches!(it.became, Became::Done { .. })), "{requests:?}");
    assert_eq!(after(&home, &requests, process), Vec::<String>::new());
    let calls = shim::calls(&shim::read(&log));
    assert!(calls > 60, "{calls}");
    fs::remove_dir_all(&place).unwrap();

    let (mut wrong, mut refused, mut ended, mut met) = (Vec::new(), 0, 0, 0);
    let number_of = calls * 4;
    let tried = faults().min(number_of);
    for number in 0..tried {
        // Each call, with each error, once and for good.
        let place_in_all = number * number_of / tried;
        let (call, errno) = (place_in_all / 4 + 1, [EIO, ENOSPC][(place_in_all % 2) as usize]);
        let count = [1, u64::MAX >> 2][(place_in_all / 2 % 2) as usize];
        let (home, place) = copied(number + 1);
        let log = home.beside("changes");
        let (requests, process) = live(&home, |command| shim::fail(command, &place, &log, (call, errno, count)));
        met += u64::from(shim::read(&log).iter().any(|(_, event)| matches!(event, shim::Event::Failed { .. })));
        refused += requests.iter().filter(|it| matches!(it.became, Became::Refused { .. })).count();
        ended += u64::from(requests.is_empty() || requests.iter().any(|it| it.became == Became::Lost));
        let what = format!("error {errno} from call {call} of {calls} on, {count} times");
        wrong.extend(after(&home, &requests, process).into_iter().map(|problem| format!("{what}: {problem}")));
        fs::remove_dir_all(&place).unwrap();
    }
    println!("{tried} failures tried, {met} met a call; {refused} requests refused, {ended} hosts ended");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(met > tried / 2 && refused > 0 && ended > 0, "{met} {refused} {ended}");
}

// --- A file system that is gone -------------------------------------------------------------------------------------------------

/// An ext4 file system in a file, mounted; unmounted at the end.
struct Ext4 {
    folder: TempDir,
    goingdown: PathBuf,
}

impl Ext4 {
    /// None if this machine does not let us.
    fn make(megabytes: u64) -> Option<Ext4> {
        let folder = TempDir::new().unwrap();
        let disk = Ext4 { goingdown: folder.path().join("goingdown"), folder };
        let image = disk.folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        fs::create_dir(disk.mounted()).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
        if made.is_ok_and(|status| status.success()) && disk.mount() {
            let source = artifacts::checkout().join("tests/shim/goingdown.c");
            assert!(Command::new("cc").arg("-o").arg(&disk.goingdown).arg(source).status().unwrap().success());
            return Some(disk);
        }
        assert!(env::var_os("CI").is_none(), "an ext4 file system cannot be mounted here, and in CI it has to be");
        eprintln!(
            "SKIPPED: an ext4 file system cannot be made and mounted here (needs root), so its shutdown was not tested"
        );
        None
    }

    fn mounted(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-o", "loop"]).arg(self.folder.path().join("image")).arg(self.mounted()).output();
        mounted.is_ok_and(|mounted| mounted.status.success())
    }

    fn unmount(&self) -> bool {
        Command::new("umount").arg(self.mounted()).output().is_ok_and(|done| done.status.success())
    }

    /// Everything that was not written is lost, and nothing can be written any more.
    fn go_down(&self) -> bool {
        Command::new(&self.goingdown).arg(self.mounted()).status().unwrap().success()
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(self.mounted()).output();
    }
}

#[test]
fn a_file_system_that_goes_down_takes_nothing_along_that_was_answered() {
    let Some(disk) = Ext4::make(128) else { return };
    let home = Home::at(&disk.mounted(), SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    for name in ["o0", "o1", "o2"] {
        host.client().create("troublemaker.Trouble", name);
    }
    host.stop();
    let mut requests = Vec::new();
    for round in 0..(faults() / 10).clamp(3, 40) {
        let mut process = Host::spawn(&home, |_| {});
        let address = wait_for(&home, &mut process).expect("it starts");
        let clients: Vec<_> = (0..3).map(|client| thread::spawn(move || work(address, round, client))).collect();
        thread::sleep(Duration::from_millis(80 + 37 * (round % 7)));
        if !disk.go_down() {
            eprintln!("SKIPPED: this kernel does not shut file systems down");
            return;
        }
        let answers: Vec<Keyed> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let status = process.wait();
        assert!(status.signal().is_none() && !status.success(), "{status}: {}", process.log());
        assert!(process.log().contains("theseus: "), "it does not say why it ended: {}", process.log());
        requests.extend(answers);
        assert!(disk.unmount() && disk.mount(), "the file system recovers");
        home.verify();
        let wrong = keyed::compare(&home, &requests);
        assert!(wrong.is_empty(), "after round {round}:\n{}", wrong.join("\n"));
    }
    let done = requests.iter().filter(|it| matches!(it.became, Became::Done { .. })).count();
    println!("{done} of {} commands were answered", requests.len());
    assert!(done > 30, "{done}");
    Host::start(&home).stop();
    home.verify();
}

/// Writes until the host is gone or says that it cannot go on.
fn work(address: std::net::SocketAddr, round: u64, client: usize) -> Vec<Keyed> {
    let (mut connection, mut requests) = (Client::tcp(address), Vec::new());
    for number in 0..10_000 {
        let bytes = (number % 4 == 1).then_some(500 * (number % 23));
        let key = format!("{round}-{client}-{number}");
        requests.push(Keyed::write(&mut connection, key, &format!("o{client}"), bytes));
        if !matches!(requests.last().unwrap().became, Became::Done { .. }) {
            break;
        }
    }
    requests
}
