//! Taking a backup: the records that it lacks, copied in short read transactions.

use std::{
    fs,
    fs::{File, OpenOptions},
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    BackupError, Manifest, PluginEntry, base,
    read::{plugin_file, read_plugin},
    segment::{SegmentWriter, glance},
    sync_folder,
};
use crate::identity::{Head, IdentityId, Place, RecordHash, Tid, history::History};

/// How much is copied in one read transaction, in bytes; a record that is longer is copied alone.
const STEP_BYTES: u64 = 4 << 20;

/// What stands in the folder beside the backup's own files.
const LOCK: &str = "backup.lock";

/// How to take a backup.
#[derive(Clone, Debug)]
pub struct TakeOptions {
    /// How long a segment may become before the next one is begun, in bytes.
    pub segment_bytes_max: u64,
    /// The content of `theseus.toml`, which goes along.
    pub settings: Option<String>,
}

/// What a backup has become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Whose it is.
    pub identity: IdentityId,
    /// Where it ends.
    pub head: Head,
    /// Whether it was begun now.
    pub full: bool,
    /// The transaction after which it was continued.
    pub since: Tid,
    /// Records that were copied now.
    pub records: u64,
    /// Bytes that were written now.
    pub bytes: u64,
    /// How many segments there are now.
    pub segments: u64,
}

/// Keeps a plugin file that a record names, by its digest; answers its length, or none if it is not to be had. The flag says
/// whether it is in force at the end of the history, so that without it nobody could start what is restored.
pub type KeepPlugin<'a> = &'a mut dyn FnMut(RecordHash, bool) -> Result<Option<u64>, BackupError>;

/// Copies what the backup in `folder` lacks of the history. `progress` is told the transactions that are done and the last.
///
/// # Errors
///
/// See [`BackupError`]. What was there before is still there then, and whole.
pub fn take(
    place: &Place,
    folder: &Path,
    options: &TakeOptions,
    keep_plugin: KeepPlugin<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Taken, BackupError> {
    let history = History::open(place, true)?;
    let (identity, until) = {
        let view = history.read()?;
        (view.identity()?, view.lasting_head()?)
    };
    fs::create_dir_all(folder).map_err(BackupError::io(folder))?;
    let found = Manifest::read(folder)?;
    if found.is_none() {
        refuse_other_files(folder)?;
    }
    let _lock = lock(folder)?;
    // Only now is it sure that nobody changes it any more.
    let mut manifest = Manifest::read(folder)?.unwrap_or_else(|| Manifest::empty(identity));
    let full = manifest.segments.is_empty();
    let before = (manifest.records(), manifest.bytes());
    check_continued(folder, &manifest, &history, identity)?;
    keep_lost_plugins(folder, &manifest, keep_plugin)?;
    if manifest.segments.is_empty() {
        manifest.base = base::take(folder, identity, &history.read()?)?;
    }
    if manifest.segments.is_empty() || manifest.settings != options.settings {
        manifest.settings.clone_from(&options.settings);
        manifest.publish(folder)?;
    }
    let since = manifest.head();
    let mut copy = Copy { folder, history, identity, until, generations: Vec::new() };
    while manifest.head().tid < until.tid {
        let segment = copy.segment(manifest.head(), options.segment_bytes_max, progress)?;
        manifest.segments.push(segment);
        keep_plugins(&mut manifest, &copy.generations, keep_plugin)?;
        manifest.time_us = now_us();
        manifest.publish(folder)?;
    }
    if !manifest.has_begun() {
        // Nothing has happened in the identity, so there is nothing to copy, and that is whole.
        manifest.time_us = now_us();
        manifest.publish(folder)?;
    }
    let (records, bytes) = (manifest.records() - before.0, manifest.bytes() - before.1);
    let (head, segments) = (manifest.head(), manifest.segments.len() as u64);
    Ok(Taken { identity, head, full, since: since.tid, records, bytes, segments })
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A folder that is to become a backup must hold nothing else.
fn refuse_other_files(folder: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(folder).map_err(BackupError::io(folder))? {
        let name = entry.map_err(BackupError::io(folder))?.file_name();
        // What an interrupted first backup leaves.
        if name != LOCK
            && name != ".backup.json.tmp"
            && name != ".base.tmp"
            && !name.to_string_lossy().ends_with(".base")
        {
            return Err(BackupError::NotEmpty { folder: folder.to_owned() });
        }
    }
    Ok(())
}

/// Keeps other backups away until it is dropped.
fn lock(folder: &Path) -> Result<File, BackupError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(BackupError::io(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => sync_folder(folder).map(|()| file),
        Err(Errno::WOULDBLOCK) => Err(BackupError::Busy { folder: folder.to_owned() }),
        Err(errno) => Err(BackupError::io(&path)(io::Error::from(errno))),
    }
}

/// Whether this history goes on where the backup ends.
fn check_continued(
    folder: &Path,
    manifest: &Manifest,
    history: &History,
    identity: IdentityId,
) -> Result<(), BackupError> {
    let folder = folder.to_owned();
    if manifest.identity != identity {
        return Err(BackupError::OtherIdentity { folder, found: manifest.identity, identity });
    }
    for segment in &manifest.segments {
        glance(&folder, segment)?;
    }
    if let Some(base) = &manifest.base {
        base::glance(&folder, base)?;
    }
    let (head, view) = (manifest.head(), history.read()?);
    let packed = view.packed().tid;
    if manifest.segments.is_empty() {
        return Ok(());
    }
    if packed > head.tid {
        return Err(BackupError::Packed { folder, last: head.tid, base: packed });
    }
    if view.hash_at(head.tid)? == Some(head.hash) {
        return Ok(());
    }
    Err(BackupError::NotContinued { folder, head })
}

/// Copies again the plugin files that the backup relies on and does not have any more, as far as that can be seen at a glance.
fn keep_lost_plugins(folder: &Path, manifest: &Manifest, keep_plugin: KeepPlugin<'_>) -> Result<(), BackupError> {
    for plugin in &manifest.plugins {
        let is_there = fs::metadata(plugin_file(folder, plugin)).is_ok_and(|it| it.len() == plugin.bytes);
        if !is_there && keep_plugin(plugin.digest, false)?.is_none() {
            // Says what is wrong with it.
            read_plugin(folder, plugin)?;
        }
    }
    Ok(())
}

fn keep_plugins(
    manifest: &mut Manifest,
    generations: &[(RecordHash, bool)],
    keep_plugin: KeepPlugin<'_>,
) -> Result<(), BackupError> {
    for (digest, in_force) in generations {
        if manifest.plugins.iter().any(|plugin| plugin.digest == *digest) {
            continue;
        }
        if let Some(bytes) = keep_plugin(*digest, *in_force)? {
            manifest.plugins.push(PluginEntry { digest: *digest, bytes });
        }
    }
    Ok(())
}

/// Copying under way.
struct Copy<'a> {
    folder: &'a Path,
    history: History,
    identity: IdentityId,
    until: Head,
    /// The plugin files that the segment names, and whether they are in force at its end.
    generations: Vec<(RecordHash, bool)>,
}

impl Copy<'_> {
    /// Writes one segment.
    fn segment(
        &mut self,
        since: Head,
        bytes_max: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<super::SegmentEntry, BackupError> {
        self.generations.clear();
        let mut segment = SegmentWriter::create(self.folder, self.identity, since)?;
        // At least one record, however short a segment is to be.
        while segment.head() == since || segment.head().tid < self.until.tid && segment.bytes() < bytes_max {
            // What is written to the other disk is written when the read transaction has ended: it must not wait for that.
            let room = bytes_max.saturating_sub(segment.bytes()).min(STEP_BYTES);
            for (head, record) in self.step(segment.head(), room)? {
                segment.push(head, &record)?;
            }
            progress(segment.head().tid.0, self.until.tid.0);
        }
        segment.finish()
    }

    /// The next records, checked: until they have `bytes_max` bytes, or the end.
    fn step(&mut self, since: Head, bytes_max: u64) -> Result<Vec<(Head, Vec<u8>)>, BackupError> {
        let view = self.history.read()?;
        let (mut head, mut records, mut bytes) = (since, Vec::new(), 0);
        let (until, generations) = (self.until, &mut self.generations);
        let walked = view.walk_records(since.tid.next(), |hash, batch| {
            let header = &batch.header;
            if header.first != head.tid.next() || header.previous != head.hash {
                let problem = format!("it does not continue transaction {} ({})", head.tid, head.hash);
                return Err(view.damaged(header.last, problem));
            }
            note(generations, header.generations.iter().map(|(_, digest)| RecordHash(*digest)));
            head = Head { tid: header.last, hash };
            bytes += batch.length() as u64;
            records.push((head, batch.bytes().to_vec()));
            Ok(bytes < bytes_max && head.tid < until.tid)
        });
        if records.is_empty() {
            // A pack that ended meanwhile has taken it away.
            if let Some(base) = self.history.mark()?.filter(|base| base.head.tid > since.tid) {
                return Err(BackupError::Packed {
                    folder: self.folder.to_owned(),
                    last: since.tid,
                    base: base.head.tid,
                });
            }
            walked?;
            return Err(view.damaged(since.tid.next(), "it is not there").into());
        }
        walked?;
        Ok(records)
    }
}

/// Notes the plugin files of a record, which are those in force now.
fn note(generations: &mut Vec<(RecordHash, bool)>, now: impl Iterator<Item = RecordHash> + Clone) {
    for (digest, in_force) in generations.iter_mut() {
        *in_force = now.clone().any(|other| other == *digest);
    }
    for digest in now {
        if !generations.iter().any(|(known, _)| *known == digest) {
            generations.push((digest, true));
        }
    }
}
