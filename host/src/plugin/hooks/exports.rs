//! The functions that the executable exports in the place of the C library's.
//!
//! They are called by all code of the process, the host's own included, at any time and on any thread. None may unwind, log, or use
//! a thread-local with a destructor; what is not a plugin's goes on to the C library as it came.

#![allow(unsafe_code, reason = "these are C functions, called by foreign code and calling the C library")]
#![allow(non_snake_case, reason = "names of the C library")]

use std::{
    ffi::{CStr, c_int, c_void},
    mem::transmute,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use super::{
    thread::{self, Destructor},
    watched::{Watched, owner_of},
};

type StartRoutine = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type ThreadAtExit = unsafe extern "C" fn(Option<Destructor>, *mut c_void, *mut c_void) -> c_int;
type ThreadCreate =
    unsafe extern "C" fn(*mut libc::pthread_t, *const libc::pthread_attr_t, Option<StartRoutine>, *mut c_void) -> c_int;
type KeyCreate = unsafe extern "C" fn(*mut libc::pthread_key_t, Option<Destructor>) -> c_int;
type KeyDelete = unsafe extern "C" fn(libc::pthread_key_t) -> c_int;
type SetSpecific = unsafe extern "C" fn(libc::pthread_key_t, *const c_void) -> c_int;

/// A function of the C library that a hook stands before.
struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

static THREAD_ATEXIT: Real = Real::named(c"__cxa_thread_atexit_impl");
static THREAD_CREATE: Real = Real::named(c"pthread_create");
static KEY_CREATE: Real = Real::named(c"pthread_key_create");
static KEY_DELETE: Real = Real::named(c"pthread_key_delete");
static SET_SPECIFIC: Real = Real::named(c"pthread_setspecific");

impl Real {
    const fn named(name: &'static CStr) -> Real {
        Real { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Its address. Looked up at first use: the hooks are called before `main`.
    #[inline]
    fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a C string. The next one after the executable's is the C library's, or that of a library that
        // was loaded before it in order to see these calls, too.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null() {
            // A process without them has no threads, and cannot say more either.
            std::process::abort();
        }
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Whether the executable exports the hooks, so that plugins are bound to them.
pub(in crate::plugin) fn are_in_force() -> bool {
    static IN_FORCE: OnceLock<bool> = OnceLock::new();
    let seen = |real: &Real, hook: *const ()| {
        // SAFETY: the name is a C string. This is the lookup that a plugin's references get.
        let bound = unsafe { libc::dlsym(libc::RTLD_DEFAULT, real.name.as_ptr()) };
        std::ptr::eq(bound.cast_const().cast(), hook)
    };
    *IN_FORCE.get_or_init(|| {
        seen(&THREAD_ATEXIT, __cxa_thread_atexit_impl as *const ())
            && seen(&THREAD_CREATE, pthread_create as *const ())
            && seen(&KEY_CREATE, pthread_key_create as *const ())
            && seen(&KEY_DELETE, pthread_key_delete as *const ())
            && seen(&SET_SPECIFIC, pthread_setspecific as *const ())
    })
}

/// Has `thread_ends` called when this thread ends.
pub(super) fn at_thread_end(account: *const c_void) {
    /// The host's own key, whose destructor closes accounts.
    static ENDS: OnceLock<Option<libc::pthread_key_t>> = OnceLock::new();
    let key = *ENDS.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the address is that of `pthread_key_create`, and `key` takes what it creates.
        let made = unsafe {
            let create: KeyCreate = transmute(KEY_CREATE.address());
            create(&raw mut key, Some(thread::thread_ends))
        };
        (made == 0).then_some(key)
    });
    if let Some(key) = key {
        // Without memory for it the account stays open: what the thread owes keeps its images in memory.
        set_value(key, account);
    }
}

/// Sets a value without entering it.
pub(super) fn set_value(key: libc::pthread_key_t, value: *const c_void) {
    // SAFETY: the address is that of `pthread_setspecific`, which takes any key and any value.
    unsafe {
        let set: SetSpecific = transmute(SET_SPECIFIC.address());
        set(key, value);
    }
}

/// Gives an image's key back to the system.
pub(super) fn delete_key(key: libc::pthread_key_t) {
    // SAFETY: `pthread_key_delete` takes any key; no code is left that uses this one.
    unsafe { pthread_key_delete(key) };
}

/// C++ ABI, and glibc's addition to it: `destructor(object)` is called when the calling thread ends.
#[unsafe(no_mangle)]
unsafe extern "C" fn __cxa_thread_atexit_impl(
    destructor: Option<Destructor>,
    object: *mut c_void,
    library: *mut c_void,
) -> c_int {
    // The handle is an address in the library that asks; one that gives none is known by its destructor.
    let image = owner_of(library.addr()).or_else(|| owner_of(destructor.map_or(0, |it| it as usize)));
    if let (Some(image), Some(destructor)) = (image, destructor) {
        thread::account(None).owe_local(image, destructor, object);
        return 0;
    }
    // SAFETY: the address is that of the function with this name, and the arguments are the caller's.
    unsafe {
        let real: ThreadAtExit = transmute(THREAD_ATEXIT.address());
        real(destructor, object, library)
    }
}

/// POSIX.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_create(key: *mut libc::pthread_key_t, destructor: Option<Destructor>) -> c_int {
    // A key without a destructor is known by the variable that takes it, if that is not on the stack.
    let image = owner_of(destructor.map_or(0, |it| it as usize)).or_else(|| owner_of(key.addr()));
    // SAFETY: the address is that of the function with this name, and the arguments are the caller's, but for the
    // destructor, which `thread` calls in the place of the C library.
    let made = unsafe {
        let real: KeyCreate = transmute(KEY_CREATE.address());
        real(key, if image.is_some() { None } else { destructor })
    };
    if let (Some(image), 0) = (image, made) {
        // SAFETY: the call has succeeded, so it has written the key there.
        thread::add_key(image, unsafe { *key }, destructor);
    }
    made
}

/// POSIX.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_key_delete(key: libc::pthread_key_t) -> c_int {
    // Before, so that one created by another thread at once is not taken for it.
    thread::remove_key(key);
    // SAFETY: the address is that of the function with this name, and the argument is the caller's.
    unsafe {
        let real: KeyDelete = transmute(KEY_DELETE.address());
        real(key)
    }
}

/// POSIX.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_setspecific(key: libc::pthread_key_t, value: *const c_void) -> c_int {
    // SAFETY: the address is that of the function with this name, and the arguments are the caller's.
    let set = unsafe {
        let real: SetSpecific = transmute(SET_SPECIFIC.address());
        real(key, value)
    };
    if set == 0 && !value.is_null() && thread::is_watched(key) {
        thread::value_set(key);
    }
    set
}

/// What a thread of an image begins with.
struct Beginning {
    image: Arc<Watched>,
    routine: StartRoutine,
    argument: *mut c_void,
}

/// POSIX.
#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    routine: Option<StartRoutine>,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the address is that of the function with this name.
    let real: ThreadCreate = unsafe { transmute(THREAD_CREATE.address()) };
    let image = owner_of(routine.map_or(0, |it| it as usize));
    let (Some(image), Some(routine)) = (image, routine) else {
        // SAFETY: the arguments are the caller's.
        return unsafe { real(thread, attributes, routine, argument) };
    };
    image.thread_begins();
    let beginning = Box::into_raw(Box::new(Beginning { image, routine, argument }));
    // SAFETY: the caller's thread and attributes; `begin` takes the beginning that was boxed for it.
    let created = unsafe { real(thread, attributes, Some(begin), beginning.cast()) };
    if created != 0 {
        // SAFETY: no thread was created that could have taken it.
        let beginning = unsafe { Box::from_raw(beginning) };
        beginning.image.thread_ends();
    }
    created
}

/// Runs a thread of an image. "C-unwind", since a thread that is cancelled or calls `pthread_exit` unwinds through it.
unsafe extern "C-unwind" fn begin(beginning: *mut c_void) -> *mut c_void {
    // SAFETY: it was boxed for this thread by `pthread_create`.
    let Beginning { image, routine, argument } = *unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
    // The end is entered where the account is closed, after everything else that the thread does.
    drop(thread::account(Some(image)));
    // SAFETY: the routine and its argument, as the image gave them, on the new thread. Nothing here is left to be dropped.
    unsafe { routine(argument) }
}
