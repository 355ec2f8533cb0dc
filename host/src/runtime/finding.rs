//! Objects by what a slot holds, the indexes that answer that, and posted messages, which are found by two of them.

use std::sync::Arc;

use theseus_abi::FailureCode;
use theseus_value::{ObjectId, Value, raw::MapView};

use super::{
    action::{self, ActionError, Answer, FoundView, IndexView, MessageView, ObjectRef, WhichMessages, codes},
    operator::Operator,
    views,
};
use crate::{
    exec::{Doing, Message, MessageState, Remember},
    identity::{
        self, Condition, INDEXES_SLOT, IndexDefinition, IndexNumber, IndexState, Reader, Version, Wanted, has_order,
        is_hosts_own,
    },
    swap,
};

/// How many objects or messages one answer holds at most.
const FOUND_MAX: usize = 10_000;

/// How many messages are looked at for one answer, whether or not they are for the object that was asked for.
const MESSAGES_LOOKED_AT_MAX: usize = 20_000;

/// The longest name of a behaviour or a slot of an index, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Under which the making and dropping of an index stands in the history.
const INDEX: &str = "theseus.index";

/// Objects by what a slot holds.
pub(super) fn find(
    reader: &mut Reader,
    behavior: Option<&str>,
    slot: &str,
    condition: &Condition,
    after: Option<&str>,
    limit: usize,
) -> Result<Answer, ActionError> {
    if !has_order(&condition.value) {
        let message = "a slot can be compared with a number, a text, a boolean, bytes or a reference";
        return Err(views::error(codes::BAD_REQUEST, message));
    }
    let index = index_for(reader, behavior, slot)?;
    let after = after.map(cursor).transpose()?;
    let limit = limit.clamp(1, FOUND_MAX);
    let wanted = Wanted { index: &index, condition: Some(condition), after: after.as_deref(), limit };
    let found = reader.matching(wanted).map_err(views::storage)?.ok_or_else(|| {
        let IndexDefinition { behavior, slot, .. } = &index;
        let message =
            format!("the index of {behavior} by {slot} is being built: `theseus index ls` tells when it is complete");
        views::error(codes::INDEX_BUILDING, message)
    })?;
    let objects = found.objects.iter().map(|(id, version)| found_view(*id, version, slot)).collect::<Result<_, _>>()?;
    Ok(Answer::Found { objects, next: found.next.map(|next| hex(&next)) })
}

/// The index that answers a question.
fn index_for(reader: &mut Reader, behavior: Option<&str>, slot: &str) -> Result<IndexDefinition, ActionError> {
    let head = reader.identity().head().tid;
    let mut indexes = reader.indexes(head).map_err(views::storage)?;
    indexes.retain(|index| &*index.slot == slot && behavior.is_none_or(|behavior| &*index.behavior == behavior));
    match (indexes.len(), indexes.pop()) {
        (1, Some(index)) => Ok(index),
        (0, _) | (_, None) => {
            let (of, name) = behavior.map_or((String::new(), "BEHAVIOR"), |name| (format!(" of {name}"), name));
            let message = format!("no index{of} is by `{slot}`: make one with `theseus index create {name} {slot}`");
            Err(views::error(codes::NO_INDEX, message))
        }
        (_, Some(last)) => {
            indexes.push(last);
            let behaviors: Vec<&str> = indexes.iter().map(|index| &*index.behavior).collect();
            let message =
                format!("several behaviours have an index by `{slot}`: say which of {}", behaviors.join(", "));
            Err(views::error(codes::BAD_REQUEST, message))
        }
    }
}

fn found_view(id: ObjectId, version: &Version, slot: &str) -> Result<FoundView, ActionError> {
    let record = version.record.as_ref().expect("a deleted object is in no index");
    let bad = |error: theseus_value::DecodeError| views::error("bad_encoding", error.to_string());
    let item = MapView::new(&record.slots).map_err(bad)?.get(slot).map_err(bad)?;
    let (behavior, tid) = (record.behavior.to_string(), version.tid.0);
    Ok(FoundView { id, behavior, value: views::value(item.unwrap_or_default())?, tid })
}

/// Posted messages.
pub(super) fn messages(
    reader: &mut Reader,
    target: Option<&ObjectRef>,
    which: WhichMessages,
    after: Option<&str>,
    limit: usize,
) -> Result<Answer, ActionError> {
    /// What a place among those that wait begins with, and one among those that were set aside.
    const PLACES: [char; 2] = ['w', 's'];

    let head = reader.identity().head().tid;
    let target = target.map(|target| views::find(reader, target, head)).transpose()?;
    let lists: &[usize] = match which {
        WhichMessages::Waiting => &[0],
        WhichMessages::SetAside => &[1],
        WhichMessages::All => &[0, 1],
    };
    let (first, mut after) = match after {
        Some(after) => {
            let list = PLACES.iter().position(|place| after.starts_with(*place)).ok_or_else(bad_cursor)?;
            (list, Some(cursor(&after[1..])?))
        }
        None => (0, None),
    };
    let (limit, mut left) = (limit.clamp(1, FOUND_MAX), MESSAGES_LOOKED_AT_MAX);
    let mut found = Vec::new();
    for list in lists.iter().copied().filter(|list| *list >= first) {
        let index = [IndexDefinition::due(), IndexDefinition::set_aside()][list].clone();
        loop {
            let wanted = Wanted { index: &index, condition: None, after: after.as_deref(), limit: limit - found.len() };
            let page = reader.matching(wanted).map_err(views::storage)?;
            let page = page.expect("an index that the host brings with it is complete");
            left = left.saturating_sub(page.objects.len());
            for (id, version) in &page.objects {
                found.extend(message(*id, version)?.filter(|it| target.is_none_or(|target| it.target == target)));
            }
            after = page.next;
            let Some(next) = &after else { break };
            if found.len() == limit || left == 0 {
                let next = Some(format!("{}{}", PLACES[list], hex(next)));
                return Ok(Answer::Messages { messages: found, next });
            }
        }
        // Nothing comes before the first place of the next list.
        if found.len() == limit && list + 1 < lists.len() {
            return Ok(Answer::Messages { messages: found, next: Some(PLACES[list + 1].to_string()) });
        }
    }
    Ok(Answer::Messages { messages: found, next: None })
}

fn message(id: ObjectId, version: &Version) -> Result<Option<MessageView>, ActionError> {
    let Some(record) = &version.record else { return Ok(None) };
    let read = Message::read(record).map_err(|error| views::error("bad_encoding", error.to_string()))?;
    let Some(read) = read else { return Ok(None) };
    let set_aside_us = match read.state {
        MessageState::Waiting(_) => None,
        MessageState::SetAside(at_us) => Some(at_us),
    };
    Ok(Some(MessageView {
        id,
        target: read.target,
        method: read.method.to_string(),
        arguments: views::value(&read.arguments)?,
        posted_us: read.posted_us,
        due_us: read.due_us(),
        set_aside_us,
        every_us: read.period.map(|(_, every_us)| every_us),
        attempts: read.attempts,
        error: read.error.as_ref().map(|error| views::recorded(error, identity::Tid::NONE)),
    }))
}

/// The indexes that operators made.
pub(super) fn indexes(reader: &mut Reader) -> Result<Answer, ActionError> {
    let head = reader.identity().head().tid;
    let listed = reader.indexes(head).map_err(views::storage)?;
    let view = |index: &IndexDefinition| {
        let state = reader.identity().index_state(index.number).map_err(views::storage)?;
        Ok(index_view(index, state == Some(IndexState::Complete)))
    };
    listed.iter().map(view).collect::<Result<_, _>>().map(Answer::Indexes)
}

fn index_view(index: &IndexDefinition, complete: bool) -> IndexView {
    let (behavior, slot) = (index.behavior.to_string(), index.slot.to_string());
    IndexView { index: index.number.0, behavior, slot, complete }
}

impl Operator {
    /// Makes an index. It is filled in the background.
    pub(super) fn create_index(&self, behavior: String, slot: String) -> Result<Answer, ActionError> {
        let listed = self.listed()?;
        let fits = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len());
        if !fits(&behavior) || !fits(&slot) || is_hosts_own(&behavior) {
            let message =
                format!("an index is of a plugin's behaviour by a slot; names have at most {NAME_BYTES_MAX} bytes");
            return Err(views::error(codes::BAD_REQUEST, message));
        }
        if listed.iter().any(|index| *index.behavior == *behavior && *index.slot == *slot) {
            let message = format!("there is an index of {behavior} by {slot} already");
            return Err(views::error(codes::INDEX_EXISTS, message));
        }
        let most = self.indexes_max;
        if listed.len() >= most {
            let message =
                format!("there are {most} indexes, which is the limit: drop one, or raise identity.indexes_max");
            return Err(views::error(FailureCode::LIMIT_EXCEEDED.name(), message));
        }
        let plugins = self.engine.plugins();
        let Some(known) = plugins.behavior(&behavior) else {
            let message = format!("no plugin in force provides `{behavior}`; `theseus plugins` lists the behaviours");
            return Err(views::error("no_such_behavior", message));
        };
        let slots: Vec<&str> = known.description().slots.iter().map(|slot| slot.name.as_str()).collect();
        if !slots.contains(&&*slot) {
            let message = format!("{behavior} has no slot `{slot}`; it has: {}", slots.join(", "));
            return Err(views::error(codes::BAD_REQUEST, message));
        }
        let (of, by): (Arc<str>, Arc<str>) = (behavior.into(), slot.into());
        let (behavior, slot) = (of.clone(), by.clone());
        let tid = self.change_indexes("create", &of, &by, move |indexes, tid| {
            indexes.push(IndexDefinition { number: IndexNumber(tid.0), behavior, slot });
        })?;
        let made = IndexDefinition { number: IndexNumber(tid), behavior: of, slot: by };
        Ok(Answer::Index(index_view(&made, false)))
    }

    /// Removes an index. Its rows go in the background.
    pub(super) fn drop_index(&self, behavior: &str, slot: &str) -> Result<Answer, ActionError> {
        let listed = self.listed()?;
        let Some(index) = listed.into_iter().find(|index| &*index.behavior == behavior && &*index.slot == slot) else {
            let message = format!("there is no index of {behavior} by {slot}; `theseus index ls` lists them");
            return Err(views::error(codes::NO_INDEX, message));
        };
        let number = index.number;
        self.change_indexes("drop", behavior, slot, move |indexes, _| indexes.retain(|it| it.number != number))?;
        Ok(Answer::Deleted { at: views::head(self.engine.identity().head()) })
    }

    fn listed(&self) -> Result<Vec<IndexDefinition>, ActionError> {
        let identity = self.engine.identity();
        Reader::new(identity.clone()).indexes(identity.head().tid).map_err(views::storage)
    }

    /// Changes the list of indexes; answers the transaction. Only the operator thread does that, so nothing changes meanwhile.
    fn change_indexes(
        &self,
        what: &str,
        behavior: &str,
        slot: &str,
        change: impl FnOnce(&mut Vec<IndexDefinition>, identity::Tid) + Send + 'static,
    ) -> Result<action::Tid, ActionError> {
        let which = [("behavior", behavior), ("slot", slot)];
        let which = which.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text.to_owned()))).collect();
        let note = Value::Map([(what.to_owned(), Value::Map(which))].into_iter().collect()).encode();
        let remember: Remember = Box::new(move |moment| {
            let Ok(Value::Map(mut slots)) = Value::decode(moment.remembered) else { return None };
            let mut indexes = IndexDefinition::read_all(moment.remembered).ok()?;
            change(&mut indexes, moment.tid);
            slots.insert(INDEXES_SLOT, IndexDefinition::write_all(&indexes));
            Some(Value::Map(slots).encode())
        });
        let done = swap::ask(&self.engine, Doing::Note { what: INDEX, note, remember: Some(remember) })
            .map_err(|refusal| views::refusal(&refusal))?;
        Ok(done.tid.unwrap_or_default().0)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where to go on, from what a client was told.
fn cursor(text: &str) -> Result<Vec<u8>, ActionError> {
    if !text.is_ascii() || text.len() % 2 == 1 {
        return Err(bad_cursor());
    }
    let digits = |place: usize| u8::from_str_radix(&text[place..place + 2], 16).map_err(|_| bad_cursor());
    (0..text.len()).step_by(2).map(digits).collect()
}

fn bad_cursor() -> ActionError {
    views::error(codes::BAD_REQUEST, "`after` has to be what the answer before gave as `next`")
}
