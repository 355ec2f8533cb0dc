//! The note says all that a host wants to read; the root module is of another type.

use abi_stable::{
    StableAbi, export_root_module, library::RootModule, prefix_type::WithMetadata, sabi_types::VersionStrings,
    std_types::RStr,
};
use theseus_abi::note::Note;

include!(concat!(env!("OUT_DIR"), "/manifest.rs"));

#[used]
#[unsafe(link_section = ".note.theseus")]
static NOTE: Note<{ MANIFEST.len() }> = Note::new(MANIFEST);

/// Another root.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = OtherRootRef, prefix_fields = OtherRootPrefix)))]
pub struct OtherRoot {
    /// Where the host expects `init`.
    #[sabi(last_prefix_field)]
    pub init: extern "C" fn(u64) -> RStr<'static>,
}

impl RootModule for OtherRootRef {
    abi_stable::declare_root_module_statics! {OtherRootRef}
    const BASE_NAME: &'static str = "theseus_plugin";
    const NAME: &'static str = "theseus_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

#[export_root_module]
pub fn root() -> OtherRootRef {
    static ROOT: WithMetadata<OtherRoot> = WithMetadata::new(OtherRoot { init });
    OtherRootRef(ROOT.static_as_prefix())
}

extern "C" fn init(_: u64) -> RStr<'static> {
    std::process::abort()
}
