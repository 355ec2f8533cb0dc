//! The end of a generation: unloaded and confirmed to be gone, or kept in memory for a reason that is named.

use std::{
    sync::mpsc::{self, Receiver, TryRecvError},
    thread::{self, JoinHandle},
};

use theseus_abi::{Failure, FailureCode, PluginRootRef, abi_stable::std_types::ROption};

use super::{
    boundary,
    digest::Digest,
    generation::{Generation, GenerationNumber},
    hooks,
    image::{self, Image},
};

/// A generation that was retired. Nothing of it is called any more, but its image is still in memory.
///
/// Dropping it unloads it as soon as that is possible.
pub struct Leaving {
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// The digest of its file.
    pub digest: Digest,
    /// Its number in this process.
    pub number: GenerationNumber,
    /// What became of its `retire`.
    farewell: Farewell,
    root: PluginRootRef,
    image: Image,
}

/// A plugin's `retire`, which is called on a thread of its own: whoever unloads plugins must not wait for one of them for ever.
enum Farewell {
    /// It has not come back.
    Called(Receiver<Result<(), Failure>>),
    /// It has; why the generation can never be unloaded, if so.
    Over(Option<PinReason>),
}

/// A generation that is gone from the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unloaded {
    /// Bytes that it had allocated and never freed; none if it does not count them.
    pub leaked_bytes: Option<u64>,
}

/// Why a retired generation stays in memory.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PinReason {
    /// Its file forbids unloading.
    #[error("its file forbids unloading (DF_1_NODELETE); link it without `-z nodelete`")]
    NoDelete,
    /// It reported that it could not let go of something; unloading it could crash the host.
    #[error("it could not free what it holds: {0}")]
    Refused(Failure),
    /// Its `retire` is still running. Passes when that comes back.
    #[error("its `retire` has not come back")]
    Retiring,
    /// Threads of the host are about to destroy its thread-locals. Passes as soon as they have finished what they execute.
    #[error("threads of the host are still to destroy its thread-locals")]
    Settling,
    /// Threads that it started are alive. Passes when they end.
    #[error("{count} of the threads that it started still run; have `retire` end and join them")]
    Threads {
        /// How many.
        count: usize,
    },
    /// Threads have thread-locals of it and cannot be asked to destroy them. Passes when they end.
    #[error(
        "{threads} threads that the host cannot ask to destroy them have thread-locals of it; it is unloaded when they end"
    )]
    ThreadLocals {
        /// How many.
        threads: usize,
    },
    /// A signal would be handled by its code. Passes when somebody else handles the signal.
    #[error("it handles signal {signal}; have `retire` give the signal back")]
    SignalHandler {
        /// The first such signal.
        signal: i32,
    },
    /// The dynamic linker keeps it although it was closed.
    #[error("the dynamic linker keeps it although it was closed; another library may depend on it")]
    StillMapped,
    /// What it has left behind cannot be known.
    #[error("what it has left behind is not known to this host, which unloads plugins on Linux with glibc only")]
    Unwatched,
}

impl PinReason {
    /// Whether it can go away by itself.
    pub fn can_pass(&self) -> bool {
        !matches!(self, PinReason::NoDelete | PinReason::Refused(_) | PinReason::Unwatched)
    }
}

impl Leaving {
    /// Asks a generation to let go of what it holds. Taken by value: whoever calls this is its last owner, and no call into it is
    /// under way.
    pub fn begin(generation: Generation) -> Leaving {
        Leaving::told(generation).0
    }

    /// The same, with the thread on which the generation is told.
    fn told(generation: Generation) -> (Leaving, Option<JoinHandle<()>>) {
        let Generation { number, name, inspection, behaviors, root, mut image, .. } = generation;
        drop(behaviors);
        let (sender, receiver) = mpsc::channel();
        let retire = root.retire();
        let thread = thread::Builder::new().name("retire".into()).spawn(move || {
            // Fails if nobody waits any more, and then nobody has to know.
            _ = sender.send(retire().into_result().map_err(boundary::own_failure));
        });
        let is_no_delete = inspection.is_no_delete();
        if is_no_delete {
            image.keep();
        }
        let farewell =
            if is_no_delete { Farewell::Over(Some(PinReason::NoDelete)) } else { Farewell::Called(receiver) };
        let leaving = Leaving {
            name: name.as_ref().to_owned(),
            version: inspection.manifest.version,
            digest: inspection.digest,
            number,
            farewell,
            root,
            image,
        };
        // Without a thread nobody sends, which counts as a refusal.
        (leaving, thread.ok())
    }

    /// Looks whether `retire` has come back, and keeps the image for good if it does not allow to go on.
    fn hear(&mut self) -> Result<(), PinReason> {
        if let Farewell::Called(receiver) = &self.farewell {
            let verdict = match receiver.try_recv() {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(PinReason::Refused(failure)),
                Err(TryRecvError::Empty) => return Err(PinReason::Retiring),
                Err(TryRecvError::Disconnected) => {
                    let message = "its `retire` could not be called, for want of a thread";
                    Some(PinReason::Refused(Failure::new(FailureCode::UNSUPPORTED, message)))
                }
            };
            if verdict.is_some() {
                self.image.keep();
            }
            self.farewell = Farewell::Over(verdict);
        }
        match &self.farewell {
            Farewell::Over(Some(reason)) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Unloads it, if that is possible now. Has the threads of the host destroy what is its, but does not wait for them.
    ///
    /// # Errors
    ///
    /// Why it is still there.
    pub fn unload(&mut self) -> Result<Unloaded, PinReason> {
        self.hear()?;
        if !self.image.is_open() {
            return self.image.close().map(|()| Unloaded { leaked_bytes: None });
        }
        self.image.settle()?;
        // After everything that may still free something.
        let leaked_bytes = match self.root.allocated()() {
            ROption::RSome(bytes) => Some(bytes),
            ROption::RNone => None,
        };
        self.image.close()?;
        Ok(Unloaded { leaked_bytes })
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.hear() == Err(PinReason::Retiring) {
            // Its code is running.
            self.image.keep();
        }
    }
}

impl std::fmt::Debug for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Leaving { name, version, digest, number, .. } = self;
        f.debug_struct("Leaving")
            .field("name", name)
            .field("version", version)
            .field("digest", digest)
            .field("number", number)
            .finish_non_exhaustive()
    }
}

/// Ends a generation as far as the calling thread can: for those who execute plugins on one thread only. Taken by value: whoever
/// calls this is its last owner, and no call into it is under way.
///
/// # Errors
///
/// The generation, still in memory, and why.
pub fn retire(generation: Generation) -> Result<Unloaded, (Box<Leaving>, PinReason)> {
    let (leaving, thread) = Leaving::told(generation);
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        log::error!("the thread that called `retire` of {} has panicked", leaving.name);
    }
    let mut leaving = Box::new(leaving);
    leaving.unload().map_err(|reason| (leaving, reason))
}

/// Wakes the threads that execute plugins, so that they let go of generations that are no longer in force.
pub fn wake_threads() {
    hooks::ring_all();
}

/// Unloads what can be unloaded by now of the libraries that did not even start. Answers how many are still in memory.
pub fn sweep_strays() -> usize {
    image::sweep_strays()
}
