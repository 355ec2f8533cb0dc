//! What a client does that comes to something only after it was answered: it posts messages, sets a timer, and holds an object that has no
//! name until it lets go of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::Client;
use crate::{
    api::ApiError,
    crash::{
        PATIENCE,
        expected::{Nameless, Timer, clock, holder, mailbox},
    },
    load::COUNTER,
};

/// The longest time until a posted message is due, in milliseconds.
const DELAY_MS_MAX: u64 = 250;
/// How long a period of the first client's timer is, in milliseconds, and how much longer that of each further one.
const PERIOD_MS: u64 = 40;
const PERIOD_MORE_MS: u64 = 7;
/// What a message may add: so much that no two are the same, nor a few of them together what others are.
const ADDS_MAX: u64 = 1 << 40;

impl Client {
    /// Makes the objects that all that concerns, and sets the timer.
    pub(super) fn begin_afterwards(&mut self) -> Result<(), ApiError> {
        let names = [mailbox(self.number), clock(self.number), holder(self.number)];
        let mut ids = [0; 3];
        for (name, id) in names.iter().zip(&mut ids) {
            let key = self.key();
            *id = self.host.make(COUNTER, Some(name), &json!({}), &key)?;
        }
        let every_ms = PERIOD_MS + PERIOD_MORE_MS * self.number as u64;
        let (key, target) = (self.key(), &names[1]);
        let body = json!({
            "target": target, "method": "increment", "arguments": { "by": 1 }, "delay_ms": every_ms, "every_ms": every_ms,
        });
        let message = self.host.post_message(&body, &key)?;
        let every_us = every_ms * 1000;
        let listed = self.host.get(&format!("/v1/messages?target={target}"))?;
        let due_us = listed["messages"][0]["due_us"].as_u64().unwrap_or(0);
        let timer = Timer { message, target: ids[1], every_us, phase_us: due_us % every_us };
        self.shared.expected.of(self.number, |expected| {
            (expected.mailbox, expected.timer) = (ids[0], Some(timer));
        });
        Ok(())
    }

    /// Posts a message to its mailbox.
    pub(super) fn post(&mut self) -> Result<(), ApiError> {
        let (adds, delay_ms, key) = (self.dice.roll(ADDS_MAX) as i64, self.dice.roll(DELAY_MS_MAX), self.key());
        let body = json!({
            "target": mailbox(self.number), "method": "increment", "arguments": { "by": adds }, "delay_ms": delay_ms,
        });
        self.shared.expected.of(self.number, |expected| expected.posting = Some(adds));
        self.host.post_message(&body, &key)?;
        self.shared.expected.of(self.number, |expected| expected.posted.extend(expected.posting.take()));
        self.worked.posted += 1;
        self.answered(key, None);
        Ok(())
    }

    /// Makes an object without a name and has its holder refer to it, and so to the one before no longer.
    pub(super) fn hold(&mut self) -> Result<(), ApiError> {
        let (count, key) = (self.dice.roll(1000) as i64, self.key());
        let id = self.host.make(COUNTER, None, &json!({ "count": count }), &key)?;
        self.answered(key, None);
        let key = self.key();
        self.shared.expected.of(self.number, |expected| expected.holding = Some(Nameless { id, count }));
        let put = self.host.set_parents(&holder(self.number), &[id], &key);
        let is_held = match put {
            Ok(()) => true,
            // Nothing led to it so far, so it may have been collected already.
            Err(ApiError::Problem(problem)) if problem.status == 404 => false,
            Err(error) => return Err(error),
        };
        self.shared.expected.of(self.number, |expected| {
            let made = expected.holding.take();
            let gone = if is_held { std::mem::replace(&mut expected.held, made) } else { made };
            expected.let_go.extend(gone.map(|gone| gone.id));
        });
        if is_held {
            self.worked.held += 1;
            self.answered(key, None);
        }
        Ok(())
    }

    /// Looks at the object that it holds, which has to be there, and at the timer, which does not go back.
    pub(super) fn look_afterwards(&mut self) -> Result<(), ApiError> {
        let (held, before) = self.shared.expected.of(self.number, |expected| (expected.held, expected.ticks));
        if let Some(Nameless { id, count }) = held {
            match self.host.ask(&id.to_string(), "count") {
                Ok(found) if found == count => {}
                Err(error @ (ApiError::Unanswered { .. } | ApiError::Malformed(_))) => return Err(error),
                other => self.problem(format!("it holds object {id} at {count}, which answers {other:?}")),
            }
        }
        let ticks = self.ticks()?;
        if ticks < before {
            self.problem(format!("its timer was at {before}, and is at {ticks}"));
        }
        Ok(())
    }

    /// Waits until the timer has gone off since the last crash and all messages are delivered, and cancels the timer.
    pub(super) fn end_afterwards(&mut self) -> Result<(), ApiError> {
        let (timer, before) = self.shared.expected.of(self.number, |expected| (expected.timer, expected.ticks));
        let until = Instant::now() + PATIENCE;
        while self.ticks()? <= before || self.host.has_messages(&mailbox(self.number))? {
            if Instant::now() > until {
                self.problem(format!(
                    "its timer was at {before} and does not go off, or its messages are not delivered"
                ));
                break;
            }
            thread::sleep(Duration::from_millis(PERIOD_MS));
        }
        if let Some(timer) = timer {
            let key = self.key();
            self.host.cancel(timer.message, &key)?;
        }
        let ticks = self.ticks()?;
        self.worked.ticks = ticks.unsigned_abs();
        self.shared.expected.of(self.number, |expected| expected.ticks = ticks);
        Ok(())
    }

    fn ticks(&mut self) -> Result<i64, ApiError> {
        Ok(self.host.ask(&clock(self.number), "count")?.as_i64().unwrap_or(i64::MIN))
    }
}
