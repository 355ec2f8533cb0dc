//! Starts well when it is tried and swapped in, and crashes when it is initialised where `THESEUS_FIXTURE_FALL` is set, as a plugin
//! may in a host that was restarted with another environment.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn init(host: HostTableRef) -> Outcome {
    if std::env::var_os("THESEUS_FIXTURE_FALL").is_some() {
        // SAFETY: none: that is the point.
        let nothing = unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() };
        unreachable!("read {nothing}")
    }
    by_hand::init(host)
}

plugin_by_hand!(1, root { init }, table {});
