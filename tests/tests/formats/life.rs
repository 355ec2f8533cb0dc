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
    host.stop();
    let host = Host::start(home);
    home.swap(&[&artifacts::plugin("counter_v2")]);
    client = host.client();
    client.call("visits", "increment", &json!([1]));
    home.run(&["rollback"]);
    client.call("visits", "increment", &json!([1]));
    until("the object table to come up", || client.get("/metrics").text().contains("theseus_table_lag 0"));
    host.stop();
    assert_eq!(home.json(&["get", "visits"])["id"], visits);
}

/// Packs the history of a home that was led, twice, and goes on a little.
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
    until("the object table to come up", || client.get("/metrics").text().contains("theseus_table_lag 0"));
    host.stop();
}

/// Names that come, go and come again.
fn names(home: &Home, client: &mut Client) {
    home.run(&["clone", "visits", "copy"]);
    home.run(&["derive", "visits", "child"]);
    home.run(&["parents", "child", "visits", "copy"]);
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
