//! The prototype graph: several parents, resent messages, and what happens to messages that nobody understands.

#![allow(clippy::unwrap_used, reason = "tests")]

use theseus_tests::{Client, Home, Host, Json, fixtures, json};

fn started() -> (Home, Host, Client) {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::kin()]);
    let client = host.client();
    (home, host, client)
}

fn reference(id: u64) -> Json {
    json!({ "$ref": id })
}

fn set_parents(client: &mut Client, object: u64, parents: &[u64]) {
    put_parents(client, object, &json!(parents)).ok();
}

fn put_parents(client: &mut Client, object: u64, parents: &Json) -> theseus_tests::http::Response {
    let body = json!({ "parents": parents }).to_string();
    client.send("PUT", &format!("/v1/objects/{object}/parents"), &[], body.as_bytes()).unwrap()
}

fn object(client: &mut Client, id: u64) -> Json {
    client.get(&format!("/v1/objects/{id}")).ok()
}

/// Makes an object with parents.
fn child(client: &mut Client, behavior: &str, name: &str, parents: &[u64]) -> u64 {
    let id = client.create(behavior, name);
    set_parents(client, id, parents);
    id
}

#[test]
fn parents_are_set_and_refused_in_every_way() {
    let (home, host, mut client) = started();
    let (a, b) = (client.create("kin.Account", "a"), client.create("kin.Account", "b"));
    let bare = client.create("kin.Bare", "bare");
    assert_eq!(home.run(&["parents", "bare", "a", "2"]), "1\n2");
    assert_eq!(home.run(&["parents", "bare"]), "1\n2");
    assert_eq!(home.json(&["parents", "bare"]), json!({ "parents": [a, b] }));
    let noted = home.transactions("theseus.parents");
    assert_eq!(noted[0]["arguments"], json!({ "object": "bare", "parents": ["a", reference(2)] }));
    assert_eq!(noted[0]["result"], json!([reference(a), reference(b)]));
    assert_eq!(noted[0]["writes"], json!([{ "id": bare, "version": 2 }]));

    for (parents, status, code, words) in [
        (json!([a, a]), 422, "bad_arguments", "named twice"),
        (json!([a, 99]), 404, "no_such_object", "no object 99"),
        (json!(["nobody"]), 404, "no_such_object", "nobody"),
        (json!([0]), 409, "refused", "object 0"),
        (json!(vec![a; 101]), 422, "limit_exceeded", "100 parents"),
    ] {
        let problem = put_parents(&mut client, bare, &parents);
        let found = problem.json();
        assert_eq!((found["status"].as_u64().unwrap(), found["code"].as_str().unwrap()), (status, code), "{found}");
        assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
    }
    put_parents(&mut client, 0, &json!([a])).problem(409, "refused");
    assert_eq!(object(&mut client, bare)["parents"], json!([a, b]), "what was refused changed nothing");

    let again = |client: &mut Client| {
        let body = json!({ "parents": [b] }).to_string();
        let headers = [("idempotency-key", "once")];
        client.send("PUT", "/v1/objects/bare/parents", &headers, body.as_bytes()).unwrap().ok()["parents"].clone()
    };
    assert_eq!((again(&mut client), again(&mut client)), (json!([b]), json!([b])));
    assert_eq!(object(&mut client, bare)["version"], 3);
    assert_eq!(home.run(&["parents", "bare", "--none"]), "");
    assert_eq!(object(&mut client, bare)["parents"], json!([]));
    host.stop();
    assert_eq!(home.run(&["parents", "bare"]), "");
    home.verify();
}

#[test]
fn names_are_given_and_freed() {
    let (home, host, mut client) = started();
    let id = client.post("/v1/objects", &json!({ "behavior": "kin.Node" })).ok()["id"].as_u64().unwrap();
    let other = client.create("kin.Node", "other");
    let mut put = |name: &str, body: &Json| {
        client.send("PUT", &format!("/v1/names/{name}"), &[], body.to_string().as_bytes()).unwrap()
    };
    assert_eq!(put("a%2Fb", &json!({ "object": id })).ok()["id"], id);
    assert_eq!(put("second", &json!({ "object": "a/b" })).ok()["id"], id, "an object may have several");
    assert_eq!(put("second", &json!({ "object": id })).ok()["id"], id, "once more changes nothing");
    put("other", &json!({ "object": id })).problem(409, "name_taken");
    put("third", &json!({ "object": 99 })).problem(404, "no_such_object");
    put("third", &json!({ "object": "nobody" })).problem(404, "no_such_object");
    put("third", &json!({})).problem(400, "bad_request");
    put("123", &json!({ "object": id })).problem(422, "bad_arguments");
    put("third", &json!({ "object": 0 })).problem(409, "refused");

    // What a name leads to is not collected, and what none does is.
    assert_eq!(home.json(&["gc", "--dry-run"])["unreachable"], 0);
    assert_eq!(home.run(&["unname", "a/b"]), "a/b is free");
    assert_eq!(home.json(&["get", "second"])["id"], id);
    assert!(home.cli(&["unname", "a/b"]).failed(1).contains("no object has the name `a/b`"));
    assert_eq!(home.run(&["name", "second", "123 visits"]), format!("object {id} is 123 visits"));
    assert!(home.cli(&["name", "second", "other"]).failed(1).contains(&format!("belongs to object {other}")));
    assert!(home.cli(&["name", "second", ""]).failed(2).contains("name"));
    for name in ["second", "123%20visits"] {
        client.delete(&format!("/v1/names/{name}"));
    }
    assert_eq!(home.json(&["gc", "--dry-run"])["unreachable"], 1);

    // It stands in the history, is done once for each request id, and can be undone.
    let freed = home.tid();
    assert_eq!(home.transactions("theseus.name").last().unwrap()["tid"], freed);
    home.run(&["undo", &freed.to_string()]);
    assert_eq!(home.json(&["get", "123 visits"])["id"], id);
    let key = [("idempotency-key", "free-it")];
    for _ in 0..2 {
        client.send("DELETE", "/v1/names/other", &key, b"").unwrap().ok();
    }
    client.send("DELETE", "/v1/names/other", &[], b"").unwrap().problem(404, "no_such_object");
    host.stop();
    home.verify();
}

#[test]
fn nothing_refers_to_an_object_that_never_was() {
    let (home, host, mut client) = started();
    let node = client.create("kin.Node", "node");
    let gone = client.create("kin.Node", "gone");
    client.send("DELETE", "/v1/objects/gone", &[], b"").unwrap().ok();
    let before = client.get("/v1/status").ok()["tid"].clone();
    let never = reference(gone + 1);
    for (target, body) in [
        ("/v1/objects/node/link", json!([never])),
        ("/v1/objects", json!({ "behavior": "kin.Node", "slots": { "next": [reference(node), never] } })),
        ("/v1/messages", json!({ "target": "node", "method": "link", "arguments": [never] })),
    ] {
        let problem = client.post(target, &body).problem(404, "no_such_object");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("there never was an object {}", gone + 1)), "{target}: {detail}");
    }
    assert_eq!(client.get("/v1/status").ok()["tid"], before, "nothing was recorded");
    // What a plugin makes up itself is its own failure.
    client.post("/v1/objects/node/guess", &json!([gone + 1])).problem(404, "no_such_object");
    assert_eq!(object(&mut client, node)["slots"]["next"], json!([]));
    // What was there once may be referred to, and what the same message made.
    client.call("node", "link", &json!([reference(gone)]));
    client.call("node", "guess", &json!([node]));
    client.call("node", "grow", &json!([2]));
    assert_eq!(object(&mut client, node)["slots"]["next"], json!([gone, node, gone + 2].map(reference)));
    assert_eq!(home.json(&["verify"])["dangling"]["count"], 0);
    host.stop();
}

#[test]
fn what_is_derived_from_several_has_the_first_ones_behaviour_and_all_as_parents() {
    let (home, host, mut client) = started();
    let (rich, poor) = (client.create("kin.Account", "rich"), client.create("kin.Account", "poor"));
    let savings = client.create("kin.Savings", "savings");
    client.call("rich", "deposit", &json!([7]));
    let id = |text: String| text.parse::<u64>().unwrap();
    let one = id(home.run(&["derive", "rich", "one", "--also", "savings"]));
    let found = object(&mut client, one);
    assert_eq!((&found["behavior"], &found["slots"]), (&json!("kin.Account"), &json!({})));
    assert_eq!(found["parents"], json!([rich, savings]));
    // The order is that of the call, and each way to name a parent is kept in the history as it was used.
    let body = json!({ "derive": ["savings", poor, "rich"], "name": "two" });
    let two = client.post_once("/v1/objects", "once", &body).ok()["id"].as_u64().unwrap();
    assert_eq!(client.post_once("/v1/objects", "once", &body).ok()["id"], two);
    let found = object(&mut client, two);
    assert_eq!((&found["behavior"], &found["parents"]), (&json!("kin.Savings"), &json!([savings, poor, rich])));
    let noted: Vec<_> = home.transactions("theseus.derive").into_iter().map(|it| it["arguments"].clone()).collect();
    assert_eq!(noted[0], json!({ "objects": ["rich", "savings"], "name": "one" }));
    assert_eq!(noted[1], json!({ "objects": ["savings", reference(poor), "rich"], "name": "two" }));
    // An array of one is one.
    client.post("/v1/objects", &json!({ "derive": ["rich"] })).ok();
    let noted = home.transactions("theseus.derive").pop().unwrap();
    assert_eq!(noted["arguments"], json!({ "object": "rich", "name": null }));

    // Parents have equal rank: what they disagree about is ambiguous, until one is like the other or it has a value of its own.
    let three = id(home.run(&["derive", "rich", "--also", &poor.to_string()]));
    let refused = home.cli(&["call", &three.to_string(), "balance"]).failed(1);
    assert!(refused.contains("ambiguous") && refused.contains("`log` from parents of equal rank"), "{refused}");
    client.post(&format!("/v1/objects/{three}/deposit"), &json!([1])).problem(409, "ambiguous");
    client.call("poor", "deposit", &json!([7]));
    assert_eq!(client.call(&three.to_string(), "balance", &json!([])), 7);
    assert_eq!(client.call(&three.to_string(), "deposit", &json!([1])), 8);
    client.call("poor", "deposit", &json!([1]));
    assert_eq!(client.call(&three.to_string(), "balance", &json!([])), 8, "its own");

    let last = home.tid();
    for (parents, status, code, words) in [
        (json!([]), 400, "bad_request", "at least one"),
        (json!(["rich", "rich"]), 422, "bad_arguments", "named twice"),
        (json!(["rich", 99]), 404, "no_such_object", "no object 99"),
        (json!([99, "rich"]), 404, "no_such_object", "no object 99"),
        (json!(["rich", "nobody"]), 404, "no_such_object", "nobody"),
        (json!(["rich", 0]), 409, "refused", "object 0"),
        (json!(vec![rich; 101]), 422, "limit_exceeded", "100 parents"),
    ] {
        let found = client.post("/v1/objects", &json!({ "derive": parents, "name": "three" })).problem(status, code);
        assert!(found["detail"].as_str().unwrap().contains(words), "{found}");
    }
    client.post("/v1/objects", &json!({ "derive": ["rich", "poor"], "name": "one" })).problem(409, "name_taken");
    assert_eq!(home.tid(), last, "what was refused left nothing");
    host.stop();
    home.verify();
}

#[test]
fn lookup_ends_at_the_nearest_and_says_what_is_ambiguous() {
    let (_home, _host, mut client) = started();
    let account = client.create("kin.Account", "account");
    client.call("account", "deposit", &json!([7]));
    // A diamond: the same account by two ways, of which one is longer.
    let left = child(&mut client, "kin.Bare", "left", &[account]);
    let right = child(&mut client, "kin.Bare", "right", &[account]);
    child(&mut client, "kin.Bare", "bottom", &[left, right]);
    assert_eq!(client.call("bottom", "balance", &json!([])), 7);
    // A nearer one hides it.
    let poor = client.create("kin.Account", "poor");
    set_parents(&mut client, left, &[poor, account]);
    client.get("/v1/objects/bottom/balance").problem(409, "ambiguous");
    set_parents(&mut client, left, &[poor]);
    client.get("/v1/objects/bottom/balance").problem(409, "ambiguous");
    set_parents(&mut client, right, &[]);
    assert_eq!(client.call("bottom", "balance", &json!([])), 0);
    // Two behaviours of equal rank with the same method.
    let savings = child(&mut client, "kin.Savings", "savings", &[account]);
    set_parents(&mut client, right, &[account, savings]);
    let ambiguous = client.post("/v1/objects/right/deposit", &json!([1])).problem(409, "ambiguous");
    assert!(ambiguous["detail"].as_str().unwrap().contains("kin.Account and from kin.Savings"), "{ambiguous}");
    // One that is nearer hides the other.
    set_parents(&mut client, right, &[savings]);
    client.call("right", "deposit", &json!([1]));
    // A cycle ends.
    set_parents(&mut client, left, &[right, left]);
    set_parents(&mut client, right, &[left]);
    client.get("/v1/objects/left/balance").problem(404, "no_such_method");
    set_parents(&mut client, account, &[left]);
    set_parents(&mut client, right, &[left, account]);
    assert_eq!(client.call("left", "balance", &json!([])), 2, "what the deposit wrote");
    // A parent that was deleted is told.
    client.delete("/v1/objects/account").ok();
    client.get("/v1/objects/left/balance").problem(404, "no_such_object");
}

#[test]
fn a_resent_message_works_on_its_receiver_as_it_is() {
    let (home, host, mut client) = started();
    let account = client.create("kin.Account", "account");
    let savings = child(&mut client, "kin.Savings", "savings", &[account]);
    // 5 and the bonus of 1; the second time, nothing and back.
    assert_eq!(client.call("savings", "deposit", &json!([5])), 6);
    assert_eq!(object(&mut client, savings)["slots"], json!({ "balance": 6, "bonus": 1, "log": [6, 0] }));
    assert_eq!(object(&mut client, account)["slots"], json!({ "balance": 0, "log": [] }), "the parent is not touched");
    assert_eq!(client.call("savings", "deposit", &json!([5])), 13);
    assert_eq!(client.call("savings", "log", &json!([])), json!([6, 0, 7, 0]));
    assert_eq!(client.call("savings", "describe", &json!([])), "holds 13, with a bonus of 2");
    client.get("/v1/objects/savings/cheat").problem(405, "read_only");

    // What is derived runs each method once, and inherits until it writes.
    let young =
        client.post("/v1/objects", &json!({ "derive": "savings", "name": "young" })).ok()["id"].as_u64().unwrap();
    assert_eq!(client.call("young", "deposit", &json!([1])), 17);
    let slots = json!({ "balance": 17, "bonus": 3, "log": [6, 0, 7, 0, 4, 0] });
    assert_eq!(object(&mut client, young)["slots"], slots);
    assert_eq!(client.call("savings", "balance", &json!([])), 13);

    // Through two behaviours, each beginning where the one before was found.
    let interest = child(&mut client, "kin.Interest", "interest", &[savings]);
    assert_eq!(client.call("interest", "deposit", &json!([10])), 13 + 10 + 3);
    let slots = object(&mut client, interest)["slots"].clone();
    assert_eq!(slots, json!({ "rate": 0, "balance": 26, "bonus": 3, "log": [6, 0, 7, 0, 13, 0] }));

    // A failure leaves the receiver as it was when the message was resent.
    assert_eq!(client.call("savings", "try_deposit", &json!([-1])), json!(["negative", 13]));
    assert_eq!(object(&mut client, savings)["slots"], json!({ "balance": 13, "bonus": 3, "log": [6, 0, 7, 0] }));
    client.post("/v1/objects/savings/deposit", &json!([-9])).problem(409, "refused");
    assert_eq!(object(&mut client, savings)["slots"]["balance"], 13);

    // To one of several parents.
    let other = child(&mut client, "kin.Interest", "other", &[account]);
    set_parents(&mut client, savings, &[account, other]);
    client.post("/v1/objects/savings/deposit", &json!([1])).problem(409, "ambiguous");
    assert_eq!(client.call("savings", "deposit_as", &json!([reference(other), 2])), 15);
    assert_eq!(client.call("savings", "deposit_as", &json!([reference(account), 2])), 17);
    client.post("/v1/objects/savings/deposit_as", &json!([reference(young), 2])).problem(422, "bad_arguments");
    set_parents(&mut client, savings, &[]);
    client.post("/v1/objects/savings/deposit", &json!([1])).problem(404, "no_such_method");
    // Two that resend to each other end where messages are nested too deeply.
    set_parents(&mut client, savings, &[interest]);
    client.post("/v1/objects/savings/deposit", &json!([1])).problem(422, "too_deep");

    // A method can change its own parents.
    let adopted = client.call("savings", "adopt", &json!([[reference(account), reference(other)]]));
    assert_eq!(adopted, json!([reference(account), reference(other)]));
    let now = object(&mut client, savings);
    assert_eq!((&now["parents"], &now["slots"]["bonus"]), (&json!([account, other]), &json!(5)));
    host.stop();
    home.verify();
}

#[test]
fn what_is_not_understood_goes_to_who_understands_everything() {
    let (home, _host, mut client) = started();
    client.create("kin.Recorder", "recorder");
    client.create("kin.Mirror", "mirror");
    // A name that no behaviour knows is executed as the command that answers it, and recorded as what was sent.
    assert_eq!(client.call("recorder", "sail", &json!({ "to": 7 })), json!({ "to": 7 }));
    assert_eq!(client.call("recorder", "balance", &json!([])), json!([]), "here it is a query nowhere");
    assert_eq!(client.call("recorder", "seen", &json!([])), json!(["sail", "balance"]));
    client.post("/v1/objects/recorder/explode", &json!([])).problem(409, "refused");
    let sent: Vec<_> = home.lines(&["history", "recorder"]).into_iter().skip(1).collect();
    assert_eq!((&sent[0]["method"], &sent[0]["arguments"]), (&json!("sail"), &json!({ "to": 7 })));
    assert_eq!((&sent[0]["target"], &sent[0]["result"]), (&json!(1), &json!({ "to": 7 })));
    assert_eq!(home.transactions("explode").len(), 1, "its own refusal is recorded, too");
    // Asked for as a query, it is refused.
    client.get("/v1/objects/recorder/sail").problem(405, "read_only");
    // Exactly once.
    let once = |client: &mut Client| client.post_once("/v1/objects/recorder/anchor", "id-1", &json!([3])).ok();
    assert_eq!(once(&mut client), once(&mut client));
    assert_eq!(client.call("recorder", "seen", &json!([])), json!(["sail", "balance", "anchor"]));
    // A query that answers it stays a query.
    let tid = client.tid();
    assert_eq!(client.call("mirror", "sail", &json!([1, 2])), json!(["sail", [1, 2]]));
    assert_eq!(client.get("/v1/objects/mirror/sail").ok()["result"], json!(["sail", null]));
    assert_eq!(client.tid(), tid);
    // Along the parents, as any method: the own behaviour's first.
    let (recorder, mirror) = (1, 2);
    child(&mut client, "kin.Bare", "bare", &[recorder]);
    client.call("bare", "row", &json!([]));
    assert_eq!(client.call("bare", "seen", &json!([]))[3], "row");
    set_parents(&mut client, 2, &[recorder]);
    assert_eq!(client.call("mirror", "row", &json!([])), json!(["row", []]));
    set_parents(&mut client, 3, &[recorder, mirror]);
    client.post("/v1/objects/bare/row", &json!([])).problem(409, "ambiguous");
    assert_eq!(home.json(&["misses"])["total"], 0, "all of that was understood");
}

#[test]
fn misses_are_counted_and_listed() {
    let (home, _host, mut client) = started();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    client.create("kin.Account", "account");
    client.create("kin.Bare", "bare");
    for _ in 0..3 {
        client.post("/v1/objects/account/sail", &json!([])).problem(404, "no_such_method");
    }
    client.get("/v1/objects/bare/sail").problem(404, "no_such_method");
    client.post("/v1/objects/bare/deposit", &json!([])).problem(404, "no_such_method");
    let listed = home.json(&["misses"]);
    assert_eq!(listed["total"], 5);
    let rows = listed["misses"].as_array().unwrap();
    let first = &rows[0];
    assert_eq!(
        (&first["behavior"], &first["selector"], &first["count"]),
        (&json!("kin.Account"), &json!("sail"), &json!(3))
    );
    let us = |name: &str| first[name].as_u64().unwrap();
    assert!(before < us("first_us") && us("first_us") < us("last_us"), "{first}");
    let mut others: Vec<_> = rows[1..].iter().map(|row| format!("{} {}", row["selector"], row["count"])).collect();
    others.sort();
    assert_eq!(others, ["\"deposit\" 1", "\"sail\" 1"]);
    let text = home.run(&["misses"]);
    assert!(text.starts_with("BEHAVIOR     METHOD   COUNT  FIRST"), "{text}");
    assert!(client.get("/metrics").text().contains("theseus_not_understood_total 5"));
}
