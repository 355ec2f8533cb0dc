//! What plugins leave behind beside memory, and that it does not keep them from being unloaded.

#![allow(unsafe_code, reason = "a signal is given back that a plugin has taken")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::*;

fn litter() -> Generation {
    try_load(&std::fs::read(fixtures::litter()).unwrap()).unwrap()
}

/// Calls a method with one number.
fn leave(plugin: &Generation, method: &str, number: u64) -> Vec<u8> {
    let mut arguments = vec![0x81, 0x1b];
    arguments.extend(number.to_be_bytes());
    try_leave(plugin, method, &shortest(number, arguments)).unwrap()
}

/// Deterministic encodings are the shortest.
fn shortest(number: u64, long: Vec<u8>) -> Vec<u8> {
    match number {
        0..24 => vec![0x81, number as u8],
        24..=0xffff => [&[0x81, 0x19][..], &(number as u16).to_be_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[0x81, 0x1a][..], &(number as u32).to_be_bytes()].concat(),
        _ => long,
    }
}

fn try_leave(plugin: &Generation, method: &str, arguments: &[u8]) -> Result<Vec<u8>, Failure> {
    let behavior = plugin.behavior("litter.Leaver").unwrap();
    let (method, mut out) = (behavior.method(method).unwrap(), CallBuffers::default());
    let mut host = TestHost { on_send: &mut refuse_to_send };
    behavior.call(&mut host, ObjectId(1), method, b"\xa0", arguments, &mut out)?;
    Ok(out.result.to_vec())
}

fn leave_plainly(plugin: &Generation, method: &str) -> Vec<u8> {
    try_leave(plugin, method, b"").unwrap()
}

fn address(number: &'static AtomicU64) -> u64 {
    std::ptr::from_ref(number).expose_provenance() as u64
}

/// A thread that does what it is told, and runs errands in between if it takes any.
struct Worker {
    orders: Option<crossbeam_channel::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    fn start(takes_errands: bool) -> Worker {
        let (orders, queue) = crossbeam_channel::unbounded::<Box<dyn FnOnce() + Send>>();
        let run = move || {
            let errands = takes_errands.then(Errands::of_this_thread);
            let never = crossbeam_channel::never();
            let bell = errands.as_ref().map_or(&never, Errands::bell);
            loop {
                crossbeam_channel::select! {
                    recv(queue) -> order => match order {
                        Ok(order) => order(),
                        Err(_) => return,
                    },
                    recv(bell) -> _ => {}
                }
                if let Some(errands) = errands.as_ref().filter(|errands| errands.are_due()) {
                    errands.run();
                }
            }
        };
        Worker { orders: Some(orders), thread: Some(thread::spawn(run)) }
    }

    /// Has it do something and waits until it is done.
    fn run(&self, order: impl FnOnce() + Send + 'static) {
        let (done, wait) = mpsc::channel();
        let order = move || {
            order();
            done.send(()).unwrap();
        };
        self.orders.as_ref().unwrap().send(Box::new(order)).unwrap();
        wait.recv().unwrap();
    }

    /// Has it use a plugin, which it lets go of afterwards.
    fn with(&self, plugin: &Arc<Generation>, order: impl FnOnce(&Generation) + Send + 'static) {
        let plugin = plugin.clone();
        self.run(move || order(&plugin));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.orders.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

/// A generation that was told to go, and why it stays once it has heard that.
fn told(generation: Generation) -> (Leaving, PinReason) {
    let mut leaving = Leaving::begin(generation);
    loop {
        match leaving.unload().unwrap_err() {
            PinReason::Retiring => thread::yield_now(),
            reason => return (leaving, reason),
        }
    }
}

/// Retires a plugin and unloads it within a second.
fn unload(plugin: Arc<Generation>) -> Unloaded {
    let mut leaving = Leaving::begin(Arc::into_inner(plugin).unwrap());
    let started = Instant::now();
    loop {
        match leaving.unload() {
            Ok(unloaded) => return unloaded,
            Err(reason) => assert!(started.elapsed() < Duration::from_secs(1), "{reason}"),
        }
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn thread_locals_are_destroyed_on_the_threads_that_have_them() {
    static DESTROYED: AtomicU64 = AtomicU64::new(0);
    let workers = [Worker::start(true), Worker::start(true)];
    let plugin = Arc::new(litter());
    for worker in &workers {
        worker.with(&plugin, |plugin| {
            leave(plugin, "leave_local", address(&DESTROYED));
            leave(plugin, "leave_local_too", address(&DESTROYED));
            leave(plugin, "leave_chain", address(&DESTROYED));
            leave_plainly(plugin, "leave_current");
        });
    }
    leave(&plugin, "leave_local", address(&DESTROYED));
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 0);
    assert_eq!(unload(plugin), Unloaded { leaked_bytes: Some(0) });
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 2 * 3 + 1);
}

#[test]
fn a_thread_that_ends_settles_by_itself() {
    static DESTROYED: AtomicU64 = AtomicU64::new(0);
    let plugin = Arc::new(litter());
    let worker = Worker::start(false);
    worker.with(&plugin, |plugin| {
        leave(plugin, "leave_local", address(&DESTROYED));
        leave(plugin, "leave_chain", address(&DESTROYED));
        leave(plugin, "leave_value", address(&DESTROYED));
        leave_plainly(plugin, "leave_current");
    });
    let (mut leaving, reason) = told(Arc::into_inner(plugin).unwrap());
    assert_eq!(reason, PinReason::ThreadLocals { threads: 1 });
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 0);
    drop(worker);
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 2 + 3);
    leaving.unload().unwrap();
}

#[test]
fn threads_of_a_plugin_keep_it_until_they_end() {
    static DESTROYED: AtomicU64 = AtomicU64::new(0);
    static END: AtomicU64 = AtomicU64::new(0);
    let plugin = Arc::new(litter());
    leave(&plugin, "run_thread", address(&DESTROYED));
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
    leave(&plugin, "leave_thread", address(&END));
    leave(&plugin, "leave_thread", address(&END));
    let (mut leaving, reason) = told(Arc::into_inner(plugin).unwrap());
    assert_eq!(reason, PinReason::Threads { count: 2 });
    END.store(1, Ordering::SeqCst);
    let started = Instant::now();
    while let Err(reason) = leaving.unload() {
        assert!(started.elapsed() < Duration::from_secs(1), "{reason}");
    }
}

#[test]
fn values_of_keys_are_destroyed_and_keys_given_back() {
    static DESTROYED: AtomicU64 = AtomicU64::new(0);
    let worker = Worker::start(true);
    // There are 1,024 keys in a process.
    for cycle in 1..=1100 {
        let plugin = Arc::new(litter());
        worker.with(&plugin, |plugin| {
            assert_eq!(leave(plugin, "leave_value", address(&DESTROYED)), [0], "there is a key left");
            assert_eq!(leave_plainly(plugin, "leave_plain_key"), [0], "there is a key left");
        });
        unload(plugin);
        assert_eq!(DESTROYED.load(Ordering::SeqCst), 3 * cycle);
    }
}

#[test]
fn a_signal_handler_keeps_it_until_the_signal_is_given_back() {
    let plugin = litter();
    assert_eq!(leave_plainly(&plugin, "leave_signal_handler"), [0]);
    let (mut leaving, reason) = told(plugin);
    assert_eq!(reason, PinReason::SignalHandler { signal: libc::SIGUSR2 });
    // SAFETY: the default for a signal that nobody sends.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_DFL) };
    leaving.unload().unwrap();
}

#[test]
fn what_retire_frees_is_not_leaked_and_the_rest_is_counted() {
    let plugin = litter();
    leave(&plugin, "hoard", 1 << 20);
    assert_eq!(retire(plugin).unwrap().leaked_bytes, Some(0));
    let plugin = litter();
    leave(&plugin, "hoard", 1 << 20);
    leave(&plugin, "leak", 12_345);
    assert!(try_leave(&plugin, "panic", b"").is_err());
    assert_eq!(retire(plugin).unwrap().leaked_bytes, Some(12_345));
}

#[test]
fn what_did_not_start_is_unloaded_when_it_can_be() {
    in_own_process(module_path!(), "a_stray_goes_when_its_thread_ends", &[]);
}

#[test]
#[ignore = "run by what_did_not_start_is_unloaded_when_it_can_be, in a process of its own"]
fn a_stray_goes_when_its_thread_ends() {
    let error = try_load(&bare("lose", |_| ())).unwrap_err();
    assert!(error.to_string().contains("lost a thread"), "{error}");
    assert!(sweep_strays() == 1 && images() > 0);
    let started = Instant::now();
    while sweep_strays() > 0 {
        assert!(started.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(images(), 0);
}

#[test]
fn thousands_of_untidy_generations_leave_nothing_behind() {
    in_own_process(module_path!(), "untidy_cycles", &[("RUST_BACKTRACE", Path::new("1"))]);
}

#[test]
#[ignore = "run by thousands_of_untidy_generations_leave_nothing_behind, in a process of its own"]
fn untidy_cycles() {
    const CYCLES: u64 = 1000;

    let count = |path: &str| Path::new(path).read_dir().unwrap().count();
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let file = std::fs::read(fixtures::litter()).unwrap();
    let workers = [Worker::start(true), Worker::start(true)];
    let cycle = || {
        let plugin = Arc::new(try_load(&file).unwrap());
        for worker in &workers {
            worker.with(&plugin, |plugin| {
                for method in ["leave_local", "leave_local_too", "leave_chain", "run_thread", "leave_value"] {
                    leave(plugin, method, 0);
                }
                leave_plainly(plugin, "leave_current");
                leave_plainly(plugin, "leave_plain_key");
                leave(plugin, "hoard", 1 << 16);
                try_leave(plugin, "panic", b"").unwrap_err();
            });
        }
        assert_eq!(unload(plugin).leaked_bytes, Some(0));
    };
    for _ in 0..100 {
        cycle();
    }
    let before = (count("/proc/self/fd"), count("/proc/self/task"), maps(), resident());
    for _ in 0..CYCLES {
        cycle();
    }
    let after = (count("/proc/self/fd"), count("/proc/self/task"), maps(), resident());
    assert_eq!((after.0, after.1, images()), (before.0, before.1, 0));
    // The allocator may move a border or two between heap and arenas.
    assert!(after.2 <= before.2 + 4, "{} mappings became {}", before.2, after.2);
    let grown = after.3.saturating_sub(before.3) / CYCLES;
    assert!(grown < 200, "resident memory grows by {grown} bytes with each generation");
}
