//! Panics: said to the host's log where they happen, and turned into failures where they are caught.
//!
//! The standard hook would print to standard error, ask for the current thread, and capture a backtrace if the environment
//! wants one: the first belongs to the host, the second uses up a process-wide key for each plugin ever loaded, and the
//! third costs megabytes that are never given back. The hook here does none of it.

use std::{any::Any, cell::Cell, fmt::Write, panic::PanicHookInfo};

use log::Level;
use theseus_abi::{Failure, FailureCode};

use crate::{logging, root::Plugin};

/// Where a panic happened. Plain data: a thread-local with a destructor would keep the plugin from being unloaded.
#[derive(Clone, Copy)]
struct Place {
    text: [u8; Place::CAPACITY],
    len: usize,
}

impl Place {
    const CAPACITY: usize = 200;
    const NOWHERE: Place = Place { text: [0; Place::CAPACITY], len: 0 };

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..self.len]).unwrap_or("an unknown place")
    }
}

/// Takes what fits, whole characters only.
impl Write for Place {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = Place::CAPACITY - self.len;
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.text[self.len..self.len + end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        Ok(())
    }
}

thread_local! {
    /// The place of the last panic on this thread.
    static LAST: Cell<Place> = const { Cell::new(Place::NOWHERE) };
}

/// Sets the panic hook of this plugin's copy of the standard library.
pub(crate) fn install<P: Plugin>() {
    // The function has no size, so the box takes no memory: nothing stays behind when the plugin is unloaded.
    std::panic::set_hook(Box::new(on_panic::<P>));
}

fn on_panic<P: Plugin>(info: &PanicHookInfo<'_>) {
    let mut place = Place::NOWHERE;
    if let Some(location) = info.location() {
        // Writing to a place never fails.
        let _ = write!(place, "{location}");
    }
    LAST.set(place);
    logging::write(Level::Error, P::NAME, &described(&place, message(info.payload())));
}

/// The failure that a caught panic becomes.
#[cold]
pub(crate) fn failure(payload: Box<dyn Any + Send>) -> Failure {
    let place = LAST.replace(Place::NOWHERE);
    let failure = Failure::new(FailureCode::PANICKED, described(&place, message(&*payload)));
    // A payload may be of any type, and dropping it may panic again. What that leaves is not dropped a third time.
    if let Err(again) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(payload))) {
        let _ = std::mem::ManuallyDrop::new(again);
    }
    failure
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(the panic carries no text)")
}

fn described(place: &Place, message: &str) -> String {
    format!("the plugin panicked at {}: {message}", place.as_str())
}
