//! Panics when it is initialised.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(_: HostTableRef) -> Outcome {
    panic!("no start today")
}

plugin_by_hand!(1, root { init }, table {});
