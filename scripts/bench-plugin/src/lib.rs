//! What benchmarks need of a plugin: calls that do as good as nothing, and objects by the million.
//!
//! The library is also an ordinary Rust crate, so that a benchmark can call the same functions without a plugin.

use std::{cell::RefCell, thread};

use theseus_plugin::prelude::*;

/// Has no state.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Idle {}

#[methods]
impl Idle {
    /// Does nothing.
    #[inline(never)]
    pub fn nothing(&self) {
        std::hint::black_box(());
    }

    /// Adds two numbers.
    #[inline(never)]
    pub fn sum(&self, a: i64, b: i64) -> i64 {
        std::hint::black_box(a.wrapping_add(b))
    }
}

/// Makes other objects.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Maker {
    /// How many it has made.
    made: u64,
}

#[methods]
impl Maker {
    /// Makes so many objects of a behaviour, with its defaults, in one transaction; returns how many it has made in all.
    pub fn make(&mut self, cx: &mut Context, behavior: String, count: u64) -> Result<u64> {
        for _ in 0..count {
            cx.create_named(&behavior, ())?;
        }
        self.made += count;
        Ok(self.made)
    }
}

thread_local! {
    /// Has a destructor, so each thread that touched it has to run that before the plugin can go.
    static TOUCHED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Leaves on each thread what a plugin can leave there: data with a destructor, and a key of the process.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Toucher {
    /// How often it was touched by a command.
    touched: u64,
}

#[methods]
impl Toucher {
    /// Touches the thread that executes commands; returns how often it was asked to.
    pub fn touch(&mut self) -> u64 {
        leave_something();
        self.touched += 1;
        self.touched
    }

    /// Touches a thread that executes queries; returns how often [`touch`](Self::touch) was asked for.
    pub fn peek(&self) -> u64 {
        leave_something();
        self.touched
    }
}

fn leave_something() {
    // Asking for the current thread makes this copy of the standard library take a key (pthread_key_create).
    let name = format!("{:?}", thread::current().id());
    TOUCHED.with_borrow_mut(|touched| *touched = vec![name; 8]);
}

plugin! { name: "bench", behaviors: [Idle, Maker, Toucher] }
