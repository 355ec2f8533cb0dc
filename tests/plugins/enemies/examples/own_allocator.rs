//! Takes its memory from an allocator of its own, which the host could not free.

use std::alloc::{GlobalAlloc, Layout, System};

use theseus_plugin::prelude::*;

/// Each block is one of the system's with room before it.
struct Shifted;

const SHIFT: usize = 64;

// SAFETY: blocks are the system's, larger by `SHIFT` and handed out from there on; stricter alignments are refused.
unsafe impl GlobalAlloc for Shifted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Layout::from_size_align(layout.size() + SHIFT, SHIFT) {
            // SAFETY: the block has `SHIFT` bytes more than asked for.
            Ok(larger) if layout.align() <= SHIFT => match unsafe { System.alloc(larger) } {
                none if none.is_null() => none,
                block => unsafe { block.add(SHIFT) },
            },
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Ok(larger) = Layout::from_size_align(layout.size() + SHIFT, SHIFT) {
            // SAFETY: `alloc` took it from the system like this.
            unsafe { System.dealloc(block.sub(SHIFT), larger) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: Shifted = Shifted;

/// The enemy.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Enemy {
    count: i64,
}

#[methods]
impl Enemy {
    /// Answers with much memory, and fails with some.
    pub fn strike(&mut self, fail: Option<bool>) -> Result<String> {
        self.count += 1;
        let text = "mine".repeat(10_000);
        if fail == Some(true) { Err(Error::refused("mine", text)) } else { Ok(text) }
    }
}

plugin! { name: "enemy", behaviors: [Enemy] }
