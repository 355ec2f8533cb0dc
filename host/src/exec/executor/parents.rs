//! Other parents for an object, as a client asks for them.

use theseus_value::{Value, raw::Writer};

use super::{Executed, Executor, Recording, given};
use crate::{
    exec::{ObjectName, now_us},
    identity::Outcome,
    plugin::CallHost,
};

/// Under which it stands in the history.
const PARENTS: &str = "theseus.parents";

impl Executor {
    /// Gives an object other parents. The result is what they are, whatever the client called them.
    pub(super) fn set_parents(
        &mut self,
        object: &ObjectName,
        parents: &[ObjectName],
        request_id: Option<&str>,
    ) -> Executed {
        let named = Value::Array(parents.iter().map(given).collect());
        let note = [("object".to_owned(), given(object)), ("parents".to_owned(), named)];
        let note = Value::Map(note.into_iter().collect()).encode();
        if let Some(known) = self.repetition(request_id, None, PARENTS, &note) {
            return known;
        }
        let (time_us, seed) = (now_us(), 0);
        let mut turn = self.turn(time_us, seed);
        let done = turn.find(object).and_then(|object| {
            let parents = parents.iter().map(|parent| turn.find(parent)).collect::<Result<Vec<_>, _>>()?;
            turn.set_parents(object, &parents)?;
            Ok(parents)
        });
        if let Some(failure) = turn.poison.take() {
            return failure.into();
        }
        match done {
            Ok(parents) => {
                let mut result = Vec::new();
                let mut writer = Writer::new(&mut result);
                writer.array(parents.len());
                parents.into_iter().for_each(|parent| writer.reference(parent));
                let outcome = Outcome::Done(result.into());
                let (target, method, arguments) = (None, PARENTS, &note[..]);
                self.record(Recording { request_id, target, method, arguments, time_us, seed, outcome })
            }
            Err(failure) => failure.into(),
        }
    }
}
