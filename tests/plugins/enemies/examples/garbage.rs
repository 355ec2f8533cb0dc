//! Answers a command with bytes that are no value, a query with a value in a form that is not canonical.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

extern "C" fn call(call: &mut Call<'_>) -> Outcome {
    match call.method {
        0 => call.result.extend_from_slice(&[0xff; 100]),
        _ => call.result.extend_from_slice(&[0x18, 0x01]),
    }
    RResult::ROk(())
}

plugin_by_hand!(1, root {}, table { call });
