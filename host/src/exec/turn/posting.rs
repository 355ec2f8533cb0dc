//! Messages for after the commit: posted and taken back by turns, and the write that goes with a delivery.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use super::{Turn, check_open};
use crate::{
    exec::messages::{self, Due, METHOD_BYTES_MAX, Message, Post},
    identity::MESSAGE_BEHAVIOR,
};

impl Turn<'_> {
    /// Posts a message: it is delivered after the turn's transaction is recorded, if that happens.
    pub(in crate::exec) fn post_message(&mut self, post: &Post<'_>) -> Result<ObjectId, Failure> {
        self.changing("post messages")?;
        let refused = |message: String| Err(Failure::new(FailureCode::BAD_ARGUMENTS, message));
        if post.method.is_empty() || post.method.len() > METHOD_BYTES_MAX {
            return refused(format!("the name of a method has 1 to {METHOD_BYTES_MAX} bytes"));
        }
        if post.every_us == Some(0) {
            return refused("a period takes some time: without one a message is delivered once".to_owned());
        }
        let due_us = match post.due {
            Due::After(delay_us) => self.time_us.checked_add(delay_us),
            Due::At(due_us) => Some(due_us),
        };
        // A time that does not fit would become another one.
        if due_us.and_then(|due_us| due_us.checked_add(post.every_us.unwrap_or(0))).is_none() {
            return refused("that is too far away: times are microseconds since 1970 in 64 bits".to_owned());
        }
        let target = post.target;
        let Some(record) = self.peek(target)? else {
            return Err(Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {target}")));
        };
        check_open(target, &record)?;
        self.check_references(post.arguments, &[])?;
        if self.messages_left == 0 {
            let message = format!("{} messages wait already, which is the limit", self.limits.messages_waiting_max);
            return Err(Failure::new(FailureCode::LIMIT_EXCEEDED, message));
        }
        self.messages_left -= 1;
        self.add(Message::posted(post, self.time_us).record())
    }

    /// Takes a message back; answers whether it was still there.
    pub(in crate::exec) fn cancel_message(&mut self, message: ObjectId) -> Result<bool, Failure> {
        self.changing("cancel messages")?;
        match self.peek(message)? {
            Some(record) if &*record.behavior == MESSAGE_BEHAVIOR => self.write(message, None).map(|()| true),
            Some(_) => {
                Err(Failure::new(FailureCode::BAD_ARGUMENTS, format!("object {message} is not a posted message")))
            }
            None => Ok(false),
        }
    }

    /// Writes what becomes of a message that was just delivered, unless what received it has cancelled it: it goes, or is due
    /// again. That is the host's own write, so the turn's bounds do not hold it back.
    pub(in crate::exec) fn message_delivered(&mut self, message: ObjectId) -> Result<(), Failure> {
        let Some(record) = self.peek(message)? else { return Ok(()) };
        let read = Message::read(&record).map_err(|error| messages::unreadable(message, &error))?;
        let next = read.and_then(|read| read.delivered(self.time_us));
        self.scratch.writes.insert(message, next.map(|next| Arc::new(next.record())));
        Ok(())
    }
}
