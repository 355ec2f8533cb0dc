//! The harness of the end-to-end tests: real processes, real sockets, real plugins, real files.
//!
//! A test makes a [`Home`] in a temporary folder, starts a [`Host`] on it - or a whole [`Watched`] host under the watchdog -
//! and talks to it through the command line ([`Home::cli`]) and HTTP ([`http::Client`]). Ports are chosen by the system, so
//! tests run side by side. Everything waits for a bounded time, and every process ends with the value that stands for it.
//!
//! The harness panics where a test would: it is part of the tests.

#![allow(clippy::unwrap_used, reason = "in a harness of tests, a broken assumption is a failed test")]

pub mod artifacts;
pub mod dice;
pub mod disk;
#[path = "../plugins/fixtures.rs"]
pub mod fixtures;
pub mod home;
pub mod host;
pub mod http;
pub mod keyed;
pub mod load;
pub mod process;
pub mod shim;
pub mod sources;
pub mod watched;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use home::{Home, Output};
pub use host::Host;
pub use http::Client;
pub use serde_json::{Value as Json, json};
pub use watched::Watched;

/// Longer than anything in these tests takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something to become true.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits for something to be there.
///
/// # Panics
///
/// If it is not within [`PATIENCE`].
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
