//! A plugin written by hand against `theseus-abi`, without the kit: what a host sees is exactly what is written here.
//!
//! It is well-behaved unless it is asked for something else: by the method that is called, or by its [`MODE`], which a test
//! changes in a copy of the file.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::RefCell,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use abi_stable::{
    export_root_module,
    prefix_type::WithMetadata,
    std_types::{ROption, RResult, RSlice, RStr, RString, RVec},
};
use theseus_abi::{
    BehaviorTable, BehaviorTableRef, Call, CallToken, Failure, FailureCode, HostTableRef, LogLevel, PluginRoot,
    PluginRootRef, note::Note,
};

include!(concat!(env!("OUT_DIR"), "/manifest.rs"));

#[used]
#[unsafe(link_section = ".note.theseus")]
static NOTE: Note<{ MANIFEST.len() }> = Note::new(MANIFEST);

/// How the plugin starts and ends: `well`, or `init` (does not start), `name` (its tables are not those of the manifest),
/// `json` (its description is not JSON), `hold` (cannot let go when it is retired), `lose` (does not start, and leaves a thread-local
/// and a thread that runs for half a second).
static MODE: [u8; 17] = *b"fixture-mode=well";

fn mode() -> [u8; 4] {
    let address = &raw const MODE;
    // SAFETY: it points to a static. Volatile, to read it as the file has it and not as the compiler knows it.
    let mode = unsafe { address.read_volatile() };
    [mode[13], mode[14], mode[15], mode[16]]
}

/// An allocator that is not the host's: a block that the host frees by itself, instead of through its owner, is not at the
/// start of a block of the system's.
struct Shifted;

const SHIFT: usize = 64;

// SAFETY: every block is one of the system's with `SHIFT` bytes more, handed out from `SHIFT` on, which keeps any alignment up
// to `SHIFT`; larger ones are refused.
unsafe impl GlobalAlloc for Shifted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Ok(layout) = Layout::from_size_align(layout.size() + SHIFT, layout.align()) else {
            return std::ptr::null_mut();
        };
        if layout.align() > SHIFT {
            return std::ptr::null_mut();
        }
        // SAFETY: the layout has at least `SHIFT` bytes.
        let block = unsafe { System.alloc(layout) };
        // SAFETY: the block has `SHIFT` bytes and those asked for.
        if block.is_null() { block } else { unsafe { block.add(SHIFT) } }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let layout = Layout::from_size_align(layout.size() + SHIFT, layout.align()).unwrap();
        // SAFETY: `alloc` took it from the system with this layout, `SHIFT` bytes before.
        unsafe { System.dealloc(block.sub(SHIFT), layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Shifted = Shifted;

static HOST: OnceLock<HostTableRef> = OnceLock::new();

fn host() -> HostTableRef {
    *HOST.get().unwrap()
}

#[export_root_module]
pub fn root() -> PluginRootRef {
    static ROOT: WithMetadata<PluginRoot> =
        WithMetadata::new(PluginRoot { init, behaviors, self_test, retire, allocated });
    PluginRootRef(ROOT.static_as_prefix())
}

extern "C" fn init(table: HostTableRef) -> RResult<(), Failure> {
    if mode() == *b"init" {
        return RResult::RErr(Failure::new(FailureCode::REFUSED, "asked not to start"));
    }
    if mode() == *b"lose" {
        WITH_DESTRUCTOR.with_borrow_mut(|bytes| bytes.push(1));
        std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_millis(500)));
        return RResult::RErr(Failure::new(FailureCode::REFUSED, "lost a thread"));
    }
    let _ = HOST.set(table);
    // Outside calls nothing but the log can be reached.
    match table.now_us()(CallToken(0)) {
        RResult::RErr(failure) if failure.code == FailureCode::STALE_CONTEXT => RResult::ROk(()),
        _ => RResult::RErr(Failure::new(FailureCode::REFUSED, "the host answered outside a call")),
    }
}

extern "C" fn self_test() -> RResult<(), Failure> {
    RResult::ROk(())
}

extern "C" fn retire() -> RResult<(), Failure> {
    if mode() == *b"hold" {
        return RResult::RErr(Failure::new(FailureCode::REFUSED, "holds a thread"));
    }
    RResult::ROk(())
}

extern "C" fn allocated() -> ROption<u64> {
    ROption::RNone
}

extern "C" fn behaviors() -> RSlice<'static, BehaviorTableRef> {
    const DESCRIPTION: &str = r#"{"doc":"","slots":[
        {"name":"total","type":"i64","doc":""},{"name":"b","type":"i64","doc":""},{"name":"aa","type":"i64","doc":""}
    ],"methods":[
        {"name":"echo","kind":"query","arguments":[],"returns":"any","doc":""},
        {"name":"change","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"bad_result","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"bad_changes","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"own_vectors","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"fail","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"keep_token","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"use_kept_token","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"use_token_elsewhere","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"send","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"send_garbage","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"log","kind":"query","arguments":[],"returns":"i64","doc":""},
        {"name":"touch_thread_local","kind":"query","arguments":[],"returns":"i64","doc":""},
        {"name":"requests","kind":"command","arguments":[],"returns":"i64","doc":""},
        {"name":"change_in_query","kind":"query","arguments":[],"returns":"i64","doc":""},
        {"name":"echo_twice","kind":"query","arguments":[],"returns":"any","doc":""}
    ]}"#;
    const fn table(name: &'static str, description: &'static str) -> BehaviorTable {
        BehaviorTable { name: RStr::from_str(name), description: RStr::from_str(description), call, construct, migrate }
    }
    static PROBE: WithMetadata<BehaviorTable> = WithMetadata::new(table("bare.Probe", DESCRIPTION));
    static OTHER: WithMetadata<BehaviorTable> =
        WithMetadata::new(table("bare.Other", r#"{"doc":"","slots":[],"methods":[]}"#));
    static BROKEN: WithMetadata<BehaviorTable> = WithMetadata::new(table("bare.Other", "{"));
    static LISTED: [BehaviorTableRef; 2] =
        [BehaviorTableRef(PROBE.static_as_prefix()), BehaviorTableRef(OTHER.static_as_prefix())];
    static SWAPPED: [BehaviorTableRef; 2] =
        [BehaviorTableRef(OTHER.static_as_prefix()), BehaviorTableRef(PROBE.static_as_prefix())];
    static UNREADABLE: [BehaviorTableRef; 2] =
        [BehaviorTableRef(PROBE.static_as_prefix()), BehaviorTableRef(BROKEN.static_as_prefix())];
    RSlice::from_slice(match &mode() {
        b"name" => &SWAPPED,
        b"json" => &UNREADABLE,
        _ => &LISTED,
    })
}

extern "C" fn construct(slots: RSlice<'_, u8>, out: &mut RVec<u8>) -> RResult<(), Failure> {
    if slots.as_slice() == [0xa0] {
        out.extend_from_slice(b"\xa1\x65total\x00");
    } else {
        // What it was given, whatever it was: the host has to look at it.
        *out = RVec::from(slots.to_vec());
    }
    RResult::ROk(())
}

extern "C" fn migrate(from: u32, to: u32, _slots: RSlice<'_, u8>, out: &mut RVec<u8>) -> RResult<(), Failure> {
    if (from, to) != (1, 2) {
        return RResult::RErr(Failure::new(FailureCode::NO_MIGRATION, format!("not from {from} to {to}")));
    }
    out.extend_from_slice(b"\xa1\x65total\x07");
    RResult::ROk(())
}

static KEPT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static WITH_DESTRUCTOR: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Answers with the code of the failure that a request met, 0 if it met none.
fn code_of<T>(outcome: RResult<T, Failure>, result: &mut RVec<u8>) {
    let code = match outcome {
        RResult::ROk(_) => 0,
        RResult::RErr(failure) => failure.code.0 as u8,
    };
    assert!(code < 24);
    result.push(code);
}

extern "C" fn call(call: &mut Call<'_>) -> RResult<(), Failure> {
    let token = call.token;
    match call.method {
        0 => call.result.extend_from_slice(&call.arguments),
        1 => {
            call.result.push(0x05);
            call.changes.extend_from_slice(b"\xa1\x65total\x05");
        }
        2 => call.result.extend_from_slice(&[0x18, 0x01]),
        3 => call.changes.push(0x01),
        4 => {
            *call.result = RVec::from(vec![0x01; 1]);
            *call.changes = RVec::from(vec![0xa0; 1]);
        }
        5 => {
            return RResult::RErr(Failure {
                code: FailureCode::REFUSED,
                kind: RString::from("overdraft".to_owned()),
                message: RString::from("é".repeat(10_000)),
            });
        }
        6 => KEPT.store(token.0, Ordering::Relaxed),
        7 => code_of(host().now_us()(CallToken(KEPT.load(Ordering::Relaxed))), call.result),
        8 => {
            let elsewhere = std::thread::spawn(move || host().now_us()(token)).join().unwrap();
            code_of(elsewhere, call.result);
        }
        9 => {
            KEPT.store(token.0, Ordering::Relaxed);
            let sent = host().send()(token, call.receiver, RStr::from_str("any"), call.arguments, call.result);
            if let RResult::RErr(failure) = sent {
                return RResult::RErr(failure);
            }
        }
        10 => {
            let sent = host().send()(
                token,
                call.receiver,
                RStr::from_str("any"),
                RSlice::from_slice(&[0xff]),
                &mut RVec::new(),
            );
            code_of(sent, call.result);
        }
        11 => {
            let line = "first\nsecond".to_owned() + &"x".repeat(10_000);
            host().log()(LogLevel(2), RStr::from_str("bare"), RStr::from_str(&line));
        }
        12 => WITH_DESTRUCTOR.with_borrow_mut(|bytes| bytes.push(1)),
        13 => return requests(token, call.result),
        14 => call.changes.extend_from_slice(b"\xa1\x65total\x05"),
        15 => {
            call.result.extend_from_slice(&call.arguments);
            call.result.extend_from_slice(&call.arguments);
        }
        other => return RResult::RErr(Failure::new(FailureCode::NO_SUCH_METHOD, format!("no method {other}"))),
    }
    RResult::ROk(())
}

/// Makes every request once and adds up what it gets.
fn requests(token: CallToken, result: &mut RVec<u8>) -> RResult<(), Failure> {
    fn all(token: CallToken) -> Result<u64, Failure> {
        let empty = RSlice::from_slice(&[0xa0]);
        let mut sum = host().create()(token, RStr::from_str("bare.Other"), empty).into_result()?;
        sum += host().clone_object()(token, 1).into_result()?;
        sum += host().derive_object()(token, 2).into_result()?;
        host().delete()(token, 3).into_result()?;
        if let ROption::RSome(object) = host().name_get()(token, RStr::from_str("known")).into_result()? {
            sum += object;
        }
        host().name_set()(token, RStr::from_str("name"), ROption::RNone).into_result()?;
        sum += host().now_us()(token).into_result()?;
        sum += host().random()(token).into_result()?;
        host().request_upgrade()(token, empty).into_result()?;
        let mut parents = RVec::new();
        host().parents()(token, 1, &mut parents).into_result()?;
        parents.reverse();
        host().set_parents()(token, 1, RSlice::from_slice(&parents)).into_result()?;
        let (none, mut resent, mut changed) = (RSlice::from_slice(&[0x80]), RVec::new(), RVec::new());
        let (parent, method) = (ROption::RSome(7), RStr::from_str("any"));
        host().resend()(token, parent, method, none, empty, &mut resent, &mut changed).into_result()?;
        assert_eq!((&resent[..], &changed[..]), (&[0xf5][..], &[0xa0][..]));
        let posted = host().post()(token, 1, method, none, 5, 0).into_result()?;
        assert!(host().cancel()(token, posted).into_result()?);
        Ok(sum)
    }
    match all(token) {
        Ok(sum) => {
            result.push(sum as u8);
            RResult::ROk(())
        }
        Err(failure) => RResult::RErr(failure),
    }
}
