//! Reading and writing the encoding item by item, in place and without a data model in between: for the hot paths of the
//! host and of the plugin kit. Everything here is as strict as the rest of the crate.

mod map;
mod reader;
mod writer;

pub use map::{Fields, MapIter, MapView, key_order, merge_maps};
pub use reader::{Kind, Reader, describe, validate};
pub use writer::{Buffer, Writer};

pub(crate) use map::{KeyOrder, shorten};
pub(crate) use writer::adjust_head;

// The major types of RFC 8949, section 3.1.
pub(crate) const UNSIGNED: u8 = 0;
pub(crate) const NEGATIVE: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;
pub(crate) const TAG: u8 = 6;

pub(crate) const FALSE: u8 = 0xf4;
pub(crate) const TRUE: u8 = 0xf5;
pub(crate) const NULL: u8 = 0xf6;
pub(crate) const HALF: u8 = 0xf9;
pub(crate) const SINGLE: u8 = 0xfa;
pub(crate) const DOUBLE: u8 = 0xfb;

/// The tag of a reference to an object ("identifier" in IANA's registry of CBOR tags).
pub(crate) const REFERENCE: u64 = 39;
