//! A library in C that stands between a program and its files: it writes down what the program does to them, or makes it fail.
//! `tests/shim/shim.c` says how.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::artifacts::checkout;

/// The length of a record before its data.
const RECORD_BYTES: usize = 40;

/// What happened to a file or folder below the watched one, in the order of the effects.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "each variant says what its fields are")]
pub enum Event {
    /// A file or folder was opened; it has this path, and was made if it is `new`.
    Open { file: u64, path: PathBuf, new: bool },
    /// A write begins. If it is synced, it holds from the thread's next [`Event::End`] on.
    Write { thread: u64, file: u64, offset: u64, data: Vec<u8>, synced: bool },
    /// The last synced write of a thread holds.
    End { thread: u64 },
    /// A sync of a file or folder begins: it covers what was written before.
    Sync { thread: u64, file: u64 },
    /// It has ended, and what it covers holds.
    Synced { thread: u64, file: u64 },
    /// A file has another length.
    Truncate { file: u64, length: u64 },
    /// A file has another name.
    Rename { from: PathBuf, to: PathBuf },
    /// A file or folder is gone.
    Unlink { path: PathBuf },
    /// A folder was made.
    Mkdir { path: PathBuf },
    /// A mapping was synced, which nothing here does.
    Msync,
    /// The call of this number was made to fail.
    Failed { call: u64 },
}

/// The library, built once for each test program.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shim.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        let status = compiler.arg(&path).arg(checkout().join("tests/shim/shim.c")).arg("-ldl").status().unwrap();
        assert!(status.success(), "the shim does not build");
        (folder, path)
    });
    path
}

/// Has a program's changes below `folder` written down in `log`, after those of programs before it that have ended; each sync takes
/// at least `sync_us` microseconds.
pub fn record(command: &mut Command, folder: &Path, log: &Path, sync_us: u64) {
    // A kill in the middle of a record leaves a part of one, which is about a change that was never begun.
    if log.exists() {
        let whole = read(log).last().map_or(0, |(end, _)| *end);
        File::options().write(true).open(log).and_then(|log| log.set_len(whole)).unwrap();
    }
    let command = command.env("LD_PRELOAD", library()).env("SHIM_FOLDER", folder);
    command.env("SHIM_LOG", log).env("SHIM_SYNC_US", sync_us.to_string());
}

/// Makes `count` calls of a program that change or sync something below `folder` fail with `errno`, beginning with the
/// `first` (from 1). With 0 for `errno` the program is killed in place of the first of them. What happens is written down in `log` too.
pub fn fail(command: &mut Command, folder: &Path, log: &Path, (first, errno, count): (u64, i32, u64)) {
    record(command, folder, log, 0);
    command.env("SHIM_FAIL", format!("{first}:{errno}:{count}"));
}

/// Everything that was written down, each event with where its record ends in the log. A part of a record at the end is left out.
pub fn read(log: &Path) -> Vec<(u64, Event)> {
    let bytes = fs::read(log).unwrap_or_default();
    let mut events = Vec::new();
    let mut place = 0;
    while bytes.len() - place >= RECORD_BYTES {
        let number = |at: usize| u64::from_ne_bytes(bytes[place + at..place + at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_ne_bytes(bytes[place + at..place + at + 4].try_into().unwrap());
        let (kind, synced, thread, file, offset) = (word(0), word(4) != 0, number(8), number(16), number(24));
        let end = place + RECORD_BYTES + number(32) as usize;
        if end > bytes.len() {
            break;
        }
        let data = &bytes[place + RECORD_BYTES..end];
        let path = || PathBuf::from(std::str::from_utf8(data).unwrap());
        let event = match kind {
            1 => Event::Open { file, path: path(), new: offset == 1 },
            2 => Event::Write { thread, file, offset, data: data.to_vec(), synced },
            3 => Event::End { thread },
            4 => Event::Sync { thread, file },
            5 => Event::Synced { thread, file },
            6 => Event::Truncate { file, length: offset },
            7 => {
                let both = path();
                let (from, to) = both.to_str().unwrap().split_once('\0').unwrap();
                Event::Rename { from: from.into(), to: to.into() }
            }
            8 => Event::Unlink { path: path() },
            9 => Event::Mkdir { path: path() },
            10 => Event::Msync,
            11 => Event::Failed { call: offset },
            kind => panic!("the log has a record of kind {kind} at byte {place}"),
        };
        events.push((end as u64, event));
        place = end;
    }
    events
}

/// How many of the events are calls that can be made to fail.
pub fn calls(events: &[(u64, Event)]) -> u64 {
    let is_call = |event: &Event| match event {
        Event::Open { new, .. } => *new,
        Event::Write { .. } | Event::Sync { .. } | Event::Truncate { .. } | Event::Rename { .. } => true,
        _ => false,
    };
    events.iter().filter(|(_, event)| is_call(event)).count() as u64
}
