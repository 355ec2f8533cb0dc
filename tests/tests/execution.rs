//! What a message does: all of it or nothing, once, in order, and what is refused changes nothing.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use theseus_tests::{Client, Home, Host, Json, artifacts, host::with_plugin, json, load::Load, until};

fn with_troublemaker() -> (Home, Host, Client) {
    hosted(Home::new(), &[artifacts::troublemaker()])
}

fn hosted(home: Home, plugins: &[std::path::PathBuf]) -> (Home, Host, Client) {
    let host = Host::start(&home);
    home.swap(&plugins.iter().map(|plugin| plugin.as_path()).collect::<Vec<_>>());
    let client = host.client();
    (home, host, client)
}

/// A reference to an object, as JSON has it.
fn to(id: u64) -> Json {
    json!({ "$ref": id })
}

/// Two troublemakers, `one` and `two`; gives the id of the second.
fn two_troublemakers(client: &mut Client) -> u64 {
    client.create("troublemaker.Trouble", "one");
    client.create("troublemaker.Trouble", "two")
}

fn slots(client: &mut Client, object: &str) -> Json {
    client.get(&format!("/v1/objects/{object}")).ok()["slots"].clone()
}

// --- Transactions -------------------------------------------------------------------------------------------------------

#[test]
fn messages_sent_from_within_a_message_are_one_transaction() {
    let (home, host, mut client) = with_plugin("ledger");
    client.create("ledger.Ledger", "book");
    client.call("book", "open", &json!({ "name": "Ann", "initial": 100 }));
    client.call("book", "open", &json!({ "name": "Bob", "initial": 0 }));
    let transfer = client.post("/v1/objects/book/transfer", &json!({ "from": "Ann", "to": "Bob", "amount": 30 })).ok();
    assert_eq!(client.call("book", "balance", &json!(["Ann"])), 70);
    assert_eq!(client.call("book", "balance", &json!(["Bob"])), 30);
    let last = home.lines(&["history", "--from", &transfer["tid"].to_string()]);
    assert_eq!(last.len(), 1, "one message, one transaction: {last:?}");
    assert_eq!(last[0]["writes"], json!([{ "id": 2, "version": 2 }, { "id": 3, "version": 2 }]));
    host.stop();
    home.verify();
}

#[test]
fn a_transfer_that_fails_halfway_changes_nothing() {
    let (home, _host, mut client) = with_plugin("ledger");
    client.create("ledger.Ledger", "book");
    for (name, initial) in [("Ann", 10), ("Bob", i64::MAX - 10)] {
        client.call("book", "open", &json!({ "name": name, "initial": initial }));
    }
    let overdraft = client.post("/v1/objects/book/transfer", &json!(["Ann", "Bob", 11]));
    let problem = overdraft.problem(409, "refused");
    assert_eq!(problem["kind"], "overdraft");
    assert!(problem["detail"].as_str().unwrap().contains("holds 10 and cannot give 11"), "{problem}");
    // Somebody goes past the book, and Bob's account has room for 5 only: Ann's 10 are withdrawn, and come back.
    client.call("3", "deposit", &json!([5]));
    let problem = client.post("/v1/objects/book/transfer", &json!(["Ann", "Bob", 10])).problem(409, "refused");
    assert_eq!(problem["kind"], "overflow");
    assert_eq!(client.call("book", "balance", &json!(["Ann"])), 10);
    assert_eq!(client.call("book", "balance", &json!(["Bob"])), i64::MAX - 5);
    assert_eq!(client.get("/v1/objects/2").ok()["version"], 1, "Ann's account was never written");
    // A refusal by the behaviour is in the history, without writes.
    let failed = home.transactions("transfer").into_iter().find(|line| line["tid"] == problem["tid"]).unwrap();
    assert_eq!((&failed["ok"], &failed["writes"]), (&json!(false), &json!([])));
    assert_eq!(failed["error"]["kind"], problem["kind"]);
}

#[test]
fn the_total_never_changes_under_parallel_transfers() {
    let (home, host, mut client) = with_plugin("ledger");
    client.create("ledger.Ledger", "book");
    for account in 0..6 {
        client.call("book", "open", &json!({ "name": account.to_string(), "initial": 50 }));
    }
    let (done, refused, ended) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let transfers: Vec<_> = (0..8_u64)
            .map(|thread| {
                let (mut client, done, refused) = (host.client(), &done, &refused);
                scope.spawn(move || {
                    for number in 0..40_u64 {
                        let (from, to) = ((thread + number) % 6, (thread * 5 + number * 3 + 1) % 6);
                        let arguments = json!([from.to_string(), to.to_string(), number * 7 % 60]);
                        let answer = client.post("/v1/objects/book/transfer", &arguments);
                        match answer.status {
                            200 => done.fetch_add(1, Ordering::Relaxed),
                            _ => {
                                let kind = answer.problem(409, "refused")["kind"].clone();
                                assert!(kind == "overdraft" || kind == "same_account", "{kind}");
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                        };
                    }
                })
            })
            .collect();
        let auditor = scope.spawn(|| {
            let (mut client, mut audits) = (host.client(), 0);
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.call("book", "total", &json!([])), 300);
                audits += 1;
            }
            audits
        });
        for transfer in transfers {
            transfer.join().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        assert!(auditor.join().unwrap() > 0);
    });
    let (done, refused) = (done.into_inner(), refused.into_inner());
    assert!(done > 0 && refused > 0 && done + refused == 320, "{done} done, {refused} refused");
    assert_eq!(client.call("book", "audit", &json!([]))["balanced"], true);
    host.stop();
    home.verify();
    assert_eq!(home.transactions("transfer").len(), 320, "each is in the history");
}

#[test]
fn parallel_increments_are_all_counted() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let load = Load::start(host.address(), "visits", 8);
    thread::sleep(Duration::from_millis(500));
    let report = load.finish();
    assert_eq!((report.refused, report.broken), (0, 0));
    let count = client.call("visits", "count", &json!([])).as_i64().unwrap();
    report.assert_exactly_once(count);
    host.stop();
    home.verify();
}

#[test]
fn a_query_sees_what_was_answered_before_it() {
    let (_home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let mut other = host.client();
    for count in 1..=200 {
        assert_eq!(client.call("visits", "increment", &json!([1])), count);
        assert_eq!(other.get("/v1/objects/visits/count").ok(), json!({ "result": count, "tid": null }));
    }
}

#[test]
fn an_answer_names_a_head_that_holds_it() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let mut before = 0;
    for _ in 0..20 {
        let answer = client.post("/v1/objects/visits/increment", &json!([1]));
        let tid = answer.ok()["tid"].as_u64().unwrap();
        let (at, hash) = answer.header("theseus-head").unwrap().split_once(':').unwrap();
        let at: u64 = at.parse().unwrap();
        assert!(at >= tid && tid > before, "transaction {tid} is answered at {at}");
        assert_eq!(hash.len(), 64);
        before = tid;
    }
    let status = client.get("/v1/status").ok();
    assert_eq!(status["tid"].as_u64(), Some(before));
    // Whatever is answered: what was read, what failed, and what nobody has.
    let paths = ["/v1/objects/visits", "/v1/objects", "/v1/history", "/v1/objects/visits/history", "/v1/messages"];
    let others = ["/v1/objects/visits/count", "/v1/plugins", "/v1/objects/nobody", "/nothing", "/health", "/metrics"];
    let newest = format!("{before}:{}", status["head"].as_str().unwrap());
    for path in paths.into_iter().chain(others) {
        assert_eq!(client.get(path).header("theseus-head"), Some(&*newest), "{path}");
    }
    let refused = client.post("/v1/objects/visits/increment", &json!(["word"]));
    assert_eq!(refused.status, 422);
    let (at, _) = refused.header("theseus-head").unwrap().split_once(':').unwrap();
    let tid = refused.json()["tid"].as_u64();
    assert!(at.parse::<u64>().unwrap() >= tid.unwrap_or(before), "{tid:?} is answered at {at}");
    host.stop();
    home.verify();
}

/// What would silently be something else than was written is refused.
#[test]
fn no_number_and_no_member_of_a_request_gets_lost() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let large = "18446744073709551616";
    let bodies = [
        ("/v1/objects", format!(r#"{{"behavior": "counter.Counter", "slots": {{"count": {large}}}}}"#)),
        ("/v1/objects", r#"{"behavior": "counter.Counter", "slots": {"count": 1, "count": 2}}"#.to_owned()),
        ("/v1/objects/visits/increment", format!("[{large}]")),
        ("/v1/objects/visits/increment", r#"{"by": 1, "by": 2}"#.to_owned()),
        ("/v1/messages", format!(r#"{{"target": "visits", "method": "increment", "arguments": [-{large}]}}"#)),
        ("/v1/messages", r#"{"target": "visits", "method": "increment", "arguments": {"by": 1, "by": 1}}"#.to_owned()),
    ];
    for (path, body) in bodies {
        let answer = client.send("POST", path, &[], body.as_bytes()).unwrap();
        answer.problem(400, "bad_request");
    }
    client.get(&format!("/v1/objects/visits/count?by={large}")).problem(400, "bad_request");
    client.get(&format!("/v1/objects?where=count={large}")).problem(400, "bad_request");
    let line = format!("{{\"object\": \"visits\", \"method\": \"increment\", \"arguments\": [{large}]}}\n");
    let answers = client.send("POST", "/v1/batch", &[], line.as_bytes()).unwrap().lines();
    assert_eq!(answers[0]["error"]["code"], "bad_request");
    for arguments in [
        &["new", "counter.Counter", "--slots", &format!("{{\"count\": {large}}}")][..],
        &["call", "visits", "increment", large],
    ] {
        assert!(home.cli(arguments).failed(2).contains(large));
    }
    assert_eq!(client.call("visits", "count", &json!([])), 0);
    host.stop();
}

// --- Answers ------------------------------------------------------------------------------------------------------------

/// A refusal is an answer: what it speaks of is in the head that it names.
#[test]
fn a_refusal_rests_on_what_is_durable() {
    let (_home, host, mut client) = with_plugin("counter");
    let barrier = std::sync::Barrier::new(4);
    let refused: Vec<(String, u64)> = thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|_| {
                let (mut client, barrier) = (host.client(), &barrier);
                scope.spawn(move || {
                    let mut refused = Vec::new();
                    for round in 0..100 {
                        let name = format!("name-{round}");
                        barrier.wait();
                        let answer =
                            client.post("/v1/objects", &json!({ "behavior": "counter.Counter", "name": name }));
                        if answer.status != 201 {
                            answer.problem(409, "name_taken");
                            let head = answer.header("theseus-head").unwrap().split_once(':').unwrap().0.to_owned();
                            refused.push((name, head.parse().unwrap()));
                        }
                    }
                    refused
                })
            })
            .collect();
        makers.into_iter().flat_map(|maker| maker.join().unwrap()).collect()
    });
    assert_eq!(refused.len(), 3 * 100);
    for (name, head) in refused {
        let made = client.get(&format!("/v1/objects/{name}")).ok()["tid"].as_u64().unwrap();
        assert!(made <= head, "{name} was refused as of {head}, and made in {made}");
    }
}

#[test]
fn no_number_loses_a_digit_on_its_way() {
    let (home, _host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    // 2^53 + 1, which a floating-point number cannot hold.
    let large = "9007199254740993";
    assert_eq!(home.run(&["call", "visits", "increment", large]), large);
    assert_eq!(client.get("/v1/objects/visits/count").ok()["result"].to_string(), large);
    assert!(home.run(&["history", "visits", "--json"]).contains(&format!("\"arguments\":[{large}]")));
    assert_eq!(home.run(&["call", "visits", "increment", "-18014398509481986"]), format!("-{large}"));
    client.post("/v1/objects/visits/increment", &json!([u64::MAX])).problem(422, "bad_arguments");
    client.post("/v1/objects/visits/increment", &json!([i64::MIN])).problem(409, "refused");
}

#[test]
fn more_than_the_queue_holds_is_refused_and_not_done() {
    let home = Home::with_settings("[execution]\nqueue_max = 2\n");
    let (home, host, mut client) = hosted(home, &[artifacts::troublemaker()]);
    client.create("troublemaker.Trouble", "one");
    let answers: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|_| {
                let mut client = host.client();
                scope.spawn(move || client.post("/v1/objects/one/dawdle", &json!([100])))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(!done.is_empty() && !refused.is_empty(), "{} done, {} refused", done.len(), refused.len());
    for answer in &refused {
        answer.problem(429, "overloaded");
        assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    }
    assert_eq!(slots(&mut client, "one")["count"], done.len());
    host.stop();
    home.verify();
}

#[test]
fn the_metrics_count_what_was_done() {
    let (_home, _host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let figure = |client: &mut Client, name: &str| -> u64 {
        let metrics = client.get("/metrics");
        let line = metrics.text().lines().find(|line| line.split(' ').next() == Some(name)).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no {name} in {}", metrics.text()));
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    let before = figure(&mut client, "theseus_transactions_total");
    for _ in 0..10 {
        client.call("visits", "increment", &json!([1]));
        client.call("visits", "count", &json!([]));
    }
    assert_eq!(figure(&mut client, "theseus_transactions_total"), before + 10);
    assert!(figure(&mut client, "theseus_queries_total") >= 10);
    assert_eq!(figure(&mut client, "theseus_tid"), client.tid());
    assert_eq!(figure(&mut client, "theseus_objects"), 1);
}

// --- Batches ------------------------------------------------------------------------------------------------------------

#[test]
fn a_batch_answers_line_for_line_in_order() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    let before = client.tid();
    let mut batch = String::new();
    for number in 0..500 {
        batch += &json!({ "id": format!("b{number}"), "object": "visits", "method": "increment", "arguments": [1] })
            .to_string();
        batch += "\n";
        batch += "{\"object\":1,\"method\":\"count\"}\n";
        match number % 100 {
            10 => batch += "{\"object\":\"nobody\",\"method\":\"count\"}\n",
            20 => batch += "{\"object\":1,\"method\":\n",
            _ => {}
        }
    }
    let answer = client.send("POST", "/v1/batch", &[], batch.as_bytes()).unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    let mut lines = answer.lines().into_iter();
    for number in 0..500 {
        let (increment, count) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(increment, json!({ "result": number + 1, "tid": before + number + 1 }));
        assert_eq!(
            count,
            json!({ "result": number + 1, "tid": null }),
            "a query in a batch sees what stands before it"
        );
        match number % 100 {
            10 => assert_eq!(lines.next().unwrap()["error"]["code"], "no_such_object"),
            20 => assert_eq!(lines.next().unwrap()["error"]["code"], "bad_request"),
            _ => {}
        }
    }
    assert_eq!(lines.next(), None);
    let repeated = client.send("POST", "/v1/batch", &[], batch.as_bytes()).unwrap().lines();
    assert_eq!(repeated[0]["tid"], before + 1, "known ids are answered and not executed");
    assert_eq!(client.call("visits", "count", &json!([])), 500);
    host.stop();
    home.verify();
}

// --- Prototypes ---------------------------------------------------------------------------------------------------------

#[test]
fn a_derived_object_sees_its_parents_slots_and_writes_to_itself() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "parent");
    client.call("parent", "increment", &json!([10]));
    for (child, parent) in [("child", "parent"), ("grandchild", "child")] {
        client.post("/v1/objects", &json!({ "derive": parent, "name": child })).ok();
    }
    assert_eq!(slots(&mut client, "grandchild"), json!({}), "nothing of its own");
    assert_eq!(client.call("grandchild", "count", &json!([])), 10);
    client.call("parent", "increment", &json!([5]));
    assert_eq!(client.call("grandchild", "count", &json!([])), 15, "it sees its parent as it is now");
    assert_eq!(client.call("child", "increment", &json!([1])), 16);
    assert_eq!(slots(&mut client, "child"), json!({ "count": 16 }));
    assert_eq!(slots(&mut client, "parent"), json!({ "count": 15 }), "the parent is untouched");
    client.call("parent", "increment", &json!([100]));
    assert_eq!(client.call("child", "count", &json!([])), 16, "it has its own now");
    assert_eq!(client.call("grandchild", "count", &json!([])), 16, "the nearest has it");
    let copy = client.post("/v1/objects", &json!({ "clone": "grandchild" })).ok()["id"].clone();
    assert_eq!(client.call(&copy.to_string(), "count", &json!([])), 16, "a copy delegates likewise");
    host.stop();
    let host = Host::start(&home);
    assert_eq!(host.client().call("grandchild", "increment", &json!([4])), 20);
    host.stop();
    home.verify();
}

// --- Plugins that misbehave ---------------------------------------------------------------------------------------------

#[test]
fn a_panic_undoes_its_transaction_and_nothing_else() {
    let (home, host, mut client) = with_troublemaker();
    two_troublemakers(&mut client);
    client.call("one", "touch", &json!([]));
    let objects = client.get("/v1/status").ok()["objects"].clone();
    for round in 0..5 {
        let message = format!("no good reason {round}");
        let problem = client.post("/v1/objects/one/burst", &json!([message])).problem(500, "panicked");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&message) && detail.contains("src/lib.rs:"), "{detail}");
        let recorded = home.lines(&["history", "--from", &problem["tid"].to_string()]);
        assert_eq!((&recorded[0]["error"]["code"], &recorded[0]["writes"]), (&json!("panicked"), &json!([])));
    }
    let before = client.tid();
    client.post("/v1/objects/one/burst_quietly", &json!(["in a query"])).problem(500, "panicked");
    assert_eq!(client.tid(), before, "queries leave no trace");
    assert_eq!(slots(&mut client, "one"), json!({ "count": 1, "note": "" }));
    assert_eq!(client.get("/v1/status").ok()["objects"], objects, "what it made is gone");
    assert_eq!(client.call("one", "touch", &json!([])), 2);
    assert_eq!(client.get("/health").status, 200);
    assert!(host.log().contains("no good reason 4"), "the log tells of it");
    host.stop();
    home.verify();
}

#[test]
fn what_a_failed_message_did_is_undone_for_a_sender_that_goes_on() {
    let (home, host, mut client) = with_troublemaker();
    let two = two_troublemakers(&mut client);
    let objects = client.get("/v1/status").ok()["objects"].clone();
    assert_eq!(client.call("one", "survive", &json!([to(two)])), "FailureCode(7)");
    assert_eq!(slots(&mut client, "one")["count"], 1, "the sender's own work is kept");
    assert_eq!(slots(&mut client, "two")["count"], 0, "that of the other is not");
    client.post("/v1/objects/one/go_down_with", &json!([to(two)])).problem(500, "panicked");
    assert_eq!(slots(&mut client, "one")["count"], 1, "a failure that is passed on undoes the sender's work too");
    assert_eq!(client.get("/v1/status").ok()["objects"], objects);
    host.stop();
    home.verify();
}

#[test]
fn a_message_that_comes_back_to_its_sender_is_refused() {
    let (_home, _host, mut client) = with_troublemaker();
    let two = two_troublemakers(&mut client);
    client.post("/v1/objects/one/provoke", &json!([to(two)])).problem(409, "reentrant");
    client.post("/v1/objects/one/pass_on", &json!([to(1)])).problem(409, "reentrant");
    assert_eq!(slots(&mut client, "one")["count"], 0);
    assert_eq!(client.call("one", "pass_on", &json!([to(two)])), 1);
}

#[test]
fn a_query_that_would_change_something_is_refused() {
    let (_home, _host, mut client) = with_troublemaker();
    let two = two_troublemakers(&mut client);
    let before = client.tid();
    client.post("/v1/objects/one/pass_on_quietly", &json!([to(two)])).problem(405, "read_only");
    client.get("/v1/objects/one/touch").problem(405, "read_only");
    assert_eq!(client.tid(), before);
    assert_eq!(slots(&mut client, "two")["count"], 0);
}

#[test]
fn transactions_have_bounds() {
    let settings =
        "[execution]\nnesting_max = 20\nobjects_per_transaction_max = 50\nwrite_bytes_per_transaction_max = 100_000\n";
    let (home, host, mut client) = hosted(Home::with_settings(settings), &[artifacts::troublemaker()]);
    client.create("troublemaker.Trouble", "one");
    assert_eq!(client.call("one", "descend", &json!([19])), 19, "20 messages deep");
    let objects = client.get("/v1/status").ok()["objects"].clone();
    let count = slots(&mut client, "one")["count"].clone();
    client.post("/v1/objects/one/descend", &json!([20])).problem(422, "too_deep");
    client.post("/v1/objects/one/descend", &json!([10_000])).problem(422, "too_deep");
    assert_eq!(client.get("/v1/status").ok()["objects"], objects);
    client.call("one", "scatter", &json!([50]));
    client.post("/v1/objects/one/scatter", &json!([51])).problem(422, "limit_exceeded");
    client.call("one", "swell", &json!([99_000]));
    client.post("/v1/objects/one/swell", &json!([101_000])).problem(422, "limit_exceeded");
    let slots = slots(&mut client, "one");
    assert_eq!((slots["note"].as_str().unwrap().len(), &slots["count"]), (99_000, &count));
    let after = client.get("/v1/status").ok()["objects"].as_u64();
    assert_eq!(after, objects.as_u64().map(|objects| objects + 50), "what went too far left nothing");
    host.stop();
    home.verify();
}

#[test]
fn names_are_unique_and_follow_rules_whoever_gives_them() {
    let (_home, _host, mut client) = with_troublemaker();
    two_troublemakers(&mut client);
    client.post("/v1/objects/one/claim", &json!(["two"])).problem(409, "name_taken");
    for wrong in ["", "12", "a\nb", "..", "\u{202e}olleh"] {
        client.post("/v1/objects/one/claim", &json!([wrong])).problem(422, "bad_arguments");
        client.post("/v1/objects", &json!({ "derive": "one", "name": wrong })).problem(422, "bad_arguments");
    }
    assert_eq!(slots(&mut client, "one")["count"], 0, "the claims left nothing");
    client.post("/v1/objects/one/claim", &json!(["also/one ü"])).ok();
    assert_eq!(client.get("/v1/objects/also%2Fone%20%C3%BC").ok()["id"], 1);
    client.delete("/v1/objects/one").ok();
    client.post("/v1/objects/two/claim", &json!(["also/one ü"])).ok();
}

#[test]
fn a_call_that_takes_too_long_is_bad_health_until_it_ends() {
    let home = Home::with_settings("[execution]\ncall_deadline_ms = 100\n");
    let (_home, host, mut client) = hosted(home, &[artifacts::troublemaker()]);
    client.create("troublemaker.Trouble", "one");
    assert_eq!(client.get("/health").ok()["healthy"], true);
    let slow = thread::spawn(move || client.call("one", "dawdle", &json!([1500])));
    let mut other = host.client();
    until("bad health", || other.get("/health").status == 503);
    let trouble = other.get("/health").json()["trouble"].clone();
    assert!(trouble.as_str().unwrap().contains("100 are allowed"), "{trouble}");
    assert_eq!(other.call("one", "count", &json!([])), 0, "queries go on meanwhile");
    slow.join().unwrap();
    until("good health", || other.get("/health").status == 200);
}

// --- Requests that are wrong --------------------------------------------------------------------------------------------

#[test]
fn a_wrong_request_is_told_what_is_wrong_and_changes_nothing() {
    let (home, host, mut client) = with_plugin("counter");
    client.create("counter.Counter", "visits");
    client.call("visits", "increment", &json!([7]));
    let before = client.get("/v1/status").ok();
    let post = |client: &mut Client, path: &str, body: &str| client.send("POST", path, &[], body.as_bytes()).unwrap();
    let increment = "/v1/objects/visits/increment";
    for (path, body, status, code, says) in [
        (increment, "{\"by\":", 400, "bad_request", "line 1"),
        (increment, "5", 400, "bad_request", "arguments"),
        (increment, "", 422, "bad_arguments", "`by`"),
        (increment, "{}", 422, "bad_arguments", "`by`"),
        (increment, "[1,2]", 422, "bad_arguments", "increment"),
        (increment, "{\"by\":\"5\"}", 422, "bad_arguments", "text \"5\""),
        (increment, "{\"by\":1.5}", 422, "bad_arguments", "`by`"),
        (increment, "{\"to\":5}", 422, "bad_arguments", "to"),
        (increment, "{\"by\":5,\"to\":5}", 422, "bad_arguments", "to"),
        (increment, "{\"by\":{\"$what\":5}}", 400, "bad_request", "$what"),
        ("/v1/objects/visits/decrement", "", 404, "no_such_method", "it has: increment, count, move_to"),
        ("/v1/objects/nobody/increment", "[1]", 404, "no_such_object", "`nobody`"),
        ("/v1/objects/99/increment", "[1]", 404, "no_such_object", "99"),
        ("/v1/objects", "{}", 400, "bad_request", "behavior"),
        ("/v1/objects", "{\"behavior\":\"counter.Nothing\"}", 404, "no_such_behavior", "counter.Counter"),
        ("/v1/objects", "{\"behavior\":\"counter.Counter\",\"slots\":{\"cuont\":1}}", 422, "bad_slots", "cuont"),
        ("/v1/objects", "{\"behavior\":\"counter.Counter\",\"slots\":{\"count\":\"1\"}}", 422, "bad_slots", "count"),
        ("/v1/objects", "{\"behavior\":\"counter.Counter\",\"name\":\"visits\"}", 409, "name_taken", "visits"),
        ("/v1/objects", "{\"clone\":99}", 404, "no_such_object", "99"),
        ("/v1/nothing", "{}", 404, "no_such_route", "/v1/nothing"),
    ] {
        let problem = post(&mut client, path, body).problem(status, code);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says), "{path} {body}: {detail}");
        assert!(problem["tid"].is_null(), "{problem}");
    }
    client.get("/v1/objects/nobody").problem(404, "no_such_object");
    client.get("/v1/objects/99/history").problem(404, "no_such_object");
    client.get("/v1/objects/visits?at=0").problem(404, "no_such_transaction");
    client.get("/v1/objects/visits?at=99").problem(404, "no_such_transaction");
    client.delete("/v1/objects/nobody").problem(404, "no_such_object");
    client.send("PUT", "/v1/objects/visits", &[], b"{}").unwrap().problem(405, "method_not_allowed");
    client.send("POST", increment, &[("Idempotency-Key", "two words")], b"[1]").unwrap().problem(400, "bad_request");
    let after = client.get("/v1/status").ok();
    assert_eq!((&after["tid"], &after["head"]), (&before["tid"], &before["head"]));
    assert_eq!(slots(&mut client, "visits"), json!({ "count": 7 }));
    host.stop();
    home.verify();
}

#[test]
fn a_body_has_a_largest_size() {
    let home = Home::bare("request_bytes_max = 1000\n");
    home.run(&["init"]);
    let (_home, _host, mut client) = hosted(home, &[artifacts::troublemaker()]);
    client.create("troublemaker.Trouble", "one");
    assert_eq!(client.call("one", "keep", &json!(["x".repeat(900)])), 900);
    client.post("/v1/objects/one/keep", &json!(["x".repeat(1100)])).problem(413, "body_too_large");
    client.disconnect();
    assert_eq!(client.call("one", "note", &json!([])).as_str().unwrap().len(), 900);
}

#[test]
fn control_is_for_the_socket_alone() {
    let (home, _host, mut client) = with_plugin("counter");
    let plugin = artifacts::plugin("counter-v2");
    for route in ["plan", "swap", "apply"] {
        let body = json!({ "paths": [plugin], "bundle": plugin });
        client.post(&format!("/v1/{route}"), &body).problem(403, "forbidden");
    }
    assert_eq!(home.json(&["plugins"])["plugins"][0]["version"], "1.0.0");
}

/// What a refused creation had made before it was refused must not slip into the next transaction, whichever that is.
#[test]
fn a_refused_creation_leaves_nothing_for_the_next_transaction() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    host.client().create("counter.Counter", "visits");
    let taken = json!({"behavior": "counter.Counter", "name": "visits"});
    host.client().post("/v1/objects", &taken).problem(409, "name_taken");
    // The stop is the next transaction, and the host's own.
    host.stop();
    let stop = home.transactions("theseus.stop").pop().unwrap();
    assert_eq!(stop["writes"], json!([]));
    assert_eq!(home.json(&["status"])["objects"], json!(1));
}
