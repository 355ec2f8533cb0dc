//! Whose fault it was: failures are counted for the generation whose code gave them, once.

use std::{sync::Arc, time::Instant};

use theseus_abi::{Failure, FailureCode};
use theseus_value::ObjectId;

use super::Turn;
use crate::{
    exec::faults::Fault,
    plugin::{Behavior, Generation},
};

/// What a turn knows of the faults in it.
#[derive(Default)]
pub(in crate::exec) struct Blame {
    /// The last failure that was counted. A sender that passes it on did not fail itself.
    counted: Option<Failure>,
    /// Whether a message within the present one was found to take too long; what contains it takes long because of it.
    overran: bool,
}

impl Turn<'_> {
    /// Counts a failure for the plugin of a behaviour, unless it was counted for the one that it came from.
    #[cold]
    pub(super) fn blame(&mut self, behavior: &Behavior, failure: &Failure) {
        if self.blame.counted.as_ref() != Some(failure) {
            if let Some(generation) = self.plugins.provider(behavior.name()) {
                self.plugins.faults().failed(generation.digest(), failure);
            }
            self.blame.counted = Some(failure.clone());
        }
    }

    /// Counts a failed migration for the plugin of a behaviour; `object` if nobody but the host had asked for it.
    #[cold]
    pub(super) fn blame_migration(&mut self, behavior: &Behavior, object: Option<ObjectId>, failure: &Failure) {
        let storage = matches!(failure.code, FailureCode::STORAGE | FailureCode::IDENTITY_DAMAGED);
        if !storage && let Some(generation) = self.plugins.provider(behavior.name()) {
            let faults = self.plugins.faults();
            match object {
                Some(object) => faults.left_behind(generation.digest(), object, &failure.message),
                None => faults.note(generation.digest(), Fault::Migration, &failure.message),
            }
        }
        self.blame.counted = Some(failure.clone());
    }

    /// Counts a message for a method that the plugin of a behaviour had until it was replaced.
    #[cold]
    pub(super) fn blame_missing(&mut self, behavior: &str, method: &str, failure: &Failure) {
        let missing = |generation: &Arc<Generation>| {
            self.plugins.faults().missing(generation.digest(), behavior, method, failure)
        };
        if failure.code == FailureCode::NO_SUCH_METHOD && self.plugins.provider(behavior).is_some_and(missing) {
            self.blame.counted = Some(failure.clone());
        }
    }

    /// Counts a message that took longer than one may, for the plugin of its receiver's behaviour.
    pub(super) fn time(&mut self, begun: Instant, behavior: &Behavior) {
        let (took_ms, most) = (begun.elapsed().as_millis(), self.limits.call_deadline_ms);
        if took_ms <= u128::from(most) || std::mem::replace(&mut self.blame.overran, true) {
            return;
        }
        if let Some(generation) = self.plugins.provider(behavior.name()) {
            let message = format!("a message to {} took {took_ms} ms; {most} are allowed", behavior.name());
            self.plugins.faults().note(generation.digest(), Fault::Overran, &message);
        }
    }
}
