//! Makes new objects of bytes that are no slots.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn construct(_: RSlice<'_, u8>, out: &mut RVec<u8>) -> Outcome {
    out.extend_from_slice(b"\xa2\x65count\x00\x65count\x00");
    RResult::ROk(())
}

plugin_by_hand!(1, root {}, table { construct });
