//! Children that behave as badly as they can. This program is both sides: the tests, and the child that they start.

#![allow(unsafe_code, clippy::unwrap_used, reason = "a test; a child that crashes has to do what unsafe code does")]

use std::{
    fs, hint,
    io::Write,
    net::{TcpListener, TcpStream},
    os::fd::FromRawFd,
    panic,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use theseus_host::sandbox::{self, Cause, Child, Desk, Fault, Limits, Program, SpawnError, forbid_files};

const CHILD: &str = "child";
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(CHILD) => return sandbox::serve(&mut misbehave),
        Some("parent") => parent_of_a_hanging_child(),
        _ => {}
    }
    let filter = arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        let passed = panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    ExitCode::from(u8::from(failed))
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => { const TESTS: &[(&str, fn())] = &[$((stringify!($name), $name)),*]; };
}

tests! {
    it_answers_and_is_given_what_it_needs,
    every_end_has_its_cause,
    what_it_was_doing_is_known,
    a_flood_ends_it,
    memory_has_an_end,
    garbage_is_no_answer,
    it_reaches_nothing,
    it_inherits_nothing,
    files_in_memory_end_when_forbidden,
    it_ends_with_its_parent,
    nothing_is_left_behind,
    a_program_that_is_no_child_is_not_ready,
    it_starts_quickly,
}

// --- The child -------------------------------------------------------------------------------------------------------

fn misbehave(request: &[u8], desk: &mut Desk) -> Vec<u8> {
    let request = String::from_utf8(request.to_vec()).unwrap();
    let (what, argument) = request.split_once(' ').unwrap_or((&request, ""));
    match what {
        "echo" => return desk.need(argument.as_bytes()),
        // SAFETY: none; this is the crash that the test is about.
        "segfault" => unsafe { std::ptr::null_mut::<u8>().wrapping_add(8).write_volatile(1) },
        "abort" => std::process::abort(),
        "exit" => std::process::exit(argument.parse().unwrap()),
        "panic" => panic!("on purpose"),
        "sleep" => loop {
            thread::sleep(LONG);
        },
        "overflow" => _ = overflow(0),
        "spin" => loop {
            hint::spin_loop();
        },
        "doing" => {
            desk.doing("the first step");
            desk.doing("the second\nstep");
            std::process::exit(9);
        }
        "flood" => loop {
            println!("a line and another line and one more line");
            eprintln!("the last line");
        },
        "allocate" => {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1_u8; 1 << 20]);
            }
        }
        "garbage" => {
            // SAFETY: the descriptor is the child's connection, which is taken from under its owner: that is the test.
            let mut connection = unsafe { fs::File::from_raw_fd(3) };
            connection.write_all(&[argument.as_bytes(), &[b'x'; 64]].concat()).unwrap();
        }
        "close" => {
            // SAFETY: as above.
            drop(unsafe { fs::File::from_raw_fd(3) });
            thread::sleep(LONG);
        }
        "huge" => {
            let head = [&b"A"[..], &u64::MAX.to_le_bytes()].concat();
            // SAFETY: as above.
            unsafe { fs::File::from_raw_fd(3) }.write_all(&head).unwrap();
            thread::sleep(LONG);
        }
        "reach" => return reach(argument).join("\n").into_bytes(),
        "descriptors" => return fs::read_dir("/proc/self/fd").unwrap().count().to_string().into_bytes(),
        "seal" => {
            let file = || rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let write = |file| fs::File::from(file).write_all(b"some").is_ok();
            let before = write(file());
            forbid_files();
            // SAFETY: the disposition of one signal is set; no handler is involved.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            return format!("{before} {}", write(file())).into_bytes();
        }
        other => panic!("{other}?"),
    }
    Vec::new()
}

#[allow(unconditional_recursion, reason = "this is the test")]
fn overflow(depth: u64) -> u64 {
    hint::black_box([depth; 64]);
    overflow(hint::black_box(depth + 1)) + 1
}

/// Tries to reach the world, and tells what it could.
fn reach(folder: &str) -> Vec<&'static str> {
    let mut reached = Vec::new();
    let mut tried = |what, success: bool| reached.extend(success.then_some(what));
    let folder = Path::new(folder);
    tried("makes a file", fs::write(folder.join("new"), "x").is_ok());
    tried("changes a file", fs::File::options().append(true).open(folder.join("old")).is_ok());
    tried("removes a file", fs::remove_file(folder.join("old")).is_ok());
    tried("makes a folder", fs::create_dir(folder.join("folder")).is_ok());
    tried("listens", TcpListener::bind("127.0.0.1:0").is_ok());
    tried(
        "connects",
        TcpStream::connect("127.0.0.1:1").is_err_and(|it| it.kind() == std::io::ErrorKind::ConnectionRefused),
    );
    tried("starts a program", Command::new("/bin/true").stdin(Stdio::inherit()).spawn().is_ok());
    // SAFETY: the child of a fork that succeeds ends at once.
    let forked = unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            child => child,
        }
    };
    tried("forks", forked >= 0);
    let parent = rustix::process::getppid().unwrap();
    tried("signals its parent", rustix::process::test_kill_process(parent).is_ok());
    let status = fs::File::options().write(true).open(format!("/proc/{}/mem", parent.as_raw_nonzero()));
    tried("opens its parent's memory", status.is_ok());
    // What has to go on working.
    tried("has threads", thread::spawn(|| 5).join().unwrap() == 5);
    tried("reads", fs::read("/proc/self/maps").is_ok());
    let itself = rustix::process::getpid();
    tried("signals itself", rustix::process::test_kill_process(itself).is_ok());
    reached
}

// --- The tests -------------------------------------------------------------------------------------------------------

fn limits() -> Limits {
    Limits { memory_bytes: 512 << 20, output_bytes: 64 << 10, file_bytes: 1 << 20, processor_s: 20 }
}

fn child() -> Child {
    Child::spawn(&Program::this(&[CHILD]).unwrap(), &limits()).unwrap()
}

fn try_ask(child: &mut Child, request: &str, deadline: Duration) -> Result<String, Fault> {
    let answer = child.ask(request.as_bytes(), &mut |need| [b"given ", need].concat(), deadline);
    answer.map(|answer| String::from_utf8(answer).unwrap())
}

fn ask(request: &str) -> Result<String, Fault> {
    try_ask(&mut child(), request, LONG)
}

fn cause(request: &str) -> Cause {
    ask(request).unwrap_err().cause
}

fn it_answers_and_is_given_what_it_needs() {
    let mut child = child();
    for text in ["one", "two", &"long".repeat(1 << 20)] {
        assert_eq!(try_ask(&mut child, &format!("echo {text}"), LONG).unwrap(), format!("given {text}"));
    }
}

fn every_end_has_its_cause() {
    assert_eq!(cause("segfault"), Cause::Crashed { signal: libc::SIGSEGV, name: "SIGSEGV" });
    assert_eq!(cause("abort"), Cause::Crashed { signal: libc::SIGABRT, name: "SIGABRT" });
    assert_eq!(cause("exit 0"), Cause::Exited { code: 0 });
    assert_eq!(cause("exit 7"), Cause::Exited { code: 7 });
    let overflow = ask("overflow").unwrap_err();
    assert_eq!(overflow.cause, Cause::Crashed { signal: libc::SIGABRT, name: "SIGABRT" });
    assert!(overflow.to_string().contains("overflowed its stack"), "{overflow}");
    let panicked = ask("panic").unwrap_err();
    assert!(panicked.to_string().contains("on purpose"), "{panicked}");
    for request in ["sleep", "spin"] {
        let mut child = child();
        let before = Instant::now();
        let fault = try_ask(&mut child, request, SHORT).unwrap_err();
        assert_eq!(fault.cause, Cause::Hung { after_ms: SHORT.as_millis() as u64 });
        assert!(before.elapsed() < 10 * SHORT);
        // Whatever is asked later is refused, not waited for.
        assert!(matches!(try_ask(&mut child, "echo", LONG).unwrap_err().cause, Cause::Garbled { .. }));
    }
    let mut busy = Child::spawn(&Program::this(&[CHILD]).unwrap(), &Limits { processor_s: 1, ..limits() }).unwrap();
    assert!(matches!(try_ask(&mut busy, "spin", LONG).unwrap_err().cause, Cause::Hung { .. }));
}

fn what_it_was_doing_is_known() {
    let fault = ask("doing").unwrap_err();
    assert_eq!((fault.cause, fault.doing.as_str()), (Cause::Exited { code: 9 }, "the second step"));
}

fn a_flood_ends_it() {
    let fault = ask("flood").unwrap_err();
    assert_eq!(fault.cause, Cause::Flooded { bytes: limits().output_bytes });
    assert!(fault.output.iter().any(|line| line == "the last line"), "{fault}");
}

fn memory_has_an_end() {
    assert_eq!(cause("allocate"), Cause::OutOfMemory { bytes: limits().memory_bytes });
}

fn garbage_is_no_answer() {
    for request in ["garbage", "garbage A", "garbage D\0\0\0\0\0\0\0\0", "huge", "close"] {
        let cause = cause(request);
        assert!(matches!(cause, Cause::Garbled { .. }), "{request}: {cause}");
    }
}

fn it_reaches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old"), "as it was").unwrap();
    let mut child = child();
    let reached = try_ask(&mut child, &format!("reach {}", folder.path().display()), LONG).unwrap();
    let reached: Vec<&str> = reached.lines().collect();
    println!("  confined: {:?}", child.confinement());
    if child.confinement().missing.is_empty() {
        assert_eq!(reached, ["has threads", "reads", "signals itself"]);
        assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"as it was");
    } else {
        println!("  this kernel cannot forbid everything: {reached:?}");
    }
}

fn it_inherits_nothing() {
    // SAFETY: a plain call; the descriptor is closed below.
    let inheritable = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) };
    assert!(inheritable >= 0);
    // Three streams, the connection, and the folder that is being read.
    assert_eq!(ask("descriptors").unwrap(), "5");
    // SAFETY: it was opened above.
    unsafe { libc::close(inheritable) };
}

fn files_in_memory_end_when_forbidden() {
    assert_eq!(ask("seal").unwrap(), "true false");
}

/// A process to be killed: starts a child that hangs, and says who it is.
fn parent_of_a_hanging_child() -> ! {
    let mut child = child();
    thread::spawn(|| {
        thread::sleep(SHORT);
        let own = std::process::id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        println!("{}", children.trim());
    });
    panic!("{:?}", try_ask(&mut child, "sleep", LONG));
}

fn it_ends_with_its_parent() {
    let mut parent = Command::new("/proc/self/exe").arg("parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut child).unwrap();
    let child = format!("/proc/{}", child.trim().parse::<u32>().unwrap());
    assert!(Path::new(&child).exists());
    parent.kill().unwrap();
    parent.wait().unwrap();
    let before = Instant::now();
    // Whoever adopts it may not wait for it: then it stays as a name, but does nothing any more.
    let gone = || {
        fs::read_to_string(format!("{child}/stat")).is_ok_and(|stat| stat.contains(") Z "))
            || !Path::new(&child).exists()
    };
    while !gone() {
        assert!(before.elapsed() < LONG, "{child} is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

fn nothing_is_left_behind() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for request in ["echo", "segfault", "exit 0", "garbage", "flood"] {
        _ = ask(request);
    }
    _ = try_ask(&mut child(), "sleep", SHORT);
    assert_eq!(open(), before);
    let left = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
    assert_eq!(left.unwrap_err(), rustix::io::Errno::CHILD, "a child was not waited for");
}

fn a_program_that_is_no_child_is_not_ready() {
    let spawn = |path: &str, arguments: &[&str]| match Child::spawn(&Program::at(path, arguments), &limits()) {
        Ok(_) => panic!("it is ready"),
        Err(error) => error,
    };
    assert!(matches!(spawn("/does/not/exist", &[]), SpawnError::System(_)));
    let SpawnError::NotReady(fault) = spawn("/bin/sh", &["-c", "echo sorry; exit 3"]) else { panic!() };
    assert_eq!((fault.cause, fault.output), (Cause::Exited { code: 3 }, vec!["sorry".to_owned()]));
    let by_hand = Command::new("/proc/self/exe").arg(CHILD).stdin(Stdio::null()).output().unwrap();
    assert_eq!(by_hand.status.code(), Some(2));
}

fn it_starts_quickly() {
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let before = Instant::now();
            drop(child());
            before.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("  started and ended in {:?}, at most {:?}", times[times.len() / 2], times[times.len() - 1]);
    assert!(times[times.len() / 2] < Duration::from_millis(500));
}
