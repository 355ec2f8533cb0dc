//! The past: every object as of every transaction, and a history that tells how it came about.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use theseus_tests::{Client, Home, Host, Json, artifacts, dice::Dice, json};

/// How many operations are done.
const STEPS: u64 = 300;

/// What every object had, by transaction: none before it was made and after it was removed.
#[derive(Default)]
struct Model {
    now: BTreeMap<u64, Json>,
    past: BTreeMap<u64, BTreeMap<u64, Json>>,
}

impl Model {
    /// Notes the state as of a transaction.
    fn at(&mut self, tid: u64) {
        self.past.insert(tid, self.now.clone());
    }

    fn any(&self, dice: &mut Dice) -> Option<u64> {
        let objects = self.now.len() as u64;
        (objects > 0).then(|| *self.now.keys().nth(dice.roll(objects) as usize).unwrap())
    }
}

/// The transaction of an answer that has only a head.
fn tid_of(answer: &Json) -> u64 {
    answer["at"].as_str().unwrap().split(':').next().unwrap().parse().unwrap()
}

/// One random operation.
fn step(client: &mut Client, model: &mut Model, dice: &mut Dice) {
    let chosen = model.any(dice);
    match (dice.roll(10), chosen) {
        (0, _) | (_, None) => {
            let count = dice.roll(1000);
            let body = json!({ "behavior": "counter.Counter", "slots": { "count": count } });
            let made = client.post("/v1/objects", &body).ok();
            model.now.insert(made["id"].as_u64().unwrap(), json!({ "count": count }));
            model.at(tid_of(&made));
        }
        (1, Some(original)) => {
            let made = client.post("/v1/objects", &json!({ "clone": original })).ok();
            model.now.insert(made["id"].as_u64().unwrap(), model.now[&original].clone());
            model.at(tid_of(&made));
        }
        (2, Some(object)) if model.now.len() > 3 => {
            let deleted = client.delete(&format!("/v1/objects/{object}")).ok();
            model.now.remove(&object);
            model.at(tid_of(&deleted));
        }
        (3, Some(from)) => {
            let to = model.any(dice).unwrap();
            let answer = client.post(&format!("/v1/objects/{from}/move_to"), &json!([{ "$ref": to }, 3]));
            if to == from {
                model.at(answer.problem(409, "reentrant")["tid"].as_u64().unwrap());
                return;
            }
            for (object, by) in [(from, -3), (to, 3)] {
                let count = model.now[&object]["count"].as_i64().unwrap();
                model.now.insert(object, json!({ "count": count + by }));
            }
            model.at(answer.ok()["tid"].as_u64().unwrap());
        }
        (_, Some(object)) => {
            let by = dice.roll(100) as i64 - 50;
            let answer = client.post(&format!("/v1/objects/{object}/increment"), &json!([by])).ok();
            let count = model.now[&object]["count"].as_i64().unwrap() + by;
            assert_eq!(answer["result"], count);
            model.now.insert(object, json!({ "count": count }));
            model.at(answer["tid"].as_u64().unwrap());
        }
    }
}

/// Compares what the host says about the past with the model.
fn check(client: &mut Client, model: &Model, dice: &mut Dice) {
    let objects = *model.past.values().flat_map(|state| state.keys()).max().unwrap();
    for (tid, state) in &model.past {
        for _ in 0..4 {
            let object = dice.roll(objects) + 1;
            let answer = client.get(&format!("/v1/objects/{object}?at={tid}"));
            match state.get(&object) {
                Some(slots) => assert_eq!(answer.ok()["slots"], *slots, "object {object} as of {tid}"),
                None => _ = answer.problem(404, "no_such_object"),
            }
        }
    }
    for (object, slots) in &model.now {
        assert_eq!(client.get(&format!("/v1/objects/{object}")).ok()["slots"], *slots, "object {object} now");
    }
}

#[test]
fn every_object_can_be_seen_as_of_every_transaction() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let (mut client, mut model, mut dice) = (host.client(), Model::default(), Dice(0x0b5e));
    for _ in 0..STEPS {
        step(&mut client, &mut model, &mut dice);
    }
    check(&mut client, &model, &mut dice);
    host.kill();
    home.verify();
    let host = Host::start(&home);
    let mut client = host.client();
    check(&mut client, &model, &mut dice);
    for _ in 0..STEPS / 3 {
        step(&mut client, &mut model, &mut dice);
    }
    host.stop();
    let host = Host::start(&home);
    check(&mut host.client(), &model, &mut dice);
    host.stop();
    home.verify();
}

#[test]
fn the_history_of_an_object_is_what_wrote_it() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let (mut client, mut model, mut dice) = (host.client(), Model::default(), Dice(0x1157));
    for _ in 0..STEPS {
        step(&mut client, &mut model, &mut dice);
    }
    let lines = |path: &str, client: &mut Client| client.get(path).lines();
    let whole = lines("/v1/history", &mut client);
    let tids: Vec<u64> = whole.iter().map(|line| line["tid"].as_u64().unwrap()).collect();
    assert_eq!(tids, (1..=tids.len() as u64).collect::<Vec<_>>(), "1, 2, 3 ... without gaps");
    for object in model.now.keys() {
        let writes = |line: &&Json| line["writes"].as_array().unwrap().iter().any(|write| write["id"] == *object);
        let expected: Vec<Json> = whole.iter().filter(writes).cloned().collect();
        assert_eq!(lines(&format!("/v1/objects/{object}/history"), &mut client), expected);
        let versions = expected.iter().flat_map(|line| line["writes"].as_array().unwrap());
        let versions = versions.filter(|write| write["id"] == *object).map(|write| write["version"].as_u64().unwrap());
        assert!(versions.eq(1..=expected.len() as u64), "its versions are counted");
    }
    assert_eq!(lines("/v1/history?from=10&limit=5", &mut client), whole[9..14]);
    assert_eq!(lines("/v1/history?from=100000", &mut client), Vec::<Json>::new());
    host.stop();
}

#[test]
fn a_message_can_be_told_from_the_next_by_time_and_order() {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    for by in 1..=50 {
        client.call("visits", "increment", &json!([by]));
    }
    let history = client.get("/v1/objects/visits/history").lines();
    let times: Vec<u64> = history.iter().map(|line| line["time_us"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let arguments: Vec<Json> = history[1..].iter().map(|line| line["arguments"][0].clone()).collect();
    assert_eq!(arguments, (1..=50).map(Json::from).collect::<Vec<_>>());
    host.stop();
}
