//! The end of a generation: unloaded and confirmed to be gone, or kept in memory for a reason that is named.

use theseus_abi::{Failure, PluginRootRef, abi_stable::std_types::ROption};

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
    /// Why it can never be unloaded, if so.
    verdict: Option<PinReason>,
    root: PluginRootRef,
    image: Image,
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
        let Generation { number, name, inspection, behaviors, root, mut image, .. } = generation;
        let outcome = root.retire()().into_result().map_err(boundary::own_failure);
        drop(behaviors);
        let verdict = match outcome {
            _ if inspection.is_no_delete() => Some(PinReason::NoDelete),
            Err(failure) => Some(PinReason::Refused(failure)),
            Ok(()) => None,
        };
        if verdict.is_some() {
            image.keep();
        }
        Leaving {
            name: name.as_ref().to_owned(),
            version: inspection.manifest.version,
            digest: inspection.digest,
            number,
            verdict,
            root,
            image,
        }
    }

    /// Unloads it, if that is possible now. Has the threads of the host destroy what is its, but does not wait for them.
    ///
    /// # Errors
    ///
    /// Why it is still there.
    pub fn unload(&mut self) -> Result<Unloaded, PinReason> {
        if let Some(reason) = &self.verdict {
            return Err(reason.clone());
        }
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
    let mut leaving = Box::new(Leaving::begin(generation));
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
