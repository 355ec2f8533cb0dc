//! Queries on a warm object: on one query thread, on two at once, and one hand-over each.
//!
//! Prints one JSON line per figure. The bounds are 1 us for a query within the process, and 1.7 times as many with two threads.

mod parts;

use std::{env, process::ExitCode, sync::mpsc, time::Instant};

use parts::{Load, figure, make_objects, setting, swap_counter_in};
use theseus_host::{
    config::Config,
    exec::{ObjectName, QueryWorker},
    home::Home,
    runtime::{
        CONFINED_COMMAND, Runtime,
        action::{Action, CallMode, ObjectRef},
        offline, work_confined,
    },
};
use theseus_value::{ObjectId, Value};

fn main() -> ExitCode {
    // The host starts its own program a second time to try the plugin.
    if env::args().nth(1).as_deref() == Some(CONFINED_COMMAND) {
        return work_confined();
    }
    let queries = setting("QUERIES").unwrap_or(2_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::new(folder.path().join("home"));
    let mut config = Config::default();
    config.execution.query_threads = 2;
    config.plugins.probation_ms = 0;
    offline::init(&home, &config).expect("a new identity");
    let runtime = Runtime::open(&home, &config).expect("the host opens");
    swap_counter_in(&runtime);
    make_objects(&runtime, 1_000);
    // Once for the caches.
    within(&runtime, 1, queries / 10);
    let one = within(&runtime, 1, queries);
    let two = within(&runtime, 2, queries);
    figure("query_in_process", 1e9 / one, "ns", Some(("the bound", 1_000.0)));
    figure("query_one_thread", one, "queries/s", None);
    figure("query_two_threads", two, "queries/s", Some(("one thread", one)));
    figure("query_handed_over", handed_over(&runtime, queries / 4), "queries/s", None);
    runtime.stop().expect("the host stops");
    ExitCode::SUCCESS
}

/// Queries a second if so many threads do `queries` each, on an object of their own.
fn within(runtime: &Runtime, threads: u64, queries: u64) -> f64 {
    let (sender, receiver) = mpsc::channel();
    let started = Instant::now();
    for thread in 0..threads {
        let sender = sender.clone();
        let work = move |worker: &mut QueryWorker| {
            let object = ObjectName::Id(ObjectId(1 + thread));
            for _ in 0..queries {
                worker.call(&object, "count", &[]).expect("a counter counts");
            }
            sender.send(()).expect("somebody waits");
        };
        runtime.with_query_thread(work).expect("there is room");
    }
    for _ in 0..threads {
        receiver.recv().expect("every thread ends");
    }
    (threads * queries) as f64 / started.elapsed().as_secs_f64()
}

/// Queries a second, each handed over by itself, as those of clients are.
fn handed_over(runtime: &Runtime, queries: u64) -> f64 {
    let mut load = Load::new(1_000);
    let started = Instant::now();
    for number in 0..queries {
        let object = ObjectRef::Id(ObjectId(1 + number % 1_000));
        let (method, arguments, mode) = ("count".to_owned(), Value::Null, CallMode::QueryOnly);
        load.send(runtime, Action::Call { object, method, arguments, request_id: None, mode });
    }
    load.finish();
    queries as f64 / started.elapsed().as_secs_f64()
}
