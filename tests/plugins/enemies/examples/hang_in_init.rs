//! Never comes back when it is initialised.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(_: HostTableRef) -> Outcome {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

plugin_by_hand!(1, root { init }, table {});
