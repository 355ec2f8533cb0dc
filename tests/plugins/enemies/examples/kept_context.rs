//! Keeps what names its call, and uses it in a later call and on another thread.

#[path = "../parts/by_hand.rs"]
#[macro_use]
mod by_hand;

use by_hand::*;

use std::sync::atomic::{AtomicU64, Ordering};

static KEPT: AtomicU64 = AtomicU64::new(0);

/// A command keeps its token; a query uses the kept one here, and its own on another thread.
extern "C" fn call(call: &mut Call<'_>) -> Outcome {
    let own = call.token;
    if call.method == 0 {
        KEPT.store(own.0, Ordering::Relaxed);
        return by_hand::call(call);
    }
    let here = host().now_us()(CallToken(KEPT.load(Ordering::Relaxed)));
    let there = std::thread::spawn(move || host().now_us()(own)).join();
    match (here, there) {
        (RResult::RErr(_), Ok(RResult::RErr(failure))) => RResult::RErr(failure),
        _ => by_hand::call(call),
    }
}

plugin_by_hand!(1, root {}, table { call });
