//! Loss of power, at any moment: what a host does to its files is written down, thousands of disks that there may be afterwards are
//! made of that, and each has to open and to hold every command that was answered before.
//!
//! `THESEUS_IMAGES` sets how many images are made (`scripts/soak images`).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use theseus_host::{
    config::Config,
    home::Home as Folder,
    identity::{self, Head, Identity, Tid},
    runtime,
};
use theseus_tests::{
    Client, Home, Host, artifacts,
    dice::Dice,
    disk::{Disk, Loss},
    json,
    shim::{self, Event},
};

/// Brings the table forward all the time, so that losses of power meet that too; a swap is not taken back for the host's death.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 40\n[plugins]\nprobation_ms = 0\n";

/// Time for a sync, in which others write.
const SYNC_US: u64 = 300;

const CLIENTS: usize = 3;

/// How many images are made of one recording.
fn images() -> u64 {
    env::var("THESEUS_IMAGES").map_or(120, |number| number.parse().unwrap())
}

/// A folder in memory, if there is such a thing.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

// --- What a host did ----------------------------------------------------------------------------------------------------------

/// What a program did to a disk, and what it had answered when.
struct Recording {
    before: Disk,
    events: Vec<(u64, Event)>,
    /// Transactions that were answered, and how long the log was when the answer was there.
    answers: Vec<(u64, u64)>,
}

impl Recording {
    /// The newest transaction that was answered before the first `count` events had ended.
    fn answered(&self, count: usize) -> u64 {
        let length = count.checked_sub(1).map_or(0, |last| self.events[last].0);
        self.answers.iter().filter(|(log, _)| *log <= length).map(|(_, tid)| *tid).max().unwrap_or(0)
    }

    /// Calls `visit` with the disk at some moments, in order, with how many events were before each.
    fn at_moments(&self, moments: u64, dice: &mut Dice, mut visit: impl FnMut(&Disk, usize, &mut Dice)) {
        let count = self.events.len() as u64 + 1;
        let mut chosen: Vec<u64> = (0..moments).map(|_| dice.roll(count)).collect();
        chosen.sort_unstable();
        let (mut disk, mut done) = (self.before.clone(), 0);
        for moment in chosen {
            while (done as u64) < moment {
                disk.apply(&self.events[done].1);
                done += 1;
            }
            visit(&disk, done, dice);
        }
    }
}

/// Puts a load on a host until it is told to end, or the host is gone.
fn load(host: &Host, log: &Path, round: usize, end: &Arc<AtomicBool>) -> Vec<thread::JoinHandle<Vec<(u64, u64)>>> {
    let work = |client: usize| {
        let (address, log, end) = (host.address(), log.to_owned(), end.clone());
        thread::spawn(move || {
            let mut dice = Dice(0xfeed + client as u64 + 100 * round as u64);
            let (mut connection, mut answers) = (Client::tcp(address), Vec::new());
            for number in 0.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let (method, body) = match dice.roll(3) {
                    0 => ("keep", json!(["x".repeat(dice.roll(20_000) as usize)])),
                    _ => ("touch", json!([])),
                };
                let (path, key) = (format!("/v1/objects/o{client}/{method}"), format!("{round}-{client}-{number}"));
                let sent = connection.send("POST", &path, &[("Idempotency-Key", &key)], body.to_string().as_bytes());
                let Ok(answer) = sent else { break };
                let tid = answer.ok()["tid"].as_u64().unwrap();
                answers.push((fs::metadata(&log).unwrap().len(), tid));
            }
            answers
        })
    };
    (0..CLIENTS).map(work).collect()
}

/// A life of an identity under load: a start, a kill, a start after it, a swap, a stop.
fn record_a_life(home: &Home, log: &Path) -> Recording {
    let before = Disk::of(home.path());
    let mut answers = Vec::new();
    for round in 0..2 {
        let host = Host::start_with(home, |command| shim::record(command, home.path(), log, SYNC_US));
        let plugin = if round == 0 { artifacts::troublemaker() } else { artifacts::plugin("counter") };
        let swapped = home.swap(&[&plugin]);
        answers.push((fs::metadata(log).unwrap().len(), swapped["tid"].as_u64().unwrap()));
        if round == 0 {
            (0..CLIENTS).for_each(|client| _ = host.client().create("troublemaker.Trouble", &format!("o{client}")));
        }
        let end = Arc::new(AtomicBool::new(false));
        let clients = load(&host, log, round, &end);
        thread::sleep(Duration::from_millis(600));
        let join = || clients.into_iter().for_each(|client| answers.extend(client.join().unwrap()));
        if round == 0 {
            host.kill();
            join();
        } else {
            end.store(true, Ordering::Relaxed);
            join();
            host.stop();
        }
    }
    Recording { before, events: shim::read(log), answers }
}

// --- What a disk has to hold ----------------------------------------------------------------------------------------------------

/// Looks at images in a process of its own, because a damaged file may end whoever reads it.
struct Worker {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    fn start() -> Worker {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "looks_at_images", "--nocapture"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Worker { child, to, from }
    }

    /// The head of an image that is as it should be; else what is wrong. `reference` is a home that has the whole history,
    /// `tid` a transaction that has to be in the image, `head` a head that it has to continue.
    fn look(&mut self, image: &Path, reference: &Path, tid: u64, head: &str) -> Result<String, String> {
        writeln!(self.to, "{}\t{}\t{tid}\t{head}", image.display(), reference.display()).unwrap();
        loop {
            let mut line = String::new();
            if self.from.read_line(&mut line).unwrap() == 0 {
                let status = self.child.wait().unwrap();
                *self = Worker::start();
                return Err(format!("whoever looked at it ended with {status}"));
            }
            if let Some((_, answer)) = line.trim_end().split_once("LOOKED ") {
                let (word, rest) = answer.split_once(' ').unwrap();
                return if word == "whole" { Ok(rest.to_owned()) } else { Err(rest.to_owned()) };
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "the other tests of this file start it"]
fn looks_at_images() {
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let [image, reference, tid, head] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        match look(Path::new(image), Path::new(reference), tid.parse().unwrap(), head) {
            Ok(head) => println!("LOOKED whole {}:{}", head.tid, head.hash),
            Err(problem) => println!("LOOKED wrong {}", problem.replace('\n', " ")),
        }
    }
}

fn look(image: &Path, reference: &Path, tid: u64, continues: &str) -> Result<Head, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let place = |folder: &Path| {
        let folder = Folder::new(folder);
        runtime::place(&folder, &Config::load(&folder).unwrap())
    };
    let verified = identity::verify(&place(image), &mut |_, _| {}).map_err(|error| text(&error))?;
    if let Some(damage) = verified.damage.first() {
        return Err(format!("{}: {}", damage.place, damage.problem));
    }
    let opened = Identity::open(&place(image), false).map_err(|error| text(&error))?;
    let head = opened.identity.head();
    if head != verified.head || head.tid < Tid(tid) {
        return Err(format!("it ends with {}, and {tid} was answered", head.tid));
    }
    if let Some((tid, hash)) = continues.split_once(':') {
        let before = Head { tid: Tid(tid.parse().unwrap()), hash: hash.parse().unwrap() };
        if !opened.identity.continues(before).map_err(|error| text(&error))? {
            return Err(format!("it does not continue {continues}"));
        }
    }
    let whole = Identity::open(&place(reference), true).map_err(|error| text(&error))?;
    if !whole.identity.continues(head).map_err(|error| text(&error))? {
        return Err(format!("{}:{} was never its head", head.tid, head.hash));
    }
    Ok(head)
}

/// Makes images of some moments of a recording, which all have to be as they should be. Answers how many there were, and the heads
/// that they have.
fn check(recording: &Recording, moments: u64, seed: u64, reference: &Path, continues: &str) -> (u64, Vec<String>) {
    let (number, heads, wrong) = examine(recording, moments, seed, reference, continues);
    assert!(wrong.is_empty(), "{} of {number} images:\n{}", wrong.len(), wrong.join("\n"));
    (number, heads)
}

/// Makes images of some moments of a recording: how many, the heads that they have, and what is wrong.
fn examine(
    recording: &Recording,
    moments: u64,
    seed: u64,
    reference: &Path,
    continues: &str,
) -> (u64, Vec<String>, Vec<String>) {
    let folder = scratch();
    let (mut worker, mut dice) = (Worker::start(), Dice(seed));
    let (mut wrong, mut heads, mut number) = (Vec::new(), Vec::new(), 0);
    recording.at_moments(moments, &mut dice, |disk, count, dice| {
        let loss = Loss::ALL[(number % Loss::ALL.len() as u64) as usize];
        number += 1;
        let image = folder.path().join(number.to_string());
        disk.image(loss, dice, "identity", &image);
        match worker.look(&image, reference, recording.answered(count), continues) {
            Ok(head) => heads.push(head),
            Err(problem) => wrong.push(format!("image {number} ({loss:?} at event {count}): {problem}")),
        }
        fs::remove_dir_all(&image).unwrap();
    });
    heads.sort_unstable();
    heads.dedup();
    (number, heads, wrong)
}

// --- The tests ------------------------------------------------------------------------------------------------------------------

#[test]
fn every_disk_that_a_loss_of_power_may_leave_holds_what_was_answered() {
    let folder = scratch();
    let home = Home::at(folder.path(), SETTINGS);
    let log = home.beside("changes");
    let recording = record_a_life(&home, &log);
    let last = home.verify()["tid"].as_u64().unwrap();
    assert!(recording.answers.len() > 20, "{} commands were answered", recording.answers.len());
    assert!(recording.answers.iter().all(|(_, tid)| *tid <= last));

    let (made, heads) = check(&recording, images(), 0x1057, home.path(), "");
    assert!(heads.len() > 5, "the images end with {} different heads", heads.len());
    println!("{made} images, {} heads, of {} changes and {last} transactions", heads.len(), recording.events.len());

    // If the host had not synced, this would show.
    let is_sync = |event: &Event| matches!(event, Event::Synced { .. } | Event::End { .. });
    let events = recording.events.iter().filter(|(_, event)| !is_sync(event)).cloned().collect();
    let careless = Recording { before: recording.before.clone(), events, answers: recording.answers.clone() };
    let (_, _, wrong) = examine(&careless, 18, 0x1057, home.path(), "");
    assert!(!wrong.is_empty(), "these images find nothing");

    // Some of them with a real host, which is then cut off while it recovers; and so is the one after it.
    let mut dice = Dice(0xdeca);
    let mut number = 0_u64;
    recording.at_moments((images() / 60).max(2), &mut dice, |disk, count, dice| {
        number += 1;
        let image = folder.path().join(format!("image-{number}"));
        disk.image(Loss::ALL[(number % 6) as usize], dice, "", &image);
        recover(&image, recording.answered(count), home.path(), 2, dice);
        fs::remove_dir_all(&image).unwrap();
    });
}

/// Starts a host on an image, has it answer a little, and does the same with images of what it did meanwhile, to a depth.
fn recover(image: &Path, answered: u64, reference: &Path, depth: u32, dice: &mut Dice) {
    let head = Worker::start().look(image, reference, answered, "").unwrap();
    fs::create_dir_all(image.join("run")).unwrap();
    let home = Home::existing(image);
    let log = home.beside("changes");
    let before = Disk::of(image);
    let host = Host::start_with(&home, |command| shim::record(command, image, &log, SYNC_US));
    let tid = home.json(&["status"])["tid"].as_u64().unwrap();
    assert!(tid > answered, "a start is a transaction of its own");
    let answers = vec![(fs::metadata(&log).unwrap().len(), tid)];
    // Until the table has been brought forward, too.
    thread::sleep(Duration::from_millis(300));
    host.kill();
    let recording = Recording { before, events: shim::read(&log), answers };
    home.verify();
    let (_, heads) = check(&recording, images() / 12, dice.roll(1 << 30) + 1, image, &head);
    assert!(heads.contains(&head) || heads.len() == 1, "{heads:?} continue {head}");
    if depth > 0 {
        let next = image.with_extension(format!("d{depth}"));
        recording.at_moments(1, dice, |disk, count, dice| {
            disk.image(Loss::ALL[dice.roll(6) as usize], dice, "", &next);
            recover(&next, recording.answered(count), image, depth - 1, dice);
        });
        fs::remove_dir_all(&next).unwrap();
    }
}

#[test]
fn an_identity_whose_making_was_cut_off_can_be_made_again() {
    let folder = scratch();
    let home = Home::bare("");
    let copy = folder.path().join("home");
    fs::create_dir(&copy).unwrap();
    fs::copy(home.file("theseus.toml"), copy.join("theseus.toml")).unwrap();
    let (home, log) = (Home::existing(&copy), home.beside("changes"));
    let before = Disk::of(&copy);
    let mut init = home.command(&["init"]);
    shim::record(&mut init, &copy, &log, 0);
    assert!(init.stdout(Stdio::null()).status().unwrap().success());
    let recording = Recording { before, events: shim::read(&log), answers: Vec::new() };
    assert!(recording.events.len() > 30);
    let backup = folder.path().join("backup");
    let backed_up = Home::new();
    Host::start(&backed_up).stop();
    backed_up.run(&["backup", "--to", backup.to_str().unwrap()]);
    let (mut wrong, mut made, mut number) = (Vec::new(), [0, 0], 0);
    let mut dice = Dice(0x1217);
    recording.at_moments(images() / 6, &mut dice, |disk, count, dice| {
        let image = folder.path().join(number.to_string());
        let loss = Loss::ALL[number % Loss::ALL.len()];
        disk.image(loss, dice, "", &image);
        let home = Home::existing(&image);
        // The one in the one half of the images, the other in the other half.
        let way = number / Loss::ALL.len() % 2;
        let again = match way {
            0 => home.cli(&["init"]),
            _ => home.cli(&["restore", "--from", backup.to_str().unwrap()]),
        };
        number += 1;
        made[way] += u32::from(again.code == 0);
        let verified = home.cli(&["verify"]);
        let is_there = [1, 4].contains(&again.code) && again.stderr.contains("holds an identity");
        if (again.code != 0 && !is_there) || verified.code != 0 {
            let said = again.stderr + &verified.stdout + &verified.stderr;
            wrong.push(format!("{loss:?} at event {count}: {}, then {}: {said}", again.code, verified.code));
        }
        // It may be there without its table, which is then made.
        Host::start(&home).stop();
        home.verify();
        fs::remove_dir_all(&image).unwrap();
    });
    assert!(wrong.is_empty(), "{} of {number}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(made.iter().all(|times| *times > 0), "{made:?}");
}

/// Who reads beside a host, or after one, may see what is on no disk yet; it must not be lost any more then.
#[test]
fn a_reader_makes_durable_what_it_has_seen() {
    let home = Home::new();
    let host = Host::start(&home);
    let (tid, log) = (home.tid(), home.beside("changes"));
    host.kill();
    let mut export = home.command(&["export"]);
    shim::record(&mut export, &home.file("identity"), &log, 0);
    let exported = export.output().unwrap();
    assert!(String::from_utf8(exported.stdout).unwrap().contains(&format!("\"tid\":{tid},")));
    let events = shim::read(&log).into_iter().map(|(_, event)| event);
    let mut files = events.clone().filter_map(|event| match event {
        Event::Open { file, path, .. } if path.ends_with("history/wal") => Some(file),
        _ => None,
    });
    let wal = files.next().unwrap();
    assert!(events.clone().any(|event| matches!(event, Event::Synced { file, .. } if file == wal)));
}

#[test]
fn a_record_that_a_kill_cut_off_hides_no_change_after_it() {
    let folder = scratch();
    let (watched, log) = (folder.path().join("watched"), folder.path().join("changes"));
    fs::create_dir(&watched).unwrap();
    let make = |name: &str| {
        let mut mkdir = Command::new("mkdir");
        shim::record(mkdir.arg(watched.join(name)), &watched, &log, 0);
        assert!(mkdir.status().unwrap().success());
    };
    make("first");
    let whole = fs::read(&log).unwrap();
    for cut in 1..whole.len() {
        fs::write(&log, [&whole, &whole[..cut]].concat()).unwrap();
        assert_eq!(shim::read(&log).len(), 1, "{cut} bytes of a second record");
    }
    make("second");
    let made = ["first", "second"].map(|name| Event::Mkdir { path: watched.join(name) });
    assert_eq!(shim::read(&log).into_iter().map(|(_, event)| event).collect::<Vec<_>>(), made);
}
