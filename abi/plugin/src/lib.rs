//! What the author of a Theseus plugin writes against.
//!
//! A plugin is a `cdylib` crate that depends on this one. A *behaviour* is a struct whose fields are the slots of its objects,
//! and whose public functions are the methods that other objects and clients can call:
//!
//! ```
//! use theseus_plugin::prelude::*;
//!
//! /// A counter that many callers may increment.
//! #[behavior(version = 1)]
//! #[derive(Default)]
//! pub struct Counter {
//!     count: i64,
//! }
//!
//! #[methods]
//! impl Counter {
//!     /// Adds `by` and returns the new count.
//!     pub fn increment(&mut self, by: i64) -> Result<i64> {
//!         self.count = self.count.checked_add(by).ok_or_else(|| Error::refused("overflow", "the counter is full"))?;
//!         Ok(self.count)
//!     }
//!
//!     /// The count.
//!     pub fn count(&self) -> i64 {
//!         self.count
//!     }
//!
//!     /// Moves `n` to another counter: both change, or none.
//!     pub fn move_to(&mut self, cx: &mut Context, other: Ref<Counter>, n: i64) -> Result<()> {
//!         self.count -= n;
//!         let _count: i64 = cx.send(other, "increment", (n,))?;
//!         Ok(())
//!     }
//! }
//!
//! plugin! { name: "counter", behaviors: [Counter] }
//! ```
//!
//! A method with `&mut self` is a *command*: it runs in a transaction, alone, and what it changed is kept if it returns `Ok`. A
//! method with `&self` is a *query*: it sees a committed snapshot and runs in parallel with others. A message sent through
//! [`Context`] from within a command belongs to its transaction.
//!
//! # Versions
//!
//! When the slots of a behaviour change, its `version` goes up, and the behaviour says how it reads the version before and,
//! if it can, how to go back:
//!
//! ```
//! use theseus_plugin::prelude::*;
//! # #[behavior(version = 2)]
//! # #[derive(Default)]
//! # pub struct Counter { count: i64, step: i64 }
//!
//! #[data]
//! struct CounterV1 {
//!     count: i64,
//! }
//!
//! #[methods]
//! impl Counter {
//!     #[migrate(from = 1)]
//!     fn from_v1(old: CounterV1) -> Result<Self> {
//!         Ok(Counter { count: old.count, step: 1 })
//!     }
//!
//!     #[migrate(to = 1)]
//!     fn to_v1(&self) -> Result<CounterV1> {
//!         Ok(CounterV1 { count: self.count })
//!     }
//! }
//! # plugin! { name: "counter", behaviors: [Counter] }
//! ```
//!
//! # What a plugin should leave alone
//!
//! The host unloads a plugin when it is replaced, and has thread-locals destroyed before. A thread that is still running and a
//! signal handler keep it loaded. A destructor of a thread-local that panics ends the process. Statics are never dropped: what
//! they hold is freed by the function that `plugin!` names as `retire`, and [`Counting`] tells the host what was not.

mod behavior;
mod context;
mod counting;
mod decode;
mod entry;
mod error;
mod logging;
mod manifest;
mod panic;
mod reference;
mod root;

pub use behavior::{Behavior, Named, Slots};
pub use context::{Context, Post, Time, UpgradeRequest};
pub use counting::Counting;
pub use error::{Error, Result};
pub use log;
pub use reference::{AnyRef, Ref};
pub use serde;
pub use theseus_abi::FailureCode;
pub use theseus_macros::{behavior, data, methods, plugin};
pub use theseus_value as value;
pub use theseus_value::{ObjectId, Value};

/// Everything that a plugin usually needs.
pub mod prelude {
    pub use crate::{
        AnyRef, Context, Error, ObjectId, Ref, Result, Time, UpgradeRequest, Value, behavior, data, log, methods,
        plugin,
    };
    pub use serde::{Deserialize, Serialize};
}

/// What the macros' output refers to. Not for authors, and free to change.
#[doc(hidden)]
pub mod __private {
    pub use crate::{
        __concat as concat,
        behavior::{Behavior, Named, Skip, Slots},
        context::Context,
        decode::{Signature, SlotReader, SlotWriter, argument, arguments, put_result},
        entry::{no_such_method, no_such_migration, read_old, save_changes, save_migrated, write_old},
        error::Error,
        manifest::{BehaviorFacts, Facts, copied, manifest},
        root::{Plugin, behavior_table, lib_header, plugin_root},
    };
    pub use theseus_abi::{
        BehaviorTable, BehaviorTableRef, Call, PluginRoot, PluginRootRef,
        abi_stable::{library::LibHeader, prefix_type::WithMetadata, std_types::RVec},
        note::Note,
    };
}

/// The examples in the documents, compiled with the tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../README.md")]
    mod readme {}

    #[doc = include_str!("../../../docs/plugin-guide.md")]
    mod plugin_guide {}
}
