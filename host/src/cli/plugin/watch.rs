//! Waiting for a change in folders of source code.
//!
//! What decides is a look at every file; that the kernel reports a change (inotify) is a hint that it is worth the look. So
//! nothing is missed where the kernel does not report: on network file systems, or because there are too many folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

/// The most files that are looked at.
const FILES_MAX: usize = 50_000;

/// How long nothing may change before a change counts as finished, and how often that is waited for.
const SETTLED: Duration = Duration::from_millis(100);
const ROUNDS_MAX: usize = 50;

/// How long a hint is waited for before looking without one.
const LOOK_INTERVAL: Duration = Duration::from_millis(1000);

/// How files looked when they were looked at: when each was changed, and how long it is.
type Sight = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Folders of source code, and how they looked when it was last built.
pub(super) struct Watcher {
    folders: BTreeSet<PathBuf>,
    seen: Sight,
}

impl Watcher {
    pub(super) fn new(folder: PathBuf) -> Watcher {
        Watcher { folders: BTreeSet::from([folder]), seen: Sight::new() }
    }

    /// Watches more folders.
    pub(super) fn add(&mut self, folders: impl IntoIterator<Item = PathBuf>) {
        for folder in folders {
            if self.folders.insert(folder.clone()) {
                look(&folder, &mut self.seen, &mut Vec::new());
            }
        }
    }

    /// Takes what there is now for known.
    pub(super) fn look(&mut self) {
        self.seen = self.sight().0;
    }

    /// Takes a file for known that was written by the build itself.
    pub(super) fn know(&mut self, file: &Path) {
        if let Some(sight) = sight_of(file) {
            self.seen.insert(file.to_owned(), sight);
        }
    }

    /// Waits until something has changed and then nothing more does. False if it was interrupted.
    pub(super) fn wait(&mut self, interrupted: &AtomicBool) -> bool {
        loop {
            let (mut now, folders) = self.sight();
            if now != self.seen {
                for _ in 0..ROUNDS_MAX {
                    thread::sleep(SETTLED);
                    let later = self.sight().0;
                    let settled = later == now;
                    now = later;
                    if settled {
                        break;
                    }
                }
                self.seen = now;
                return !interrupted.load(Ordering::Relaxed);
            }
            if interrupted.load(Ordering::Relaxed) {
                return false;
            }
            hint(&folders, LOOK_INTERVAL);
        }
    }

    /// All files, and the folders they are in.
    fn sight(&self) -> (Sight, Vec<PathBuf>) {
        let (mut files, mut folders) = (Sight::new(), Vec::new());
        for folder in &self.folders {
            look(folder, &mut files, &mut folders);
        }
        (files, folders)
    }
}

fn sight_of(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Adds the files below a folder, without what is hidden or made by cargo.
fn look(folder: &Path, files: &mut Sight, folders: &mut Vec<PathBuf>) {
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        // Cargo marks its target folder, whatever its name, as one that can be made again.
        if folder.join("CACHEDIR.TAG").exists() {
            continue;
        }
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let is_hidden =
                entry.file_name().as_encoded_bytes().starts_with(b".") || entry.file_name() == OsStr::new("target");
            if is_hidden || files.len() >= FILES_MAX {
                continue;
            }
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(path),
                _ => files.extend(sight_of(&path).map(|sight| (path, sight))),
            }
        }
        folders.push(folder);
    }
}

/// Waits until the kernel reports a change in one of the folders, for `interval` at most or until a signal comes.
#[cfg(target_os = "linux")]
fn hint(folders: &[PathBuf], interval: Duration) {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        fs::inotify::{self, CreateFlags, WatchFlags},
    };

    let Ok(watch) = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) else { return thread::sleep(interval) };
    let what =
        WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ATTRIB;
    for folder in folders {
        // More folders than the kernel watches: those are looked at when the time is over.
        _ = inotify::add_watch(&watch, folder, what);
    }
    let timeout = Timespec::try_from(interval).expect("a second fits");
    // Whether there was a report, a signal or nothing: next comes a look.
    _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout));
}

#[cfg(not(target_os = "linux"))]
fn hint(_folders: &[PathBuf], interval: Duration) {
    thread::sleep(interval);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_sources_are_seen_and_those_of_builds_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("src/lib.rs", "1");
        let mut watcher = Watcher::new(folder.path().to_owned());
        watcher.look();
        let changed = |watcher: &Watcher| watcher.sight().0 != watcher.seen;
        assert!(!changed(&watcher));
        write("target/debug/x", "made");
        write(".git/index", "hidden");
        write("made/CACHEDIR.TAG", "");
        write("made/debug/x", "");
        write("Cargo.lock", "written by cargo");
        watcher.know(&folder.path().join("Cargo.lock"));
        assert!(!changed(&watcher));
        write("src/more/new.rs", "");
        assert!(changed(&watcher));
        let not_interrupted = AtomicBool::new(false);
        assert!(watcher.wait(&not_interrupted));
        assert!(!changed(&watcher));
        fs::remove_file(folder.path().join("src/lib.rs")).unwrap();
        assert!(watcher.wait(&not_interrupted));
        write("src/lib.rs", "22");
        assert!(watcher.wait(&not_interrupted));
        assert!(!watcher.wait(&AtomicBool::new(true)), "interrupted");
    }
}
