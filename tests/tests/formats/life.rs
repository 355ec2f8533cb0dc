//! A home that sees everything once.

use theseus_tests::{Client, Home, Host, artifacts, json, until};

/// What the host writes only when something goes wrong, or that takes a watchdog.
pub(crate) const RARE: &[&str] = &[
    "theseus.confirmed",
    "theseus.fallback_released",
    "theseus.probation_failed",
    "theseus.swap_confirmed",
    "theseus.update",
    "theseus.upgrade_requested",
];

/// Leads it; its host has stopped at the end.
pub(crate) fn lead(home: &Home) {
    let host = Host::start(home);
    home.swap(&[&artifacts::plugin("counter"), &artifacts::plugin("ledger")]);
    let mut client = host.client();
    let visits = client.create("counter.Counter", "visits");
    for _ in 0..70 {
        client.call("visits", "increment", &json!([1]));
    }
    client.post_once("/v1/objects/visits/increment", "a-request", &json!([1])).ok();
    names(home, &mut client);
    for number in 0..8 {
        client.create("counter.Counter", &format!("counter-{number}"));
    }
    accounts(&mut client);
    messages(home, &mut client);
    client.call("visits", "increment", &json!([1000]));
    home.run(&["undo", &home.tid().to_string()]);
    // Nothing leads to it.
    client.post("/v1/objects", &json!({ "behavior": "counter.Counter" })).ok();
    assert_eq!(home.json(&["gc"])["removed"], 1);
    host.stop();
    import(home);
    let host = Host::start(home);
    home.swap(&[&artifacts::plugin("counter_v2")]);
    client = host.client();
    client.call("visits", "increment", &json!([1]));
    home.run(&["rollback"]);
    client.call("visits", "increment", &json!([1]));
    home.until_settled();
    host.stop();
    assert_eq!(home.json(&["get", "visits"])["id"], visits);
}

/// Packs the history of a home that was led, twice, and goes on a little. Its host is killed at the end.
pub(crate) fn pack(home: &Home) {
    let host = Host::start(home);
    let mut client = host.client();
    for part in [2, 1] {
        home.run(&["pack", "--before", &(home.tid() - home.tid() * part / 4).to_string()]);
        for _ in 0..9 {
            client.call("visits", "increment", &json!([1]));
            home.run(&["clone", "counter-1", "again"]);
            home.run(&["delete", "again"]);
        }
    }
    home.until_settled();
    host.kill();
}

/// Names that come, go and come again.
fn names(home: &Home, client: &mut Client) {
    home.run(&["clone", "visits", "copy"]);
    home.run(&["derive", "visits", "child"]);
    home.run(&["parents", "child", "visits", "copy"]);
    home.run(&["name", "child", "heir"]);
    home.run(&["unname", "heir"]);
    home.run(&["derive", "visits", "grandchild", "--also", "child", "copy"]);
    for _ in 0..9 {
        client.create("counter.Counter", "again");
        home.run(&["delete", "again"]);
    }
}

/// Messages that wait, are cancelled and fail, and indexes.
fn messages(home: &Home, client: &mut Client) {
    let later = |home: &Home| home.json(&["post", "visits", "increment", "1", "--in", "1h"])["id"].to_string();
    home.run(&["messages", "cancel", &later(home)]);
    later(home);
    home.run(&["post", "visits", "no_such_method"]);
    until("a message is set aside", || client.get("/v1/status").ok()["messages"]["set_aside"] == 1);
    let failed = home.json(&["messages", "list", "--set-aside"])["messages"][0]["id"].to_string();
    home.run(&["messages", "retry", &failed]);
    until("it is set aside again", || client.get("/v1/status").ok()["messages"]["set_aside"] == 1);
    home.run(&["index", "create", "counter.Counter", "count"]);
    home.run(&["index", "create", "ledger.Account", "balance"]);
    home.run(&["index", "drop", "ledger.Account", "balance"]);
}

/// Commands that fail are in the history too.
fn accounts(client: &mut Client) {
    client.create("ledger.Account", "poor");
    let failed = client.post("/v1/objects/poor/withdraw", &json!({ "amount": 5 }));
    assert_ne!(failed.status, 200);
}

/// An object from elsewhere.
fn import(home: &Home) {
    let lines = [
        json!({ "format": "theseus.export", "version": 1 }),
        json!({ "id": 7, "behavior": "counter.Counter", "schema": 1, "parents": [], "slots": { "count": 3 } }),
        json!({ "name": "imported", "id": 7 }),
        json!({ "end": true, "objects": 1, "names": 1 }),
    ];
    let file = home.beside("import.jsonl");
    std::fs::write(&file, lines.map(|line| line.to_string() + "\n").concat()).unwrap();
    home.run(&["import", file.to_str().unwrap()]);
}
