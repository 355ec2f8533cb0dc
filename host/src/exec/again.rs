//! Executing recorded transactions again, on the state that they met and with whatever plugins.
//!
//! Nothing of it is recorded, and nobody but the caller sees it. A rehearsal does this, in a process of its own.

use std::sync::Arc;

use theseus_abi::{Failure, FailureCode};
use theseus_value::{ObjectId, Value, raw::Writer};

use super::{
    CREATE, PluginSet, State,
    turn::{Changes, Scratch, Turn},
};
use crate::{config::Execution, identity::ObjectRecord, plugin::CallHost};

/// What a transaction was given when it was executed first.
pub struct Given<'a> {
    /// The receiver of its message; none for the making of an object.
    pub target: Option<ObjectId>,
    /// The message.
    pub method: &'a str,
    /// The encoded arguments.
    pub arguments: &'a [u8],
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// The seed of its random numbers.
    pub seed: u64,
    /// The id that the next new object got.
    pub next_object: u64,
    /// The posted message whose delivery it was.
    pub delivered: Option<ObjectId>,
}

/// What became of a transaction this time.
pub struct Repeated {
    /// Its encoded result, or what it failed with. A failure writes nothing.
    pub outcome: Result<Box<[u8]>, Failure>,
    /// The objects and names that it wrote.
    pub changes: Changes,
}

/// Executes transactions again. Kept from one to the next for its memory.
pub struct Repeater {
    scratch: Scratch,
    limits: Execution,
}

impl Repeater {
    /// One that holds transactions to the same limits as an executor.
    pub fn new(limits: Execution) -> Repeater {
        Repeater { scratch: Scratch::default(), limits }
    }

    /// Executes a transaction on `state`: a message, or `theseus.create`.
    ///
    /// # Errors
    ///
    /// What the state could not be read for. What the transaction itself fails with is its outcome.
    pub fn execute(
        &mut self,
        state: &mut dyn State,
        plugins: &PluginSet,
        given: &Given<'_>,
    ) -> Result<Repeated, Failure> {
        let turn = Turn::new(state, &mut self.scratch, plugins, &self.limits, (given.time_us, given.seed));
        let mut turn = Turn { next_object: given.next_object, ..turn };
        let done = match given.target {
            Some(target) => {
                let result = turn.message(target, given.method, given.arguments);
                let delivered = |turn: &mut Turn<'_>| given.delivered.map_or(Ok(()), |it| turn.message_delivered(it));
                result.and_then(|buffers| delivered(&mut turn).map(|()| Made::Result(buffers)))
            }
            None => create(&mut turn, given).map(Made::Object),
        };
        if let Some(failure) = turn.poison.take() {
            return Err(failure);
        }
        let outcome = done.map(|made| match made {
            Made::Result(buffers) => {
                let result = buffers.result.as_slice().into();
                self.scratch.recycle(buffers);
                result
            }
            Made::Object(object) => {
                let mut result = Vec::new();
                Writer::new(&mut result).reference(object);
                result.into()
            }
        });
        if outcome.is_err() {
            self.scratch.clear();
        }
        Ok(Repeated { outcome, changes: self.scratch.take_changes() })
    }

    /// Objects of `state` as the plugins would find them: in the schemas of their behaviours, migrated if need be.
    ///
    /// # Errors
    ///
    /// What the state could not be read for, or what a migration failed with.
    pub fn find(
        &mut self,
        state: &mut dyn State,
        plugins: &PluginSet,
        objects: impl IntoIterator<Item = ObjectId>,
    ) -> Result<Vec<Option<Arc<ObjectRecord>>>, Failure> {
        let mut turn = Turn::new(state, &mut self.scratch, plugins, &self.limits, (0, 0));
        objects.into_iter().map(|object| turn.see(object)).collect()
    }
}

enum Made {
    Result(crate::plugin::CallBuffers),
    Object(ObjectId),
}

/// Makes an object as a client asked for it.
fn create(turn: &mut Turn<'_>, given: &Given<'_>) -> Result<ObjectId, Failure> {
    let unreadable = || {
        let message = format!("`{}` cannot be executed again, only {CREATE} and messages can", given.method);
        Failure::new(FailureCode::BAD_ARGUMENTS, message)
    };
    let note = Value::decode(given.arguments).ok().filter(|_| given.method == CREATE).ok_or_else(unreadable)?;
    let text = |name: &str| note.as_map()?.get(name)?.as_text();
    let slots = note.as_map().and_then(|note| note.get("slots")).map_or_else(Vec::new, Value::encode);
    let object = turn.create(text("behavior").ok_or_else(unreadable)?, &slots)?;
    if let Some(name) = text("name") {
        turn.name_set(name, Some(object))?;
    }
    Ok(object)
}
