//! The rows of the object table against what the history says at the very transaction that the table has reached.

use theseus_value::{DecodeError, ObjectId, raw::Reader};

use super::{
    super::{
        HOST_OBJECT, ObjectRecord, StorageError, Tid, each_reference,
        history::History,
        table::{Reached, TableView},
        version::Row,
    },
    Dangling,
    seen::{GONE, Graph, NameDigest, name_digest},
};
use rustc_hash::FxHashSet;

/// How many dangling references are listed.
const DANGLING_MAX: usize = 100;

/// How far the comparison has come. Beside a live host it takes several views of the table, each newer than the one before.
#[derive(Default)]
pub(super) struct Compared {
    /// The next object to look at; none if all are done.
    next_object: Option<ObjectId>,
    next_name: Option<Vec<u8>>,
    objects_done: bool,
    names_done: bool,
    names: FxHashSet<NameDigest>,
    pub rows: u64,
    pub dangling: u64,
    pub listed: Vec<Dangling>,
}

/// What a comparison is made with.
pub(super) struct Against<'a> {
    pub graph: &'a Graph,
    /// Whether the history could not be read in full. Then each row's own seal is all that can be checked, and the record is what has to be
    /// mended first.
    pub broken: bool,
}

impl Compared {
    /// Compares rows until it is asked to pause; answers whether all are done.
    pub(super) fn compare(
        &mut self,
        against: &Against<'_>,
        view: &TableView,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        if !self.objects_done {
            self.objects_done = self.compare_objects(against, view, pause, damage)?;
        }
        if self.objects_done && !self.names_done {
            self.names_done = self.compare_names(against, view, pause, damage)?;
        }
        Ok(self.names_done)
    }

    fn compare_objects(
        &mut self,
        against: &Against<'_>,
        view: &TableView,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        let graph = against.graph;
        let lacks = |from: u64, until: u64, damage: &mut dyn FnMut(String, String) -> bool| {
            let mut go_on = true;
            graph.between(from, until, |object, seen| {
                let problem = format!("the object table lacks it, transaction {} wrote it", seen.tid);
                go_on = against.broken || damage(format!("object {object}"), problem);
                go_on
            });
            go_on
        };
        let mut next = self.next_object.map_or(0, |object| object.0);
        let mut go_on = true;
        view.walk_objects(ObjectId(next), |object, row| {
            if pause() {
                go_on = false;
                return Ok(false);
            }
            self.rows += 1;
            go_on = lacks(next, object.0, damage);
            next = object.0.saturating_add(1);
            let problem = match (row, graph.object(object)) {
                (Err(problem), _) => Some(problem),
                (Ok(_), None) if !against.broken => Some("the history does not have it".to_owned()),
                (Ok(row), Some(seen)) if !against.broken => {
                    let compared = graph.compare(seen, &row);
                    self.references(graph, object, &row);
                    compared.err()
                }
                (Ok(_), _) => None,
            };
            if let Some(problem) = problem {
                go_on &= damage(format!("object {object}"), problem);
            }
            Ok(go_on)
        })?;
        self.next_object = Some(ObjectId(next));
        Ok(go_on && lacks(next, u64::MAX, damage))
    }

    fn compare_names(
        &mut self,
        against: &Against<'_>,
        view: &TableView,
        pause: &mut dyn FnMut() -> bool,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<bool, StorageError> {
        let graph = against.graph;
        let mut next = self.next_name.take().unwrap_or_default();
        let mut done = true;
        view.walk_names(&next.clone(), |key, row| {
            if pause() {
                next = key.to_vec();
                done = false;
                return Ok(false);
            }
            self.rows += 1;
            let name = String::from_utf8_lossy(key);
            let digest = name_digest(&name);
            let problem = match (row, graph.names.get(&digest)) {
                (Err(problem), _) => Some(problem),
                (Ok(_), None) if !against.broken => Some("the history does not have it".to_owned()),
                (Ok(row), Some(seen)) if !against.broken => {
                    self.names.insert(digest);
                    if let Some(object) = row.content.and_then(|content| Reader::new(content).uint().ok()) {
                        self.refer(graph, &format!("the name `{name}`"), ObjectId(object));
                    }
                    graph.compare(seen, &row).err()
                }
                (Ok(_), _) => None,
            };
            done &= problem.is_none_or(|problem| damage(format!("the name `{name}`"), problem));
            Ok(done)
        })?;
        self.next_name = Some(next);
        Ok(done)
    }

    /// Looks for the names that the history has and no row had. `view` is as of the last transaction seen.
    pub(super) fn missing_names(
        &self,
        against: &Against<'_>,
        history: &History,
        view: &TableView,
        damage: &mut dyn FnMut(String, String) -> bool,
    ) -> Result<(), StorageError> {
        if against.broken || self.names.len() == against.graph.names.len() {
            return Ok(());
        }
        let history = history.read()?;
        for (digest, seen) in against.graph.names.iter().filter(|(digest, _)| !self.names.contains(digest)) {
            let transaction = history.transaction(seen.tid)?;
            let mut names = transaction.iter().flat_map(|transaction| &transaction.names);
            let Some(naming) = names.find(|naming| name_digest(naming.name) == *digest) else { continue };
            // Beside a live host it may have been given when its place had been passed.
            if view.name(naming.name).ok().flatten().is_none_or(|row| row.tid != seen.tid) {
                let problem = format!("the object table lacks it, transaction {} gave it", seen.tid);
                if !damage(format!("the name `{}`", naming.name), problem) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Looks at what an object refers to.
    fn references(&mut self, graph: &Graph, object: ObjectId, row: &Row<'_>) {
        let Some(record) = row.content else { return };
        let read = |found: &mut dyn FnMut(ObjectId)| -> Result<(), DecodeError> {
            let mut reader = Reader::new(record);
            ObjectRecord::kind(&mut reader)?;
            for _ in 0..reader.array()? {
                found(ObjectId(reader.uint()?));
            }
            each_reference(&record[reader.position()..], found)
        };
        let mut dangling = Vec::new();
        // That it can be read was checked with the row.
        _ = read(&mut |target| {
            if graph.object(target).is_none() {
                dangling.push(target);
            }
        });
        for target in dangling {
            self.refer(graph, &format!("object {object}"), target);
        }
    }

    fn refer(&mut self, graph: &Graph, from: &str, to: ObjectId) {
        if graph.object(to).is_none() {
            self.dangling += 1;
            if self.listed.len() < DANGLING_MAX {
                self.listed.push(Dangling { from: from.to_owned(), to });
            }
        }
    }
}

/// What the table's own note has to say.
pub(super) fn expected_reached(graph: &Graph, reached: Tid) -> Reached {
    let mut expected = Reached { tid: reached, ..Reached::start() };
    let mut counts = vec![0_u64; graph.kinds.0.len() + 1];
    graph.between(0, u64::MAX, |object, seen| {
        expected.next_object = expected.next_object.max(object.0 + 1);
        if seen.kind != GONE && object != HOST_OBJECT {
            counts[seen.kind as usize] += 1;
        }
        true
    });
    for (kind, count) in (0..).zip(counts) {
        if let Some(kind) = graph.kinds.get(kind).filter(|_| count > 0) {
            expected.census.insert(kind.clone(), count);
        }
    }
    expected
}
