//! What benchmarks need of a plugin: calls that do as good as nothing, and objects by the million.
//!
//! The library is also an ordinary Rust crate, so that a benchmark can call the same functions without a plugin.

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

plugin! { name: "bench", behaviors: [Idle, Maker] }
