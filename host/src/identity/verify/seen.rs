//! What the history says so far, in as little memory as possible: of each object and name the newest version, as far as it is needed to
//! judge the next one and the row of the table.
//!
//! A version takes 32 bytes, its spine 16 bytes for each entry. Object ids are given in order, so versions lie in pages by id.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use theseus_value::{DecodeError, ObjectId, raw::Reader};
use twox_hash::XxHash3_64;

use crate::identity::{
    ObjectRecord, Pointers, Tid,
    version::{RawVersion, Row, jump_number},
};

/// How many objects a page has room for.
const PAGE: u64 = 512;

/// The newest version of an object or a name so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    /// The transaction that wrote it.
    pub tid: Tid,
    /// How many versions there are up to it; 0 if there is none.
    pub number: u64,
    /// A digest of the content and of the transaction that wrote the version before.
    pub digest: u64,
    /// The top of the version's spine.
    pub spine: u32,
    /// [`GONE`], or of an object the number of its behaviour and schema version.
    pub kind: u32,
}

/// The kind of what was deleted, or freed.
pub(super) const GONE: u32 = 0;

/// The kind of names.
const NAMED: u32 = 1;

impl Seen {
    const NONE: Seen = Seen { tid: Tid::NONE, number: 0, digest: 0, spine: 0, kind: GONE };

    fn of(row: &Row<'_>, kind: u32, spines: &mut Spines) -> Seen {
        let spine = row.spine.iter().rev().fold(0, |rest, tid| spines.push(*tid, rest));
        Seen { tid: row.tid, number: row.number, digest: digest(row.previous, row.content), spine, kind }
    }
}

/// Spines as linked lists in one place: a version's spine is that of the version before with an entry more or less on top.
#[derive(Default)]
pub(super) struct Spines {
    /// Transaction, and where the rest is.
    pub nodes: Vec<(Tid, u32)>,
    /// A list of free nodes.
    pub free: u32,
}

impl Spines {
    fn push(&mut self, tid: Tid, rest: u32) -> u32 {
        let place = self.free;
        match place.checked_sub(1) {
            Some(free) => {
                self.free = self.nodes[free as usize].1;
                self.nodes[free as usize] = (tid, rest);
                place
            }
            None => {
                self.nodes.push((tid, rest));
                u32::try_from(self.nodes.len()).expect("memory ends before 2^32 entries")
            }
        }
    }

    /// The spine without its top.
    fn pop(&mut self, spine: u32) -> u32 {
        let Some(place) = spine.checked_sub(1) else { return 0 };
        let rest = self.nodes[place as usize].1;
        self.nodes[place as usize].1 = self.free;
        self.free = spine;
        rest
    }

    fn top(&self, spine: u32) -> Tid {
        spine.checked_sub(1).map_or(Tid::NONE, |place| self.nodes[place as usize].0)
    }

    fn iter(&self, mut spine: u32) -> impl Iterator<Item = Tid> {
        std::iter::from_fn(move || {
            let (tid, rest) = self.nodes[spine.checked_sub(1)? as usize];
            spine = rest;
            Some(tid)
        })
    }
}

/// The behaviours and schema versions that objects have, by number.
#[derive(Default)]
pub(super) struct Kinds(pub Vec<(Arc<str>, u32)>);

impl Kinds {
    /// The number of the kind of an encoded object; `guess` is looked at first.
    fn number(&mut self, guess: u32, record: &[u8]) -> Result<u32, DecodeError> {
        let (behavior, schema) = ObjectRecord::kind(&mut Reader::new(record))?;
        let same = |(known, version): &(Arc<str>, u32)| **known == *behavior && *version == schema;
        if guess.checked_sub(1).and_then(|guess| self.0.get(guess as usize)).is_some_and(same) {
            return Ok(guess);
        }
        let place = self.0.iter().position(same).unwrap_or_else(|| {
            self.0.push((behavior.into(), schema));
            self.0.len() - 1
        });
        Ok(place as u32 + 1)
    }

    /// The behaviour and schema version of a kind.
    pub(super) fn get(&self, kind: u32) -> Option<&(Arc<str>, u32)> {
        self.0.get(kind.checked_sub(1)? as usize)
    }
}

/// Names by a digest: there may be millions of them.
pub(super) type NameDigest = u128;

pub(super) fn name_digest(name: &str) -> NameDigest {
    let digest = blake3::hash(name.as_bytes());
    u128::from_le_bytes(*digest.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

/// All that was seen.
#[derive(Default)]
pub(super) struct Graph {
    /// Objects, in pages.
    pub pages: FxHashMap<u64, Box<[Seen]>>,
    /// How many objects there are, deleted ones too.
    pub objects: u64,
    pub names: FxHashMap<NameDigest, Seen>,
    pub spines: Spines,
    pub kinds: Kinds,
}

impl Graph {
    /// What was seen of an object.
    pub(super) fn object(&self, object: ObjectId) -> Option<&Seen> {
        let seen = &self.pages.get(&(object.0 / PAGE))?[(object.0 % PAGE) as usize];
        (seen.number != 0).then_some(seen)
    }

    /// Takes the next version of an object in; answers where it should stand among the others.
    pub(super) fn see_object(
        &mut self,
        tid: Tid,
        object: ObjectId,
        version: &RawVersion<'_>,
    ) -> Result<Pointers, DecodeError> {
        let seen = slot(&mut self.pages, object);
        self.objects += u64::from(seen.number == 0);
        seen.kind = match version.content {
            Some(record) => self.kinds.number(seen.kind, record)?,
            None => GONE,
        };
        Ok(advance(seen, &mut self.spines, tid, version.content))
    }

    /// Takes the next version of a name in; answers where it should stand among the others.
    pub(super) fn see_name(&mut self, tid: Tid, name: &str, version: &RawVersion<'_>) -> Pointers {
        let seen = self.names.entry(name_digest(name)).or_insert(Seen::NONE);
        seen.kind = if version.content.is_some() { NAMED } else { GONE };
        advance(seen, &mut self.spines, tid, version.content)
    }

    /// Takes an object up as a row of the base says it is.
    pub(super) fn base_object(&mut self, object: ObjectId, row: &Row<'_>) -> Result<(), DecodeError> {
        let kind = row.content.map_or(Ok(GONE), |record| self.kinds.number(GONE, record))?;
        *slot(&mut self.pages, object) = Seen::of(row, kind, &mut self.spines);
        self.objects += 1;
        Ok(())
    }

    /// Takes a name up as a row of the base says it is.
    pub(super) fn base_name(&mut self, name: &str, row: &Row<'_>) {
        let kind = if row.content.is_some() { NAMED } else { GONE };
        self.names.insert(name_digest(name), Seen::of(row, kind, &mut self.spines));
    }

    /// Whether a row says what was seen; in words if not.
    pub(super) fn compare(&self, seen: &Seen, row: &Row<'_>) -> Result<(), String> {
        if (seen.number, seen.tid) != (row.number, row.tid) {
            return Err(format!(
                "it is version {} of transaction {}, the history has version {} of transaction {}",
                row.number, row.tid, seen.number, seen.tid
            ));
        }
        let same = seen.digest == digest(row.previous, row.content)
            && (seen.kind == GONE) == row.content.is_none()
            && self.spines.iter(seen.spine).eq(row.spine.iter().copied());
        if same { Ok(()) } else { Err(format!("its content is not what transaction {} wrote", row.tid)) }
    }

    /// The objects from one id to before another, in order, until `visit` answers false.
    pub(super) fn between(&self, from: u64, until: u64, mut visit: impl FnMut(ObjectId, &Seen) -> bool) {
        if from >= until {
            return;
        }
        let (first, last) = (from / PAGE, (until - 1) / PAGE);
        let mut pages: Vec<u64> = if last - first < 64 {
            (first..=last).filter(|page| self.pages.contains_key(page)).collect()
        } else {
            self.pages.keys().copied().filter(|page| (first..=last).contains(page)).collect()
        };
        pages.sort_unstable();
        for page in pages {
            for (id, seen) in (page * PAGE..).zip(&self.pages[&page]) {
                if seen.number != 0 && (from..until).contains(&id) && !visit(ObjectId(id), seen) {
                    return;
                }
            }
        }
    }
}

/// Where an object has its place.
pub(super) fn slot(pages: &mut FxHashMap<u64, Box<[Seen]>>, object: ObjectId) -> &mut Seen {
    let page = pages.entry(object.0 / PAGE).or_insert_with(|| vec![Seen::NONE; PAGE as usize].into());
    &mut page[(object.0 % PAGE) as usize]
}

/// See [`Version::succeeded_by`](crate::identity::Version::succeeded_by).
fn advance(seen: &mut Seen, spines: &mut Spines, tid: Tid, content: Option<&[u8]>) -> Pointers {
    let previous = seen.tid;
    seen.number += 1;
    if seen.number > 1 {
        seen.spine = if jump_number(seen.number) == seen.number - 1 {
            spines.push(previous, seen.spine)
        } else {
            spines.pop(seen.spine)
        };
    }
    seen.tid = tid;
    seen.digest = digest(previous, content);
    Pointers { number: seen.number, previous, jump: spines.top(seen.spine) }
}

fn digest(previous: Tid, content: Option<&[u8]>) -> u64 {
    XxHash3_64::oneshot_with_seed(previous.0, content.unwrap_or_default())
}
