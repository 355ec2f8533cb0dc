//! What the host offers to a plugin.

use abi_stable::{
    StableAbi,
    std_types::{ROption, RResult, RSlice, RStr, RVec},
};

use crate::Failure;

/// Names one call of the host into a plugin for as long as it runs.
///
/// A plugin hands it back with every request. The host keeps the state of the call on its own side and looks the token up,
/// so a token that was kept beyond its call, or used on another thread, is refused instead of corrupting memory.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallToken(pub u64);

/// The severity of a log line, numbered as in the `log` crate (1 = error ... 5 = trace).
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLevel(pub u8);

/// The functions that a plugin may call. All but [`log`](Self::log) act within the transaction that `CallToken` names.
///
/// Byte slices are deterministic CBOR as `theseus-value` defines it.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostTableRef, prefix_fields = HostTablePrefix)))]
pub struct HostTable {
    /// Sends a message: target, method, arguments (a map by name or an array by position). Writes the result into the vector.
    pub send: extern "C" fn(CallToken, u64, RStr<'_>, RSlice<'_, u8>, &mut RVec<u8>) -> RResult<(), Failure>,
    /// Makes an object of a behaviour; the slots are a map, and those left out get the behaviour's defaults.
    pub create: extern "C" fn(CallToken, RStr<'_>, RSlice<'_, u8>) -> RResult<u64, Failure>,
    /// Copies an object: its own slots and its parents.
    pub clone_object: extern "C" fn(CallToken, u64) -> RResult<u64, Failure>,
    /// Makes an empty object that delegates to the given one.
    pub derive_object: extern "C" fn(CallToken, u64) -> RResult<u64, Failure>,
    /// Removes an object. Its history stays; its id is never given again.
    pub delete: extern "C" fn(CallToken, u64) -> RResult<(), Failure>,
    /// Finds the object that carries a name.
    pub name_get: extern "C" fn(CallToken, RStr<'_>) -> RResult<ROption<u64>, Failure>,
    /// Gives a name to an object, or frees the name. A name that another object carries has to be freed first.
    pub name_set: extern "C" fn(CallToken, RStr<'_>, ROption<u64>) -> RResult<(), Failure>,
    /// The transaction's time in microseconds since the Unix epoch: the same for its whole length, and recorded.
    pub now_us: extern "C" fn(CallToken) -> RResult<u64, Failure>,
    /// The next number of the transaction's random sequence, whose seed is recorded.
    pub random: extern "C" fn(CallToken) -> RResult<u64, Failure>,
    /// Asks the host for a restart cycle once this transaction is committed; the request is a map (see the plugin guide).
    pub request_upgrade: extern "C" fn(CallToken, RSlice<'_, u8>) -> RResult<(), Failure>,
    /// Appends the parents of an object to the vector, in their order.
    pub parents: extern "C" fn(CallToken, u64, &mut RVec<u64>) -> RResult<(), Failure>,
    /// Gives an object other parents, each once. Messages that begin later look along them.
    pub set_parents: extern "C" fn(CallToken, u64, RSlice<'_, u64>) -> RResult<(), Failure>,
    /// Runs the parents' version of a method on the receiver of the running one: a parent of the object that has the running
    /// method or none for all of them, method, arguments, and the receiver's slots as the running method has them now, a map of
    /// all. Writes the result into the first vector, and into the second the slots as they are then, a map; nothing if none changed.
    pub resend: extern "C" fn(
        CallToken,
        ROption<u64>,
        RStr<'_>,
        RSlice<'_, u8>,
        RSlice<'_, u8>,
        &mut RVec<u8>,
        &mut RVec<u8>,
    ) -> RResult<(), Failure>,
    /// Posts a message for after the commit: target, method, arguments, after how many microseconds it is due, and after how many
    /// again and again, 0 for never. Answers the message, which is an object.
    pub post: extern "C" fn(CallToken, u64, RStr<'_>, RSlice<'_, u8>, u64, u64) -> RResult<u64, Failure>,
    /// Takes a posted message back; answers whether it was still there.
    pub cancel: extern "C" fn(CallToken, u64) -> RResult<bool, Failure>,
    /// Passes a log line (target, text) to the host's log. May be called from any thread and outside calls.
    #[sabi(last_prefix_field)]
    pub log: extern "C" fn(LogLevel, RStr<'_>, RStr<'_>),
}

pub(crate) const fn layout(digest: u64) -> u64 {
    crate::fold_layout!(
        digest,
        HostTable,
        send,
        create,
        clone_object,
        derive_object,
        delete,
        name_get,
        name_set,
        now_us,
        random,
        request_upgrade,
        parents,
        set_parents,
        resend,
        post,
        cancel,
        log,
    )
}
