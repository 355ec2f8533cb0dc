//! What crosses the border while a plugin runs.

use super::{super::boundary::LOG_LINE_BYTES_MAX, *};

const STALE: u8 = FailureCode::STALE_CONTEXT.0 as u8;

#[test]
fn results_and_changes_come_back() {
    let plugin = load_bare("well");
    let echo = |bytes: &[u8]| call(&plugin, "echo", bytes, &mut refuse_to_send);
    assert_eq!(echo(b"\x82\x01\x02").unwrap().0, b"\x82\x01\x02");
    assert_eq!(echo(b"").unwrap().0, b"");
    let large = [&b"\x59\xff\xff"[..], &[7; 65535]].concat();
    assert_eq!(echo(&large).unwrap().0, large);
    let (result, changes) = call(&plugin, "change", b"", &mut refuse_to_send).unwrap();
    assert_eq!((&result[..], &changes[..]), (&b"\x05"[..], &b"\xa1\x65total\x05"[..]));
    let (_, changes) = call(&plugin, "change_in_query", b"", &mut refuse_to_send).unwrap();
    assert_eq!(changes, b"", "what a query changes is dropped");
}

#[test]
fn malformed_results_are_the_plugins_failure() {
    let plugin = load_bare("well");
    for method in ["bad_result", "bad_changes"] {
        let failure = call(&plugin, method, b"", &mut refuse_to_send).unwrap_err();
        assert_eq!(failure.code, FailureCode::BAD_ENCODING, "{failure}");
        assert!(failure.message.contains(&format!("bare.Probe.{method}")), "{failure}");
    }
    let failure = call(&plugin, "echo_twice", b"\x01", &mut refuse_to_send).unwrap_err();
    assert_eq!(failure.code, FailureCode::BAD_ENCODING);
    let behavior = plugin.behavior("bare.Probe").unwrap();
    let mut out = RVec::new();
    assert_eq!(behavior.construct(b"\x01", &mut out).unwrap_err().code, FailureCode::BAD_ENCODING);
    assert_eq!(behavior.construct(b"", &mut out).unwrap_err().code, FailureCode::BAD_ENCODING);
}

#[test]
fn nothing_that_a_plugin_allocated_outlives_it() {
    // The fixture's allocator is not the system's, so that freeing a block on the wrong side ends the test.
    let mut out = CallBuffers::default();
    let mut constructed = RVec::new();
    let plugin = load_bare("well");
    let behavior = plugin.behavior("bare.Probe").unwrap();
    let mut host = TestHost { on_send: &mut refuse_to_send };
    let id = |name| behavior.method(name).unwrap();
    behavior.call(&mut host, ObjectId(77), id("own_vectors"), b"\xa0", b"", &mut out).unwrap();
    behavior.construct(b"\xa1\x61x\x01", &mut constructed).unwrap();
    let failure = behavior.call(&mut host, ObjectId(77), id("fail"), b"\xa0", b"", &mut CallBuffers::default());
    assert!(retire(plugin).is_ok());
    assert_eq!((&out.result[..], &out.changes[..], &constructed[..]), (&[1][..], &[0xa0][..], &b"\xa1\x61x\x01"[..]));
    for vector in [&mut out.result, &mut out.changes, &mut constructed] {
        vector.extend_from_slice(&[9; 1000]);
        vector.shrink_to_fit();
    }
    let failure = failure.unwrap_err();
    assert_eq!((failure.code, failure.kind.as_str()), (FailureCode::REFUSED, "overdraft"));
    assert!(failure.message.starts_with("éé") && failure.message.ends_with('…'));
    assert!(failure.message.len() <= FAILURE_MESSAGE_BYTES_MAX + '…'.len_utf8());
}

#[test]
fn requests_reach_the_host_of_their_call() {
    let plugin = load_bare("well");
    assert_eq!(call(&plugin, "requests", b"", &mut refuse_to_send).unwrap().0, [1 + 2 + 3 + 4 + 5 + 6]);
    let mut answer = |arguments: &[u8], out: &mut RVec<u8>| {
        assert_eq!(arguments, b"\x81\x07");
        out.push(0x07);
        Ok(())
    };
    assert_eq!(call(&plugin, "send", b"\x81\x07", &mut answer).unwrap().0, b"\x07");
    let failure = call(&plugin, "send", b"", &mut refuse_to_send).unwrap_err();
    assert_eq!(failure.code, FailureCode::TOO_DEEP);
    let garbage = call(&plugin, "send_garbage", b"", &mut |_, _| panic!("it was let through")).unwrap();
    assert_eq!(garbage.0, [FailureCode::BAD_ENCODING.0 as u8]);
    let failure = call(&plugin, "send", b"\x07", &mut |_, _| panic!("it was let through")).unwrap_err();
    assert_eq!(failure.code, FailureCode::BAD_ARGUMENTS);
}

#[test]
fn a_token_is_good_for_its_own_call_only() {
    let plugin = load_bare("well");
    call(&plugin, "keep_token", b"", &mut refuse_to_send).unwrap();
    assert_eq!(call(&plugin, "use_kept_token", b"", &mut refuse_to_send).unwrap().0, [STALE]);
    assert_eq!(call(&plugin, "use_token_elsewhere", b"", &mut refuse_to_send).unwrap().0, [STALE]);
    // While a message sent from a call is executed, the call's own token is not that of the innermost one.
    let mut nested = |_: &[u8], out: &mut RVec<u8>| {
        out.extend_from_slice(&call(&plugin, "use_kept_token", b"", &mut refuse_to_send)?.0);
        Ok(())
    };
    assert_eq!(call(&plugin, "send", b"", &mut nested).unwrap().0, [STALE]);
}

#[test]
fn calls_nest_and_come_back() {
    fn descend(plugin: &Generation, depth: u8) -> Vec<u8> {
        let mut next = |_: &[u8], out: &mut RVec<u8>| {
            if depth == 0 {
                out.push(0x00);
            } else {
                let inner = descend(plugin, depth - 1);
                out.push(inner[0] + 1);
            }
            Ok(())
        };
        call(plugin, "send", b"", &mut next).unwrap().0
    }
    let plugin = load_bare("well");
    assert_eq!(descend(&plugin, 20), [20]);
    // Once all have returned, requests work as before.
    assert!(call(&plugin, "requests", b"", &mut refuse_to_send).is_ok());
}

#[test]
fn a_panicking_host_function_is_a_failure_of_the_request() {
    let plugin = load_bare("well");
    let failure = call(&plugin, "send", b"", &mut |_, _| panic!("broken on purpose")).unwrap_err();
    assert_eq!(failure.code, FailureCode::STORAGE);
    assert!(failure.message.contains("broken on purpose"), "{failure}");
    assert!(call(&plugin, "requests", b"", &mut refuse_to_send).is_ok());
}

#[test]
fn calls_on_several_threads_do_not_meet() {
    let plugin = load_bare("well");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    assert_eq!(call(&plugin, "requests", b"", &mut refuse_to_send).unwrap().0, [21]);
                }
            });
        }
    });
    assert!(retire(plugin).is_ok());
}

#[test]
fn log_lines_are_single_bounded_and_marked() {
    use std::sync::Mutex;

    static LINES: Mutex<Vec<(log::Level, String, String)>> = Mutex::new(Vec::new());
    struct Collect;
    impl log::Log for Collect {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            LINES.lock().unwrap().push((record.level(), record.target().to_owned(), record.args().to_string()));
        }
        fn flush(&self) {}
    }
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let plugin = load_bare("well");
    call(&plugin, "log", b"", &mut refuse_to_send).unwrap();
    let lines = LINES.lock().unwrap();
    let (level, _, line) = lines.iter().find(|(_, target, _)| target == "plugin::bare").unwrap();
    assert_eq!(*level, log::Level::Warn);
    assert!(line.starts_with("first\\nsecondxxx") && line.ends_with("x…"), "{line}");
    assert!(line.len() < LOG_LINE_BYTES_MAX + 10);
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture what_a_call_costs"]
fn what_a_call_costs() {
    const ROUNDS: u32 = 1_000_000;
    let plugin = load_bare("well");
    let behavior = plugin.behavior("bare.Probe").unwrap();
    let mut out = CallBuffers::default();
    let mut host = TestHost { on_send: &mut refuse_to_send };
    for name in ["echo", "change"] {
        let method = behavior.method(name).unwrap();
        let start = std::time::Instant::now();
        for _ in 0..ROUNDS {
            behavior.call(&mut host, ObjectId(77), method, b"\xa0", b"\x81\x07", &mut out).unwrap();
        }
        println!("{name}: {:?} a call", start.elapsed() / ROUNDS);
    }
    let start = std::time::Instant::now();
    for _ in 0..ROUNDS {
        std::hint::black_box(behavior.method(std::hint::black_box("change")));
    }
    println!("finding a method: {:?}", start.elapsed() / ROUNDS);
}
