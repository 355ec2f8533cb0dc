//! The border that plugin code crosses while it runs: the table of host functions, and the calls that are under way.
//!
//! A plugin never gets a pointer to the host's state. It gets a token that names the call it is executing, and hands it back
//! with each request; here it is looked up. What a plugin does with its tokens can therefore be wrong, but not dangerous: one
//! that is not that of the innermost call under way on the same thread is answered with
//! [`STALE_CONTEXT`](FailureCode::STALE_CONTEXT).
//!
//! Everything that comes from a plugin is checked before the host sees it: texts are UTF-8, byte slices deterministic CBOR.
//! Vectors and strings that a plugin allocated are freed while it is still loaded.

#![allow(
    unsafe_code,
    reason = "a call's host is found through a thread-local pointer, since no reference can cross the ABI"
)]

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use theseus_abi::{
    CallToken, Failure, FailureCode, HostTable, HostTableRef, LogLevel,
    abi_stable::{
        prefix_type::WithMetadata,
        std_types::{ROption, RResult, RSlice, RStr, RString, RVec},
    },
};
use theseus_value::{ObjectId, raw};

use super::flood;

/// The longest log line taken from a plugin, in bytes; the rest is cut off.
pub const LOG_LINE_BYTES_MAX: usize = 4096;

/// The longest message of a failure taken from a plugin, in bytes; the rest is cut off.
pub const FAILURE_MESSAGE_BYTES_MAX: usize = 4096;

/// The longest log target, and the longest kind of a failure, in bytes.
pub(super) const WORD_BYTES_MAX: usize = 128;

/// What plugin code can ask for while it executes a message: implemented by whoever executes it.
///
/// Byte slices that reach these functions are checked: `arguments` are empty, a map or an array, and `slots` and `request` are
/// maps, in deterministic CBOR. A panic in one of them is caught and becomes a [`STORAGE`](FailureCode::STORAGE) failure of the
/// plugin's request.
pub trait CallHost {
    /// Sends a message and appends its encoded result to `out`, which belongs to the plugin.
    fn send(&mut self, target: ObjectId, method: &str, arguments: &[u8], out: &mut RVec<u8>) -> Result<(), Failure>;
    /// Makes an object.
    fn create(&mut self, behavior: &str, slots: &[u8]) -> Result<ObjectId, Failure>;
    /// Copies an object.
    fn clone_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure>;
    /// Makes an empty object that delegates to `original`.
    fn derive_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure>;
    /// Removes an object.
    fn delete(&mut self, object: ObjectId) -> Result<(), Failure>;
    /// Finds the object that carries a name.
    fn name_get(&mut self, name: &str) -> Result<Option<ObjectId>, Failure>;
    /// Gives a name to an object, or frees it.
    fn name_set(&mut self, name: &str, object: Option<ObjectId>) -> Result<(), Failure>;
    /// The transaction's time in microseconds since the Unix epoch.
    fn now_us(&mut self) -> Result<u64, Failure>;
    /// The next number of the transaction's random sequence.
    fn random(&mut self) -> Result<u64, Failure>;
    /// Asks for a restart cycle after the commit.
    fn request_upgrade(&mut self, request: &[u8]) -> Result<(), Failure>;
    /// The parents of an object.
    fn parents(&mut self, object: ObjectId) -> Result<Box<[ObjectId]>, Failure>;
    /// Gives an object other parents.
    fn set_parents(&mut self, object: ObjectId, parents: &[ObjectId]) -> Result<(), Failure>;
    /// Runs the parents' version of a method on the receiver of the running one, whose slots are now `message.slots`. Appends
    /// its result to `out`, and to `changed` the slots that the running method has from then on, if they are others.
    fn resend(&mut self, message: &Resent<'_>, out: &mut RVec<u8>, changed: &mut RVec<u8>) -> Result<(), Failure>;
    /// Posts a message for after the commit, and again every so many microseconds.
    fn post(
        &mut self,
        target: ObjectId,
        method: &str,
        arguments: &[u8],
        delay_us: u64,
        every_us: Option<u64>,
    ) -> Result<ObjectId, Failure>;
    /// Takes a posted message back; answers whether it was still there.
    fn cancel(&mut self, message: ObjectId) -> Result<bool, Failure>;
}

/// A message that a method passes on to the parents of the object in which it was found.
#[derive(Clone, Copy, Debug)]
pub struct Resent<'a> {
    /// The parent at which the search begins; all of them if none is named.
    pub parent: Option<ObjectId>,
    /// The method.
    pub method: &'a str,
    /// Its arguments: empty, a map or an array.
    pub arguments: &'a [u8],
    /// The receiver's slots as the running method has them: a map.
    pub slots: &'a [u8],
}

/// The functions that every plugin gets.
pub(super) fn host_table() -> HostTableRef {
    const TABLE: HostTable = HostTable {
        send,
        create,
        clone_object,
        derive_object,
        delete,
        name_get,
        name_set,
        now_us,
        random,
        request_upgrade,
        parents,
        set_parents,
        resend,
        post,
        cancel,
        log: log_line,
    };
    static WITH_METADATA: WithMetadata<HostTable> = WithMetadata::new(TABLE);
    HostTableRef(WITH_METADATA.static_as_prefix())
}

// --- Calls under way -------------------------------------------------------------------------------------------------

/// The innermost call under way on a thread.
#[derive(Clone, Copy)]
struct Active {
    /// Its token; 0 if there is no call, and while its host is busy with one of its requests.
    token: u64,
    /// Its host. Valid while the call is under way, which is as long as this value is in `ACTIVE` or saved by a nested call.
    host: Option<*mut dyn CallHost>,
}

const IDLE: Active = Active { token: 0, host: None };

thread_local! {
    // Neither value has a destructor, so a plugin may call from anywhere, even while the thread ends.
    static ACTIVE: Cell<Active> = const { Cell::new(IDLE) };
    static NEXT_TOKEN: Cell<u64> = const { Cell::new(0) };
}

/// Puts back what was active before, however the scope is left.
struct Restore(Active);

impl Drop for Restore {
    fn drop(&mut self) {
        ACTIVE.set(self.0);
    }
}

/// A number that no call had before, on any thread.
fn next_token() -> u64 {
    /// A thread takes this many numbers at a time, so that threads seldom touch the shared counter.
    const BLOCK: u64 = 1 << 20;
    static NEXT_BLOCK: AtomicU64 = AtomicU64::new(1);

    let mut token = NEXT_TOKEN.get();
    if token.is_multiple_of(BLOCK) {
        token = NEXT_BLOCK.fetch_add(1, Ordering::Relaxed) * BLOCK;
    }
    NEXT_TOKEN.set(token + 1);
    token
}

/// Runs `call` as the innermost call of this thread: requests with the token that it is given reach `host`.
///
/// Inlined, as [`lend`] is: what a closure captures would go through memory in other pieces than it is read, and waiting for that
/// costs more than all the rest of a call.
#[inline(always)]
pub(super) fn with_host<R>(host: &mut dyn CallHost, call: impl FnOnce(CallToken) -> R) -> R {
    let token = next_token();
    let host: *mut (dyn CallHost + '_) = host;
    // SAFETY: only the lifetime changes, to store the pointer in a thread-local. `_restore` takes it out again before this
    // function returns, and the mutable borrow lasts until then, so nobody finds it after its time or uses the host beside it.
    let host: *mut (dyn CallHost + 'static) = unsafe { std::mem::transmute(host) };
    let _restore = Restore(ACTIVE.replace(Active { token, host: Some(host) }));
    call(CallToken(token))
}

/// Serves one request of a plugin.
fn serve<R>(token: CallToken, request: impl FnOnce(&mut dyn CallHost) -> Result<R, Failure>) -> RResult<R, Failure> {
    let active = ACTIVE.get();
    let (Some(host), true) = (active.host, active.token == token.0) else {
        return RResult::RErr(stale());
    };
    // While the host is at work it is out of reach: a request that comes in the meantime, with whatever token, is refused.
    ACTIVE.set(IDLE);
    let _restore = Restore(active);
    // SAFETY: the pointer was in `ACTIVE`, so the `with_host` that put it there has not returned and holds the exclusive
    // borrow. It was taken out above and is put back below, so this is the only reference made from it meanwhile.
    let host = unsafe { &mut *host };
    match catch_unwind(AssertUnwindSafe(|| request(host))) {
        Ok(outcome) => outcome.into(),
        Err(payload) => RResult::RErr(host_panicked(payload)),
    }
}

#[cold]
fn stale() -> Failure {
    Failure::new(
        FailureCode::STALE_CONTEXT,
        "this context is not that of the call now under way on this thread: \
         use a context only within its own call, on its own thread, and not while a message sent with it is executed",
    )
}

#[cold]
fn host_panicked(payload: Box<dyn Any + Send>) -> Failure {
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("(no message)");
    log::error!("the host panicked while it served a plugin's request: {text}");
    Failure::new(FailureCode::STORAGE, format!("the host failed internally: {text}"))
}

// --- What comes from a plugin ----------------------------------------------------------------------------------------

fn text<'a>(what: &str, text: &'a RStr<'_>) -> Result<&'a str, Failure> {
    std::str::from_utf8(text.as_rslice().as_slice()).map_err(|error| {
        Failure::new(FailureCode::BAD_ENCODING, format!("the {what} that the plugin gave is not UTF-8: {error}"))
    })
}

/// Checks that `bytes` are one map.
pub(super) fn check_map(what: &str, bytes: &[u8]) -> Result<(), Failure> {
    let outcome = raw::validate(bytes).and_then(|()| raw::MapView::new(bytes));
    outcome.map(|_| ()).map_err(|error| bad_encoding(what, "a map", &error))
}

/// Checks that `bytes` are one value.
pub(super) fn check_value(what: &str, bytes: &[u8]) -> Result<(), Failure> {
    raw::validate(bytes).map_err(|error| bad_encoding(what, "one value", &error))
}

fn check_arguments(bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    check_value("arguments", bytes)?;
    match raw::Reader::new(bytes).peek() {
        Ok(raw::Kind::Map | raw::Kind::Array) => Ok(()),
        _ => Err(Failure::new(FailureCode::BAD_ARGUMENTS, "arguments have to be a map or an array")),
    }
}

#[cold]
fn bad_encoding(what: &str, form: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        FailureCode::BAD_ENCODING,
        format!("what the plugin gave as {what} is not {form} in deterministic CBOR: {error}"),
    )
}

/// Copies a plugin's failure into the host's memory, cut to what people read; the plugin may be unloaded afterwards.
#[cold]
pub(super) fn own_failure(failure: Failure) -> Failure {
    let copy = |text: &RString, bytes_max| RString::from(cut(text.as_bytes(), bytes_max));
    Failure {
        code: failure.code,
        kind: copy(&failure.kind, WORD_BYTES_MAX),
        message: copy(&failure.message, FAILURE_MESSAGE_BYTES_MAX),
    }
}

/// At most `bytes_max` of `bytes` as text; what is not UTF-8 is replaced.
fn cut(bytes: &[u8], bytes_max: usize) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]).into_owned();
    if bytes.len() > bytes_max {
        text.push('…');
    }
    text
}

/// Lets a plugin write into `out`, and sees to it that `out` is the host's afterwards.
///
/// A plugin is meant to append, which makes the vector grow through its owner's allocator. It can also put a vector of its own
/// in the place, and that one must not outlive the plugin.
#[inline(always)] // as `with_host`
pub(super) fn lend<R>(out: &mut RVec<u8>, write: impl FnOnce(&mut RVec<u8>) -> R) -> R {
    out.clear();
    let before = allocator_of(out);
    let result = write(out);
    if allocator_of(out) != before {
        *out = RVec::from(out.as_slice().to_vec());
    }
    result
}

/// The address of the allocation functions that a vector carries with it.
fn allocator_of(vector: &RVec<u8>) -> usize {
    const WORDS: usize = 4; // buffer, length, capacity, functions
    const {
        assert!(size_of::<RVec<u8>>() == WORDS * size_of::<usize>());
        assert!(align_of::<RVec<u8>>() == align_of::<usize>());
    }
    // SAFETY: `RVec` is `repr(C)` with the four word-sized fields above (abi_stable is pinned to one version, and that layout
    // is part of the boundary), all of them initialized; the reference keeps them readable.
    unsafe { std::ptr::from_ref(vector).cast::<usize>().add(WORDS - 1).read() }
}

// --- The host functions ----------------------------------------------------------------------------------------------

extern "C" fn send(
    token: CallToken,
    target: u64,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    out: &mut RVec<u8>,
) -> RResult<(), Failure> {
    serve(token, |host| {
        let method = text("method's name", &method)?;
        check_arguments(&arguments)?;
        host.send(ObjectId(target), method, &arguments, out)
    })
}

extern "C" fn create(token: CallToken, behavior: RStr<'_>, slots: RSlice<'_, u8>) -> RResult<u64, Failure> {
    serve(token, |host| {
        let behavior = text("behavior's name", &behavior)?;
        check_map("slots", &slots)?;
        host.create(behavior, &slots).map(|object| object.0)
    })
}

extern "C" fn clone_object(token: CallToken, original: u64) -> RResult<u64, Failure> {
    serve(token, |host| host.clone_object(ObjectId(original)).map(|object| object.0))
}

extern "C" fn derive_object(token: CallToken, original: u64) -> RResult<u64, Failure> {
    serve(token, |host| host.derive_object(ObjectId(original)).map(|object| object.0))
}

extern "C" fn delete(token: CallToken, object: u64) -> RResult<(), Failure> {
    serve(token, |host| host.delete(ObjectId(object)))
}

extern "C" fn name_get(token: CallToken, name: RStr<'_>) -> RResult<ROption<u64>, Failure> {
    serve(token, |host| Ok(host.name_get(text("name", &name)?)?.map(|object| object.0).into()))
}

extern "C" fn name_set(token: CallToken, name: RStr<'_>, object: ROption<u64>) -> RResult<(), Failure> {
    serve(token, |host| host.name_set(text("name", &name)?, object.into_option().map(ObjectId)))
}

extern "C" fn now_us(token: CallToken) -> RResult<u64, Failure> {
    serve(token, |host| host.now_us())
}

extern "C" fn random(token: CallToken) -> RResult<u64, Failure> {
    serve(token, |host| host.random())
}

extern "C" fn request_upgrade(token: CallToken, request: RSlice<'_, u8>) -> RResult<(), Failure> {
    serve(token, |host| {
        check_map("upgrade request", &request)?;
        host.request_upgrade(&request)
    })
}

extern "C" fn parents(token: CallToken, object: u64, out: &mut RVec<u64>) -> RResult<(), Failure> {
    serve(token, |host| {
        out.extend(host.parents(ObjectId(object))?.iter().map(|parent| parent.0));
        Ok(())
    })
}

extern "C" fn set_parents(token: CallToken, object: u64, parents: RSlice<'_, u64>) -> RResult<(), Failure> {
    serve(token, |host| {
        let parents: Vec<_> = parents.iter().copied().map(ObjectId).collect();
        host.set_parents(ObjectId(object), &parents)
    })
}

extern "C" fn resend(
    token: CallToken,
    parent: ROption<u64>,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    slots: RSlice<'_, u8>,
    out: &mut RVec<u8>,
    changed: &mut RVec<u8>,
) -> RResult<(), Failure> {
    serve(token, |host| {
        let method = text("method's name", &method)?;
        check_arguments(&arguments)?;
        check_map("slots", &slots)?;
        let parent = parent.into_option().map(ObjectId);
        host.resend(&Resent { parent, method, arguments: &arguments, slots: &slots }, out, changed)
    })
}

extern "C" fn post(
    token: CallToken,
    target: u64,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    delay_us: u64,
    every_us: u64,
) -> RResult<u64, Failure> {
    serve(token, |host| {
        let method = text("method's name", &method)?;
        check_arguments(&arguments)?;
        let every_us = (every_us > 0).then_some(every_us);
        host.post(ObjectId(target), method, &arguments, delay_us, every_us).map(|message| message.0)
    })
}

extern "C" fn cancel(token: CallToken, message: u64) -> RResult<bool, Failure> {
    serve(token, |host| host.cancel(ObjectId(message)))
}

extern "C" fn log_line(level: LogLevel, target: RStr<'_>, line: RStr<'_>) {
    let level = match level.0 {
        0 | 1 => log::Level::Error,
        2 => log::Level::Warn,
        3 => log::Level::Info,
        4 => log::Level::Debug,
        _ => log::Level::Trace,
    };
    if level > log::max_level() || !flood::admits(target.as_rslice().as_slice()) {
        return;
    }
    // The logger is the host's, but it may still fail to write; that is no reason to unwind into the plugin.
    let _ = catch_unwind(|| {
        let target = cut(target.as_rslice().as_slice(), WORD_BYTES_MAX);
        let line = printable(&cut(line.as_rslice().as_slice(), LOG_LINE_BYTES_MAX));
        log::log!(target: &format!("plugin::{target}"), level, "{line}");
    });
}

/// Escapes control characters: a plugin's text stays one line, and cannot pass for another line of the log.
pub(super) fn printable(line: &str) -> String {
    let mut printable = String::with_capacity(line.len());
    for character in line.chars() {
        if character.is_control() && character != '\t' {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}
