//! Migrates objects to bytes that are no slots.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn migrate(_: u32, _: u32, _: RSlice<'_, u8>, out: &mut RVec<u8>) -> Outcome {
    out.extend_from_slice(&[0xff; 9]);
    RResult::ROk(())
}

plugin_by_hand!(2, root {}, table { migrate });
