//! Enemies whose message fails alone, or that do nothing but what they may.

use theseus_tests::{Home, Host, artifacts, fixtures, json, until};

use crate::{
    arena::{Arena, STRIKE},
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "panic_in_call", run: panic_in_call },
    Case { plugin: "panic_with_a_bomb", run: panic_with_a_bomb },
    Case { plugin: "endless_sends", run: endless_sends },
    Case { plugin: "write_without_end", run: write_without_end },
    Case { plugin: "garbage", run: garbage },
    Case { plugin: "kept_context", run: kept_context },
    Case { plugin: "odd_names", run: odd_names },
    Case { plugin: "print_in_call", run: print_in_call },
    Case { plugin: "log_without_end", run: log_without_end },
    Case { plugin: "wander", run: wander },
    Case { plugin: "upgrade_storm", run: upgrade_storm },
    Case { plugin: "vandal", run: |_| vandal() },
];

#[test]
fn a_message_that_goes_wrong_fails_alone() {
    let mut arena =
        Arena::new("[execution]\nwrite_bytes_per_transaction_max = 2_000_000\n[plugins]\nprobe_ms_max = 30_000\n");
    fight(&mut arena, CASES);
    arena.close();
}

fn panic_in_call(arena: &mut Arena) -> String {
    arena.admit("panic_in_call");
    let before = arena.log().len();
    let shown = arena.fails(STRIKE, 500, "panicked") + &arena.fails("look", 500, "panicked");
    shown + &taken_back(arena, before, |arena| _ = arena.send("look"))
}

/// Has an enemy fail until it is taken back; what is said to that.
fn taken_back(arena: &mut Arena, before: usize, mut strike: impl FnMut(&mut Arena)) -> String {
    until("the enemy to be taken back", || {
        strike(arena);
        arena.is_relieved()
    });
    arena.logged(before, "was taken back")
}

fn panic_with_a_bomb(arena: &mut Arena) -> String {
    arena.admit("panic_with_a_bomb");
    arena.fails(STRIKE, 500, "panicked")
}

fn endless_sends(arena: &mut Arena) -> String {
    arena.admit("endless_sends");
    let (before, objects) = (arena.log().len(), arena.client.get("/v1/status").ok()["objects"].clone());
    let shown = arena.fails(STRIKE, 422, "too_deep");
    assert_eq!(arena.client.get("/v1/status").ok()["objects"], objects, "no object is left of it");
    shown + &taken_back(arena, before, |arena| _ = arena.send(STRIKE))
}

fn write_without_end(arena: &mut Arena) -> String {
    arena.admit("write_without_end");
    ["strike", "churn", "claim", "boast"].map(|method| arena.fails(method, 422, "limit_exceeded")).concat()
}

fn garbage(arena: &mut Arena) -> String {
    arena.admit("garbage");
    let before = arena.log().len();
    let shown = arena.fails(STRIKE, 500, "bad_encoding") + &arena.fails("look", 500, "bad_encoding");
    shown + &taken_back(arena, before, |arena| _ = arena.send(STRIKE))
}

fn kept_context(arena: &mut Arena) -> String {
    arena.admit("kept_context");
    assert_eq!(arena.send(STRIKE).ok()["result"], 1);
    arena.fails("look", 500, "stale_context")
}

fn odd_names(arena: &mut Arena) -> String {
    arena.admit("odd_names");
    let taken = arena.send(STRIKE).ok()["result"].clone();
    // Whatever is a name can be used as one.
    for name in taken.as_array().unwrap() {
        assert_eq!(arena.home.json(&["get", name.as_str().unwrap()])["behavior"], "enemy.Enemy");
    }
    taken.to_string()
}

fn print_in_call(arena: &mut Arena) -> String {
    arena.admit("print_in_call");
    let before = arena.log().len();
    assert_eq!(arena.send(STRIKE).ok()["result"], 0);
    arena.logged(before, "line 9999 of")
}

fn log_without_end(arena: &mut Arena) -> String {
    arena.admit("log_without_end");
    let before = arena.log().len();
    arena.send(STRIKE).ok();
    let said = arena.logged(before, "were dropped");
    let lines = arena.log()[before..].lines().count();
    assert!(lines < 100_000, "{lines} lines were written");
    said
}

fn upgrade_storm(arena: &mut Arena) -> String {
    arena.admit("upgrade_storm");
    let before = arena.log().len();
    for _ in 0..300 {
        arena.send(STRIKE).ok();
    }
    arena.logged(before, "requested an upgrade")
}

fn wander(arena: &mut Arena) -> String {
    arena.admit("wander");
    let shown = arena.send(STRIKE).ok()["result"].to_string();
    // What the host opens from now on, it finds.
    arena.home.swap(&[&artifacts::plugin("ledger")]);
    shown
}

/// On a host of its own, since nothing is left of it. It may do all that, so what counts is that nothing is forgotten.
fn vandal() -> String {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter"), &fixtures::enemy("vandal")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    client.create("enemy.Enemy", "enemy");
    client.call("visits", "increment", &json!([7]));
    let tid = client.post("/v1/objects/2/strike", &json!([])).ok()["tid"].as_u64().unwrap();
    home.cli(&["get", "visits"]).failed(1);
    let shown = home.run(&["get", "1", "--at", &(tid - 1).to_string()]);
    host.stop();
    home.verify();
    shown
}
