//! Reading a backup: every file against its digest, every record against its hash and the one before.

use std::path::{Path, PathBuf};

use super::{
    BackupError, Manifest, base,
    segment::{Record, SegmentReader},
};
use crate::identity::{Head, IdentityId};

/// A backup that was found whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// Whose it is.
    pub identity: IdentityId,
    /// Where it ends.
    pub head: Head,
    /// How many segments it has.
    pub segments: u64,
    /// How many records.
    pub records: u64,
    /// How many bytes of segments.
    pub bytes: u64,
    /// How many plugin files.
    pub plugins: u64,
}

/// Walks a whole backup. `progress` is told the bytes that are done and all.
///
/// # Errors
///
/// [`BackupError::Damaged`] with the first place that is not what was written, [`BackupError::Missing`] or
/// [`BackupError::Unfinished`] if there is no backup.
pub fn check(folder: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Checked, BackupError> {
    let manifest = open(folder)?;
    for plugin in &manifest.plugins {
        read_plugin(folder, plugin)?;
    }
    if let Some(base) = &manifest.base {
        base::read(folder, base, manifest.identity, |_, _, _| Ok(()))?;
    }
    walk(folder, &manifest, progress, |_| Ok(true))?;
    Ok(Checked {
        identity: manifest.identity,
        head: manifest.head(),
        segments: manifest.segments.len() as u64,
        records: manifest.records(),
        bytes: manifest.bytes(),
        plugins: manifest.plugins.len() as u64,
    })
}

/// The manifest of a backup.
pub(super) fn open(folder: &Path) -> Result<Manifest, BackupError> {
    let folder = folder.to_owned();
    match Manifest::read(&folder)? {
        Some(manifest) if manifest.has_begun() => Ok(manifest),
        Some(_) => Err(BackupError::Unfinished { folder }),
        None => Err(BackupError::Missing { folder }),
    }
}

/// Hands every record to `visit`, in order, until it answers false.
pub(super) fn walk(
    folder: &Path,
    manifest: &Manifest,
    progress: &mut dyn FnMut(u64, u64),
    mut visit: impl FnMut(&Record<'_>) -> Result<bool, BackupError>,
) -> Result<(), BackupError> {
    let (mut head, mut done, total) = (manifest.start(), 0, manifest.bytes());
    for entry in &manifest.segments {
        let mut segment = SegmentReader::open(folder, entry, manifest.identity, head)?;
        while let Some(record) = segment.next()? {
            done += record.batch.length() as u64;
            progress(done, total);
            if !visit(&record)? {
                return Ok(());
            }
        }
        head = Head { tid: entry.last, hash: entry.head };
    }
    progress(total, total);
    Ok(())
}

/// Where a backup keeps a plugin file.
pub(super) fn plugin_file(folder: &Path, plugin: &super::PluginEntry) -> PathBuf {
    folder.join("plugins").join(format!("{}.so", plugin.digest))
}

/// Reads a plugin file, which has to have its digest.
pub(super) fn read_plugin(folder: &Path, plugin: &super::PluginEntry) -> Result<Vec<u8>, BackupError> {
    let path = plugin_file(folder, plugin);
    let content = std::fs::read(&path)
        .map_err(|error| BackupError::damaged(&path, "its place", format!("it cannot be read: {error}")))?;
    let digest = blake3::hash(&content);
    if *digest.as_bytes() != plugin.digest.0 {
        let problem = format!("its {} bytes have the digest {digest}", content.len());
        return Err(BackupError::damaged(&path, "its content", problem));
    }
    Ok(content)
}
