//! What a host does beside commands: how many posted messages it delivers a second, and what an index costs the commands that change its
//! slot.
//!
//! Prints one JSON line per figure.

mod parts;

use std::{
    env,
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use parts::{Dice, Load, ask, figure, increment, make_objects, setting, swap_counter_in};
use theseus_host::{
    config::Config,
    exec::Due,
    home::Home,
    runtime::{
        CONFINED_COMMAND, Runtime,
        action::{Action, Answer, CallMode, ObjectRef},
        offline, work_confined,
    },
};
use theseus_value::{ObjectId, Value};

/// How many counters the messages go to.
const RECEIVERS: u64 = 1_000;
/// How many requests are under way at once.
const IN_FLIGHT: u64 = 4_000;
/// How many transactions the object table may lack.
const TAIL: u64 = 50_000;
/// How often the commands are measured without the index and with it.
const ROUNDS: u32 = 3;

fn main() -> ExitCode {
    // The host starts its own program a second time to try the plugin.
    if env::args().nth(1).as_deref() == Some(CONFINED_COMMAND) {
        return work_confined();
    }
    let messages = setting("MESSAGES").unwrap_or(200_000);
    let objects = setting("OBJECTS").unwrap_or(100_000).max(RECEIVERS);
    let time = Duration::from_secs(setting("SECONDS_EACH").unwrap_or(5));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Home::new(folder.path().join("home"));
    let mut config = Config::default();
    // The checkpointer writes the rows of an index, so it has to be at work all the time.
    config.identity.tail_transactions_max = TAIL;
    offline::init(&home, &config).expect("a new identity");
    let runtime = Runtime::open(&home, &config).expect("the host opens");
    swap_counter_in(&runtime);
    make_objects(&runtime, objects);

    let started = Instant::now();
    post(&runtime, messages, Due::After(0));
    wait_for_deliveries(&runtime);
    let together = started.elapsed();
    figure("messages_posted_and_delivered", messages as f64 / together.as_secs_f64(), "messages/s", None);

    // All are there when they become due, so nothing but their delivery is measured.
    let due = SystemTime::now() + 2 * together + Duration::from_secs(1);
    let since_epoch = due.duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970");
    post(&runtime, messages, Due::At(since_epoch.as_micros() as u64));
    let wait = due.duration_since(SystemTime::now()).expect("they were posted before they are due");
    thread::sleep(wait);
    let started = Instant::now();
    wait_for_deliveries(&runtime);
    figure("messages_delivered", messages as f64 / started.elapsed().as_secs_f64(), "messages/s", None);
    assert_eq!(counted(&runtime), 2 * messages as i128, "each message is delivered once");

    // Now the one and now the other, because the history grows meanwhile and the disk has its moods.
    let (mut dice, mut without, mut with) = (Dice(1), 0.0, 0.0);
    for _ in 0..ROUNDS {
        without += commands(&runtime, &mut dice, objects, time) / ROUNDS as f64;
        let (behavior, slot) = ("counter.Counter".to_owned(), "count".to_owned());
        ask(&runtime, Action::CreateIndex { behavior: behavior.clone(), slot: slot.clone() });
        let is_complete = |answer| matches!(answer, Answer::Indexes(list) if list.iter().all(|index| index.complete));
        wait_until(|| is_complete(ask(&runtime, Action::Indexes)));
        with += commands(&runtime, &mut dice, objects, time) / ROUNDS as f64;
        ask(&runtime, Action::DropIndex { behavior, slot });
        // Its rows are removed in the background.
        thread::sleep(Duration::from_secs(2));
    }
    figure("commands_without_index", without, "commands/s", None);
    figure("commands_with_index", with, "commands/s", Some(("without the index", without)));
    runtime.stop().expect("the host stops");
    ExitCode::SUCCESS
}

/// Posts so many messages to counters.
fn post(runtime: &Runtime, messages: u64, due: Due) {
    let mut load = Load::new(IN_FLIGHT);
    for number in 0..messages {
        let target = ObjectRef::Id(ObjectId(1 + number % RECEIVERS));
        let arguments = Value::Array(vec![Value::Int(1)]);
        let method = "increment".to_owned();
        load.send(runtime, Action::Post { target, method, arguments, due, every_us: None, request_id: None });
    }
    load.finish();
}

fn wait_for_deliveries(runtime: &Runtime) {
    wait_until(|| matches!(ask(runtime, Action::Status), Answer::Status(status) if status.messages_waiting == 0));
    let Answer::Status(status) = ask(runtime, Action::Status) else { unreachable!("it answers with the status") };
    assert_eq!(status.messages_set_aside, 0);
}

fn wait_until(mut reached: impl FnMut() -> bool) {
    while !reached() {
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the counters have counted together.
fn counted(runtime: &Runtime) -> i128 {
    let count = |id| {
        let (object, method, arguments) = (ObjectRef::Id(ObjectId(id)), "count".to_owned(), Value::Null);
        let call = Action::Call { object, method, arguments, request_id: None, mode: CallMode::QueryOnly };
        match ask(runtime, call) {
            Answer::Result { value: Value::Int(count), .. } => count,
            other => panic!("a counter counts, and answered {other:?}"),
        }
    };
    (1..=RECEIVERS).map(count).sum()
}

/// Increments of random counters a second.
fn commands(runtime: &Runtime, dice: &mut Dice, objects: u64, time: Duration) -> f64 {
    let (mut load, started) = (Load::new(IN_FLIGHT), Instant::now());
    while started.elapsed() < time {
        for _ in 0..16 {
            load.send(runtime, increment(dice, objects));
        }
    }
    load.finish();
    load.sent() as f64 / started.elapsed().as_secs_f64()
}
