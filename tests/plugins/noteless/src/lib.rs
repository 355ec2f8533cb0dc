//! A Rust library with a function for C, as there are many.

/// Adds.
#[unsafe(no_mangle)]
pub extern "C" fn noteless_add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}
