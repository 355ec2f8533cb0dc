//! What may be on a disk after its power was lost: computed from what a program did to its files.
//!
//! A disk keeps what was synced. Of each sector that was written since, it has the synced content or that of any later write: so
//! writes may be missing, in another order, and torn. Names are kept once their folder was synced; of later changes to a folder,
//! the disk has those up to some point.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use crate::{dice::Dice, shim::Event};

/// What a disk writes at once or not at all.
const SECTOR: u64 = 512;

/// Sectors in a page of LMDB.
const PAGE_SECTORS: u64 = 8;

/// What becomes of what was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// All of it is lost.
    All,
    /// Nothing is.
    Nothing,
    /// Everything after some moment.
    Tail,
    /// Some of the writes.
    Writes,
    /// Some of the pages, each as of some moment of its own.
    Pages,
    /// Some of the sectors, each as of some moment of its own.
    Sectors,
}

impl Loss {
    /// All kinds.
    pub const ALL: [Loss; 6] = [Loss::All, Loss::Nothing, Loss::Tail, Loss::Writes, Loss::Pages, Loss::Sectors];
}

/// One file, whatever its name.
#[derive(Clone, Debug, Default)]
struct File {
    /// What the disk has for certain.
    durable: Vec<u8>,
    /// What the program sees.
    newest: Vec<u8>,
    /// The contents of sectors that were written since the last sync, each with the number of the write.
    pending: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
}

/// A change of names that is not synced yet.
#[derive(Clone, Debug)]
enum Naming {
    Make(PathBuf, Entry),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Folder,
    File(usize),
}

/// A disk below one folder.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    files: Vec<File>,
    /// The names that the disk has for certain.
    durable: BTreeMap<PathBuf, Entry>,
    /// The names that the program sees.
    newest: BTreeMap<PathBuf, Entry>,
    pending: Vec<Naming>,
    /// The file or folder of each inode that was opened.
    opened: HashMap<u64, (PathBuf, Entry)>,
    /// Syncs that have begun, by thread and inode, with the number of the last write before; and synced writes, by thread.
    syncing: HashMap<(u64, u64), (u64, usize)>,
    writing: HashMap<u64, (usize, u64)>,
    writes: u64,
}

impl Disk {
    /// A disk that has what is in a folder now, for certain.
    pub fn of(root: &Path) -> Disk {
        let mut disk = Disk {
            root: root.to_owned(),
            files: Vec::new(),
            durable: BTreeMap::new(),
            newest: BTreeMap::new(),
            pending: Vec::new(),
            opened: HashMap::new(),
            syncing: HashMap::new(),
            writing: HashMap::new(),
            writes: 0,
        };
        disk.scan(root);
        disk.newest = disk.durable.clone();
        disk
    }

    fn scan(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                self.durable.insert(path.clone(), Entry::Folder);
                self.scan(&path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap();
                self.files.push(File { durable: bytes.clone(), newest: bytes, pending: BTreeMap::new() });
                self.durable.insert(path, Entry::File(self.files.len() - 1));
            }
        }
    }

    /// Does to the disk what the program did.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Open { file, path, new } => {
                if *new {
                    self.files.push(File::default());
                    self.name(Naming::Make(path.clone(), Entry::File(self.files.len() - 1)));
                }
                // What is neither a file nor a folder of ours is the folder itself.
                let entry = self.newest.get(path).copied().unwrap_or(Entry::Folder);
                self.opened.insert(*file, (path.clone(), entry));
            }
            Event::Write { thread, file, offset, data, synced } => {
                let Some(place) = self.file(*file) else { return };
                self.writes += 1;
                self.files[place].write(self.writes, *offset, data);
                if *synced {
                    self.writing.insert(*thread, (place, self.writes));
                }
            }
            Event::End { thread } => {
                if let Some((place, write)) = self.writing.remove(thread) {
                    self.files[place].settle_write(write);
                }
            }
            Event::Sync { thread, file } => {
                self.syncing.insert((*thread, *file), (self.writes, self.pending.len()));
            }
            Event::Synced { thread, file } => {
                let Some((write, names)) = self.syncing.remove(&(*thread, *file)) else { return };
                match self.opened.get(file).cloned() {
                    Some((_, Entry::File(place))) => self.files[place].settle(write),
                    Some((path, Entry::Folder)) => self.settle_names(&path, names),
                    None => {}
                }
            }
            Event::Truncate { file, length } => {
                let Some(place) = self.file(*file) else { return };
                self.writes += 1;
                self.files[place].resize(self.writes, *length as usize);
            }
            Event::Rename { from, to } => self.name(Naming::Rename(from.clone(), to.clone())),
            Event::Unlink { path } => self.name(Naming::Remove(path.clone())),
            Event::Mkdir { path } => self.name(Naming::Make(path.clone(), Entry::Folder)),
            Event::Msync => panic!("a mapping was synced: what is written through mappings is not in the log"),
            Event::Failed { .. } => {}
        }
    }

    fn file(&self, inode: u64) -> Option<usize> {
        match self.opened.get(&inode) {
            Some((_, Entry::File(place))) => Some(*place),
            _ => None,
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.newest);
        self.pending.push(naming);
    }

    /// What was changed in a folder before its sync began is kept.
    fn settle_names(&mut self, folder: &Path, until: usize) {
        let mut place = 0;
        let durable = &mut self.durable;
        let mut renamed = Vec::new();
        self.pending.retain(|naming| {
            place += 1;
            let settles = place <= until && naming.folder() == Some(folder);
            if settles {
                naming.apply(durable);
                if let Naming::Rename(from, to) = naming {
                    renamed.push((from.clone(), to.clone()));
                }
            }
            !settles
        });
        // What is still uncertain in a folder that was renamed is uncertain under its new name.
        for (from, to) in renamed {
            self.pending.iter_mut().for_each(|naming| naming.after_rename(&from, &to));
        }
        // Syncs of other folders that have begun know places in the list.
        self.syncing.values_mut().for_each(|(_, names)| *names = (*names).min(self.pending.len()));
    }

    /// Writes into `folder`, which is made, what the disk may have now of everything whose path begins with `part`.
    pub fn image(&self, loss: Loss, dice: &mut Dice, part: &str, folder: &Path) {
        let mut names = self.durable.clone();
        let kept = match loss {
            Loss::All => 0,
            Loss::Nothing => self.pending.len(),
            _ => dice.roll(self.pending.len() as u64 + 1) as usize,
        };
        self.pending[..kept].iter().for_each(|naming| naming.apply(&mut names));
        fs::create_dir_all(folder).unwrap();
        let moment = dice.roll(self.writes + 1);
        for (path, entry) in &names {
            let relative = path.strip_prefix(&self.root).unwrap();
            if !relative.starts_with(part) {
                continue;
            }
            let to = folder.join(relative);
            match entry {
                Entry::Folder => fs::create_dir_all(&to).unwrap(),
                // LMDB makes its locks anew.
                Entry::File(_) if to.ends_with("lock.mdb") => {}
                Entry::File(place) if to.parent().is_some_and(Path::exists) => {
                    fs::write(&to, self.files[*place].image(loss, moment, dice)).unwrap();
                }
                // Its folder was lost.
                Entry::File(_) => {}
            }
        }
    }

    /// Whether anything is not synced.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.files.iter().all(|file| file.pending.is_empty())
    }
}

/// What a path that begins with `from` is when that is `to`.
fn moved_to(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Naming::Make(path, entry) => _ = names.insert(path.clone(), *entry),
            Naming::Rename(from, to) => {
                // A folder takes along what is in it.
                let inside = names.keys().filter(|path| path.starts_with(from));
                for path in inside.cloned().collect::<Vec<_>>() {
                    if let Some(entry) = names.remove(&path) {
                        names.insert(moved_to(&path, from, to), entry);
                    }
                }
            }
            Naming::Remove(path) => _ = names.remove(path),
        }
    }

    /// The same once a folder has another name.
    fn after_rename(&mut self, from: &Path, to: &Path) {
        let paths = match self {
            Naming::Make(path, _) | Naming::Remove(path) => [Some(path), None],
            Naming::Rename(path, other) => [Some(path), Some(other)],
        };
        for path in paths.into_iter().flatten().filter(|path| path.starts_with(from)) {
            *path = moved_to(path, from, to);
        }
    }

    fn folder(&self) -> Option<&Path> {
        match self {
            Naming::Make(path, _) | Naming::Rename(_, path) | Naming::Remove(path) => path.parent(),
        }
    }
}

impl File {
    fn write(&mut self, number: u64, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.newest.len() < end {
            self.newest.resize(end, 0);
        }
        self.newest[offset as usize..end].copy_from_slice(data);
        for sector in offset / SECTOR..(end as u64).div_ceil(SECTOR) {
            let start = (sector * SECTOR) as usize;
            let content = self.newest[start..self.newest.len().min(start + SECTOR as usize)].to_vec();
            self.pending.entry(sector).or_default().push((number, content));
        }
    }

    fn resize(&mut self, number: u64, length: usize) {
        if length < self.newest.len() {
            self.newest.truncate(length);
            self.durable.truncate(length);
            self.pending.retain(|sector, _| sector * SECTOR < length as u64);
        } else if length > self.newest.len() {
            // The length is kept when the last sector is.
            let last = [0];
            self.write(number, length as u64 - 1, &last);
        }
    }

    /// A sync has ended that covers all writes up to this one.
    fn settle(&mut self, until: u64) {
        let durable = &mut self.durable;
        self.pending.retain(|sector, versions| {
            if let Some((_, content)) = versions.iter().rev().find(|(number, _)| *number <= until) {
                put(durable, *sector, content);
            }
            versions.retain(|(number, _)| *number > until);
            !versions.is_empty()
        });
    }

    /// A synced write has ended: its sectors are kept, whatever was written there before.
    fn settle_write(&mut self, number: u64) {
        let durable = &mut self.durable;
        self.pending.retain(|sector, versions| {
            if let Some(place) = versions.iter().position(|(write, _)| *write == number) {
                put(durable, *sector, &versions[place].1);
                versions.drain(..=place);
            }
            !versions.is_empty()
        });
    }

    fn image(&self, loss: Loss, moment: u64, dice: &mut Dice) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let numbers: BTreeSet<u64> = self.pending.values().flatten().map(|(number, _)| *number).collect();
        let kept: BTreeSet<u64> = numbers.iter().copied().filter(|_| dice.roll(2) == 0).collect();
        let mut page = (u64::MAX, 0);
        for (sector, versions) in &self.pending {
            let any = |dice: &mut Dice| dice.roll(versions.len() as u64 + 1) as usize;
            let count = match loss {
                Loss::All => 0,
                Loss::Nothing => versions.len(),
                Loss::Tail => versions.iter().filter(|(number, _)| *number <= moment).count(),
                Loss::Writes => versions.iter().rposition(|(number, _)| kept.contains(number)).map_or(0, |it| it + 1),
                Loss::Pages => {
                    if page.0 != sector / PAGE_SECTORS {
                        page = (sector / PAGE_SECTORS, any(dice));
                    }
                    page.1.min(versions.len())
                }
                Loss::Sectors => any(dice),
            };
            if let Some((_, content)) = count.checked_sub(1).map(|place| &versions[place]) {
                put(&mut bytes, *sector, content);
            }
        }
        // The file may have its new length and not what was written there.
        if loss != Loss::All && bytes.len() < self.newest.len() && dice.roll(2) == 0 {
            bytes.resize(self.newest.len(), 0);
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, sector: u64, content: &[u8]) {
    let start = (sector * SECTOR) as usize;
    if bytes.len() < start + content.len() {
        bytes.resize(start + content.len(), 0);
    }
    bytes[start..start + content.len()].copy_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 7;

    fn write(offset: u64, byte: u8, length: usize, synced: bool) -> Event {
        Event::Write { thread: 1, file: FILE, offset, data: vec![byte; length], synced }
    }

    /// A disk with one file of two pages of zeros.
    fn disk() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data"), [0; 8192]).unwrap();
        let mut disk = Disk::of(folder.path());
        disk.apply(&Event::Open { file: FILE, path: folder.path().join("data"), new: false });
        (folder, disk)
    }

    fn images(disk: &Disk, loss: Loss) -> Vec<Vec<u8>> {
        let mut dice = Dice(0xd15c);
        let image = |_| {
            let folder = tempfile::tempdir().unwrap();
            disk.image(loss, &mut dice, "", folder.path());
            fs::read(folder.path().join("data")).unwrap()
        };
        (0..50).map(image).collect()
    }

    #[test]
    fn what_was_synced_is_kept_and_the_rest_is_not_certain() {
        let (_folder, mut disk) = disk();
        disk.apply(&write(0, 1, 4096, false));
        disk.apply(&Event::Sync { thread: 1, file: FILE });
        disk.apply(&write(4096, 2, 4096, false));
        disk.apply(&Event::Synced { thread: 1, file: FILE });
        for loss in Loss::ALL {
            assert!(images(&disk, loss).iter().all(|image| image[..4096] == [1; 4096]), "{loss:?}");
        }
        assert!(images(&disk, Loss::All).iter().all(|image| image[4096..] == [0; 4096]));
        assert!(images(&disk, Loss::Nothing).iter().all(|image| image[4096..] == [2; 4096]));
        let torn = |image: &Vec<u8>| image[4096..].contains(&0) && image[4096..].contains(&2);
        assert!(images(&disk, Loss::Sectors).iter().any(torn));
        assert!(!images(&disk, Loss::Pages).iter().any(torn));
    }

    #[test]
    fn a_synced_write_is_kept_alone_once_it_has_ended() {
        let (_folder, mut disk) = disk();
        disk.apply(&write(4096, 2, 4096, false));
        disk.apply(&write(32, 1, 120, true));
        assert!(images(&disk, Loss::All).iter().all(|image| image[32] == 0));
        disk.apply(&Event::End { thread: 1 });
        assert!(images(&disk, Loss::All).iter().all(|image| image[32..152] == [1; 120] && image[4096] == 0));
        assert!(!disk.is_settled());
    }

    #[test]
    fn a_name_is_kept_once_its_folder_is_synced() {
        let (folder, mut disk) = disk();
        let root = folder.path();
        let has_new = |disk: &Disk, loss| {
            let image = tempfile::tempdir().unwrap();
            disk.image(loss, &mut Dice(1), "", image.path());
            image.path().join("new").exists()
        };
        disk.apply(&Event::Open { file: 8, path: root.join("new.tmp"), new: true });
        disk.apply(&Event::Rename { from: root.join("new.tmp"), to: root.join("new") });
        assert!(!has_new(&disk, Loss::All) && has_new(&disk, Loss::Nothing));
        disk.apply(&Event::Open { file: 9, path: root.to_owned(), new: false });
        disk.apply(&Event::Sync { thread: 1, file: 9 });
        disk.apply(&Event::Synced { thread: 1, file: 9 });
        assert!(has_new(&disk, Loss::All) && disk.is_settled());
    }
    #[test]
    fn a_renamed_folder_takes_its_content_along() {
        let (folder, mut disk) = disk();
        let (root, old, new) = (folder.path(), folder.path().join("old"), folder.path().join("new"));
        let sync = |disk: &mut Disk, inode: u64, path: &Path| {
            disk.apply(&Event::Open { file: inode, path: path.to_owned(), new: false });
            disk.apply(&Event::Sync { thread: 1, file: inode });
            disk.apply(&Event::Synced { thread: 1, file: inode });
        };
        let there = |disk: &Disk, loss| {
            let image = tempfile::tempdir().unwrap();
            disk.image(loss, &mut Dice(1), "", image.path());
            ["old/kept", "old/not", "new/kept", "new/not"].map(|name| image.path().join(name).exists())
        };
        disk.apply(&Event::Mkdir { path: old.clone() });
        disk.apply(&Event::Open { file: 8, path: old.join("kept"), new: true });
        sync(&mut disk, 9, &old);
        sync(&mut disk, 10, root);
        disk.apply(&Event::Open { file: 11, path: old.join("not"), new: true });
        disk.apply(&Event::Rename { from: old.clone(), to: new.clone() });
        assert_eq!(there(&disk, Loss::All), [true, false, false, false]);
        assert_eq!(there(&disk, Loss::Nothing), [false, false, true, true]);
        sync(&mut disk, 10, root);
        assert_eq!(there(&disk, Loss::All), [false, false, true, false]);
        assert_eq!(there(&disk, Loss::Nothing), [false, false, true, true]);
    }
}
