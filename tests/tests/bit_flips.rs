//! Bits that flip in the files of an identity, and files that end early, under a real host: it may say that something is damaged,
//! for one object or altogether, but it never gives a wrong answer, and no signal ends it.
//!
//! `THESEUS_FLIPS` sets how many bits are flipped in each file (`scripts/soak flips`).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    env, fs,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::Command,
    time::Duration,
};

use serde_json::Value as Json;
use tempfile::TempDir;
use theseus_tests::{Client, Home, Host, artifacts, dice::Dice, home::document, host, json, process::Process, until};

const LOG: &str = "identity/history/wal";
const FILES: [&str; 3] = ["identity/history/data.mdb", "identity/objects/data.mdb", LOG];

/// A table that is brought forward soon, and enough objects for it to have some pages.
const SETTINGS: &str = "[identity]\ntail_transactions_max = 40\n[plugins]\nprobation_ms = 0\n";
const OBJECTS: u64 = 300;

fn flips() -> u64 {
    env::var("THESEUS_FLIPS").map_or(12, |number| number.parse().unwrap())
}

/// A folder in memory, if there is such a thing.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

/// A question, and the answer of a host whose files are whole.
struct Known {
    verb: &'static str,
    path: String,
    key: Option<String>,
    body: String,
    status: u16,
    answer: Json,
}

impl Known {
    fn ask(client: &mut Client, verb: &'static str, path: &str, key: Option<&str>, body: &str) -> Known {
        let headers: Vec<_> = key.iter().map(|key| ("Idempotency-Key", *key)).collect();
        let answer = client.send(verb, path, &headers, body.as_bytes()).unwrap();
        let (path, key, body) = (path.to_owned(), key.map(str::to_owned), body.to_owned());
        Known { verb, path, key, body, status: answer.status, answer: essence(&answer.json()) }
    }

    /// What is wrong with the answer of a host whose files may not be whole; none if it is right, or says that they are damaged, or
    /// if there is none.
    fn again(&self, client: &mut Client) -> Option<String> {
        let headers: Vec<_> = self.key.iter().map(|key| ("Idempotency-Key", key.as_str())).collect();
        let answer = client.send(self.verb, &self.path, &headers, self.body.as_bytes()).ok()?;
        let document = answer.json();
        let told = answer.status >= 500 && document["code"].is_string();
        let right = answer.status == self.status && essence(&document) == self.answer;
        let Known { verb, path, status, answer: expected, .. } = self;
        (!told && !right).then(|| format!("{verb} {path}: {} {document}, not {status} {expected}", answer.status))
    }
}

/// An answer without what is another one for each host.
fn essence(answer: &Json) -> Json {
    let mut answer = answer.clone();
    if let Some(fields) = answer.as_object_mut() {
        ["at", "next", "instance"].iter().for_each(|field| _ = fields.remove(*field));
    }
    answer
}

/// A home with many objects whose host was killed, and what there is to know of it.
fn known() -> (Home, Vec<Known>) {
    let home = Home::with_settings(SETTINGS);
    let host = Host::start(&home);
    home.swap(&[&artifacts::troublemaker()]);
    let mut client = host.client();
    let mut known = Vec::new();
    for number in 0..OBJECTS {
        client.create("troublemaker.Trouble", &format!("object-{number:03}"));
    }
    for number in 0..OBJECTS {
        let path = format!("/v1/objects/object-{:03}/", number * 7 % OBJECTS);
        let (method, body) = match number % 3 {
            0 => ("keep", json!(["x".repeat(30 + number as usize)]).to_string()),
            _ => ("touch", "[]".to_owned()),
        };
        known.push(Known::ask(&mut client, "POST", &(path + method), Some(&format!("key-{number}")), &body));
    }
    client.delete("/v1/objects/object-005");
    home.until_settled();
    for number in 0..OBJECTS {
        for object in [format!("object-{number:03}"), (number + 1).to_string(), format!("nobody-{number}")] {
            known.push(Known::ask(&mut client, "GET", &format!("/v1/objects/{object}"), None, ""));
        }
    }
    for number in (0..OBJECTS).step_by(17) {
        known.push(Known::ask(&mut client, "GET", &format!("/v1/objects/object-{number:03}/count"), None, ""));
        known.push(Known::ask(&mut client, "GET", &format!("/v1/objects/{}?at={}", number + 1, OBJECTS), None, ""));
    }
    known.push(Known::ask(&mut client, "GET", "/v1/objects?prefix=object-&limit=1000", None, ""));
    host.kill();
    home.verify();
    (home, known)
}

/// How a host on damaged files went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Went {
    /// It did not start, and said why.
    Refused,
    /// It ended under way, and said why.
    Ended,
    /// It went on to the end.
    On,
}

/// Runs a host on files that may be damaged, asks it everything, and stops it.
fn run(home: &Home, known: &[Known], dice: &mut Dice) -> Result<Went, String> {
    let mut process = Host::spawn(home, |_| {});
    let mut address = None;
    until("the host to answer or to end", || {
        address = host::http_address(home);
        address.is_some() || process.ended().is_some()
    });
    let Some(address) = address else {
        return ended(&mut process).map(|()| Went::Refused);
    };
    let mut client = Client::tcp(address);
    // Not always in the same order: the first fault may end it.
    let start = dice.roll(known.len() as u64) as usize;
    let mut wrong = Vec::new();
    for question in known[start..].iter().chain(&known[..start]) {
        wrong.extend(question.again(&mut client));
        if process.ended().is_some() {
            break;
        }
    }
    // Writing goes on, or is refused with a word.
    let name = format!("object-{:03}", dice.roll(OBJECTS));
    if let Ok(answer) = client.send("POST", &format!("/v1/objects/{name}/touch"), &[], b"[]")
        && answer.status != 200
        && !answer.json()["code"].is_string()
    {
        wrong.push(answer.text().to_owned());
    }
    process.terminate(Duration::from_secs(20));
    let status = process.ended().ok_or("it does not stop")?;
    if !wrong.is_empty() {
        wrong.truncate(3);
        return Err(format!("{} (then it ended with {status})", wrong.join("; ")));
    }
    if status.success() {
        return Ok(Went::On);
    }
    ended(&mut process).map(|()| Went::Ended)
}

/// It has ended by itself: not by a signal, and with a word.
fn ended(process: &mut Process) -> Result<(), String> {
    let (status, log) = (process.ended().unwrap(), process.log());
    let last: Vec<&str> = log.lines().rev().take(3).collect();
    // What a build for tests checks in the libraries may panic, inside of LMDB; it then ends as a damaged identity does.
    let panicked = log.contains("panicked at") && status.code() != Some(5);
    if status.signal().is_some() || panicked || !log.contains("theseus: ") {
        return Err(format!("it ended with {status}: {last:?}"));
    }
    Ok(())
}

#[test]
fn a_flipped_bit_never_makes_a_host_lie() {
    let (home, known) = known();
    let folder = scratch();
    let place = folder.path().join("home");
    let mut dice = Dice(0xf11b5);
    let (mut wrong, mut went) = (Vec::new(), Vec::new());
    for file in FILES {
        // Most of the write-ahead log was not written since it was begun again.
        let length = if file == LOG { 32 * 4096 } else { fs::metadata(home.file(file)).unwrap().len() };
        for number in 0..flips() {
            let status = Command::new("cp").arg("-a").args([home.path(), &place]).status().unwrap();
            assert!(status.success());
            // Every other one into the pages where LMDB keeps its own books.
            let page = dice.roll(length / 4096) * 4096;
            let at = match number % 4 {
                0 | 1 => page + dice.roll(4096),
                2 => page + dice.roll(64),
                _ => dice.roll(3) * 4096 + dice.roll(200),
            };
            let bit = dice.roll(8) as u8;
            let data = fs::File::options().read(true).write(true).open(place.join(file)).unwrap();
            let mut byte = [0];
            data.read_exact_at(&mut byte, at).unwrap();
            data.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
            match run(&Home::existing(&place), &known, &mut dice) {
                Ok(how) => went.push(how),
                Err(problem) => wrong.push(format!("bit {bit} of byte {at} of {file}: {problem}")),
            }
            fs::remove_dir_all(&place).unwrap();
        }
    }
    let count = |how: Went| went.iter().filter(|it| **it == how).count();
    let (refused, ended, on) = (count(Went::Refused), count(Went::Ended), count(Went::On));
    println!(
        "{} flips: {refused} refused at the start, {ended} ended under way, {on} went on",
        went.len() + wrong.len()
    );
    assert!(wrong.is_empty(), "{} of {} flips:\n{}", wrong.len(), went.len() + wrong.len(), wrong.join("\n"));
    assert!(on > 0 && refused + ended > 0, "these flips hit nothing");
}

#[test]
fn a_file_that_ends_early_never_makes_a_host_lie() {
    let (home, known) = known();
    let mut dice = Dice(0xc0de);
    for file in FILES {
        let whole = fs::read(home.file(file)).unwrap();
        for length in [0, 5000, 8192, 12_288, whole.len() / 8192 * 4096, whole.len() * 3 / 4, whole.len() - 1] {
            fs::write(home.file(file), &whole[..length]).unwrap();
            let others: Vec<_> = FILES.into_iter().filter(|it| *it != file).collect();
            let kept: Vec<_> = others.iter().map(|it| fs::read(home.file(it)).unwrap()).collect();
            let went = run(&home, &known, &mut dice);
            assert!(went.is_ok(), "{file} with {length} of {} bytes: {}", whole.len(), went.unwrap_err());
            let verified = home.cli(&["verify", "--json"]);
            assert!([0, 5].contains(&verified.code), "{file} with {length} bytes: {verified:?}");
            if verified.code == 0 {
                assert_eq!(document(&verified.stdout)["whole"], true);
            }
            fs::write(home.file(file), &whole).unwrap();
            others.iter().zip(kept).for_each(|(other, bytes)| fs::write(home.file(other), bytes).unwrap());
        }
    }
    home.verify();
}
