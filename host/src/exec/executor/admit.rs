//! What the executor does not execute: what there is no room for, and what it has executed before.

use theseus_value::ObjectId;

use super::{Executed, Executor, storage};
use crate::{
    exec::{CollectStep, Doing, Refusal, turn::DOES_NOT_UNDERSTAND},
    identity::{Remembered, StorageError, fingerprint},
};

impl Executor {
    /// Whether it is left undone while there is too little room. What the host itself has to record is not.
    pub(super) fn takes_room(&self, doing: &Doing) -> bool {
        match doing {
            Doing::Note { .. } | Doing::Install { .. } | Doing::Look { .. } => false,
            // These make room.
            Doing::Pack { .. } | Doing::Checkpoint => false,
            Doing::Collect { step, .. } => matches!(step, CollectStep::Sweep { remove: true }),
            Doing::Send { method, .. } => {
                let (kinds, instead) = (self.plugins.method_kinds(method), DOES_NOT_UNDERSTAND);
                kinds.command || !kinds.query && self.plugins.method_kinds(instead).command
            }
            _ => true,
        }
    }

    /// Whether there is an answer to a request id already. What cannot be read is left to [`repetition`](Self::repetition).
    pub(super) fn has_seen(&mut self, request_id: Option<&str>) -> bool {
        request_id.is_some_and(|id| !matches!(self.writer.reader().request(id), Ok(None)))
    }

    /// The answer to a request id that was seen before. `target` is none for the host's own
    /// doings, and for a name that stands for nothing.
    pub(super) fn repetition(
        &mut self,
        request_id: Option<&str>,
        target: Option<ObjectId>,
        method: &str,
        arguments: &[u8],
    ) -> Option<Executed> {
        let same = |known: &Remembered| {
            known.fingerprint == fingerprint(method, arguments) && (target.is_none() || target == known.target)
        };
        match self.writer.reader().request(request_id?) {
            Ok(None) => None,
            Ok(Some((known, outcome))) if same(&known) => Some(Executed::Answered { tid: Some(known.tid), outcome }),
            Ok(Some((known, _))) => Some(Executed::Refused(Refusal::RequestIdReused { tid: known.tid })),
            Err(error @ StorageError::Packed { .. }) => Some(Executed::Refused(Refusal::Packed {
                message: format!("the answer to this request id is gone: {error}"),
            })),
            Err(error) => Some(storage(error).into()),
        }
    }
}
