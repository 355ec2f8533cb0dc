//! Plugins: the file that is offered, the judgement of it, the library it becomes, and the end of that library.
//!
//! `stage` -> `inspect` -> `load` -> calls -> `retire`. This room knows the boundary (`theseus-abi`), the encoding of what
//! crosses it and the dynamic linker. It knows nothing of objects, transactions or histories: whoever executes messages
//! implements [`CallHost`] and hands it to each call.

mod boundary;
mod digest;
mod elf;
mod flood;
mod generation;
mod hooks;
mod image;
mod inspect;
mod loader;
mod manifest;
mod mapped;
mod needed;
mod refusal;
mod retire;
mod sealed;
mod source;
mod store;
mod target;
mod trust;

pub use boundary::{CallHost, FAILURE_MESSAGE_BYTES_MAX, LOG_LINE_BYTES_MAX, Resent};
pub use digest::{Digest, ParseDigestError};
pub use flood::limit_log;
pub use generation::{Behavior, CallBuffers, Generation, GenerationNumber, MethodId};
pub use hooks::Errands;
pub use inspect::{Dependency, Findings, Inspection, Library, Warning, inspect, inspect_staged, look};
pub use loader::{LoadError, load, load_telling};
pub use manifest::NAME_BYTES_MAX;
pub use refusal::Refusal;
pub use retire::{Leaving, PinReason, Unloaded, retire, sweep_strays, wake_threads};
pub use source::Source;
pub use store::{FILE_BYTES_LIMIT, FetchError, KeepError, StageError, Staged, Store, stage, stage_from_source};
pub use trust::{Denial, KeyId, Ownership, Policy, Provenance, SignedBy};

#[cfg(test)]
mod tests;
