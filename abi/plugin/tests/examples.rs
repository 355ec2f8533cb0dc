//! The example plugins, loaded and used.

mod host;

use host::{Loaded, call, construct, migrate, put, reference, with};
use theseus_plugin::Value;
use theseus_value::Map;

fn map<const N: usize>(entries: [(&str, Value); N]) -> Map {
    entries.into_iter().collect()
}

fn array<const N: usize>(items: [Value; N]) -> Vec<u8> {
    Value::Array(items.to_vec()).encode()
}

/// What an object answers; failures as their kind.
fn ask<const N: usize>(id: u64, method: &str, arguments: [Value; N]) -> Result<Value, String> {
    call(id, method, &array(arguments)).map(|(result, _)| result).map_err(|failure| failure.kind.to_string())
}

// The host's state is one for the whole process, so this is one test.
#[test]
fn the_examples_work() {
    counters();
    accounts();
}

fn counters() {
    let v1 = Loaded::new(host::built(&["theseus-counter"], "libcounter.so"));
    host::reset(&v1);
    let slots = construct(v1.table("counter.Counter"), &Value::Map(Map::new())).expect("a counter needs nothing");
    assert_eq!(slots, Value::Map(map([("count", 0.into())])));
    put(1, "counter.Counter", map([("count", 10.into())]));
    put(2, "counter.Counter", map([("count", 0.into())]));
    assert_eq!(ask(1, "increment", [5.into()]), Ok(15.into()));
    assert_eq!(ask(1, "move_to", [reference(2), 4.into()]), Ok(Value::Null));
    assert_eq!((ask(1, "count", []), ask(2, "count", [])), (Ok(11.into()), Ok(4.into())));
    assert_eq!(ask(1, "increment", [i64::MAX.into()]), Err("overflow".to_owned()));

    let v2 = Loaded::new(host::built(&["theseus-counter-v2"], "libcounter_v2.so"));
    let table = v2.table("counter.Counter");
    let old = Value::Map(map([("count", 11.into())]));
    let new = migrate(table, 1, 2, &old).expect("version 2 reads version 1");
    assert_eq!(migrate(table, 2, 1, &new), Ok(old), "and goes back");
    let Value::Map(new) = new else { panic!("slots are a map") };
    host::reset(&v2);
    assert!(v1.unload());
    put(1, "counter.Counter", new);
    assert_eq!(ask(1, "increment", []), Ok(12.into()));
    assert_eq!(ask(1, "set_step", [3.into()]), Ok(1.into()));
    assert_eq!(ask(1, "increment", []), Ok(15.into()));
    assert_eq!(ask(1, "increment", [100.into()]), Ok(115.into()));
    with(|state| *state = host::State::default());
    assert!(v2.unload());
}

fn accounts() {
    let ledger = Loaded::new(host::built(&["theseus-ledger"], "libledger.so"));
    host::reset(&ledger);
    put(1, "ledger.Ledger", Map::new());
    assert_eq!(ask(1, "open", ["ann".into(), 100.into()]), Ok(reference(2)));
    assert_eq!(ask(1, "open", ["bob".into(), 0.into()]), Ok(reference(3)));
    let transfer = |from: &str, to: &str, amount: i64| ask(1, "transfer", [from.into(), to.into(), amount.into()]);
    assert_eq!(transfer("ann", "bob", 30), Ok(Value::Null));
    assert_eq!((ask(1, "balance", ["ann".into()]), ask(3, "balance", [])), (Ok(70.into()), Ok(30.into())));
    for (refused, kind) in [
        (transfer("bob", "ann", 31), "overdraft"),
        (transfer("bob", "ann", -1), "negative_amount"),
        (transfer("bob", "bob", 1), "same_account"),
        (transfer("bob", "eve", 1), "no_account"),
        (ask(1, "open", ["bob".into(), 0.into()]), "account_exists"),
        (ask(1, "open", ["eve".into(), i64::MAX.into()]), "overflow"),
        (ask(3, "deposit", [i64::MAX.into()]), "overflow"),
        (ask(3, "withdraw", [i64::MAX.into()]), "overdraft"),
    ] {
        assert_eq!(refused, Err(kind.to_owned()));
    }
    let audit = |held: i64, balanced: bool| {
        let audit =
            [("accounts", 2.into()), ("issued", 100.into()), ("held", held.into()), ("balanced", balanced.into())];
        Ok(Value::Map(map(audit)))
    };
    assert_eq!(ask(1, "total", []), Ok(100.into()));
    assert_eq!(ask(1, "audit", []), audit(100, true));
    assert_eq!(ask(1, "owners", []), Ok(Value::Array(vec!["ann".into(), "bob".into()])));
    ask(3, "deposit", [1.into()]).expect("an account can be told itself");
    assert_eq!(ask(1, "audit", []), audit(101, false));
    with(|state| *state = host::State::default());
    assert!(ledger.unload());
}
