//! Messages that wait to be delivered: what they are as objects.
//!
//! A posted message is an object of behaviour `theseus.Message`, so it has a history, comes back after a crash, and goes away
//! in the very transaction that delivers it. One that waits has schema 1 and the slot `due_us`; one that was set aside has
//! schema 2 and `set_aside_us` instead. The object table has an index by each of the two, and the census counts both.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode};
use theseus_value::{
    DecodeError, Map, ObjectId, Value,
    raw::{MapView, Reader},
};

use super::State;
use crate::identity::{Census, MESSAGE_BEHAVIOR, ObjectRecord, RecordedFailure, Transaction};

/// The schema of a message that waits.
const WAITING: u32 = 1;
/// The schema of one that was set aside.
const SET_ASIDE: u32 = 2;

/// The longest name of a posted message's method, in bytes.
pub(super) const METHOD_BYTES_MAX: usize = 255;

/// What is to be posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post<'a> {
    /// Who receives it.
    pub target: ObjectId,
    /// The method.
    pub method: &'a str,
    /// The encoded arguments: a map, an array, or nothing at all.
    pub arguments: &'a [u8],
    /// When it is due.
    pub due: Due,
    /// After what time it is due again, in microseconds; none if it is delivered once.
    pub every_us: Option<u64>,
}

/// When a message is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// So many microseconds after the transaction that posts it.
    After(u64),
    /// At this time, in microseconds since the Unix epoch.
    At(u64),
}

/// A posted message.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// Who receives it.
    pub target: ObjectId,
    /// The method.
    pub method: Arc<str>,
    /// The encoded arguments: a map, an array, or nothing at all.
    pub arguments: Box<[u8]>,
    /// When it was posted, in microseconds since the Unix epoch.
    pub posted_us: u64,
    /// When it is due, or when it was set aside.
    pub state: MessageState,
    /// If it is delivered again and again: the first time it was due, and how long a period is, in microseconds.
    pub period: Option<(u64, u64)>,
    /// How often its delivery has failed since the last that did not.
    pub attempts: u64,
    /// How the last one failed.
    pub error: Option<RecordedFailure>,
}

/// Whether a message waits. Times are microseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageState {
    /// It is due at that time.
    Waiting(u64),
    /// It was set aside at that time: nobody delivers it until somebody asks for that.
    SetAside(u64),
}

impl Message {
    /// A message as it is when it is posted.
    pub(super) fn posted(post: &Post<'_>, time_us: u64) -> Message {
        let due_us = match post.due {
            Due::After(delay_us) => time_us.saturating_add(delay_us),
            Due::At(due_us) => due_us,
        };
        Message {
            target: post.target,
            method: post.method.into(),
            arguments: post.arguments.into(),
            posted_us: time_us,
            state: MessageState::Waiting(due_us),
            period: post.every_us.map(|every_us| (due_us, every_us)),
            attempts: 0,
            error: None,
        }
    }

    /// The message in an object; none if it is something else.
    ///
    /// # Errors
    ///
    /// If its slots are not what this host writes.
    pub fn read(record: &ObjectRecord) -> Result<Option<Message>, DecodeError> {
        if &*record.behavior != MESSAGE_BEHAVIOR {
            return Ok(None);
        }
        let slots = MapView::new(&record.slots)?;
        let missing = |name: &str| serde::de::Error::custom(format!("a message without `{name}`"));
        let uint = |name: &str| slots.get(name)?.map(|item| Reader::new(item).uint()).transpose();
        let error = match slots.get("error")? {
            Some(error) => {
                let error = MapView::new(error)?;
                let text = |name: &str| error.get(name)?.map_or(Ok(""), |item| Reader::new(item).text());
                let (code, kind, message) = (text("code")?, text("kind")?, text("message")?);
                Some(RecordedFailure { code: code.to_owned(), kind: kind.to_owned(), message: message.to_owned() })
            }
            None => None,
        };
        let state = match (uint("due_us")?, uint("set_aside_us")?) {
            (Some(due_us), None) => MessageState::Waiting(due_us),
            (None, Some(set_aside_us)) => MessageState::SetAside(set_aside_us),
            _ => return Err(missing("due_us")),
        };
        Ok(Some(Message {
            target: Reader::new(slots.get("target")?.ok_or_else(|| missing("target"))?).reference()?,
            method: Reader::new(slots.get("method")?.ok_or_else(|| missing("method"))?).text()?.into(),
            arguments: slots.get("arguments")?.unwrap_or_default().into(),
            posted_us: uint("posted_us")?.ok_or_else(|| missing("posted_us"))?,
            state,
            period: uint("since_us")?.zip(uint("every_us")?),
            attempts: uint("attempts")?.unwrap_or(0),
            error,
        }))
    }

    /// Whether a message that comes from elsewhere is one that this host may have written.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn check(record: &ObjectRecord) -> Result<(), String> {
        let Some(message) = Message::read(record).map_err(|error| error.to_string())? else {
            return Err(format!("it is no {MESSAGE_BEHAVIOR}"));
        };
        let repeats_at_once = message.period.is_some_and(|(_, every_us)| every_us == 0);
        let is_method = (1..=METHOD_BYTES_MAX).contains(&message.method.len());
        if repeats_at_once || !is_method || message.record() != *record {
            return Err(format!("it is not what `theseus export` writes of a {MESSAGE_BEHAVIOR}"));
        }
        Ok(())
    }

    /// The message as an object.
    pub(super) fn record(&self) -> ObjectRecord {
        let mut slots = Map::new();
        let mut put = |name: &str, value: Value| _ = slots.insert(name, value);
        put("target", Value::Ref(self.target));
        put("method", Value::Text(self.method.to_string()));
        if let Ok(arguments) = Value::decode(&self.arguments) {
            put("arguments", arguments);
        }
        put("posted_us", self.posted_us.into());
        let schema = match self.state {
            MessageState::Waiting(due_us) => {
                put("due_us", due_us.into());
                WAITING
            }
            MessageState::SetAside(set_aside_us) => {
                put("set_aside_us", set_aside_us.into());
                SET_ASIDE
            }
        };
        if let Some((since_us, every_us)) = self.period {
            put("since_us", since_us.into());
            put("every_us", every_us.into());
        }
        if self.attempts > 0 {
            put("attempts", self.attempts.into());
        }
        if let Some(error) = &self.error {
            put("error", describe(error));
        }
        let slots = Value::Map(slots).encode().into();
        ObjectRecord { behavior: MESSAGE_BEHAVIOR.into(), schema, parents: [].into(), slots }
    }

    /// The message after a delivery at `time_us`; none if that was the last. What was missed meanwhile is not made up for: the next
    /// time is the next of the schedule that is still to come.
    pub(super) fn delivered(self, time_us: u64) -> Option<Message> {
        let (since_us, every_us) = self.period?;
        let due_us = match self.state {
            MessageState::Waiting(due_us) => due_us,
            MessageState::SetAside(_) => time_us,
        };
        // A clock that was set back a little must not deliver the same again. If it was set back by more than a period, the
        // schedule goes on by what it says now.
        let from = if time_us.saturating_add(every_us) < due_us { time_us } else { time_us.max(due_us) };
        let periods = from.checked_sub(since_us).map_or(0, |passed| passed / every_us + 1);
        let next_us = since_us.saturating_add(periods.saturating_mul(every_us));
        Some(Message { state: MessageState::Waiting(next_us), attempts: 0, error: None, ..self })
    }

    /// When it is due, if it waits.
    pub fn due_us(&self) -> Option<u64> {
        match self.state {
            MessageState::Waiting(due_us) => Some(due_us),
            MessageState::SetAside(_) => None,
        }
    }
}

/// An object as an undo brings it back. A message that is past due is not delivered again for that: one that repeats waits for its
/// next time, another one is set aside.
pub(super) fn restored(record: Arc<ObjectRecord>, time_us: u64) -> Arc<ObjectRecord> {
    let Ok(Some(message)) = Message::read(&record) else { return record };
    if message.due_us().is_none_or(|due_us| due_us > time_us) {
        return record;
    }
    let undone = || RecordedFailure {
        code: FailureCode::REFUSED.name().to_owned(),
        kind: "undone".to_owned(),
        message: "an undo brought it back when it was past due".to_owned(),
    };
    let set_aside = |message| Message { state: MessageState::SetAside(time_us), error: Some(undone()), ..message };
    Arc::new(message.clone().delivered(time_us).unwrap_or_else(|| set_aside(message)).record())
}

/// A failure as a value.
pub(super) fn describe(error: &RecordedFailure) -> Value {
    let entries = [("code", &error.code), ("kind", &error.kind), ("message", &error.message)];
    Value::Map(entries.into_iter().map(|(name, text)| (name.to_owned(), Value::Text(text.clone()))).collect())
}

/// When the message in an object is due; none if it is no message, or does not wait.
pub(super) fn due_us(record: &ObjectRecord) -> Option<u64> {
    if &*record.behavior != MESSAGE_BEHAVIOR || record.schema != WAITING {
        return None;
    }
    Reader::new(MapView::new(&record.slots).ok()?.get("due_us").ok()??).uint().ok()
}

/// The message that a recorded transaction delivered, if it is the delivery of one: what it executed stood in a message that it then
/// removed or put off.
///
/// # Errors
///
/// If the state before it cannot be read.
pub fn delivered_by(transaction: &Transaction<'_>, state: &mut dyn State) -> Result<Option<ObjectId>, Failure> {
    let mut found = None;
    for write in transaction.writes.iter().filter(|write| write.pointers.number > 1) {
        let Some(record) = state.object(write.object)? else { continue };
        let Ok(Some(message)) = Message::read(&record) else { continue };
        let null: &[u8] = &[0xf6];
        let arguments = if message.arguments.is_empty() { null } else { &message.arguments };
        let is_it = Some(message.target) == transaction.target
            && &*message.method == transaction.method
            && arguments == transaction.arguments
            && message.due_us().is_some();
        // Of several that say the same, those that were cancelled at the same time are gone, as the one delivered may be.
        if is_it && (found.is_none() || write.record.is_some()) {
            found = Some(write.object);
        }
    }
    Ok(found)
}

/// How many messages wait, and how many were set aside.
pub fn count(census: &Census) -> (u64, u64) {
    let key = |schema| (Arc::from(MESSAGE_BEHAVIOR), schema);
    let count = |schema| census.get(&key(schema)).copied().unwrap_or(0);
    (count(WAITING), count(SET_ASIDE))
}

/// What cannot be read of a message that was stored.
pub(super) fn unreadable(message: ObjectId, error: &DecodeError) -> Failure {
    Failure::new(FailureCode::BAD_ENCODING, format!("message {message} is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let post = Post {
            target: ObjectId(7),
            method: "tick",
            arguments: &[0x81, 0x05],
            due: Due::After(10),
            every_us: Some(100),
        };
        Message::posted(&post, 1_000)
    }

    #[test]
    fn a_message_reads_back() {
        let waiting = message();
        let error = RecordedFailure { code: "refused".into(), kind: "full".into(), message: "no".into() };
        let failed = Message { attempts: 3, error: Some(error), ..waiting.clone() };
        let aside = Message { state: MessageState::SetAside(5), period: None, arguments: [].into(), ..failed.clone() };
        for (message, schema) in [(waiting, 1), (failed, 1), (aside, 2)] {
            let record = message.record();
            assert_eq!(record.schema, schema);
            assert_eq!(due_us(&record), message.due_us());
            assert_eq!(Message::read(&record).unwrap(), Some(message));
        }
    }

    #[test]
    fn a_schedule_is_kept_and_what_was_missed_is_not_made_up_for() {
        let next = |time_us| message().delivered(time_us).and_then(|message| message.due_us());
        assert_eq!(message().due_us(), Some(1_010));
        assert_eq!(next(1_010), Some(1_110), "in time");
        assert_eq!(next(1_050), Some(1_110), "late");
        assert_eq!(next(1_110), Some(1_210), "as late as a period: the next one is still to come");
        assert_eq!(next(9_999), Some(10_010), "very late: one delivery for all that was missed");
        assert_eq!(next(1_005), Some(1_110), "a clock that was set back a little");
        assert_eq!(next(500), Some(1_010), "a clock that was set back by more than a period");
    }

    #[test]
    fn a_message_without_a_period_is_delivered_once() {
        assert_eq!(Message { period: None, ..message() }.delivered(5), None);
    }
}
