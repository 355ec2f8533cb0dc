//! Posted messages and timers: delivered once, after the commit, across crashes; tried again, set aside, cancelled.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant, SystemTime},
};

use theseus_tests::{Client, Home, Host, Json, artifacts, dice::Dice, fixtures, json, until};

/// A running host with the plugin whose objects post messages.
fn start(settings: &str) -> (Home, Host) {
    let home = Home::with_settings(settings);
    let host = Host::start(&home);
    home.swap(&[&fixtures::clock()]);
    (home, host)
}

fn rung(client: &mut Client, bell: &str) -> Vec<i64> {
    let rung = client.get(&format!("/v1/objects/{bell}/rung")).ok();
    rung["result"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
}

fn count(client: &mut Client, state: &str) -> u64 {
    client.get("/v1/status").ok()["messages"][state].as_u64().unwrap()
}

/// Waits until no message waits any more.
fn settle(client: &mut Client) {
    until("all messages are delivered", || count(client, "waiting") == 0);
}

fn post(client: &mut Client, bell: &str, n: i64, more: Json) -> u64 {
    let mut body = json!({ "target": bell, "method": "ring", "arguments": [n] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = client.post("/v1/messages", &body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["id"].as_u64().unwrap()
}

#[test]
fn messages_are_delivered_after_the_commit_and_in_their_order() {
    let (home, host) = start("");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    home.run(&["post", "bell", "ring", "7"]);
    settle(&mut client);
    // A later message that is due before comes before; those of one time come in the order of posting.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
    for (n, after_us) in [(3, 900_000), (1, 700_000), (4, 900_000), (2, 700_000), (5, 900_000)] {
        post(&mut client, "bell", n, json!({ "at_us": now + after_us }));
    }
    let cancelled = post(&mut client, "bell", 99, json!({ "delay_ms": 500 }));
    assert_eq!(count(&mut client, "waiting"), 6);
    let listed = home.json(&["messages", "list", "--object", "bell"]);
    let listed: Vec<_> = listed["messages"].as_array().unwrap().iter().map(|it| it["arguments"][0].as_i64()).collect();
    assert_eq!(listed, [99, 1, 2, 3, 4, 5].map(Some), "by when they are due");
    home.run(&["messages", "cancel", &cancelled.to_string()]);
    assert!(home.cli(&["messages", "cancel", &cancelled.to_string()]).failed(1).contains("no message"));
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell"), [7, 1, 2, 3, 4, 5]);
    // What a method posts goes with its transaction.
    client.create("clock.Bell", "leader");
    let bells = json!({ "$ref": client.get("/v1/objects/bell").ok()["id"] });
    client.post("/v1/objects/leader/ring_all", &json!([[bells, bells], true])).problem(409, "refused");
    assert_eq!(count(&mut client, "waiting"), 0);
    client.call("leader", "ring_all", &json!([[bells, bells], false]));
    client.call("leader", "ring_down", &json!([3]));
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell")[6..], [0, 1]);
    assert_eq!(rung(&mut client, "leader"), [3, 2, 1, 0]);
    // The same request is posted once.
    let body = json!({ "target": "bell", "method": "ring", "arguments": [8], "delay_ms": 100 });
    let first = client.post_once("/v1/messages", "once", &body).json();
    assert_eq!(client.post_once("/v1/messages", "once", &body).json()["id"], first["id"]);
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell")[8..], [8]);
    assert_eq!(client.get("/v1/status").ok()["objects"], 2, "messages are no objects of anybody");
    host.stop();
    home.verify();
}

#[test]
fn a_message_can_be_read_and_nothing_else() {
    let (home, host) = start("");
    let mut client = host.client();
    let bell = client.create("clock.Bell", "bell");
    let id = post(&mut client, "bell", 7, json!({ "delay_ms": 600_000 }));
    let slots = client.get(&format!("/v1/objects/{id}")).ok();
    assert_eq!(slots["behavior"], "theseus.Message");
    assert_eq!(slots["slots"]["target"], json!({ "$ref": bell }));
    for (method, path, body) in [
        ("DELETE", format!("/v1/objects/{id}"), json!(null)),
        ("POST", format!("/v1/objects/{id}/ring"), json!([1])),
        ("POST", "/v1/objects".into(), json!({ "clone": id })),
        ("POST", "/v1/objects".into(), json!({ "derive": id })),
        ("PUT", format!("/v1/objects/{bell}/parents"), json!({ "parents": [id] })),
        ("POST", "/v1/messages".into(), json!({ "target": id, "method": "ring" })),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = client.send(method, &path, &[], body.as_bytes()).unwrap();
        assert_eq!(answer.problem(409, "refused")["kind"], "host_object", "{method} {path}");
    }
    client.post("/v1/objects", &json!({ "behavior": "theseus.Message" })).problem(404, "no_such_behavior");
    client.delete(&format!("/v1/messages/{bell}")).problem(422, "bad_arguments");
    client.post("/v1/messages", &json!({ "target": 999, "method": "ring" })).problem(404, "no_such_object");
    client
        .post("/v1/messages", &json!({ "target": bell, "method": "ring", "every_ms": 0 }))
        .problem(422, "bad_arguments");
    // No time is so far away that it would be another one.
    for more in
        [json!({ "delay_ms": u64::MAX }), json!({ "delay_ms": u64::MAX / 1000 }), json!({ "every_ms": u64::MAX })]
    {
        let mut body = json!({ "target": bell, "method": "ring", "arguments": [1] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        client.post("/v1/messages", &body).problem(422, "bad_arguments");
    }
    for option in ["--in", "--every"] {
        home.cli(&["post", "bell", "ring", "1", option, "1000000000d"]).failed(2);
    }
    assert_eq!(count(&mut client, "waiting"), 1);
}

#[test]
fn what_fails_is_tried_again_and_then_set_aside_with_its_error() {
    let (home, host) = start("[messages]\nattempts_max = 3\nretry_ms = 20\n");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    client.create("clock.Bell", "doomed");
    client.call("bell", "set_broken", &json!([true]));
    let begun = Instant::now();
    let failing = post(&mut client, "bell", 1, json!({}));
    let unknown = home.json(&["post", "bell", "sing"])["id"].as_u64().unwrap();
    let gone = post(&mut client, "doomed", 2, json!({ "delay_ms": 100 }));
    client.delete("/v1/objects/doomed").ok();
    until("three messages are set aside", || count(&mut client, "set_aside") == 3);
    assert!(begun.elapsed() >= Duration::from_millis(20 + 40), "it rests longer after each failure");
    assert_eq!(count(&mut client, "waiting"), 0);
    let listed = home.json(&["messages", "list", "--set-aside"]);
    let by_id: BTreeMap<u64, &Json> =
        listed["messages"].as_array().unwrap().iter().map(|it| (it["id"].as_u64().unwrap(), it)).collect();
    for (id, attempts, code, kind) in [
        (failing, 3, "refused", json!("broken")),
        (unknown, 1, "no_such_method", json!(null)),
        (gone, 1, "no_such_object", json!(null)),
    ] {
        let (message, error) = (by_id[&id], &by_id[&id]["error"]);
        assert_eq!((&message["attempts"], &error["code"], &error["kind"]), (&json!(attempts), &json!(code), &kind));
        assert_eq!(message["due_us"], json!(null));
    }
    let failures = home.transactions("theseus.delivery_failed");
    let ours: Vec<_> = failures.iter().filter(|it| it["arguments"]["message"]["$ref"] == failing).collect();
    assert_eq!(ours.iter().map(|it| it["arguments"]["attempts"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    // They stay set aside, also over a restart, until somebody asks for them.
    host.stop();
    let host = Host::start(&home);
    let mut client = host.client();
    assert_eq!(count(&mut client, "set_aside"), 3);
    client.call("bell", "set_broken", &json!([false]));
    home.run(&["messages", "retry", &failing.to_string()]);
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell"), [1]);
    home.run(&["messages", "cancel", &gone.to_string()]);
    assert_eq!(count(&mut client, "set_aside"), 1);
    host.stop();
    home.verify();
}

#[test]
fn only_what_has_failed_is_delivered_before_its_time() {
    let (home, host) = start("[messages]\nretry_ms = 600000\n");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    home.run(&["post", "bell", "ring", "1", "--in", "3d"]);
    let posted = home.json(&["messages"])["messages"][0]["id"].as_u64().unwrap();
    let timer = post(&mut client, "bell", 2, json!({ "delay_ms": 600_000, "every_ms": 600_000 }));
    for id in [posted, timer] {
        let answer = client.post(&format!("/v1/messages/{id}/retry"), &json!(null));
        assert_eq!(answer.problem(409, "refused")["kind"], "not_failed");
    }
    let message = home.cli(&["messages", "retry", &posted.to_string()]).failed(1);
    assert!(message.contains("due in 2") && message.contains(&format!("messages cancel {posted}")), "{message}");
    assert_eq!(count(&mut client, "waiting"), 2);
    // One that is going to be tried again in ten minutes is delivered now.
    client.call("bell", "set_broken", &json!([true]));
    let failing = post(&mut client, "bell", 3, json!({}));
    until("its first delivery has failed", || home.transactions("theseus.delivery_failed").len() == 1);
    client.call("bell", "set_broken", &json!([false]));
    home.run(&["messages", "retry", &failing.to_string()]);
    until("it is delivered", || count(&mut client, "waiting") == 2);
    assert_eq!(rung(&mut client, "bell"), [3]);
    host.stop();
    home.verify();
}

#[test]
fn a_timer_keeps_its_schedule_and_makes_up_for_nothing() {
    let (home, host) = start("");
    let mut client = host.client();
    client.create("clock.Bell", "clock");
    client.create("clock.Bell", "slow");
    client.call("clock", "start", &json!([20, 10]));
    until("it stops itself", || count(&mut client, "waiting") == 0);
    assert_eq!(rung(&mut client, "clock"), (0..10).collect::<Vec<_>>());
    client.call("slow", "start", &json!([200, 1000]));
    until("it has begun", || !rung(&mut client, "slow").is_empty());
    host.kill();
    thread::sleep(Duration::from_millis(1500));
    let host = Host::start(&home);
    let mut client = host.client();
    let (before, begun) = (rung(&mut client, "slow").len() as u128, Instant::now());
    until("it goes on", || rung(&mut client, "slow").len() as u128 >= before + 3);
    let elapsed = begun.elapsed();
    let after = rung(&mut client, "slow").len() as u128;
    // One delivery stands for all that were missed; then each period has one.
    assert!(after - before <= elapsed.as_millis() / 200 + 2, "{} in {elapsed:?}", after - before);
    let timer = home.json(&["messages"])["messages"][0].clone();
    assert_eq!(timer["every_us"], 200_000);
    assert_eq!((timer["due_us"].as_u64().unwrap() - timer["posted_us"].as_u64().unwrap()) % 200_000, 0, "no drift");
    home.run(&["messages", "cancel", &timer["id"].to_string()]);
    host.stop();
    home.verify();
}

/// The host is killed again and again while messages are posted and delivered: each that was answered is delivered exactly once.
#[test]
fn thousands_of_timers_survive_kills_and_none_is_delivered_twice() {
    const MESSAGES: i64 = 3000;
    const BELLS: i64 = 8;

    let (home, host) = start("");
    let mut host = Some(host);
    let mut client = host.as_ref().unwrap().client();
    for bell in 0..BELLS {
        client.create("clock.Bell", &format!("bell-{bell}"));
    }
    let mut dice = Dice(17);
    let mut kills: BTreeSet<i64> = (0..5).map(|_| dice.roll(MESSAGES as u64) as i64).collect();
    let mut n = 0;
    while n < MESSAGES {
        let body = json!({
            "target": format!("bell-{}", n % BELLS), "method": "ring", "arguments": [n], "delay_ms": dice.roll(3000),
        });
        // A request that was not answered is sent again under its id.
        let (id, body) = (format!("message-{n}"), body.to_string());
        match client.send("POST", "/v1/messages", &[("idempotency-key", &id)], body.as_bytes()) {
            Ok(answer) if answer.status == 201 => n += 1,
            Ok(answer) => panic!("{}", answer.text()),
            Err(_) => {
                host = Some(Host::start(&home));
                client = host.as_ref().unwrap().client();
            }
        }
        if kills.remove(&n) {
            host.take().unwrap().kill();
        }
    }
    // Once more, while most of them are delivered.
    let mut host = host.unwrap_or_else(|| Host::start(&home));
    thread::sleep(Duration::from_millis(300));
    host.kill();
    host = Host::start(&home);
    client = host.client();
    settle(&mut client);
    for bell in 0..BELLS {
        let mut found = rung(&mut client, &format!("bell-{bell}"));
        found.sort_unstable();
        let expected: Vec<i64> = (0..MESSAGES).filter(|n| n % BELLS == bell).collect();
        assert_eq!(found, expected, "bell {bell}");
    }
    assert_eq!((count(&mut client, "waiting"), count(&mut client, "set_aside")), (0, 0));
    host.stop();
    home.verify();
}

#[test]
fn deliveries_and_clients_share_the_executor() {
    let (_home, host) = start("[messages]\nin_flight_max = 10\n");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    client.create("clock.Bell", "chain");
    // A message that posts the next one never ends the work.
    client.call("chain", "ring_down", &json!([1_000_000]));
    for n in 0..20 {
        client.call("bell", "ring", &json!([n]));
    }
    assert_eq!(rung(&mut client, "bell"), (0..20).collect::<Vec<_>>());
    until("the chain goes on meanwhile", || rung(&mut client, "chain").len() > 100);
}

#[test]
fn a_delivery_is_rehearsed_as_any_message() {
    let (home, host) = start("");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    client.call("bell", "ring_down", &json!([5]));
    client.call("bell", "start", &json!([10, 12]));
    post(&mut client, "bell", 3, json!({}));
    settle(&mut client);
    let copy = home.beside("libclock.so");
    artifacts::altered_copy(&fixtures::clock(), &copy, "another file");
    let report = home.json(&["rehearse", copy.to_str().unwrap(), "--all-differences"]);
    assert_eq!(report["differences"], json!([]), "{report}");
    let same = report["counts"]["same"].as_u64().unwrap();
    // The making of the bell; ring_down six times; start; as many ticks as it takes to come to 12; ring.
    assert!(same >= 13, "{report}");
    // Swaps do not mind what waits.
    post(&mut client, "bell", 9, json!({ "delay_ms": 300 }));
    home.swap(&[&copy]);
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell").last(), Some(&9));
}

/// Taking a delivery back takes back what it did, and does not do it again.
#[test]
fn an_undone_delivery_is_not_delivered_again() {
    let (home, host) = start("");
    let mut client = host.client();
    client.create("clock.Bell", "bell");
    let once = post(&mut client, "bell", 7, json!({}));
    settle(&mut client);
    let delivery = home.transactions("ring")[0]["tid"].as_u64().unwrap();
    home.run(&["undo", &delivery.to_string()]);
    assert_eq!((count(&mut client, "waiting"), count(&mut client, "set_aside")), (0, 1));
    assert_eq!(rung(&mut client, "bell"), [0_i64; 0]);
    home.run(&["messages", "retry", &once.to_string()]);
    settle(&mut client);
    assert_eq!(rung(&mut client, "bell"), [7]);
    host.stop();
    home.verify();
}
