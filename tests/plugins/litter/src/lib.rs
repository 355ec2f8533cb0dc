//! A plugin that leaves behind whatever it is asked to. Where a test has to see what becomes of it, the plugin gets the address of
//! a number in the test's process, and adds one to it; 0 stands for none.

use std::{
    cell::RefCell,
    ffi::c_void,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use theseus_plugin::{Counting, prelude::*};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// A number of the test's.
#[derive(Clone, Copy)]
struct Number(u64);

impl Number {
    fn get(self) -> &'static AtomicU64 {
        // SAFETY: the test gives the address of a static.
        unsafe { &*std::ptr::with_exposed_provenance(self.0 as usize) }
    }

    fn count(self) {
        if self.0 != 0 {
            self.get().fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Litter {
    _weight: Vec<u8>,
    number: Number,
}

impl Drop for Litter {
    fn drop(&mut self) {
        self.number.count();
    }
}

/// Leaves another thread-local when it is destroyed, unless that one was destroyed before.
struct Chain(Number);

impl Drop for Chain {
    fn drop(&mut self) {
        let litter = Litter { _weight: vec![0; 100], number: self.0 };
        // What cannot be left counts at once.
        _ = LITTER.try_with(|left| left.borrow_mut().push(litter));
    }
}

thread_local! {
    static LITTER: RefCell<Vec<Litter>> = const { RefCell::new(Vec::new()) };
    static CHAIN: RefCell<Option<Chain>> = const { RefCell::new(None) };
}

/// Held until the plugin is retired.
static HOARD: Mutex<Vec<u8>> = Mutex::new(Vec::new());

static PLAIN_KEY: AtomicU32 = AtomicU32::new(0);

/// Counts, and sets the value again the first two times.
unsafe extern "C" fn destroy_value(value: *mut c_void) {
    // SAFETY: `leave_value` boxed it.
    let mut value = unsafe { Box::from_raw(value.cast::<(libc::pthread_key_t, u64, Number)>()) };
    value.2.count();
    if value.1 > 0 {
        value.1 -= 1;
        let key = value.0;
        // SAFETY: the key exists as long as it has values.
        unsafe { libc::pthread_setspecific(key, Box::into_raw(value).cast()) };
    }
}

extern "C" fn on_signal(_signal: i32) {}

fn handle(handler: usize) -> i32 {
    // SAFETY: a handler of the right type, or the default.
    unsafe { i32::from(libc::signal(libc::SIGUSR2, handler) == libc::SIG_ERR) }
}

/// Leaves things behind.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Leaver;

#[methods]
impl Leaver {
    /// Leaves a thread-local that counts when it is destroyed.
    pub fn leave_local(&self, number: u64) {
        LITTER.with_borrow_mut(|litter| litter.push(Litter { _weight: vec![0; 1000], number: Number(number) }));
    }

    /// The same, by a command.
    pub fn leave_local_too(&mut self, number: u64) {
        self.leave_local(number);
    }

    /// Leaves a thread-local that leaves another.
    pub fn leave_chain(&self, number: u64) {
        CHAIN.set(Some(Chain(Number(number))));
    }

    /// Leaves the handle of the current thread, and what it takes to have one.
    pub fn leave_current(&self) -> bool {
        std::thread::current().name().is_some()
    }

    /// Leaves nothing: the thread is joined.
    pub fn run_thread(&self, number: u64) {
        std::thread::spawn(move || Leaver.leave_local(number)).join().expect("it does not panic");
    }

    /// Leaves a thread that ends when the number is not 0.
    pub fn leave_thread(&self, until: u64) {
        std::thread::spawn(move || {
            while Number(until).get().load(Ordering::SeqCst) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
    }

    /// Leaves a thread that ends after some time.
    pub fn leave_thread_for_ms(&self, ms: u64) {
        std::thread::spawn(move || std::thread::sleep(std::time::Duration::from_millis(ms)));
    }

    /// Leaves a key with a value that is destroyed three times.
    pub fn leave_value(&self, number: u64) -> i32 {
        let mut key = 0;
        // SAFETY: `key` takes the key, whose values are what `destroy_value` expects.
        unsafe {
            let made = libc::pthread_key_create(&raw mut key, Some(destroy_value));
            libc::pthread_setspecific(key, Box::into_raw(Box::new((key, 2u64, Number(number)))).cast());
            made
        }
    }

    /// Leaves a key without a destructor, and deletes another.
    pub fn leave_plain_key(&self) -> i32 {
        let mut key = 0;
        // SAFETY: both places take a key.
        unsafe {
            libc::pthread_key_create(&raw mut key, Some(destroy_value));
            libc::pthread_key_delete(key) + libc::pthread_key_create(PLAIN_KEY.as_ptr(), None)
        }
    }

    /// Handles SIGUSR2.
    pub fn leave_signal_handler(&self) -> i32 {
        handle(on_signal as *const () as usize)
    }

    /// Keeps memory until it is retired.
    pub fn hoard(&self, bytes: u64) {
        *HOARD.lock().expect("nobody panics") = vec![1; bytes as usize];
    }

    /// Keeps memory for ever.
    pub fn leak(&self, bytes: u64) {
        let _ = std::mem::ManuallyDrop::new(vec![1u8; bytes as usize]);
    }

    /// Panics.
    pub fn panic(&self) {
        panic!("on purpose");
    }
}

fn retire() -> Result<()> {
    *HOARD.lock().expect("nobody panics") = Vec::new();
    Ok(())
}

plugin! { name: "litter", behaviors: [Leaver], retire: retire, allocator: ALLOCATOR }
