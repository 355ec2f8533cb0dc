//! Long lives: swaps of sets that are killed at any moment, and objects that go up and down through versions.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use theseus_tests::{
    Client, Home, Host, Json, artifacts, dice::Dice, fixtures, json, load::Load, process::Process, until,
};

/// The digests of the plugins with a state, by name.
fn plugins(home: &Home, state: &str) -> BTreeMap<String, String> {
    let all = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
    let text = |plugin: &Json, field: &str| plugin[field].as_str().unwrap().to_owned();
    let those = all.iter().filter(|plugin| plugin["state"] == state);
    those.map(|plugin| (text(plugin, "name"), text(plugin, "digest"))).collect()
}

fn digest(file: &PathBuf) -> String {
    blake3::hash(&std::fs::read(file).unwrap()).to_string()
}

/// Two plugins go up together and down together; the host is killed while they do.
#[test]
fn a_set_is_swapped_whole_or_not_at_all_whenever_the_host_is_killed() {
    let home = Home::new();
    let mut host = Host::start(&home);
    let older = [artifacts::plugin("counter"), fixtures::items("items")];
    let newer = [artifacts::plugin("counter-v2"), fixtures::items("items_2")];
    let set = |files: &[PathBuf; 2]| -> BTreeMap<String, String> {
        ["counter", "items"].into_iter().map(str::to_owned).zip(files.iter().map(digest)).collect()
    };
    let arguments = |files: &[PathBuf; 2]| -> Vec<String> {
        [vec!["swap".to_owned()], files.iter().map(|file| file.to_str().unwrap().to_owned()).collect()].concat()
    };
    home.swap(&[&older[0], &older[1]]);
    let mut client = host.client();
    client.create("counter.Counter", "visits");
    for number in 0..20 {
        client.create("items.Item", &format!("item-{number}"));
    }
    let begun = Instant::now();
    home.swap(&[&newer[0], &newer[1]]);
    let longest = begun.elapsed();
    let load = Load::start(host.address(), "visits", 2);
    let (mut dice, mut outcomes, mut n) = (Dice(2026), [0, 0], 0);
    for round in 0..36 {
        let before = plugins(&home, "active");
        let target = if before == set(&older) { &newer } else { &older };
        let arguments = arguments(target);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let swap = Process::start(&mut home.command(&arguments), &home.beside("swap.log"));
        thread::sleep(Duration::from_micros(dice.roll(longest.as_micros() as u64 * 5 / 4)));
        host.kill();
        drop(swap);
        home.verify();
        host = Host::start(&home);
        load.move_to(host.address());
        let after = plugins(&home, "active");
        assert!(after == before || after == set(target), "round {round}: {after:?} is in force after {before:?}");
        outcomes[usize::from(after == before)] += 1;
        // A fallback is there as long as it is needed, and then it is the other one.
        let other = if after == set(&older) { set(&newer) } else { BTreeMap::new() };
        for (name, digest) in plugins(&home, "fallback") {
            assert_eq!(other.get(&name), Some(&digest), "round {round}");
        }
        let mut client = host.client();
        n += 1;
        let item = format!("item-{}", round % 20);
        client.call(&item, "set", &json!([n]));
        assert_eq!(client.call(&item, "n", &json!([])), n);
    }
    assert!(!outcomes.contains(&0), "the kills all came before or all after: {outcomes:?}");
    let report = load.finish();
    let mut client = host.client();
    report.assert_exactly_once(client.call("visits", "count", &json!([])).as_i64().unwrap());
    for number in 0..20_i64 {
        let last = (0..36).filter(|round| round % 20 == number).max().unwrap() + 1;
        assert_eq!(client.call(&format!("item-{number}"), "n", &json!([])), last);
    }
    host.stop();
    home.verify();
}

/// What an item ought to be: a number of its own, or that of the item from which it was derived.
#[derive(Clone, Debug)]
struct Item {
    own: Option<i64>,
    parent: Option<String>,
}

/// Items and what they ought to be.
#[derive(Default)]
struct Model {
    items: BTreeMap<String, Item>,
    born: u64,
    /// Whether items may get numbers that some version refuses to migrate.
    unlucky: bool,
}

impl Model {
    fn n(&self, name: &str) -> i64 {
        let item = &self.items[name];
        item.own.or_else(|| item.parent.as_ref().map(|parent| self.n(parent))).unwrap_or(0)
    }

    /// Whether some version refuses to migrate it, or something that it may look at.
    fn is_unlucky(&self, name: &str) -> bool {
        self.n(name).abs() == 13 || self.items[name].parent.as_ref().is_some_and(|parent| self.is_unlucky(parent))
    }

    fn any(&self, dice: &mut Dice) -> Option<String> {
        let count = self.items.len() as u64;
        (count > 0).then(|| self.items.keys().nth(dice.roll(count) as usize).unwrap().clone())
    }

    /// Does something to an item; it has to succeed, unless the item cannot migrate.
    fn touch(&mut self, client: &mut Client, dice: &mut Dice) {
        let Some(name) = self.any(dice) else { return };
        // Numbers of derived items lie elsewhere, so that one of its own never looks like one that is inherited.
        let base = if self.items[&name].parent.is_some() { 1000 } else { 0 };
        let n = match dice.roll(4) {
            0 if self.unlucky => [13, -13][dice.roll(2) as usize],
            _ => base + dice.roll(20) as i64 - 10,
        };
        let before = self.n(&name);
        let answer = client.post(&format!("/v1/objects/{name}/set"), &json!([n]));
        if answer.status == 200 {
            assert_eq!(answer.json()["result"], before, "{name}");
            self.items.get_mut(&name).unwrap().own = Some(n);
        } else {
            self.assert_unlucky(&name, answer.text());
        }
    }

    fn create(&mut self, client: &mut Client, dice: &mut Dice) {
        let name = format!("item-{}", self.born);
        let parent = if dice.roll(3) == 0 { self.any(dice) } else { None };
        let body = match &parent {
            Some(parent) => json!({ "derive": parent, "name": name }),
            None => json!({ "behavior": "items.Item", "name": name }),
        };
        let answer = client.post("/v1/objects", &body);
        match parent.as_ref().filter(|_| answer.status >= 300) {
            Some(parent) => self.assert_unlucky(parent, answer.text()),
            None => {
                answer.ok();
                // An item that was made has its number, one that was derived has none.
                let own = parent.is_none().then_some(0);
                self.items.insert(name, Item { own, parent });
                self.born += 1;
            }
        }
    }

    fn delete(&mut self, client: &mut Client, dice: &mut Dice) {
        let Some(name) = self.any(dice) else { return };
        if self.items.values().all(|item| item.parent.as_ref() != Some(&name)) {
            client.delete(&format!("/v1/objects/{name}")).ok();
            self.items.remove(&name);
        }
    }

    fn check(&self, client: &mut Client) {
        for name in self.items.keys() {
            let answer = client.get(&format!("/v1/objects/{name}/n"));
            if answer.status == 200 {
                assert_eq!(answer.json()["result"], self.n(name), "{name}: {:?}", self.items[name]);
            } else {
                self.assert_unlucky(name, answer.text());
            }
        }
    }

    fn assert_unlucky(&self, name: &str, message: &str) {
        assert!(self.is_unlucky(name), "{name}: {:?}: {message}", self.items[name]);
        assert!(message.contains("unlucky"), "{message}");
    }
}

/// Items live through a random sequence of versions, commands, crashes and restarts.
fn a_life(seed: u64, steps: usize, unlucky: bool) {
    let home = Home::with_settings("[plugins]\nmigration_objects_max = 3\nmigration_rest_ms = 20\n");
    let mut host = Host::start(&home);
    let versions = ["items", "items_2", "items_3", "items_3_from_1"].map(fixtures::items);
    home.swap(&[&versions[0]]);
    let (mut dice, mut model) = (Dice(seed), Model { unlucky, ..Model::default() });
    let (mut swapped, mut client) = (0, host.client());
    for _ in 0..steps {
        match dice.roll(20) {
            0..4 => {
                let file = &versions[dice.roll(4) as usize];
                let eager: &[&str] = if dice.roll(3) == 0 { &["--eager"] } else { &[] };
                let output = home.cli(&[&["swap", file.to_str().unwrap()], eager].concat());
                assert!([0, 4].contains(&output.code), "{output:?}");
                swapped += usize::from(output.code == 0);
            }
            4..9 => model.create(&mut client, &mut dice),
            9..18 => model.touch(&mut client, &mut dice),
            18 => model.delete(&mut client, &mut dice),
            _ => {
                if dice.roll(3) == 0 {
                    host.stop()
                } else {
                    host.kill()
                }
                host = Host::start(&home);
                client = host.client();
            }
        }
        model.check(&mut client);
    }
    assert!(swapped > 3, "only {swapped} swaps were not refused");
    if !unlucky {
        until("the end of all migrations", || {
            let all = home.json(&["plugins"])["plugins"].as_array().unwrap().clone();
            all.iter().all(|plugin| plugin["state"] != "fallback" && plugin["migrations"] == json!([]))
        });
        model.check(&mut client);
    }
    host.stop();
    home.verify();
}

#[test]
fn objects_go_through_all_versions_and_stay_what_they_are() {
    a_life(1, 60, false);
    a_life(2, 60, false);
}

#[test]
fn objects_that_cannot_migrate_are_never_lost() {
    a_life(3, 60, true);
    a_life(4, 60, true);
}
