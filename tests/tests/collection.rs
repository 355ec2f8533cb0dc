//! Objects that cannot be reached are found and removed, and nothing else is, whatever goes on meanwhile.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use theseus_tests::{Client, Home, Host, Json, dice::Dice, fixtures, json};

fn started(settings: &str) -> (Home, Host) {
    let home = Home::with_settings(settings);
    let host = Host::start(&home);
    home.swap(&[&fixtures::kin()]);
    (home, host)
}

fn reference(id: u64) -> Json {
    json!({ "$ref": id })
}

/// Makes an object without a name.
fn nameless(client: &mut Client, behavior: &str, slots: &Json) -> u64 {
    client.post("/v1/objects", &json!({ "behavior": behavior, "slots": slots })).ok()["id"].as_u64().unwrap()
}

fn collect(home: &Home, arguments: &[&str]) -> Json {
    home.json(&[&["gc"], arguments].concat())
}

fn exists(client: &mut Client, id: u64) -> bool {
    client.get(&format!("/v1/objects/{id}")).status == 200
}

#[test]
fn what_nothing_leads_to_is_removed_and_the_rest_stays() {
    let (home, host) = started("[identity]\ncollect_objects_max = 7\n");
    let mut client = host.client();
    let root = client.create("kin.Node", "root");
    // By references in slots, by parents, and by both.
    let far = nameless(&mut client, "kin.Node", &json!({}));
    let between = nameless(&mut client, "kin.Node", &json!({ "next": [reference(far)] }));
    client.call("root", "link", &json!([reference(between)]));
    let prototype = nameless(&mut client, "kin.Account", &json!({}));
    let child = client.create("kin.Bare", "child");
    let body = json!({ "parents": [prototype] }).to_string();
    client.send("PUT", &format!("/v1/objects/{child}/parents"), &[], body.as_bytes()).unwrap().ok();
    // Unreachable: a ring that refers to itself and to what stays, a chain, and what lost its name.
    let ring: Vec<u64> =
        (0..3).map(|_| nameless(&mut client, "kin.Node", &json!({ "next": [reference(root)] }))).collect();
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        client.call(&ring[from].to_string(), "link", &json!([reference(ring[to])]));
    }
    let lost = client.create("kin.Node", "lost");
    client.call("lost", "grow", &json!([30]));
    let kept = client.create("kin.Node", "kept");
    client.call("kept", "grow", &json!([20]));
    client.call("kept", "unlink", &json!([]));
    client.delete("/v1/objects/lost").ok();

    let tid = client.tid();
    let counted = collect(&home, &["--dry-run"]);
    let count = |view: &Json| {
        [&view["objects"], &view["unreachable"], &view["removed"], &view["spared"]].map(|it| it.as_u64().unwrap())
    };
    assert_eq!(count(&counted), [59, 53, 0, 0]);
    assert_eq!((client.tid(), &counted["transactions"]), (tid, &json!([])), "a dry run leaves no trace");
    let text = home.run(&["gc", "--dry-run"]);
    assert_eq!(text, "53 of 59 objects cannot be reached");

    let collected = collect(&home, &[]);
    assert_eq!(count(&collected), [59, 53, 53, 0]);
    let transactions = collected["transactions"].as_array().unwrap();
    assert_eq!(transactions.len(), 53_usize.div_ceil(7));
    let recorded = home.transactions("theseus.collect");
    let recorded_tids: Vec<_> = recorded.iter().map(|transaction| transaction["tid"].clone()).collect();
    assert_eq!(&recorded_tids, transactions);
    assert_eq!(recorded[0]["arguments"], json!({ "objects": 7 }));
    for id in [root, between, far, prototype, child, kept] {
        assert!(exists(&mut client, id), "object {id}");
    }
    assert!(ring.iter().chain([&lost]).all(|id| !exists(&mut client, *id)));
    assert_eq!(client.call("root", "length", &json!([])), 2);
    assert_eq!(count(&collect(&home, &[])), [6, 0, 0, 0], "there is nothing left to collect");
    assert_eq!(client.get("/v1/status").ok()["objects"], 6);

    // What was removed stays removed, and was there before.
    host.kill();
    home.verify();
    let host = Host::start(&home);
    let mut client = host.client();
    assert!(!exists(&mut client, ring[0]));
    let before = client.get(&format!("/v1/objects/{}?at={tid}", ring[0])).ok();
    assert_eq!(before["slots"]["next"], json!([reference(root), reference(ring[1])]));
    // It can be taken back, the last step first.
    let tids: Vec<String> = transactions.iter().rev().map(Json::to_string).collect();
    home.run(&[&["undo"][..], &tids.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!(client.get("/v1/status").ok()["objects"], 59);
    assert_eq!(client.call(&ring[2].to_string(), "next", &json!([])), json!([reference(root), reference(ring[0])]));
    assert_eq!(count(&collect(&home, &["--dry-run"])), [59, 53, 0, 0]);
    let refused = client.post("/v1/gc", &json!({}));
    refused.problem(403, "forbidden");
}

/// One writer's part of the graph, and what the model knows of it.
struct Part {
    client: Client,
    dice: Dice,
    name: String,
    /// What the named object refers to.
    linked: Vec<u64>,
    /// What was taken off, and may or may not be there any more.
    loose: Vec<u64>,
}

impl Part {
    fn step(&mut self) {
        match self.dice.roll(10) {
            0..4 => {
                let id = nameless(&mut self.client, "kin.Node", &json!({}));
                if self.dice.roll(2) == 0 {
                    self.link(id);
                } else {
                    self.loose.push(id);
                }
            }
            4..6 => {
                let count = 1 + self.dice.roll(20);
                self.client.call(&self.name, "grow", &json!([count]));
                let next = self.client.call(&self.name, "next", &json!([]));
                self.linked.push(next.as_array().unwrap().last().unwrap()["$ref"].as_u64().unwrap());
            }
            6 => {
                self.client.call(&self.name, "unlink", &json!([]));
                self.loose.append(&mut self.linked);
            }
            _ => {
                // What cannot be reached may still be known by its number, and be linked again if it is still there.
                if let Some(id) = self.loose.pop() {
                    self.link(id);
                }
            }
        }
    }

    /// Links an object that may be removed in the same moment, or of which a part is gone already. If all of it is there after it was
    /// linked, it has to stay.
    fn link(&mut self, id: u64) {
        self.client.call(&self.name, "link", &json!([reference(id)]));
        self.linked.push(id);
        if self.everything_from(vec![id]).is_none() {
            self.client.call(&self.name, "unlink", &json!([]));
            self.linked.pop();
            self.loose.append(&mut self.linked);
        }
    }

    /// All objects that these lead to; none if one of them is not there.
    fn everything_from(&mut self, mut left: Vec<u64>) -> Option<BTreeSet<u64>> {
        let mut seen = BTreeSet::new();
        while let Some(id) = left.pop() {
            if seen.insert(id) {
                let found = self.client.get(&format!("/v1/objects/{id}"));
                if found.status == 404 {
                    return None;
                }
                let next = found.ok()["slots"]["next"].as_array().unwrap().clone();
                left.extend(next.iter().map(|it| it["$ref"].as_u64().unwrap()));
            }
        }
        Some(seen)
    }

    /// How many objects can be reached: all of them have to be there.
    fn count(&mut self) -> usize {
        let next = self.client.call(&self.name, "next", &json!([]));
        let next: Vec<u64> = next.as_array().unwrap().iter().map(|it| it["$ref"].as_u64().unwrap()).collect();
        assert_eq!(next, self.linked);
        1 + self.everything_from(next).expect("what can be reached is there").len()
    }
}

#[test]
fn a_collection_beside_writers_removes_nothing_that_they_can_reach() {
    const WRITERS: u64 = 3;
    let (home, host) = started("[identity]\ncollect_objects_max = 20\n");
    let mut parts: Vec<Part> = (0..WRITERS)
        .map(|number| {
            let (mut client, name) = (host.client(), format!("part-{number}"));
            client.create("kin.Node", &name);
            Part { client, dice: Dice(4711 + number), name, linked: Vec::new(), loose: Vec::new() }
        })
        .collect();
    let over = AtomicBool::new(false);
    let mut removed = 0;
    thread::scope(|scope| {
        let writers: Vec<_> = parts
            .iter_mut()
            .map(|part| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        part.step();
                    }
                })
            })
            .collect();
        for _ in 0..8 {
            let collected = collect(&home, &[]);
            removed += collected["removed"].as_u64().unwrap();
            assert!(writers.iter().all(|writer| !writer.is_finished()), "a writer has failed");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(removed > 0);
    // Everything that can be reached is there, and after one more collection nothing else is.
    let reachable: usize = parts.iter_mut().map(Part::count).sum();
    collect(&home, &[]);
    assert_eq!(parts.iter_mut().map(Part::count).sum::<usize>(), reachable);
    let mut client = host.client();
    assert_eq!(client.get("/v1/status").ok()["objects"], reachable);
    host.kill();
    home.verify();
}
