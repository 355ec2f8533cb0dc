//! A plugin's tables, and the header by which the host finds them.
#![allow(unsafe_code, reason = "abi_stable's header erases the type of the root module, which it asks us to vouch for")]

use theseus_abi::{
    BehaviorTable, BehaviorTableRef, PluginRoot, PluginRootRef,
    abi_stable::{
        library::{CheckTypeLayout, LibHeader, RootModuleResult},
        marker_type::ErasedPrefix,
        prefix_type::{PrefixRef, PrefixRefTrait},
        std_types::{ROption, RResult::ROk, RSlice, RStr},
    },
};

use crate::{Error, behavior::Named, entry};

/// A plugin as a whole. Implemented by `plugin!`.
pub trait Plugin: 'static {
    /// Its name.
    const NAME: &'static str;

    /// The root of its tables.
    fn root() -> PluginRootRef;

    /// The tables of its behaviours.
    fn behaviors() -> &'static [BehaviorTableRef];

    /// Its own check that it works.
    fn self_test() -> Result<(), Error>;

    /// Frees what it holds in statics.
    fn retire() -> Result<(), Error>;

    /// How many bytes it has allocated and not freed, if it counts them.
    fn allocated() -> Option<u64>;
}

/// The table of a behaviour.
pub const fn behavior_table<B: Named>(description: &'static str) -> BehaviorTable {
    BehaviorTable {
        name: RStr::from_str(B::NAME),
        description: RStr::from_str(description),
        call: entry::call::<B>,
        construct: entry::construct::<B>,
        migrate: entry::migrate::<B>,
    }
}

/// The root of a plugin's tables.
pub const fn plugin_root<P: Plugin>() -> PluginRoot {
    PluginRoot {
        init: entry::init::<P>,
        behaviors: behaviors::<P>,
        self_test: entry::self_test::<P>,
        retire: entry::retire::<P>,
        allocated: allocated::<P>,
    }
}

extern "C" fn behaviors<P: Plugin>() -> RSlice<'static, BehaviorTableRef> {
    RSlice::from_slice(P::behaviors())
}

/// It adds numbers up, and so has nothing to catch.
extern "C" fn allocated<P: Plugin>() -> ROption<u64> {
    P::allocated().into()
}

/// What has to stand behind the symbol `abi_stable::library::ROOT_MODULE_LOADER_NAME`.
///
/// `abi_stable::export_root_module` would write it, but in a form that the 2024 edition refuses, and with a copy of the root
/// that leaks with every load.
pub const fn lib_header<P: Plugin>() -> LibHeader {
    // SAFETY: the constructor has to return a `PluginRootRef` with its type erased, and `constructor` does.
    unsafe { LibHeader::from_constructor::<PluginRootRef>(constructor::<P>, CheckTypeLayout::Yes) }
}

extern "C" fn constructor<P: Plugin>() -> RootModuleResult {
    // SAFETY: the host casts it back to the type whose layout the header gives, which is this one.
    let erased: PrefixRef<ErasedPrefix> = unsafe { P::root().to_prefix_ref().cast() };
    ROk(erased)
}
