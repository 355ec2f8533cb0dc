//! Objects are found by what a slot holds, with and without a running host.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, ops::RangeInclusive};

use theseus_tests::{Client, Home, Host, Json, artifacts, dice::Dice, json};

/// What the counters ought to hold.
type Model = BTreeMap<u64, i64>;

fn found(home: &Home, condition: &str) -> Vec<(i64, u64)> {
    let found = home.json(&["ls", "--where", condition]);
    let row = |it: &Json| (it["value"].as_i64().unwrap(), it["id"].as_u64().unwrap());
    found["objects"].as_array().unwrap().iter().map(row).collect()
}

/// Holds what is found against a walk over the model.
fn check(home: &Home, model: &Model) {
    for (condition, range) in [
        ("count=3", 3..=3),
        ("count<2", i64::MIN..=1),
        ("count<=2", i64::MIN..=2),
        ("count>=5", 5..=i64::MAX),
        ("count>5.5", 6..=i64::MAX),
        ("count=many", RangeInclusive::new(1, 0)),
    ] {
        let mut expected: Vec<_> =
            model.iter().filter(|(_, count)| range.contains(*count)).map(|(id, count)| (*count, *id)).collect();
        expected.sort_unstable();
        assert_eq!(found(home, condition), expected, "{condition}");
    }
}

fn change(client: &mut Client, model: &mut Model, dice: &mut Dice) {
    let any = |dice: &mut Dice, model: &Model| *model.keys().nth(dice.roll(model.len() as u64) as usize).unwrap();
    match dice.roll(4) {
        0 => {
            let count = dice.roll(8) as i64;
            let made =
                client.post("/v1/objects", &json!({ "behavior": "counter.Counter", "slots": { "count": count } }));
            model.insert(made.ok()["id"].as_u64().unwrap(), count);
        }
        1 if model.len() > 20 => {
            let gone = any(dice, model);
            client.delete(&format!("/v1/objects/{gone}")).ok();
            model.remove(&gone);
        }
        _ if model.is_empty() => {}
        _ => {
            let object = any(dice, model);
            client.call(&object.to_string(), "increment", &json!([1]));
            *model.get_mut(&object).unwrap() += 1;
        }
    }
}

#[test]
fn an_index_finds_what_a_walk_over_all_objects_finds() {
    let home = Home::new();
    let mut host = Host::start(&home);
    home.swap(&[&artifacts::plugin("counter")]);
    let (mut model, mut dice) = (Model::new(), Dice(5));
    let mut client = host.client();
    (0..150).for_each(|_| change(&mut client, &mut model, &mut dice));
    let refusal = home.cli(&["ls", "--where", "count=3", "--behavior", "counter.Counter"]).failed(4);
    assert!(refusal.contains("theseus index create counter.Counter count"), "{refusal}");
    assert!(home.cli(&["index", "create", "counter.Counter", "cuont"]).failed(2).contains("it has: count"));
    assert!(home.cli(&["index", "create", "counter.Clock", "count"]).failed(1).contains("theseus plugins"));
    assert!(home.run(&["index", "create", "counter.Counter", "count"]).contains("complete"));
    assert!(home.cli(&["index", "create", "counter.Counter", "count"]).failed(1).contains("already"));
    check(&home, &model);
    for round in 0..3 {
        (0..60).for_each(|_| change(&mut client, &mut model, &mut dice));
        check(&home, &model);
        if round == 1 {
            host.kill();
        } else {
            host.stop();
            check(&home, &model);
        }
        host = Host::start(&home);
        client = host.client();
        check(&home, &model);
    }
    // What is taken back is found as it was.
    let (&object, &count) = model.first_key_value().unwrap();
    let tid = client.post(&format!("/v1/objects/{object}/increment"), &json!([100])).ok()["tid"].clone();
    assert_eq!(found(&home, "count>=100"), [(count + 100, object)]);
    home.run(&["undo", &tid.to_string()]);
    check(&home, &model);
    // Pages of one are all objects, each once.
    let (mut after, mut paged) = (String::new(), Vec::new());
    loop {
        let page = client.get(&format!("/v1/objects?where=count%3E%3D0&limit=1{after}")).ok();
        paged.extend(page["objects"].as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    paged.sort_unstable();
    assert_eq!(paged, model.keys().copied().collect::<Vec<_>>());
    client.get("/v1/objects?where=count").problem(400, "bad_request");
    client.get("/v1/objects?where=count%3D3&after=zz").problem(400, "bad_request");
    client.send("POST", "/v1/indexes", &[], b"{}").unwrap().problem(403, "forbidden");
    home.run(&["index", "drop", "counter.Counter", "count"]);
    home.cli(&["ls", "--where", "count=3"]).failed(4);
    assert_eq!(home.json(&["index", "ls"])["indexes"], json!([]));
    host.stop();
    home.verify();
}
