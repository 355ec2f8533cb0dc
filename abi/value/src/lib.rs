//! The value model of Theseus and its deterministic CBOR encoding.
//!
//! Slots, arguments, results and history records are values: null, booleans, integers, floats, byte strings, texts, arrays,
//! maps with text keys, and references to objects. Host and plugins share this crate and nothing else of the model, so the
//! host can show, compare and search objects without the plugin that made them.
//!
//! # The encoding
//!
//! RFC 8949, core deterministic encoding (section 4.2.1), narrowed to one way to write each value:
//!
//! - heads are as short as they can be, and lengths are definite;
//! - map keys are texts, sorted bytewise by their encoding (shorter first, then bytewise), each at most once;
//! - a float takes the shortest of the three sizes that keeps its value, and the only NaN is `f97e00`;
//! - integers reach from -2^64 to 2^64-1;
//! - tag 39 ("identifier") around an unsigned integer is a reference to an object, and there is no other tag;
//! - arrays and maps nest at most [`DEPTH_MAX`] deep.
//!
//! Whatever is encoded otherwise is refused, so equal values have equal bytes, and comparing or hashing bytes is enough.
//!
//! # Three ways in
//!
//! [`Value`] for code that does not know the types; [`to_vec`] and [`from_slice`] for types with serde; [`raw`] for hot paths
//! that look at bytes in place. With the feature `json`, the `json` module translates to and from JSON,
//! which `strict_json` reads.
//!
//! Types with serde are written as `serde_json` would write them: structs as maps, enums externally tagged, `None` as null,
//! and types that have a readable form (addresses, identifiers) as text.

mod de;
mod error;
#[cfg(feature = "json")]
pub mod json;
mod number;
pub mod raw;
mod ser;
#[cfg(feature = "json")]
pub mod strict_json;
mod value;

pub use de::{from_slice, from_value};
pub use error::{DecodeError, EncodeError};
pub use ser::{to_value, to_vec, to_writer};
pub use value::{Map, ObjectId, Value};

/// How deep arrays and maps may be nested: an array of integers has depth 1.
pub const DEPTH_MAX: usize = 64;
