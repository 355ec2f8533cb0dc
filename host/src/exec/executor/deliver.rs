//! Delivering posted messages, and what clients and operators ask about them.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RString};
use theseus_value::{ObjectId, Value, raw::Writer as ValueWriter};

use super::{Executed, Executor, Recording};
use crate::exec::{
    Due, ObjectName,
    messages::{self, Message, MessageState, Post},
    now_us, split_mix,
    state::storage,
};
use crate::identity::{Outcome, RecordedFailure};

/// Under which what clients ask about messages stands in the history, and a delivery that failed.
const POST: &str = "theseus.post";
const CANCEL: &str = "theseus.cancel";
const RETRY: &str = "theseus.retry";
const DELIVERY_FAILED: &str = "theseus.delivery_failed";

/// What a client asks to be posted.
pub struct Posting {
    /// Who receives it.
    pub target: ObjectName,
    /// The method.
    pub method: String,
    /// The encoded arguments: a map, an array, or nothing at all.
    pub arguments: Vec<u8>,
    /// When it is due.
    pub due: Due,
    /// After what time it is due again, in microseconds; none if it is delivered once.
    pub every_us: Option<u64>,
}

impl Executor {
    /// Delivers a message if it is still due at `due_us`: the message and what becomes of it in one transaction.
    pub(super) fn deliver(&mut self, message: ObjectId, due_us: u64) -> Executed {
        let posted = match self.message(message) {
            Ok(Some(posted)) if posted.due_us() == Some(due_us) => posted,
            // It was delivered, cancelled or put off before.
            Ok(_) => return Executed::Answered { tid: None, outcome: done(&[]) },
            Err(failure) => return failure.into(),
        };
        let (time_us, seed) = (now_us(), split_mix(&mut self.seeds));
        let mut turn = self.turn(time_us, seed);
        let result = turn.message(posted.target, &posted.method, &posted.arguments);
        let result = result.and_then(|buffers| turn.message_delivered(message).map(|()| buffers));
        if let Some(failure) = turn.poison.take() {
            return failure.into();
        }
        let (command, upgrade) = (turn.command, turn.upgrade.take());
        let buffers = match result {
            Ok(buffers) => buffers,
            Err(failure) => return self.delivery_failed(message, posted, failure, command, time_us),
        };
        let outcome = done(&buffers.result);
        self.scratch.recycle(buffers);
        let Message { target, method, arguments, .. } = posted;
        let (request_id, target, method, arguments) = (None, Some(target), &*method, &*arguments);
        let recorded = self.record(Recording { request_id, target, method, arguments, time_us, seed, outcome });
        if let (Executed::Recorded { .. }, Some(target), Some(request)) = (&recorded, target, upgrade) {
            self.note_upgrade(target, &request, time_us);
        }
        recorded
    }

    /// Records that a delivery failed: the message is tried again after a while, or set aside.
    fn delivery_failed(
        &mut self,
        message: ObjectId,
        mut posted: Message,
        failure: Failure,
        command: bool,
        time_us: u64,
    ) -> Executed {
        let settings = &self.config.messages;
        posted.attempts += 1;
        let hopeless = is_hopeless(failure.code, command) || posted.attempts >= settings.attempts_max;
        let doubled = 1_u64.checked_shl(posted.attempts.min(63) as u32 - 1).unwrap_or(u64::MAX);
        let rest_ms = settings.retry_ms.saturating_mul(doubled).min(settings.retry_ms_max);
        posted.state = match hopeless {
            true => MessageState::SetAside(time_us),
            false => MessageState::Waiting(time_us.saturating_add(rest_ms.saturating_mul(1000))),
        };
        let error = RecordedFailure::from(failure);
        if hopeless {
            log::warn!(
                "message {message}, `{}` to object {}, is set aside: {}",
                posted.method,
                posted.target,
                error.message
            );
        }
        let note = map([
            ("message", Value::Ref(message)),
            ("target", Value::Ref(posted.target)),
            ("method", Value::Text(posted.method.to_string())),
            ("attempts", posted.attempts.into()),
            ("error", messages::describe(&error)),
            ("due_us", posted.due_us().map_or(Value::Null, Value::from)),
        ]);
        posted.error = Some(error);
        self.scratch.clear();
        self.scratch.put(message, Arc::new(posted.record()));
        self.note_own(DELIVERY_FAILED, &note, None, time_us, done(&[]))
    }

    /// Posts a message for a client.
    pub(super) fn post(&mut self, posting: &Posting, request_id: Option<&str>) -> Executed {
        let Posting { target, method, arguments, due, every_us } = posting;
        let (delay_us, at_us) = match due {
            Due::After(delay_us) => (Value::from(*delay_us), Value::Null),
            Due::At(at_us) => (Value::Null, Value::from(*at_us)),
        };
        let given = match target {
            ObjectName::Id(id) => Value::Ref(*id),
            ObjectName::Name(name) => Value::Text(name.clone()),
        };
        let note = map([
            ("target", given),
            ("method", Value::Text(method.clone())),
            (
                "arguments",
                if arguments.is_empty() { Value::Null } else { Value::decode(arguments).unwrap_or(Value::Null) },
            ),
            ("delay_us", delay_us),
            ("at_us", at_us),
            ("every_us", every_us.map_or(Value::Null, Value::from)),
        ]);
        if let Some(known) = self.repetition(request_id, None, POST, &note) {
            return known;
        }
        let time_us = now_us();
        let mut turn = self.turn(time_us, 0);
        let posted = turn
            .find(target)
            .and_then(|target| turn.post_message(&Post { target, method, arguments, due: *due, every_us: *every_us }));
        match posted {
            Ok(message) => self.note_own(POST, &note, request_id, time_us, done(&reference(message))),
            Err(failure) => failure.into(),
        }
    }

    /// Takes a message back for a client.
    pub(super) fn cancel(&mut self, message: ObjectId, request_id: Option<&str>) -> Executed {
        let note = map([("message", Value::Ref(message))]);
        if let Some(known) = self.repetition(request_id, None, CANCEL, &note) {
            return known;
        }
        let time_us = now_us();
        match self.turn(time_us, 0).cancel_message(message) {
            Ok(true) => self.note_own(CANCEL, &note, request_id, time_us, done(&[])),
            Ok(false) => no_such_message(message).into(),
            Err(failure) => failure.into(),
        }
    }

    /// Makes a message due at once that was set aside, or that waits after a failure. Another one is refused: it would come before
    /// its time.
    pub(super) fn retry(&mut self, message: ObjectId, request_id: Option<&str>) -> Executed {
        let note = map([("message", Value::Ref(message))]);
        if let Some(known) = self.repetition(request_id, None, RETRY, &note) {
            return known;
        }
        let time_us = now_us();
        match self.message(message) {
            Ok(Some(Message { state: MessageState::Waiting(due_us), error: None, .. })) => {
                not_failed(message, due_us.saturating_sub(time_us)).into()
            }
            Ok(Some(posted)) => {
                let again = Message { state: MessageState::Waiting(time_us), attempts: 0, ..posted };
                self.scratch.clear();
                self.scratch.put(message, Arc::new(again.record()));
                self.note_own(RETRY, &note, request_id, time_us, done(&reference(message)))
            }
            Ok(None) => no_such_message(message).into(),
            Err(failure) => failure.into(),
        }
    }

    /// A message as it is now.
    fn message(&mut self, message: ObjectId) -> Result<Option<Message>, Failure> {
        let version = self.writer.reader().newest(message).map_err(storage)?;
        let Some(record) = version.and_then(|version| version.record.clone()) else { return Ok(None) };
        Message::read(&record).map_err(|error| messages::unreadable(message, &error))
    }

    /// Records what the host itself did, with what is in the scratch.
    fn note_own(
        &mut self,
        method: &str,
        note: &[u8],
        request_id: Option<&str>,
        time_us: u64,
        outcome: Outcome,
    ) -> Executed {
        self.record(Recording { request_id, target: None, method, arguments: note, time_us, seed: 0, outcome })
    }
}

/// Whether another attempt would fail as well: nobody is there who understands the message.
fn is_hopeless(code: FailureCode, command: bool) -> bool {
    let unknown = [FailureCode::NO_SUCH_OBJECT, FailureCode::NO_SUCH_METHOD, FailureCode::NO_SUCH_BEHAVIOR];
    // Of a command that was entered, it may be another object that is missing, and come to be.
    code == FailureCode::BAD_ARGUMENTS
        || code == FailureCode::REFUSED && !command
        || unknown.contains(&code) && !command
}

fn no_such_message(message: ObjectId) -> Failure {
    Failure::new(FailureCode::NO_SUCH_OBJECT, format!("no message {message} waits: it may have been delivered"))
}

fn not_failed(message: ObjectId, left_us: u64) -> Failure {
    let left_s = left_us / 1_000_000;
    let text = format!(
        "the delivery of message {message} has not failed, it is due in {left_s} s; `theseus messages cancel {message}` takes it back"
    );
    Failure { kind: RString::from("not_failed"), ..Failure::new(FailureCode::REFUSED, text) }
}

fn done(result: &[u8]) -> Outcome {
    Outcome::Done(result.into())
}

fn reference(object: ObjectId) -> Vec<u8> {
    let mut encoded = Vec::new();
    ValueWriter::new(&mut encoded).reference(object);
    encoded
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Vec<u8> {
    Value::Map(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()).encode()
}
