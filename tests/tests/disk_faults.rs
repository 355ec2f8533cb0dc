//! Disks that fail: calls that give an error, one by one, also while the history is packed, and a file system that is gone from one
//! moment to the next.
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
fn after(home: &Home, requests: &[Keyed], process: Process) -> Vec<String> {
    let mut wrong = end(requests, process);
    // The disk works again.
    let restarted = Host::start(home);
    wrong.extend(asked_again(&restarted, requests));
    restarted.client().call("one", "touch", &json!([]));
    restarted.stop();
    home.verify();
    wrong.extend(keyed::compare(home, requests));
    wrong
}

/// What is wrong with how a host ended.
fn end(requests: &[Keyed], mut process: Process) -> Vec<String> {
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
    wrong
}

/// What another host answers otherwise.
fn asked_again(host: &Host, requests: &[Keyed]) -> Vec<String> {
    let (mut wrong, mut client) = (Vec::new(), host.client());
    for request in requests.iter().filter(|it| matches!(it.became, Became::Done { .. })) {
        let again = Keyed::send(&mut client, request.key.clone(), &request.path, request.body.clone());
        if again.became != request.became {
            wrong.push(format!("{} became {:?}, and again {:?}", request.key, request.became, again.became));
        }
    }
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

// --- While the history is packed --------------------------------------------------------------------------------------------------

/// What is known of the past of a home: transaction, object, and its count as of that transaction.
type Known = Vec<(u64, u64, u64)>;

/// A home with some past, whose host does not run, and up to where it is to be packed.
fn with_past(folder: &Path) -> (Home, Known, u64) {
    const OBJECTS: u64 = 60;

    let home = Home::at(folder, SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    for number in 1..=OBJECTS {
        client
            .create("troublemaker.Trouble", if number == 1 { "one".to_owned() } else { format!("o{number}") }.as_str());
    }
    let mut known = Known::new();
    for number in 0..2 * OBJECTS {
        let object = number % OBJECTS + 1;
        let touched = client.post(&format!("/v1/objects/{object}/touch"), &json!([])).ok();
        known.push((touched["tid"].as_u64().unwrap(), object, touched["result"].as_u64().unwrap()));
    }
    host.stop();
    let before = known[known.len() * 2 / 3].0;
    (home, known, before)
}

/// What became of a pack, and of the commands before and after it.
struct Packed {
    /// None if there was no answer.
    status: Option<u16>,
    requests: Vec<Keyed>,
    process: Process,
    /// Where the log of changes was when the pack began.
    begun: u64,
}

/// Packs the history of a home with a host of its own, between some commands.
fn pack(home: &Home, before: u64, log: &Path, prepare: impl FnOnce(&mut Command)) -> Packed {
    let mut process = Host::spawn(home, prepare);
    let (mut requests, mut status, mut begun) = (Vec::new(), None, 0);
    if let Some(address) = wait_for(home, &mut process) {
        let mut client = Client::tcp(address);
        let mut write = |number: u64| {
            let bytes = (number % 4 == 3).then_some(9_000);
            requests.push(Keyed::write(&mut client, format!("request-{number}"), "one", bytes));
        };
        (0..3).for_each(&mut write);
        begun = fs::metadata(log).map_or(0, |log| log.len());
        let body = json!({ "before": before }).to_string();
        status = home.admin().send("POST", "/v1/pack", &[], body.as_bytes()).ok().map(|answer| answer.status);
        // What was packed away is removed between commits.
        (3..10).for_each(&mut write);
        thread::sleep(Duration::from_millis(40));
    }
    process.terminate(Duration::from_secs(20));
    Packed { status, requests, process, begun }
}

/// What is wrong after that: there has to be one history or the other, and nothing that was known may be gone or otherwise. Tells also
/// whether it was packed.
fn after_pack(home: &Home, known: &Known, before: u64, packed: &Packed) -> (bool, Vec<String>) {
    let mut wrong = Vec::new();
    home.verify();
    let restarted = Host::start(home);
    wrong.extend(asked_again(&restarted, &packed.requests));
    let mut client = restarted.client();
    let first = home.lines(&["history"]).swap_remove(0);
    let is_packed = first == json!({ "packed": before });
    if !is_packed && first["tid"] != 1 {
        wrong.push(format!("the history begins with {first}"));
    }
    if packed.status == Some(200) && !is_packed {
        wrong.push("a pack that was answered is not there".to_owned());
    }
    let bases = fs::read_dir(home.file("identity/base")).map_or(0, Iterator::count);
    if bases != usize::from(is_packed) {
        wrong.push(format!("there are {bases} bases"));
    }
    for (tid, object, count) in known.iter().skip(1).step_by(7) {
        let found = client.get(&format!("/v1/objects/{object}?at={tid}"));
        let (status, found) = (found.status, found.json());
        let is_gone = is_packed && *tid < before;
        if if is_gone { status != 410 } else { found["slots"]["count"] != *count } {
            wrong.push(format!("object {object} as of {tid} is {found}"));
        }
    }
    // It can be packed as if nothing had been.
    let body = json!({ "before": before }).to_string();
    let again = home.admin().send("POST", "/v1/pack", &[], body.as_bytes()).unwrap().ok();
    if again["packed"] != before || again["tid"].is_null() != is_packed {
        wrong.push(format!("packed again: {again}"));
    }
    restarted.stop();
    home.verify();
    wrong.extend(keyed::compare(home, &packed.requests));
    (is_packed, wrong)
}

#[test]
fn whichever_call_of_a_pack_fails_there_is_one_history_or_the_other() {
    /// Errors, once or for good; and a death in place of the call.
    const WAYS: [(i32, u64); 5] = [(EIO, 1), (0, 1), (ENOSPC, 1), (EIO, u64::MAX >> 2), (ENOSPC, u64::MAX >> 2)];

    let folder = scratch();
    let (template, known, before) = with_past(folder.path());
    let copied = |number: u64| {
        let place = folder.path().join(format!("run-{number}"));
        copy(template.path(), &place);
        (Home::existing(&place), place)
    };
    // Which calls there are if none fails.
    let (home, place) = copied(0);
    let log = home.beside("changes");
    let packed = pack(&home, before, &log, |command| shim::record(command, &place, &log, 0));
    assert_eq!((packed.status, after_pack(&home, &known, before, &packed)), (Some(200), (true, Vec::new())));
    let events = shim::read(&log);
    let begun = events.partition_point(|(end, _)| *end <= packed.begun);
    let (first, calls) = (shim::calls(&events[..begun]) + 1, shim::calls(&events[begun..]));
    assert_eq!(end(&packed.requests, packed.process), Vec::<String>::new());
    assert!(calls > 20, "{calls}");
    fs::remove_dir_all(&place).unwrap();

    let (mut wrong, mut met, mut histories) = (Vec::new(), 0, [0, 0]);
    let tried = (faults() / 2).min(calls * WAYS.len() as u64);
    for number in 0..tried {
        let (call, (errno, count)) = (first + number * calls / tried, WAYS[number as usize % WAYS.len()]);
        let (home, place) = copied(number + 1);
        let log = home.beside("changes");
        let packed = pack(&home, before, &log, |command| shim::fail(command, &place, &log, (call, errno, count)));
        let has_met = shim::read(&log).iter().any(|(_, event)| matches!(event, shim::Event::Failed { .. }));
        met += u64::from(has_met);
        let (is_packed, mut found) = after_pack(&home, &known, before, &packed);
        histories[usize::from(is_packed)] += 1;
        let is_answered = packed.status.is_some() && packed.requests.iter().all(|it| it.became != Became::Lost);
        if errno == ENOSPC && !is_answered {
            found.push(format!("for want of room the host ended: {}", packed.process.log()));
        }
        if errno != 0 {
            found.extend(end(&packed.requests, packed.process));
        }
        let what = format!("error {errno} from call {call} of {first} to {} on, {count} times", first + calls - 1);
        wrong.extend(found.into_iter().map(|problem| format!("{what}: {problem}")));
        fs::remove_dir_all(&place).unwrap();
    }
    println!(
        "{tried} failures of a pack tried, {met} met one of its {calls} calls; {histories:?} not packed and packed"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(met > tried / 2 && histories.iter().all(|number| *number > 0), "{met} {histories:?}");
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
    // What the test wrote itself is not to be lost.
    rustix::fs::syncfs(fs::File::open(disk.mounted()).unwrap()).unwrap();
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    for name in ["o0", "o1", "o2"] {
        host.client().create("troublemaker.Trouble", name);
    }
    host.stop();
    let mut requests = Vec::new();
    for round in 0..(faults() / 10).clamp(3, 40) {
        let mut process = Host::spawn(&home, |_| {});
        let address = wait_for(&home, &mut process);
        let address = address.unwrap_or_else(|| panic!("round {round}: it does not start: {}", process.log()));
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
