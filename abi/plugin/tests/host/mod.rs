//! A small host: it loads a plugin as the real one does, keeps objects in memory, and serves every function of its table.
#![allow(unsafe_code, reason = "loading a plugin is the one thing here that the compiler cannot check")]
#![allow(dead_code, reason = "several tests share this, and not each uses all of it")]

use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::Mutex};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use theseus_abi::{
    BehaviorTableRef, Call, CallToken, Failure, FailureCode, HostTable, HostTableRef, LogLevel, PluginRootRef,
    abi_stable::{
        StableAbi,
        abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals},
        library::{AbiHeaderRef, ROOT_MODULE_LOADER_NAME_WITH_NUL},
        prefix_type::WithMetadata,
        std_types::{
            ROption,
            RResult::{self, RErr, ROk},
            RSlice, RStr, RVec,
        },
    },
};
use theseus_plugin::{ObjectId, Value};
use theseus_value::{Map, raw};

/// Builds a plugin (a no-op if it is built already) with the profile of the tests, and says where it is.
pub(crate) fn built(target: &[&str], file: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package"]).args(target);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    assert!(cargo.status().expect("cargo runs").success(), "{target:?} does not build");
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    profile.join(file)
}

/// A loaded plugin. `root` and what came from it must not be used after it is dropped.
pub(crate) struct Loaded {
    pub(crate) root: PluginRootRef,
    path: PathBuf,
    library: Option<Library>,
}

impl Loaded {
    /// Loads a plugin in the way that leaks nothing, with the layout check, and initialises it.
    pub(crate) fn new(path: PathBuf) -> Loaded {
        // SAFETY: the fixture's initialisers are those of the standard library.
        let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.expect("the plugin can be loaded");
        // SAFETY: a plugin has a LibHeader behind this symbol, which begins with an AbiHeader.
        let header = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
        let header: AbiHeaderRef = *header.expect("the plugin has abi_stable's symbol");
        assert!(header.is_valid());
        let header = header.upgrade().expect("the same abi_stable on both sides");
        let layout = header.layout().expect("a plugin's header carries its layout");
        check_layout_compatibility_with_globals(<PluginRootRef as StableAbi>::LAYOUT, layout, &CheckingGlobals::new())
            .map_err(|error| error.to_string())
            .expect("the layouts fit");
        // SAFETY: the layouts were just compared.
        let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() };
        let root = root.map_err(|error| error.to_string()).expect("the plugin hands over its root");
        root.init()(host_table()).into_result().expect("the plugin initialises");
        Loaded { root, path, library: Some(library) }
    }

    /// Unloads the plugin and says whether it is really gone.
    pub(crate) fn unload(mut self) -> bool {
        const RTLD_NOLOAD: i32 = 4;
        self.library.take().expect("it is loaded").close().expect("dlclose works");
        // SAFETY: with RTLD_NOLOAD this only asks.
        unsafe { Library::open(Some(&self.path), RTLD_NOW | RTLD_NOLOAD) }.is_err()
    }

    pub(crate) fn table(&self, name: &str) -> BehaviorTableRef {
        let tables = self.root.behaviors()();
        *tables.iter().find(|table| table.name() == name).expect("the plugin has this behaviour")
    }
}

/// Target, method, arguments, delay and period of a message.
pub(crate) type Posted = (u64, String, Vec<u8>, u64, u64);

/// What the host did, for the tests to look at.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<u64, (String, Map)>,
    pub(crate) names: BTreeMap<String, u64>,
    pub(crate) log: Vec<(u8, String, String)>,
    pub(crate) upgrade: Option<Value>,
    pub(crate) parents: BTreeMap<u64, Vec<u64>>,
    /// What was posted; none for what was cancelled.
    pub(crate) posted: Vec<Option<Posted>>,
    tables: BTreeMap<String, BehaviorTableRef>,
}

/// The functions of the host table have no place for a `self`; the tests that use it take turns.
static STATE: Mutex<Option<State>> = Mutex::new(None);

/// The one call token that this host hands out.
pub(crate) const TOKEN: CallToken = CallToken(77);

/// What a call gave: its result, and the changes as they came.
pub(crate) type Outcome = Result<(Value, Vec<u8>), Failure>;

/// Starts over with the behaviours of a plugin.
pub(crate) fn reset(plugin: &Loaded) {
    let tables = plugin.root.behaviors()().iter().map(|table| (table.name().to_string(), *table)).collect();
    *STATE.lock().expect("no test panics with the lock") = Some(State { tables, ..State::default() });
}

pub(crate) fn with<T>(look: impl FnOnce(&mut State) -> T) -> T {
    look(STATE.lock().expect("no test panics with the lock").get_or_insert_default())
}

/// Puts an object into the host.
pub(crate) fn put(id: u64, behavior: &str, slots: Map) {
    with(|state| state.objects.insert(id, (behavior.to_owned(), slots)));
}

/// Calls a method of an object and applies the changes, unless it fails.
pub(crate) fn call(id: u64, method: &str, arguments: &[u8]) -> Outcome {
    let (table, slots) = with(|state| {
        let (behavior, slots) = state.objects.get(&id).ok_or_else(|| no_such(id))?;
        let table = state.tables.get(behavior).copied();
        Ok::<_, Failure>((table.ok_or_else(|| no_such(id))?, Value::Map(slots.clone()).encode()))
    })?;
    let number = number(table, method)?;
    let (result, changes) = call_table(table, id, number, &slots, arguments)?;
    if !changes.is_empty() {
        let mut merged = Vec::new();
        raw::merge_maps(&slots, &changes, &mut merged).expect("a plugin's changes are a map");
        let Ok(Value::Map(slots)) = Value::decode(&merged) else { panic!("merged maps are a map") };
        with(|state| state.objects.get_mut(&id).map(|object| object.1 = slots));
    }
    Ok((result, changes))
}

/// The number of a method in a behaviour's description.
pub(crate) fn number(table: BehaviorTableRef, method: &str) -> Result<u32, Failure> {
    let description: theseus_abi::BehaviorDescription =
        serde_json::from_str(table.description().as_str()).expect("a description is JSON");
    let number = description.methods.iter().position(|candidate| candidate.name == method);
    number.map(|number| number as u32).ok_or_else(|| Failure::new(FailureCode::NO_SUCH_METHOD, method))
}

/// Calls through a table and nothing else.
pub(crate) fn call_table(
    table: BehaviorTableRef,
    receiver: u64,
    method: u32,
    slots: &[u8],
    arguments: &[u8],
) -> Outcome {
    let (mut result, mut changes) = (RVec::new(), RVec::new());
    let mut call = Call {
        token: TOKEN,
        receiver,
        method,
        slots: RSlice::from_slice(slots),
        arguments: RSlice::from_slice(arguments),
        result: &mut result,
        changes: &mut changes,
    };
    table.call()(&mut call).into_result()?;
    Ok((Value::decode(&result).expect("a result is one value"), changes.into_vec()))
}

fn no_such(id: u64) -> Failure {
    Failure::new(FailureCode::NO_SUCH_OBJECT, format!("there is no object {id}"))
}

fn host_table() -> HostTableRef {
    static TABLE: &WithMetadata<HostTable> = &WithMetadata::new(HostTable {
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
        log,
    });
    HostTableRef(TABLE.static_as_prefix())
}

fn checked<T>(token: CallToken, act: impl FnOnce() -> Result<T, Failure>) -> RResult<T, Failure> {
    if token != TOKEN {
        return RErr(Failure::new(FailureCode::STALE_CONTEXT, "this is not the token that was given"));
    }
    act().into()
}

extern "C" fn send(
    token: CallToken,
    target: u64,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    result: &mut RVec<u8>,
) -> RResult<(), Failure> {
    checked(token, || {
        let (value, _) = call(target, method.as_str(), arguments.as_slice())?;
        result.extend_from_copy_slice(&value.encode());
        Ok(())
    })
}

fn add(behavior: &str, slots: Map) -> u64 {
    with(|state| {
        let id = state.objects.keys().last().map_or(1, |last| last + 1);
        state.objects.insert(id, (behavior.to_owned(), slots));
        id
    })
}

extern "C" fn create(token: CallToken, behavior: RStr<'_>, slots: RSlice<'_, u8>) -> RResult<u64, Failure> {
    checked(token, || match Value::decode(slots.as_slice()) {
        Ok(Value::Map(slots)) => Ok(add(behavior.as_str(), slots)),
        other => Err(Failure::new(FailureCode::BAD_SLOTS, format!("{other:?}"))),
    })
}

extern "C" fn clone_object(token: CallToken, original: u64) -> RResult<u64, Failure> {
    checked(token, || {
        let object = with(|state| state.objects.get(&original).cloned());
        object.map(|(behavior, slots)| add(&behavior, slots)).ok_or_else(|| no_such(original))
    })
}

extern "C" fn derive_object(token: CallToken, parent: u64) -> RResult<u64, Failure> {
    checked(token, || {
        let object = with(|state| state.objects.get(&parent).cloned());
        object.map(|(behavior, _)| add(&behavior, Map::new())).ok_or_else(|| no_such(parent))
    })
}

extern "C" fn delete(token: CallToken, object: u64) -> RResult<(), Failure> {
    checked(token, || with(|state| state.objects.remove(&object)).map(drop).ok_or_else(|| no_such(object)))
}

extern "C" fn name_get(token: CallToken, name: RStr<'_>) -> RResult<ROption<u64>, Failure> {
    checked(token, || Ok(with(|state| state.names.get(name.as_str()).copied()).into()))
}

extern "C" fn name_set(token: CallToken, name: RStr<'_>, object: ROption<u64>) -> RResult<(), Failure> {
    checked(token, || {
        with(|state| match object.into_option() {
            Some(object) => state.names.insert(name.to_string(), object),
            None => state.names.remove(name.as_str()),
        });
        Ok(())
    })
}

extern "C" fn now_us(token: CallToken) -> RResult<u64, Failure> {
    checked(token, || Ok(1_700_000_000_000_000))
}

extern "C" fn random(token: CallToken) -> RResult<u64, Failure> {
    checked(token, || Ok(u64::MAX))
}

extern "C" fn request_upgrade(token: CallToken, request: RSlice<'_, u8>) -> RResult<(), Failure> {
    checked(token, || {
        with(|state| state.upgrade = Value::decode(request.as_slice()).ok());
        Ok(())
    })
}

extern "C" fn parents(token: CallToken, object: u64, parents: &mut RVec<u64>) -> RResult<(), Failure> {
    checked(token, || {
        parents.extend(with(|state| state.parents.get(&object).cloned()).unwrap_or_default());
        Ok(())
    })
}

extern "C" fn set_parents(token: CallToken, object: u64, parents: RSlice<'_, u64>) -> RResult<(), Failure> {
    checked(token, || {
        with(|state| state.parents.insert(object, parents.to_vec()));
        Ok(())
    })
}

/// Keeps what was posted; the answer is its place.
extern "C" fn post(
    token: CallToken,
    target: u64,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    delay_us: u64,
    every_us: u64,
) -> RResult<u64, Failure> {
    checked(token, || {
        Ok(with(|state| {
            state.posted.push(Some((target, method.to_string(), arguments.to_vec(), delay_us, every_us)));
            state.posted.len() as u64 - 1
        }))
    })
}

extern "C" fn cancel(token: CallToken, message: u64) -> RResult<bool, Failure> {
    checked(token, || Ok(with(|state| state.posted.get_mut(message as usize).and_then(Option::take)).is_some()))
}

/// Runs a method of the first parent's behaviour on the slots that came, or fails without one.
extern "C" fn resend(
    token: CallToken,
    parent: ROption<u64>,
    method: RStr<'_>,
    arguments: RSlice<'_, u8>,
    slots: RSlice<'_, u8>,
    result: &mut RVec<u8>,
    changed: &mut RVec<u8>,
) -> RResult<(), Failure> {
    checked(token, || {
        let parent = parent.into_option().ok_or_else(|| no_such(0))?;
        let (behavior, _) = with(|state| state.objects.get(&parent).cloned()).ok_or_else(|| no_such(parent))?;
        let table = with(|state| state.tables.get(&behavior).copied()).ok_or_else(|| no_such(parent))?;
        let (value, changes) = call_table(table, 1, number(table, method.as_str())?, &slots, &arguments)?;
        result.extend_from_copy_slice(&value.encode());
        if !changes.is_empty() {
            let mut merged = Vec::new();
            raw::merge_maps(&slots, &changes, &mut merged).expect("both are maps");
            changed.extend_from_copy_slice(&merged);
        }
        Ok(())
    })
}

extern "C" fn log(level: LogLevel, target: RStr<'_>, text: RStr<'_>) {
    with(|state| state.log.push((level.0, target.to_string(), text.to_string())));
}

/// Shorthand for a reference as a value.
pub(crate) fn reference(id: u64) -> Value {
    Value::Ref(ObjectId(id))
}

/// Checks and completes slots for a new object.
pub(crate) fn construct(table: BehaviorTableRef, slots: &Value) -> Result<Value, Failure> {
    let mut out = RVec::new();
    table.construct()(RSlice::from_slice(&slots.encode()), &mut out).into_result()?;
    Ok(Value::decode(&out).expect("slots are a value"))
}

/// Migrates slots.
pub(crate) fn migrate(table: BehaviorTableRef, from: u32, to: u32, slots: &Value) -> Result<Value, Failure> {
    let mut out = RVec::new();
    match table.migrate()(from, to, RSlice::from_slice(&slots.encode()), &mut out) {
        ROk(()) => Ok(Value::decode(&out).expect("slots are a value")),
        RErr(failure) => Err(failure),
    }
}
