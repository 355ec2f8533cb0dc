//! Lets a panic unwind out of its table, into the host.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C-unwind" fn strike(_: &mut Call<'_>) -> Outcome {
    panic!("out of the table")
}

// SAFETY: none: a function that unwinds is passed off as one that does not.
const CALL: extern "C" fn(&mut Call<'_>) -> Outcome =
    unsafe { std::mem::transmute(strike as extern "C-unwind" fn(&mut Call<'_>) -> Outcome) };

plugin_by_hand!(1, root {}, table { call: CALL });
