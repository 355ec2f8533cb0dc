//! The frozen boundary between the Theseus host and its plugins.
//!
//! Everything that crosses between the two is described here, and nothing else is: the tables of functions that each side
//! hands to the other ([`PluginRoot`], [`BehaviorTable`], [`HostTable`]), the one shape of failure ([`Failure`]), and the
//! manifest that a plugin carries in an ELF note so that the host can judge it before any of its code runs
//! ([`note`], [`Manifest`]). Bytes cross, types do not: slots, arguments and results are deterministic CBOR, encoded by
//! `theseus-value` on both sides.
//!
//! # The ABI version and when it changes
//!
//! [`ABI_VERSION`] is apart from every crate's version. It is raised when a change could make a plugin that was built
//! before misbehave:
//!
//! - **raised**: a field of [`Call`] or [`Failure`] is added, removed, reordered or changes its type; a function in a
//!   table changes its signature or its duties; the encoding of slots, arguments or results changes; the
//!   manifest loses a field or a field changes its meaning.
//! - **not raised**: a function is added *after* the last one of a prefix-typed table (`last_prefix_field` marks where a
//!   table ended when its version was frozen); a [`FailureCode`] is added; the manifest or a description gains a field.
//!
//! Each side states the range it speaks ([`HOST_ABI`] for the host, the manifest's `abi` for a plugin); they fit if the
//! ranges overlap. [`LAYOUT_FINGERPRINT`] catches what the policy forbids: a layout that changed under the same version.

mod capability;
mod failure;
mod host;
mod manifest;
pub mod note;
mod plugin;

pub use abi_stable;

pub use capability::Capability;
pub use failure::{Failure, FailureCode};
pub use host::{CallToken, HostTable, HostTableRef, LogLevel};
pub use manifest::{
    AbiRange, ArgumentDescription, BehaviorDescription, BehaviorManifest, Manifest, MethodDescription, MethodKind,
    Requirement, SlotDescription,
};
pub use plugin::{BehaviorTable, BehaviorTableRef, Call, PluginRoot, PluginRootRef};

/// The version of the boundary that this crate describes. See the crate documentation for when it is raised.
pub const ABI_VERSION: u32 = 1;

/// The versions of the boundary that a host built with this crate can serve.
pub const HOST_ABI: AbiRange = AbiRange { min: 1, max: ABI_VERSION };

/// A digest of the layout of every type that crosses the boundary: sizes, alignments and field offsets.
///
/// Equal versions with different fingerprints mean that somebody changed a layout without raising [`ABI_VERSION`].
pub const LAYOUT_FINGERPRINT: u64 = {
    let mut digest = fnv1a(0xcbf2_9ce4_8422_2325, ABI_VERSION as usize);
    digest = failure::layout(digest);
    digest = host::layout(digest);
    plugin::layout(digest)
};

/// One step of 64-bit FNV-1a over the eight bytes of `word` (Fowler, Noll, Vo; RFC 9923).
const fn fnv1a(mut digest: u64, word: usize) -> u64 {
    let mut rest = word as u64;
    let mut byte = 0;
    while byte < 8 {
        digest = (digest ^ (rest & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
        rest >>= 8;
        byte += 1;
    }
    digest
}

/// Folds the size, the alignment and the named field offsets of a type into a layout digest.
macro_rules! fold_layout {
    ($digest:expr, $type:ty $(, $field:ident)* $(,)?) => {{
        let mut digest = $crate::fnv1a($digest, size_of::<$type>());
        digest = $crate::fnv1a(digest, align_of::<$type>());
        $( digest = $crate::fnv1a(digest, std::mem::offset_of!($type, $field)); )*
        digest
    }};
}
use fold_layout;
