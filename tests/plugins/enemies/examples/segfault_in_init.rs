//! Reads where there is no memory when it is initialised.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(_: HostTableRef) -> Outcome {
    // SAFETY: none: that is the point.
    let nothing = unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() };
    unreachable!("read {nothing}")
}

plugin_by_hand!(1, root { init }, table {});
