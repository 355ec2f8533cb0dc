//! The end of a generation: unloaded and confirmed to be gone, or kept in memory for a reason that is named.

use theseus_abi::Failure;

use super::{
    boundary,
    digest::Digest,
    generation::{Generation, GenerationNumber},
    image::Image,
};

/// What became of a retired generation.
#[derive(Debug)]
pub enum Retired {
    /// Its image is gone from the process.
    Unloaded,
    /// Its image stays.
    Pinned(Box<Pinned>),
}

/// A retired generation whose image is still in memory. Nothing of it is called any more.
pub struct Pinned {
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// The digest of its file.
    pub digest: Digest,
    /// Its number in this process.
    pub number: GenerationNumber,
    /// Why it stays.
    pub reason: PinReason,
    image: Image,
}

impl Pinned {
    /// Whether the image is still in memory: the dynamic linker may have let it go since, when the last thread that had
    /// thread-local data of it ended.
    pub fn is_mapped(&self) -> bool {
        self.image.is_mapped()
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pinned { name, version, digest, number, reason, .. } = self;
        f.debug_struct("Pinned")
            .field("name", name)
            .field("version", version)
            .field("digest", digest)
            .field("number", number)
            .field("reason", reason)
            .finish_non_exhaustive()
    }
}

/// Why a retired generation stays in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PinReason {
    /// Its file forbids unloading (`DF_1_NODELETE`).
    NoDelete,
    /// It reported that it could not let go of something; unloading it could crash the host.
    Refused(Failure),
    /// The dynamic linker kept it, as it does while a thread has thread-local data of it that is still to be destroyed.
    StillMapped,
}

impl std::fmt::Display for PinReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PinReason::NoDelete => f.write_str("its file forbids unloading (DF_1_NODELETE)"),
            PinReason::Refused(failure) => write!(f, "it could not free what it holds: {failure}"),
            PinReason::StillMapped => {
                f.write_str("the dynamic linker keeps it: a thread has thread-local data of it that is to be destroyed")
            }
        }
    }
}

/// Ends a generation. Taken by value: whoever calls this is its last owner, and no call into it is under way.
pub fn retire(generation: Generation) -> Retired {
    let Generation { number, name, inspection, behaviors, root, mut image, .. } = generation;
    let outcome = root.retire()().into_result().map_err(boundary::own_failure);
    drop(behaviors);
    let reason = if inspection.is_no_delete() {
        image.give_up();
        PinReason::NoDelete
    } else if let Err(failure) = outcome {
        image.give_up();
        PinReason::Refused(failure)
    } else {
        image.close();
        if !image.is_mapped() {
            return Retired::Unloaded;
        }
        PinReason::StillMapped
    };
    log::warn!("{name} {} (generation {number}) stays in memory: {reason}", inspection.manifest.version);
    Retired::Pinned(Box::new(Pinned {
        name: name.as_ref().to_owned(),
        version: inspection.manifest.version,
        digest: inspection.digest,
        number,
        reason,
        image,
    }))
}
