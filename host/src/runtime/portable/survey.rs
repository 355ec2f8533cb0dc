//! Looking through a file before anything of it is imported: whether every line is right, and which ids and names it has.

use rustc_hash::{FxHashMap, FxHashSet};
use theseus_value::{ObjectId, Value, json::from_json};

use super::{
    Failure,
    lines::{Line, Lines, Object},
};
use crate::{
    exec::{self, Message},
    identity::{HOST_BEHAVIOR, HOST_OBJECT, MESSAGE_BEHAVIOR, ObjectRecord},
};

/// What a file holds.
#[derive(Default)]
pub(super) struct Survey {
    /// The objects that it defines, and in which transaction last.
    defined: FxHashMap<u64, u64>,
    /// Objects that something refers to; those that are not defined either are known at the end.
    mentioned: FxHashSet<u64>,
    /// The names, and in which transaction each stands last.
    names: FxHashMap<String, u64>,
    /// The transaction that is being read; 0 before the first that the file begins.
    transaction: u64,
    /// Lines that define an object, and lines that give or free a name.
    objects: u64,
    namings: u64,
}

impl Survey {
    /// Reads a whole file.
    pub(super) fn of(lines: &mut Lines, progress: &mut dyn FnMut(u64, u64)) -> Result<Survey, Failure> {
        let mut survey = Survey::default();
        while let Some(line) = lines.next()? {
            survey.line(lines, line)?;
            if (survey.objects + survey.namings).is_multiple_of(1024) {
                let (done, total) = lines.progress();
                progress(done / 2, total);
            }
        }
        Ok(survey)
    }

    /// The names that it gives or frees.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Every object that it speaks of, defined or not, in order.
    pub(super) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.defined.keys().chain(&self.mentioned).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether it defines an object.
    pub(super) fn defines(&self, id: u64) -> bool {
        self.defined.contains_key(&id)
    }

    /// How many lines define objects, and how many give or free names.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.objects, self.namings)
    }

    /// Whether it says itself where transactions begin.
    pub(super) fn has_transactions(&self) -> bool {
        self.transaction > 0
    }

    fn line(&mut self, lines: &Lines, line: Line) -> Result<(), Failure> {
        match line {
            Line::Begin(_) => self.transaction += 1,
            Line::Object(object) => {
                self.define(lines, object.id)?;
                check_behavior(&object.behavior).map_err(|problem| lines.wrong(problem))?;
                self.mentioned.extend(&object.parents);
                let message = (object.behavior == MESSAGE_BEHAVIOR).then(|| (object.schema, object.parents.clone()));
                let slots = slots(lines, object)?;
                self.mention(&slots);
                if let Some((schema, parents)) = message {
                    let (behavior, parents) = (MESSAGE_BEHAVIOR.into(), parents.into_iter().map(ObjectId).collect());
                    let record = ObjectRecord { behavior, schema, parents, slots: slots.encode().into() };
                    Message::check(&record).map_err(|problem| lines.wrong(problem))?;
                }
            }
            Line::Deleted(id) => self.define(lines, id)?,
            Line::Name(name) => {
                exec::check_name(&name.name).map_err(|failure| lines.wrong(failure.message.to_string()))?;
                if let Some(id) = name.id
                    && !self.defines(id)
                {
                    let problem = format!("`{}` stands for object {id}, which no line before defines", name.name);
                    return Err(lines.wrong(problem));
                }
                let transaction = self.transaction;
                if self.names.insert(name.name.clone(), transaction) == Some(transaction) {
                    return Err(lines.wrong(format!("the name `{}` stands in this transaction twice", name.name)));
                }
                self.namings += 1;
            }
            Line::End(end) => {
                if (end.objects, end.names) != (self.objects, self.namings) {
                    let (objects, names) = (self.objects, self.namings);
                    let problem = format!(
                        "lines are missing: {} objects and {} names were written, {objects} and {names} are there",
                        end.objects, end.names
                    );
                    return Err(lines.wrong(problem));
                }
            }
        }
        Ok(())
    }

    fn define(&mut self, lines: &Lines, id: u64) -> Result<(), Failure> {
        if id == HOST_OBJECT.0 {
            return Err(lines.wrong(format!("{id} cannot be the id of an object")));
        }
        if self.defined.insert(id, self.transaction) == Some(self.transaction) {
            return Err(lines.wrong(format!("object {id} stands in this transaction twice")));
        }
        self.objects += 1;
        Ok(())
    }

    fn mention(&mut self, value: &Value) {
        match value {
            Value::Ref(object) => _ = self.mentioned.insert(object.0),
            Value::Array(items) => items.iter().for_each(|item| self.mention(item)),
            Value::Map(map) => map.iter().for_each(|(_, item)| self.mention(item)),
            _ => {}
        }
    }
}

/// The slots of an object.
pub(super) fn slots(lines: &Lines, object: Object) -> Result<Value, Failure> {
    let slots = from_json(object.slots).map_err(|error| lines.wrong(format!("its slots: {error}")))?;
    match slots {
        Value::Map(_) => Ok(slots),
        _ => Err(lines.wrong("`slots` is not a JSON object with a value for each slot")),
    }
}

/// Behaviours are named `plugin.Type`.
fn check_behavior(behavior: &str) -> Result<(), String> {
    let named = behavior.split_once('.').is_some_and(|(plugin, name)| !plugin.is_empty() && !name.is_empty());
    if !named || behavior.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Err(format!("`{}` is not the name of a behaviour, such as `counter.Counter`", behavior.escape_debug()));
    }
    if behavior == HOST_BEHAVIOR {
        return Err(format!("an object of behaviour {HOST_BEHAVIOR} belongs to its home"));
    }
    Ok(())
}
