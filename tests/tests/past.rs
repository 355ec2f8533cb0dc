//! The past as users see it: names and objects as they were, by transaction and by time, and transactions taken back.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{process::Command, thread, time::Duration};

use theseus_tests::{Client, Home, Host, Json, artifacts, json};

fn started() -> (Home, Host, Client) {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let client = host.client();
    (home, host, client)
}

/// The names that a listing shows, with what stands behind them.
fn listed(home: &Home, at: u64) -> Vec<(String, u64)> {
    let at = at.to_string();
    let names = home.json(&["ls", "--at", &at])["names"].clone();
    let entry = |name: &Json| (name["name"].as_str().unwrap().to_owned(), name["id"].as_u64().unwrap());
    names.as_array().unwrap().iter().map(entry).collect()
}

fn undo(client: &mut Client, tids: &[u64]) -> theseus_tests::http::Response {
    client.post("/v1/undo", &json!({ "tids": tids }))
}

fn count(home: &Home, object: &str, at: &str) -> Json {
    home.json(&["get", object, "--at", at])["slots"]["count"].clone()
}

#[test]
fn names_are_those_of_then() {
    let (home, host, mut client) = started();
    let before = client.tid();
    let first = client.create("counter.Counter", "visits");
    client.call("visits", "increment", &json!([5]));
    let five = client.tid();
    let time = home.transactions("theseus.create")[0]["time_us"].as_u64().unwrap();
    client.delete("/v1/objects/visits").ok();
    let deleted = client.tid();
    let second = client.create("counter.Counter", "visits");
    client.create("counter.Counter", "also");
    let now = client.tid();

    let check = |home: &Home| {
        assert_eq!(listed(home, before), []);
        assert_eq!(listed(home, five), [("visits".to_owned(), first)]);
        assert_eq!(listed(home, deleted), []);
        assert_eq!(listed(home, now), [("also".to_owned(), second + 1), ("visits".to_owned(), second)]);
        assert_eq!(count(home, "visits", &five.to_string()), 5);
        assert_eq!(count(home, "visits", &now.to_string()), 0);
        assert!(home.cli(&["get", "visits", "--at", &deleted.to_string()]).failed(1).contains("no_such_object"));
        assert!(home.cli(&["ls", "--at", "9999999"]).failed(1).contains("no_such_transaction"));
        assert!(home.cli(&["ls", "--at", "1970-01-01T00:00:00Z"]).failed(1).contains("no_such_transaction"));
        home.cli(&["ls", "--at", "yesterday"]).failed(2);
        // A time far in the future is now.
        assert_eq!(count(home, "visits", "2100-01-01T00:00:00Z"), 0);
        let from = home.lines(&["history", "--from", "2100-01-01T00:00:00Z"]);
        assert_eq!(from, Vec::<Json>::new());
    };
    check(&home);
    // At the time of the first transaction of the object there was none as yet, or it was just being made.
    let micros = |us: u64| format!("{}.{:06}Z", clock(us / 1_000_000), us % 1_000_000);
    assert_eq!(home.json(&["ls", "--at", &micros(time - 1)])["names"], json!([]));
    let later = home.lines(&["history", "--from", &micros(time)]);
    assert_eq!(later[0]["method"], "theseus.create");
    host.stop();
    check(&home);
    home.verify();
}

/// Seconds since the epoch as the shell prints them, without the zone.
fn clock(seconds: u64) -> String {
    let at = format!("@{seconds}");
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S", "-d", &at]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_listing_shows_one_moment_and_goes_on_where_it_stopped() {
    let (_home, _host, mut client) = started();
    for number in 0..30 {
        client.create("counter.Counter", &format!("n/{number:02}"));
    }
    for number in (0..30).filter(|number| number % 3 != 0) {
        client.delete(&format!("/v1/objects/n%2F{number:02}")).ok();
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/objects?prefix=n/&limit=4".to_owned());
    loop {
        let page = client.get(&path).ok();
        seen.extend(page["names"].as_array().unwrap().iter().map(|name| name["name"].as_str().unwrap().to_owned()));
        // What happens meanwhile is not for this listing.
        client.create("counter.Counter", &format!("n/{:02}x", seen.len()));
        assert_eq!(page["more"], !page["next"].is_null());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/objects?prefix=n/&limit=4&after={}&at={}", next.replace('/', "%2F"), page["at"]);
    }
    let expected: Vec<String> = (0..10).map(|number| format!("n/{:02}", number * 3)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_undo_takes_back_what_was_written() {
    let (home, host, mut client) = started();
    let id = client.create("counter.Counter", "visits");
    let created = client.tid();
    client.call("visits", "increment", &json!([5]));
    let five = client.tid();
    client.call("visits", "increment", &json!([2]));
    let seven = client.tid();

    // One alone: the later one has written the same.
    let problem = undo(&mut client, &[five]).problem(409, "undo_conflict");
    assert_eq!((&problem["tid"], &problem["kind"]), (&json!(seven), &json!("written_since")));
    assert!(problem["detail"].as_str().unwrap().contains(&format!("object {id}")), "{problem}");
    assert!(home.cli(&["undo", &five.to_string()]).failed(4).contains("undo_conflict"));
    // The last, and the undo of it: a redo.
    let undone = undo(&mut client, &[seven]).ok();
    assert_eq!((&undone["restored"], &undone["removed"]), (&json!([id]), &json!([])));
    assert_eq!(client.call("visits", "count", &json!([])), 5);
    undo(&mut client, &[undone["tid"].as_u64().unwrap()]).ok();
    assert_eq!(client.call("visits", "count", &json!([])), 7);
    // All since the beginning together: the object and its name are gone.
    let tids: Vec<String> = (created..=client.tid()).map(|tid| tid.to_string()).collect();
    let arguments: Vec<&str> = ["undo"].into_iter().chain(tids.iter().map(String::as_str)).collect();
    let text = home.run(&arguments);
    assert!(text.contains(&format!("removed   {id}")) && text.contains("names     visits"), "{text}");
    client.get("/v1/objects/visits").problem(404, "no_such_object");
    client.get(&format!("/v1/objects/{id}")).problem(404, "no_such_object");
    let all = client.tid();
    // And back again, as one.
    undo(&mut client, &[all]).ok();
    assert_eq!(client.call("visits", "count", &json!([])), 7);
    assert_eq!(client.get("/v1/objects/visits").ok()["id"], id);
    // A deletion: the name comes back with its object.
    client.delete("/v1/objects/visits").ok();
    let deleted = client.tid();
    client.get("/v1/objects/visits").problem(404, "no_such_object");
    undo(&mut client, &[deleted]).ok();
    assert_eq!(client.call("visits", "count", &json!([])), 7);
    // Every state before is still there.
    assert_eq!(count(&home, "visits", &five.to_string()), 5);
    assert_eq!(listed(&home, all), []);

    let noted = home.transactions("theseus.undo");
    assert_eq!(noted[0]["arguments"], json!({ "transactions": [seven] }));
    assert_eq!(noted[0]["result"]["restored"], json!([{ "$ref": id }]));
    host.stop();
    home.cli(&["undo", "3"]).failed(3);
    assert_eq!(count(&home, "visits", &(deleted - 1).to_string()), 7);
    home.cli(&["get", "visits", "--at", &deleted.to_string()]).failed(1);
    home.verify();
}

#[test]
fn an_undo_is_refused_where_later_transactions_depend_on_it() {
    let (home, host, mut client) = started();
    let original = client.create("counter.Counter", "original");
    let created = client.tid();
    // A child refers to it as its parent.
    let derived = client.post("/v1/objects", &json!({ "derive": original, "name": "child" })).ok();
    let (child, derivation) = (derived["id"].as_u64().unwrap(), client.tid());
    let problem = undo(&mut client, &[created]).problem(409, "undo_conflict");
    assert_eq!((&problem["tid"], &problem["kind"]), (&json!(derivation), &json!("needed_since")));
    assert!(problem["detail"].as_str().unwrap().contains(&format!("object {child}")), "{problem}");
    // It loses the parent, which is deleted; then it cannot get it back alone.
    home.run(&["parents", "child", "--none"]);
    let freed = client.tid();
    client.delete(&format!("/v1/objects/{original}")).ok();
    let deleted = client.tid();
    let problem = undo(&mut client, &[freed]).problem(409, "undo_conflict");
    assert_eq!((&problem["tid"], &problem["kind"]), (&json!(deleted), &json!("deleted_since")));
    let both = undo(&mut client, &[freed, deleted]).ok();
    assert_eq!(both["restored"], json!([original, child]));
    assert_eq!(client.get("/v1/objects/child").ok()["parents"], json!([original]));
    // Created and derived together.
    undo(&mut client, &[both["tid"].as_u64().unwrap(), deleted, freed, derivation, created]).ok();
    assert_eq!(home.json(&["ls"])["names"], json!([]));

    undo(&mut client, &[1]).problem(409, "not_undoable");
    undo(&mut client, &[home.transactions("theseus.swap")[0]["tid"].as_u64().unwrap()]).problem(409, "not_undoable");
    undo(&mut client, &[999_999]).problem(404, "no_such_transaction");
    undo(&mut client, &[0]).problem(404, "no_such_transaction");
    client.post("/v1/undo", &json!({ "tids": "all" })).problem(400, "bad_request");
    // What failed wrote nothing.
    client.create("counter.Counter", "full");
    client.call("full", "increment", &json!([i64::MAX]));
    client.post("/v1/objects/full/increment", &json!([1])).problem(409, "refused");
    let failed = client.tid();
    assert_eq!(undo(&mut client, &[failed]).ok()["tid"], Json::Null);
    assert_eq!(client.tid(), failed, "nothing was recorded");
    host.stop();
    home.verify();
}

/// A name is not taken away from who has it now; that somebody came back without one is said.
#[test]
fn an_undo_says_which_names_do_not_come_back() {
    let (home, host, mut client) = started();
    let delete = |client: &mut Client, object: &str| {
        client.delete(&format!("/v1/objects/{object}")).ok();
        client.tid()
    };
    let first = client.create("counter.Counter", "visits");
    client.create("counter.Counter", "other");
    let gone = delete(&mut client, "visits");
    let second = client.create("counter.Counter", "visits");
    client.call("visits", "increment", &json!([2]));
    let noted = |name: &str, object: u64, holder: Json| json!([{ "name": name, "object": object, "holder": holder }]);

    let undone = undo(&mut client, &[gone]).ok();
    assert_eq!((&undone["restored"], &undone["names"]), (&json!([first]), &json!([])));
    assert_eq!(undone["names_lost"], noted("visits", first, json!(second)));
    assert_eq!(client.get("/v1/objects/visits").ok()["id"], second, "who has the name keeps it");
    assert_eq!(client.get(&format!("/v1/objects/{first}")).ok()["id"], first);
    let recorded = json!([{ "name": "visits", "object": { "$ref": first }, "holder": { "$ref": second } }]);
    assert_eq!(home.transactions("theseus.undo")[0]["result"]["names_lost"], recorded);

    // The same on the command line, whose answer is the same when it is asked for again.
    let gone = delete(&mut client, &first.to_string());
    let undone = home.run(&["undo", &gone.to_string()]);
    assert!(!undone.contains("without its name"), "it had none when it went: {undone}");
    let gone = delete(&mut client, "other");
    let third = client.create("counter.Counter", "other");
    for _ in 0..2 {
        let text = home.run(&["undo", &gone.to_string(), "--request-id", "once"]);
        let said = format!("object 2 is back without its name other, which stands for object {third} now");
        assert!(text.lines().any(|line| line == said), "{text}");
    }
    // Who took the name is gone, too: it stands for nothing. If that comes back with the undo, it has it.
    let gone = delete(&mut client, "visits");
    let fourth = client.create("counter.Counter", "visits");
    let both = [gone, delete(&mut client, "visits")];
    let undone = undo(&mut client, &both[..1]).ok();
    assert_eq!(undone["names_lost"], noted("visits", second, Json::Null));
    undo(&mut client, &[undone["tid"].as_u64().unwrap()]).ok();
    let again = client.tid();
    let undone = undo(&mut client, &[both[0], undone["tid"].as_u64().unwrap(), again, both[1]]).ok();
    assert_eq!(undone["restored"], json!([second, fourth]));
    assert_eq!(undone["names_lost"], noted("visits", second, json!(fourth)));
    // Nothing is lost where the name is taken back, too.
    let deleted = delete(&mut client, &third.to_string());
    let made = client.create("counter.Counter", "other");
    let undone = undo(&mut client, &[deleted, home.tid()]).ok();
    assert_eq!((&undone["removed"], &undone["names"]), (&json!([made]), &json!(["other"])));
    assert_eq!(undone["names_lost"], json!([]));
    assert_eq!(client.get("/v1/objects/other").ok()["id"], third);
    host.stop();
    home.verify();
}

#[test]
fn an_undo_with_a_request_id_is_done_once() {
    let (home, host, mut client) = started();
    client.create("counter.Counter", "visits");
    client.call("visits", "increment", &json!([5]));
    let tid = client.tid();
    let body = json!({ "tids": [tid] });
    let first = client.post_once("/v1/undo", "undo-1", &body).ok();
    assert_eq!(client.post_once("/v1/undo", "undo-1", &body).ok()["tid"], first["tid"]);
    assert_eq!(client.post_once("/v1/undo", "undo-1", &body).ok()["restored"], first["restored"]);
    client.post_once("/v1/undo", "undo-1", &json!({ "tids": [tid - 1] })).problem(422, "request_id_reused");
    assert_eq!(client.call("visits", "count", &json!([])), 0);
    assert_eq!(home.transactions("theseus.undo").len(), 1);
    host.kill();
    let host = Host::start(&home);
    assert_eq!(host.client().post_once("/v1/undo", "undo-1", &body).ok()["tid"], first["tid"]);
    host.stop();
    home.verify();
}

/// What a schema before a swap has written comes back in that schema, and migrates when it is touched.
#[test]
fn an_undo_reaches_back_behind_a_migration() {
    let (home, host, mut client) = started();
    client.create("counter.Counter", "visits");
    client.call("visits", "increment", &json!([5]));
    client.call("visits", "increment", &json!([2]));
    let seven = client.tid();
    home.swap(&[&artifacts::plugin("counter-v2")]);
    let migrated = || !home.transactions("theseus.migrate").is_empty();
    while !migrated() {
        thread::sleep(Duration::from_millis(10));
    }
    undo(&mut client, &[seven]).ok();
    assert_eq!(client.get("/v1/objects/visits").ok()["schema"], 1);
    assert_eq!(client.call("visits", "count", &json!([])), 5);
    client.call("visits", "increment", &json!([1]));
    assert_eq!(client.get("/v1/objects/visits").ok()["schema"], 2);
    host.stop();
    home.verify();
}
