//! What each thread owes to images, and how it settles.

#![allow(
    unsafe_code,
    reason = "destructors are functions of a plugin that take untyped pointers, as they were registered"
)]

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::c_void,
    marker::PhantomData,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{exports, watched::Watched};

/// A destructor, of a thread-local or of the values of a key.
pub(super) type Destructor = unsafe extern "C" fn(*mut c_void);

/// Something that a thread has to destroy before an image may go.
struct Owed {
    image: Arc<Watched>,
    what: What,
}

enum What {
    /// A thread-local: its destructor and its address.
    Local(Destructor, usize),
    /// The value of a key.
    Key(libc::pthread_key_t),
}

/// The account of one thread.
pub(super) struct Thread {
    /// Oldest first. A lock because others look who owes what; only the thread itself changes it.
    owed: Mutex<Vec<Owed>>,
    /// The image in which the thread began.
    origin: Option<Arc<Watched>>,
    /// Whether it should settle.
    due: AtomicBool,
    /// Wakes it for that, if it takes errands. A lock because it may begin and cease to do so.
    bell: Mutex<Option<Sender<()>>>,
}

/// A thread key of an image. The key itself has no destructor: its values are seen to here.
struct Key {
    image: Arc<Watched>,
    destructor: Option<Destructor>,
}

/// All threads that have an account. A lock because threads come and go. Taken before any `Thread::owed`.
static THREADS: Mutex<Vec<Arc<Thread>>> = Mutex::new(Vec::new());

/// The keys of all images. A lock because any thread may create one.
static KEYS: Mutex<BTreeMap<libc::pthread_key_t, Key>> = Mutex::new(BTreeMap::new());

/// One bit for each key in `KEYS`, so that the others are passed on without a lock. glibc has 1,024 keys.
static IS_WATCHED: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

thread_local! {
    // No destructor, which would be registered through the hook itself. The account lives until `thread_ends`.
    static ACCOUNT: Cell<*const Thread> = const { Cell::new(std::ptr::null()) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The account of this thread, opened if it has none; `origin` is the image in which it began.
pub(super) fn account(origin: Option<Arc<Watched>>) -> Arc<Thread> {
    let known = ACCOUNT.get();
    if !known.is_null() {
        // SAFETY: the pointer is from `Arc::into_raw` below, and that count is given up by `thread_ends` only, which takes it
        // out of `ACCOUNT` first.
        return unsafe {
            Arc::increment_strong_count(known);
            Arc::from_raw(known)
        };
    }
    let thread =
        Arc::new(Thread { owed: Mutex::default(), origin, due: AtomicBool::new(false), bell: Mutex::default() });
    lock(&THREADS).push(thread.clone());
    let kept = Arc::into_raw(thread.clone());
    ACCOUNT.set(kept);
    exports::at_thread_end(kept.cast());
    thread
}

/// Settles with all images and closes the account, when a thread ends.
pub(super) extern "C" fn thread_ends(_account: *mut c_void) {
    let kept = ACCOUNT.get();
    if kept.is_null() {
        return;
    }
    // SAFETY: as in `account`; the reference is used before the count is given up below.
    let thread = unsafe { &*kept };
    thread.settle(|_| true);
    ACCOUNT.set(std::ptr::null());
    lock(&THREADS).retain(|other| !std::ptr::eq(Arc::as_ptr(other), kept));
    // SAFETY: the count that `account` kept, given up once, because `ACCOUNT` no longer has it.
    let thread = unsafe { Arc::from_raw(kept) };
    if let Some(image) = &thread.origin {
        // The very last: what follows is code of the C library.
        image.thread_ends();
    }
}

impl Thread {
    /// Enters a thread-local of this thread.
    pub(super) fn owe_local(&self, image: Arc<Watched>, destructor: Destructor, object: *mut c_void) {
        image.owe();
        lock(&self.owed).push(Owed { image, what: What::Local(destructor, object.expose_provenance()) });
    }

    /// Enters a key of which this thread has a value.
    fn owe_key(&self, image: Arc<Watched>, key: libc::pthread_key_t) {
        let mut owed = lock(&self.owed);
        // One that has the number alone may be of a key that was deleted, in another image.
        let is_it =
            |owed: &Owed| matches!(owed.what, What::Key(other) if other == key) && Arc::ptr_eq(&owed.image, &image);
        if !owed.iter().any(is_it) {
            image.owe();
            owed.push(Owed { image, what: What::Key(key) });
        }
    }

    /// Settles with the images that are leaving.
    fn settle_with_leaving(&self) {
        // Looked up once: with an image that begins to leave meanwhile it would settle by half.
        let mut leaving: Vec<Arc<Watched>> = Vec::new();
        for Owed { image, .. } in &*lock(&self.owed) {
            if image.is_leaving() && !leaving.iter().any(|it| Arc::ptr_eq(it, image)) {
                leaving.push(image.clone());
            }
        }
        if !leaving.is_empty() {
            self.settle(|image| leaving.iter().any(|it| std::ptr::eq(&raw const **it, image)));
        }
    }

    /// Runs what this thread owes to some images, as the C library does at a thread's end: thread-locals, the latest first,
    /// then the values of keys. Of each image `with` has to say the same all the time. May only be called on the thread itself.
    fn settle(&self, with: impl Fn(&Watched) -> bool) {
        /// How often values of keys are looked through again: a destructor may set one. `PTHREAD_DESTRUCTOR_ITERATIONS`.
        const ROUNDS: usize = 4;

        self.destroy_locals(&with);
        for _ in 0..ROUNDS {
            let mut keys = Vec::new();
            for owed in lock(&self.owed).iter().filter(|owed| with(&owed.image)) {
                if let What::Key(key) = owed.what {
                    keys.push((owed.image.clone(), key));
                }
            }
            // No lock is held while foreign code runs. It may enter more.
            let destroyed = keys.into_iter().filter(|(image, key)| destroy_value(image, *key)).count();
            if destroyed == 0 {
                break;
            }
            self.destroy_locals(&with);
        }
        lock(&self.owed).retain(|owed| {
            let done = matches!(owed.what, What::Key(_)) && with(&owed.image);
            if done {
                owed.image.settled();
            }
            !done
        });
    }

    fn destroy_locals(&self, with: impl Fn(&Watched) -> bool) {
        loop {
            let mut owed = lock(&self.owed);
            let latest = owed.iter().rposition(|it| matches!(it.what, What::Local(..)) && with(&it.image));
            let Some(Owed { image, what: What::Local(destructor, object) }) = latest.map(|place| owed.remove(place))
            else {
                return;
            };
            drop(owed);
            // SAFETY: the image registered the two together, to be called once, on this thread. It is still mapped, because
            // it is not closed before it counts as settled.
            unsafe { destructor(std::ptr::with_exposed_provenance_mut(object)) };
            image.settled();
        }
    }

    fn owes(&self, image: &Arc<Watched>) -> bool {
        lock(&self.owed).iter().any(|owed| Arc::ptr_eq(&owed.image, image))
    }

    /// Asks the thread to settle, if it takes errands.
    fn ring(&self) -> bool {
        let bell = lock(&self.bell);
        if let Some(bell) = &*bell {
            self.due.store(true, Ordering::Release);
            // Full if it was rung and not heard yet.
            _ = bell.try_send(());
        }
        bell.is_some()
    }
}

/// Destroys this thread's value of an image's key, if it has one. The key may have been deleted meanwhile: then the next that was
/// created, in whatever image, has its number.
fn destroy_value(image: &Arc<Watched>, key: libc::pthread_key_t) -> bool {
    let keys = lock(&KEYS);
    let destructor = keys.get(&key).filter(|known| Arc::ptr_eq(&known.image, image)).and_then(|known| known.destructor);
    drop(keys);
    let Some(destructor) = destructor else { return false };
    // SAFETY: the key is in `KEYS`, so it was not deleted.
    let value = unsafe { libc::pthread_getspecific(key) };
    if value.is_null() {
        return false;
    }
    exports::set_value(key, std::ptr::null());
    // SAFETY: the image gave the destructor for the values of this key. It is still mapped, because this thread's value keeps
    // it from being settled with.
    unsafe { destructor(value) };
    true
}

/// Settles what the calling thread owes to images that are leaving.
pub(in crate::plugin) fn settle_here() {
    if !ACCOUNT.get().is_null() {
        account(None).settle_with_leaving();
    }
}

/// Asks all threads that owe something to an image to settle. Answers how many owe it and take no errands.
pub(in crate::plugin) fn summon(image: &Arc<Watched>) -> usize {
    lock(&THREADS).iter().filter(|thread| thread.owes(image) && !thread.ring()).count()
}

/// Wakes all threads that take errands, so that they let go of what they no longer need.
pub(in crate::plugin) fn ring_all() {
    for thread in lock(&THREADS).iter() {
        thread.ring();
    }
}

/// Forgets what threads owe to an image that is gone: what its own end may have registered.
pub(in crate::plugin) fn write_off(image: &Arc<Watched>) {
    for thread in lock(&THREADS).iter() {
        lock(&thread.owed).retain(|owed| !Arc::ptr_eq(&owed.image, image));
    }
}

/// Enters a new key of an image.
pub(super) fn add_key(image: Arc<Watched>, key: libc::pthread_key_t, destructor: Option<Destructor>) {
    if let Some(word) = IS_WATCHED.get(key as usize / 64) {
        image.add_key(key);
        lock(&KEYS).insert(key, Key { image, destructor });
        word.fetch_or(1 << (key % 64), Ordering::Release);
    }
}

/// Strikes a key out that is about to be deleted.
pub(super) fn remove_key(key: libc::pthread_key_t) {
    if is_watched(key) {
        IS_WATCHED[key as usize / 64].fetch_and(!(1 << (key % 64)), Ordering::Release);
        if let Some(key_of) = lock(&KEYS).remove(&key) {
            key_of.image.remove_key(key);
        }
    }
}

/// Whether a key is an image's.
#[inline]
pub(super) fn is_watched(key: libc::pthread_key_t) -> bool {
    let word = IS_WATCHED.get(key as usize / 64).map_or(0, |word| word.load(Ordering::Acquire));
    word & 1 << (key % 64) != 0
}

/// This thread has set a value of an image's key.
pub(super) fn value_set(key: libc::pthread_key_t) {
    let image = lock(&KEYS).get(&key).map(|key| key.image.clone());
    if let Some(image) = image {
        account(None).owe_key(image, key);
    }
}

/// Lets other threads ask this one to settle with images. Look at it between two pieces of work:
///
/// ```ignore
/// if errands.are_due() { errands.run(); }
/// ```
///
/// and let [`bell`](Self::bell) end every wait. A thread that runs code of plugins, lives on, and has none keeps them in memory.
pub struct Errands {
    thread: Arc<Thread>,
    bell: Receiver<()>,
    /// It is about one thread, and stays there.
    _not_send: PhantomData<*const ()>,
}

impl Errands {
    /// Those of the calling thread. A thread has them once.
    pub fn of_this_thread() -> Errands {
        let (sender, bell) = bounded(1);
        let thread = account(None);
        *lock(&thread.bell) = Some(sender);
        Errands { thread, bell, _not_send: PhantomData }
    }

    /// Whether there is something to be done.
    #[inline]
    pub fn are_due(&self) -> bool {
        self.thread.due.load(Ordering::Relaxed)
    }

    /// Does it: runs destructors of plugins that are being unloaded.
    pub fn run(&self) {
        self.thread.due.store(false, Ordering::Release);
        _ = self.bell.try_recv();
        self.thread.settle_with_leaving();
    }

    /// Rings when something is to be done while the thread waits for something else.
    pub fn bell(&self) -> &Receiver<()> {
        &self.bell
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        *lock(&self.thread.bell) = None;
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::sync::{OnceLock, atomic::AtomicUsize};

    use super::{super::watch, *};

    static FIRST: AtomicU64 = AtomicU64::new(0);
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    static LATER: OnceLock<Arc<Watched>> = OnceLock::new();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);

    /// Leaves its value again as often as that is looked for, and then another image begins to leave.
    unsafe extern "C" fn again(value: *mut c_void) {
        if TIMES.fetch_add(1, Ordering::SeqCst) < 3 {
            exports::set_value(FIRST.load(Ordering::SeqCst) as libc::pthread_key_t, value);
        } else {
            LATER.get().expect("the test has set it").leave();
        }
    }

    unsafe extern "C" fn destroy(_value: *mut c_void) {
        DESTROYED.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn an_image_that_begins_to_leave_meanwhile_is_settled_with_wholly() {
        let images = [watch("/the first"), watch("/the later")];
        let keys = [again as Destructor, destroy].map(|destructor| {
            let mut key = 0;
            // SAFETY: `key` takes the key.
            assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, None) }, 0);
            (key, destructor)
        });
        FIRST.store(keys[0].0.into(), Ordering::SeqCst);
        LATER.get_or_init(|| images[1].clone());
        let errands = Errands::of_this_thread();
        for ((key, destructor), image) in keys.into_iter().zip(&images) {
            add_key(image.clone(), key, Some(destructor));
            exports::set_value(key, (&raw const FIRST).cast());
            value_set(key);
        }
        images[0].leave();
        errands.run();
        assert_eq!((images[0].owed(), images[1].owed()), (0, 1));
        errands.run();
        assert_eq!((images[1].owed(), DESTROYED.load(Ordering::SeqCst)), (0, 1));
        for image in images {
            image.delete_keys();
            image.forget();
        }
    }

    /// Counts how often the value was destroyed.
    unsafe extern "C" fn count(value: *mut c_void) {
        // SAFETY: the values of the keys that have this destructor are counters that outlive them.
        unsafe { &*value.cast::<AtomicUsize>() }.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn the_number_of_a_deleted_key_may_be_that_of_another_image() {
        let [first, second] = [watch("/deletes its key"), watch("/gets its number")];
        let counters = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let destroyed = || counters.each_ref().map(|counter| counter.load(Ordering::SeqCst));
        let mut key = 0;
        // SAFETY: `key` takes the key.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, None) }, 0);
        let errands = Errands::of_this_thread();
        for (image, counter) in [&first, &second].into_iter().zip(&counters) {
            // The C library gives the lowest number that is free.
            remove_key(key);
            add_key(image.clone(), key, Some(count));
            exports::set_value(key, std::ptr::from_ref(counter).cast());
            value_set(key);
        }
        assert_eq!((first.owed(), second.owed()), (1, 1));
        first.leave();
        errands.run();
        assert_eq!((first.owed(), second.owed(), destroyed()), (0, 1, [0, 0]), "the value is still in use");
        second.leave();
        errands.run();
        assert_eq!((second.owed(), destroyed()), (0, [0, 1]));
        for image in [first, second] {
            image.delete_keys();
            image.forget();
        }
    }
}
