//! Asking for memory before it is needed, so that a processor does not wait for one object after another.

#![allow(unsafe_code, reason = "the instruction that asks for memory is reached through an intrinsic")]

/// Asks for the memory of a value. A hint: it changes nothing, and where there is no such instruction it does nothing.
#[inline]
pub(super) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

        /// What a processor fetches at once, in bytes.
        const LINE: usize = 64;

        let start = std::ptr::from_ref(value).cast::<i8>();
        for offset in (0..size_of::<T>()).step_by(LINE).chain(size_of::<T>().checked_sub(1)) {
            // SAFETY: the offset lies within the value that the reference borrows; the instruction only hints, it cannot fault.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
