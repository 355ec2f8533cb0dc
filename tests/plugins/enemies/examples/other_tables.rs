//! Has other behaviours in its tables than in its manifest.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn behaviors() -> RSlice<'static, BehaviorTableRef> {
    RSlice::from_slice(&[])
}

plugin_by_hand!(1, root { behaviors }, table {});
