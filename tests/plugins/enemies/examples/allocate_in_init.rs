//! Takes memory without end when it is initialised.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(_: HostTableRef) -> Outcome {
    let mut hoard = Vec::new();
    loop {
        hoard.push(Vec::<u8>::with_capacity(16 << 20));
        std::hint::black_box(&hoard);
    }
}

plugin_by_hand!(1, root { init }, table {});
