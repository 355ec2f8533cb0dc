//! A plugin whose tables are written by hand, so that an enemy can put a function of its own in any place of them. What it does
//! not give is well-behaved.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each enemy that includes this file uses a part of it")]

use std::sync::OnceLock;

pub use abi_stable::std_types::{RResult, RSlice, RStr, RVec};
pub use theseus_abi::{BehaviorTable, BehaviorTableRef, Call, CallToken, Failure, HostTableRef};
pub use theseus_plugin::__private as kit;

/// What a function across the boundary gives.
pub type Outcome = RResult<(), Failure>;

static HOST: OnceLock<HostTableRef> = OnceLock::new();

/// The host's functions.
pub fn host() -> HostTableRef {
    *HOST.get().expect("the host calls init before anything else")
}

/// Takes the host's functions.
pub extern "C" fn init(host: HostTableRef) -> Outcome {
    let _ = HOST.set(host);
    RResult::ROk(())
}

/// Answers 1 and changes the count to it.
pub extern "C" fn call(call: &mut Call<'_>) -> Outcome {
    call.result.push(1);
    call.changes.extend_from_slice(b"\xa1\x65count\x01");
    RResult::ROk(())
}

/// Makes the slots with a count of 0.
pub extern "C" fn construct(_: RSlice<'_, u8>, out: &mut RVec<u8>) -> Outcome {
    out.extend_from_slice(b"\xa1\x65count\x00");
    RResult::ROk(())
}

/// Leaves the slots as they are.
pub extern "C" fn migrate(_: u32, _: u32, slots: RSlice<'_, u8>, out: &mut RVec<u8>) -> Outcome {
    out.extend_from_slice(&slots);
    RResult::ROk(())
}

/// The behaviour `enemy.Enemy` with a command `strike` and a query `look`.
pub const TABLE: BehaviorTable = BehaviorTable {
    name: RStr::from_str("enemy.Enemy"),
    description: RStr::from_str(
        r#"{"doc":"","slots":[{"name":"count","type":"i64","doc":""}],"methods":[
            {"name":"strike","kind":"command","arguments":[],"returns":"any","doc":""},
            {"name":"look","kind":"query","arguments":[],"returns":"any","doc":""}
        ]}"#,
    ),
    call,
    construct,
    migrate,
};

/// Writes the plugin: the schema version (2 reads 1), and the fields of the root and of the behaviour's table that are the
/// enemy's own.
#[macro_export]
macro_rules! plugin_by_hand {
    ($schema:literal, root { $($root:ident),* }, table { $($table:ident $(: $function:expr)?),* }) => {
        const _: () = {
            use $crate::by_hand::{self, kit};

            static TABLE: kit::WithMetadata<kit::BehaviorTable> =
                kit::WithMetadata::new(kit::BehaviorTable { $($table $(: $function)?,)* ..by_hand::TABLE });
            static ROOT: kit::WithMetadata<kit::PluginRoot> = kit::WithMetadata::new(kit::PluginRoot {
                $($root,)*
                ..kit::PluginRoot { init: by_hand::init, ..kit::plugin_root::<Enemy>() }
            });

            struct Enemy;

            impl kit::Plugin for Enemy {
                const NAME: &'static str = "enemy";

                fn root() -> kit::PluginRootRef {
                    kit::PluginRootRef(ROOT.static_as_prefix())
                }

                fn behaviors() -> &'static [kit::BehaviorTableRef] {
                    static TABLES: &[kit::BehaviorTableRef] = &[kit::BehaviorTableRef(TABLE.static_as_prefix())];
                    TABLES
                }

                fn self_test() -> Result<(), kit::Error> {
                    Ok(())
                }

                fn retire() -> Result<(), kit::Error> {
                    Ok(())
                }

                fn allocated() -> Option<u64> {
                    None
                }
            }

            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: kit::LibHeader = kit::lib_header::<Enemy>();

            const READS: &[u32] = if $schema == 1 { &[] } else { &[1] };
            const FACTS: kit::Facts<'_> = kit::Facts {
                name: "enemy",
                version: env!("CARGO_PKG_VERSION"),
                behaviors: &[kit::BehaviorFacts { name: "enemy.Enemy", schema: $schema, reads: READS, writes: &[] }],
                unwinds: true,
                requires: &[],
                capabilities: &[],
            };
            const LENGTH: usize = kit::manifest::<0>(&FACTS).1;

            #[used]
            #[unsafe(link_section = ".note.theseus")]
            static NOTE: kit::Note<LENGTH> = kit::Note::new(kit::manifest(&FACTS).0);
        };
    };
}
