//! One client: it has objects of its own, of which it knows everything, and uses others together with all clients. Each request
//! is sent until it is answered, under the same id.

mod afterwards;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use serde_json::{Value, json};

use super::{ACCOUNTS, PATIENCE, Shared, account_of, dice::Dice};
use crate::{
    api::{ApiError, Attempts, Done, Host},
    load::COUNTER,
};

/// Counters of its own.
const COUNTERS: usize = 3;
/// Answers that it remembers to ask for again.
const REMEMBERED: usize = 64;
/// Objects that it has made and not deleted yet, at most.
const MADE_MAX: usize = 20;
/// How many problems it tells.
const PROBLEMS_MAX: usize = 5;

/// A client at work.
pub(super) struct Client {
    number: usize,
    shared: Arc<Shared>,
    host: Host,
    dice: Dice,
    requests: u64,
    /// What its counters have to stand at.
    counts: [i64; COUNTERS],
    made: Vec<String>,
    remembered: VecDeque<Remembered>,
    last_tid: u64,
    worked: Worked,
}

/// What it did.
#[derive(Debug, Default)]
pub(super) struct Worked {
    pub answered: u64,
    pub repeated: u64,
    /// Messages that it posted.
    pub posted: u64,
    /// How often its timer went off.
    pub ticks: u64,
    /// Objects without a name that its holder came to refer to.
    pub held: u64,
    pub attempts: Attempts,
    /// The names of the objects that it made and that have to be there.
    pub names: Vec<String>,
    /// What was answered otherwise than it should have been.
    pub problems: Vec<String>,
}

/// A request that was answered.
struct Remembered {
    key: String,
    object: String,
    method: &'static str,
    arguments: Value,
    done: Done,
}

impl Client {
    /// A client with its counters made, and its timer set.
    pub(super) fn new(number: usize, shared: Arc<Shared>, dice: Dice) -> Result<Client, ApiError> {
        let host = Host::new(shared.socket.clone(), PATIENCE);
        let (made, remembered) = (Vec::new(), VecDeque::new());
        let (requests, last_tid, worked) = (0, 0, Worked::default());
        let mut client =
            Client { number, shared, host, dice, requests, counts: [0; COUNTERS], made, remembered, last_tid, worked };
        for counter in 0..COUNTERS {
            let (name, key) = (client.counter(counter), client.key());
            client.host.create(COUNTER, &name, &json!({}), &key)?;
        }
        client.begin_afterwards()?;
        Ok(client)
    }

    /// Works until it is told to stop, or something is wrong.
    pub(super) fn work(mut self) -> Result<Worked, ApiError> {
        while !self.shared.stop.load(Ordering::Acquire) && self.worked.problems.len() < PROBLEMS_MAX {
            self.step()?;
        }
        for counter in 0..COUNTERS {
            self.look(counter)?;
        }
        self.end_afterwards()?;
        self.worked.attempts = self.host.attempts();
        self.worked.names = self.made;
        Ok(self.worked)
    }

    fn step(&mut self) -> Result<(), ApiError> {
        match self.dice.roll(100) {
            0..34 => self.increment(),
            34..46 => self.increment_shared(),
            46..58 => self.transfer(),
            58..65 => self.make(),
            65..70 => self.delete(),
            70..76 => self.repeat(),
            76..84 => self.post(),
            84..88 => self.hold(),
            88..92 => self.look_afterwards(),
            _ => {
                let counter = self.dice.roll(COUNTERS as u64) as usize;
                self.look(counter)
            }
        }
    }

    /// Increments one of its own: it knows what comes of that.
    fn increment(&mut self) -> Result<(), ApiError> {
        let counter = self.dice.roll(COUNTERS as u64) as usize;
        let by = self.dice.roll(9) as i64 + 1;
        let done = self.call(&self.counter(counter), "increment", json!({ "by": by }))?;
        self.counts[counter] += by;
        let expected = self.counts[counter];
        if done.result != expected {
            self.problem(format!(
                "{} is at {} after an increment, not at {expected}",
                self.counter(counter),
                done.result
            ));
        }
        Ok(())
    }

    fn increment_shared(&mut self) -> Result<(), ApiError> {
        let place = self.dice.roll(self.shared.counters.len() as u64) as usize;
        let name = self.shared.counters[place].name.clone();
        let done = self.call(&name, "increment", json!({ "by": 1 }))?;
        self.shared.counters[place].acknowledge(done.result.as_i64());
        Ok(())
    }

    fn transfer(&mut self) -> Result<(), ApiError> {
        let from = self.dice.roll(ACCOUNTS as u64);
        let to = (from + 1 + self.dice.roll(ACCOUNTS as u64 - 1)) % ACCOUNTS as u64;
        let amount = self.dice.roll(1000);
        self.call("ledger", "transfer", json!({ "from": account_of(from), "to": account_of(to), "amount": amount }))?;
        Ok(())
    }

    fn make(&mut self) -> Result<(), ApiError> {
        if self.made.len() >= MADE_MAX {
            return self.delete();
        }
        let key = self.key();
        let name = format!("made-{}-{}", self.number, self.requests);
        let start = self.dice.roll(1000);
        if self.host.create(COUNTER, &name, &json!({ "count": start }), &key)? {
            self.answered(key, None);
            self.made.push(name);
        } else {
            self.problem(format!("{name} is there before it was made"));
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<(), ApiError> {
        if self.made.is_empty() {
            return Ok(());
        }
        let place = self.dice.roll(self.made.len() as u64) as usize;
        let (name, key) = (self.made.swap_remove(place), self.key());
        self.host.delete(&name, &key)?;
        self.answered(key, None);
        match self.host.ask(&name, "count") {
            Err(ApiError::Problem(problem)) if problem.status == 404 => {}
            other => self.problem(format!("{name} was deleted, and answers {other:?}")),
        }
        Ok(())
    }

    /// Asks again for what was answered.
    fn repeat(&mut self) -> Result<(), ApiError> {
        if self.remembered.is_empty() {
            return Ok(());
        }
        let place = self.dice.roll(self.remembered.len() as u64) as usize;
        let Remembered { key, object, method, arguments, done } = &self.remembered[place];
        let again = self.host.call(object, method, arguments, key)?;
        self.worked.repeated += 1;
        if again != *done {
            let problem = format!("request {key} was answered {done:?}, and when it was repeated {again:?}");
            self.problem(problem);
        }
        Ok(())
    }

    /// Looks at one of its own counters.
    fn look(&mut self, counter: usize) -> Result<(), ApiError> {
        let (found, expected) = (self.host.ask(&self.counter(counter), "count")?, self.counts[counter]);
        if found != expected {
            self.problem(format!("{} is at {found}, not at {expected}", self.counter(counter)));
        }
        Ok(())
    }

    fn call(&mut self, object: &str, method: &'static str, arguments: Value) -> Result<Done, ApiError> {
        let key = self.key();
        let done = self.host.call(object, method, &arguments, &key)?;
        self.answered(key.clone(), done.tid);
        let tid = done.tid.unwrap_or(0);
        if tid <= self.last_tid {
            self.problem(format!("request {key} came to transaction {tid}, the one before to {}", self.last_tid));
        }
        self.last_tid = tid;
        if self.remembered.len() == REMEMBERED {
            self.remembered.pop_front();
        }
        let object = object.to_owned();
        self.remembered.push_back(Remembered { key, object, method, arguments, done: done.clone() });
        Ok(done)
    }

    fn answered(&mut self, key: String, tid: Option<u64>) {
        self.worked.answered += 1;
        self.shared.note(key, tid);
    }

    fn key(&mut self) -> String {
        self.requests += 1;
        format!("{}-{}-{}", self.shared.run, self.number, self.requests)
    }

    fn counter(&self, counter: usize) -> String {
        format!("own-{}-{counter}", self.number)
    }

    fn problem(&mut self, problem: String) {
        self.worked.problems.push(format!("client {}: {problem}", self.number));
    }
}
