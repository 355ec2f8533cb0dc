//! Whether the data file has every page that LMDB may read: one that it lacks would end the process (SIGBUS).
//!
//! The file may rightly end before the last page that was ever taken: LMDB does not write pages that a transaction took and gave
//! back, it only lists them as free. Whoever opens the file for writing, and so is its only writer, makes it longer; where it was
//! cut off, zeros are found, and what was there is reported as damaged. Whoever only reads has to tell the two cases apart: the
//! file is whole if each page behind its end is listed as free. That list is read from the file and not through LMDB's mapping,
//! because the pages that hold it may be missing, too.

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    time::Duration,
};

use super::{EnvInner, Lease, StorageError, failed};

/// How often whoever only reads looks, and how long it waits in between: a live host may be about to write what is missing.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl EnvInner {
    /// Sees to it that every page that LMDB may read lies within the file.
    pub(super) fn make_whole_pages(&self, read_only: bool) -> Result<(), StorageError> {
        let data = self.path.join("data.mdb");
        let io_error = |source| StorageError::Io { path: data.clone(), source };
        let (mut length, mut needed) = (0, 0);
        for _ in 0..LOOKS {
            let fail = |error| failed(&self.path, error);
            let (info, page) =
                (self.environment.info().map_err(fail)?, self.environment.stat().map_err(fail)?.page_size());
            needed = (info.last_pgno() as u64).saturating_add(1).saturating_mul(page.into());
            if needed > info.map_size() as u64 {
                break;
            }
            length = fs::metadata(&data).map_err(io_error)?.len();
            if length >= needed {
                return Ok(());
            }
            if !read_only {
                let file = fs::OpenOptions::new().write(true).open(&data).map_err(io_error)?;
                return file.set_len(needed).map_err(io_error);
            }
            if self.lacks_free_pages_only(&File::open(&data).map_err(io_error)?, page.into())? {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err(StorageError::Damaged {
            path: self.path.clone(),
            place: "the end of data.mdb".to_owned(),
            problem: format!("it has {length} bytes, {needed} belong there"),
        })
    }

    /// Whether each page behind the end of the file is listed as free.
    fn lacks_free_pages_only(&self, file: &File, page_bytes: u64) -> Result<bool, StorageError> {
        let _lease = Lease::begin();
        let _inside = self.watch.enter();
        // As long as it lasts, a host writes over none of the pages that list what is free as of it.
        let (_view, commit) = self.view()?;
        // Taken after the view began: what the view shows was written before.
        let length = file.metadata().map_err(|source| StorageError::Io { path: self.path.clone(), source })?.len();
        // A list that cannot be read, or is none, says of no page that it is free.
        Ok(Pages { file, length, page_bytes }.only_free_ones_are_missing(commit).unwrap_or(false))
    }
}

/// LMDB's pages, see `MDB_page`, `MDB_meta` and `MDB_node` in its `mdb.c`. Numbers are the machine's.
struct Pages<'a> {
    file: &'a File,
    length: u64,
    page_bytes: u64,
}

const WORD_BYTES: usize = size_of::<usize>();
/// The head of a page: its number, 16 bits, the flags, and where free space begins and ends; behind it, the places of its nodes.
const FLAGS: usize = WORD_BYTES + 2;
const FREE_SPACE: usize = WORD_BYTES + 4;
const HEAD_BYTES: usize = WORD_BYTES + 8;
/// A meta page: behind the head two times 32 bits and two words, then what is known of the tree of free pages (the root is its last
/// word) and of the main one, then the last page and the number of the commit.
const TREE_BYTES: usize = 8 + 5 * WORD_BYTES;
const TREE_OF_FREE: usize = HEAD_BYTES + 8 + 2 * WORD_BYTES;
const ROOT_OF_FREE: usize = TREE_OF_FREE + TREE_BYTES - WORD_BYTES;
const LAST_PAGE: usize = TREE_OF_FREE + 2 * TREE_BYTES;
const COMMIT: usize = LAST_PAGE + WORD_BYTES;
/// The root of a tree that has nothing.
const NO_PAGE: u64 = usize::MAX as u64;
/// The head of a node: 32 bits, its flags, and the length of its key, which follows.
const NODE_FLAGS: usize = 4;
const NODE_KEY_BYTES: usize = 6;
const NODE_BYTES: usize = 8;
/// What the flags of a page and of a node say.
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const VALUE_ELSEWHERE: u16 = 1;

impl Pages<'_> {
    /// Whether each page up to the last one lies in the file or is free as of a commit; none if the file does not say.
    fn only_free_ones_are_missing(&self, commit: u64) -> Option<bool> {
        let meta = self.read(commit % 2, 0, self.page_bytes)?;
        if word(&meta, COMMIT)? != commit {
            return None;
        }
        let whole = self.length / self.page_bytes;
        let missing = whole..word(&meta, LAST_PAGE)?.checked_add(1)?;
        let mut free = HashSet::new();
        let root = word(&meta, ROOT_OF_FREE)?;
        let mut ahead: Vec<u64> = (root != NO_PAGE).then_some(root).into_iter().collect();
        // In a tree, no page is met twice.
        let mut pages_left = whole;
        while let Some(number) = ahead.pop() {
            pages_left = pages_left.checked_sub(1)?;
            let page = self.read(number, 0, self.page_bytes)?;
            let nodes = usize::from(half(&page, FREE_SPACE)?).checked_sub(HEAD_BYTES)? / 2;
            for node in 0..nodes {
                let node = page.get(usize::from(half(&page, HEAD_BYTES + 2 * node)?)..)?;
                match half(&page, FLAGS)? {
                    flags if flags & BRANCH != 0 => ahead.push(child(node)?),
                    flags if flags & LEAF != 0 => {
                        free.extend(self.free_pages(node)?.into_iter().filter(|number| missing.contains(number)));
                    }
                    _ => return None,
                }
            }
        }
        Some(free.len() as u64 == missing.end.saturating_sub(missing.start))
    }

    /// What a node of a leaf page lists: the value is the number of pages, and they.
    fn free_pages(&self, node: &[u8]) -> Option<Vec<u64>> {
        let bytes = low(node)?;
        let value = node.get(NODE_BYTES + usize::from(half(node, NODE_KEY_BYTES)?)..)?;
        let elsewhere;
        let list = if half(node, NODE_FLAGS)? & VALUE_ELSEWHERE != 0 {
            elsewhere = self.read(word(value, 0)?, HEAD_BYTES as u64, bytes.into())?;
            &elsewhere
        } else {
            value.get(..bytes as usize)?
        };
        let pages = usize::try_from(word(list, 0)?).ok()?;
        (1..=pages).map(|place| word(list, place.checked_mul(WORD_BYTES)?)).collect()
    }

    /// So many bytes from a place in a page on; none if they are not all in the file.
    fn read(&self, page: u64, from: u64, bytes: u64) -> Option<Vec<u8>> {
        let start = page.checked_mul(self.page_bytes)?.checked_add(from)?;
        if start.checked_add(bytes)? > self.length {
            return None;
        }
        let mut content = vec![0; usize::try_from(bytes).ok()?];
        self.file.read_exact_at(&mut content, start).ok()?;
        Some(content)
    }
}

/// What the first 32 bits of a node are: the length of the value, or the lower part of the number of a page.
fn low(node: &[u8]) -> Option<u32> {
    node.first_chunk().map(|low| u32::from_ne_bytes(*low))
}

/// Where a node of a branch page leads to.
fn child(node: &[u8]) -> Option<u64> {
    Some(u64::from(low(node)?) | u64::from(half(node, NODE_FLAGS)?) << 32)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| usize::from_ne_bytes(*word) as u64)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|half| u16::from_ne_bytes(*half))
}
