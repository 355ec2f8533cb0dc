//! Keeping an identity elsewhere: `backup`, `restore`, `export`, `import`. They work on the files, beside a running host where they
//! only read.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value as Json, json};

use super::{
    commands::Session,
    consistency::{Bar, interrupted, stop_signals},
    fault::{Exit, Fault},
    output::{self, plain},
};
use crate::{
    gateway::json::hex,
    runtime::{
        OpenError,
        action::{At, codes},
        backup::{self, BackupError},
        portable::{self, ImportOptions},
    },
};

impl Session {
    pub(super) fn backup(&self, folder: &Path) -> Result<(), Fault> {
        self.need_identity()?;
        let taken = shown(|progress| backup::take(&self.home, folder, progress))?;
        let document = json!({
            "identity": taken.identity.to_string(),
            "folder": folder.display().to_string(),
            "tid": taken.head.tid.0,
            "head": hex(&taken.head.hash.0),
            "full": taken.full,
            "since": taken.since.0,
            "records": taken.records,
            "bytes": taken.bytes,
            "segments": taken.segments,
        });
        self.print(&document.to_string(), |it| {
            let what = match (it["full"] == true, it["since"] == it["tid"]) {
                (true, _) => format!("full backup of transactions {} to {}", taken.since.0 + 1, it["tid"]),
                (false, true) => "nothing new".to_owned(),
                (false, false) => format!("transactions {} to {} added", taken.since.0 + 1, it["tid"]),
            };
            format!("{what}: {} records, {}\n{}", it["records"], output::size(taken.bytes), head(it))
        })
    }

    pub(super) fn check_backup(&self, folder: &Path) -> Result<(), Fault> {
        let checked = shown(|progress| backup::check(folder, progress).map_err(backup::Failure::from))?;
        let document = json!({
            "identity": checked.identity.to_string(),
            "folder": folder.display().to_string(),
            "tid": checked.head.tid.0,
            "head": hex(&checked.head.hash.0),
            "segments": checked.segments,
            "records": checked.records,
            "bytes": checked.bytes,
            "plugins": checked.plugins,
        });
        self.print(&document.to_string(), |it| {
            let (records, segments, plugins) = (&it["records"], &it["segments"], &it["plugins"]);
            let bytes = output::size(checked.bytes);
            format!("whole: {records} records in {segments} segments ({bytes}), {plugins} plugin files\n{}", head(it))
        })
    }

    pub(super) fn restore(&self, folder: &Path, to: Option<u64>) -> Result<(), Fault> {
        let restored = shown(|progress| backup::restore(&self.home, folder, to, progress))?;
        let document = json!({
            "identity": restored.identity.to_string(),
            "tid": restored.head.tid.0,
            "head": hex(&restored.head.hash.0),
            "cut": restored.cut,
            "records": restored.records,
            "objects": restored.objects,
            "plugins": restored.plugins,
        });
        self.print(&document.to_string(), |it| {
            let cut = match it["cut"] == true {
                true => format!(
                    "transaction {} was not the last of its record: the record was cut there, and its hash is new\n",
                    it["tid"]
                ),
                false => String::new(),
            };
            let (identity, records, objects) = (plain(&it["identity"]), &it["records"], &it["objects"]);
            format!("identity {identity}: {records} records, {objects} objects\n{cut}{}", head(it))
        })
    }

    pub(super) fn export(&self, at: Option<At>, file: Option<&Path>) -> Result<(), Fault> {
        self.need_identity()?;
        let Some(file) = file else {
            portable::export(&self.home, at, &mut io::stdout().lock())?;
            return Ok(());
        };
        let stop = stop_signals()?;
        let exported = written(file, |out| Ok(portable::export(&self.home, at, &mut Stoppable { out, stop: &stop })?));
        let exported = match exported {
            Err(_) if stop.load(Ordering::Relaxed) => return Err(interrupted("nothing was exported")),
            exported => exported?,
        };
        let document = json!({
            "identity": exported.identity,
            "tid": exported.tid,
            "file": file.display().to_string(),
            "objects": exported.objects,
            "names": exported.names,
        });
        self.print(&document.to_string(), |it| {
            format!("{} objects and {} names as of transaction {}\n", it["objects"], it["names"], it["tid"])
        })
    }

    pub(super) fn import(&self, file: &Path, keep_ids: bool) -> Result<(), Fault> {
        self.need_identity()?;
        let imported = shown(|progress| portable::import(&self.home, file, ImportOptions { keep_ids }, progress))?;
        let document = json!({
            "identity": imported.identity,
            "tid": imported.head.tid.0,
            "head": hex(&imported.head.hash.0),
            "objects": imported.objects,
            "names": imported.names,
            "transactions": imported.transactions,
            "renumbered": imported.renumbered,
        });
        self.print(&document.to_string(), |it| {
            let (objects, names, transactions) = (&it["objects"], &it["names"], &it["transactions"]);
            let renumbered = match imported.renumbered {
                0 => String::new(),
                some => format!("{some} objects got other ids, since theirs are not for new objects\n"),
            };
            format!("{objects} objects and {names} names in {transactions} transactions\n{renumbered}{}", head(it))
        })
    }
}

fn head(document: &Json) -> String {
    format!("head {}\n", output::head(document))
}

/// Has a file written, which takes the place of the one that is there when it is whole.
fn written<T>(file: &Path, write: impl FnOnce(&File) -> Result<T, Fault>) -> Result<T, Fault> {
    // A link stays: what it leads to is replaced.
    let file = &fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let cannot = |error: io::Error| Fault::failed("output", format!("{}: {error}", file.display()));
    if fs::metadata(file).is_ok_and(|there| !there.is_file()) {
        // A pipe or a device takes it as it comes, and nothing may take its place.
        return write(&fs::OpenOptions::new().write(true).open(file).map_err(cannot)?);
    }
    let temporary = beside(file);
    let done = begin(file, &temporary).map_err(cannot).and_then(|out| {
        let done = write(&out)?;
        out.sync_all().and_then(|()| fs::rename(&temporary, file)).map_err(cannot)?;
        Ok(done)
    });
    if done.is_err() {
        // What counts is why it failed.
        _ = fs::remove_file(&temporary);
    }
    done
}

/// A place in the same folder for what is not whole yet.
fn beside(file: &Path) -> PathBuf {
    file.with_file_name(format!("{}{}.tmp", beside_prefix(file), std::process::id()))
}

fn beside_prefix(file: &Path) -> String {
    format!(".{}.", file.file_name().unwrap_or_default().to_string_lossy())
}

/// Begins the file that is to take the place of another one, and removes what those left that were killed at that.
///
/// Whoever is at work holds a lock on his, which the system frees when he ends. Where there are no locks, or the folder may only be
/// written, nothing is removed.
fn begin(file: &Path, temporary: &Path) -> io::Result<File> {
    let prefix = beside_prefix(file);
    let folder = temporary.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_one = entry.file_name().to_str().is_some_and(|name| {
            let process = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tmp"));
            process.is_some_and(|process| process.parse::<u32>().is_ok())
        });
        if is_one && File::open(entry.path()).is_ok_and(|left| lock(&left)) {
            // If it stays, it is only in the way of the disk's room.
            _ = fs::remove_file(entry.path());
        }
    }
    let out = File::create(temporary)?;
    lock(&out);
    Ok(out)
}

fn lock(file: &File) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Takes nothing more when it is told to stop.
struct Stoppable<'a> {
    out: &'a File,
    stop: &'a AtomicBool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("told to stop"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Does something that tells how far it is, and shows that on a terminal.
fn shown<T, E: Into<Fault>>(work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T, E>) -> Result<T, Fault> {
    let mut bar = Bar::new();
    let result = work(&mut |done, total| bar.draw(done, total, None));
    bar.clear();
    result.map_err(Into::into)
}

impl From<backup::Failure> for Fault {
    fn from(failure: backup::Failure) -> Fault {
        let message = failure.to_string();
        match failure {
            backup::Failure::Owner(error) => OpenError::from(error).into(),
            backup::Failure::Settings(error) => error.into(),
            backup::Failure::Backup(BackupError::Storage(error)) => OpenError::from(error).into(),
            backup::Failure::Backup(error) => {
                let (exit, code) = match error {
                    BackupError::Damaged { .. } => (Exit::Damaged, "backup_damaged"),
                    BackupError::Missing { .. } | BackupError::Unfinished { .. } => (Exit::Failed, "no_backup"),
                    BackupError::NoSuchTransaction { .. } => (Exit::Failed, codes::NO_SUCH_TRANSACTION),
                    BackupError::Io { .. } => (Exit::Failed, "backup_failed"),
                    _ => (Exit::Refused, "backup_refused"),
                };
                Fault::new(exit, code, message)
            }
        }
    }
}

impl From<portable::Failure> for Fault {
    fn from(failure: portable::Failure) -> Fault {
        use portable::Failure as It;

        let message = failure.to_string();
        match failure {
            It::Storage(error) => OpenError::from(error).into(),
            It::Output(error) => error.into(),
            It::Owner(error) => OpenError::from(error).into(),
            It::Settings(error) => error.into(),
            It::NoSuchTransaction { .. } | It::NothingThen => Fault::failed(codes::NO_SUCH_TRANSACTION, message),
            It::NamesTaken { .. } | It::IdsTaken { .. } => Fault::new(Exit::Refused, "import_refused", message),
            It::Malformed { .. } | It::Changed { .. } => Fault::failed("bad_import", message),
            It::NoRoom(_) => Fault::failed(codes::STORAGE_FULL, message),
            It::Slots { .. } => Fault::damaged(message),
            It::Io { .. } => Fault::failed("cannot_read", message),
        }
    }
}
