//! Where there is no way to watch: nothing is hooked, and so nothing is unloaded.

use std::ffi::c_void;

/// Whether plugins are bound to the hooks.
pub(in crate::plugin) fn are_in_force() -> bool {
    false
}

/// Nothing is owed where nothing is entered, so the end of a thread settles nothing.
pub(super) fn at_thread_end(_account: *const c_void) {}

/// Never called: no key is watched.
pub(super) fn set_value(_key: libc::pthread_key_t, _value: *const c_void) {}

/// Never called: no key is watched.
pub(super) fn delete_key(_key: libc::pthread_key_t) {}
