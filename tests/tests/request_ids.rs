//! Requests under an id: executed once, and answered again as they were the first time.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::thread;

use theseus_tests::{Host, Json, artifacts, host::with_plugin, json};

#[test]
fn a_request_id_is_executed_once_also_by_the_hosts_that_follow() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let path = "/v1/objects/visits/increment";
    let first = client.post_once(path, "order-1", &json!([5])).ok();
    assert_eq!(first["result"], 5);
    assert_eq!(client.post_once(path, "order-1", &json!([5])).ok(), first, "the same answer again");
    client.post_once(path, "order-2", &json!([1])).ok();
    host.stop();

    let host = Host::start(&home);
    let mut client = host.client();
    assert_eq!(client.post_once(path, "order-1", &json!([5])).ok(), first, "after a restart");
    client.post_once(path, "order-3", &json!([1])).ok();
    let last = client.post_once(path, "order-4", &json!([1])).ok();
    host.kill();

    let host = Host::start(&home);
    let mut client = host.client();
    assert_eq!(client.post_once(path, "order-1", &json!([5])).ok(), first, "after a crash");
    assert_eq!(client.post_once(path, "order-4", &json!([1])).ok(), last, "the last before a crash");
    assert_eq!(client.call("visits", "count", &json!([])), 8);
    let ids: Vec<Json> = home.transactions("increment").iter().map(|line| line["request_id"].clone()).collect();
    assert_eq!(ids, ["order-1", "order-2", "order-3", "order-4"]);
    host.stop();
    home.verify();
}

#[test]
fn a_failure_is_remembered_for_its_request_id_too() {
    let (_home, _host, mut client) = with_plugin("ledger");
    client.create("ledger.Ledger", "book");
    client.call("book", "open", &json!(["Ann", 0]));
    client.call("book", "open", &json!(["Bob", 50]));
    let path = "/v1/objects/book/transfer";
    let first = client.post_once(path, "t1", &json!(["Ann", "Bob", 10])).problem(409, "refused");
    client.call("book", "transfer", &json!(["Bob", "Ann", 20]));
    let again = client.post_once(path, "t1", &json!(["Ann", "Bob", 10])).problem(409, "refused");
    assert_eq!(again, first, "although it could be done now");
}

#[test]
fn a_request_id_is_known_also_when_its_method_is_gone() {
    let (home, host, mut client) = with_plugin("counter_v2");
    client.create("counter.Counter", "visits");
    let path = "/v1/objects/visits/set_step";
    let first = client.post_once(path, "step", &json!([4])).ok();
    home.swap(&[&artifacts::plugin("counter")]);
    client.post(path, &json!([4])).problem(404, "no_such_method");
    assert_eq!(client.post_once(path, "step", &json!([4])).ok(), first);
    client.post_once(path, "step", &json!([5])).problem(422, "request_id_reused");
    client.post_once(path, "another", &json!([4])).problem(404, "no_such_method");
    assert_eq!(client.post_once("/v1/objects/visits/count", "a-query", &json!([])).ok()["tid"], Json::Null);
    host.stop();
    home.verify();
}

#[test]
fn a_request_id_is_not_taken_for_another_request() {
    let (_home, _host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    client.create("counter.Counter", "others");
    client.post_once("/v1/objects/visits/increment", "id", &json!([5])).ok();
    let before = client.tid();
    for (path, body) in [
        ("/v1/objects/visits/increment", json!([6])),
        ("/v1/objects/others/increment", json!([5])),
        ("/v1/objects", json!({ "behavior": "counter.Counter" })),
    ] {
        client.post_once(path, "id", &body).problem(422, "request_id_reused");
    }
    assert_eq!(client.tid(), before);
    assert_eq!(client.call("others", "count", &json!([])), 0);
}

#[test]
fn objects_too_are_made_once_for_a_request_id() {
    let (_home, _host, mut client) = with_plugin("counter");
    let body = json!({ "behavior": "counter.Counter", "slots": { "count": 3 } });
    let first = client.post_once("/v1/objects", "make", &body).ok();
    assert_eq!(client.post_once("/v1/objects", "make", &body).ok()["id"], first["id"]);
    let next = client.post("/v1/objects", &body).ok();
    assert_eq!(next["id"].as_u64(), first["id"].as_u64().map(|id| id + 1));
}

#[test]
fn concurrent_repetitions_of_a_request_are_executed_once() {
    let (_home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    for round in 0..20 {
        let id = format!("round-{round}");
        let answers: Vec<Json> = thread::scope(|scope| {
            let clients: Vec<_> = (0..6)
                .map(|_| {
                    let (mut client, id) = (host.client(), &id);
                    scope.spawn(move || client.post_once("/v1/objects/visits/increment", id, &json!([1])).ok())
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    assert_eq!(client.call("visits", "count", &json!([])), 20);
}
