//! An allocator that knows how much was not given back.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; this one passes all duties on to another")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, Ordering},
};

/// Allocates as another allocator does, the system's if none is given, and counts the bytes that are in use.
///
/// With it the host can tell, once a plugin is unloaded, how much it leaked:
///
/// ```
/// use theseus_plugin::{Counting, prelude::*};
///
/// #[global_allocator]
/// static ALLOCATOR: Counting = Counting::new();
/// # /// Nothing.
/// # #[behavior(version = 1)]
/// # #[derive(Default)]
/// # pub struct Nothing;
/// # #[methods]
/// # impl Nothing {}
///
/// plugin! { name: "frugal", behaviors: [Nothing], allocator: ALLOCATOR }
/// ```
///
/// It costs one atomic addition for each allocation and each release, a few nanoseconds.
pub struct Counting<A = System> {
    inner: A,
    counters: [Counter; COUNTERS],
}

/// Threads count apart, as far as possible, so that they do not wait for each other. A power of two.
const COUNTERS: usize = 16;

/// On a cache line of its own. Less than nothing if blocks of other threads are released here.
#[repr(align(128))]
struct Counter(AtomicI64);

impl Counting {
    /// Counts what the system's allocator gives.
    pub const fn new() -> Counting {
        Counting::with(System)
    }
}

impl Default for Counting {
    fn default() -> Self {
        Counting::new()
    }
}

impl<A> Counting<A> {
    /// Counts what another allocator gives.
    pub const fn with(inner: A) -> Counting<A> {
        Counting { inner, counters: [const { Counter(AtomicI64::new(0)) }; COUNTERS] }
    }

    /// How many bytes were allocated and not freed. While others allocate, this is near the truth.
    pub fn live_bytes(&self) -> u64 {
        let sum: i64 = self.counters.iter().map(|counter| counter.0.load(Ordering::Relaxed)).sum();
        sum.max(0) as u64
    }

    #[inline]
    fn count(&self, bytes: i64) {
        // Where the stack is tells threads apart well enough, and costs no thread-local, which would have to be allocated itself.
        let here = 0u8;
        let place = (&raw const here).addr() >> 20;
        let counter = (place ^ place >> 4 ^ place >> 8) % COUNTERS;
        self.counters[counter].0.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: each function passes its duties on to the same function of the inner allocator, and gives back what that gives.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are those of the inner allocator.
        let block = unsafe { self.inner.alloc(layout) };
        if !block.is_null() {
            self.count(layout.size() as i64);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from the inner allocator with this layout.
        unsafe { self.inner.dealloc(block, layout) };
        self.count(-(layout.size() as i64));
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's duties are those of the inner allocator.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        if !block.is_null() {
            self.count(layout.size() as i64);
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the block came from the inner allocator with this layout, and the caller vouches for the new size.
        let moved = unsafe { self.inner.realloc(block, layout, size) };
        if !moved.is_null() {
            self.count(size as i64 - layout.size() as i64);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_is_in_use_over_all_threads() {
        let counting = Counting::new();
        let (small, large) = (Layout::from_size_align(24, 8).unwrap(), Layout::from_size_align(1000, 64).unwrap());
        // SAFETY: blocks are released once, with the layouts that they have by then.
        unsafe {
            let first = counting.alloc(small);
            let second = counting.alloc_zeroed(large);
            assert_eq!(counting.live_bytes(), 1024);
            let first = counting.realloc(first, small, 40);
            assert_eq!(counting.live_bytes(), 1040);
            let first = first as usize;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    counting.dealloc(first as *mut u8, Layout::from_size_align(40, 8).unwrap());
                    assert_eq!(counting.live_bytes(), 1000);
                });
            });
            counting.dealloc(second, large);
        }
        assert_eq!(counting.live_bytes(), 0);
    }
}
