//! What a call through the ABI costs, against a direct call of the same function in the same run.
//!
//! Prints one JSON line per figure, each the least of several rounds in nanoseconds a call:
//!
//! - `direct`: an ordinary Rust call that is not inlined;
//! - `abi`: the same function as a method of a plugin that was built by cargo and loaded from its file, called through the
//!   plugin's table, as the bound in `docs/performance.md` has it: descriptor filled in, unwinding caught, arguments looked at;
//! - `host`: all that the host does for a call beside: a token under which the plugin reaches it, what came back is checked.

use std::{env, hint::black_box, path::PathBuf, time::Instant};

use bench_plugin::Idle;
use serde_json::json;
use theseus_abi::{
    BehaviorTableRef, Call, CallToken, Failure, FailureCode, PluginRootRef,
    abi_stable::{
        library::RootModule,
        std_types::{RSlice, RVec},
    },
};
use theseus_host::plugin::{self, Behavior, CallBuffers, CallHost, Resent};
use theseus_value::ObjectId;

/// Calls in one round: so few that some rounds are not disturbed by whatever else the machine does.
const CALLS: u64 = 50_000;
const ROUNDS: usize = 1_000;
/// An encoded map without entries: the slots of an object without state.
const NO_SLOTS: &[u8] = &[0xa0];
/// `[3, 4]`
const TWO_NUMBERS: &[u8] = &[0x82, 0x03, 0x04];

fn main() {
    let file = env::var_os("BENCH_PLUGIN").map(PathBuf::from);
    let file = file.expect("BENCH_PLUGIN names libbench_plugin.so; `scripts/bench call` sets it");
    let staged = plugin::stage(&file, plugin::FILE_BYTES_LIMIT).expect("the file can be read");
    let inspection = plugin::inspect_staged(&staged).expect("it is a plugin");
    let generation = plugin::load(staged, inspection).expect("it can be loaded");
    let behavior = generation.behavior("bench.Idle").expect("the plugin has it");
    // The host keeps the table to itself, so the library is loaded once more; this process ends with it.
    let root = PluginRootRef::load_from_file(&file).expect("it can be loaded");
    let table = root.behaviors()()[0];
    assert_eq!(table.name(), "bench.Idle");

    let idle = Idle {};
    let direct = least(|| black_box(&idle).nothing());
    figure("call_direct_nothing", direct, None);
    figure("call_abi_nothing", least(through_table(table, behavior, "nothing", &[])), Some(direct));
    figure("call_host_nothing", least(through_host(behavior, "nothing", &[])), Some(direct));
    let direct = least(|| _ = black_box(black_box(&idle).sum(black_box(3), black_box(4))));
    figure("call_direct_sum", direct, None);
    figure("call_abi_sum", least(through_table(table, behavior, "sum", TWO_NUMBERS)), Some(direct));
    figure("call_host_sum", least(through_host(behavior, "sum", TWO_NUMBERS)), Some(direct));
}

/// Nanoseconds a call, in the round in which the machine disturbed least.
fn least(mut call: impl FnMut()) -> f64 {
    let round = |_| {
        let started = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        started.elapsed().as_nanos() as f64 / CALLS as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

fn through_table<'a>(
    table: BehaviorTableRef,
    behavior: &Behavior,
    method: &str,
    arguments: &'a [u8],
) -> impl FnMut() + 'a {
    let method = behavior.method(method).expect("the behaviour has it").index() as u32;
    let (mut result, mut changes) = (RVec::new(), RVec::new());
    let function = table.call();
    move || {
        result.clear();
        let mut call = Call {
            token: CallToken(1),
            receiver: 1,
            method,
            slots: RSlice::from_slice(black_box(NO_SLOTS)),
            arguments: RSlice::from_slice(black_box(arguments)),
            result: &mut result,
            changes: &mut changes,
        };
        assert!(black_box(function)(&mut call).is_ok());
        black_box(&result);
    }
}

fn through_host<'a>(behavior: &'a Behavior, method: &str, arguments: &'a [u8]) -> impl FnMut() + 'a {
    let method = behavior.method(method).expect("the behaviour has it");
    let mut out = CallBuffers::default();
    move || {
        let (slots, arguments) = (black_box(NO_SLOTS), black_box(arguments));
        let called = behavior.call(&mut NoHost, ObjectId(1), method, slots, arguments, &mut out);
        assert!(called.is_ok());
        black_box(&out);
    }
}

fn figure(name: &str, ns: f64, direct: Option<f64>) {
    let tenth = |number: f64| (number * 10.0).round() / 10.0;
    let mut line = json!({ "name": name, "value": tenth(ns), "unit": "ns" });
    if let Some(direct) = direct {
        line["baseline"] = json!(tenth(direct));
        line["baseline_of"] = json!("a direct call");
        line["above"] = json!(tenth(ns - direct));
    }
    println!("{line}");
}

/// The methods measured here ask nothing of the host.
struct NoHost;

fn refused<T>() -> Result<T, Failure> {
    Err(Failure::new(FailureCode::UNSUPPORTED, "not in this benchmark"))
}

impl CallHost for NoHost {
    fn send(&mut self, _: ObjectId, _: &str, _: &[u8], _: &mut RVec<u8>) -> Result<(), Failure> {
        refused()
    }

    fn create(&mut self, _: &str, _: &[u8]) -> Result<ObjectId, Failure> {
        refused()
    }

    fn clone_object(&mut self, _: ObjectId) -> Result<ObjectId, Failure> {
        refused()
    }

    fn derive_object(&mut self, _: ObjectId) -> Result<ObjectId, Failure> {
        refused()
    }

    fn delete(&mut self, _: ObjectId) -> Result<(), Failure> {
        refused()
    }

    fn name_get(&mut self, _: &str) -> Result<Option<ObjectId>, Failure> {
        refused()
    }

    fn name_set(&mut self, _: &str, _: Option<ObjectId>) -> Result<(), Failure> {
        refused()
    }

    fn now_us(&mut self) -> Result<u64, Failure> {
        refused()
    }

    fn random(&mut self) -> Result<u64, Failure> {
        refused()
    }

    fn request_upgrade(&mut self, _: &[u8]) -> Result<(), Failure> {
        refused()
    }

    fn parents(&mut self, _: ObjectId) -> Result<Box<[ObjectId]>, Failure> {
        refused()
    }

    fn set_parents(&mut self, _: ObjectId, _: &[ObjectId]) -> Result<(), Failure> {
        refused()
    }

    fn post(&mut self, _: ObjectId, _: &str, _: &[u8], _: u64, _: Option<u64>) -> Result<ObjectId, Failure> {
        refused()
    }

    fn cancel(&mut self, _: ObjectId) -> Result<bool, Failure> {
        refused()
    }

    fn resend(&mut self, _: &Resent<'_>, _: &mut RVec<u8>, _: &mut RVec<u8>) -> Result<(), Failure> {
        refused()
    }
}
