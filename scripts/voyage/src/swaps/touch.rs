//! A client of the plugin that leaves something on every thread that calls it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::json;

use super::{SwapsError, vessel::PATIENCE};
use crate::api::Host;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(2);
/// The object that is called.
const OBJECT: &str = "toucher";

/// A client that calls commands and queries by turns, so that all threads that execute any are touched again and again.
pub(super) struct Toucher {
    end: Arc<AtomicBool>,
    client: JoinHandle<Result<u64, SwapsError>>,
}

impl Toucher {
    /// Makes the object, and begins to call it.
    pub(super) fn start(to: SocketAddr) -> Result<Toucher, SwapsError> {
        let mut host = Host::new(to, PATIENCE);
        host.create("bench.Toucher", OBJECT, &json!({}), "make-toucher")?;
        let end = Arc::new(AtomicBool::new(false));
        let until = end.clone();
        let client = thread::spawn(move || {
            let mut touched = 0_u64;
            while !until.load(Ordering::Relaxed) {
                let told = host.call(OBJECT, "touch", &json!({}), &format!("touch-{touched}"))?.result;
                touched += 1;
                let seen = host.ask(OBJECT, "peek")?;
                if told != touched || seen != touched {
                    return Err(SwapsError::Load(format!("touch {touched} was answered with {told} and {seen}")));
                }
                thread::sleep(PAUSE);
            }
            let attempts = host.attempts();
            if attempts.broken + attempts.refused > 0 {
                return Err(SwapsError::Load(format!("connections of the touching client suffered: {attempts:?}")));
            }
            Ok(touched)
        });
        Ok(Toucher { end, client })
    }

    /// Ends the client, and says how often it touched.
    pub(super) fn finish(self) -> Result<u64, SwapsError> {
        self.end.store(true, Ordering::Relaxed);
        self.client.join().expect("the client does not panic")
    }
}
