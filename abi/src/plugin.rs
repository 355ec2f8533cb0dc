//! What a plugin offers to the host.

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_types::VersionStrings,
    std_types::{ROption, RResult, RSlice, RStr, RVec},
};

use crate::{CallToken, Failure, HostTableRef};

/// One call of a method.
///
/// The plugin decodes `slots` and `arguments`, runs the method, and appends to the two vectors, which the host owns,
/// hands over empty, and reuses.
#[repr(C)]
#[derive(StableAbi)]
pub struct Call<'a> {
    /// Names this call in the plugin's requests to the host.
    pub token: CallToken,
    /// The object that received the message.
    pub receiver: u64,
    /// Which method: its index in the `methods` of the [`BehaviorDescription`](crate::BehaviorDescription).
    pub method: u32,
    /// The receiver's slots, a map; what the receiver itself lacks was looked up along its parents.
    pub slots: RSlice<'a, u8>,
    /// The arguments: a map by name, an array by position, or nothing at all for none.
    pub arguments: RSlice<'a, u8>,
    /// Takes the encoded result.
    pub result: &'a mut RVec<u8>,
    /// Takes a map of the slots that the method changed; stays empty if it changed none. Ignored for queries.
    pub changes: &'a mut RVec<u8>,
}

/// One behaviour: what objects of that name can do.
///
/// No function here unwinds: each catches panics inside the plugin and reports [`PANICKED`](crate::FailureCode::PANICKED).
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = BehaviorTableRef, prefix_fields = BehaviorTablePrefix)))]
pub struct BehaviorTable {
    /// The behaviour's name, `plugin.Type`.
    pub name: RStr<'static>,
    /// A [`BehaviorDescription`](crate::BehaviorDescription) as JSON.
    pub description: RStr<'static>,
    /// Runs a method.
    pub call: extern "C" fn(&mut Call<'_>) -> RResult<(), Failure>,
    /// Checks the slots given for a new object and writes the full map, defaults filled in.
    pub construct: extern "C" fn(RSlice<'_, u8>, &mut RVec<u8>) -> RResult<(), Failure>,
    /// Turns slots of one schema version (first number) into those of another (second number). One of the two is the
    /// behaviour's own version; the manifest says which others it reads and writes.
    #[sabi(last_prefix_field)]
    pub migrate: extern "C" fn(u32, u32, RSlice<'_, u8>, &mut RVec<u8>) -> RResult<(), Failure>,
}

/// The root of a plugin: what the host finds behind the symbol that `abi_stable` defines for root modules.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRootRef, prefix_fields = PluginRootPrefix)))]
#[sabi(missing_field(panic))]
pub struct PluginRoot {
    /// Hands over the host's functions. Called once, before anything else; the table lives as long as the plugin is loaded.
    pub init: extern "C" fn(HostTableRef) -> RResult<(), Failure>,
    /// The behaviours, in the order of the manifest.
    pub behaviors: extern "C" fn() -> RSlice<'static, BehaviorTableRef>,
    /// The plugin's own check that it works on this machine. Touches no object.
    pub self_test: extern "C" fn() -> RResult<(), Failure>,
    /// Frees what the plugin holds in statics. Called once, after the last call and before the plugin is unloaded.
    pub retire: extern "C" fn() -> RResult<(), Failure>,
    /// How many bytes the plugin has allocated and not freed; none if it does not count them. May be called at any time, also
    /// after `retire`.
    #[sabi(last_prefix_field)]
    pub allocated: extern "C" fn() -> ROption<u64>,
}

impl RootModule for PluginRootRef {
    abi_stable::declare_root_module_statics! {PluginRootRef}
    const BASE_NAME: &'static str = "theseus_plugin";
    const NAME: &'static str = "theseus_plugin";
    // abi_stable compares this as a semantic version, so its major number is the ABI version.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

pub(crate) const fn layout(mut digest: u64) -> u64 {
    digest = crate::fold_layout!(digest, Call<'static>, token, receiver, method, slots, arguments, result, changes);
    digest = crate::fold_layout!(digest, BehaviorTable, name, description, call, construct, migrate);
    crate::fold_layout!(digest, PluginRoot, init, behaviors, self_test, retire, allocated)
}
