//! The images whose doings are watched.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::plugin::mapped::{self, Mapping};

/// One image, from before its first instruction until it is unmapped.
pub(in crate::plugin) struct Watched {
    path: String,
    /// Unknown until somebody asks, which may be during `dlopen`: initialisers start threads, too.
    mapping: OnceLock<Mapping>,
    /// Whether its plugin was retired: threads that settle now settle with this one.
    leaving: AtomicBool,
    /// Destructors of its thread-locals, and values of its keys, on all threads, that were not yet run to their end.
    owed: AtomicUsize,
    /// Threads alive that began in it.
    threads: AtomicUsize,
    /// Its thread keys. A lock because any thread may create one.
    keys: Mutex<Vec<libc::pthread_key_t>>,
}

/// All images that are watched. A lock because plugins are loaded and unloaded on several threads; every hook reads it.
static IMAGES: RwLock<Vec<Arc<Watched>>> = RwLock::new(Vec::new());

/// How many there are, so that a process without plugins pays nothing.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Begins to watch the image that will be loaded from `path`.
pub(in crate::plugin) fn watch(path: &str) -> Arc<Watched> {
    let watched = Arc::new(Watched {
        path: path.to_owned(),
        mapping: OnceLock::new(),
        leaving: AtomicBool::new(false),
        owed: AtomicUsize::new(0),
        threads: AtomicUsize::new(0),
        keys: Mutex::default(),
    });
    let mut images = IMAGES.write().unwrap_or_else(PoisonError::into_inner);
    images.push(watched.clone());
    COUNT.store(images.len(), Ordering::Release);
    watched
}

/// The image to which an address belongs, if it is watched.
#[inline]
pub(super) fn owner_of(address: usize) -> Option<Arc<Watched>> {
    // An image that is loaded at this moment by another thread cannot be the one that calls here.
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let images = IMAGES.read().unwrap_or_else(PoisonError::into_inner);
    images.iter().find(|image| image.mapping().is_some_and(|mapping| mapping.contains(address))).cloned()
}

impl Watched {
    /// Where it is mapped; none if the dynamic linker does not know it.
    pub(in crate::plugin) fn mapping(&self) -> Option<Mapping> {
        if let Some(mapping) = self.mapping.get() {
            return Some(*mapping);
        }
        let found = mapped::find(&self.path)?;
        Some(*self.mapping.get_or_init(|| found))
    }

    /// Whether it is mapped now.
    pub(in crate::plugin) fn is_mapped(&self) -> bool {
        mapped::find(&self.path).is_some_and(|now| self.mapping() == Some(now))
    }

    /// No longer watches it.
    pub(in crate::plugin) fn forget(self: &Arc<Self>) {
        let mut images = IMAGES.write().unwrap_or_else(PoisonError::into_inner);
        images.retain(|image| !Arc::ptr_eq(image, self));
        COUNT.store(images.len(), Ordering::Release);
    }

    /// From now on its destructors are run wherever a thread settles.
    pub(in crate::plugin) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// How many destructors of its thread-locals, and values of its keys, are still to be seen to.
    pub(in crate::plugin) fn owed(&self) -> usize {
        self.owed.load(Ordering::Acquire)
    }

    pub(super) fn owe(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn settled(&self) {
        self.owed.fetch_sub(1, Ordering::Release);
    }

    /// How many threads that began in it are alive.
    pub(in crate::plugin) fn threads(&self) -> usize {
        self.threads.load(Ordering::Acquire)
    }

    pub(super) fn thread_begins(&self) {
        self.threads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn thread_ends(&self) {
        self.threads.fetch_sub(1, Ordering::Release);
    }

    pub(super) fn add_key(&self, key: libc::pthread_key_t) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }

    pub(super) fn remove_key(&self, key: libc::pthread_key_t) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).retain(|it| *it != key);
    }

    /// Gives its thread keys back to the system.
    pub(in crate::plugin) fn delete_keys(&self) {
        let keys = std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        for key in keys {
            super::exports::delete_key(key);
        }
    }
}
