//! What the macros make of an author's struct and impl block.

use theseus_abi::{Call, abi_stable::std_types::RVec};

use crate::Error;

/// A struct whose fields are slots. Implemented by [`#[behavior]`](crate::behavior).
#[diagnostic::on_unimplemented(message = "`{Self}` has no slots", note = "put #[behavior(version = 1)] on the struct")]
pub trait Slots: Default {
    /// The version of the slots.
    const SCHEMA: u32;

    /// The names of the slots in canonical order.
    const NAMES: &'static [&'static str];

    /// The author's text as a JSON string.
    #[doc(hidden)]
    const DOC: &'static str;

    /// The descriptions of the slots as a JSON array.
    #[doc(hidden)]
    const SLOTS: &'static str;

    /// What came in, slot by slot.
    #[doc(hidden)]
    type Arrived<'de>: AsRef<[Skip<'de>]>;

    /// Decodes the slots; those that are missing take the default's value, names that are no slot go to `unknown`.
    #[doc(hidden)]
    fn load<'de>(slots: &'de [u8], unknown: &mut dyn FnMut(&'de str)) -> Result<(Self, Self::Arrived<'de>), Error>;

    /// Appends a map of the slots, without those that `skip` leaves out, and says how many it has.
    #[doc(hidden)]
    fn save(&self, skip: &[Skip<'_>], out: &mut RVec<u8>) -> Result<usize, Error>;
}

/// A struct whose objects can be sent messages. Implemented by [`#[methods]`](crate::methods).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a behaviour",
    note = "put #[behavior(version = 1)] on the struct and #[methods] on its impl block, which may be empty"
)]
pub trait Behavior: Slots {
    /// The other versions whose slots it can read.
    const READS: &'static [u32];

    /// The other versions into which it can turn its own slots.
    const WRITES: &'static [u32];

    /// The descriptions of the methods as a JSON array.
    #[doc(hidden)]
    const METHODS: &'static str;

    /// Runs a method.
    #[doc(hidden)]
    fn call(call: &mut Call<'_>) -> Result<(), Error>;

    /// Turns slots of one version into those of another.
    #[doc(hidden)]
    fn migrate(from: u32, to: u32, slots: &[u8], out: &mut RVec<u8>) -> Result<(), Error>;
}

/// A behaviour with a name. Implemented by [`plugin!`](crate::plugin) for the behaviours it lists.
#[diagnostic::on_unimplemented(
    message = "the behaviour `{Self}` has no name",
    note = "list it in plugin! {{ name: ..., behaviors: [...] }}"
)]
pub trait Named: Behavior {
    /// The name, `plugin.Type`.
    const NAME: &'static str;
}

/// When a slot is left out of what is written.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Skip<'de> {
    /// Never.
    Never,
    /// If it has the default's value.
    IfDefault,
    /// If it still has this encoding.
    IfEqual(&'de [u8]),
}
