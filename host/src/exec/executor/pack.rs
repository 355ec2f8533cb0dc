//! What a pack asks of the executor: the object table brought forward, and a base put in force.

use std::sync::Arc;

use super::{Executed, Executor};
use crate::identity::{Base, PACK};

impl Executor {
    /// Records that a base comes into force, which it does when the batch of that transaction becomes durable.
    pub(super) fn pack(&mut self, base: Arc<Base>, note: &[u8]) -> Executed {
        let executed = self.note(PACK, note, None);
        if matches!(executed, Executed::Recorded { .. }) {
            self.writer.put_in_force(base);
        }
        executed
    }
}
